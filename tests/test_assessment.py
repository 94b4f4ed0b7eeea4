"""Accuracy and areas: estimates against published figures, the truth and closed formulas; points drawn as promised."""

import json
import zipfile
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

import landcover.classmap
from landcover.accuracy import estimated_ratio
from landcover.assessment import assess
from landcover.errors import ConfigError, LandcoverError
from landcover.sampling import allocate, sample
from landcover.specs import LandClass, Legend
from tests.commands import landcover as run
from tests.commands import refused
from tests.maps import NAMES, NORTH_UP, UTM, blotches, labelled, mistaken, write_map
from tests.scenes import write_scene

OLOFSSON = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
"""The error matrix of the worked example of Olofsson et al. (2014): map classes down, reference classes across."""

MAPPED = np.array([18_000, 13_500, 288_000, 580_500])
"""Its mapped areas, in hectares."""


def points_of(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map and reference classes, from 0 on, of the points that an error matrix counts."""
    mapped, truth = np.indices(matrix.shape)
    return mapped.ravel().repeat(matrix.ravel()), truth.ravel().repeat(matrix.ravel())


def test_the_worked_example_of_olofsson() -> None:
    mapped, truth = points_of(OLOFSSON)

    def told(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
        found = estimated_ratio(mapped, MAPPED, above.astype(float), below.astype(float))
        return found.value, 1.96 * found.error

    everywhere, right = np.ones(len(mapped)), mapped == truth
    assert told(right, everywhere) == pytest.approx((0.95, 0.02), abs=0.005)
    users = [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    producers = [(0.75, 0.21), (0.85, 0.25), (0.93, 0.03), (0.96, 0.02)]  # printed as .23 and .01, against equation 7
    for k in range(4):
        assert told(right & (mapped == k), mapped == k) == pytest.approx(users[k], abs=0.0055)
        assert told(right & (truth == k), truth == k) == pytest.approx(producers[k], abs=0.0055)
    area, within = told(truth == 0, everywhere)
    assert area * MAPPED.sum() == pytest.approx(21_158, abs=1)
    assert within * MAPPED.sum() == pytest.approx(6_157, abs=2)


@given(st.integers(0, 10_000))
def test_the_closed_formulas_for_strata_that_are_the_classes(seed: int) -> None:
    """Equations 1 to 11 of Olofsson et al. (2014)."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 30, (3, 3)) + np.eye(3, dtype=int)
    sizes = rng.uniform(1, 100, 3)
    mapped, truth = points_of(n)
    w, rows = sizes / sizes.sum(), n.sum(axis=1)
    p = w[:, None] * n / rows[:, None]
    u = n.diagonal() / rows
    right, one = (mapped == truth).astype(float), np.ones(len(mapped))
    overall = estimated_ratio(mapped, sizes, right, one)
    assert overall.value == pytest.approx(p.trace())
    assert overall.error == pytest.approx(np.sqrt((w**2 * u * (1 - u) / (rows - 1)).sum()))
    for k in range(3):
        share = estimated_ratio(mapped, sizes, (truth == k).astype(float), one)
        q = n[:, k] / rows
        assert share.value == pytest.approx(p[:, k].sum())
        assert share.error == pytest.approx(np.sqrt((w**2 * q * (1 - q) / (rows - 1)).sum()))
        producers = estimated_ratio(mapped, sizes, right * (truth == k), (truth == k).astype(float))
        accuracy, total = p[k, k] / p[:, k].sum(), p[:, k].sum()
        others = np.arange(3) != k
        variance = w[k] ** 2 * (1 - accuracy) ** 2 * u[k] * (1 - u[k]) / (rows[k] - 1)
        variance += accuracy**2 * (w**2 * q * (1 - q) / (rows - 1))[others].sum()
        assert producers.value == pytest.approx(accuracy)
        assert producers.error == pytest.approx(np.sqrt(variance) / total)


@pytest.mark.parametrize("drawn_from", ["the map", "another map"])
def test_intervals_hold_the_truth_as_often_as_they_say(drawn_from: str) -> None:
    truth = blotches(1).ravel()
    mapped = mistaken(truth, 2)
    strata = (mapped if drawn_from == "the map" else mistaken(truth, 3)).astype(int) - 1
    sizes, rng = np.bincount(strata).astype(float), np.random.default_rng(0)
    members = [np.flatnonzero(strata == k) for k in range(4)]
    real = {"overall": np.mean(mapped == truth), "water": np.mean(truth == 2)}
    real["producer's"] = np.mean(mapped[truth == 2] == 2)
    real["user's"] = np.mean(truth[mapped == 2] == 2)
    held, values = dict.fromkeys(real, 0), {name: [] for name in real}
    for _ in range(500):
        chosen = np.concatenate([rng.choice(m, 150, replace=False) for m in members])
        m, t = mapped[chosen], truth[chosen]
        pairs = {"overall": (m == t, t > 0), "water": (t == 2, t > 0)}
        pairs["producer's"] = ((m == 2) & (t == 2), t == 2)
        pairs["user's"] = ((m == 2) & (t == 2), m == 2)
        for name, (above, below) in pairs.items():
            found = estimated_ratio(strata[chosen], sizes, above.astype(float), below.astype(float))
            held[name] += abs(found.value - real[name]) <= 1.96 * found.error
            values[name].append(found.value)
    for name in real:
        assert 0.91 <= held[name] / 500 <= 0.99, (name, held[name])
        assert np.mean(values[name]) == pytest.approx(real[name], abs=0.01)


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e6), st.integers(1, 300)), min_size=1, max_size=8),
    st.integers(2, 60),
    st.integers(0, 1000),
)
def test_points_are_shared_by_area_within_bounds(classes: list[tuple[float, int]], at_least: int, more: int) -> None:
    areas, pixels = (np.array(values) for values in zip(*classes, strict=True))
    fewest = np.minimum(at_least, pixels)
    count = int(fewest.sum()) + more
    points = allocate(areas, pixels, count, at_least)
    assert points.sum() == min(count, pixels.sum())
    assert (points >= fewest).all()
    assert (points <= pixels).all()
    free = (points > fewest + 1) & (points < pixels - 1)  # those that no bound holds have points as they have land
    if free.sum() > 1:
        density = areas[free] / areas[free].sum() * points[free].sum()
        np.testing.assert_allclose(points[free], density, atol=1.01)
    with pytest.raises(ConfigError, match="too few"):
        allocate(areas, pixels, int(fewest.sum()) - 1, at_least)


