"""Measuring processes and functions, in seconds of the clock and of all processors, and memory; rows of the tables."""

import dataclasses
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rasterio.env import set_gdal_config

set_gdal_config("GDAL_CACHEMAX", 64 << 20)  # here: what this process holds, Linux counts for those that it starts, too
ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "sample_tiles" / "s2_eastern_shore.tif"
DATA = ROOT.parent / "shared" / "data"
"""Real scenes, which lie beside the repository."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: what, its target, the figure, whether it is met (None where there is no target), details."""

    what: str
    target: str
    figure: str
    met: bool | None
    details: str = ""

    def __str__(self) -> str:
        met = {True: "yes", False: "**no**", None: ""}[self.met]
        return f"| {self.what} | {self.target} | {self.figure} | {met} | {self.details} |"


class Taken(NamedTuple):
    """What something took: seconds of the clock, seconds of all processors, and bytes of memory at its peak."""

    wall: float
    cpu: float
    peak: int


def run(*args: object) -> Taken:
    """Run a landcover command in a process of its own."""
    return outside(sys.executable, "-m", "landcover", *args)


def outside(*args: object) -> Taken:
    """Run a program.

    Raises:
        SystemExit: it failed; with what it said.
    """
    command = [str(arg) for arg in args]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {said.read()!r}")
    return Taken(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, _peak(usage))


def apart(function: Callable, *args: Any) -> Any:
    """The result of a function in a fresh process, so that neither memory nor imports of this one count."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def timed(function: Callable, *args: Any) -> Taken:
    """Call a function and measure it; the peak is that of the whole process so far."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    function(*args)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(time.perf_counter() - began, cpu, _peak(after))


def drain(items: Iterable) -> None:
    """Take all that an iterable gives, and do nothing with it."""
    for _ in items:
        pass


def _peak(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # bytes on macOS, kilobytes elsewhere
