"""Many scenes: the maps are those that predict makes, and nothing that is finished is done again."""

import json
import os
import pickle
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import numpy as np
import pystac
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine

from landcover.batch import checks, cluster, gathering, planning, run, worker
from landcover.batch.cutting import cut_large
from landcover.batch.jobs import Job, Task
from landcover.batch.options import BatchOptions
from landcover.batch.planning import items_for_workers, plan_batch
from landcover.batch.run import foresee, run_batch
from landcover.batch.schedule import Told
from landcover.batch.state import FOLDER
from landcover.batch.worker import SendModel, work
from landcover.errors import BandError, BatchError, CatalogError, ConfigError, MapError
from landcover.models import CARD, Model, load_model
from landcover.provenance import without_secrets
from landcover.specs import load_sensor
from tests.catalogs import collection, stac_item, write_json
from tests.commands import Outcome, landcover
from tests.faults.runs import TINY
from tests.scenes import UTM, digital_numbers, read_map, write_scene

SAMPLES = Path(__file__).parent.parent / "sample_tiles"
SIZES = {"one": (90, 120), "two": (64, 64), "sub/three": (130, 70)}


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of three scenes, one of them in a folder of its own."""
    folder = tmp_path / "scenes"
    (folder / "sub").mkdir(parents=True)
    for seed, (name, size) in enumerate(SIZES.items()):
        write_scene(folder / f"{name}.tif", digital_numbers(*size, seed=seed))
    return folder


def batch(capsys: pytest.CaptureFixture[str], catalog: Path, out: Path, model: Model, *more: str | Path) -> Outcome:
    return landcover(
        capsys, "batch", catalog, "--out", out, "--model", model.folder, "--workers", "2", *TINY, *more
    )  # fmt: skip


def predicted(capsys: pytest.CaptureFixture[str], scene: Path, out: Path, model: Model, *more: str | Path) -> bytes:
    assert landcover(capsys, "predict", scene, "--out", out, "--model", model.folder, *TINY, *more).code == 0
    return out.read_bytes()


def map_of(out: Path, name: str) -> Path:
    return out / name / f"{Path(name).name}_map.tif"


def report(out: Path) -> dict[str, dict]:
    return {scene["name"]: scene for scene in json.loads((out / "run.json").read_bytes())["scenes"]}


def test_a_folder_is_mapped_and_only_what_is_left_is_done_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """One scene cannot be read: it is told before anything starts, the others are mapped, and the exit code is 4."""
    out = tmp_path / "out"
    (scenes / "cut.tif").write_bytes((scenes / "one.tif").read_bytes()[:500])
    first = batch(capsys, scenes, out, pointwise, "--confidence", "--vectorize")
    assert first.code == 4, first
    assert "cut.tif cannot be opened" in first.err.split("scenes to map")[0]
    assert "cut" in first.out
    assert {name: s["state"] for name, s in report(out).items()} == {**dict.fromkeys(SIZES, "done"), "cut": "failed"}
    for name in SIZES:
        how = ("--confidence", tmp_path / "c.tif", "--overwrite")
        assert map_of(out, name).read_bytes() == predicted(
            capsys, scenes / f"{name}.tif", tmp_path / "m.tif", pointwise, *how
        )
        stem = Path(name).name
        assert (out / name / f"{stem}_confidence.tif").read_bytes() == (tmp_path / "c.tif").read_bytes()
        assert (out / name / f"{stem}_polygons.gpkg").exists()
        assert (out / name / f"{stem}.log").read_text().count("Mapping") == 1
    assert not [p for p in out.rglob(".*") if p.name != FOLDER and p.parent.name != FOLDER]

    before = {name: map_of(out, name).stat().st_mtime_ns for name in SIZES}
    shutil.copy(scenes / "one.tif", scenes / "cut.tif")
    again = batch(capsys, scenes, out, pointwise, "--confidence", "--vectorize", "--only-failed")
    assert again.code == 0, again
    assert "1 scene to map" in again.err
    assert set(report(out)) == {*SIZES, "cut"}
    write_scene(scenes / "one.tif", digital_numbers(50, 50, seed=9))
    map_of(out, "two").unlink()
    changed = batch(capsys, scenes, out, pointwise, "--confidence", "--vectorize")
    assert changed.code == 0, changed
    assert "2 scenes to map" in changed.err
    assert "2 done before" in changed.err
    after = {name: map_of(out, name).stat().st_mtime_ns for name in SIZES}
    assert {name for name in SIZES if before[name] != after[name]} == {"one", "two"}
    assert map_of(out, "one").read_bytes() == predicted(
        capsys, scenes / "one.tif", tmp_path / "n.tif", pointwise, "--confidence", tmp_path / "c.tif", "--overwrite"
    )


def test_a_large_scene_is_mapped_in_parts_as_in_one_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, pointwise: Model
) -> None:
    pixels = digital_numbers(300, 100)
    pixels[:, 100:200] = 0  # parts without a valid pixel
    pixels[:, 250:260, 20:70] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    out = tmp_path / "out"
    result = batch(capsys, scene, out, pointwise, "--confidence", "--part-rows", "3")
    assert result.code == 0, result
    assert report(out)["scene"]["parts"] == 9
    assert map_of(out, "scene").read_bytes() == predicted(
        capsys, scene, tmp_path / "map.tif", pointwise, "--confidence", tmp_path / "c.tif"
    )
    assert (out / "scene" / "scene_confidence.tif").read_bytes() == (tmp_path / "c.tif").read_bytes()
    assert not list((out / "scene").glob(".*"))


def test_scenes_so_large_that_workers_would_wait_are_cut(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    write_scene(scenes / "large.tif", digital_numbers(2000, 100))
    how = {"allow_untrained": True, "tile_size": 16, "overlap": 4}
    plan = plan_batch(BatchOptions(str(scenes), tmp_path / "out", str(pointwise.folder), how), {})
    assert [job.name for job in plan.jobs] == ["large", "one", "sub/three", "two"]
    parts = {job.name: job.parts for job in cut_large(plan, {}, 2).jobs}
    assert parts["large"] == 8
    assert {parts[name] for name in SIZES} == {0}
    assert not any(job.parts for job in cut_large(plan, {}, 1).jobs)


def test_what_is_planned_is_printed_and_nothing_is_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    (scenes / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    result = batch(capsys, scenes, tmp_path / "out", pointwise, "--dry-run", "--json")
    assert result.code == 0, result
    plan = json.loads(result.out)
    assert (plan["scenes"], plan["pixels"]) == (3, sum(h * w for h, w in SIZES.values()))
    assert plan["bytes"] == sum(path.stat().st_size for path in scenes.rglob("*.tif") if path.exists())
    assert plan["seconds"] >= 0
    assert "does not exist" in plan["broken"][0]["error"]
    assert not (tmp_path / "out").exists()
    strict = batch(capsys, scenes, tmp_path / "out", pointwise, "--strict")
    assert strict.code == 3
    assert "1 of the scenes cannot be read: gone: " in strict.err


def test_an_address_is_no_folder_for_outputs(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    scenes: Path,
    pointwise: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scenes may lie at one; maps were written into a folder of this machine that is called `s3:`."""
    monkeypatch.chdir(tmp_path)
    for out in ("s3://bucket/maps", "https://example.org/maps", "/vsis3/bucket/maps"):
        result = batch(capsys, scenes, Path(out), pointwise)
        assert (result.code, result.out) == (3, "")
        assert f"Error: {out} is an address" in result.err
        how = ("--model", pointwise.folder, "--allow-untrained")
        mapped = landcover(capsys, "predict", scenes / "one.tif", "--out", f"{out}/map.tif", *how)
        assert f"Error: {out}/map.tif is an address" in mapped.err
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


