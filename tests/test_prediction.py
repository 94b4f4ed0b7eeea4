"""The laws of a map: it equals the direct computation, whatever it was computed with; nodata stays nodata."""

import json
import zipfile
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from shapely import Polygon

import landcover
from landcover import journal
from landcover.bands import view_of
from landcover.errors import BandError, ConfigError, SceneError, StaleError
from landcover.grid import OVERLAP, TILE_SIZE, Box
from landcover.journal import kept_engines
from landcover.models import Model, init_model
from landcover.network import live_bytes
from landcover.planning import PANEL_BYTES, Options, Plan, make_plan
from landcover.prediction import join_parts, map_part, map_scene, predict
from landcover.regions import Area, box_of_bounds, parse_bbox, read_area
from tests.commands import landcover as run
from tests.scenes import SCALE, UTM, digital_numbers, direct_map, read_map, write_scene


@st.composite
def windows(draw: st.DrawFn) -> dict[str, int]:
    tile = draw(st.integers(5, 70))
    return {"tile_size": tile, "overlap": draw(st.integers(0, tile * 3 // 4)), "batch_size": draw(st.integers(1, 5))}


@given(
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    how=windows(),
    seed=st.integers(0, 5),
    holes=st.floats(0, 0.95),
)
@example(1, 1, {"tile_size": 64, "overlap": 16, "batch_size": 1}, 0, 0.0)
@example(1, 127, {"tile_size": 32, "overlap": 20, "batch_size": 3}, 0, 0.5)
@example(127, 1, {"tile_size": 32, "overlap": 0, "batch_size": 2}, 0, 0.5)
@example(113, 61, {"tile_size": 512, "overlap": 64, "batch_size": 4}, 0, 0.2)
@example(101, 103, {"tile_size": 17, "overlap": 5, "batch_size": 3}, 0, 0.2)
def test_every_pixel_once(
    tmp_path: Path, pointwise: Model, height: int, width: int, how: dict[str, int], seed: int, holes: float
) -> None:
    pixels = digital_numbers(height, width, seed=seed)
    valid = np.random.default_rng(seed).random((height, width)) >= holes
    valid[height // 2, width // 2] = True
    write_scene(tmp_path / "scene.tif", np.where(valid, pixels, 0).astype("uint16"), nodata=0)
    predict(
        tmp_path / "scene.tif",
        tmp_path / "map.tif",
        model=pointwise,
        engine="torch",
        allow_untrained=True,
        overwrite=True,
        **how,
    )
    np.testing.assert_array_equal(read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels, valid))


@given(st.data())
def test_a_region_equals_the_crop_of_the_whole_map(tmp_path: Path, unet: Model, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(20, 500)), data.draw(st.integers(20, 150))
    row0, col0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    row1, col1 = data.draw(st.integers(row0 + 1, height)), data.draw(st.integers(col0 + 1, width))
    pixels = with_holes(height, width)
    assume(pixels[:, row0:row1, col0:col1].any())
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    how = {"model": unet, "engine": "torch", "allow_untrained": True, "overwrite": True, "tile_size": 48, "overlap": 16}
    how["batch_size"] = data.draw(st.integers(1, 4))
    predict(scene, tmp_path / "whole.tif", **how)
    (left, top), (right, bottom) = UTM @ (col0, row0), UTM @ (col1, row1)
    predict(scene, tmp_path / "part.tif", bbox=(left, bottom, right, top), **how)
    np.testing.assert_array_equal(
        read_map(tmp_path / "part.tif"), read_map(tmp_path / "whole.tif")[row0:row1, col0:col1]
    )
    with rasterio.open(tmp_path / "part.tif") as part:
        assert part.transform.almost_equals(UTM @ Affine.translation(col0, row0))


def with_holes(height: int, width: int) -> np.ndarray:
    """Pixels with nodata here and there, and a whole corner of it, so that some windows are empty."""
    pixels = digital_numbers(height, width)
    pixels[:, np.random.default_rng(1).random((height, width)) < 0.1] = 0
    pixels[:, height // 3 :, : width * 2 // 3] = 0
    pixels[:, 0, -1] = 99
    return pixels


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@given(st.integers(20, 200), st.integers(1, 4), st.sampled_from([16, 32]), st.integers(1, 3), st.booleans())
@settings(max_examples=20)
def test_panels_change_nothing(
    tmp_path: Path, unet: Model, engine: str, width: int, most: int, overlap: int, batch_size: int, aoi: bool
) -> None:
    """A scene so wide that it is mapped in several panels gives the same bytes."""
    scene = write_scene(tmp_path / "scene.tif", with_holes(70, width), nodata=0)
    how = {"model": unet, "engine": engine, "device": "cpu", "allow_untrained": True, "overwrite": True}
    how |= {"tile_size": 48, "overlap": overlap, "batch_size": batch_size, "confidence": tmp_path / "confidence.tif"}
    if aoi:
        how["aoi"] = triangle(tmp_path / "aoi.geojson", width)
    plan = make_plan(Options(scene, tmp_path / "map.tif", **how))
    for _ in map_scene(plan):
        pass
    wanted = [(tmp_path / name).read_bytes() for name in ("map.tif", "confidence.tif")]
    plan = make_plan(Options(scene, tmp_path / "map.tif", **how))
    plan.__dict__["panels"] = plan.grid.panels(most)
    for _ in map_scene(plan):
        pass
    assert [(tmp_path / name).read_bytes() for name in ("map.tif", "confidence.tif")] == wanted


def test_a_wide_scene_is_mapped_in_panels_that_keep_to_their_bound(tmp_path: Path, pointwise: Model) -> None:
    for width in (2_000, 20_000, 200_000):
        fixed = {"dtype": "uint16", "count": 2, "height": 5_000, "width": width, "sparse_ok": True, "tiled": True}
        with rasterio.open(tmp_path / "scene.tif", "w", "GTiff", crs="EPSG:32633", transform=UTM, **fixed) as file:
            file.descriptions, file.scales = ("red", "nir"), (1e-4, 1e-4)
        plan = make_plan(Options(tmp_path / "scene.tif", tmp_path / "map.tif", pointwise, allow_untrained=True))
        memory = plan.memory()
        grown = sum(memory[name] for name in ("rows of the scene", "decoded blocks", "sums of scores"))
        assert grown <= PANEL_BYTES
        assert (len(plan.panels) > 1) == (width == 200_000)


def triangle(path: Path, width: int) -> Path:
    """An area of interest whose edges pass through the centres of pixels, the upper right half of a scene."""
    corners = [UTM @ (col + 0.5, row + 0.5) for col, row in ((0, 0), (width - 1, 0), (width - 1, 69))]
    geopandas.GeoSeries([Polygon(corners)], crs="EPSG:32633").to_file(path)
    return path


@given(st.integers(0, 60), st.integers(1, 40), st.integers(0, 99))
def test_an_area_is_the_same_whatever_box_it_is_asked_for(row: int, rows: int, seed: int) -> None:
    """Also where its edges pass through the centres of pixels, and pixels are no round numbers."""
    transform = Affine(1e-4, 0, 11.1, 0, -1e-4, 48.3)
    points = np.random.default_rng(seed).integers(0, 100, (4, 2)) + 0.5
    polygon = Polygon([transform @ tuple(p) for p in points]).buffer(0)
    assume(not polygon.is_empty)
    area = Area((polygon,), transform)
    whole = area.mask(Box(0, 100, 0, 100))
    np.testing.assert_array_equal(area.mask(Box(row, row + rows, 30, 90)), whole[row : row + rows, 30:90])


@pytest.mark.parametrize("compress", ["none", "deflate", "lzw", "packbits"])
def test_scenes_in_one_strip(tmp_path: Path, pointwise: Model, compress: str) -> None:
    """GDAL shows such a strip as many blocks, of which only the first is told to be stored."""
    pixels = (digital_numbers(300, 200) % 250 + 1).astype("uint8")
    pixels[:, 40:60] = 0
    write_scene(tmp_path / "scene.tif", pixels, nodata=0, blockysize=300, compress=compress, interleave="pixel")
    predict(tmp_path / "scene.tif", tmp_path / "map.tif", model=pointwise, engine="torch", allow_untrained=True)
    np.testing.assert_array_equal(read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels, pixels.any(axis=0)))


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("nodata", [0, 7, None])
def test_blocks_that_were_never_written(tmp_path: Path, pointwise: Model, interleave: str, nodata: int | None) -> None:
    """They are nodata, or zeros where none is declared; where one band has a block and the other has not, likewise."""
    height, width = 300, 500
    fixed = {"dtype": "uint16", "count": 2, "height": height, "width": width, "tiled": True, "nodata": nodata}
    fixed |= {"blockxsize": 64, "blockysize": 64, "interleave": interleave, "compress": "deflate"}
    for name, sparse in (("sparse", True), ("dense", False)):
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", "GTiff", crs="EPSG:32633", transform=UTM, sparse_ok=sparse, **fixed
        ) as file:
            file.descriptions, file.scales = ("red", "nir"), (1e-4, 1e-4)
            file.write(digital_numbers(100, 64)[:, :, :64], window=Window(128, 64, 64, 100))
            file.write(digital_numbers(40, 70)[0], 1, window=Window(400, 250, 70, 40))
        how = {"model": pointwise, "engine": "torch", "allow_untrained": True, "tile_size": 80, "overlap": 16}
        predict(tmp_path / f"{name}.tif", tmp_path / f"{name}_map.tif", **how)
    with rasterio.open(tmp_path / "sparse.tif") as file:
        assert file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1) is None
        pixels = file.read()
    valid = np.ones((height, width), bool) if nodata is None else (pixels != nodata).all(axis=0)
    if nodata == 0:
        valid = pixels.any(axis=0)
    for name in ("sparse", "dense"):
        np.testing.assert_array_equal(read_map(tmp_path / f"{name}_map.tif"), direct_map(pointwise, pixels, valid))


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small, untrained, classic U-Net."""
    return init_model(
        tmp_path_factory.mktemp("unet") / "unet",
        architecture="unet",
        bands=("red", "nir"),
        classes=("a", "b", "c"),
        seed=3,
        hyperparameters={"width": 8, "depth": 3},
    )


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_same_run_gives_the_same_bytes(tmp_path: Path, unet: Model, engine: str) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(300, 260))
    how = {"model": unet, "engine": engine, "allow_untrained": True, "tile_size": 128, "overlap": 32}
    first = predict(scene, tmp_path / "first.tif", **how).read_bytes()
    assert predict(scene, tmp_path / "second.tif", **how).read_bytes() == first


def test_engines_and_batch_sizes_agree(tmp_path: Path, unet: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(300, 260))
    maps = [
        read_map(
            predict(
                scene,
                tmp_path / "map.tif",
                model=unet,
                engine=engine,
                batch_size=batch,
                allow_untrained=True,
                tile_size=128,
                overlap=32,
                overwrite=True,
            )
        )
        for engine, batch in [("torch", 1), ("torch", 3), ("openvino", 1), ("openvino", 2)]
    ]
    for other in maps[1:]:
        assert (other != maps[0]).mean() < 0.001


def test_maps_of_other_bands_or_areas_say_so(tmp_path: Path, pointwise: Model) -> None:
    """Their pixels differ, and nothing else would tell why."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(40, 30))
    half = shapely.box(*(UTM @ (0, 40)), *(UTM @ (15, 0)))
    geopandas.GeoSeries([half], crs="EPSG:32633").to_file(tmp_path / "area.gpkg")
    tags = []
    for how in ({}, {"bands": {"red": "2", "nir": "1"}}, {"aoi": tmp_path / "area.gpkg"}):
        out = predict(scene, tmp_path / "map.tif", model=pointwise, allow_untrained=True, overwrite=True, **how)
        with rasterio.open(out) as file:
            tags.append(file.tags())
    assert json.loads(tags[0]["LANDCOVER_BANDS"])["red"] == {"band": 1, "label": "red", "scale": 1e-4, "offset": 0.0}
    assert json.loads(tags[1]["LANDCOVER_BANDS"])["red"] == {"band": 2, "label": "nir", "scale": 1e-4, "offset": 0.0}
    assert [t.get("LANDCOVER_AOI") for t in tags] == [None, None, "area.gpkg"]


def test_the_map_says_what_it_is(tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(40, 30))
    predict(
        scene,
        tmp_path / "map.tif",
        model=pointwise,
        confidence=tmp_path / "confidence.tif",
        scores=tmp_path / "scores.tif",
        allow_untrained=True,
    )
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.dtypes, file.nodata, file.crs.to_epsg(), file.transform) == (("uint8",), 0, 32633, UTM)
        assert file.colormap(1)[1] == (*pointwise.spec.legend.classes[0].rgb, 255)
        assert file.tags()["LANDCOVER_MODEL_SHA256"] == pointwise.sha256
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert "<Category>a</Category>" in (tmp_path / "map.tif.aux.xml").read_text()
    with rasterio.open(tmp_path / "confidence.tif") as confidence, rasterio.open(tmp_path / "scores.tif") as scores:
        assert (confidence.dtypes, confidence.nodata) == (("uint8",), 255)
        assert (scores.descriptions, scores.nodata, scores.scales[0]) == (("a", "b", "c"), 65535, 1e-4)
        values = scores.read() * 1e-4
        np.testing.assert_allclose(values.sum(axis=0), 1, atol=2e-4)
        assert np.abs(confidence.read(1) - 100 * values.max(axis=0)).max() < 0.51
        assert (values.argmax(axis=0) + 1 == read_map(tmp_path / "map.tif")).all()


