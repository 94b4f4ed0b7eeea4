"""Which cores this process may use, how many threads may compute at once, and how much memory there is for them."""

import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from landcover.errors import ConfigError

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def own_cores() -> list[int]:
    """The cores that this process may use, by number: those named in LANDCOVER_CORES, or what the system gives it.

    Raises:
        ConfigError: LANDCOVER_CORES is no list of numbers.
    """
    named = os.environ.get("LANDCOVER_CORES")
    if named:
        if not re.fullmatch(r"[0-9]{1,5}(,[0-9]{1,5})*", named):
            raise ConfigError(f"LANDCOVER_CORES must be numbers of cores, as 0,1,2,3, not '{named}'")
        return [int(core) for core in named.split(",")]
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def own_threads() -> int:
    """How many threads may compute at once: LANDCOVER_THREADS, or one a core, or fewer where a container has a limit.

    A limit of CPUs, as Docker and Kubernetes set it, takes no core away: it is time on all of them, and a process that
    computes on every core has used it up early in each tenth of a second, and stands still for the rest.

    Raises:
        ConfigError: LANDCOVER_THREADS or LANDCOVER_CORES is not what it must be.
    """
    named = os.environ.get("LANDCOVER_THREADS")
    if named:
        if not re.fullmatch(r"[1-9][0-9]{0,4}", named):
            raise ConfigError(f"LANDCOVER_THREADS must be a number of threads, as 4, not '{named}'")
        return int(named)
    return max(1, min(len(own_cores()), math.ceil(_cpu_limit())))


def own_memory() -> int:
    """Bytes of memory for this process: its share of the machine's, by its threads, within what a container leaves it.

    Raises:
        ConfigError: LANDCOVER_THREADS or LANDCOVER_CORES is not what it must be.
    """
    share = min(1.0, own_threads() / (os.cpu_count() or 1))
    return int(min([psutil.virtual_memory().total * share, *_limits("memory", _memory)]))


def _cpu_limit() -> float:
    """CPUs that the control groups of this process, and those around them, leave to it; a large number if all."""
    return min([2.0**16, *_limits("cpu", _cpus)])


def _limits(controller: str, read: Callable[[Path, int], float]) -> list[float]:
    """What the control groups of this process, and those around them, limit it to; version 1 has a tree for each."""
    limits = []
    with suppress(OSError, ValueError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = _GROUPS / controller if controllers else _GROUPS
            own = root / group.lstrip("/")
            for folder in (own, *(p for p in own.parents if p.is_relative_to(root))):
                with suppress(
                    OSError, ValueError, ZeroDivisionError
                ):  # no such group as seen from in here, or "max": no limit
                    limits.append(read(folder, 1 if controllers else 2))
    return [limit for limit in limits if limit > 0]


def _cpus(group: Path, version: int) -> float:
    if version == 2:
        quota, period = (group / "cpu.max").read_text().split()
    else:
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return int(quota) / int(period)


def _memory(group: Path, version: int) -> float:
    return float((group / ("memory.max" if version == 2 else "memory.limit_in_bytes")).read_text())
