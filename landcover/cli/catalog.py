"""`landcover catalog`: makes a catalog of the scenes in a folder, and lists those that a batch would take."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from landcover.cli.console import print_json, print_table, say
from landcover.cli.options import ChosenArea, ChosenBox, ChosenLimit, ChosenTime, ChosenWhere, Json
from landcover.errors import counted

if TYPE_CHECKING:
    from landcover.catalog import Entry

app = typer.Typer(
    no_args_is_help=True,
    help="Make and list catalogs of scenes. Example: landcover catalog build scenes --out scenes.parquet",
)
_LISTED = 20


@app.command()
def build(
    folder: Annotated[
        str, Argument(metavar="FOLDER", help="A folder with scenes, or a quoted pattern such as 'scenes/*.tif'.")
    ],
    out: Annotated[
        Path,
        Option(
            "--out", "-o", help="A GeoParquet table (.parquet), or a STAC Catalog (X.json) with its Items in X-items."
        ),
    ],
    overwrite: Annotated[bool, Option("--overwrite", "-f", help="Replace a catalog that exists.")] = False,
) -> None:
    """Make a catalog of scenes, with their footprints, sizes, bands and times; of each only the headers are read.

    Files that cannot be read, or that landcover made, are listed and left out.

    Example: landcover catalog build scenes --out scenes.parquet
    """
    from landcover.catalog import read_catalog
    from landcover.catalog.building import build_catalog, check_output
    from landcover.catalog.looking import survey
    from landcover.errors import CatalogError, LandcoverError

    check_output(out, overwrite=overwrite)
    entries = read_catalog(folder)
    if Path(folder).is_file():  # a table, say, which tells more than a catalog of files can hold
        raise CatalogError(f"{folder} is a file; give a folder, or a quoted pattern such as 'scenes/*.tif'")
    looked = list(survey(entries))
    problems = [each for each in looked if isinstance(each, LandcoverError)]
    seen = [each for each in looked if not isinstance(each, LandcoverError)]
    for problem in problems[:_LISTED]:
        say(f"Left out: {problem}")
    if len(problems) > _LISTED:
        say(f"Left out: {len(problems) - _LISTED} more")
    build_catalog(seen, out, overwrite=overwrite)
    say(f"Wrote {out}: {counted(len(seen), 'scene')}" + (f"; {len(problems)} left out" if problems else ""))


@app.command("list")
def list_(
    catalog: Annotated[
        str, Argument(metavar="CATALOG", help="A folder, a quoted pattern, a CSV, Parquet or STAC file.")
    ],
    bbox: ChosenBox = None,
    aoi: ChosenArea = None,
    datetime: ChosenTime = None,
    where: ChosenWhere = None,
    limit: ChosenLimit = None,
    json_: Json = False,
) -> None:
    """List the scenes of a catalog that satisfy every condition, as a batch would take them.

    Example: landcover catalog list items.json --datetime 2024-06/2024-08 --where '"eo:cloud_cover" < 20'
    """
    from landcover.catalog import choose, read_catalog
    from landcover.catalog.choosing import parse_box

    entries = read_catalog(catalog)
    box = parse_box(bbox) if bbox is not None else None
    chosen = choose(entries, bbox=box, aoi=aoi, datetime=datetime, where=where, limit=limit)
    if json_:
        print_json([_plain(entry) for entry in chosen])
        return
    if chosen:
        rows = [[e.name, _time(e), _size(e), e.source or "in the catalog"] for e in chosen]
        print_table(["name", "time", "size", "source"], rows, left=(0, 1, 3))
    say(f"{counted(len(chosen), 'scene')} of {len(entries):,}")


def _plain(entry: "Entry") -> dict[str, Any]:
    from landcover.catalog.tables import plain
    from landcover.footprints import bounds

    return {
        "name": entry.name,
        "source": entry.source or None,
        "sensor": entry.sensor,
        "datetime": _time(entry) or None,
        "size": entry.size,
        "bbox": bounds(entry.footprint) if entry.footprint is not None else None,
        "properties": plain(entry.properties),
    }


def _time(entry: "Entry") -> str:
    return entry.datetime.isoformat().replace("+00:00", "Z") if entry.datetime else ""


def _size(entry: "Entry") -> str:
    return "{} × {}".format(*entry.size) if entry.size else ""