def test_overviews_take_the_most_common_class(tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(1100, 1100))
    predict(scene, tmp_path / "map.tif", model=pointwise, engine="torch", allow_untrained=True)
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as half:
        small = half.read(1)
    quarters = read_map(tmp_path / "map.tif").reshape(550, 2, 550, 2).transpose(0, 2, 1, 3).reshape(550, 550, 4)
    count = (quarters == small[..., None]).sum(axis=-1)
    best = np.max([(quarters == c).sum(axis=-1) for c in (1, 2, 3)], axis=0)
    assert (count == best).all()


# --- nodata


def masked(tmp_path: Path, model: Model, pixels: np.ndarray, **how) -> np.ndarray:
    """The map of pixels written with `how`."""
    scene = write_scene(tmp_path / "scene.tif", pixels, **how)
    return read_map(predict(scene, tmp_path / "map.tif", model=model, engine="torch", allow_untrained=True))


def test_a_zero_in_one_band_is_not_nodata(tmp_path: Path, pointwise: Model) -> None:
    pixels = digital_numbers(20, 20)
    pixels[0, 3, 3] = 0
    pixels[:, 5, 5] = 0
    valid = np.ones((20, 20), bool)
    valid[5, 5] = False
    got = masked(tmp_path, pointwise, pixels, nodata=0)
    np.testing.assert_array_equal(got, direct_map(pointwise, pixels, valid))


