"""Overlapping window scores → finished rows of scores, by weights that sum to one at every pixel.

References:
    Ronneberger, Fischer, Brox (2015), U-Net, arXiv:1505.04597: the overlap-tile strategy.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from landcover.grid import Axis, Grid


def axis_weights(axis: Axis, k: int) -> np.ndarray:
    """Weights of window k along one axis, float32 (tile,).

    Each window has a ramp as wide as the overlap at either end. At every pixel of the scene the weights of all its
    windows sum to one, at the scene's borders too, so that nothing is divided later.
    """
    position = np.arange(axis.tile) + axis.start(k)
    near = range(max(0, k - axis.tile // axis.step), min(axis.count, k + axis.tile // axis.step + 1))
    total = sum(_ramp(axis, position - axis.start(j)) for j in near)
    return (_ramp(axis, position - axis.start(k)) / total).astype(np.float32)


def _ramp(axis: Axis, offset: np.ndarray) -> np.ndarray:
    """A window's weight at `offset` pixels from its start, before normalisation; 0 outside the window."""
    overlap = max(axis.tile - axis.step, 1)
    edge = np.minimum(offset + 0.5, axis.tile - offset - 0.5)
    return np.clip(edge, 0, overlap) / overlap


class Blender:
    """Adds the scores of windows, row of windows by row of windows, and gives back rows as they become complete.

    It holds one row of windows: classes × tile × width of the region's windows, float32. It works alike on NumPy
    arrays and torch tensors, on whatever device they are.

    Args:
        grid: the windows.
        classes: number of classes.
        zeros: makes an array of zeros of a shape, float32.
        array: turns a NumPy array into that kind of array.
    """

    def __init__(
        self, grid: Grid, classes: int, zeros: Callable[[tuple[int, ...]], Any], array: Callable[[np.ndarray], Any]
    ) -> None:
        self._grid = grid
        self._left = grid.cols.start(grid.window_cols[0])
        right = grid.cols.start(grid.window_cols[-1]) + grid.cols.tile
        self._sum = zeros((classes, grid.rows.tile, right - self._left))
        self._row_weights = cache(lambda k: array(axis_weights(grid.rows, k)[:, None]))
        self._col_weights = cache(lambda k: array(axis_weights(grid.cols, k)[None, :]))

    def add(self, scores: Any, row: int, col: int) -> None:
        """Add the scores (classes, tile, tile) of the window in window row `row` and window column `col`."""
        start = self._grid.cols.start(col) - self._left
        weights = self._row_weights(row) * self._col_weights(col)
        self._sum[:, :, start : start + self._grid.cols.tile] += scores * weights

    def finish(self, row: int) -> Any:
        """Close a window row; returns scores (classes, rows, width) of the region's rows that are now complete.

        May have no rows at all, where the window row ends above the region.
        """
        lo, hi = self._grid.complete(row)
        region, top, left = self._grid.region, self._grid.rows.start(row), self._left
        done = self._sum[:, lo - top : hi - top, region.col0 - left : region.col1 - left] + 0.0
        kept = self._sum[:, self._grid.rows.step :] + 0.0
        self._sum[:, : kept.shape[1]] = kept
        self._sum[:, kept.shape[1] :] = 0.0
        return done
