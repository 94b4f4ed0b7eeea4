"""Polygons are the map: laws of tracing, sieving, simplifying and measuring, and every format read back."""

import json
import math
import os
import resource
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyarrow.parquet
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
import shapely.geometry
import typer
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.features import rasterize, shapes
from typer.testing import CliRunner

from landcover import classmap
from landcover.cli import vectorize as command
from landcover.cli.parsing import parse_area, parse_classes
from landcover.errors import ConfigError, LandcoverError, MapError, OutputError
from landcover.features import measure
from landcover.ground import Ground, ground_resolution
from landcover.outlines import trace
from landcover.sieve import sieved
from landcover.specs import LandClass, Legend, load_legend
from landcover.stats import stats
from landcover.vectorfiles import FORMATS, SHAPEFILE_NAMES, qml
from landcover.vectorization import polygons, vectorize
from tests.commands import landcover
from tests.maps import NORTH_UP, UTM, blotches, shapes_of, write_confidence, write_map
from tests.scenes import read_map

SAMPLES = Path(__file__).parent.parent / "sample_tiles"
GEOD = pyproj.Geod(ellps="WGS84")
COLUMNS = ["class_id", "class_name", "area_m2", "perimeter_m", "mean_confidence"]

small_maps = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.integers(0, 3)
)
angles = st.floats(-180, 180)
sides = st.floats(0.5, 30) | st.floats(-30, -0.5)


@st.composite
def transforms(draw: st.DrawFn) -> Affine:
    """North-up, south-up, mirrored, rotated and sheared ones, somewhere in a UTM zone."""
    turn, a, b, c = draw(angles), draw(sides), draw(sides), draw(st.floats(-0.8, 0.8))
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    x, y = draw(st.floats(200_000, 800_000)), draw(st.floats(1_000_000, 8_000_000))
    return Affine(a * cos, a * c * cos - b * sin, x, a * sin, a * c * sin + b * cos, y)


def ground_of(shape: tuple[int, int], transform: Affine = NORTH_UP, crs: str = UTM) -> Ground:
    return Ground(pyproj.CRS(crs), transform, *shape)


def read(path: Path) -> geopandas.GeoDataFrame:
    if path.suffix in (".parquet", ".geoparquet"):
        return geopandas.read_parquet(path)
    return geopandas.read_file(path, layer="landcover") if path.suffix == ".gpkg" else geopandas.read_file(path)


def burn(table: geopandas.GeoDataFrame, shape: tuple[int, int], transform: Affine) -> np.ndarray:
    pairs = list(zip(table.geometry, table.class_id, strict=True))
    return rasterize(pairs, out_shape=shape, transform=transform, dtype="uint8") if pairs else np.zeros(shape, "uint8")


# Tracing


@given(small_maps, transforms())
def test_polygons_rasterise_back_to_the_identical_map(ids: np.ndarray, transform: Affine) -> None:
    polygons, values, _ = outlined(ids, transform)
    pairs = list(zip(polygons, values, strict=True))
    back = rasterize(pairs, out_shape=ids.shape, transform=transform, dtype="uint8") if pairs else ids * 0
    np.testing.assert_array_equal(back, ids)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)


def outlined(ids: np.ndarray, transform: Affine, rows: int = 0, *, junctions: bool = True) -> tuple:
    """Polygons, values and pixels of all patches of a map that is traced in strips of some rows; 0 for all at once."""
    height = rows or len(ids)
    strips = ((ids[i : i + height], None) for i in range(0, len(ids), height))
    found = list(trace(strips, ids.shape[1], junctions=junctions))
    polygons = np.concatenate([shapes_of(p, transform) for p in found])
    return polygons, np.concatenate([p.values for p in found]), np.concatenate([p.pixels for p in found])


def as_set(polygons, values) -> list[tuple[bytes, int]]:
    return sorted((shapely.to_wkb(shapely.normalize(p)), int(v)) for p, v in zip(polygons, values, strict=True))


@settings(max_examples=600)
@given(small_maps, st.integers(1, 7))
def test_polygons_are_those_of_gdal_whatever_the_strips(ids: np.ndarray, rows: int) -> None:
    polygons, values, pixels = outlined(ids, Affine.identity(), rows, junctions=False)
    expected = list(shapes(ids, mask=ids > 0, connectivity=4))
    assert as_set(polygons, values) == as_set(
        [shapely.geometry.shape(g) for g, _ in expected], [v for _, v in expected]
    )
    assert shapely.is_valid(polygons).all()
    np.testing.assert_array_equal(shapely.area(polygons), pixels)


def test_polygons_of_a_real_map_are_those_of_gdal() -> None:
    """A sample scene's labels and its brightness in steps, which is speckled, in strips of 1, 50 and all rows."""
    with rasterio.open(SAMPLES / "landsat7_raleigh.tif") as file:
        ids = (file.read(4) // 40 + 1).astype(np.uint8)
    expected = list(shapes(ids, mask=ids > 0, connectivity=4))
    wanted = as_set([shapely.geometry.shape(g) for g, _ in expected], [v for _, v in expected])
    assert len(wanted) > 2000
    for rows in (1, 50, 0):
        polygons, values, _ = outlined(ids, Affine.identity(), rows, junctions=False)
        assert as_set(polygons, values) == wanted


def spiral(side: int) -> np.ndarray:
    """A path of one pixel's width that winds to the middle."""
    ids = np.full((side, side), 2, np.uint8)
    for ring in range(0, side // 2 - 1, 2):
        lo, hi = ring, side - ring
        ids[lo, max(lo - 2, 0) : hi] = ids[lo:hi, hi - 1] = ids[hi - 1, lo:hi] = ids[lo + 2 : hi, lo] = 1
    return ids


@pytest.mark.parametrize(
    "ids",
    [
        np.indices((40, 41)).sum(0).astype(np.uint8) % 2 + np.uint8(1),
        np.indices((41, 40)).prod(0).astype(np.uint8) % 2 + np.uint8(1),
        spiral(41),
        spiral(41).T.copy(),
        np.ones((5, 7), np.uint8),
        np.zeros((5, 7), np.uint8),
    ],
    ids=["checkerboard", "holes", "spiral", "spiral turned", "one patch", "nodata"],
)
@pytest.mark.parametrize("rows", [1, 2, 7, 0])
def test_awkward_maps(ids: np.ndarray, rows: int) -> None:
    polygons, values, _ = outlined(ids, Affine.identity(), rows, junctions=False)
    expected = list(shapes(ids, mask=ids > 0, connectivity=4))
    assert as_set(polygons, values) == as_set(
        [shapely.geometry.shape(g) for g, _ in expected], [v for _, v in expected]
    )


@given(small_maps, st.integers(1, 7))
def test_a_patch_is_weighed_over_its_pixels(ids: np.ndarray, rows: int) -> None:
    weights = np.random.default_rng(0).random(ids.shape)
    weights[weights < 0.1] = np.nan
    strips = ((ids[i : i + rows], weights[i : i + rows]) for i in range(0, len(ids), rows))
    found = list(trace(strips, ids.shape[1]))
    polygons = np.concatenate([shapes_of(p, Affine.identity()) for p in found])
    means = np.concatenate([p.means for p in found])
    for polygon, mean in zip(polygons, means, strict=True):
        inside = rasterize([polygon], out_shape=ids.shape, transform=Affine.identity()) > 0
        known = weights[inside & ~np.isnan(weights)]
        assert (np.isnan(mean) and not len(known)) or mean == pytest.approx(known.mean())


def label_patches(ids: np.ndarray) -> np.ndarray:
    """Number the patches of a small map, nodata too: pixels of one value that are joined by their edges."""
    patch, count = np.full(ids.shape, -1), 0
    for start in np.ndindex(ids.shape):
        edge = [start] if patch[start] < 0 else []
        count += len(edge)
        while edge:
            r, c = edge.pop()
            if patch[r, c] < 0:
                patch[r, c] = count - 1
                near = ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1))
                edge += [
                    (y, x)
                    for y, x in near
                    if 0 <= y < ids.shape[0] and 0 <= x < ids.shape[1] and ids[y, x] == ids[r, c]
                ]
    return patch


# Sieving


def sieve(ids: np.ndarray, min_area: float, ground: Ground) -> np.ndarray:
    """Merge the small patches of a map, given in one piece."""
    cover = np.bincount(ids.ravel(), minlength=256)
    return np.concatenate([rows for _, rows in sieved([(0, ids)], min_area, ground, cover)])


