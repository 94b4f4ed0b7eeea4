"""Where the time of a prediction goes: each stage by itself, on a scene, with nothing beside it.

    python benchmarks/stages.py SCENE [--precision bf16]

Prints a Markdown table of seconds of the clock and of all processors. The floor is what must be done whatever the
program around it: the network on as many pixels as the map has, decoding every pixel, encoding the map.
"""

import argparse
import itertools
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from measure import Taken, drain, timed
from rasterio.windows import Window as Pixels

from landcover import prediction
from landcover.blend import Blender
from landcover.chips import CHUNK_ROWS, Chunk, Cutter, Pool, strips
from landcover.engines import open_engine
from landcover.journal import open_run
from landcover.planning import Options, Plan, make_plan
from landcover.plausibility import Plausibility

WINDOWS = 16
"""How many windows the network and the classification are timed on."""


class Stages(NamedTuple):
    """What each stage of a whole scene takes.

    Attributes:
        network: on as many pixels as the map has, without overlap.
        decode, encode: of the scene, and of the map.
        overlap: what the network does beyond that, because windows overlap and reach over the far edge.
        mask, cut, classify, write: finding nodata, cutting batches, blending and classifying, writing raw rows.
    """

    network: Taken
    decode: Taken
    encode: Taken
    overlap: Taken
    mask: Taken
    cut: Taken
    classify: Taken
    write: Taken

    @property
    def floor_cpu(self) -> float:
        """Seconds of all processors that no program could save."""
        return self.network.cpu + self.decode.cpu + self.encode.cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    stages = measure(args.scene, args.precision)
    print("| stage | s | CPU s |\n|---|---:|---:|")
    for name, taken in stages._asdict().items():
        print(f"| {name} | {taken.wall:.2f} | {taken.cpu:.2f} |")


def measure(scene: Path, precision: str = "auto") -> Stages:
    """Time each stage on a scene, with the default model and options."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(Options(scene, Path(folder) / "map.tif", precision=precision))
        _decode(plan)  # so that the file is in the system's cache, for every stage alike
        decode = timed(_decode, plan)
        read = timed(_read, plan)
        cut = timed(_cut, plan)
        first = next(_batches(plan))
        engine = open_engine(plan.choice, plan.model, plan.scaling, plan.batch_shape, plan.scene.dtype, plan.at_once)
        drain(engine.run([first] * 2))
        windows = timed(drain, engine.run(itertools.repeat(first, WINDOWS)))
        seen = plan.grid.windows / WINDOWS
        alone = seen / plan.work
        (_, scores), *_ = engine.run([first])
        chip = np.array(engine.numpy(scores[0]))
        classify = timed(_classify, plan, engine, chip, first.wanted[0])
        write, encode = _write(plan)
    return Stages(
        network=_times(windows, alone),
        decode=decode,
        encode=encode,
        overlap=_times(windows, seen - alone),
        mask=_minus(read, decode),
        cut=_minus(cut, read),
        classify=_times(classify, seen),
        write=write,
    )


def _times(taken: Taken, factor: float) -> Taken:
    return Taken(taken.wall * factor, taken.cpu * factor, taken.peak)


def _minus(taken: Taken, other: Taken) -> Taken:
    return Taken(max(taken.wall - other.wall, 0), max(taken.cpu - other.cpu, 0), taken.peak)


def _decode(plan: Plan) -> None:
    """Decode the scene as it is read, and do nothing else."""
    width = plan.scene.width
    with plan.scene.open(width) as reader:
        for file in (each.file for each in reader._files.values()):
            for row in range(0, plan.scene.height, CHUNK_ROWS):
                file.read(window=Pixels(0, row, width, min(CHUNK_ROWS, plan.scene.height - row)))


def _chunks(plan: Plan, pixels: Pool, valid: Pool):
    odd = Plausibility(plan.scene.name, plan.scene.bands, plan.model.spec.stats)
    return prediction._read(plan, plan.grid, pixels, valid, odd)


def _pools(plan: Plan) -> tuple[Pool, Pool]:
    bands, width = len(plan.scene.bands), plan.grid.read_box.width
    return Pool((bands, CHUNK_ROWS, width), plan.scene.dtype), Pool((CHUNK_ROWS, width), "bool")


def _read(plan: Plan) -> None:
    pixels, valid = _pools(plan)
    for chunk in _chunks(plan, pixels, valid):
        pixels.give_back(chunk.dn)
        valid.give_back(chunk.valid)


def _cut(plan: Plan) -> None:
    cutter = Cutter(plan.grid, plan.batch_size, len(plan.scene.bands), plan.scene.dtype)
    for batch in _batches(plan, cutter):
        cutter.give_back(batch)


def _batches(plan: Plan, cutter: Cutter | None = None):
    cutter = cutter or Cutter(plan.grid, plan.batch_size, len(plan.scene.bands), plan.scene.dtype)
    pixels, valid = _pools(plan)

    def drop(chunk: Chunk) -> None:
        pixels.give_back(chunk.dn)
        valid.give_back(chunk.valid)

    for strip in strips(_chunks(plan, pixels, valid), plan.grid, drop):
        yield from cutter.cut(strip)


def _classify(plan: Plan, engine, chip: np.ndarray, wanted: np.ndarray) -> None:
    """Blend and classify some windows of the same scores."""
    blender = Blender(plan.grid, engine.array)
    places = itertools.islice(itertools.product(plan.grid.window_rows, plan.grid.window_cols), WINDOWS)
    for row, col in places:
        blender.add(chip, row, col)
        if box := plan.grid.completed(row, col):
            window = prediction.Window(row, col, chip, wanted)
            prediction._classify(plan, engine, box, window, plan.grid.within(box, row, col))


def _write(plan: Plan) -> tuple[Taken, Taken]:
    """Write a real map, made beforehand, window by window; then encode it."""
    made = Path(plan.options.out).with_name("made.tif")
    prediction.predict(plan.options.scene, made, precision=plan.choice.precision)
    with rasterio.open(made) as file:
        pixels = file.read(1)
    with ExitStack() as stack:
        run = stack.enter_context(open_run(plan.layers))

        def write() -> None:
            for row, col in itertools.product(plan.grid.window_rows, plan.grid.window_cols):
                box = plan.grid.completed(row, col)
                block = pixels[None, box.row0 : box.row1, box.col0 : box.col1]
                run.write(box.row0, box.col0, (box.height, box.width), {"map": block})
                if col == plan.grid.window_cols[-1]:
                    run.mark(0, box.row0)

        written = timed(write)
        return written, timed(stack.close)


if __name__ == "__main__":
    main()