@pytest.mark.parametrize("before", [[], ["maps"], ["maps", "maps/.landcover"], ["maps", "notes.txt"]])
def test_a_batch_that_is_refused_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model, before: list[str]
) -> None:
    """Neither a pattern that matches nothing nor a scene that cannot be read leaves folders; what was there stays."""
    place = tmp_path / "place"
    for name in before:
        (place / name).mkdir(parents=True)
    (scenes / "cut.tif").write_bytes(b"II*")
    for catalog, more in ((scenes / "*.jp2", ()), (scenes, ("--strict",))):
        result = batch(capsys, catalog, place / "maps", pointwise, *more)
        assert result.code == 3, result
        assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == before
    assert place.exists() == bool(before)
    assert batch(capsys, scenes, place / "maps", pointwise).code == 4
    assert batch(capsys, scenes, place / "maps", pointwise, "--strict").code == 3
    assert (place / "maps" / FOLDER / "batch.sqlite").exists()


def test_a_batch_without_a_cluster_leaves_no_item(
    tmp_path: Path, scenes: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items of a catalog are written for the workers, before these are there."""

    def refuse(*_: Any) -> None:
        raise BatchError("no scheduler")

    monkeypatch.setattr(run, "open_cluster", refuse)
    item = stac_item("one", href=str(scenes / "one.tif"))
    catalog = write_json(tmp_path / "items.json", collection(item))
    how = {"allow_untrained": True}
    with pytest.raises(BatchError, match="no scheduler"):
        list(run_batch(BatchOptions(str(catalog), tmp_path / "out", str(pointwise.folder), how)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--min-area", "1ha"), ("--connect", "8"), ("--format", "fgb"), ("--smooth",)])
def test_options_of_polygons_want_polygons(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model, option: tuple[str, ...]
) -> None:
    result = batch(capsys, scenes, tmp_path / "out", pointwise, *option)
    assert result.code == 3
    assert "are of polygons; add --vectorize" in result.err


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (["--datetime", "1999"], "--datetime '1999'"),
        (["--where", "name = 'three'", "--limit", "2"], "--where \"name = 'three'\""),
        (["--bbox", "-20,-20,-19.123456,-19.5"], "--bbox -20,-20,-19.123456,-19.5"),
        (["--where", "name = 'one'", "--datetime", "1999"], "--datetime '1999'"),
    ],
)
def test_a_choice_that_leaves_no_scene_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model, choice: list[str], told: str
) -> None:
    result = batch(capsys, scenes, tmp_path / "out", pointwise, *choice)
    assert result.code == 3, result
    assert f"of 3 scenes in {scenes} none is chosen by {told};" in result.err


def test_a_time_span_that_leaves_none_tells_once_of_scenes_of_unknown_time(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    scenes: Path,
    pointwise: Model,
) -> None:
    assert batch(capsys, scenes, tmp_path / "out", pointwise, "--datetime", "1999").code == 3
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("--datetime leaves out 3 scenes of unknown time")


def test_scenes_that_failed_are_asked_for_where_there_are_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """Before any run that is a mistake; after one in which all went well, it is said and that is all."""
    fresh = batch(capsys, scenes, tmp_path / "out", pointwise, "--only-failed")
    assert fresh.code == 3, fresh
    assert "no batch has mapped scenes into" in fresh.err
    assert batch(capsys, scenes / "two.tif", tmp_path / "out", pointwise).code == 0
    again = batch(capsys, scenes / "two.tif", tmp_path / "out", pointwise, "--only-failed")
    assert again.code == 0, again
    assert "none of the scenes chosen failed the last time" in again.err


def test_one_scene_is_not_told_as_several(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    out = tmp_path / "out"
    one = landcover(capsys, "batch", scenes / "two.tif", "--out", out, "--model", pointwise.folder, "-w", "1", *TINY)
    for words in ("1 scene to map, 0.0 Mpx, by 1 worker\n", "of 1 map\n", "1 scene is done, 0 failed"):
        assert words in one.err


def test_what_came_of_a_batch_is_one_document_of_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """As of every command; until then each event is one on a line of stderr."""
    (scenes / "cut.tif").write_bytes(b"II*")
    result = batch(capsys, scenes, tmp_path / "out", pointwise, "--json")
    assert result.code == 4, result
    told = json.loads(result.out)
    report = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert {key: told[key] for key in ("done", "failed", "outputs", "scenes")} == {
        key: report[key] for key in ("done", "failed", "outputs", "scenes")
    }
    assert (told["report"], told["done"], told["failed"]) == (str(tmp_path / "out" / "run.json"), 3, 1)
    events = [json.loads(line) for line in result.err.splitlines() if line.startswith("{")]
    assert [e["event"] for e in events if e["event"] != "note"] == ["begun", *["scene"] * 3, "ended"]
    assert {e["name"]: e["state"] for e in events if e["event"] == "scene"}.items() <= {
        s["name"]: s["state"] for s in told["scenes"]
    }.items()


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to be taken for one" * 40])
def test_a_state_that_cannot_be_read_is_told_and_can_be_deleted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model, content: bytes
) -> None:
    """Without it, the scenes' own items tell what is finished."""
    out = tmp_path / "out"
    assert batch(capsys, scenes, out, pointwise).code == 0
    before = map_of(out, "two").stat().st_mtime_ns
    state = out / FOLDER / "batch.sqlite"
    state.write_bytes(content)
    result = batch(capsys, scenes, out, pointwise)
    if content:
        assert result.code == 3
        assert "delete it" in result.err
        state.unlink()
        result = batch(capsys, scenes, out, pointwise)
    assert result.code == 0, result
    assert map_of(out, "two").stat().st_mtime_ns == before
    with sqlite3.connect(state) as connection:
        assert connection.execute("SELECT count(*) FROM scenes WHERE state = 'done'").fetchone() == (3,)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers", "0"], "--workers must be at least 1"),
        (["--retries", "-1"], "--retries must be 0 or more"),
        (["--part-rows", "some"], "--part-rows 'some' is not known"),
        (["--mosaic", "newest"], "--mosaic 'newest' is not known"),
        (["--mosaic", "confidence"], "add --confidence"),
        (["--min-area", "1ha"], "add --vectorize"),
        (["--vectorize", "--dissolve", "--points"], "exclude each other"),
        (["--vectorize", "--format", "gpk"], "did you mean 'gpkg'?"),
        (["--vectorize", "--classes", "forrest"], "forrest"),
        (["--vectorize", "--crs", "EPSG:0"], "--crs 'EPSG:0'"),
        (["--device", "cuda:7"], "runs on a CPU"),
        (["--overlap", "99"], "--overlap 99 must be smaller"),
        (["--scheduler", "nowhere.json"], "neither an address"),
        (["--scheduler", "nowhere.json", "--workers", "2"], "give one of them"),
        (["--limit", "-1"], "limit"),
        (["--limit", "-1", "--only-failed"], "--limit must be at least 1"),
        (["--where", "cloudy < 20"], "cloudy"),
        (["--bbox", "1,2,3"], "bbox"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    scenes: Path,
    pointwise: Model,
    options: list[str],
    sentence: str,
) -> None:
    out = tmp_path / "out"
    result = landcover(capsys, "batch", scenes, "--out", out, "--model", pointwise.folder, *TINY, *options)
    assert result.code == 3, result
    assert sentence in result.err
    assert "Traceback" not in result.err
    assert not list(out.rglob("*.tif"))


@pytest.mark.parametrize(
    "options",
    [
        ["--sensor", "sentinel9"],
        ["--sensor", "nowhere.toml"],
        ["--bands", "foo=1"],
        ["--scale", "0", "--offset", "nan"],
        ["--tile-size", "0"],
        ["--overlap", "-1"],
        ["--overlap", "5000"],
        ["--batch-size", "0"],
        ["--device", "tpu"],
        ["--device", "cuda:99"],
        ["--engine", "onnx"],
        ["--engine", "openvino", "--device", "cuda"],
        ["--precision", "f8"],
    ],
)
def test_a_plan_refuses_what_predict_refuses_whatever_the_scene(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model, options: list[str]
) -> None:
    """In the same words, but that none names a scene."""
    more = ["--model", pointwise.folder, "--allow-untrained", *options]
    one = landcover(capsys, "predict", scenes / "one.tif", "--out", tmp_path / "map.tif", *more)
    plan = landcover(capsys, "batch", scenes, "--out", tmp_path / "out", "--dry-run", *more)
    assert (one.code, plan.code) == (3, 3), plan
    assert plan.err == one.err.replace(f"{scenes / 'one.tif'}: ", "")
    assert plan.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("said", "told"), [({"scale": float("nan")}, "× nan + offset"), ({"offset": float("inf")}, "× scale + inf")]
)
def test_half_a_scaling_that_cannot_be_is_refused_by_the_plan(
    tmp_path: Path, scenes: Path, pointwise: Model, said: dict[str, float], told: str
) -> None:
    with pytest.raises(BandError, match=re.escape(f"reflectance = number {told} is no scaling; correct --scale")):
        planned(scenes, tmp_path / "out", pointwise, mapping=said)


