"""Runs of pixels, which patch each belongs to, and outlines walked from run to run; compiled, as it goes edge by edge.

A block is a strip with the last row before it on top, and nodata at both ends of every row: (rows + 1, width + 2). In
it a node, which is a corner of pixels, is counted by rows from the strip's first line and columns from its left border.
"""

from typing import NamedTuple

import numba
import numpy as np

CLOSED = -1


class Pieces(NamedTuple):
    """Outlines in a strip: closed rings, and pieces that come from its first or last line and leave there.

    Attributes:
        nodes: columns and rows of nodes, int32 (nodes, 2); a column is marked, by inverting its bits, where the patch
            touches itself at a corner.
        offsets: the node at which each begins, and their number, int64 (pieces + 1,).
        begin: the column at which each comes from the row above, or that plus the block's width if it comes from below;
            -1 for rings, int64 (pieces,).
        end: the same for where each leaves.
        patch: of which patch each is, int32 (pieces,).
    """

    nodes: np.ndarray
    offsets: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    patch: np.ndarray


def runs_of(block: np.ndarray) -> np.ndarray:
    """Where the value changes in a block, row after row: the first pixel of each run, and the end, int64 (runs + 1,).

    Runs of a class stay in their row, for it begins and ends with nodata.
    """
    flat = block.ravel()
    return np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])


@numba.njit(cache=True, nogil=True)
def root_of(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True, nogil=True)
def join(parent, i, j):
    """Join two sets; the lower root stays."""
    i, j = root_of(parent, i), root_of(parent, j)
    if i < j:
        parent[j] = i
    else:
        parent[i] = j


@numba.njit(cache=True, nogil=True)
def label_runs(block, starts, above_patch, known, diagonal):
    """Number the patches of a block; the `known` ones, which are open in the row above, come first.

    Returns the patch of each run, -1 for nodata, (runs,); the new number of each patch of the row above, (known,); and
    for each patch its value, and the number of its pixels below that row.
    """
    flat, width, runs = block.ravel(), block.shape[1], len(starts) - 1
    parent = np.arange(known + runs).astype(np.int32)
    reach = 1 if diagonal else 0
    first = 0
    for i in range(runs):
        value = flat[starts[i]]
        if value == 0:
            continue
        if starts[i] < width:
            parent[known + i] = above_patch[starts[i]]
            continue
        while starts[first + 1] <= starts[i] - width - reach:
            first += 1
        k = first
        while starts[k] < starts[i + 1] - width + reach:
            if flat[starts[k]] == value:
                join(parent, known + i, known + k)
            k += 1
    number = np.empty(known + runs, np.int32)
    patches = 0
    for i in range(known + runs):
        root = root_of(parent, i)
        if i >= known and flat[starts[i - known]] == 0:
            number[i] = -1
        elif root == i:
            number[i] = patches
            patches += 1
        else:
            number[i] = number[root]
    values, pixels = np.zeros(patches, np.uint8), np.zeros(patches, np.int64)
    for i in range(runs):
        patch = number[known + i]
        if patch >= 0:
            values[patch] = flat[starts[i]]
            if starts[i] >= width:
                pixels[patch] += starts[i + 1] - starts[i]
    return number[known:], number[:known], values, pixels


_EAST, _NORTH, _WEST, _SOUTH = 0, 1, 2, 3
_FROM_ABOVE, _FROM_BELOW, _RING = 0, 1, 2


@numba.njit(cache=True, nogil=True)
def walk(block, starts, label, first_row, diagonal, junctions):
    """Walk all outlines in a strip; returns the fields of `Pieces`.

    First come those that come from above, then those from below, then rings. Each goes south along the left side of a
    run somewhere, or comes from below; sides that were walked are remembered.
    """
    flat, width, rows, runs = block.ravel(), block.shape[1], block.shape[0] - 1, len(starts) - 1
    # every node ends a side of a run, and is come to as often as borders meet there
    nodes, used = np.empty((4 * runs + 4, 2), np.int32), 0
    offsets, begin = np.empty(2 * runs + 1, np.int64), np.empty(2 * runs, np.int64)
    end, patch = np.empty(2 * runs, np.int64), np.empty(2 * runs, np.int32)
    pieces = 0
    seen = np.zeros(flat.size, np.bool_)  # the left side of a pixel was walked
    for kind in (_FROM_ABOVE, _FROM_BELOW, _RING):
        for i in range(runs):
            at, value = starts[i], flat[starts[i]]
            if value == 0 or (kind == _FROM_ABOVE) != (at < width):
                continue
            if (kind == _FROM_BELOW and at < rows * width) or (kind == _RING and seen[at]):
                continue
            if kind == _FROM_BELOW:
                y, x, direction = rows - 1, starts[i + 1] - rows * width - 1, _NORTH
                come = width + x
            else:
                y, x, direction = at // width, at % width - 1, _SOUTH
                come = x if kind == _FROM_ABOVE else CLOSED
            offsets[pieces], begin[pieces], patch[pieces] = used, come, label[i]
            leave = CLOSED
            while True:
                if y == rows:
                    leave = width + x
                    break
                p = y * width + x
                left, right, behind = _around(flat, p, width, direction)
                turn = _turn(value, left, right, diagonal)
                if turn != 0 or (junctions and right != behind):
                    # an outline may come twice to where its patch touches itself; such nodes are marked
                    nodes[used, 0] = ~x if right == value and left != value else x
                    nodes[used, 1] = first_row + y
                    used += 1
                direction = (direction + turn) & 3
                if direction == _NORTH:
                    if y == 0:
                        leave = x
                        break
                    y -= 1
                elif direction == _SOUTH:
                    side = p + width + 1
                    if kind == _RING and side == at:
                        break
                    seen[side] = True
                    y += 1
                elif direction == _EAST:
                    x += 1
                else:
                    x -= 1
            end[pieces] = leave
            pieces += 1
    offsets[pieces] = used
    return (
        nodes[:used].copy(),
        offsets[: pieces + 1].copy(),
        begin[:pieces].copy(),
        end[:pieces].copy(),
        patch[:pieces].copy(),
    )


@numba.njit(cache=True, nogil=True)
def _around(flat, p, width, direction):
    """The pixels at a node: ahead on the left, ahead on the right, and behind on the right; `p` is its north-west."""
    north_west, north_east, south_west, south_east = flat[p], flat[p + 1], flat[p + width], flat[p + width + 1]
    if direction == _EAST:
        return north_east, south_east, south_west
    if direction == _NORTH:
        return north_west, north_east, south_east
    if direction == _WEST:
        return south_west, north_west, north_east
    return south_east, south_west, north_west


@numba.njit(cache=True, nogil=True)
def _turn(value, left, right, diagonal):
    """By how many quarters of a circle an outline turns left, so that its patch stays on its left."""
    if left == value:
        return 3 if right == value else 0
    return 3 if diagonal and right == value else 1


@numba.njit(cache=True, nogil=True)
def unmarked(column):
    """The column of a node, whether it is marked or not."""
    return column if column >= 0 else ~column


@numba.njit(cache=True, nogil=True)
def on_line(way, width, rows):
    """The column and row, from the strip's first line on, of where a piece begins or ends; see `Pieces`."""
    return way % width, 0 if way < width else rows
