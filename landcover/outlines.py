"""Rows of classes → outlines of patches, strip by strip: no patch is cut where strips meet, and none is kept when done.

A patch is the pixels of one class that are joined by their edges (or also by their corners). Its outlines are walked
along pixel edges with the patch on the left, so that its shell runs counter-clockwise where rows run south, and its
holes clockwise. What reaches the last row of a strip is left open, and is walked on from there in the next one.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numba
import numpy as np

_CLOSED = -1


@dataclass(frozen=True)
class Patches:
    """Patches that are complete, with their outlines.

    Attributes:
        values: class ids, uint8 (patches,).
        pixels: how many pixels each has, int64 (patches,).
        weighted: the sum of what was weighed over the pixels of each, float64 (patches,).
        known: how many pixels of each had a weight, int64 (patches,).
        nodes: columns and rows of pixel corners, int32 (nodes, 2); each ring ends where it begins.
        rings: the node at which each ring begins, and their number, int64 (rings + 1,).
        shells: the ring with which each patch begins, a shell, and their number, int64 (patches + 1,).
        diagonal: corners join pixels, so that a patch can have several shells, and holes that cut it apart.
    """

    values: np.ndarray
    pixels: np.ndarray
    weighted: np.ndarray
    known: np.ndarray
    nodes: np.ndarray
    rings: np.ndarray
    shells: np.ndarray
    diagonal: bool

    def __len__(self) -> int:
        return len(self.values)

    @property
    def means(self) -> np.ndarray:
        """The mean weight of each patch, float64 (patches,); nan where nothing was weighed."""
        return np.divide(self.weighted, self.known, out=np.full(len(self), np.nan), where=self.known > 0)


@dataclass
class _Chain:
    """An outline that is not closed yet: it comes up from the last row at one column, and goes down there at another.

    Attributes:
        begin, end: these columns.
        parts: its corners (n, 2), piece by piece.
    """

    begin: int
    end: int
    parts: deque[np.ndarray]


@dataclass
class _Rings:
    """Rings of patches that are not complete yet: of which open patch each is, and their corners."""

    patch: np.ndarray
    offsets: np.ndarray
    nodes: np.ndarray

    def __len__(self) -> int:
        return len(self.patch)

    def take(self, chosen: np.ndarray) -> "_Rings":
        """Some of the rings, by a mask."""
        sizes = np.diff(self.offsets)
        return _Rings(self.patch[chosen], _offsets(sizes[chosen]), self.nodes[np.repeat(chosen, sizes)])


class Tracer:
    """Traces a raster that is given in strips, from top to bottom.

    Args:
        width: of the raster.
        diagonal: whether pixels that meet at a corner are joined.
        junctions: whether every node where other borders meet an outline is kept, so that neighbours share their
            borders node by node; else only where it bends.
    """

    def __init__(self, width: int, *, diagonal: bool = False, junctions: bool = False) -> None:
        self._width = width
        self._diagonal, self._junctions = diagonal, junctions
        self._row = 0
        self._above = np.zeros(width + 2, np.uint8)  # the last row, with nodata at both ends
        self._above_patch = np.full(width + 2, -1, np.int32)  # the open patch of each of its pixels
        self._values = np.zeros(0, np.uint8)  # of the open patches
        self._sums = np.zeros((3, 0))  # pixels, weighted sum, and known pixels of the open patches
        self._rings: list[_Rings] = []
        self._chains: list[_Chain] = []

    def add(self, ids: np.ndarray, weights: np.ndarray | None = None) -> Patches:
        """Trace the next rows.

        Args:
            ids: class ids, uint8 (rows, width), 0 = nodata.
            weights: float (rows, width), to be summed over each patch where it is not nan.

        Returns:
            The patches that are complete with them.
        """
        block = np.zeros((len(ids) + 1, self._width + 2), np.uint8)
        block[0], block[1:, 1:-1] = self._above, ids
        label, values, pixels = _label(block, self._above_patch, len(self._values), self._diagonal)
        joined = np.zeros(len(self._values), np.int32)  # what became of the open patches
        held = self._above_patch >= 0
        joined[self._above_patch[held]] = label[0, held]
        sums = np.zeros((3, len(values)))
        for total, before in zip(sums, self._sums, strict=True):
            np.add.at(total, joined, before)
        sums[0] += pixels
        if weights is not None:
            inside, known = label[1:, 1:-1], (ids > 0) & ~np.isnan(weights)
            sums[1] += np.bincount(inside[known], weights[known], minlength=len(values))
            sums[2] += np.bincount(inside[known], minlength=len(values))

        nodes, offsets, begin, end, patch = _walk(block, label, self._row, self._diagonal, self._junctions)
        pieces = _Rings(patch, offsets, nodes)
        for rings in self._rings:
            rings.patch = joined[rings.patch]
        self._rings += [pieces.take(begin == _CLOSED), self._link(pieces, begin, end)]

        last = label[-1]
        still_open = np.zeros(len(values), bool)
        still_open[last[last >= 0]] = True
        done = self._finished(values, sums, still_open)
        number = np.where(still_open, np.cumsum(still_open) - 1, -1)
        number = np.append(number, -1).astype(np.int32)  # nodata, whose number is -1, stays that
        for rings in self._rings:
            rings.patch = number[rings.patch]
        self._above, self._above_patch = block[-1].copy(), number[last]
        self._values, self._sums = values[still_open], sums[:, still_open]
        self._row += len(ids)
        return done

    def finish(self) -> Patches:
        """The patches that end with the raster."""
        return self.add(np.zeros((1, self._width), np.uint8))

    def _link(self, pieces: _Rings, begin: np.ndarray, end: np.ndarray) -> _Rings:
        """Join the pieces of outlines that enter or leave a strip with the chains above; returns the rings that close.

        A chain comes up at its first column and goes down at its last; a piece comes from above where a chain goes down
        or from below, and leaves where a chain comes up or below. So both follow each other in turn.
        """
        below = self._width + 2
        above = {chain.begin: chain for chain in self._chains}
        entering = {int(begin[i]): int(i) for i in np.flatnonzero((begin >= 0) & (begin < below))}

        def follow(parts: deque[np.ndarray], i: int) -> tuple[deque[np.ndarray], int, int]:
            """Walk on from a piece, until it leaves below, or there is no chain left to follow."""
            while True:
                parts.append(pieces.nodes[pieces.offsets[i] : pieces.offsets[i + 1]].copy())
                chain = above.pop(int(end[i]), None)
                if chain is None:
                    return parts, int(end[i]), i
                if len(chain.parts) > len(parts):
                    chain.parts.extendleft(reversed(parts))
                    parts = chain.parts
                else:
                    parts.extend(chain.parts)
                i = entering[chain.end]

        chains = []
        for i in np.flatnonzero(begin >= below).tolist():
            parts, column, _ = follow(deque(), i)
            chains.append(_Chain(int(begin[i]) - below, column - below, parts))
        self._chains = chains
        closed = []
        while above:
            _, chain = above.popitem()
            parts, _, i = follow(chain.parts, entering[chain.end])
            closed.append((pieces.patch[i], np.concatenate(parts)))
        sizes = np.array([len(ring) for _, ring in closed], np.int64)
        nodes = np.concatenate([ring for _, ring in closed]) if closed else pieces.nodes[:0]
        return _Rings(np.array([number for number, _ in closed], np.int32), _offsets(sizes), nodes)

    def _finished(self, values: np.ndarray, sums: np.ndarray, still_open: np.ndarray) -> Patches:
        """Take out the rings of patches that are complete, each shell before its holes."""
        done, kept = [], []
        for rings in self._rings:
            out = ~still_open[rings.patch]
            done.append(rings.take(out))
            if not out.all():
                kept.append(rings.take(~out) if out.any() else rings)
        self._rings = kept
        nodes, offsets, patch = _simple(
            np.concatenate([r.nodes for r in done]),
            _offsets(np.concatenate([np.diff(r.offsets) for r in done])),
            np.concatenate([r.patch for r in done]),
        )
        is_hole = _turns(nodes, offsets) > 0
        order = np.lexsort((is_hole, patch))
        closed, rings_at = _closed(nodes, offsets, order)
        shells = np.flatnonzero(np.diff(patch[order], prepend=-1))
        which = patch[order][shells]
        pixels, weighted, known = sums[:, which]
        return Patches(
            values[which],
            pixels.astype(np.int64),
            weighted,
            known.astype(np.int64),
            closed,
            rings_at,
            np.append(shells, len(order)),
            self._diagonal,
        )


def trace(
    strips: Iterable[np.ndarray], width: int, *, diagonal: bool = False, junctions: bool = False
) -> Iterator[Patches]:
    """Trace a raster given in strips; yields patches as they are complete."""
    tracer = Tracer(width, diagonal=diagonal, junctions=junctions)
    for ids in strips:
        yield tracer.add(ids)
    yield tracer.finish()


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)])


# Each of the following walks arrays pixel by pixel, so it is compiled.


@numba.njit(cache=True, nogil=True)
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True, nogil=True)
def _joined(parent, i, j):
    """Join two labels; the lower one stays."""
    i, j = _root(parent, i), _root(parent, j)
    if i < j:
        parent[j] = i
        return i
    parent[i] = j
    return j


@numba.njit(cache=True, nogil=True)
def _label(block, above_patch, known, diagonal):
    """Number the patches of a strip; a block (rows + 1, cols + 2) has the last row before it, and nodata on both sides.

    Returns the number of each pixel, -1 for nodata, and for each patch its value, and its pixels without those of the
    first row. Patches of the row before come first.
    """
    rows, cols = block.shape
    label = np.full(block.shape, -1, np.int32)
    label[0] = above_patch
    parent = np.arange(known + (rows - 1) * (cols - 2)).astype(np.int32)
    count = known
    for r in range(1, rows):
        for c in range(1, cols - 1):
            value = block[r, c]
            if value == 0:
                continue
            mine = -1
            if block[r, c - 1] == value:
                mine = label[r, c - 1]
            if block[r - 1, c] == value:
                up = label[r - 1, c]
                mine = up if mine < 0 else (mine if mine == up else _joined(parent, mine, up))
            if diagonal and block[r - 1, c - 1] == value:
                up = label[r - 1, c - 1]
                mine = up if mine < 0 else (mine if mine == up else _joined(parent, mine, up))
            if diagonal and block[r - 1, c + 1] == value:
                up = label[r - 1, c + 1]
                mine = up if mine < 0 else (mine if mine == up else _joined(parent, mine, up))
            if mine < 0:
                mine = count
                count += 1
            label[r, c] = mine
    number = np.empty(count, np.int32)
    patches = 0
    for i in range(count):
        root = _root(parent, i)
        if root == i:
            number[i] = patches
            patches += 1
        else:
            number[i] = number[root]
    values, pixels = np.zeros(patches, np.uint8), np.zeros(patches, np.int64)
    for r in range(rows):
        for c in range(1, cols - 1):
            if label[r, c] >= 0:
                mine = number[label[r, c]]
                label[r, c] = mine
                values[mine] = block[r, c]
                pixels[mine] += r > 0
    return label, values, pixels


_EAST, _NORTH, _WEST, _SOUTH = 0, 1, 2, 3


@numba.njit(cache=True, nogil=True)
def _walk(block, label, first_row, diagonal, junctions):
    """Walk all outlines in a strip; see `_label` for the block.

    Returns corners (n, 2) as column and row of the raster, where each piece of outline begins, from where it comes and
    where it leaves, and of which patch it is. A ring comes from -1 and leaves to -1; a piece comes from or leaves to
    the row above at a column, or the row below at a column plus the block's width.
    """
    rows, below = block.shape[0] - 1, block.shape[1]
    nodes, used = np.empty((1024, 2), np.int32), 0
    offsets, begin = np.empty(1024, np.int64), np.empty(1024, np.int64)
    end, patch = np.empty(1024, np.int64), np.empty(1024, np.int32)
    pieces = 0
    seen = np.zeros(block.shape, np.bool_)  # the upper side of a pixel was walked
    for kind in range(3):  # what comes from above, what comes from below, and what is closed
        lines = rows if kind == 2 else 1
        for line in range(lines):
            for x in range(below - 1):
                if kind == 0:
                    y, direction, value, mine = 0, _SOUTH, block[0, x + 1], label[0, x + 1]
                    starts = value != 0 and block[0, x] != value
                    comes = x
                elif kind == 1:
                    y, direction, value, mine = rows - 1, _NORTH, block[rows, x], label[rows, x]
                    starts = value != 0 and block[rows, x + 1] != value
                    comes = below + x
                else:
                    y, direction, value, mine = line, _WEST, block[line + 1, x + 1], label[line + 1, x + 1]
                    starts = value != 0 and block[line, x + 1] != value and not seen[line + 1, x + 1]
                    comes = -1
                if not starts:
                    continue
                if pieces + 1 >= len(offsets):
                    offsets, begin = _longer(offsets), _longer(begin)
                    end, patch = _longer(end), _longer(patch)
                offsets[pieces], begin[pieces], patch[pieces] = used, comes, mine
                leaves = -1
                start_y, start_x = y, x
                while True:
                    if y == rows:
                        leaves = below + x
                        break
                    north_west, north_east = block[y, x], block[y, x + 1]
                    south_west, south_east = block[y + 1, x], block[y + 1, x + 1]
                    if direction == _EAST:
                        left, right, behind = north_east, south_east, south_west
                    elif direction == _NORTH:
                        left, right, behind = north_west, north_east, south_east
                    elif direction == _WEST:
                        left, right, behind = south_west, north_west, north_east
                    else:
                        left, right, behind = south_east, south_west, north_west
                    if diagonal:
                        turn = 3 if right == value else (0 if left == value else 1)
                    else:
                        turn = 1 if left != value else (0 if right != value else 3)
                    if turn != 0 or (junctions and right != behind):
                        if used == len(nodes):
                            wider = np.empty((2 * used, 2), np.int32)
                            wider[:used] = nodes
                            nodes = wider
                        # an outline may come twice to where its patch touches itself; such nodes are marked
                        nodes[used, 0] = ~x if right == value and left != value else x
                        nodes[used, 1] = first_row + y
                        used += 1
                    direction = (direction + turn) % 4
                    if direction == _NORTH:
                        if y == 0:
                            leaves = x
                            break
                        y -= 1
                    elif direction == _SOUTH:
                        y += 1
                    elif direction == _EAST:
                        x += 1
                    else:
                        seen[y + 1, x] = True
                        x -= 1
                        if kind == 2 and y == start_y and x == start_x:
                            break
                end[pieces] = leaves
                pieces += 1
                y, x = start_y, start_x
    offsets[pieces] = used
    return (
        nodes[:used].copy(),
        offsets[: pieces + 1].copy(),
        begin[:pieces].copy(),
        end[:pieces].copy(),
        patch[:pieces].copy(),
    )


@numba.njit(cache=True, nogil=True)
def _simple(nodes, offsets, patch):
    """Cut rings where they come to a node twice, so that none touches itself; unmarks all nodes.

    A patch that goes around a hole and touches itself at a corner was walked in one ring, inside and outside.
    """
    out = np.empty_like(nodes)
    ends, of = np.empty(len(patch) + 1, np.int64), np.empty(len(patch) + 1, np.int32)
    used, rings = 0, 0
    for i in range(len(patch)):
        lo, hi = offsets[i], offsets[i + 1]
        twin = _twins(nodes[lo:hi])
        stack, place, height = np.empty(hi - lo, np.int64), np.full(hi - lo, -1, np.int64), 0
        for j in range(hi - lo + 1):
            if j < hi - lo:
                first = twin[j]
                cut = place[first] if first >= 0 else -1
            else:
                cut = 0  # the end of the ring: what is left of it
            if cut >= 0:
                if rings + 1 >= len(ends):
                    ends, of = _longer(ends), _longer(of)
                for k in range(cut, height):
                    node = nodes[lo + stack[k]]
                    place[stack[k]] = -1
                    out[used, 0] = node[0] if node[0] >= 0 else ~node[0]
                    out[used, 1] = node[1]
                    used += 1
                ends[rings], of[rings] = used, patch[i]
                rings += 1
                height = cut
            if j < hi - lo:
                stack[height], place[j] = j, height
                height += 1
    begins = np.zeros(rings + 1, np.int64)
    begins[1:] = ends[:rings]
    return out, begins, of[:rings].copy()


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
def _longer(values):
    wider = np.empty(2 * len(values), values.dtype)
    wider[: len(values)] = values
    return wider


@numba.njit(cache=True, nogil=True)
def _turns(nodes, offsets):
    """Twice the area of each ring, negative for those that run counter-clockwise where rows run south."""
    areas = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(areas)):
        lo, hi = offsets[i], offsets[i + 1]
        before = hi - 1
        for j in range(lo, hi):
            areas[i] += np.int64(nodes[before, 0]) * nodes[j, 1] - np.int64(nodes[j, 0]) * nodes[before, 1]
            before = j
    return areas


@numba.njit(cache=True, nogil=True)
def _closed(nodes, offsets, order):
    """Rings in another order, each with its first node again at its end; returns their nodes and where they begin."""
    at = np.empty(len(order) + 1, np.int64)
    at[0] = 0
    for k in range(len(order)):
        at[k + 1] = at[k] + offsets[order[k] + 1] - offsets[order[k]] + 1
    out = np.empty((at[-1], 2), np.int32)
    for k in range(len(order)):
        lo, hi = offsets[order[k]], offsets[order[k] + 1]
        out[at[k] : at[k + 1] - 1] = nodes[lo:hi]
        out[at[k + 1] - 1] = nodes[lo]
    return out, at
