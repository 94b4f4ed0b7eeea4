"""How much land a class covers: areas on the WGS 84 ellipsoid, counted from the pixels of a map, whole or by zone."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
import rasterio
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.windows import Window

from landcover.classmap import MAP_NODATA, read_legend
from landcover.errors import ConfigError, MapError, nearest
from landcover.specs import Legend, load_legend

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

STRIP_PIXELS = 4_000_000
"""Pixels read at a time, in whole rows of blocks."""

_LATTICE_METRES = 2000.0
"""Pixel areas are computed exactly this far apart and interpolated between; the error is below 3e-7."""


@dataclass(frozen=True)
class Ground:
    """Where the pixels of a raster lie on the earth, and how large they are there.

    Attributes:
        crs: the coordinate reference system, horizontal.
        transform: pixel corners (col, row) to coordinates.
        height, width: in pixels.
    """

    crs: pyproj.CRS
    transform: Affine
    height: int
    width: int

    @classmethod
    def of(cls, dataset: rasterio.DatasetReader) -> "Ground":
        """The ground under an open raster.

        Raises:
            MapError: its CRS cannot be tied to longitude and latitude.
        """
        try:
            crs = pyproj.CRS.from_wkt(dataset.crs.to_wkt()).to_2d()
            ground = cls(crs, dataset.transform, dataset.height, dataset.width)
            reachable = bool(np.isfinite(ground.centre).all())
        except ProjError as e:
            raise MapError(f"{dataset.name}: its CRS cannot be tied to longitude and latitude: {e}") from e
        if not reachable:
            raise MapError(f"{dataset.name}: its centre is no place on the earth; correct its CRS or its transform")
        return ground

    @cached_property
    def to_lonlat(self) -> pyproj.Transformer:
        """To longitude and latitude in degrees on WGS 84."""
        return pyproj.Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True)

    @cached_property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude of the middle of the raster, in degrees."""
        return self.to_lonlat.transform(*coordinates(self.transform, self.width / 2, self.height / 2))

    @cached_property
    def rows_are_parallels(self) -> bool:
        """Whether every row of pixels lies on one latitude, as in longitude/latitude and Mercator grids."""
        cols = np.array([0.0, 0.5, 1.0]) * self.width
        lats = [self.to_lonlat.transform(*coordinates(self.transform, cols, row))[1] for row in (0, self.height)]
        return bool(max(np.ptp(lat) for lat in lats) < 1e-9)

    @cached_property
    def to_equal_area(self) -> pyproj.Transformer:
        """To plane coordinates in metres in which areas are those on the ellipsoid.

        Where rows are parallels the plane is cylindrical, so that pixels are rectangles in it at any extent, poles
        and antimeridian included; elsewhere it is azimuthal around the centre of the raster.
        """
        lon, lat = self.centre
        kind = "+proj=cea +lat_ts=0" if self.rows_are_parallels else f"+proj=laea +lat_0={lat!r}"
        plane = pyproj.CRS.from_user_input(f"{kind} +lon_0={lon!r} +datum=WGS84 +units=m +type=crs")
        return pyproj.Transformer.from_crs(self.crs, plane, always_xy=True)

    @cached_property
    def metres_per_unit(self) -> float:
        """Metres in one unit of the CRS at the centre of the raster, as a mean over directions."""
        row, col = self.height // 2, self.width // 2
        return math.sqrt(self._areas_at(np.array([row]), np.array([col]))[0, 0] / abs(self.transform.determinant))

    def pixel_areas(self, start: int, stop: int) -> np.ndarray:
        """Area of every pixel of rows [start, stop), as float64 (rows, width) in m²."""
        rows, cols = np.arange(start, stop), np.arange(self.width)
        pixel = self.metres_per_unit * math.sqrt(abs(self.transform.determinant))
        step = max(1, min(256, int(_LATTICE_METRES / pixel)))
        knots_col = _knots(0, self.width - 1, step, self.width - 1)
        knots_row = _knots(start, stop - 1, step, self.height - 1)
        known = self._areas_at(knots_row, knots_col)
        wide = np.stack([np.interp(cols, knots_col, line) for line in known])
        above = np.clip(np.searchsorted(knots_row, rows, "right") - 1, 0, max(0, len(knots_row) - 2))
        below = np.minimum(above + 1, len(knots_row) - 1)
        share = (rows - knots_row[above]) / np.maximum(1, knots_row[below] - knots_row[above])
        return wide[above] + share[:, None] * (wide[below] - wide[above])

    def _areas_at(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Area of the pixels at rows × cols, from their four corners, (rows, cols) in m²."""
        dr, dc = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0])
        row, col = np.broadcast_arrays(rows[:, None, None] + dr, cols[None, :, None] + dc)
        x, y = self.to_equal_area.transform(*coordinates(self.transform, col, row))
        diagonals = (x[..., 2] - x[..., 0]) * (y[..., 3] - y[..., 1]) - (x[..., 3] - x[..., 1]) * (
            y[..., 2] - y[..., 0]
        )
        return np.abs(diagonals) / 2


def coordinates(transform: Affine, col: Any, row: Any) -> tuple[Any, Any]:
    """Where pixel corners lie: x and y of numbers or arrays of columns and rows."""
    return transform.a * col + transform.b * row + transform.c, transform.d * col + transform.e * row + transform.f


def _knots(first: int, last: int, step: int, end: int) -> np.ndarray:
    """Multiples of `step` that enclose [first, last], none beyond `end`: the same ones however rows are cut."""
    return np.unique(np.minimum(np.arange(first // step, -(-last // step) + 1) * step, end))


@dataclass(frozen=True)
class ClassArea:
    """Pixels and area of one class."""

    class_id: int
    class_name: str
    pixels: int
    hectares: float


@dataclass(frozen=True)
class AreaTable:
    """What covers a piece of land: every class of the legend, and what is not known.

    Attributes:
        zone: the zone's name; None for the whole map.
        classes: in the order of the legend.
        nodata_pixels, nodata_hectares: land without a class.
    """

    zone: str | None
    classes: tuple[ClassArea, ...]
    nodata_pixels: int
    nodata_hectares: float

    @property
    def hectares(self) -> float:
        """Area that has a class."""
        return math.fsum(c.hectares for c in self.classes)


def stats(
    map_path: str | Path,
    *,
    zones: str | Path | None = None,
    zone_name: str | None = None,
    legend: Legend | str | None = None,
) -> tuple[AreaTable, ...]:
    """Measure the classes of a map: one table for the whole map, then one for each zone.

    A pixel belongs to a zone if its centre lies in it; zones may overlap, and each counts for itself.

    Args:
        map_path: a class map with a CRS.
        zones: a file of polygons, in any CRS.
        zone_name: the column that names a zone; by default `name` if there is one, else zones are numbered from 1.
        legend: a legend, its name or its file, for maps that carry none.

    Raises:
        MapError: the map cannot be read as one, has no CRS, or holds values that are not in the legend.
        ConfigError: the legend or the zones cannot be used.
    """
    with open_map(map_path, legend) as (dataset, known):
        if dataset.crs is None:
            raise MapError(f"{dataset.name} has no CRS, so its pixels have no area; assign one with gdal_edit -a_srs")
        ground = Ground.of(dataset)
        names, shapes = _read_zones(Path(zones), zone_name, dataset) if zones else ([], [])
        pixels = np.zeros((1 + len(names), 256), np.int64)
        square = np.zeros((1 + len(names), 256))
        for start, block in strips(dataset):
            areas = ground.pixel_areas(start, start + len(block))
            _count(block, areas, pixels[0], square[0])
            for i, shape in enumerate(shapes, 1):
                inside, at = _pixels_inside(shape, dataset.transform, start, block.shape)
                if inside is not None:
                    _count(block[at][inside], areas[at][inside], pixels[i], square[i])
    check_values(pixels[0], known, str(map_path))
    return tuple(_table(zone, known, p, s / 1e4) for zone, p, s in zip([None, *names], pixels, square, strict=True))


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
        yield dataset, legend


@contextmanager
def open_raster(path: str | Path, error: type[Exception] = MapError) -> Iterator[rasterio.DatasetReader]:
    """Open a raster, with or without a place on the earth; raise `error` if it cannot be opened or read to the end."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as dataset:
                yield dataset
    except RasterioError as e:
        cause = str(e.__cause__ or e)
        raise error(f"{path} cannot be read as a raster: {cause.removeprefix(f'{path}: ')}") from e


def strips(dataset: rasterio.DatasetReader) -> Iterator[tuple[int, np.ndarray]]:
    """Read class ids in whole rows of blocks: the first row, and uint8 (rows, width) with 0 where there is no class."""
    block = dataset.block_shapes[0][0]
    rows = max(1, STRIP_PIXELS // (dataset.width * block)) * block
    for start in range(0, dataset.height, rows):
        window = Window(0, start, dataset.width, min(rows, dataset.height - start))
        yield start, dataset.read(1, window=window, masked=True).filled(MAP_NODATA)


def check_values(pixels: np.ndarray, legend: Legend, name: str) -> None:
    """Refuse values that the legend does not know; `pixels` counts the pixels of each of the 256 values.

    Raises:
        MapError: there are such values.
    """
    unknown = [v for v in np.flatnonzero(pixels) if v != MAP_NODATA and v not in legend.ids]
    if unknown:
        found = ", ".join(f"{v} ({pixels[v]} px)" for v in unknown)
        raise MapError(
            f"{name} holds values that the legend '{legend.name}' does not know: {found}; give its own with --legend"
        )


def _count(block: np.ndarray, areas: np.ndarray, pixels: np.ndarray, square: np.ndarray) -> None:
    """Add the pixels (uint8) and their areas in m² to the sums of their values."""
    flat = block.ravel()
    pixels += np.bincount(flat, minlength=256)
    square += np.bincount(flat, weights=areas.ravel(), minlength=256)


def _table(zone: str | None, legend: Legend, pixels: np.ndarray, hectares: np.ndarray) -> AreaTable:
    rows = (ClassArea(c.id, c.name, int(pixels[c.id]), float(hectares[c.id])) for c in legend.classes)
    return AreaTable(zone, tuple(rows), int(pixels[MAP_NODATA]), float(hectares[MAP_NODATA]))


def _read_zones(path: Path, column: str | None, dataset: rasterio.DatasetReader) -> tuple[list[str], list[Any]]:
    """Names and polygons of the zones, the polygons in the map's coordinates."""
    import geopandas

    if not path.exists():
        raise ConfigError(f"the zones {path} do not exist; give a file of polygons")
    try:
        parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        table = geopandas.read_parquet(path) if parquet else geopandas.read_file(path)
    except Exception as e:
        raise ConfigError(f"the zones {path} cannot be read as polygons: {e}") from e
    _check_zones(table, path)
    try:
        shapes = table.geometry.to_crs(dataset.crs.to_wkt())
    except ProjError as e:
        raise ConfigError(f"the zones {path} cannot be brought to the CRS of {dataset.name}: {e}") from e
    return _zone_names(table, column, path), list(shapes)


def _check_zones(table: "GeoDataFrame", path: Path) -> None:
    kinds = set(table.geom_type.dropna()) if hasattr(table, "geom_type") else {"no geometry"}
    if not kinds or not kinds <= {"Polygon", "MultiPolygon"}:
        raise ConfigError(f"the zones {path} hold {', '.join(sorted(kinds)) or 'nothing'}; give polygons")
    if table.crs is None:
        raise ConfigError(f"the zones {path} have no CRS, so their place is unknown; assign one")


def _zone_names(table: "GeoDataFrame", column: str | None, path: Path) -> list[str]:
    columns = [str(c) for c in table.columns if c != table.geometry.name]
    if column is not None and column not in columns:
        raise ConfigError(f"the zones {path} have no column '{column}': {nearest(column, columns)}")
    column = column or ("name" if "name" in columns else None)
    return [str(v) for v in table[column]] if column else [str(i) for i in range(1, len(table) + 1)]


def _pixels_inside(
    shape: Any, transform: Affine, start: int, size: tuple[int, int]
) -> tuple[np.ndarray | None, tuple[slice, slice]]:
    """Which pixels of a strip lie in a polygon: a boolean block, True inside, and where in the strip it is."""
    nowhere = (slice(0, 0), slice(0, 0))
    if shape is None or shape.is_empty:
        return None, nowhere
    west, south, east, north = shape.bounds
    corners = np.array([west, west, east, east]), np.array([south, north, south, north])
    col, row = coordinates(~transform, *corners)
    if not np.isfinite([col, row]).all():
        return None, nowhere
    top, left = max(0, math.floor(row.min()) - start), max(0, math.floor(col.min()))
    bottom, right = min(size[0], math.ceil(row.max()) - start), min(size[1], math.ceil(col.max()))
    if bottom <= top or right <= left:
        return None, nowhere
    x, y = coordinates(transform, left, start + top)
    place = Affine(transform.a, transform.b, x, transform.d, transform.e, y)
    inside = rasterize([(shape, 1)], out_shape=(bottom - top, right - left), transform=place, dtype="uint8")
    return inside.astype(bool), (slice(top, bottom), slice(left, right))
