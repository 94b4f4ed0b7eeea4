"""Fewer nodes in outlines, and rounder ones, arc by arc: what two patches share stays shared, and nothing crosses.

An arc is the border between two nodes that stay: where more than two borders meet, at the edge of the scene, or on the
first or last line of a strip. Both of its sides do the same with it, each for itself, for all they look at is the arc
and the nodes of the map around. A node is left out only if the triangle with its two neighbours holds no other node of
the map as it was traced. Then no border runs through the triangle either, whatever became of the others in the
meantime, since a straight line that comes in has to end inside or to leave through another border.

References:
    Visvalingam, M. & Whyatt, J. D. (1993), Line generalisation by repeated elimination of points.
    Chaikin, G. (1974), An algorithm for high-speed curve generation.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from landcover.outlines.rings import offsets_of
from landcover.outlines.walk import CLOSED, Pieces, on_line, unmarked

STRIP_ROWS = 512
"""Outlines are simplified in strips of so many rows, always: nodes on their borders stay."""

_SLACK = 1.01
"""A tolerance of a pixel is one also where the map's metres are not quite those on the ground."""

_SHARE = 0.005
"""Of what an arc encloses, what it may win or lose by simplifying, and again by rounding."""

_TWICE = 4
_CUTS = (20 / 256, 9 / 256, 4 / 256, 1 / 256)
"""Twice what a corner loses, as a share of its edges' parallelogram: cut twice, or once by 3, 2, 1 sixteenths."""

_BEND, _FIXED = 1, 2
_MAY, _ONLY_LEFT, _MAY_NOT = 0, 1, 2


class Arcs(NamedTuple):
    """The arcs that the pieces of a strip consist of, each in the direction that both of its sides agree on.

    Attributes:
        nodes: columns and rows, these from the strip's first line on, int32 (nodes, 2).
        at: the node at which each begins, and their number, int64 (arcs + 1,).
        back: whether each runs against its piece, bool (arcs,).
        marked: whether its first and its last node in the piece are marked, bool (arcs, 2).
        firsts: the arc with which each piece begins, and their number, int64 (pieces + 1,).
    """

    nodes: np.ndarray
    at: np.ndarray
    back: np.ndarray
    marked: np.ndarray
    firsts: np.ndarray


@dataclass(frozen=True)
class Simplification:
    """How outlines become simpler.

    Attributes:
        area: a node is left out if the triangle with its neighbours is not larger, in pixels.
        smooth: corners are cut off, twice where the arc can afford it, as far as nothing is in the way.
    """

    area: float = 0.0
    smooth: bool = False

    @property
    def unit(self) -> int:
        """How many steps of the nodes that come out a pixel has."""
        return 16 if self.smooth else 1

    def apply(self, pieces: Pieces, block: np.ndarray, first_row: int) -> Pieces:
        """Simplify the outlines of a strip; `block` as in `landcover.outlines.walk`."""
        marks = _marks(*pieces[:4], block, first_row)
        arcs = Arcs(*_arcs(*pieces[:4], marks, first_row))
        rules = _straightening(arcs, len(block) - 1)
        nodes, sizes = _simplified(arcs, rules, pieces.begin, marks, self.area, self.smooth, self.unit)
        nodes[:, 1] += first_row * self.unit
        return pieces._replace(nodes=nodes, offsets=offsets_of(sizes))


@numba.njit(cache=True, nogil=True)
def _marks(nodes, offsets, begin, end, block, first_row):
    """Which corners of pixels are nodes in a strip, and which of these have to stay, uint8 (rows + 1, width + 1)."""
    rows, width = block.shape[0] - 1, block.shape[1]
    marks = np.zeros((rows + 1, width - 1), np.uint8)
    for i in range(len(nodes)):
        x, y = unmarked(nodes[i, 0]), nodes[i, 1] - first_row
        if x == 0 or x == width - 2 or y == 0:
            marks[y, x] = _FIXED
            continue
        a, b, c, d = block[y, x], block[y, x + 1], block[y + 1, x + 1], block[y + 1, x]
        marks[y, x] = _FIXED if (a != b) + (b != c) + (c != d) + (d != a) > 2 else _BEND
    for way in (begin, end):
        for i in range(len(way)):
            if way[i] != CLOSED:
                x, y = on_line(way[i], width, rows)
                marks[y, x] = _FIXED
    return marks


