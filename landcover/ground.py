"""The ground under a raster: where its pixels lie on the earth, and how large they are there."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pyproj
import rasterio
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.warp import transform as warp_points

from landcover.errors import MapError

WGS84 = pyproj.Geod(ellps="WGS84")

_LATTICE_METRES = 2000.0
"""Pixel areas are computed exactly this far apart and interpolated between; the error is below 3e-7."""


class Scales(NamedTuple):
    """How large areas and how long edges are on the ground, for some rows of a raster and the lines between them.

    Values are known at knots, some rows apart, and interpolated between: row r lies at `row_place[r]`, which is 1.25 a
    quarter of the way from knot 1 to knot 2. They are float64, in metres.

    Attributes:
        area: of the pixels left of each column, in a row, (knots, width + 1), m²; nan amid pixels off the earth.
        down: length of the edge of a pixel at each column, from a row to the next, (knots, width + 1).
        skew: how far the sides of each pixel are from a right angle, as their scalar product, (knots, width), m².
        row_place: (rows,).
        across: length of the line from the left border to each column, (knots, width + 1).
        line_place: (rows + 1,).
        step: how many pixels an edge may be long, to be measured in one piece.
        whole: whether all pixels lie on the earth.
    """

    area: np.ndarray
    down: np.ndarray
    skew: np.ndarray
    row_place: np.ndarray
    across: np.ndarray
    line_place: np.ndarray
    step: int
    whole: bool


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
            if crs.is_geocentric:
                raise MapError(f"{dataset.name} is in {crs.name}, which no map can be in; bring it to another CRS")
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
        return all(map(_all_equal, lats))

    @cached_property
    def columns_are_meridians(self) -> bool:
        """Whether every column of pixels lies on one longitude; in a sinusoidal grid, say, columns lean."""
        rows = np.array([0.0, 0.5, 1.0]) * self.height
        lons = [self.to_lonlat.transform(*coordinates(self.transform, col, rows))[0] for col in (0, self.width)]
        return all(map(_all_equal, lons))

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
        knots = self._row_knots(start, stop)
        wide = self._wide(self._areas_at, knots)
        place = np.interp(np.arange(start, stop), knots, np.arange(len(knots)))
        above = place.astype(int)
        below = np.minimum(above + 1, len(knots) - 1)
        with np.errstate(invalid="ignore"):  # infinite, off the earth
            return wide[above] + (place - above)[:, None] * (wide[below] - wide[above])

    def scales(self, start: int, stop: int) -> Scales:
        """What areas and edges measure in rows [start, stop), which may be none, and on the lines that bound them."""
        rows, lines = self._row_knots(start, stop), _knots(start, stop, self._step, self.height)
        leaning = not self.columns_are_meridians
        falling, rising = (
            self._wide(partial(self._lengths, way=way), rows + (way[0] < 0), leaning) for way in ((1, 1), (-1, 1))
        )
        across = self._wide(partial(self._lengths, way=(0, 1)), lines)
        areas = self._wide(self._areas_at, rows)
        return Scales(
            _summed(areas),
            self._wide(partial(self._lengths, way=(1, 0)), rows, leaning, ends=1),
            (falling**2 - rising**2) / 4,
            np.interp(np.arange(start, stop), rows, np.arange(len(rows))),
            _summed(across),
            np.interp(np.arange(start, stop + 1), lines, np.arange(len(lines))),
            self._step,
            bool(np.isfinite(areas).all()),
        )

    @cached_property
    def pixel_metres(self) -> float:
        """Side of a pixel at the centre of the raster: the square root of its area."""
        return self.metres_per_unit * math.sqrt(abs(self.transform.determinant))

    @property
    def _step(self) -> int:
        """How many pixels knots are apart."""
        return max(1, min(256, int(_LATTICE_METRES / self.pixel_metres)))

    def _row_knots(self, start: int, stop: int) -> np.ndarray:
        last = self.height - 1
        return _knots(min(start, last), max(start, stop - 1), self._step, last)

    def _wide(self, measure: Callable, rows: np.ndarray, leaning: bool = False, ends: int = 0) -> np.ndarray:
        """What is measured at rows × columns, for every column; `ends` is 1 for columns between pixels.

        Where rows are parallels the middle column tells all, which lies clear of the antimeridian of the plane, but not
        of what depends on how far `leaning` columns lean.
        """
        last = self.width - 1 + ends
        alike = self.rows_are_parallels and not leaning
        knots = np.array([self.width // 2]) if alike else _knots(0, last, self._step, last)
        return np.stack([np.interp(np.arange(last + 1), knots, line) for line in measure(rows, knots)])

    def _lengths(self, rows: np.ndarray, cols: np.ndarray, way: tuple[int, int]) -> np.ndarray:
        """How far it is from pixel corners to those some rows and columns further, (rows, cols) in metres.

        A straight line on a map is not the shortest on earth, so long ones are measured in pieces.
        """
        part = np.linspace(0, 1, 1 + math.ceil(self.pixel_metres / _LATTICE_METRES))
        row, col = np.broadcast_arrays(rows[:, None, None] + way[0] * part, cols[None, :, None] + way[1] * part)
        lon, lat = self.to_lonlat.transform(*coordinates(self.transform, col, row))
        return WGS84.inv(lon[..., :-1], lat[..., :-1], lon[..., 1:], lat[..., 1:])[2].sum(axis=-1)

    def _areas_at(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """Area of the pixels at rows × cols, from their four corners, (rows, cols) in m²; nan off the earth."""
        dr, dc = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0])
        row, col = np.broadcast_arrays(rows[:, None, None] + dr, cols[None, :, None] + dc)
        x, y = self.to_equal_area.transform(*coordinates(self.transform, col, row))
        with np.errstate(invalid="ignore"):  # infinite less infinite
            diagonals = (x[..., 2] - x[..., 0]) * (y[..., 3] - y[..., 1]) - (x[..., 3] - x[..., 1]) * (
                y[..., 2] - y[..., 0]
            )
        return np.abs(diagonals) / 2


def coordinates(transform: Affine, col: Any, row: Any) -> tuple[Any, Any]:
    """Where pixel corners lie: x and y of numbers or arrays of columns and rows."""
    return transform.a * col + transform.b * row + transform.c, transform.d * col + transform.e * row + transform.f


def ground_resolution(transform: Affine, crs: CRS | None, height: int, width: int) -> float | None:
    """Side of a pixel in metres (the square root of its area), at the middle of a raster; None without a place."""
    if crs is None or transform.is_identity:
        return None
    row, col = height / 2, width / 2
    corners = [transform @ point for point in ((col, row), (col + 1, row), (col, row + 1))]
    try:
        lons, lats = warp_points(crs, "EPSG:4326", *zip(*corners, strict=True))
    except (RasterioError, CPLE_BaseError):  # a CRS of a building site, say, that is tied to no place on the earth
        return None
    _, _, across = WGS84.inv(lons[0], lats[0], lons[1], lats[1])
    _, _, down = WGS84.inv(lons[0], lats[0], lons[2], lats[2])
    side = float(np.sqrt(across * down))
    return side if np.isfinite(side) and side > 0 else None


def _all_equal(degrees: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):  # infinite less infinite, off the earth
        return bool(np.ptp(degrees) < 1e-9)


def _summed(values: np.ndarray) -> np.ndarray:
    """Sums along rows, from 0 on, over what is off the earth as over nothing; nan amid it, and not beyond it."""
    lost = ~np.isfinite(values)
    sums = np.pad(np.cumsum(np.where(lost, 0, values), axis=1), ((0, 0), (1, 0)))
    left, right = (np.pad(lost, ((0, 0), side), constant_values=True) for side in ((1, 0), (0, 1)))
    sums[left & right] = np.nan
    return sums


def _knots(first: int, last: int, step: int, end: int) -> np.ndarray:
    """Multiples of `step` that enclose [first, last], none beyond `end`: the same ones however rows are cut."""
    return np.unique(np.minimum(np.arange(first // step, -(-last // step) + 1) * step, end))
