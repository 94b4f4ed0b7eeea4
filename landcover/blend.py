"""Overlapping window scores → finished rows of scores, by weights that sum to one at every pixel.

References:
    Ronneberger, Fischer, Brox (2015), U-Net, arXiv:1505.04597: the overlap-tile strategy.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from landcover.grid import Axis, Grid

Place = tuple[slice, slice, slice]
"""Part of an array (classes, rows, columns)."""


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
        self._array = array
        self._row = grid.window_rows[0]
        self._weights = cache(self._make_weights)

    def add(self, scores: Any, row: int, col: int) -> None:
        """Add the scores (classes, tile, tile) of the window in window row `row` and window column `col`."""
        self._move_to(row)
        start = self._grid.cols.start(col) - self._left
        total = self._sum[:, :, start : start + self._grid.cols.tile]
        alone, weighted = self._weights(_like(self._grid.rows, row), _like(self._grid.cols, col))
        if alone is not None:
            total[alone] = scores[alone]
        for place, weights in weighted:
            total[place] += scores[place] * weights

    def finish(self, row: int) -> Any:
        """Close a window row; returns scores (classes, rows, width) of the region's rows that are now complete.

        They hold until the next call of `add` or `finish`. There may be no rows at all, where the window row ends
        above the region.
        """
        self._move_to(row)
        lo, hi = self._grid.complete(row)
        region, top, left = self._grid.region, self._grid.rows.start(row), self._left
        return self._sum[:, lo - top : hi - top, region.col0 - left : region.col1 - left]

    def _move_to(self, row: int) -> None:
        """Drop the rows above window row `row`, and make room below."""
        if row == self._row:
            return
        kept = self._sum[:, self._grid.rows.step :] + 0.0
        self._sum[:, : kept.shape[1]] = kept
        self._sum[:, kept.shape[1] :] = 0.0
        self._row = row

    def _make_weights(self, row: int, col: int) -> tuple[Place | None, list[tuple[Place, Any]]]:
        """Where a window is alone, and the weights elsewhere, so that only its frame is multiplied and added."""
        down, across = axis_weights(self._grid.rows, row), axis_weights(self._grid.cols, col)
        top, bottom = _alone(down)
        left, right = _alone(across)
        tall, wide = len(down), len(across)
        if top >= bottom or left >= right:
            return None, [(_place(0, tall, 0, wide), self._outer(down, across, 0, tall, 0, wide))]
        frame = [(0, top, 0, wide), (bottom, tall, 0, wide), (top, bottom, 0, left), (top, bottom, right, wide)]
        edges = [edge for edge in frame if edge[0] < edge[1] and edge[2] < edge[3]]
        return _place(top, bottom, left, right), [(_place(*e), self._outer(down, across, *e)) for e in edges]

    def _outer(self, down: np.ndarray, across: np.ndarray, top: int, bottom: int, left: int, right: int) -> Any:
        return self._array(np.outer(down[top:bottom], across[left:right]))


def _like(axis: Axis, k: int) -> int:
    """A window with the same weights as window k: all that have all their neighbours are alike."""
    reach = axis.tile // axis.step
    return reach if reach <= k < axis.count - reach else k


def _place(top: int, bottom: int, left: int, right: int) -> Place:
    """All classes of rows [top, bottom) and columns [left, right)."""
    return slice(None), slice(top, bottom), slice(left, right)


def _alone(weights: np.ndarray) -> tuple[int, int]:
    """The pixels [lo, hi) that no other window along this axis touches: where the weight is one."""
    ones = np.flatnonzero(weights == 1)
    return (int(ones[0]), int(ones[-1]) + 1) if len(ones) else (0, 0)
