"""Outlines made simpler and rounder stay a coverage, and what they measure is what pyproj measures edge by edge."""

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landcover.classmap import restripped
from landcover.features import measure
from landcover.ground import Ground
from landcover.outlines import STRIP_ROWS, Simplification, trace
from landcover.stats import stats
from landcover.vectorization import vectorize
from tests.maps import NORTH_UP, UTM, shapes_of, write_map
from tests.test_vectorization import SAMPLES, blobs, read, spiral

maps = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14), elements=st.integers(0, 3)
)
tolerances = st.sampled_from([0.0, 0.3, 0.6, 1.0, 2.5, 7.0, 30.0, 1000.0])
simplifications = st.builds(Simplification, tolerances, st.booleans())


def traced(
    ids: np.ndarray,
    how: Simplification | None,
    rows: int = STRIP_ROWS,
    *,
    transform: Affine = NORTH_UP,
    crs: str = UTM,
    diagonal: bool = False,
) -> tuple[np.ndarray, ...]:
    """Polygons, class ids, areas and perimeters of a map traced in strips of some rows."""
    ground = Ground(pyproj.CRS(crs), transform, *ids.shape)
    strips = ((ids[i : i + rows], None) for i in range(0, len(ids), rows))
    found = list(trace(strips, ids.shape[1], junctions=True, ground=ground, simplification=how, diagonal=diagonal))
    shapes = np.concatenate([shapes_of(p, transform) for p in found])
    return shapes, *(np.concatenate([getattr(p, n) for p in found]) for n in ("values", "area", "perimeter"))


def enlarged(ids: np.ndarray, times: int) -> np.ndarray:
    return np.kron(ids, np.ones((times, times))).astype(np.uint8)


@settings(max_examples=400)
@given(maps, st.integers(1, 3), simplifications, st.sampled_from([1, 2, 5, STRIP_ROWS]))
@example(np.indices((9, 9)).sum(0).astype(np.uint8) % 2 + np.uint8(1), 1, Simplification(1000.0, True), 1)
@example(spiral(21), 1, Simplification(30.0, True), 4)
def test_simpler_outlines_are_a_valid_coverage(ids: np.ndarray, times: int, how: Simplification, rows: int) -> None:
    """No gap, no overlap, no patch lost, in strips of any height, smoothed or not."""
    ids = enlarged(ids, times)
    shapes, values, _, _ = traced(ids, how, rows)
    whole = traced(ids, None)
    assert len(shapes) == len(whole[0])
    assert sorted(values) == sorted(whole[1])
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)
    assert (shapely.area(shapes) > 0).all()
    assert shapely.area(shapes).sum() == pytest.approx(shapely.area(shapely.union_all(shapes)))


@settings(max_examples=100)
@given(maps.filter(lambda ids: ids.all()), simplifications, st.sampled_from([1, 3, STRIP_ROWS]))
def test_the_edge_of_the_scene_stays(ids: np.ndarray, how: Simplification, rows: int) -> None:
    shapes = traced(ids, how, rows)[0]
    whole = shapely.union_all(traced(ids, None)[0])
    assert shapely.union_all(shapes).equals(whole)


@given(maps, simplifications)
def test_corners_that_join_pixels_change_no_outline(ids: np.ndarray, how: Simplification) -> None:
    """Joined by corners or not, the same ground has the same class."""
    apart, joined = traced(ids, how), traced(ids, how, diagonal=True)
    assert shapely.is_valid(joined[0]).all()
    for value in np.unique(ids[ids > 0]):
        a, b = (shapely.union_all(t[0][t[1] == value]) for t in (apart, joined))
        assert a.symmetric_difference(b).area == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("tolerance", "nodes"), [(0.64, 60), (1.0, 40)])
def test_a_staircase_becomes_a_ramp(tolerance: float, nodes: int) -> None:
    """Not quite a line, which would be half a pixel aside, and give its land to one of them."""
    ids = np.triu(np.ones((30, 30), np.uint8)) + np.uint8(1)
    plain, simple = traced(ids, None)[0], traced(ids, Simplification(tolerance))[0]
    assert shapely.get_num_coordinates(plain).sum() > 100
    assert shapely.get_num_coordinates(simple).sum() <= nodes
    assert abs(shapely.area(plain[0]) - shapely.area(simple[0])) <= 100


