"""`landcover`, or `python -m landcover`: the command line as a process of its own."""

import atexit
import errno
import gc
import os
import sys
from typing import NoReturn


def _open_streams() -> None:
    """Let what the caller has closed lead nowhere, so that no file gets its number, and what libraries print."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None and os.open(os.devnull, os.O_RDWR) == number:
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def run() -> NoReturn:
    """Run the command line, and end the process.

    Two things that Python does by itself would be up to half the time of a short command, and are left out: to look for
    garbage again and again while libraries are loaded, and to take everything down piece by piece in the end.
    """
    gc.set_threshold(20_000)
    _open_streams()
    from landcover.cli import main
    from landcover.cli.console import fail

    code = 0
    try:
        try:
            main()
        except SystemExit as e:
            if isinstance(e.code, str):
                raise
            code = 3 if e.code == 1 else e.code or 0  # 1 is typer's, where who reads has left
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # as it is where something else has its number
                stream.flush()
    except OSError as e:
        if e.filename is not None or e.errno not in (errno.ENOSPC, errno.EPIPE):
            raise  # it is not what is printed, but a bug
        code = 3
        if e.errno == errno.ENOSPC:  # else who read it has left
            fail(f"what is printed cannot be written: {e.strerror}")
    atexit._run_exitfuncs()
    os._exit(code)


if __name__ == "__main__":
    run()
