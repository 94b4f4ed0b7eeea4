"""One process learns, or several that share each batch, one on each device."""

import copy
import socket
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
    if len(devices) == 1:
        device = torch.device(devices[0])
        keep_to_own_threads()
        for teacher, _ in task.teachers:
            teacher.to(device)
        with _memory_errors(device):
            yield from learn(task, network, folder, device)
        return
    steps: Any = mp.get_context("spawn").SimpleQueue()
    address = f"tcp://127.0.0.1:{_free_port()}"
    processes = mp.spawn(_learn, (task, network, folder, devices, address, steps), len(devices), join=False)
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
    rank: int, task: Task, network: nn.Module, folder: Path, devices: tuple[str, ...], address: str, steps: Any
) -> None:
    """What each process does; the first one tells of its steps, and any of a user's error."""
    device = torch.device(devices[rank])
    network = copy.deepcopy(network)  # the weights that were handed over lie in memory that all processes share
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_to_own_threads(len(devices))
    for teacher, _ in task.teachers:
        teacher.to(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", init_method=address, rank=rank, world_size=len(devices)
        )
        with _memory_errors(device):
            for step in learn(task, network, folder, device, rank, len(devices)):
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


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
