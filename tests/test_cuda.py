"""What is done on a CUDA card, done on one that is not there (tests/card.py)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from landcover.classmap import SCORE_SCALE
from landcover.models import init_model
from landcover.planning import Options, make_plan
from landcover.prediction import map_scene
from landcover.training import plan_training, train
from tests.card import CARD, Card, OnCard, Stream
from tests.lessons import write_lesson
from tests.scenes import digital_numbers, read_map, write_scene

Mapped = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    """Maps a small scene with an untrained network of segmentation-models-pytorch."""
    folder = tmp_path_factory.mktemp("mapped")
    scene = write_scene(folder / "scene.tif", np.repeat(np.repeat(digital_numbers(15, 20), 16, 1), 16, 2))
    slim = {"encoder_name": "mobilenet_v2", "decoder_channels": [16, 8, 8, 4, 4]}
    bands, classes = ("red", "nir"), ("a", "b", "c")
    model = init_model(
        folder / "model", architecture="smp-unet", bands=bands, classes=classes, hyperparameters=slim, seed=2
    )

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