@given(small_maps, st.integers(1, 30))
@example(np.indices((9, 9)).sum(0).astype(np.uint8) % 2 + np.uint8(1), 5)
def test_sieve_leaves_small_patches_only_where_they_have_no_neighbour(ids: np.ndarray, pixels: int) -> None:
    out = sieve(ids, pixels * 100 - 50.0, ground_of(ids.shape))
    np.testing.assert_array_equal(out == 0, ids == 0)
    before, after = label_patches(ids), label_patches(out)
    large = (np.bincount(before.ravel()) >= pixels)[before]
    np.testing.assert_array_equal(out[large], ids[large])
    for number, size in enumerate(np.bincount(after.ravel())):
        here = after == number
        if size < pixels and out[here][0]:
            around = np.zeros_like(here)
            around[1:] |= here[:-1]
            around[:-1] |= here[1:]
            around[:, 1:] |= here[:, :-1]
            around[:, :-1] |= here[:, 1:]
            assert not out[around & ~here].any()


@settings(max_examples=300)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20), elements=st.integers(0, 3)),
    st.integers(1, 20),
    st.integers(1, 7),
)
def test_sieve_does_the_same_whatever_the_strips(ids: np.ndarray, pixels: int, rows: int) -> None:
    area, ground = pixels * 100 - 50.0, ground_of(ids.shape)
    cover = np.bincount(ids.ravel(), minlength=256)
    blocks = ((i, ids[i : i + rows]) for i in range(0, len(ids), rows))
    found = list(sieved(blocks, area, ground, cover))
    assert [row for row, _ in found] == list(np.cumsum([0] + [len(b) for _, b in found])[:-1])
    np.testing.assert_array_equal(np.concatenate([b for _, b in found]), sieve(ids, area, ground))


def test_sieve_leaves_an_island_in_nodata_alone() -> None:
    ids = np.zeros((7, 7), np.uint8)
    ids[3, 3] = 2
    np.testing.assert_array_equal(sieve(ids, 1e6, ground_of(ids.shape)), ids)


def test_sieve_gives_a_patch_to_the_class_with_the_longest_border() -> None:
    """Class 1 covers more of the map and is the larger neighbour, but class 2 holds three of four sides."""
    ids = np.full((9, 9), 1, np.uint8)
    ids[3:6, 3:7] = 2
    ids[3, 4] = 1
    ids[4, 4] = 3
    assert sieve(ids, 150.0, ground_of(ids.shape))[4, 4] == 2


def test_sieve_merges_the_smallest_first_and_stops_at_the_area() -> None:
    """A pixel joins the five around it, and together they are large enough to stay."""
    ids = np.full((7, 7), 1, np.uint8)
    ids[2:4, 2:5] = 2
    ids[2, 3] = 3
    out = sieve(ids, 550.0, ground_of(ids.shape))
    np.testing.assert_array_equal(out[2:4, 2:5], 2)
    assert (sieve(ids, 650.0, ground_of(ids.shape)) == 1).all()


def test_sieve_measures_on_the_ellipsoid_not_in_pixels() -> None:
    """Pixels of a degree grid shrink polewards: one size keeps a patch at the equator, merges it at 80° N."""
    ids = np.full((160, 5), 1, np.uint8)
    ids[1, 2] = ids[158, 2] = 2
    ground = ground_of(ids.shape, Affine(0.5, 0, 0, 0, -0.5, 80), "EPSG:4326")
    areas = ground.pixel_areas(0, 160)
    out = sieve(ids, (areas[1, 2] + areas[158, 2]) / 2, ground)
    assert (out[1, 2], out[158, 2]) == (1, 2)


def test_patches_of_just_the_least_area_stay() -> None:
    """Albers' pixels of 30 m are measured as 900 m², some a hair less."""
    ids = np.full((300, 300), 1, np.uint8)
    for row, col in np.ndindex(30, 30):
        ids[10 * row + 4, 10 * col + 2 : 10 * col + 7] = 2
    ground = ground_of(ids.shape, Affine(30, 0, 1_234_567, 0, -30, 1_876_543), "EPSG:5070")
    np.testing.assert_array_equal(sieve(ids, 4500.0, ground), ids)


def test_min_area_counts_square_metres_in_a_map_of_feet(tmp_path: Path) -> None:
    ids = np.full((20, 20), 1, np.uint8)
    ids[5:7, 5:7], ids[12:15, 12:15] = 2, 3
    feet = write_map(tmp_path / "m.tif", ids, crs="EPSG:2264", transform=Affine(100, 0, 2e6, 0, -100, 6e5))
    one_pixel = (100 * 1200 / 3937) ** 2
    kept = read(vectorize(feet, tmp_path / "p.gpkg", min_area=5 * one_pixel).path)
    assert set(kept.class_id) == {1, 3}
    assert kept.area_m2[kept.class_id == 3].item() == pytest.approx(9 * one_pixel, rel=1e-3)


# Simplifying


def blobs(size: int = 60) -> np.ndarray:
    """A map with rounded patches, like a predicted one, and a bay of nodata."""
    layers = np.random.default_rng(3).random((4, size, size))
    for _ in range(12):
        layers = (layers + sum(np.roll(layers, s, axis) for s in (1, -1) for axis in (1, 2))) / 5
    ids = (layers.argmax(0) + 1).astype(np.uint8)
    ids[: size // 6, : size // 4] = 0
    return ids


@pytest.mark.parametrize(
    ("crs", "transform"),
    [(UTM, NORTH_UP), ("EPSG:4326", Affine(1e-4, 0, 15, 0, -1e-4, 60)), ("EPSG:2264", Affine(33, 0, 2e6, 0, -33, 6e5))],
)
def test_simplified_outlines_have_fewer_nodes_and_stay_near(tmp_path: Path, crs: str, transform: Affine) -> None:
    plain = vectorize(write_map(tmp_path / "m.tif", blobs(), crs=crs, transform=transform), tmp_path / "a.gpkg")
    simple = vectorize(tmp_path / "m.tif", tmp_path / "b.gpkg", simplify=15)
    before, after = read(plain.path), read(simple.path)
    assert shapely.coverage_is_valid(after.geometry.to_numpy())
    points = [shapely.get_num_coordinates(t.geometry.to_numpy()).sum() for t in (before, after)]
    assert points[1] < 0.7 * points[0]
    utm = after.geometry.estimate_utm_crs()
    moved = before.union_all().symmetric_difference(after.union_all()).area
    assert moved < 0.02 * before.union_all().area
    gaps = [a.to_crs(utm).hausdorff_distance(b.to_crs(utm)) for a, b in [(before.geometry, after.geometry)]]
    assert float(np.max(gaps)) < 60


@pytest.mark.parametrize(
    ("crs", "transform"),
    [("EPSG:4326", Affine(1e-4, 0, 15, 0, -1e-4, 60)), ("EPSG:2264", Affine(33, 0, 2e6, 0, -33, 6e5))],
)
def test_simplification_is_in_metres_whatever_the_unit_of_the_map(tmp_path: Path, crs: str, transform: Affine) -> None:
    """Where pixels have another size in metres, as many pixels of tolerance give the same outlines."""

    def outlines(crs: str, transform: Affine, pixels: float) -> list[bytes]:
        write_map(tmp_path / "m.tif", blobs(), crs=crs, transform=transform)
        metres = ground_resolution(transform, rasterio.crs.CRS.from_string(crs), *blobs().shape)
        assert metres
        done = vectorize(tmp_path / "m.tif", tmp_path / "m.gpkg", simplify=pixels * metres, overwrite=True)
        shapes = read(done.path).geometry.to_numpy()
        assert shapely.coverage_is_valid(shapes)
        in_pixels = shapely.transform(
            shapes, lambda xy: np.stack(~transform @ (xy[:, 0], xy[:, 1]), axis=1).round(3) + 0.0
        )
        return sorted(shapely.to_wkb(in_pixels))

    expected = outlines(UTM, NORTH_UP, 1.6)
    assert outlines(crs, transform, 1.6) == expected
    assert outlines(crs, transform, 1.3) != expected


def test_classes_are_chosen_last_and_change_no_shape(tmp_path: Path) -> None:
    write_map(tmp_path / "m.tif", blobs())
    vectorize(tmp_path / "m.tif", tmp_path / "a.gpkg", min_area=1500, simplify=12)
    vectorize(tmp_path / "m.tif", tmp_path / "b.gpkg", min_area=1500, simplify=12, classes=["water", 3])
    every, some = read(tmp_path / "a.gpkg"), read(tmp_path / "b.gpkg")
    expected = every[every.class_id.isin([2, 3])].reset_index(drop=True)
    assert set(some.class_name) == {"water", "urban"}
    assert some.geometry.geom_equals(expected.geometry).all()


# Measuring


def test_area_and_perimeter_are_those_of_the_ellipsoid_with_holes() -> None:
    shell = [(500_000, 5_000_000), (501_000, 5_000_000), (501_300, 5_000_900), (500_000, 5_001_000)]
    hole = [(500_200, 5_000_200), (500_200, 5_000_500), (500_600, 5_000_500)]
    polygon = shapely.Polygon(shell, [hole])
    area, perimeter = measure(np.array([polygon]), ground_of((100, 100), Affine(10, 0, 500_000, 0, -10, 5_001_000)))
    to_lonlat = pyproj.Transformer.from_crs(UTM, 4326, always_xy=True)
    parts = [GEOD.polygon_area_perimeter(*to_lonlat.transform(*np.array(ring).T)) for ring in (shell, hole)]
    assert area[0] == pytest.approx(abs(parts[0][0]) - abs(parts[1][0]), rel=1e-6)
    assert perimeter[0] == pytest.approx(parts[0][1] + parts[1][1], rel=1e-6)


def test_long_edges_follow_the_map_and_not_the_shortest_way() -> None:
    """The border of a box in degrees follows parallels, which are longer than the geodesics between its corners."""
    box = shapely.box(0, 60, 20, 61)
    area, perimeter = measure(np.array([box]), ground_of((1, 20), Affine(1, 0, 0, 0, -1, 61), "EPSG:4326"))
    outline = shapely.get_coordinates(shapely.segmentize(box, 0.001))
    expected = GEOD.polygon_area_perimeter(*outline.T)
    assert (area[0], perimeter[0]) == pytest.approx((abs(expected[0]), expected[1]), rel=1e-6)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, NORTH_UP),
        (UTM, Affine(8, 6, 500_000, 6, -8, 5_000_000)),
        ("EPSG:32760", Affine(10, 0, 820_000, 0, -10, 8_100_000)),
        ("EPSG:4326", Affine(0.001, 0, 179.97, 0, -0.001, -16)),
        ("EPSG:4326", Affine(0.5, 0, 0, 0, 0.5, -70)),
        ("EPSG:3857", Affine(20, 0, 1e6, 0, -20, 8e6)),
        ("EPSG:3413", Affine(500, 0, -15_000, 0, -500, 15_000)),
    ],
)
def test_areas_add_up_to_the_pixels_of_the_map(tmp_path: Path, crs: str, transform: Affine) -> None:
    """In UTM near the antimeridian, across it, south-up, in Mercator, and around the pole."""
    ids = blobs()
    write_map(tmp_path / "m.tif", ids, crs=crs, transform=transform)
    summary = vectorize(tmp_path / "m.tif", tmp_path / "p.gpkg")
    table = read(summary.path)
    (whole,) = stats(tmp_path / "m.tif")
    for row, counted in zip(summary.classes, whole.classes, strict=True):
        assert row.hectares == pytest.approx(counted.hectares, rel=1e-6)
        assert table.area_m2[table.class_id == row.class_id].sum() / 1e4 == pytest.approx(row.hectares)
    np.testing.assert_array_equal(burn(table, ids.shape, transform), ids)


