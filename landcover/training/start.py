"""The network that training starts from: fresh, with a pretrained encoder, or a model that is refined."""

import copy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from landcover.errors import ConfigError, ModelError, counted
from landcover.models import Model
from landcover.network import build_network
from landcover.recipes import NetworkRecipe

_PREFIXES = ("", "encoder.", "backbone.", "model.", "module.")
_COLOURS = ("red", "green", "blue")
"""What the channels of networks trained on photographs see, in order."""


def fresh_network(recipe: NetworkRecipe, bands: tuple[str, ...], classes: int) -> nn.Module:
    """A network as the recipe describes it, with random weights but for those of its encoder, if they are given.

    Raises:
        ModelError: the network cannot be built, or the encoder's weights are not those of its encoder.
        ConfigError: the weights cannot be read.
    """
    network = build_network(recipe.architecture, len(bands), classes, recipe.hyperparameters)
    if recipe.encoder_weights is None:
        return network
    encoder = getattr(network, "encoder", None)
    if encoder is None:
        raise ModelError(f"the architecture '{recipe.architecture}' has no encoder for encoder_weights; leave them out")
    if recipe.encoder_weights == "imagenet":
        weights = _fetched(recipe)
        where = "ImageNet"
    else:
        weights = _read_weights(Path(recipe.encoder_weights))
        where = recipe.encoder_weights
    _load_encoder(encoder, weights, bands, where)
    return network


def refined_network(model: Model, bands: tuple[str, ...], classes: tuple[str, ...]) -> nn.Module:
    """The network of a model, for other bands or classes if need be.

    A band that the model knew keeps its filters, another one takes their mean; a class that it knew, by its name, keeps
    its weights, another one begins at random.

    Raises:
        ModelError: the architecture depends otherwise on its bands and classes.
    """
    spec = model.spec
    network = build_network(spec.architecture, len(bands), len(classes), spec.hyperparameters)
    weights = dict(model.network.state_dict())
    own = network.state_dict()
    try:
        for name, tensor in weights.items():
            if tensor.shape == own[name].shape and (bands, classes) == (spec.bands, spec.legend.names):
                continue
            if tensor.ndim == 4 and name == _first_convolution(network):
                weights[name] = _channels(tensor, spec.bands, bands)
            if name.startswith(_inside(head_name(network))):
                weights[name] = _rows(weights[name], own[name], spec.legend.names, classes)
        network.load_state_dict(weights)
    except (RuntimeError, IndexError) as e:
        reason = str(e).splitlines()[-1].strip()
        raise ModelError(f"{spec.name} cannot be refined for other bands or classes than its own: {reason}") from e
    return network


def head_name(network: nn.Module) -> str:
    """The name of the last convolution, which gives the logits."""
    return [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)][-1]


def soften(network: nn.Module, temperature: float) -> None:
    """Divide a network's logits by a temperature, in the weights of its last convolution.

    References:
        Guo, Pleiss, Sun, Weinberger (2017), On Calibration of Modern Neural Networks, arXiv:1706.04599.
    """
    head = network.get_submodule(head_name(network))
    with torch.no_grad():
        for weights in head.parameters():
            weights.div_(temperature)


def freeze(encoder: nn.Module) -> None:
    """Leave an encoder as it is, its batch statistics too."""
    encoder.requires_grad_(False)
    encoder.eval()
    encoder.train = lambda mode=True: encoder  # type: ignore[method-assign]


def check_batch(network: nn.Module, bands: int, chips: int, size: int, *, frozen: bool) -> None:
    """Refuse batches so small that a layer which normalises by them would see one number of each channel.

    Args:
        network: is neither run nor changed.
        bands, chips, size: of a batch.
        frozen: its encoder is.

    Raises:
        ConfigError: the batch is too small.
    """
    shadow = copy.deepcopy(network).to("meta").train()
    if frozen:
        freeze(shadow.encoder)  # type: ignore[arg-type]
    try:
        shadow(torch.empty((chips, bands, size, size), device="meta"))
    except ValueError as e:
        raise ConfigError(
            f"{counted(chips, 'chip')} of {size} × {size} pixels cannot be normalised by this network, whose coarsest "
            "features are one number of each; raise batch (shared by all processes) or augmentation.size"
        ) from e


def _first_convolution(network: nn.Module) -> str:
    return _inside(next(name for name, m in network.named_modules() if isinstance(m, nn.Conv2d))) + "weight"


def _inside(name: str) -> str:
    """What the names of a module's weights begin with; nothing if it is the whole network."""
    return f"{name}." if name else ""


def _rows(known: Tensor, fresh: Tensor, before: tuple[str, ...], classes: tuple[str, ...]) -> Tensor:
    rows = [known[before.index(c)] if c in before else fresh[k] for k, c in enumerate(classes)]
    return torch.stack(rows)


def _channels(known: Tensor, before: tuple[str, ...], bands: tuple[str, ...]) -> Tensor:
    """Filters for other bands, scaled so that they are excited about as much as before."""
    mean = known.mean(dim=1)
    channels = [known[:, before.index(b)] if b in before else mean for b in bands]
    return torch.stack(channels, dim=1) * (len(before) / len(bands))


def _load_encoder(encoder: nn.Module, weights: dict[str, Tensor], bands: tuple[str, ...], where: str) -> None:
    """Give an encoder pretrained weights, its first filters spread from red, green and blue to the bands."""
    own = encoder.state_dict()
    stripped = max(
        ({k.removeprefix(p): v for k, v in weights.items() if k.startswith(p)} for p in _PREFIXES),
        key=lambda w: len(own.keys() & w.keys()),
    )
    first = _first_convolution(encoder)
    if first in stripped and stripped[first].shape[1:2] == (len(_COLOURS),):
        stripped[first] = _channels(stripped[first], _COLOURS, bands)
    wrong = [k for k in own if k not in stripped or stripped[k].shape != own[k].shape]
    wrong = [k for k in wrong if not k.endswith("num_batches_tracked")]
    if wrong:
        raise ModelError(
            f"the weights of {where} are not those of this encoder: {len(wrong)} of its {len(own)} tensors are missing "
            f"or have another shape, such as '{wrong[0]}'; correct encoder_name or encoder_weights"
        )
    encoder.load_state_dict({k: stripped.get(k, v) for k, v in own.items()})


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name; nothing but tensors is unpickled."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError) as e:  # whose own words advise to load it unsafely
        raise ConfigError(
            f"the encoder's weights {path} cannot be read as plain tensors: the file is damaged, or holds a whole "
            "network, which can carry code and is not loaded; save the network's state_dict() alone"
        ) from e
    except Exception as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ConfigError(f"the encoder's weights {path} cannot be read as plain tensors: {reason}") from e
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(loaded, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
        raise ConfigError(f"{path} holds no state dict, which is tensors by name; save it with model.state_dict()")
    return loaded


def _fetched(recipe: NetworkRecipe) -> dict[str, Tensor]:
    """The encoder's ImageNet weights, for three colours, from where segmentation-models-pytorch fetches them."""
    import segmentation_models_pytorch as smp

    name = str(recipe.hyperparameters.get("encoder_name", "resnet34"))
    try:
        return smp.encoders.get_encoder(name, in_channels=3, weights="imagenet").state_dict()
    except Exception as e:
        raise ConfigError(
            f'encoder_weights = "imagenet" could not be fetched ({e}); name a file of weights instead'
        ) from e
