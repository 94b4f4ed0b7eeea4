"""What comes out of training: a model folder with its card, curves, a picture of chips held out, and figures."""

import csv
import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from PIL import Image, ImageDraw
from torch import nn

from landcover.accuracy import calibration_error, confusion, figures
from landcover.bands import Choice
from landcover.engines import choose_engine
from landcover.engines.choice import computes_in_bf16
from landcover.errors import LandcoverError, SamplesError, TrainingError
from landcover.models import save_model
from landcover.outputs import disk_errors
from landcover.prediction import predict
from landcover.preview import stretch
from landcover.recipes import HELD_OUT, Recipe, Test
from landcover.scene import open_scene
from landcover.specs import ModelSpec
from landcover.training.card import write_card
from landcover.training.learning import Task, held_out_logits, score
from landcover.training.sources import read_reference
from landcover.training.start import soften
from landcover.weights import from_store, to_store

_log = logging.getLogger(__name__)

_PIXELS = 200_000
"""Of held-out pixels, at most so many are looked at to find the temperature."""

_SHOWN = 8
"""Chips in the picture."""

_MOST_CHANGED = 0.01
_MOST_LOST = 0.002
"""bf16 is safe if no more labels change, and no score moves further."""


@dataclass(frozen=True)
class Result:
    """One model that was trained.

    Attributes:
        counts: the confusion matrix on places held out; None if none were.
        accuracy: all figures of its card, by what they were measured on.
        temperature: by which its scores were softened.
        calibration: the expected calibration error on places held out, before and after that; None if none were.
    """

    counts: np.ndarray | None
    accuracy: dict[str, dict[str, float]]
    temperature: float
    calibration: tuple[float, float] | None