WORLD = 2 * 20037508.342789244


@pytest.mark.parametrize(
    ("crs", "transform", "turn"),
    [
        ("EPSG:32760", Affine(500, 0, 808_000, 0, -500, 8_100_000), None),
        ("EPSG:32601", Affine(500, 0, 170_000, 0, -500, 2_100_000), None),
        ("EPSG:3857", Affine(500, 0, WORLD / 2 - 30_000, 0, -500, -1_800_000), WORLD),
        ("EPSG:3857", Affine(500, 0, 20037508.34 - 30_000, 0, -500, -1_800_000), WORLD),  # an edge 3 mm beside it
        ("EPSG:4326", Affine(1 / 60, 0, 179, 0, -1 / 60, -16), 360),
        ("EPSG:4269", Affine(1 / 60, 0, -181, 0, -1 / 60, 55), 360),
        ("EPSG:4326", Affine(1 / 60, 0, 359, 0, -1 / 60, 50), 360),
        ("EPSG:4326", Affine(1 / 60, 0, 539, 0, -1 / 60, 50), 360),
    ],
)
@pytest.mark.parametrize("how", [{}, {"dissolve": True}, {"connect": 8}], ids=["", "dissolve", "connect"])
def test_geojson_is_cut_at_the_antimeridian(
    tmp_path: Path, crs: str, transform: Affine, turn: float | None, how: dict
) -> None:
    """As RFC 7946 wants it; what is cut is the map all the same, its holes too, and keeps its rows and measures."""
    ids = blotches(0)
    ids[:, 55:65] = 2
    ids[40:50, 58:62], ids[60:70, 60:63], ids[80:90, 57:60] = 0, 1, 3  # across, to the east, to the west
    ids[92:112, 60:72], ids[96:104, 64:68] = 3, 1  # a polygon that only touches it, and its hole
    write_map(tmp_path / "m.tif", ids, crs=crs, transform=transform)
    table, whole = (read(vectorize(tmp_path / "m.tif", tmp_path / n, **how).path) for n in ("p.geojson", "p.gpkg"))
    _is_as_geojson_wants_it(table)
    pandas.testing.assert_frame_equal(table.drop(columns="geometry"), whole.drop(columns="geometry"))
    back = table.to_crs(crs)
    if turn:  # parts on the other side are brought back to where the map has them
        middle = transform.c + transform.a * ids.shape[1] / 2
        back = back.explode(ignore_index=True)
        away = turn * np.round((middle - shapely.get_x(shapely.centroid(back.geometry))) / turn)
        back.geometry = [
            shapely.transform(s, lambda p, x=x: np.add(p, [x, 0])) for s, x in zip(back.geometry, away, strict=True)
        ]
    np.testing.assert_array_equal(burn(back, ids.shape, transform), ids)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("how", [{}, {"dissolve": True}, {"connect": 8}], ids=["", "dissolve", "connect"])
def test_another_crs_of_degrees_is_cut_at_the_antimeridian(tmp_path: Path, suffix: str, how: dict) -> None:
    """In every format, as GeoJSON is; layers hold one kind of shape, so that all are multipolygons."""
    ids = blotches(0)
    write_map(tmp_path / "m.tif", ids, crs="EPSG:32760", transform=Affine(500, 0, 808_000, 0, -500, 8_100_000))
    plain = read(vectorize(tmp_path / "m.tif", tmp_path / "p.geojson", **how).path)
    table = read(vectorize(tmp_path / "m.tif", tmp_path / f"cut{suffix}", crs="EPSG:4326", **how).path)
    assert len(table) == len(plain)
    assert suffix == ".shp" or set(table.geom_type) == {"MultiPolygon"}
    assert shapely.get_num_geometries(table.geometry).max() > 1
    assert table.geometry.is_valid.all()
    pairs = zip(*(frame.dissolve("class_id").geometry for frame in (table, plain)), strict=True)
    assert all(one.symmetric_difference(other).area < 1e-6 for one, other in pairs)


@pytest.mark.parametrize("how", [{}, {"dissolve": True}], ids=["", "dissolve"])
def test_geojson_of_the_whole_earth_counted_from_greenwich(tmp_path: Path, how: dict) -> None:
    """What was cut at 0° is one polygon again, or touches nothing; what lies across 180° is cut there."""
    ids = blotches(0)
    write_map(tmp_path / "m.tif", ids, crs="EPSG:4326", transform=Affine(3, 0, 0, 0, -1, 60))
    table = read(vectorize(tmp_path / "m.tif", tmp_path / "p.geojson", **how).path)
    _is_as_geojson_wants_it(table)
    there = burn(table, ids.shape, Affine(3, 0, -180, 0, -1, 60))
    np.testing.assert_array_equal(there, np.roll(ids, 60, axis=1))


