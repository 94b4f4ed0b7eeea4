"""A card whose memory does not suffice: the run goes on with less of it, and at last without it."""

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from landcover import prediction
from landcover.engines import EngineChoice
from landcover.engines.torch import TorchEngine
from landcover.errors import DeviceError, StaleError
from landcover.models import Model, init_model
from landcover.planning import Options, Plan, make_plan
from landcover.prediction import join_parts, map_part, map_scene
from tests.scenes import digital_numbers, direct_map, read_map, write_scene

HOW = {"engine": "torch", "allow_untrained": True, "tile_size": 32, "overlap": 8}


@pytest.fixture
def plan(tmp_path: Path, pointwise: Model) -> Plan:
    """A plan for a card that is not there; `cards` imitates it."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(150, 90))
    made = make_plan(Options(scene, tmp_path / "map.tif", pointwise, **HOW))
    return dataclasses.replace(made, choice=EngineChoice("torch", "cuda:0", "imitated"))


class Card(TorchEngine):
    """A card on which blending runs out of memory, and later scoring too; torch on a CPU computes for it."""

    def __init__(self, model, scaling, sums: str, blends: int, scores: int) -> None:
        super().__init__(model, scaling, "cpu", sums=sums)
        self.blends, self.scores = blends, scores

    def best(self, scores: torch.Tensor) -> np.ndarray:
        self.blends -= 1
        if self.blends < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().best(scores)

    def _score(self, batch, lo: int, hi: int) -> torch.Tensor:
        self.scores -= 1
        if self.scores < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._score(batch, lo, hi)


def imitate(monkeypatch: pytest.MonkeyPatch, blends: int, scores: int) -> list[EngineChoice]:
    """Let cards blend and score only so often; returns what is opened, one after the other."""
    opened: list[EngineChoice] = []

    def open_engine(choice: EngineChoice, model: Model, scaling, shape, dtype, at_once):
        opened.append(choice)
        if choice.device == "cpu":
            return TorchEngine(model, scaling, "cpu")
        return Card(model, scaling, choice.sums, blends if choice.sums == "device" else 10**6, scores)

    monkeypatch.setattr(prediction, "open_engine", open_engine)
    return opened


CARD, CPU = "torch cuda f32", "openvino cpu f32"


@pytest.mark.parametrize(
    ("blends", "scores", "steps", "told"),
    [
        (9, 10**6, 2, CARD),
        (9, 14, 3, f"{CARD}, then {CPU}"),
        (0, 0, 3, CPU),
        (10**6, 10**6, 1, CARD),
    ],
)
def test_a_run_goes_on_with_less_of_a_card(
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    blends: int,
    scores: int,
    steps: int,
    told: str,
) -> None:
    """And the map's tags name what computed its pixels."""
    opened = imitate(monkeypatch, blends, scores)
    done = list(map_scene(plan))
    assert [(c.device, c.sums) for c in opened] == [("cuda:0", "device"), ("cuda:0", "host"), ("cpu", "device")][:steps]
    assert done[-1] == 150 * 90
    pixels = digital_numbers(150, 90)
    wanted = direct_map(plan.model, pixels, np.ones(pixels.shape[1:], bool))
    np.testing.assert_array_equal(read_map(Path(plan.options.out)), wanted)
    assert sum("going on with" in m for m in caplog.messages) == steps - 1, "each step is said once"
    assert engine_of(plan.options.out) == told


def engine_of(path: str | Path) -> str:
    with rasterio.open(path) as file:
        return file.tags()["LANDCOVER_ENGINE"]


def test_what_computed_finished_rows_is_told_by_a_later_run(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card mapped some rows, the processor some, and then the run was stopped; the next one has a better card."""
    imitate(monkeypatch, 9, 14)
    run = map_scene(plan)
    height, width = plan.scene.height, plan.scene.width
    while next(run) < height * width * 0.9:
        pass
    run.close()
    imitate(monkeypatch, 10**6, 10**6)
    list(map_scene(plan))
    assert engine_of(plan.options.out) == f"{CARD}, then {CPU}"


def test_what_computed_each_part_is_told_by_the_whole(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(plan.options.out).parent / "parts"
    folder.mkdir()
    parts = plan.parts(2, folder)
    for part, scores in zip(parts, (10**6, 0, 10**6), strict=True):
        imitate(monkeypatch, 10**6, scores)
        list(map_part(part))
    list(join_parts(plan, parts))
    assert engine_of(plan.options.out) == f"{CARD}, then {CPU}"


def test_a_part_of_another_map_is_not_joined(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the worker that made it had taken another model; nor is one that is not whole."""
    folder = Path(plan.options.out).parent / "parts"
    folder.mkdir()
    imitate(monkeypatch, 10**6, 10**6)
    parts = plan.parts(2, folder)
    for part in parts:
        list(map_part(part))
    spec = plan.model.spec
    other = init_model(folder / "other", architecture="pointwise", bands=spec.bands, classes=spec.legend.names, seed=9)
    list(map_part(dataclasses.replace(parts[1], model=other)))
    with pytest.raises(StaleError, match=f"{parts[1].options.out} is not there, or not of this map"):
        list(join_parts(plan, parts))
    list(map_part(parts[1]))
    os.truncate(parts[2].options.out, 10)
    with pytest.raises(StaleError, match="not there, or not of this map"):
        list(join_parts(plan, parts))
    assert not Path(plan.options.out).exists()


def test_finished_rows_are_not_mapped_again(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows of windows with four in each: at the eleventh block two rows were finished, and are kept."""
    imitate(monkeypatch, 11, 10**6)
    done = list(map_scene(plan))
    back = next(b for a, b in itertools.pairwise(done) if b < a)
    assert back >= 32 * 90


def test_a_processor_without_memory_is_an_error(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_engine(choice: EngineChoice, model: Model, scaling, shape, dtype, at_once) -> Card:
        return Card(model, scaling, choice.sums, 0, 0)

    monkeypatch.setattr(prediction, "open_engine", open_engine)
    with pytest.raises(DeviceError):
        list(map_scene(plan))
    assert not Path(plan.options.out).exists()
