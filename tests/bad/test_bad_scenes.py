"""Scenes that cannot be mapped: each is one sentence, exit code 3, and nothing left behind."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio.control
import rasterio.shutil
from affine import Affine

from landcover.models import Model
from tests.commands import landcover, refused
from tests.scenes import UTM, digital_numbers, read_map, write_scene

Refuse = Callable[..., str]


@pytest.fixture
def predict(tmp_path: Path, pointwise: Model, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run predict with a model of one pixel, and give the sentence with which it refuses."""

    def run(scene: Path | str, *options: str | Path, out: Path = tmp_path / "map.tif") -> str:
        fixed = (
            "--model",
            pointwise.folder,
            "--allow-untrained",
            "--engine",
            "torch",
            "--tile-size",
            "64",
            "--overlap",
            "16",
        )
        return refused(capsys, tmp_path, "predict", scene, "--out", out, *fixed, *options)

    return run


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene.tif", digital_numbers(100, 90))


def test_missing_file(tmp_path: Path, predict: Refuse) -> None:
    assert "does not exist" in predict(tmp_path / "nowhere.tif")


def test_not_a_raster(tmp_path: Path, predict: Refuse) -> None:
    (tmp_path / "letter.tif").write_text("Dear sir or madam,")
    assert "letter.tif" in predict(tmp_path / "letter.tif")


def test_zero_bytes(tmp_path: Path, predict: Refuse) -> None:
    (tmp_path / "empty.tif").touch()
    assert "empty" in predict(tmp_path / "empty.tif")


def test_truncated(tmp_path: Path, predict: Refuse) -> None:
    whole = write_scene(tmp_path / "whole.tif", digital_numbers(1200, 900))
    path = tmp_path / "cut.tif"
    rasterio.shutil.copy(whole, path, driver="COG", compress="deflate")  # its directory stands at the beginning
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    said = predict(path, "--tile-size", "2000")
    assert "cut.tif cannot be read at rows" in said
    assert "cut short" in said


def test_too_few_bands(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "one.tif", digital_numbers(20, 20, 1), names=("red",))
    assert "no band that is known to be 'nir'; it holds 1 band (1: red)" in predict(path)


def test_a_number_of_bands_that_the_sensor_has_not(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "seven.tif", digital_numbers(20, 20, 7), names=())
    said = predict(path, "--sensor", "planetscope-4")
    assert "7 bands" in said
    assert "--bands" in said


def test_band_name_not_found(scene: Path, predict: Refuse) -> None:
    assert "--bands nir=B99" in predict(scene, "--bands", "nir=B99")


def test_band_number_not_there(scene: Path, predict: Refuse) -> None:
    assert "--bands nir=3" in predict(scene, "--bands", "nir=3")


def test_a_band_that_the_model_does_not_use(scene: Path, predict: Refuse) -> None:
    assert "the model does not use" in predict(scene, "--bands", "green=1")


def test_bands_that_are_no_pairs(scene: Path, predict: Refuse) -> None:
    assert "is not NAME=BAND" in predict(scene, "--bands", "red,nir")


def test_two_bands_of_one_name(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "twice.tif", digital_numbers(20, 20, 3), names=("red", "nir", "nir"))
    assert "more than one band 'nir'" in predict(path)


def test_complex_numbers(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "sar.tif", np.ones((2, 20, 20), "complex64"))
    assert "complex" in predict(path)


def test_all_nodata(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "void.tif", np.zeros((2, 20, 20), "uint16"), nodata=0)
    assert "no valid pixel" in predict(path)


def test_all_nan(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "nan.tif", np.full((2, 20, 20), np.nan, "float32"))
    assert "no valid pixel" in predict(path)


def test_scaling_unknown(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "raw.tif", digital_numbers(20, 20), scaled=False)
    assert "--scale" in predict(path)


def test_an_offset_that_the_sensor_needs_and_the_pixels_do_not_tell(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "s2.tif", digital_numbers(20, 20) + 1000, names=("B04", "B08"), scaled=False)
    said = predict(path, "--sensor", "sentinel2-l2a")
    assert "--offset -0.1" in said
    assert "--offset 0" in said


def test_nodata_proves_no_offset(tmp_path: Path, predict: Refuse) -> None:
    pixels = digital_numbers(200, 200).astype("int16") + 1300
    pixels[:, :, :60] = -1
    path = write_scene(tmp_path / "s2.tif", pixels, names=("B04", "B08"), scaled=False, nodata=-1)
    assert "does not say which offset" in predict(path, "--sensor", "sentinel2-l2a")