def test_geojson_of_a_map_around_a_pole(tmp_path: Path) -> None:
    """Nothing is cut that has no two sides."""
    ids = np.ones((120, 120), np.uint8)
    ids[30:90, 30:90], ids[50:70, 50:70] = 2, 0
    write_map(tmp_path / "m.tif", ids, crs="EPSG:3413", transform=Affine(500, 0, -30_250, 0, -500, 30_750))
    summary = vectorize(tmp_path / "m.tif", tmp_path / "p.geojson")
    _is_as_geojson_wants_it(read(summary.path))
    assert "land there can lie in the polygon of a neighbour" in " ".join(summary.notes)
    assert not vectorize(tmp_path / "m.tif", tmp_path / "p.gpkg").notes


@pytest.mark.parametrize("how", [{}, {"dissolve": True}, {"connect": 8}], ids=["", "dissolve", "connect"])
@pytest.mark.parametrize(("crs", "seed"), [("EPSG:3413", 0), ("EPSG:6931", 0), ("EPSG:6932", 1)])
def test_geojson_around_a_pole_holds_every_pixel_once(tmp_path: Path, crs: str, seed: int, how: dict) -> None:
    """Wherever the antimeridian lies. Long edges close to the pole are bent: some pixels are a neighbour's."""
    ids, transform = blotches(seed), Affine(500, 0, -30_210, 0, -500, 30_770)
    write_map(tmp_path / "m.tif", ids, crs=crs, transform=transform)
    table = read(vectorize(tmp_path / "m.tif", tmp_path / "p.geojson", **how).path)
    _is_as_geojson_wants_it(table)
    row, col = (n.ravel() for n in np.indices(ids.shape))
    lonlat = pyproj.Transformer.from_crs(crs, 4326, always_xy=True).transform(*(transform @ (col + 0.5, row + 0.5)))
    pixels, polygons = shapely.STRtree(table.geometry).query(shapely.points(*lonlat), predicate="within")
    assert sorted(pixels) == list(range(ids.size))
    assert np.mean(ids.ravel()[pixels] != table.class_id.to_numpy()[polygons]) < 0.02


def test_geojson_of_coarse_pixels_beside_a_pole(tmp_path: Path) -> None:
    """Their edges are as long as the way to it, so that outlines cross themselves in degrees."""
    ids = blotches(0)[:37, :40].copy()
    write_map(tmp_path / "m.tif", ids, crs="EPSG:3413", transform=Affine(25_000, 0, -1_000_000, 0, -25_000, 1_125_000))
    _is_as_geojson_wants_it(read(vectorize(tmp_path / "m.tif", tmp_path / "p.geojson").path))


def _is_as_geojson_wants_it(table: geopandas.GeoDataFrame) -> None:
    assert table.geometry.is_valid.all()
    parts = shapely.get_parts(table.geometry)
    assert np.abs(shapely.bounds(parts)[:, [0, 2]]).max() <= 180
    assert shapely.is_ccw(shapely.get_exterior_ring(parts)).all()
    assert not any(shapely.is_ccw(hole) for part in parts for hole in part.interiors)


def test_points_in_geojson_lie_in_their_polygons(tmp_path: Path) -> None:
    """Between -180 and 180, also where the map counts on."""
    write_map(tmp_path / "m.tif", blotches(0), crs="EPSG:4326", transform=Affine(1 / 60, 0, 179, 0, -1 / 60, -16))
    points, shapes = (
        read(vectorize(tmp_path / "m.tif", tmp_path / f"{how}.geojson", points=how).path).geometry
        for how in (True, False)
    )
    assert shapes.intersects(points).all()


