"""Made-up scenes of any size whose land cover is known, and real scenes repeated to any size, for tests and benchmarks.

Run it as `python -m landcover.synthetic OUT --height H --width W [--from SCENE] [--seed N]`.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landcover.errors import ConfigError, LandcoverError, OutputError, SceneError, nearest
from landcover.products import gdal_cache

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
FOREST, WATER, URBAN, OTHER = 1, 2, 3, 4
"""Class ids of the truth, as in the default legend; 0 is nodata."""

BLOCK = 512
"""Side of a block in pixels: of the files, and of the random numbers, which depend on the block's place alone."""

_SPECTRA = {  # mean reflectance of forest, water, urban, other
    "coastal": (0.020, 0.055, 0.110, 0.045),
    "blue": (0.025, 0.050, 0.120, 0.060),
    "green": (0.045, 0.045, 0.135, 0.090),
    "red": (0.030, 0.030, 0.150, 0.085),
    "rededge071": (0.080, 0.025, 0.170, 0.140),
    "rededge075": (0.210, 0.022, 0.190, 0.230),
    "rededge078": (0.260, 0.020, 0.205, 0.270),
    "nir": (0.280, 0.018, 0.220, 0.290),
    "nir08": (0.290, 0.016, 0.230, 0.300),
    "swir16": (0.130, 0.010, 0.245, 0.240),
    "swir22": (0.060, 0.008, 0.210, 0.150),
}
_NOISE = (0.08, 0.10, 0.20, 0.12)
"""Standard deviation of a pixel, as a part of its class's mean reflectance."""

_SCALES = {"uint8": 1 / 255, "uint16": 1e-4, "int16": 1e-4, "float32": 1.0}
_PATCHES = (320, 80, 20)
"""Pixels between the random values of the class field, from coarse to fine; each counts half of the one before."""

_TRANSFORM = Affine(10, 0, 300_000, 0, -10, 4_500_000)


def write_scene(
    path: str | Path,
    height: int,
    width: int,
    *,
    bands: tuple[str, ...] = BANDS,
    dtype: str = "uint16",
    seed: int = 0,
    nodata_fraction: float = 0.0,
) -> Path:
    """Write a made-up scene and, beside it, what it truly shows; a strip of rows at a time.

    A pixel depends on seed, row and column only, so a larger scene begins with the smaller one.

    Args:
        path: the scene, a GeoTIFF with band names and the scale to reflectance; nodata is 0.
        height, width: in pixels of 10 m.
        bands: common names.
        dtype: "uint8", "uint16", "int16" or "float32".
        seed: another number, another scene.
        nodata_fraction: part of the scene, up to 0.5, left empty along a slanting edge, as beside a swath.

    Returns:
        The path of the truth: class ids 1–4, 0 where the scene is empty, uint8 (height, width).

    Raises:
        ConfigError: a size, a fraction, a band or a data type that cannot be.
        OutputError: a file cannot be written.
    """
    path = Path(path)
    _check(height, width, bands, dtype, nodata_fraction)
    truth_path = path.with_name(f"{path.stem}_truth.tif")
    with (
        _create(path, height, width, len(bands), dtype, crs="EPSG:32618", transform=_TRANSFORM, nodata=0) as scene,
        _create(truth_path, height, width, 1, "uint8", crs="EPSG:32618", transform=_TRANSFORM, nodata=0) as truth,
    ):
        scene.descriptions, scene.scales = bands, (_SCALES[dtype],) * len(bands)
        truth.descriptions = ("class",)
        for row, rows in _strips(height):
            classes = class_field(row, rows, width, seed)
            pixels = _pixels(classes, row, bands, dtype, seed)
            empty = _beside_swath(row, rows, height, width, nodata_fraction)
            classes[empty], pixels[:, empty] = 0, 0
            window = Window(0, row, width, rows)
            scene.write(pixels, window=window)
            truth.write(classes, 1, window=window)
    return truth_path


