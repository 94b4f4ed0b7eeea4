"""The training pack: loading it, splitting it by place, augmenting its chips, and scoring a network on it.

Shared by train_embedded.py, evaluate.py and skip_connections.py; nothing to run here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, torch's own name for it
from torch import Tensor, nn

from landcover.scaling import Scaling, make_scaling, scale

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
PACK = DATA / "hls_worldcover.npz"
BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
WAVELENGTHS = (0.49, 0.56, 0.66, 0.85, 1.61, 2.20)
"""Centres of the bands in micrometres."""
CLASSES = ("forest", "water", "urban", "other")
"""Labels are 1 to 4 in this order; 0 is to be ignored."""
DN_SCALE = 1e-4
"""Reflectance is the digital number times this, in the pack and in every scene that is scored here."""


@dataclass(frozen=True)
class Pack:
    """Chips of 128² pixels with their labels.

    Attributes:
        dn: int16 (chips, bands, height, width), reflectance × 10⁴.
        valid: bool (chips, height, width), True = usable.
        labels: uint8 (chips, height, width), 0 = ignore, 1 to 4 = forest, water, urban, other.
        groups: (chips,) the place of each chip; chips of one place overlap or differ only in date.
    """

    dn: Tensor
    valid: Tensor
    labels: Tensor
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, chips: np.ndarray | Tensor) -> "Pack":
        return Pack(self.dn[chips], self.valid[chips], self.labels[chips], self.groups[chips])


def load_pack(path: Path) -> Pack:
    """Read the pack, or leave with a sentence if it is not there."""
    if not path.is_file():
        raise SystemExit(f"the training pack {path} is missing; say where it is with --pack PATH")
    with np.load(path) as z:
        arrays = (torch.from_numpy(z[name]) for name in ("images", "clear", "labels"))
        return Pack(*arrays, groups=z["group"])


def split_by_group(pack: Pack, every: int = 5, first: int = 2) -> tuple[Pack, Pack]:
    """Hold out every fifth place in order of size, which holds out about a fifth of each class.

    Returns:
        the training part and the held-out part.
    """
    groups, sizes = np.unique(pack.groups, return_counts=True)
    by_size = groups[np.argsort(-sizes, kind="stable")]
    out = np.isin(pack.groups, by_size[first::every])
    return pack[~out], pack[out]


def band_stats(pack: Pack) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the reflectance of the usable pixels, float64 (bands,), to six digits."""
    usable = pack.dn.movedim(1, -1)[pack.valid].double() * DN_SCALE
    return usable.mean(0).numpy().round(6), usable.std(0).numpy().round(6)


def pack_scaling(pack: Pack) -> Scaling:
    """The scaling that normalises digital numbers by the statistics of `pack`."""
    return make_scaling(DN_SCALE, 0.0, *band_stats(pack))


def class_weights(pack: Pack, power: float) -> Tensor:
    """Loss weights, float32 (classes,), of mean 1: the frequency of each class to the minus `power`."""
    counts = torch.bincount(pack.labels.flatten(), minlength=len(CLASSES) + 1)[1:].double()
    weights = counts**-power
    return (weights / weights.mean()).float()


def to_network(dn: Tensor, valid: Tensor, scaling: Scaling) -> Tensor:
    """Scale dn (N, bands, H, W), valid (N, H, W), True = usable, with the function that prediction uses."""
    gain, bias = (torch.from_numpy(a)[:, None, None] for a in (scaling.gain, scaling.bias))
    return scale(dn.float(), valid[:, None].float(), gain, bias)


# ---------------------------------------------------------------------------------------------- augmentation


