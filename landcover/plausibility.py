"""Whether a scene is like any that a model learned from: else a scale is wrong, or fill is not declared."""

from collections.abc import Sequence

import numpy as np

from landcover.bands import Band
from landcover.scaling import CLIP
from landcover.specs import BandStats

_BRIGHTEST = 1.2
"""Reflectance that clouds and snow do not exceed in all bands."""

_DARKEST = 2.5
"""Standard deviations below the mean, which in several bands at once is less than what water reflects."""

_FAINT = 0.2
"""Share of the mean that a pixel is below in every band if it is as dark as nothing but shadow and black water."""

_SEVERAL = 3
"""That fewer bands are dark or faint proves nothing."""

_EVERY = 16
"""One row and one column in so many is looked at."""

_MOST, _SOME, _ENOUGH = 0.5, 0.01, 1000
"""Shares of odd pixels that are told: while a scene is read, of so many pixels at least, and at its end."""

_ALL = 0.99
"""The share of faint pixels from which on they are odd."""

_LEVELS = 3
"""Values of a band that prove it to be no mask."""


class Plausibility:
    """Looks at a scene while it is read, and says once what is odd about it.

    A pixel is odd if every band is far brighter, or far darker, than anything the model learned from, or if every band
    is 0 though it counts as valid; and faint pixels are if there is hardly another, as in a scene of percent that are
    taken for ten-thousandths. A band that is flagged as alpha, as near infrared is in files of NAIP, is a mask if it
    has one value only beside 0.

    Args:
        name: of the scene.
        bands: with their scaling.
        stats: of the reflectance that the model learned from, one per band.
    """

    def __init__(self, name: str, bands: Sequence[Band], stats: Sequence[BandStats]) -> None:
        self._name, self._band, self._stats = name, bands[0].name, stats[0]
        self._flagged = [i for i, b in enumerate(bands) if b.source.alpha][:1]
        self._bands, self._levels = bands, set[float]()
        self._scale, self._offset = (np.array([[getattr(b, k)] for b in bands]) for k in ("scale", "offset"))
        means, stddevs = (np.array([[getattr(s, k)] for s in stats]) for k in ("mean", "stddev"))
        self._bright, self._dark = np.maximum(_BRIGHTEST, means + CLIP * stddevs), means - _DARKEST * stddevs
        self._faint_below = np.abs(means) * _FAINT
        self._seen = self._odd = self._faint = 0
        self._example = 0.0
        self._told = False

    def look(self, dn: np.ndarray, wanted: np.ndarray) -> str:
        """Look at the next rows, and say at once if most of what was seen is odd.

        Args:
            dn: digital numbers (bands, rows, width).
            wanted: bool (rows, width), True where the pixel is valid and mapped.

        Returns:
            A sentence, or "".
        """
        numbers = dn[:, ::_EVERY, ::_EVERY][:, wanted[::_EVERY, ::_EVERY]]
        reflectance = numbers * self._scale + self._offset
        odd = (reflectance > self._bright).all(axis=0)
        if len(numbers) >= _SEVERAL:
            odd |= (reflectance < self._dark).all(axis=0) | (numbers == 0).all(axis=0)
        faint = odd | (np.abs(reflectance) < self._faint_below).all(axis=0) if len(numbers) >= _SEVERAL else odd
        if (faint.any() and not self._faint) or (odd.any() and not self._odd):
            self._example = float(np.median(reflectance[0, odd if odd.any() else faint]))
        if len(self._levels) < _LEVELS:
            self._levels.update(np.unique(numbers[self._flagged]).tolist())
        self._seen += odd.size
        self._odd += int(np.count_nonzero(odd))
        self._faint += int(np.count_nonzero(faint))
        return self._said("that were read so far") if self._seen >= _ENOUGH and self._share > _MOST else ""

    def verdict(self) -> str:
        """What is odd about the whole scene: a sentence, or ""; also if it was said before."""
        if self._seen >= _ENOUGH and len(levels := self._levels - {0}) == 1:
            band = self._bands[self._flagged[0]]
            return (
                f"{self._name} has nothing but {levels.pop():g} in its band {band.source.index}, flagged as alpha, "
                f"which is taken for {band.name}: it is a mask; say with --bands which bands there are, for example "
                "--bands red=1,green=2,blue=3"
            )
        if self._faint > _ALL * self._seen:
            self._odd = self._faint
        return self._said("that were looked at") if self._share > _SOME else ""

    @property
    def _share(self) -> float:
        return self._odd / max(self._seen, 1)

    def _said(self, which: str) -> str:
        if self._told:
            return ""
        self._told = True
        return (
            f"{self._share:.0%} of the pixels of {self._name} {which} are like nothing the model learned from: their "
            f"{self._band} is {self._example:.3g}, for example, where it learned {self._stats.mean:.3g} ± "
            f"{self._stats.stddev:.2g}; check --sensor, --scale and --offset, and that missing pixels are declared as "
            "nodata"
        )