@numba.njit(cache=True, nogil=True)
def _arcs(nodes, offsets, begin, end, marks, first_row):
    """Cut the pieces of a strip into arcs; returns the fields of `Arcs`."""
    pieces = len(begin)
    out = np.empty((2 * len(nodes) + 4 * pieces + 4, 2), np.int32)
    room = len(nodes) + 2 * pieces + 1
    at, back, marked = np.zeros(room + 1, np.int64), np.zeros(room, np.bool_), np.zeros((room, 2), np.bool_)
    firsts = np.zeros(pieces + 1, np.int64)
    used, arcs = 0, 0
    for i in range(pieces):
        way = _whole(nodes[offsets[i] : offsets[i + 1]], begin[i], end[i], marks, first_row)
        start = 0
        for j in range(1, len(way)):
            if marks[way[j, 1], unmarked(way[j, 0])] == _BEND and j < len(way) - 1:
                continue
            marked[arcs, 0], marked[arcs, 1] = way[start, 0] < 0, way[j, 0] < 0
            for k in range(start, j + 1):
                out[used, 0], out[used, 1] = unmarked(way[k, 0]), way[k, 1]
                used += 1
            at[arcs + 1] = used
            back[arcs] = _against(out[at[arcs] : used])
            if back[arcs]:
                out[at[arcs] : used] = out[at[arcs] : used][::-1].copy()
            arcs += 1
            start = j
        firsts[i + 1] = arcs
    return out[:used].copy(), at[: arcs + 1].copy(), back[:arcs].copy(), marked[:arcs].copy(), firsts


@numba.njit(cache=True, nogil=True)
def _whole(piece, begin, end, marks, first_row):
    """The nodes of a piece from where it enters the strip to where it leaves, and of a ring as `_turned` gives them."""
    rows, width = marks.shape[0] - 1, marks.shape[1] + 1
    way, size = np.empty((len(piece) + 2, 2), np.int32), 0
    if begin != CLOSED:
        x, y = on_line(begin, width, rows)
        if len(piece) == 0 or piece[0, 1] - first_row != y or unmarked(piece[0, 0]) != x:
            way[0, 0], way[0, 1] = x, y
            size = 1
    for j in range(len(piece)):
        way[size, 0], way[size, 1] = piece[j, 0], piece[j, 1] - first_row
        size += 1
    if end == CLOSED:
        return _turned(way[:size], marks)
    x, y = on_line(end, width, rows)
    if way[size - 1, 1] != y or unmarked(way[size - 1, 0]) != x:
        way[size, 0], way[size, 1] = x, y
        size += 1
    return way[:size]


@numba.njit(cache=True, nogil=True)
def _turned(ring, marks):
    """A ring from a node that stays on, else from the first one by row and column, and that node again at its end."""
    best = 0
    for j in range(len(ring)):
        if marks[ring[j, 1], unmarked(ring[j, 0])] == _FIXED:
            best = j
            break
        if (ring[j, 1], ring[j, 0]) < (ring[best, 1], ring[best, 0]):
            best = j
    out = np.empty((len(ring) + 1, 2), ring.dtype)
    out[: len(ring) - best], out[len(ring) - best : len(ring)] = ring[best:], ring[:best]
    out[len(ring)] = ring[best]
    return out


@numba.njit(cache=True, nogil=True)
def _against(arc):
    """Whether an arc runs from the end with the higher row and column, or, if it ends where it begins, leaves so."""
    a, b = arc[0], arc[-1]
    if a[0] == b[0] and a[1] == b[1]:
        a, b = arc[1], arc[-2]
    return a[1] > b[1] or (a[1] == b[1] and a[0] > b[0])


def _straightening(arcs: Arcs, rows: int) -> np.ndarray:
    """Which arcs may become straight, so that no two between the same nodes do, uint8 (arcs,).

    Of several, one on the left and one on the right might; then only what bends to the left may. Two that bend to the
    same side cannot both, since the node of one is within the triangle of the other. Between nodes on the first line of
    a strip, or on the last, there may be another one in the next strip, so none may.
    """
    nodes, at = arcs.nodes.astype(np.int64), arcs.at
    place = (nodes[:, 1] << 32) + nodes[:, 0]
    first, second, last = place[at[:-1]], place[at[:-1] + 1], place[at[1:] - 1]
    order = np.lexsort((second, last, first))
    new_ends = np.diff(first[order], prepend=-1).astype(bool) | np.diff(last[order], prepend=-1).astype(bool)
    new_arc = new_ends | np.diff(second[order], prepend=-1).astype(bool)
    group = np.cumsum(new_ends) - 1
    siblings = np.bincount(group, new_arc)[group]
    straight = np.bincount(group, np.diff(at)[order] == 2)[group] > 0
    rule = np.empty(len(order), np.uint8)
    rule[order] = np.where(siblings == 1, _MAY, np.where(straight, _MAY_NOT, _ONLY_LEFT))
    from_row, to_row = nodes[at[:-1], 1], nodes[at[1:] - 1, 1]
    rule[(from_row == to_row) & (from_row % rows == 0)] = _MAY_NOT
    return rule


