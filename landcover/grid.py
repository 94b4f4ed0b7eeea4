"""The integer arithmetic of windows: which windows a scene is cut into, and which of them a region needs."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from landcover.errors import ConfigError

TILE_SIZE = 1664
OVERLAP = 96
"""Defaults, in pixels: windows so large that an eighth of the work is repeated, and at most one label in a thousand
differs from those of the scene scored at once (docs/performance.md has the plot)."""


@dataclass(frozen=True)
class Axis:
    """One axis of a scene, cut into windows that start at multiples of `step`, counted from the scene's origin.

    Attributes:
        size: length of the scene along this axis, in pixels.
        tile: length of a window, in pixels.
        step: distance between the starts of neighbouring windows, in pixels.
    """

    size: int
    tile: int
    step: int

    def __post_init__(self) -> None:
        if not (self.size > 0 and 0 < self.step <= self.tile):
            raise ValueError(f"an axis of {self.size} px cannot have windows of {self.tile} every {self.step}")

    @property
    def count(self) -> int:
        """Number of windows: as few as reach the far edge."""
        return 1 + max(0, math.ceil((self.size - self.tile) / self.step))

    def start(self, k: int) -> int:
        """First pixel of window k."""
        return k * self.step

    def end(self, k: int) -> int:
        """The pixel after the last one of window k, which may lie beyond the far edge."""
        return self.start(k) + self.tile

    def covering(self, lo: int, hi: int) -> range:
        """Windows that hold any pixel of [lo, hi): those a region needs to come out as in the whole map."""
        first = max(0, (lo - self.tile) // self.step + 1)
        last = min(self.count - 1, (hi - 1) // self.step)
        return range(first, last + 1)

    def finished(self, k: int) -> tuple[int, int]:
        """Pixels [lo, hi) that are complete once window k is done, and were not before."""
        lo = self.start(k)
        hi = self.size if k == self.count - 1 else self.start(k + 1)
        return lo, hi


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, rows [row0, row1) by columns [col0, col1)."""

    row0: int
    row1: int
    col0: int
    col1: int

    def __post_init__(self) -> None:
        if not (0 <= self.row0 < self.row1 and 0 <= self.col0 < self.col1):
            raise ValueError(f"not a rectangle of pixels: {self}")

    @property
    def height(self) -> int:
        return self.row1 - self.row0

    @property
    def width(self) -> int:
        return self.col1 - self.col0


@dataclass(frozen=True)
class Grid:
    """The windows of a scene, and the region of it that is wanted.

    The windows depend on the scene's size alone, never on the region: a region is computed from the very windows
    that the whole scene would use, so its pixels come out the same.
    """

    rows: Axis
    cols: Axis
    region: Box

    @property
    def window_rows(self) -> range:
        return self.rows.covering(self.region.row0, self.region.row1)

    @property
    def window_cols(self) -> range:
        return self.cols.covering(self.region.col0, self.region.col1)

    def completed_rows(self, window_row: int) -> tuple[int, int]:
        """Rows [lo, hi) of the region that are complete once a window row is done; empty if lo == hi."""
        lo, hi = self.rows.finished(window_row)
        lo = min(max(lo, self.region.row0), self.region.row1)
        return lo, max(lo, min(hi, self.region.row1))

    def completed(self, row: int, col: int) -> Box | None:
        """Pixels of the region that are complete once the window in that row and column is done, if there are any."""
        (row0, row1), (col0, col1) = self.rows.finished(row), self.cols.finished(col)
        row0, row1 = max(row0, self.region.row0), min(row1, self.region.row1)
        col0, col1 = max(col0, self.region.col0), min(col1, self.region.col1)
        return Box(row0, row1, col0, col1) if row0 < row1 and col0 < col1 else None

    def within(self, box: Box, row: int, col: int) -> tuple[slice, slice]:
        """Rows and columns of a box as those of the window in that row and column."""
        top, left = self.rows.start(row), self.cols.start(col)
        return slice(box.row0 - top, box.row1 - top), slice(box.col0 - left, box.col1 - left)

    def below(self, row: int) -> "Grid":
        """The same windows, for the rows of the region from `row` on."""
        return replace(self, region=replace(self.region, row0=row))

    def panels(self, most: int) -> list["Grid"]:
        """Cut the region, from left to right, into panels of about equal width, each at most `most` steps wide.

        A panel is computed like any region: it needs also the window columns to its left that reach into it.
        """
        region = self.region
        edges = _edges(self.cols, self.window_cols, most, region.col0, region.col1)
        return [replace(self, region=replace(region, col0=a, col1=b)) for a, b in edges]

    def parts(self, most: int) -> list["Grid"]:
        """Cut the region, from top to bottom, into parts of about equal height, each at most `most` steps high.

        A part, too, is computed like any region: it repeats the window row of the part above that reaches into it.
        """
        region = self.region
        edges = _edges(self.rows, self.window_rows, most, region.row0, region.row1)
        return [replace(self, region=replace(region, row0=a, row1=b)) for a, b in edges]

    @property
    def read_box(self) -> Box:
        """The pixels of the scene that the region's windows look at."""
        first_row, last_row = self.window_rows[0], self.window_rows[-1]
        first_col, last_col = self.window_cols[0], self.window_cols[-1]
        return Box(
            self.rows.start(first_row),
            min(self.rows.size, self.rows.end(last_row)),
            self.cols.start(first_col),
            min(self.cols.size, self.cols.end(last_col)),
        )

    @property
    def windows(self) -> int:
        """How many windows the region needs."""
        return len(self.window_rows) * len(self.window_cols)

    @property
    def work(self) -> float:
        """Pixels the network sees for each pixel of the region."""
        return self.windows * self.rows.tile * self.cols.tile / (self.region.height * self.region.width)


