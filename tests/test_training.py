"""Training: what is learned, from what, held out where, and that a stopped run ends as an undisturbed one."""

import csv
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import geopandas
import numpy as np
import psutil
import pytest
import rasterio
import rasterio.warp
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from shapely.geometry import MultiPoint, Point, box

from landcover.accuracy import calibration_error, confusion, f1_scores, figures, macro_f1, overall_accuracy
from landcover.errors import ConfigError, ModelError, OutputError, SamplesError, TrainingError
from landcover.grid import Box
from landcover.models import Model, init_model, load_model, save_model
from landcover.network import Enlarging, build_network
from landcover.prediction import predict
from landcover.recipes import Augmentation, ChipsSource, PackSource, Split, read_recipe
from landcover.scaling import make_scaling
from landcover.scene import open_scene
from landcover.specs import LandClass, Legend, load_legend
from landcover.training import labels, plan_training, run, train
from landcover.training.augmentation import Augmenter, Chips, cut, water_colours
from landcover.training.checkpoints import CHECKPOINT, Best, Checkpoint, Step, read_checkpoint
from landcover.training.labels import Labels
from landcover.training.learning import Task, View, warm_cosine
from landcover.training.outcome import _as_stored, _is_safe, find_temperature, score_tests
from landcover.training.places import folds, hold_out, places
from landcover.training.processes import learn_on
from landcover.training.samples import Origin, Samples, gather
from landcover.training.sources import Piece, read_source
from landcover.training.start import refined_network, soften
from tests.commands import landcover
from tests.lessons import change, patches, write_labels, write_lesson
from tests.ports import listening
from tests.scenes import UTM, digital_numbers, read_map, write_scene
from tests.test_models import Bomb

OUTCOME = {
    "model.safetensors",
    "model.json",
    "README.md",
    "recipe.toml",
    "curves.csv",
    "curves.png",
    "confusion.csv",
    "validation.png",
}


def pieces_of(recipe: Path, chip: int) -> list[Piece]:
    """What is read from the sources of a recipe that stands beside its legend, as `write_lesson` writes them."""
    legend = load_legend(str(recipe.with_name("two.toml")))
    return [p for source in read_recipe(recipe).sources for p in read_source(source, ("red", "nir"), legend, chip)]


# ----------------------------------------------------------------------------------------------------- stories


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lesson(tmp_path_factory.mktemp("lesson"))


@pytest.fixture(scope="module")
def trained(lesson: Path) -> Path:
    """A model that was trained by the recipe."""
    out = lesson.parent / "model"
    train(plan_training(lesson, out, device="cpu"))
    return out


def test_what_is_trained_maps_what_it_was_shown(lesson: Path, trained: Path) -> None:
    assert {p.name for p in trained.iterdir()} == OUTCOME
    out = lesson.parent / "map.tif"
    predict(lesson.parent / "scene.tif", out, model=trained, device="cpu")
    truth = np.where(patches(128), 3, 7)
    assert (read_map(out) == truth).mean() > 0.9


def test_the_card_tells_what_was_measured(trained: Path) -> None:
    spec = load_model(trained).spec
    held_out = spec.accuracy["places held out"]
    assert held_out["macro_f1"] > 0.8
    assert held_out["pixels"] == 4 * 32 * 32  # a quarter of sixteen blocks
    card = (trained / "README.md").read_text()
    assert f"{held_out['macro_f1']:.3f}" in card
    assert "12 chips of 32 × 32 pixels" in card


def test_a_test_scene_is_scored_through_predict(tmp_path: Path) -> None:
    recipe = write_lesson(tmp_path)
    recipe.write_text(
        recipe.read_text() + '[[tests]]\ntitle = "the scene | itself"\nscene = "scene.tif"\nlabels = "labels.tif"\n'
    )
    train(plan_training(recipe, tmp_path / "model", device="cpu"))
    predict(tmp_path / "scene.tif", tmp_path / "map.tif", model=tmp_path / "model", device="cpu", precision="f32")
    truth = np.where(patches(128), 1, 2)
    found = np.where(read_map(tmp_path / "map.tif") == 3, 1, 2)
    expected = figures(confusion(truth, found, 2), ("bright", "dark"))
    measured = dict(load_model(tmp_path / "model").spec.accuracy["the scene | itself"])
    assert 0 <= measured.pop("calibration_error") < 0.2
    assert measured == expected
    assert "| the scene \\| itself | 16,384 |" in (tmp_path / "model" / "README.md").read_text()


def test_shapes_on_both_sides_of_the_antimeridian_are_learned_from(tmp_path: Path) -> None:
    """A scene in degrees counts on above 180, and what lies there is drawn at -179."""
    recipe = write_lesson(tmp_path, side=32, labels="shapes.gpkg")
    place = Affine(0.05, 0, 179.2, 0, -0.05, 1)  # to 180.8
    write_scene(tmp_path / "scene.tif", digital_numbers(32, 32), crs="EPSG:4326", transform=place)
    shapes = [box(179.3, 0, 179.5, 0.5), box(-179.5, 0, -179.3, 0.5), box(-30, 0, -29, 1)]
    frame = geopandas.GeoDataFrame({"class": ["bright", "dark", "dark"]}, geometry=shapes, crs="EPSG:4326")
    frame.to_file(tmp_path / "shapes.gpkg")
    (piece,) = pieces_of(recipe, 32)
    assert np.bincount(piece.labels.ravel(), minlength=3)[1:].tolist() == [40, 40]


def test_points_in_degrees_are_learned_from_where_the_scene_crosses_the_antimeridian(tmp_path: Path) -> None:
    """In metres, as Fiji is in UTM: on either side of it, in pairs, and far away."""
    recipe = write_lesson(tmp_path, side=32, labels="shapes.gpkg")
    place = Affine(200, 0, 830_766, 0, -200, 58_541)
    write_scene(tmp_path / "scene.tif", digital_numbers(32, 32), crs="EPSG:32660", transform=place)
    shapes = [Point(179.99, 0.5), MultiPoint([(179.98, 0.5), (-179.98, 0.5)]), Point(-179.99, 0.5), Point(-30, 0)]
    frame = geopandas.GeoDataFrame({"class": ["bright", "bright", "dark", "dark"]}, geometry=shapes, crs="EPSG:4326")
    frame.to_file(tmp_path / "shapes.gpkg")
    (piece,) = pieces_of(recipe, 32)
    assert np.bincount(piece.labels.ravel(), minlength=3)[1:].tolist() == [3, 1]


