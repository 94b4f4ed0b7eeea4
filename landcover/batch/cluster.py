"""Where a batch runs: a cluster of this machine's cores or cards, or one that is there already."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from distributed.system import MEMORY_LIMIT

from landcover import __version__
from landcover.batch import worker
from landcover.batch.jobs import Needs
from landcover.engines import cuda_devices
from landcover.errors import BatchError, ConfigError
from landcover.models import Model
from landcover.processors import own_cores, own_threads

WORKER_BYTES = 2 << 30
"""Memory that a worker should have."""

CONNECT_SECONDS = 30

_HERE = "127.0.0.1"
"""Where the cluster of one machine listens, its dashboard too, so that nobody on the network can reach it."""

CARD = "GPU"
"""The resource that a worker with a card declares to Dask."""

_SETTINGS = {
    "distributed.scheduler.allowed-failures": 2,  # the third worker that dies of a scene is the last one
    "distributed.scheduler.worker-saturation": 1.0,
}


@dataclass(frozen=True)
class Place:
    """What one worker of this machine gets.

    Attributes:
        cores: by number, as the system counts them.
        threads: that may compute at once.
        card: a CUDA device; None for none.
    """

    cores: tuple[int, ...]
    threads: int
    card: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        cores = {"LANDCOVER_CORES": ",".join(map(str, self.cores))}
        threads = {name: str(self.threads) for name in ("LANDCOVER_THREADS", "OMP_NUM_THREADS")}
        return cores | threads | ({"CUDA_VISIBLE_DEVICES": self.card} if self.card is not None else {})


def share_machine(workers: int | None, device: str, tasks: int | None = None) -> list[Place]:
    """Share the cores, and the cards, among workers, so that no core is promised twice.

    Where a container has a limit of CPUs below its cores, the threads are shared, and all may run on every core.

    Args:
        workers: how many; None for one for each card, or, without cards, one for each core as far as memory goes.
        device: as for `predict`.
        tasks: that can be done at the same time; None if not known yet.
    """
    cores, threads = own_cores(), own_threads()
    cards = _cards(device)
    best = len(cards) or _fit(threads)
    count = workers or (best if tasks is None else min(best, max(tasks, 1)))
    given = [cards[i % len(cards)] if cards else None for i in range(count)]
    if threads < len(cores):
        return [Place(tuple(cores), max(1, threads // count), card) for card in given]
    shares = [tuple(cores[i * len(cores) // count : (i + 1) * len(cores) // count]) for i in range(count)]
    shares = [share or (cores[i % len(cores)],) for i, share in enumerate(shares)]
    return [Place(share, len(share), card) for share, card in zip(shares, given, strict=True)]


def _fit(threads: int) -> int:
    return max(1, min(threads, MEMORY_LIMIT // WORKER_BYTES))


def _cards(device: str) -> list[str]:
    """The cards that workers are to have: all, or, for cuda:N, that one."""
    if device == "cpu":
        return []
    count, visible = cuda_devices(), os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [v for v in visible.split(",") if v and v != "-1"] if visible is not None else None
    cards = named if named is not None and count else [str(i) for i in range(count)]
    _, _, number = device.partition(":")
    if not number.isdigit():
        return cards
    if int(number) >= len(cards):
        raise ConfigError(
            f"--device {device}: there are {len(cards) or 'no'} cards here; `landcover doctor` tells them"
        )
    return [cards[int(number)]]


@contextmanager
def open_cluster(scheduler: str | None, places: list[Place]) -> Iterator[Client]:
    """Start workers on this machine, or join a cluster that is there.

    Args:
        scheduler: address or scheduler file of a running cluster; None to start one here.
        places: the workers to start, where there is none.

    Raises:
        BatchError: the scheduler cannot be reached, or the workers cannot be started.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is told scene by scene
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_SETTINGS))
        if scheduler is None:
            cluster = stack.enter_context(_started(places))
            yield stack.enter_context(Client(cluster, set_as_default=False))
        else:
            yield stack.enter_context(_joined(scheduler))


def _started(places: list[Place]) -> SpecCluster:
    dashboard = find_spec("bokeh") is not None
    port = 8787 if dashboard else 0
    options = {"host": _HERE, "dashboard": dashboard, "dashboard_address": f"{_HERE}:{port}"}
    workers = {
        i: {
            "cls": Nanny,
            "options": {
                "host": _HERE,
                "nthreads": 1,
                "memory_limit": MEMORY_LIMIT // len(places),
                "env": place.environment,
                "resources": {CARD: 1} if place.card is not None else {},
                "dashboard": False,
                "silence_logs": logging.CRITICAL,
                "preload": worker.__name__,
            },
        }
        for i, place in enumerate(places)
    }
    try:
        with _interrupts_held():
            return SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": options}, silence_logs=False)
    except (OSError, RuntimeError, TimeoutError) as e:
        raise BatchError(f"no workers can be started on this machine: {e}") from e


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let requests to stop wait for the end of the block, and not reach the processes that begin in it.

    Half-started workers cannot be ended in order.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # to start it later would let SIGINT through again
    asked: list[int] = []
    signs = (signal.SIGINT, signal.SIGTERM)
    before = {sign: signal.signal(sign, lambda number, _frame: asked.append(number)) for sign in signs}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what is started inherits it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for sign, handler in before.items():
            signal.signal(sign, handler)
        for number in asked[:1]:
            signal.raise_signal(number)


