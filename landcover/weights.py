"""Weights in a file and weights in a network: stored in 32, 16 or 8 bits, computed with in float32.

References:
    Jacob et al. (2018), arXiv:1712.05877: integers of 8 bits, with a scale for each output channel.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from landcover.errors import ModelError

_SCALE = "_scale"
_MANY = 4096
"""Weights of a layer that has fewer stay in float16: they cost little, and are the most sensitive."""

_LARGEST = 127
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def to_store(weights: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """A state dict as it is stored.

    Args:
        weights: floating-point values, and counters that stay as they are.
        kind: "float32", "float16", or "int8". In int8 the kernels of large convolutions are whole numbers from −127 to
            127, beside a float32 `…_scale` (output channels, 1, 1, 1) to multiply them by; the rest is float16.
    """
    if kind == "float32":
        return {name: w.contiguous() for name, w in weights.items()}
    stored = {}
    for name, w in weights.items():
        if kind == "int8" and w.is_floating_point() and w.ndim == 4 and w.numel() >= _MANY:
            scale = w.abs().amax(dim=(1, 2, 3), keepdim=True).float().clamp(min=1e-12) / _LARGEST
            stored[name], stored[name + _SCALE] = (w / scale).round().char().contiguous(), scale
        else:
            stored[name] = (w.half() if w.is_floating_point() else w).contiguous()
    return stored


def from_store(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in float32, from one as it is stored.

    Raises:
        ValueError: what is stored is not what `to_store` makes of numbers.
    """
    kernels = {name for name, w in stored.items() if w.dtype == torch.int8}
    weights = {}
    for name, w in stored.items():
        if name in kernels:
            scale = stored.get(name + _SCALE, torch.empty(0))
            if w.ndim != 4 or scale.shape != (len(w), 1, 1, 1) or scale.dtype not in _FLOATS:
                raise ValueError(f"'{name}' is stored in int8 without a scale that fits it")
            weights[name] = w.float() * scale.float()
        elif name.removesuffix(_SCALE) not in kernels:
            if w.dtype not in (*_FLOATS, torch.int64):
                raise ValueError(f"'{name}' is stored in {str(w.dtype).removeprefix('torch.')}, which is not known")
            weights[name] = w.float() if w.is_floating_point() else w
    return weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, in float32, from a safetensors file; other formats can carry code.

    Raises:
        ModelError: it is no such file, or what it holds does not fit together.
    """
    try:
        weights = from_store(load_file(path))
        if wild := [name for name, w in weights.items() if not w.isfinite().all()]:
            raise ValueError(f"'{wild[0]}' holds values that are no finite numbers")
    except (SafetensorError, OSError, ValueError, KeyError) as e:
        raise ModelError(
            f"{path} is not a safetensors file of weights: {e}; weights in other formats can carry code and are never "
            "loaded"
        ) from e
    return weights