def test_an_offset_that_the_pixels_prove_absent(
    tmp_path: Path, pointwise: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scene(tmp_path / "s2.tif", digital_numbers(80, 80) // 10, names=("B04", "B08"), scaled=False)
    args = (
        "predict",
        path,
        "-m",
        pointwise.folder,
        "--allow-untrained",
        "--sensor",
        "sentinel2-l2a",
        "--engine",
        "torch",
    )
    assert landcover(capsys, *args, "--out", tmp_path / "told.tif").code == 0
    assert landcover(capsys, *args, "--out", tmp_path / "said.tif", "--offset", "0").code == 0
    assert (read_map(tmp_path / "told.tif") == read_map(tmp_path / "said.tif")).all()


def test_a_scaling_in_the_file_that_is_none(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "zero.tif", digital_numbers(20, 20))
    with rasterio.open(path, "r+") as file:
        file.scales = (0.0, 0.0)
    assert "correct what the scene says, or give --scale" in predict(path)
    assert "correct --scale or --offset" in predict(path, "--scale", "0")


def test_unknown_sensor(scene: Path, predict: Refuse) -> None:
    assert "did you mean 'sentinel2-l2a'" in predict(scene, "--sensor", "sentinel-2-l2a")


def test_a_sensor_file_with_a_misspelt_key(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ntitle = ""\ngsd = 10\nscale = 1\nofset = 2\n[[bands]]\nname = "red"\n'
    )
    assert "unknown key 'ofset'" in predict(scene, "--sensor", tmp_path / "mine.toml")


def test_no_crs(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "lost.tif", digital_numbers(20, 20), crs=None)
    assert "--allow-no-crs" in predict(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("transform", [Affine.identity(), Affine(0, 0, 5e5, 0, 0, 5e6)])
def test_a_crs_and_no_place_in_it(tmp_path: Path, predict: Refuse, transform: Affine) -> None:
    """As where a script writes the CRS of a scene and forgets its transform."""
    path = write_scene(tmp_path / "lost.tif", digital_numbers(20, 20), transform=transform)
    assert "no geotransform" in predict(path)


def test_a_crs_of_degrees_with_coordinates_in_metres(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "wrong.tif", digital_numbers(20, 20), crs="EPSG:4326")
    assert "reaches to 5,000,000, where no latitude is" in predict(path)


@pytest.mark.parametrize("pixel", [0.2, 500.0])
def test_resolution_far_from_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str], pixel: float) -> None:
    names = ("blue", "green", "red", "nir", "swir16", "swir22")
    transform = Affine(pixel, 0, 5e5, 0, -pixel, 5e6)
    path = write_scene(tmp_path / "scene.tif", digital_numbers(20, 20, 6), names=names, transform=transform)
    said = refused(capsys, tmp_path, "predict", path, "--out", tmp_path / "map.tif")
    assert f"pixels of {pixel:.3g} m" in said
    assert "--allow-resolution" in said


def test_bands_of_different_places(tmp_path: Path, predict: Refuse) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    write_scene(folder / "red.tif", digital_numbers(20, 20, 1), names=("red",))
    write_scene(
        folder / "nir.tif", digital_numbers(20, 20, 1), names=("nir",), transform=UTM @ Affine.translation(50, 0)
    )
    assert "do not cover the same ground" in predict(folder)
    write_scene(folder / "nir.tif", digital_numbers(20, 20, 1), names=("nir",), crs="EPSG:32634")
    said = predict(folder)
    assert "nir.tif is in EPSG:32634" in said
    assert "red.tif in EPSG:32633" in said


def test_an_empty_folder(tmp_path: Path, predict: Refuse) -> None:
    (tmp_path / "void").mkdir()
    assert "void" in predict(tmp_path / "void")


def test_json_that_is_no_stac_item(tmp_path: Path, predict: Refuse) -> None:
    (tmp_path / "item.json").write_text('{"type": "Recipe"}')
    assert "STAC" in predict(tmp_path / "item.json")


def test_a_mask_on_a_coarser_band(tmp_path: Path, predict: Refuse) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    write_scene(folder / "red.tif", digital_numbers(40, 40, 1), names=("red",))
    coarse = UTM @ Affine.scale(2)
    mask = np.ones((20, 20), bool)
    mask[:5] = False
    write_scene(folder / "nir.tif", digital_numbers(20, 20, 1), names=("nir",), transform=coarse, mask=mask)
    assert "has a mask of its own" in predict(folder)


def test_bands_that_are_no_reflectance_do_not_tell_the_offset(tmp_path: Path, predict: Refuse) -> None:
    pixels = np.concatenate([digital_numbers(80, 80) + 1200, np.full((1, 80, 80), 4, "uint16")])
    path = write_scene(tmp_path / "s2.tif", pixels, names=("B04", "B08", "SCL"), scaled=False)
    assert "--offset -0.1" in predict(path, "--sensor", "sentinel2-l2a")


def test_reflectance_that_is_taken_for_digital_numbers(tmp_path: Path, predict: Refuse) -> None:
    pixels = (digital_numbers(80, 80) / 6000).astype("float32")
    path = write_scene(tmp_path / "s2.tif", pixels, names=("B04", "B08"), scaled=False)
    assert "--scale 1 --offset 0" in predict(path, "--sensor", "sentinel2-l2a")


@pytest.mark.parametrize("options", [("--scale", "0"), ("--scale", "nan"), ("--scale", "inf"), ("--offset", "nan")])
def test_a_scaling_that_is_none(tmp_path: Path, predict: Refuse, options: tuple[str, str]) -> None:
    path = write_scene(tmp_path / "scene.tif", digital_numbers(20, 20))
    assert "is no scaling" in predict(path, *options)


def test_a_scene_that_lies_by_control_points_has_to_be_warped(tmp_path: Path, predict: Refuse) -> None:
    corners = [rasterio.control.GroundControlPoint(r, c, 15 + c / 1e4, 45 - r / 1e4) for r in (0, 20) for c in (0, 20)]
    path = write_scene(tmp_path / "raw.tif", digital_numbers(20, 20), transform=None, gcps=corners)
    assert re.search("control points.*gdalwarp", predict(path))


SAMPLE = Path(__file__).parents[2] / "sample_tiles" / "s2_eastern_shore.tif"


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ((), None),
        (("--scale", "1"), 100),
        (("--scale", "-1"), 100),
        (("--sensor", "landsat-c2-l2"), 90),
        (("--sensor", "naip"), 80),
        (("--scale", "1e-6"), 99),  # as percent that are taken for ten-thousandths
        (("--scale", "1e-8"), 99),
    ],
)
def test_a_scene_unlike_any_that_was_learned_from_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    options: tuple[str, ...],
    share: int | None,
) -> None:
    """As it is with another sensor's scale: its map is worth nothing, whatever its classes look like."""
    where = ("--bbox", "441000,4172000,444000,4175000", "--out", tmp_path / "map.tif", "--device", "cpu")
    told = landcover(capsys, "predict", SAMPLE, *where, *options)
    assert told.code == 0, told.err
    found = re.search(
        r"(\d+)% of the pixels of \S+ that were (?:read so far|looked at) are like nothing the model learned from",
        caplog.text,
    )
    assert (found is None) == (share is None)
    assert found is None or int(found[1]) >= share


