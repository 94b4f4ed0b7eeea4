"""Torch modules: the classic U-Net, a network of one pixel, and every one of segmentation-models-pytorch.

References:
    Ronneberger, Fischer, Brox (2015), U-Net: Convolutional Networks for Biomedical Image Segmentation,
    arXiv:1505.04597.
"""

import copy
import difflib
import inspect
import re
import weakref
from collections.abc import Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landcover.errors import ModelError, nearest
from landcover.processors import own_threads
from landcover.scaling import scale

_LARGEST = 2**16
"""No argument of an architecture is larger: sizes would overflow before weights are found not to fit."""


class DoubleConv(nn.Sequential):
    """Two 3×3 convolutions, each with batch normalisation and ReLU; (N, in, H, W) → (N, out, H, W)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Double the resolution by a transposed convolution, then join the encoder's features of that level."""

    def __init__(self, channels: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.up = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
        self.conv = DoubleConv(channels if skip else channels // 2, channels // 2)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        x = self.up(x)
        return self.conv(torch.cat([features, x], dim=1) if self.skip else x)


class UNet(nn.Module):
    """The classic U-Net, with padded convolutions so that the scores have the size of the input.

    Args:
        bands, classes: channels in and out.
        width: channels of the first level; each level down doubles them (64 in the paper).
        depth: how many times the resolution is halved (4 in the paper); the total stride is 2**depth.
        skips: False leaves out the skip connections, to measure what they are worth.
    """

    def __init__(self, bands: int, classes: int, width: int = 32, depth: int = 4, skips: bool = True) -> None:
        super().__init__()
        if width < 1 or not 1 <= depth <= 12:
            raise ValueError("width must be at least 1, and depth between 1 and 12")
        levels = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(DoubleConv(*pair) for pair in zip([bands, *levels], levels, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(Up(channels, skips) for channels in reversed(levels[1:]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = []
        for level in self.down[:-1]:
            features.append(level(x))
            x = self.pool(features[-1])
        x = self.down[-1](x)
        for level in self.up:
            x = level(x, features.pop())
        return self.head(x)


def build_network(architecture: str, bands: int, classes: int, hyperparameters: dict[str, Any]) -> nn.Module:
    """Build a network with random weights; (N, bands, H, W) normalised → (N, classes, H, W) logits.

    Args:
        architecture: `unet`, `pointwise`, or a name of segmentation-models-pytorch, such as `unetplusplus`.
        bands, classes: channels in and out.
        hyperparameters: further arguments of the architecture, such as `encoder_name`.

    Raises:
        ModelError: the architecture, its encoder or an argument is not known.
    """
    if (largest := max((n for n in tree_leaves(hyperparameters) if isinstance(n, int)), default=0)) > _LARGEST:
        raise ModelError(f"the architecture '{architecture}' is given {largest:,}, more than networks have of anything")
    try:
        if architecture == "pointwise":
            _check_arguments(architecture, hyperparameters, ("bias", "groups"))
            return nn.Conv2d(bands, classes, 1, **hyperparameters)
        if architecture == "unet":
            _check_arguments(architecture, hyperparameters, ("width", "depth", "skips"))
            return UNet(bands, classes, **hyperparameters)
        return _build_smp(architecture, bands, classes, hyperparameters)
    except (TypeError, ValueError, LookupError, OSError, RuntimeError, AttributeError, AssertionError) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]  # torch adds where in its sources it was
        raise ModelError(f"the architecture '{architecture}' cannot be built with {hyperparameters}: {reason}") from e


def total_stride(architecture: str, hyperparameters: dict[str, Any], network: nn.Module) -> int:
    """How many pixels of the scene one step of the network's coarsest features spans."""
    if architecture == "pointwise":
        return 1
    if architecture == "unet":
        return 2 ** hyperparameters.get("depth", 4)
    further = {"pan": 8, "dpt": 2}.get(architecture, 1)  # these halve the encoder's features three times more, and once
    return further * int(network.encoder.output_stride)  # type: ignore[union-attr, arg-type]


def architectures() -> tuple[str, ...]:
    """Every name that `build_network` takes."""
    import segmentation_models_pytorch as smp

    return ("unet", "pointwise", *(name for name in smp.MODEL_ARCHITECTURES_MAPPING if name != "unet"), "smp-unet")


def _check_arguments(architecture: str, given: Iterable[str], known: tuple[str, ...]) -> None:
    """Refuse arguments that an architecture does not have."""
    for name in given:
        if name not in known:
            raise ModelError(f"the architecture '{architecture}' has no argument '{name}': {nearest(name, known)}")


def _check_encoder(name: str, known: Collection[str]) -> None:
    """Refuse an encoder that is not there; those of timm, whose names begin with tu- or timm-, are looked up later."""
    if not re.fullmatch(r"[A-Za-z0-9._-]*", name):
        raise ModelError(f"the encoder '{name}' would be fetched from elsewhere; name one that the libraries hold")
    if name not in known and not name.startswith(("tu-", "timm-")):
        close = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0))
        raise ModelError(
            f"the encoder '{name}' is not known; the nearest are {close}; segmentation-models-pytorch lists them all"
        )


def _build_smp(architecture: str, bands: int, classes: int, hyperparameters: dict[str, Any]) -> nn.Module:
    import segmentation_models_pytorch as smp

    if architecture not in architectures():
        raise ModelError(f"architecture '{architecture}' is not known: {nearest(architecture, architectures())}")
    if "encoder_name" in hyperparameters:
        _check_encoder(str(hyperparameters["encoder_name"]), smp.encoders.encoders)
    fixed = {"in_channels": bands, "classes": classes, "activation": None, "encoder_weights": None, "aux_params": None}
    for name in fixed.keys() & hyperparameters.keys():
        if hyperparameters[name] != fixed[name]:
            raise ModelError(f"{name}={hyperparameters[name]!r} cannot be honoured; leave it out")
    model = smp.MODEL_ARCHITECTURES_MAPPING[architecture.removeprefix("smp-")]
    takes = inspect.signature(model).parameters.values()
    known = tuple(p.name for p in takes if p.kind is not inspect.Parameter.VAR_KEYWORD)
    _check_arguments(architecture, hyperparameters, known)  # else timm gets them, which opens files that they name
    usual = {"dynamic_img_size": True} if architecture == "dpt" else {}  # any window, not the 224 pixels of a ViT alone
    return model(**{**usual, **hyperparameters, **fixed})


class Enlarging(nn.Module):
    """Shows a network its input enlarged by a whole factor, and brings its scores back by their mean.

    A U-Net halves its input at once and sees little of single pixels. So one that learned at 10 m maps a scene of 30 m
    better if that is enlarged to 10 m before.
    """

    def __init__(self, network: nn.Module, factor: int) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        enlarged = F.interpolate(x, scale_factor=self.factor, mode="bicubic", align_corners=False)
        return F.avg_pool2d(self.network(enlarged), self.factor)


class Scorer(nn.Module):
    """A network with its scaling in front and a softmax behind: digital numbers in, probabilities out."""

    def __init__(self, network: nn.Module, gain: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("gain", gain[:, None, None])
        self.register_buffer("bias", bias[:, None, None])

    def forward(self, dn: Tensor, valid: Tensor) -> Tensor:
        """Score dn (N, bands, H, W), valid (N, 1, H, W) with 1 = usable; returns float32 (N, classes, H, W)."""
        x = scale(dn.float(), valid.float(), self.gain, self.bias)
        return self.network(x).float().softmax(dim=1)


def noise(bands: int, side: int) -> Tensor:
    """A chip of noise, always the same, float32 (1, bands, side, side), to try a network on."""
    return torch.rand(1, bands, side, side, generator=torch.Generator().manual_seed(0))


def keep_to_own_threads(processes: int = 1) -> None:
    """Let torch compute on a CPU with no more threads than there are for all of so many processes."""
    torch.set_num_threads(max(1, min(torch.get_num_threads(), own_threads()) // processes))


def activation_count(network: nn.Module, bands: int, stride: int) -> int:
    """Values that all layers of a network put out together, for each pixel of its input; no memory is taken."""
    side = 4 * stride
    total = bands * side * side

    def count(_module: nn.Module, _given: Any, result: Any) -> None:
        nonlocal total
        total += result.numel() if isinstance(result, Tensor) else 0

    shadow = copy.deepcopy(network).to("meta")
    hooks = [m.register_forward_hook(count) for m in shadow.modules() if not list(m.children())]
    shadow(torch.empty((1, bands, side, side), device="meta"))
    for hook in hooks:
        hook.remove()
    return -(-total // (side * side))


def live_bytes(network: nn.Module, bands: int, stride: int) -> int:
    """Bytes that a network in float32 holds at once, for each pixel of its input; no memory is taken."""
    side = 4 * stride
    shadow = copy.deepcopy(network).to("meta")
    with torch.inference_mode(), _Live() as live:
        shadow(torch.empty((1, bands, side, side), device="meta"))
    return -(-live.most // (side * side))


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that are made within, as long as somebody holds them.

    Attributes:
        most: that were held at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._now = 0
        self._held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._held:
            self._held.add(key)
            self._now += size
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._let_go, key, size)

    def _let_go(self, key: int, size: int) -> None:
        self._held.discard(key)
        self._now -= size
