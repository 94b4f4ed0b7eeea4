"""Outputs that appear under their final name when they are complete, and not before."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from landcover.errors import BusyError, OutputError, check_name


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Refuse a destination that cannot be written, before any work is done.

    Raises:
        OutputError: it exists and `overwrite` is False, it is a folder, or its folder is missing or not writable.
    """
    check_name(path, OutputError)
    with disk_errors(path):
        path.with_name(f".{path.name}.aux.xml").exists()  # fails where the names of what is made beside it are too long
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give the name of a file in it")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already; add --overwrite to replace it")
        check_here(path)
        if not path.parent.is_dir():
            raise OutputError(f"the folder {path.parent} does not exist; make it first")
        if not os.access(path.parent, os.W_OK):
            raise OutputError(f"the folder {path.parent} cannot be written; choose another place for {path.name}")


def check_here(path: Path) -> None:
    """Refuse an address as the place of an output, for the system would take it for the name of a folder.

    Raises:
        OutputError: it is one.
    """
    address = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]+):/+", r"\1://", str(path))  # of two slashes, a Path keeps one
    if ("://" in address or address.startswith("/vsi")) and not path.parent.is_dir():
        raise OutputError(
            f"{address} is an address, and outputs are written on this machine: give a file or folder of it, and copy "
            "that to the address"
        )


def publish(folder: Path, path: Path) -> None:
    """Move the finished file and its side-cars from a work folder to where they belong, the file itself last."""
    side_cars = sorted(p.name for p in folder.iterdir() if p.name != path.name)
    for stale in {path.name + ".aux.xml", path.name + ".ovr", path.name + ".msk"} - set(side_cars):
        (path.parent / stale).unlink(missing_ok=True)
    for name in [*side_cars, path.name]:
        with (folder / name).open("r+b") as f:
            os.fsync(f.fileno())
        (folder / name).replace(path.parent / name)


def publish_text(path: Path, text: str) -> None:
    """Write a text, in UTF-8, as `publish_bytes` does."""
    publish_bytes(path, text.encode())


def publish_bytes(path: Path, content: bytes) -> None:
    """Write a small file, which is there as a whole or not at all, whatever happens.

    Raises:
        OutputError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.new")
    with disk_errors(path):
        try:
            with partial.open("wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say of an error of the system, or of GDAL, while `path` is written, what it means for the user."""
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as e:
        reason = getattr(e, "strerror", None) or f"{e}; is the disk full?"
        raise OutputError(f"{path} cannot be written: {reason}") from e


def work_path(path: Path) -> Path:
    """Where the work folder of an output is, if it has one."""
    return path.parent / f".{path.name}.work"


@contextmanager
def work_folder(path: Path, *, keep: Callable[[], bool] = lambda: False, clear: bool = False) -> Iterator[Path]:
    """A folder beside the output, hidden, locked, and gone at the end; what a killed run left in it is cleared.

    Args:
        path: of the output.
        keep: tells whether a later run can go on from what is in it; then it is not cleared at the beginning, nor at
            the end if the block fails.
        clear: clear it at the beginning all the same.
    """
    folder = work_path(path)
    with _locked(path):
        finished = False
        try:
            with disk_errors(path):
                if clear or not keep():
                    shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(exist_ok=True)
            yield folder
            finished = True
        finally:
            if finished or not keep():
                shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.rmdir()  # if there is nothing in it


def drop_work_folder(path: Path, dropped: Callable[[Path], bool]) -> None:
    """Remove the work folder of an output that is not written now.

    Args:
        path: of the output.
        dropped: tells of the folder, while it is locked, whether it may go; one that another run is using stays.
    """
    folder = work_path(path)
    with suppress(OSError, OutputError):  # what cannot be looked at stays
        if folder.is_dir():
            with _locked(path):
                if dropped(folder):
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Be the only run that writes an output.

    Raises:
        BusyError: another run is.
    """
    lock = FileLock(path.parent / f".{path.name}.lock")
    with disk_errors(path):
        try:
            lock.acquire(timeout=0)
        except Timeout as e:
            tempfile.TemporaryFile(dir=path.parent).close()  # where none can be made, there is no lock either
            raise BusyError(f"another run is writing {path}; wait for it or choose another --out") from e
    try:
        yield
    finally:
        with suppress(OSError):  # where an open file cannot be removed, the empty lock file stays
            Path(lock.lock_file).unlink()
        lock.release()
