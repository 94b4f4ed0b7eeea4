"""A training is carried out: samples are gathered, networks learn, and model folders appear when they are complete."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from landcover.accuracy import macro_f1
from landcover.errors import ConfigError, ModelError, SamplesError, TrainingError, counted
from landcover.network import total_stride
from landcover.outputs import disk_errors, work_folder, work_path
from landcover.specs import BandStats, ModelSpec
from landcover.training.checkpoints import CHECKPOINT, Step, fitting, read_checkpoint
from landcover.training.crossvalidation import check_unseen, fold_name, write_folds
from landcover.training.learning import Task, View
from landcover.training.outcome import Result, write_model
from landcover.training.places import Halves, folds, hold_out, places
from landcover.training.planning import Training
from landcover.training.processes import learn_on
from landcover.training.samples import Samples, gather
from landcover.training.sources import read_source
from landcover.training.start import check_batch, fresh_network, refined_network

_log = logging.getLogger(__name__)

_FACTS = "training.json"


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Attributes:
        folder: the model folder, or the folder of the folds' models.
        results: of each model that was trained.
    """

    folder: Path
    results: tuple[Result, ...]

    @property
    def scores(self) -> tuple[float, float] | None:
        """Mean and standard deviation over the folds of the macro-F1 on places held out; None if none were."""
        reached = [macro_f1(r.counts) for r in self.results if r.counts is not None]
        return (float(np.mean(reached)), float(np.std(reached))) if reached else None


Watch = Callable[[str, int, Step], None]
"""Told of each step: of which model, of how many steps, and which."""


def train(training: Training, *, resume: bool = True, watch: Watch = lambda *_: None) -> Trained:
    """Carry out a training; what a run that was stopped has learned is gone on from.

    Raises:
        LandcoverError: samples cannot be read or do not suffice, the loss diverged, or the disk is full.
    """
    out = training.out
    with work_folder(out, keep=lambda: bool(stopped_training(out)), clear=not resume) as folder:
        _check_facts(training, folder)
        samples = _gather(training, folder)
        halves = _split(training, samples)
        names = [fold_name(k) for k in range(1, len(halves) + 1)] if training.folds else ["model"]
        results = tuple(
            _train_one(replace(training, lineages=(lineage,)), samples, half, folder / name, watch)
            for name, half, lineage in zip(names, halves, training.lineages, strict=True)
        )
        if training.folds:
            finished = _put_together(training, folder, results, _held_out(training, samples, halves))
        else:
            finished = folder / "model" / "result"
        _publish(finished, out)
    return Trained(out, results)


def _put_together(training: Training, folder: Path, results: tuple[Result, ...], held_out: list[list[str]]) -> Path:
    """Make one folder of the models of a cross-validation."""
    finished = folder / "result"
    with disk_errors(training.out):
        shutil.rmtree(finished, ignore_errors=True)  # what an earlier run had put together
        finished.mkdir()
        for k in range(1, len(results) + 1):
            (folder / fold_name(k) / "result").replace(finished / fold_name(k))
        (finished / "recipe.toml").write_text(training.text, encoding="utf-8")
    counts = [r.counts for r in results if r.counts is not None]
    write_folds(finished, counts, training.legend.names, held_out, sha256(training.text.encode()).hexdigest())
    return finished


def _train_one(training: Training, samples: Samples, halves: Halves, folder: Path, watch: Watch) -> Result:
    """Train one network and write its model folder, `result`, in a folder."""
    folder.mkdir(exist_ok=True)
    task, network = _task(training, samples, halves)
    recipe = training.recipe
    for step in learn_on(task, network, folder, training.devices):
        watch(folder.name, recipe.loop.steps, step)
    state = read_checkpoint(folder)
    with fitting(folder):
        network.load_state_dict(state["best"]["weights"])
    spec = _described(training, task)
    note = f"# refined from {training.base.spec.name}, sha256 {training.base.sha256}\n" if training.base else ""
    text = note + training.text
    return write_model(task, network.cpu().eval(), spec, text, state["history"], folder / "result")


