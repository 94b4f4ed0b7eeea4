"""`landcover stats`: hectares per class, for a whole map and by zone."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from typer import Option

from landcover.cli.console import print_json, print_table, say
from landcover.cli.options import Json, MapName, MissingLegend

if TYPE_CHECKING:
    from landcover.stats import AreaTable


def stats(
    map_: MapName,
    zones: Annotated[
        str | None, Option(metavar="<path>", help="A file of polygons, in any CRS; each gets its own table.")
    ] = None,
    zone_name: Annotated[
        str | None, Option(help="The column that names a zone.", show_default="name, else zones are numbered")
    ] = None,
    legend: MissingLegend = None,
    json_: Json = False,
) -> None:
    """Tell how many hectares each class covers, measured on the ellipsoid.

    A pixel belongs to a zone if its centre lies in it. Percentages are of the land that has a class.

    Example: landcover stats map.tif --zones districts.gpkg --zone-name district
    """
    from landcover.stats import note_on_zones
    from landcover.stats import stats as run

    tables = run(map_, zones=zones, zone_name=zone_name, legend=legend)
    if note := note_on_zones(tables):
        say(f"Note: {note}")
    if json_:
        whole, *parts = map(_plain, tables)
        print_json({"map": map_, **whole, **({"zones": parts} if zones else {})})
        return
    headers = ["class", "pixels", "hectares", "percent"]
    if zones is None:
        print_table(headers, tables[0].told())
        return
    named = [[t.zone if t.zone is not None else "(whole map)", *row] for t in tables for row in t.told()]
    print_table(["zone", *headers], named)


def _plain(table: "AreaTable") -> dict:
    nodata = {"pixels": table.nodata_pixels, "hectares": table.nodata_hectares}
    zone = {} if table.zone is None else {"zone": table.zone}
    return {**zone, "hectares": table.hectares, "classes": [asdict(c) for c in table.classes], "nodata": nodata}
