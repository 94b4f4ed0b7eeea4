"""Time and peak memory of whole commands, on scenes repeated from a sample to full size.

    python benchmarks/bench.py [--side 10980]

Each row is one process, from the shell to the file on disk. The first row of a precision is the floor: what the network
alone takes for as many pixels as the map has, on chips in memory and without overlap, measured in the same run.
"""

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from landcover.synthetic import mosaic_scene

SAMPLE = Path(__file__).parent.parent / "sample_tiles" / "s2_eastern_shore.tif"
COMMAND = [sys.executable, "-m", "landcover"]
SIDE = 1024


class Run(NamedTuple):
    """What a process took: seconds of the clock, seconds of all processors, and bytes at its peak."""

    wall: float
    cpu: float
    peak: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10980, help="rows and columns of the large scene")
    args = parser.parse_args()
    pixels = args.side**2
    print("| what | s | CPU s | Mpx/s | peak MB |\n|---|---:|---:|---:|---:|")
    apart = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))  # so that this process stays small
    with apart, tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        scene, out, one = place / "scene.tif", place / "map.tif", place / "pointwise"
        mosaic_scene(scene, SAMPLE, args.side, args.side)
        run("models", "init", "--architecture", "pointwise", "--bands", "red,nir", "--classes", "a,b,c,d", "--out", one)
        os.environ["LANDCOVER_CACHE"] = str(place / "cache")
        large = f"{args.side}² × 6"
        for precision in ("f32", "bf16"):
            speed = apart.submit(network_alone, precision).result()
            alone = f"the network alone, {precision}, no overlap"
            print(f"| {alone} | {pixels / speed:.1f} | | {speed / 1e6:.2f} | |", flush=True)
            predict = ("predict", scene, "-o", out, "-f", "--precision", precision)
            if precision == "f32":
                row(f"predict, {precision}, {large}, first run, which converts the network", pixels, *predict)
            row(f"predict, {precision}, {large}", pixels, *predict)
        pointwise = ("predict", scene, "-o", place / "one.tif", "-m", one, "--allow-untrained", "-f")
        run(*pointwise)
        row(f"predict, network of one pixel, 2 bands of {large}", pixels, *pointwise)
        row("predict, sample of 640², first run", 640**2, "predict", SAMPLE, "-o", place / "small.tif", "-f")
        row("predict, sample of 640²", 640**2, "predict", SAMPLE, "-o", place / "small.tif", "-f")
        simple = ("--min-area", "0.5ha", "--simplify", "10")
        row("vectorize, unsimplified, to GeoPackage", pixels, "vectorize", out, "-o", place / "a.gpkg")
        row(f"vectorize {' '.join(simple)}", pixels, "vectorize", out, "-o", place / "b.gpkg", *simple)
        row("stats", pixels, "stats", out)
        row("--help", 0, "--help")


def network_alone(precision: str) -> float:
    """Pixels a second that the engine scores, on a resident chip of the sample."""
    import numpy as np
    import rasterio

    from landcover.engines import choose_engine, open_engine
    from landcover.models import load_model
    from landcover.scaling import make_scaling

    model = load_model()
    stats, bands = model.spec.stats, len(model.spec.bands)
    scaling = make_scaling([1e-4] * bands, [0] * bands, [s.mean for s in stats], [s.stddev for s in stats])
    with rasterio.open(SAMPLE) as file:
        chip = np.ascontiguousarray(np.tile(file.read(), (1, 2, 2))[None, :, :SIDE, :SIDE])
    valid = np.ones((1, 1, SIDE, SIDE), bool)
    engine = open_engine(choose_engine("cpu", precision=precision), model, scaling, chip.shape, "uint16")
    engine.scores(chip, valid)
    times = []
    for _ in range(12):
        began = time.perf_counter()
        engine.scores(chip, valid)
        times.append(time.perf_counter() - began)
    return SIDE**2 / float(np.median(times))


def run(*args: str | Path) -> Run:
    """Run a landcover command, and measure it."""
    began = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"landcover {' '.join(map(str, args))} ended with {process.returncode}")
    return Run(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, peak_bytes(usage))


def peak_bytes(usage: resource.struct_rusage) -> int:
    """Peak resident memory; Linux counts it in kB, macOS in bytes."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def row(what: str, pixels: int, *args: str | Path) -> None:
    """Run a command, and print what it took."""
    taken = run(*args)
    rate = f"{pixels / taken.wall / 1e6:.2f}" if pixels else ""
    print(f"| {what} | {taken.wall:.1f} | {taken.cpu:.1f} | {rate} | {taken.peak / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
