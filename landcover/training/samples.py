"""Samples: the labelled chips of all sources, gathered once into files that are mapped into memory."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from landcover.errors import SamplesError
from landcover.outputs import disk_errors, publish_text
from landcover.training.sources import Piece

_INDEX = "samples.json"
_ARRAYS = {"reflectance": np.float32, "valid": np.bool_, "labels": np.uint8}
_BRIGHTEST = 3.0
"""Half the pixels of a source cannot be brighter than this reflectance, unless its scale is wrong."""
_DARKEST = 1e-4
"""Nor can half the pixels of every chip of a source be darker than this."""
_FILL = -0.5
"""No pixel has less reflectance in all bands, even where too much haze was taken off: it is fill."""
_ODD = 0.01
"""So large a share of a chip's pixels may be far too bright or dark in all bands."""


@dataclass(frozen=True)
class Origin:
    """Where a chip comes from.

    Attributes:
        source: number of the source in the recipe.
        scene, place, grid, row, col, gsd, bounds: as in `Piece`.
    """

    source: int
    scene: str
    place: str
    grid: str
    row: int
    col: int
    gsd: float | None
    bounds: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Samples:
    """Chips of one size, a smaller piece of pixels in the corner of its chip.

    Attributes:
        bands: common names.
        reflectance: float32 (chips, bands, size, size), finite.
        valid: bool (chips, size, size), True = usable.
        labels: uint8 (chips, size, size), 0 = ignore, k = the legend's k-th class.
        origins: of each chip.
        weights: float64 (chips,), how often each is drawn, relative to the others.
        folder: of the files that are mapped into memory.
    """

    bands: tuple[str, ...]
    reflectance: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    origins: tuple[Origin, ...]
    weights: np.ndarray
    folder: Path

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the same files, and takes no copy of them."""
        return open_samples, (self.folder, self.bands, self.size, self.weights)

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def size(self) -> int:
        return self.labels.shape[-1]

    def counts(self, chips: np.ndarray, classes: int) -> np.ndarray:
        """Labelled pixels of each class in some chips together, int64 (classes,)."""
        return self.counts_of_each(chips, classes).sum(axis=0)

    def counts_of_each(self, chips: np.ndarray, classes: int) -> np.ndarray:
        """Labelled pixels of each class in each of some chips, int64 (chips, classes)."""
        each = [np.bincount(self.labels[i].ravel(), minlength=classes + 1)[1:] for i in chips]
        return np.array(each, np.int64).reshape(-1, classes)

    def band_stats(self, chips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the reflectance of the usable pixels of some chips, float64 (bands,)."""
        total, squares, n = np.zeros(len(self.bands)), np.zeros(len(self.bands)), 0
        for i in chips:
            usable = self.reflectance[i][:, self.valid[i]].astype(np.float64)
            total, squares, n = total + usable.sum(axis=1), squares + (usable**2).sum(axis=1), n + usable.shape[1]
        mean = total / n
        return mean.round(6), np.sqrt(np.maximum(squares / n - mean**2, 1e-12)).round(6)


def gather(
    pieces: Iterator[tuple[int, Piece]], folder: Path, bands: tuple[str, ...], size: int, weights: list[float]
) -> Samples:
    """Write pieces to files in a folder, once, and map them into memory.

    Args:
        pieces: with the number of their source.
        folder: that exists; samples that were gathered in it before are taken as they are.
        bands: common names.
        size: of a chip, in pixels.
        weights: of each source.

    Raises:
        SamplesError: there is no piece, or the reflectance of a source cannot be one.
        OutputError: there is no room for them.
    """
    if not (folder / _INDEX).exists():
        _write(pieces, folder, len(bands), size)
    samples = open_samples(folder, bands, size, None)
    return replace(samples, weights=np.array([weights[o.source] for o in samples.origins]))


def open_samples(folder: Path, bands: tuple[str, ...], size: int, weights: np.ndarray | None) -> Samples:
    """Map samples that were gathered into memory; `weights` None for chips that are all drawn alike."""
    origins = tuple(Origin(**o) for o in json.loads((folder / _INDEX).read_text(encoding="utf-8")))
    shapes = {"reflectance": (len(bands), size, size), "valid": (size, size), "labels": (size, size)}
    arrays = {
        name: np.memmap(folder / f"{name}.raw", dtype, "r", shape=(len(origins), *shapes[name]))
        for name, dtype in _ARRAYS.items()
    }
    return Samples(
        bands, **arrays, origins=origins, weights=np.ones(len(origins)) if weights is None else weights, folder=folder
    )


def _write(pieces: Iterator[tuple[int, Piece]], folder: Path, bands: int, size: int) -> None:
    """Write the pixels of all pieces, and when these are on the disk their index, which tells that they are whole."""
    origins: list[dict[str, Any]] = []
    brightness: dict[int, list[float]] = {}
    with disk_errors(folder), ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.raw").open("wb")) for name in _ARRAYS}
        for number, piece in pieces:
            if not piece.valid.any():
                continue
            _check_chip(piece)
            for name, dtype in _ARRAYS.items():
                pixels = getattr(piece, name)
                chip = np.zeros((*pixels.shape[:-2], size, size), dtype)
                chip[..., : pixels.shape[-2], : pixels.shape[-1]] = pixels
                files[name].write(chip.tobytes())
            at = (piece.scene, piece.place, piece.grid, piece.row, piece.col)
            origins.append(asdict(Origin(number, *at, piece.gsd, piece.bounds)))
            brightness.setdefault(number, []).append(float(np.median(piece.reflectance[:, piece.valid])))
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    if not origins:
        raise SamplesError("no source has a chip with a label on a valid pixel; all are nodata or unlabelled")
    for number, medians in brightness.items():
        _check_brightness(origins, number, medians)
    publish_text(folder / _INDEX, json.dumps(origins))


def _check_chip(piece: Piece) -> None:
    """Refuse a chip that is scaled otherwise than its source says, or whose missing pixels are taken for valid ones."""
    pixels = piece.reflectance[:, piece.valid]
    odd = (pixels > _BRIGHTEST).all(axis=0) | (pixels < _FILL).all(axis=0)
    if odd.mean() > _ODD:
        example = float(np.median(pixels[0, odd]))
        raise SamplesError(
            f"{piece.scene} has pixels whose reflectance is {example:.4g}, which cannot be: its scale "
            "or offset is wrong, or missing pixels are not declared as nodata; reflectance = number * scale + offset "
            "lies between 0 and 1, and numbers of another kind, as decibels, have to be brought there by them too"
        )


def _check_brightness(origins: list[dict[str, Any]], number: int, medians: list[float]) -> None:
    """Refuse a source whose numbers cannot be reflectance, so that sources of mixed scaling are noticed.

    Args:
        origins: of all chips.
        number: of the source.
        medians: of the reflectance of each of its chips.
    """
    median = float(np.median(medians))
    if not -0.05 <= median <= _BRIGHTEST or max(medians) < _DARKEST:
        scene = next(o["scene"] for o in origins if o["source"] == number)
        raise SamplesError(
            f"source {number + 1} ({scene}) has a median reflectance of {median:.4g}, which cannot be: "
            "its scale or offset is wrong; reflectance = number * scale + offset lies between 0 and 1"
        )
