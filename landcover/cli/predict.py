"""`landcover predict`: a scene → a class map."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from landcover.cli.console import print_json, progress, say
from landcover.cli.options import (
    AllowNoCrs,
    AllowResolution,
    AllowUntrained,
    Bands,
    BatchSize,
    Device,
    Engine,
    MapLegend,
    ModelName,
    Offset,
    Overlap,
    Precision,
    Scale,
    SceneName,
    Sensor,
    TileSize,
)
from landcover.cli.parsing import parse_bands
from landcover.grid import OVERLAP, TILE_SIZE

if TYPE_CHECKING:
    from landcover.planning import Plan


def predict(
    scene: SceneName,
    out: Annotated[Path, Option("--out", "-o", help="The class map to write, a GeoTIFF.")],
    model: ModelName = "",
    sensor: Sensor = None,
    bands: Bands = None,
    scale: Scale = None,
    offset: Offset = None,
    legend: MapLegend = None,
    tile_size: TileSize = TILE_SIZE,
    overlap: Overlap = OVERLAP,
    batch_size: BatchSize = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    bbox: Annotated[str | None, Option(help="Map this part only: min_x,min_y,max_x,max_y in the scene's CRS.")] = None,
    bbox_crs: Annotated[
        str | None,
        Option(help="The CRS of --bbox, such as EPSG:4326, in which 179,-17,-179,-16 crosses the antimeridian."),
    ] = None,
    aoi: Annotated[str | None, Option(metavar="<path>", help="Map inside these polygons only; a vector file.")] = None,
    confidence: Annotated[Path | None, Option(help="Write the confidence too: percent, 255 = nodata.")] = None,
    scores: Annotated[
        Path | None, Option(help="Write the scores too: a band per class, probability × 10,000, 65535 = nodata.")
    ] = None,
    stac: Annotated[bool, Option("--stac", help="Write a STAC Item too, beside the map.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", "-f", help="Replace outputs that exist.")] = False,
    no_resume: Annotated[
        bool, Option("--no-resume", help="Start over, where a run that was stopped left finished rows.")
    ] = False,
    explain: Annotated[bool, Option("--explain", help="Print the plan, and do nothing.")] = False,
    json_: Annotated[bool, Option("--json", help="Print the plan or the result as JSON.")] = False,
    allow_no_crs: AllowNoCrs = False,
    allow_untrained: AllowUntrained = False,
    allow_resolution: AllowResolution = False,
) -> None:
    """Map the land cover of a scene.

    Example: landcover predict scene.tif --sensor sentinel2-l2a --out map.tif --confidence confidence.tif
    """
    from landcover.planning import Options, make_plan
    from landcover.regions import parse_bbox

    plan = make_plan(
        Options(
            scene=scene,
            out=out,
            model=model or None,
            sensor=sensor,
            bands=parse_bands(bands),
            scale=scale,
            offset=offset,
            legend=legend,
            tile_size=tile_size,
            overlap=overlap,
            batch_size=batch_size,
            device=device,
            engine=engine,
            precision=precision,
            bbox=parse_bbox(bbox) if bbox is not None else None,
            bbox_crs=bbox_crs,
            aoi=aoi,
            confidence=confidence,
            scores=scores,
            stac=stac,
            overwrite=overwrite or explain,
            resume=not no_resume,
            allow_no_crs=allow_no_crs,
            allow_untrained=allow_untrained,
            allow_resolution=allow_resolution,
        )
    )
    if explain:
        print_json(plan.describe()) if json_ else _print_plan(plan.describe())
        for there in () if overwrite else filter(Path.exists, plan.options.outputs):
            say(f"{there} exists already; add --overwrite to replace it")
        return
    seconds = _run(plan)
    if json_:
        print_json({**plan.describe(), "seconds": round(seconds, 3)})


def _run(plan: "Plan") -> float:
    """Run a plan with progress on stderr; returns the seconds it took."""
    import time

    from landcover.journal import finished_part
    from landcover.prediction import map_scene

    if plan.why:
        say(plan.why)
    factor = plan.model.factor
    seen = f", enlarged {factor} × to the {plan.model.spec.sees:g} m it sees" if factor > 1 else ""
    say(f"Mapping with {plan.model.spec.name}{seen}, {plan.choice}")
    began = time.perf_counter()
    pixels = plan.grid.region.height * plan.grid.region.width
    with closing(map_scene(plan)) as done:
        before = next(done)
        if before:
            say(f"Going on from {before / pixels:.0%}, which an earlier run had finished")
        try:
            for _ in progress(done, pixels, "Mapping"):
                pass
        except BaseException:
            done.close()
            if kept := finished_part(Path(plan.options.out)):
                say(f"What is finished is kept in {kept}: the same command goes on from there")
            raise
    seconds = time.perf_counter() - began
    rate = (pixels - before) / seconds / 1e6
    say(f"Wrote {', '.join(plan.outputs.values())} in {seconds:.1f} s ({rate:.3g} Mpx/s)")
    return seconds


def _print_plan(facts: dict) -> None:
    import typer

    for name, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for key, detail in value.items():
                typer.echo(f"  {key}: {detail}")
        else:
            typer.echo(f"{name}: {value}")
