"""Made-up scenes: the same ground whatever the size, and a truth that the pixels bear out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from landcover.errors import ConfigError, OutputError, SceneError
from landcover.products import read_product
from landcover.synthetic import BANDS, class_field, main, mosaic_scene, write_scene
from tests.scenes import digital_numbers
from tests.scenes import write_scene as write_pixels


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def test_a_larger_scene_begins_with_the_smaller_one(tmp_path: Path) -> None:
    small, large = tmp_path / "small.tif", tmp_path / "large.tif"
    small_truth, large_truth = write_scene(small, 130, 550, seed=3), write_scene(large, 530, 700, seed=3)
    np.testing.assert_array_equal(read(large)[:, :130, :550], read(small))
    np.testing.assert_array_equal(read(large_truth)[:, :130, :550], read(small_truth))


def test_another_seed_is_another_scene(tmp_path: Path) -> None:
    truths = [read(write_scene(tmp_path / f"{seed}.tif", 300, 300, seed=seed)) for seed in (0, 1)]
    assert (truths[0] != truths[1]).mean() > 0.2


def test_strips_join_without_a_seam() -> None:
    whole = class_field(0, 700, 400, seed=1)
    np.testing.assert_array_equal(np.vstack([class_field(0, 300, 400, 1), class_field(300, 400, 400, 1)]), whole)
    assert np.bincount(class_field(0, 1024, 1024, 0).ravel(), minlength=5)[1:].min() > 0.02 * 1024**2


def test_the_file_says_all_that_a_model_needs(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.tif", 20, 30)
    bands = read_product(str(tmp_path / "scene.tif")).bands
    assert [b.common_name for b in bands] == list(BANDS)
    assert {(b.scale, b.offset) for b in bands} == {(1e-4, 0.0)}
    with rasterio.open(tmp_path / "scene.tif") as file:
        assert (file.crs.to_epsg(), file.res, file.nodata, file.dtypes[0]) == (32618, (10, 10), 0, "uint16")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_the_pixels_bear_out_the_truth(tmp_path: Path, dtype: str) -> None:
    truth = read(write_scene(tmp_path / "scene.tif", 400, 400, dtype=dtype, nodata_fraction=0.25))[0]
    pixels = read(tmp_path / "scene.tif")
    np.testing.assert_array_equal((pixels == 0).any(axis=0), truth == 0)
    np.testing.assert_array_equal((pixels == 0).all(axis=0), truth == 0)
    assert (truth == 0).mean() == pytest.approx(0.25, abs=0.002)
    with rasterio.open(tmp_path / "scene.tif") as file:
        nir = pixels[BANDS.index("nir")] * file.scales[0]
    assert nir[truth == 1].mean() == pytest.approx(0.28, rel=0.03)
    assert nir[truth == 2].mean() == pytest.approx(0.018, rel=0.15)


def test_a_mosaic_is_its_source_mirrored(tmp_path: Path) -> None:
    pixels = digital_numbers(37, 23)
    source = write_pixels(tmp_path / "source.tif", pixels, nodata=0)
    mosaic_scene(tmp_path / "mosaic.tif", source, 1100, 90)
    expected = np.pad(pixels, ((0, 0), (0, 1100 - 37), (0, 90 - 23)), mode="symmetric")
    np.testing.assert_array_equal(read(tmp_path / "mosaic.tif"), expected)
    with rasterio.open(source) as a, rasterio.open(tmp_path / "mosaic.tif") as b:
        for name in ("descriptions", "scales", "offsets", "nodata", "crs", "transform", "colorinterp"):
            assert getattr(a, name) == getattr(b, name)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"height": 0}, "0 rows"),
        ({"bands": ("red", "swir61")}, "did you mean 'swir16'"),
        ({"bands": ()}, "at least one band"),
        ({"dtype": "complex64"}, "data type 'complex64'"),
        ({"nodata_fraction": 0.7}, "from 0 to 0.5"),
    ],
)
def test_what_cannot_be_made(tmp_path: Path, options: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        write_scene(tmp_path / "scene.tif", **{"height": 10, "width": 10} | options)
    assert not list(tmp_path.iterdir())


def test_no_half_written_scene_is_left(tmp_path: Path) -> None:
    source = write_pixels(tmp_path / "source.tif", digital_numbers(600, 600))
    with source.open("r+b") as file:
        file.truncate(600_000)
    with pytest.raises(SceneError, match="cannot be read"):
        mosaic_scene(tmp_path / "mosaic.tif", source, 1000, 1000)
    with pytest.raises(SceneError, match=r"absent\.tif cannot be read"):
        mosaic_scene(tmp_path / "mosaic.tif", tmp_path / "absent.tif", 10, 10)
    with pytest.raises(OutputError, match="does not exist"):
        write_scene(tmp_path / "nowhere" / "scene.tif", 10, 10)
    assert list(tmp_path.iterdir()) == [source]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, mosaic = tmp_path / "scene.tif", tmp_path / "mosaic.tif"
    command = [sys.executable, "-m", "landcover.synthetic", str(scene), "--height", "30", "--width", "40"]
    subprocess.run([*command, "--seed", "5"], check=True)
    main([str(mosaic), "--height", "50", "--width", "60", "--from", str(scene)])
    assert read(mosaic).shape == (6, 50, 60)
    with pytest.raises(SystemExit) as stop:
        main([str(mosaic), "--height", "0", "--width", "60"])
    assert stop.value.code == 3
    assert capsys.readouterr().err.startswith("Error: a scene of 0 rows")
