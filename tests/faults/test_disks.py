"""Disks that are full, or not the same."""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from landcover.errors import OutputError
from landcover.journal import open_run
from landcover.models import Model
from landcover.planning import Options, make_plan
from landcover.prediction import predict
from landcover.vectorization import vectorize
from tests.commands import tree
from tests.faults.runs import command, run, start
from tests.lessons import change, write_lesson
from tests.maps import write_map
from tests.scenes import digital_numbers, write_scene


def test_outputs_on_two_file_systems(small_disk: Path, tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(60, 50))
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True}
    predict(scene, tmp_path / "map.tif", confidence=small_disk / "confidence.tif", **how)
    assert (tmp_path / "map.tif").exists()
    assert tree(small_disk) == {"confidence.tif"}


def test_a_full_disk(small_disk: Path, tmp_path: Path, pointwise: Model) -> None:
    """It is said in a sentence, and when there is room the run goes on."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(700, 700))
    out = small_disk / "map.tif"
    done = subprocess.run(command(scene, out, pointwise), capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "map.tif cannot be written: No space left on device" in done.stderr
    assert "kept in" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
    subprocess.run(["mount", "-o", "remount,size=3m", small_disk], check=True)
    assert "Going on from" in run(*command(scene, out, pointwise))
    run(*command(scene, tmp_path / "whole.tif", pointwise))
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert tree(small_disk) == {"map.tif", "map.tif.aux.xml"}


def test_a_disk_that_is_full_from_the_start(small_disk: Path, tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(700, 700))
    with pytest.raises(OSError, match="No space"):
        (small_disk / "ballast").write_bytes(bytes(400_000))
    done = subprocess.run(
        command(scene, small_disk / "map.tif", pointwise), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stderr
    assert tree(small_disk) == {"ballast"}


def test_a_disk_that_is_full_when_the_map_is_encoded(small_disk: Path, tmp_path: Path, pointwise: Model) -> None:
    """The rows fit, the GeoTIFF beside them does not."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(400, 600))
    plan = make_plan(Options(scene, small_disk / "map.tif", pointwise, allow_untrained=True))
    noise = np.random.default_rng(0).integers(1, 4, (1, 400, 600)).astype("uint8")

    def write() -> None:
        with open_run(plan.layers) as run:
            run.write(0, 0, (400, 600), {"map": noise})
            (small_disk / "ballast").write_bytes(bytes(40_000))

    with pytest.raises(OutputError, match=r"disk full|No space"):
        write()
    assert tree(small_disk) == {"ballast"}


def test_the_disk_with_the_finished_rows_is_gone(tmp_path: Path, pointwise: Model) -> None:
    """The confidence was written elsewhere, and what was finished of it is lost."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(700, 700))
    (tmp_path / "other").mkdir()
    out = tmp_path / "map.tif"
    args = command(scene, out, pointwise, "--confidence", tmp_path / "other" / "confidence.tif")
    process = start(args, out)
    process.kill()
    process.communicate()
    shutil.rmtree(tmp_path / "other" / ".confidence.tif.work")
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "lacks the finished rows" in done.stderr
    run(*args, "--no-resume")
    assert out.exists()


def test_a_disk_that_is_full_while_training(small_disk: Path, tmp_path: Path) -> None:
    """The checkpoint does not fit; when there is room the same command trains."""
    recipe = change(write_lesson(tmp_path, side=64, steps=4), "width = 4", "width = 16")
    args = [sys.executable, "-m", "landcover", "train", recipe, "-o", small_disk / "model", "--device", "cpu"]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "checkpoint.pt cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small_disk / "model").exists()
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    run(*map(str, args))
    assert (small_disk / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("side", [480, 490, 500, 510])
def test_a_map_on_a_disk_that_is_just_too_small_is_whole_or_not_there(
    small_disk: Path, tmp_path: Path, pointwise: Model, side: int
) -> None:
    """GDAL closes a file whose end found no room without an error."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(side, side))
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True}
    whole = predict(scene, tmp_path / "map.tif", **how).read_bytes()
    made = small_disk / "map.tif"
    with suppress(OutputError):
        predict(scene, made, **how)
    assert not made.exists() or made.read_bytes() == whole


def test_polygons_on_a_disk_that_is_just_too_small_are_whole_or_not_there(small_disk: Path, tmp_path: Path) -> None:
    """GDAL leaves out the spatial index of a GeoPackage without an error."""
    map_ = write_map(tmp_path / "map.tif", np.random.default_rng(0).integers(1, 4, (40, 40)).astype(np.uint8))
    vectorize(map_, tmp_path / "whole.gpkg")
    whole = (tmp_path / "whole.gpkg").stat().st_size
    for kilobytes in range(whole // 1024 - 64, whole // 1024 + 64, 16):
        (small_disk / "p.gpkg").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", small_disk], check=True)
        with suppress(OutputError):
            vectorize(map_, small_disk / "p.gpkg")
        made = small_disk / "p.gpkg"
        assert not made.exists() or made.stat().st_size == whole