@pytest.mark.parametrize("tolerance", [2.5, 7.0, 20.0])
@pytest.mark.parametrize("seed", range(8))
def test_neither_side_of_a_border_wins_more_than_half_the_tolerance(seed: int, tolerance: float) -> None:
    """A straight border with teeth at random; or a share of what these enclose, which is a pixel and a half at most."""
    teeth = np.random.default_rng(seed).integers(8, 13, 60)
    ids = np.where(np.arange(20) < teeth[:, None], 1, 2).astype(np.uint8)
    plain, simple = (shapely.area(traced(ids, how)[0]) / 100 for how in (None, Simplification(tolerance)))
    assert np.abs(plain - simple).max() <= max(np.ceil(tolerance) / 2, 1.5) + 1e-6


def test_a_pixel_stays_a_pixel() -> None:
    """Rings keep four nodes, so that strewn pixels do not lose half of their area."""
    ids = np.ones((9, 9), np.uint8)
    ids[4, 4] = 2
    shapes, values, area, _ = traced(ids, Simplification(1000.0))
    assert shapely.get_num_coordinates(shapes[values == 2]) == 5
    assert area[values == 2] == pytest.approx(100, rel=2e-3)


def test_nothing_runs_over_an_island() -> None:
    """A bay is closed by its tolerance, but for the pixel in it."""
    ids = np.ones((20, 40), np.uint8)
    ids[10:, :] = 2
    ids[8:10, 10:30] = 2
    free = traced(ids, Simplification(200.0))
    ids[9, 20] = 3
    shapes, values, _, _ = traced(ids, Simplification(200.0))
    assert shapely.coverage_is_valid(shapes)
    assert shapely.get_num_coordinates(shapes[values == 1]) > shapely.get_num_coordinates(free[0][free[1] == 1])