@pytest.fixture
def odd(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """Map a real scene, some pixels of which are replaced, and give what is said of it."""

    def run(rows: slice, number: int, *options: str) -> str:
        with rasterio.open(SAMPLE) as file:
            pixels, profile = file.read(), file.profile | {"nodata": None}
            told = file.descriptions, file.scales, file.offsets
        pixels[:, rows] = number
        with rasterio.open(tmp_path / "scene.tif", "w", **profile) as file:
            file.write(pixels)
            file.descriptions, file.scales, file.offsets = told
        where = ("--out", tmp_path / "map.tif", "--device", "cpu", "--overwrite")
        assert landcover(capsys, "predict", tmp_path / "scene.tif", *where, *options).code == 0
        return caplog.text

    return run


@pytest.mark.parametrize("number", [65535, 0])
@pytest.mark.parametrize("rows", [slice(0, 64), slice(-64, None)], ids=["above", "below"])
def test_fill_that_nobody_declared_is_told(odd: Callable[..., str], rows: slice, number: int) -> None:
    """How much of the scene it is, wherever it lies."""
    assert re.search(r" (9|10)% of the pixels .* looked at .* missing pixels are declared as nodata", odd(rows, number))


def test_what_is_not_mapped_is_not_told(odd: Callable[..., str]) -> None:
    assert not odd(slice(0, 64), 65535, "--bbox", "440520,4170940,446920,4176700")


@pytest.mark.parametrize("alpha", [True, False])
def test_a_mask_that_is_taken_for_a_band_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, alpha: bool
) -> None:
    """A picture with alpha looks like a file of NAIP, whose near infrared is flagged as alpha, too."""
    with rasterio.open(SAMPLE) as file:
        pixels = (file.read((3, 2, 1, 4)) // 20).clip(1, 255).astype("uint8")
        profile = file.profile | {"count": 4, "dtype": "uint8"}
    if alpha:
        pixels[3] = 255
        pixels[:, :9] = 0
    with rasterio.open(tmp_path / "picture.tif", "w", photometric="RGB", alpha="YES", **profile) as file:
        file.write(pixels)
    where = ("--out", tmp_path / "map.tif", "--device", "cpu")
    assert landcover(capsys, "predict", tmp_path / "picture.tif", "--sensor", "naip", *where).code == 0
    assert bool(re.search("nothing but 255 in its band 4.* taken for nir: it is a mask", caplog.text)) == alpha


def test_clouds_are_nothing_odd(odd: Callable[..., str]) -> None:
    assert not odd(slice(0, 300), 9000, "--model", "landcover-rgb")


def test_a_crs_that_is_tied_to_no_place_is_mapped(
    tmp_path: Path, pointwise: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    local = 'LOCAL_CS["a building site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    path = write_scene(tmp_path / "site.tif", digital_numbers(20, 20), crs=local)
    args = (
        "predict",
        path,
        "-o",
        tmp_path / "map.tif",
        "-m",
        pointwise.folder,
        "--allow-untrained",
        "--engine",
        "torch",
        "--stac",
    )
    assert landcover(capsys, *args).code == 0
    assert json.loads((tmp_path / "map.json").read_bytes())["geometry"] is None


def test_a_sensor_without_a_band_that_the_model_wants(tmp_path: Path, predict: Refuse) -> None:
    path = write_scene(tmp_path / "picture.tif", digital_numbers(20, 20, 3), names=())
    assert "taken as rgb, which has no band 'nir'" in predict(path, "--sensor", "rgb")
