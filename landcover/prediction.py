"""A scene → a class map: rows are read ahead, scored in windows, blended, classified and written behind."""

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from landcover.blend import Blender
from landcover.chips import CHUNK_ROWS, Batch, Chunk, Cutter, Pool, strips
from landcover.classmap import CONFIDENCE_NODATA, MAP_NODATA, SCORE_NODATA, SCORE_SCALE
from landcover.cog import Layer
from landcover.engines import Engine, EngineChoice, open_engine, with_less
from landcover.errors import DeviceError, EmptyError, OutputError, SceneError, StaleError
from landcover.grid import Box, Grid
from landcover.items import describes, map_item, write_item
from landcover.journal import Progress, Run, finished_part, keep_raw, kept_engines, open_run
from landcover.outputs import check_destination, disk_errors
from landcover.pipeline import read_ahead, write_behind
from landcover.planning import BATCHES_AHEAD, WRITE_BEHIND, Options, Plan, make_plan
from landcover.plausibility import Plausibility

_log = logging.getLogger(__name__)


def predict(scene: str | Path, out: str | Path, **options: Any) -> Path:
    """Map the land cover of a scene.

    Args:
        scene: any raster GDAL reads, a folder of band files, or a STAC item.
        out: the class map to write: uint8, 0 = nodata, on the scene's grid.
        options: the other attributes of `landcover.planning.Options`, such as `model`, `sensor`, `bbox`, `confidence`.

    Returns:
        The path of the map.

    Raises:
        LandcoverError: the scene, the model, an option or the output cannot be used. What was finished by then is
            kept beside the output, and the next run with the same options goes on from it.

    Example:
        >>> landcover.predict("scene.tif", "map.tif", sensor="sentinel2-l2a")
    """
    plan = make_plan(Options(scene, out, **options))
    if plan.why:
        _log.warning(plan.why)
    for _ in map_scene(plan):
        pass
    return Path(out)


OpenEngine = Callable[..., Engine]


def map_scene(plan: Plan, get_engine: OpenEngine | None = None) -> Generator[int, None, None]:
    """Carry out a plan; yields the pixels done so far: at first those of an earlier run, then after each window.

    Closing the generator early stops the run; what is finished is kept for the next one.

    Args:
        plan: from `make_plan`.
        get_engine: what gives the engine in place of `landcover.engines.open_engine`, such as one that gives the same
            engine again for the next scene of the same shape.
    """
    options = plan.options
    with open_run(plan.layers, facts=plan.facts, resume=options.resume, overwrite=options.overwrite) as run:
        yield from _map_into(run, plan, get_engine or open_engine)
        if not run.progress.mapped:
            run.forget()
            raise EmptyError(f"{plan.scene.name} has no valid pixel in the region asked for: nothing to map")
        if options.item is not None:
            check_destination(options.item, overwrite=True)  # again, while the next run can go on from what is mapped
    if options.item is not None:
        write_item(_item(plan, options.item), options.item)
    elif describes(old := Path(options.out).with_suffix(".json"), Path(options.out)):
        _log.warning("%s describes the map that was here before; add --stac to describe this one", old)


def _item(plan: Plan, out: Path) -> dict[str, Any]:
    """Describe a finished map."""
    assets = {name: layer.path for name, layer in plan.layers.items()}
    return map_item(out, name=out.stem, assets=assets, source=plan.scene.name, datetime=plan.scene.datetime)


def map_part(plan: Plan, get_engine: OpenEngine | None = None) -> Generator[int, None, None]:
    """Carry out one of `Plan.parts`, as `map_scene` does, but leave its pixels as they are, not encoded.

    A part may be all nodata.
    """
    with open_run(plan.layers, facts=plan.facts, resume=plan.options.resume, overwrite=True, complete=keep_raw) as run:
        for layer in plan.layers.values():
            with disk_errors(layer.path):
                layer.path.unlink(missing_ok=True)  # an older one must not lie beside a newer journal
        yield from _map_into(run, plan, get_engine or open_engine)


def join_parts(plan: Plan, parts: Iterable[Plan]) -> Generator[int, None, None]:
    """Make the layers of a plan from those of its parts, encoding them once; yields the pixels done so far.

    The files are, byte for byte, those that `map_scene` would have made.

    Raises:
        EmptyError: all is nodata.
        StaleError: a part is not there, or was made of another scene, by another model, or with other options.
    """
    top, width, mapped = plan.grid.region.row0, plan.grid.region.width, 0
    with open_run(plan.layers, resume=False, overwrite=plan.options.overwrite) as run:
        for part in parts:
            region = part.grid.region
            engines = kept_engines(part.layers, {k: v for k, v in part.facts.items() if k != "engine"})
            if engines is None:
                raise StaleError(f"the part {part.options.out} is not there, or not of this map; map it again")
            run.engines += tuple(e for e in engines if e not in run.engines)
            pixels = {name: _raw_pixels(layer) for name, layer in part.layers.items()}
            for row in range(0, region.height, CHUNK_ROWS):
                rows = min(CHUNK_ROWS, region.height - row)
                blocks = {name: np.array(p[:, row : row + rows]) for name, p in pixels.items()}
                count = int(np.count_nonzero(blocks["map"] != MAP_NODATA))
                mapped += count
                run.write(region.row0 - top + row, 0, (rows, width), blocks if count else {}, count)
                yield (region.row0 - top + row + rows) * width
        if not mapped:
            raise EmptyError(f"{plan.scene.name} has no valid pixel in the region asked for: nothing to map")