def test_zeros_are_valid_where_no_nodata_is_declared(tmp_path: Path, pointwise: Model) -> None:
    pixels = digital_numbers(20, 20)
    pixels[:, 5, 5] = 0
    got = masked(tmp_path, pointwise, pixels)
    np.testing.assert_array_equal(got, direct_map(pointwise, pixels, np.ones((20, 20), bool)))


def test_another_nodata_value_in_any_band_is_nodata(tmp_path: Path, pointwise: Model) -> None:
    pixels = digital_numbers(20, 20).astype("int16")
    pixels[1, 4, 4] = -9999
    assert (masked(tmp_path, pointwise, pixels, nodata=-9999) == 0).nonzero() == (np.array([4]), np.array([4]))


def test_nan_and_infinity_are_nodata_and_do_not_spread(tmp_path: Path, unet: Model) -> None:
    pixels = digital_numbers(40, 40).astype("float32")
    pixels[0, 4, 4], pixels[1, 9, 9], pixels[0, 20, 3] = np.nan, np.inf, -np.inf
    got = masked(tmp_path, unet, pixels, nodata=float("nan"))
    assert sorted(zip(*(got == 0).nonzero(), strict=True)) == [(4, 4), (9, 9), (20, 3)]


def test_a_zero_stays_valid_where_only_one_file_declares_it_nodata(tmp_path: Path, pointwise: Model) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    pixels = digital_numbers(20, 20)
    pixels[0, 3, 3] = 0
    pixels[:, 5, 5] = 0
    write_scene(folder / "red.tif", pixels[:1], names=("red",), nodata=0)
    write_scene(folder / "nir.tif", pixels[1:], names=("nir",))
    predict(folder, tmp_path / "map.tif", model=pointwise, engine="torch", allow_untrained=True)
    valid = np.ones((20, 20), bool)
    valid[5, 5] = False
    np.testing.assert_array_equal(read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels, valid))


