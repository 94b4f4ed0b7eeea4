"""`landcover info`: what a scene holds, and what a model would see of it."""

from typing import Annotated, Any

import typer
from typer import Option

from landcover.cli.console import print_json, print_table
from landcover.cli.options import Bands, Json, Offset, Scale, SceneName, Sensor
from landcover.cli.parsing import parse_bands


def info(
    scene: SceneName,
    model: Annotated[str, Option("--model", "-m", help="Tell what this model would see.")] = "",
    sensor: Sensor = None,
    bands: Bands = None,
    scale: Scale = None,
    offset: Offset = None,
    json_: Json = False,
) -> None:
    """Tell the bands, resolution, nodata and scaling of a scene, and what a model would see of it.

    Example: landcover info scene.tif --sensor sentinel2-l2a
    """
    from landcover.bands import Choice
    from landcover.inspection import inspect_scene

    facts = inspect_scene(scene, model or None, Choice(sensor, parse_bands(bands), scale, offset))
    if json_:
        print_json(facts)
        return
    stored, seen = facts["bands"], facts["model"]
    for key in ("scene", "size", "crs", "pixel", "sensor"):
        typer.echo(f"{key}: {facts[key]}")
    if "lacks" in facts:
        typer.echo(f"it is not mapped as it is: {facts['lacks']}")
    print_table(
        ["band", "label", "common name", "dtype", "nodata", "GSD (m)", "scale", "offset"],
        [[_cell(v) for v in band.values()] for band in stored],
        left=(0, 1, 2, 3),
    )
    typer.echo(f"\nmodel: {seen['name']} wants {', '.join(seen['bands'])}")
    if "why" in seen:
        typer.echo(seen["why"])
    if "problem" in seen:
        typer.echo(f"it cannot use this scene as it is: {seen['problem']}")
        return
    for name, how in seen["bands"].items():
        typer.echo(f"  {name}: {how}")
    if seen["sees"]:
        headers = list(next(iter(seen["sees"].values())))
        typer.echo("reflectance of the valid pixels there:")
        print_table(["band", *headers], [[n, *(f"{v:.3f}" for v in s.values())] for n, s in seen["sees"].items()])
    typer.echo(f"valid: {seen['valid_percent']:.1f} % of the {seen['sample']}")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)