@numba.njit(cache=True, nogil=True)
def _simplified(arcs, rules, begin, marks, area, smooth, unit):
    """Put pieces together from simplified arcs; returns their nodes, in steps of `unit`, and how many each has."""
    nodes, at, firsts = arcs.nodes, arcs.at, arcs.firsts
    rows = marks.shape[0] - 1
    out = np.empty(((4 if smooth else 1) * len(nodes) + 4, 2), np.int32)
    sizes = np.zeros(len(begin), np.int64)
    used = 0
    for i in range(len(begin)):
        began = used
        for k in range(firsts[i], firsts[i + 1]):
            arc = nodes[at[k] : at[k + 1]]
            free = begin[i] == CLOSED and marks[arc[0, 1], arc[0, 0]] != _FIXED
            whole = begin[i] == CLOSED or k < firsts[i + 1] - 1
            kept = _thinned(arc, rules[k], marks, area)
            line = _rounded(kept, marks, free) if smooth else kept
            _restore(arc, marks)
            if arcs.back[k]:
                line = line[::-1]
            for j in range(len(line) - whole):
                if line[j, 1] == rows * unit:
                    continue  # what is on the last line comes with the next strip
                mark = (j == 0 and arcs.marked[k, 0]) or (j == len(line) - 1 and arcs.marked[k, 1])
                out[used, 0] = ~line[j, 0] if mark else line[j, 0]
                out[used, 1] = line[j, 1]
                used += 1
        sizes[i] = used - began
    return out[:used].copy(), sizes


@numba.njit(cache=True, nogil=True)
def _restore(arc, marks):
    for j in range(1, len(arc) - 1):
        marks[arc[j, 1], arc[j, 0]] = _BEND