def test_polygons_and_points_are_partial_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What no shape covers is ignored; what two classes claim too."""
    recipe = write_lesson(tmp_path, labels="shapes.gpkg")
    left, top = UTM @ (0, 0)
    shapes = [
        (box(left, top - 80, left + 80, top), "bright"),  # 8 × 8 pixels
        (box(left + 40, top - 40, left + 120, top), "dark"),  # half of its 8 × 4 claimed by the other
        (Point(left + 335, top - 335), "7"),  # one pixel, by its id
    ]
    frame = geopandas.GeoDataFrame({"class": [c for _, c in shapes]}, geometry=[g for g, _ in shapes], crs="EPSG:32633")
    frame.to_crs(4326).to_file(tmp_path / "shapes.gpkg")
    frame.to_crs(4326).to_parquet(tmp_path / "shapes.geoparquet")
    (source,) = read_recipe(recipe).sources
    legend = load_legend(str(tmp_path / "two.toml"))
    pieces = list(read_source(source, ("red", "nir"), legend, 32))
    also = source.model_copy(update={"labels": tmp_path / "shapes.geoparquet"})
    for one, other in zip(pieces, read_source(also, ("red", "nir"), legend, 32), strict=True):
        assert (one.labels == other.labels).all()
    counts = sum(np.bincount(p.labels.ravel(), minlength=3) for p in pieces)
    corner = -500_000, 50_000  # of the scene, in pixels of its grid
    assert [(p.row - corner[0], p.col - corner[1]) for p in pieces] == [(0, 0), (32, 32)]
    assert counts[1:].tolist() == [64 - 16, 16 + 1]


def test_a_polygon_far_larger_than_the_scene_labels_all_of_it(tmp_path: Path) -> None:
    """Also where some of its corners are nowhere in the projection of the scene."""
    recipe = write_lesson(tmp_path, labels="shapes.geojson")
    world = geopandas.GeoDataFrame({"class": ["dark"]}, geometry=[box(-180, -90, 180, 90)], crs="EPSG:4326")
    world.to_file(tmp_path / "shapes.geojson")
    pieces = pieces_of(recipe, 64)
    assert len(pieces) == 4
    assert all((p.labels == 2).all() for p in pieces)


def test_what_is_drawn_as_ignored_is_ignored(tmp_path: Path) -> None:
    """A cloud over a wood that was drawn before."""
    recipe = change(
        write_lesson(tmp_path, side=32, labels="shapes.gpkg"),
        'labels = "shapes.gpkg"',
        'labels = "shapes.gpkg"\nclasses = { wood = "dark", cloud = "ignore" }',
    )
    left, top = UTM @ (0, 0)
    shapes = [box(left, top - 80, left + 80, top), box(left + 40, top - 80, left + 120, top)]
    frame = geopandas.GeoDataFrame({"class": ["wood", "cloud"]}, geometry=shapes, crs="EPSG:32633")
    frame.to_file(tmp_path / "shapes.gpkg")
    (piece,) = pieces_of(recipe, 32)
    expected = np.zeros((32, 32))
    expected[:8, :4] = 2
    np.testing.assert_array_equal(piece.labels, expected)


def test_what_a_recipe_says_of_labels_goes_before_the_legend_and_leaves_its_names(tmp_path: Path) -> None:
    """An id that it does not name may be the code of anything; the sentence is about the recipe then."""
    (source,) = read_recipe(write_lesson(tmp_path, side=32)).sources
    source = source.model_copy(update={"classes": {"cloud": "ignore", "9": "bright"}})
    labels = Labels.of_source(source, load_legend(str(tmp_path / "two.toml")), "p.gpkg")
    assert [labels.number(v) for v in ("bright", "dark", "cloud", "9", 9)] == [1, 2, 0, 1, 1]
    labels.check()
    assert [labels.number(v) for v in (7, 7, "Dark")] == [0, 0, 0]
    said = r"that the source's classes do not name: '7' \(2 ×\), 'Dark' \(1 ×\); add what they stand for, as \"7\" = "
    with pytest.raises(SamplesError, match=said):
        labels.check()


def test_a_text_is_a_name_before_it_is_a_number_and_a_number_is_an_id(tmp_path: Path) -> None:
    """Classes are called as a land-cover code numbers them."""
    names = {1: "2", 2: "1", 3: "11"}
    legend = Legend(name="codes", classes=tuple(LandClass(id=i, name=n, color="#112233") for i, n in names.items()))
    (source,) = read_recipe(write_lesson(tmp_path, side=32)).sources
    labels = Labels.of_source(source, legend, "the labels")
    ids = np.array([[1, 2, 3]], np.uint8)
    assert labels.numbers(ids, ids > 0).tolist() == ids.tolist()
    assert [labels.number(v) for v in (1, 2.0, 3, "2", "1", "11", "3")] == [1, 2, 3, 1, 2, 3, 3]
    assert [legend.id_of(v) for v in (1, 2, 3, "2", "1", "11", "3")] == [1, 2, 3, 1, 2, 3, 3]
    meant = source.model_copy(update={"classes": {"10": "2", "20": "1", "30": "3"}})
    labels = Labels.of_source(meant, legend, "the labels")
    assert labels.numbers(ids * 10, ids > 0).tolist() == ids.tolist()
    labels.check()


def test_labels_that_cannot_be_used_are_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, opened = labels.open_file, []
    monkeypatch.setattr(labels, "open_file", lambda *args: opened.append(real(*args)) or opened[-1])
    recipe = change(write_lesson(tmp_path, side=32), 'labels = "labels.tif"', 'labels = "labels.tif"\nband = 2')
    with pytest.raises(SamplesError, match="has no band 2"):
        pieces_of(recipe, 32)
    assert [file.closed for file in opened] == [True]


def test_a_label_raster_on_another_grid(tmp_path: Path) -> None:
    """Labels of 80 m on the scene's CRS: each pixel of 10 m takes the one under its centre."""
    recipe = write_lesson(tmp_path)
    coarse = patches(128)[4::8, 4::8]
    write_labels(tmp_path / "labels.tif", np.where(coarse, 3, 7).astype(np.uint8), UTM @ UTM.scale(8))
    pieces = pieces_of(recipe, 64)
    whole = np.block([[pieces[0].labels, pieces[1].labels], [pieces[2].labels, pieces[3].labels]])
    assert (whole == np.where(patches(128), 1, 2)).all()


def test_a_label_raster_in_another_crs(tmp_path: Path) -> None:
    """Labels in longitude and latitude, ten times as fine as the scene: the scene's pixels find their own again."""
    recipe = write_lesson(tmp_path, side=32)
    with rasterio.open(tmp_path / "labels.tif") as file:
        ids, bounds = file.read(1), file.bounds
        transform, width, height = rasterio.warp.calculate_default_transform(file.crs, "EPSG:4326", 320, 320, *bounds)
        fine = np.zeros((height, width), np.uint8)
        rasterio.warp.reproject(
            ids, fine, src_transform=file.transform, src_crs=file.crs, dst_transform=transform, dst_crs="EPSG:4326"
        )
    write_labels(tmp_path / "labels.tif", fine, transform, "EPSG:4326")
    (piece,) = pieces_of(recipe, 32)
    known = piece.labels > 0
    assert known.mean() > 0.95
    assert (piece.labels == np.where(patches(32), 1, 2))[known].mean() > 0.98


def test_a_class_can_be_stored_as_zero(tmp_path: Path) -> None:
    """Also where the labels lie on another grid and have no nodata."""
    recipe = change(
        write_lesson(tmp_path, side=64),
        'labels = "labels.tif"',
        'labels = "zero.tif"\nclasses = { 0 = "dark", 1 = "bright" }',
    )
    for transform in (UTM, UTM @ UTM.scale(8)):
        bright = patches(64) if transform == UTM else patches(64)[4::8, 4::8]
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:32633", "transform": transform}
        with rasterio.open(tmp_path / "zero.tif", "w", height=len(bright), width=len(bright), **profile) as file:
            file.write(bright.astype(np.uint8), 1)
        (piece,) = pieces_of(recipe, 64)
        assert (piece.labels == np.where(patches(64), 1, 2)).all()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("mask", [None, "internal", "alpha"])
@pytest.mark.parametrize("nodata", [None, 255])
@pytest.mark.parametrize("shift", [0, 3])
def test_where_a_label_raster_has_none_nothing_is_learned(
    tmp_path: Path, dtype: str, mask: str | None, nodata: int | None, shift: int
) -> None:
    """Neither beside it, nor where its nodata, its mask or its alpha band says so; also where 0 is a class."""
    how = 'labels = "some.tif"\nclasses = { 0 = "dark", 1 = "bright" }'
    recipe = change(write_lesson(tmp_path, side=32), 'labels = "labels.tif"', how)
    bright, known = patches(32), np.random.default_rng(0).random((32, 32)) < 0.7
    empty = np.random.default_rng(1).random((32, 32)) < (0 if nodata is None else 0.2)
    profile = {"driver": "GTiff", "dtype": dtype, "crs": "EPSG:32633", "nodata": nodata, "height": 32, "width": 32}
    place, alpha = UTM @ UTM.translation(shift, shift), mask == "alpha"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "some.tif", "w", count=1 + alpha, transform=place, **profile) as file,
    ):
        file.colorinterp = (ColorInterp.gray, ColorInterp.alpha)[: 1 + alpha]
        file.write(np.where(empty, nodata or 0, bright).astype(dtype), 1)
        if alpha:
            file.write((known * 255).astype(dtype), 2)
        elif mask:
            file.write_mask(known)
    (piece,) = pieces_of(recipe, 32)
    expected, inside = np.zeros((32, 32)), 32 - shift
    said = np.where((known if mask else True) & ~empty, np.where(bright, 1, 2), 0)
    expected[shift:, shift:] = said[:inside, :inside]
    assert (piece.labels == expected).all()