def _raw_pixels(layer: Layer) -> np.ndarray:
    """The pixels of a part's layer, (bands, height, width) of its dtype, in the file that holds nothing else."""
    shape = (len(layer.bands), layer.height, layer.width)
    try:
        return np.memmap(layer.path, layer.dtype, "r", shape=shape)
    except (OSError, ValueError) as e:
        raise OutputError(f"the finished part {layer.path} cannot be read: {e}; delete it to map it again") from e


def _map_into(run: Run, plan: Plan, get_engine: OpenEngine) -> Generator[int, None, None]:
    """Map what an earlier run has not finished of a plan; yields the pixels done so far, also by that."""
    _check_progress(plan, run.progress)
    done = sum(box.height * box.width for box in _finished(plan, run.progress))
    yield done
    choice: EngineChoice | None = plan.choice
    while choice and _left(plan, run.progress):
        run.engine = choice.tag
        try:
            for pixels in _map_left(plan, run, partial(get_engine, choice)):
                done += pixels
                yield done
        except DeviceError as e:
            if not (choice := with_less(choice)):
                raise
            _log.warning("%s: going on with %s from the last finished row", e, choice)
            run.rewind()
            done = sum(box.height * box.width for box in _finished(plan, run.progress))
    if replace(plan).facts["scene"] != plan.facts["scene"]:  # one half may be of the old pixels, the other of the new
        run.forget()
        raise SceneError(f"{plan.scene.name} was changed while it was mapped; map it again when it is complete")


def _map_left(plan: Plan, run: Run, get_engine: OpenEngine) -> Generator[int, None, None]:
    """Map and write what is left of a plan; yields the pixels that each window finishes.

    Raises:
        DeviceError: the device has not the memory for it.
    """
    engine = cache(partial(get_engine, plan.model, plan.scaling, plan.batch_shape, plan.scene.dtype, plan.at_once))
    odd = Plausibility(plan.scene.name, plan.scene.bands, plan.model.spec.stats)
    with write_behind(partial(_write, run, plan), WRITE_BEHIND) as give:
        for number, grid in _left(plan, run.progress):
            with closing(_map(plan, number, grid, engine, odd)) as parts:
                for part in parts:
                    give(part)
                    yield part.box.height * part.box.width if isinstance(part, Block) else 0
    _warn(odd.verdict())


def _check_progress(plan: Plan, progress: Progress) -> None:
    """Refuse a progress that this plan cannot have made."""
    panels = len(plan.panels)
    inside = progress.panel < panels and progress.row < plan.grid.region.height
    if not inside and (progress.panel, progress.row) != (panels, 0):
        raise StaleError(
            f"{finished_part(Path(plan.options.out))} holds a journal that cannot be relied on; "
            "add --no-resume to drop it and start over"
        )


def _finished(plan: Plan, progress: Progress) -> Iterator[Box]:
    """The pixels of the scene that an earlier run has finished."""
    for number, grid in enumerate(plan.panels):
        box = grid.region
        if number < progress.panel:
            yield box
        elif number == progress.panel and progress.row:
            yield Box(box.row0, box.row0 + progress.row, box.col0, box.col1)


def _left(plan: Plan, progress: Progress) -> list[tuple[int, Grid]]:
    """The panels that are left to do, by number, the first of them from the first row that is not finished."""
    left = list(enumerate(plan.panels))[progress.panel :]
    if left and progress.row:
        number, grid = left[0]
        left[0] = number, grid.below(grid.region.row0 + progress.row)
    return left


@dataclass(frozen=True)
class Block:
    """Finished pixels.

    Attributes:
        box: where, in pixels of the scene.
        layers: by name, (bands, height, width) as they are stored; none where all is nodata.
        mapped: how many of the pixels are not nodata.
    """

    box: Box
    layers: dict[str, np.ndarray] = field(default_factory=dict)
    mapped: int = 0


@dataclass(frozen=True)
class Mark:
    """All pixels of a panel above a row of the scene are finished; row None for the whole panel."""

    panel: int
    row: int | None


def _warn(said: str) -> None:
    if said:
        _log.warning("%s", said)


