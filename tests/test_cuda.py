"""What is done on a CUDA card, done on one that is not there (tests/card.py)."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from landcover.classmap import SCORE_SCALE
from landcover.models import Model, init_model
from landcover.planning import Options, make_plan
from landcover.prediction import map_scene
from landcover.training import plan_training, train
from tests.card import CARD, Card, OnCard, Stream
from tests.lessons import write_lesson
from tests.scenes import digital_numbers, read_map, write_scene

Mapped = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An untrained network of segmentation-models-pytorch.

    No two classes score within 1e-5 of each other in the scene of `blocks`, while scores of a card, where batch
    normalisations are folded, lie within 1e-6 of those of the CPU: so every pixel of the map is the same.
    """
    slim = {"encoder_name": "mobilenet_v2", "decoder_channels": [16, 8, 8, 4, 4]}
    bands, classes, out = ("red", "nir"), ("a", "b", "c"), tmp_path_factory.mktemp("model") / "m"
    return init_model(out, architecture="smp-unet", bands=bands, classes=classes, hyperparameters=slim, seed=8)


def blocks(path: Path) -> Path:
    """A scene of 240 × 320 pixels in blocks of 16 × 16."""
    return write_scene(path, np.repeat(np.repeat(digital_numbers(15, 20), 16, 1), 16, 2))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Mapped:
    """Maps a small scene."""
    folder = tmp_path_factory.mktemp("mapped")
    scene = blocks(folder / "scene.tif")

    def run(device: str, precision: str = "f32", sums: str = "device", **layers: Path) -> np.ndarray:
        how = {"engine": "torch", "device": device, "precision": precision, "tile_size": 128, "overlap": 32}
        options = Options(scene, folder / "map.tif", model, allow_untrained=True, overwrite=True, **how, **layers)
        plan = make_plan(options)
        for _ in map_scene(replace(plan, choice=replace(plan.choice, sums=sums))):
            pass
        return read_map(folder / "map.tif")

    return run


@pytest.fixture(scope="module")
def on_cpu(mapped: Mapped) -> np.ndarray:
    labels = mapped("cpu")
    assert len(np.unique(labels)) > 1
    return labels


@pytest.mark.parametrize("sums", ["device", "host"])
def test_a_card_gives_the_map_of_the_cpu(mapped: Mapped, on_cpu: np.ndarray, tmp_path: Path, sums: str) -> None:
    with Card() as card:
        found = mapped("cuda", sums=sums, confidence=tmp_path / "sure.tif")
    np.testing.assert_array_equal(found, on_cpu)
    assert card.operations > 500
    assert card.faults == []


def test_a_card_computes_in_bf16(mapped: Mapped, tmp_path: Path) -> None:
    mapped("cpu", scores=tmp_path / "cpu.tif")
    with Card() as card:
        mapped("auto", "auto", scores=tmp_path / "card.tif")
    apart = read_map(tmp_path / "card.tif").astype(float) - read_map(tmp_path / "cpu.tif")
    assert 0 < np.abs(apart).max() < 0.05 / SCORE_SCALE
    assert card.faults == []


def test_a_card_with_little_memory_scores_fewer_windows_at_once(
    mapped: Mapped, on_cpu: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with Card(free_bytes=2**25) as card:
        found = mapped("cuda")
    np.testing.assert_array_equal(found, on_cpu)
    assert card.faults == []
    assert "cuda:0 has free memory for 1 of 3 windows at once" in caplog.messages


def test_a_network_learns_on_a_card_what_it_learns_on_the_cpu(tmp_path: Path) -> None:
    recipe = write_lesson(tmp_path, steps=4)
    train(plan_training(recipe, tmp_path / "cpu", device="cpu"))
    with Card() as card:
        train(plan_training(recipe, tmp_path / "cuda", device="cuda"))
    cpu, cuda = (load_file(tmp_path / device / "model.safetensors") for device in ("cpu", "cuda"))
    assert cpu.keys() == cuda.keys()
    for name, weights in cpu.items():
        np.testing.assert_allclose(cuda[name], weights, rtol=1e-4, atol=1e-6)
    assert card.operations > 1000
    assert card.faults == []


TWO_CARDS = """
import os, pathlib
from landcover import engines

def cuda_devices():
    return 2 if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is None else len(visible.split(","))

def open_engine(*args, opened=engines.open_engine):
    from tests.card import Card
    if not cards:
        cards.append(Card().__enter__())
    pathlib.Path({folder!r}, "card" + os.environ["CUDA_VISIBLE_DEVICES"]).touch()
    return opened(*args)

cards = []
engines.cuda_devices, engines.open_engine = cuda_devices, open_engine
engines.choice.cuda_devices = cuda_devices
"""
"""What every process runs as it starts: there are two cards, of which it sees those that it is to see."""


def test_each_worker_of_a_batch_has_a_card(tmp_path: Path, model: Model, on_cpu: np.ndarray) -> None:
    (tmp_path / "sitecustomize.py").write_text(TWO_CARDS.format(folder=str(tmp_path)))
    (tmp_path / "scenes").mkdir()
    for i in range(4):
        blocks(tmp_path / "scenes" / f"{i}.tif")
    how = ["--device", "cuda", "--precision", "f32", "--model", str(model.folder), "--allow-untrained"]
    how += ["--tile-size", "128", "--overlap", "32"]
    command = [sys.executable, "-m", "landcover", "batch", str(tmp_path / "scenes"), "-o", str(tmp_path / "maps"), *how]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)])
    subprocess.run(command, check=True, env={**environment, "PYTHONPATH": path})
    assert {file.name for file in tmp_path.glob("card*")} == {"card0", "card1"}
    for i in range(4):
        np.testing.assert_array_equal(read_map(tmp_path / "maps" / f"{i}" / f"{i}_map.tif"), on_cpu)


@pytest.mark.parametrize(
    ("owner", "what"), [(Stream, "wait_stream"), (Stream, "wait_event"), (OnCard, "record_stream")]
)
def test_what_streams_do_not_wait_for_is_found(
    mapped: Mapped, monkeypatch: pytest.MonkeyPatch, owner: type, what: str
) -> None:
    monkeypatch.setattr(owner, what, lambda *_: None)
    with Card() as card:
        mapped("cuda")
    assert card.faults != []


def test_what_a_card_refuses_is_refused() -> None:
    with Card():
        there = torch.arange(3.0).to(CARD)
        assert (there * 2).device == CARD
        assert (2 * there).sum().cpu() == 6
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError):
            there.numpy()
