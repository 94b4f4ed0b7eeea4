"""How good a class map is: accuracy and areas, estimated from labelled points or counted against a reference map."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import rasterio
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from landcover.accuracy import estimated_ratio
from landcover.classmap import (
    MAP_NODATA,
    check_areas,
    check_values,
    filled,
    narrow_strips,
    open_map,
    open_raster,
    read_legend,
)
from landcover.errors import ConfigError, MapError, counted, listed, nearest
from landcover.ground import Ground, coordinates
from landcover.products import is_local
from landcover.provenance import legend_tag
from landcover.regions import as_text, read_vectors
from landcover.sampling import REFERENCE, STRATUM, STRATUM_HECTARES
from landcover.specs import Legend

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

COLUMNS = (REFERENCE, "class_name", "class", "label", "class_id")
"""Columns that may hold the reference class, where none is named: the first of them that is there."""

_VECTORS = {".gpkg", ".geojson", ".json", ".fgb", ".parquet", ".geoparquet", ".shp", ".gml", ".kml", ".sqlite"}
_TABLES = {".csv", ".tsv", ".xlsx"}
_FAR = 1 << 40
"""Pixels; farther away from a map no place is told from another."""

_ELSEWHERE = 0.01
"""By how much the area that points were drawn from may differ from the map's before it is told."""

_SAME = 1e-3
"""By how much the area of a class may differ from that of the stratum that it is."""


@dataclass(frozen=True)
class Figure:
    """A figure and half the width of its confidence interval; nan where they cannot be told."""

    value: float
    within: float

    def told(self, factor: float = 100, digits: int = 1) -> str:
        """As text, times a factor, with its interval if it has one."""
        value = "–" if math.isnan(self.value) else f"{factor * self.value:,.{digits}f}"
        return value if math.isnan(self.within) else f"{value} ± {factor * self.within:,.{digits}f}"


@dataclass(frozen=True)
class ClassAssessment:
    """How well a class is mapped, and how much of it there is.

    Attributes:
        class_id, class_name: of the legend.
        mapped_hectares: its area on the map.
        hectares: its area in truth.
        users: of the land mapped as the class, the share that really is it.
        producers: of the land that really is the class, the share mapped as it.
        f1: the harmonic mean of the two.
    """

    class_id: int
    class_name: str
    mapped_hectares: float
    hectares: Figure
    users: Figure
    producers: Figure
    f1: Figure

    def told(self) -> list[str]:
        """As cells of a table: mapped hectares, hectares, and user's, producer's accuracy and F1 in percent."""
        return [f"{self.mapped_hectares:,.2f}", self.hectares.told(1, 2), *(f.told() for f in self._shares)]

    @property
    def _shares(self) -> tuple[Figure, Figure, Figure]:
        return self.users, self.producers, self.f1


@dataclass(frozen=True)
class Assessment:
    """What a comparison of a map with a reference says.

    Attributes:
        sampled: whether the figures are estimates for the whole map from random points; else they hold for the pixels
            that were compared, and have no interval.
        level: of the confidence intervals; nan where there are none.
        compared: points or pixels.
        overall: overall accuracy.
        classes: in the order of the legend.
        counts: of points or pixels, a row for each class of the map, a column for each of the reference.
        notes: what else should be known.
    """

    sampled: bool
    level: float
    compared: int
    overall: Figure
    classes: tuple[ClassAssessment, ...]
    counts: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...] = ()


