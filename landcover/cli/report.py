"""`landcover report`: a page about a map."""

from pathlib import Path
from typing import Annotated

from typer import Option

from landcover.cli.console import say
from landcover.cli.options import MapName, MissingLegend, Overwrite


def report(
    map_: MapName,
    out: Annotated[Path, Option("--out", "-o", help="The HTML file to write.")],
    scene: Annotated[str | None, Option(help="Show this scene beside the map.")] = None,
    reference: Annotated[
        str | None,
        Option("--reference", "-r", help="Labelled points, or a raster of class ids, to tell how good it is."),
    ] = None,
    column: Annotated[str | None, Option(help="The column of the points with the class.")] = None,
    zones: Annotated[
        str | None, Option(metavar="<path>", help="A file of polygons; each gets its own table of areas.")
    ] = None,
    zone_name: Annotated[str | None, Option(help="The column that names a zone.")] = None,
    legend: MissingLegend = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page about a map: its picture, areas, accuracy, and what made it; one file that opens in any browser.

    Example: landcover report map.tif --out report.html --scene scene.tif --reference points.gpkg
    """
    from landcover.report import report as run

    run(
        map_,
        out,
        scene=scene,
        reference=reference,
        column=column,
        zones=zones,
        zone_name=zone_name,
        legend=legend,
        overwrite=overwrite,
    )
    say(f"Wrote {out}")
