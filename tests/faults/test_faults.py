"""Runs that are killed, interrupted, or fail in the middle: nothing looks finished, and the next run is right."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from landcover import prediction
from landcover.classmap import open_sinks
from landcover.errors import OutputError
from landcover.models import Model
from landcover.pipeline import read_ahead, write_behind
from landcover.planning import Options, make_plan
from landcover.prediction import map_scene, predict
from tests.commands import tree
from tests.scenes import digital_numbers, write_scene


def command(scene: Path, out: Path, model: Model) -> list[str]:
    """A run that takes some seconds, because its windows are tiny."""
    fixed = ["--allow-untrained", "--engine", "torch", "--tile-size", "16", "--overlap", "4"]
    return [sys.executable, "-m", "landcover", "predict", str(scene), "-o", str(out), "-m", str(model.folder), *fixed]


def start(args: list[str], out: Path) -> subprocess.Popen:
    """Start a run, and wait until it writes rows."""
    process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    rows = out.parent / f".{out.name}.work" / "rows.raw"
    until = time.monotonic() + 120
    while not (rows.exists() and rows.stat().st_blocks > 0):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, "no rows were written in two minutes"
        time.sleep(0.01)
    return process


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", digital_numbers(700, 700))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, scene: Path, pointwise: Model) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "map.tif"
    subprocess.run(command(scene, out, pointwise), check=True, capture_output=True)
    return out.read_bytes()


def test_a_killed_run_leaves_no_map_and_the_next_one_is_right(
    tmp_path: Path, scene: Path, pointwise: Model, undisturbed: bytes
) -> None:
    out = tmp_path / "map.tif"
    process = start(command(scene, out, pointwise), out)
    process.kill()
    process.communicate()
    assert not out.exists()
    subprocess.run(command(scene, out, pointwise), check=True, capture_output=True)
    assert out.read_bytes() == undisturbed
    assert tree(tmp_path) == {"map.tif", "map.tif.aux.xml"}


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_soon_and_leaves_nothing(
    tmp_path: Path, scene: Path, pointwise: Model, sign: signal.Signals
) -> None:
    out = tmp_path / "map.tif"
    process = start(command(scene, out, pointwise), out)
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Error: interrupted" in err
    assert "Traceback" not in err
    assert tree(tmp_path) == set()


def test_two_runs_on_one_output(tmp_path: Path, scene: Path, pointwise: Model, undisturbed: bytes) -> None:
    out = tmp_path / "map.tif"
    first = start(command(scene, out, pointwise), out)
    second = subprocess.run(command(scene, out, pointwise), capture_output=True, text=True, check=False)
    assert second.returncode == 3
    assert "another run is writing" in second.stderr
    first.communicate()
    assert out.read_bytes() == undisturbed


def test_outputs_on_two_file_systems(small_disk: Path, tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(60, 50))
    how = {"model": pointwise, "engine": "torch", "allow_untrained": True}
    predict(scene, tmp_path / "map.tif", confidence=small_disk / "confidence.tif", **how)
    assert (tmp_path / "map.tif").exists()
    assert tree(small_disk) == {"confidence.tif"}


def test_a_second_interrupt_does_not_disturb_the_clearing_up(tmp_path: Path, scene: Path, pointwise: Model) -> None:
    out = tmp_path / "map.tif"
    process = start(command(scene, out, pointwise), out)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert tree(tmp_path) == set()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here: it needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("rows", [5, 30])
def test_a_full_disk(small_disk: Path, scene: Path, pointwise: Model, rows: int) -> None:
    """It is full at the raw rows, or, where they fit because they are few, at the encoded file."""
    if rows == 30:
        (small_disk / "ballast").write_bytes(bytes(150_000))
    out = small_disk / "map.tif"
    done = subprocess.run(command(scene, out, pointwise), capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "map.tif cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [p for p in tree(small_disk) if p != "ballast"]


def test_a_disk_that_is_full_when_the_map_is_encoded(small_disk: Path, tmp_path: Path, pointwise: Model) -> None:
    """The rows fit, the GeoTIFF beside them does not."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(400, 600))
    plan = make_plan(Options(scene, small_disk / "map.tif", pointwise, allow_untrained=True))
    noise = np.random.default_rng(0).integers(1, 4, (1, 400, 600)).astype("uint8")

    def write() -> None:
        with open_sinks(list(plan.layers.values())) as (sink,):
            sink.write(0, noise)
            (small_disk / "ballast").write_bytes(bytes(40_000))

    with pytest.raises(OutputError, match=r"disk full|No space"):
        write()
    assert tree(small_disk) == {"ballast"}


def test_an_engine_that_fails_in_the_middle(
    tmp_path: Path, scene: Path, pointwise: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __init__(self, engine) -> None:
            self._engine, self._calls = engine, 0

        def scores(self, dn: np.ndarray, valid: np.ndarray):
            self._calls += 1
            if self._calls > 20:
                raise RuntimeError("the device is gone")
            return self._engine.scores(dn, valid)

        def __getattr__(self, name: str):
            return getattr(self._engine, name)

    real = prediction.open_engine
    monkeypatch.setattr(prediction, "open_engine", lambda *args: Failing(real(*args)))
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the device is gone"):
        predict(
            scene, tmp_path / "map.tif", model=pointwise, engine="torch", tile_size=64, allow_untrained=True, overlap=8
        )
    assert threading.active_count() == before
    assert tree(tmp_path) == set()


def test_a_reader_that_fails_hands_its_error_over() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the tape tore")

    with read_ahead(items()) as taken:
        assert next(taken) == 1
        with pytest.raises(OSError, match="the tape tore"):
            next(taken)


def test_leaving_early_ends_the_reader() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    with read_ahead(items(), depth=2) as taken:
        next(taken)
    assert closed.is_set()


def test_a_writer_that_fails_hands_its_error_over() -> None:
    def write(item: int) -> None:
        if item == 3:
            raise OSError("no space")

    def give_many() -> None:
        with write_behind(write, depth=1) as give:
            for item in range(100):
                give(item)

    with pytest.raises(OSError, match="no space"):
        give_many()


def test_a_writer_that_fails_at_the_last_item_is_noticed() -> None:
    def write(item: int) -> None:
        time.sleep(0.05)
        raise OSError("no space")

    def give_one() -> None:
        with write_behind(write) as give:
            give(1)

    with pytest.raises(OSError, match="no space"):
        give_one()


def test_closing_a_run_early_leaves_nothing(tmp_path: Path, scene: Path, pointwise: Model) -> None:
    options = Options(
        scene, tmp_path / "map.tif", pointwise, engine="torch", tile_size=64, overlap=8, allow_untrained=True
    )
    run = map_scene(make_plan(options))
    next(run)
    run.close()
    assert tree(tmp_path) == set()
    assert not os.path.lexists(tmp_path / ".map.tif.lock")
