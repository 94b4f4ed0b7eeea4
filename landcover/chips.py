"""Rows of the scene → strips under a row of windows → batches of chips of one constant shape."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from landcover.grid import Axis, Box, Grid

CHUNK_ROWS = 128
"""Rows of the scene that are read at a time."""


class Pool:
    """Arrays of one shape that are used again, so that memory does not grow, and is not cleared anew each time.

    An array holds zeros when it is first taken, and later what was in it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self._shape = shape
        self._dtype = dtype
        self._free: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """An array that nobody uses."""
        return self._free.pop() if self._free else np.zeros(self._shape, self._dtype)

    def give_back(self, array: np.ndarray) -> None:
        """Say that an array that was taken, or a view of it, is not used any more."""
        self._free.append(array if array.base is None else array.base)


@dataclass(frozen=True)
class Chunk:
    """Some rows of the scene, at most CHUNK_ROWS, as they are read.

    Attributes:
        box: the pixels of the scene.
        dn: digital numbers (bands, rows, cols), finite.
        valid: (rows, cols), True = usable by the network.
        wanted: (rows, cols), True = valid and asked for; the others are nodata in the map.
        columns: (cols,), True = some pixel of the column is wanted.
    """

    box: Box
    dn: np.ndarray
    valid: np.ndarray
    wanted: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class Strip:
    """The chunks that lie under one row of windows, from top to bottom.

    Attributes:
        row: the window row.
        chunks: the first and the last one may reach beyond the windows.
    """

    row: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Batch:
    """Chips of neighbouring windows of one window row.

    Attributes:
        row, cols: the windows; the chip of window column k is number k modulo n.
        dn: (n, bands, height, width), in the scene's dtype; zeros where a chip belongs to none of `cols`.
        valid: (n, 1, height, width) bool, True = usable.
        wanted: (n, height, width) bool, True = valid and asked for.
    """

    row: int
    cols: range
    dn: np.ndarray
    valid: np.ndarray
    wanted: np.ndarray


def strips(chunks: Iterator[Chunk], grid: Grid, drop: Callable[[Chunk], None]) -> Iterator[Strip]:
    """Group the chunks of `grid.read_box`, given in order; those under two rows of windows come in both strips.

    `drop` is told of each chunk that no later strip needs. A strip holds until the next one is taken.
    """
    held: deque[Chunk] = deque()
    for row in grid.window_rows:
        start = grid.rows.start(row)
        while held and held[0].box.row1 <= start:
            drop(held.popleft())
        while not held or held[-1].box.row1 < min(start + grid.rows.tile, grid.rows.size):
            held.append(next(chunks))
        yield Strip(row, tuple(held))


class Cutter:
    """Cuts strips into batches of `size` chips.

    Which windows share a batch, and where in it they stand, follows from the scene's size alone, so that a region
    comes out as in the whole map. A batch is left out where no pixel of its columns is wanted. Beyond the scene's far
    edges the pixels of the window are reflected.
    """

    def __init__(self, grid: Grid, size: int, bands: int, dtype: str) -> None:
        self._grid = grid
        self._size = size
        tile = (grid.rows.tile, grid.cols.tile)
        self._dn = Pool((size, bands, *tile), dtype)
        self._valid, self._wanted = Pool((size, 1, *tile), "bool"), Pool((size, *tile), "bool")

    def cut(self, strip: Strip) -> Iterator[Batch]:
        """The batches of a strip, from left to right."""
        grid = self._grid
        for cols in in_batches(grid.window_cols, self._size):
            left, right = (x - grid.read_box.col0 for x in (grid.cols.start(cols[0]), grid.cols.end(cols[-1])))
            if any(chunk.columns[left:right].any() for chunk in strip.chunks):
                yield self._batch(strip, cols)

    def give_back(self, batch: Batch) -> None:
        """Say that a batch is not needed any more."""
        self._dn.give_back(batch.dn)
        self._valid.give_back(batch.valid)
        self._wanted.give_back(batch.wanted)

    def _batch(self, strip: Strip, cols: range) -> Batch:
        grid, size = self._grid, self._size
        dn, valid, wanted = self._dn.take(), self._valid.take(), self._wanted.take()
        if len(cols) < size:
            dn[:], valid[:] = 0, False
        for col in cols:
            chip = col % size
            for layers, name in ((dn[chip], "dn"), (valid[chip, 0], "valid"), (wanted[chip], "wanted")):
                for rows, pixels in _under(strip, grid, col, name):
                    layers[..., rows, : pixels.shape[-1]] = pixels
            _reflect(dn[chip], grid, strip.row, col)
            _reflect(valid[chip, 0], grid, strip.row, col)
        return Batch(strip.row, cols, dn, valid, wanted)


def in_batches(cols: range, size: int) -> list[range]:
    """Split window columns at the multiples of `size`, from left to right."""
    edges = [cols.start, *range(cols.start // size * size + size, cols.stop, size), cols.stop]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def even_batch_size(windows: int, limit: int) -> int:
    """The batch size, at most `limit`, that cuts a row of windows into as few and as equal batches as can be."""
    return -(-windows // -(-windows // limit))


def _under(strip: Strip, grid: Grid, col: int, name: str) -> Iterator[tuple[slice, np.ndarray]]:
    """The pixels of a strip under a window, chunk by chunk: the window's rows they fill, and (…, rows, cols)."""
    top, left = grid.rows.start(strip.row), grid.cols.start(col)
    for chunk in strip.chunks:
        lo, hi = max(chunk.box.row0, top), min(chunk.box.row1, grid.rows.end(strip.row))
        across = slice(left - chunk.box.col0, left - chunk.box.col0 + grid.cols.tile)
        yield slice(lo - top, hi - top), getattr(chunk, name)[..., lo - chunk.box.row0 : hi - chunk.box.row0, across]


def _reflect(chip: np.ndarray, grid: Grid, row: int, col: int) -> None:
    """Fill a chip (…, height, width) beyond the scene's far edges with the mirror image of what lies before them."""
    rows, cols = _mirror(grid.rows, row), _mirror(grid.cols, col)
    chip[..., -len(rows) or chip.shape[-2] :, :] = chip[..., rows, :]
    chip[..., -len(cols) or chip.shape[-1] :] = chip[..., cols]


def _mirror(axis: Axis, k: int) -> np.ndarray:
    """For each pixel of window k beyond the far edge, the pixel it takes, counted from the window's start.

    They mirror those before the edge, without repeating the edge itself, to and fro if need be.
    """
    held = min(axis.tile, axis.size - axis.start(k))
    turn = max(2 * (held - 1), 1)
    position = np.arange(held, axis.tile) % turn
    return np.where(position < held, position, turn - position)