def test_a_label_raster_whose_rows_go_north(tmp_path: Path) -> None:
    recipe = write_lesson(tmp_path, side=32)
    ids = np.where(patches(32), 3, 7).astype(np.uint8)
    write_labels(tmp_path / "labels.tif", ids[::-1], UTM @ UTM.translation(0, 32) @ UTM.scale(1, -1))
    (piece,) = pieces_of(recipe, 32)
    assert (piece.labels == np.where(patches(32), 1, 2)).all()


def test_labels_half_a_pixel_beside_the_grid_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(labels._log, "warning", lambda text, *values: said.append(text % values))
    recipe = write_lesson(tmp_path)
    write_labels(tmp_path / "labels.tif", np.full((128, 128), 3, np.uint8), UTM @ UTM.translation(0.5, 0.5))
    pieces_of(recipe, 64)
    assert len(said) == 1
    assert "0.50 of a pixel beside the grid" in said[0]


def test_folders_of_chips_and_packs_give_the_same_samples(tmp_path: Path) -> None:
    dn = digital_numbers(20, 30)
    labels = np.random.default_rng(0).choice([0, 3, 7], (20, 30)).astype(np.uint8)
    for folder in ("images/here", "labels/here"):
        (tmp_path / folder).mkdir(parents=True)
    write_scene(tmp_path / "images/here/a.tif", dn)
    write_labels(tmp_path / "labels/here/a.tif", labels)
    (tmp_path / "images/here/._a.tif").write_bytes(b"what a Mac leaves beside each file")
    valid = np.ones((1, 20, 30), bool)
    np.savez(tmp_path / "pack.npz", images=dn[None], valid=valid, labels=labels[None], group=["here"])
    recipe = write_lesson(tmp_path)
    text = recipe.read_text()
    start, end = text.index("[[sources]]"), text.index("[split]")
    both = """[[sources]]
kind = "chips"
images = "images"
labels = "labels"
[[sources]]
kind = "pack"
path = "pack.npz"
bands = ["red", "nir"]
scale = 1e-4
"""
    recipe.write_text(text[:start] + both + text[end:])
    chips, pack = (
        list(read_source(s, ("nir", "red"), load_legend(str(tmp_path / "two.toml")), 16))
        for s in read_recipe(recipe).sources
    )
    assert len(chips) == len(pack) == 4
    for a, b in zip(chips, pack, strict=True):
        assert (a.labels == b.labels).all()
        np.testing.assert_allclose(a.reflectance, b.reflectance, rtol=1e-6)
        assert a.place.endswith("images/here")
        assert b.place.endswith("pack.npz#here")


def test_a_pack_is_checked_as_other_sources_are(tmp_path: Path) -> None:
    """What is no number is not valid, and labels that are in no legend stop it."""
    images, labels, legend = np.full((1, 2, 8, 8), 0.2), np.ones((1, 8, 8), np.uint8), load_legend("default")
    source = PackSource(kind="pack", path=tmp_path / "pack.npz", bands=("red", "nir"), scale=1.0)
    known = {"valid": np.ones((1, 8, 8), bool), "group": ["here"]}
    images[0, 1, 3, 4] = np.nan
    np.savez(tmp_path / "pack.npz", images=images, labels=labels, **known)
    (one,) = read_source(source, ("red", "nir"), legend, 8)
    assert np.argwhere(~one.valid).tolist() == np.argwhere(one.labels == 0).tolist() == [[3, 4]]
    assert np.isfinite(one.reflectance).all()
    labels[0, 0, 0] = 77
    np.savez(tmp_path / "pack.npz", images=images, labels=labels, **known)
    with pytest.raises(SamplesError, match=r"does not know: '77' \(1 ×\)"):
        list(read_source(source, ("red", "nir"), legend, 8))


