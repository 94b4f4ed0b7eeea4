"""Patches smaller than a minimum area are merged into the neighbours they share the longest border with."""

from collections.abc import Iterable, Iterator

import numba
import numpy as np

from landcover.ground import Ground, Scales
from landcover.outlines import join, label_runs, root_of, runs_of

_ROUNDING = 1 - 1e-6
"""Of the least area: pixels of one size are measured as up to 1e-9 smaller or larger, and as many have to be enough."""


def sieved(
    blocks: Iterable[tuple[int, np.ndarray]], min_area: float, ground: Ground, cover: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Merge every patch smaller than `min_area` into its neighbours, the smallest first, in rows as they come.

    A patch takes the class it shares the longest border with, counted in pixel edges; among equals, the class that
    covers more of the map. It then is one patch with all neighbours of that class. A small patch that touches nothing
    but nodata stays as it is, nodata takes no part, and pixels of patches that are large enough never change.

    What becomes of a small patch depends on the small ones that it touches, on those that they touch, and so on, and on
    the classes of the large ones around. So rows leave as soon as no such group reaches below the last row that was
    read, and the result does not depend on how rows come. Memory holds the rows that groups of small patches span: on
    maps of one-pixel patches without end, all.

    Args:
        blocks: first row, and ids, uint8 (rows, width), 0 = nodata, from top to bottom.
        min_area: in m².
        ground: where the pixels lie.
        cover: how many pixels each class has on the map, (256,).
    """
    min_area *= _ROUNDING
    by_cover = np.argsort(-cover, kind="stable").astype(np.uint8)
    held, settled, start = np.zeros((0, ground.width), np.uint8), np.zeros((0, ground.width), bool), 0
    above = 0  # whether the row before the first that is still to leave is held, 0 or 1
    waiting: list[np.ndarray] = []
    for row, ids in blocks:
        waiting.append(ids)
        last = row + len(ids) == ground.height
        if not last and len(held) > sum(map(len, waiting)):
            continue  # so that rows that are held long are not looked at anew for every few that come
        fresh = sum(map(len, waiting))
        held = np.concatenate([held, *waiting])
        settled = np.concatenate([settled, np.zeros((fresh, ground.width), bool)])
        waiting = []
        held, settled = _settle(held, settled, start, last, min_area, ground, by_cover)
        open_rows = np.flatnonzero(~settled.all(axis=1))
        done = len(held) if last else (open_rows[0] if len(open_rows) else len(held))
        if done > above:
            yield start + above, held[above:done]
            held, settled, start, above = held[done - 1 :], settled[done - 1 :], start + done - 1, 1


def _settle(
    ids: np.ndarray,
    settled: np.ndarray,
    start: int,
    last: bool,
    min_area: float,
    ground: Ground,
    by_cover: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Decide what can be decided of some rows; returns them, and which pixels never change any more.

    Args:
        ids: uint8 (rows, width).
        settled: bool (rows, width), True for pixels decided before; they belong to patches that are large enough, or
            that keep to themselves.
        start: the first row; `last` tells that there are no more below.
        by_cover: classes in the order of how much of the map they cover.
    """
    block = np.pad(ids, ((1, 0), (1, 1)))
    width = block.shape[1]
    starts = runs_of(block)
    label, _, values, pixels = label_runs(block, starts, np.full(width, -1, np.int32), 0, False)
    runs = np.flatnonzero(label >= 0)
    patch = label[runs]
    row, col = starts[runs] // width - 1, starts[runs] % width - 1
    sizes = starts[runs + 1] - starts[runs]
    areas = _run_areas(ground.scales(start, start + len(ids)), row, col, sizes)
    area = np.bincount(patch, areas, len(values)).astype(float)
    area[patch[settled[row, col]]] = np.inf
    small = area < min_area
    one, other, edges = _borders(block, starts, label, small)
    group = _groups(one, other, small)
    unfinished = np.zeros(len(values), bool)
    if not last:
        reaching = patch[row == len(ids) - 1]
        unfinished[group[reaching[small[reaching]]]] = True
    pending = small & unfinished[group]
    area[~small] = np.inf
    place = np.zeros(256, np.int64)
    place[by_cover] = np.arange(256)
    first = np.zeros(len(values), np.uint64)
    first[patch[::-1]] = (starts[runs[::-1]] + start * width).astype(np.uint64)
    keep = ~(pending[one] | pending[other])
    became = _absorb(one[keep], other[keep], edges[keep], place[values], pixels, area, min_area, first)
    by_run = np.zeros(len(label), np.uint8)
    by_run[runs] = by_cover[became[patch]]
    decided = np.ones(len(label), bool)
    decided[runs] = ~pending[patch]
    return _expanded(by_run, starts, block.shape), _expanded(decided, starts, block.shape)


def _expanded(values: np.ndarray, starts: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """What is known by run, for every pixel of a block without its borders."""
    return np.repeat(values, np.diff(starts)).reshape(shape)[1:, 1:-1]


def _run_areas(scales: Scales, row: np.ndarray, col: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The area of runs of pixels, in m²."""
    knot = np.minimum(scales.row_place.astype(int), max(0, len(scales.area) - 2))
    share = (scales.row_place - knot)[row]
    above = knot[row]
    below = np.minimum(above + 1, len(scales.area) - 1)
    upper, lower = (scales.area[k, col + sizes] - scales.area[k, col] for k in (above, below))
    return upper + share * (lower - upper)


@numba.njit(cache=True, nogil=True)
def _borders(block, starts, label, small):
    """Patches that meet, of which one at least is small, and along how many pixel edges, run by run."""
    width, runs = block.shape[1], len(starts) - 1
    one, other = np.empty(3 * runs, np.int32), np.empty(3 * runs, np.int32)
    edges = np.empty(3 * runs, np.int32)
    used, first = 0, 0
    for i in range(runs):
        a = label[i]
        if a < 0:
            continue
        b = label[i - 1]
        if b >= 0 and (small[a] or small[b]):
            one[used], other[used], edges[used] = a, b, 1
            used += 1
        while starts[first + 1] <= starts[i] - width:
            first += 1
        k = first
        while starts[k] < starts[i + 1] - width:
            b = label[k]
            if b >= 0 and a != b and (small[a] or small[b]):
                one[used], other[used] = a, b
                edges[used] = min(starts[k + 1], starts[i + 1] - width) - max(starts[k], starts[i] - width)
                used += 1
            k += 1
    return one[:used].copy(), other[:used].copy(), edges[:used].copy()


@numba.njit(cache=True, nogil=True)
def _groups(one, other, small):
    """For each small patch the lowest one of those that small ones connect it with."""
    parent = np.arange(len(small)).astype(np.int32)
    for i in range(len(one)):
        if small[one[i]] and small[other[i]]:
            join(parent, one[i], other[i])
    for i in range(len(small)):
        parent[i] = root_of(parent, i)
    return parent


@numba.njit(cache=True, nogil=True)
def _components(count, one, other):
    """For each of `count` things, the lowest one that links connect it with."""
    parent = np.arange(count).astype(np.int32)
    for i in range(len(one)):
        join(parent, one[i], other[i])
    for i in range(count):
        parent[i] = root_of(parent, i)
    return parent


def _absorb(
    one: np.ndarray,
    other: np.ndarray,
    edges: np.ndarray,
    cls: np.ndarray,
    pixels: np.ndarray,
    area: np.ndarray,
    min_area: float,
    first: np.ndarray,
) -> np.ndarray:
    """The class of every patch after merging; `one` and `other` meet along some `edges`.

    In each round those patches change that come before all their small neighbours. They do not touch each other, so
    it is as if they were merged one after the other. Patches of one size come in a scattered order, by their first
    pixel, so that a few rounds do.
    """
    count, kinds = len(cls), int(cls.max(initial=0)) + 1
    root = np.arange(count)
    scattered = first * np.uint64(0x9E3779B97F4A7C15)
    while True:
        small = area < min_area
        keep = (one != other) & (small[one] | small[other])
        one, other, edges = one[keep], other[keep], edges[keep]
        if not len(one):
            return cls[root]
        here, there, shared = np.concatenate([one, other]), np.concatenate([other, one]), np.tile(edges, 2)
        turn = np.full(count, count)
        waiting = np.unique(here[small[here]])
        turn[waiting[np.lexsort((scattered[waiting], pixels[waiting]))]] = np.arange(len(waiting))
        earliest = np.full(count, count)
        np.minimum.at(earliest, here, turn[there])
        changes = turn < earliest
        which = changes[here]
        here, there, shared = here[which], there[which], shared[which]
        who, at = np.unique(here, return_inverse=True)
        votes = np.bincount(at * kinds + cls[there], shared, minlength=len(who) * kinds).reshape(-1, kinds)
        cls[who] = votes.argmax(axis=1)
        same = cls[here] == cls[there]
        joined = _components(count, here[same], there[same])
        pixels, area = (np.bincount(joined, weights=w, minlength=count) for w in (pixels, area))
        root, one, other = joined[root], joined[one], joined[other]
