"""How good a class map is: accuracy and areas, estimated from labelled points or counted against a reference map."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from landcover.accuracy import estimated_ratio
from landcover.classmap import MAP_NODATA, check_values, open_map, open_raster, strips
from landcover.errors import ConfigError, MapError, nearest
from landcover.ground import Ground
from landcover.regions import read_vectors
from landcover.sampling import REFERENCE, STRATUM, STRATUM_HECTARES
from landcover.specs import Legend

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

COLUMNS = (REFERENCE, "class_name", "class", "label", "class_id")
"""Columns that may hold the reference class, where none is named: the first of them that is there."""

_VECTORS = {".gpkg", ".geojson", ".json", ".fgb", ".parquet", ".geoparquet", ".shp", ".gml", ".kml", ".sqlite"}
_LISTED = 5
"""How many unknown values are named in an error."""

_ELSEWHERE = 0.01
"""By how much the area that points were drawn from may differ from the map's before it is told."""


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
        users: which share of what is mapped as it is it.
        producers: which share of what is it is mapped as it.
        f1: of the two, without an interval.
    """

    class_id: int
    class_name: str
    mapped_hectares: float
    hectares: Figure
    users: Figure
    producers: Figure
    f1: Figure


@dataclass(frozen=True)
class Assessment:
    """What a comparison of a map with a reference says.

    Attributes:
        sampled: whether the figures are estimates for the whole map from random points; else they hold for the pixels
            that were compared, and have no interval.
        level: of the confidence intervals.
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

    Points are taken for a random sample: drawn by `sample`, of this map or of another one, or at random within each
    class of the map. Accuracy and areas are then estimated for the whole map, with confidence intervals. A raster is
    compared pixel by pixel, and the figures hold for the pixels where it has a class.

    Args:
        map_path: a class map with a CRS.
        reference: a vector file of points with a class, or a raster of class ids of the same legend on any grid.
        column: of the points, with the names or ids of classes; by default the first of `COLUMNS` that is there.
        legend: a legend, its name or its file, for maps that carry none.
        level: of the confidence intervals.

    Raises:
        MapError: the map or the raster cannot be read as one, or the map has no CRS.
        ConfigError: the reference or an option cannot be used.
    """
    if not 0.5 <= level < 1:
        raise ConfigError(f"--level {level:g} is no level of confidence; write for example 0.95")
    if not Path(reference).exists():
        raise ConfigError(f"the reference {reference} does not exist; give labelled points, or a raster of classes")
    with open_map(map_path, legend) as (dataset, known):
        if dataset.crs is None:
            raise MapError(f"{dataset.name} has no CRS, so its pixels have no area; assign one with gdal_edit -a_srs")
        if Path(reference).suffix.lower() in _VECTORS:
            return _by_points(dataset, known, _read_points(Path(reference), column, known, dataset), level)
        if column is not None:
            raise ConfigError(f"--column is given, but {reference} is a raster; leave it out")
        return _by_raster(dataset, known, reference, level)


@dataclass(frozen=True)
class _Points:
    """Labelled points.

    Attributes:
        name: of their file.
        row, col: of the map's pixels that they lie in, which may be beyond the map.
        classes: numbers of the legend's classes, from 0; -1 where nobody has said.
        strata: of each point, 0 to k - 1, and the areas (k,) in hectares, if they tell; else None.
    """

    name: str
    row: np.ndarray
    col: np.ndarray
    classes: np.ndarray
    strata: tuple[np.ndarray, np.ndarray] | None


def _read_points(path: Path, column: str | None, legend: Legend, dataset: rasterio.DatasetReader) -> _Points:
    table, name = read_vectors(path, f"the reference {path}"), f"the reference {path}"
    kinds = set(table.geom_type.dropna()) if hasattr(table, "geom_type") else {"no geometry"}
    if kinds != {"Point"}:
        raise ConfigError(f"{name} holds {', '.join(sorted(kinds)) or 'nothing'}; give points, or a raster of classes")
    if table.crs is None:
        raise ConfigError(f"{name} has no CRS, so its place is unknown; assign one")
    table = table[~(table.geometry.isna() | table.geometry.is_empty)]
    classes = _classes(table, _column(table, column, name), legend, name)
    try:
        points = table.geometry.to_crs(dataset.crs.to_wkt())
    except Exception as e:
        raise ConfigError(f"{name} cannot be brought to the CRS of the map: {e}") from e
    x, y = points.x.to_numpy(), points.y.to_numpy()
    if not np.isfinite([x, y]).all():
        raise ConfigError(f"{name} has points that the CRS of the map cannot show; leave them out")
    inverse = ~dataset.transform
    col, row = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    return _Points(name, np.floor(row).astype(int), np.floor(col).astype(int), classes, _strata(table, name))


def _column(table: "GeoDataFrame", column: str | None, name: str) -> str:
    there = [str(c) for c in table.columns if c != table.geometry.name]
    if column is not None and column not in there:
        raise ConfigError(f"{name} has no column '{column}': {nearest(column, there)}")
    found = column or next((c for c in COLUMNS if c in there), None)
    if found is None:
        raise ConfigError(f"{name} has none of the columns {', '.join(COLUMNS)}; say with --column which has classes")
    return found


def _classes(table: "GeoDataFrame", column: str, legend: Legend, name: str) -> np.ndarray:
    """Numbers of the classes, from 0 on; -1 where there is none."""
    numbers = {text: k for k, c in enumerate(legend.classes) for text in (str(c.id), c.name)}
    texts = ["" if missing else _text(v) for v, missing in zip(table[column], table[column].isna(), strict=True)]
    unknown = Counter(t for t in texts if t not in numbers and t not in ("", "0"))
    if unknown:
        listed = ", ".join(f"'{text}' ({n} ×)" for text, n in unknown.most_common(_LISTED))
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        raise ConfigError(
            f"{name} has classes in '{column}' that the legend '{legend.name}' does not know: {listed}{more}; "
            f"known are: {', '.join(legend.names)}"
        )
    classes = np.array([numbers.get(t, -1) for t in texts], int)
    if (classes < 0).all():
        raise ConfigError(f"{name} has no class in '{column}'; write into it what is there: {', '.join(legend.names)}")
    return classes


def _text(value: Any) -> str:
    """A class as text: whole numbers as such, though a column with gaps holds them as 2.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _strata(table: "GeoDataFrame", name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What the points were drawn from, if the file tells, and the areas in hectares."""
    if not {STRATUM, STRATUM_HECTARES} <= set(table.columns):
        return None
    names, strata = np.unique(table[STRATUM].astype(str), return_inverse=True)
    try:
        hectares = table[STRATUM_HECTARES].astype(float).to_numpy()
    except (TypeError, ValueError) as e:
        raise ConfigError(f"{name}: '{STRATUM_HECTARES}' does not hold numbers; draw the points anew") from e
    sizes = np.array([hectares[strata == k][0] for k in range(len(names))])
    if not (np.isfinite(sizes).all() and (sizes > 0).all() and np.allclose(hectares, sizes[strata], rtol=1e-6)):
        raise ConfigError(f"{name}: '{STRATUM_HECTARES}' is not the area of '{STRATUM}', the same for all its points")
    return strata, sizes


def _by_points(dataset: rasterio.DatasetReader, legend: Legend, points: _Points, level: float) -> Assessment:
    mapped, hectares = _look_up(dataset, legend, points)
    used = (mapped >= 0) & (points.classes >= 0)
    if not used.any():
        raise ConfigError(
            f"{points.name} has no labelled point where the map has a class; do both show the same place?"
        )
    strata, sizes = points.strata or (mapped, hectares)
    drawn = _Sample(mapped[used], points.classes[used], strata[used], sizes, level)
    classes = []
    for k, c in enumerate(legend.classes):
        users = drawn.ratio(drawn.right & (drawn.mapped == k), drawn.mapped == k)
        producers = drawn.ratio(drawn.right & (drawn.truth == k), drawn.truth == k)
        share = drawn.share(drawn.truth == k)
        area = Figure(share.value * sizes.sum(), share.within * sizes.sum())
        f1 = _harmonic(users.value, producers.value)
        classes.append(ClassAssessment(c.id, c.name, float(hectares[k]), area, users, producers, f1))
    counts = _counts(drawn.mapped, drawn.truth, len(legend.classes))
    notes = (*_left_out(points, mapped), *_origin(points, hectares), *drawn.shortage())
    return Assessment(True, level, int(used.sum()), drawn.share(drawn.right), tuple(classes), _plain(counts), notes)


@dataclass(frozen=True)
class _Sample:
    """Points drawn at random within strata.

    Attributes:
        mapped, truth: their classes on the map and in truth, numbers from 0 on, (n,).
        strata: what they were drawn from, 0 to k - 1, (n,).
        sizes: areas of the strata, (k,); those of no area have no points.
        level: of confidence intervals.
    """

    mapped: np.ndarray
    truth: np.ndarray
    strata: np.ndarray
    sizes: np.ndarray
    level: float

    @property
    def right(self) -> np.ndarray:
        return self.mapped == self.truth

    def ratio(self, above: np.ndarray, below: np.ndarray) -> Figure:
        """Which share of the land where `below` is True has `above` True, both bool (n,)."""
        present = self.sizes > 0
        strata = (np.cumsum(present) - 1)[self.strata]
        found = estimated_ratio(strata, self.sizes[present], above.astype(float), below.astype(float))
        return Figure(found.value, NormalDist().inv_cdf(0.5 + self.level / 2) * found.error)

    def share(self, here: np.ndarray) -> Figure:
        """Which share of all land has `here` True."""
        return self.ratio(here, np.ones(len(here), bool))

    def shortage(self) -> Iterator[str]:
        """A note on strata of too few points."""
        present, drawn = self.sizes > 0, np.bincount(self.strata, minlength=len(self.sizes))
        if few := np.count_nonzero(present & (drawn < 2)):
            yield (
                f"{few} of {np.count_nonzero(present)} classes that points are drawn from have fewer than two labelled "
                "ones, so no error can be told, and no figure where there is none: label more"
            )


def _left_out(points: _Points, mapped: np.ndarray) -> Iterator[str]:
    """Notes on points that do not count."""
    if unlabelled := np.count_nonzero(points.classes < 0):
        yield f"{unlabelled} points have no reference class and are left out"
    if lost := np.count_nonzero((mapped < 0) & (points.classes >= 0)):
        yield f"{lost} points lie where the map has no class, or beside it, and are left out"


def _origin(points: _Points, hectares: np.ndarray) -> Iterator[str]:
    """A note on what the points were drawn from, where that is not clear, or not the map."""
    if points.strata is None:
        yield "the points do not tell how they were drawn: taken as drawn at random within each class of the map"
    elif abs((drawn := points.strata[1].sum()) / hectares.sum() - 1) > _ELSEWHERE:
        yield f"the figures are of the {drawn:,.0f} ha that points were drawn from; the map has {hectares.sum():,.0f}"


def _look_up(dataset: rasterio.DatasetReader, legend: Legend, points: _Points) -> tuple[np.ndarray, np.ndarray]:
    """The map's class at each point, a number from 0 on, or -1; and the area of each class in hectares."""
    inside = (points.row >= 0) & (points.row < dataset.height) & (points.col >= 0) & (points.col < dataset.width)
    values = np.full(len(points.row), MAP_NODATA, np.uint8)
    pixels, square, ground = np.zeros(256, np.int64), np.zeros(256), Ground.of(dataset)
    for start, block in strips(dataset):
        flat, areas = block.ravel(), ground.pixel_areas(start, start + len(block)).ravel()
        pixels += np.bincount(flat, minlength=256)
        square += np.bincount(flat, areas, minlength=256)
        here = inside & (points.row >= start) & (points.row < start + len(block))
        values[here] = block[points.row[here] - start, points.col[here]]
    check_values(pixels, legend, dataset.name)
    return _numbers(legend)[values], square[list(legend.ids)] / 1e4


def _by_raster(dataset: rasterio.DatasetReader, legend: Legend, reference: str | Path, level: float) -> Assessment:
    classes, ground, number = len(legend.classes), Ground.of(dataset), _numbers(legend)
    counts, square = np.zeros((classes, classes), np.int64), np.zeros((classes, classes))
    with _on_grid_of(dataset, reference) as read:
        for start, block in strips(dataset):
            found = read(start, len(block))
            check_values(np.bincount(found.ravel(), minlength=256), legend, str(reference), exact=False)
            check_values(np.bincount(block.ravel(), minlength=256), legend, dataset.name, exact=False)
            mapped, truth = number[block], number[found]
            both = (mapped >= 0) & (truth >= 0)
            pairs = mapped[both] * classes + truth[both]
            areas = ground.pixel_areas(start, start + len(block))[both]
            counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
            square += np.bincount(pairs, areas, minlength=classes**2).reshape(classes, classes)
    if not counts.any():
        raise ConfigError(f"the reference {reference} has no class where the map has one; do both show the same place?")
    right, here, there = square.diagonal(), square.sum(axis=1), square.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        users, producers = right / here, right / there
    rows = [
        ClassAssessment(
            c.id,
            c.name,
            here[k] / 1e4,
            _exact(there[k] / 1e4),
            _exact(users[k]),
            _exact(producers[k]),
            _harmonic(users[k], producers[k]),
        )
        for k, c in enumerate(legend.classes)
    ]
    note = (
        "a raster is no random sample: the figures hold for the pixels compared, not for the whole map, and have no "
        "confidence interval; for that, label the points of landcover sample"
    )
    overall = _exact(right.sum() / square.sum())
    return Assessment(False, level, int(counts.sum()), overall, tuple(rows), _plain(counts), (note,))


@contextmanager
def _on_grid_of(dataset: rasterio.DatasetReader, reference: str | Path) -> Iterator[Callable[[int, int], np.ndarray]]:
    """Reads rows of a raster of class ids on the grid of a map: its nearest pixels, uint8, 0 where there is none."""
    with open_raster(reference) as other:
        if other.count != 1 or other.dtypes[0] != "uint8":
            raise MapError(f"{reference} is no raster of class ids: it has {other.count} bands of {other.dtypes[0]}")
        if other.crs is None:
            raise MapError(f"{reference} has no CRS, so its place is unknown; assign one with gdal_edit -a_srs")
        grid = {"crs": dataset.crs, "transform": dataset.transform, "height": dataset.height, "width": dataset.width}
        with WarpedVRT(other, **grid, resampling=Resampling.nearest, add_alpha=other.nodata is None) as view:

            def read(start: int, rows: int) -> np.ndarray:
                window = Window(0, start, dataset.width, rows)
                return view.read(1, window=window, masked=True).filled(MAP_NODATA)

            yield read


def _numbers(legend: Legend) -> np.ndarray:
    """The number of a class, from 0 on, for each of the 256 values; -1 for others."""
    number = np.full(256, -1)
    number[list(legend.ids)] = np.arange(len(legend.ids))
    return number


def _counts(mapped: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(mapped * classes + truth, minlength=classes**2).reshape(classes, classes)


def _plain(counts: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, counts.tolist()))


def _exact(value: float) -> Figure:
    return Figure(float(value), float("nan"))


def _harmonic(one: float, other: float) -> Figure:
    return _exact(2 * one * other / (one + other) if one + other else 0.0)
