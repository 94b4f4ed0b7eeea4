"""Options and outputs that cannot be used: each is one sentence, exit code 3, and nothing left behind."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import filelock
import pytest
import rasterio.shutil

from landcover.errors import OutputError, SceneError
from landcover.models import Model
from landcover.prediction import predict as map_it
from tests.bad.test_bad_scenes import Refuse, predict, scene
from tests.commands import landcover, refused
from tests.scenes import digital_numbers, write_scene

__all__ = ["predict", "scene"]  # fixtures


def test_output_is_the_input(scene: Path, predict: Refuse) -> None:
    before = scene.read_bytes()
    assert "is the scene itself" in predict(scene, "--overwrite", out=scene)
    assert scene.read_bytes() == before


def test_output_is_the_input_by_another_name(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    (tmp_path / "link.tif").symlink_to(scene)
    assert "is the scene itself" in predict(scene, "--overwrite", out=tmp_path / "link.tif")


def test_output_is_a_band_of_the_input(tmp_path: Path, predict: Refuse) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    write_scene(folder / "red.tif", digital_numbers(20, 20, 1), names=("red",))
    write_scene(folder / "nir.tif", digital_numbers(20, 20, 1), names=("nir",))
    assert "is an input of this run" in predict(folder, "--overwrite", out=folder / "nir.tif")
    write_scene(folder / "swir16.tif", digital_numbers(20, 20, 1), names=("swir16",))
    assert "is an input of this run" in predict(folder, "--overwrite", out=folder / "swir16.tif")


def test_output_is_behind_a_virtual_raster(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    before = scene.read_bytes()
    rasterio.shutil.copy(scene, view := tmp_path / "view.vrt", driver="VRT")
    (of_view := tmp_path / "of_view.vrt").write_text(view.read_text().replace(scene.name, view.name))
    for source in (view, of_view, f"vrt://{scene}?bands=2,1", f"file://{scene}", f"GTIFF_DIR:1:{scene}"):
        assert "is an input of this run" in predict(source, "--overwrite", out=scene)
    assert scene.read_bytes() == before


@pytest.mark.parametrize("length", [250, 300])
def test_output_name_too_long(tmp_path: Path, scene: Path, predict: Refuse, length: int) -> None:
    """For the file system, or only for what lies beside the output while it is made."""
    assert "cannot be written: File name too long" in predict(scene, out=tmp_path / f"{'m' * length}.tif")


def test_names_that_are_not_utf8(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    odd = tmp_path / os.fsdecode(b"sc\xe8ne.tif")
    assert "sc\\udce8ne.tif' is not written in UTF-8" in predict(scene, out=odd)
    assert "is not written in UTF-8" in predict(odd)
    with pytest.raises(OutputError, match="is not written in UTF-8"):
        map_it(scene, odd, bands={"blue": "1", "green": "1", "red": "1", "nir": "2"})
    with pytest.raises(SceneError, match="is not written in UTF-8"):
        map_it(odd, tmp_path / "map.tif")


def test_names_in_a_folder_that_are_not_utf8(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    shutil.copy(scene, folder / os.fsdecode(b"sc\xe8ne_B02.tif"))
    assert "sc\\udce8ne_B02.tif' is not written in UTF-8" in predict(folder)


def test_output_exists(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    (tmp_path / "map.tif").write_text("precious")
    assert "--overwrite" in predict(scene)
    assert (tmp_path / "map.tif").read_text() == "precious"


def test_output_folder_missing(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    assert "does not exist" in predict(scene, out=tmp_path / "no" / "map.tif")


def test_output_is_a_folder(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    (tmp_path / "folder.tif").mkdir()
    assert "is a folder" in predict(scene, out=tmp_path / "folder.tif")


def test_output_folder_not_writable(scene: Path, predict: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # root may write anywhere; then the operating system's answer is imitated
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    else:
        scene.parent.chmod(0o555)
    try:
        assert "cannot be written" in predict(scene)
    finally:
        scene.parent.chmod(0o755)


def test_output_of_another_format(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    assert "ends in .tif" in predict(scene, out=tmp_path / "map.png")


def test_two_outputs_of_one_name(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    assert "two outputs" in predict(scene, "--confidence", tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--overlap", "64"], "--overlap 64 must be smaller than --tile-size 64"),
        (["--tile-size", "0"], "--tile-size must be at least 1"),
        (["--overlap", "-2"], "must not be negative"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--device", "gpu"], "--device 'gpu' is not known"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--engine", "onnx"], "--engine 'onnx' is not known"),
        (["--precision", "int4"], "--precision 'int4' is not known"),
        (["--bbox", "1,2,3"], "is not four numbers"),
        (["--bbox", ""], "is not four numbers"),
        (["--bbox-crs", "EPSG:4326"], "without --bbox"),
        (["--bbox", "5,5,1,1"], "is empty"),
        (["--bbox", "5,1,1,5"], "is empty"),
        (["--bbox", "179,-17,-179,-16"], "add --bbox-crs EPSG:4326, or write the smaller x first"),
        (["--bbox", "-inf,-inf,inf,inf"], "not four finite numbers"),
        (["--model", "m" * 300], "cannot be read"),
        (["--bbox", "0,0,1,1"], "lies outside the scene"),
        (["--bbox", "12,45,13,46", "--bbox-crs", "EPSG:0"], "is not a coordinate reference system"),
        (["--aoi", "nowhere.gpkg"], "cannot be read as a vector file"),
        (["--model", "nowhere"], "neither a folder nor the name"),
        (["--sensor", "nowhere.toml"], "neither a known name nor a TOML file"),
    ],
)
def test_option_values(scene: Path, predict: Refuse, options: list[str], says: str) -> None:
    assert says in predict(scene, *options)


def test_an_area_that_misses_the_scene(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    import geopandas
    from shapely.geometry import box

    geopandas.GeoSeries([box(0, 0, 10, 10)], crs="EPSG:32633").to_file(tmp_path / "aoi.gpkg")
    assert "lies outside the scene" in predict(scene, "--aoi", tmp_path / "aoi.gpkg")


def test_an_area_without_crs(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    import geopandas
    from shapely.geometry import box

    geopandas.GeoSeries([box(500_000, 4_999_000, 500_500, 5_000_000)], crs="EPSG:32633").to_file(tmp_path / "aoi.shp")
    (tmp_path / "aoi.prj").unlink()
    assert "has no CRS" in predict(scene, "--aoi", tmp_path / "aoi.shp")


def test_an_area_without_polygons(tmp_path: Path, scene: Path, predict: Refuse) -> None:
    import geopandas
    from shapely.geometry import Point

    geopandas.GeoSeries([Point(0, 0)], crs="EPSG:32633").to_file(tmp_path / "aoi.gpkg")
    assert "holds no polygon" in predict(scene, "--aoi", tmp_path / "aoi.gpkg")


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
@pytest.mark.parametrize(
    "end", [(500_100, 4_999_900), (500_100, 4_999_950), (500_050, 4_999_900), (500_050, 4_999_950)]
)
def test_area_without_width(tmp_path: Path, scene: Path, predict: Refuse, crs: str, end: tuple[int, int]) -> None:
    """Down, aslant, across, and a single point; the message is of the area, not of a box that nobody gave."""
    import geopandas
    import shapely

    start = (500_050, 4_999_950)
    line = shapely.Polygon([start, end, start, start])
    geopandas.GeoSeries([line], crs="EPSG:32633").to_crs(crs).to_file(tmp_path / "aoi.gpkg")
    said = predict(scene, "--aoi", tmp_path / "aoi.gpkg")
    assert f"--aoi {tmp_path / 'aoi.gpkg'} holds only polygons without an area" in said
    assert "--bbox" not in said


@pytest.mark.parametrize("command", [["predict"], ["predict", "x.tif"], ["predict", "x.tif", "--nonsense"], ["fly"]])
def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert landcover(capsys, *command).code == 2


def test_a_folder_in_which_no_file_can_be_made(
    tmp_path: Path, scene: Path, predict: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc: it can be written, says the system, and the lock is not got, though nobody has it."""

    def acquire(*_: object, **__: object) -> None:
        raise filelock.Timeout("lock")

    def temporary_file(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    assert "another run is writing" in predict(scene)
    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    assert "map.tif cannot be written: No such file or directory" in predict(scene)


def test_only_the_sentence_tells_that_there_is_no_such_crs(
    tmp_path: Path, scene: Path, pointwise: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    """GDAL had its word on stderr, before it."""
    box = ("--bbox", "12,45,13,46", "--bbox-crs", "EPSG:99999")
    outcome = landcover(
        capfd, "predict", scene, "--out", tmp_path / "map.tif", "-m", pointwise.folder, *box, "--allow-untrained"
    )
    assert outcome.code == 3
    assert outcome.err.startswith("Error: --bbox-crs 'EPSG:99999' is not a coordinate reference system"), outcome.err


def test_explain_prints_the_plan_and_writes_nothing(
    tmp_path: Path, scene: Path, pointwise: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("predict", scene, "--out", tmp_path / "map.tif", "-m", pointwise.folder, "--allow-untrained", "--explain")
    outcome = landcover(capsys, *args)
    (tmp_path / "map.tif").write_text("a map that is there already")
    again = landcover(capsys, *args)
    assert (again.code, again.out) == (0, outcome.out)
    assert f"{tmp_path / 'map.tif'} exists already; add --overwrite" in again.err
    (tmp_path / "map.tif").unlink()
    assert outcome.code == 0
    for word in ("windows", "memory", "bound", "engine", "red: band 1 'red' × 0.0001"):
        assert word in outcome.out
    assert not (tmp_path / "map.tif").exists()


def test_a_model_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = (
        "models",
        "init",
        "--architecture",
        "pointwise",
        "--bands",
        "red",
        "--classes",
        "a,b",
        "--out",
        tmp_path / "m",
    )
    assert landcover(capsys, *args).code == 0
    assert "--overwrite" in refused(capsys, tmp_path, *args)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--architecture", "unett"), "is not known"),
        (("--bands", "red,red"), "occurs twice"),
        (("--classes", "a,a"), "occurs twice"),
        (("--set", "width"), "is not NAME=VALUE"),
        (("--set", "wings=2"), "has no argument 'wings'"),
        (("--set", "width=-1"), "width must be at least 1"),
        (("--set", "depth=0"), "depth between 1 and 12"),
        (("--seed", "99999999999999999999"), "is not a number of 64 bits"),
        (("--out", "nowhere/m"), "the folder nowhere does not exist; make it first"),
    ],
)
def test_models_that_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], says: str
) -> None:
    asked = {"--architecture": "unet", "--bands": "red", "--classes": "a,b", "--out": str(tmp_path / "m")} | {
        change[0]: change[1]
    }
    assert says in refused(capsys, tmp_path, "models", "init", *[word for pair in asked.items() for word in pair])


def test_landcover_maps_a_scene_written_by_someone_else(
    tmp_path: Path, pointwise: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scene(tmp_path / "plain.tif", digital_numbers(50, 40), names=(), scaled=False)
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
    )
    outcome = landcover(capsys, *args, "--bands", "red=1,nir=2", "--scale", "0.0001", "--json")
    assert outcome.code == 0
    assert '"seconds"' in outcome.out
