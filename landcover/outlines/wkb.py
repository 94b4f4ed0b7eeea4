"""Polygons in well-known binary, and their bounds, straight from nodes; compiled.

References:
    OGC 06-103r4, Simple feature access, clause 8: well-known binary.
"""

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def encoded(nodes, rings, shells, transform, unit):
    """Polygons as little-endian WKB, one after the other.

    Args:
        nodes, rings, shells, unit: as in `Patches`.
        transform: a, b, c, d, e, f of an affine one, from pixel corners (col, row) to coordinates.

    Returns:
        The bytes, uint8; where each polygon begins, and the end, int64 (polygons + 1,); and the smallest and largest x
        and y of each, float64 (4, polygons): min x, min y, max x, max y.
    """
    count = len(shells) - 1
    a, b, c, d, e, f = transform
    begin = np.zeros(count + 1, np.int64)
    for i in range(count):
        points = rings[shells[i + 1]] - rings[shells[i]]
        begin[i + 1] = begin[i] + 9 + 4 * (shells[i + 1] - shells[i]) + 16 * points
    out = np.empty(begin[count], np.uint8)
    bounds = np.empty((4, count))
    bounds[:2], bounds[2:] = np.inf, -np.inf
    pair = np.empty(2)
    raw = pair.view(np.uint8)
    for i in range(count):
        at = begin[i]
        out[at] = 1
        _put(out, at + 1, 3)
        _put(out, at + 5, shells[i + 1] - shells[i])
        at += 9
        for k in range(shells[i], shells[i + 1]):
            _put(out, at, rings[k + 1] - rings[k])
            at += 4
            for j in range(rings[k], rings[k + 1]):
                col, row = nodes[j, 0] / unit, nodes[j, 1] / unit
                pair[0], pair[1] = a * col + b * row + c, d * col + e * row + f
                for s in range(16):
                    out[at + s] = raw[s]
                at += 16
                bounds[0, i], bounds[1, i] = min(bounds[0, i], pair[0]), min(bounds[1, i], pair[1])
                bounds[2, i], bounds[3, i] = max(bounds[2, i], pair[0]), max(bounds[3, i], pair[1])
    return out, begin, bounds


@numba.njit(cache=True, nogil=True)
def _put(out, at, number):
    """A whole number in four bytes."""
    for s in range(4):
        out[at + s] = (number >> (8 * s)) & 255
