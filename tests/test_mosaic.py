"""Mosaics: every pixel is that of the map on top, however the maps lie, and both kinds of mosaic show the same."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.warp import Resampling, reproject

from landcover import mosaic
from landcover.classmap import open_map
from landcover.errors import ConfigError, LandcoverError, MapError, OutputError
from landcover.journal import finished_part
from landcover.mosaic import fill_mosaic, plan_mosaic, write_vrt
from landcover.preview import preview
from landcover.specs import Legend, load_legend
from landcover.stats import stats
from landcover.vectorization import vectorize
from tests.commands import tree
from tests.maps import write_confidence, write_map
from tests.scenes import read_map

ORIGIN = (500_000, 5_000_000)


def at(row: float, col: float, pixel: float = 10) -> Affine:
    """A grid whose corner lies some pixels of 10 m below and to the right of the origin."""
    return Affine(pixel, 0, ORIGIN[0] + 10 * col, 0, -pixel, ORIGIN[1] - 10 * row)


def classes(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random class ids, a fifth of them nodata; uint8 (height, width)."""
    return np.random.default_rng(seed).integers(0, 5, (height, width)).astype(np.uint8)


def merge(maps: Sequence[Path], out: Path, *, overwrite: bool = False, **how) -> np.ndarray:
    for _ in fill_mosaic(plan_mosaic(maps, out, **how), overwrite=overwrite):
        pass
    return read_map(out)


def painted(parts: Sequence[tuple[int, int, np.ndarray]]) -> np.ndarray:
    """What a mosaic of maps at rows and columns is: the later ones on top, nodata transparent."""
    top, left = min(r for r, _, _ in parts), min(c for _, c, _ in parts)
    height = max(r + ids.shape[0] for r, _, ids in parts) - top
    width = max(c + ids.shape[1] for _, c, ids in parts) - left
    whole = np.zeros((height, width), np.uint8)
    for row, col, ids in parts:
        view = whole[row - top : row - top + ids.shape[0], col - left : col - left + ids.shape[1]]
        view[ids > 0] = ids[ids > 0]
    return whole


PLACES = st.lists(
    st.tuples(st.integers(-30, 30), st.integers(-30, 30), st.integers(1, 25), st.integers(1, 25)),
    min_size=1,
    max_size=5,
)


