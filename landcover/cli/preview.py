"""`landcover preview`: a picture of a map or a scene."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from landcover.cli.console import say
from landcover.cli.options import MissingLegend, Overwrite
from landcover.cli.parsing import parse_bands


def preview(
    file: Annotated[str, Argument(metavar="FILE", help="A class map, or a scene.")],
    out: Annotated[Path, Option("--out", "-o", help="The PNG to write.")],
    size: Annotated[int, Option(help="The longest side of the picture, in pixels.")] = 1024,
    scene: Annotated[str | None, Option(help="Show this scene to the left of the map.")] = None,
    bands: Annotated[
        list[str] | None, Option(metavar="<str>", help="The scene's bands to show, as red=4,green=3,blue=2.")
    ] = None,
    legend: MissingLegend = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw a class map with its legend, or a scene, as a PNG.

    A scene is shown in red, green and blue if its bands are so named, else by its first three; say which with --bands.

    Example: landcover preview map.tif --scene scene.tif --out map.png
    """
    from landcover.preview import preview as run

    width, height = run(file, out, size=size, scene=scene, bands=parse_bands(bands), legend=legend, overwrite=overwrite)
    say(f"Wrote {out}: {width} × {height} px")
