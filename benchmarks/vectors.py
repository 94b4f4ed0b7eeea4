"""Time vectorising against the usual way, in one run, and print a table.

    python benchmarks/vectors.py [--side 10980] [--map map.tif]

Two maps: one predicted from a mosaic of real chips (or `--map`), and a speckled one of about 13,000 polygons a Mpx. The
usual way is `rasterio.features.shapes`, a GeoDataFrame and `to_file`, timed on a part of the map, because it takes
long; its time a pixel is taken. What merely writing the polygons takes is timed with pyogrio on the same table.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import rasterio
import shapely.geometry
from bench import SAMPLE
from measure import run
from rasterio.features import shapes
from rasterio.windows import Window

import landcover
from landcover.features import polygons_of
from landcover.outlines import trace
from landcover.synthetic import mosaic_scene

PART = 2000
"""Side of the part of a map that the usual way is timed on."""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--side", type=int, default=10_980)
    p.add_argument("--map", type=Path, help="a predicted map, in place of one that is made")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predicted = a.map or predict(folder, a.side)
        maps = {"predicted": predicted, "speckled": speckled(folder / "speckled.tif", predicted)}
        list(trace([np.ones((4, 4), np.uint8)], 4))  # compiled before anything is timed
        print("| map | what | landcover | the usual way | ratio |\n|---|---|---:|---:|---:|")
        for title, path in maps.items():
            measure(title, path, folder)


def predict(folder: Path, side: int) -> Path:
    mosaic_scene(folder / "scene.tif", SAMPLE, side, side)
    return landcover.predict(folder / "scene.tif", folder / "map.tif")


def speckled(out: Path, like: Path) -> Path:
    """The map with single pixels of other classes strewn over it: about 13,000 polygons a Mpx."""
    rng = np.random.default_rng(0)
    with rasterio.open(like) as file:
        ids, profile, tags = file.read(1), file.profile, file.tags()
    changed = (rng.random(ids.shape, np.float32) < 0.0125) & (ids > 0)
    ids[changed] = rng.integers(1, 5, int(changed.sum()), np.uint8)
    with rasterio.open(out, "w", **profile) as file:
        file.write(ids, 1)
        file.update_tags(**tags)
    return out


def measure(title: str, path: Path, folder: Path) -> None:
    with rasterio.open(path) as file:
        ids, part = file.read(1), file.read(1, window=Window(0, 0, PART, PART))
        transform, crs = file.transform, file.crs
    usual = usual_table(part, transform, crs)
    seconds, count = timed(lambda: traced(ids, transform))
    row(
        title,
        f"tracing to geometries, {count / ids.size * 1e6:,.0f} polygons a Mpx",
        seconds,
        ids.size,
        usual.seconds,
        part.size,
    )
    for suffix, driver in ((".parquet", None), (".fgb", "FlatGeobuf"), (".gpkg", "GPKG")):
        mine = run("vectorize", path, "-o", folder / f"mine{suffix}", "-f")
        written, _ = timed(lambda: write(usual.table, folder / f"usual{suffix}", driver))  # noqa: B023
        what = f"to {suffix}, {mine.peak / 1e9:.2f} GB"
        row(title, what, mine.wall, ids.size, usual.seconds + written, part.size)
        share = mine.wall / ids.size / (written / part.size)
        print(f"| {title} | the same against merely writing with pyogrio | {share:.2f} × | | |")


class Usual:
    """The usual way, on a part of a map: its table, and the seconds it took."""

    def __init__(self, table: geopandas.GeoDataFrame, seconds: float) -> None:
        self.table, self.seconds = table, seconds


def usual_table(ids: np.ndarray, transform: rasterio.Affine, crs: rasterio.crs.CRS) -> Usual:
    began = time.perf_counter()
    found = list(shapes(ids, mask=ids > 0, transform=transform))
    table = geopandas.GeoDataFrame(
        {"class_id": [int(v) for _, v in found]}, geometry=[shapely.geometry.shape(g) for g, _ in found], crs=crs
    )
    return Usual(table, time.perf_counter() - began)


def traced(ids: np.ndarray, transform: rasterio.Affine) -> int:
    strips = (ids[i : i + 512] for i in range(0, len(ids), 512))
    return sum(len(polygons_of(patches, transform)) for patches in trace(strips, ids.shape[1]))


def write(table: geopandas.GeoDataFrame, path: Path, driver: str | None) -> None:
    path.unlink(missing_ok=True)
    if driver is None:
        table.to_parquet(path)
    else:
        pyogrio.write_dataframe(table, path, driver=driver, use_arrow=True)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def row(title: str, what: str, seconds: float, pixels: int, usual: float, part: int) -> None:
    mine, theirs = pixels / seconds / 1e6, part / usual / 1e6
    print(
        f"| {title} | {what} | {mine:.1f} Mpx/s ({seconds:.1f} s) | {theirs:.2f} Mpx/s | {mine / theirs:.1f} × |",
        flush=True,
    )


if __name__ == "__main__":
    main()
