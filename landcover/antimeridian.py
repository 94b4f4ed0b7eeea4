"""Polygons in longitude and latitude that cross the antimeridian or lie around a pole: cut there, or in one piece.

References:
    Butler et al. 2016, The GeoJSON Format (RFC 7946), section 3.1.9.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from shapely.geometry.base import BaseGeometry

_LEAST_DEGREES = 1e-7
"""A hundredth of a metre: parts that are not wider only touch the antimeridian, but for rounding."""

_EXACT = 2.0**40
"""Parts of a degree that longitudes are rounded to, for then 360 more or less loses no digit, and outlines close."""


def lonlat_parts(shapes: np.ndarray, crs: CRS, there: CRS) -> np.ndarray:
    """Polygons or multipolygons (n,) in longitude and latitude, between -180 and 180.

    Those that cross the antimeridian become multipolygons of parts on either side of it. What lies around a pole
    reaches up to it.

    Args:
        shapes: in `crs`; where that is geographic, longitudes may be below -180 or above 180.
        crs: of the shapes.
        there: the geographic CRS to bring them to, in degrees.
    """
    polygons, of = shapely.get_parts(shapes, return_index=True)
    pieces, polygon = shapely.get_parts(_moved(polygons, crs, there), return_index=True)
    moved = _at_the_antimeridian(_collected(pieces, of[polygon], shapes))
    bounds = shapely.bounds(moved)
    for i in np.flatnonzero((bounds[:, 0] < -180) | (bounds[:, 2] > 180)):
        whole = shapely.make_valid(moved[i])
        parts = shapely.get_parts(shapely.union_all(turns(whole)))  # a whole turn meets itself again
        moved[i] = parts[0] if len(parts) == 1 and moved[i].geom_type == "Polygon" else _together(parts)
    return moved


def in_one_piece(shapes: np.ndarray) -> np.ndarray:
    """Polygons or multipolygons (n,) of longitudes, those that were torn at ±180 in one piece that goes on beyond it.

    What lies around a pole reaches up to it, and once around the earth.

    Args:
        shapes: as PROJ brings them to longitudes from -180 to 180, with edges that are short on the earth.
    """
    west, _, east, _ = shapely.bounds(shapes).reshape(-1, 4).T
    for i in np.flatnonzero(east - west > 180):
        parts = [_going_on(part) if _jumps(part) else part for part in shapely.get_parts(shapes[i])]
        shapes[i] = _together([p for p in shapely.get_parts(parts) if p.geom_type == "Polygon"])
    return shapes


def as_counted(shapes: np.ndarray, transform: Affine, size: tuple[int, int]) -> np.ndarray:
    """Shapes in degrees that reach a raster as it counts longitudes, also below -180 or above 180; all if none does."""
    lons = [(transform @ (col, row))[0] for row in (0, size[0]) for col in (0, size[1])]
    low, _, high, _ = shapely.bounds(shapes).reshape(-1, 4).T
    reaching = [
        shapely.transform(shapes[(low + turn < max(lons)) & (high + turn > min(lons))], partial(np.add, (turn, 0)))
        for turn in (0, -360, 360, -720, 720)
    ]
    return found if len(found := np.concatenate(reaching)) else shapes


def within(shapes: np.ndarray, bounds: tuple[float, float, float, float]) -> np.ndarray:
    """What of shapes (n,) between -180 and 180 lies within bounds in degrees, whose longitudes may go on beyond."""
    cut = [shapely.clip_by_rect(shapes, *part.bounds) for part in turns(shapely.box(*bounds))]
    if len(cut) == 1:
        return cut[0]
    parts = (shapely.get_parts(np.array(pieces, object)) for pieces in zip(*cut, strict=True))
    there = [some[~shapely.is_empty(some)] for some in parts]
    flat = (shapely.get_dimensions(shapes) == 2).all()
    return np.array([_together(some) if flat else shapely.geometrycollections(some) for some in there], object)


def _together(parts: Sequence[BaseGeometry]) -> BaseGeometry:
    """The multipolygon of some polygons, or of none."""
    return shapely.multipolygons(np.array(parts, object))


def _jumps(polygon: BaseGeometry) -> bool:
    """Whether an outline comes from one side of ±180 to the other in a step."""
    return any((np.abs(np.diff(shapely.get_coordinates(r)[:, 0])) > 180).any() for r in shapely.get_rings(polygon))


def _going_on(polygon: BaseGeometry) -> BaseGeometry:
    """A polygon whose outlines go on beyond ±180 where they jumped, its holes wherever they meet its shell."""
    shell, *holes = (make_whole(*shapely.get_coordinates(ring).T) for ring in shapely.get_rings(polygon))
    west, _, east, _ = shell.bounds
    lacking = [
        shapely.transform(hole, lambda points, turn=turn: points + np.array([360 * turn, 0]))
        for hole in holes
        for turn in range(math.ceil((west - hole.bounds[2]) / 360), math.floor((east - hole.bounds[0]) / 360) + 1)
    ]
    return shapely.difference(shell, shapely.union_all(lacking))


def make_whole(lon: np.ndarray, lat: np.ndarray) -> BaseGeometry:
    """The polygon within a closed outline in degrees, (n,) each, whose longitudes go on beyond ±180 where they jump.

    An outline around a pole is led to it and along it, from where it is nearest, so that it is not crossed on the way.
    """
    pole = math.copysign(90, lat.mean())
    nearest = np.argmax(lat * pole)
    lon, lat = (np.append(np.roll(v[:-1], -nearest), v[nearest]) for v in (lon, lat))
    turned = 360 * np.append(0, np.cumsum(np.round(np.diff(lon) / 360)))
    if turned[-1] == 0:
        return shapely.make_valid(shapely.Polygon(np.column_stack([lon - turned, lat])))
    lon = np.round(lon * _EXACT) / _EXACT - turned
    there = [[lon[-1], pole], [lon[0], pole], [lon[0], lat[0]]]
    return shapely.make_valid(shapely.Polygon(np.vstack([np.column_stack([lon, lat]), there])))


def turns(whole: BaseGeometry) -> list[BaseGeometry]:
    """The polygons of a shape whose longitudes may exceed 180, each brought to where they don't."""
    west, _, east, _ = whole.bounds
    parts = []
    for turn in range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360)):
        within = shapely.intersection(whole, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
        for part in shapely.get_parts(within):
            if part.geom_type == "Polygon" and part.bounds[2] - part.bounds[0] > _LEAST_DEGREES:
                parts.append(shapely.transform(part, lambda points, turn=turn: points - [360 * turn, 0]))
    return parts


def torn(before: np.ndarray, after: np.ndarray, move: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Which shapes have an edge whose ends came to lie apart, so that its middle is not between them; bool (n,).

    Args:
        before: polygons or multipolygons (n,).
        after: the same, moved point by point.
        move: what moved them, from points (m, 2) to points (m, 2).
    """
    parts, shape = shapely.get_parts(before, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    start = np.flatnonzero(ring[1:] == ring[:-1])
    ends = shapely.get_coordinates(after)
    aside = move((points[start] + points[start + 1]) / 2) - (ends[start] + ends[start + 1]) / 2
    apart = np.linalg.norm(aside, axis=1) > np.linalg.norm(ends[start + 1] - ends[start], axis=1) / 4
    found = np.zeros(len(before), bool)
    found[shape[part[ring[start[apart]]]]] = True
    return found


def _moved(polygons: np.ndarray, crs: CRS, there: CRS) -> np.ndarray:
    """Polygons in longitude and latitude, in one piece: longitudes go on beyond ±180 where they have to."""
    transformer = Transformer.from_crs(crs, there, always_xy=True)

    def move(points: np.ndarray) -> np.ndarray:
        return np.stack(transformer.transform(*points.T), axis=1)

    def turn(points: np.ndarray) -> np.ndarray:
        return np.stack([points[:, 0] % 360, points[:, 1]], axis=1)

    lonlat = shapely.transform(polygons, move)
    if crs.is_geographic:
        x, points = shapely.get_coordinates(polygons)[:, 0], shapely.get_coordinates(lonlat)
        points[:, 0] += 360 * np.round((x - points[:, 0]) / 360)  # as the map counts them
        return shapely.set_coordinates(lonlat, points)
    west, _, east, _ = shapely.bounds(lonlat).reshape(-1, 4).T
    wide = np.flatnonzero(east - west > 180)
    apart = wide[torn(polygons[wide], lonlat[wide], move)]
    turned = shapely.transform(lonlat[apart], turn)
    whole = ~torn(polygons[apart], turned, lambda points: turn(move(points)))
    lonlat[apart[whole]] = turned[whole]
    lonlat[apart[~whole]] = in_one_piece(lonlat[apart[~whole]])
    return lonlat


def _at_the_antimeridian(shapes: np.ndarray) -> np.ndarray:
    """Shapes whose points lie on the antimeridian where they are next to it, so that no part is thinner than digits."""
    points = shapely.get_coordinates(shapes)
    there = 360 * np.round((points[:, 0] - 180) / 360) + 180
    points[:, 0] = np.where(np.abs(points[:, 0] - there) < _LEAST_DEGREES, there, points[:, 0])
    return shapely.set_coordinates(shapes, points)


def _collected(parts: np.ndarray, of: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Polygons, in order, brought together by the number of the shape they are of: multipolygons, but for lone ones."""
    lone = (np.bincount(of, minlength=len(shapes)) == 1) & (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON)
    out = np.empty(len(shapes), object)
    alone = lone[of]
    out[of[alone]] = parts[alone]
    several, index = np.unique(of[~alone], return_inverse=True)
    out[several] = shapely.multipolygons(parts[~alone], indices=index)
    return out
