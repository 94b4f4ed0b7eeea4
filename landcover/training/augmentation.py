"""How chips are varied: by what differs between places, seasons, sensors and resolutions.

Geometry is torch's own sampling of affine grids. The radiometry is ours: libraries of augmentation know photographs,
not reflectance in which air scatters blue light more than red.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Generator, Tensor

from landcover.recipes import Augmentation

WAVELENGTHS = {
    "coastal": 0.44,
    "blue": 0.49,
    "green": 0.56,
    "yellow": 0.60,
    "red": 0.66,
    "rededge071": 0.705,
    "rededge075": 0.74,
    "rededge078": 0.78,
    "rededge": 0.72,
    "nir": 0.85,
    "nir08": 0.865,
    "nir09": 0.945,
    "swir16": 1.61,
    "swir22": 2.20,
}
"""Centres of bands by common name, in micrometres; a band that is not named here is taken as near infrared."""

_COARSEST = 4
"""Pixels are averaged before they are sampled, over as many as are skipped, up to this many in a row."""

Chips = tuple[Tensor, Tensor, Tensor]
"""reflectance float32 (N, bands, S, S), valid bool (N, S, S), labels int64 (N, S, S) with 0 = ignore."""


class Augmenter:
    """Varies batches of chips.

    Args:
        recipe: how far.
        bands: common names of the channels.
        means: of the reflectance of each band, float64 (bands,).
        water: the number of the class whose colour is varied for itself, and 0 if there is none.
    """

    def __init__(self, recipe: Augmentation, bands: tuple[str, ...], means: np.ndarray, water: int = 0) -> None:
        self._recipe = recipe
        self._means = torch.as_tensor(means, dtype=torch.float32)[:, None, None]
        self._waves = torch.tensor([WAVELENGTHS.get(b, 0.85) for b in bands])[:, None, None]
        self._water = water

    def __call__(self, chips: Chips, gsd: Tensor, rng: Generator) -> Chips:
        """Vary chips of any size; they come out in the size of the recipe, on the device they came on.

        Args:
            chips: see `Chips`.
            gsd: metres per pixel of each chip, float32 (N,), nan where it is not known.
            rng: on the CPU.
        """
        a = self._recipe
        reflectance, valid, labels = cut(chips, a.size, self._zoom(gsd), rng)
        if a.mix:
            reflectance, valid, labels = self._mixed((reflectance, valid, labels), rng)
        if a.waters and self._water:
            reflectance = self._of_other_water(reflectance, labels, rng)
        if a.lakes and self._water:
            reflectance, labels = self._with_lakes(reflectance, labels, rng)
        if a.turbid and self._water:
            reflectance = self._turbid(reflectance, valid, labels, rng)
        reflectance = self._through_air(reflectance, rng)
        if a.drop:
            reflectance = self._without_a_band(reflectance, rng)
        valid = valid & ~_holes(valid, a.holes, rng)
        return reflectance, valid, labels * valid

    def _zoom(self, gsd: Tensor) -> Tensor:
        """How many times finer each chip may come out, at the least and at the most, float32 (N, 2)."""
        usual = torch.tensor(self._recipe.zoom).expand(len(gsd), 2)
        if self._recipe.gsd is None:
            return usual
        finest, coarsest = self._recipe.gsd
        return torch.where(gsd[:, None].isnan(), usual, torch.stack([gsd / coarsest, gsd / finest], dim=1))

    def _mixed(self, chips: Chips, rng: Generator) -> Chips:
        """Set a rectangle of the next chip into some chips."""
        n, size = len(chips[0]), self._recipe.size
        side = _uniform(0.25, 0.75, (n, 2), rng) * size
        start = _uniform(0, 1, (n, 2), rng) * (size - side)
        place = torch.arange(size)
        inside = (place >= start[..., None]) & (place < (start + side)[..., None])
        chosen = torch.rand((n, 1, 1), generator=rng) < self._recipe.mix
        there = (inside[:, 0, :, None] & inside[:, 1, None, :] & chosen).to(chips[0].device)
        reflectance, valid, labels = (
            torch.where(there[:, None] if x.ndim == 4 else there, x.roll(1, 0), x) for x in chips
        )
        return reflectance, valid, labels

    def _of_other_water(self, reflectance: Tensor, labels: Tensor, rng: Generator) -> Tensor:
        """Give the water of some chips the colour of other water; what is lighter or darker in it stays so."""
        n, water = len(reflectance), (labels == self._water)[:, None]
        mean = (reflectance * water).sum((2, 3), keepdim=True) / water.sum((2, 3), keepdim=True).clamp(min=1)
        texture = (reflectance / mean.clamp(min=1e-3)).clamp(0.5, 2)
        chosen = (torch.rand((n, 1, 1, 1), generator=rng) < self._recipe.waters).to(reflectance.device)
        colour = water_colours(self._waves, n, rng).to(reflectance.device)
        return torch.where(water & chosen, colour * texture, reflectance)

    def _with_lakes(self, reflectance: Tensor, labels: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
        """Paint lakes on some chips: rounded, up to a third of the chip, with shores in which land shines through."""
        n, size = len(reflectance), self._recipe.size
        detail = int(torch.randint(3, 12, (), generator=rng))
        relief = F.interpolate(torch.randn((n, 1, detail, detail), generator=rng), (size, size), mode="bicubic")
        above = relief.flatten(1).quantile(1 - _uniform(0.01, 0.33, (n,), rng), dim=1).diagonal()
        chosen = torch.rand((n, 1, 1, 1), generator=rng) < self._recipe.lakes
        lake = ((relief > above[:, None, None, None]) & chosen).to(reflectance.device)
        share = F.avg_pool2d(F.pad(lake.float(), (1, 1, 1, 1), mode="replicate"), 3, 1) * lake
        colour = water_colours(self._waves, n, rng).to(reflectance.device)
        return reflectance + share * (colour - reflectance), torch.where(lake[:, 0], self._water, labels)

    def _turbid(self, reflectance: Tensor, valid: Tensor, labels: Tensor, rng: Generator) -> Tensor:
        """Mix up to 45 % of the spectrum of one pixel of land into the water of some chips."""
        n = len(reflectance)
        land = (valid & (labels > 0) & (labels != self._water)).flatten(1)
        order = torch.rand(land.shape, generator=rng).to(land.device)
        pixel = torch.where(land, order, -1.0).argmax(1)
        spectrum = reflectance.flatten(2).gather(2, pixel[:, None, None].expand(-1, reflectance.shape[1], 1))
        share = _uniform(0, 0.45, (n, 1, 1, 1), rng) * (torch.rand((n, 1, 1, 1), generator=rng) < self._recipe.turbid)
        share = share.to(reflectance.device) * land.any(dim=1)[:, None, None, None]
        mixed = reflectance * (1 - share) + spectrum[..., None] * share
        return torch.where((labels == self._water)[:, None], mixed, reflectance)

    def _through_air(self, reflectance: Tensor, rng: Generator) -> Tensor:
        """Vary brightness and colour, lay haze over half of the chips as at the top of the atmosphere, add noise."""
        a, (n, bands) = self._recipe, reflectance.shape[:2]
        gain = 1 + _uniform(-a.gain, a.gain, (n, bands, 1, 1), rng) + _uniform(-a.gain, a.gain, (n, 1, 1, 1), rng)
        most = torch.randint(2, (n, 1, 1, 1), generator=rng) * _uniform(0, a.haze, (n, 1, 1, 1), rng)
        haze = most * (self._waves / self._waves.min()) ** -_uniform(1.5, 4.5, (n, 1, 1, 1), rng)
        grain = _uniform(0, a.noise, (n, 1, 1, 1), rng) * torch.randn(reflectance.shape, generator=rng)
        gain, haze, grain = (x.to(reflectance.device) for x in (gain, haze, grain))
        return (reflectance * gain * (1 - haze) + haze) * (1 + grain)

    def _without_a_band(self, reflectance: Tensor, rng: Generator) -> Tensor:
        """Let some chips lose one band, which then shows its mean."""
        n, bands = reflectance.shape[:2]
        lost = torch.randint(bands, (n, 1), generator=rng) == torch.arange(bands)
        lost &= torch.rand((n, 1), generator=rng) < self._recipe.drop
        lost, means = (x.to(reflectance.device) for x in (lost[:, :, None, None], self._means))
        return torch.where(lost, means, reflectance)


_PURE_WATER = {
    0.44: 0.006,
    0.49: 0.015,
    0.56: 0.062,
    0.6: 0.22,
    0.66: 0.41,
    0.705: 0.7,
    0.74: 2.4,
    0.85: 4.3,
    1.61: 670.0,
}
"""How much pure water absorbs, per metre, by wavelength in micrometres."""


def water_colours(waves: Tensor, n: int, rng: Generator) -> Tensor:
    """The reflectance of kinds of water at random, float32 (n, bands, 1, 1).

    Water is dark where it absorbs, by itself, by what is dissolved in it and by particles, and bright where particles
    scatter light back; over all lies a little light of the sky.

    Args:
        waves: in micrometres, float32 (bands, 1, 1).
        n: how many.
        rng: on the CPU.

    References:
        Lee, Carder and Arnone (2002), Applied Optics 41(27), doi:10.1364/AO.41.005755: reflectance from absorption and
        backscattering. Pope and Fry (1997), doi:10.1364/AO.36.008710, and Kou et al. (1993), doi:10.1364/AO.32.003531:
        absorption by pure water.
    """
    shape = (n, 1, 1, 1)
    known = np.interp(waves.numpy(), list(_PURE_WATER), np.log(list(_PURE_WATER.values())))
    pure = torch.as_tensor(known, dtype=torch.float32).exp()
    dissolved = 10 ** _uniform(-1.7, 0.6, shape, rng) * torch.exp(-15 * (waves - 0.44))
    particles = 10 ** _uniform(-2.7, 0, shape, rng)
    absorbed = pure + dissolved + particles * _uniform(2, 6, shape, rng) * torch.exp(-12 * (waves - 0.44))
    scattered = 0.0014 * (waves / 0.5) ** -4.3 + particles * (waves / 0.55) ** -_uniform(0, 1.5, shape, rng)
    u = scattered / (absorbed + scattered)
    below = (0.0895 + 0.1247 * u) * u
    return np.pi * 0.52 * below / (1 - 1.7 * below) + _uniform(0, 0.015, shape, rng)


def cut(chips: Chips, size: int, zoom: Tensor, rng: Generator) -> Chips:
    """Cut a square out of each chip, flipped and turned at random, enlarged or reduced.

    Pixels are averaged where the square is coarser than the chip, and so are labels, by majority. Where it is wider
    than the chip, the chip is reflected.

    Args:
        chips: of any size.
        size: of the square, in pixels.
        zoom: how many times finer than the chip it is, at the least and at the most, float32 (N, 2).
        rng: on the CPU.
    """
    reflectance, valid, labels = chips
    n, side = len(labels), labels.shape[-1]
    low, high = zoom.log().split(1, dim=1)
    finer = torch.exp(low + (high - low) * torch.rand((n, 1), generator=rng))
    share = size / side / finer
    turned = torch.randint(2, (n, 1), generator=rng)
    signs = torch.randint(2, (n, 2), generator=rng) * 2 - 1
    across = torch.cat([1 - turned, turned, turned, 1 - turned], dim=1).view(n, 2, 2)
    place = (1 - share).clamp(min=0) * _uniform(-1, 1, (n, 2), rng)
    theta = torch.cat([across * (signs * share)[:, :, None], place[:, :, None]], dim=2).to(reflectance.device)
    averaged = (1 / finer[:, 0]).round().clamp(1, min(_COARSEST, side)).long()
    out = (
        reflectance.new_empty((n, reflectance.shape[1], size, size)),
        valid.new_empty((n, size, size)),
        labels.new_empty((n, size, size), dtype=torch.long),
    )
    for factor in averaged.unique().tolist():
        chosen = (averaged == factor).nonzero()[:, 0].to(reflectance.device)
        some = (reflectance[chosen], valid[chosen], labels[chosen])
        for whole, part in zip(out, _sample(some, theta[chosen], factor, size), strict=True):
            whole[chosen] = part
    return out


def _sample(chips: Chips, theta: Tensor, factor: int, size: int) -> Chips:
    """Sample squares of chips whose pixels are averaged over factor × factor first.

    Bicubically, as coarse scenes are enlarged before a network sees them; a network knows one from the other.
    """
    usable = chips[1][:, None].float()
    bands, labels = chips[0] * usable, chips[2].long()
    if factor > 1:
        bands, usable = F.avg_pool2d(bands, factor), F.avg_pool2d(usable, factor)
        labels = _majority(labels, factor)
    grid = F.affine_grid(theta, [len(bands), 1, size, size], align_corners=False)

    def sample(x: Tensor, mode: str) -> Tensor:
        return F.grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=False)

    clear = (sample(usable, "bicubic")[:, 0] - 1).abs() < 1e-3
    return sample(bands, "bicubic"), clear, sample(labels[:, None].float(), "nearest")[:, 0].long()


def _majority(labels: Tensor, factor: int) -> Tensor:
    """The most frequent class of factor × factor labels, where at least half of them are known; int64."""
    kinds = int(labels.max()) + 1
    shares = F.avg_pool2d(F.one_hot(labels, kinds).movedim(-1, 1).float(), factor)
    known = shares[:, 1:].sum(dim=1) >= 0.5
    return torch.where(known, shares[:, 1:].argmax(dim=1) + 1, 0) if kinds > 1 else labels[:, ::factor, ::factor]


def _holes(valid: Tensor, share: float, rng: Generator) -> Tensor:
    """Where to make pixels unusable: 2 % single pixels, and blocks of 8², in `share` of the chips; bool (N, S, S)."""
    n, height, width = valid.shape
    pixels = torch.rand((n, height, width), generator=rng) < 0.02
    blocks = (torch.rand((n, 1, -(-height // 8), -(-width // 8)), generator=rng) < 0.03).float()
    blocks = F.interpolate(blocks, scale_factor=8)[:, 0, :height, :width] > 0
    return ((pixels | blocks) & (torch.rand((n, 1, 1), generator=rng) < share)).to(valid.device)


def _uniform(low: float, high: float, shape: tuple[int, ...], rng: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)
