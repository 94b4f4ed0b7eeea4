"""Footprints: an outline in longitude and latitude is where the pixels are, at the antimeridian and the poles too."""

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from landcover.footprints import bounds, box, footprint
from landcover.ground import Ground


def ground(crs: str, west: float, north: float, pixel: float, height: int = 100, width: int = 100) -> Ground:
    return Ground(pyproj.CRS(crs), Affine(pixel, 0, west, 0, -pixel, north), height, width)


def points(place: Ground, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Where fractions of a raster's height and width lie, as shapely points."""
    lon, lat = place.to_lonlat.transform(*(place.transform @ (cols * place.width, rows * place.height)))
    return shapely.points((lon + 180) % 360 - 180, lat)


PLACES = [
    ground("EPSG:32633", 300_000, 5_100_000, 1000),
    ground("EPSG:32660", 600_000, 200_000, 3000),  # across the antimeridian
    ground("EPSG:32701", 100_000, 8_500_000, 5000),  # the same, from the east
    ground("EPSG:3413", -1_000_000, 1_000_000, 20_000),  # around the North Pole
    ground("EPSG:3031", -2_000_000, 2_000_000, 40_000),  # around the South Pole
    ground("EPSG:3413", 500_000, 900_000, 3000),  # near it
    ground("EPSG:4326", -180, 90, 1.8, 100, 200),  # all of it
    ground("EPSG:4326", 170, 10, 0.2),  # longitudes beyond 180
    ground("EPSG:3857", 20_000_000, 5_000_000, 3000, 300, 10),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda p: f"{p.crs.to_authority()[1]} at {p.transform.c:g}")
@given(row=st.floats(-0.3, 1.3), col=st.floats(-0.3, 1.3))
def test_a_point_lies_in_the_footprint_if_it_lies_on_the_raster(place: Ground, row: float, col: float) -> None:
    if min(abs(row), abs(row - 1), abs(col), abs(col - 1)) < 0.003:
        return  # the sides are not told more exactly
    whole_world = place.crs.is_geographic and place.width == 200
    if whole_world and not (0 < row < 1 and 0 < col < 1):
        return
    (point,) = points(place, np.array([row]), np.array([col]))
    if not np.isfinite(shapely.get_coordinates(point)).all():
        return
    outline = footprint(place)
    assert outline is not None
    assert outline.intersects(point) == (0 < row < 1 and 0 < col < 1)


@pytest.mark.parametrize("place", PLACES)
def test_footprints_are_as_geojson_wants_them(place: Ground) -> None:
    outline = footprint(place)
    assert outline is not None
    assert outline.is_valid
    west, south, east, north = outline.bounds
    assert -180 <= west < east <= 180
    assert -90 <= south < north <= 90
    assert all(shapely.is_ccw(part.exterior) for part in shapely.get_parts(outline))
    assert shapely.get_num_coordinates(outline) < 150


def test_bounds_across_the_antimeridian_begin_in_the_west() -> None:
    west, _, east, _ = bounds(footprint(PLACES[7]))
    assert (west, east) == pytest.approx((170, -170))
    assert bounds(footprint(PLACES[6])) == [-180, -90, 180, 90]
    assert bounds(footprint(PLACES[3]))[0::2] == [-180, 180]
    west, _, east, _ = bounds(footprint(PLACES[1]))
    assert west > 170
    assert east < -170
    assert bounds(box(170, 0, -170, 1)) == [170, 0, -170, 1]
    assert bounds(box(-170, 0, 170, 1)) == [-170, 0, 170, 1]


def test_straight_sides_take_few_points() -> None:
    assert footprint(ground("EPSG:4326", 10, 10, 0.01)).equals(shapely.box(10, 9, 11, 10))
    assert shapely.get_num_coordinates(footprint(ground("EPSG:4326", 10, 10, 0.01))) == 5


def test_an_outline_that_is_nowhere_is_none() -> None:
    assert footprint(ground("+proj=ortho +lat_0=0 +lon_0=0", 9e6, 9e6, 10)) is None
