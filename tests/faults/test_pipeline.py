"""Background stages hand their errors over, end, and leave nothing waiting."""

import threading
import time
from collections.abc import Iterator

import pytest

from landcover.pipeline import read_ahead, write_behind


def test_a_reader_that_fails_hands_its_error_over() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the tape tore")

    with read_ahead(items()) as taken:
        assert next(taken) == 1
        with pytest.raises(OSError, match="the tape tore"):
            next(taken)


def test_leaving_early_ends_the_reader() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    with read_ahead(items(), depth=2) as taken:
        next(taken)
    assert closed.is_set()


def test_a_writer_that_fails_hands_its_error_over() -> None:
    def write(item: int) -> None:
        if item == 3:
            raise OSError("no space")

    def give_many() -> None:
        with write_behind(write, depth=1) as give:
            for item in range(100):
                give(item)

    with pytest.raises(OSError, match="no space"):
        give_many()


def test_a_writer_that_fails_at_the_last_item_is_noticed() -> None:
    def write(item: int) -> None:
        time.sleep(0.05)
        raise OSError("no space")

    def give_one() -> None:
        with write_behind(write) as give:
            give(1)

    with pytest.raises(OSError, match="no space"):
        give_one()


def test_what_waits_is_written_also_if_the_block_fails() -> None:
    """What was finished before an error is kept, however far behind the writer is."""
    written = []

    def write(item: int) -> None:
        time.sleep(0.05)
        written.append(item)

    def give_and_fail() -> None:
        with write_behind(write, depth=3) as give:
            for item in range(3):
                give(item)
            raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="the device is gone"):
        give_and_fail()
    assert written == [0, 1, 2]
