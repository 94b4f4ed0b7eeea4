"""Engines agree with torch in float32, and the cache of converted networks changes nothing but the time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from landcover import engines
from landcover.engines import CACHED_GRAPHS, EngineChoice, cache_folder, choose_engine, open_engine
from landcover.errors import ConfigError
from landcover.models import Model, init_model
from landcover.network import architectures
from landcover.prediction import predict
from landcover.scaling import make_scaling
from tests.scenes import digital_numbers, write_scene

SCALING = make_scaling([1e-4] * 2, [0.0] * 2, [0.15] * 2, [0.1] * 2)
SHAPE = (2, 2, 64, 96)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An untrained network of segmentation-models-pytorch."""
    folder = tmp_path_factory.mktemp("model") / "m"
    arguments = {"encoder_name": "mobilenet_v2", "decoder_channels": [32, 16, 16, 8, 8]}
    return init_model(
        folder, architecture="smp-unet", bands=("red", "nir"), classes=("a", "b", "c"), hyperparameters=arguments
    )


def batch() -> tuple[np.ndarray, np.ndarray]:
    dn = np.stack([digital_numbers(64, 96, seed=s) for s in (0, 1)])
    valid = np.random.default_rng(0).random((2, 1, 64, 96)) > 0.1
    return dn, valid


def scores(choice: EngineChoice, model: Model) -> np.ndarray:
    engine = open_engine(choice, model, SCALING, SHAPE, "uint16")
    return np.array(engine.numpy(engine.scores(*batch())))


def test_openvino_agrees_with_torch(model: Model) -> None:
    torch, openvino = (scores(EngineChoice(name, "cpu", ""), model) for name in ("torch", "openvino"))
    np.testing.assert_allclose(torch.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(openvino, torch, atol=1e-4)


@pytest.mark.parametrize("architecture", [a for a in architectures() if a != "pointwise"])
def test_every_architecture_is_converted(tmp_path: Path, architecture: str) -> None:
    encoder = {"segformer": "mit_b0", "dpt": "tu-vit_tiny_patch16_224"}.get(architecture, "resnet18")
    arguments = {} if architecture == "unet" else {"encoder_name": encoder}
    made = init_model(
        tmp_path / "m", architecture=architecture, bands=("red", "nir"), classes=("a", "b"), hyperparameters=arguments
    )
    rows, cols = 3 * made.stride, 6 * made.stride
    dn = digital_numbers(rows, cols)[None]
    valid = np.ones((1, 1, rows, cols), bool)
    found = []
    for name in ("torch", "openvino"):
        engine = open_engine(EngineChoice(name, "cpu", ""), made, SCALING, dn.shape, "uint16")
        found.append(np.array(engine.numpy(engine.scores(dn, valid))))
    # A vision transformer's positions are resampled to the chip, bicubic and smoothed, where OpenVINO has its own way.
    np.testing.assert_allclose(found[1], found[0], atol=2e-2 if architecture == "dpt" else 1e-3)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_bf16_is_close(model: Model, engine: str) -> None:
    if engine == "openvino" and choose_engine("cpu", "openvino").precision == "f32":
        pytest.skip("this processor does not compute in bf16")
    exact, coarse = (scores(EngineChoice(engine, "cpu", "", precision), model) for precision in ("f32", "bf16"))
    assert 0 < np.abs(coarse - exact).max() < 0.05


def test_what_is_not_valid_does_not_count(model: Model) -> None:
    dn, valid = batch()
    engine = open_engine(EngineChoice("torch", "cpu", ""), model, SCALING, SHAPE, "uint16")
    other = np.where(valid, dn, 60_000).astype("uint16")
    np.testing.assert_array_equal(engine.numpy(engine.scores(dn, valid)), engine.numpy(engine.scores(other, valid)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LANDCOVER_CACHE", str(tmp_path / "cache"))
    return cache_folder() / "openvino"


OPENVINO = EngineChoice("openvino", "cpu", "")


def test_the_cache_changes_nothing(model: Model, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scores(OPENVINO, model)
    monkeypatch.setattr(engines, "_openvino_graph", lambda *_: pytest.fail("converted again"))
    np.testing.assert_array_equal(scores(OPENVINO, model), first)


def test_a_broken_cache_is_made_anew(model: Model, cache: Path) -> None:
    first = scores(OPENVINO, model)
    (graph,) = cache.glob("*/graph.xml")
    graph.write_text("<net")
    np.testing.assert_array_equal(scores(OPENVINO, model), first)
    assert len(graph.read_text()) > 100


def test_a_cache_that_cannot_be_written_is_done_without(model: Model, cache: Path) -> None:
    cache.parent.write_text("in the way")
    assert scores(OPENVINO, model).shape == (2, 3, 64, 96)


def test_the_cache_does_not_grow_without_end(pointwise: Model, cache: Path) -> None:
    for i in range(CACHED_GRAPHS + 3):
        scaling = make_scaling([1e-4 * (i + 1)] * 2, [0.0] * 2, [0.15] * 2, [0.1] * 2)
        open_engine(OPENVINO, pointwise, scaling, (1, 2, 8, 8), "uint16")
    assert len(list(cache.iterdir())) == CACHED_GRAPHS


def test_a_second_run_does_not_import_torch(tmp_path: Path, pointwise: Model) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(40, 40))
    predict(scene, tmp_path / "first.tif", model=pointwise, engine="openvino", device="cpu", allow_untrained=True)
    code = (
        "import sys, landcover; from landcover.models import load_model; "
        f"landcover.predict({str(scene)!r}, {str(tmp_path / 'map.tif')!r}, model={str(pointwise.folder)!r}, "
        "engine='openvino', device='cpu', allow_untrained=True); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "first.tif").read_bytes()


def test_the_cpu_runs_openvino_unless_told_otherwise() -> None:
    assert choose_engine("cpu").engine == "openvino"
    assert choose_engine("cpu", "torch").engine == "torch"


def test_without_openvino_the_cpu_runs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_has_openvino", lambda: False)
    assert choose_engine("cpu") == EngineChoice("torch", "cpu", "asked for, and no openvino package", "f32")
    with pytest.raises(ConfigError, match="not installed"):
        choose_engine("cpu", "openvino")


def test_a_cuda_device_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "cuda_devices", lambda: 2)
    monkeypatch.setattr(engines, "_computes_in_bf16", lambda choice: choice.device != "cpu")
    assert choose_engine().device == "cuda:0"
    assert choose_engine("cuda:1") == EngineChoice("torch", "cuda:1", "asked for", "bf16")
    assert choose_engine("cuda", precision="f32").precision == "f32"
    with pytest.raises(ConfigError, match="sees 2 CUDA devices"):
        choose_engine("cuda:2")
    with pytest.raises(ConfigError, match="runs on a CPU"):
        choose_engine("cuda", "openvino")
