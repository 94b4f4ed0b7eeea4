"""`landcover vectorize`: a class map → polygons."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Option

from landcover.cli.console import print_json, print_table, say
from landcover.cli.options import (
    Classes,
    Connect,
    Dissolve,
    FillHoles,
    MapName,
    MinArea,
    MissingLegend,
    Overwrite,
    Points,
    Simplify,
    Smooth,
    VectorCrs,
)
from landcover.cli.parsing import parse_area, parse_classes
from landcover.errors import counted


def vectorize(
    map_: MapName,
    out: Annotated[
        Path, Option("--out", "-o", help="The file to write: .gpkg, .geojson, .fgb, .parquet or .shp, by its suffix.")
    ],
    classes: Classes = None,
    min_area: MinArea = "0",
    connect: Connect = 4,
    simplify: Simplify = 0.0,
    smooth: Smooth = False,
    fill_holes: FillHoles = False,
    aoi: Annotated[
        str | None, Option(metavar="<path>", help="Leave out what lies outside of these polygons; a vector file.")
    ] = None,
    dissolve: Dissolve = False,
    points: Points = False,
    crs: VectorCrs = None,
    confidence: Annotated[
        str | None, Option(help="The confidence of the map; adds the mean of each polygon, in percent.")
    ] = None,
    legend: MissingLegend = None,
    overwrite: Overwrite = False,
    allow_no_crs: Annotated[
        bool, Option("--allow-no-crs", help="Accept a map without a CRS; areas are then left empty.")
    ] = False,
    json_: Annotated[bool, Option("--json", help="Print the counts as one JSON document.")] = False,
) -> None:
    """Turn a class map into polygons with their class, area and perimeter.

    Columns are class_id, class_name, area_m2, perimeter_m and, with --confidence, mean_confidence. A shapefile (.shp),
    whose names are short, calls the last two perim_m and mean_conf; few programs read one beyond 2 GB.

    Example: landcover vectorize map.tif --out polygons.gpkg --classes forest,water --min-area 0.5ha --simplify 10
    """
    square_metres, names = parse_area(min_area), parse_classes(classes)
    from landcover.vectorization import vectorize as run

    summary = run(
        map_,
        out,
        classes=names,
        min_area=square_metres,
        connect=connect,
        simplify=simplify,
        smooth=smooth,
        fill_holes=fill_holes,
        aoi=aoi,
        dissolve=dissolve,
        points=points,
        crs=crs,
        confidence=confidence,
        legend=legend,
        overwrite=overwrite,
        allow_no_crs=allow_no_crs,
    )
    for note in summary.notes:
        say(f"Note: {note}")
    if json_:
        print_json({"out": str(out), "classes": [asdict(c) for c in summary.classes], "notes": list(summary.notes)})
    else:
        rows = [
            [c.class_name, str(c.polygons), "" if c.hectares is None else f"{c.hectares:,.2f}"] for c in summary.classes
        ]
        print_table(["class", "polygons", "hectares"], rows)
    say(f"Wrote {out}: {counted(summary.polygons, 'point' if points else 'polygon')}")
