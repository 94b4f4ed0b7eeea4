"""Runs that take some seconds, because their windows are tiny, so that they can be stopped in the middle."""

import subprocess
import sys
import time
from pathlib import Path

from landcover.models import Model

TINY = ["--allow-untrained", "--engine", "openvino", "--device", "cpu", "--tile-size", "16", "--overlap", "4"]


def command(scene: Path | str, out: Path, model: Model, *more: str | Path) -> list[str]:
    """The command line of such a run."""
    start = [sys.executable, "-m", "landcover", "predict", str(scene), "-o", str(out), "-m", str(model.folder)]
    return [*start, *TINY, *map(str, more)]


def start(args: list[str], out: Path) -> subprocess.Popen:
    """Start a run, and wait until it has noted finished rows in its journal."""
    process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    journal = out.parent / f".{out.name}.work" / "journal.json"
    until = time.monotonic() + 120
    while not journal.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, "no rows were finished in two minutes"
        time.sleep(0.01)
    return process


def run(*args: str) -> str:
    """Run a command to its end; gives what it said."""
    return subprocess.run(args, check=True, capture_output=True, text=True).stderr
