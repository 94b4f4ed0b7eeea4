"""Time vectorising against the usual way, in one run; prints rows for the table of `bench.py`.

    python benchmarks/vectors.py [--side 10980] [--map map.tif]

Two maps: one predicted from a mosaic of real chips (or `--map`), and a speckled one of about 11,000 polygons a Mpx. The
usual way is `rasterio.features.shapes`, a GeoDataFrame and `to_file`, measured on a part of the map, because it takes
long; its time a pixel is taken. Times are by the clock, of commands with their start-up, so nothing else should run.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import rasterio
import shapely.geometry
from measure import SAMPLE, Row, Taken, apart, outside, run
from rasterio.features import shapes, sieve
from rasterio.windows import Window

import landcover
from landcover.features import in_wkb
from landcover.outlines import trace
from landcover.synthetic import mosaic_scene

PART = 3000
"""Side of the part of a map that the usual way is timed on, and of the awkward maps."""

SIMPLER = ("--min-area", "0.5ha", "--simplify", "10")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--side", type=int, default=10_980)
    p.add_argument("--map", type=Path, help="a predicted map, in place of one that is made")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for row in rows(a.map or predict(folder, a.side), folder):
            print(row, flush=True)


def predict(folder: Path, side: int) -> Path:
    mosaic_scene(folder / "scene.tif", SAMPLE, side, side)
    return landcover.predict(folder / "scene.tif", folder / "map.tif")


def rows(predicted: Path, folder: Path) -> Iterator[Row]:
    yield from memory(predicted, folder)  # first, since Linux counts what this process holds for those it starts
    list(trace([(np.ones((4, 4), np.uint8), None)], 4))  # compiled before anything is timed
    maps = {"predicted": predicted, "speckled": speckled(folder / "speckled.tif", predicted)}
    for title, path in maps.items():
        yield from against_the_usual_way(title, path, folder)
    yield from awkward(predicted, folder)


def speckled(out: Path, like: Path) -> Path:
    """The map with single pixels of other classes strewn over it."""
    rng = np.random.default_rng(0)
    with rasterio.open(like) as file:
        ids, profile, tags = file.read(1), file.profile, file.tags()
    changed = (rng.random(ids.shape, np.float32) < 0.0125) & (ids > 0)
    ids[changed] = rng.integers(1, 5, int(changed.sum()), np.uint8)
    with rasterio.open(out, "w", **profile) as file:
        file.write(ids, 1)
        file.update_tags(**tags)
    return out


def against_the_usual_way(title: str, path: Path, folder: Path) -> Iterator[Row]:
    with rasterio.open(path) as file:
        ids, part = file.read(1), file.read(1, window=Window(0, 0, PART, PART))
        transform, crs = file.transform, file.crs
    share = ids.size / part.size
    tracing, table = spent(lambda: usual_table(part, transform, crs))
    seconds, count = spent(lambda: traced(ids, transform))
    what = f"vectorize, {title} map ({count / ids.size * 1e6:,.0f} polygons a Mpx)"
    yield ratio(
        f"{what}: tracing to geometries", 15, tracing * share / seconds, f"{ids.size / seconds / 1e6:.0f} Mpx/s"
    )
    for suffix, driver, target in ((".parquet", None, 10), (".fgb", "FlatGeobuf", 10), (".gpkg", "GPKG", 5)):
        mine = run("vectorize", path, "-o", folder / f"mine{suffix}", "-f")
        writing, _ = spent(lambda: write(table, folder / f"usual{suffix}", driver))  # noqa: B023
        yield ratio(f"… to {suffix}", target, (tracing + writing) * share / mine.wall, told(mine))
        merely = mine.wall / (writing * share)
        yield Row(f"… to {suffix}, against merely writing", "≤ 1.5 ×", f"{merely:.1f} ×", merely <= 1.5)
    if title == "predicted" and shutil.which("gdal_polygonize.py"):
        polygonize = cropped(path, folder / "part.tif")
        theirs = outside("gdal_polygonize.py", "-q", polygonize, folder / "gdal.gpkg")
        yield Row("… to .gpkg, against gdal_polygonize", "", f"{theirs.wall * share / mine.wall:.1f} ×", None)
    simpler, _ = spent(lambda: usual_simpler(part, transform, crs, folder / "simpler.gpkg"))
    mine = run("vectorize", path, "-o", folder / "mine.gpkg", "-f", *SIMPLER)
    yield ratio(f"… {' '.join(SIMPLER)}", 5, simpler * share / mine.wall, told(mine))


def usual_table(ids: np.ndarray, transform: rasterio.Affine, crs: rasterio.crs.CRS) -> geopandas.GeoDataFrame:
    found = list(shapes(ids, mask=ids > 0, transform=transform))
    polygons = [shapely.geometry.shape(g) for g, _ in found]
    return geopandas.GeoDataFrame({"class_id": [int(v) for _, v in found]}, geometry=polygons, crs=crs)


def usual_simpler(ids: np.ndarray, transform: rasterio.Affine, crs: rasterio.crs.CRS, out: Path) -> None:
    table = usual_table(sieve(ids, 50), transform, crs)
    table.set_geometry(table.geometry.simplify(10)).to_file(out)


def traced(ids: np.ndarray, transform: rasterio.Affine) -> int:
    strips = ((ids[i : i + 512], None) for i in range(0, len(ids), 512))
    found = (in_wkb(patches, transform)[0] for patches in trace(strips, ids.shape[1]))
    return sum(len(shapely.from_wkb(polygons.to_numpy(zero_copy_only=False))) for polygons in found)


def write(table: geopandas.GeoDataFrame, path: Path, driver: str | None) -> None:
    path.unlink(missing_ok=True)
    if driver is None:
        table.to_parquet(path)
    else:
        pyogrio.write_dataframe(table, path, driver=driver, use_arrow=True)


def memory(predicted: Path, folder: Path) -> Iterator[Row]:
    """Whatever the number of rows."""
    tall, part = folder / "tall.tif", folder / "part.tif"
    height, width = apart(repeat, predicted, tall)
    apart(cropped, predicted, part)
    for title, how in (("as traced", ()), (" ".join(SIMPLER), SIMPLER)):
        run("vectorize", part, "-o", folder / "m.gpkg", "-f", *how)  # compiles what is not yet, which takes memory too
        short, long = (run("vectorize", m, "-o", folder / "m.gpkg", "-f", *how) for m in (predicted, tall))
        more = long.peak / short.peak - 1
        yield Row(
            f"vectorize, {title}: peak memory, and of four times as many rows",
            "≤ 2 GB; < 10 %",
            f"{short.peak / 1e9:.2f} GB; {more:+.1%}",
            short.peak <= 2e9 and more < 0.1,
            f"{height:,} and {4 * height:,} rows of {width:,}; {told(short)}; {told(long)}",
        )


def repeat(path: Path, out: Path) -> tuple[int, int]:
    """Write a map four times, one below the other; returns the rows and columns of one."""
    with rasterio.open(path) as file:
        ids = file.read(1)
        with rasterio.open(out, "w", **{**file.profile, "height": 4 * len(ids)}) as tall:
            tall.update_tags(**file.tags())
            for row in range(0, 4 * len(ids), len(ids)):
                tall.write(ids, 1, window=Window(0, row, ids.shape[1], len(ids)))
    return ids.shape


def awkward(predicted: Path, folder: Path) -> Iterator[Row]:
    """Maps that are hard, against a part of the ordinary one of the same size."""
    ordinary = cropped(predicted, folder / "part.tif")
    plain = run("vectorize", ordinary, "-o", folder / "o.parquet", "-f")
    for title, ids in awkward_maps(PART).items():
        with rasterio.open(ordinary) as file:
            profile, tags = file.profile, file.tags()
        with rasterio.open(folder / "awkward.tif", "w", **profile) as out:
            out.write(ids, 1)
            out.update_tags(**tags)
        taken = run("vectorize", folder / "awkward.tif", "-o", folder / "o.parquet", "-f")
        times = taken.wall / plain.wall
        yield Row(f"vectorize, {title}, {PART:,}²", "≤ 2 ×", f"{times:.1f} ×", times <= 2, told(taken))


def awkward_maps(side: int) -> dict[str, np.ndarray]:
    holes, river = np.ones((2, side, side), np.uint8)
    holes[1:-1:2, 1:-1:2] = 2
    walk = np.cumsum(np.random.default_rng(0).integers(-1, 2, (40, side)), axis=1)
    for way, start in zip(walk, np.linspace(50, side - 50, 40).astype(int), strict=True):
        for wide in range(3):
            river[np.arange(side), np.clip(start + way + wide, 0, side - 1)] = 2
    river[20::150] = 2
    spiral = np.full((side, side), 2, np.uint8)
    for lo in range(0, side // 2 - 1, 2):
        hi = side - lo
        spiral[lo, max(lo - 2, 0) : hi] = spiral[lo:hi, hi - 1] = spiral[hi - 1, lo:hi] = spiral[lo + 2 : hi, lo] = 1
    board = (np.indices((side, side)).sum(0) % 2 + 1).astype(np.uint8)
    return {
        f"one class with {(side // 2 - 1) ** 2 / 1e6:.1f} million holes of a pixel": holes,
        "a checkerboard": board,
        "a spiral of a pixel's width": spiral,
        "a river network that touches every strip": river,
    }


def cropped(path: Path, out: Path) -> Path:
    with rasterio.open(path) as file:
        profile = {**file.profile, "height": PART, "width": PART}
        with rasterio.open(out, "w", **profile) as part:
            part.write(file.read(1, window=Window(0, 0, PART, PART)), 1)
            part.update_tags(**file.tags())
    return out


def spent(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and the result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def ratio(what: str, target: float, times: float, details: str) -> Row:
    return Row(what, f"≥ {target} × the usual way", f"{times:.1f} ×", times >= target, details)


def told(taken: Taken) -> str:
    return f"{taken.wall:.1f} s, {taken.cpu:.1f} CPU s, {taken.peak / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
