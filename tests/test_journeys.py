"""What a newcomer does: the README's commands as written, from the scene to the polygons."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import typer
import yaml
from affine import Affine

import landcover
from landcover import inspection
from landcover.cli.doctor import doctor
from landcover.recipes import Recipe
from tests.scenes import UTM, digital_numbers, read_map, write_scene

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_tiles"
BIN = Path(sys.executable).parent


def commands(document: Path) -> list[str]:
    """The landcover commands in a Markdown file's indented blocks that need nothing but the sample scenes."""
    lines = re.findall(r"^    (landcover .*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return list(dict.fromkeys(lines))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the sample scenes in it."""
    (tmp_path / "sample_tiles").symlink_to(SAMPLES)
    return tmp_path


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)


def test_the_readme_maps_and_vectorises(desk: Path) -> None:
    listed = commands(ROOT / "README.md")
    assert len(listed) >= 2
    for command in listed:
        run(command.split(), desk)
    with rasterio.open(desk / "map.tif") as file:
        assert file.crs.to_epsg() == 32618
    polygons = geopandas.read_file(desk / "polygons.gpkg", layer="landcover")
    assert set(polygons.class_name) == {"forest", "water", "urban", "other"}
    assert polygons.area_m2.sum() == pytest.approx(640 * 640 * 100, rel=0.01)


def test_every_sample_scene_is_mapped_as_its_readme_says(desk: Path) -> None:
    listed = commands(SAMPLES / "README.md")
    assert len(listed) >= 4
    for command in listed:
        run(command.split(), desk)


def test_the_sample_with_labels_is_mapped_better_than_by_chance(desk: Path) -> None:
    run(["landcover", "predict", "sample_tiles/landsat7_raleigh.tif", "--out", "raleigh.tif"], desk)
    found, reference = read_map(desk / "raleigh.tif"), read_map(SAMPLES / "landsat7_labels.tif")
    known = reference > 0
    commonest = np.bincount(reference[known]).max() / known.sum()
    assert (found == reference)[known].mean() > commonest + 0.1


def test_the_readme_in_python(desk: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shutil.copytree(SAMPLES / "s2_bands", desk / "scene.tif")  # a folder of Sentinel-2 bands under the README's name
    run([sys.executable, "-c", code.replace("sentinel2-l2a", "sentinel2-l1c")], desk)
    for name in ("map.tif", "confidence.tif", "polygons.gpkg"):
        assert (desk / name).exists()


def test_links_lead_to_files() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("landcover/embedded/*/README.md")]
    links = [(d, link) for d in documents for link in re.findall(r"\]\(([^)#\s]+)", d.read_text(encoding="utf-8"))]
    assert len(links) > 40
    assert [str(d) for d, link in links if "://" not in link and not (d.parent / link).exists()] == []


def test_the_recipes_of_the_docs_are_recipes() -> None:
    listed = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "training.md").read_text(encoding="utf-8"), re.DOTALL)
    read = [Recipe.model_validate({"name": "any"} | tomllib.loads(text)) for text in listed]
    assert [len(recipe.sources) for recipe in read] == [1, 1, 4]
    assert [recipe.teacher is not None for recipe in read] == [False, True, False]


def test_python_tells_what_the_package_offers(tmp_path: Path) -> None:
    shown = run([sys.executable, "-c", "import landcover; help(landcover)"], tmp_path).stdout
    for name in ("assess", "load_model", "polygons", "predict", "sample", "vectorize"):
        assert f"    {name}(" in shown


@pytest.mark.skipif(not (ROOT / ".venv" / ".ready").exists(), reason="make setup has not been run here")
def test_make_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "demo", f"DEMO={tmp_path}/demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("map.tif", "polygons.gpkg", "picture.png"):
        assert (tmp_path / "demo" / name).exists()
        assert f"{tmp_path}/demo/{name}" in done.stdout
    assert re.search(r"forest +[\d,]+ +[\d,.]+", done.stdout)