# Files


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A map with its confidence, in a folder of its own."""
    ids = blobs(30)
    write_map(tmp_path / "map.tif", ids)
    percent = np.where(ids == 2, 90, 40)
    percent[0, -1] = percent[ids == 0] = 255
    write_confidence(tmp_path / "confidence.tif", percent)
    return tmp_path / "map.tif"


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_reads_back(scene: Path, suffix: str) -> None:
    out = scene.with_name(f"out{suffix}")
    summary = vectorize(scene, out, confidence=scene.with_name("confidence.tif"))
    table = read(out)
    names = [SHAPEFILE_NAMES.get(c, c) if suffix == ".shp" else c for c in COLUMNS]
    assert list(table.columns) == [*names, "geometry"]
    assert len(table) == summary.polygons > 10
    assert table.crs == ("EPSG:4326" if "json" in suffix else UTM)
    assert table.geometry.is_valid.all()
    confidence = table[names[-1]]
    assert (confidence[table.class_name == "water"] == 90).all()
    assert (confidence[table.class_name != "water"] == 40).all()
    ids = blobs(30)
    np.testing.assert_array_equal(burn(table.to_crs(UTM), ids.shape, NORTH_UP), ids)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_map_of_nodata_gives_an_empty_layer_that_says_so(tmp_path: Path, suffix: str) -> None:
    write_map(tmp_path / "m.tif", np.zeros((5, 6)))
    summary = vectorize(tmp_path / "m.tif", tmp_path / f"o{suffix}", min_area=10, simplify=10)
    table = read(tmp_path / f"o{suffix}")
    assert len(table) == summary.polygons == 0
    assert "nothing but nodata" in summary.notes[0]
    if "json" not in suffix:
        expected = [SHAPEFILE_NAMES.get(c, c) if suffix == ".shp" else c for c in COLUMNS[:-1]]
        assert [c for c in table.columns if c != "geometry"] == expected


def test_a_geopackage_opens_coloured_in_qgis(scene: Path) -> None:
    out = scene.with_name("out.gpkg")
    vectorize(scene, out)
    connection = sqlite3.connect(out)
    (registered,) = connection.execute(
        "SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'"
    ).fetchone()
    table, column, default, style = connection.execute(
        "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML FROM layer_styles"
    ).fetchone()
    (geometry,) = connection.execute("SELECT column_name FROM gpkg_geometry_columns").fetchone()
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert (registered, table, column, default) == ("attributes", "landcover", geometry, 1)
    renderer = ET.fromstring(style).find("renderer-v2")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("attr")) == ("categorizedSymbol", "class_name")
    values = [c.get("value") for c in renderer.iter("category")]
    colours = [o.get("value") for o in renderer.iter("Option") if o.get("name") == "color"]
    legend = load_legend("default")
    assert values == list(legend.names)
    assert colours == [",".join(map(str, (*c.rgb, 255))) for c in legend.classes]


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_polygons_tell_what_made_them(scene: Path, suffix: str) -> None:
    """In the metadata tables of a GeoPackage, as GDAL reads them, and in the schema of GeoParquet; without paths."""
    out = scene.with_name(f"out{suffix}")
    vectorize(scene, out, min_area=500, simplify=12, confidence=scene.with_name("confidence.tif"))
    if suffix == ".gpkg":
        told = pyogrio.read_info(out, layer="landcover")["layer_metadata"]
        connection = sqlite3.connect(out)
        assert connection.execute("SELECT count(*) FROM gpkg_metadata_reference").fetchone() == (1,)
        connection.close()
    else:
        told = {k.decode(): v.decode() for k, v in pyarrow.parquet.read_schema(out).metadata.items()}
    made = json.loads(told["LANDCOVER_POLYGONS"])
    assert made["map"] == "map.tif"
    assert (made["min_area"], made["simplify"], made["confidence"]) == (500, 12, "confidence.tif")
    assert str(scene.parent) not in json.dumps(told)


def test_a_style_holds_any_class_name() -> None:
    legend = Legend(name="x", classes=(LandClass(id=7, name="<\"a\" & 'b'>", color="#010203"),))
    category = next(ET.fromstring(qml(legend)).iter("category"))
    assert category.get("value") == legend.names[0]


def test_a_shapefile_is_replaced_with_all_its_parts(scene: Path) -> None:
    out = scene.with_name("out.shp")
    vectorize(scene, out)
    out.with_suffix(".qix").write_bytes(b"an index of the old polygons")
    with pytest.raises(OutputError, match="exists already"):
        vectorize(scene, out)
    summary = vectorize(scene, out, classes=["water"], overwrite=True)
    assert len(read(out)) == summary.polygons
    assert {p.suffix for p in scene.parent.glob("out.*")} == {".shp", ".shx", ".dbf", ".prj", ".cpg"}


def test_the_help_tells_what_a_shapefile_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    shown = landcover(capsys, "vectorize", "--help").out
    for word in (*SHAPEFILE_NAMES, *SHAPEFILE_NAMES.values(), "2 GB"):
        assert word in shown


def test_a_shapefile_does_not_swallow_a_table_of_the_same_name(scene: Path) -> None:
    scene.with_name("out.dbf").write_bytes(b"someone's table")
    with pytest.raises(OutputError, match=r"out\.dbf exists already"):
        vectorize(scene, scene.with_name("out.shp"))
    assert scene.with_name("out.dbf").read_bytes() == b"someone's table"


def test_a_geopackage_with_a_long_name_is_written(scene: Path) -> None:
    out = scene.parent / ("n" * 150) / ("n" * 150 + "_polygons.gpkg")  # its own path is not too long for SQLite
    out.parent.mkdir()
    vectorize(scene, out)
    assert len(read(out))
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("moved", range(5))
def test_a_stopped_overwrite_mixes_no_shapefiles(scene: Path, monkeypatch: pytest.MonkeyPatch, moved: int) -> None:
    """However many of its parts have been moved: without its .shp no program opens the others as a layer of shapes."""
    out = scene.with_name("out.shp")
    vectorize(scene, out)
    moves = iter(range(10))

    def stop(_: int) -> None:
        if next(moves) == moved:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        vectorize(scene, out, classes=["water"], overwrite=True)
    assert not out.exists()


def test_a_new_geopackage_does_not_inherit_a_journal(scene: Path) -> None:
    stale = scene.with_name("out.gpkg-wal")
    stale.write_bytes(b"pages of a database that is gone")
    vectorize(scene, scene.with_name("out.gpkg"), overwrite=True)
    assert not stale.exists()


# What cannot be used


def broken(tmp_path: Path) -> dict[str, tuple[dict, type[LandcoverError], str]]:
    """Every bad input: arguments, the error, and words of its sentence."""
    ids = blobs(20)
    good = write_map(tmp_path / "good.tif", ids)
    plain = write_map(tmp_path / "plain.tif", ids, tagged=False)
    bare = write_map(tmp_path / "bare.tif", ids, crs=None)
    odd = write_map(tmp_path / "odd.tif", np.where(ids == 1, 9, ids))
    site = write_map(tmp_path / "site.tif", ids, crs='LOCAL_CS["site",UNIT["metre",1]]')
    shifted = write_confidence(tmp_path / "shifted.tif", ids, transform=NORTH_UP @ Affine.translation(1, 0))
    short = write_confidence(tmp_path / "short.tif", ids[1:])
    percent = write_confidence(tmp_path / "percent.tif", np.where(ids == 2, 200, 255))
    table = tmp_path / "table.csv"
    table.write_text("name,size\nfield,3\n")
    whole = write_map(tmp_path / "whole.tif", np.random.default_rng(0).integers(1, 5, (700, 700))).read_bytes()
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    (tmp_path / "there.gpkg").write_text("precious")
    many, real, colours = (
        write_raw(tmp_path / f"{name}.tif", pixels)
        for name, pixels in {
            "many": np.arange(400, dtype=np.uint16).reshape(1, 20, 20) % 300,
            "real": np.full((1, 20, 20), 0.5, np.float32),
            "colours": np.zeros((3, 20, 20), np.uint8),
        }.items()
    )
    classes = [f'[[classes]]\nid = {i}\nname = "c{i}"\ncolor = "#000000"\n' for i in range(1, 301)]
    (tmp_path / "many.toml").write_text('name = "many"\n' + "".join(classes))
    gpkg = tmp_path / "out.gpkg"
    return {
        "missing": ({"map_path": tmp_path / "none.tif", "out": gpkg}, MapError, "No such file"),
        "text": ({"map_path": text, "out": gpkg}, MapError, "cannot be read as a raster"),
        "cut": ({"map_path": cut, "out": gpkg}, MapError, "cannot be read as a raster"),
        "300 classes": ({"map_path": many, "out": gpkg}, MapError, "1 band of uint16, not one of uint8"),
        "300 classes in a legend": (
            {"map_path": good, "out": gpkg, "legend": str(tmp_path / "many.toml")},
            ConfigError,
            "less than or equal to 254",
        ),
        "real numbers": (
            {"map_path": real, "out": gpkg, "legend": "default"},
            MapError,
            "it has 1 band of float32, not one of uint8",
        ),
        "a picture": ({"map_path": colours, "out": gpkg, "legend": "default"}, MapError, "3 bands of uint8"),
        "no legend": ({"map_path": plain, "out": gpkg}, MapError, "carries no legend"),
        "no such legend": ({"map_path": plain, "out": gpkg, "legend": "defalt"}, ConfigError, "did you mean 'default'"),
        "no crs": ({"map_path": bare, "out": gpkg}, MapError, "has no CRS"),
        "metres without crs": (
            {"map_path": bare, "out": gpkg, "allow_no_crs": True, "min_area": 5},
            MapError,
            "cannot be measured",
        ),
        "no place": ({"map_path": site, "out": gpkg}, MapError, "cannot be tied to longitude"),
        "unknown value": ({"map_path": odd, "out": gpkg}, MapError, r"does not know: 9 \(\d+ px\)"),
        "suffix": ({"map_path": good, "out": tmp_path / "out.kml"}, ConfigError, r"'\.kml'.*\.gpkg \.geojson"),
        "no suffix": ({"map_path": good, "out": tmp_path / "out"}, ConfigError, "no suffix"),
        "exists": ({"map_path": good, "out": tmp_path / "there.gpkg"}, OutputError, "--overwrite"),
        "itself": (
            {"map_path": good, "out": tmp_path / "there.gpkg", "aoi": tmp_path / "there.gpkg", "overwrite": True},
            OutputError,
            "is an input of this run",
        ),
        "no folder": ({"map_path": good, "out": tmp_path / "no" / "out.gpkg"}, OutputError, "does not exist"),
        "class": ({"map_path": good, "out": gpkg, "classes": ["watr"]}, ConfigError, "did you mean 'water'"),
        "area": ({"map_path": good, "out": gpkg, "min_area": -1}, ConfigError, "minimum area cannot be -1"),
        "tolerance": (
            {"map_path": good, "out": gpkg, "simplify": math.nan},
            ConfigError,
            "simplification cannot be nan",
        ),
        "shifted": ({"map_path": good, "out": gpkg, "confidence": shifted}, MapError, "its transform differs"),
        "short": ({"map_path": good, "out": gpkg, "confidence": short}, MapError, r"\(19, 20\)"),
        "percent": (
            {"map_path": good, "out": gpkg, "confidence": percent},
            MapError,
            r"holds 200; confidence is 0–100 %",
        ),
        "table": ({"map_path": good, "out": gpkg, "aoi": table}, ConfigError, "holds no polygon"),
        "no confidence": ({"map_path": good, "out": gpkg, "confidence": tmp_path / "c.tif"}, MapError, "No such file"),
    }


def write_raw(path: Path, pixels: np.ndarray) -> Path:
    """Write pixels (bands, rows, cols) that are no class map."""
    bands, height, width = pixels.shape
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=UTM, transform=NORTH_UP, **shape) as file:
        file.write(pixels)
    return path


def test_bad_inputs_are_told_in_one_sentence_and_leave_nothing(tmp_path: Path) -> None:
    for name, (arguments, error, words) in broken(tmp_path).items():
        before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
        with pytest.raises(error, match=words) as caught:
            vectorize(**arguments)
        assert "\n" not in str(caught.value), name
        assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before, name


@pytest.mark.parametrize("lacks", [None, 4])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_is_an_error_and_the_old_file_stays(scene: Path, suffix: str, lacks: int | None) -> None:
    """Full from the beginning, or at the very end, where the last bytes that GDAL holds back are lost."""
    out = scene.with_name(f"out{suffix}")
    vectorize(scene, out)
    most = 2000 if lacks is None else out.stat().st_size - lacks
    vectorize(scene, out, classes=["water"], overwrite=True)
    before = {p.name: p.read_bytes() for p in scene.parent.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            vectorize(scene, out, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in scene.parent.iterdir()} == before


def test_who_watches_is_told_of_every_row_and_can_end_the_work(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", np.tile(blotches(1), (6, 1)))
    told: list[int] = []
    vectorize(path, tmp_path / "p.gpkg", watch=told.append)
    assert sum(told) == 720
    vectorize(path, tmp_path / "p.gpkg", watch=told.append, min_area=1000, overwrite=True)
    assert sum(told) == 720 + 2 * 720, "to know what is small, the map is read once more"

    def end(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vectorize(path, tmp_path / "none.gpkg", watch=end)
    assert not list(tmp_path.glob("*none*"))


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb"])
def test_killed_in_the_middle_it_leaves_nothing_under_its_name(tmp_path: Path, suffix: str) -> None:
    """Killed at ten moments while it writes; then it runs through, over what the killed ones left."""
    write_map(tmp_path / "map.tif", np.random.default_rng(0).integers(1, 5, (1500, 700)).astype(np.uint8))
    out, before = tmp_path / f"out{suffix}", {p.name for p in tmp_path.iterdir()}
    command = [sys.executable, "-m", "landcover", "vectorize", str(tmp_path / "map.tif"), "-o", str(out)]
    for k in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        work = tmp_path / f".{out.name}.work" / "done"
        while process.poll() is None and not (work.exists() and any(p.stat().st_size for p in work.iterdir())):
            time.sleep(0.005)
        time.sleep(0.02 * k)
        process.kill()
        process.wait()
        if out.exists():  # it was done before
            assert len(read(out)) > 1000
            break
    subprocess.run([*command, "--overwrite"], check=True, capture_output=True)
    assert len(read(out)) > 1000
    assert {p.name for p in tmp_path.iterdir()} == before | {out.name}


def test_without_a_crs_areas_are_null(tmp_path: Path) -> None:
    ids = blobs(20)
    write_map(tmp_path / "m.tif", ids, crs=None, transform=Affine.identity())
    for suffix in FORMATS:
        summary = vectorize(tmp_path / "m.tif", tmp_path / f"o{suffix}", allow_no_crs=True)
        table = read(summary.path)
        assert table.area_m2.isna().all(), suffix
        assert all(c.hectares is None for c in summary.classes)
        assert "no CRS" in summary.notes[0]
        np.testing.assert_array_equal(burn(table, ids.shape, Affine.identity()), ids)


def test_a_map_of_another_tool_needs_only_a_legend(tmp_path: Path) -> None:
    write_map(tmp_path / "m.tif", blobs(20), tagged=False)
    assert vectorize(tmp_path / "m.tif", tmp_path / "p.gpkg", legend="default").polygons > 4


# The command

app = typer.Typer()
app.command()(command.vectorize)


def test_the_command_reports_polygons_and_hectares(scene: Path) -> None:
    out = scene.with_name("p.gpkg")
    result = CliRunner().invoke(app, [str(scene), "-o", str(out), "--classes", "water, forest", "--min-area", "0.1ha"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["class", "polygons", "hectares"]
    assert [line.split()[0] for line in lines[2:]] == ["forest", "water"]
    assert "Wrote" in result.stderr


def test_the_command_prints_one_json_document(scene: Path) -> None:
    out = scene.with_name("p.fgb")
    result = CliRunner().invoke(app, [str(scene), "-o", str(out), "--json"])
    told = json.loads(result.stdout)
    table = read(out)
    assert sum(c["polygons"] for c in told["classes"]) == len(table)
    assert sum(c["hectares"] for c in told["classes"]) == pytest.approx(table.area_m2.sum() / 1e4)


@pytest.mark.parametrize(("text", "area"), [("500", 500), ("0.5ha", 5000), (" 2 HA", 20_000), ("12 m²", 12), ("0", 0)])
def test_areas_are_square_metres_or_hectares(text: str, area: float) -> None:
    assert parse_area(text) == area


@pytest.mark.parametrize("text", ["", "ha", "-1", "nan", "inf", "5 acres", "1,5ha"])
def test_other_areas_are_told_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write 500 .* 0\.5ha"):
        parse_area(text)


def test_no_classes_are_a_mistake() -> None:
    assert parse_classes(None) is None
    with pytest.raises(ConfigError, match="names no class"):
        parse_classes([" ,"])


def test_classes_that_are_named_one_by_one_are_all_taken() -> None:
    """As `--classes forest --classes water`, of which the first was forgotten."""
    assert parse_classes(["forest", "water,urban"]) == ("forest", "water", "urban")


def test_a_folder_that_cannot_be_written_is_told(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="cannot be written"):
        vectorize(scene, scene.with_name("p.gpkg"))


# What can be asked for


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet", ".fgb", ".geojson", ".shp"])
def test_dissolved_classes_are_the_same_ground(scene: Path, suffix: str) -> None:
    single, out = scene.with_name("single.gpkg"), scene.with_name(f"out{suffix}")
    conf = scene.with_name("confidence.tif")
    vectorize(scene, single, confidence=conf)
    vectorize(scene, out, dissolve=True, confidence=conf)
    before, after = read(single), read(out).rename(columns={v: k for k, v in SHAPEFILE_NAMES.items()})
    assert sorted(after.class_id) == sorted(set(before.class_id))
    assert after.geometry.is_valid.all()
    ids = read_map(scene)
    percent = read_map(conf).astype(float)
    for row in after.itertuples():
        part = before[before.class_id == row.class_id]
        assert row.area_m2 == pytest.approx(part.area_m2.sum())
        assert len(getattr(row.geometry, "geoms", [row.geometry])) == len(part)
        known = percent[(ids == row.class_id) & (percent != 255)]
        assert row.mean_confidence == pytest.approx(known.mean())


@pytest.mark.parametrize("connect", [4, 8])
def test_points_lie_in_their_polygons(scene: Path, connect: int) -> None:
    vectorize(scene, scene.with_name("polygons.gpkg"), connect=connect)
    vectorize(scene, scene.with_name("points.gpkg"), connect=connect, points=True)
    polygons, points = read(scene.with_name("polygons.gpkg")), read(scene.with_name("points.gpkg"))
    assert set(points.geometry.geom_type) == {"Point"}
    assert shapely.contains_properly(polygons.geometry.to_numpy(), points.geometry.to_numpy()).all()
    np.testing.assert_allclose(points.area_m2, polygons.area_m2)


def test_holes_are_filled(tmp_path: Path) -> None:
    ids = np.ones((9, 9), np.uint8)
    ids[3:5, 3:6] = 2
    write_map(tmp_path / "map.tif", ids)
    vectorize(tmp_path / "map.tif", tmp_path / "out.gpkg", fill_holes=True)
    table = read(tmp_path / "out.gpkg").set_index("class_id")
    assert not table.geometry[1].interiors
    assert table.area_m2[1] == pytest.approx(81 / 6 * table.area_m2[2], rel=1e-3)


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_holes_are_filled_without_a_crs(tmp_path: Path, suffix: str) -> None:
    ids = np.ones((9, 9), np.uint8)
    ids[3:5, 3:6] = 2
    write_map(tmp_path / "map.tif", ids, crs=None)
    table = read(vectorize(tmp_path / "map.tif", tmp_path / f"out{suffix}", fill_holes=True, allow_no_crs=True).path)
    assert shapely.get_num_interior_rings(table.geometry.to_numpy()).sum() == 0
    assert table.area_m2.isna().all()


def test_what_is_counted_is_what_is_written(scene: Path) -> None:
    summary = vectorize(scene, scene.with_name("out.gpkg"), dissolve=True)
    assert summary.polygons == len(read(summary.path)) == 4
    (whole,) = stats(scene)
    assert sum(c.hectares or 0 for c in summary.classes) == pytest.approx(whole.hectares)


@pytest.mark.parametrize(
    "how", [{"dissolve": True, "allow_no_crs": True}, {"dissolve": True}, {"fill_holes": True, "allow_no_crs": True}]
)
def test_what_is_not_known_is_null_and_not_nan(tmp_path: Path, how: dict) -> None:
    """Areas of a map without a CRS, and the mean of a class whose pixels have no confidence."""
    crs = None if "allow_no_crs" in how else UTM
    write_map(tmp_path / "map.tif", blobs(20), crs=crs)
    write_confidence(tmp_path / "c.tif", np.full((20, 20), 255), crs=crs)
    vectorize(tmp_path / "map.tif", tmp_path / "out.parquet", confidence=tmp_path / "c.tif", **how)
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table["mean_confidence"].null_count == len(table)
    assert table["area_m2"].null_count == table["perimeter_m"].null_count == (0 if crs else len(table))


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("ESRI:54009", Affine(1e5, 0, -1.8e7, 0, -1e5, 9.05e6)),
        ("+proj=geos +h=35785831 +lon_0=-75 +sweep=x +ellps=GRS80", Affine(6e4, 0, -1.08e7, 0, -6e4, 5.4e6)),
    ],
)
def test_patches_on_the_earth_are_measured_where_rows_begin_and_end_off_it(
    tmp_path: Path, crs: str, transform: Affine
) -> None:
    """The world in Mollweide's ellipse, and the disc that a geostationary satellite sees."""
    ids = np.zeros((181, 360), np.uint8)
    ids[40:140, 120:240] = np.random.default_rng(0).integers(1, 5, (100, 120))
    path, out = write_map(tmp_path / "map.tif", ids, crs=crs, transform=transform), tmp_path / "out.gpkg"
    counted = {c.class_name: c.hectares for c in stats(path)[0].classes}
    assert {c.class_name: c.hectares for c in vectorize(path, out).classes} == pytest.approx(counted)
    traced = read(out)
    with rasterio.open(path) as dataset:
        _, perimeters = measure(traced.geometry.to_numpy(), Ground.of(dataset))
    assert traced.perimeter_m.to_numpy() == pytest.approx(perimeters, rel=1e-4)
    merged = vectorize(path, out, min_area=traced.area_m2.max() / 3, overwrite=True)
    assert merged.polygons < len(traced) / 2


