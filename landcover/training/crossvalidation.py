"""Cross-validations by place: what they came to, and networks that go on from those of another one, fold by fold.

A network must not be scored on places that the network it was refined from, or one of its teachers, has learned from.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from landcover.accuracy import figures
from landcover.errors import ConfigError, ModelError, SamplesError, counted
from landcover.models import Model, load_model
from landcover.outputs import disk_errors

FOLDS = "folds.json"


def fold_name(number: int) -> str:
    """The folder of the model of a fold; they count from 1."""
    return f"fold-{number}"


def models_by_fold(name: str | Path, folds: int) -> tuple[Model, ...]:
    """The model that each network of a training goes on from.

    Args:
        name: of an embedded model, or a model folder, for all of them; or the folder of a cross-validation, of which
            each takes the model of its own fold.
        folds: how many networks are trained, each with other places held out; 0 for one.

    Raises:
        LandcoverError: there is no such model, or the cross-validation has another number of folds.
    """
    folder = Path(name)
    if not os.path.isfile(folder / FOLDS):  # noqa: PTH113 - False for names that are too long
        return (load_model(name),) * max(folds, 1)
    there = len(_held_out(folder))
    if there != folds:
        raise ConfigError(
            f"{folder} is a cross-validation of {there} folds; add --folds {there}, or name one of its models, such "
            f"as {folder / fold_name(1)}"
        )
    return tuple(load_model(folder / fold_name(k)) for k in range(1, folds + 1))


def check_unseen(model: Model, held_out: Sequence[str]) -> None:
    """Refuse to hold out places that a model of a cross-validation has learned from; of others it is not known.

    Raises:
        SamplesError: there is such a place.
    """
    fold = model.folder.resolve()  # it may be given as a link, or as "."
    if not (fold.parent / FOLDS).is_file():
        return
    unseen = {fold_name(k): places for k, places in enumerate(_held_out(fold.parent), 1)}
    if seen := sorted(set(held_out) - set(unseen.get(fold.name, held_out))):
        raise SamplesError(
            f"{model.folder} has learned from {counted(len(seen), 'place')} that would be held out, such as {seen[0]}; "
            "take the folder of the cross-validation itself, made with the labels and the [split] of this recipe"
        )


def write_folds(
    folder: Path, counts: Sequence[np.ndarray], names: tuple[str, ...], held_out: Sequence[Sequence[str]], recipe: str
) -> None:
    """Write what a cross-validation came to.

    Args:
        folder: to write into.
        counts: confusion matrix of each fold, (classes, classes).
        names: of the classes.
        held_out: the places of each fold.
        recipe: the sha256 of its text.

    Raises:
        OutputError: the disk is full.
    """
    rows = [figures(c, names) for c in counts]
    columns = sorted({k for row in rows for k in row if k != "pixels"})
    summary = {
        c: {"mean": round(float(np.mean(v)), 4), "spread": round(float(np.std(v)), 4)}
        for c in columns
        if (v := [row[c] for row in rows if c in row])
    }
    document = {"folds": rows, "summary": summary, "held_out": [list(p) for p in held_out], "recipe": recipe}
    with disk_errors(folder):
        (folder / FOLDS).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _held_out(folder: Path) -> list[list[str]]:
    """The places that each fold of a cross-validation held out."""
    path = folder / FOLDS
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        held_out = document["held_out"]
        if not all(isinstance(place, str) for places in held_out for place in places):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise ModelError(f"{path} does not say which places each fold held out; run the cross-validation again") from e
    return list(held_out)