def test_points_lie_in_their_class_and_are_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = blotches(4)
    ids[:20, :30] = 0
    path = write_map(tmp_path / "map.tif", ids)
    strata = sample(path, tmp_path / "a.gpkg", count=300, at_least=40)
    table = geopandas.read_file(tmp_path / "a.gpkg")
    assert [s.points for s in strata] == [(table["stratum"] == s.class_name).sum() for s in strata]
    assert len(table) == 300
    assert table["reference"].isna().all()
    col, row = ~NORTH_UP @ (table.geometry.x.to_numpy(), table.geometry.y.to_numpy())
    assert (col % 1 == 0.5).all()
    assert (row % 1 == 0.5).all()
    assert len(set(zip(row, col, strict=True))) == 300
    assert (NAMES[ids[row.astype(int), col.astype(int)]] == table["stratum"]).all()
    hectares = {NAMES[k]: np.count_nonzero(ids == k) / 100 for k in range(1, 5)}
    for name, found in table.groupby("stratum")["stratum_ha"].first().items():
        assert found == pytest.approx(hectares[name], rel=2e-3)  # the scale of UTM
    monkeypatch.setattr(landcover.classmap, "STRIP_PIXELS", 1)
    sample(path, tmp_path / "b.gpkg", count=300, at_least=40)
    again = geopandas.read_file(tmp_path / "b.gpkg")
    assert table.drop(columns="stratum_ha").equals(again.drop(columns="stratum_ha"))
    np.testing.assert_allclose(again["stratum_ha"], table["stratum_ha"], rtol=1e-12)
    sample(path, tmp_path / "c.gpkg", count=300, at_least=40, seed=1)
    assert not table.geometry.equals(geopandas.read_file(tmp_path / "c.gpkg").geometry)
    in_turn = table["stratum"].to_numpy()
    assert np.count_nonzero(in_turn[1:] != in_turn[:-1]) > 100, "their order does not give the class away"


def test_land_is_equally_likely_whatever_its_latitude(tmp_path: Path) -> None:
    path = write_map(
        tmp_path / "map.tif", np.ones((160, 40), np.uint8), crs="EPSG:4326", transform=Affine(1, 0, 0, 0, -1, 80)
    )
    sample(path, tmp_path / "points.fgb", count=2000)
    lat = np.abs(geopandas.read_file(tmp_path / "points.fgb").geometry.y.to_numpy())
    share = 1 - np.sin(np.radians(60)) / np.sin(np.radians(80))  # of land beyond 60°, not 20 / 80 as of pixels
    assert np.mean(lat > 60) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 2000))


def test_a_small_class_is_drawn_whole(tmp_path: Path) -> None:
    ids = np.ones((60, 60), np.uint8)
    ids[3, 3:9] = 2
    ids[20, :45] = 3
    strata = sample(write_map(tmp_path / "map.tif", ids), tmp_path / "points.gpkg", count=200)
    assert [s.points for s in strata] == [149, 6, 45], "and what it cannot take goes to the others"
    everything = sample(tmp_path / "map.tif", tmp_path / "all.gpkg", count=100_000)
    assert [s.points for s in everything] == [np.count_nonzero(ids == k) for k in (1, 2, 3)]


