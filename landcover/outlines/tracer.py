"""Strips of a raster → patches that are complete, with their outlines and what was summed over them."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from landcover.ground import Ground
from landcover.outlines.rings import gather, offsets_of, simple, turns
from landcover.outlines.simplify import Simplification
from landcover.outlines.strips import Walked, Walker
from landcover.outlines.walk import CLOSED, Pieces
from landcover.pipeline import read_ahead


@dataclass(frozen=True)
class Patches:
    """Patches that are complete, with their outlines.

    Attributes:
        values: class ids, uint8 (patches,).
        pixels: how many pixels each has, int64 (patches,).
        weighted: the sum of what was weighed over the pixels of each, float64 (patches,).
        known: how many pixels of each had a weight, int64 (patches,).
        area, perimeter: on the ellipsoid, in m² and m, float64 (patches,); 0 if the ground is not known.
        nodes: columns and rows of pixel corners, int32 (nodes, 2), in steps of `unit`; each ring ends where it begins.
        rings: the node at which each ring begins, and their number, int64 (rings + 1,).
        shells: the ring with which each patch begins, a shell, and their number, int64 (patches + 1,).
        unit: how many steps of the nodes a pixel has.
        diagonal: corners join pixels, so that a patch can have several shells, and holes that cut it apart.
    """

    values: np.ndarray
    pixels: np.ndarray
    weighted: np.ndarray
    known: np.ndarray
    area: np.ndarray
    perimeter: np.ndarray
    nodes: np.ndarray
    rings: np.ndarray
    shells: np.ndarray
    unit: int
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
        nodes, offsets = gather(self.nodes, self.offsets, np.flatnonzero(chosen), False)
        return _Rings(self.patch[chosen], offsets, nodes)


class Tracer:
    """Puts outlines together that were walked strip by strip, and sums over patches until they are complete.

    Args:
        width: of the raster.
        diagonal: whether pixels that meet at a corner are joined.
        unit: how many steps of the nodes a pixel has.
    """

    def __init__(self, width: int, diagonal: bool, unit: int) -> None:
        self._width, self._diagonal, self._unit = width, diagonal, unit
        self._sums = np.zeros((5, 0))  # pixels, weighted sum, known pixels, area and perimeter of the open patches
        self._rings: list[_Rings] = []
        self._chains: list[_Chain] = []

    def add(self, strip: Walked) -> Patches:
        """Take the next strip; returns the patches that are complete with it."""
        count = len(strip.values)
        sums = np.zeros((5, count))
        for total, before in zip(sums, self._sums, strict=True):
            total += np.bincount(strip.joined, before, minlength=count)
        sums[0] += strip.pixels
        if strip.weighed is not None:
            sums[1:3] += strip.weighed
        if strip.measures is not None:
            sums[3:] += strip.measures
        for rings in self._rings:
            rings.patch = strip.joined[rings.patch]
        self._rings += self._closed(strip.pieces)
        still_open = strip.number[:-1] >= 0
        done = self._finished(strip.values, sums, still_open)
        for rings in self._rings:
            rings.patch = strip.number[rings.patch]
        self._sums = sums[:, still_open]
        return done

    def _closed(self, pieces: Pieces) -> list[_Rings]:
        """The rings that close in a strip: within it, and with the chains that come from above."""
        within = _Rings(pieces.patch, pieces.offsets, pieces.nodes)
        alone = pieces.begin == CLOSED
        return [within if alone.all() else within.take(alone), self._link(pieces)]

    def _link(self, pieces: Pieces) -> _Rings:
        """Join the pieces of outlines that enter or leave a strip with the chains above; returns the rings that close.

        A chain comes up at its first column and goes down at its last; a piece comes from above where a chain goes down
        or from below, and leaves where a chain comes up or below. So both follow each other in turn.
        """
        begin, end, below = pieces.begin, pieces.end, self._width + 2
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
        rings = []
        while above:
            _, chain = above.popitem()
            parts, _, i = follow(chain.parts, entering[chain.end])
            rings.append((pieces.patch[i], np.concatenate(parts)))
        sizes = np.array([len(ring) for _, ring in rings], np.int64)
        nodes = np.concatenate([ring for _, ring in rings]) if rings else pieces.nodes[:0]
        return _Rings(np.array([number for number, _ in rings], np.int32), offsets_of(sizes), nodes)

    def _finished(self, values: np.ndarray, sums: np.ndarray, still_open: np.ndarray) -> Patches:
        """Patches that are complete, each with its shell before its holes."""
        nodes, offsets, patch = simple(*self._taken(~still_open))
        is_hole = turns(nodes, offsets) > 0
        order = np.argsort(patch * np.int64(2) + is_hole, kind="stable")
        nodes, rings_at = gather(nodes, offsets, order, True)
        shells = np.flatnonzero(np.diff(patch[order], prepend=-1))
        which = patch[order][shells]
        pixels, weighted, known, area, perimeter = sums[:, which]
        return Patches(
            values[which],
            pixels.astype(np.int64),
            weighted,
            known.astype(np.int64),
            area,
            perimeter,
            nodes,
            rings_at,
            np.append(shells, len(order)),
            self._unit,
            self._diagonal,
        )

    def _taken(self, complete: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take out the rings of patches that are complete: nodes, where each ring begins, and of which patch it is."""
        done, kept = [], []
        for rings in self._rings:
            out = complete[rings.patch]
            done.append(rings if out.all() else rings.take(out))
            if not out.all():
                kept.append(rings.take(~out) if out.any() else rings)
        self._rings = kept
        return (
            np.concatenate([r.nodes for r in done]),
            offsets_of(np.concatenate([np.diff(r.offsets) for r in done])),
            np.concatenate([r.patch for r in done]),
        )


def trace(
    strips: Iterable[tuple[np.ndarray, np.ndarray | None]],
    width: int,
    *,
    diagonal: bool = False,
    junctions: bool = False,
    ground: Ground | None = None,
    simplification: Simplification | None = None,
) -> Iterator[Patches]:
    """Trace a raster that is given in strips, from top to bottom; the next strips are walked in another thread.

    Args:
        strips: class ids, uint8 (rows, width), 0 = nodata; with each weights, float (rows, width), to be summed over
            each patch where they are not nan, or None.
        width: of the raster.
        diagonal: whether pixels that meet at a corner are joined.
        junctions: whether every node where other borders meet an outline is kept, so that neighbours share their
            borders node by node; else only where it bends.
        ground: under the raster, to measure patches on.
        simplification: of outlines; strips then are those of `simplify.STRIP_ROWS`, for nodes on their borders stay.

    Yields:
        After each strip the patches that are complete with it.
    """
    walker = Walker(width, diagonal, junctions, ground, simplification)
    tracer = Tracer(width, diagonal, simplification.unit if simplification else 1)
    with read_ahead(_walked(strips, walker, width), depth=1) as walked:
        for strip in walked:
            yield tracer.add(strip)


def _walked(strips: Iterable[tuple[np.ndarray, np.ndarray | None]], walker: Walker, width: int) -> Iterator[Walked]:
    """Walk strips, and a row of nodata, with which all patches end."""
    for ids, weights in strips:
        yield walker.walk(ids, weights)
    yield walker.walk(np.zeros((1, width), np.uint8), None)
