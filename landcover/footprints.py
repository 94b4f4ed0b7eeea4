"""Footprints: the outline of a raster in longitude and latitude, cut where it crosses the antimeridian."""

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from landcover.antimeridian import make_whole, turns
from landcover.ground import Ground, coordinates

_POINTS = 32
"""Along each side of a raster, for straight sides are bent in longitude and latitude."""

_TOLERANCE = 1e-6
"""Degrees, a tenth of a metre: points whose absence bends a side less are left out."""

_DIGITS = 7

_NEAR_DEGREES = 179.0
"""Of longitude; a raster that reaches farther east or west may cross the antimeridian."""


def footprint(ground: Ground) -> BaseGeometry | None:
    """The outline of a raster, in degrees of longitude and latitude on WGS 84.

    Returns:
        A polygon, counterclockwise; a multi-polygon where it crosses the antimeridian; None where no part of its
        outline is a place on the earth.
    """
    lon, lat = _outline(ground)
    if len(lon) < 3:
        return None
    whole = shapely.simplify(make_whole(np.append(lon, lon[0]), np.append(lat, lat[0])), _TOLERANCE)
    parts = shapely.union_all(turns(shapely.make_valid(whole)))
    return shapely.orient_polygons(shapely.transform(parts, lambda points: np.round(points, _DIGITS)))


def bounds(geometry: BaseGeometry) -> list[float]:
    """West, south, east and north of a footprint; west is the greater where it crosses the antimeridian.

    References:
        Butler et al. 2016, The GeoJSON Format (RFC 7946), section 5.2.
    """
    west, south, east, north = geometry.bounds
    parts = shapely.get_parts(geometry)
    before, after = [p for p in parts if p.bounds[2] == 180], [p for p in parts if p.bounds[0] == -180]
    if before and after and not set(map(id, before)) & set(map(id, after)):
        start, stop = min(p.bounds[0] for p in before), max(p.bounds[2] for p in after)
        if start > stop:
            return [start, south, stop, north]
    return [west, south, east, north]


def box(west: float, south: float, east: float, north: float) -> BaseGeometry:
    """A box of longitudes and latitudes; where west is the greater, it crosses the antimeridian."""
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))


def may_cross_antimeridian(ground: Ground) -> bool:
    """Whether a raster comes near the antimeridian, or counts longitudes beyond it, or lies around a pole."""
    corners = [ground.transform @ (col, row) for col in (0, ground.width) for row in (0, ground.height)]
    if ground.crs.is_geographic and max(abs(x) for x, _ in corners) > _NEAR_DEGREES:
        return True
    outline = footprint(ground)
    return outline is None or max(map(abs, outline.bounds[::2])) > _NEAR_DEGREES


def holds_pole(ground: Ground) -> bool:
    """Whether a raster in a projection lies around a pole."""
    for lat in (-90, 90):
        x, y = ground.to_lonlat.transform(0, lat, direction="INVERSE")
        col, row = ~ground.transform @ (x, y)
        if 0 < col < ground.width and 0 < row < ground.height:
            return True
    return False


def _outline(ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes along the sides of a raster, without those that are no place on the earth."""
    along = np.linspace(0, 1, _POINTS, endpoint=False)
    there, full = np.zeros(_POINTS), np.ones(_POINTS)
    col = np.concatenate([there, along, full, 1 - along]) * ground.width
    row = np.concatenate([along, full, 1 - along, there]) * ground.height
    lon, lat = ground.to_lonlat.transform(*coordinates(ground.transform, col, row))
    known = np.isfinite(lon) & np.isfinite(lat)
    return lon[known], lat[known]
