"""Windows of a strip of the scene → batches of chips of one constant shape."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from landcover.grid import Axis, Grid


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
