"""The command line: one module a command, which parses, calls one function, and prints."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

import landcover
from landcover.cli import (
    assess,
    batch,
    catalog,
    doctor,
    info,
    models,
    predict,
    preview,
    report,
    sample,
    stats,
    train,
    vectorize,
)
from landcover.cli.console import fail
from landcover.errors import ConfigError, LandcoverError, check_name

app = typer.Typer(
    name="landcover",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Land-cover maps and polygons from satellite scenes of any size.\n\n"
    "Example: landcover predict scene.tif --out map.tif, then landcover vectorize map.tif --out polygons.gpkg\n\n"
    "Exit codes: 0 done; 2 wrong usage; 3 an error, told in a sentence; 4 part of a batch failed; 130 interrupted",
)
app.command("predict")(predict.predict)
app.command("vectorize")(vectorize.vectorize)
app.command("batch")(batch.batch)
app.command("train")(train.train)
app.command("sample")(sample.sample)
app.command("assess")(assess.assess)
app.command("stats")(stats.stats)
app.command("preview")(preview.preview)
app.command("report")(report.report)
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)
app.add_typer(catalog.app, name="catalog")
app.add_typer(models.app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(landcover.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


INTERRUPTED = 130
"""The exit code of a command that was interrupted."""

PATIENCE_SECONDS = 1.5
"""How long an interrupted command may take to clear up before it is ended."""

PATIENCE_WITH_WORKERS_SECONDS = 4.5
"""The same for a batch, which has workers to end."""

_STOPPED = "interrupted; nothing half-written is left under its final name"


def _interrupt(_sign: int, _frame: object) -> None:
    """Stop the command; a second request does not disturb its clearing up."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let requests to stop raise KeyboardInterrupt in the block, and end the process if that does not end the block.

    The process may be deep in a library that Python cannot interrupt, such as GDAL waiting for a server. Whatever it
    was doing, what is on the disk is as good as after any kill: no file looks finished that is not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, _interrupt) for sign in (signal.SIGINT, signal.SIGTERM)}
    signals, wakeup = os.pipe()
    if hasattr(os, "set_blocking"):
        os.set_blocking(wakeup, False)
    listened = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    left = threading.Event()
    patience = PATIENCE_WITH_WORKERS_SECONDS if "batch" in sys.argv[1:2] else PATIENCE_SECONDS

    def watch() -> None:
        while received := os.read(signals, 1):
            if received[0] in before and not left.wait(patience):
                fail(_STOPPED)
                os._exit(INTERRUPTED)
        os.close(signals)

    threading.Thread(target=watch, name="interrupts", daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(listened)
        os.close(wakeup)
        for sign, handler in before.items():
            if signal.getsignal(sign) is _interrupt:
                signal.signal(sign, handler)


def _check_names() -> None:
    for given in sys.argv[1:]:
        check_name(given, ConfigError)


def _tell_proj_its_data() -> None:
    """Let PROJ find its database where rasterio carries one.

    rasterio names the place only to the contexts that GDAL keeps for PROJ. For a GeoTIFF in kilometres GDAL looks its
    unit up in PROJ's own one too, which complains on stderr that it finds none.
    """
    spec = find_spec("rasterio")  # which does not import it
    data = Path(spec.origin).parent / "proj_data" if spec and spec.origin else None
    if data and data.is_dir() and not {"PROJ_DATA", "PROJ_LIB"} & os.environ.keys():
        os.environ["PROJ_DATA"] = str(data)


def main() -> None:
    """Run the command line; a user's error is one sentence and exit code 3, an interrupt is 130.

    A request to terminate ends like an interrupt, so that nothing half-written is left.
    """
    with _interruptible():
        try:
            _check_names()
            _tell_proj_its_data()
            app()
        except LandcoverError as e:
            fail(str(e))
            sys.exit(3)
        except SystemExit as e:
            if e.code == INTERRUPTED:
                fail(_STOPPED)
            raise
