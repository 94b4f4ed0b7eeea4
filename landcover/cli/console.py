"""What commands print: messages and progress to stderr, results to stdout."""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer


def say(message: str) -> None:
    """Tell the person at the terminal something."""
    typer.echo(message, err=True)


def fail(message: str) -> None:
    """Tell what went wrong."""
    typer.echo(f"Error: {message}", err=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; numbers that JSON does not know are null."""
    typer.echo(json.dumps(_known(document), indent=2, ensure_ascii=False, allow_nan=False))


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_known(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(headers: list[str], rows: list[list[str]], left: tuple[int, ...] = (0,)) -> None:
    """Print a table on stdout; the columns in `left` begin at their left, the others end at their right."""
    widths = [max(len(r[i]) for r in [headers, *rows]) for i in range(len(headers))]
    for row in [headers, ["-" * w for w in widths], *rows]:
        cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        typer.echo("  ".join(cells).rstrip())


def progress(done: Iterable[int], total: int, label: str) -> Iterator[int]:
    """Pass on the pixels done so far, and show them with rate and time left.

    On a terminal as a bar; elsewhere as a line at each tenth.
    """
    if sys.stderr.isatty():
        yield from _bar(done, total, label)
        return
    tenth = 0
    for pixels in done:
        if pixels * 10 // total > tenth:
            tenth = pixels * 10 // total
            say(f"{label}: {tenth * 10} %")
        yield pixels


def _bar(done: Iterable[int], total: int, label: str) -> Iterator[int]:
    counter = Counter(total, label)
    try:
        for pixels in done:
            counter.update(pixels)
            yield pixels
    finally:
        counter.close()


class Counter:
    """Pixels done so far with rate and time left, as a bar on a terminal; elsewhere nothing but what is said."""

    def __init__(self, total: int, label: str) -> None:
        self._label = label
        self._bar = _pixel_bar() if sys.stderr.isatty() else None
        if self._bar:
            self._task = self._bar.add_task(label, total=total)
            self._bar.start()

    def update(self, pixels: int, more: str = "") -> None:
        """Show the pixels done so far, and something more about it."""
        if self._bar:
            self._bar.update(self._task, completed=pixels, description=f"{self._label} {more}".rstrip())

    def say(self, message: str) -> None:
        """Tell something above the bar."""
        if self._bar:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            say(message)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


def _pixel_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{(task.finished_speed or task.speed or 0) / 1e6:.1f} Mpx/s")

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Rate(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
