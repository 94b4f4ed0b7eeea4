"""A recipe is carried out: samples are gathered, networks learn, and model folders appear when they are complete."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from landcover.accuracy import macro_f1
from landcover.errors import ConfigError, ModelError, OutputError, SamplesError, TrainingError, counted, nearest
from landcover.models import CARD, Model
from landcover.network import total_stride
from landcover.outputs import disk_errors, work_folder
from landcover.recipes import Recipe, SceneSource, read_recipe
from landcover.specs import BandStats, Legend, ModelSpec, explain, load_legend, read_text
from landcover.training.checkpoints import CHECKPOINT, Step, fitting, read_checkpoint
from landcover.training.crossvalidation import FOLDS, check_unseen, fold_name, models_by_fold, write_folds
from landcover.training.learning import Task, View
from landcover.training.outcome import Result, write_model
from landcover.training.places import Halves, folds, hold_out, places
from landcover.training.processes import learn_on
from landcover.training.samples import Samples, gather
from landcover.training.sources import check_reference, read_source
from landcover.training.start import check_batch, fresh_network, refined_network

_log = logging.getLogger(__name__)

_FACTS = "training.json"


@dataclass(frozen=True)
class Lineage:
    """Where a network comes from.

    Attributes:
        base: the model that is refined; None to begin anew.
        teachers: to learn from.
    """

    base: Model | None
    teachers: tuple[Model, ...]


@dataclass(frozen=True)
class Training:
    """All that is decided before the first sample is read.

    Attributes:
        recipe: what was asked for.
        text: the recipe as it was written.
        out: the model folder to write.
        spec: of the model that is made, without what its samples tell.
        lineages: where each network comes from; they are alike but for what their weights have learned.
        devices: one for each process that learns.
        folds: how many times to train for a cross-validation by place; 0 to train once.
    """

    recipe: Recipe
    text: str
    out: Path
    spec: ModelSpec
    lineages: tuple[Lineage, ...]
    devices: tuple[str, ...]
    folds: int = 0

    @property
    def base(self) -> Model | None:
        return self.lineages[0].base

    @property
    def teachers(self) -> tuple[Model, ...]:
        return self.lineages[0].teachers

    @property
    def bands(self) -> tuple[str, ...]:
        return self.spec.bands

    @property
    def legend(self) -> Legend:
        return self.spec.legend

    @cached_property
    def sampled_bands(self) -> tuple[str, ...]:
        """The bands that samples are kept in: those of the model, and those that only teachers see."""
        return tuple(dict.fromkeys([*self.bands, *(b for t in self.teachers for b in t.spec.bands)]))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint must agree with, so that the run can go on from it."""
        told = {"name", "description", "licence", "credits", "failures", "unseen", "tests", "store"}
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude=told),
            "bands": list(self.bands),
            "legend": self.legend.model_dump(mode="json"),
            "base": [line.base.digest if line.base else None for line in self.lineages],
            "teachers": [[t.digest for t in line.teachers] for line in self.lineages],
            "folds": self.folds,
            "files": {str(p): [p.stat().st_size, p.stat().st_mtime_ns] for p in _files(self.recipe)},
        }


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


