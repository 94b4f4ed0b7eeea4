"""Which chips are held out: whole places, so that a network is never scored on neighbours of what it learned from."""

import numpy as np
import shapely
from shapely import STRtree

from landcover.recipes import Split
from landcover.training.samples import Samples

Halves = tuple[np.ndarray, np.ndarray]
"""Numbers of the chips to train on, and of those held out; int64, in order."""

_SHARED = 0.01
"""Chips of other grids share this much of the smaller one at least: less is how boxes of other projections bulge."""


def places(samples: Samples, split: Split) -> np.ndarray:
    """The place of each chip, as text (chips,). Two sources that show one scene show one place, as do two scenes of one
    grid that show one block.
    """
    if split.by == "group":
        names = [o.place for o in samples.origins]
    elif split.by == "scene":
        names = [o.scene for o in samples.origins]
    else:
        names = [f"{o.grid}:{o.row // split.block}:{o.col // split.block}" for o in samples.origins]
    return np.array(names)


def folds(samples: Samples, split: Split, classes: int, count: int) -> list[Halves]:
    """Split chips `count` times, so that each place is held out once.

    Places without any label are learned from in every fold. The others go to folds from the largest to the smallest,
    each to the fold where its classes are rarest, so that every fold holds about as much of each class.
    """
    return _folds(samples, split, samples.counts_of_each(np.arange(len(samples)), classes), count)


def _folds(samples: Samples, split: Split, counts: np.ndarray, count: int) -> list[Halves]:
    """Folds, where it is known how many pixels of each class each chip has, (chips, classes)."""
    unique, place = np.unique(places(samples, split), return_inverse=True)
    labelled = np.zeros((len(unique), counts.shape[1]))
    np.add.at(labelled, place, counts)
    share = labelled / np.maximum(labelled.sum(axis=0), 1)
    held = np.zeros((count, counts.shape[1]))
    fold_of = np.full(len(unique), -1)
    for i in np.argsort(-share.sum(axis=1), kind="stable"):
        if share[i].any():
            k = int(np.argmin((held * share[i]).sum(axis=1) + 1e-3 * held.sum(axis=1)))
            held[k] += share[i]
            fold_of[i] = k
    return [_halves(samples, split, fold_of[place] == k) for k in range(count)]


def hold_out(samples: Samples, split: Split, classes: int) -> Halves:
    """Split chips once: of as many folds as the share asks for, the one whose share of labels is nearest to it.

    One that takes no class away from what is learned goes before all others. Nothing is held out where no label would
    be left to learn from, or none held out.
    """
    every = np.arange(len(samples))
    nothing = every, every[:0]
    counts = samples.counts_of_each(every, classes)
    total = counts.sum(axis=0)
    if split.validation == 0 or not total.any() or len(set(places(samples, split))) < 2:
        return nothing

    def apart(halves: Halves) -> tuple[bool, float]:
        learned, held_out = (counts[half].sum(axis=0) for half in halves)
        share = held_out.sum() / total.sum()
        if not 0 < share < 1 or not learned.any():  # all that is left may lie upon what is held out
            return True, np.inf
        lost = (total > 0) & (learned == 0)
        return bool(lost.any()), abs(share - split.validation)

    count = max(2, round(min(1 / split.validation, len(set(places(samples, split))))))
    nearest = min(_folds(samples, split, counts, count), key=apart)
    return nearest if np.isfinite(apart(nearest)[1]) else nothing


def _halves(samples: Samples, split: Split, out: np.ndarray) -> Halves:
    """The two halves, without the chips that lie upon held-out ones, or within the buffer of them."""
    near = np.zeros(len(samples), bool)
    reach = samples.size + split.buffer
    at = np.array([(o.row, o.col) for o in samples.origins])
    _, grid = np.unique([o.grid for o in samples.origins], return_inverse=True)
    for chips in np.split(np.argsort(grid, kind="stable"), np.cumsum(np.bincount(grid))[:-1]):
        learned, held_out = chips[~out[chips]], chips[out[chips]]
        for i in held_out:
            near[learned] |= (np.abs(at[learned] - at[i]) < reach).all(axis=1)
    return np.flatnonzero(~out & ~near & ~_upon(samples, out)), np.flatnonzero(out)


def _upon(samples: Samples, out: np.ndarray) -> np.ndarray:
    """Which chips lie upon held-out ones of another grid, as a scene of 30 m does upon one of 10 m; bool (chips,)."""
    upon = np.zeros(len(samples), bool)
    placed = np.array([i for i, o in enumerate(samples.origins) if o.bounds is not None], int)
    learned, held_out = placed[~out[placed]], placed[out[placed]]
    if not len(learned) or not len(held_out):
        return upon
    a, b = (np.array([samples.origins[i].bounds for i in chips]) for chips in (learned, held_out))
    i, j = STRtree(shapely.box(*b.T)).query(shapely.box(*a.T), predicate="intersects")
    shared = np.minimum(a[i, 2:], b[j, 2:]) - np.maximum(a[i, :2], b[j, :2])
    smaller = np.minimum((a[i, 2:] - a[i, :2]).prod(axis=1), (b[j, 2:] - b[j, :2]).prod(axis=1))
    _, grid = np.unique([o.grid for o in samples.origins], return_inverse=True)
    other = grid[learned[i]] != grid[held_out[j]]  # those of its own are told apart by their pixels
    upon[learned[i[other & (shared.prod(axis=1) > _SHARED * smaller)]]] = True
    return upon