def test_an_untrained_model_is_refused_by_the_plan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    plan = landcover(capsys, "batch", scenes, "--out", tmp_path / "out", "--model", pointwise.folder, "--dry-run")
    assert plan.code == 3
    assert "was never trained" in plan.err


def test_what_workers_elsewhere_are_to_have_is_not_looked_for_here(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    far = {"scheduler": "tcp://far:8786"}
    assert planned(scenes, tmp_path / "out", pointwise, mapping={"device": "cuda:99"}, **far)
    there = BatchOptions(str(scenes), tmp_path / "out", str(pointwise.folder), HOW | {"device": "cuda:99"}, **far)
    assert foresee(there)["workers"] is None
    with pytest.raises(ConfigError, match="--device 'cuda9' is not known"):
        planned(scenes, tmp_path / "out", pointwise, mapping={"device": "cuda9"}, **far)


def test_scenes_of_which_the_catalog_says_what_cannot_be_are_told_before_any_is_opened(
    tmp_path: Path, scenes: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many scenes name a sensor, it is looked up once; the others are mapped."""
    said = {"unknown": "sentinel9,,", "unwanted": ",red=1;foo=2,", "flat": ",,0", "known": "rgbn,,"}
    rows = [f"{scenes / 'one.tif'},{name}-{i},{more},9,9" for i in range(50) for name, more in said.items()]
    table = tmp_path / "scenes.csv"
    table.write_text("\n".join(["path,name,sensor,bands,scale,height,width", *rows]))
    looked_up = []
    monkeypatch.setattr(checks, "load_sensor", lambda name: (looked_up.append(name), load_sensor(name)))
    monkeypatch.setattr(planning, "measure", None)
    plan = plan_batch(BatchOptions(str(table), tmp_path / "out", str(pointwise.folder), dict(HOW)), {})
    assert sorted(looked_up) == ["rgbn", "sentinel9"]
    assert {job.name for job in plan.jobs} == {f"known-{i}" for i in range(50)}
    errors = {record.name.partition("-")[0]: record.error for record in plan.broken}
    assert len(plan.broken) == 150
    assert "sensor 'sentinel9' is neither a known name nor a TOML file" in errors["unknown"]
    assert "the catalog names 'foo', which the model does not use; it wants red, nir" in errors["unwanted"]
    assert (
        "reflectance = number × 0.0 + offset is no scaling; correct its scale or offset in the catalog"
        in errors["flat"]
    )


def test_a_catalog_of_the_samples_becomes_maps_a_mosaic_and_polygons(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With the embedded model: two scenes that lie together, one mosaic in which no polygon ends at their border."""
    out = tmp_path / "out"
    more = ["--where", "name IN ('eastern_shore', 'town')", "--mosaic", "later", "--merge-polygons", "--workers", "1"]
    result = landcover(capsys, "batch", SAMPLES / "catalog.csv", "--out", out, *more, "--min-area", "1ha")
    assert result.code == 0, result
    written = json.loads((out / "run.json").read_bytes())["outputs"]
    assert set(written) == {"catalog", "virtual mosaic", "mosaic", "polygons"}
    assert all(Path(file).exists() for files in written.values() for file in files)
    with rasterio.open(out / "mosaic.tif") as one, rasterio.open(out / "mosaic.vrt") as virtual:
        assert (one.read(1) == virtual.read(1)).all()
    polygons = geopandas.read_file(out / "polygons.gpkg", layer="landcover")
    assert shapely.coverage_is_valid(polygons.geometry.to_numpy())
    items = list(pystac.Catalog.from_file(str(out / "catalog.json")).get_items(recursive=True))
    assert {item.id for item in items} == {"eastern_shore", "town"}
    before = (out / "mosaic.tif").stat().st_mtime_ns
    assert (
        "Making"
        not in landcover(capsys, "batch", SAMPLES / "catalog.csv", "--out", out, *more, "--min-area", "1ha").err
    )
    assert (out / "mosaic.tif").stat().st_mtime_ns == before


def test_scenes_without_a_time_lie_below_the_others_and_it_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """Which of two maps is the later is not known then; where no maps overlap, nothing depends on it."""
    table = scenes / "t.csv"
    table.write_text("path,datetime\none.tif,2024-06-01\ntwo.tif,\n")
    above = batch(capsys, table, tmp_path / "out", pointwise, "--mosaic", "later", "--json")
    (note,) = json.loads(above.out)["notes"]
    assert note.startswith("1 of 2 scenes tell no time, such as two; ")
    assert (read_map(tmp_path / "out" / "mosaic.tif") == read_map(map_of(tmp_path / "out", "one"))).all()
    write_scene(scenes / "two.tif", digital_numbers(20, 20), transform=UTM @ Affine.translation(120, 0))
    beside = batch(capsys, table, tmp_path / "out", pointwise, "--mosaic", "later", "--json")
    assert json.loads(beside.out)["notes"] == []


def test_items_of_a_collection_are_mapped_and_again_when_their_pixels_change(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """The items stand in one file, as a search of a STAC API is saved; the outputs lie among the scenes."""
    items = [stac_item(name, href=f"{name}.tif") for name in ("one", "two")]
    catalog = write_json(scenes / "items.json", collection(*items))
    dry = batch(capsys, catalog, scenes / "maps", pointwise, "--dry-run", "--json")
    assert json.loads(dry.out)["scenes"] == 2
    assert json.loads(dry.out)["bytes"] is None, "those of items.json are not the scenes'"
    assert not (scenes / "maps").exists()
    assert batch(capsys, catalog, scenes / "maps", pointwise).code == 0
    predicted(capsys, scenes / "one.tif", tmp_path / "map.tif", pointwise)
    assert (read_map(map_of(scenes / "maps", "one")) == read_map(tmp_path / "map.tif")).all()
    item = json.loads((scenes / "maps" / "one" / "one.json").read_bytes())
    assert item["properties"]["datetime"] == "2024-06-01T10:30:00Z"
    write_scene(scenes / "two.tif", digital_numbers(40, 40))
    again = batch(capsys, catalog, scenes / "maps", pointwise)
    assert "1 scene to map" in again.err
    assert "1 done before" in again.err
    whole = batch(capsys, scenes, scenes / "maps", pointwise, "--dry-run", "--json")
    assert json.loads(whole.out)["scenes"] == 3, "maps of an earlier run are no scenes"


def test_a_worker_with_another_model_refuses_and_one_that_was_sent_it_works(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """A worker may share no disk with the client: then the model comes by Dask."""
    here = shutil.copytree(pointwise.folder, tmp_path / "model")
    how = {"allow_untrained": True, "engine": "torch"}
    job = plan_batch(BatchOptions(str(scenes / "two.tif"), tmp_path / "out", str(here), how), {}).jobs[0]
    (tmp_path / "out").mkdir()
    other = replace(job, needs=replace(job.needs, digests={"x": "0" * 64}))
    assert work(Task(other)).state == "refused"
    assert "has another model" in work(Task(other)).error
    plugin = pickle.loads(pickle.dumps(SendModel(load_model(here), "b")))
    shutil.rmtree(here)
    assert "cannot load the model" in work(Task(replace(job, needs=replace(job.needs, model=str(here))))).error
    (tmp_path / "local").mkdir()
    plugin.setup(SimpleNamespace(local_directory=str(tmp_path / "local")))
    assert work(Task(job)).state == "done"
    assert work(Task(job)).notes == ("was finished before",)


def test_the_signature_of_an_address_is_kept_nowhere(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    """Neither in the record of a scene, nor in its log."""
    table = tmp_path / "scenes.csv"
    table.write_text("path,name,height,width\nhttp://127.0.0.1:9/one.tif?signature=hidden,one,9,9\n")
    how = {"allow_untrained": True, "engine": "torch"}
    plan = plan_batch(BatchOptions(str(table), tmp_path / "out", str(pointwise.folder), how), {})
    (tmp_path / "out").mkdir()
    outcome = work(Task(plan.jobs[0]))
    assert outcome.state == "failed"
    assert "one.tif" in outcome.error
    assert "hidden" not in outcome.error + plan.jobs[0].log.read_text()


def test_what_looks_like_a_signature_in_the_name_of_a_file_is_kept(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    odd = scenes / "one?x=1.tif"
    (scenes / "one.tif").rename(odd)
    (tmp_path / "out").mkdir()
    plan = foresee(BatchOptions(str(odd), tmp_path / "out", str(pointwise.folder), HOW, workers=1))
    assert [scene["scene"] for scene in plan["largest"]] == [str(odd)]


def test_the_signatures_in_items_of_a_catalog_do_not_outlive_the_batch(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """Workers need them, in a file of the item's; maps are linked to that file, so it stays, without them."""
    href = "http://me:hidden@127.0.0.1:9/one.tif?a=2,3;b&signature=hidden"
    item = stac_item("one", href=href)
    item["properties"]["title"] = 'a "quoted" title, see http://x/?q="a"'
    catalog = write_json(tmp_path / "items.json", collection(item))
    options = BatchOptions(str(catalog), tmp_path / "out", str(pointwise.folder), HOW)
    plan = plan_batch(options, {})
    with items_for_workers(plan):
        assert "hidden" in Path(plan.jobs[0].source).read_text()
    assert json.loads(Path(plan.jobs[0].source).read_bytes())["id"] == "one"
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files
    assert not any(b"hidden" in path.read_bytes() for path in files)


def test_a_virtual_raster_is_mapped_again_when_one_of_its_sources_changes(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    virtual = tmp_path / "virtual.vrt"
    rasterio.shutil.copy(scenes / "one.tif", virtual, driver="VRT")
    before = planned(virtual, tmp_path / "out", pointwise)
    assert planned(virtual, tmp_path / "out", pointwise).digest == before.digest
    outer = tmp_path / "outer.vrt"
    rasterio.shutil.copy(virtual, outer, driver="VRT")
    within = planned(outer, tmp_path / "out", pointwise)
    write_scene(scenes / "one.tif", digital_numbers(*SIZES["one"], seed=9))
    assert planned(virtual, tmp_path / "out", pointwise).digest != before.digest
    assert planned(outer, tmp_path / "out", pointwise).digest != within.digest


@pytest.mark.parametrize("name", ["one.tif.aux.xml", "one.tif.msk", "one.tfw"])
def test_a_scene_is_mapped_again_when_what_lies_beside_it_changes(
    tmp_path: Path, scenes: Path, pointwise: Model, name: str
) -> None:
    write_json(tmp_path / "item.json", stac_item("one", href="scenes/one.tif"))
    digests = set()
    for content in (None, b"1", b"22"):
        if content:
            (scenes / name).write_bytes(content)
        digests |= {
            planned(s, tmp_path / "out", pointwise).digest for s in (scenes / "one.tif", tmp_path / "item.json")
        }
    assert len(digests) == 6


@pytest.mark.parametrize("held", [False, True])
def test_an_item_is_mapped_again_when_a_file_behind_it_changes(
    tmp_path: Path, scenes: Path, pointwise: Model, held: bool
) -> None:
    (scenes / "one.tif").rename(scenes / "num one.tif")
    rasterio.shutil.copy(scenes / "num one.tif", scenes / "virtual.vrt", driver="VRT")
    for href in ("scenes/num%20one.tif", "scenes/virtual.vrt"):
        item = stac_item("one", href=href)
        catalog = write_json(tmp_path / "item.json", collection(item) if held else item)
        before = planned(catalog, tmp_path / "out", pointwise).digest
        os.utime(scenes / "num one.tif", (0, len(href)))
        assert planned(catalog, tmp_path / "out", pointwise).digest != before


def test_names_that_are_too_long_do_not_end_a_batch(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    long = "x" * 300 + ".tif"
    rows = tmp_path / "rows.csv"
    rows.write_text(f"path,name\n{long},long\nscenes/one.tif,one\n")
    items = write_json(tmp_path / "items.json", collection(stac_item("item", href=long)))
    plans = [plan_batch(BatchOptions(str(c), tmp_path / "out", str(pointwise.folder), HOW), {}) for c in (rows, items)]
    assert [[job.name for job in plan.jobs] for plan in plans] == [["one"], ["item"]]
    (record,) = plans[0].broken
    assert record.error.endswith(f"{long} cannot be read: File name too long; correct the catalog, or bring it back")


def test_cores_and_cards_are_shared_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker for each card, or else for each core; `cuda:N` is that card alone."""
    monkeypatch.setattr(cluster, "cuda_devices", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LANDCOVER_CORES", "0,1,2,3,4")
    places = cluster.share_machine(None, "auto")
    assert [place.card for place in places] == ["0", "1"]
    assert sorted(core for place in places for core in place.cores) == [0, 1, 2, 3, 4]
    assert [place.card for place in cluster.share_machine(None, "cuda:1")] == ["1"]
    assert [place.card for place in cluster.share_machine(3, "cpu")] == [None] * 3
    with pytest.raises(ConfigError, match="there are 2 cards here"):
        cluster.share_machine(None, "cuda:2")
    for wrong in ("0-3", "a", "0,", "٣"):
        monkeypatch.setenv("LANDCOVER_CORES", wrong)
        with pytest.raises(ConfigError, match="LANDCOVER_CORES must be numbers"):
            cluster.share_machine(None, "cpu")


def test_workers_of_this_machine_declare_their_cards() -> None:
    places = [cluster.Place((0,), 1, card) for card in ("0", None)]
    with cluster.open_cluster(None, places) as client:
        client.wait_for_workers(2)
        only, takes = cluster.workers_for(client, "auto")
        every, nothing = cluster.workers_for(client, "cpu")
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES", workers=list(only))
    assert (len(only), takes) == (1, {"GPU": 1})
    assert list(seen.values()) == ["0"]
    assert (len(every), nothing) == (2, {})


def test_a_worker_without_the_card_that_is_asked_for_is_refused(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    """Its scenes would fail one after the other, while those with cards are busy."""
    job = planned(scenes / "one.tif", tmp_path / "out", pointwise)
    needs = replace(job.needs, engine={"device": "cuda:99"})
    outcome = work(Task(replace(job, needs=needs)))
    assert outcome.state == "refused"
    assert "cannot map as it is asked to: --device cuda:99" in outcome.error


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LANDCOVER_CORES", "0-3", "must be numbers of cores"),
        ("LANDCOVER_CORES", "99999", "Invalid argument"),
        ("LANDCOVER_THREADS", "two", "must be a number of threads"),
    ],
)
def test_a_worker_that_cannot_use_its_cores_is_refused(
    tmp_path: Path, scenes: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    job = planned(scenes / "one.tif", tmp_path / "out", pointwise)
    monkeypatch.setenv(name, value)
    outcome = work(Task(job))
    assert outcome.state == "refused"
    assert said in outcome.error


def test_what_is_read_is_not_written_over(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    """A static catalog keeps the Item of a scene where a batch would put its own."""
    write_json(tmp_path / "cat" / "one" / "one.json", stac_item("one"))
    link = {"rel": "item", "href": "./one/one.json"}
    root = {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "", "links": [link]}
    catalog = write_json(tmp_path / "cat" / "scenes.json", root)
    with pytest.raises(CatalogError, match=r"one\.json would be written over by an output"):
        planned(catalog, tmp_path / "cat", pointwise)
    assert planned(catalog, tmp_path / "out", pointwise).name == "one"
    table = tmp_path / "out" / "run.json"
    table.write_text(json.dumps(root | {"links": [link | {"href": "../cat/one/one.json"}]}))
    with pytest.raises(CatalogError, match=r"run\.json would be written over"):
        planned(table, tmp_path / "out", pointwise)
    area = geopandas.GeoDataFrame(geometry=[shapely.box(-180, -90, 180, 90)], crs="EPSG:4326")
    area.to_file(tmp_path / "out" / "polygons.gpkg")
    how = {"choose": {"aoi": tmp_path / "out" / "polygons.gpkg"}}
    with pytest.raises(CatalogError, match=r"polygons\.gpkg would be written over"):
        planned(scenes, tmp_path / "out", pointwise, merged={}, **how)
    table.unlink()
    assert planned(scenes, tmp_path / "out", pointwise, **how)


@pytest.mark.parametrize("name", ["catalog.json", "mosaic.vrt", "run.json", "mosaic.tif", "polygons.gpkg"])
def test_what_no_batch_has_made_is_not_written_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model, name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"of": "someone else"}')
    gathered = ["--mosaic", "later", "--vectorize", "--merge-polygons"]
    gathered = gathered if name in ("mosaic.tif", "polygons.gpkg") else []
    for more in (["--dry-run"], []):
        refused = batch(capsys, scenes, out, pointwise, *gathered, *more)
        assert refused.code == 3
        assert (
            f"Error: {out / name} exists already, and no batch is known to have made it; give another folder"
            in refused.err
        )
    assert (out / name).read_text() == '{"of": "someone else"}'
    assert batch(capsys, scenes, out, pointwise, *gathered, "--overwrite").code == 0
    shutil.rmtree(out / FOLDER)
    assert batch(capsys, scenes, out, pointwise, *gathered).code == 0, "of a batch of which nothing is known any more"


def test_what_is_the_users_own_is_not_written_over_in_a_folder_that_a_batch_has_used(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scenes: Path,
    pointwise: Model,
) -> None:
    """What a batch itself has made there is, in every format, also where it was killed before it could note so."""
    out = tmp_path / "out"
    assert batch(capsys, scenes, out, pointwise).code == 0
    for name in ("mosaic.tif", "polygons.gpkg"):
        (out / name).write_text("of the user")
        for more in (["--dry-run"], []):
            refused = batch(capsys, scenes, out, pointwise, "--merge-polygons", *more)
            assert refused.code == 3
            assert f"Error: {out / name} exists already, and no batch is known to have made it" in refused.err
        assert (out / name).read_text() == "of the user"
        (out / name).unlink()

    def killed(*args: Any) -> None:
        make(*args)
        raise KeyboardInterrupt

    make = gathering._polygons
    monkeypatch.setattr(gathering, "_polygons", killed)
    assert batch(capsys, scenes, out, pointwise, "--merge-polygons").code == 130
    monkeypatch.setattr(gathering, "_polygons", make)
    for more in ([], ["--format", "fgb"], ["--min-area", "1ha"]):
        assert batch(capsys, scenes, out, pointwise, "--merge-polygons", *more).code == 0


def test_from_another_folder_nothing_is_made_again(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scenes: Path,
    pointwise: Model,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert batch(capsys, Path("scenes"), Path("out"), pointwise, "--mosaic", "later").code == 0
    monkeypatch.chdir(scenes)
    again = batch(capsys, Path(), Path("../out"), pointwise, "--mosaic", "later")
    assert "3 done before" in again.err
    assert "Making" not in again.err
    assert json.loads((tmp_path / "out/run.json").read_bytes())["outputs"]["mosaic"] == ["../out/mosaic.tif"]


def test_results_that_lie_among_scenes_are_left_out(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    scenes: Path,
    pointwise: Model,
) -> None:
    """Of another batch, or of `landcover predict`, under whatever name; as scenes they would all fail."""
    for _ in range(2):  # mosaic.tif and mosaic.vrt have one name, as two scenes may not
        assert batch(capsys, scenes, scenes / "first", pointwise, "--mosaic", "later").code == 0
    shutil.copy(map_of(scenes / "first", "one"), scenes / "one_map.tif")
    for catalog in (scenes, scenes / "**/*.tif"):
        plan = batch(capsys, catalog, scenes / "second", pointwise, "--dry-run", "--json")
        assert {scene["name"] for scene in json.loads(plan.out)["largest"]} == set(SIZES)
        assert caplog.messages[-1].startswith("Left out, for landcover made them: ")
        assert str(scenes / "one_map.tif") in caplog.messages[-1]
    (scenes / "cut.tif").write_bytes((scenes / "one.tif").read_bytes()[:500])
    for limit, chosen in {1: set(), 2: {"one"}, 3: {"one", "sub/three"}, 9: set(SIZES)}.items():
        plan = batch(capsys, scenes, scenes / "second", pointwise, "--dry-run", "--json", "--limit", str(limit))
        told = json.loads(plan.out)
        assert {scene["name"] for scene in told["largest"]} == chosen, "a scene that cannot be read counts, maps do not"
        assert [record["name"] for record in told["broken"]] == ["cut"]
    nothing = batch(capsys, scenes / "first", tmp_path / "out", pointwise)
    assert nothing.code == 3
    assert f"landcover made all that is chosen of {scenes / 'first'} ({scenes / 'first'}" in nothing.err
    assert batch(capsys, scenes / "one_map.tif", tmp_path / "out", pointwise).code == 4, "it was asked for by name"
    built = landcover(capsys, "catalog", "build", scenes, "--out", tmp_path / "scenes.parquet")
    assert f"Wrote {tmp_path / 'scenes.parquet'}: {len(SIZES)} scenes; " in built.err


def test_what_earlier_runs_made_of_other_maps_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """A mosaic does not follow the scenes in a run that is not asked for it."""
    out = tmp_path / "out"
    assert batch(capsys, scenes, out, pointwise, "--merge-polygons").code == 0
    told = f"Note: {out}/mosaic.tif and {out}/polygons.gpkg are of an earlier run, and not of the maps of this one"
    assert told not in batch(capsys, scenes, out, pointwise).err, "the maps are the same"
    write_scene(scenes / "four.tif", digital_numbers(40, 40, seed=4))
    assert told in batch(capsys, scenes, out, pointwise).err
    mosaic = batch(capsys, scenes, out, pointwise, "--mosaic", "later").err
    assert f"Note: {out}/polygons.gpkg is of an earlier run" in mosaic
    assert "of an earlier run" not in batch(capsys, scenes, out, pointwise, "--merge-polygons").err


def test_a_catalog_of_maps_is_none_of_scenes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    maps = tmp_path / "maps"
    assert batch(capsys, scenes, maps, pointwise).code == 0
    for document in (maps / "catalog.json", maps / "two" / "two.json"):
        result = batch(capsys, document, tmp_path / "again", pointwise)
        assert result.code == 3
        assert f"{maps}/two/two.json is of a map that landcover made; give the scenes" in result.err


def test_only_maps_of_a_batch_are_taken_for_them(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    """What lies beside a log, or is called mosaic, may be a scene all the same."""
    shutil.copy(scenes / "one.tif", scenes / "mosaic_west.tif")
    (scenes / "sub" / "sub.log").write_text("of something else")
    mapping = HOW | {"engine": "torch"}
    plan = plan_batch(BatchOptions(str(scenes), scenes, str(pointwise.folder), mapping), {})
    assert {job.name for job in plan.jobs} == {*SIZES, "mosaic_west"}


def test_a_loop_of_links_is_one_scene_that_cannot_be_read(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    (scenes / "loop.tif").symlink_to("loop.tif")
    plan = plan_batch(BatchOptions(str(scenes), tmp_path / "out", str(pointwise.folder), dict(HOW)), {})
    assert len(plan.jobs) == len(SIZES)
    rows = "\n".join(["path", str(scenes / "one.tif"), "x" * 300 + ".tif", "loop.tif"])
    (scenes / "scenes.csv").write_text(rows)
    named = BatchOptions(str(scenes / "scenes.csv"), tmp_path / "out", str(pointwise.folder), dict(HOW))
    with pytest.raises(CatalogError, match="part longer than"):
        plan_batch(named, {})


def test_a_scene_is_mapped_again_when_its_sensor_changes_but_not_when_it_is_signed_or_looked_at(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    sensor = tmp_path / "mine.toml"
    text = (Path(__file__).parents[1] / "configs" / "sensors" / "rgbn.toml").read_text()
    sensor.write_text(text)
    how = {"mapping": {"sensor": str(sensor)}}
    before = planned(scenes / "one.tif", tmp_path / "out", pointwise, **how)
    assert planned(scenes / "one.tif", tmp_path / "out", pointwise, **how).digest == before.digest
    sensor.write_text(text.replace("offset = 0.0", "offset = 0.1"))
    assert planned(scenes / "one.tif", tmp_path / "out", pointwise, **how).digest != before.digest

    digests = set()
    for sign in "ab":
        item = stac_item("one")
        for asset in item["assets"].values():
            asset["href"] = f"https://host/one.tif?sig={sign}"
        digests.add(planned(write_json(tmp_path / "items.json", collection(item)), tmp_path / "out", pointwise).digest)
    assert len(digests) == 1

    taken = scenes / "T32TQM_20240601T101559_x.tif"
    shutil.copy(scenes / "one.tif", taken)
    everywhere = {"choose": {"bbox": (-180, -90, 180, 90)}}
    jobs = [planned(taken, tmp_path / "out", pointwise, **choose) for choose in ({}, everywhere)]
    assert jobs[0].digest == jobs[1].digest
    assert jobs[0].datetime == jobs[1].datetime != None  # noqa: E711


HOW = {"allow_untrained": True, "engine": "torch", "tile_size": 16, "overlap": 4}


def planned(scene: Path, out: Path, model: Model, **options) -> Job:
    out.mkdir(exist_ok=True)
    mapping = HOW | options.pop("mapping", {})
    return plan_batch(BatchOptions(str(scene), out, str(model.folder), mapping, **options), {}).jobs[0]


def test_the_area_of_interest_of_a_scene_may_be_in_an_archive_or_at_an_address(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """A signature in the address changes, and the area does not."""
    digests = []
    for area in ("/vsizip//data/a.zip/a.shp", "https://example.org/a.gpkg?key=1", "https://example.org/a.gpkg?key=2"):
        (tmp_path / "scenes.csv").write_text(f"path,aoi\nscenes/one.tif,{area}\n")
        job = planned(tmp_path / "scenes.csv", tmp_path / "out", pointwise)
        assert job.mapping["aoi"] == area
        digests.append(job.map_digest)
    assert digests[0] != digests[1] == digests[2]


def test_a_map_that_is_gone_is_made_again_where_only_polygons_are_asked_for(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    first = planned(scenes / "two.tif", tmp_path / "out", pointwise)
    assert work(Task(first)).state == "done"
    first.map.unlink()
    more = planned(scenes / "two.tif", tmp_path / "out", pointwise, vectors={})
    assert work(Task(more)).pixels > 0
    assert more.map.exists()


def test_no_receipt_stands_while_what_it_tells_of_is_replaced(
    tmp_path: Path, scenes: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other maps none while they are made, of other polygons neither, and of these none before they are there."""
    first = planned(scenes / "two.tif", tmp_path / "out", pointwise, vectors={})
    changed = (
        planned(scenes / "two.tif", tmp_path / "out", pointwise, vectors={}, mapping={"scale": 3e-4}),
        planned(scenes / "two.tif", tmp_path / "out", pointwise, vectors={"min_area": 500.0}),
    )
    for other, step in zip(changed, ("_map", "_make_polygons"), strict=True):
        assert work(Task(first)).state == "done"
        assert not [p for p in first.folder.iterdir() if p.name.startswith(".")]
        monkeypatch.setattr(worker, step, lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            work(Task(other))
        monkeypatch.undo()
        assert not first.item.exists()
        assert other.mark.exists() == (step == "_make_polygons")


def test_of_a_finished_scene_nothing_is_left_but_its_outputs(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    job = replace(planned(scenes / "one.tif", tmp_path / "out", pointwise), part_rows=3, parts=3)
    for i in range(3):
        work(Task(job, i))
    assert work(Task(job)).state == "done"
    assert {p.name for p in job.folder.iterdir()} <= {"one_map.tif", "one_map.tif.aux.xml", "one.json", "one.log"}


def test_an_item_of_others_says_nothing(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    job = planned(scenes / "two.tif", tmp_path / "out", pointwise)
    assert work(Task(job)).state == "done"
    job.item.write_text(json.dumps({"properties": {"landcover:digest": [1], "landcover:map_digest": [1]}}))
    assert work(Task(job)).state == "done"


def test_raw_parts_of_a_scene_that_was_finished_by_a_worker_that_died_are_cleared(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    job = replace(planned(scenes / "one.tif", tmp_path / "out", pointwise), part_rows=3, parts=3)
    assert work(Task(job)).state == "failed"
    work(Task(job, 0))
    left = {p for p in job.folder.iterdir() if p.name.startswith(".parts-")}
    assert left
    whole = planned(scenes / "one.tif", tmp_path / "out", pointwise)
    assert work(Task(whole)).state == "done"
    for folder in left:
        folder.mkdir(exist_ok=True)
    assert work(Task(whole)).notes == ("was finished before",)
    assert not any(folder.exists() for folder in left)


def test_a_failure_lasts_where_it_comes_of_what_the_scene_is(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    """Not where a file cannot be read, which may lie on a server or a disk that comes back."""
    write_scene(scenes / "other.tif", digital_numbers(9, 9), names=("green", "blue"))
    write_scene(scenes / "nowhere.tif", digital_numbers(9, 9), crs=None)
    write_scene(scenes / "empty.tif", np.zeros((2, 9, 9), np.uint16), nodata=0)
    failed = {}
    for name in ("other", "nowhere", "empty", "two"):
        job = planned(scenes / f"{name}.tif", tmp_path / name, pointwise)
        if name == "two":
            (scenes / "two.tif").write_bytes(b"II*")
        failed[name] = work(Task(job))
    assert "has no band that is known to be 'red'" in failed["other"].error
    assert "no coordinate reference system" in failed["nowhere"].error
    assert "cannot be opened" in failed["two"].error
    assert {name: outcome.lasting for name, outcome in failed.items()} == {
        "other": True,
        "nowhere": True,
        "empty": True,
        "two": False,
    }


def test_odd_pixels_are_told_with_the_scene_and_of_its_parts_once(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    (tmp_path / "odd").mkdir()
    shutil.copy(scenes / "one.tif", tmp_path / "odd")
    for rows in (None, 1):
        options = {"mapping": HOW | {"scale": 1.0}, "part_rows": rows, "workers": 1}
        how = BatchOptions(str(tmp_path / "odd"), tmp_path / f"out{rows}", str(pointwise.folder), **options)
        told = [e.text for e in run_batch(how) if isinstance(e, Told)]
        assert sum("like nothing the model learned from" in text for text in told) == 1
    assert not work(Task(planned(scenes / "two.tif", tmp_path / "out", pointwise))).notes


def test_a_run_with_other_options_that_died_leaves_no_receipt_for_what_it_replaced(
    tmp_path: Path, scenes: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options A, then B killed when its map was there, then A again: the map is that of A."""
    first = planned(scenes / "two.tif", tmp_path / "out", pointwise)
    other = planned(scenes / "two.tif", tmp_path / "out", pointwise, mapping={"scale": 3e-4})
    assert work(Task(first)).state == "done"
    before = read_map(first.map)
    monkeypatch.setattr(worker, "_make_polygons", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        work(Task(other))
    assert (read_map(first.map) != before).any()
    monkeypatch.undo()
    wanted = read_map(other.map)
    monkeypatch.setattr(worker, "_mark", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        work(Task(first))  # its map is there, and nothing that says so
    monkeypatch.undo()
    assert work(Task(other)).state == "done"
    assert (read_map(other.map) == wanted).all()
    assert work(Task(first)).state == "done"
    assert (read_map(first.map) == before).all()


def test_of_a_finished_scene_no_part_is_mapped_again(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    """Also where only the polygons are to be others; a part that is cut short is mapped again."""
    job = replace(planned(scenes / "one.tif", tmp_path / "out", pointwise), part_rows=3, parts=3)
    assert all(work(Task(job, i)).pixels > 0 for i in range(3))
    short = min(job.parts_folder.glob("*.map"))
    short.write_bytes(short.read_bytes()[:-1])
    assert sorted(work(Task(job, i)).pixels > 0 for i in range(3)) == [False, False, True]
    assert work(Task(job)).state == "done"
    more = planned(scenes / "one.tif", tmp_path / "out", pointwise, vectors={})
    again = replace(more, part_rows=3, parts=3)
    before = job.map.stat().st_mtime_ns
    assert [work(Task(again, i)).pixels for i in range(3)] == [0, 0, 0]
    assert work(Task(again)).state == "done"
    assert again.polygons.exists()
    assert job.map.stat().st_mtime_ns == before


def test_a_part_that_another_engine_made_is_mapped_again(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    """So that no map is made by two; and whoever asks for all to be mapped again gets parts anew, too."""
    job = replace(planned(scenes / "one.tif", tmp_path / "out", pointwise), part_rows=3, parts=3)
    assert all(work(Task(job, i)).pixels > 0 for i in range(3))
    journal = min(job.parts_folder.glob("*.journal.json"))
    said = json.loads(journal.read_text())
    assert said["engines"] == ["torch cpu f32"]
    said["facts"]["engine"] = ["torch", "cuda", "bf16"]
    journal.write_text(json.dumps(said))
    assert sorted(work(Task(job, i)).pixels > 0 for i in range(3)) == [False, False, True]
    worker.discard(job)
    assert all(work(Task(job, i)).pixels > 0 for i in range(3))


def test_an_edited_card_is_another_model(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    """The same weights with other means make other maps, and a worker that has loaded the card loads it again."""
    here = Path(shutil.copytree(pointwise.folder, tmp_path / "model"))
    before = planned(scenes / "two.tif", tmp_path / "out", load_model(here))
    assert work(Task(before)).state == "done"
    card = json.loads((here / CARD).read_text())
    card["properties"]["mlm:input"][0]["value_scaling"][0]["mean"] = 0.9
    (here / CARD).write_text(json.dumps(card))
    after = planned(scenes / "two.tif", tmp_path / "out", load_model(here))
    assert after.map_digest != before.map_digest
    card["properties"]["description"] = card["properties"]["landcover:training"] = "What it is, in other words."
    (here / CARD).write_text(json.dumps(card))
    described = planned(scenes / "two.tif", tmp_path / "out", load_model(here))
    assert described.map_digest == after.map_digest, "words do not change a map"
    first = read_map(before.map)
    outcome = work(Task(after))
    assert (outcome.state, outcome.error) == ("done", "")
    assert (read_map(after.map) != first).any()


def test_no_polygons_are_made_of_a_mosaic_that_could_not_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scenes: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older mosaic lies there."""

    def fail(*_: object) -> None:
        raise MapError("a map is broken")

    out = tmp_path / "out"
    assert batch(capsys, scenes / "one.tif", out, pointwise, "--mosaic", "later").code == 0
    monkeypatch.setattr(gathering, "_mosaic", fail)
    result = batch(capsys, scenes / "two.tif", out, pointwise, "--merge-polygons")
    assert f"the mosaic could not be made: a map is broken; {out / 'mosaic.tif'} is of an earlier run" in result.err
    assert "without the mosaic there are no polygons" in result.err
    assert result.code == 4, "it was asked for"
    assert not (out / "polygons.gpkg").exists()


def test_the_note_of_a_map_without_a_crs_suggests_no_mosaic_that_would_fail_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scenes: Path, pointwise: Model
) -> None:
    write_scene(scenes / "nowhere.tif", digital_numbers(40, 40), crs=None)
    result = batch(capsys, scenes, tmp_path / "out", pointwise, "--allow-no-crs", "--mosaic", "later")
    assert result.code == 4, result
    assert f"{map_of(tmp_path / 'out', 'nowhere')} has no CRS, so it has no place in a mosaic" in result.err
    assert "has no CRS; give its scene one" in result.err
    assert "--mosaic later shows" not in result.err


def test_a_map_that_a_virtual_mosaic_cannot_show_is_left_out_with_a_note_and_nothing_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scenes: Path, pointwise: Model
) -> None:
    """The note is repeated when nothing is left to do."""
    write_scene(scenes / "south.tif", digital_numbers(40, 40), transform=UTM @ Affine.scale(1, -1))
    out = tmp_path / "out"
    for _ in range(2):
        result = batch(capsys, scenes, out, pointwise)
        assert result.code == 0, result
        assert "leaves out 1 of 4 maps, for it shows only those that have a CRS and are north up" in result.err
        assert f"{map_of(out, 'south')} has south at its top; --mosaic later shows" in result.err
    assert "Making" not in result.err
    with rasterio.open(out / "mosaic.vrt") as virtual:
        assert len(virtual.files) == 1 + len(SIZES)
    alone = batch(capsys, scenes / "south.tif", tmp_path / "alone", pointwise)
    assert alone.code == 0, "it was not asked for"
    assert "the virtual mosaic could not be made" in alone.err


def test_maps_that_are_no_longer_in_the_catalog_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scenes: Path, pointwise: Model
) -> None:
    """First for a scene that is added to those of other options, then for those that are not chosen, then for all."""
    out, note = tmp_path / "out", "of earlier runs are not in the catalog, the mosaics and the report"
    (scenes / "cut.tif").write_bytes((scenes / "one.tif").read_bytes()[:500])
    assert note not in batch(capsys, scenes, out, pointwise).err
    shutil.copy(scenes / "one.tif", scenes / "cut.tif")
    added = batch(capsys, scenes, out, pointwise, "--only-failed", "--scale", "3e-4")
    assert (added.code, set(report(out))) == (0, {"cut"})
    assert f"Note: 3 maps {note}" in added.err
    (out / "two" / "two_map.tif").unlink()
    assert f"Note: 2 maps {note}" in batch(capsys, scenes, out, pointwise, "--limit", "1", "--scale", "3e-4").err
    before = (out / "catalog.json").read_bytes()
    nothing = batch(capsys, scenes, out, pointwise, "--only-failed", "--scale", "5e-4")
    assert "no scene of this run is done, so the catalog and the mosaics are left" in nothing.err
    assert (out / "catalog.json").read_bytes() == before
    assert "earlier runs" not in batch(capsys, scenes, out, pointwise).err


def test_a_scene_without_a_place_that_is_allowed_gets_polygons_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pointwise: Model
) -> None:
    scene = write_scene(tmp_path / "a.tif", digital_numbers(40, 30), crs=None)
    result = batch(capsys, scene, tmp_path / "out", pointwise, "--allow-no-crs", "--vectorize")
    assert result.code == 0, result
    assert "a: the map has no CRS, so area_m2 and perimeter_m are null" in result.err
    assert len(geopandas.read_file(tmp_path / "out/a/a_polygons.gpkg", layer="landcover"))


def test_polygons_and_confidence_of_an_earlier_map_are_told_beside_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scenes: Path, pointwise: Model
) -> None:
    """They are left, and told as long as they lie there: first all, then those that were not made anew."""
    out = tmp_path / "out"
    both, names = ["--vectorize", "--confidence"], ("two_polygons.gpkg", "two_confidence.tif")
    catalog = scenes / "two.tif"
    assert "older than" not in batch(capsys, catalog, out, pointwise, *both).err
    assert "older than" not in batch(capsys, catalog, out, pointwise, "--confidence").err, "the map was kept"
    for _ in range(2):
        told = batch(capsys, catalog, out, pointwise, "--scale", "3e-4").err
        assert all(str(out / "two" / name) in told.split("older than the maps beside them")[1] for name in names)
    fewer = batch(capsys, catalog, out, pointwise, "--scale", "3e-4", "--vectorize").err
    assert "two_confidence.tif; remove" in fewer
    assert "two_polygons" not in fewer
    assert "older than" not in batch(capsys, catalog, out, pointwise, "--scale", "3e-4", *both).err


def test_the_size_of_a_mosaic_is_told_before_it_is_made_and_which_map_makes_it_so_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pointwise: Model
) -> None:
    """Three scenes side by side, and one far to the south-east of them."""
    folder, out = tmp_path / "scenes", tmp_path / "out"
    folder.mkdir()
    for i, (name, place) in enumerate({"a": (0, 0), "far": (900, 2950), "b": (50, 0), "c": (100, 0)}.items()):
        write_scene(folder / f"{name}.tif", digital_numbers(50, 50, seed=i), transform=UTM @ Affine.translation(*place))
    large = batch(capsys, folder, out, pointwise, "--mosaic", "later", "--merge-polygons")
    told = f"has 3,000 × 950 pixels, of which the maps fill less than a hundredth; {map_of(out, 'far')} lies farthest"
    assert large.code == 0, large
    told_of = [large.err.index(each) for each in (told, "Mosaic: 100 %", "Polygons: 100 %")]
    assert told_of == sorted(told_of)
    assert "--bbox" in large.err
    small = batch(capsys, folder, out, pointwise, "--mosaic", "later", "--where", "name <> 'far'")
    assert "The mosaic has 50 × 150 pixels\n" in small.err


def test_polygons_of_all_maps_are_no_longer_made_when_the_batch_is_closed(
    tmp_path: Path, scenes: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def vectorize(*args: Any, watch: Callable[[int], None], **options: Any) -> None:
        for _ in range(10**6):
            watch(1)
        made.append("to the end")

    monkeypatch.setattr("landcover.vectorization.vectorize", vectorize)
    options = BatchOptions(str(scenes), tmp_path / "out", str(pointwise.folder), HOW, workers=1, merged={})
    with closing(run_batch(options)) as events:
        assert any(event == Told("Polygons: 10 %") for event in events)
    assert not made


def test_what_is_made_of_all_maps_follows_them_and_the_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pointwise: Model
) -> None:
    """Two scenes of one place; their names are in the reverse order of their times."""
    folder, out = tmp_path / "scenes", tmp_path / "out"
    folder.mkdir()

    def write(name: str, year: int, seed: int) -> None:
        scene = write_scene(folder / f"{name}.tif", digital_numbers(50, 50, seed=seed))
        with rasterio.open(scene, "r+") as file:
            file.update_tags(ns="IMAGERY", ACQUISITIONDATETIME=f"{year}-06-01T10:15:59Z")

    def mosaic(by: str) -> bytes:
        assert batch(capsys, folder, out, pointwise, "--confidence", "--mosaic", by).code == 0
        return (out / "mosaic.tif").read_bytes()

    write("a", 2024, 1)
    write("b", 2020, 2)
    before = mosaic("later")
    assert (read_map(out / "mosaic.tif") == read_map(map_of(out, "a"))).all(), "the later lies above"
    write("a", 2024, 9)
    after = mosaic("later")
    assert after != before
    assert (read_map(out / "mosaic.tif") == read_map(map_of(out, "a"))).all()
    assert mosaic("confidence") != after


def test_maps_of_a_batch_have_the_legend_that_is_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """What it says goes to the workers, not where it lies; scenes are mapped again when it says something else."""
    legend = tmp_path / "national.toml"
    classes = [f'{{ id = {10 * k}, name = "{name}", color = "#00000{k}" }}' for k, name in enumerate("abc", 1)]
    legend.write_text(f'name = "national"\nclasses = [{", ".join(classes)}]')
    out = tmp_path / "out"
    assert batch(capsys, scenes, out, pointwise, "--legend", legend).code == 0
    for name in SIZES:
        wanted = predicted(
            capsys, scenes / f"{name}.tif", tmp_path / "m.tif", pointwise, "--legend", legend, "--overwrite"
        )
        assert map_of(out, name).read_bytes() == wanted
        assert set(read_map(map_of(out, name)).flat) <= {10, 20, 30}
    before = map_of(out, "two").read_bytes()
    written = map_of(out, "two").stat().st_mtime_ns
    assert batch(capsys, scenes, out, pointwise, "--legend", legend).code == 0
    assert map_of(out, "two").stat().st_mtime_ns == written
    legend.write_text(legend.read_text().replace("#000001", "#ff0000"))
    assert batch(capsys, scenes, out, pointwise, "--legend", legend).code == 0
    assert map_of(out, "two").read_bytes() != before
    refused = batch(capsys, scenes, tmp_path / "other", pointwise, "--legend", "default")
    assert refused.code == 3
    assert "has no class 'a'" in refused.err


def test_an_option_of_mapping_that_is_none(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    with pytest.raises(ConfigError, match="mapping has no option 'band': did you mean 'bands'"):
        planned(scenes / "two.tif", tmp_path / "out", pointwise, mapping={"band": {"red": "1"}})


def test_overwrite_maps_all_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    """And anew what is made of them: the second time another engine, on another machine, may have been there."""
    made = [map_of(tmp_path / "out", "two"), tmp_path / "out" / "mosaic.tif"]
    times = []
    for more in ((), (), ("--overwrite",)):
        assert batch(capsys, scenes / "two.tif", tmp_path / "out", pointwise, "--mosaic", "later", *more).code == 0
        times.append([path.stat().st_mtime_ns for path in made])
    assert times[0] == times[1]
    assert all(before != after for before, after in zip(times[1], times[2], strict=True))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            "/vsicurl/https://me:pw@host/a.tif?sig=S%3D&x=1 cannot be opened: 'https://host/b.tif?token=T', why?",
            "/vsicurl/https://host/a.tif cannot be opened: 'https://host/b.tif', why?",
        ),
        ("https://h/a.tif?bidx=1,2&sig=S; correct it", "https://h/a.tif; correct it"),
        ("https://h/a.tif?a=b;sig=S", "https://h/a.tif"),
        ("https://h/a.tif?S is", "https://h/a.tif is"),
        ("https://h/a.tif#access_token=S", "https://h/a.tif"),
        ("https://me:p@ss@h/a.tif", "https://h/a.tif"),
        ("/vsis3/bucket/my file.tif?sig=S,T", "/vsis3/bucket/my file.tif"),
        ('{"scene": "https://h/a.tif?x=1,2&s=S", "b": 2}', '{"scene": "https://h/a.tif", "b": 2}'),
        ("is it so? yes, 1 = 1", "is it so? yes, 1 = 1"),
    ],
)
def test_neither_passwords_nor_signatures_are_kept(text: str, kept: str) -> None:
    assert without_secrets(text) == kept