@pytest.mark.parametrize("side", [40, 160])
def test_ground_that_a_coarse_band_does_not_cover_is_nodata(tmp_path: Path, pointwise: Model, side: int) -> None:
    """Also beyond the rows that are read at first."""
    coarse = digital_numbers(side // 2, side // 2, 1)
    found = _of_two_files(tmp_path, pointwise, digital_numbers(side + 1, side + 1, 1), coarse, UTM @ Affine.scale(2))
    assert not found[side].any()
    assert not found[:, side].any()
    assert found[:side, :side].all()


def test_a_band_that_is_a_row_and_a_column_short(tmp_path: Path, pointwise: Model) -> None:
    pixels = digital_numbers(41, 41)
    found = _of_two_files(tmp_path, pointwise, pixels[:1], pixels[1:, :40, :40], UTM)
    assert not found[40].any()
    assert not found[:, 40].any()
    wanted = direct_map(pointwise, pixels[:, :40, :40], np.ones((40, 40), bool))
    np.testing.assert_array_equal(found[:40, :40], wanted)


def test_the_masks_of_all_files_count(tmp_path: Path, pointwise: Model) -> None:
    pixels, red, nir = digital_numbers(20, 20), np.ones((20, 20), bool), np.ones((20, 20), bool)
    red[3, 4] = nir[7, 8] = False
    found = _of_two_files(tmp_path, pointwise, pixels[:1], pixels[1:], UTM, red, nir)
    np.testing.assert_array_equal(found, direct_map(pointwise, pixels, red & nir))


def _of_two_files(
    folder: Path, model: Model, red: np.ndarray, nir: np.ndarray, place: Affine, *masks: np.ndarray
) -> np.ndarray:
    """The map of a folder of two bands, of which the second lies elsewhere, or is of other pixels."""
    (folder / "bands").mkdir()
    mine, other = masks or (None, None)
    write_scene(folder / "bands" / "red.tif", red, names=("red",), mask=mine)
    write_scene(folder / "bands" / "nir.tif", nir, names=("nir",), transform=place, mask=other)
    return read_map(predict(folder / "bands", folder / "map.tif", model=model, engine="torch", allow_untrained=True))


def test_parts_of_a_region_are_joined_where_they_lie(tmp_path: Path, pointwise: Model) -> None:
    """The region begins below the first row of the scene; the bytes are those of one run."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(150, 90))
    left, top = UTM @ (10, 40)
    right, bottom = UTM @ (80, 140)
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True, "tile_size": 32, "overlap": 8}
    how["bbox"] = (left, bottom, right, top)
    whole = predict(scene, tmp_path / "whole.tif", **how)
    plan = make_plan(Options(scene, tmp_path / "map.tif", **how))
    (tmp_path / "parts").mkdir()
    parts = plan.parts(2, tmp_path / "parts")
    assert len(parts) > 1
    for part in parts:
        list(map_part(part))
    list(join_parts(plan, parts))
    assert (tmp_path / "map.tif").read_bytes() == whole.read_bytes()


def test_a_part_whose_second_layer_is_older_is_not_whole(
    tmp_path: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the new map of a part was there, and its confidence was still the old one."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(150, 90))
    (tmp_path / "parts").mkdir()

    def part(**more: float) -> Plan:
        how = {"engine": "torch", "allow_untrained": True, "tile_size": 32, "overlap": 8, **more}
        options = Options(scene, tmp_path / "map.tif", pointwise, confidence=tmp_path / "confidence.tif", **how)
        return make_plan(options).parts(2, tmp_path / "parts")[0]

    real = journal.publish

    def publish(folder: Path, path: Path) -> None:
        if path.suffix != ".map":
            raise KeyboardInterrupt
        real(folder, path)

    list(map_part(part()))
    monkeypatch.setattr(journal, "publish", publish)
    again = part(scale=3e-4)
    with pytest.raises(KeyboardInterrupt):
        list(map_part(again))
    assert kept_engines(again.layers, again.facts) is None


def test_a_mask_band_is_nodata(tmp_path: Path, pointwise: Model) -> None:
    pixels, valid = digital_numbers(20, 20), np.random.default_rng(1).random((20, 20)) > 0.3
    got = masked(tmp_path, pointwise, pixels, mask=valid)
    np.testing.assert_array_equal(got, direct_map(pointwise, pixels, valid))


def test_an_alpha_band_is_a_mask(tmp_path: Path, pointwise: Model) -> None:
    valid = np.random.default_rng(1).random((20, 20)) > 0.3
    pixels = np.concatenate([digital_numbers(20, 20), np.where(valid, 255, 0)[None].astype("uint16")])
    scene = write_scene(tmp_path / "scene.tif", pixels, names=("red", "nir", ""), alpha=True, photometric="minisblack")
    predict(scene, tmp_path / "map.tif", model=pointwise, engine="torch", allow_untrained=True)
    np.testing.assert_array_equal(read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels[:2], valid))


def test_six_bands_and_alpha_are_not_the_seven_of_a_sensor(tmp_path: Path, pointwise: Model) -> None:
    pixels = np.concatenate([digital_numbers(20, 20, 6), np.full((1, 20, 20), 65535, "uint16")])
    pixels[6, :4, :4] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, names=(), scaled=False, alpha=True)
    how: dict = {"model": pointwise, "engine": "torch", "allow_untrained": True, "sensor": "landsat-sr"}
    with pytest.raises(BandError, match="its last one is flagged as alpha"):
        predict(scene, tmp_path / "map.tif", **how)
    got = read_map(predict(scene, tmp_path / "map.tif", bands={"red": "3", "nir": "4"}, **how))
    np.testing.assert_array_equal(got, direct_map(pointwise, pixels[2:4], pixels[6] > 0))


def test_alpha_beside_bands_with_names_is_a_mask_whatever_number_of_bands_a_sensor_has(
    tmp_path: Path, pointwise: Model
) -> None:
    pixels = np.concatenate([digital_numbers(20, 20, 3), np.full((1, 20, 20), 255, "uint16")])
    pixels[3, :4, :4] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, names=("red", "nir", "green", ""), alpha=True)
    how: dict = {"model": pointwise, "engine": "torch", "allow_untrained": True, "sensor": "rgbn", "scale": 1e-4}
    got = read_map(predict(scene, tmp_path / "map.tif", **how))
    np.testing.assert_array_equal(got, direct_map(pointwise, pixels[:2], pixels[3] > 0))


def test_two_names_for_one_band_are_told(tmp_path: Path, pointwise: Model, caplog: pytest.LogCaptureFixture) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(20, 20))
    how: dict = {"model": pointwise, "engine": "torch", "allow_untrained": True}
    predict(scene, tmp_path / "map.tif", bands={"red": 1, "nir": 2}, **how)
    assert not caplog.messages
    predict(scene, tmp_path / "both.tif", bands={"red": 2}, **how)
    assert [m for m in caplog.messages if "band 2 of" in m and "is taken for red, nir" in m] == caplog.messages != []


def test_near_infrared_flagged_as_alpha_is_a_band(tmp_path: Path, pointwise: Model) -> None:
    pixels = digital_numbers(20, 20)
    pixels[1, :5] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, alpha=True, photometric="minisblack")
    predict(scene, tmp_path / "map.tif", model=pointwise, engine="torch", bands={"nir": "2"}, allow_untrained=True)
    np.testing.assert_array_equal(
        read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels, np.ones((20, 20), bool))
    )


def test_a_band_flagged_as_alpha_is_no_mask_where_it_is_named(tmp_path: Path, pointwise: Model) -> None:
    """GDAL flags the fourth band of bytes as alpha; a model that does not look at it maps what is dark in it, too."""
    pixels = (digital_numbers(20, 20, bands=4) % 250 + 1).astype("uint8")
    pixels[3, :5] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, names=("red", "nir", "green", "swir16"))
    with rasterio.open(scene) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    predict(scene, tmp_path / "map.tif", model=pointwise, engine="torch", allow_untrained=True)
    np.testing.assert_array_equal(
        read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels[:2], np.ones((20, 20), bool))
    )


def test_a_band_flagged_as_alpha_is_no_mask_where_the_sensor_knows_its_name(tmp_path: Path, pointwise: Model) -> None:
    pixels = (digital_numbers(20, 20, bands=4) % 250 + 1).astype("uint8")
    pixels[3, :5] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, names=("B04", "B08", "B03", "B11"))
    how: dict = {"model": pointwise, "engine": "torch", "allow_untrained": True, "sensor": "sentinel2-l2a"}
    predict(scene, tmp_path / "map.tif", scale=1e-4, offset=0.0, **how)
    np.testing.assert_array_equal(
        read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels[:2], np.ones((20, 20), bool))
    )


@pytest.mark.parametrize("spectral", [True, False])
def test_a_mask_counts_beside_a_band_flagged_as_alpha(tmp_path: Path, pointwise: Model, spectral: bool) -> None:
    """GDAL flags the fourth band of every photograph as alpha, be it near infrared or not."""
    valid, opaque = np.random.default_rng(1).random((2, 20, 20)) > 0.3
    pixels = np.concatenate([digital_numbers(20, 20), np.where(opaque, 255, 0)[None].astype("uint16")])
    names = ("red", "", "nir") if spectral else ("red", "nir", "")
    scene = write_scene(tmp_path / "scene.tif", pixels, names=names, alpha=True, photometric="minisblack", mask=valid)
    predict(scene, tmp_path / "map.tif", model=pointwise, engine="torch", allow_untrained=True)
    seen, usable = (pixels[[0, 2]], valid) if spectral else (pixels[:2], valid & opaque)
    np.testing.assert_array_equal(read_map(tmp_path / "map.tif"), direct_map(pointwise, seen, usable))


def test_an_all_nodata_scene_is_an_error_and_leaves_nothing(tmp_path: Path, pointwise: Model) -> None:
    with pytest.raises(SceneError, match="no valid pixel"):
        masked(tmp_path, pointwise, np.zeros((2, 20, 20), "uint16"), nodata=0)
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


# --- place on the earth

PLACES = {
    "rotated": ("EPSG:32633", Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(10, -10)),
    "sheared": ("EPSG:32633", Affine.translation(5e5, 5e6) @ Affine.shear(20, 0) @ Affine.scale(10, -10)),
    "south-up": ("EPSG:32633", Affine(10, 0, 5e5, 0, 10, 5e6)),
    "geographic": ("EPSG:4326", Affine(1e-4, 0, 12, 0, -1e-4, 47)),
    "southern zone 60": ("EPSG:32760", Affine(10, 0, 4e5, 0, -10, 8e6)),
    "across the antimeridian": ("EPSG:4326", Affine(1e-4, 0, 179.999, 0, -1e-4, -17)),
    "web mercator": ("EPSG:3857", Affine(10, 0, 1e6, 0, -10, 6e6)),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_map_lies_where_the_scene_lies(tmp_path: Path, pointwise: Model, place: str) -> None:
    crs, transform = PLACES[place]
    pixels = digital_numbers(60, 50)
    scene = write_scene(tmp_path / "scene.tif", pixels, crs=crs, transform=transform)
    predict(scene, tmp_path / "map.tif", model=pointwise, engine="torch", allow_untrained=True)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs == rasterio.CRS.from_string(crs)
        assert file.transform.almost_equals(transform, precision=1e-9)
    np.testing.assert_array_equal(
        read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels, np.ones((60, 50), bool))
    )


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(1e-4, 0, 179.999, 0, -1e-4, -17)),
        ("EPSG:4326", Affine(1e-4, 0, -180.001, 0, -1e-4, -17)),
        ("EPSG:32760", Affine(10, 0, 819_300, 0, -10, 8_118_100)),
        ("EPSG:3832", Affine(10, 0, 3_339_460, 0, -10, -1_908_300)),
    ],
)
def test_a_box_of_degrees_across_the_antimeridian_is_the_part_of_the_scene_in_it(
    tmp_path: Path, pointwise: Model, crs: str, transform: Affine
) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(60, 50), crs=crs, transform=transform)
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True}
    whole = read_map(predict(scene, tmp_path / "map.tif", **how))
    box = parse_bbox("179.9995,-17.0015,-179.9985,-17.0005")
    predict(scene, tmp_path / "part.tif", bbox=box, bbox_crs="EPSG:4326", **how)
    with rasterio.open(tmp_path / "part.tif") as part:
        col, row = map(round, ~transform @ (part.transform.c, part.transform.f))
        np.testing.assert_array_equal(part.read(1), whole[row:, col:][: part.height, : part.width])
        west, south, east, north = transform_bounds(part.crs, "EPSG:4326", *part.bounds)
    found = [west % 360, south, east % 360, north]
    assert found == pytest.approx([179.9995, -17.0015, 180.0015, -17.0005], abs=2e-4)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:6933", "EPSG:4326"])
def test_where_a_crs_ends_at_the_antimeridian_a_box_across_it_is_its_part_on_that_side(crs: str) -> None:
    """PROJ makes a box around the whole earth of it."""

    def reached(west: float) -> Box:
        """In a scene of 60 × 50 pixels of 1e-3 degrees, or as many metres, of which `west` is the first longitude."""
        step = 1e-3 if crs == "EPSG:4326" else 100.0
        left, _, _, top = transform_bounds("EPSG:4326", crs, west, -17.0, west + 0.01, -16.99)
        transform = Affine(step, 0, left, 0, -step, top)
        return box_of_bounds((179.98, -17.5, -179.97, -16.5), "EPSG:4326", transform, CRS.from_string(crs), (60, 50))

    assert (reached(179.96).col0, reached(179.96).col1) == pytest.approx((20, 45), abs=6)
    assert (reached(-180.0).col0, reached(-180.0).col1) == pytest.approx((0, 30), abs=6)
    for west in (99.0, -150.0, 0.0):
        with pytest.raises(SceneError, match="lies outside the scene"):
            reached(west)


@pytest.mark.parametrize("box", [(-180, -90, 180, 90), (-120, -80, 150, 80), (-75, 0, 105, 84)])
def test_a_box_far_larger_than_the_scene_is_all_of_it(box: tuple[float, float, float, float]) -> None:
    """UTM turns back beyond 90° from its meridian, where the edges of the box are."""
    place = Affine(10, 0, 499_000, 0, -10, 5_000_000)
    assert box_of_bounds(box, "EPSG:4326", place, CRS.from_epsg(32633), (150, 230)) == Box(0, 150, 0, 230)


@pytest.mark.parametrize("crs", ["EPSG:32660", "EPSG:32601", "EPSG:3413"])
@pytest.mark.parametrize("box", [(-180, -90, 180, 90), (0, -90, 180, 90), (-180, -80, -10, 88), (27, 40, -169, 82)])
def test_a_box_far_larger_than_a_scene_across_the_antimeridian_holds_what_lies_in_it(
    tmp_path: Path, crs: str, box: tuple[float, float, float, float]
) -> None:
    """Whether given as a box or as a polygon; pixel by pixel."""
    there = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = there.transform(-179.9, 72.0)
    place, height, width = Affine(500, 0, x - 50_000, 0, -500, y + 40_000), 160, 200
    col, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    lon, _ = there.transform(*(place @ (col, row)), direction="INVERSE")
    inside = (lon - box[0]) % 360 < ((box[2] - box[0]) % 360 or 360)
    found = box_of_bounds(box, "EPSG:4326", place, CRS.from_string(crs), (height, width))
    region = np.zeros_like(inside)
    region[found.row0 : found.row1, found.col0 : found.col1] = True
    assert region[inside].all()
    assert inside[region].mean() > 0.4
    west, south, east, north = box
    halves = [(west, 180), (-180, east)] if west > east else [(west, east)]
    parts = [shapely.box(a, south, b, north) for a, b in halves]
    geopandas.GeoSeries([shapely.union_all(parts)], crs="EPSG:4326").to_file(tmp_path / "area.gpkg")
    area = read_area(tmp_path / "area.gpkg", place, CRS.from_string(crs), (height, width))
    np.testing.assert_array_equal(area.mask(Box(0, height, 0, width)), inside)


def test_longitudes_are_those_of_the_scene_however_it_counts_them() -> None:
    beyond = Affine(0.1, 0, 170, 0, -0.1, -10), CRS.from_epsg(4326), (100, 200)  # to 190
    assert box_of_bounds((-178, -17, -177, -16), None, *beyond) == Box(60, 70, 120, 130)
    assert box_of_bounds((182, -17, 183, -16), None, *beyond) == Box(60, 70, 120, 130)
    assert box_of_bounds((179, -17, -179, -16), None, *beyond) == Box(60, 70, 90, 110)
    assert box_of_bounds((-180, -17, 180, -16), None, *beyond) == Box(60, 70, 0, 200)
    assert box_of_bounds((0, -17, 359, -16), None, *beyond) == Box(60, 70, 0, 200)
    earth = Affine(1, 0, -180.5, 0, -1, 90), CRS.from_epsg(4326), (180, 361)
    assert box_of_bounds((-180, -90, 180, 90), None, *earth) == Box(0, 180, 0, 361)
    assert box_of_bounds((170, 0, 180, 10), None, *earth) == Box(80, 90, 350, 361)
    with pytest.raises(SceneError, match="where the scene begins and ends"):
        box_of_bounds((179, -17, -179, -16), None, *earth)


@pytest.mark.parametrize("west", [179.99, 180.01, -179.99])
def test_an_area_lies_where_the_scene_counts_its_longitudes(tmp_path: Path, pointwise: Model, west: float) -> None:
    scene = write_scene(
        tmp_path / "scene.tif",
        digital_numbers(60, 50),
        crs="EPSG:4326",
        transform=Affine(1e-3, 0, 179.98, 0, -1e-3, -17),
    )
    area = shapely.box(west, -17.03, west + 0.01, -17.01)
    geopandas.GeoDataFrame(geometry=[area], crs="EPSG:4326").to_file(tmp_path / "area.gpkg")
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True, "allow_resolution": True}
    with rasterio.open(predict(scene, tmp_path / "map.tif", aoi=tmp_path / "area.gpkg", **how)) as file:
        assert file.bounds == pytest.approx((west % 360, -17.03, west % 360 + 0.01, -17.01))
        assert file.read(1).all()


def test_an_area_may_lie_in_an_archive_named_from_the_root(
    tmp_path: Path, pointwise: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which GDAL writes with two slashes in a row."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(40, 40))
    geopandas.GeoSeries([shapely.box(*(UTM @ (5, 25)), *(UTM @ (15, 5)))], crs="EPSG:32633").to_file(tmp_path / "a.shp")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for suffix in ("shp", "shx", "dbf", "prj"):
            archive.write(tmp_path / f"a.{suffix}", f"a.{suffix}")
    area = ("--aoi", f"/vsizip/{tmp_path}/a.zip/a.shp")
    how = ("--model", pointwise.folder, "--allow-untrained", *area)
    outcome = run(capsys, "predict", scene, "--out", tmp_path / "map.tif", *how)
    assert outcome.code == 0, outcome.err
    assert read_map(tmp_path / "map.tif").shape == (20, 10)
    map_ = tmp_path / "map.tif"
    for more in (
        ("vectorize", map_, "--out", tmp_path / "out.gpkg", *area),
        ("catalog", "list", scene, *area),
        ("stats", map_, "--zones", area[1]),
    ):
        outcome = run(capsys, *more)
        assert outcome.code == 0, outcome.err


def test_an_area_that_crosses_itself_is_one(tmp_path: Path, pointwise: Model) -> None:
    """A figure of eight, whose halves cancel out, beside a polygon that has no area at all."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(40, 40))
    (left, top), (right, bottom) = UTM @ (10, 10), UTM @ (30, 30)
    eight = shapely.Polygon([(left, top), (right, bottom), (right, top), (left, bottom)])
    line = shapely.Polygon([UTM @ (1, 1), UTM @ (1, 5), UTM @ (1, 1)])
    geopandas.GeoSeries([line, eight], crs="EPSG:32633").to_file(tmp_path / "area.gpkg")
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True}
    ids = read_map(predict(scene, tmp_path / "map.tif", aoi=tmp_path / "area.gpkg", **how))
    assert ids.shape == (20, 20)
    assert 150 < (ids > 0).sum() < 250


