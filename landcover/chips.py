"""Rows of the scene → strips under a row of windows → batches of chips of one constant shape."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from landcover.grid import Axis, Box, Grid

CHUNK_ROWS = 128
"""Rows of the scene that are read, and classified, at a time."""


@dataclass(frozen=True)
class Strip:
    """The scene's pixels under one row of windows, as wide as the windows of the region.

    Attributes:
        row: the window row.
        dn: digital numbers (bands, rows, width), finite.
        valid: (rows, width), True = usable by the network.
        wanted: (rows, width), True = valid and asked for; the others are nodata in the map.
    """

    row: int
    dn: np.ndarray
    valid: np.ndarray
    wanted: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """Some rows of the scene, at most CHUNK_ROWS, as they are read.

    Attributes:
        row: the first of them, counted from the scene's top.
        dn: digital numbers (bands, rows, width), finite.
        valid: (rows, width), True = usable.
    """

    row: int
    dn: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Chips of neighbouring windows of one window row.

    Attributes:
        cols: the window column of each chip; fewer than chips where the batch was filled up.
        dn: (n, bands, tile, tile), in the scene's dtype.
        valid: (n, 1, tile, tile) bool, True = usable.
    """

    cols: range
    dn: np.ndarray
    valid: np.ndarray


def strips(chunks: Iterable[Chunk], grid: Grid, area: Callable[[Box], np.ndarray] | None) -> Iterator[Strip]:
    """Put the chunks of a region's scene together to strips; rows that two strips share are kept, not read again.

    Args:
        chunks: all rows of `grid.read_box`, in order.
        grid: the windows.
        area: tells which pixels of a box are asked for, True = inside; None for all.

    Yields:
        Strips; each holds until the next one is taken.
    """
    box, buffer = grid.read_box, _Rows(grid.rows.tile + CHUNK_ROWS)
    for row in grid.window_rows:
        start = grid.rows.start(row)
        stop = min(start + grid.rows.tile, box.row1)
        buffer.drop_before(start)
        while buffer.end < stop:
            buffer.append(next(iter(chunks)))
        dn, valid = buffer.until(stop)
        wanted = valid & area(Box(start, stop, box.col0, box.col1)) if area else valid
        yield Strip(row, dn, valid, wanted)


class _Rows:
    """A window row's worth of rows, and those of the last chunk that reach beyond it."""

    def __init__(self, rows: int) -> None:
        self._room = rows
        self._start = 0
        self._held = 0
        self._dn = np.empty((0, 0, 0))
        self._valid = np.empty((0, 0), bool)

    @property
    def end(self) -> int:
        """The row after the last one held."""
        return self._start + self._held

    def drop_before(self, row: int) -> None:
        """Forget rows above `row`."""
        gone = min(row - self._start, self._held)
        if self._held:
            self._held -= gone
            self._dn[:, : self._held] = self._dn[:, gone : gone + self._held].copy()
            self._valid[: self._held] = self._valid[gone : gone + self._held].copy()
        self._start = row

    def append(self, chunk: Chunk) -> None:
        """Add the rows of a chunk below those held."""
        bands, rows, width = chunk.dn.shape
        if not self._dn.size:
            self._dn = np.empty((bands, self._room, width), chunk.dn.dtype)
            self._valid = np.empty((self._room, width), bool)
        place = slice(self._held, self._held + rows)
        self._dn[:, place], self._valid[place] = chunk.dn, chunk.valid
        self._held += rows

    def until(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows above `row`, as dn (bands, rows, width) and valid (rows, width)."""
        return self._dn[:, : row - self._start], self._valid[: row - self._start]


def batches(strip: Strip, grid: Grid, size: int) -> Iterator[Batch]:
    """Cut a strip into batches of `size` chips.

    Which windows share a batch, and where in it they stand, follows from the grid alone; a last batch that is not full
    is filled up with zeros. A batch without a single wanted pixel is left out. Beyond the scene's far edges the
    pixels of the window are reflected.
    """
    for cols in in_batches(grid.window_cols, size):
        if any(strip.wanted[:, _columns(grid, col)].any() for col in cols):
            yield _cut(strip, grid, cols, size)


def in_batches(cols: range, size: int) -> list[range]:
    """Split window columns into runs of at most `size`, from left to right."""
    return [cols[i : i + size] for i in range(0, len(cols), size)]


def even_batch_size(windows: int, limit: int) -> int:
    """The batch size, at most `limit`, that cuts a row of windows into as few and as equal batches as can be."""
    return -(-windows // -(-windows // limit))


def _cut(strip: Strip, grid: Grid, cols: range, size: int) -> Batch:
    shape = (grid.rows.tile, grid.cols.tile)
    dn = np.zeros((size, len(strip.dn), *shape), strip.dn.dtype)
    valid = np.zeros((size, 1, *shape), bool)
    rows = _reflected(grid.rows, strip.row)
    for i, col in enumerate(cols):
        columns = _columns(grid, col)
        index = np.ix_(rows, _reflected(grid.cols, col))
        inside = len(rows) == strip.dn.shape[1] and columns.stop <= strip.dn.shape[2]
        for band, pixels in enumerate(strip.dn[:, :, columns]):
            dn[i, band] = pixels if inside else pixels[index]
        valid[i, 0] = strip.valid[:, columns] if inside else strip.valid[:, columns][index]
    return Batch(cols, dn, valid)


def _columns(grid: Grid, col: int) -> slice:
    """The columns of the strip that a window covers."""
    start = grid.cols.start(col) - grid.cols.start(grid.window_cols[0])
    return slice(start, start + grid.cols.tile)


def _reflected(axis: Axis, k: int) -> np.ndarray:
    """For each pixel of window k, the pixel of the scene it takes, counted from the window's start.

    Pixels beyond the far edge mirror those before it, without repeating the edge itself, to and fro if need be.
    """
    held = min(axis.tile, axis.size - axis.start(k))
    turn = max(2 * (held - 1), 1)
    position = np.arange(axis.tile) % turn if held > 1 else np.zeros(axis.tile, int)
    return np.where(position < held, position, turn - position)
