"""Overlapping window scores → finished scores, by weights that sum to one at every pixel.

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

    Where two windows overlap, one fades out and the other in over the middle third of the overlap. In its outer third a
    window counts for nothing: there it knows least of what lies beyond its end. At every pixel of the scene the weights
    of all its windows sum to one, so that nothing is divided later.
    """
    position = np.arange(axis.tile) + axis.start(k)
    near = range(max(0, k - axis.tile // axis.step), min(axis.count, k + axis.tile // axis.step + 1))
    total = sum(_fade(axis, j, position - axis.start(j)) for j in near)
    return (_fade(axis, k, position - axis.start(k)) / total).astype(np.float32)


def _fade(axis: Axis, k: int, offset: np.ndarray) -> np.ndarray:
    """Window k's weight at `offset` pixels from its start, before normalisation; 0 outside the window.

    It does not fade towards the ends of the scene.
    """
    third = (axis.tile - axis.step) / 3
    inside = (offset >= 0) & (offset < axis.tile)
    before = np.inf if k == 0 else offset + 0.5
    behind = np.inf if k == axis.count - 1 else axis.tile - offset - 0.5
    return np.clip((np.minimum(before, behind) - third) / max(third, 0.5), 0, 1) * inside


class Blender:
    """Blends the scores of windows, which come from left to right and from top to bottom.

    Where a window is alone, its scores are final as they come. Elsewhere they are weighted, in place, and the sums that
    later windows will add to are kept: classes × overlap × width of the region, float32, and as much as one window's
    height. It works alike on NumPy arrays and torch tensors, on whatever device they are.

    Args:
        grid: the windows.
        array: turns a NumPy array into the kind of array that scores are.
    """

    def __init__(self, grid: Grid, array: Callable[[np.ndarray], Any]) -> None:
        self._grid = grid
        self._array = array
        self._right: tuple[int, int, Any] | None = None  # window row and column that take them, and the sums
        self._below: dict[int, tuple[int, Any]] = {}  # by window column: the window row that takes them, and the sums
        self._weights = cache(self._make_weights)

    def add(self, scores: Any, row: int, col: int) -> None:
        """Add a window; what no later window covers of its scores is final after that.

        Windows may be left out whose pixels are all nodata.

        Args:
            scores: (classes, tile, tile), changed in place.
            row, col: the window's row and column.
        """
        rows, cols = self._grid.rows, self._grid.cols
        for place, weights in self._weights(_like(rows, row), _like(cols, col)):
            scores[place] *= weights
        if self._right is not None and self._right[:2] == (row, col):
            scores[:, :, : cols.tile - cols.step] += self._right[2]
        taker, above = self._below.pop(col, (None, None))
        first, last = cols.finished(col)
        mine = scores[:, :, : last - first]
        if taker == row:
            mine[:, : rows.tile - rows.step] += above
        self._right = (row, col + 1, scores[:, :, cols.step :] + 0.0) if col < cols.count - 1 else None
        if row < rows.count - 1:
            self._below[col] = row + 1, mine[:, rows.step :] + 0.0

    def _make_weights(self, row: int, col: int) -> list[tuple[Place, Any]]:
        """The weights of a window where they are not one: on its frame, in up to four pieces."""
        down, across = axis_weights(self._grid.rows, row), axis_weights(self._grid.cols, col)
        top, bottom = _alone(down)
        left, right = _alone(across)
        tall, wide = len(down), len(across)
        if top >= bottom or left >= right:
            frame = [(0, tall, 0, wide)]
        else:
            frame = [(0, top, 0, wide), (bottom, tall, 0, wide), (top, bottom, 0, left), (top, bottom, right, wide)]
        return [
            ((slice(None), slice(y0, y1), slice(x0, x1)), self._array(np.outer(down[y0:y1], across[x0:x1])))
            for y0, y1, x0, x1 in frame
            if y0 < y1 and x0 < x1
        ]


def _like(axis: Axis, k: int) -> int:
    """A window with the same weights as window k: all that have all their neighbours are alike."""
    reach = axis.tile // axis.step
    return reach if reach <= k < axis.count - reach else k


def _alone(weights: np.ndarray) -> tuple[int, int]:
    """The pixels [lo, hi) that no other window along this axis touches: where the weight is one."""
    ones = np.flatnonzero(weights == 1)
    return (int(ones[0]), int(ones[-1]) + 1) if len(ones) else (0, 0)