@given(PLACES, st.integers(1, 40), st.integers(1, 40))
def test_both_mosaics_are_the_maps_painted_one_over_the_other(
    tmp_path: Path, places: list[tuple[int, int, int, int]], rows: int, cols: int
) -> None:
    parts = [(row, col, classes(h, w, seed)) for seed, (row, col, h, w) in enumerate(places)]
    maps = [write_map(tmp_path / f"{i}.tif", ids, transform=at(r, c)) for i, (r, c, ids) in enumerate(parts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mosaic, "BLOCK", rows)
        patch.setattr(mosaic, "_PIECE", cols)
        merged = merge(maps, tmp_path / "mosaic.tif", overwrite=True)
    assert np.array_equal(merged, painted(parts))
    (vrt,), left_out = write_vrt(maps, tmp_path / "mosaic.vrt")
    assert not left_out
    assert np.array_equal(read_map(vrt), merged)
    with rasterio.open(vrt) as a, rasterio.open(tmp_path / "mosaic.tif") as b:
        assert a.transform.almost_equals(b.transform)
        assert a.bounds == b.bounds


@given(st.lists(st.integers(0, 2**32), min_size=2, max_size=4))
def test_the_most_confident_wins_and_the_later_of_equals(tmp_path: Path, seeds: list[int]) -> None:
    maps, confidences, wanted = [], [], np.zeros((9, 8), np.uint8)
    best = np.full(wanted.shape, -1)
    for i, seed in enumerate(seeds):
        ids = classes(9, 8, seed)
        percent = np.random.default_rng(seed).integers(40, 44, ids.shape)
        percent[ids == 0] = 255
        percent[i % 9] = 255  # nobody knows how sure it is
        maps.append(write_map(tmp_path / f"{i}.tif", ids))
        confidences.append(write_confidence(tmp_path / f"c{i}.tif", percent))
        known = np.where(percent == 255, 0, percent)
        wins = (ids > 0) & (known >= best)
        wanted[wins], best[wins] = ids[wins], known[wins]
    assert np.array_equal(merge(maps, tmp_path / "m.tif", confidences=confidences, overwrite=True), wanted)


def test_a_map_off_the_grid_is_resampled_to_the_nearest_pixel(tmp_path: Path) -> None:
    coarse = classes(40, 30, 1)
    maps = [
        write_map(tmp_path / "a.tif", classes(50, 40), transform=at(0, 0)),
        write_map(tmp_path / "b.tif", classes(50, 40, 2), transform=at(0, 40)),
        write_map(tmp_path / "c.tif", coarse, transform=at(50.3, 7.4, 20)),
    ]
    merged = merge(maps, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as file:
        place, crs = file.transform, file.crs
    wanted = np.zeros(merged.shape, np.uint8)
    how = {"src_crs": crs, "dst_crs": crs, "dst_transform": place, "src_nodata": 0, "dst_nodata": 0}
    reproject(coarse, wanted, src_transform=at(50.3, 7.4, 20), resampling=Resampling.nearest, **how)
    assert place == at(0, 0)
    assert np.array_equal(merged[:50, :80], np.hstack([read_map(maps[0]), read_map(maps[1])]))
    assert np.array_equal(merged[51:], wanted[51:])
    assert (read_map(write_vrt(maps, tmp_path / "m.vrt")[0][0]) == merged).mean() > 0.97


def test_the_grid_is_that_of_most_maps_not_of_the_first(tmp_path: Path) -> None:
    """The first one lies off it by parts of pixels; the others keep every pixel, in both kinds of mosaic."""
    write_map(tmp_path / "off.tif", classes(9, 9), transform=at(0.4, 0.3))
    parts = [(20, 0, classes(12, 10, seed=1)), (15, 30, classes(8, 11, seed=2))]
    maps = [write_map(tmp_path / f"{i}.tif", ids, transform=at(r, c)) for i, (r, c, ids) in enumerate(parts)]
    merge([tmp_path / "off.tif", *maps], tmp_path / "mosaic.tif")
    write_vrt([tmp_path / "off.tif", *maps], tmp_path / "mosaic.vrt")
    for name in ("mosaic.tif", "mosaic.vrt"):
        with rasterio.open(tmp_path / name) as file:
            for row, col, ids in parts:
                window = file.window(*rasterio.transform.array_bounds(*ids.shape, at(row, col)))
                assert np.allclose(window.flatten(), np.round(window.flatten()), atol=1e-6), "no pixel is moved"
                assert np.array_equal(file.read(1, window=window.round_offsets()), ids)


def test_maps_of_several_crs_make_one_mosaic_and_several_virtual_ones(tmp_path: Path) -> None:
    home = [write_map(tmp_path / f"{i}.tif", classes(60, 50, i) + 1, transform=at(0, 50 * i)) for i in range(2)]
    ids = np.full((20, 20), 3, np.uint8)
    ids[:10] = 2
    away = write_map(tmp_path / "lonlat.tif", ids, transform=Affine(1e-4, 0, 15.02, 0, -1e-4, 45.15), crs="EPSG:4326")
    maps = [home[0], away, home[1]]
    merged = merge(maps, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.crs.to_epsg() == 32633
        assert file.res == (10, 10)
        (x,), (y,) = rasterio.warp.transform("EPSG:4326", file.crs, [15.0205], [45.1495])
        assert merged[file.index(x, y)] == 2
    assert np.array_equal(merged[:60, :100], np.hstack([read_map(p) for p in home]))
    assert {2, 3} <= set(np.unique(merged[:, 100:])) <= {0, 2, 3}
    written, _ = write_vrt(maps, tmp_path / "v.vrt")
    assert [p.name for p in written] == ["v_EPSG32633.vrt", "v_EPSG4326.vrt"]
    assert np.array_equal(read_map(written[1]), ids)
    for name in ("v_mine", "v_S2"):
        (tmp_path / f"{name}.vrt").write_text("of somebody else")
    (tmp_path / "v_Q3.vrt").mkdir()
    assert write_vrt(home, tmp_path / "v.vrt")[0] == [tmp_path / "v.vrt"]
    assert sorted(p.name for p in tmp_path.glob("*.vrt")) == ["v.vrt", "v_Q3.vrt", "v_S2.vrt", "v_mine.vrt"], (
        "those of before are gone"
    )
    write_vrt(maps, tmp_path / "v.vrt")
    assert sorted(p.name for p in tmp_path.glob("*.vrt")) == [
        "v_EPSG32633.vrt",
        "v_EPSG4326.vrt",
        "v_Q3.vrt",
        "v_S2.vrt",
        "v_mine.vrt",
    ]
    assert plan_mosaic(maps, tmp_path / "x.tif", crs="EPSG:3035").grid.crs.to_epsg() == 3035


def test_a_mosaic_in_another_crs_hardly_depends_on_its_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = [write_map(tmp_path / f"{i}.tif", classes(90, 70, i), transform=at(10 * i, 60 * i)) for i in range(3)]
    whole = merge(maps, tmp_path / "whole.tif", crs="EPSG:3035")
    monkeypatch.setattr(mosaic, "BLOCK", 17)
    monkeypatch.setattr(mosaic, "_PIECE", 23)
    strips = merge(maps, tmp_path / "strips.tif", crs="EPSG:3035")
    assert (strips == whole).mean() > 0.995  # pixels that lie between two, within the tolerance
    assert (whole > 0).mean() > 0.3


@pytest.mark.parametrize("kind", ["vrt", "tif"])
def test_every_command_takes_a_mosaic_for_a_map(tmp_path: Path, kind: str) -> None:
    parts = [(0, 0, classes(40, 30)), (20, 25, classes(40, 30, 1))]
    maps = [write_map(tmp_path / f"{i}.tif", ids, transform=at(r, c)) for i, (r, c, ids) in enumerate(parts)]
    out = tmp_path / f"m.{kind}"
    write_vrt(maps, out) if kind == "vrt" else merge(maps, out)
    with open_map(out) as (file, legend):
        assert legend == load_legend("default")
        assert file.nodata == 0
        assert file.colormap(1)[1] == (*legend.classes[0].rgb, 255)
        assert file.descriptions == ("class",)
    whole = painted(parts)
    assert [c.pixels for c in stats(out)[0].classes] == [int((whole == c.id).sum()) for c in legend.classes]
    assert preview(out, tmp_path / "m.png", size=256)
    assert vectorize(out, tmp_path / "m.gpkg")


@pytest.mark.parametrize(
    ("how", "flaw"),
    [
        ({"transform": at(0, 0) @ Affine.rotation(30)}, "is rotated"),
        ({"transform": at(9, 0) @ Affine.scale(1, -1)}, "has south at its top"),
        ({"transform": at(0, 9) @ Affine.scale(-1, 1)}, "has east at its left"),
        ({"transform": at(9, 9) @ Affine.scale(-1, -1)}, "has south at its top and east at its left"),
        ({"transform": at(0, 0), "crs": None}, "has no CRS"),
    ],
)
def test_a_virtual_mosaic_shows_the_maps_that_it_can_and_says_what_is_the_matter_with_the_others(
    tmp_path: Path, how: dict, flaw: str
) -> None:
    upright = write_map(tmp_path / "upright.tif", classes(9, 9))
    other = write_map(tmp_path / "other.tif", classes(9, 9, 1), **how)
    (vrt,), left_out = write_vrt([other, upright], tmp_path / "m.vrt")
    assert left_out == {other: flaw}
    assert np.array_equal(read_map(vrt), read_map(upright))


def test_a_virtual_mosaic_moves_with_its_maps(tmp_path: Path) -> None:
    here = tmp_path / "here & <there>"
    (here / "maps").mkdir(parents=True)
    ids = classes(10, 10)
    write_vrt([write_map(here / "maps" / "a 'b'.tif", ids)], here / "m.vrt")
    here.rename(tmp_path / "moved")
    assert np.array_equal(read_map(tmp_path / "moved" / "m.vrt"), ids)


def begun(maps: Sequence[Path], out: Path) -> int:
    """The pixels that a mosaic finds done; it is stopped then."""
    running = fill_mosaic(plan_mosaic(maps, out))
    done = next(running)
    running.close()
    return done


def test_a_stopped_mosaic_goes_on_and_one_of_other_maps_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosaic, "BLOCK", 16)
    maps = [write_map(tmp_path / f"{i}.tif", classes(64, 40, i), transform=at(0, 40 * i)) for i in range(2)]
    wanted = merge(maps, tmp_path / "wanted.tif")
    out = tmp_path / "m.tif"
    running = fill_mosaic(plan_mosaic(maps, out))
    assert [next(running) for _ in range(4)] == [0, 16 * 80, 32 * 80, 48 * 80]
    running.close()
    assert not out.exists()
    assert finished_part(out)
    assert begun(maps, out) == 32 * 80
    os.utime(maps[0], ns=(0, 0))
    assert begun(maps, out) == 0, "a map was changed"
    assert begun(maps[:1], out) == 0
    assert np.array_equal(merge(maps, out), wanted)
    assert out.read_bytes() == (tmp_path / "wanted.tif").read_bytes()
    assert not [name for name in tree(tmp_path) if name.startswith(".")]


def test_progress_ends_at_all_pixels(tmp_path: Path) -> None:
    maps = [write_map(tmp_path / "a.tif", classes(600, 40))]
    done = list(fill_mosaic(plan_mosaic(maps, tmp_path / "m.tif")))
    assert done[-1] == plan_mosaic(maps, tmp_path / "x.tif").pixels == 600 * 40
    assert done == sorted(done)


OTHER = Legend.model_validate({"name": "other", "classes": [{"id": 1, "name": "wood", "color": "#00ff00"}]})


def test_mosaics_that_cannot_be_made(tmp_path: Path) -> None:
    a = write_map(tmp_path / "a.tif", classes(10, 10))
    b = write_map(tmp_path / "b.tif", classes(10, 10) * 0 + 1, legend=OTHER)
    nowhere = write_map(tmp_path / "nowhere.tif", classes(10, 10), crs=None, transform=Affine.identity())
    turned = write_map(tmp_path / "turned.tif", classes(10, 10), transform=at(0, 0) @ Affine.rotation(30))
    far = write_map(tmp_path / "far.tif", classes(10, 10), transform=Affine(1e-9, 0, 170, 0, -1e-9, 1), crs="EPSG:4326")
    near = write_map(tmp_path / "near.tif", classes(10, 10), transform=Affine(1e-9, 0, 0, 0, -1e-9, 1), crs="EPSG:4326")
    confidence = write_confidence(tmp_path / "c.tif", np.ones((5, 5)))
    before = tree(tmp_path)
    out, vrt = tmp_path / "m.tif", tmp_path / "m.vrt"

    def refuse(error: type[LandcoverError], sentence: str, maps: list[Path], path: Path = out, **how) -> None:
        with pytest.raises(error, match=sentence):
            write_vrt(maps, path) if path.suffix == ".vrt" else merge(maps, path, **how)

    for path in (out, vrt):
        refuse(MapError, "no maps", [], path)
        refuse(MapError, r"b\.tif has the legend 'other' \(1 wood\), but .*a\.tif has 'default'", [a, b], path)
        refuse(MapError, "none.tif cannot be read", [a, tmp_path / "none.tif"], path)
        refuse(MapError, "more than a raster can have", [near, far], path)
    refuse(MapError, "turned.tif is rotated; a virtual raster needs", [turned, nowhere], vrt)
    refuse(MapError, "nowhere.tif has no CRS", [a, nowhere])
    refuse(OutputError, "ends in .tif", [a], tmp_path / "m.png")
    refuse(OutputError, "one of the maps", [a], a, overwrite=True)
    refuse(OutputError, "exists already", [a], b)
    refuse(ConfigError, "1 maps but 2 confidences", [a], confidences=[confidence, confidence])
    refuse(MapError, "c.tif does not have the pixels", [a], confidences=[confidence])
    refuse(ConfigError, "'EPSG:none' is not a coordinate", [a], crs="EPSG:none")
    assert tree(tmp_path) == before
    assert np.array_equal(merge([turned], out) > 0, merge([turned], out, overwrite=True) > 0)


def test_a_map_across_the_antimeridian_needs_a_crs_where_it_is_whole(tmp_path: Path) -> None:
    across = write_map(
        tmp_path / "a.tif", classes(20, 20), transform=Affine(1e4, 0, 7e5, 0, -1e4, 1e5), crs="EPSG:32660"
    )
    with pytest.raises(MapError, match="across the edge of EPSG:4326"):
        plan_mosaic([across], tmp_path / "m.tif", crs="EPSG:4326")