def test_polygons_in_collections_are_of_the_area(tmp_path: Path, pointwise: Model) -> None:
    """An overlay of layers leaves some polygons together with the lines at which others only touch them."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(40, 40))
    first, second = (shapely.box(*(UTM @ (col, 30)), *(UTM @ (col + 10, 10))) for col in (0, 25))
    inner = shapely.GeometryCollection([second])
    mixed = shapely.GeometryCollection([shapely.LineString([UTM @ (0, 0), UTM @ (40, 0)]), inner])
    geopandas.GeoSeries([first, mixed], crs="EPSG:32633").to_file(tmp_path / "area.gpkg")
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True}
    ids = read_map(predict(scene, tmp_path / "map.tif", aoi=tmp_path / "area.gpkg", **how))
    assert ids.shape == (20, 35)
    assert ids[:, :10].all()
    assert ids[:, 25:].all()
    assert not ids[:, 10:25].any()


@pytest.mark.parametrize("bounds", [(10, 0, 5, 10), (5, 10, 10, 0), (80, 0, -80, 10)])
def test_bounds_that_are_swapped_cross_nothing(bounds: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match="write the minimum before the maximum"):
        box_of_bounds(bounds, None, Affine(0.1, 0, -20, 0, -0.1, 20), CRS.from_epsg(4326), (400, 400))


def test_a_scene_without_crs_is_refused_unless_allowed(tmp_path: Path, pointwise: Model) -> None:
    pixels = digital_numbers(30, 30)
    scene = write_scene(tmp_path / "scene.tif", pixels, crs=None, transform=Affine(2, 0, 10, 0, -2, 20))
    with pytest.raises(SceneError, match="--allow-no-crs"):
        predict(scene, tmp_path / "map.tif", model=pointwise, allow_untrained=True)
    predict(scene, tmp_path / "map.tif", model=pointwise, engine="torch", allow_untrained=True, allow_no_crs=True)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.crs, file.transform) == (None, Affine(2, 0, 10, 0, -2, 20))


# --- other scenes


def test_bands_of_different_resolution_come_to_the_finest_grid(tmp_path: Path, pointwise: Model) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    fine = digital_numbers(120, 80, 1)
    coarse = np.full((1, 60, 40), 2500, "uint16")
    write_scene(folder / "red.tif", fine, names=("red",))
    write_scene(folder / "nir.tif", coarse, names=("nir",), transform=UTM @ Affine.scale(2))
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True, "overwrite": True}
    predict(folder, tmp_path / "map.tif", **how)
    pixels = np.concatenate([fine, np.full_like(fine, 2500)])
    np.testing.assert_array_equal(
        read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels, np.ones((120, 80), bool))
    )


def test_resampled_bands_do_not_depend_on_the_windows(tmp_path: Path, pointwise: Model) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    write_scene(folder / "red.tif", digital_numbers(150, 170, 1), names=("red",))
    write_scene(folder / "nir.tif", digital_numbers(75, 85, 1, seed=1), names=("nir",), transform=UTM @ Affine.scale(2))
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True, "overwrite": True}
    whole = read_map(predict(folder, tmp_path / "map.tif", **how))
    for tile, overlap in ((32, 8), (50, 10), (17, 0)):
        cut = read_map(predict(folder, tmp_path / "map.tif", tile_size=tile, overlap=overlap, **how))
        np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64", "int32", "uint32"])
def test_data_types(tmp_path: Path, pointwise: Model, dtype: str) -> None:
    pixels = (digital_numbers(40, 40) % 250).astype(dtype)
    scene = write_scene(tmp_path / "scene.tif", pixels, scaled=False)
    for engine in ("torch", "openvino"):
        how = {"model": pointwise, "allow_untrained": True, "overwrite": True, "scale": 1 / 255}
        how |= {"engine": engine}
        got = read_map(predict(scene, tmp_path / "map.tif", **how))
        np.testing.assert_array_equal(got, direct_map(pointwise, pixels, np.ones((40, 40), bool), scale=1 / 255))


def test_bands_of_one_file_may_be_of_several_data_types(tmp_path: Path, pointwise: Model) -> None:
    """As in a virtual raster of files that came from elsewhere; each keeps its nodata."""
    pixels, valid = digital_numbers(40, 50).astype(int), np.ones((40, 50), bool)
    pixels[0, :7], valid[:7] = -1, False
    red = write_scene(tmp_path / "red.tif", pixels[:1].astype(np.int16), names=("red",), nodata=-1)
    nir = write_scene(tmp_path / "nir.tif", pixels[1:].astype(np.uint16), names=("nir",), nodata=65535)
    with rasterio.open(red) as one, rasterio.open(nir) as other:
        (tmp_path / "scene.vrt").write_text(view_of([(one, 1, -1), (other, 1, 65535)]))
    bands = {"bands": {"red": 1, "nir": 2}, "scale": SCALE}
    out = predict(tmp_path / "scene.vrt", tmp_path / "map.tif", model=pointwise, allow_untrained=True, **bands)
    np.testing.assert_array_equal(read_map(out), direct_map(pointwise, pixels, valid))


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("int32", 2**31 - 1),
        ("int32", 2**24 + 1),
        ("int32", -(2**31)),
        ("uint32", 2**32 - 1),
        ("float64", -1e308),
        ("float64", -9999.1),
    ],
)
def test_nodata_that_float32_does_not_hold_is_nodata(
    tmp_path: Path, pointwise: Model, dtype: str, nodata: float
) -> None:
    """As such numbers are read; nothing is said of it."""
    pixels, valid = digital_numbers(20, 30).astype(dtype), np.ones((20, 30), bool)
    pixels[1, 4, 5], valid[4, 5] = nodata, False
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=nodata)
    got = read_map(predict(scene, tmp_path / "map.tif", model=pointwise, engine="torch", allow_untrained=True))
    np.testing.assert_array_equal(got, direct_map(pointwise, pixels, valid))


def test_an_area_of_interest_leaves_nodata_outside(tmp_path: Path, pointwise: Model) -> None:
    import geopandas
    from rasterio.features import geometry_mask
    from shapely.geometry import Point

    pixels = digital_numbers(200, 200)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    circle = Point(UTM @ (120, 90)).buffer(500)
    geopandas.GeoSeries([circle], crs="EPSG:32633").to_crs(4326).to_file(tmp_path / "aoi.gpkg")
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True, "tile_size": 64, "overlap": 16}
    predict(scene, tmp_path / "map.tif", aoi=tmp_path / "aoi.gpkg", **how)
    with rasterio.open(tmp_path / "map.tif") as file:
        got, transform = file.read(1), file.transform
    left, top = (round(v) for v in ~UTM @ (transform.c, transform.f))
    inside = geometry_mask([circle], (200, 200), UTM, invert=True)
    expected = direct_map(pointwise, pixels, inside)[top : top + got.shape[0], left : left + got.shape[1]]
    assert (got != expected).mean() < 0.001  # the circle went through another CRS
    assert (got > 0).sum() == pytest.approx(inside.sum(), rel=0.002)


def test_memory_bound_does_not_grow_with_the_height(
    tmp_path: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there are as many windows as threads."""
    bounds = []
    monkeypatch.setenv("LANDCOVER_THREADS", "2")
    for windows in (2, 3, 4):
        height = OVERLAP + windows * (TILE_SIZE - OVERLAP)
        scene = write_scene(tmp_path / "scene.tif", np.ones((2, height, 700), "uint16"))
        plan = make_plan(Options(scene, tmp_path / "map.tif", pointwise, allow_untrained=True))
        bounds.append(sum(plan.memory().values()))
    assert max(bounds) == bounds[0]