def plan_training(
    config: str | Path,
    out: str | Path,
    *,
    init: str | Path | None = None,
    folds: int = 0,
    device: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    changes: dict[str, Any] | None = None,
) -> Training:
    """Read a recipe and check all that can be checked before samples are read.

    Args:
        config: the recipe, a TOML file.
        out: the model folder to write.
        init: the model to refine; None to begin anew.
        folds: train so many times, each time with other places held out.
        device: "auto", "cpu", "cuda" or "cuda:N".
        workers: processes that learn together; None for one on each CUDA device, or one on the CPU.
        overwrite: replace `out`.
        changes: keys of the recipe's loop that are set otherwise, such as steps or seed.

    Raises:
        LandcoverError: the recipe, a model, a device or the output cannot be used.
    """
    config, out = Path(config), Path(out)
    recipe = read_recipe(config)
    if init:
        recipe = recipe.for_refining()
    set_ = {k: v for k, v in (changes or {}).items() if v is not None}
    if set_:
        try:
            loop = type(recipe.loop).model_validate({**recipe.loop.model_dump(), **set_})
        except ValidationError as e:
            raise ConfigError(f"--{explain(e)}") from e
        recipe = recipe.model_copy(update={"loop": loop})
    _check_destination(out, recipe, config, overwrite=overwrite)
    if folds == 1 or folds < 0:
        raise ConfigError(f"--folds {folds}: a cross-validation takes 2 folds or more")
    lineages = _lineages(init, recipe, folds)
    base, teachers = lineages[0].base, lineages[0].teachers
    bands = recipe.bands or (base.spec.bands if base else None)
    if bands is None:
        raise ConfigError(f'{config} names no bands; write for example bands = ["red", "nir"], or refine a model')
    legend = load_legend(recipe.legend or "default") if recipe.legend or not base else base.spec.legend
    spec = _spec(recipe, base, bands, legend)
    for model in teachers:
        if model.spec.legend.names != legend.names:
            raise ConfigError(
                f"the teacher {model.folder} scores {', '.join(model.spec.legend.names)}, and the recipe's legend has "
                f"{', '.join(legend.names)}; they must be the same"
            )
    _check_tests(recipe, spec)
    _check_honoured(recipe, spec, base, teachers)
    devices = _devices(device, workers)
    if recipe.loop.batch < len(devices):
        raise ConfigError(
            f"a batch of {counted(recipe.loop.batch, 'chip')} cannot be shared by {len(devices)} processes"
        )
    notes = "".join(f"# {k} was set to {v} on the command line\n" for k, v in set_.items())
    text = notes + read_text(config)
    return Training(recipe, text, out, spec, lineages, devices, folds)


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
        finished = folder / "model" / "result"
        if training.folds:
            finished = folder / "result"
            with disk_errors(out):
                shutil.rmtree(finished, ignore_errors=True)  # what an earlier run had put together
                finished.mkdir()
                for name in names:
                    (folder / name / "result").replace(finished / name)
                (finished / "recipe.toml").write_text(training.text, encoding="utf-8")
            write_folds(
                finished,
                [r.counts for r in results if r.counts is not None],
                training.legend.names,
                _held_out(training, samples, halves),
                sha256(training.text.encode()).hexdigest(),
            )
        _publish(finished, out)
    return Trained(out, results)


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
    recipe, classes, (train, held_out) = training.recipe, training.legend.names, halves
    torch.manual_seed(recipe.loop.seed)
    if training.base:
        network = refined_network(training.base, training.bands, classes)
        architecture, arguments = training.base.spec.architecture, training.base.spec.hyperparameters
    else:
        network = fresh_network(recipe.network, training.bands, len(classes))
        architecture, arguments = recipe.network.architecture, recipe.network.hyperparameters
    stride = total_stride(architecture, arguments, network)
    if recipe.augmentation.size % stride:
        raise ConfigError(
            f"augmentation.size {recipe.augmentation.size} is not a multiple of the network's stride, {stride}"
        )
    if recipe.network.freeze_encoder and not hasattr(network, "encoder"):
        raise ModelError(f"the architecture '{architecture}' has no encoder to freeze; leave freeze_encoder out")
    chips, frozen = recipe.loop.batch // len(training.devices), recipe.network.freeze_encoder
    check_batch(network, len(training.bands), chips, recipe.augmentation.size, frozen=frozen)
    mean, stddev = samples.band_stats(train)
    known = dict(zip(training.base.spec.bands, training.base.spec.stats, strict=True)) if training.base else {}
    stats = [known.get(b) or BandStats(mean=m, stddev=s) for b, m, s in zip(samples.bands, mean, stddev, strict=True)]
    view = _view(samples, training.bands, dict(zip(samples.bands, stats, strict=True)))
    teachers = tuple(
        (m.network, _view(samples, m.spec.bands, dict(zip(m.spec.bands, m.spec.stats, strict=True))))
        for m in training.teachers
    )
    return Task(recipe, training.spec, samples, train, held_out, view, stride, teachers), network


def _view(samples: Samples, bands: tuple[str, ...], stats: dict[str, BandStats]) -> View:
    return View(
        tuple(samples.bands.index(b) for b in bands),
        tuple(stats[b].mean for b in bands),
        tuple(stats[b].stddev for b in bands),
    )


def _spec(recipe: Recipe, base: Model | None, bands: tuple[str, ...], legend: Legend) -> ModelSpec:
    """What the model is to be, checked before any sample is read; their scaling is made up."""
    try:
        return ModelSpec(
            name=recipe.name,
            description=recipe.description,
            architecture=base.spec.architecture if base else recipe.network.architecture,
            hyperparameters=base.spec.hyperparameters if base else recipe.network.hyperparameters,
            bands=bands,
            stats=(BandStats(mean=0, stddev=1),) * len(bands),
            legend=legend,
            gsd=recipe.gsd or (base.spec.gsd if base else None),
            sees=recipe.sees or (base.spec.sees if base else None),
            licence=recipe.licence,
        )
    except ValidationError as e:
        raise ConfigError(f"the recipe '{recipe.name}' describes no model: {explain(e)}") from e


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


def _lineages(init: str | Path | None, recipe: Recipe, folds: int) -> tuple[Lineage, ...]:
    """Where each network comes from."""
    bases = models_by_fold(init, folds) if init else (None,) * max(folds, 1)
    teachers = [models_by_fold(name, folds) for name in (recipe.teacher.models if recipe.teacher else ())]
    return tuple(Lineage(base, tuple(t[k] for t in teachers)) for k, base in enumerate(bases))