def test_from_the_map_to_areas_with_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = blotches(5)
    ids = mistaken(truth, 6)
    path = write_map(tmp_path / "map.tif", ids)
    points = tmp_path / "points.gpkg"
    assert run(capsys, "sample", path, "-o", points, "--count", "400").code == 0
    labelled(points, truth).to_file(points, layer="landcover")
    outcome = run(capsys, "assess", path, "--reference", points, "--json")
    found = json.loads(outcome.out)
    assert (found["sampled"], found["compared"]) == (True, 400)
    assert all("± 0.0" in note for note in found["notes"])
    assert np.sum(found["counts"]) == 400
    near = 1.5  # the interval of 95 % is left by one in twenty, three halves of it by one in three hundred
    overall = found["overall"]
    assert 0 < overall["within"] < 0.06
    assert abs(overall["value"] - np.mean(ids == truth)) < near * overall["within"]
    for c in found["classes"]:
        area = np.count_nonzero(truth == c["class_id"]) / 100
        assert c["mapped_hectares"] == pytest.approx(np.count_nonzero(ids == c["class_id"]) / 100, rel=2e-3)
        assert abs(c["hectares"]["value"] - area) < near * c["hectares"]["within"]
    assert sum(c["hectares"]["value"] for c in found["classes"]) == pytest.approx(
        sum(c["mapped_hectares"] for c in found["classes"])
    )
    told = run(capsys, "assess", path, "--reference", points).out
    assert "overall accuracy" in told
    assert "±" in told
    assert "(95 % confidence), from 400 points" in told


def test_a_perfect_map_has_no_error(tmp_path: Path) -> None:
    truth = blotches(7)
    path = write_map(tmp_path / "map.tif", truth)
    sample(path, tmp_path / "points.gpkg", count=300)
    labelled(tmp_path / "points.gpkg", truth).to_file(tmp_path / "points.gpkg", layer="landcover")
    found = assess(path, tmp_path / "points.gpkg")
    assert (found.overall.value, found.overall.within) == (1, 0)
    for c in found.classes:
        assert c.hectares.value == pytest.approx(c.mapped_hectares)
        assert (c.users.value, c.producers.value, c.f1.value) == (1, 1, 1)
        assert c.hectares.within == pytest.approx(0, abs=1e-9)


def test_points_of_one_map_judge_another(tmp_path: Path) -> None:
    """The strata stay those that the points were drawn from; as the other map's classes they would mislead."""
    truth = blotches(8)
    first = write_map(tmp_path / "first.tif", mistaken(truth, 9, share=0.3))
    better = mistaken(truth, 10, share=0.05)
    sample(first, tmp_path / "points.gpkg", count=800, at_least=150)
    table = labelled(tmp_path / "points.gpkg", truth)
    table.to_file(tmp_path / "points.gpkg", layer="landcover")
    found = assess(write_map(tmp_path / "better.tif", better), tmp_path / "points.gpkg")
    assert abs(found.overall.value - np.mean(better == truth)) < 1.5 * found.overall.within
    urban = np.count_nonzero(truth == 3) / 100
    assert abs(found.classes[2].hectares.value - urban) < 1.5 * found.classes[2].hectares.within
    table.drop(columns=["stratum", "stratum_ha"]).to_file(tmp_path / "plain.gpkg")
    plain = assess(tmp_path / "better.tif", tmp_path / "plain.gpkg")
    assert any("do not tell how they were drawn" in note for note in plain.notes)
    assert plain.overall != found.overall


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = blotches(11)
    path = write_map(tmp_path / "map.tif", truth)
    sample(path, tmp_path / "points.gpkg", count=250)
    table = labelled(tmp_path / "points.gpkg", truth)
    urban = table["stratum"] == "urban"
    table.loc[urban, "reference"] = None
    table.loc[np.flatnonzero(~urban)[:3], "reference"] = ""
    table.to_file(tmp_path / "points.gpkg", layer="landcover")
    found = assess(path, tmp_path / "points.gpkg")
    told = " / ".join(found.notes)
    assert f"{urban.sum() + 3} points have no reference class" in told
    assert "no point drawn from urban is labelled" in told
    assert np.isnan(found.overall.value)
    json_ = json.loads(run(capsys, "assess", path, "-r", tmp_path / "points.gpkg", "--json").out)
    assert json_["overall"] == {"value": None, "within": None}
    assert "–" in run(capsys, "assess", path, "-r", tmp_path / "points.gpkg").out


@pytest.mark.parametrize("lost", ["labels", "points", "points and strata"])
def test_a_class_without_points_leaves_the_users_accuracy_of_others_and_nothing_else(tmp_path: Path, lost: str) -> None:
    """Nothing is known of a stratum without a sample, and any share of it may be any class (Olofsson et al. 2014)."""
    truth = blotches(11)
    path = write_map(tmp_path / "map.tif", mistaken(truth, 12))
    sample(path, tmp_path / "points.gpkg", count=250)
    table = labelled(tmp_path / "points.gpkg", truth)
    table.to_file(tmp_path / "all.gpkg")
    whole, urban = assess(path, tmp_path / "all.gpkg"), table["stratum"] == "urban"
    if lost == "labels":
        table.loc[urban, "reference"] = None
    else:
        table = table[~urban].drop(columns=["stratum", "stratum_ha"] if "strata" in lost else [])
    table.to_file(tmp_path / "some.gpkg")
    found = assess(path, tmp_path / "some.gpkg")
    assert "no point drawn from urban is labelled, so what is there is unknown" in " / ".join(found.notes)
    for known, c in zip(whole.classes, found.classes, strict=True):
        assert np.isnan([f.value for f in (found.overall, c.hectares, c.producers, c.f1)]).all()
        if c.class_name == "urban":
            assert np.isnan(c.users.value)
        else:
            assert c.users == known.users


