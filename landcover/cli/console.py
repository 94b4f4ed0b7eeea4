"""What commands print: messages and progress to stderr, results to stdout."""

import json
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
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(headers: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout: the first column to the left, the others to the right."""
    widths = [max(len(r[i]) for r in [headers, *rows]) for i in range(len(headers))]
    for row in [headers, ["-" * w for w in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        for pixels in done:
            bar.update(task, completed=pixels)
            yield pixels