@pytest.mark.parametrize("how", [{}, {"dissolve": True}, {"fill_holes": True, "smooth": True}])
def test_what_lies_off_the_earth_has_no_area(tmp_path: Path, how: dict) -> None:
    """The corners of a map of the world in Mollweide's ellipse."""
    ids = np.ones((91, 180), np.uint8)
    ids[40:50, 80:90] = 2
    place = Affine(2e5, 0, -1.8e7, 0, -2e5, 9.1e6)
    path, out = write_map(tmp_path / "map.tif", ids, crs="ESRI:54009", transform=place), tmp_path / "out.gpkg"
    forest, water = vectorize(path, out, classes=["forest", "water"], **how).classes
    assert forest.hectares is None
    assert water.hectares == pytest.approx(4e12 / 1e4, rel=0.1)
    assert read(out).set_index("class_name").area_m2.isna().to_dict() == {"forest": True, "water": False}
    with pytest.raises(MapError, match="off the earth, where GeoJSON has no place"):
        vectorize(path, tmp_path / "out.geojson", **how)
    for crs in ("EPSG:4326", "EPSG:3995"):
        with pytest.raises(ConfigError, match="reaches beyond what --crs"):
            vectorize(path, out, crs=crs, overwrite=True, **how)


@pytest.mark.parametrize("how", [{}, {"simplify": 1e5}, {"connect": 8, "dissolve": True}])
def test_a_polygon_across_a_gap_of_an_interrupted_projection_has_no_area(tmp_path: Path, how: dict) -> None:
    """Goode's homolosine, whose lobes the polygon of forest joins; each of its rows begins and ends on the earth."""
    ids = np.zeros((174, 400), np.uint8)
    ids[58:62, 140:180], ids[58:62, 200:260] = 1, 2
    place = Affine(1e5, 0, -2e7, 0, -1e5, 8.7e6)
    path = write_map(tmp_path / "map.tif", ids, crs="+proj=igh +datum=WGS84", transform=place)
    with pytest.raises(MapError, match="has pixels of 'forest' that lie off the earth"):
        stats(path)
    forest, water, *_ = vectorize(path, tmp_path / "out.gpkg", **how).classes
    assert forest.hectares is None
    assert water.hectares == pytest.approx(4 * 60 * 1e6, rel=0.01)
    table = read(tmp_path / "out.gpkg").set_index("class_name")
    assert table[["area_m2", "perimeter_m"]].isna().all(axis=1).to_dict() == {"forest": True, "water": False}