@pytest.mark.parametrize("where", ["another class", "beyond the map"])
def test_a_point_that_was_moved_does_not_make_a_lost_class_known(tmp_path: Path, where: str) -> None:
    truth = blotches(11)
    path = write_map(tmp_path / "map.tif", mistaken(truth, 12))
    sample(path, tmp_path / "points.gpkg", count=250)
    table = labelled(tmp_path / "points.gpkg", truth)
    table = table[table["stratum"] != "urban"].reset_index(drop=True)
    other = table[table["stratum"] != table["stratum"][0]].geometry.iloc[0]
    beside = other.x + NORTH_UP.a, other.y  # for in the pixel of another point its class would be in dispute
    table.loc[0, "geometry"] = shapely.Point(beside if where == "another class" else (0, 0))
    table.to_file(tmp_path / "some.gpkg")
    found = assess(path, tmp_path / "some.gpkg")
    assert "no point drawn from urban is labelled" in " / ".join(found.notes)
    assert np.isnan([found.overall.value, *(c.hectares.value for c in found.classes)]).all()


def test_points_of_a_larger_map_judge_what_a_smaller_one_has(tmp_path: Path) -> None:
    """Where it has no class counts for nothing; to leave such points out would give its strata too much weight."""
    truth = np.kron(np.array([[1, 2]]), np.ones((200, 100), int)).astype(np.uint8)
    smaller = mistaken(truth, 21, share=0.2)
    smaller[20:, 100:] = 0
    known = smaller > 0
    real = np.mean((smaller == truth)[known])
    path = write_map(tmp_path / "smaller.tif", smaller)
    whole = write_map(tmp_path / "whole.tif", truth)
    values = []
    for seed in range(8):
        sample(whole, tmp_path / "points.gpkg", count=600, seed=seed, overwrite=True)
        table = labelled(tmp_path / "points.gpkg", truth)
        table.to_file(tmp_path / "labelled.gpkg")
        found = assess(path, tmp_path / "labelled.gpkg")
        values.append(found.overall.value)
        assert abs(found.overall.value - real) < 2 * found.overall.within
        assert found.compared == sum(map(sum, found.counts)) < 600
    pandas.concat([table, table], ignore_index=True).to_file(tmp_path / "twice.gpkg")
    assert assess(path, tmp_path / "twice.gpkg").overall == found.overall
    assert np.mean(values) == pytest.approx(real, abs=0.02)
    water = np.count_nonzero(truth[known] == 2) / 100
    assert abs(found.classes[1].hectares.value - water) < 2 * found.classes[1].hectares.within