@dataclass(frozen=True)
class Augmentation:
    """How chips are varied.

    Attributes:
        size: pixels of the square that is cut out.
        zoom: how much finer than the chip that square is, at the most; 3 makes 30 m look like 10 m.
        gain: how far a band may be brighter or darker, as a share; the same again for all bands together.
        haze: the most reflectance that is added to the blue band, and less to longer waves.
        noise: the most noise of a single pixel, as a share.
        holes: the share of samples in which pixels and blocks are made unusable.
    """

    size: int = 96
    zoom: float = 3.0
    gain: float = 0.1
    haze: float = 0.12
    noise: float = 0.03
    holes: float = 0.3

    def __call__(self, batch: Pack, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return dn float32 (N, bands, S, S), valid bool (N, S, S), labels int64 (N, S, S), 0 = ignore."""
        dn, valid, labels = _cut(batch, self.size, self.zoom, rng)
        dn = _radiometry(dn, self, rng)
        valid = valid & ~_holes(valid, self.holes, rng)
        return dn, valid, labels * valid


PLAIN = Augmentation(size=128, zoom=1.0, gain=0.0, haze=0.0, noise=0.0, holes=0.0)
"""Flips and turns only."""


def _uniform(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)


def _cut(batch: Pack, size: int, zoom: float, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a square out of each chip, flipped and turned at random, enlarged up to `zoom` times."""
    n, chip = len(batch), batch.dn.shape[-1]
    share = size / chip / zoom ** _uniform(0, 1, (n, 1), rng)
    turned = torch.randint(2, (n, 1), generator=rng)
    signs = torch.randint(2, (n, 2), generator=rng) * 2 - 1
    across = torch.cat([1 - turned, turned, turned, 1 - turned], 1).view(n, 2, 2)
    place = (1 - share) * _uniform(-1, 1, (n, 2), rng)
    theta = torch.cat([across * (signs * share)[:, :, None], place[:, :, None]], 2)
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)

    def sample(x: Tensor, mode: str) -> Tensor:
        return F.grid_sample(x.float(), grid, mode=mode, padding_mode="border", align_corners=False)

    dn = sample(batch.dn * batch.valid[:, None], "bilinear")
    valid = sample(batch.valid[:, None], "bilinear")[:, 0] > 0.999
    return dn, valid, sample(batch.labels[:, None], "nearest")[:, 0].long()


def _radiometry(dn: Tensor, a: Augmentation, rng: torch.Generator) -> Tensor:
    """Vary brightness and colour, and lay haze over half of the chips, as at the top of the atmosphere."""
    n, bands = dn.shape[:2]
    dn = dn * (1 + _uniform(-a.gain, a.gain, (n, bands, 1, 1), rng) + _uniform(-a.gain, a.gain, (n, 1, 1, 1), rng))
    hazy = torch.randint(2, (n, 1, 1, 1), generator=rng) * _uniform(0, a.haze, (n, 1, 1, 1), rng)
    waves = torch.tensor(WAVELENGTHS)[:, None, None] / WAVELENGTHS[0]
    haze = hazy * waves ** -_uniform(1.5, 4.5, (n, 1, 1, 1), rng)
    dn = dn * (1 - haze) + haze / DN_SCALE
    return dn * (1 + _uniform(0, a.noise, (n, 1, 1, 1), rng) * torch.randn(dn.shape, generator=rng))


def _holes(valid: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Where to make pixels unusable: 2 % single pixels and blocks of 8², in `share` of the samples."""
    n, height, width = valid.shape
    pixels = torch.rand((n, height, width), generator=rng) < 0.02
    blocks = (torch.rand((n, 1, height // 8, width // 8), generator=rng) < 0.03).float()
    blocks = F.interpolate(blocks, size=(height, width))[:, 0] > 0
    return (pixels | blocks) & (torch.rand((n, 1, 1), generator=rng) < share)


# --------------------------------------------------------------------------------------------------- scoring


def confusion(labels: Tensor, predicted: Tensor) -> np.ndarray:
    """Count int64 (classes, classes), rows = reference, for labels and predicted 1 to 4; label 0 is ignored."""
    n, known = len(CLASSES), labels > 0
    pairs = (labels[known].long() - 1) * n + predicted[known].long() - 1
    return torch.bincount(pairs, minlength=n * n).view(n, n).numpy()


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """F1 of each class, float64 (classes,), from a confusion matrix; nan for a class in neither map."""
    with np.errstate(invalid="ignore"):
        return 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))


def overall_accuracy(counts: np.ndarray) -> float:
    return float(counts.trace() / counts.sum())


@torch.inference_mode()
def predict_chips(network: nn.Module, pack: Pack, scaling: Scaling, batch: int = 16) -> Tensor:
    """The class 1 to 4 of each pixel, uint8 (chips, height, width)."""
    network.eval()
    parts = (pack[np.arange(i, min(i + batch, len(pack)))] for i in range(0, len(pack), batch))
    return torch.cat([network(to_network(p.dn, p.valid, scaling)).argmax(1).add(1).to(torch.uint8) for p in parts])


def score_chips(network: nn.Module, pack: Pack, scaling: Scaling) -> np.ndarray:
    """The confusion matrix of a network over a pack."""
    return confusion(pack.labels * pack.valid, predict_chips(network, pack, scaling))


# -------------------------------------------------------------------------------------------------- training


Loss = Callable[[Tensor, Tensor], Tensor]


def weighted_cross_entropy(weights: Tensor, smoothing: float = 0.0) -> Loss:
    """Cross-entropy of logits (N, classes, H, W) and labels int64 (N, H, W), where 0 = ignore."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels - 1, weights, ignore_index=-1, label_smoothing=smoothing)

    return loss