def _map(
    plan: Plan, panel: int, grid: Grid, get_engine: Callable[[], Engine], odd: Plausibility
) -> Generator[Block | Mark, None, None]:
    """Map a panel, window by window, with a mark after each row of windows."""
    under, scene = grid.read_box, plan.scene
    cutter = Cutter(grid, plan.batch_size, len(scene.bands), scene.dtype)
    pixels = Pool((len(scene.bands), CHUNK_ROWS, under.width), scene.dtype)
    valid = Pool((CHUNK_ROWS, under.width), "bool")

    def drop(chunk: Chunk) -> None:
        pixels.give_back(chunk.dn)
        valid.give_back(chunk.valid)

    stop = threading.Event()
    with ExitStack() as stack:
        read = _read(plan, grid, pixels, valid, odd)
        chunks = stack.enter_context(read_ahead(read, plan.chunks_ahead, stop))
        ready = (batch for strip in strips(chunks, grid, drop) for batch in cutter.cut(strip))
        cut = stack.enter_context(read_ahead(ready, BATCHES_AHEAD, stop))
        engine = get_engine()  # while the first rows are read
        blender = Blender(grid, engine.array)
        windows = stack.enter_context(closing(_score(engine, cut, cutter)))
        upcoming = next(windows, None)
        for row in grid.window_rows:
            for col in grid.window_cols:
                box = grid.completed(row, col)
                if upcoming is None or (upcoming.row, upcoming.col) != (row, col):
                    if box:
                        yield Block(box)
                    continue
                try:
                    blender.add(upcoming.scores, row, col)
                    block = _classify(plan, engine, box, upcoming, grid.within(box, row, col)) if box else None
                except engine.out_of_memory as e:
                    raise DeviceError(f"{plan.choice.device} has not the memory to blend the scores of windows") from e
                if block:
                    yield block
                upcoming = next(windows, None)
            _, below = grid.completed_rows(row)
            yield Mark(panel, below if below < grid.region.row1 else None)


def _read(plan: Plan, grid: Grid, pixels: Pool, valid: Pool, odd: Plausibility) -> Iterator[Chunk]:
    """Read what lies under a grid once, from top to bottom, some rows at a time, and look at what is to be mapped."""
    box = grid.read_box
    with plan.scene.open(box.width) as reader:
        row = box.row0
        while row < box.row1:
            rows = Box(row, min((row // CHUNK_ROWS + 1) * CHUNK_ROWS, box.row1), box.col0, box.col1)
            dn, usable = pixels.take()[:, : rows.height], valid.take()[: rows.height]
            reader.read_into(rows, dn, usable)
            wanted = usable & plan.area.mask(rows) if plan.area else usable
            mapped = _inside(rows, grid.region)
            _warn(odd.look(dn[:, *mapped], wanted[mapped]))
            yield Chunk(rows, dn, usable, wanted, np.asarray(wanted.any(axis=0)))
            row = rows.row1


def _inside(box: Box, region: Box) -> tuple[slice, slice]:
    """Rows and columns of a box that lie in a region."""
    return (
        slice(max(region.row0 - box.row0, 0), max(region.row1 - box.row0, 0)),
        slice(max(region.col0 - box.col0, 0), max(region.col1 - box.col0, 0)),
    )


@dataclass(frozen=True)
class Window:
    """A window with its scores (classes, tile, tile), and the pixels that are wanted of it, bool (tile, tile)."""

    row: int
    col: int
    scores: Any
    wanted: np.ndarray


def _score(engine: Engine, batches: Iterator[Batch], cutter: Cutter) -> Generator[Window, None, None]:
    with closing(engine.run(batches)) as scored:
        for batch, scores in scored:
            for col in batch.cols:
                chip = col % len(batch.dn)
                yield Window(batch.row, col, scores[chip], batch.wanted[chip])
            cutter.give_back(batch)


def _classify(plan: Plan, engine: Engine, box: Box, window: Window, part: tuple[slice, slice]) -> Block:
    """Turn the finished scores of a box, which is a part of a window, into what every layer stores."""
    scores, wanted = window.scores[:, *part], window.wanted[part]
    ids = np.array(plan.class_ids, np.uint8)
    labels = ids.take(engine.best(scores), mode="clip")  # nothing is clipped, but it takes half the time
    layers = {"map": np.where(wanted, labels, MAP_NODATA)[None]}
    if "confidence" in plan.layers:
        percent = np.rint(engine.numpy(scores).max(axis=0) * 100).astype(np.uint8)
        layers["confidence"] = np.where(wanted, percent, CONFIDENCE_NODATA)[None]
    if "scores" in plan.layers:
        layers["scores"] = np.where(wanted, np.rint(engine.numpy(scores) / SCORE_SCALE).astype(np.uint16), SCORE_NODATA)
    return Block(box, layers, int(np.count_nonzero(wanted)))


def _write(run: Run, plan: Plan, item: Block | Mark) -> None:
    region = plan.grid.region
    if isinstance(item, Block):
        box = item.box
        run.write(box.row0 - region.row0, box.col0 - region.col0, (box.height, box.width), item.layers, item.mapped)
    elif item.row is None:
        run.mark(item.panel + 1, 0)
    else:
        run.mark(item.panel, item.row - region.row0)
