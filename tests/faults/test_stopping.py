"""Runs that are killed, interrupted, or fail in the middle: nothing looks finished, and the next one goes on."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio.shutil
import shapely

from landcover import journal, planning, prediction
from landcover.cog import Layer
from landcover.errors import LandcoverError, OutputError, SceneError
from landcover.journal import open_run
from landcover.models import Model
from landcover.outputs import work_folder
from landcover.planning import Options, make_plan
from landcover.prediction import map_part, map_scene, predict
from tests.commands import tree
from tests.faults.runs import command, run, start
from tests.scenes import UTM, digital_numbers, read_map, write_scene

KILLS = 20


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", digital_numbers(700, 700))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, scene: Path, pointwise: Model) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "map.tif"
    run(*command(scene, out, pointwise))
    return out.read_bytes()


def test_killed_at_any_moment(tmp_path: Path, scene: Path, pointwise: Model, undisturbed: bytes) -> None:
    """Twenty kills at random moments, each time the same command again: the map comes out as if nothing happened."""
    moments = random.Random(0)
    out, args = tmp_path / "map.tif", command(scene, tmp_path / "map.tif", pointwise)
    began = time.monotonic()
    run(*args)
    length = time.monotonic() - began
    kills = 0
    while kills < KILLS:
        out.unlink(missing_ok=True)
        while not out.exists():
            process = subprocess.Popen(args, stderr=subprocess.DEVNULL)
            try:
                assert process.wait(moments.uniform(0, length) if kills < KILLS else None) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                assert not out.exists() or out.read_bytes() == undisturbed
        assert out.read_bytes() == undisturbed
        if process.returncode == 0:
            assert tree(tmp_path) == {"map.tif", "map.tif.aux.xml"}


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path: Path, scene: Path, pointwise: Model, undisturbed: bytes, sign: signal.Signals) -> None:
    """Once or several times, it ends in order, says so, and keeps what is finished."""
    out = tmp_path / "map.tif"
    process = start(command(scene, out, pointwise), out)
    for _ in range(3 if sign == signal.SIGINT else 1):
        process.send_signal(sign)
        time.sleep(0.002)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Error: interrupted" in err
    assert "kept in" in err
    assert "Traceback" not in err
    assert not out.exists()
    assert not list(tmp_path.glob("*.lock"))
    again = run(*command(scene, out, pointwise))
    assert re.search(r"Going on from \d+%", again)
    assert out.read_bytes() == undisturbed
    assert tree(tmp_path) == {"map.tif", "map.tif.aux.xml"}


def test_two_runs_on_one_output(tmp_path: Path, scene: Path, pointwise: Model, undisturbed: bytes) -> None:
    out = tmp_path / "map.tif"
    first = start(command(scene, out, pointwise), out)
    first.send_signal(signal.SIGSTOP)
    try:
        second = subprocess.run(command(scene, out, pointwise), capture_output=True, text=True, check=False)
    finally:
        first.send_signal(signal.SIGCONT)
        first.communicate()
    assert second.returncode == 3
    assert "another run is writing" in second.stderr
    assert out.read_bytes() == undisturbed


class Counting:
    """An engine that counts the windows it scores, and fails when it has scored enough."""

    def __init__(self, engine, enough: int | None) -> None:
        self._engine, self._enough, self.windows = engine, enough, 0

    def run(self, batches) -> Iterator:
        for batch, scores in self._engine.run(batches):
            if self.windows == self._enough:
                raise RuntimeError("the device is gone")
            self.windows += len(batch.cols)
            yield batch, scores

    def __getattr__(self, name: str):
        return getattr(self._engine, name)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[Counting]]:
    """Let engines fail after some windows; gives those that were opened."""
    real = prediction.open_engine

    def install(enough: int | None) -> list[Counting]:
        opened: list[Counting] = []

        def open_engine(*args) -> Counting:
            opened.append(Counting(real(*args), enough))
            return opened[-1]

        monkeypatch.setattr(prediction, "open_engine", open_engine)
        return opened

    return install


HOW = {"engine": "torch", "tile_size": 64, "overlap": 8, "allow_untrained": True}


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("enough", [5, 40, 100, 143])
def test_at_most_one_row_of_windows_is_repeated(
    tmp_path: Path, scene: Path, pointwise: Model, engine, monkeypatch: pytest.MonkeyPatch, enough: int, narrow: bool
) -> None:
    """Also where the scene is so wide that it is mapped in panels."""
    if narrow:
        monkeypatch.setattr(planning, "PANEL_BYTES", 1)
    out, how = tmp_path / "map.tif", {"model": pointwise, "confidence": tmp_path / "confidence.tif", **HOW}
    predict(scene, tmp_path / "whole.tif", **{**how, "confidence": tmp_path / "whole_confidence.tif"})
    plan = make_plan(Options(scene, out, **how))
    assert (len(plan.panels) > 1) == narrow
    total = sum(panel.windows for panel in plan.panels)
    engine(enough)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the device is gone"):
        predict(scene, out, **how)
    assert threading.active_count() == before
    assert not out.exists()
    opened = engine(None)
    predict(scene, out, **how)
    (second,) = opened
    assert second.windows <= total - enough + 2 * max(len(panel.window_cols) for panel in plan.panels)
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert (tmp_path / "confidence.tif").read_bytes() == (tmp_path / "whole_confidence.tif").read_bytes()
    assert not [p for p in tree(tmp_path) if p.startswith(".")]


@pytest.fixture
def stopped(tmp_path: Path, scene: Path, pointwise: Model) -> Path:
    """A folder with a copy of the scene, and a run of it that was stopped."""
    shutil.copy(scene, tmp_path / "scene.tif")
    how = map_scene(make_plan(Options(tmp_path / "scene.tif", tmp_path / "map.tif", pointwise, **HOW)))
    work = tmp_path / ".map.tif.work"
    while not (work / "journal.json").exists():
        next(how)
    how.close()
    assert work.exists()
    return tmp_path


def again(folder: Path, model: Model, **changed) -> Path:
    return predict(folder / "scene.tif", folder / "map.tif", **{"model": model, **HOW, **changed})


def test_another_configuration_is_refused(stopped: Path, pointwise: Model) -> None:
    with pytest.raises(OutputError, match=r"not of this one: windows differs.*--no-resume"):
        again(stopped, pointwise, overlap=16)
    with pytest.raises(OutputError, match=r"outputs differs"):
        again(stopped, pointwise, confidence=stopped / "c.tif")
    assert tree(stopped) >= {".map.tif.work/journal.json", ".map.tif.work/rows.raw"}
    again(stopped, pointwise)
    assert tree(stopped) == {"scene.tif", "map.tif", "map.tif.aux.xml"}


def stop_with_confidence(folder: Path, scene: Path, model: Model, confidence: Path) -> None:
    """Kill a run that writes a confidence too."""
    process = start(command(scene, folder / "map.tif", model, "--confidence", confidence), folder / "map.tif")
    process.kill()
    process.communicate()


@pytest.mark.parametrize("noted", [True, False], ids=["rows finished", "no row finished"])
def test_a_run_that_is_dropped_leaves_nothing_of_its_other_outputs(
    tmp_path: Path, scene: Path, pointwise: Model, undisturbed: bytes, noted: bool
) -> None:
    """A map with its confidence is killed; then the map alone is made."""
    (tmp_path / "other").mkdir()
    stop_with_confidence(tmp_path, scene, pointwise, tmp_path / "other" / "c.tif")
    assert (tmp_path / "other" / ".c.tif.work").exists()
    if not noted:
        (tmp_path / ".map.tif.work" / "journal.json").unlink()
    run(*command(scene, tmp_path / "map.tif", pointwise, *(["--no-resume"] if noted else [])))
    assert (tmp_path / "map.tif").read_bytes() == undisturbed
    assert tree(tmp_path) == {"map.tif", "map.tif.aux.xml", "other"}


def of_another_run(work: Path) -> None:
    (work / "run").write_text("0" * 32)


def without_a_mark(work: Path) -> None:
    (work / "run").unlink()


def behind_a_link(work: Path) -> None:
    work.rename(work.with_name("kept"))
    work.symlink_to("kept")


@pytest.mark.parametrize("change", [of_another_run, without_a_mark, behind_a_link])
def test_folders_that_are_not_of_the_dropped_run_stay(tmp_path: Path, scene: Path, pointwise: Model, change) -> None:
    """Whatever its notes say."""
    stop_with_confidence(tmp_path, scene, pointwise, tmp_path / "c.tif")
    change(tmp_path / ".c.tif.work")
    run(*command(scene, tmp_path / "map.tif", pointwise, "--no-resume"))
    assert (tmp_path / ".c.tif.work" / "rows.raw").exists()


@pytest.mark.parametrize("notes", [None, b"", b"{}", b"[3]", b'["a\\u0000b", "", "..", "/", "/no/such/folder/c.tif"]'])
def test_notes_of_other_outputs_that_are_missing_or_damaged(
    tmp_path: Path, scene: Path, pointwise: Model, undisturbed: bytes, notes: bytes | None
) -> None:
    """Those of an older version, which noted none, too."""
    stop_with_confidence(tmp_path, scene, pointwise, tmp_path / "c.tif")
    others = tmp_path / ".map.tif.work" / "others.json"
    others.unlink() if notes is None else others.write_bytes(notes)
    run(*command(scene, tmp_path / "map.tif", pointwise, "--no-resume"))
    assert (tmp_path / "map.tif").read_bytes() == undisturbed
    assert (tmp_path / ".c.tif.work" / "rows.raw").exists()


def test_a_folder_that_a_living_run_uses_stays(tmp_path: Path, scene: Path, pointwise: Model) -> None:
    stop_with_confidence(tmp_path, scene, pointwise, tmp_path / "c.tif")
    with work_folder(tmp_path / "c.tif", keep=lambda: True) as work:
        run(*command(scene, tmp_path / "map.tif", pointwise, "--no-resume"))
        assert (work / "rows.raw").exists()


def test_every_fact_of_a_stopped_run_counts(stopped: Path, pointwise: Model) -> None:
    left, top = UTM @ (0, 0)
    right, bottom = UTM @ (700, 700)
    area = stopped / "area.geojson"
    triangle = shapely.Polygon([(left, top), (right, top), (right, bottom), (left, bottom), (left + 300, bottom + 300)])
    geopandas.GeoSeries([triangle], crs="EPSG:32633").to_file(area)
    changes = {
        "area of interest": {"aoi": area},
        "bands": {"scale": 3e-4},
        "region": {"bbox": (left, bottom + 50, right, top)},
    }
    for fact, changed in changes.items():
        with pytest.raises(OutputError, match=f"not of this one: .*{fact}"):
            again(stopped, pointwise, **changed)


def test_pixels_are_on_the_disk_before_the_journal_tells_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    fsync, publish_text = os.fsync, journal.publish_text

    def sync(number: int) -> None:
        did.append(Path(f"/proc/self/fd/{number}").readlink().name)
        fsync(number)

    def publish(path: Path, text: str) -> None:
        did.append("the journal")
        publish_text(path, text)

    layers = {"map": Layer(tmp_path / "map.tif", 20, 20, UTM, None, "uint8", 0, ("class",))}
    with open_run(layers) as run:
        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(journal, "publish_text", publish)
        ones = {"map": np.ones((1, 5, 20), np.uint8)}
        run.write(0, 0, (5, 20), ones, 100)
        run.rewind()
        run.write(0, 0, (5, 20), ones, 100)
        run.mark(0, 5)
        assert did[:2] == ["rows.raw", "the journal"]
        assert run.progress.mapped == 100, "what is written again is counted once"
        assert (tmp_path / ".map.tif.work" / "rows.raw").read_bytes()[:100] == b"\1" * 100
        monkeypatch.undo()


def test_a_scene_that_changed_is_refused(stopped: Path, pointwise: Model) -> None:
    other = write_scene(stopped / "scene.tif", digital_numbers(700, 700, seed=9))
    with pytest.raises(OutputError, match="scene differs"):
        again(stopped, pointwise)
    again(stopped, pointwise, resume=False)
    predict(other, stopped / "fresh.tif", model=pointwise, **HOW)
    assert (stopped / "map.tif").read_bytes() == (stopped / "fresh.tif").read_bytes()


def test_another_page_of_a_file_is_another_scene(tmp_path: Path, pointwise: Model) -> None:
    pages = write_scene(tmp_path / "pages.tif", digital_numbers(40, 40))
    other = write_scene(tmp_path / "other.tif", digital_numbers(40, 40, seed=9))
    rasterio.shutil.copy(other, pages, driver="GTiff", APPEND_SUBDATASET=True)
    plans = [make_plan(Options(f"GTIFF_DIR:{i}:{pages}", tmp_path / "map.tif", pointwise, **HOW)) for i in (1, 2)]
    assert plans[0].facts["scene"] != plans[1].facts["scene"]


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize(
    "source", ["{}/scene.tif", "file://{}/scene.tif", "vrt://{}/scene.tif?bands=1,2", "{}/of_view.vrt"]
)
def test_a_scene_that_changes_while_it_is_mapped_leaves_no_map(
    tmp_path: Path, scene: Path, pointwise: Model, part: bool, source: str
) -> None:
    own = tmp_path / "scene.tif"
    shutil.copy(scene, own)
    rasterio.shutil.copy(own, view := tmp_path / "view.vrt", driver="VRT")
    (tmp_path / "of_view.vrt").write_text(view.read_text().replace("scene.tif", "view.vrt"))
    before = tree(tmp_path)
    plan = make_plan(Options(source.format(tmp_path), tmp_path / "map.tif", pointwise, **HOW))
    how = map_part(plan.parts(4, tmp_path)[0]) if part else map_scene(plan)
    for _ in range(20):
        next(how)
    write_scene(own, digital_numbers(700, 700, seed=9))
    with pytest.raises(SceneError, match="changed while it was mapped"):
        list(how)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "lie",
    [
        b"",
        b"{",
        b"[]",
        b'{"facts": {}, "progress": {}}',
        {"panel": 1, "row": 5},
        {"panel": 7},
        {"row": 700},
        {"row": 10**30},
        {"row": -1},
        {"row": "12"},
        {"row": 12, "and": "more"},
    ],
)
def test_a_journal_that_lies_is_refused(stopped: Path, pointwise: Model, lie: bytes | dict) -> None:
    journal = stopped / ".map.tif.work" / "journal.json"
    if isinstance(lie, dict):
        entry = json.loads(journal.read_bytes())
        lie = json.dumps({**entry, "progress": {"panel": 0, "row": 0, "mapped": 1, **lie}}).encode()
    journal.write_bytes(lie)
    with pytest.raises(OutputError, match="--no-resume"):
        again(stopped, pointwise)
    assert journal.read_bytes() == lie
    again(stopped, pointwise, resume=False)
    assert (read_map(stopped / "map.tif") > 0).all()


@pytest.mark.parametrize("change", [lambda p: p.unlink(), lambda p: os.truncate(p, 1000)])
def test_rows_that_are_gone_are_noticed(stopped: Path, pointwise: Model, change) -> None:
    change(stopped / ".map.tif.work" / "rows.raw")
    with pytest.raises(OutputError, match=r"lacks the finished rows.*--no-resume"):
        again(stopped, pointwise)


def test_rows_that_another_run_has_written_since_are_noticed(tmp_path: Path, scene: Path, pointwise: Model) -> None:
    """Two maps that are to have their confidence in the same file, both stopped, and the first one again."""
    other = write_scene(tmp_path / "other.tif", digital_numbers(700, 700, seed=9))
    shared = HOW | {"confidence": tmp_path / "c.tif"}
    for source, name in ((scene, "a.tif"), (other, "b.tif")):
        how = map_scene(make_plan(Options(source, tmp_path / name, pointwise, **shared)))
        while not (tmp_path / f".{name}.work" / "journal.json").exists():
            next(how)
        how.close()
    with pytest.raises(OutputError, match=r"lacks the finished rows.*--no-resume"):
        predict(scene, tmp_path / "a.tif", model=pointwise, **shared)
    predict(other, tmp_path / "b.tif", model=pointwise, **shared)


def test_nothing_is_kept_where_nothing_is_finished(tmp_path: Path, scene: Path, pointwise: Model) -> None:
    """The first row of windows ends above the box."""
    (left, top), (right, bottom) = UTM @ (0, 60), UTM @ (700, 170)
    box = (left, bottom, right, top)
    run = map_scene(make_plan(Options(scene, tmp_path / "map.tif", pointwise, bbox=box, **HOW)))
    for _ in range(4):
        next(run)
    run.close()
    assert tree(tmp_path) == set()


def test_a_stopped_run_of_a_box_goes_on_where_it_stopped(tmp_path: Path, scene: Path, pointwise: Model) -> None:
    """Rows are counted from the top of the box."""
    (left, top), (right, bottom) = UTM @ (0, 90), UTM @ (120, 300)
    how = {"model": pointwise, "bbox": (left, bottom, right, top), **HOW}
    stopped = map_scene(make_plan(Options(scene, tmp_path / "map.tif", **how)))
    journal = tmp_path / ".map.tif.work" / "journal.json"
    while not journal.exists():
        next(stopped)
    stopped.close()
    row = json.loads(journal.read_text())["progress"]["row"]
    assert 0 < row < 90
    again = map_scene(make_plan(Options(scene, tmp_path / "map.tif", **how)))
    assert next(again) == row * 120
    list(again)
    whole = predict(scene, tmp_path / "whole.tif", **how)
    assert (tmp_path / "map.tif").read_bytes() == whole.read_bytes()


def test_a_scene_without_a_valid_pixel_leaves_nothing(tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", np.zeros((2, 300, 200), np.uint16), nodata=0)
    with pytest.raises(LandcoverError, match="no valid pixel"):
        predict(scene, tmp_path / "map.tif", model=pointwise, **HOW)
    assert tree(tmp_path) == {"scene.tif"}
