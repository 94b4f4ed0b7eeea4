"""Hectares: pixel areas against the ellipsoid, memory-bounded counting, and zones."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyproj
import pytest
import rasterio
import shapely
import typer
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.crs import CRS
from rasterio.env import get_gdal_config
from typer.testing import CliRunner

import landcover.classmap
from landcover.cli import stats as command
from landcover.errors import ConfigError, LandcoverError, MapError, SceneError
from landcover.grid import Box
from landcover.ground import Ground
from landcover.regions import box_of_bounds
from landcover.specs import load_legend
from landcover.stats import stats
from tests.commands import landcover as run
from tests.commands import refused
from tests.maps import NORTH_UP, UTM, write_map

GEOD = pyproj.Geod(ellps="WGS84")
EARTH = 510_065_621_724_088.5
"""Surface of the WGS 84 ellipsoid in m²."""


def area_of_pixel(ground: Ground, row: int, col: int) -> float:
    """Area by geodesics along the outline of a pixel, finely divided."""
    share = np.linspace(0, 1, 50, endpoint=False)
    cols = col + np.concatenate([share, share * 0 + 1, 1 - share, share * 0])
    rows = row + np.concatenate([share * 0, share, share * 0 + 1, 1 - share])
    t = ground.transform
    x, y = t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f
    return abs(GEOD.polygon_area_perimeter(*ground.to_lonlat.transform(x, y))[0])


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        (UTM, NORTH_UP),
        (UTM, Affine(700, 300, 400_000, 300, -700, 5_000_000)),
        ("EPSG:32760", Affine(30, 0, 820_000, 0, -30, 8_100_000)),
        ("EPSG:4326", Affine(0.01, 0, 179, 0, -0.01, 71)),
        ("EPSG:4326", Affine(0.01, 0.002, 10, 0.001, -0.01, 60)),
        ("EPSG:3857", Affine(100, 0, 1e6, 0, -100, 8e6)),
        ("EPSG:3413", Affine(500, 0, -60_000, 0, -500, 60_000)),
        ("EPSG:2264", Affine(33, 0, 2e6, 0, -33, 6e5)),
    ],
)
def test_pixel_areas_are_those_of_the_ellipsoid(crs: str, transform: Affine) -> None:
    ground = Ground(pyproj.CRS(crs), transform, 240, 300)
    areas = ground.pixel_areas(0, 240)
    for row, col in [(0, 0), (0, 299), (239, 0), (121, 133), (37, 261), (239, 299)]:
        assert areas[row, col] == pytest.approx(area_of_pixel(ground, row, col), rel=3e-7)


def test_a_map_of_the_world_has_the_surface_of_the_earth() -> None:
    ground = Ground(pyproj.CRS(4326), Affine(0.5, 0, -180, 0, -0.5, 90), 360, 720)
    assert ground.pixel_areas(0, 360).sum() == pytest.approx(EARTH, rel=1e-9)


@given(st.integers(0, 299), st.integers(1, 80))
def test_pixel_areas_do_not_depend_on_how_rows_are_cut(start: int, rows: int) -> None:
    ground = Ground(pyproj.CRS(UTM), Affine(700, 300, 400_000, 300, -700, 5_000_000), 300, 40)
    stop = min(300, start + rows)
    np.testing.assert_allclose(ground.pixel_areas(start, stop), ground.pixel_areas(0, 300)[start:stop], rtol=1e-12)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 4)))
def test_every_pixel_is_counted_once(tmp_path_factory: pytest.TempPathFactory, ids: np.ndarray) -> None:
    (table,) = stats(write_map(tmp_path_factory.mktemp("law") / "m.tif", ids))
    assert [c.pixels for c in table.classes] == [(ids == c.class_id).sum() for c in table.classes]
    assert table.nodata_pixels == (ids == 0).sum()
    whole = Ground(pyproj.CRS(UTM), NORTH_UP, *ids.shape).pixel_areas(0, len(ids)).sum() / 1e4
    assert table.hectares + table.nodata_hectares == pytest.approx(whole)


def checkers(height: int, width: int) -> np.ndarray:
    return (np.indices((height, width)).sum(0) % 5).astype(np.uint8)


def test_strips_give_the_same_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_map(tmp_path / "m.tif", checkers(1200, 50))
    zones = geopandas.GeoDataFrame(geometry=[shapely.box(500_100, 4_989_000, 500_300, 4_999_000)], crs=UTM)
    zones.to_file(tmp_path / "z.gpkg")
    whole = stats(tmp_path / "m.tif", zones=tmp_path / "z.gpkg")
    monkeypatch.setattr(landcover.classmap, "STRIP_PIXELS", 1)
    for a, b in zip(stats(tmp_path / "m.tif", zones=tmp_path / "z.gpkg"), whole, strict=True):
        assert [c.pixels for c in a.classes] == [c.pixels for c in b.classes]
        assert [c.hectares for c in a.classes] == pytest.approx([c.hectares for c in b.classes])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what a process held at most")
def test_memory_does_not_grow_with_the_rows_of_a_map(tmp_path: Path) -> None:
    """GDAL would keep what it has read until a twentieth of the machine's memory is full."""
    count = """
import re, sys
from landcover.stats import stats
for path in sys.argv[1:]:
    stats(path)
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
    maps = [tmp_path / f"{height}.tif" for height in (1024, 16 * 1024)]
    for path, height in zip(maps, (1024, 16 * 1024), strict=True):
        write_map(path, np.ones((height, 8192), np.uint8))
    done = subprocess.run([sys.executable, "-c", count, *maps], capture_output=True, text=True, check=True)
    short, tall = map(int, done.stdout.split())
    assert tall - short < 40_000, "kB, of 126 MB more"


def test_a_map_that_was_read_leaves_gdal_as_it_was(tmp_path: Path) -> None:
    write_map(tmp_path / "m.tif", checkers(20, 30))
    before = get_gdal_config("GDAL_CACHEMAX")
    with landcover.classmap.open_map(tmp_path / "m.tif"):
        assert get_gdal_config("GDAL_CACHEMAX") == 16 << 20
    assert get_gdal_config("GDAL_CACHEMAX") == before


@pytest.fixture
def zoned(tmp_path: Path) -> Path:
    """A map of 20 × 30 pixels, and three zones in degrees: a half, all of it, and far away."""
    write_map(tmp_path / "map.tif", checkers(20, 30))
    half, all_, far = (shapely.box(500_000, 4_999_800, 500_000 + e, 5_000_000) for e in (150, 300, 1))
    shapes = [half, all_, shapely.transform(far, lambda p: p - 50_000)]
    table = geopandas.GeoDataFrame({"name": ["half", "all", "far"], "code": [7, 8, 9]}, geometry=shapes, crs=UTM)
    table.to_crs(4326).to_file(tmp_path / "zones.geojson")
    return tmp_path / "map.tif"


@pytest.mark.skipif(not shutil.which("gdal_translate"), reason="GDAL's programs are not installed")
def test_a_map_of_larger_numbers_is_told_the_command_that_makes_it_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = np.random.default_rng(0).integers(0, 5, (20, 30))
    profile = {"driver": "GTiff", "height": 20, "width": 30, "crs": UTM, "transform": NORTH_UP}
    with rasterio.open("large.tif", "w", count=1, dtype="int16", nodata=-9999, **profile) as file:
        file.write(np.where(ids, ids, -9999).astype("int16"), 1)
    told = refused(capsys, tmp_path, "stats", "large.tif", "--legend", "default")
    command = re.search(r"\((gdal_translate .*)\)", told)
    assert command, told
    subprocess.run(command[1].split(), check=True)
    assert stats("map.tif", legend="default") == stats(write_map(tmp_path / "ids.tif", ids))


@given(hnp.arrays(np.uint8, (3, 5), elements=st.sampled_from([0, 1, 2, 3, 4, 7, 255])))
def test_values_are_counted_whether_a_legend_knows_them_or_not(ids: np.ndarray) -> None:
    counts = landcover.classmap.count_values(ids, load_legend("default"))
    assert counts.tolist() == np.bincount(ids.ravel(), minlength=256).tolist()


def test_zones_may_lie_in_an_archive(zoned: Path) -> None:
    """As scenes, references and areas of interest may: what GDAL alone can open is not looked for on the disk."""
    zones = zoned.with_name("zones.geojson")
    with zipfile.ZipFile(zoned.with_name("zones.zip"), "w") as archive:
        archive.write(zones, zones.name)
    inside = f"/vsizip/{{{zoned.with_name('zones.zip')}}}/{zones.name}"
    assert stats(zoned, zones=inside) == stats(zoned, zones=zones)


def test_overlapping_zones_count_each_for_itself(zoned: Path) -> None:
    whole, half, all_, far = stats(zoned, zones=zoned.with_name("zones.geojson"))
    assert [t.zone for t in (whole, half, all_, far)] == [None, "half", "all", "far"]
    ids = checkers(20, 30)
    assert [c.pixels for c in half.classes] == [(ids[:, :15] == i).sum() for i in range(1, 5)]
    assert all_.classes == whole.classes
    assert (far.hectares, far.nodata_pixels) == (0, 0)


@pytest.mark.parametrize(
    ("zone", "pixels"), [(shapely.box(12, 10, 16, 44.7), 180_000), (shapely.box(-180, -85, 180, 85), 360_000)]
)
def test_edges_of_zones_are_straight_where_they_were_drawn(tmp_path: Path, zone: shapely.Polygon, pixels: int) -> None:
    """A parallel is no straight line in UTM, and the world does not fit into it."""
    to_utm = pyproj.Transformer.from_crs(4326, UTM, always_xy=True)
    top = to_utm.transform(15, 44.7)[1] + 3000  # half of the map lies above the parallel
    write_map(tmp_path / "m.tif", np.ones((600, 600), np.uint8), transform=Affine(10, 0, 497_000, 0, -10, top))
    geopandas.GeoSeries([zone], crs=4326).to_file(tmp_path / "z.geojson")
    _, counted = stats(tmp_path / "m.tif", zones=tmp_path / "z.geojson")
    assert counted.classes[0].pixels == pytest.approx(pixels, rel=1e-3)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4269"])
@pytest.mark.parametrize("west", [179.99, -180.01])
def test_zones_lie_where_the_map_counts_its_longitudes(tmp_path: Path, west: float, crs: str) -> None:
    """One zone east of the antimeridian, one west of it, one on both sides in two pieces, and one nowhere near."""
    ids = checkers(20, 20)
    write_map(tmp_path / "m.tif", ids, crs="EPSG:4326", transform=Affine(0.001, 0, west, 0, -0.001, -16))
    east, home = shapely.box(-180, -17, -179.9956, -15), shapely.box(179.9936, -17, 180, -15)
    zones = [east, home, shapely.multipolygons([east, home]), shapely.box(-170, -17, -169, -15)]
    geopandas.GeoSeries(zones, crs=crs).to_file(tmp_path / "z.gpkg")
    tables = stats(tmp_path / "m.tif", zones=tmp_path / "z.gpkg")[1:]
    for table, part in zip(tables, (ids[:, 10:14], ids[:, 4:10], ids[:, 4:14], ids[:, :0]), strict=True):
        assert [c.pixels for c in table.classes] == [int((part == c.class_id).sum()) for c in table.classes]


@pytest.mark.parametrize(("west", "share"), [(178, 1), (-182, 1), (178 - 2, 0.5), (-180, 0.5)])
def test_zones_in_metres_are_not_torn_at_the_antimeridian(tmp_path: Path, west: float, share: float) -> None:
    """Half of the zone lies west of it, as of its hole and of its island; maps of both halves, of one, of the other."""
    write_map(
        tmp_path / "m.tif", np.ones((400, 400), np.uint8), crs="EPSG:4326", transform=Affine(0.01, 0, west, 0, -0.01, 2)
    )
    across = pyproj.Transformer.from_crs(4326, "EPSG:32760", always_xy=True).transform(180, 0)
    place = shapely.Point(across)
    zone = place.buffer(100_000).difference(place.buffer(50_000)).union(place.buffer(25_000))
    geopandas.GeoSeries([zone], crs="EPSG:32760").to_file(tmp_path / "z.gpkg")
    _, counted = stats(tmp_path / "m.tif", zones=tmp_path / "z.gpkg")
    assert counted.hectares == pytest.approx(share * zone.area / 1e4, rel=0.01)


@pytest.mark.parametrize("aside", [0, 15])
def test_zones_side_by_side_share_out_the_pixels(tmp_path: Path, aside: int) -> None:
    """Also where their borders run through centres of pixels, as those of a grid in whole kilometres do on Landsat."""
    write_map(tmp_path / "m.tif", checkers(40, 50), crs=UTM, transform=Affine(30, 0, 6000, 0, -30, 9000))
    squares = [shapely.box(x, y, x + 600, y + 600) for x in range(5400, 7800, 600) for y in range(7200, 9600, 600)]
    geopandas.GeoSeries(squares, crs=UTM).translate(aside, aside).to_file(tmp_path / "z.gpkg")
    whole, *zones = stats(tmp_path / "m.tif", zones=tmp_path / "z.gpkg")
    for k, counted in enumerate(whole.classes):
        assert sum(zone.classes[k].pixels for zone in zones) == counted.pixels


@pytest.mark.parametrize("west", [-180, 0])
@pytest.mark.parametrize(("crs", "top"), [("EPSG:3413", 90), ("EPSG:3031", -60)])
def test_zones_around_a_pole_hold_it(tmp_path: Path, crs: str, top: int, west: int) -> None:
    """Around it in the middle, aside, with it in a hole, with a hole aside, beside it, in two parts, and wound."""
    write_map(tmp_path / "m.tif", checkers(60, 360), crs="EPSG:4326", transform=Affine(1, 0, west, 0, -0.5, top))
    disc, aside = shapely.Point(0, 0).buffer(5e5), shapely.Point(3e5, 2e5).buffer(8e5)
    ring = shapely.Point(0, 0).buffer(1.2e6).difference(disc)
    holes = [shapely.Point(x * 1e5, y * 1e5).buffer(7e4) for x, y in np.random.default_rng(0).uniform(-2, 2, (9, 2))]
    far = shapely.Point(1.5e6, 1.5e6).buffer(2e5)
    pierced = aside.difference(shapely.union_all(holes))
    turn = np.linspace(0, 5.5, 60)
    spiral = shapely.LineString((1.2e6 - 2e4 * turn)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1))
    wound = shapely.union_all([disc, spiral.buffer(1e5), shapely.LineString([(0, 0), (1.2e6, 0)]).buffer(1e5)])
    starts = [np.roll(shapely.get_coordinates(wound.exterior)[:-1], n, axis=0) for n in range(0, 120, 15)]
    zones = [disc, aside, ring, pierced, far, shapely.multipolygons([disc, far]), *map(shapely.Polygon, starts)]
    geopandas.GeoSeries(zones, crs=crs).to_file(tmp_path / "z.gpkg")
    row, col = np.indices((60, 360))
    x, y = pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(west + col + 0.5, top - (row + 0.5) / 2)
    for zone, table in zip(zones, stats(tmp_path / "m.tif", zones=tmp_path / "z.gpkg")[1:], strict=True):
        pixels = sum(c.pixels for c in table.classes) + table.nodata_pixels
        assert pixels == shapely.contains_xy(zone, x, y).sum()


def test_zones_that_the_crs_of_the_map_cannot_show_are_told(tmp_path: Path) -> None:
    """Around a pole they are not cut to what lies near the map, and half of the earth has no place in its plane."""
    pole = Affine(1000, 0, -15_000, 0, -1000, 10_000)
    write_map(tmp_path / "m.tif", checkers(20, 30), crs="+proj=gnom +lat_0=90", transform=pole)
    geopandas.GeoSeries([shapely.box(-180, -85, 180, 85)], crs=4326).to_file(tmp_path / "z.geojson")
    with pytest.raises(ConfigError, match="reaches beyond what the CRS of the raster can show"):
        stats(tmp_path / "m.tif", zones=tmp_path / "z.geojson")


WORLD = Affine(1, 0, 0, 0, -1, 90)


@pytest.mark.parametrize(
    ("bounds", "crs", "transform", "found"),
    [
        ((750_000, 0, 950_000, 100_000), "EPSG:32660", WORLD, Box(89, 90, 179, 182)),
        ((750_000, 0, 950_000, 100_000), "EPSG:32660", WORLD @ Affine.translation(-180, 0), "the meridian where"),
        ((0, 0, 1, 1), 'LOCAL_CS["x"]', WORLD, "cannot be brought to the scene's CRS"),
        ((178, -2, -179, -1), None, WORLD, Box(91, 92, 178, 181)),
        ((178, -2, -179, -1), "EPSG:4326", WORLD, Box(91, 92, 178, 181)),
        ((178, -2, -179, -1), "EPSG:4269", WORLD @ Affine.translation(-360, 0), Box(91, 92, 178, 181)),
        ((178, -2, -179, -1), None, WORLD @ Affine.translation(179, 0), Box(91, 92, 0, 2)),
        ((178, -2, -179, -1), None, WORLD @ Affine.translation(-180, 0), "the meridian where"),
        ((178, -2, -179, -1), None, WORLD @ Affine.scale(0.1), "lies outside the scene"),
        ((-3, 1, -1, 2), None, WORLD, Box(88, 89, 357, 359)),
        ((-3, 1, 2, 2), None, WORLD, "the meridian where"),
        ((358, 1, 362, 2), "EPSG:4269", WORLD, "the meridian where"),
        ((178, 1, 182, 2), None, WORLD @ Affine.translation(-180, 0), "the meridian where"),
    ],
)
def test_boxes_in_another_crs(bounds: tuple, crs: str, transform: Affine, found: Box | str) -> None:
    def ask() -> Box:
        return box_of_bounds(bounds, crs, transform, CRS.from_epsg(4326), (180, 360))

    if isinstance(found, Box):
        assert ask() == found
        return
    with pytest.raises(SceneError, match=found):
        ask()


@pytest.mark.parametrize("crs", [UTM, "EPSG:3035", "EPSG:4326"])
def test_a_zone_with_an_empty_part_is_its_other_parts(tmp_path: Path, crs: str) -> None:
    """Zones in degrees are not cut to what lies near the map where one of them has longitudes beyond 180."""
    half = shapely.box(500_000, 4_999_800, 500_150, 5_000_000)
    zones = [shapely.multipolygons([shapely.Polygon(), half]), shapely.multipolygons([half, shapely.Polygon()])]
    frame = geopandas.GeoDataFrame(geometry=[*zones, shapely.multipolygons([shapely.Polygon()]), None], crs=UTM)
    far = geopandas.GeoDataFrame(geometry=[shapely.box(200, 0, 201, 1) if crs == "EPSG:4326" else None], crs=crs)
    pandas.concat([frame.to_crs(crs), far]).to_file(tmp_path / "z.gpkg")
    write_map(tmp_path / "m.tif", checkers(20, 30))
    _, *tables = stats(tmp_path / "m.tif", zones=tmp_path / "z.gpkg")
    assert [sum(c.pixels for c in t.classes) + t.nodata_pixels for t in tables] == [300, 300, 0, 0, 0]


def test_zones_are_named_by_a_column_or_numbered(zoned: Path) -> None:
    zones = zoned.with_name("zones.geojson")
    assert [t.zone for t in stats(zoned, zones=zones, zone_name="code")][1:] == ["7", "8", "9"]
    geopandas.read_file(zones).drop(columns="name").to_file(zoned.with_name("plain.gpkg"))
    assert [t.zone for t in stats(zoned, zones=zoned.with_name("plain.gpkg"))][1:] == ["1", "2", "3"]


def test_zones_without_a_name_and_whole_numbers(zoned: Path) -> None:
    table = geopandas.read_file(zoned.with_name("zones.geojson"))
    table["code"] = [101, None, 103]
    table["name"] = ["half", None, "far"]
    table.to_file(zoned.with_name("gaps.gpkg"))
    table.astype({"code": "Int64"}).to_parquet(zoned.with_name("gaps.parquet"))
    for zones in ("gaps.gpkg", "gaps.parquet"):
        for column, names in (("code", ["101", "(no name, 2)", "103"]), ("name", ["half", "(no name, 2)", "far"])):
            assert [t.zone for t in stats(zoned, zones=zoned.with_name(zones), zone_name=column)][1:] == names


@given(hnp.arrays(np.float64, (7, 2), elements=st.floats(-50, 350)))
def test_a_pixel_is_in_a_zone_if_its_centre_is(tmp_path_factory: pytest.TempPathFactory, points: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("zones")
    zone = shapely.convex_hull(shapely.MultiPoint(points + np.array([500_000, 4_999_750])))
    if zone.geom_type != "Polygon":
        return
    ids = checkers(20, 30)
    geopandas.GeoDataFrame(geometry=[zone], crs=UTM).to_file(folder / "z.gpkg")
    table = stats(write_map(folder / "m.tif", ids), zones=folder / "z.gpkg")[1]
    rows, cols = np.indices(ids.shape)
    x, y = 500_005 + 10 * cols, 4_999_995 - 10 * rows
    on_border = shapely.distance(zone.boundary, shapely.points(x, y)) < 1e-3
    counted = sum(c.pixels for c in table.classes) + table.nodata_pixels
    assert abs(counted - shapely.contains_xy(zone, x, y).sum()) <= on_border.sum()


def bad(folder: Path) -> dict[str, tuple[dict, type[LandcoverError], str]]:
    good = write_map(folder / "good.tif", checkers(20, 30))
    bare = write_map(folder / "bare.tif", checkers(20, 30), crs=None)
    odd = write_map(folder / "odd.tif", checkers(20, 30) + 200)
    points = geopandas.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs=UTM)
    points.to_file(folder / "points.gpkg")
    nowhere = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=UTM)
    nowhere.set_crs(None, allow_override=True).to_parquet(folder / "nowhere.parquet")
    nowhere.to_file(folder / "zones.gpkg")
    for layer in ("north", "south"):
        nowhere.to_file(folder / "two.gpkg", layer=layer)
    many = write_map(folder / "many.tif", np.arange(100, 116, dtype=np.uint8).reshape(4, 4))
    (folder / "text.gpkg").write_text("no polygons")
    return {
        "missing": ({"map_path": folder / "none.tif"}, MapError, "No such file"),
        "no crs": ({"map_path": bare}, MapError, "no CRS"),
        "values": ({"map_path": odd}, MapError, r"200 \(120 px\), 201"),
        "many values": ({"map_path": many}, MapError, r"104 \(1 px\) and 11 more; give"),
        "layers": (
            {"map_path": good, "zones": folder / "two.gpkg"},
            ConfigError,
            r"several layers \(north, south\); write",
        ),
        "no zones to name": ({"map_path": good, "zone_name": "name"}, ConfigError, "without --zones"),
        "no zones": ({"map_path": good, "zones": folder / "none.gpkg"}, ConfigError, "do not exist"),
        "points": ({"map_path": good, "zones": folder / "points.gpkg"}, ConfigError, "hold Point; give polygons"),
        "text": ({"map_path": good, "zones": folder / "text.gpkg"}, ConfigError, "cannot be read"),
        "column": ({"map_path": good, "zones": folder / "zones.gpkg", "zone_name": "x"}, ConfigError, "no column 'x'"),
        "no place": ({"map_path": good, "zones": folder / "nowhere.parquet"}, ConfigError, "have no CRS"),
    }


def test_bad_inputs_are_told_in_one_sentence(tmp_path: Path) -> None:
    for name, (arguments, error, words) in bad(tmp_path).items():
        with pytest.raises(error, match=words) as caught:
            stats(**arguments)
        assert "\n" not in str(caught.value), name


app = typer.Typer()
app.command()(command.stats)


def test_the_command_prints_a_table(zoned: Path) -> None:
    lines = CliRunner().invoke(app, [str(zoned)]).stdout.splitlines()
    assert lines[0].split() == ["class", "pixels", "hectares", "percent"]
    assert lines[2].split() == ["forest", "120", "1.20", "25.00"]
    assert lines[-1].split() == ["nodata", "120", "1.20"]


def test_the_command_prints_a_table_of_zones(zoned: Path) -> None:
    result = CliRunner().invoke(app, [str(zoned), "--zones", str(zoned.with_name("zones.geojson"))])
    lines = result.stdout.splitlines()
    assert lines[0].split()[0] == "zone"
    assert len(lines) == 2 + 4 * 5


def test_the_command_prints_one_json_document(zoned: Path) -> None:
    result = CliRunner().invoke(app, [str(zoned), "--zones", str(zoned.with_name("zones.geojson")), "--json"])
    told = json.loads(result.stdout)
    assert [c["class_name"] for c in told["classes"]] == ["forest", "water", "urban", "other"]
    assert [z["zone"] for z in told["zones"]] == ["half", "all", "far"]
    assert told["hectares"] == pytest.approx(sum(c["hectares"] for c in told["classes"]))


def test_zones_without_a_pixel_are_named(zoned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One zone lies elsewhere, one between the centres of pixels, one where the map has no class, one nowhere."""
    sliver, unknown = shapely.box(500_001, 4_999_801, 500_004, 4_999_999), shapely.box(500_000, 4_999_990, 500_010, 5e6)
    shapes = [sliver, unknown, None, shapely.box(0, 0, 1, 1)]
    zones = zoned.with_name("few.gpkg")
    table = geopandas.GeoDataFrame({"name": ["sliver", "unknown", "nowhere", "far"]}, geometry=shapes, crs=UTM)
    table.to_file(zones)
    told = run(capsys, "stats", zoned, "--zones", zones, "--json")
    assert [z["zone"] for z in json.loads(told.out)["zones"]] == ["sliver", "unknown", "nowhere", "far"]
    assert told.err.startswith("Note: no pixel of the map has its centre in sliver, nowhere, far: ")
    assert run(capsys, "stats", zoned, "--zones", zones).err == told.err
    table[table.name == "unknown"].to_file(zones)
    assert run(capsys, "stats", zoned, "--zones", zones).err == ""
    geopandas.GeoSeries([sliver] * 12, crs=UTM).to_file(zones)
    assert " in 1, 2, 3, 4, 5 and 7 more: " in run(capsys, "stats", zoned, "--zones", zones).err


