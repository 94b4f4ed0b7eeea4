"""Networks saved by `save_pretrained` of segmentation-models-pytorch, which do not say what they see and name.

In such a folder `config.json` holds the arguments of the architecture, `model.safetensors` the weights. Which bands the
channels are, how they are normalised and what the classes are has to be told by whoever uses it.

References:
    Saving and loading in segmentation-models-pytorch, https://smp.readthedocs.io/en/latest/save_load.html.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from landcover.bands import Choice
from landcover.errors import ModelError
from landcover.models import CARD, CONFIG, WEIGHTS, Model, check_folder, read_bytes, read_object, save_model
from landcover.specs import Legend, ModelSpec, explain, load_sensor

_AS_IT_IS = (0.0, 1.0)
_FIXED = {"in_channels", "classes", "encoder_weights", "activation", "aux_params"}
"""What the folder's configuration says beside the arguments of the architecture."""

_SOFTMAX = (None, "identity", "softmax", "softmax2d")
"""Activations that leave out, or are, the softmax over the classes that is taken anyway."""


def is_pretrained(folder: Path) -> bool:
    """Whether a folder was written by `save_pretrained`, and nobody gave it a model card since."""
    config, weights, card = (os.path.isfile(folder / name) for name in (CONFIG, WEIGHTS, CARD))  # noqa: PTH113 - long names
    return config and weights and not card


def adopt(
    folder: Path,
    bands: tuple[str, ...],
    legend: Legend,
    stats: Iterable[tuple[float, float]] | None = None,
    gsd: tuple[float, ...] | None = None,
) -> Model:
    """A model of such a folder and of what it does not say itself.

    Args:
        folder: that `save_pretrained` wrote.
        bands: common names, in the order of the network's channels.
        legend: its classes, in the order of the network's scores.
        stats: mean and standard deviation by which each band's reflectance is normalised; None for as it is.
        gsd: metres per pixel, the finest and the coarsest it was trained for; None if any.

    Raises:
        ModelError: the folder cannot be read, or what is told does not fit the network.
    """
    config = _read_config(folder)
    for what, names in (("in_channels", bands), ("classes", legend.names)):
        if config[what] != len(names):
            raise ModelError(
                f"the network in {folder} has {config[what]} {'channels' if what == 'in_channels' else 'classes'}, but "
                f"{len(names)} are named ({', '.join(names)}); name each, in the order of the network"
            )
    if len(legend.classes) == 1:
        raise ModelError(
            f"the network in {folder} has one class, told by a threshold; a map takes the best of at least two"
        )
    kind = config["_model_class"].lower()
    try:
        spec = ModelSpec.model_validate(
            {
                "name": re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-") or "pretrained",
                "description": f"Read from a folder of segmentation-models-pytorch ({config['_model_class']}).",
                "architecture": "smp-unet" if kind == "unet" else kind,
                "hyperparameters": {k: v for k, v in config.items() if k not in _FIXED and not k.startswith("_")},
                "bands": bands,
                "stats": [{"mean": m, "stddev": s} for m, s in stats or (_AS_IT_IS,) * len(bands)],
                "legend": legend,
                "gsd": gsd,
            }
        )
    except ValidationError as e:
        raise ModelError(f"{folder}: {explain(e)}") from e
    model = Model(spec, folder, hashlib.sha256(read_bytes(folder / WEIGHTS)).hexdigest())
    return replace(model, spec=spec.model_copy(update={"stride": model.stride}))


def adopt_for(folder: Path, choice: Choice, legend: Legend | None) -> tuple[Model, str]:
    """A model of such a folder for one scene: bands as they are chosen for it, reflectance as it is.

    Returns:
        The model, and a sentence on what was told of it.

    Raises:
        ModelError: the folder cannot be read, or what is told of bands and classes does not fit.
    """
    config = _read_config(folder)
    if legend is None:
        raise ModelError(
            f"{folder} does not say which classes its {config['classes']} scores are; name them, in their order, by a "
            "legend: --legend NAME or FILE.toml"
        )
    model = adopt(folder, _told_bands(folder, config["in_channels"], choice), legend)
    return model, (
        f"{folder} does not say what it learned from: it is shown the reflectance of {', '.join(model.spec.bands)}, in "
        f"this order and as it is, and its scores are taken for {', '.join(legend.names)}; `landcover models import` "
        "makes a model that says so, with another normalisation if need be"
    )


