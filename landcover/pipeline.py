"""Background stages: one thread that reads ahead, one that writes behind, and errors that come back."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()
_POLL_SECONDS = 0.1


@contextmanager
def read_ahead(items: Iterable[T], depth: int = 2, stop: threading.Event | None = None) -> Iterator[Iterator[T]]:
    """Produce items in a thread of their own, at most `depth` ahead of who takes them.

    An error of the producer is raised where the item is taken. Leaving the block ends the thread.

    Args:
        items: what is produced.
        depth: how many items may wait.
        stop: ends this thread and all others that share it, also one that waits for the items of another.
    """
    ready: queue.Queue = queue.Queue(depth)
    stop = stop or threading.Event()

    def produce() -> None:
        try:
            for item in items:
                if not _put(ready, (item, None), stop):
                    return
            _put(ready, (_END, None), stop)
        except BaseException as e:  # noqa: BLE001 - handed over, and raised in the taking thread
            _put(ready, (_END, e), stop)
        finally:
            if isinstance(items, Generator):
                items.close()  # here, so that what it opened is closed by the thread that opened it

    def take() -> Iterator[T]:
        while True:
            item, error = _get(ready, stop)
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stop.set()
        thread.join()


@contextmanager
def write_behind(write: Callable[[T], None], depth: int = 2) -> Iterator[Callable[[T], None]]:
    """Hand items to `write` in a thread of their own; the block is left when all are written, also if it fails.

    An error of `write` is raised at the next item, or at the end of the block; nothing is written after it.
    """
    waiting: queue.Queue = queue.Queue(depth)
    errors: list[BaseException] = []

    def consume() -> None:
        while (item := waiting.get()) is not _END:
            if errors:
                continue  # keep the queue moving, so that nobody waits for a place in it
            try:
                write(item)
            except BaseException as e:  # noqa: BLE001 - handed over, and raised in the giving thread
                errors.append(e)

    def give(item: T) -> None:
        if errors:
            raise errors[0]
        waiting.put(item)

    thread = threading.Thread(target=consume, name="write-behind", daemon=True)
    thread.start()
    try:
        yield give
    finally:
        waiting.put(_END)
        thread.join()
    if errors:
        raise errors[0]


class StoppedError(Exception):
    """Nothing more will come: the stage was told to stop."""


def _get(source: queue.Queue, stop: threading.Event) -> Any:
    """Take an item as soon as there is one; raises StoppedError if asked to stop before."""
    while True:
        try:
            return source.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            if stop.is_set():
                raise StoppedError from None


def _put(target: queue.Queue, item: object, stop: threading.Event) -> bool:
    """Put an item as soon as there is room; False if asked to stop before."""
    while not stop.is_set():
        try:
            target.put(item, timeout=_POLL_SECONDS)
        except queue.Full:
            continue
        return True
    return False