def _devices(device: str, workers: int | None) -> tuple[str, ...]:
    """One device for each process that learns."""
    from landcover.engines import choose_engine, cuda_devices

    chosen = choose_engine(device, "torch").device
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: at least one process must learn")
    if chosen == "cpu":
        return ("cpu",) * (workers or 1)
    if device != "auto" and device != "cuda":
        return (chosen,)
    there = cuda_devices()
    if workers is not None and workers > there:
        raise ConfigError(
            f"--workers {workers}: one process learns on each CUDA device, of which this machine has {there}"
        )
    return tuple(f"cuda:{i}" for i in range(workers or there))


def _check_destination(out: Path, recipe: Recipe, config: Path, *, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or that holds anything but a model."""
    with disk_errors(out):
        if not out.parent.is_dir():
            raise OutputError(f"the folder {out.parent} does not exist; make it first")
        if out.name in ("", "..") or os.path.ismount(out):
            raise OutputError(f"{out} cannot be replaced as a whole; give the name of a folder in it")
        if not out.exists():
            if out.is_symlink():
                raise OutputError(f"{out} is a link that leads nowhere; remove it, or give another --out")
            return
        if not out.is_dir():
            raise OutputError(f"{out} is a file; give the name of a folder for the model")
        if not overwrite:
            raise OutputError(f"{out} exists already; add --overwrite to replace it, if it is a model")
        trained = any((out / name).is_file() for name in (CARD, FOLDS))
        if not trained and any(out.iterdir()):
            raise OutputError(f"{out} holds files that are no model, and is not replaced; give another --out")
    inside = [p for p in (config, *_files(recipe)) if p.resolve().is_relative_to(out.resolve())]
    if inside:
        raise OutputError(f"{inside[0]} lies in {out}, which would be replaced; give another --out")


def _check_honoured(recipe: Recipe, spec: ModelSpec, base: Model | None, teachers: tuple[Model, ...]) -> None:
    """Refuse what a recipe says and what would not be done."""
    if base and (given := recipe.network.model_fields_set - {"freeze_encoder"}):
        raise ConfigError(f"[network] {min(given)} cannot be chosen where {base.spec.name} is refined; leave it out")
    for teacher in teachers:
        if teacher.spec.sees != spec.sees:
            raise ConfigError(
                f"the teacher {teacher.folder} sees {teacher.spec.sees} m per pixel, and the recipe {spec.sees}; they "
                "must see the same"
            )
        if recipe.augmentation.size % teacher.stride:
            raise ConfigError(
                f"augmentation.size {recipe.augmentation.size} is not a multiple of the stride of the teacher "
                f"{teacher.folder}, {teacher.stride}"
            )


def _check_tests(recipe: Recipe, spec: ModelSpec) -> None:
    """Find what is wrong with the scenes a model is to be scored on before it is trained."""
    for test in recipe.tests:
        if test.only is not None and test.only not in spec.legend.names:
            raise ConfigError(f"the test '{test.title}' scores '{test.only}': {nearest(test.only, spec.legend.names)}")
        check_reference(test, spec.bands, spec.legend)


def _check_facts(training: Training, folder: Path) -> None:
    """Note what this training is, or refuse to go on from another one."""
    now = json.loads(json.dumps(training.facts))
    path = folder / _FACTS
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            differs = next((k for k in now if before[k] != now[k]), None)
        except (ValueError, KeyError, TypeError) as e:
            raise TrainingError(f"{path} cannot be relied on; add --no-resume to start over") from e
        if differs:
            raise TrainingError(
                f"{folder} holds a training that was stopped, with another {differs}; finish it with what it was "
                "begun with, or add --no-resume to drop it and start over"
            )
        return
    with disk_errors(path):
        path.write_text(json.dumps(now), encoding="utf-8")


def _files(recipe: Recipe) -> Iterator[Path]:
    """The files that samples are read from, as far as they are files."""
    for source in recipe.sources:
        for value in vars(source).values():
            if isinstance(value, Path | str) and os.path.isfile(value):  # noqa: PTH113 - False for texts too long
                yield Path(value)
        if not isinstance(source, SceneSource) and hasattr(source, "images") and isinstance(source.images, Path):
            folders = [f for f in (source.images, source.labels) if os.path.isdir(f)]  # noqa: PTH112 - so here
            yield from sorted(p for folder in folders for p in Path(folder).rglob("*.*") if p.is_file())


def stopped_training(out: Path) -> Path | None:
    """The hidden folder beside `out` with the checkpoints of a training that was stopped; None if there is none."""
    folder = out.parent / f".{out.name}.work"
    return folder if (folder / _FACTS).exists() and next(folder.glob(f"*/{CHECKPOINT}"), None) else None


def _publish(finished: Path, out: Path) -> None:
    """Let a complete folder take the place of the one that was there."""
    with disk_errors(out):
        aside = finished.parent / "replaced"
        if out.exists():
            out.replace(aside)
        finished.replace(out)
        shutil.rmtree(aside, ignore_errors=True)
