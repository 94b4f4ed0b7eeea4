"""Strips of a raster, one after the other: their patches numbered and measured, and the outlines in each walked."""

from dataclasses import dataclass

import numpy as np

from landcover.ground import Ground
from landcover.outlines.measure import measure_outlines, measure_runs
from landcover.outlines.simplify import Simplification
from landcover.outlines.walk import Pieces, label_runs, runs_of, walk


@dataclass(frozen=True)
class Walked:
    """A strip whose outlines were walked.

    Its patches are those that were open before it, which it may join, and those that begin in it.

    Attributes:
        values: class ids of its patches, uint8 (patches,).
        joined: for each patch that was open before it, which of its patches that is now, int32 (open before,).
        number: of each of its patches among those that are still open after it, -1 if it is complete; and a -1 at the
            end, for pixels of no patch, int32 (patches + 1,).
        pixels: how many pixels of the strip each patch has, int64 (patches,).
        weighed: the sum of their weights, and how many have one, float64 (2, patches); None if nothing is weighed.
        measures: area in m² and perimeter in m of the part of each patch from the strip's first line to its last,
            float64 (2, patches), nan where some of it lies off the earth; None without ground.
        pieces: its outlines.
    """

    values: np.ndarray
    joined: np.ndarray
    number: np.ndarray
    pixels: np.ndarray
    weighed: np.ndarray | None
    measures: np.ndarray | None
    pieces: Pieces


class Walker:
    """Walks a raster that is given in strips, from top to bottom; see `trace` for the arguments."""

    def __init__(
        self,
        width: int,
        diagonal: bool,
        junctions: bool,
        ground: Ground | None,
        simplification: Simplification | None,
    ) -> None:
        self._diagonal, self._junctions = diagonal, junctions or simplification is not None
        self._ground, self._simplification = ground, simplification
        self._row = 0
        self._above = np.zeros(width + 2, np.uint8)  # the last row, with nodata at both ends
        self._above_patch = np.full(width + 2, -1, np.int32)  # the open patch of each of its pixels
        self._open = 0

    def walk(self, ids: np.ndarray, weights: np.ndarray | None) -> Walked:
        """Walk the next rows: class ids, uint8 (rows, width), 0 = nodata; weights are float (rows, width) or nan."""
        block = np.zeros((len(ids) + 1, len(self._above)), np.uint8)
        block[0], block[1:, 1:-1] = self._above, ids
        starts = runs_of(block)
        label, joined, values, pixels = label_runs(block, starts, self._above_patch, self._open, self._diagonal)
        pieces = Pieces(*walk(block, starts, label, self._row, self._diagonal, self._junctions))
        if self._simplification is not None:
            pieces = self._simplification.apply(pieces, block, self._row)
        measures = self._measures(block, starts, label, len(values), pieces)

        last = _last_row(starts, label, block.shape)
        still_open = np.zeros(len(values), bool)
        still_open[last[last >= 0]] = True
        number = np.append(np.where(still_open, np.cumsum(still_open) - 1, -1), -1).astype(np.int32)
        self._above, self._above_patch, self._open = block[-1].copy(), number[last], int(still_open.sum())
        weighed = _weighed(weights, starts, label, len(values)) if weights is not None else None
        self._row += len(ids)
        return Walked(values, joined, number, pixels, weighed, measures, pieces)

    def _measures(
        self, block: np.ndarray, starts: np.ndarray, label: np.ndarray, count: int, pieces: Pieces
    ) -> np.ndarray | None:
        """How much of each patch lies in a block, on the ground; see `Walked.measures`."""
        if self._ground is None:
            return None
        row, rows = self._row, len(block) - 1
        stop = min(row + rows, self._ground.height)
        scales = self._ground.scales(row, stop)
        if self._simplification is None:
            measures = np.stack(measure_runs(block, starts, label, count, scales))
        else:
            measures = np.stack(measure_outlines(pieces, count, scales, row, rows, self._simplification.unit))
        if not scales.whole:
            patch = np.repeat(label, np.diff(starts)).reshape(block.shape)[1 : 1 + stop - row, 1:-1]
            off_earth = ~np.isfinite(self._ground.pixel_areas(row, stop))
            measures[:, patch[off_earth & (patch >= 0)]] = np.nan
        return measures


def _weighed(weights: np.ndarray, starts: np.ndarray, label: np.ndarray, count: int) -> np.ndarray:
    """Weights summed over the patches of a strip, and how many of their pixels have one, float64 (2, count)."""
    inside = label >= 0
    block = np.full((len(weights) + 1, weights.shape[1] + 2), np.nan)
    block[1:, 1:-1] = weights
    known = ~np.isnan(block)
    by_run = (
        np.add.reduceat(np.where(known, block, 0).ravel(), starts[:-1]),
        np.add.reduceat(known.ravel(), starts[:-1], dtype=float),
    )
    return np.stack([np.bincount(label[inside], sums[inside], minlength=count) for sums in by_run])


def _last_row(starts: np.ndarray, label: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The patch of each pixel of the last row of a block."""
    begin = (shape[0] - 1) * shape[1]
    first = int(np.searchsorted(starts, begin, "right")) - 1
    return np.repeat(label[first:], np.diff(np.maximum(starts[first:], begin)))