def test_an_area_beside_the_map_is_told(scene: Path) -> None:
    geopandas.GeoSeries([shapely.box(0, 0, 9, 9)], crs=UTM).to_file(scene.with_name("far.gpkg"))
    summary = vectorize(scene, scene.with_name("out.gpkg"), aoi=scene.with_name("far.gpkg"))
    assert summary.notes == ("nothing of the map lies within --aoi, so the layer is empty",)


def test_what_lies_outside_an_area_is_left_out(scene: Path) -> None:
    left, top = NORTH_UP @ (0, 0)
    half = shapely.box(left + 100, top - 300, left + 200, top)  # columns 10 to 20
    area = geopandas.GeoDataFrame(geometry=[half], crs=UTM).to_crs(4326)
    area.to_file(scene.with_name("area.geojson"))
    vectorize(scene, scene.with_name("out.gpkg"), aoi=scene.with_name("area.geojson"))
    ids = read_map(scene)
    ids[:, :10] = ids[:, 20:] = 0
    np.testing.assert_array_equal(burn(read(scene.with_name("out.gpkg")), ids.shape, NORTH_UP), ids)


IN_FEET = "+proj=utm +zone=18 +datum=WGS84 +units=us-ft", Affine(30, 0, 1_400_000, 0, -30, 13_800_000)
IN_KILOMETRES = "+proj=utm +zone=18 +datum=WGS84 +units=km", Affine(0.01, 0, 430, 0, -0.01, 4200)
FROM_PARIS = "+proj=longlat +ellps=WGS84 +pm=paris", Affine(1e-4, 0, 5, 0, -1e-4, 47)
EQUAL_AREA = "+proj=laea +lat_0=10 +lon_0=-80 +datum=WGS84", Affine(30, 0, 5000, 0, -30, 7000)


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".shp", ".geojson", ".parquet"])
@pytest.mark.parametrize(("crs", "transform"), [IN_FEET, IN_KILOMETRES, FROM_PARIS, EQUAL_AREA])
def test_a_crs_without_a_code_is_kept_or_refused(tmp_path: Path, suffix: str, crs: str, transform: Affine) -> None:
    """Polygons lie where the map lies, though drivers know a CRS by its name and overlook its unit or meridian."""
    ids = np.full((20, 30), 2, np.uint8)
    source, out = write_map(tmp_path / "map.tif", ids, crs=crs, transform=transform), tmp_path / f"polygons{suffix}"
    if suffix == ".fgb" and crs in (IN_FEET[0], IN_KILOMETRES[0]):
        with pytest.raises(OutputError, match="polygons would lie elsewhere"):
            vectorize(source, out)
        assert not list(tmp_path.glob("*polygons*"))
        return
    vectorize(source, out)
    found = geopandas.read_parquet(out) if suffix == ".parquet" else geopandas.read_file(out, layer=0)
    corners = shapely.MultiPoint([transform @ (col, row) for row in (0, 20) for col in (0, 30)])
    wanted = geopandas.GeoSeries([corners], crs=crs).to_crs("EPSG:4326").total_bounds
    assert np.allclose(found.to_crs("EPSG:4326").total_bounds, wanted, atol=1e-6)


def test_a_map_is_no_confidence(tmp_path: Path) -> None:
    source = write_map(tmp_path / "map.tif", np.full((20, 30), 2, np.uint8))
    with pytest.raises(MapError, match="is not a confidence raster"):
        vectorize(source, tmp_path / "polygons.gpkg", confidence=source)


def test_another_crs_moves_nothing_and_changes_no_area(scene: Path) -> None:
    vectorize(scene, scene.with_name("here.gpkg"))
    vectorize(scene, scene.with_name("there.gpkg"), crs="EPSG:3035")
    here, there = read(scene.with_name("here.gpkg")), read(scene.with_name("there.gpkg"))
    assert there.crs.to_epsg() == 3035
    assert here.to_crs(3035).geometry.geom_equals_exact(there.geometry, 1e-6).all()
    np.testing.assert_allclose(here.area_m2, there.area_m2)


@pytest.mark.parametrize(
    ("name", "crs", "kept"),
    [
        ("out.geojson", "EPSG:3035", False),
        ("out.json", "EPSG:4258", False),
        ("out.geojson", "EPSG:4326", True),
        ("out.geojson", "OGC:CRS84", True),
        ("out.geojson", None, True),
        ("out.fgb", "EPSG:3035", True),
    ],
)
def test_a_crs_that_geojson_does_not_keep_is_told(scene: Path, name: str, crs: str | None, kept: bool) -> None:
    notes = vectorize(scene, scene.with_name(name), crs=crs).notes
    assert notes == () if kept else "GeoJSON is longitude and latitude" in notes[0]