def test_all_figures_of_the_worked_example_through_a_file(tmp_path: Path) -> None:
    ids = np.repeat([1, 2, 3, 4], [200, 150, 3200, 6450]).reshape(100, 100).astype(np.uint8)
    path = write_map(tmp_path / "map.tif", ids)
    mapped, truth = points_of(OLOFSSON)
    places = [np.flatnonzero(ids.ravel() == k + 1)[np.cumsum(mapped == k)[i] - 1] for i, k in enumerate(mapped)]
    row, col = np.divmod(places, 100)
    x, y = NORTH_UP @ (col + 0.5, row + 0.5)
    table = geopandas.GeoDataFrame({"class": NAMES[truth + 1]}, geometry=shapely.points(x, y), crs=UTM)
    table.to_file(tmp_path / "points.fgb")
    found = assess(path, tmp_path / "points.fgb", level=0.9)
    z = 1.645 / 1.96
    assert (found.overall.value, found.overall.within) == pytest.approx((0.947, 0.0185 * z), abs=5e-4)
    users = [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    producers = [(0.75, 0.21), (0.85, 0.25), (0.93, 0.03), (0.96, 0.02)]
    for c, user, producer in zip(found.classes, users, producers, strict=True):
        assert (c.users.value, c.users.within / z) == pytest.approx(user, abs=0.0055)
        assert (c.producers.value, c.producers.within / z) == pytest.approx(producer, abs=0.0055)
        harmonic = 2 * c.users.value * c.producers.value / (c.users.value + c.producers.value)
        assert c.f1.value == pytest.approx(harmonic)
    assert found.classes[0].hectares.value == pytest.approx(21_158 / 900_000 * 100, rel=2e-3)
    assert found.counts == tuple(map(tuple, OLOFSSON.tolist()))


def test_a_pixel_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = blotches(22)
    path = write_map(tmp_path / "map.tif", mistaken(truth, 23))
    sample(path, tmp_path / "points.gpkg", count=300)
    table = labelled(tmp_path / "points.gpkg", truth)
    table.to_file(tmp_path / "once.gpkg")
    repeated = type(table)(pandas.concat([table] * 5, ignore_index=True), crs=table.crs)
    repeated.to_file(tmp_path / "often.gpkg")
    once, often = assess(path, tmp_path / "once.gpkg"), assess(path, tmp_path / "often.gpkg")
    assert (often.overall, often.compared) == (once.overall, 300)
    assert "1200 points lie in a pixel that another one lies in" in often.notes[0]
    repeated.loc[0, "reference"] = "water" if table["reference"][0] != "water" else "urban"
    repeated.to_file(tmp_path / "torn.gpkg")
    assert "different classes in one pixel" in refused(capsys, tmp_path, "assess", path, "-r", tmp_path / "torn.gpkg")


def test_a_text_is_a_name_before_it_is_a_number(tmp_path: Path) -> None:
    """Names of classes may be the codes of another nomenclature."""
    names = {1: "2", 2: "1", 3: "11"}
    legend = Legend(name="codes", classes=tuple(LandClass(id=k, name=n, color="#112233") for k, n in names.items()))
    ids = np.repeat([1, 2, 3], 40).reshape(12, 10).astype(np.uint8)
    path = write_map(tmp_path / "map.tif", ids, legend=legend)
    row, col = np.divmod(np.arange(120), 10)
    places = shapely.points(*(NORTH_UP @ (col + 0.5, row + 0.5)))
    for values in ([names[k] for k in ids.ravel()], ids.ravel().astype(int)):
        geopandas.GeoDataFrame({"class": values}, geometry=places, crs=UTM).to_file(tmp_path / "points.gpkg")
        assert assess(path, tmp_path / "points.gpkg").overall.value == 1
        (tmp_path / "points.gpkg").unlink()
    assert assess(path, path).overall.value == 1


def test_a_raster_in_another_legend_is_compared_by_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def legend(*names: str) -> Legend:
        classes = tuple(LandClass(id=k, name=n, color="#112233") for k, n in enumerate(names, 1))
        return Legend(name="other", classes=classes)

    ids = blotches(24)
    path = write_map(tmp_path / "map.tif", ids)
    swapped = np.array([0, 3, 4, 1, 2], np.uint8)[ids]
    reference = write_map(tmp_path / "b.tif", swapped, legend=legend("urban", "other", "forest", "water"))
    assert assess(path, reference).overall.value == 1
    swapped[0, :5] = 5
    more = write_map(tmp_path / "m.tif", swapped, legend=legend("urban", "other", "forest", "water", "1"))
    found = assess(path, more)
    assert (found.compared, found.overall.value) == (ids.size - 5, 1), "though a class is called like a number"
    assert "5 pixels of classes that the map's legend lacks" in found.notes[1]
    swapped[0, :5] = 1
    other = write_map(tmp_path / "c.tif", swapped, legend=legend("urban", "other", "forest", "sea"))
    assert "without the map's class 'water'" in refused(capsys, tmp_path, "assess", path, "-r", other)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet", ".shp"])
def test_every_format_brings_back_all_points_also_across_the_antimeridian(tmp_path: Path, suffix: str) -> None:
    ids = np.tile(np.repeat([1, 2], 20), (30, 1)).astype(np.uint8)
    path = write_map(tmp_path / "map.tif", ids, crs="EPSG:4326", transform=Affine(0.1, 0, 178, 0, -0.1, 10))
    out = tmp_path / f"points{suffix}"
    sample(path, out, count=200)
    table = geopandas.read_parquet(out) if suffix == ".parquet" else geopandas.read_file(out)
    table["reference"] = table["stratum"]
    table.to_file(tmp_path / "labelled.gpkg")
    found = assess(path, tmp_path / "labelled.gpkg")
    assert (found.compared, found.overall.value) == (200, 1)


def test_areas_of_pixels_count_not_pixels(tmp_path: Path) -> None:
    ids = np.ones((140, 4), np.uint8)
    truth = ids.copy()
    truth[:40] = 2  # beyond 40° north
    place = {"crs": "EPSG:4326", "transform": Affine(1, 0, 0, 0, -1, 80)}
    path = write_map(tmp_path / "map.tif", ids, **place)
    found = assess(path, write_map(tmp_path / "truth.tif", truth, **place))
    north, all_ = (np.sin(np.radians(80)) + np.sin(np.radians(south)) for south in (-40, 60))
    assert found.overall.value == pytest.approx(1 - north / all_, abs=0.003)


def test_pixels_off_the_earth_have_no_area(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_map(
        tmp_path / "map.tif", np.ones((181, 360), np.uint8), crs="ESRI:54009",
        transform=Affine(1e5, 0, -1.8e7, 0, -1e5, 9.05e6),
    )  # fmt: skip
    assert "off the earth" in refused(capsys, tmp_path, "sample", path, "-o", tmp_path / "points.gpkg")


def test_ids_and_names_in_any_crs(tmp_path: Path) -> None:
    ids = blotches(12)
    path = write_map(tmp_path / "map.tif", ids)
    rows, cols = np.divmod(np.random.default_rng(0).permutation(ids.size)[:60], len(ids))
    x, y = NORTH_UP @ (cols + 0.3, rows + 0.7)
    places = geopandas.GeoSeries(shapely.points(x, y), crs=UTM)
    for name, values in {"class_id": ids[rows, cols].astype(float), "label": NAMES[ids[rows, cols]]}.items():
        table = geopandas.GeoDataFrame({name: values}, geometry=places).to_crs(4326)
        table.to_file(tmp_path / f"{name}.geojson")
        found = assess(path, tmp_path / f"{name}.geojson")
        assert (found.compared, found.overall.value) == (60, 1)


def test_points_may_lie_in_an_archive_named_from_the_root(tmp_path: Path) -> None:
    """Which GDAL writes with two slashes in a row."""
    write_map(tmp_path / "map.tif", blotches(0))
    sample(tmp_path / "map.tif", tmp_path / "points.gpkg")
    labelled(tmp_path / "points.gpkg", mistaken(blotches(0), 1)).to_file(tmp_path / "labels.gpkg")
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as archive:
        archive.write(tmp_path / "labels.gpkg", "labels.gpkg")
    found = assess(tmp_path / "map.tif", f"/vsizip/{tmp_path}/labels.zip/labels.gpkg")
    assert found == assess(tmp_path / "map.tif", tmp_path / "labels.gpkg")


def test_a_raster_is_compared_pixel_by_pixel(tmp_path: Path) -> None:
    truth = blotches(13)
    ids = mistaken(truth, 14)
    ids[:10] = 0
    truth[:, :7] = 0
    path, reference = write_map(tmp_path / "map.tif", ids), write_map(tmp_path / "truth.tif", truth, tagged=False)
    found = assess(path, reference)
    both = (ids > 0) & (truth > 0)
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (ids[both] - 1, truth[both] - 1), 1)
    np.testing.assert_array_equal(found.counts, expected)
    assert found.overall.value == pytest.approx(expected.trace() / expected.sum(), abs=1e-4)
    assert found.classes[1].producers.value == pytest.approx(expected[1, 1] / expected[:, 1].sum(), abs=1e-4)
    assert (found.sampled, np.isnan(found.overall.within)) == (False, True)
    assert "no random sample" in found.notes[0]


@pytest.mark.parametrize("nodata", [None, 0, 9])
@pytest.mark.parametrize("shift", [0, 0.3])
def test_what_a_mask_hides_is_compared_as_little_as_nodata(tmp_path: Path, nodata: int | None, shift: float) -> None:
    """Of a reference and of a map, that may have both; GDAL looks at one of them."""
    ids = blotches(3)
    path = write_map(tmp_path / "map.tif", ids)
    theirs, shown = ids.copy(), np.ones(ids.shape, bool)
    theirs[:30] = nodata or 0
    theirs[60:80], shown[60:80] = theirs[60:80] % 4 + 1, False  # other classes, all of them masked
    place = NORTH_UP @ NORTH_UP.translation(shift, shift)
    other = write_scene(tmp_path / "other.tif", theirs[None], names=(), transform=place, nodata=nodata, mask=shown)
    found = assess(path, other)
    assert (found.compared, found.overall.value) == (120 * 70, 1)
    back = assess(other, path, legend="default")
    assert (back.compared, back.overall.value) == (120 * 70, 1)


def test_a_raster_of_another_grid_is_brought_to_the_map(tmp_path: Path) -> None:
    ids = blotches(15)
    coarse = ids[::3, ::3]
    path = write_map(tmp_path / "map.tif", np.kron(coarse, np.ones((3, 3), np.uint8)))
    reference = write_map(tmp_path / "coarse.tif", coarse, transform=NORTH_UP @ Affine.scale(3))
    found = assess(path, reference)
    assert (found.compared, found.overall.value) == (ids.size, 1)


def points_file(folder: Path, name: str = "points.gpkg", crs: str | None = UTM, **columns) -> Path:
    place = shapely.points(500_055, 4_999_955)
    rows = len(next(iter(columns.values()), [0]))
    geopandas.GeoDataFrame(columns, geometry=[place] * rows, crs=crs).to_file(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"reference": ["forrest", "water"]}, "'forrest' (1 ×)"),
        ({"reference": [None, ""]}, "no class in 'reference'"),
        ({"kind": ["forest"]}, "say with --column"),
        ({"class_id": [7]}, "'7' (1 ×)"),
        ({"reference": ["forest"] * 2, "stratum": ["a"] * 2, "stratum_ha": [1.0, 2.0]}, "is not the area of"),
        ({"reference": ["forest"], "stratum": ["a"], "stratum_ha": [-1.0]}, "is not the area of"),
        ({"reference": ["forest"], "stratum": ["a"], "stratum_ha": ["many"]}, "does not hold numbers"),
        ({"reference": ["forest"] * 2, "stratum": ["a", None], "stratum_ha": [1.0] * 2}, "1 points have no 'stratum'"),
    ],
)
def test_references_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], columns: dict, said: str
) -> None:
    path = write_map(tmp_path / "map.tif", blotches(16))
    points = points_file(tmp_path, **columns)
    assert said in refused(capsys, tmp_path, "assess", path, "--reference", points)


