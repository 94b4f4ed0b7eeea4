"""How much ground outlines enclose, and how long they are, summed edge by edge; compiled."""

import math

import numba
import numpy as np

from landcover.ground import Scales
from landcover.outlines.walk import CLOSED, Pieces


def measured(
    pieces: Pieces, count: int, scales: Scales, first_row: int, rows: int, unit: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The part of each patch's area and perimeter that the outlines in a strip contribute.

    The area of a patch is a sum over its outlines: of the ground left of each edge, in the rows the edge spans. Along
    pixel edges it is the sum of the areas of its pixels.

    Args:
        pieces: in a strip.
        count: of patches.
        scales: of the rows of the strip.
        first_row, rows: of the strip.
        unit: how many steps of the nodes a pixel has.

    Returns:
        m² and m, float64 (count,).
    """
    return _measured(*pieces, count, scales, first_row, rows, unit)


@numba.njit(cache=True, nogil=True)
def _measured(nodes, offsets, begin, end, patch, count, scales, first_row, rows, unit):
    area, length = np.zeros(count), np.zeros(count)
    width = scales.area.shape[1] + 1
    for i in range(len(patch)):
        lo, hi = offsets[i], offsets[i + 1]
        if begin[i] != CLOSED:
            y, x = 0.0 if begin[i] < width else float(rows), float(begin[i] % width)
        else:
            x, y = _place(nodes[hi - 1], unit, first_row)
        for j in range(lo, hi + (end[i] != CLOSED)):
            if j < hi:
                next_x, next_y = _place(nodes[j], unit, first_row)
            else:
                next_y, next_x = 0.0 if end[i] < width else float(rows), float(end[i] % width)
            square, metres = _edge(x, y, next_x, next_y, scales)
            area[patch[i]] += square
            length[patch[i]] += metres
            x, y = next_x, next_y
    return area, length


@numba.njit(cache=True, nogil=True)
def _place(node, unit, first_row):
    x = node[0] if node[0] >= 0 else ~node[0]
    return x / unit, node[1] / unit - first_row


@numba.njit(cache=True, nogil=True)
def _edge(x0, y0, x1, y1, scales):
    """Ground to the left of an edge, in m², positive if it goes north, and its length."""
    if y0 == y1 and x0 == int(x0) and x1 == int(x1):
        return 0.0, abs(
            _at(scales.across, scales.line_place[int(y0)], int(x1))
            - _at(scales.across, scales.line_place[int(y0)], int(x0))
        )
    if x0 == x1 and x0 == int(x0) and y0 == int(y0) and y1 == int(y1):
        return _upright(int(x0), int(y0), int(y1), scales)
    return _slanted(x0, y0, x1, y1, scales)


@numba.njit(cache=True, nogil=True)
def _upright(x, y0, y1, scales):
    """The same for an edge along the sides of pixels."""
    square, metres = 0.0, 0.0
    for row in range(min(y0, y1), max(y0, y1)):
        square += _at(scales.area, scales.row_place[row], x)
        metres += _at(scales.down, scales.row_place[row], x)
    return (square if y1 < y0 else -square), metres


@numba.njit(cache=True, nogil=True)
def _slanted(x0, y0, x1, y1, scales):
    """The same for any edge, in pieces: its length from the sides of pixels there, the ground by Simpson's rule."""
    dx, dy = x1 - x0, y1 - y0
    pieces = math.ceil(max(abs(dx), abs(dy)) / scales.step)
    dx, dy = dx / pieces, dy / pieces
    square, metres = 0.0, 0.0
    for k in range(pieces):
        x, y = x0 + k * dx, y0 + k * dy
        middle_x, middle_y = x + dx / 2, y + dy / 2
        row, line = _between(scales.row_place, middle_y - 0.5), _between(scales.line_place, middle_y)
        pixel = min(int(middle_x), scales.skew.shape[1] - 1)
        wide = _at(scales.across, line, pixel + 1) - _at(scales.across, line, pixel)
        high = _sideways(scales.down, row, middle_x)
        metres += math.sqrt((wide * dx) ** 2 + 2 * _at(scales.skew, row, pixel) * dx * dy + (high * dy) ** 2)
        first = _sideways(scales.area, _between(scales.row_place, y - 0.5), x)
        last = _sideways(scales.area, _between(scales.row_place, y + dy - 0.5), x + dx)
        square -= dy * (first + 4 * _sideways(scales.area, row, middle_x) + last) / 6
    return square, metres


@numba.njit(cache=True, nogil=True)
def _at(values, place, column):
    """What is known at knots, at a place between two of them."""
    knot = max(0, min(int(place), len(values) - 2))
    share = place - knot
    if share == 0:
        return values[knot, column]
    return values[knot, column] + share * (values[knot + 1, column] - values[knot, column])


@numba.njit(cache=True, nogil=True)
def _sideways(values, place, x):
    """The same between two columns."""
    column = min(int(x), values.shape[1] - 2)
    left = _at(values, place, column)
    return left + (x - column) * (_at(values, place, column + 1) - left)


@numba.njit(cache=True, nogil=True)
def _between(places, y):
    """The place of a line or row, or of one between two, or a little beyond the ends."""
    if len(places) == 1:
        return places[0]
    i = max(0, min(int(y), len(places) - 2))
    return places[i] + (y - i) * (places[i + 1] - places[i])
