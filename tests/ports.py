"""The ports on which processes listen."""

from collections.abc import Iterable
from contextlib import suppress

import psutil


def listening(processes: Iterable[psutil.Process]) -> list[str]:
    """The addresses of this machine on which they do, one a port; a process that has just ended has none."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found += [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    return found