def test_no_more_batches_at_once_than_there_are(
    tmp_path: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch of each row of windows is filled up, not shared with the next row."""
    monkeypatch.setenv("LANDCOVER_THREADS", "9")
    scene = write_scene(tmp_path / "scene.tif", np.ones((2, 128, 192), "uint16"))
    how = {"tile_size": 64, "overlap": 0, "batch_size": 2, "allow_untrained": True}
    plan = make_plan(Options(scene, tmp_path / "map.tif", pointwise, **how))
    assert (len(plan.grid.window_rows), len(plan.grid.window_cols), plan.at_once) == (2, 3, 4)


def test_the_memory_of_a_network_is_what_it_holds_at_once() -> None:
    """Of two convolutions the second needs what the first gave, and of three no more."""
    layers = [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in ((2, 8), (8, 4), (4, 4), (4, 1))]
    for count, held in ((1, 2 + 8), (2, 2 + 8 + 4), (3, 2 + 8 + 4), (4, 2 + 8 + 4)):
        assert live_bytes(torch.nn.Sequential(*layers[:count]), 2, 1) == 4 * held


def test_the_whole_scene_at_once_is_what_the_windows_approach(tmp_path: Path, unet: Model) -> None:
    """With a window as large as the scene there is no seam; wide overlaps come close to that."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(288, 288))

    def scores(tile: int, overlap: int) -> np.ndarray:
        how = {"model": unet, "engine": "torch", "allow_untrained": True, "overwrite": True}
        predict(scene, tmp_path / "map.tif", scores=tmp_path / "scores.tif", tile_size=tile, overlap=overlap, **how)
        with rasterio.open(tmp_path / "scores.tif") as file:
            return file.read().astype(float)

    whole = scores(288, 0)
    errors = [np.abs(scores(128, overlap) - whole).mean() for overlap in (0, 32, 64)]
    assert errors[0] > errors[1] > errors[2]


def test_the_default_engine_is_exact_for_a_network_of_one_pixel(tmp_path: Path, pointwise: Model) -> None:
    pixels = digital_numbers(333, 257)
    scene = write_scene(tmp_path / "scene.tif", pixels)
    predict(scene, tmp_path / "map.tif", model=pointwise, allow_untrained=True, tile_size=100, overlap=30)
    np.testing.assert_array_equal(
        read_map(tmp_path / "map.tif"), direct_map(pointwise, pixels, np.ones((333, 257), bool))
    )


LEGEND = """
name = "national"
classes = [
    { id = 31, name = "water", color = "#0000ff" },
    { id = 7, name = "c", color = "#00ff00" },
    { id = 9, name = "a", color = "#aabbcc" },
    { id = 4, name = "b", color = "#112233" },
]
"""


def test_a_map_in_the_numbers_and_colours_of_another_legend(tmp_path: Path, pointwise: Model) -> None:
    """Its classes are known by their names, whatever their order, and it may have more of them."""
    assert pointwise.spec.legend.names == ("a", "b", "c")
    scene = write_scene(tmp_path / "scene.tif", with_holes(60, 70), nodata=0)
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True}
    national = tmp_path / "national.toml"
    national.write_text(LEGEND)
    predict(scene, tmp_path / "own.tif", **how)
    predict(scene, tmp_path / "map.tif", legend=str(national), **how)
    own = read_map(tmp_path / "own.tif")
    np.testing.assert_array_equal(read_map(tmp_path / "map.tif"), np.array([0, 9, 4, 7], np.uint8)[own])
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.colormap(1)[9][:3] == (0xAA, 0xBB, 0xCC)
    polygons = landcover.vectorize(tmp_path / "map.tif", tmp_path / "map.fgb")
    assert {c.class_name for c in polygons.classes if c.polygons} == {"a", "b", "c"}


def test_a_legend_without_the_model_s_classes_is_refused(tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(20, 20))
    with pytest.raises(ConfigError, match=r"has no class 'a', which the model .* maps; it has forest, water"):
        predict(scene, tmp_path / "map.tif", legend="default", model=pointwise, allow_untrained=True)


def test_a_stopped_run_does_not_go_on_with_another_legend(tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(200, 40))
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True, "tile_size": 32, "overlap": 0}
    started = map_scene(make_plan(Options(scene, tmp_path / "map.tif", **how)))
    while next(started) < 100 * 40:
        pass
    started.close()
    national = tmp_path / "national.toml"
    national.write_text(LEGEND)
    with pytest.raises(StaleError, match="legend"):
        predict(scene, tmp_path / "map.tif", legend=str(national), **how)
