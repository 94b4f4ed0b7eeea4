"""Rings of nodes: chosen, cut where they touch themselves, told apart as shells and holes, closed; compiled."""

import numba
import numpy as np

from landcover.outlines.walk import unmarked


def offsets_of(sizes: np.ndarray) -> np.ndarray:
    """Where things of some sizes begin, one after the other, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)])


@numba.njit(cache=True, nogil=True)
def _copy(out, at, nodes, begin, end):
    """Copy nodes; a loop, as most rings are too short for slices."""
    for j in range(begin, end):
        out[at + j - begin, 0], out[at + j - begin, 1] = nodes[j, 0], nodes[j, 1]


@numba.njit(cache=True, nogil=True)
def gather(nodes, offsets, order, close):
    """Some rings, in an order: their nodes, and where they begin; `close` lets each end with its first node again."""
    at = np.zeros(len(order) + 1, np.int64)
    for k in range(len(order)):
        at[k + 1] = at[k] + offsets[order[k] + 1] - offsets[order[k]] + close
    out = np.empty((at[-1], 2), np.int32)
    for k in range(len(order)):
        lo, hi = offsets[order[k]], offsets[order[k] + 1]
        _copy(out, at[k], nodes, lo, hi)
        if close:
            _copy(out, at[k + 1] - 1, nodes, lo, lo + 1)
    return out, at


@numba.njit(cache=True, nogil=True)
def simple(nodes, offsets, patch):
    """Cut rings where they come to a node twice, so that none touches itself; unmarks all nodes.

    A patch that goes around a hole and touches itself at a corner was walked in one ring, inside and outside.
    """
    out = np.empty_like(nodes)
    room = len(patch) + np.sum(nodes[:, 0] < 0)
    begins, of = np.zeros(room + 1, np.int64), np.empty(room, np.int32)
    used, rings = 0, 0
    for i in range(len(patch)):
        lo, hi = offsets[i], offsets[i + 1]
        marked = False
        for j in range(lo, hi):
            marked |= nodes[j, 0] < 0
        if not marked:
            _copy(out, used, nodes, lo, hi)
            used += hi - lo
            begins[rings + 1], of[rings] = used, patch[i]
            rings += 1
            continue
        twin = _twins(nodes[lo:hi])
        stack, place, height = np.empty(hi - lo, np.int64), np.full(hi - lo, -1, np.int64), 0
        for j in range(hi - lo + 1):
            cut = -1
            if j == hi - lo:
                cut = 0  # the end of the ring: what is left of it
            elif twin[j] >= 0:
                cut = place[twin[j]]
            if cut >= 0:
                for k in range(cut, height):
                    place[stack[k]] = -1
                    out[used, 0], out[used, 1] = unmarked(nodes[lo + stack[k], 0]), nodes[lo + stack[k], 1]
                    used += 1
                begins[rings + 1], of[rings] = used, patch[i]
                rings += 1
                height = cut
            if j < hi - lo:
                stack[height], place[j] = j, height
                height += 1
    return out, begins[: rings + 1].copy(), of[:rings].copy()


@numba.njit(cache=True, nogil=True)
def _twins(ring):
    """For each node of a ring the earlier one at the same place, or -1; only marked nodes have one."""
    twin = np.full(len(ring), -1, np.int64)
    marked = np.flatnonzero(ring[:, 0] < 0)
    if len(marked) > 1:
        keys = np.empty(len(marked), np.int64)
        for k in range(len(marked)):
            keys[k] = (np.int64(ring[marked[k], 1]) << 32) + ~ring[marked[k], 0]
        order = np.argsort(keys)
        for k in range(1, len(order)):
            if keys[order[k]] == keys[order[k - 1]]:
                one, other = marked[order[k - 1]], marked[order[k]]
                twin[max(one, other)] = min(one, other)
    return twin


@numba.njit(cache=True, nogil=True)
def turns(nodes, offsets):
    """Twice the area of each ring, negative for those that run counter-clockwise where rows run south."""
    areas = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(areas)):
        lo, hi = offsets[i], offsets[i + 1]
        before = hi - 1
        for j in range(lo, hi):
            areas[i] += np.int64(nodes[before, 0]) * nodes[j, 1] - np.int64(nodes[j, 0]) * nodes[before, 1]
            before = j
    return areas