def test_no_area_is_told_of_a_map_that_lies_on_no_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its pixels are metres from the centre of the earth."""
    path = write_map(tmp_path / "map.tif", np.ones((4, 4), np.uint8), crs="EPSG:4978")
    assert "which no map can be in" in refused(capsys, tmp_path, "stats", path)


def test_land_off_the_earth_has_no_area_and_nodata_there_takes_none_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A map of the world in Mollweide's ellipse, with classes in its middle alone, and everywhere."""
    ids = np.zeros((181, 360), np.uint8)
    ids[80:100, 170:190] = 1
    place = Affine(1e5, 0, -1.8e7, 0, -1e5, 9.05e6)
    path = write_map(tmp_path / "map.tif", ids, crs="ESRI:54009", transform=place)
    (table,) = stats(path)
    assert table.hectares == pytest.approx(400 * 1e6, rel=0.01)
    assert "nan" not in run(capsys, "stats", path).out
    whole = write_map(tmp_path / "whole.tif", np.ones_like(ids), crs="ESRI:54009", transform=place)
    assert "pixels of 'forest' that lie off the earth" in refused(capsys, tmp_path, "stats", whole)


def test_strips_and_zones_are_measured_at_their_latitude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 70° to 10° north: pixels of the last rows are almost three times as large as those of the first."""
    place = Affine(0.05, 0, 10, 0, -0.05, 70)
    path = write_map(tmp_path / "map.tif", np.ones((1200, 50), np.uint8), transform=place, crs="EPSG:4326")
    south = geopandas.GeoSeries([shapely.box(10, 10, 12.5, 40)], crs=4326)
    south.to_file(tmp_path / "zones.gpkg")
    monkeypatch.setattr(landcover.classmap, "STRIP_PIXELS", 1)
    whole, zone = stats(path, zones=tmp_path / "zones.gpkg")
    areas = Ground(pyproj.CRS(4326), place, 1200, 50).pixel_areas(0, 1200) / 1e4
    assert sum(c.hectares for c in whole.classes) == pytest.approx(areas.sum())
    assert sum(c.hectares for c in zone.classes) == pytest.approx(areas[600:].sum())
