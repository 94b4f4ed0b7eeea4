"""How far a map made of windows is from one made of the whole scene at once, by tile size, overlap and alignment.

    python benchmarks/seams.py SCENE --sensor sentinel2-l1c [--picture seams.png] [--plot cost.png]

Prints a Markdown table: labels that differ in the whole map and near the windows' borders, and the work: pixels that
the network sees for each pixel mapped. "Off by one" rows start each window a pixel before a multiple of the stride.
The plot shows the labels that differ against the work, for aligned windows.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from measure import drain
from PIL import Image

from landcover.grid import Axis, Grid
from landcover.planning import Options, Plan, make_plan
from landcover.prediction import map_scene

SETTINGS = (
    *((512, overlap) for overlap in (0, 32, 64, 128)),
    *((1024, overlap) for overlap in (32, 64, 96, 128)),
    *((1664, overlap) for overlap in (32, 64, 96, 128)),
)
NEAR = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene")
    parser.add_argument("--sensor")
    parser.add_argument("--model", default="landcover-6band")
    parser.add_argument("--plot", type=Path, help="labels that differ against work")
    parser.add_argument("--picture", type=Path, help="where the map differs at the default settings")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = Options(
            args.scene, Path(folder) / "map.tif", args.model, sensor=args.sensor, device="cpu", overwrite=True
        )
        whole = run(make_plan(dataclasses.replace(options, tile_size=1 << 14, overlap=0)))
        print("| tile | overlap | starts | labels that differ | within 16 px of a window's border | work |")
        print("|---:|---:|---|---:|---:|---:|")
        points = []
        for tile, overlap in SETTINGS:
            plan = make_plan(dataclasses.replace(options, tile_size=tile, overlap=overlap))
            points.append((tile, overlap, plan.work, report(plan, whole, "aligned")))
            if overlap:
                report(dataclasses.replace(plan, grid=off_by_one(plan.grid)), whole, "off by one")
        if args.plot:
            plot(points, args.plot)
        if args.picture:
            draw(run(make_plan(options)), whole, args.picture)


def run(plan: Plan) -> np.ndarray:
    """The map of a plan, uint8 (height, width)."""
    drain(map_scene(plan))
    with rasterio.open(plan.options.out) as file:
        return file.read(1)


def report(plan: Plan, whole: np.ndarray, starts: str) -> float:
    """Print one row of the table; returns the share of labels that differ."""
    differ = run(plan) != whole
    near = np.logical_or.outer(near_borders(plan.grid.rows), near_borders(plan.grid.cols))
    axis = plan.grid.rows
    print(
        f"| {axis.tile} | {axis.tile - axis.step} | {starts} | {differ.mean():.3%} | {differ[near].mean():.3%} "
        f"| {plan.work:.2f} |",
        flush=True,
    )
    return float(differ.mean())


def plot(points: list[tuple[int, int, float, float]], path: Path) -> None:
    """Draw labels that differ against work: a line for each size of window, a point for each overlap."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for tile in sorted({p[0] for p in points}):
        overlaps, work, differ = zip(*[p[1:] for p in points if p[0] == tile], strict=True)
        axes.plot(work, np.array(differ) * 100, "o-", label=f"windows of at most {tile}")
        for overlap, x, y in zip(overlaps, work, differ, strict=True):
            axes.annotate(str(overlap), (x, y * 100), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axes.axhline(0.1, color="grey", lw=0.8, ls=":")
    axes.axvline(1.15, color="grey", lw=0.8, ls=":")
    axes.set(yscale="log", xlabel="pixels the network sees for each one mapped", ylabel="labels that differ, %")
    axes.legend(title="labels on points: overlap")
    figure.savefig(path, dpi=110)


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
