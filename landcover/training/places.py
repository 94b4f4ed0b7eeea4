"""Which chips are held out: whole places, so that a network is never scored on neighbours of what it learned from."""

import numpy as np

from landcover.recipes import Split
from landcover.training.samples import Samples

Halves = tuple[np.ndarray, np.ndarray]
"""Numbers of the chips to train on, and of those held out; int64, in order."""


def places(samples: Samples, split: Split) -> np.ndarray:
    """The place of each chip, as text (chips,). Two sources that show one scene show one place."""
    if split.by == "group":
        names = [o.place for o in samples.origins]
    elif split.by == "scene":
        names = [o.scene for o in samples.origins]
    else:
        names = [f"{o.scene}:{o.row // split.block}:{o.col // split.block}" for o in samples.origins]
    return np.array(names)


def folds(samples: Samples, split: Split, classes: int, count: int) -> list[Halves]:
    """Split chips `count` times, so that each place is held out once.

    Places without any label are learned from in every fold. The others go to folds from the largest to the smallest,
    each to the fold where its classes are rarest, so that every fold holds about as much of each class.
    """
    names = places(samples, split)
    unique = sorted(set(names))
    labelled = np.array([samples.counts(np.flatnonzero(names == name), classes) for name in unique], np.float64)
    share = labelled / np.maximum(labelled.sum(axis=0), 1)
    held = np.zeros((count, classes))
    fold_of: dict[str, int] = {}
    for i in np.argsort(-share.sum(axis=1), kind="stable"):
        if not share[i].any():
            fold_of[unique[i]] = -1
            continue
        k = int(np.argmin((held * share[i]).sum(axis=1) + 1e-3 * held.sum(axis=1)))
        held[k] += share[i]
        fold_of[unique[i]] = k
    chosen = np.array([fold_of[name] for name in names])
    return [_halves(samples, split, chosen == k) for k in range(count)]


def hold_out(samples: Samples, split: Split, classes: int) -> Halves:
    """Split chips once: of as many folds as the share asks for, the one whose share of labels is nearest to it.

    One that takes no class away from what is learned goes before all others. Nothing is held out where no label would
    be left to learn from, or none held out.
    """
    every = np.arange(len(samples))
    nothing = every, every[:0]
    total = samples.counts(every, classes)
    if split.validation == 0 or not total.any() or len(set(places(samples, split))) < 2:
        return nothing

    def apart(halves: Halves) -> tuple[bool, float]:
        share = samples.counts(halves[1], classes).sum() / total.sum()
        if not 0 < share < 1:
            return True, np.inf
        lost = (total > 0) & (samples.counts(halves[0], classes) == 0)
        return bool(lost.any()), abs(share - split.validation)

    nearest = min(folds(samples, split, classes, max(2, round(1 / split.validation))), key=apart)
    return nearest if np.isfinite(apart(nearest)[1]) else nothing


def _halves(samples: Samples, split: Split, out: np.ndarray) -> Halves:
    """The two halves, without the chips that lie within the buffer of held-out ones."""
    near = np.zeros(len(samples), bool)
    if split.buffer:
        reach = samples.size + split.buffer
        for i in np.flatnonzero(out):
            one = samples.origins[i]
            for j in np.flatnonzero(~out & ~near):
                other = samples.origins[j]
                if one.scene == other.scene:
                    near[j] = abs(one.row - other.row) < reach and abs(one.col - other.col) < reach
    return np.flatnonzero(~out & ~near), np.flatnonzero(out)