def write_model(
    task: Task, network: nn.Module, spec: ModelSpec, recipe: str, history: list[dict[str, Any]], folder: Path
) -> Result:
    """Write a model folder.

    Args:
        task: that was learned.
        network: as it came out of the loop, in evaluation mode, on the CPU; its scores are softened here.
        spec: what the model is.
        recipe: as it was written.
        history: of the loop, an entry for each evaluation.
        folder: made here.

    Raises:
        TrainingError: the weights are no finite numbers, or too large to be stored.
        OutputError: it cannot be written.
    """
    network = _as_stored(network, task.recipe)
    logits, labels = _held_out_pixels(task, network)
    temperature = task.recipe.temperature or (find_temperature(logits, labels) if len(labels) else 1.0)
    calibration = None
    if len(labels):
        before, after = (calibration_error(*_confidence(logits / t, labels)) for t in (1.0, temperature))
        calibration = before, after
    soften(network, temperature)
    network = _as_stored(network, task.recipe)  # with the last layer as it is now
    counts = score(task, network, torch.device("cpu")) if len(task.held_out) else None
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
        save_model(folder, spec, network.state_dict(), store=task.recipe.store)
    accuracy = {HELD_OUT: figures(counts, task.classes)} if counts is not None else {}
    tested, safe = score_tests(folder, spec, task.recipe)
    accuracy |= tested
    spec = spec.model_copy(update={"accuracy": accuracy, "bf16_safe": safe})
    result = Result(counts, accuracy, temperature, calibration)
    with disk_errors(folder):
        save_model(folder, spec, network.state_dict(), store=task.recipe.store)
        (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
        _write_curves(history, task.classes, folder)
        if counts is not None:
            _write_confusion(counts, task.classes, folder / "confusion.csv")
            _draw_chips(task, network, spec, folder / "validation.png")
        write_card(folder, spec, task.recipe, history[-1]["step"], temperature, calibration)
    return result


def _as_stored(network: nn.Module, recipe: Recipe) -> nn.Module:
    """The network as it is read back, so that what is scored is what is stored."""
    if not _is_finite(network):
        raise TrainingError(
            f"the weights are no finite numbers any more: training diverged; lower the rate ({recipe.loop.rate:g})"
        )
    network.load_state_dict(from_store(to_store(network.state_dict(), recipe.store)))
    if not _is_finite(network):
        raise TrainingError(
            f"the weights became too large for float16; lower the rate ({recipe.loop.rate:g}), or write "
            'store = "float32" in the recipe'
        )
    return network


def _is_finite(network: nn.Module) -> bool:
    """Whether all weights and batch statistics are numbers."""
    return all(bool(w.isfinite().all()) for w in network.state_dict().values())


def find_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with which softened scores are most likely, by narrowing an interval of its logarithm.

    Args:
        logits: (pixels, classes).
        labels: (pixels,), from 1.
    """
    x, y = torch.from_numpy(logits), torch.from_numpy(labels).long() - 1

    def cost(log_t: float) -> float:
        return float(nn.functional.cross_entropy(x / np.exp(log_t), y))

    low, high = np.log(0.2), np.log(5.0)
    for _ in range(40):
        third = (high - low) / 3
        if cost(low + third) < cost(high - third):
            high -= third
        else:
            low += third
    return round(float(np.exp((low + high) / 2)), 3)


def _held_out_pixels(task: Task, network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Logits (pixels, classes) and labels (pixels,) of labelled pixels of the chips held out, spread evenly."""
    total = int(task.samples.counts(task.held_out, len(task.classes)).sum())
    every = max(1, -(-total // _PIXELS))
    found = [
        (np.moveaxis(logits, 1, -1)[labels > 0][::every], labels[labels > 0][::every])
        for _, logits, labels in held_out_logits(task, network, torch.device("cpu"))
    ]
    if not found:
        return np.zeros((0, len(task.classes)), np.float32), np.zeros(0, np.int64)
    return np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found])


def _confidence(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (pixels,) of the class chosen, and whether it is right."""
    probability = torch.from_numpy(logits).softmax(dim=1).numpy()
    return probability.max(axis=1), probability.argmax(axis=1) + 1 == labels


def score_tests(folder: Path, spec: ModelSpec, recipe: Recipe) -> tuple[dict[str, dict[str, float]], bool]:
    """Map the test scenes of a recipe with the model in a folder; returns its figures, and whether bf16 was safe."""
    found, safe = {}, []
    can_bf16 = computes_in_bf16(choose_engine("cpu"))
    for test in recipe.tests:
        try:
            exact = _score_test(folder, test, spec, "f32")
            found[test.title] = exact[0]
            if can_bf16:
                safe.append(_is_safe(exact, _score_test(folder, test, spec, "bf16")))
        except LandcoverError as e:
            _log.warning("the test '%s' was left out: %s", test.title, e)
    return found, bool(safe) and all(safe)


def _score_test(folder: Path, test: Test, spec: ModelSpec, precision: str) -> tuple[dict[str, float], np.ndarray]:
    """Map one test scene as `landcover predict` does; returns its figures, and the map as class numbers."""
    with tempfile.TemporaryDirectory() as temporary:
        out, confidence = Path(temporary) / "map.tif", Path(temporary) / "confidence.tif"
        predict(
            test.scene,
            out,
            model=folder,
            sensor=test.sensor,
            bands=test.bands,
            scale=test.scale,
            offset=test.offset,
            device="cpu",
            precision=precision,
            confidence=confidence,
            allow_resolution=True,
        )
        ids, percent = (_read(path) for path in (out, confidence))
    scene = open_scene(test.scene, spec.bands, Choice(test.sensor, test.bands, test.scale, test.offset))
    legend = spec.legend
    numbers = np.zeros(256, np.uint8)
    for k, id_ in enumerate(legend.ids, 1):
        numbers[id_] = k
    predicted = numbers[ids]
    reference = read_reference(test, scene, legend) * (predicted > 0)
    if not reference.any():
        raise SamplesError(f"{test.labels} labels no pixel that was mapped")
    if test.only is None:
        known = reference > 0
        error = calibration_error(percent[known] / 100, (predicted == reference)[known])
        found = figures(confusion(reference, predicted, len(legend.names)), legend.names)
        return {**found, "calibration_error": round(error, 3)}, predicted
    number = legend.names.index(test.only) + 1
    one, other = (np.where(a > 0, np.where(a == number, 1, 2), 0) for a in (reference, predicted))
    return figures(confusion(one, other, 2), (test.only, "not_" + test.only)), predicted


def _read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def _is_safe(exact: tuple[dict[str, float], np.ndarray], other: tuple[dict[str, float], np.ndarray]) -> bool:
    changed = float((exact[1] != other[1]).sum() / max(int((exact[1] > 0).sum()), 1))
    moved = max(abs(exact[0][k] - other[0].get(k, 0)) for k in ("overall_accuracy", "macro_f1"))
    return changed <= _MOST_CHANGED and moved <= _MOST_LOST


def _write_curves(history: list[dict[str, Any]], classes: tuple[str, ...], folder: Path) -> None:
    rows = []
    for entry in history:
        row = {k: entry[k] for k in ("step", "loss", "rate", "seconds")}
        if entry["counts"] is not None:
            row |= figures(np.array(entry["counts"]), classes)
        rows.append(row)
    columns = list(dict.fromkeys(k for row in rows for k in row if k != "pixels"))
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    _draw_curves(rows, folder / "curves.png")


def _draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss and macro-F1 over the steps; the one from 0 to its largest, the other from 0 to 1."""
    width, height, edge = 640, 360, 40
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((edge, edge, width - edge, height - edge), outline="#888888")
    last, top = max(r["step"] for r in rows), max([r["loss"] for r in rows if r["loss"]], default=1.0)
    curves = (("loss", top, "#2b83ba", edge), ("macro_f1", 1.0, "#d7301f", width // 2))
    for key, most, colour, x0 in curves:
        points = [
            (edge + (width - 2 * edge) * r["step"] / last, height - edge - (height - 2 * edge) * r[key] / most)
            for r in rows
            if r.get(key) is not None and np.isfinite(r[key])
        ]
        if points:
            draw.text((x0, 12), f"{key.replace('_', '-')}, 0 to {most:.3g}", fill=colour)
            draw.line(points, fill=colour, width=2)
            for x, y in points:
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    draw.text((width - edge - 70, height - edge + 10), f"{last} steps", fill="#444444")
    picture.save(path)


def _write_confusion(counts: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["reference \\ predicted", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))


def _draw_chips(task: Task, network: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Some chips held out: what they look like, what is predicted, and the reference."""
    chosen = task.held_out[:: max(1, len(task.held_out) // _SHOWN)][:_SHOWN]
    shown = replace(task, held_out=chosen)
    batches = held_out_logits(shown, network, torch.device("cpu"))
    chips, logits, labels = (np.concatenate(x) for x in zip(*batches, strict=True))
    palette = np.array([(255, 255, 255), *(c.rgb for c in spec.legend.classes)], np.uint8)
    columns = []
    for i, chip in enumerate(chips):
        valid = task.samples.valid[chip]
        bands = [task.samples.reflectance[chip][c] for c in _colours(task)]
        look = np.stack([stretch(b, valid) for b in bands], axis=-1)
        predicted = np.where(valid, logits[i].argmax(axis=0) + 1, 0)
        columns.append(np.concatenate([look, palette[predicted], palette[labels[i]]], axis=0))
    Image.fromarray(np.concatenate(columns, axis=1)).save(path)


def _colours(task: Task) -> list[int]:
    """Channels of the samples to show as red, green and blue."""
    names = task.samples.bands
    wanted = [names.index(c) for c in ("red", "green", "blue") if c in names]
    return wanted if len(wanted) == 3 else [min(i, len(names) - 1) for i in range(3)]