def _edges(axis: Axis, windows: range, most: int, lo: int, hi: int) -> Iterator[tuple[int, int]]:
    """Cut pixels [lo, hi) of an axis where windows start, into pieces of about equal length, at most `most` steps."""
    each = math.ceil(len(windows) / math.ceil(len(windows) / most))
    inner = [edge for k in windows[each::each] if lo < (edge := axis.start(k)) < hi]
    return itertools.pairwise([lo, *inner, hi])


def make_grid(height: int, width: int, *, tile: int, overlap: int, stride: int = 1, region: Box | None = None) -> Grid:
    """Lay windows over a scene, aligned with the network's total stride.

    Starts that are multiples of the stride let neighbouring windows see the same sampling lattice, which makes
    their scores agree; so `tile` and `overlap` are rounded up to multiples of it. Windows are made smaller than `tile`
    where as many of them then still reach the far edge, so that less of the last one lies beyond it.

    Args:
        height, width: size of the scene in pixels.
        tile: largest side of a window in pixels.
        overlap: pixels that neighbouring windows share.
        stride: the network's total stride in pixels.
        region: the pixels that are wanted; the whole scene if None.

    Raises:
        ConfigError: the tile is not positive, or the overlap is negative or not smaller than the tile.
    """
    if tile < 1:
        raise ConfigError(f"--tile-size must be at least 1 pixel, not {tile}")
    if overlap < 0:
        raise ConfigError(f"--overlap must not be negative, not {overlap}")
    if overlap >= tile:
        raise ConfigError(
            f"--overlap {overlap} must be smaller than --tile-size {tile}; choose for example {tile // 8}"
        )
    tile = round_up(tile, stride)
    overlap = min(round_up(overlap, stride), tile - stride)
    region = region or Box(0, height, 0, width)
    if region.row1 > height or region.col1 > width:
        raise ValueError(f"{region} does not lie in a scene of {height} × {width}")
    return Grid(_cut(height, tile, overlap, stride), _cut(width, tile, overlap, stride), region)


def _cut(size: int, tile: int, overlap: int, stride: int) -> Axis:
    """Cut an axis into as few windows of at most `tile` as can be, and make those no longer than need be."""
    count = 1 + max(0, math.ceil((size - tile) / (tile - overlap)))
    tile = round_up(math.ceil((size + (count - 1) * overlap) / count), stride)
    return Axis(size, tile, tile - overlap if count > 1 else tile)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple
