"""A training is planned: all that can be decided, and be wrong, is found before the first sample is read."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from landcover.errors import ConfigError, OutputError, counted, nearest
from landcover.models import CARD, Model
from landcover.outputs import check_here, disk_errors
from landcover.recipes import PackSource, Recipe, SceneSource, read_recipe
from landcover.specs import BandStats, Legend, ModelSpec, explain, load_legend, read_text
from landcover.training.crossvalidation import FOLDS, models_by_fold
from landcover.training.sources import check_reference


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
    changes = {k: v for k, v in (changes or {}).items() if v is not None}
    recipe = read_recipe(config)
    recipe = _with_loop(recipe.for_refining() if init else recipe, changes)
    _check_destination(out, recipe, config, overwrite=overwrite)
    if folds == 1 or folds < 0:
        raise ConfigError(f"--folds {folds}: a cross-validation takes 2 folds or more")
    lineages = _lineages(init, recipe, folds)
    spec = _spec(recipe, config, lineages[0].base)
    _check_honoured(recipe, spec, lineages[0])
    _check_tests(recipe, spec)
    devices = _devices(device, workers, recipe.loop.batch)
    notes = "".join(f"# {k} was set to {v} on the command line\n" for k, v in changes.items())
    return Training(recipe, notes + read_text(config), out, spec, lineages, devices, folds)


def _with_loop(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """A recipe with some keys of its loop set otherwise."""
    try:
        loop = type(recipe.loop).model_validate({**recipe.loop.model_dump(), **changes})
    except ValidationError as e:
        raise ConfigError(f"--{explain(e)}") from e
    return recipe.model_copy(update={"loop": loop})


def _lineages(init: str | Path | None, recipe: Recipe, folds: int) -> tuple[Lineage, ...]:
    """Where each network comes from."""
    bases = models_by_fold(init, folds) if init else (None,) * max(folds, 1)
    teachers = [models_by_fold(name, folds) for name in (recipe.teacher.models if recipe.teacher else ())]
    return tuple(Lineage(base, tuple(t[k] for t in teachers)) for k, base in enumerate(bases))


def _spec(recipe: Recipe, config: Path, base: Model | None) -> ModelSpec:
    """What the model is to be; its scaling is made up."""
    known = base.spec if base else None
    bands = recipe.bands or (known.bands if known else None)
    if bands is None:
        raise ConfigError(f'{config} names no bands; write for example bands = ["red", "nir"], or refine a model')
    try:
        return ModelSpec(
            name=recipe.name,
            description=recipe.description,
            architecture=known.architecture if known else recipe.network.architecture,
            hyperparameters=known.hyperparameters if known else recipe.network.hyperparameters,
            bands=bands,
            stats=(BandStats(mean=0, stddev=1),) * len(bands),
            legend=known.legend if known and not recipe.legend else load_legend(recipe.legend or "default"),
            gsd=recipe.gsd or (known.gsd if known else None),
            sees=recipe.sees or (known.sees if known else None),
            licence=recipe.licence,
        )
    except ValidationError as e:
        raise ConfigError(f"the recipe '{recipe.name}' describes no model: {explain(e)}") from e


def _devices(device: str, workers: int | None, batch: int) -> tuple[str, ...]:
    """One device for each process that learns."""
    from landcover.engines import choose_engine, cuda_devices

    chosen = choose_engine(device, "torch").device
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: at least one process must learn")
    if chosen == "cpu":
        devices = ("cpu",) * (workers or 1)
    elif device not in ("auto", "cuda"):
        devices = (chosen,)
    else:
        there = cuda_devices()
        if workers is not None and workers > there:
            raise ConfigError(
                f"--workers {workers}: one process learns on each CUDA device, of which this machine has {there}"
            )
        devices = tuple(f"cuda:{i}" for i in range(workers or there))
    if batch < len(devices):
        raise ConfigError(f"a batch of {counted(batch, 'chip')} cannot be shared by {len(devices)} processes")
    return devices


def _check_destination(out: Path, recipe: Recipe, config: Path, *, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or that holds anything but a model."""
    with disk_errors(out):
        check_here(out)
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


def _check_honoured(recipe: Recipe, spec: ModelSpec, lineage: Lineage) -> None:
    """Refuse what a recipe says and what would not be done, and teachers that score or see something else."""
    if lineage.base and (given := recipe.network.model_fields_set - {"freeze_encoder"}):
        raise ConfigError(
            f"[network] {min(given)} cannot be chosen where {lineage.base.spec.name} is refined; leave it out"
        )
    varied = [k for k in ("turbid", "waters", "lakes") if getattr(recipe.augmentation, k)]
    if varied and "water" not in spec.legend.names:
        raise ConfigError(
            f"augmentation.{varied[0]} varies the class 'water', and the legend has {', '.join(spec.legend.names)}; "
            "leave it out, or call the class of water so"
        )
    for teacher in lineage.teachers:
        if teacher.spec.legend.names != spec.legend.names:
            raise ConfigError(
                f"the teacher {teacher.folder} scores {', '.join(teacher.spec.legend.names)}, and the recipe's legend "
                f"has {', '.join(spec.legend.names)}; they must be the same"
            )
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


def _files(recipe: Recipe) -> Iterator[Path]:
    """The files that samples are read from, as far as they are files."""
    for source in recipe.sources:
        for value in vars(source).values():
            if isinstance(value, Path | str) and os.path.isfile(value):  # noqa: PTH113 - False for texts too long
                yield Path(value)
        if not isinstance(source, SceneSource | PackSource):
            folders = [f for f in (source.images, source.labels) if os.path.isdir(f)]  # noqa: PTH112 - so here
            yield from sorted(p for folder in folders for p in folder.rglob("*.*") if p.is_file())
