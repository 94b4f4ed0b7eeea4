"""The command line: one module a command, which parses, calls one function, and prints."""

import signal
import sys
import threading
from typing import Annotated

import typer

import landcover
from landcover.cli import doctor, info, models, predict, preview, stats, vectorize
from landcover.cli.console import fail
from landcover.errors import LandcoverError

app = typer.Typer(
    name="landcover",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Land-cover maps and polygons from satellite scenes of any size.\n\n"
    "Example: landcover predict scene.tif --out map.tif, then landcover vectorize map.tif --out polygons.gpkg",
)
app.command("predict")(predict.predict)
app.command("vectorize")(vectorize.vectorize)
app.command("stats")(stats.stats)
app.command("preview")(preview.preview)
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)
app.add_typer(models.app, name="models")


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(landcover.__version__)
        raise typer.Exit


INTERRUPTED = 130
"""The exit code of a command that was interrupted."""


def _interrupt(_sign: int, _frame: object) -> None:
    """Stop the command; a second request does not disturb its clearing up."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; a user's error is one sentence and exit code 3, an interrupt is 130.

    A request to terminate ends like an interrupt, so that nothing half-written is left.
    """
    if threading.current_thread() is threading.main_thread():
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, _interrupt)
    try:
        app()
    except LandcoverError as e:
        fail(str(e))
        sys.exit(3)
    except SystemExit as e:
        if e.code == INTERRUPTED:
            fail("interrupted; nothing half-written is left")
        raise
