"""How much ground patches cover, and how long their outlines are; compiled.

As they are, patches are measured run by run; when their outlines were simplified, edge by edge.
"""

import math

import numba
import numpy as np

from landcover.ground import Scales
from landcover.outlines.walk import CLOSED, Pieces, on_line, unmarked


@numba.njit(cache=True, nogil=True)
def measure_runs(block, starts, label, count, scales):
    """The part of each patch's area and perimeter that lies in a strip, its last line left out: m² and m, (count,).

    Each run adds its ground and its two sides, and what it lies below adds a length to both where that is of another
    patch. Runs come row after row, so that what is known of a row is looked up once, and then read in order.

    Args:
        block, starts, label: the runs of a strip; see `landcover.outlines.walk`.
        count: of patches.
        scales: of the rows of the strip.
    """
    area, length = np.zeros(count), np.zeros(count)
    width, runs = block.shape[1], len(starts) - 1
    row_end, here, below, share = 0, 0, 0, 0.0  # of the row of a run
    line_end, line_here, line_below, line_share = 0, 0, 0, 0.0  # of the line above it
    k = 0  # the run above
    for i in range(runs):
        patch, end = label[i], starts[i + 1]
        if end <= width:
            continue  # in the row above
        if patch >= 0:
            if starts[i] >= row_end:
                row_end = (starts[i] // width + 1) * width
                here, below, share = _knots(scales.row_place[row_end // width - 2])
            x0, x1 = starts[i] - row_end + width - 1, end - row_end + width - 1
            ground = scales.area[here, x1] - scales.area[here, x0]
            ground += share * (scales.area[below, x1] - scales.area[below, x0] - ground)
            sides = scales.down[here, x0] + scales.down[here, x1]
            area[patch] += ground
            length[patch] += sides + share * (scales.down[below, x0] + scales.down[below, x1] - sides)
        at = max(starts[i], width)
        while at < end:
            while starts[k + 1] + width <= at:
                k += 1
            to, other = min(end, starts[k + 1] + width), label[k]
            if other != patch:  # then it is not nodata upon nodata, which goes on from row to row
                if at >= line_end:
                    line_end = (at // width + 1) * width
                    line_here, line_below, line_share = _knots(scales.line_place[line_end // width - 2])
                x0, x1 = at - line_end + width - 1, to - line_end + width - 1
                metres = scales.across[line_here, x1] - scales.across[line_here, x0]
                metres += line_share * (scales.across[line_below, x1] - scales.across[line_below, x0] - metres)
                if patch >= 0:
                    length[patch] += metres
                if other >= 0:
                    length[other] += metres
            at = to
    return area, length


@numba.njit(cache=True, nogil=True)
def _knots(place):
    """The knots around a place, and how far it is from the first to the second."""
    knot = int(place)
    share = place - knot
    return knot, knot + 1 if share > 0 else knot, share


def measure_outlines(
    pieces: Pieces, count: int, scales: Scales, first_row: int, rows: int, unit: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of each patch's area and perimeter that the outlines in a strip contribute.

    The area of a patch is a sum over its outlines: of the ground left of each edge, in the rows the edge spans.

    Args:
        pieces: in a strip.
        count: of patches.
        scales: of the rows of the strip.
        first_row, rows: of the strip.
        unit: how many steps of the nodes a pixel has, a power of two.

    Returns:
        m² and m, float64 (count,).
    """
    return _measured(pieces, count, scales, first_row, rows, unit.bit_length() - 1)


@numba.njit(cache=True, nogil=True)
def _measured(pieces, count, scales, first_row, rows, shift):
    nodes, offsets, begin, end, patch = pieces
    area, length = np.zeros(count), np.zeros(count)
    width, unit, top = scales.area.shape[1] + 1, 1 << shift, first_row << shift
    for i in range(len(patch)):
        lo, hi = offsets[i], offsets[i + 1]
        if begin[i] != CLOSED:
            col, row = on_line(begin[i], width, rows)
            x, y = col * unit, row * unit
        else:
            x, y = unmarked(nodes[hi - 1, 0]), nodes[hi - 1, 1] - top
        square, metres = 0.0, 0.0
        for j in range(lo, hi + (end[i] != CLOSED)):
            if j < hi:
                next_x, next_y = unmarked(nodes[j, 0]), nodes[j, 1] - top
            else:
                col, row = on_line(end[i], width, rows)
                next_x, next_y = col * unit, row * unit
            along = unit == 1 or (x | y | next_x | next_y) & (unit - 1) == 0  # both nodes are corners of pixels
            if along and y == next_y:
                metres += _level(y >> shift, min(x, next_x) >> shift, max(x, next_x) >> shift, scales)
            elif along and x == next_x:
                ground, way = _upright(x >> shift, min(y, next_y) >> shift, max(y, next_y) >> shift, scales)
                square += ground if next_y < y else -ground
                metres += way
            else:
                ground, way = _slanted(x / unit, y / unit, next_x / unit, next_y / unit, scales)
                square += ground
                metres += way
            x, y = next_x, next_y
        area[patch[i]] += square
        length[patch[i]] += metres
    return area, length


@numba.njit(cache=True, nogil=True)
def _level(y, x0, x1, scales):
    """How long an edge along the sides of pixels is."""
    here, below, share = _knots(scales.line_place[y])
    metres = scales.across[here, x1] - scales.across[here, x0]
    return metres + share * (scales.across[below, x1] - scales.across[below, x0] - metres)


@numba.njit(cache=True, nogil=True)
def _upright(x, y0, y1, scales):
    """How much ground there is left of an edge along the sides of pixels, and how long it is."""
    square, metres = 0.0, 0.0
    for row in range(y0, y1):
        here, below, share = _knots(scales.row_place[row])
        ground, way = scales.area[here, x], scales.down[here, x]
        square += ground + share * (scales.area[below, x] - ground)
        metres += way + share * (scales.down[below, x] - way)
    return square, metres


@numba.njit(cache=True, nogil=True)
def _slanted(x0, y0, x1, y1, scales):
    """The same for any edge, in pieces: its length from the sides of pixels there, the ground by Simpson's rule.

    The ground counts as positive if the edge goes north.
    """
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