def test_a_recipe_tells_the_pixel_size_of_chips_without_a_place(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    write_scene(tmp_path / "images/a.tif", digital_numbers(8, 8), crs=None)
    write_labels(tmp_path / "labels/a.tif", np.ones((8, 8), np.uint8))
    source = ChipsSource(kind="chips", images=tmp_path / "images", labels=tmp_path / "labels", gsd=3.0)
    (one,) = read_source(source, ("red", "nir"), load_legend("default"), 8)
    assert one.gsd == 3


def piece(valid: bool = True) -> Piece:
    square = (8, 8)
    pixels = np.full((2, *square), 0.2, np.float32)
    return Piece(pixels, np.full(square, valid), np.ones(square, np.uint8), "scene", "place", "grid")


def test_chips_are_drawn_as_their_source_weighs_and_none_is_empty(tmp_path: Path) -> None:
    pieces = iter([(0, piece()), (1, piece()), (1, piece(valid=False)), (1, piece())])
    assert gather(pieces, tmp_path, ("red", "nir"), 8, [1.0, 3.0]).weights.tolist() == [1, 3, 3]


def test_samples_are_on_the_disk_before_their_index_tells_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[tuple[str, int]] = []
    fsync, rename = os.fsync, Path.replace

    def sync(number: int) -> None:
        did.append((Path(f"/proc/self/fd/{number}").readlink().name, os.fstat(number).st_size))
        fsync(number)

    def replace(self: Path, target: Path) -> Path:
        assert did[:3] == [("reflectance.raw", 2 * 64 * 4), ("valid.raw", 64), ("labels.raw", 64)]
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    assert len(gather(iter([(0, piece())]), tmp_path, ("red", "nir"), 8, [1.0])) == 1


def test_samples_for_which_there_is_no_room_have_no_index(tmp_path: Path) -> None:
    (tmp_path / "labels.raw").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        gather(iter([(0, piece())]), tmp_path, ("red", "nir"), 8, [1.0])
    assert not (tmp_path / "samples.json").exists()


def test_chips_that_show_one_block_of_the_ground_are_one_place(tmp_path: Path) -> None:
    """Chips cut from a scene into files, and the scene of another day, a quarter of a pixel aside: the same blocks."""
    dn, labels = digital_numbers(64, 64), np.full((64, 64), 3, np.uint8)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for row, col in itertools.product((0, 32), (0, 32)):
        part, here = np.s_[..., row : row + 32, col : col + 32], UTM @ Affine.translation(col, row)
        write_scene(tmp_path / f"images/{row}_{col}.tif", dn[part], transform=here)
        write_labels(tmp_path / f"labels/{row}_{col}.tif", labels[part], here)
    aside = UTM @ Affine.translation(0.25, 0)
    write_scene(tmp_path / "other_day.tif", dn, transform=aside)
    write_labels(tmp_path / "other_day_labels.tif", labels, aside)
    recipe = write_lesson(tmp_path)
    text = recipe.read_text()
    start, end = text.index("[[sources]]"), text.index("[split]")
    both = """[[sources]]
kind = "chips"
images = "images"
labels = "labels"
[[sources]]
kind = "scene"
scene = "other_day.tif"
labels = "other_day_labels.tif"
"""
    recipe.write_text(text[:start] + both + text[end:])
    origins = [Origin(0, p.scene, p.place, p.grid, p.row, p.col, p.gsd) for p in pieces_of(recipe, 32)]
    names = places(samples_at(origins, 32), Split(by="blocks", block=64))
    assert names[:4].tolist() == names[4:].tolist()
    assert 1 < len(set(names)) <= 4


def test_folds_hold_every_place_out_once(lesson: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = lesson.parent / "folds"
    done = landcover(capsys, "train", lesson, "-o", out, "--folds", "2", "--steps", "4", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert {p.name for p in out.iterdir()} == {"fold-1", "fold-2", "folds.json", "recipe.toml"}
    each = json.loads((out / "folds.json").read_text())["folds"]
    assert sum(f["pixels"] for f in each) == 128 * 128
    assert report["macro_f1"]["mean"] == pytest.approx(np.mean([f["macro_f1"] for f in each]), abs=1e-3)
    assert "2 folds" in done.err
    assert "steps was set to 4" in (out / "fold-1" / "recipe.toml").read_text()


@pytest.fixture(scope="module")
def two_folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of a lesson, beside it a cross-validation of two folds, and a recipe that learns from its models."""
    recipe = write_lesson(tmp_path_factory.mktemp("folds"))
    train(plan_training(recipe, recipe.parent / "folds", device="cpu", folds=2, changes={"steps": 2}))
    taught = recipe.with_name("taught.toml")
    taught.write_text(recipe.read_text().split("[network]")[0] + '[teacher]\nmodels = ["folds"]\n')
    return taught


def test_folds_go_on_from_the_models_of_the_same_folds(two_folds: Path) -> None:
    """Neither what is refined nor a teacher has ever seen what a fold holds out."""
    folds_ = two_folds.parent / "folds"
    out = two_folds.parent / "refined"
    training = plan_training(two_folds, out, init=folds_, device="cpu", folds=2, changes={"steps": 2})
    shas = [load_model(folds_ / f"fold-{k}").sha256 for k in (1, 2)]
    assert shas[0] != shas[1]
    assert [line.base.sha256 for line in training.lineages if line.base] == shas
    assert [[t.sha256 for t in line.teachers] for line in training.lineages] == [[sha] for sha in shas]
    train(training)
    before, after = (json.loads((f / "folds.json").read_text()) for f in (folds_, out))
    assert before["held_out"] == after["held_out"]
    assert not set(after["held_out"][0]) & set(after["held_out"][1])
    for k in (1, 2):
        assert load_model(out / f"fold-{k}").sha256 != shas[k - 1]
        assert f"# refined from lesson, sha256 {shas[k - 1]}" in (out / f"fold-{k}" / "recipe.toml").read_text()


@pytest.mark.parametrize(
    ("init", "folds", "split", "error", "said"),
    [
        (
            "folds/fold-1",
            2,
            "validation = 0.25",
            SamplesError,
            "fold-1 has learned from 8 places that would be",
        ),
        ("folds/fold-1", 0, "validation = 0.25", SamplesError, "has learned from .* would be held out"),
        ("link", 0, "validation = 0.25", SamplesError, "has learned from .* would be held out"),
        ("folds", 2, "validation = 0.25\nblock = 64", SamplesError, "has learned from .* would be held out"),
        ("folds", 3, "validation = 0.25", ConfigError, "is a cross-validation of 2 folds; add --folds 2"),
        ("folds", 0, "validation = 0.25", ConfigError, "is a cross-validation of 2 folds; add --folds 2"),
    ],
)
def test_what_was_learned_from_is_not_held_out(
    two_folds: Path, tmp_path: Path, init: str, folds: int, split: str, error: type[Exception], said: str
) -> None:
    recipe = two_folds.with_name(f"{tmp_path.name}.toml")
    recipe.write_text(two_folds.with_name("recipe.toml").read_text().split("[network]")[0])
    if "\n" in split:
        change(recipe, "block = 32\n", "")
    change(recipe, "validation = 0.25", split)
    if init == "link":
        (two_folds.parent / init).symlink_to(two_folds.parent / "folds" / "fold-1")
    with pytest.raises(error, match=said):
        train(plan_training(recipe, tmp_path / "m", init=two_folds.parent / init, device="cpu", folds=folds))


def test_an_address_is_no_place_for_what_is_trained(lesson: Path) -> None:
    with pytest.raises(OutputError, match="s3://bucket/model is an address"):
        plan_training(lesson, "s3://bucket/model", device="cpu")


def test_folds_that_do_not_say_what_they_held_out_are_refused(two_folds: Path, tmp_path: Path) -> None:
    for held_out in ("3}", "[" * 100_000):
        (tmp_path / "folds.json").write_text('{"folds": [], "held_out": ' + held_out)
        with pytest.raises(ModelError, match="does not say which places each fold held out"):
            plan_training(two_folds, tmp_path / "m", init=tmp_path, device="cpu", folds=2)


def test_several_processes_learn_together(lesson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with weights of its own: those that it was handed lie in memory that all share. Nobody else can join."""
    changed, addresses = [], set()

    def watched(task: Task, network: torch.nn.Module, *rest: Any) -> Iterator[Step]:
        before = {name: w.clone() for name, w in network.state_dict().items()}
        for step in learn_on(task, network, *rest):
            addresses.update(listening(psutil.Process().children(recursive=True)))
            yield step
        changed.extend(name for name, w in network.state_dict().items() if not w.equal(before[name]))

    monkeypatch.setattr(run, "learn_on", watched)
    out = lesson.parent / "together"
    train(plan_training(lesson, out, device="cpu", workers=2))
    assert not changed
    assert addresses <= {"127.0.0.1"}
    assert {p.name for p in out.iterdir()} == OUTCOME
    assert load_model(out).spec.accuracy["places held out"]["macro_f1"] > 0.8


# ------------------------------------------------------------------------------------------------ going on


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = write_lesson(tmp_path, steps=40)
    out, work = tmp_path / "model", tmp_path / ".model.work"
    command = [sys.executable, "-m", "landcover", "train", str(recipe), "--device", "cpu", "-o"]
    process = subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (work / "model" / "checkpoint.pt").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert not out.exists()
    went_on = subprocess.run([*command, str(out)], check=True, capture_output=True, text=True).stderr
    assert "step 1 of" not in went_on
    subprocess.run([*command, str(tmp_path / "undisturbed")], check=True, capture_output=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "undisturbed")]
    assert weights[0] == weights[1]
    assert not work.exists()


def test_an_interrupted_training_says_that_it_can_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_lesson(tmp_path)
    from landcover.training import learning

    real = learning.Checkpoint.save

    def save_once(self, *args) -> None:
        real(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(learning.Checkpoint, "save", save_once)
    done = landcover(capsys, "train", recipe, "-o", tmp_path / "model", "--device", "cpu")
    assert done.code == 130
    assert "the same command goes on" in done.err
    monkeypatch.setattr(learning.Checkpoint, "save", real)
    with pytest.raises(TrainingError, match=r"which differs in its recipe\.loop\.seed \(0 then, 5 now\); finish it"):
        train(plan_training(recipe, tmp_path / "model", device="cpu", changes={"seed": 5}))
    other = tmp_path / "other.toml"
    other.write_text(recipe.read_text().replace("[[sources]]", "[[sources]]\nweight = 2.0", 1))
    with pytest.raises(TrainingError, match=r"differs in its recipe\.sources\[0\]\.weight \(1\.0 then, 2\.0 now\)"):
        train(plan_training(other, tmp_path / "model", device="cpu"))
    other.unlink()
    done = landcover(capsys, "train", recipe, "-o", tmp_path / "model", "--device", "cpu")
    assert done.code == 0, done.err
    assert not any(p.name.startswith(".") for p in tmp_path.iterdir())


def test_a_checkpoint_is_replaced_as_a_whole_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before it stays until it is on the disk; seconds are those of all runs."""
    network = torch.nn.Linear(2, 2)
    first = Checkpoint(tmp_path, {"network": network})
    first.note(Step(1, 0.5, 0.1), 10.0)
    first.save(1, Best(0.4, 1, network.state_dict()))
    before = (tmp_path / CHECKPOINT).read_bytes()
    again = Checkpoint(tmp_path, {"network": network})
    assert again.load(torch.device("cpu"))[0] == 1
    again.note(Step(2, 0.4, 0.1), 5.0)

    def full(_number: int) -> None:
        assert (tmp_path / CHECKPOINT).read_bytes() == before
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        again.save(2, Best())
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    monkeypatch.undo()
    again.save(2, Best())
    state = read_checkpoint(tmp_path)
    assert [(e["step"], e["seconds"]) for e in state["history"]] == [(1, 10.0), (2, 15.0)]
    assert state["seconds"] == 15


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"step": Bomb(tmp_path / "exploded")}, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError, match="cannot be read"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [[1, 2], {"step": 1}, {"step": 1, "best": {}, "history": [], "seconds": 0.0}])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError, match="cannot be read; add --no-resume to start over"):
        Checkpoint(tmp_path, {"network": torch.nn.Linear(2, 2)}).load(torch.device("cpu"))


def _widened(state: dict[str, Any]) -> dict[str, Any]:
    """Weights of a network with more channels."""
    return {k: torch.cat([v, v]) if v.ndim else v for k, v in state.items()}


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda state: state.update(network=_widened(state["network"])),
        lambda state: state.update(average={}),
        lambda state: state.update(optimizer=torch.optim.AdamW(torch.nn.Linear(2, 2).parameters()).state_dict()),
        lambda state: state["optimizer"]["state"].update({0: _widened(state["optimizer"]["state"][0])}),
        lambda state: state.update(best={}),
        lambda state: state["best"].update(weights=_widened(state["best"]["weights"])),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: Callable[[dict[str, Any]], None]
) -> None:
    plan = plan_training(write_lesson(tmp_path, steps=4), tmp_path / "model", device="cpu")
    monkeypatch.setattr("landcover.training.run.write_model", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(plan)
    path = tmp_path / ".model.work" / "model" / CHECKPOINT
    state = torch.load(path, weights_only=True)
    spoilt(state)
    torch.save(state, path)
    with pytest.raises(TrainingError, match="does not fit the network that this recipe trains, or is damaged; add"):
        train(plan)


def test_a_loss_that_is_no_number_is_said(tmp_path: Path) -> None:
    recipe = change(write_lesson(tmp_path), "rate = 1e-2", "rate = 1e30\nclip = 1e30\nwarmup = 0.0")
    with pytest.raises(TrainingError, match="training diverged; lower the rate"):
        train(plan_training(recipe, tmp_path / "model", device="cpu"))
    assert not (tmp_path / "model").exists()


def test_weights_that_are_no_numbers_are_said(tmp_path: Path) -> None:
    recipe = read_recipe(write_lesson(tmp_path))
    network = build_network("pointwise", 2, 2, {})
    network.weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="training diverged; lower the rate"):
        _as_stored(network, recipe)


def test_weights_too_large_to_store_are_said(tmp_path: Path) -> None:
    """The loss was finite to the end; what was learned is not lost, if it can be stored otherwise."""
    recipe = change(write_lesson(tmp_path), "rate = 1e-2", "rate = 30.0\nclip = 1e30")
    with pytest.raises(TrainingError, match=r'too large for float16; .* write store = "float32"'):
        train(plan_training(recipe, tmp_path / "model", device="cpu"))
    assert not (tmp_path / "model").exists()
    change(recipe, "chip = 32", "chip = 32\nstore = 'float32'")
    train(plan_training(recipe, tmp_path / "model", device="cpu"))
    assert {p.name for p in (tmp_path / "model").iterdir()} == OUTCOME


def test_scores_too_large_to_store_are_said(tmp_path: Path) -> None:
    """They become so only when they are sharpened by the temperature that the recipe gives."""
    recipe = write_lesson(tmp_path, side=64, steps=1)
    recipe.write_text("temperature = 0.01\n" + recipe.read_text().split("[network]")[0] + "[loop]\nrate = 1e-9\n")
    model = init_model(tmp_path / "base", architecture="unet", bands=("red", "nir"), classes=("bright", "dark"))
    weights = {name: w * 1e4 if "head" in name else w for name, w in model.network.state_dict().items()}
    save_model(model.folder, model.spec, weights)
    with pytest.raises(TrainingError, match="too large for float16"):
        train(plan_training(recipe, tmp_path / "m", init=model.folder, device="cpu", changes={"steps": 1}))


# ------------------------------------------------------------------------------------------------ refining


@pytest.mark.parametrize("architecture", ["unet", "pointwise"])
def test_refining_keeps_what_is_known(tmp_path: Path, architecture: str) -> None:
    """With the same bands and classes nothing changes; a new band takes the mean of the filters, a class its own."""
    model = init_model(tmp_path / "m", architecture=architecture, bands=("red", "nir"), classes=("bright", "dark"))
    x = torch.randn(1, 2, 32, 32)
    with torch.inference_mode():
        same = refined_network(model, ("red", "nir"), ("bright", "dark")).eval()(x)
        assert torch.equal(same, model.network(x))
        swapped = refined_network(model, ("nir", "red"), ("dark", "bright")).eval()(x.flip(1))
        torch.testing.assert_close(swapped.flip(1), model.network(x))
        more = refined_network(model, ("red", "nir", "blue"), ("bright", "other")).eval()(torch.randn(1, 3, 32, 32))
        assert more.shape == (1, 2, 32, 32)


def test_refining_what_cannot_be_is_said(tmp_path: Path) -> None:
    arguments = {"groups": 2}
    model = init_model(
        tmp_path / "m", architecture="pointwise", bands=("red", "nir"), classes=("a", "b"), hyperparameters=arguments
    )
    with pytest.raises(ModelError, match="cannot be refined for other bands or classes"):
        refined_network(model, ("red", "nir", "blue", "green"), ("a", "b"))


def test_the_card_counts_the_steps_that_were_done(tmp_path: Path) -> None:
    recipe = change(write_lesson(tmp_path, side=64), "rate = 1e-2", "rate = 1e-9\npatience = 1")
    train(plan_training(recipe, tmp_path / "model", device="cpu"))
    last = (tmp_path / "model/curves.csv").read_text().splitlines()[-1].split(",")[0]
    assert int(last) < 24
    assert f"; {last} steps of 4 chips" in (tmp_path / "model/README.md").read_text()


def test_a_batch_without_a_labelled_pixel_has_no_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Few pixels are labelled, and a batch is a small piece of one chip."""
    recipe = write_lesson(tmp_path, steps=12)
    for before, after in (
        ("size = 32", "size = 16"),
        ("batch = 4", "batch = 1"),
        ("evaluations = 4", "evaluations = 12"),
    ):
        change(recipe, before, after)
    few = np.where(patches(128), 3, 7).astype(np.uint8) * (np.arange(128) % 32 < 6)
    write_labels(tmp_path / "labels.tif", few)
    outcome = landcover(capsys, "train", recipe, "-o", tmp_path / "model", "--device", "cpu")
    assert outcome.code == 0, outcome
    rows = list(csv.DictReader((tmp_path / "model" / "curves.csv").read_text().splitlines()))
    steps = [line for line in outcome.err.splitlines() if ": step " in line]
    assert 0 < sum(row["loss"] == "" for row in rows) < len(rows) == 12
    assert all(float(row["loss"]) > 0 for row in rows if row["loss"])
    for row, line in zip(rows, steps, strict=True):
        assert (f"loss {float(row['loss']):.3f}" if row["loss"] else "no labelled pixel") in line


def test_refining_through_the_command_line(lesson: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = lesson.parent / "refine.toml"
    text = lesson.read_text().replace('bands = ["red", "nir"]\nlegend = "two.toml"\n', "")
    start, end = text.index("[network]"), text.index("[augmentation]")
    recipe.write_text(text[:start] + text[end:])
    out = lesson.parent / "refined"
    done = landcover(capsys, "train", recipe, "--init", trained, "-o", out, "--steps", "4", "--device", "cpu")
    assert done.code == 0, done.err
    spec = load_model(out).spec
    assert spec.bands == ("red", "nir")
    assert spec.legend == load_model(trained).spec.legend
    assert spec.stats == load_model(trained).spec.stats
    assert "Refined from lesson" in (out / "README.md").read_text()


def test_a_frozen_encoder_stays_as_it_is(lesson: Path, tmp_path: Path) -> None:
    init_model(
        tmp_path / "base",
        architecture="smp-unet",
        bands=("red", "nir"),
        classes=("bright", "dark"),
        hyperparameters={"encoder_name": "resnet18", "decoder_channels": [16, 8, 8, 8, 8]},
    )
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        lesson.read_text()
        .replace('"scene.tif"', f'"{lesson.parent}/scene.tif"')
        .replace('"labels.tif"', f'"{lesson.parent}/labels.tif"')
        .replace('"two.toml"', f'"{lesson.parent}/two.toml"')
    )
    network = 'architecture = "unet"\nhyperparameters = { width = 4, depth = 2 }'
    change(recipe, network, "freeze_encoder = true")
    change(recipe, "chip = 32", "chip = 32\nstore = 'float32'")
    train(plan_training(recipe, tmp_path / "model", init=tmp_path / "base", device="cpu", changes={"steps": 3}))
    before, after = (load_model(tmp_path / n).network for n in ("base", "model"))
    for (name, a), b in zip(before.encoder.state_dict().items(), after.encoder.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(before.segmentation_head[0].weight, after.segmentation_head[0].weight)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_an_encoder_starts_from_a_file_of_weights(tmp_path: Path, suffix: str) -> None:
    """Red, green and blue take their own filters; other bands take the mean of the three; all by 3 / 4."""
    arguments = {"encoder_name": "resnet18", "decoder_channels": [16, 8, 8, 8, 8]}
    donor = build_network("smp-unet", 3, 2, arguments).encoder.state_dict()
    if suffix == "pth":
        torch.save({f"encoder.{k}": v for k, v in donor.items()}, tmp_path / "w.pth")
    else:
        from safetensors.torch import save_file

        save_file(donor, tmp_path / "w.safetensors")
    from landcover.recipes import NetworkRecipe
    from landcover.training.start import fresh_network

    recipe = NetworkRecipe(
        architecture="smp-unet", hyperparameters=arguments, encoder_weights=str(tmp_path / f"w.{suffix}")
    )
    own = fresh_network(recipe, ("blue", "green", "red", "nir"), 2).encoder.state_dict()
    first = donor["conv1.weight"]
    torch.testing.assert_close(own["conv1.weight"][:, 2], first[:, 0] * 0.75)
    torch.testing.assert_close(own["conv1.weight"][:, 0], first[:, 2] * 0.75)
    torch.testing.assert_close(own["conv1.weight"][:, 3], first.mean(dim=1) * 0.75)
    assert torch.equal(own["layer1.0.conv1.weight"], donor["layer1.0.conv1.weight"])


def test_a_student_learns_from_a_teacher_where_there_are_no_labels(lesson: Path, trained: Path) -> None:
    """The student sees one band of two, and no labels."""
    text = (
        lesson.read_text().replace('bands = ["red", "nir"]', 'bands = ["nir"]').replace('labels = "labels.tif"\n', "")
    )
    recipe = lesson.parent / "student.toml"
    recipe.write_text(text + f'[teacher]\nmodels = ["{trained}"]\nweight = 1.0\n')
    out = lesson.parent / "student"
    train(plan_training(recipe, out, device="cpu", changes={"steps": 40}))
    predict(lesson.parent / "scene.tif", lesson.parent / "s.tif", model=out, device="cpu", overwrite=True)
    assert (read_map(lesson.parent / "s.tif") == np.where(patches(128), 3, 7)).mean() > 0.9


# ------------------------------------------------------------------------------------------------ laws


def test_training_and_prediction_scale_pixels_alike(tmp_path: Path) -> None:
    """What the loop gives the network is what prediction gives it, for a scene with an offset and missing pixels."""
    dn = digital_numbers(32, 32)
    dn[:, 3, 4] = 0
    recipe = write_lesson(tmp_path, side=32)
    change(recipe, 'labels = "labels.tif"', 'labels = "labels.tif"\nscale = 2e-4\noffset = -0.1')
    write_scene(tmp_path / "scene.tif", dn, nodata=0)
    (piece,) = pieces_of(recipe, 32)
    view = View((0, 1), (0.2, 0.3), (0.1, 0.15))
    trained_on = view(torch.from_numpy(piece.reflectance)[None], torch.from_numpy(piece.valid)[None])[0]
    scene = open_scene(str(tmp_path / "scene.tif"), ("red", "nir"))
    with scene.open(32) as reader:
        pixels, valid = reader.read(Box(0, 32, 0, 32))
    predicted_on = make_scaling([2e-4] * 2, [-0.1] * 2, [0.2, 0.3], [0.1, 0.15])(pixels, valid)
    np.testing.assert_allclose(trained_on.numpy(), predicted_on, atol=2e-6)
    assert not valid[3, 4]
    assert (trained_on[:, 3, 4] == 0).all()


def samples_at(origins: list[Origin], size: int = 16) -> Samples:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (len(origins), size, size)).astype(np.uint8)
    shape = (len(origins), 1, size, size)
    return Samples(
        ("red",), np.zeros(shape, np.float32), labels > 0, labels, tuple(origins), np.ones(len(origins)), Path()
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 9), st.integers(0, 9)), min_size=8, max_size=40
    ),
    st.sampled_from(["group", "scene", "blocks"]),
    st.integers(0, 20),
    st.integers(2, 5),
)
def test_no_place_is_on_both_sides(chips: list, by: str, buffer: int, count: int) -> None:
    origins = [Origin(s, f"scene-{p % 3}", f"place-{p}", f"grid-{p % 2}", 12 * r, 12 * c, None) for s, p, r, c in chips]
    samples, split = samples_at(origins), Split(by=by, block=48, buffer=buffer)
    names = places(samples, split)
    held_out_in = np.zeros(len(origins), int)
    for train_chips, out in folds(samples, split, 2, count):
        assert not set(names[train_chips]) & set(names[out])
        held_out_in[out] += 1
        for i in train_chips:
            for j in out:
                a, b = origins[i], origins[j]
                if a.grid == b.grid:
                    assert max(abs(a.row - b.row), abs(a.col - b.col)) >= 16 + buffer
    assert (held_out_in == 1).all()


