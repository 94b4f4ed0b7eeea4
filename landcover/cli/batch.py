"""`landcover batch`: the scenes of a catalog → maps, on the workers of a Dask cluster."""

import json
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from landcover.cli.console import Counter, print_json, print_table, say
from landcover.cli.options import (
    AllowNoCrs,
    AllowResolution,
    AllowUntrained,
    BatchSize,
    ChosenArea,
    ChosenBox,
    ChosenLimit,
    ChosenTime,
    ChosenWhere,
    Classes,
    Connect,
    Device,
    Dissolve,
    Engine,
    FillHoles,
    MapLegend,
    MinArea,
    ModelName,
    Overlap,
    Points,
    Precision,
    Simplify,
    Smooth,
    TileSize,
    VectorCrs,
)
from landcover.cli.parsing import parse_area, parse_bands, parse_classes
from landcover.errors import ConfigError, counted
from landcover.grid import OVERLAP, TILE_SIZE

if TYPE_CHECKING:
    from landcover.batch import BatchOptions, Event, Record, Summary

SOME_FAILED = 4
"""The exit code where scenes could not be mapped, or what was asked for of all maps could not be made."""


def batch(
    catalog: Annotated[
        str,
        Argument(
            metavar="CATALOG",
            help="A folder, a quoted pattern, a CSV, Parquet or STAC file with many scenes, or one large scene.",
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", help="The folder for the outputs; made if it is not there.")],
    model: ModelName = "",
    bbox: ChosenBox = None,
    aoi: ChosenArea = None,
    datetime: ChosenTime = None,
    where: ChosenWhere = None,
    limit: ChosenLimit = None,
    sensor: Annotated[
        str | None, Option(help="The sensor's name or TOML file, where the catalog does not say it.")
    ] = None,
    bands: Annotated[
        list[str] | None,
        Option(metavar="<str>", help="Which band is which, as red=4,nir=8, where the catalog does not say it."),
    ] = None,
    scale: Annotated[
        float | None, Option(help="Reflectance = number × SCALE + offset, where the catalog does not say it.")
    ] = None,
    offset: Annotated[
        float | None, Option(help="Reflectance = number × scale + OFFSET, where the catalog does not say it.")
    ] = None,
    confidence: Annotated[bool, Option("--confidence", help="Write the confidence of each map too.")] = False,
    vectorize: Annotated[bool, Option("--vectorize", help="Make polygons of each map too.")] = False,
    format_: Annotated[
        str, Option("--format", help="The format of the polygons: gpkg, parquet, fgb, geojson or shp.")
    ] = "gpkg",
    classes: Classes = None,
    min_area: MinArea = "0",
    connect: Connect = 4,
    simplify: Simplify = 0.0,
    smooth: Smooth = False,
    fill_holes: FillHoles = False,
    dissolve: Dissolve = False,
    points: Points = False,
    crs: VectorCrs = None,
    merge_polygons: Annotated[
        bool, Option("--merge-polygons", help="Write one file of all polygons, joined across the scenes' borders.")
    ] = False,
    mosaic: Annotated[
        str | None,
        Option(help="Write one map of all scenes too: later or confidence tells which lies on top."),
    ] = None,
    workers: Annotated[
        int | None, Option("--workers", "-w", help="Worker processes on this machine.", show_default="by its size")
    ] = None,
    scheduler: Annotated[
        str | None, Option(help="A running Dask scheduler: tcp://host:8786, or its scheduler file.")
    ] = None,
    part_rows: Annotated[
        str, Option(help="Rows of windows in a part of a large scene: auto, a number, or 0 to cut no scene.")
    ] = "auto",
    retries: Annotated[int, Option(help="How often a scene that fails is tried again, if that may help.")] = 1,
    only_failed: Annotated[bool, Option("--only-failed", help="Only scenes that failed the last time.")] = False,
    strict: Annotated[bool, Option("--strict", help="Do not begin if a scene cannot be read.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", "-f", help="Map all scenes again.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the plan, and do nothing.")] = False,
    json_: Annotated[
        bool, Option("--json", help="Print what came of it, or the plan, as one JSON document; events on stderr.")
    ] = False,
    legend: MapLegend = None,
    tile_size: TileSize = TILE_SIZE,
    overlap: Overlap = OVERLAP,
    batch_size: BatchSize = None,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    allow_no_crs: AllowNoCrs = False,
    allow_untrained: AllowUntrained = False,
    allow_resolution: AllowResolution = False,
) -> None:
    """Map many scenes, or one so large that all workers should share it.

    What is finished is skipped when the command is given again: after a failure, a kill, or with new scenes in the
    catalog. A scene that fails is recorded and the others go on; the exit code is then 4, as it is where --mosaic or
    --merge-polygons cannot be made.

    Example: landcover batch scenes/ --sensor sentinel2-l2a --out maps --vectorize --min-area 0.5ha
    """
    from landcover.batch import BatchOptions
    from landcover.catalog.choosing import parse_box

    vectors = {
        "classes": parse_classes(classes),
        "min_area": parse_area(min_area),
        "connect": connect,
        "simplify": simplify,
        "smooth": smooth,
        "fill_holes": fill_holes,
        "dissolve": dissolve,
        "points": points,
        "crs": crs,
    }
    shaped = any(vectors[key] for key in vectors if key != "connect") or (connect, format_) != (4, "gpkg")
    if shaped and not (vectorize or merge_polygons):
        raise ConfigError(
            "--classes, --min-area, --format and the like are of polygons; add --vectorize or --merge-polygons"
        )
    mapping = {
        "sensor": sensor,
        "bands": parse_bands(bands),
        "scale": scale,
        "offset": offset,
        "legend": legend,
        "tile_size": tile_size,
        "overlap": overlap,
        "batch_size": batch_size,
        "device": device,
        "engine": engine,
        "precision": precision,
        "allow_no_crs": allow_no_crs,
        "allow_untrained": allow_untrained,
        "allow_resolution": allow_resolution,
    }
    options = BatchOptions(
        catalog=catalog,
        out=out,
        model=model or None,
        mapping=mapping,
        confidence=confidence,
        vectors=vectors if vectorize else None,
        merged=vectors if merge_polygons else None,
        suffix=f".{format_.lstrip('.')}",
        choose={
            "bbox": parse_box(bbox) if bbox is not None else None,
            "aoi": aoi,
            "datetime": datetime,
            "where": where,
            "limit": limit,
        },
        workers=workers,
        scheduler=scheduler,
        part_rows=_part_rows(part_rows),
        retries=retries,
        only_failed=only_failed,
        overwrite=overwrite,
        strict=strict,
        mosaic=mosaic,
    )
    if dry_run:
        _print_plan(options, json_)
    else:
        _run(options, json_)


def _part_rows(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit():
        raise ConfigError(f"--part-rows '{text}' is not known; write auto, or a number of rows of windows")
    return int(text)


def _print_plan(options: "BatchOptions", as_json: bool) -> None:
    from landcover.batch import foresee

    facts = foresee(options)
    if as_json:
        print_json(facts)
        return
    largest, broken = facts.pop("largest"), facts.pop("broken")
    for name, value in facts.items():
        typer.echo(f"{name}: {'unknown' if value is None else f'{value:,}' if isinstance(value, int) else value}")
    if largest:
        typer.echo()
        rows = [[j["name"], f"{j['pixels']:,}", str(j["parts"] or "")] for j in largest]
        print_table(["largest scenes", "pixels", "parts"], rows)
    for record in broken:
        say(f"Cannot be read: {record['name']}: {record['error']}")


def _run(options: "BatchOptions", as_json: bool) -> None:
    from landcover.batch import run_batch

    show = _Lines() if as_json else _Screen()
    try:
        with closing(run_batch(options)) as events:
            for event in events:
                show(event)
    finally:
        show.close()
    if show.failed or show.unmade:
        raise typer.Exit(SOME_FAILED)


class _Lines:
    """Events as JSON on stderr, one on a line, and what came of the batch as one document on stdout."""

    failed = unmade = 0

    def __call__(self, event: "Event") -> None:
        from landcover.batch import Begun, Record, Summary

        if isinstance(event, Begun):
            broken = [asdict(r) for r in event.plan.broken]
            facts = {"scenes": len(event.plan.jobs), "done before": len(event.plan.done), "cannot be read": broken}
            self._tell("begun", facts | {"pixels": event.plan.pixels, "workers": event.workers})
        elif isinstance(event, Record):
            self._tell("scene", asdict(event))
        elif isinstance(event, Summary):
            self.failed, self.unmade = len(event.failed), len(event.unmade)
            facts = {"done": len(event.records) - self.failed, "failed": self.failed, "outputs": event.outputs}
            facts |= {"report": str(event.report), "notes": list(event.notes)}
            self._tell("ended", facts)
            print_json(facts | {"scenes": [asdict(r) for r in event.records]})
        elif event.text:
            self._tell("note", {"text": event.text})

    def _tell(self, event: str, facts: dict[str, Any]) -> None:
        say(json.dumps({"event": event, **facts}, ensure_ascii=False))

    def close(self) -> None:
        pass


class _Screen:
    """Progress on stderr, and a table of what failed on stdout."""

    def __init__(self) -> None:
        self.failed = self.unmade = 0
        self._counter: Counter | None = None
        self._done = self._pixels = self._scenes = 0
        self._began = time.monotonic()

    def __call__(self, event: "Event") -> None:
        from landcover.batch import Begun, Record, Summary

        if isinstance(event, Begun):
            self._begin(event)
        elif isinstance(event, Record):
            self._scene(event)
        elif isinstance(event, Summary):
            self._end(event)
        else:
            if event.text:
                self._say(event.text)
            if self._counter:
                self._counter.update(self._pixels + event.pixels, f"{self._done} of {counted(self._scenes, 'scene')}")

    def close(self) -> None:
        if self._counter:
            self._counter.close()
            self._counter = None

    def _begin(self, event: Any) -> None:
        plan = event.plan
        self._scenes = len(plan.jobs)
        for record in plan.broken:
            say(f"Cannot be read: {record.name}: {record.error}")
        before = f", {len(plan.done)} done before" if plan.done else ""
        at = f"; Dask's dashboard: {event.dashboard}" if event.dashboard else ""
        scenes, workers = counted(self._scenes, "scene"), counted(event.workers, "worker")
        say(f"{scenes} to map, {plan.pixels / 1e6:,.1f} Mpx, by {workers}{before}{at}")
        if plan.jobs:
            self._counter = Counter(plan.pixels, "Mapping")

    def _scene(self, record: "Record") -> None:
        self._done += 1
        self._pixels += record.pixels
        tale = f"{record.seconds:.1f} s on {record.worker}" if record.state == "done" else f"failed: {record.error}"
        self._say(f"[{self._done}/{self._scenes}] {record.name}: {tale}")

    def _say(self, text: str) -> None:
        self._counter.say(text) if self._counter else say(text)

    def _end(self, summary: "Summary") -> None:
        self.close()
        self.failed = len(summary.failed)
        self.unmade = len(summary.unmade)
        for note in summary.notes:
            say(f"Note: {note}")
        seconds = time.monotonic() - self._began
        done = len(summary.records) - self.failed
        scenes = f"{counted(done, 'scene')} {'is' if done == 1 else 'are'}"
        say(f"{scenes} done, {self.failed} failed, in {seconds:.1f} s; the report is {summary.report}")
        if summary.failed:
            print_table(
                ["failed", "attempts", "error"], [[r.name, str(r.attempts), r.error] for r in summary.failed], (0, 2)
            )
