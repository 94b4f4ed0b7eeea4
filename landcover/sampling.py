"""Random points of a class map, drawn class by class, for somebody to say what is really there."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import rasterio
import shapely
from pyproj import CRS

from landcover import __version__
from landcover.classmap import check_areas, check_values, narrow_strips, open_map
from landcover.errors import ConfigError, MapError
from landcover.features import BOUNDS, bounds_column, geometry_field
from landcover.ground import Ground, coordinates
from landcover.provenance import inherited, tags, without_secrets
from landcover.specs import Legend
from landcover.vectorfiles import check_layer, write_layer

STRATUM, STRATUM_HECTARES, REFERENCE = "stratum", "stratum_ha", "reference"
"""Columns: the class that a point was drawn from, the area that this had on the map, and what is really there."""

MOST = 1_000_000
"""Points; nobody labels more."""

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
    piece of land is equally likely, on the ellipsoid; or every pixel, where it has fewer than two for each point. The
    column `reference` is empty: fill it in with names of classes, then `assess` tells how good the map is.

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
        ConfigError: the points do not suffice, the seed is below 0, or the suffix is no format.
        OutputError: the file cannot be written.

    References:
        Olofsson et al. (2014), Good practices for estimating area and assessing accuracy of land change, Remote
        Sensing of Environment 148: how to share points among classes.
    """
    out = Path(out)
    check_layer(out, overwrite=overwrite)
    if not 2 <= at_least <= count <= MOST:
        raise ConfigError(
            f"{count} points with at least {at_least} in a class cannot be drawn: give --at-least 2 or more, so that "
            f"an error can be told, and --count no less than that and no more than {MOST:,}"
        )
    if seed < 0:
        raise ConfigError(f"--seed {seed} is below 0; give 0 or more")
    with open_map(map_path, legend) as (dataset, known):
        if dataset.crs is None:
            raise MapError(
                f"{dataset.name} has no CRS, so its points have no place; assign one with rio edit-info --crs"
            )
        ground, rng = Ground.of(dataset), np.random.default_rng(seed)
        census = _census(dataset, ground, known)
        present = np.flatnonzero(census.pixels.any(axis=0))
        if not len(present):
            raise MapError(f"{map_path} is all nodata: there is nothing to draw from")
        wanted = allocate(census.areas[:, present].sum(axis=0), census.pixels[:, present].sum(axis=0), count, at_least)
        places = {k: _places(census, k, n, rng) for k, n in zip(present.tolist(), wanted.tolist(), strict=True)}
        found = _pixels(dataset, ground, known, census, places)
        drawn = {k: _first_distinct(found[k], n) for k, n in zip(places, wanted.tolist(), strict=True)}
        hectares = {k: float(census.areas[:, k].sum() / 1e4) for k in drawn}
        table = _table(dataset, known, drawn, hectares, rng)
        drawn_from = Path(without_secrets(str(map_path))).name
        facts = tags(sample={"version": __version__, "map": drawn_from, "seed": seed}) | inherited(dataset.tags())
    write_layer(iter([table]), out, known, facts, "Point")
    return tuple(Stratum(known.names[k], hectares[k], len(drawn[k])) for k in drawn)


def allocate(areas: np.ndarray, pixels: np.ndarray, count: int, at_least: int) -> np.ndarray:
    """How many of `count` points each class gets, by its area, but `at_least` so many; integers (classes,).

    A class of fewer pixels gets them all; the points that it cannot take go to the others.

    Args:
        areas: of the classes, all above 0.
        pixels: of the classes.
        count, at_least: altogether, and in each class.

    Raises:
        ConfigError: there are too few.
    """
    fewest = np.minimum(at_least, pixels)
    if count < fewest.sum():
        raise ConfigError(
            f"--count {count} is too few for {len(areas)} classes of at least {at_least} points: give {fewest.sum()} "
            "or more, or lower --at-least"
        )
    count = min(count, int(pixels.sum()))
    points, open_ = np.zeros(len(areas)), np.ones(len(areas), bool)
    while open_.any():  # what is out of bounds is fixed there, and the rest shared anew; too much comes before too few
        left = count - points[~open_].sum()
        points[open_] = left * areas[open_] / areas[open_].sum()
        bounded = np.clip(points, fewest, pixels)
        excess = (bounded - points)[open_].sum()
        out = open_ & ((bounded < points) if excess < 0 else (bounded > points) if excess > 0 else bounded != points)
        points[out] = bounded[out]
        if not out.any():
            break
        open_ &= ~out
    whole = np.floor(points + 1e-9).astype(int)
    room = np.where(whole < pixels, points - whole, -1.0)
    whole[np.argsort(-room, kind="stable")[: count - whole.sum()]] += 1
    return whole


class _Census(NamedTuple):
    """What each class has in each strip of the map, (strips, classes): area in m², and pixels."""

    areas: np.ndarray
    pixels: np.ndarray


def _census(dataset: rasterio.DatasetReader, ground: Ground, legend: Legend) -> _Census:
    areas, pixels = [], []
    for start, block in narrow_strips(dataset):
        flat = block.ravel()
        pixels.append(np.bincount(flat, minlength=256))
        areas.append(np.bincount(flat, ground.pixel_areas(start, start + len(block)).ravel(), minlength=256))
    check_values(np.sum(pixels, axis=0), legend, dataset.name)
    ids = list(legend.ids)
    census = _Census(np.array(areas)[:, ids], np.array(pixels)[:, ids])
    check_areas(census.areas.sum(axis=0), legend, dataset.name)
    return census


def _places(census: _Census, k: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Where to draw from class k: places along its pixels in m², or, of few pixels, the numbers of some, integers."""
    pixels = int(census.pixels[:, k].sum())
    if pixels < 2 * count:
        return rng.permutation(pixels)[:count]
    return rng.random(_SPARE * count) * census.areas[:, k].sum()


def _pixels(
    dataset: rasterio.DatasetReader,
    ground: Ground,
    legend: Legend,
    census: _Census,
    places: dict[int, np.ndarray],
) -> dict[int, np.ndarray]:
    """The pixels that places fall into, counted along the rows of the map, by class."""
    found = {k: np.zeros(len(at), np.int64) for k, at in places.items()}
    passed = {k: at.dtype.type(0) for k, at in places.items()}
    for strip, (start, block) in enumerate(narrow_strips(dataset)):
        areas = ground.pixel_areas(start, start + len(block)).ravel()
        for k, at in places.items():
            here = (census.areas if at.dtype.kind == "f" else census.pixels)[strip, k]
            inside = (at >= passed[k]) & (at < passed[k] + here)
            if inside.any():
                mine = np.flatnonzero(block == legend.ids[k])
                which = at[inside] - passed[k]
                if at.dtype.kind == "f":
                    which = np.minimum(np.searchsorted(np.cumsum(areas[mine]), which, side="right"), len(mine) - 1)
                found[k][inside] = mine[which] + start * dataset.width
            passed[k] += here
    return found


def _first_distinct(pixels: np.ndarray, count: int) -> np.ndarray:
    """The first so many different pixels, in the order they were drawn in."""
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