def assess(
    map_path: str | Path,
    reference: str | Path,
    *,
    column: str | None = None,
    legend: Legend | str | None = None,
    level: float = 0.95,
) -> Assessment:
    """Compare a class map with a reference.

    Points are taken for a random sample: drawn by `sample`, of this map or of another one that covers it, or at random
    within each class of the map. Accuracy and areas are then estimated for the whole map, with confidence intervals. A
    raster is compared pixel by pixel, and the figures hold for the pixels where it has a class.

    Args:
        map_path: a class map with a CRS.
        reference: a vector file of points with a class, or a raster of class ids on any grid, of the same legend or
            with one of its own, of the same names.
        column: of the points, with the names or ids of classes; by default the first of `COLUMNS` that is there.
        legend: a legend, its name or its file, for maps that carry none.
        level: of the confidence intervals.

    Raises:
        MapError: the map or the raster cannot be read as one, or the map has no CRS.
        ConfigError: the reference or an option cannot be used.
    """
    if not 0.5 <= level <= 0.9999:
        raise ConfigError(f"--level {level:g} is no level of confidence; write for example 0.95")
    if is_local(str(reference)) and not Path(reference).exists():
        raise ConfigError(f"the reference {reference} does not exist; give labelled points, or a raster of classes")
    suffix = Path(reference).suffix.lower()
    if suffix in _TABLES:
        raise ConfigError(
            f"the reference {reference} is a table that does not tell in which CRS its places are; make points of it, "
            "in QGIS for example, and give them as .gpkg"
        )
    with open_map(map_path, legend) as (dataset, known):
        if dataset.crs is None:
            raise MapError(
                f"{dataset.name} has no CRS, so its pixels have no area; assign one with rio edit-info --crs"
            )
        if suffix in _VECTORS:
            points = _read_points(str(reference), column, known, dataset)
            return _by_points(dataset, known, points, level)
        if column is not None:
            raise ConfigError(
                f"--column is given, but {reference} is not a vector file ({' '.join(sorted(_VECTORS))}) and so a "
                "raster; leave it out"
            )
        return _by_raster(dataset, known, reference)


@dataclass(frozen=True)
class _Points:
    """Labelled points.

    Attributes:
        name: of their file.
        row, col: of the map's pixels that they lie in, which may be beyond the map.
        classes: numbers of the legend's classes, from 0; -1 where nobody has said.
        strata: what they were drawn from, if they tell.
        placeless: how many more there are, without a place.
    """

    name: str
    row: np.ndarray
    col: np.ndarray
    classes: np.ndarray
    strata: "_Strata | None"
    placeless: int = 0


class _Strata(NamedTuple):
    """What points were drawn from.

    Attributes:
        of: each point, 0 to k - 1.
        names, hectares: of the strata, (k,).
    """

    of: np.ndarray
    names: tuple[str, ...]
    hectares: np.ndarray


def _read_points(path: str, column: str | None, legend: Legend, dataset: rasterio.DatasetReader) -> _Points:
    from geopandas import GeoDataFrame

    name = f"the reference {path}"
    table = read_vectors(path, name)
    placeless = 0
    if isinstance(table, GeoDataFrame):
        missing = table.geometry.isna() | table.geometry.is_empty
        placeless, table = int(missing.sum()), table[~missing].explode(ignore_index=True)
    kinds = set(table.geom_type) if isinstance(table, GeoDataFrame) else {"no geometry"}
    if kinds != {"Point"}:
        raise ConfigError(f"{name} holds {', '.join(sorted(kinds)) or 'nothing'}; give points, or a raster of classes")
    if table.crs is None:
        raise ConfigError(f"{name} has no CRS, so its place is unknown; assign one")
    classes = _classes(table, _column(table, column, name), legend, name)
    try:
        points = table.geometry.to_crs(dataset.crs.to_wkt())
    except (ProjError, ValueError) as e:
        raise ConfigError(f"{name} cannot be brought to the CRS of the map: {e}") from e
    row, col = _places(points.x.to_numpy(), points.y.to_numpy(), dataset, name)
    return _Points(name, row, col, classes, _strata(table, name), placeless)


