"""Engines agree with torch in float32, and the cache of converted networks changes nothing but the time."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import landcover.engines.openvino
from landcover.chips import Batch
from landcover.engines import Engine, EngineChoice, choice, choose_engine, conversion, open_engine
from landcover.engines.conversion import CACHED_GRAPHS, cache_folder
from landcover.engines.openvino import best
from landcover.engines.rewriting import fold_batch_norms, merge_upsampling
from landcover.engines.torch import TorchEngine
from landcover.errors import ConfigError, DeviceError, ModelError
from landcover.models import Model, init_model, load_model
from landcover.network import architectures, build_network
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


def run(engine: Engine, *given: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """The scores of some batches of dn and valid."""
    wanted = [Batch(0, range(len(dn)), dn, valid, valid[:, 0]) for dn, valid in given]
    found = []
    for made, (one, scores) in zip(wanted, engine.run(iter(wanted)), strict=True):
        assert one is made
        found.append(np.stack([np.array(engine.numpy(chip)) for chip in scores]))
    return found


def scores(choice: EngineChoice, model: Model) -> np.ndarray:
    return run(open_engine(choice, model, SCALING, SHAPE, "uint16"), batch())[0]


def test_openvino_agrees_with_torch(model: Model) -> None:
    exact, fast = (scores(EngineChoice(name, "cpu", ""), model) for name in ("torch", "openvino"))
    np.testing.assert_allclose(exact.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(fast, exact, atol=1e-4)


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_batches_do_not_mix(model: Model, name: str) -> None:
    """However many are under way, each batch gets its own scores, the same as when it comes alone."""
    engine = open_engine(EngineChoice(name, "cpu", ""), model, SCALING, SHAPE, "uint16", 2)
    given = [(digital_numbers(64, 96, 4, seed=s).reshape(SHAPE), np.ones((2, 1, 64, 96), bool)) for s in range(5)]
    for together, one in zip(run(engine, *given), given, strict=True):
        np.testing.assert_array_equal(together, run(engine, one)[0])


def test_leaving_early_ends_what_is_under_way(model: Model) -> None:
    engine = open_engine(OPENVINO, model, SCALING, SHAPE, "uint16", 2)
    dn, valid = batch()
    stopped = engine.run(Batch(0, range(2), dn, valid, valid[:, 0]) for _ in range(100))
    next(stopped)
    stopped.close()
    fresh = open_engine(OPENVINO, model, SCALING, SHAPE, "uint16")
    np.testing.assert_array_equal(run(engine, (dn, valid))[0], run(fresh, (dn, valid))[0])


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_scores_do_not_depend_on_the_number_of_threads(precision: str) -> None:
    """OpenVINO cuts sums by it: with two threads in one window of this size, every second score was another one."""
    if precision == "bf16" and choose_engine("cpu", "openvino").precision == "f32":
        pytest.skip("this processor does not compute in bf16")
    six = load_model("landcover-6band")
    scaling = make_scaling([1e-4] * 6, [0.0] * 6, [b.mean for b in six.spec.stats], [b.stddev for b in six.spec.stats])
    shape, valid = (1, 6, 384, 384), np.ones((1, 1, 384, 384), bool)
    given = [(digital_numbers(384, 384, 6, seed=s)[None], valid) for s in range(3)]
    choice = EngineChoice("openvino", "cpu", "", precision)
    alone, together = (run(open_engine(choice, six, scaling, shape, "uint16", n), *given) for n in (1, 2))
    np.testing.assert_array_equal(together, alone)


def test_with_little_memory_fewer_batches_are_scored_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = scores(OPENVINO, model)
    for memory, fit in ((2**40, 2), (2**20, 1)):
        monkeypatch.setattr(landcover.engines.openvino, "own_memory", lambda memory=memory: memory)
        engine = open_engine(OPENVINO, model, SCALING, SHAPE, "uint16", 2)
        assert len(engine._requests) == min(fit, len(os.sched_getaffinity(0)))
        np.testing.assert_array_equal(run(engine, batch(), batch()), [wanted] * 2)
    assert caplog.messages == ["memory for 2 of 4 windows at once; with a smaller --tile-size more cores are busy"]


@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 20), st.integers(0, 99))
def test_best_is_argmax(classes: int, rows: int, cols: int, seed: int) -> None:
    """Equal scores too: the first of them is taken."""
    values = np.random.default_rng(seed).integers(0, 4, (classes, rows, cols)).astype(np.float32)
    np.testing.assert_array_equal(best(values), values.argmax(axis=0))


class Small(nn.Module):
    """Runs out of memory with more chips than it has room for."""

    def __init__(self, scorer: nn.Module, room: int) -> None:
        super().__init__()
        self.scorer, self.room = scorer, room

    def forward(self, dn: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        if len(dn) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.scorer(dn, valid)


@pytest.mark.parametrize("room", [3, 2, 1])
def test_a_device_with_little_memory_takes_fewer_chips_at_once(
    model: Model, room: int, caplog: pytest.LogCaptureFixture
) -> None:
    dn, valid = digital_numbers(64, 96, 10).reshape(5, 2, 64, 96), np.ones((5, 1, 64, 96), bool)
    ample = TorchEngine(model, SCALING, "cpu")
    small = TorchEngine(model, SCALING, "cpu")
    small._scorer = Small(small._scorer, room)
    given = (dn, valid), (dn[::-1].copy(), valid)
    for found, wanted in zip(run(small, *given), run(ample, *given), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert len(caplog.messages) == {3: 1, 2: 2, 1: 3}[room], "said once for each step down, not for each batch"


def test_as_many_chips_at_once_as_the_free_memory_holds(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    dn, valid = digital_numbers(64, 96, 10).reshape(5, 2, 64, 96), np.ones((5, 1, 64, 96), bool)
    engine = TorchEngine(model, SCALING, "cpu")
    engine._scorer = Small(engine._scorer, 2)
    engine._free_bytes = lambda: 2 * 4 * 64 * 96 * engine._values + 1
    (found,) = run(engine, (dn, valid))
    assert len(found) == 5
    assert caplog.messages == ["cpu has free memory for 2 of 5 windows at once"]


def test_a_device_without_memory_for_one_window_is_an_error(model: Model) -> None:
    engine = TorchEngine(model, SCALING, "cpu")
    engine._scorer = Small(engine._scorer, 0)
    with pytest.raises(DeviceError, match=r"one window of 64 × 96 pixels; give a smaller --tile-size"):
        run(engine, batch())


def lively(architecture: str, arguments: dict) -> nn.Module:
    """A network whose batch normalisations do something."""
    torch.manual_seed(0)
    network = build_network(architecture, 3, 4, arguments).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network


def norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("unet", {"width": 8}),
        ("smp-unet", {"encoder_name": "resnet18"}),
        ("smp-unet", {"encoder_name": "mobilenet_v2"}),
        ("smp-unet", {"encoder_name": "resnet18", "decoder_attention_type": "scse"}),
        ("smp-unet", {"encoder_name": "tu-convnext_atto"}),
        ("unetplusplus", {"encoder_name": "resnet18"}),
        ("fpn", {"encoder_name": "efficientnet-b0"}),
    ],
)
def test_folding_and_merging_change_only_the_work(architecture: str, arguments: dict) -> None:
    network = lively(architecture, arguments)
    chip, other = torch.rand(1, 3, 64, 64), torch.rand(2, 3, 128, 96)
    folded, merged = fold_batch_norms(network, chip), merge_upsampling(network, chip)
    shared = merge_upsampling(network, chip, share=True)
    for rewritten in (folded, merged, shared):
        torch.testing.assert_close(rewritten(other), network(other), atol=1e-4, rtol=1e-4)
    if "convnext" not in str(arguments):
        assert norms(folded) <= 1 < norms(network), "all but one that the network has and never calls"
    if architecture == "smp-unet" and "decoder_attention_type" not in arguments:
        assert any(isinstance(m, nn.ConvTranspose2d) and m.kernel_size == (4, 4) for m in merged.modules())
        many = arguments["encoder_name"] in ("resnet18", "mobilenet_v2")  # 512 and 1,280 channels; ConvNeXt has 320
        assert many == any(isinstance(m, nn.Conv2d) and m.out_channels == 9 * 256 for m in shared.modules())


def test_what_is_not_the_same_is_not_folded() -> None:
    """A convolution whose output is used twice, and one with a ReLU before the normalisation."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.norm.running_mean += 0.3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    between = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4))
    for network in (Twice().eval(), between.eval()):
        chip = torch.rand(1, 3, 8, 8)
        torch.testing.assert_close(fold_batch_norms(network, chip)(chip), network(chip))


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
        found += run(engine, (dn, valid))
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
    np.testing.assert_array_equal(*run(engine, (dn, valid), (other, valid)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LANDCOVER_CACHE", str(tmp_path / "cache"))
    return cache_folder() / "openvino"


OPENVINO = EngineChoice("openvino", "cpu", "")


def test_the_cache_changes_nothing(model: Model, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scores(OPENVINO, model)
    monkeypatch.setattr(conversion, "_convert", lambda *_: pytest.fail("converted again"))
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
        open_engine(OPENVINO, replace(pointwise, sha256=str(i)), SCALING, (1, 2, 8, 8), "uint16")
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
    monkeypatch.setattr(choice, "_has_openvino", lambda: False)
    assert choose_engine("cpu") == EngineChoice("torch", "cpu", "asked for, and no openvino package", "f32")
    with pytest.raises(ConfigError, match="not installed"):
        choose_engine("cpu", "openvino")


def test_a_cuda_device_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "cuda_devices", lambda: 2)
    monkeypatch.setattr(choice, "computes_in_bf16", lambda choice: choice.device != "cpu")
    assert choose_engine().device == "cuda:0"
    assert choose_engine("cuda:1") == EngineChoice("torch", "cuda:1", "asked for", "bf16")
    assert choose_engine("cuda", precision="f32").precision == "f32"
    with pytest.raises(ConfigError, match="sees 2 CUDA devices"):
        choose_engine("cuda:2")
    with pytest.raises(ConfigError, match="runs on a CPU"):
        choose_engine("cuda", "openvino")


def test_a_network_that_openvino_cannot_compute_is_refused(tmp_path: Path) -> None:
    made = init_model(
        tmp_path / "m",
        architecture="smp-unet",
        bands=("red", "nir"),
        classes=("a", "b"),
        hyperparameters={"encoder_name": "dpn68"},
    )
    level, filters = logging.getLogger().level, logging.getLogger().filters[:]
    with pytest.raises(ModelError, match="untrained-smp-unet'; add --engine torch"):
        open_engine(OPENVINO, made, SCALING, SHAPE, "uint16")
    assert (logging.getLogger().level, logging.getLogger().filters) == (level, filters), "warnings are still told"