def mosaic_scene(path: str | Path, source: str | Path, height: int, width: int) -> None:
    """Repeat a real scene to any size, mirrored at every seam, so that no edge appears; a strip of rows at a time.

    Names, scales, offsets, nodata, coordinate system and pixel size are those of the source.

    Raises:
        ConfigError: a size that cannot be.
        SceneError: the source cannot be read.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    _check_size(height, width)
    with ExitStack() as stack:
        with _reading(source):
            real = stack.enter_context(rasterio.open(source))
        place = {"crs": real.crs, "transform": real.transform, "nodata": real.nodata}
        mosaic = stack.enter_context(_create(path, height, width, real.count, real.dtypes[0], **place))
        mosaic.colorinterp = real.colorinterp
        mosaic.descriptions, mosaic.scales, mosaic.offsets = real.descriptions, real.scales, real.offsets
        cols = _mirrored(np.arange(width), real.width)
        for row, rows in _strips(height):
            wanted = _mirrored(np.arange(row, row + rows), real.height)
            first, last = int(wanted.min()), int(wanted.max())
            with _reading(source):
                pixels = real.read(window=Window(0, first, real.width, last - first + 1))
            mosaic.write(pixels[:, wanted - first][:, :, cols], window=Window(0, row, width, rows))


@contextmanager
def _reading(source: str | Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as e:
        raise SceneError(f"{source} cannot be read: {e}; give a scene that GDAL opens") from e


def class_field(row: int, rows: int, width: int, seed: int) -> np.ndarray:
    """Class ids of rows [row, row + rows), uint8 (rows, width): patches of forest, water and urban in other land.

    Each of the three is where a field of its own is high; urban lies over forest, and water over both.
    """
    forest, urban, water = (_value_noise(row, rows, width, 3 * seed + i) for i in range(3))
    classes = np.full((rows, width), OTHER, np.uint8)
    classes[forest > 0.52] = FOREST
    classes[urban > 0.62] = URBAN
    classes[water > 0.60] = WATER
    return classes


def _value_noise(row: int, rows: int, width: int, seed: int) -> np.ndarray:
    """Smooth noise in 0–1, float32 (rows, width): random values on lattices of several spacings, interpolated."""
    total = np.zeros((rows, width), np.float32)
    for level, spacing in enumerate(_PATCHES):
        i, y = _lattice(np.arange(row, row + rows), spacing)
        j, x = _lattice(np.arange(width), spacing)
        nodes = _hashed(np.arange(i[0], i[-1] + 2), np.arange(j[-1] + 2), seed * len(_PATCHES) + level)
        i -= i[0]
        along = nodes[i] + (nodes[i + 1] - nodes[i]) * y[:, None]
        left, step = along[:, :-1], np.diff(along, axis=1)
        total += (left[:, j] + step[:, j] * x) * np.float32(0.5 ** (level + 1))
    return total / np.float32(1 - 0.5 ** len(_PATCHES))


def _lattice(position: np.ndarray, spacing: int) -> tuple[np.ndarray, np.ndarray]:
    """The lattice node before each position, and how far on it is towards the next, eased, in 0–1."""
    node, rest = np.divmod(position, spacing)
    t = (rest / spacing).astype(np.float32)
    return node, t * t * (3 - 2 * t)


def _hashed(i: np.ndarray, j: np.ndarray, seed: int) -> np.ndarray:
    """A random value in 0–1 for each lattice node, from its place alone, float32 (len(i), len(j)).

    References:
        Steele, Lea and Flood, 2014. Fast splittable pseudorandom number generators (the mixing of SplitMix64).
    """
    x = (i.astype(np.uint64)[:, None] << np.uint64(32)) ^ j.astype(np.uint64)
    x += np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def _pixels(classes: np.ndarray, row: int, bands: tuple[str, ...], dtype: str, seed: int) -> np.ndarray:
    """Digital numbers of a strip: the mean of its class plus noise, never 0; (bands, rows, width)."""
    rows, width = classes.shape
    pixels = np.empty((len(bands), rows, width), dtype)
    scale, limit = _SCALES[dtype], np.iinfo(dtype).max if dtype != "float32" else np.inf
    for col in range(0, width, BLOCK):
        shown = classes[:, col : col + BLOCK]
        noises = np.random.default_rng((seed, row // BLOCK, col // BLOCK))
        spread = np.array((0, *_NOISE), np.float32)[shown]
        for pixel, band in zip(pixels[:, :, col : col + BLOCK], bands, strict=True):
            noise = noises.standard_normal((BLOCK, BLOCK), np.float32)[: shown.shape[0], : shown.shape[1]]
            reflectance = np.array((0, *_SPECTRA[band]), np.float32)[shown] * (1 + spread * noise)
            numbers = np.clip(reflectance / np.float32(scale), 1e-4 if dtype == "float32" else 1, limit)
            pixel[:] = numbers if dtype == "float32" else np.rint(numbers)
    return pixels


def _beside_swath(row: int, rows: int, height: int, width: int, fraction: float) -> np.ndarray:
    """Pixels left of a slanting edge that cuts off a fraction of the scene; bool (rows, width), True = empty."""
    edge = 2 * fraction * width * (1 - (np.arange(row, row + rows) + 0.5) / height)
    return np.arange(width) + 0.5 < edge[:, None]


def _mirrored(position: np.ndarray, size: int) -> np.ndarray:
    rest = position % (2 * size)
    return np.where(rest < size, rest, 2 * size - 1 - rest)


def _strips(height: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each strip, one block high."""
    for row in range(0, height, BLOCK):
        yield row, min(BLOCK, height - row)


