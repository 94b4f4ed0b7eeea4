"""A scene → a class map: rows are read ahead, scored in windows, blended, classified and written behind."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from landcover.blend import Blender
from landcover.chips import CHUNK_ROWS, Chunk, Strip, batches, strips
from landcover.classmap import CONFIDENCE_NODATA, MAP_NODATA, SCORE_NODATA, SCORE_SCALE, RowSink, open_sinks
from landcover.engines import Engine, open_engine
from landcover.errors import SceneError
from landcover.pipeline import read_ahead, write_behind
from landcover.planning import WRITE_BEHIND, Options, Plan, make_plan


def predict(scene: str | Path, out: str | Path, **options: Any) -> Path:
    """Map the land cover of a scene.

    Args:
        scene: any raster GDAL reads, a folder of band files, or a STAC item.
        out: the class map to write: uint8, 0 = nodata, on the scene's grid.
        options: the other attributes of `Options`, such as `model`, `sensor`, `bbox`, `confidence`.

    Returns:
        The path of the map.

    Raises:
        LandcoverError: the scene, the model, an option or the output cannot be used; nothing is left behind.

    Example:
        >>> landcover.predict("scene.tif", "map.tif", sensor="sentinel2-l2a")
    """
    plan = make_plan(Options(scene, out, **options))
    for _ in map_scene(plan):
        pass
    return Path(out)


def map_scene(plan: Plan) -> Generator[int, None, None]:
    """Carry out a plan; yields the pixels done so far, each time rows are handed to the writer.

    Closing the generator early stops the run and leaves nothing behind.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(open_sinks(list(plan.layers.values()), overwrite=plan.options.overwrite))
        sinks = dict(zip(plan.layers, opened, strict=True))
        engine = open_engine(plan.choice, plan.model, plan.scaling, plan.batch_shape, plan.scene.dtype)
        chunks = stack.enter_context(read_ahead(_read(plan), plan.chunks_ahead))
        give = stack.enter_context(write_behind(partial(_write, sinks), WRITE_BEHIND))
        mapped = done = 0
        for rows in _map(plan, engine, strips(chunks, plan.grid, plan.area.mask if plan.area else None)):
            give(rows)
            mapped += int(np.count_nonzero(rows.classes))
            done += rows.classes.size
            yield done
        if not mapped:
            raise SceneError(f"{plan.scene.name} has no valid pixel in the region asked for: nothing to map")


def _read(plan: Plan) -> Iterator[Chunk]:
    """Read the scene once, from top to bottom, some rows at a time."""
    box = plan.grid.read_box
    with plan.scene.open() as reader:
        row = box.row0
        while row < box.row1:
            stop = min((row // CHUNK_ROWS + 1) * CHUNK_ROWS, box.row1)
            yield Chunk(row, *reader.read(row, stop, box.col0, box.col1))
            row = stop


def _map(plan: Plan, engine: Engine, strips: Iterator[Strip]) -> Iterator["Rows"]:
    """Score the windows of each strip, blend them, and classify the rows that are complete."""
    blender = Blender(plan.grid, len(plan.model.spec.legend.classes), engine.zeros, engine.array)
    for strip in strips:
        for batch in batches(strip, plan.grid, plan.batch_size):
            scores = engine.scores(batch.dn, batch.valid)
            for window, col in zip(scores, batch.cols, strict=False):
                blender.add(window, strip.row, col)
        yield from _classify(plan, engine, blender.finish(strip.row), strip)


def _classify(plan: Plan, engine: Engine, scores: Any, strip: Strip) -> Iterator["Rows"]:
    """Turn finished scores (classes, rows, width) into the rows of every layer, some rows at a time."""
    region, (first, last) = plan.grid.region, plan.grid.complete(strip.row)
    left = region.col0 - plan.grid.read_box.col0
    top = first - plan.grid.rows.start(strip.row)
    wanted = strip.wanted[top : top + last - first, left : left + region.width]
    ids = engine.array(np.array(plan.model.spec.legend.ids, np.uint8))
    for lo in range(0, last - first, CHUNK_ROWS):
        some = scores[:, lo : lo + CHUNK_ROWS]
        nodata = ~wanted[lo : lo + CHUNK_ROWS]
        classes = engine.numpy(ids[some.argmax(0)])
        classes[nodata] = MAP_NODATA
        confidence = stored = None
        if plan.options.confidence is not None:
            confidence = np.rint(engine.numpy(some).max(axis=0) * 100).astype(np.uint8)
            confidence[nodata] = CONFIDENCE_NODATA
        if plan.options.scores is not None:
            stored = np.rint(engine.numpy(some) / SCORE_SCALE).astype(np.uint16)
            stored[:, nodata] = SCORE_NODATA
        yield Rows(first + lo - region.row0, classes, confidence, stored)


@dataclass(frozen=True)
class Rows:
    """Finished rows of the region, from row `row` on.

    Attributes:
        row: first row, counted from the region's top.
        classes: uint8 (rows, width), class ids, 0 = nodata.
        confidence: uint8 (rows, width), percent, 255 = nodata; or None.
        scores: uint16 (classes, rows, width), ten-thousandths, 65535 = nodata; or None.
    """

    row: int
    classes: np.ndarray
    confidence: np.ndarray | None
    scores: np.ndarray | None


def _write(sinks: dict[str, RowSink], rows: Rows) -> None:
    sinks["map"].write(rows.row, rows.classes[None])
    if rows.confidence is not None:
        sinks["confidence"].write(rows.row, rows.confidence[None])
    if rows.scores is not None:
        sinks["scores"].write(rows.row, rows.scores)