def labelled_by_colour(n: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Chips in patches of 8 pixels whose reflectance is a tenth of their label."""
    rng = torch.Generator().manual_seed(3)
    labels = (
        torch.randint(1, 5, (n, side // 8, side // 8), generator=rng).repeat_interleave(8, 1).repeat_interleave(8, 2)
    )
    return (labels[:, None] / 10).repeat(1, 2, 1, 1), torch.ones_like(labels, dtype=torch.bool), labels


def varied(chips: Chips, bands: tuple[str, ...], **how: float) -> Chips:
    """Chips varied in no other way than is said; class 2 is water."""
    recipe = Augmentation(size=chips[2].shape[-1], **dict.fromkeys(("gain", "haze", "noise", "holes"), 0.0) | how)
    augment = Augmenter(recipe, bands, np.zeros(len(bands)), water=2)
    return augment(chips, torch.full((len(chips[2]),), 10.0), torch.Generator().manual_seed(0))


def test_mixed_chips_keep_their_labels_and_holes_are_not_learned_from() -> None:
    reflectance, valid, labels = varied(labelled_by_colour(6, 32), ("red", "nir"), mix=1, holes=1)
    assert bool((~valid).any())
    assert not labels[~valid].any()
    colour = reflectance[:, 0] * 10
    pure = valid & ((colour - colour.round()).abs() < 1e-4)
    assert pure.float().mean() > 0.5
    assert torch.equal(labels[pure], colour[pure].round().long())


@pytest.mark.parametrize("zoom", [0.7, 2.3, 0.3])
def test_what_touches_an_unusable_pixel_is_unusable(zoom: float) -> None:
    reflectance, valid, labels = labelled_by_colour(4, 64)
    valid[:, 20:40, 20:40] = False
    reflectance[:] = torch.where(valid[:, None], 0.2, 99.0)
    chips = reflectance, valid, labels
    out, clear, _ = cut(chips, 32, torch.full((4, 2), zoom), torch.Generator().manual_seed(0))
    assert bool((~clear).any())
    assert bool(((out - 0.2).abs() < 3e-4)[clear[:, None].expand_as(out)].all()), "nothing is darkened by a hole"


def test_chips_are_enlarged_as_scenes_are() -> None:
    """What a network learns from looks like what it is shown of a coarse scene."""
    x = torch.rand((1, 2, 24, 24), generator=torch.Generator().manual_seed(1))
    chips = x, torch.ones((1, 24, 24), dtype=torch.bool), torch.ones((1, 24, 24), dtype=torch.uint8)
    out, clear, _ = cut(chips, 72, torch.full((1, 2), 3.0), torch.Generator().manual_seed(0))
    seen = Enlarging(torch.nn.Identity(), 3)
    shown: list[torch.Tensor] = []
    seen.network.register_forward_hook(lambda _, given, __: shown.append(given[0]))
    seen(x)
    inner = (..., slice(6, -6), slice(6, -6))  # beyond a chip's edge it is mirrored
    ways = [w.rot90(k, (2, 3)) for w in (shown[0], shown[0].flip(3)) for k in range(4)]
    assert bool(clear.all())
    assert min(float((out - way)[inner].abs().max()) for way in ways) < 1e-4


@pytest.mark.parametrize("zoom", [1.0, 3.0, 0.5, 0.34])
def test_labels_stay_with_their_pixels(zoom: float) -> None:
    """Wherever the colour is that of one class, the label is that class."""
    chips = labelled_by_colour(64, 64)
    reflectance, valid, labels = cut(chips, 32, torch.full((64, 2), zoom), torch.Generator().manual_seed(0))
    tenth = reflectance[:, 0] * 10
    pure = (
        valid
        & ((tenth - tenth.round()).abs() < 1e-4)
        & (torch.nn.functional.avg_pool2d(tenth, 3, 1, 1) - tenth).abs().lt(1e-4)
    )
    assert pure.sum() > 200
    assert (labels[pure] == tenth[pure].round()).all()


def test_at_zoom_one_pixels_are_only_turned() -> None:
    chips = labelled_by_colour(6, 32)
    noise = torch.rand(6, 2, 32, 32)
    reflectance, valid, _ = cut((noise, *chips[1:]), 32, torch.ones(6, 2), torch.Generator().manual_seed(0))
    assert valid.all()
    np.testing.assert_allclose(reflectance.flatten(2).sort().values, noise.flatten(2).sort().values, atol=1e-5)


def test_coarser_pixels_are_means() -> None:
    """At a third of the resolution the mean of a chip stays, and its noise falls by three."""
    noise = torch.rand(4, 1, 96, 96)
    ones = torch.ones(4, 96, 96, dtype=torch.bool)
    reflectance, _, _ = cut((noise, ones, ones.long()), 32, torch.full((4, 2), 1 / 3), torch.Generator().manual_seed(0))
    np.testing.assert_allclose(reflectance.mean((1, 2, 3)), noise.mean((1, 2, 3)), atol=2e-3)
    np.testing.assert_allclose(reflectance.std(), noise.std() / 3, rtol=0.1)


def test_chips_of_30_m_are_made_to_look_like_10_m_and_the_other_way_round() -> None:
    augment = Augmenter(Augmentation(size=32, gsd=(10, 30), zoom=(1, 2)), ("red",), np.zeros(1))
    zoom = augment._zoom(torch.tensor([30.0, 10.0, float("nan")]))
    np.testing.assert_allclose(zoom, [[1, 3], [1 / 3, 1], [1, 2]])


def test_haze_falls_with_wavelength() -> None:
    bands = ("blue", "green", "red", "nir", "swir16", "swir22")
    dark = (torch.zeros(64, 6, 16, 16), torch.ones(64, 16, 16, dtype=torch.bool), torch.ones(64, 16, 16).long())
    reflectance, _, _ = varied(dark, bands, haze=0.2)
    haze = reflectance[:, :, 0, 0]
    assert (haze.diff(dim=1) <= 0).all()
    assert 0.3 < (haze[:, 0] > 0).float().mean() < 0.7
    assert haze.max() <= 0.2


def test_turbid_water_stays_water_and_land_stays_land() -> None:
    labels = torch.ones(16, 32, 32).long()
    labels[:, :16] = 2
    pixels = torch.where(labels == 2, 0.0, 0.5)[:, None]
    reflectance, _, after = varied((pixels, labels > 0, labels), ("red",), turbid=1)
    assert (reflectance[:, 0][after == 1] == 0.5).all()
    water = reflectance[:, 0][after == 2]
    assert water.max() <= 0.45 * 0.5 + 1e-6
    assert water.max() > 0.1


def test_water_gets_the_colour_of_other_water_and_land_keeps_its_own() -> None:
    labels = torch.ones((64, 32, 32), dtype=torch.int64)
    labels[:, :, :16] = 2
    land, lighter = torch.tensor([0.08, 0.3])[:, None, None], torch.ones(32, 32)
    lighter[:16] = 1.2
    reflectance = torch.where(labels[:, None] == 2, 0.05 * lighter, land)
    valid = torch.ones_like(labels, dtype=torch.bool)
    seen, _, after = varied((reflectance, valid, labels), ("green", "nir"), waters=1)
    water = (after == 2)[:, None].expand_as(seen)
    assert (seen.movedim(1, -1)[after == 1] == land.flatten()).all()
    green, nir = seen[:, 0][after == 2], seen[:, 1][after == 2]
    assert green.min() < 0.01
    assert green.max() > 0.1
    assert nir.max() < 0.08
    for chip, here in zip(seen, water, strict=True):
        ratio = chip[0][here[0]].max() / chip[0][here[0]].min()
        assert ratio == pytest.approx(1.2, rel=1e-4)


def test_lakes_are_dark_in_infrared_and_labelled_and_land_around_them_stays() -> None:
    land = torch.tensor([0.08, 0.3])[:, None, None].expand(64, 2, 32, 32)
    labels, valid = torch.ones((64, 32, 32), dtype=torch.int64), torch.ones((64, 32, 32), dtype=torch.bool)
    painted, _, after = varied((land, valid, labels), ("green", "nir"), lakes=1)
    lake = after == 2
    share = lake.float().mean(dim=(1, 2))
    assert share.min() > 0
    assert share.max() < 0.34
    assert set(after.unique().tolist()) == {1, 2}
    np.testing.assert_allclose(
        painted.movedim(1, -1)[~lake], torch.tensor([[0.08, 0.3]]).expand(int((~lake).sum()), 2), rtol=1e-5
    )
    inside = torch.nn.functional.avg_pool2d(lake[:, None].float(), 3, 1, 1)[:, 0] > 0.99
    assert inside.any()
    assert painted[:, 1][inside].max() < 0.1
    assert (painted[:, 1][lake] < 0.3).all()


def test_waters_are_of_the_colours_that_waters_have() -> None:
    """Near the reflectance, blue to red, of a black river, a green lake, and a brown one; and all dark in infrared."""
    waves = torch.tensor([0.49, 0.56, 0.66, 0.85, 1.61, 2.2])[:, None, None]
    colours = water_colours(waves, 5000, torch.Generator().manual_seed(0))[:, :, 0, 0]
    for known in ([0.023, 0.025, 0.021], [0.063, 0.099, 0.056], [0.048, 0.085, 0.106]):
        assert (colours[:, :3] - torch.tensor(known)).abs().amax(dim=1).min() < 0.005
    assert colours.min() > 0
    assert colours[:, 3].max() < 0.1
    assert colours[:, 4:].max() < 0.02


@pytest.mark.parametrize("architecture", ["unet", "smp-unet", "fpn", "deeplabv3plus", "segformer"])
def test_softening_divides_the_scores(architecture: str) -> None:
    arguments = {} if architecture == "unet" else {"encoder_name": "resnet18"}
    network = build_network(architecture, 2, 3, arguments).eval()
    x = torch.randn(1, 2, 64, 64)
    with torch.inference_mode():
        before = network(x)
        soften(network, 2.5)
        torch.testing.assert_close(network(x), before / 2.5, rtol=1e-4, atol=1e-5)


@given(st.floats(0.4, 3.0))
def test_the_temperature_that_was_applied_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 3)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1) + 1
    assert find_temperature(logits * np.float32(temperature), labels) == pytest.approx(temperature, rel=0.05)


def test_what_was_not_measured_in_bf16_is_not_safe_in_it(tmp_path: Path, pointwise: Model) -> None:
    """Nor is what changes more than one label in a hundred, or loses more than .002."""
    assert score_tests(tmp_path, pointwise.spec, read_recipe(write_lesson(tmp_path, side=32))) == ({}, False)
    exact = {"overall_accuracy": 0.9, "macro_f1": 0.8}, np.ones(1000, np.uint8)
    assert _is_safe(exact, exact)
    assert not _is_safe(exact, (exact[0], np.where(np.arange(1000) < 11, 2, 1)))
    assert not _is_safe(exact, ({**exact[0], "macro_f1": 0.797}, exact[1]))


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [warm_cosine(i, 100, 0.1) for i in range(100)]
    assert rates[:9] == pytest.approx([0.1 * (i + 1) for i in range(9)])
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.001


def test_accuracy_on_a_worked_example() -> None:
    reference = np.array([1, 1, 1, 2, 2, 3, 0, 0])
    predicted = np.array([1, 1, 2, 2, 3, 3, 1, 2])
    counts = confusion(reference, predicted, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert overall_accuracy(counts) == pytest.approx(4 / 6)
    np.testing.assert_allclose(f1_scores(counts), [0.8, 0.5, 2 / 3, np.nan])
    assert macro_f1(counts) == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)


def test_calibration_error_on_a_worked_example() -> None:
    """Half the pixels are 95 % sure and right in 9 of 10; half are 55 % sure and right in 4 of 10."""
    confidence = np.repeat([0.95, 0.55], 10)
    right = np.array([1] * 9 + [0] + [1] * 4 + [0] * 6, bool)
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)


def test_recipes_that_come_along_are_recipes() -> None:
    from landcover.specs import _config_folder

    found = sorted((_config_folder() / "train").glob("*.toml"))
    assert found
    for path in found:
        assert read_recipe(path).name


def test_refining_is_gentle_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    recipe = read_recipe(change(write_lesson(tmp_path), "rate = 1e-2\n", ""))
    assert (recipe.loop.steps, recipe.loop.rate) == (24, 1e-3)
    refined = recipe.for_refining().loop
    assert (refined.steps, refined.rate) == (24, 2e-4)


def test_the_least_share_that_can_be_asked_for_is_one_place() -> None:
    origins = [Origin(0, name, name, name, 0, 0, None) for name in "abc"]
    assert len(hold_out(samples_at(origins), Split(validation=1e-9), 2)[1]) == 1


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    recipe = write_lesson(tmp_path, side=64)
    recipe.write_bytes(b"\xef\xbb\xbf" + recipe.read_bytes())
    text = plan_training(recipe, tmp_path / "model", device="cpu", changes={"steps": 1}).text
    assert tomllib.loads(text)["name"] == "lesson"


def test_what_is_held_out_is_about_the_share_asked_for() -> None:
    """Not the largest place, if smaller ones come nearer; and never all labels."""
    sizes = {"large": 40, "small": 2, "smaller": 8}
    origins = [Origin(0, name, name, name, 16 * i, 0, None) for name, n in sizes.items() for i in range(n)]
    samples = samples_at(origins)
    train_chips, out = hold_out(samples, Split(validation=0.2), 2)
    assert {origins[i].place for i in out} == {"smaller", "small"} or {origins[i].place for i in out} == {"smaller"}
    alone = [Origin(0, "here", "here", "here", 0, 0, None), Origin(1, "there", "there", "there", 0, 0, None)]
    labels = np.stack([np.ones((16, 16)), np.zeros((16, 16))]).astype(np.uint8)
    one = dataclasses.replace(samples_at(alone), labels=labels)
    train_chips, out = hold_out(one, Split(validation=0.5), 2)
    assert len(train_chips) == 2
    assert not len(out)


def test_dates_of_one_place_are_not_held_out_from_each_other() -> None:
    """Every chip of one date lies upon one of the other: nothing would be left to learn from."""
    origins = [Origin(0, day, day, "grid", 16 * i, 0, None) for day in ("june", "july") for i in range(4)]
    learned, out = hold_out(samples_at(origins), Split(validation=0.5), 2)
    assert len(learned) == 8
    assert not len(out)


def test_chips_of_another_resolution_are_not_held_out_from_each_other(tmp_path: Path) -> None:
    """A scene of 30 m and three of 10 m: what is learned shares no ground with what is held out, whatever its grid."""
    write_scene(tmp_path / "coarse.tif", digital_numbers(64, 64), transform=UTM @ UTM.scale(3))
    write_labels(tmp_path / "coarse_labels.tif", np.full((64, 64), 3, np.uint8), transform=UTM @ UTM.scale(3))
    coarse = '[[sources]]\nkind = "scene"\nscene = "coarse.tif"\nlabels = "coarse_labels.tif"\n\n[split]'
    pieces = pieces_of(change(write_lesson(tmp_path), "[split]", coarse), 32)
    assert len({p.grid for p in pieces}) == 2
    origins = [Origin(0, p.scene, p.place, p.grid, p.row, p.col, p.gsd, p.bounds) for p in pieces]
    samples = samples_at(origins, 32)
    for learned, out in folds(samples, Split(by="blocks", block=32), 2, 4):
        assert len(learned)
        for i in learned:
            for j in out:
                (w, s, e, n), (w2, s2, e2, n2) = origins[i].bounds, origins[j].bounds
                assert min(e, e2) - max(w, w2) < 1e-5 or min(n, n2) - max(s, s2) < 1e-5


def test_folds_of_dates_of_one_place_are_refused(tmp_path: Path) -> None:
    """What is left of the other date lies upon what is held out; that is not a lack of places."""
    recipe = write_lesson(tmp_path)
    shutil.copy(tmp_path / "scene.tif", tmp_path / "july.tif")
    july = '[[sources]]\nkind = "scene"\nscene = "july.tif"\nlabels = "labels.tif"\n\n[split]\nby = "scene"'
    change(recipe, '[split]\nby = "blocks"', july)
    with pytest.raises(SamplesError, match="nothing to learn from: all its chips lie upon those held out"):
        train(plan_training(recipe, tmp_path / "m", device="cpu", folds=2))


def test_the_only_place_of_a_class_is_not_held_out_if_another_can_be() -> None:
    origins = [Origin(0, f"{i}", f"{i}", f"{i}", 0, 0, None) for i in range(3)]
    labels = np.ones((3, 16, 16), np.uint8)
    labels[0] = 2
    samples = dataclasses.replace(samples_at(origins), labels=labels)
    _, out = hold_out(samples, Split(validation=1 / 3), 2)
    assert out.tolist() in ([1], [2])


def test_folds_that_lack_a_class_are_refused_before_any_is_trained(tmp_path: Path) -> None:
    recipe = write_lesson(tmp_path, side=64)
    labels = np.full((64, 64), 3, np.uint8)
    labels[32:, 32:] = 7
    write_labels(tmp_path / "labels.tif", labels)
    trained: list[int] = []
    with pytest.raises(SamplesError, match="no sample of the class 'dark'"):
        train(plan_training(recipe, tmp_path / "m", device="cpu", folds=4), watch=lambda *_: trained.append(1))
    assert not trained