def _places(x: np.ndarray, y: np.ndarray, dataset: rasterio.DatasetReader, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of a map at coordinates, row and column, which may be beyond it."""
    if not np.isfinite([x, y]).all():
        raise ConfigError(f"{name} has points that the CRS of the map cannot show; leave them out")
    if dataset.crs.is_geographic:  # longitudes of the map may go on above 180°
        width, height = dataset.width, dataset.height
        corners, _ = coordinates(dataset.transform, np.array([0, width, 0, width]), np.array([0, 0, height, height]))
        x = corners.min() + (x - corners.min()) % 360
    col, row = (np.floor(v).clip(-_FAR, _FAR).astype(int) for v in coordinates(~dataset.transform, x, y))
    return row, col


def _column(table: "GeoDataFrame", column: str | None, name: str) -> str:
    there = [str(c) for c in table.columns if c != table.geometry.name]
    if column is not None and column not in there:
        raise ConfigError(f"{name} has no column '{column}': {nearest(column, there)}")
    found = column or next((c for c in COLUMNS if c in there), None)
    if found is None:
        raise ConfigError(
            f"{name} has none of the columns {', '.join(COLUMNS)}; say with --column which has classes: it has "
            f"{', '.join(there) or 'none'}"
        )
    return found


def _classes(table: "GeoDataFrame", column: str, legend: Legend, name: str) -> np.ndarray:
    """Numbers of the classes, from 0 on; -1 where there is none."""
    ids = {str(c.id): k for k, c in enumerate(legend.classes)}
    known = ids | {c.name: k for k, c in enumerate(legend.classes)}  # a text is a name before it is a number
    given = zip(table[column], table[column].isna(), strict=True)
    texts = [("", known) if none else (as_text(v).strip(), known if isinstance(v, str) else ids) for v, none in given]
    unknown = Counter(t for t, numbers in texts if t not in numbers and t not in ("", "0"))
    if unknown:
        found = listed([f"'{text}' ({n} ×)" for text, n in unknown.most_common()])
        raise ConfigError(
            f"{name} has classes in '{column}' that the legend '{legend.name}' does not know: {found}; "
            f"known are: {', '.join(legend.names)}"
        )
    classes = np.array([numbers.get(t, -1) for t, numbers in texts], int)
    if (classes < 0).all():
        raise ConfigError(f"{name} has no class in '{column}'; write into it what is there: {', '.join(legend.names)}")
    return classes


def _strata(table: "GeoDataFrame", name: str) -> _Strata | None:
    """What the points were drawn from, if the file tells."""
    if not {STRATUM, STRATUM_HECTARES} <= set(table.columns):
        return None
    if silent := int(table[STRATUM].isna().sum()):
        raise ConfigError(f"{name}: {silent} points have no '{STRATUM}'; remove them, or both columns '{STRATUM}…'")
    names, strata = np.unique(table[STRATUM].astype(str).to_numpy(), return_inverse=True)
    try:
        hectares = table[STRATUM_HECTARES].astype(float).to_numpy()
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{name}: '{STRATUM_HECTARES}' does not hold numbers; draw the points anew") from e
    sizes = np.array([hectares[strata == k][0] for k in range(len(names))])
    if not (np.isfinite(sizes).all() and (sizes > 0).all() and np.allclose(hectares, sizes[strata], rtol=1e-6)):
        raise ConfigError(f"{name}: '{STRATUM_HECTARES}' is not the area of '{STRATUM}', the same for all its points")
    return _Strata(strata, tuple(map(str, names)), sizes)


def _by_points(dataset: rasterio.DatasetReader, legend: Legend, points: _Points, level: float) -> Assessment:
    mapped, hectares, pixel_hectares = _look_up(dataset, legend, points)
    labelled, known = points.classes >= 0, mapped >= 0
    # A point of another map that lies where this one has nothing tells how much of its stratum this one has.
    counting = known & labelled | (~known if points.strata else False)
    again = _again(points, counting, known)
    used = counting & ~again
    compared = used & known
    if not compared.any():
        raise ConfigError(
            f"{points.name} has no labelled point where the map has a class; do both show the same place?"
        )
    strata, by_class = _drawn_from(points, mapped, legend, hectares)
    found = np.bincount(strata.of[used], pixel_hectares[used], minlength=len(strata.hectares))
    whole = np.isclose(found, strata.hectares, rtol=_SAME)
    drawn = _Sample(mapped[used], points.classes[used], strata.of[used], strata.hectares, whole, level)
    total, classes = hectares.sum(), []
    for k, c in enumerate(legend.classes):
        here, there = drawn.mapped == k, drawn.known & (drawn.truth == k)
        share = drawn.share(there)
        area = Figure(share.value * total, share.within * total)
        users = drawn.ratio(here & there, here, only=k if by_class and hectares[k] > 0 else None)
        producers = drawn.ratio(here & there, there)
        f1 = drawn.ratio(2.0 * (here & there), 1.0 * here + there)
        classes.append(ClassAssessment(c.id, c.name, float(hectares[k]), area, users, producers, f1))
    counts = np.bincount(mapped[compared] * len(classes) + points.classes[compared], minlength=len(classes) ** 2)
    overall = drawn.share(drawn.known & (drawn.mapped == drawn.truth))
    notes = [*_left_out(points, mapped, again), *_origin(points, strata, total)]
    notes += drawn.shortage(strata.names, by_class=by_class)
    if overall.within == 0 or any(f.within == 0 for c in classes for f in (c.users, c.producers)):
        notes.append("± 0.0 says that no point shows an error, not that there is none")
    rows = _plain(counts.reshape(len(classes), -1))
    return Assessment(True, level, int(compared.sum()), overall, tuple(classes), rows, tuple(notes))


def _drawn_from(points: _Points, mapped: np.ndarray, legend: Legend, hectares: np.ndarray) -> tuple[_Strata, bool]:
    """What points were drawn from, and whether that is the classes of this map, those without a point among them."""
    classes, told = _Strata(mapped, legend.names, hectares), points.strata
    if told is None:
        return classes, True
    theirs = np.array([legend.names.index(n) if n in legend.names else -1 for n in told.names])
    if (theirs < 0).any() or not np.allclose(told.hectares, hectares[theirs], rtol=_SAME):
        return told, False
    drawn = _Strata(theirs[told.of], legend.names, hectares)
    return drawn, bool((drawn.of == mapped).all())


def _again(points: _Points, counting: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the points that count lie in a pixel that an earlier one lies in; `known` is where the map has a class.

    Raises:
        ConfigError: they say that something else is there.
    """
    pixels = np.stack([points.row, points.col], axis=1)[counting]
    _, first, same = np.unique(pixels, axis=0, return_index=True, return_inverse=True)
    classes, numbers = points.classes[counting], np.flatnonzero(counting)
    if (classes != classes[first][same.ravel()])[known[counting]].any():
        raise ConfigError(f"{points.name} has points with different classes in one pixel of the map; decide on one")
    again = np.zeros(len(counting), bool)
    again[np.delete(numbers, first)] = True
    return again


@dataclass(frozen=True)
class _Sample:
    """Points drawn at random within strata.

    Attributes:
        mapped, truth: their classes on the map and in truth, numbers from 0 on, (n,); -1 where the map has none.
        strata: what they were drawn from, 0 to k - 1, (n,).
        sizes: areas of the strata, (k,); those of no area have no points.
        whole: whether the points of a stratum are all its pixels, bool (k,).
        level: of confidence intervals.
    """

    mapped: np.ndarray
    truth: np.ndarray
    strata: np.ndarray
    sizes: np.ndarray
    whole: np.ndarray
    level: float

    @property
    def known(self) -> np.ndarray:
        """Whether the map has a class there, bool (n,)."""
        return self.mapped >= 0

    def ratio(self, above: np.ndarray, below: np.ndarray, only: int | None = None) -> Figure:
        """The sum of one value over all land, as a share of that of another; (n,) each.

        `only` is the stratum outside of which both are zero, if there is one: then nothing need be known of others.
        """
        present = self.sizes > 0 if only is None else np.arange(len(self.sizes)) == only
        counts = present[self.strata]
        strata = (np.cumsum(present) - 1)[self.strata[counts]]
        values = above[counts].astype(float), below[counts].astype(float)
        found = estimated_ratio(strata, self.sizes[present], *values, self.whole[present])
        return Figure(found.value, NormalDist().inv_cdf(0.5 + self.level / 2) * found.error)

    def share(self, here: np.ndarray) -> Figure:
        """Which share of the land that the map knows has `here` True."""
        return self.ratio(here, self.known)

    def shortage(self, names: tuple[str, ...], *, by_class: bool) -> Iterator[str]:
        """Notes on strata of too few points; `by_class` tells that they are the classes of the map."""
        drawn = np.bincount(self.strata, minlength=len(self.sizes))
        there = [(names[k], drawn[k], self.whole[k]) for k in np.flatnonzero(self.sizes > 0)]
        rest = "but the user's accuracy of other classes" if by_class else "at all"
        if none := [name for name, n, _ in there if n == 0]:
            yield (
                f"no point drawn from {', '.join(none)} is labelled, so what is there is unknown, and no figure {rest} "
                "can be estimated: label two points or more of each"
            )
        if single := [name for name, n, whole in there if n == 1 and not whole]:
            yield (
                f"only one point drawn from {', '.join(single)} is labelled, so of no figure {rest} "
                "can an interval be told: label two points or more of each"
            )


def _left_out(points: _Points, mapped: np.ndarray, again: np.ndarray) -> Iterator[str]:
    """Notes on points that do not count."""
    labelled, known = points.classes >= 0, mapped >= 0
    if points.placeless:
        yield f"{points.placeless} points have no place and are left out"
    if unlabelled := np.count_nonzero(~labelled):
        yield f"{unlabelled} points have no reference class and are left out"
    if lost := np.count_nonzero(~known & labelled):
        yield f"{lost} points lie where the map has no class, or beside it, and are not compared"
    if twice := np.count_nonzero(again):
        yield f"{twice} points lie in a pixel that another one lies in, and are left out"


def _origin(points: _Points, strata: _Strata, hectares: float) -> Iterator[str]:
    """A note on what the points were drawn from, where that is not clear, or less than the map."""
    if points.strata is None:
        yield "the points do not tell how they were drawn: taken as drawn at random within each class of the map"
    elif hectares > (1 + _ELSEWHERE) * (drawn := strata.hectares.sum()):
        yield f"the points were drawn from {drawn:,.0f} ha, and tell nothing of the rest of the map's {hectares:,.0f}"


def _look_up(
    dataset: rasterio.DatasetReader, legend: Legend, points: _Points
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The map's class at each point, a number from 0 on, or -1; and areas in hectares, of each class and each point.

    The area of a point is that of the pixel it lies in, 0 beyond the map.
    """
    inside = (points.col >= 0) & (points.col < dataset.width)
    values, own = np.full(len(points.row), MAP_NODATA, np.uint8), np.zeros(len(points.row))
    pixels, square, ground = np.zeros(256, np.int64), np.zeros(256), Ground.of(dataset)
    for start, block in narrow_strips(dataset):
        flat, areas = block.ravel(), ground.pixel_areas(start, start + len(block))
        pixels += np.bincount(flat, minlength=256)
        square += np.bincount(flat, areas.ravel(), minlength=256)
        here = inside & (points.row >= start) & (points.row < start + len(block))
        at = points.row[here] - start, points.col[here]
        values[here], own[here] = block[at], areas[at]
    check_values(pixels, legend, dataset.name)
    hectares = square[list(legend.ids)] / 1e4
    check_areas(hectares, legend, dataset.name)
    return _numbers(legend)[values], hectares, own / 1e4


def _by_raster(dataset: rasterio.DatasetReader, legend: Legend, reference: str | Path) -> Assessment:
    pixels, square, ground = np.zeros(1 << 16, np.int64), np.zeros(1 << 16), Ground.of(dataset)
    with _on_grid_of(dataset, reference) as (read, other):
        for start, block in narrow_strips(dataset):
            pairs = (block.astype(np.uint16) << 8 | read(start, len(block))).ravel()
            pixels += np.bincount(pairs, minlength=1 << 16)
            square += np.bincount(pairs, ground.pixel_areas(start, start + len(block)).ravel(), minlength=1 << 16)
        theirs = _legend_of(other, legend)
    counts = pixels.reshape(256, 256)
    check_values(counts.sum(axis=1), legend, dataset.name)
    check_values(counts.sum(axis=0), theirs, str(reference), exact=False)
    numbers = {c.name: c.id for c in theirs.classes}
    at = np.ix_(legend.ids, [numbers[name] for name in legend.names])
    unlike = int(counts[np.ix_(legend.ids, theirs.ids)].sum() - counts[at].sum())
    counts, areas = counts[at], square.reshape(256, 256)[at] / 1e4
    if not counts.any():
        raise ConfigError(f"the reference {reference} has no class where the map has one; do both show the same place?")
    right, here, there = areas.diagonal(), areas.sum(axis=1), areas.sum(axis=0)
    check_areas(here, legend, dataset.name)
    with np.errstate(invalid="ignore", divide="ignore"):
        users, producers, f1 = right / here, right / there, 2 * right / (here + there)
    rows = tuple(
        ClassAssessment(c.id, c.name, float(here[k]), *map(_exact, (there[k], users[k], producers[k], f1[k])))
        for k, c in enumerate(legend.classes)
    )
    note = (
        "a raster is no random sample: the figures hold for the pixels compared, not for the whole map, and have no "
        "confidence interval; for that, label the points of landcover sample"
    )
    notes = (note, *([f"{unlike:,} pixels of classes that the map's legend lacks are left out"] if unlike else []))
    overall = _exact(right.sum() / here.sum())
    return Assessment(False, math.nan, int(counts.sum()), overall, rows, _plain(counts), notes)


def _legend_of(reference: rasterio.DatasetReader, legend: Legend) -> Legend:
    """What the numbers of a reference mean: what it says itself, or the map's legend.

    Raises:
        ConfigError: it has other classes than the map.
    """
    if legend_tag(reference.tags()) is None:
        return legend
    own = read_legend(reference)
    if missing := [name for name in legend.names if name not in own.names]:
        raise ConfigError(
            f"the reference {reference.name} has a legend of its own without the map's class '{missing[0]}': it has "
            f"{', '.join(own.names)}"
        )
    return own


@contextmanager
def _on_grid_of(
    dataset: rasterio.DatasetReader, reference: str | Path
) -> Iterator[tuple[Callable[[int, int], np.ndarray], rasterio.DatasetReader]]:
    """Reads rows of a raster of class ids on the grid of a map: its nearest pixels, uint8, 0 where there is none."""
    with open_raster(reference) as other:
        if other.count != 1 or other.dtypes[0] != "uint8":
            told = f"{counted(other.count, 'band')} of {other.dtypes[0]}, not one of uint8"
            raise MapError(f"{reference} is no raster of class ids: it has {told}")
        if other.crs is None:
            raise MapError(f"{reference} has no CRS, so its place is unknown; assign one with rio edit-info --crs")
        grid = {"crs": dataset.crs, "transform": dataset.transform, "height": dataset.height, "width": dataset.width}
        try:
            # without nodata, which would keep GDAL from looking at the mask of the file
            view = WarpedVRT(other, **grid, resampling=Resampling.nearest, add_alpha=True, src_nodata=None, nodata=None)
        except (RasterioError, CPLE_BaseError) as e:
            raise MapError(f"{reference} cannot be brought to the grid of the map: {e}") from e

        def read(start: int, rows: int) -> np.ndarray:
            window = Window(0, start, dataset.width, rows)
            return filled(view.read(1, window=window, masked=True), other.nodata)

        with view:
            yield read, other


def _numbers(legend: Legend) -> np.ndarray:
    """The number of a class, from 0 on, for each of the 256 values; -1 for others."""
    number = np.full(256, -1)
    number[list(legend.ids)] = np.arange(len(legend.ids))
    return number


def _plain(counts: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, counts.tolist()))


def _exact(value: float) -> Figure:
    return Figure(float(value), float("nan"))
