"""`landcover sample`: random points of a map, to say what is really there."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Option

from landcover.cli.console import print_json, print_table, say
from landcover.cli.options import Json, MapName, MissingLegend, Overwrite
from landcover.errors import counted


def sample(
    map_: MapName,
    out: Annotated[
        Path, Option("--out", "-o", help="The points: .gpkg, .geojson, .fgb, .parquet or .shp, by its suffix.")
    ],
    count: Annotated[int, Option(help="How many points altogether.")] = 500,
    at_least: Annotated[int, Option(help="How many in each class, at the least; the rest is shared by area.")] = 50,
    seed: Annotated[int, Option(help="The same number draws the same points.")] = 0,
    legend: MissingLegend = None,
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Draw random points in every class of a map, to be labelled and given to landcover assess.

    Open the points over an image that shows the truth, and write into the column "reference" which class is there. Do
    not look at the map or at the column "stratum" while you do.

    Example: landcover sample map.tif --out points.gpkg --count 500
    """
    from landcover.sampling import sample as run

    strata = run(map_, out, count=count, at_least=at_least, seed=seed, legend=legend, overwrite=overwrite)
    if json_:
        print_json({"out": str(out), "strata": [asdict(s) for s in strata]})
    else:
        rows = [[s.class_name, f"{s.hectares:,.2f}", str(s.points)] for s in strata]
        print_table(["class", "hectares", "points"], rows)
    points = sum(s.points for s in strata)
    if points < count:
        say(f"Note: the map has no more than {counted(points, 'pixel')} to draw")
    say(f"Wrote {out}: {counted(points, 'point')}; fill in their column 'reference'")
