"""One process learns, or several that share each batch, one on each device."""

import copy
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from landcover.errors import LandcoverError, TrainingError
from landcover.network import keep_to_own_threads
from landcover.training.checkpoints import Step
from landcover.training.learning import Task, learn


def learn_on(task: Task, network: nn.Module, folder: Path, devices: tuple[str, ...]) -> Iterator[Step]:
    """Train a network on one device in this process, or on several in processes of their own; yields its steps."""
    if len(devices) > 1:
        with tempfile.TemporaryDirectory() as meeting:
            yield from _learn_together(task, network, folder, devices, Path(meeting) / "store")
        return
    device = torch.device(devices[0])
    keep_to_own_threads()
    with _memory_errors(device):
        yield from learn(task, network, folder, device)


def _learn_together(
    task: Task, network: nn.Module, folder: Path, devices: tuple[str, ...], meeting: Path
) -> Iterator[Step]:
    """Train a network in one process for each device; they meet by a file, so that no port is open to all."""
    steps: Any = mp.get_context("spawn").SimpleQueue()
    processes = mp.spawn(_learn, (task, network, folder, devices, meeting, steps), len(devices), join=False)
    try:
        finished = False
        while not finished:
            finished = processes.join(timeout=0.05)
            while not steps.empty():
                told = steps.get()
                if isinstance(told, LandcoverError):
                    raise told
                yield told
    except mp.ProcessExitedException as e:
        raise TrainingError(f"a process that learned was ended from outside ({e}); the same command goes on") from e
    finally:
        for process in processes.processes:
            process.terminate()


def _learn(
    rank: int, task: Task, network: nn.Module, folder: Path, devices: tuple[str, ...], meeting: Path, steps: Any
) -> None:
    """What each process does; the first one tells of its steps, and any of a user's error."""
    device = torch.device(devices[rank])
    network = copy.deepcopy(network)  # the weights that were handed over lie in memory that all processes share
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_to_own_threads(len(devices))
        if loopback := {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback.pop())
    try:
        backend, world = "nccl" if device.type == "cuda" else "gloo", len(devices)
        store = dist.FileStore(str(meeting), world)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
        with _memory_errors(device):
            for step in learn(task, network, folder, device, rank, world):
                if rank == 0:
                    steps.put(step)
        dist.destroy_process_group()
    except LandcoverError as e:
        steps.put(e)


@contextmanager
def _memory_errors(device: torch.device) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
        of_memory = isinstance(e, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(e)
        if not of_memory:
            raise
        raise TrainingError(
            f"{device} has not the memory to train with this recipe; lower batch or augmentation.size"
        ) from e