PLAIN = ["predict", "vectorize", "batch", "train", "sample", "assess", "stats", "preview", "report", "info", "doctor"]
GROUPED = [
    "catalog build",
    "catalog list",
    *(f"models {verb}" for verb in ("list", "show", "init", "import", "export")),
]


@pytest.mark.parametrize("command", [*PLAIN, *GROUPED])
def test_every_help_teaches_with_an_example(command: str, tmp_path: Path) -> None:
    shown = run(["landcover", *command.split(), "--help"], tmp_path).stdout
    assert f"Example: landcover {command}" in re.sub(r"\s+", " ", shown)
    usage = re.sub(r"\s+", " ", shown.split("\n\n")[0]).removeprefix(f"Usage: landcover {command} [OPTIONS]")
    assert usage == usage.upper()  # SCENE, not scene, beside MAP


def test_the_version_is_printed_without_a_command(tmp_path: Path) -> None:
    assert run(["landcover", "--version"], tmp_path).stdout == f"{landcover.__version__}\n"


def test_models_are_listed_and_shown(tmp_path: Path) -> None:
    listed = run(["landcover", "models", "list"], tmp_path).stdout.splitlines()
    assert listed[2].startswith("landcover-6band (default)  blue, green, red, nir, swir16, swir22  forest")
    assert all(line[: listed[0].index("bands")].endswith("  ") for line in listed), "bands begin below each other"
    shown = run(["landcover", "models", "show", "landcover-6band"], tmp_path).stdout
    for word in ("blue, green, red, nir, swir16, swir22", "10–30 m", "WorldCover", "sha256", "measured on"):
        assert word in shown
    assert "smp-unet; encoder_name mobilenet_v2; decoder_channels 128, 64, 32, 16, 16\n" in shown
    assert "25 polygons: pixels 2,370, overall accuracy 0.983, macro-F1 0.97, F1 forest 0.991," in shown
    assert not set(shown) & set("{}[]")


def test_info_tells_what_the_model_would_see(desk: Path) -> None:
    shown = run(["landcover", "info", "sample_tiles/landsat7_raleigh.tif"], desk).stdout
    for word in ("EPSG:32119", "28.5 m", "swir22", "reflectance of the valid pixels"):
        assert word in shown


def test_info_says_what_predict_would_say(desk: Path) -> None:
    shown = run(["landcover", "info", "sample_tiles/s2_town.tif", "--model", "landcover-aerial"], desk).stdout
    assert "it cannot use this scene as it is:" in shown
    assert "trained for 0.6–1.5 m" in shown


