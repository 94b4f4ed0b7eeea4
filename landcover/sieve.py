"""Patches smaller than a minimum area are merged into the neighbours they share the longest border with."""

import numpy as np

from landcover.classmap import MAP_NODATA, STRIP_PIXELS
from landcover.ground import Ground


def label_patches(ids: np.ndarray) -> np.ndarray:
    """Number the patches: pixels of one value that are joined by their edges.

    Args:
        ids: (rows, cols).

    Returns:
        Patch numbers from 0 on, int32 (rows, cols), in the order in which the patches begin.
    """
    begins = np.ones(ids.shape, bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    run = (np.cumsum(begins.ravel(), dtype=np.int32) - 1).reshape(ids.shape)
    meets = (ids[1:] == ids[:-1]) & (begins[1:] | begins[:-1])
    root = _components(int(run[-1, -1]) + 1, run[:-1][meets], run[1:][meets])
    number = np.cumsum(root == np.arange(len(root)), dtype=np.int32) - 1
    return number[root][run]


def _components(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each of `count` things, the lowest one that the links a–b connect it with."""
    root = np.arange(count)
    while True:
        a, b = root[a], root[b]
        apart = a != b
        if not apart.any():
            return root
        a, b = a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]


def sieve(ids: np.ndarray, min_area: float, ground: Ground) -> np.ndarray:
    """Merge every patch smaller than `min_area` into its neighbours, the smallest first.

    A patch takes the class it shares the longest border with, counted in pixel edges; among equals, the class that
    covers more of the map. It then is one patch with all neighbours of that class. A small patch that touches nothing
    but nodata stays as it is, nodata takes no part, and pixels of patches that are large enough never change.

    Args:
        ids: uint8 (rows, cols), 0 = nodata.
        min_area: in m².
        ground: where the pixels lie.

    Returns:
        uint8 (rows, cols).
    """
    patch = label_patches(ids)
    first = np.unique(patch, return_index=True)[1]
    cls = ids.ravel()[first]
    pixels = np.bincount(patch.ravel())
    area = _patch_areas(patch, ground)
    a, b = _borders(patch, cls, area < min_area)
    values = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    by_cover = values[np.argsort(-np.bincount(ids.ravel(), minlength=256)[values], kind="stable")]
    place = np.zeros(256, np.int64)
    place[by_cover] = np.arange(len(by_cover))
    return by_cover.astype(np.uint8)[_absorb(a, b, place[cls], pixels, area, min_area)[patch]]


def _patch_areas(patch: np.ndarray, ground: Ground) -> np.ndarray:
    """Area of every patch in m², summed over its pixels."""
    total = np.zeros(int(patch.max()) + 1)
    rows = max(1, STRIP_PIXELS // patch.shape[1])
    for start in range(0, len(patch), rows):
        block = patch[start : start + rows]
        areas = ground.pixel_areas(start, start + len(block))
        total += np.bincount(block.ravel(), weights=areas.ravel(), minlength=len(total))
    return total


def _borders(patch: np.ndarray, cls: np.ndarray, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two patches at every pixel edge where classes meet and at least one patch is small."""
    pairs = [(patch[:, :-1], patch[:, 1:]), (patch[:-1], patch[1:])]
    sides = [np.concatenate(side) for side in zip(*((a[a != b], b[a != b]) for a, b in pairs), strict=True)]
    a, b = sides
    keep = (cls[a] != MAP_NODATA) & (cls[b] != MAP_NODATA) & (small[a] | small[b])
    return a[keep], b[keep]


def _absorb(
    a: np.ndarray, b: np.ndarray, cls: np.ndarray, pixels: np.ndarray, area: np.ndarray, min_area: float
) -> np.ndarray:
    """The class of every patch after merging; `a`, `b` are the patches at each pixel edge between two.

    In each round those patches change that come before all their small neighbours. They do not touch each other, so
    it is as if they were merged one after the other. Patches of one size come in a scattered order, so that a few
    rounds do.
    """
    count, kinds = len(cls), int(cls.max()) + 1
    root = np.arange(count)
    scattered = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    while True:
        small = area < min_area
        keep = (a != b) & (small[a] | small[b])
        a, b = a[keep], b[keep]
        if not len(a):
            return cls[root]
        here, there = np.concatenate([a, b]), np.concatenate([b, a])
        turn = np.full(count, count)
        waiting = np.unique(here[small[here]])
        turn[waiting[np.lexsort((scattered[waiting], pixels[waiting]))]] = np.arange(len(waiting))
        earliest = np.full(count, count)
        np.minimum.at(earliest, here, turn[there])
        changes = turn < earliest
        here, there = here[changes[here]], there[changes[here]]
        who, at = np.unique(here, return_inverse=True)
        votes = np.bincount(at * kinds + cls[there], minlength=len(who) * kinds).reshape(-1, kinds)
        cls[who] = votes.argmax(axis=1)
        same = cls[here] == cls[there]
        joined = _components(count, here[same], there[same])
        pixels, area = (np.bincount(joined, weights=w, minlength=count) for w in (pixels, area))
        root, a, b = joined[root], joined[a], joined[b]