def _task(training: Training, samples: Samples, halves: Halves) -> tuple[Task, nn.Module]:
    """What is learned, and the network that learns it."""
    recipe, (train, held_out) = training.recipe, halves
    network = _network(training)
    stride = total_stride(training.spec.architecture, training.spec.hyperparameters, network)
    size, frozen = recipe.augmentation.size, recipe.network.freeze_encoder
    if size % stride:
        raise ConfigError(f"augmentation.size {size} is not a multiple of the network's stride, {stride}")
    if frozen and not hasattr(network, "encoder"):
        raise ModelError(
            f"the architecture '{training.spec.architecture}' has no encoder to freeze; leave freeze_encoder out"
        )
    check_batch(network, len(training.bands), recipe.loop.batch // len(training.devices), size, frozen=frozen)
    mean, stddev = samples.band_stats(train)
    known = dict(zip(training.base.spec.bands, training.base.spec.stats, strict=True)) if training.base else {}
    measured = {b: BandStats(mean=m, stddev=s) for b, m, s in zip(samples.bands, mean, stddev, strict=True)}
    view = _view(samples, training.bands, [(measured | known)[b] for b in training.bands])
    teachers = tuple((m.network, _view(samples, m.spec.bands, m.spec.stats)) for m in training.teachers)
    return Task(recipe, training.spec, samples, train, held_out, view, stride, teachers), network


def _network(training: Training) -> nn.Module:
    """The network that is trained, always the same for a seed."""
    torch.manual_seed(training.recipe.loop.seed)
    classes = training.legend.names
    if training.base:
        return refined_network(training.base, training.bands, classes)
    return fresh_network(training.recipe.network, training.bands, len(classes))


def _view(samples: Samples, bands: tuple[str, ...], stats: Sequence[BandStats]) -> View:
    channels = tuple(samples.bands.index(b) for b in bands)
    return View(channels, tuple(s.mean for s in stats), tuple(s.stddev for s in stats))


def _described(training: Training, task: Task) -> ModelSpec:
    """What the model is, without what it was measured to be."""
    base = training.base
    places = {(o.source, o.place) for o in (task.samples.origins[i] for i in task.train)}
    counts = task.samples.counts(task.train, len(task.classes))
    labels = ", ".join(f"{n:,} {c}" for c, n in zip(task.classes, counts, strict=True))
    told = (
        f"{counted(len(task.train), 'chip')} of {task.samples.size} × {task.samples.size} pixels "
        f"from {counted(len(places), 'place')}, with labelled pixels: {labels}."
    )
    stats = tuple(BandStats(mean=m, stddev=s) for m, s in zip(task.view.mean, task.view.stddev, strict=True))
    parts = [told, f"Refined from {base.spec.name}." if base else "", training.recipe.credits]
    return training.spec.model_copy(
        update={"stats": stats, "stride": task.stride, "training": " ".join(filter(None, parts))}
    )


def _gather(training: Training, folder: Path) -> Samples:
    recipe, bands = training.recipe, training.sampled_bands
    pieces = (
        (number, piece)
        for number, source in enumerate(recipe.sources)
        for piece in read_source(source, bands, training.legend, recipe.chip)
    )
    samples = gather(pieces, folder, bands, recipe.chip, [s.weight for s in recipe.sources])
    for gsd in {o.gsd for o in samples.origins}:
        training.spec.factor(gsd)  # which refuses what no network could see
    return samples


def _split(training: Training, samples: Samples) -> list[Halves]:
    """The halves of each network that is trained; each must find all it needs in its own."""
    halves = _halves(training, samples)
    for lineage, held_out in zip(training.lineages, _held_out(training, samples, halves), strict=True):
        for model in filter(None, (lineage.base, *lineage.teachers)):
            check_unseen(model, held_out)
    if training.recipe.teacher is None:
        for train, _ in halves:
            _check_classes(samples, train, training.legend.names)
    return halves


def _held_out(training: Training, samples: Samples, halves: list[Halves]) -> list[list[str]]:
    """The names of the places that each network is not trained on."""
    names = places(samples, training.recipe.split)
    return [sorted(set(names[out].tolist())) for _, out in halves]


def _check_classes(samples: Samples, train: np.ndarray, classes: tuple[str, ...]) -> None:
    counts = samples.counts(train, len(classes))
    if absent := [c for c, n in zip(classes, counts, strict=True) if not n]:
        raise SamplesError(
            f"no sample of the class '{absent[0]}' is left to learn from; add labels of it, hold out other places, "
            "or leave it out of the legend"
        )


def _halves(training: Training, samples: Samples) -> list[Halves]:
    classes, split = len(training.legend.names), training.recipe.split
    if not training.folds:
        train, out = hold_out(samples, split, classes)
        if split.validation and not len(out):
            _log.warning(
                "Nothing is held out, for all labels lie in one place, or within the buffer of it: the model will not "
                'be scored. To hold out blocks of a scene, add to the recipe [split] with by = "blocks"; or name other '
                "labels in [[tests]]"
            )
        return [(train, out)]
    halves = folds(samples, split, classes, training.folds)
    if any(len(out) == 0 for _, out in halves):
        raise SamplesError(f"there are fewer places than {training.folds} folds; take fewer, or split by blocks")
    if any(len(train) == 0 for train, _ in halves):
        raise SamplesError(
            "a fold has nothing to learn from: all its chips lie upon those held out, as several dates of one place "
            'do, or within the buffer of them; split by = "blocks", with a smaller buffer'
        )
    return halves


def _check_facts(training: Training, folder: Path) -> None:
    """Note what this training is, or refuse to go on from another one."""
    now = json.loads(json.dumps(training.facts))
    path = folder / _FACTS
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            differs = next((_difference(k, before[k], now[k]) for k in now if before[k] != now[k]), None)
        except (ValueError, KeyError, TypeError) as e:
            raise TrainingError(f"{path} cannot be relied on; add --no-resume to start over") from e
        if differs:
            raise TrainingError(
                f"{folder} holds a training that was stopped, which differs in its {differs}; finish it with what it "
                "was begun with, or add --no-resume to drop it and start over"
            )
        return
    with disk_errors(path):
        path.write_text(json.dumps(now), encoding="utf-8")


def _difference(name: str, before: Any, now: Any) -> str:
    """Where two facts differ first, by its name, with what it was and what it is."""
    if isinstance(before, dict) and isinstance(now, dict):
        parts = [(f"{name}.{key}", before.get(key), now.get(key)) for key in before | now]
    elif name == "recipe.sources" and len(before) == len(now):
        parts = [(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(before, now, strict=True))]
    else:
        return f"{name} ({json.dumps(before)} then, {json.dumps(now)} now)"
    return next(_difference(*part) for part in parts if part[1] != part[2])


def stopped_training(out: Path) -> Path | None:
    """The hidden folder beside `out` with the checkpoints of a training that was stopped; None if there is none."""
    folder = work_path(out)
    return folder if (folder / _FACTS).exists() and next(folder.glob(f"*/{CHECKPOINT}"), None) else None


def _publish(finished: Path, out: Path) -> None:
    """Let a complete folder take the place of the one that was there."""
    with disk_errors(out):
        aside = finished.parent / "replaced"
        if out.exists():
            out.replace(aside)
        finished.replace(out)
        shutil.rmtree(aside, ignore_errors=True)
