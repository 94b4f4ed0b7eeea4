"""Real schedulers and workers of Dask, in processes of their own, that can be killed, stopped and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from landcover.models import Model
from tests.faults.runs import TINY

PATIENCE_SECONDS = 120

_batches: list[subprocess.Popen] = []


class Cluster:
    """A scheduler and its workers."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.file = folder / "scheduler.json"
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"} | settings
        self._folder = folder
        self.workers: list[subprocess.Popen] = []
        self.start_scheduler()

    def start_scheduler(self) -> None:
        self.file.unlink(missing_ok=True)
        how = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file)]
        self.scheduler = self._start("scheduler", *how)
        wait_for(self.file.exists)

    def start_worker(self, *more: str, **settings: str) -> subprocess.Popen:
        """Start a worker with a nanny; without one if `--no-nanny` is among the options."""
        how = ["worker", "--scheduler-file", str(self.file), "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]
        local = self._folder / f"local{len(self.workers)}"
        self.workers.append(self._start(local.name, *how, "--local-directory", str(local), *more, **settings))
        return self.workers[-1]

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            kill_group(process)

    def _start(self, name: str, *args: str, **settings: str) -> subprocess.Popen:
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + args[0], *args[1:]],
                env=self._environment | settings,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def cluster(folder: Path, workers: int, *more: str, **settings: str) -> Iterator[Cluster]:
    """A scheduler with so many workers."""
    running = Cluster(folder, **settings)
    try:
        for _ in range(workers):
            running.start_worker(*more)
        yield running
    finally:
        running.close()


def kill_group(process: subprocess.Popen) -> None:
    """Kill a process and all that it started."""
    for sign in (signal.SIGCONT, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
    process.wait()


def start_batch(catalog: Path, out: Path, model: Model, *more: str | Path) -> subprocess.Popen:
    """Start the command in a process group of its own."""
    args = ["batch", str(catalog), "--out", str(out), "--model", str(model.folder), *TINY, *map(str, more)]
    batch = subprocess.Popen(
        [sys.executable, "-m", "landcover", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _batches.append(batch)
    return batch


def kill_batches() -> None:
    """Kill those that were started and not waited for, as after a test that failed."""
    while _batches:
        batch = _batches.pop()
        if not batch.stdout.closed:
            kill_group(batch)
            batch.communicate()


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for a command; gives its exit code and all it said."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out + err


def wait_for(condition, what: str = "it") -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen in {PATIENCE_SECONDS} s"
        time.sleep(0.02)
