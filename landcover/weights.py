"""Weights in a file and weights in a network: stored in 32, 16 or 8 bits, computed with in float32.

References:
    Jacob et al. (2018), arXiv:1712.05877: integers of 8 bits, with a scale for each output channel.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from landcover.errors import ModelError

_SCALE = "_scale"
_MANY = 4096
"""Weights of a layer that has fewer stay in float16: they cost little, and are the most sensitive."""

_LARGEST = 127


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
        ValueError: the scale of a weight does not fit it.
    """
    weights = {}
    for name, w in stored.items():
        scale = stored.get(name + _SCALE)
        if scale is not None and not w.is_floating_point():
            if w.ndim != 4 or scale.shape != (len(w), 1, 1, 1):
                raise ValueError(f"the scale of '{name}' has shape {tuple(scale.shape)}")
            weights[name] = w.float() * scale.float()
        elif not (name.endswith(_SCALE) and name.removesuffix(_SCALE) in stored):
            weights[name] = w.float() if w.is_floating_point() else w
    return weights


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, in float32, from a safetensors file; other formats can carry code.

    Raises:
        ModelError: it is no such file, or what it holds does not fit together.
    """
    try:
        return from_store(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as e:
        raise ModelError(
            f"{path} is not a safetensors file of weights ({e}); weights in other formats can carry code and are never "
            "loaded"
        ) from e
