"""The ground under a raster: where its pixels lie on the earth, and how large they are there."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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


def ground_resolution(transform: Affine, crs: CRS | None, height: int, width: int) -> float | None:
    """Side of a pixel in metres (the square root of its area), at the middle of a raster; None without a place."""
    if crs is None:
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


def _knots(first: int, last: int, step: int, end: int) -> np.ndarray:
    """Multiples of `step` that enclose [first, last], none beyond `end`: the same ones however rows are cut."""
    return np.unique(np.minimum(np.arange(first // step, -(-last // step) + 1) * step, end))
