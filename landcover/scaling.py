"""From digital numbers to what a network sees, by one function for training and prediction."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landcover.errors import BandError

CLIP = 6.0
"""Normalised values are held within ± this many standard deviations, so that a saturated pixel stays one."""


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
