"""`landcover assess`: accuracy and areas of a map, with confidence intervals."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from typer import Option, echo

from landcover.cli.console import print_json, print_table, say
from landcover.cli.options import Json, MapName, MissingLegend
from landcover.errors import counted

if TYPE_CHECKING:
    from landcover.assessment import Assessment


def assess(
    map_: MapName,
    reference: Annotated[
        str, Option("--reference", "-r", help="Points with their true class, or a raster of class ids.")
    ],
    column: Annotated[
        str | None,
        Option(help="The column of the points with the class.", show_default="reference, class_name, class, …"),
    ] = None,
    level: Annotated[float, Option(help="The level of the confidence intervals.")] = 0.95,
    legend: MissingLegend = None,
    json_: Json = False,
) -> None:
    """Tell how accurate a map is, and how much land each class really covers, from labelled points.

    Points drawn by landcover sample, of this map or of another one of the same land, give estimates for the whole map
    with confidence intervals (Olofsson et al. 2014, Stehman 2014). Other points are taken as drawn at random within
    each class. User's accuracy: how much of what is mapped as a class is that class. Producer's accuracy: how much of a
    class is mapped as it.

    Example: landcover assess map.tif --reference points.gpkg
    """
    from landcover.assessment import assess as run

    found = run(map_, reference, column=column, legend=legend, level=level)
    for note in found.notes:
        say(f"Note: {note}")
    if json_:
        print_json({"map": map_, "reference": reference, **asdict(found)})
        return
    area = "hectares" if found.sampled else "reference ha"
    headers = ["class", "mapped ha", area, "user's %", "producer's %", "F1 %"]
    print_table(headers, [[c.class_name, *c.told()] for c in found.classes])
    echo()
    print_table(["map \\ reference", *(c.class_name for c in found.classes)], _matrix(found))
    echo()
    what = "point" if found.sampled else "pixel"
    interval = f" ({100 * found.level:g} % confidence)" if found.sampled else ""
    echo(f"overall accuracy {found.overall.told()} %{interval}, from {counted(found.compared, what)}")


def _matrix(found: "Assessment") -> list[list[str]]:
    return [[c.class_name, *(f"{n:,}" for n in row)] for c, row in zip(found.classes, found.counts, strict=True)]
