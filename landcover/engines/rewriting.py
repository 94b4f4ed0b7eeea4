"""Networks rewritten: the same scores, but for rounding, by fewer operations.

A rewritten network is compared with the one it was made from on a chip, and dropped if they disagree.
"""

import copy
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_MANY_CHANNELS = 512
"""From here on, products with a kernel of 3 × 3 cost more than adding them up does."""


def fold_batch_norms(network: nn.Module, chip: Tensor) -> nn.Module:
    """The same network with every batch normalisation that follows a convolution folded into its weights.

    Which follows which is seen while a chip passes through, so that it works for any architecture.

    Args:
        network: in evaluation mode.
        chip: (1, bands, H, W) that the network can score.
    """
    folded = copy.deepcopy(network)
    names = {module: name for name, module in folded.named_modules()}
    calls: Counter[nn.Module] = Counter()
    made: dict[int, tuple[nn.Module, Tensor, int]] = {}  # the tensors are held, so that no other gets their identity
    pairs: list[tuple[Any, Any]] = []

    def look(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(result)] = module, result, result._version
        elif (
            given and id(given[0]) in made and made[id(given[0])][2] == given[0]._version
        ):  # and no ReLU changed it in between
            pairs.append((made[id(given[0])][0], module))

    hooks = [m.register_forward_hook(look) for m in names if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    with torch.no_grad():
        folded(chip)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        if calls[conv] == calls[norm] == 1:
            folded.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
            folded.set_submodule(names[norm], nn.Identity())
    return folded if _agree(folded, network, chip) else copy.deepcopy(network)


def merge_upsampling(network: nn.Module, chip: Tensor, *, share: bool = False) -> nn.Module:
    """The same network of fewer operations, where it is a U-Net of segmentation-models-pytorch.

    Its decoder repeats every pixel 2 × 2 and then convolves 3 × 3. That is one transposed convolution of 4 × 4 with
    stride 2, which looks at 4 pixels instead of 9. The skip connection's channels are convolved apart, and added.

    Args:
        network: in evaluation mode.
        chip: (1, bands, H, W) that the network can score.
        share: compute what neighbours have in common once, where channels are many. That adds products which each were
            rounded, so it is meant for float32.
    """
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock

    merged = copy.deepcopy(network)
    blocks = {name: m for name, m in merged.named_modules() if isinstance(m, UnetDecoderBlock) and _can_merge(m)}
    if not blocks:
        return network
    channels: dict[nn.Module, int] = {}

    def look(block: nn.Module, given: tuple[Tensor, int, int], _named: dict[str, Any]) -> None:
        features, height, width = given
        if (height, width) == (2 * features.shape[2], 2 * features.shape[3]):
            channels[block] = features.shape[1]

    hooks = [block.register_forward_pre_hook(look, with_kwargs=True) for block in blocks.values()]
    with torch.no_grad():
        merged(chip)
    for hook in hooks:
        hook.remove()
    for name, block in blocks.items():
        if block in channels:
            merged.set_submodule(name, _MergedBlock(block, channels[block], share))
    return merged if _agree(merged, network, chip) else network


class _MergedBlock(nn.Module):
    """A decoder block whose upsampling and first convolution are one; `repeated` of its channels are upsampled."""

    def __init__(self, block: Any, repeated: int, share: bool) -> None:
        super().__init__()
        conv = fuse_conv_bn_eval(block.conv1[0], block.conv1[1])
        upsampled = _Products if share and repeated >= _MANY_CHANNELS else _transposed
        self.up = upsampled(conv.weight[:, :repeated], conv.bias)
        self.skip = None
        if repeated < conv.in_channels:
            self.skip = nn.Conv2d(conv.in_channels - repeated, conv.out_channels, 3, padding=1, bias=False)
            self.skip.weight = nn.Parameter(conv.weight[:, repeated:].contiguous())
        self.rest = nn.Sequential(block.conv1[2], block.conv2, block.attention2)

    def forward(self, features: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        x = self.up(features)
        return self.rest(x if self.skip is None else x + self.skip(skip_connection))


def _can_merge(block: Any) -> bool:
    plain = isinstance(block.attention1.attention, nn.Identity) and isinstance(block.conv1[1], nn.BatchNorm2d)
    return plain and block.interpolation_mode == "nearest"


def _transposed(kernel: Tensor, bias: Tensor) -> nn.ConvTranspose2d:
    """Every pixel repeated 2 × 2 and convolved with a kernel (out, in, 3, 3), as one transposed convolution."""
    up = nn.ConvTranspose2d(kernel.shape[1], kernel.shape[0], 4, stride=2, padding=1)
    shifted = [F.pad(kernel.flip(2, 3), (x, 1 - x, y, 1 - y)) for x in (0, 1) for y in (0, 1)]
    up.weight, up.bias = nn.Parameter(torch.stack(shifted).sum(dim=0).transpose(0, 1).contiguous()), nn.Parameter(bias)
    return up


class _Products(nn.Module):
    """The same with 9 products of each pixel instead of 16: what two pixels have in common is computed once."""

    def __init__(self, kernel: Tensor, bias: Tensor) -> None:
        super().__init__()
        out, channels = kernel.shape[:2]
        self.products = nn.Conv2d(channels, 9 * out, 1)
        self.products.weight = nn.Parameter(kernel.permute(2, 3, 0, 1).reshape(9 * out, channels, 1, 1))
        self.products.bias = nn.Parameter(F.pad(bias, (4 * out, 4 * out)))  # on the product that all four pixels add

    def forward(self, x: Tensor) -> Tensor:
        products = self.products(x).chunk(9, dim=1)
        rows = [_doubled(products[k], products[3 + k], products[6 + k], dim=2) for k in range(3)]
        pixels = [pixel for a, b, c in zip(*rows, strict=True) for pixel in _doubled(a, b, c, dim=3)]
        return F.pixel_shuffle(torch.stack(pixels, dim=2).flatten(1, 2), 2)


def _doubled(before: Tensor, here: Tensor, after: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Even and odd lines along a dimension of what was upsampled, from its products with a kernel's three lines."""
    size = here.shape[dim]
    even = F.pad(before, (1, 0) if dim == 3 else (0, 0, 1, 0)).narrow(dim, 0, size) + here + after
    odd = before + here + F.pad(after, (0, 1) if dim == 3 else (0, 0, 0, 1)).narrow(dim, 1, size)
    return even, odd


def _agree(one: nn.Module, other: nn.Module, chip: Tensor) -> bool:
    """Whether two networks give the same scores, but for rounding."""
    with torch.no_grad():
        return torch.allclose(one(chip), other(chip), rtol=1e-3, atol=1e-3)