@numba.njit(cache=True, nogil=True)
def _thinned(arc, straighten, marks, area):
    """An arc without the nodes whose triangles are not larger than an area, the smallest first; unmarks them.

    In one round no two neighbours go, so that of a staircase every other corner stays, and its line is kept. What one
    side wins in all is kept within half the area, or a share of what the arc encloses; else round patches would grow,
    as their outer corners come last, and small ones shrink.
    """
    most = int(2 * area * _SLACK)  # twice the area of a triangle is a whole number
    loop = arc[0, 0] == arc[-1, 0] and arc[0, 1] == arc[-1, 1]
    least = 5 if loop else (3 if straighten == _MAY_NOT else 2)
    kept, level, balance = arc.copy(), 0, 0
    within = min(most, max((most + 1) // 2, int(_SHARE * _enclosed(arc))))
    while level <= most and len(kept) > least:
        size, gone = 1, False
        left = len(kept)
        for k in range(1, len(kept) - 1):
            ax, ay, bx, by = kept[size - 1, 0], kept[size - 1, 1], kept[k, 0], kept[k, 1]
            cx, cy = kept[k + 1, 0], kept[k + 1, 1]
            twice = _twice(ax, ay, bx, by, cx, cy)
            goes = not gone and left > least and abs(twice) <= level and abs(balance + twice) <= within
            if goes and left == 3 and straighten == _ONLY_LEFT:
                goes = twice > 0
            # a triangle of half a pixel holds no other node, by Pick's theorem, nor does a straight piece of an outline
            if goes and (abs(twice) < 2 or _empty(marks, ax, ay, bx, by, cx, cy, 1)):
                marks[by, bx] = 0
                balance += twice
                gone = True
                left -= 1
            else:
                kept[size, 0], kept[size, 1] = bx, by
                gone = False
                size += 1
        kept[size] = kept[len(kept) - 1]
        if size + 1 == len(kept):
            level = most + 1 if level == most else min(most, 2 * level + (level == 0))
        kept = kept[: size + 1]
    return kept


@numba.njit(cache=True, nogil=True)
def _twice(ax, ay, bx, by, cx, cy):
    """Twice the area of a triangle; its sign tells on which side of a–c the node b is."""
    return (np.int64(bx) - ax) * (np.int64(cy) - ay) - (np.int64(by) - ay) * (np.int64(cx) - ax)


@numba.njit(cache=True, nogil=True)
def _enclosed(arc):
    """Twice the area between an arc and the straight line from its end to its beginning."""
    total = 0
    for k in range(len(arc) - 1):
        total += _twice(arc[0, 0], arc[0, 1], arc[k, 0], arc[k, 1], arc[k + 1, 0], arc[k + 1, 1])
    return abs(total)


@numba.njit(cache=True, nogil=True)
def _empty(marks, ax, ay, bx, by, cx, cy, unit):
    """Whether a triangle, in steps of `unit`, with its sides, holds no marked node but its own corners."""
    xs, ys = (np.int64(ax), np.int64(bx), np.int64(cx)), (np.int64(ay), np.int64(by), np.int64(cy))
    for row in range(-(-min(ys) // unit), max(ys) // unit + 1):
        y = row * unit
        low, high = np.int64(1) << 40, -(np.int64(1) << 40)
        for i in range(3):
            j = (i + 1) % 3
            if ys[i] == ys[j] == y:
                low = min(low, -(-min(xs[i], xs[j]) // unit))
                high = max(high, max(xs[i], xs[j]) // unit)
            elif ys[i] != ys[j] and min(ys[i], ys[j]) <= y <= max(ys[i], ys[j]):
                down = 1 if ys[j] > ys[i] else -1
                over, height = (xs[j] - xs[i]) * (y - ys[i]) * down, (ys[j] - ys[i]) * down
                across = xs[i] * height + over
                low, high = min(low, -(-across // (height * unit))), max(high, across // (height * unit))
        for col in range(low, high + 1):
            x = col * unit
            if marks[row, col] and not (
                (x == xs[0] and y == ys[0]) or (x == xs[1] and y == ys[1]) or (x == xs[2] and y == ys[2])
            ):
                return False
    return True


@numba.njit(cache=True, nogil=True)
def _rounded(arc, marks, free):
    """An arc in sixteenths of a pixel, its corners cut off where the way between the edges' middles is free.

    A corner is cut twice, so that it looks round, or once, at so many sixteenths of its edges: what the arc wins or
    loses in all is held within a share of what it encloses (or, where other patches touch it, the corner of a pixel);
    else patches would shrink that have hardly an inner corner.
    """
    out = np.empty((4 * len(arc) + 1, 2), np.int32)
    used, last = 0, len(arc) - 1
    if not free:
        out[0] = 16 * arc[0]
        used = 1
    cut, won = np.zeros(last, np.bool_), 0
    for k in range(used, last):
        a, b, c = arc[k - 1 if k else last - 1], arc[k], arc[k + 1]
        twice = _twice(a[0], a[1], b[0], b[1], c[0], c[1])
        ax, ay, cx, cy = a[0] + b[0], a[1] + b[1], b[0] + c[0], b[1] + c[1]
        cut[k] = twice != 0 and _empty(marks, ax, ay, 2 * b[0], 2 * b[1], cx, cy, 2)
        won += twice * cut[k]
    share = _SHARE * _enclosed(arc)
    level = _cut_within(abs(won), share if free else max(share, _CUTS[0]))
    for k in range(used, last):
        a, b, c = arc[k - 1 if k else last - 1], arc[k], arc[k + 1]
        if not cut[k] or level == 0:
            out[used] = 16 * b
            used += 1
        elif level == _TWICE:
            out[used] = 6 * a + 10 * b
            out[used + 1] = 3 * a + 12 * b + c
            out[used + 2] = a + 12 * b + 3 * c
            out[used + 3] = 10 * b + 6 * c
            used += 4
        else:
            out[used] = level * a + (16 - level) * b
            out[used + 1] = (16 - level) * b + level * c
            used += 2
    out[used] = 16 * arc[last]
    if free:
        out[used] = out[0]
    return out[: used + 1].copy()


@numba.njit(cache=True, nogil=True)
def _cut_within(won, most):
    """How corners, of so large parallelograms in all, are cut: twice, once by so many sixteenths, or not (0)."""
    for i in range(len(_CUTS)):
        if won * _CUTS[i] <= most:
            return _TWICE - i
    return 0