def import_model(
    folder: Path,
    out: Path,
    bands: tuple[str, ...],
    legend: Legend,
    *,
    mean: tuple[float, ...] | None = None,
    stddev: tuple[float, ...] | None = None,
    gsd: tuple[float, ...] | None = None,
    overwrite: bool = False,
) -> Model:
    """Write a model folder of such a folder and of what it does not say itself; see `adopt`.

    Args:
        folder: that `save_pretrained` wrote.
        out: the model folder.
        bands, legend, gsd: see `adopt`.
        mean, stddev: of the reflectance of each band, as the network was trained; without both it sees it as it is.
        overwrite: replace a model that exists.

    Raises:
        ModelError: the folder cannot be read, or what is told does not fit the network.
        OutputError: `out` cannot be written.
    """
    if not is_pretrained(folder):
        raise ModelError(
            f"{folder} was not written by save_pretrained of segmentation-models-pytorch: it must hold {CONFIG} and "
            f"{WEIGHTS}, and no {CARD}. Pickled weights can carry code and are never loaded"
        )
    check_folder(out, overwrite=overwrite)
    if out.resolve() == folder.resolve():
        raise ModelError(f"{out} is the folder that is read; give --out another one")
    if (mean is None) != (stddev is None) or len(mean or bands) != len(bands) or len(stddev or bands) != len(bands):
        raise ModelError(f"--mean and --stddev have to be given both, with one number for each of {', '.join(bands)}")
    if gsd is not None and len(gsd) != 2:
        raise ModelError(
            "--gsd takes two numbers, the finest and the coarsest metres per pixel; write for example 10,30"
        )
    stats = list(zip(mean, stddev, strict=True)) if mean and stddev else None
    model = adopt(folder, bands, legend, stats, gsd)
    save_model(out, model.spec, model.network.state_dict())
    return model


def _read_config(folder: Path) -> dict[str, Any]:
    """What the folder says of its network, as far as it can be honoured."""
    path = folder / CONFIG
    config = read_object(path)
    if not isinstance(config.get("_model_class"), str):
        raise ModelError(f"{path} does not name its architecture ('_model_class'); save it again with save_pretrained")
    for name in ("in_channels", "classes"):
        if type(config.setdefault(name, {"in_channels": 3, "classes": 1}[name])) is not int:
            raise ModelError(f"{path}: '{name}' is {repr(config[name])[:50]}, not a number of channels")
    if config.get("activation") not in _SOFTMAX:
        raise ModelError(
            f"{path} ends in the activation {repr(config['activation'])[:50]}, which does not let classes exclude each "
            "other; a map needs scores of which the greatest counts"
        )
    if config.get("aux_params") is not None:
        raise ModelError(f"{path} has a second head for whole images (aux_params), which a map has no use for")
    return config


def _told_bands(folder: Path, channels: int, choice: Choice) -> tuple[str, ...]:
    """The bands that a network's channels are: in the order of --bands, or as files of the sensor have them."""
    if choice.bands:
        return tuple(choice.bands)
    if choice.sensor is None:
        raise ModelError(
            f"{folder} does not say which bands its {channels} channels are; name them in their order with --bands, "
            "for example --bands red=1,green=2,blue=3, or name a --sensor that has as many"
        )
    sensor = load_sensor(choice.sensor)
    fitting = {names for names in (sensor.band_names, *sensor.layouts) if len(names) == channels}
    if len(fitting) != 1:
        raise ModelError(
            f"the network in {folder} has {channels} channels, and it is not clear which bands of {sensor.name} they "
            f"are; name them in their order with --bands, for example --bands {sensor.band_names[0]}=1"
        )
    return fitting.pop()