@contextmanager
def _create(path: Path, height: int, width: int, count: int, dtype: str, **place: Any) -> Iterator[Any]:
    """A tiled, compressed GeoTIFF that appears under its name when it is complete."""
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist; make it first")
    part = path.with_name(f".{path.name}.part.tif")
    layout = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "band", "bigtiff": "if_safer"}
    packing = {"compress": "deflate", "zlevel": 1, "predictor": 3 if dtype.startswith("float") else 2}
    shape = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": dtype}
    try:
        with (
            gdal_cache(128_000_000),
            rasterio.open(
                part, "w", **shape, **layout, **packing, **place, photometric="minisblack", num_threads=2
            ) as f,
        ):
            yield f
        part.replace(path)
    except OSError as e:
        raise OutputError(f"{path} cannot be written: {e.strerror or e}") from e
    finally:
        part.unlink(missing_ok=True)


def _check(height: int, width: int, bands: tuple[str, ...], dtype: str, nodata_fraction: float) -> None:
    _check_size(height, width)
    for band in bands:
        if band not in _SPECTRA:
            raise ConfigError(f"no spectrum is known for the band '{band}': {nearest(band, tuple(_SPECTRA))}")
    if dtype not in _SCALES:
        raise ConfigError(f"a scene of data type '{dtype}' cannot be made up: {nearest(dtype, tuple(_SCALES))}")
    if not bands:
        raise ConfigError("a scene needs at least one band")
    if not 0 <= nodata_fraction <= 0.5:
        raise ConfigError(f"a nodata fraction of {nodata_fraction} cannot be made; give one from 0 to 0.5")


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ConfigError(f"a scene of {height} rows and {width} columns cannot be made; give at least one of each")


def main(arguments: list[str] | None = None) -> None:
    """Write a scene as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m landcover.synthetic", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the scene to write; the truth goes beside it, as …_truth.tif")
    parser.add_argument("--height", type=int, required=True, help="rows")
    parser.add_argument("--width", type=int, required=True, help="columns")
    parser.add_argument("--from", dest="source", help="repeat this scene instead of making one up")
    parser.add_argument("--seed", type=int, default=0, help="another number, another scene")
    parser.add_argument("--nodata-fraction", type=float, default=0.0, help="part of the scene left empty, 0–0.5")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.source:
            mosaic_scene(chosen.out, chosen.source, chosen.height, chosen.width)
        else:
            write_scene(
                chosen.out, chosen.height, chosen.width, seed=chosen.seed, nodata_fraction=chosen.nodata_fraction
            )
    except LandcoverError as e:
        parser.exit(3, f"Error: {e}\n")


if __name__ == "__main__":
    main()