def _joined(scheduler: str) -> Client:
    """Connect to a scheduler by its address, or by the file that it wrote."""
    where: dict[str, Any] = {"address": scheduler} if "://" in scheduler else {"scheduler_file": scheduler}
    if "scheduler_file" in where and not Path(scheduler).is_file():
        raise ConfigError(f"--scheduler {scheduler} is neither an address, as tcp://host:8786, nor a scheduler file")
    try:
        return Client(**where, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, KeyError, TimeoutError) as e:
        raise BatchError(f"the scheduler at {scheduler} cannot be reached: {e}; is it running?") from e


def workers_for(client: Client, device: str) -> tuple[tuple[str, ...], dict[str, float]]:
    """Which workers may have scenes, and what of their resources a scene takes.

    Where some declare a card, it is only those, and a card for each scene; but for `--device cpu` all.
    """
    # not `scheduler_info`, whose answer Dask itself may overwrite with one that names no workers
    scheduler: Any = client.scheduler
    workers = client.sync(scheduler.identity, n_workers=-1)["workers"]
    with_card = tuple(a for a, known in workers.items() if known.get("resources", {}).get(CARD, 0) >= 1)
    return (with_card, {CARD: 1}) if with_card and device != "cpu" else (tuple(workers), {})


@contextmanager
def workers_prepared(client: Client, needs: Needs, model: Model | None, batch: str) -> Iterator[None]:
    """See that workers that may have scenes suit, and let them have the model: they may not share the client's disk.

    Those that join while the block runs get it too.

    Raises:
        BatchError: one does not suit, or cannot keep the model.
    """
    addresses = _checked(client, needs)
    if model is None:
        yield
        return
    plugin = worker.SendModel(model, batch)
    try:
        with suppress(Exception):  # of workers that are left to other work
            client.register_plugin(plugin)
        found = client.run(worker.has_model, model.digest, workers=list(addresses), on_error="return")
        for address, has in found.items():
            if has is not True:
                raise BatchError(f"the worker at {address} cannot keep the model; is its disk full?")
        yield
    finally:
        with suppress(Exception):  # the scheduler may be gone
            client.unregister_worker_plugin(plugin.name)


def _checked(client: Client, needs: Needs) -> tuple[str, ...]:
    """See that every worker that may have scenes is like the client; returns their addresses.

    Raises:
        BatchError: one has no landcover, or another version of it, or other embedded models, or not the device that is
            asked for.
    """
    with suppress(TimeoutError):  # later ones are welcome too
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    addresses, _ = workers_for(client, needs.device)
    found = client.run(worker.fingerprint, needs.engine, workers=list(addresses), on_error="return")
    for address, theirs in found.items():
        if isinstance(theirs, OSError):
            raise BatchError(f"the worker at {address} does not answer: {theirs}; repeat the command when it does")
        if isinstance(theirs, Exception):
            unfit = _lacks_landcover(theirs)
            said = _without_landcover(address, theirs) if unfit else f"the worker at {address} does not suit: {theirs}"
            raise BatchError(said) from theirs
        if theirs["version"] != needs.version:
            raise BatchError(
                f"the worker at {address} has landcover {theirs['version']}, this machine {needs.version}; "
                "install the same version on all"
            )
        if needs.model is None and theirs["digests"] != needs.digests:
            raise BatchError(f"the worker at {address} has other embedded models; install the same version on all")
    return addresses


def unfit_workers(client: Client, addresses: tuple[str, ...]) -> dict[str, str]:
    """Why workers cannot carry out any task, by their addresses: landcover is not there."""
    found = client.run(worker.fingerprint, {}, workers=list(addresses), on_error="return")
    return {a: _without_landcover(a, theirs) for a, theirs in found.items() if _lacks_landcover(theirs)}


def _lacks_landcover(answer: Any) -> bool:
    """Whether a worker cannot import landcover; Dask hands on some errors in words alone."""
    if isinstance(answer, ImportError | AttributeError):
        return True
    return isinstance(answer, Exception) and "No module named 'landcover" in str(answer)


def _without_landcover(address: str, error: Exception) -> str:
    return f"the worker at {address} cannot import landcover: {error}; install {__version__} there"
