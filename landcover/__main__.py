"""`landcover`, or `python -m landcover`: the command line as a process of its own."""

import atexit
import gc
import os
import sys
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line, and end the process.

    Two things that Python does by itself would be up to half the time of a short command, and are left out: to look for
    garbage again and again while libraries are loaded, and to take everything down piece by piece in the end.
    """
    gc.set_threshold(20_000)
    from landcover.cli import main

    code = 0
    try:
        main()
    except SystemExit as e:
        if isinstance(e.code, str):
            raise
        code = e.code or 0
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(code)  # Python says that not all could be printed
    os._exit(code)


if __name__ == "__main__":
    run()