@pytest.mark.parametrize(("how", "share"), [(Simplification(1.0), 0.002), (Simplification(1.0, True), 0.005)])
def test_classes_of_a_real_map_keep_their_area(how: Simplification, share: float) -> None:
    """At a tolerance of one pixel, brightness in steps, with patches of few pixels."""
    with rasterio.open(SAMPLES / "landsat7_raleigh.tif") as file:
        bright = file.read(4).astype(float)
    for axis in (0, 1, 0, 1):
        bright = sum(np.roll(bright, s, axis) for s in range(-2, 3)) / 5
    ids = (bright // 40 + 1).astype(np.uint8)
    shapes, values, area, _ = traced(ids, how)
    _, before, plain, _ = traced(ids, None)
    assert shapely.coverage_is_valid(shapes)
    kept, were = np.bincount(values, area), np.bincount(before, plain)
    large = were > 0.01 * were.sum()
    np.testing.assert_allclose(kept[large], were[large], rtol=share)


def test_strips_of_a_file_change_nothing() -> None:
    """Outlines are simplified in strips that are always the same."""
    rows = [np.full((n, 3), n % 251, np.uint8) for n in (5, 200, 250, 2150, 3)]
    starts = np.cumsum([0] + [len(r) for r in rows])
    found = list(restripped(zip(starts.tolist(), rows, strict=False), STRIP_ROWS))
    assert [(start, len(ids)) for start, ids in found] == [
        (0, 512),
        (512, 512),
        (1024, 512),
        (1536, 512),
        (2048, 512),
        (2560, 48),
    ]
    np.testing.assert_array_equal(np.concatenate([ids for _, ids in found]), np.concatenate(rows))


PLACES = [
    (UTM, NORTH_UP),
    (UTM, Affine(8, 6, 500_000, 6, -8, 5_000_000)),
    (UTM, Affine(8, 4, 500_000, 1, -9, 5_000_000)),
    ("EPSG:32760", Affine(10, 0, 820_000, 0, -10, 8_100_000)),
    ("EPSG:4326", Affine(0.001, 0, 179.97, 0, -0.001, -16)),
    ("EPSG:4326", Affine(0.001, 0, 20, 0, -0.0002, 89.9)),
    ("EPSG:3857", Affine(20, 0, 1e6, 0, -20, 8e6)),
    ("EPSG:3413", Affine(500, 0, -15_000, 0, -500, 15_000)),
    ("EPSG:2264", Affine(33, 0, 2e6, 0, -33, 6e5)),
    ("+proj=sinu +R=6371007.181 +units=m", Affine(231.656, 0, -4.5e6, 0, -231.656, 4.5e6)),
]


@pytest.mark.parametrize(("crs", "transform"), PLACES)
@pytest.mark.parametrize(
    "how", [None, Simplification(2.0), Simplification(2.0, True)], ids=["traced", "simplified", "smoothed"]
)
def test_what_is_summed_is_what_pyproj_measures(crs: str, transform: Affine, how: Simplification | None) -> None:
    """With holes, in UTM, turned and sheared, across the antimeridian, near a pole, around it, in feet, sinusoidal."""
    ids = blobs()
    ids[20:40, 20:40], ids[28:32, 26:33], ids[30, 29] = 1, 2, 3
    shapes, _, area, perimeter = traced(ids, how, 7 if how is None else STRIP_ROWS, transform=transform, crs=crs)
    fine = shapely.segmentize(shapes, min(np.hypot(transform.a, transform.d), np.hypot(transform.b, transform.e)) / 10)
    areas, perimeters = measure(fine, Ground(pyproj.CRS(crs), transform, *ids.shape))
    assert shapely.get_num_interior_rings(shapes).any()
    np.testing.assert_allclose(area, areas, rtol=1e-6 if how is None else 5e-6)
    leans = "sinu" in crs and how is not None  # slanted edges, where the lean of columns changes along them
    np.testing.assert_allclose(perimeter, perimeters, rtol=4e-6 if leans else 1e-6)
    assert area.sum() == pytest.approx(areas.sum(), rel=1e-7)


def test_coarse_pixels_are_measured_edge_by_edge_when_simplified(tmp_path) -> None:
    transform = Affine(0.5, 0, 0, 0, -0.5, 60)
    write_map(tmp_path / "m.tif", blobs(), crs="EPSG:4326", transform=transform)
    table = read(vectorize(tmp_path / "m.tif", tmp_path / "p.gpkg", simplify=100_000).path)
    areas, _ = measure(table.geometry.to_numpy(), Ground(pyproj.CRS(4326), transform, 60, 60))
    np.testing.assert_allclose(table.area_m2, areas, rtol=1e-9)
    (whole,) = stats(tmp_path / "m.tif")
    assert table.area_m2.sum() / 1e4 == pytest.approx(whole.hectares, rel=1e-2)


@pytest.mark.parametrize("how", [{"simplify": 10}, {"smooth": True}, {"simplify": 10, "smooth": True}], ids=str)
@pytest.mark.parametrize("width", [2.0, 4.0, 8.0])
def test_no_class_wins_or_loses_half_a_percent(tmp_path: Path, how: dict, width: float) -> None:
    """At a tolerance of one pixel, whether patches are speckle or wide; the rarest class lies in small islands."""
    field = np.fft.rfft2(np.random.default_rng(4).normal(size=(400, 400)))
    waves = np.hypot(np.fft.fftfreq(400)[:, None], np.fft.rfftfreq(400))
    field = np.fft.irfft2(field * np.exp(-2 * (np.pi * waves * width) ** 2))
    ids = 1 + np.digitize(field, np.quantile(field, [0.45, 0.93])).astype(np.uint8)  # forest, water, urban
    write_map(tmp_path / "m.tif", ids)
    found = read(vectorize(tmp_path / "m.tif", tmp_path / "p.gpkg", **how).path)
    hectares = found.groupby("class_name").area_m2.sum() / 1e4
    (whole,) = stats(tmp_path / "m.tif")
    for row in whole.classes[:3]:
        assert hectares[row.class_name] == pytest.approx(row.hectares, rel=5e-3)
