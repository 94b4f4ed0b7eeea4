"""How far a map made of windows is from one made of the whole scene at once, by tile size, overlap and alignment.

    python benchmarks/seams.py SCENE --sensor sentinel2-l1c [--picture seams.png]

Prints a Markdown table: labels that differ in the whole map and near the windows' borders, and the work: pixels that
the network sees for each pixel mapped. "Off by one" rows start each window a pixel before a multiple of the stride.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from landcover.grid import Axis, Grid
from landcover.planning import Options, Plan, make_plan
from landcover.prediction import map_scene

SETTINGS = ((256, 32), (256, 64), (512, 0), (512, 32), (512, 64), (512, 128), (1024, 64), (1024, 128), (1536, 64))
NEAR = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene")
    parser.add_argument("--sensor")
    parser.add_argument("--model", default="landcover-6band")
    parser.add_argument("--picture", type=Path, help="where the map differs at the default settings")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = Options(
            args.scene, Path(folder) / "map.tif", args.model, sensor=args.sensor, device="cpu", overwrite=True
        )
        whole = run(make_plan(dataclasses.replace(options, tile_size=1 << 14, overlap=0)))
        print("| tile | overlap | starts | labels that differ | within 16 px of a window's border | work |")
        print("|---:|---:|---|---:|---:|---:|")
        for tile, overlap in SETTINGS:
            plan = make_plan(dataclasses.replace(options, tile_size=tile, overlap=overlap))
            report(plan, whole, "aligned")
            if overlap:
                report(dataclasses.replace(plan, grid=off_by_one(plan.grid)), whole, "off by one")
        if args.picture:
            draw(run(make_plan(options)), whole, args.picture)


def run(plan: Plan) -> np.ndarray:
    """The map of a plan, uint8 (height, width)."""
    for _ in map_scene(plan):
        pass
    with rasterio.open(plan.options.out) as file:
        return file.read(1)


def report(plan: Plan, whole: np.ndarray, starts: str) -> None:
    """Print one row of the table."""
    differ = run(plan) != whole
    near = np.logical_or.outer(near_borders(plan.grid.rows), near_borders(plan.grid.cols))
    axis = plan.grid.rows
    print(
        f"| {axis.tile} | {axis.tile - axis.step} | {starts} | {differ.mean():.3%} | {differ[near].mean():.3%} "
        f"| {plan.grid.work:.2f} |",
        flush=True,
    )


def near_borders(axis: Axis) -> np.ndarray:
    """Pixels within 16 pixels of where a window begins or ends inside the scene; bool (size,)."""
    position = np.arange(axis.size)
    near = np.zeros(axis.size, bool)
    for k in range(axis.count):
        for border in (axis.start(k), axis.start(k) + axis.tile):
            if 0 < border < axis.size:
                near |= abs(position - border + 0.5) <= NEAR
    return near


def off_by_one(grid: Grid) -> Grid:
    """The same windows, each starting one pixel nearer to the one before."""
    rows, cols = (dataclasses.replace(axis, step=axis.step - 1) for axis in (grid.rows, grid.cols))
    return dataclasses.replace(grid, rows=rows, cols=cols)


def draw(found: np.ndarray, whole: np.ndarray, path: Path) -> None:
    """The map in grey, with what differs in red, made thick enough to be seen."""
    grey = np.repeat((whole * 40)[..., None], 3, axis=2)
    grey[found != whole] = (255, 0, 0)
    Image.fromarray(grey).save(path)
    print(f"\n{path}: {np.count_nonzero(found != whole)} pixels differ, in red")


if __name__ == "__main__":
    main()