def test_more_that_cannot_be_assessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_map(tmp_path / "map.tif", blotches(17))
    points = points_file(tmp_path, reference=["forest"])

    def said(*args: str | Path) -> str:
        return refused(capsys, tmp_path, "assess", *args)

    assert "does not exist" in said(path, "-r", tmp_path / "none.gpkg")
    (tmp_path / "points.csv").write_text("x,y,reference\n500055,4999955,forest\n")
    assert "a table that does not tell in which CRS" in said(path, "-r", tmp_path / "points.csv")
    assert "did you mean 'reference'" in said(path, "-r", points, "--column", "referense")
    assert "and so a raster; leave it out" in said(path, "-r", path, "--column", "reference")
    assert "no level of confidence" in said(path, "-r", points, "--level", "95")
    square = geopandas.GeoDataFrame({"reference": ["forest"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=UTM)
    square.to_file(tmp_path / "square.gpkg")
    assert "holds Polygon; give points" in said(path, "-r", tmp_path / "square.gpkg")
    (tmp_path / "broken.gpkg").write_bytes(b"no layer")
    assert "cannot be read" in said(path, "-r", tmp_path / "broken.gpkg")
    far = points_file(tmp_path, "far.gpkg", crs="EPSG:4326", reference=["forest"])
    assert "cannot be brought" in said(path, "-r", far) or "cannot show" in said(path, "-r", far)
    beside = write_map(tmp_path / "beside.tif", blotches(17), transform=Affine.translation(9e4, 0) @ NORTH_UP)
    assert "do both show the same place" in said(beside, "-r", points)
    assert "do both show the same place" in said(beside, "-r", path)
    placeless = write_map(tmp_path / "placeless.tif", blotches(17), crs=None)
    assert "no CRS" in said(placeless, "-r", points)
    assert "no CRS" in said(path, "-r", placeless)
    odd = blotches(17)
    odd[0, 0] = 77
    unknown = write_map(tmp_path / "odd.tif", odd)
    assert "77 (1 px)" in said(unknown, "-r", points)
    assert "does not know: 77" in said(path, "-r", unknown)
    with rasterio.open(
        tmp_path / "float.tif",
        "w",
        driver="GTiff",
        height=9,
        width=9,
        count=1,
        dtype="float32",
        crs=CRS.from_user_input(UTM),
        transform=NORTH_UP,
    ) as file:
        file.write(np.ones((1, 9, 9), np.float32))
    assert "no raster of class ids" in said(path, "-r", tmp_path / "float.tif")


def test_what_cannot_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_map(tmp_path / "map.tif", blotches(18))
    out = tmp_path / "points.gpkg"

    def said(*args: str | Path) -> str:
        return refused(capsys, tmp_path, "sample", *args)

    assert "give 200 or more" in said(path, "-o", out, "--count", "100")
    assert "so that an error can be told" in said(path, "-o", out, "--at-least", "1")
    assert "no more than 1,000,000" in said(path, "-o", out, "--count", "1000000000000")
    assert "gives the format" in said(path, "-o", tmp_path / "points.txt")
    empty = write_map(tmp_path / "empty.tif", np.zeros((9, 9), np.uint8))
    assert "all nodata" in said(empty, "-o", out)
    assert "no CRS" in said(write_map(tmp_path / "placeless.tif", blotches(18), crs=None), "-o", out)
    out.touch()
    assert "--overwrite" in said(path, "-o", out)


def test_points_tell_where_they_come_from(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", blotches(19))
    sample(path, tmp_path / "points.parquet", count=200, seed=3)
    import pyarrow.parquet

    told = pyarrow.parquet.read_schema(tmp_path / "points.parquet").metadata
    assert json.loads(told[b"LANDCOVER_SAMPLE"])["seed"] == 3
    assert geopandas.read_parquet(tmp_path / "points.parquet").crs == pyproj.CRS(UTM)
    with pytest.raises(LandcoverError):
        sample(path, tmp_path / "points.parquet")
    with pytest.raises(ConfigError, match="cannot be drawn"):
        sample(path, tmp_path / "again.parquet", count=10)
    with pytest.raises(ConfigError, match="--seed -1 is below 0"):
        sample(path, tmp_path / "again.parquet", seed=-1)


HALVES = np.repeat([1, 2], 50).reshape(10, 10).astype(np.uint8)
"""Class ids: forest above, water below."""


def at(rows: object, cols: object) -> np.ndarray:
    """Points in pixels of a map, by row and column, which may be fractions."""
    return shapely.points(*(NORTH_UP @ (np.asarray(cols, float), np.asarray(rows, float))))


def test_half_of_a_class_is_found_without_drawing_again(tmp_path: Path) -> None:
    """Places fall into one pixel twice, so of a class little larger than its points pixels are drawn instead."""
    ids = np.ones((40, 40), np.uint8)
    ids[0] = 2
    ids[1, 0] = 2
    strata = sample(write_map(tmp_path / "map.tif", ids), tmp_path / "points.gpkg", count=200, at_least=40)
    assert [s.points for s in strata] == [160, 40]


def test_a_single_point_tells_no_error(tmp_path: Path) -> None:
    truth = blotches(11)
    path = write_map(tmp_path / "map.tif", truth)
    sample(path, tmp_path / "points.gpkg", count=250)
    table = labelled(tmp_path / "points.gpkg", truth)
    urban = np.flatnonzero(table["stratum"] == "urban")
    table.loc[urban[1:], "reference"] = None
    table.to_file(tmp_path / "points.gpkg", layer="landcover")
    found = assess(path, tmp_path / "points.gpkg")
    assert "only one point drawn from urban is labelled" in " / ".join(found.notes)
    assert (found.overall.value, np.isnan(found.overall.within)) == (1, True)
    assert [np.isnan(c.users.within) for c in found.classes] == [False, False, True, False]


@pytest.mark.parametrize("judged", ["the map", "another map"])
def test_a_class_of_one_pixel_takes_no_interval_away(tmp_path: Path, judged: str) -> None:
    """No second point can be drawn from it, and the first tells all of it."""
    truth = blotches(11)
    ids = np.where(truth == 3, 4, truth)
    ids[50, 50] = 3
    drawn = write_map(tmp_path / "drawn.tif", ids)
    sample(drawn, tmp_path / "points.gpkg", count=200)
    labelled(tmp_path / "points.gpkg", truth).to_file(tmp_path / "points.gpkg", layer="landcover")
    other = write_map(tmp_path / "other.tif", mistaken(truth, 12))
    found = assess(drawn if judged == "the map" else other, tmp_path / "points.gpkg")
    assert not any("only one point" in note for note in found.notes)
    figures = [found.overall, *(f for c in found.classes for f in (c.hectares, c.users, c.producers))]
    assert np.isfinite([f.within for f in figures]).all()


@pytest.mark.parametrize("level", [0.49, 0.99991, float("nan")])
def test_levels_that_are_none(tmp_path: Path, level: float) -> None:
    path = write_map(tmp_path / "map.tif", blotches(17))
    with pytest.raises(ConfigError, match="no level of confidence"):
        assess(path, points_file(tmp_path, reference=["forest"]), level=level)


def test_several_points_may_be_one_feature_and_what_has_no_place_is_left_out(tmp_path: Path) -> None:
    points = at([0.5, 0.5, 0.5, 9.5, 9.5, 9.5], [0.5, 1.5, 2.5] * 2)
    shapes = [shapely.MultiPoint(points[:3]), shapely.MultiPoint(points[3:]), None, shapely.Point()]
    table = geopandas.GeoDataFrame({"class_id": [1, 2, 1, 2]}, geometry=shapes, crs=UTM)
    table.to_file(tmp_path / "points.gpkg")
    found = assess(write_map(tmp_path / "map.tif", HALVES), tmp_path / "points.gpkg")
    assert (found.compared, found.overall.value) == (6, 1)
    assert "2 points have no place and are left out" in found.notes


def test_points_beside_the_map_need_not_agree(tmp_path: Path) -> None:
    """Two points of a finer map, in one pixel where this one has nothing."""
    ids = np.repeat([1, 0], 50).reshape(10, 10).astype(np.uint8)
    points = at([0.5, 0.5, 9.5, 9.5], [0.5, 1.5, 0.3, 0.6])
    columns = {"reference": ["forest", "forest", "forest", "water"], "stratum": ["a"] * 4, "stratum_ha": [1.0] * 4}
    geopandas.GeoDataFrame(columns, geometry=points, crs=UTM).to_file(tmp_path / "points.gpkg")
    assert assess(write_map(tmp_path / "map.tif", ids), tmp_path / "points.gpkg").compared == 2


def test_a_class_of_the_legend_that_is_nowhere_on_the_map_needs_no_points(tmp_path: Path) -> None:
    points = at(np.arange(10) + 0.5, np.arange(10) + 0.5)
    table = geopandas.GeoDataFrame({"class": np.repeat(["forest", "water"], 5)}, geometry=points, crs=UTM)
    table.to_file(tmp_path / "points.gpkg")
    found = assess(write_map(tmp_path / "map.tif", HALVES), tmp_path / "points.gpkg")
    assert (found.overall.value, found.overall.within) == (1, 0)
    assert not any("drawn from" in note for note in found.notes)


def test_a_class_without_an_error_among_its_points_is_told(tmp_path: Path) -> None:
    """Also where other classes have errors."""
    points = at(np.arange(10) + 0.5, np.arange(10) + 0.5)
    real = ["water", *["forest"] * 4, *["water"] * 5]
    geopandas.GeoDataFrame({"class": real}, geometry=points, crs=UTM).to_file(tmp_path / "points.gpkg")
    found = assess(write_map(tmp_path / "map.tif", HALVES), tmp_path / "points.gpkg")
    assert found.overall.within > 0
    assert any("± 0.0 says" in note for note in found.notes)


def test_zero_is_no_class(tmp_path: Path) -> None:
    """As on the map, whether it is written as a number or as a text."""
    path = write_map(tmp_path / "map.tif", np.ones((10, 10), np.uint8))
    for i, values in enumerate(([1, 1, 0], ["forest", "forest", "0"])):
        points = at(np.arange(3) + 0.5, np.arange(3) + 0.5)
        geopandas.GeoDataFrame({"class": values}, geometry=points, crs=UTM).to_file(tmp_path / f"{i}.gpkg")
        found = assess(path, tmp_path / f"{i}.gpkg")
        assert found.compared == 2
        assert "1 points have no reference class" in found.notes[0]


def test_the_columns_that_there_are_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it has Klasse"):
        assess(write_map(tmp_path / "map.tif", blotches(17)), points_file(tmp_path, Klasse=["forest"]))
