"""Class maps on disk: opened with their legend, checked, and read in strips."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from pydantic import ValidationError
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from landcover.errors import LandcoverError, MapError, check_name, counted, listed
from landcover.products import gdal_cache
from landcover.provenance import legend_tag
from landcover.specs import Legend, load_legend

MAP_NODATA = 0
CONFIDENCE_NODATA = 255
SCORE_NODATA = 65535
SCORE_SCALE = 1e-4
"""Scores are stored as whole ten-thousandths: score = value * SCORE_SCALE."""

STRIP_PIXELS = 4_000_000
"""Pixels of a map read at a time, in whole rows of blocks."""

_MANY_CLASSES = 40
"""From here on, counting all values at once is faster than one by one."""


@contextmanager
def open_map(path: str | Path, legend: Legend | str | None = None) -> Iterator[tuple[rasterio.DatasetReader, Legend]]:
    """Open a class map and its legend; what goes wrong while reading it is told as a sentence.

    Raises:
        MapError: it is missing, broken, or not a raster of class ids, or it carries no legend and none is given.
        ConfigError: the legend given is not known.
    """
    if isinstance(legend, str):
        legend = load_legend(legend)
    with open_raster(path) as dataset:
        if legend is None:
            legend = read_legend(dataset)
        elif dataset.count != 1 or dataset.dtypes[0] != "uint8":
            read_legend(dataset)  # says so
        with gdal_cache(_cache_bytes(dataset)):
            yield dataset, legend


def _cache_bytes(dataset: rasterio.DatasetReader) -> int:
    """Bound of GDAL's cache while a map is read from top to bottom: a row of its blocks, and what is read beside it.

    By default GDAL would keep a twentieth of the machine's memory.
    """
    return max(3 * dataset.block_shapes[0][0] * dataset.width, 16 << 20)


@contextmanager
def open_raster(path: str | Path, error: type[LandcoverError] = MapError) -> Iterator[rasterio.DatasetReader]:
    """Open a raster, with or without a place on the earth; raise `error` if it cannot be opened or read to the end."""
    check_name(path, error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.Env(GDAL_NUM_THREADS="1"):  # with more, GDAL gives no error where a server sends nothing
                dataset = rasterio.open(path)
            with dataset:
                yield dataset
    except RasterioError as e:
        raise error(_unreadable(path, e)) from e


def _unreadable(path: str | Path, e: RasterioError) -> str:
    cause = str(e.__cause__ or e)
    return f"{path} cannot be read as a raster: {cause.removeprefix(f'{path}: ')}"


def strips(dataset: rasterio.DatasetReader) -> Iterator[tuple[int, np.ndarray]]:
    """Read class ids in whole rows of blocks: the first row, and uint8 (rows, width) with 0 where there is no class.

    Raises:
        MapError: the file is damaged.
    """
    block = dataset.block_shapes[0][0]
    rows = max(1, STRIP_PIXELS // (dataset.width * block)) * block
    masked = MaskFlags.per_dataset in dataset.mask_flag_enums[0]
    marked = dataset.nodata == MAP_NODATA and not masked  # then no mask is needed to see where there is no class
    for start in range(0, dataset.height, rows):
        window = Window(0, start, dataset.width, min(rows, dataset.height - start))
        try:
            ids = dataset.read(1, window=window, masked=not marked)
        except RasterioError as e:  # here, for whoever takes them may be writing something
            raise MapError(_unreadable(dataset.name, e)) from e
        yield start, ids if marked else filled(ids, dataset.nodata)


def filled(ids: np.ma.MaskedArray, nodata: float | None) -> np.ndarray:
    """Class ids, uint8, 0 where they are masked or nodata, for GDAL does not look at nodata beside a mask."""
    found = ids.filled(MAP_NODATA)
    if nodata is not None:
        found[found == nodata] = MAP_NODATA
    return found


def narrow_strips(dataset: rasterio.DatasetReader) -> Iterator[tuple[int, np.ndarray]]:
    """The same in strips of at most STRIP_PIXELS, or of one row, for whoever holds more than a byte a pixel."""
    return restripped(strips(dataset), max(1, STRIP_PIXELS // dataset.width))


def check_areas(square: np.ndarray, legend: Legend, name: str) -> None:
    """Refuse a map that has classes where the earth is not.

    Args:
        square: area of each class of the legend; nan where a pixel of it is no place on the earth.
        legend: the classes.
        name: of the map.

    Raises:
        MapError: an area is not a number.
    """
    if lost := [n for n, area in zip(legend.names, square, strict=True) if not np.isfinite(area)]:
        raise MapError(f"{name} has pixels of '{lost[0]}' that lie off the earth, so its area is unknown; cut them off")


def restripped(blocks: Iterable[tuple[int, np.ndarray]], rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """The same rows in strips of `rows`, the last of what is left."""
    waiting: list[np.ndarray] = []
    start = height = 0
    for _, ids in blocks:
        waiting.append(ids)
        height += len(ids)
        if height >= rows:
            joined = np.concatenate(waiting)
            for first in range(0, height - rows + 1, rows):
                yield start + first, joined[first : first + rows]
            done = height // rows * rows
            waiting, start, height = [joined[done:]], start + done, height - done
    if height:
        yield start, np.concatenate(waiting)


def count_values(ids: np.ndarray, legend: Legend) -> np.ndarray:
    """How many pixels of each of the 256 values there are, int64 (256,), of ids uint8 (rows, cols).

    The legend's values are looked for one by one, which takes a tenth of the time of `bincount`, and no memory.
    """
    counts = np.zeros(256, np.int64)
    if len(legend.ids) < _MANY_CLASSES:
        known = [MAP_NODATA, *legend.ids]
        counts[known] = [np.count_nonzero(ids == value) for value in known]
    return counts if counts.sum() == ids.size else np.bincount(ids.ravel(), minlength=256)


def check_values(pixels: np.ndarray, legend: Legend, name: str, *, exact: bool = True) -> None:
    """Refuse values that the legend does not know.

    Args:
        pixels: of each of the 256 values, how many there are.
        legend: the classes.
        name: of the map.
        exact: whether the numbers are those of the map, and are told.

    Raises:
        MapError: there are such values.
    """
    unknown = [v for v in np.flatnonzero(pixels) if v != MAP_NODATA and v not in legend.ids]
    if unknown:
        found = listed([f"{v} ({pixels[v]} px)" if exact else str(v) for v in unknown])
        raise MapError(
            f"{name} holds values that the legend '{legend.name}' does not know: {found}; give its own with --legend"
        )


def read_legend(dataset: rasterio.DatasetReader) -> Legend:
    """The legend that a class map carries.

    Raises:
        MapError: it is not a raster of class ids, or it carries no legend.
    """
    if dataset.count != 1 or dataset.dtypes[0] != "uint8":
        told = f"{counted(dataset.count, 'band')} of {dataset.dtypes[0]}, not one of uint8"
        raise MapError(
            f"{dataset.name} is not a class map: it has {told}; if a band of it holds class ids, write that as uint8 "
            f"(gdal_translate -b 1 -ot Byte -a_nodata 0 {dataset.name} map.tif)"
        )
    text = legend_tag(dataset.tags())
    if text is None:
        raise MapError(f"{dataset.name} carries no legend; give one with --legend, for example --legend default")
    try:
        return Legend.model_validate_json(text)
    except ValidationError as e:
        raise MapError(f"{dataset.name} carries a legend that cannot be read; give one with --legend") from e
