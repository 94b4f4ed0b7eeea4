"""Run the command line inside the test's process, as `landcover …` would."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from landcover.cli import main


class Outcome(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def landcover(capsys: pytest.CaptureFixture[str], *args: str | Path) -> Outcome:
    """Run a command; any error but the expected exits is raised, as a bug."""
    before, sys.argv = sys.argv, ["landcover", *map(str, args)]
    code = 0
    try:
        main()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    finally:
        sys.argv = before
    return Outcome(code, *capsys.readouterr())


def tree(folder: Path) -> set[str]:
    """Every file and folder under a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *args: str | Path) -> str:
    """The sentence with which a command refuses its input: exit code 3, nothing on stdout, nothing left in `folder`."""
    before = tree(folder)
    outcome = landcover(capsys, *args)
    assert outcome.code == 3, outcome
    assert outcome.out == ""
    assert tree(folder) == before
    lines = [line for line in outcome.err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    return lines[0]
