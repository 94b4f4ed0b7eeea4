"""Random points of a class map, drawn class by class, for somebody to say what is really there."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import rasterio
import shapely
from pyproj import CRS

from landcover import __version__
from landcover.classmap import check_values, open_map, strips
from landcover.errors import ConfigError, MapError
from landcover.features import BOUNDS, bounds_column, geometry_field
from landcover.ground import Ground, coordinates
from landcover.provenance import inherited, tags
from landcover.specs import Legend
from landcover.vectorfiles import check_layer, write_layer

STRATUM, STRATUM_HECTARES, REFERENCE = "stratum", "stratum_ha", "reference"
"""Columns: the class that a point was drawn from, the area that this had on the map, and what is really there."""

_SPARE = 4
"""How many times as many places are drawn as points are wanted, for two may fall into one pixel."""


@dataclass(frozen=True)
class Stratum:
    """What was drawn of a class.

    Attributes:
        class_name: of the map.
        hectares: its area on the map.
        points: drawn in it.
    """

    class_name: str
    hectares: float
    points: int


def sample(
    map_path: str | Path,
    out: str | Path,
    *,
    count: int = 500,
    at_least: int = 50,
    seed: int = 0,
    legend: Legend | str | None = None,
    overwrite: bool = False,
) -> tuple[Stratum, ...]:
    """Draw pixels of a map at random, so many in each class, and write their centres as points to label.

    Every class gets `at_least` points, and what is left is shared among the others by their area. Within a class every
    piece of land is equally likely, on the ellipsoid. The column `reference` is empty: fill it in with names of
    classes, then `assess` tells how good the map is.

    Args:
        map_path: a class map with a CRS.
        out: the vector file to write; its suffix gives the format.
        count: points altogether.
        at_least: points in each class.
        seed: the same one draws the same points.
        legend: a legend, its name or its file, for maps that carry none.
        overwrite: replace the file if it exists.

    Raises:
        MapError: the map cannot be read as one, has no CRS, or holds no class.
        ConfigError: the points do not suffice, or the suffix is no format.
        OutputError: the file cannot be written.

    References:
        Olofsson et al. (2014), Good practices for estimating area and assessing accuracy of land change, Remote
        Sensing of Environment 148: how to share points among classes.
    """
    out = Path(out)
    check_layer(out, overwrite=overwrite)
    with open_map(map_path, legend) as (dataset, known):
        if dataset.crs is None:
            raise MapError(f"{dataset.name} has no CRS, so its points have no place; assign one with gdal_edit -a_srs")
        ground = Ground.of(dataset)
        areas = _areas(dataset, ground, known)
        present = [k for k, name in enumerate(known.names) if areas[:, k].any()]
        if not present:
            raise MapError(f"{map_path} is all nodata: there is nothing to draw from")
        wanted = allocate(areas[:, present].sum(axis=0), count, at_least)
        rng = np.random.default_rng(seed)
        places = {k: rng.random(_SPARE * n) * areas[:, k].sum() for k, n in zip(present, wanted.tolist(), strict=True)}
        found = _pixels(dataset, ground, known, areas, places)
        drawn = {k: _first_distinct(found[k], n) for k, n in zip(present, wanted.tolist(), strict=True)}
        hectares = {k: float(areas[:, k].sum() / 1e4) for k in present}
        table = _table(dataset, known, drawn, hectares, rng)
        facts = tags(sample={"version": __version__, "map": Path(dataset.name).name, "seed": seed}) | inherited(
            dataset.tags()
        )
    write_layer(iter([table]), out, known, facts, "Point")
    return tuple(Stratum(known.names[k], hectares[k], len(drawn[k])) for k in present)


def allocate(areas: np.ndarray, count: int, at_least: int) -> np.ndarray:
    """How many of `count` points each class gets, by its area, but `at_least` so many; integers (classes,).

    Raises:
        ConfigError: there are too few.
    """
    classes = len(areas)
    if at_least < 2:
        raise ConfigError(f"--at-least {at_least} is too few: an error can be told from 2 points of a class on")
    if count < classes * at_least:
        raise ConfigError(
            f"--count {count} is too few for {classes} classes of at least {at_least} points: give "
            f"{classes * at_least} or more, or lower --at-least"
        )
    fixed = np.zeros(classes, bool)
    while True:
        left = count - at_least * np.count_nonzero(fixed)
        share = np.where(fixed, at_least, left * areas / (areas[~fixed].sum() or 1.0))
        rare = ~fixed & (share < at_least)
        if not rare.any():
            break
        fixed |= rare
    points = np.floor(share).astype(int)
    points[np.argsort(points - share, kind="stable")[: count - points.sum()]] += 1
    return points


def _areas(dataset: rasterio.DatasetReader, ground: Ground, legend: Legend) -> np.ndarray:
    """Area in m² of each class in each strip of the map, (strips, classes)."""
    pixels, square = np.zeros(256, np.int64), []
    for start, block in strips(dataset):
        flat = block.ravel()
        pixels += np.bincount(flat, minlength=256)
        square.append(np.bincount(flat, ground.pixel_areas(start, start + len(block)).ravel(), minlength=256))
    check_values(pixels, legend, dataset.name)
    return np.array(square)[:, list(legend.ids)]


def _pixels(
    dataset: rasterio.DatasetReader,
    ground: Ground,
    legend: Legend,
    areas: np.ndarray,
    places: dict[int, np.ndarray],
) -> dict[int, np.ndarray]:
    """The pixels that places fall into, counted along the rows of the map, by class.

    Args:
        areas: of each class in each strip.
        places: by class, in m², counted along its pixels.
    """
    found = {k: np.zeros(len(at), np.int64) for k, at in places.items()}
    before = np.zeros(areas.shape[1])
    for (start, block), square in zip(strips(dataset), areas, strict=True):
        for k, at in places.items():
            here = (at >= before[k]) & (at < before[k] + square[k])
            if here.any():
                mine = np.flatnonzero(block == legend.ids[k])
                ends = np.cumsum(ground.pixel_areas(start, start + len(block)).ravel()[mine])
                which = np.searchsorted(ends, at[here] - before[k], side="right")
                found[k][here] = mine[np.minimum(which, len(mine) - 1)] + start * dataset.width
        before += square
    return found


def _first_distinct(pixels: np.ndarray, count: int) -> np.ndarray:
    """The first so many different pixels, in the order they were drawn in; fewer where there are not so many."""
    _, first = np.unique(pixels, return_index=True)
    return pixels[np.sort(first)[:count]]


def _table(
    dataset: rasterio.DatasetReader,
    legend: Legend,
    drawn: dict[int, np.ndarray],
    hectares: dict[int, float],
    rng: np.random.Generator,
) -> pyarrow.Table:
    """One row for each point, in an order that does not give away the class."""
    strata = np.repeat(list(drawn), [len(pixels) for pixels in drawn.values()])
    pixels = np.concatenate(list(drawn.values()))
    order = rng.permutation(len(pixels))
    strata, (row, col) = strata[order], np.divmod(pixels[order], dataset.width)
    x, y = coordinates(dataset.transform, col + 0.5, row + 0.5)
    columns = {
        "point": pyarrow.array(range(1, len(row) + 1), pyarrow.int32()),
        STRATUM: pyarrow.array([legend.names[k] for k in strata]),
        STRATUM_HECTARES: pyarrow.array([hectares[k] for k in strata]),
        REFERENCE: pyarrow.nulls(len(row), pyarrow.string()),
        "geometry": pyarrow.array(shapely.to_wkb(shapely.points(x, y)), pyarrow.large_binary()),
        BOUNDS: bounds_column(np.array([x, y, x, y])),
    }
    crs = CRS.from_wkt(dataset.crs.to_wkt())
    fields = [geometry_field(crs) if n == "geometry" else pyarrow.field(n, c.type) for n, c in columns.items()]
    return pyarrow.Table.from_arrays(list(columns.values()), schema=pyarrow.schema(fields))
