"""`python -m landcover`, the same as the command `landcover`."""

from landcover.cli import main

main()