def test_info_is_of_the_grid_that_is_mapped_and_valid_json(tmp_path: Path) -> None:
    """A folder may begin with a coarse band; JSON knows no NaN."""
    (tmp_path / "scene").mkdir()
    coarse, fine = (digital_numbers(side, side, 1).astype("float32") for side in (10, 60))
    write_scene(
        tmp_path / "scene" / "blue.tif", coarse, names=("blue",), transform=UTM @ Affine.scale(6), nodata=np.nan
    )
    write_scene(tmp_path / "scene" / "red.tif", fine, names=("red",))
    told = run(["landcover", "info", "scene", "--json"], tmp_path).stdout
    found = json.loads(told, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["size"] == "60 rows × 60 columns"


def test_a_folder_of_bands_is_drawn(desk: Path) -> None:
    from PIL import Image

    run(["landcover", "preview", "sample_tiles/s2_bands", "--out", "folder.png", "--size", "300"], desk)
    with Image.open(desk / "folder.png") as picture:
        assert picture.size == (256, 256)
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 1000


def test_the_commands_of_the_kubernetes_manifest(desk: Path) -> None:
    """The batch that its Job starts can be planned; its scheduler and workers take the options they are given."""
    parts = yaml.safe_load_all((ROOT / "configs" / "cluster" / "kubernetes.yaml").read_text(encoding="utf-8"))
    commands = {
        part["metadata"]["name"]: part["spec"]["template"]["spec"]["containers"][0]["command"]
        for part in parts
        if "template" in part["spec"]
    }
    run(["landcover", "catalog", "build", "sample_tiles", "--out", "scenes.parquet"], desk)
    batch = [word.replace("/data", str(desk)) for word in commands["landcover-batch"]]
    assert "cannot be read: 0" in run([*batch, "--dry-run"], desk).stdout
    for name in ("landcover-scheduler", "landcover-worker"):
        program, kind, *options = commands[name]
        shown = run([program, kind, "--help"], desk).stdout
        assert all(option in shown for option in options if option.startswith("--"))


def test_doctor_tells_of_a_package_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose_engine() -> None:
        raise ImportError("libopenvino.so: cannot open shared object file")

    monkeypatch.setattr(inspection, "choose_engine", choose_engine)
    monkeypatch.setattr(inspection, "predict", lambda *_, **__: choose_engine())
    told = inspection.examine_machine()
    assert told["devices"]["predict takes"].startswith("none: ImportError: libopenvino.so")
    assert told["self-test"].startswith("failed: ImportError")
    with pytest.raises(typer.Exit) as ended:
        doctor(json_=True)
    assert ended.value.exit_code == 3


def test_doctor_finds_this_machine_well(tmp_path: Path) -> None:
    shown = run(["landcover", "doctor"], tmp_path).stdout
    assert "self-test: passed" in shown
    assert "MISSING" not in shown


def test_a_command_ends_with_all_that_it_printed(tmp_path: Path) -> None:
    """The process is ended at once, when what is printed has been handed over."""
    listed = run([sys.executable, "-m", "landcover", "models", "list", "--json"], tmp_path)
    assert len(json.loads(listed.stdout)) >= 4
    lacking = subprocess.run([BIN / "landcover", "stats", "none.tif"], cwd=tmp_path, capture_output=True, text=True)
    assert (lacking.returncode, lacking.stdout) == (3, "")
    assert lacking.stderr.startswith("Error: none.tif")
    assert lacking.stderr.endswith("\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_what_cannot_be_printed_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        told = subprocess.run([BIN / "landcover", "models", "list"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert told.returncode == 3
    assert told.stderr == "Error: what is printed cannot be written: No space left on device\n"


def test_who_stops_reading_gets_the_exit_code_of_what_cannot_be_used() -> None:
    """As `landcover models list | head -1` does; 1 is no exit code of this program."""
    reads, writes = os.pipe()
    os.close(reads)
    told = subprocess.run([BIN / "landcover", "models", "list"], stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (told.returncode, told.stderr) == (3, "")


@pytest.mark.skipif(os.name != "posix", reason="the shell closes streams")
def test_a_scene_is_mapped_where_nobody_listens(desk: Path) -> None:
    """As jobs are started that are to be silent: no file may get the number of a stream that is closed."""
    command = "exec landcover predict sample_tiles/s2_town.tif --out map.tif --json <&- >&- 2>&-"
    assert run(["sh", "-c", command], desk).returncode == 0
    assert (desk / "map.tif").exists()


def test_nothing_is_told_to_anyone(tmp_path: Path) -> None:
    """OpenVINO counts its users from wherever it is imported, unless it is kept from it."""
    home = {k: v for k, v in os.environ.items() if k not in ("CI", "LANDCOVER_CACHE")} | {"HOME": str(tmp_path)}
    mapped = f"""
import multiprocessing, sys, landcover
landcover.predict({str(ROOT / "sample_tiles" / "s2_town.tif")!r}, {str(tmp_path / "map.tif")!r})
assert "openvino" in sys.modules
assert not multiprocessing.active_children()
"""
    subprocess.run([sys.executable, "-c", mapped], env=home, check=True)
    assert {p.name for p in tmp_path.iterdir()} <= {"map.tif", "map.tif.aux.xml", ".cache"}
