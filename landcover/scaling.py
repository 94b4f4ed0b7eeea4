"""From digital numbers to what a network sees, by one function for training and prediction."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landcover.errors import BandError

CLIP = 6.0
"""Normalised values are held within ± this many standard deviations, so that a saturated pixel stays one."""


_DARKEST = -2.5
"""No band of a real pixel is so many standard deviations darker than the mean, all at once."""

_EVERY = 16
"""Of the rows and columns are looked at for pixels that are unlike any other."""


@dataclass(frozen=True)
class Scaling:
    """One affine map per band, from digital numbers straight to normalised values.

    Attributes:
        gain, bias: float32 (bands,).
    """

    gain: np.ndarray
    bias: np.ndarray

    def __call__(self, dn: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Scale one chip, dn (bands, height, width), valid (height, width), True = usable, to float32."""
        return scale(dn.astype(np.float32), valid[None], self.gain[:, None, None], self.bias[:, None, None])


class Lookout:
    """Counts pixels, a sample of them, that look like nothing a model learned from: every band far too dark or bright.

    A scene read with another sensor's scale looks like that, and so do missing pixels that nobody declared as nodata.

    Attributes:
        seen, strange: how many were looked at, and how many are such.
    """

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self.seen = self.strange = 0
        self._sum = 0.0

    def look(self, dn: np.ndarray, valid: np.ndarray) -> None:
        """Look at the next rows, dn (bands, rows, width), valid (rows, width)."""
        there = valid[::_EVERY, ::_EVERY]
        seen = self._scaling(dn[:, ::_EVERY, ::_EVERY], there)[:, there]
        strange = (seen >= CLIP).all(axis=0) | (seen <= _DARKEST).all(axis=0)
        self.seen += seen.shape[1]
        self.strange += int(np.count_nonzero(strange))
        if strange.any():
            first = dn[0, ::_EVERY, ::_EVERY][there][strange]
            self._sum += float(first.sum(dtype=np.float64))

    @property
    def share(self) -> float:
        """Of the pixels that were looked at."""
        return self.strange / max(self.seen, 1)

    @property
    def number(self) -> float:
        """The mean number that the first band has where pixels are such."""
        return self._sum / max(self.strange, 1)


def make_scaling(scales, offsets, means, stddevs) -> Scaling:
    """Fold `reflectance = dn * scale + offset` and `(reflectance - mean) / stddev` into one map per band."""
    scales, offsets, means, stddevs = (np.asarray(a, np.float64) for a in (scales, offsets, means, stddevs))
    with np.errstate(over="ignore", invalid="ignore"):
        gain, bias = (scales / stddevs).astype(np.float32), ((offsets - means) / stddevs).astype(np.float32)
    if not (np.isfinite(gain).all() and np.isfinite(bias).all()):
        raise BandError("the scale or offset of a band, or what the model makes of them, is too large to compute with")
    return Scaling(gain, bias)


def scale(dn: Any, valid: Any, gain: Any, bias: Any) -> Any:
    """Scale digital numbers, clip them, and put 0, the training mean, where a pixel is not valid.

    Works alike on NumPy arrays and torch tensors, so that training, the CPU and the GPU share it. The arguments
    broadcast against each other; `dn` is float32 and finite; `valid` is True or 1 where usable.
    """
    return (dn * gain + bias).clip(-CLIP, CLIP) * valid