@pytest.mark.parametrize(
    ("crs", "transform", "wanted", "says"),
    [
        ("EPSG:32760", Affine(500, 0, 810_000, 0, -500, 8_100_000), "EPSG:3857", "cross its antimeridian"),
        ("EPSG:4326", Affine(0.01, 0, 179.8, 0, -0.01, -16), "EPSG:3857", "cross its antimeridian"),
        ("EPSG:3413", Affine(500, 0, -10_250, 0, -500, 2_750), "EPSG:4326", "around a pole"),
        ("EPSG:4326", Affine(9, 0, -180, 0, -9, 45), "+proj=gnom +lat_0=90", r"beyond what --crs .* can show"),
    ],
)
@pytest.mark.parametrize("how", [{}, {"dissolve": True}])
def test_no_polygon_is_torn(tmp_path: Path, crs: str, transform: Affine, wanted: str, says: str, how: dict) -> None:
    write_map(tmp_path / "map.tif", np.full((10, 40), 1, np.uint8), crs=crs, transform=transform)
    with pytest.raises(ConfigError, match=says):
        vectorize(tmp_path / "map.tif", tmp_path / "out.gpkg", crs=wanted, **how)
    assert not (tmp_path / "out.gpkg").exists()


def test_what_cannot_be_asked_for(scene: Path) -> None:
    with pytest.raises(ConfigError, match="--crs 'EPSG:99' is not a coordinate reference system"):
        vectorize(scene, scene.with_name("out.gpkg"), crs="EPSG:99")
    for crs in ("EPSG:5773", "EPSG:4978", 'LOCAL_CS["x"]'):
        with pytest.raises(ConfigError, match="says nothing of places on the earth"):
            vectorize(scene, scene.with_name("out.gpkg"), crs=crs)
    for other in ("dissolve", "fill_holes"):
        with pytest.raises(ConfigError, match="exclude each other"):
            vectorize(scene, scene.with_name("out.gpkg"), points=True, **{other: True})
    with pytest.raises(ConfigError, match="classes is one text, 'water'"):
        vectorize(scene, scene.with_name("out.gpkg"), classes="water")
    with pytest.raises(ConfigError, match=r"write \.shp in small letters"):
        vectorize(scene, scene.with_name("out.SHP"))
    with pytest.raises(ConfigError, match="--connect 8 and --min-area exclude"):
        vectorize(scene, scene.with_name("out.gpkg"), connect=8, min_area=500)
    with pytest.raises(ConfigError, match="--fill-holes goes with single polygons"):
        vectorize(scene, scene.with_name("out.gpkg"), fill_holes=True, dissolve=True)
    write_map(scene.with_name("nowhere.tif"), blobs(30), crs=None)
    with pytest.raises(ConfigError, match="the map has no CRS; leave it out"):
        vectorize(scene.with_name("nowhere.tif"), scene.with_name("out.gpkg"), crs="EPSG:4326", allow_no_crs=True)
    assert not scene.with_name("out.gpkg").exists()


def test_polygons_are_yielded_while_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook gets all polygons of the file, in tables, and the first ones before the last rows are read."""
    monkeypatch.setattr(classmap, "STRIP_PIXELS", 1)
    ids = np.kron(np.random.default_rng(0).integers(0, 4, (90, 30)), np.ones((24, 24))).astype(np.uint8)
    write_map(tmp_path / "map.tif", ids)
    vectorize(tmp_path / "map.tif", tmp_path / "out.gpkg", classes=["forest", "water"])
    tables = list(polygons(tmp_path / "map.tif", classes=["forest", "water"]))
    assert len(tables) > 2
    whole = pandas.concat(tables)
    written = read(tmp_path / "out.gpkg")
    assert as_set(whole.geometry, whole.class_id) == as_set(written.geometry, written.class_id)
    assert list(whole.columns) == list(written.columns)
    with pytest.raises(ConfigError, match="dissolve takes all polygons"):
        next(polygons(tmp_path / "map.tif", dissolve=True))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_map_that_breaks_in_the_middle_is_told_and_leaves_nothing(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The polygons of the first rows are on their way to the file when the broken ones are met."""
    monkeypatch.setattr(classmap, "STRIP_PIXELS", 1)
    write_map(tmp_path / "whole.tif", np.random.default_rng(0).integers(1, 5, (2048, 700)).astype(np.uint8))
    content = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "map.tif").write_bytes(content[: len(content) * 2 // 3])
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(MapError, match="cannot be read as a raster"):
        vectorize(tmp_path / "map.tif", tmp_path / f"out{suffix}")
    assert {p.name for p in tmp_path.iterdir()} == before


def test_geoparquet_is_written_without_pandas(scene: Path) -> None:
    """Loading it takes as long as tracing 20 million pixels."""
    code = "import sys, landcover; landcover.vectorize(*sys.argv[1:]); assert 'pandas' not in sys.modules"
    out = scene.with_name("out.parquet")
    subprocess.run([sys.executable, "-c", code, scene, out], check=True)
    assert len(read(out)) > 0


def test_geoparquet_holds_the_bounds_of_each_row(scene: Path) -> None:
    vectorize(scene, scene.with_name("out.parquet"))
    table = read(scene.with_name("out.parquet"))
    told = json.loads(pyarrow.parquet.read_schema(scene.with_name("out.parquet")).metadata[b"geo"])
    assert told["version"] == "1.1.0"
    assert told["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    some = table.geometry.iloc[3]
    near = geopandas.read_parquet(scene.with_name("out.parquet"), bbox=some.bounds)
    assert 0 < len(near) < len(table)
    assert near.geometry.envelope.intersects(shapely.box(*some.bounds)).all()
    group = pyarrow.parquet.read_metadata(scene.with_name("out.parquet")).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {c.path_in_schema for c in columns if not c.is_stats_set} == {"geometry"}, "by the others rows are left out"


@settings(max_examples=300)
@given(small_maps, st.integers(1, 7))
def test_with_corners_joined_polygons_are_those_of_gdal_made_valid(ids: np.ndarray, rows: int) -> None:
    """GDAL lets a shell touch itself, which is not valid; the same ground in parts is."""
    strips = ((ids[i : i + rows], None) for i in range(0, len(ids), rows))
    found = list(trace(strips, ids.shape[1], diagonal=True))
    geometries = np.concatenate([shapes_of(p, Affine.identity()) for p in found])
    values = np.concatenate([p.values for p in found])
    assert shapely.is_valid(geometries).all()
    np.testing.assert_array_equal(shapely.area(geometries), np.concatenate([p.pixels for p in found]))
    expected = list(shapes(ids, mask=ids > 0, connectivity=8))
    valid = [shapely.make_valid(shapely.geometry.shape(g)) for g, _ in expected]
    assert as_set(geometries, values) == as_set(valid, [v for _, v in expected])


def test_corners_can_be_joined(tmp_path: Path) -> None:
    write_map(tmp_path / "map.tif", np.indices((6, 6)).sum(0).astype(np.uint8) % 2 + np.uint8(1))
    for connect, count in ((4, 36), (8, 2)):
        out = tmp_path / f"{connect}.gpkg"
        assert vectorize(tmp_path / "map.tif", out, connect=connect).polygons == count
        table = read(out)
        assert table.geometry.is_valid.all()
        area = table.area_m2.sum()
        assert table.area_m2.groupby(table.class_name).sum().tolist() == pytest.approx([area / 2] * 2, rel=1e-3)
    with pytest.raises(ConfigError, match="--connect 6 is not known"):
        vectorize(tmp_path / "map.tif", tmp_path / "out.gpkg", connect=6)


@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_dissolved_is_an_empty_layer(tmp_path: Path, suffix: str) -> None:
    write_map(tmp_path / "map.tif", np.zeros((9, 9), np.uint8))
    summary = vectorize(tmp_path / "map.tif", tmp_path / f"out{suffix}", dissolve=True)
    assert summary.polygons == 0
    assert len(read(tmp_path / f"out{suffix}")) == 0


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_an_interrupt_while_polygons_are_made_ends_the_command(
    scene: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("landcover.outlines.strips.Walker.walk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vectorize(scene, scene.with_name(f"out{suffix}"))
    assert {p.name for p in scene.parent.iterdir() if p.name.startswith((".", "out"))} == set()


@pytest.mark.parametrize(("suffix", "crs"), [(".gpkg", None), (".gpkg", "EPSG:3035"), (".geojson", None)])
def test_no_gap_opens_in_a_file_whatever_its_crs(scene: Path, suffix: str, crs: str | None) -> None:
    """Neighbours have the same vertices, so they also meet where straight lines are bent by another CRS."""
    out = scene.with_name(f"out{suffix}")
    vectorize(scene, out, crs=crs)
    assert shapely.coverage_is_valid(read(out).geometry.to_numpy())
