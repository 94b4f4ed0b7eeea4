"""What of a batch is wrong whatever the scenes are, found before anything starts, as `predict` says it."""

import re
from collections.abc import Collection, Mapping
from functools import cache, cached_property
from typing import Any

from landcover.bands import check_scaling
from landcover.batch.options import BatchOptions
from landcover.engines import choose_engine
from landcover.errors import ConfigError, OtherBandsError, nearest
from landcover.grid import OVERLAP, TILE_SIZE, make_grid
from landcover.models import EMBEDDED_BY_RANK, Model, embedded_models, load_model
from landcover.planning import check_batch_size, check_trained, map_legend, read_legend
from landcover.specs import load_sensor
from landcover.vectorfiles import FORMATS
from landcover.vectorization import VectorOptions


def check_options(options: BatchOptions, model: Model | None) -> None:
    """Find what is wrong with options, but not whether this machine has the device: workers elsewhere may.

    Raises:
        LandcoverError: an option is unknown, or impossible for any scene.
    """
    asked = {k: v for k, v in options.mapping.items() if v is not None}
    if model is not None:
        check_trained(model, allowed=asked.get("allow_untrained", False))
    elsewhere = "auto" if asked.get("engine") != "openvino" and re.fullmatch(r"cuda(:\d+)?", options.device) else None
    choose_engine(**_engine(options) | {"device": elsewhere or options.device})
    make_grid(1, 1, tile=asked.get("tile_size", TILE_SIZE), overlap=asked.get("overlap", OVERLAP))
    check_batch_size(asked.get("batch_size"))
    _check_vectors(options, model)


def check_device(options: BatchOptions) -> None:
    """Find out whether this machine, whose workers are to map, has the device.

    Raises:
        ConfigError: it has not.
    """
    choose_engine(**_engine(options))


def _engine(options: BatchOptions) -> dict[str, Any]:
    known = {k: options.mapping[k] for k in ("engine", "precision") if k in options.mapping}
    return known | {"device": options.device, "bf16_safe": False}  # what the processor computes in does not matter


def _check_vectors(options: BatchOptions, model: Model | None) -> None:
    legend = map_legend(read_legend(options.mapping.get("legend")), model or load_model())
    for vectors in (options.vectors, options.merged):
        if vectors is not None:
            if options.suffix not in FORMATS:
                known = [suffix[1:] for suffix in FORMATS]
                raise ConfigError(f"--format {options.suffix[1:]} is not known: {nearest(options.suffix[1:], known)}")
            for name in VectorOptions(**vectors).classes or ():
                legend.id_of(name)


class BandCheck:
    """Finds what is wrong with what is said of bands and scaling, by the user or by the catalog of one scene."""

    def __init__(self, model: Model | None) -> None:
        self._model = model
        self._wrong = cache(_wrong_sensor)  # many scenes have the same one

    def __call__(self, said: Mapping[str, Any], catalog: Collection[str] = ()) -> None:
        """Check sensor, bands, scale and offset, as in `landcover.bands.Choice`; the scene is not opened.

        Args:
            said: by name.
            catalog: names of those that stand in the catalog, not on the command line.

        Raises:
            ConfigError: the sensor is not known.
            BandError: no model wants such bands, or the scaling is none.
        """
        if (sensor := said.get("sensor")) and (wrong := self._wrong(sensor)):
            raise ConfigError(wrong)
        own = not {"scale", "offset"}.isdisjoint(catalog)
        place = "its scale or offset in the catalog" if own else "--scale or --offset"
        check_scaling(said.get("scale"), said.get("offset"), place)
        if bands := said.get("bands"):
            self._check_bands(bands, "the catalog" if "bands" in catalog else "--bands")

    def _check_bands(self, bands: Mapping[str, str], teller: str) -> None:
        unwanted = [[name for name in bands if name not in wanted] for wanted in self._wanted]
        if all(unwanted):
            name, wanted = unwanted[0][0], ", ".join(self._wanted[0])
            raise OtherBandsError(f"{teller} names '{name}', which the model does not use; it wants {wanted}")

    @cached_property
    def _wanted(self) -> list[tuple[str, ...]]:
        """The bands of the model, or of each that may be taken."""
        embedded = [name for name in EMBEDDED_BY_RANK if name in embedded_models()]
        return [model.spec.bands for model in ([self._model] if self._model else map(load_model, embedded))]


def _wrong_sensor(sensor: str) -> str:
    """Why a sensor cannot be used, or ""."""
    try:
        load_sensor(sensor)
    except ConfigError as e:
        return str(e)
    return ""
