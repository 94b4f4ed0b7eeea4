"""Networks converted to OpenVINO, once: the graphs are kept in the user's cache, and later runs need no torch.

The scaling of a scene and the softmax are put around the graph when it is used.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs

from landcover import __version__
from landcover.errors import ModelError
from landcover.scaling import CLIP, Scaling

if TYPE_CHECKING:
    from landcover.models import Model

CACHED_GRAPHS = 8
"""How many converted networks are kept for the next run; the ones used longest ago are dropped."""

_CONVERSION = 6
"""Counts the ways in which networks were converted, so that none of an earlier way is taken from the cache."""

_CHILD = """
import json, sys
from pathlib import Path
from landcover.engines.conversion import keep
from landcover.models import Model
from landcover.specs import ModelSpec
spec, folder, sha256, factor, shape, precision, key = json.load(sys.stdin)
keep(Model(ModelSpec.model_validate(spec), Path(folder), sha256, factor), tuple(shape), precision, key)
"""


def converted(model: "Model", scaling: Scaling, shape: tuple[int, ...], dtype: str, precision: str) -> Any:
    """A graph of scaling, network and softmax: dn and valid in, float32 probabilities out.

    Args:
        model: its network.
        scaling: from digital numbers to what the network sees.
        shape: of dn, (n, bands, height, width).
        dtype: of dn; valid is bool.
        precision: that the graph is meant for, f32 or bf16; it is float32 by itself.
    """
    import openvino as ov

    n, bands, height, width = shape
    fixed = (bands, height, width) if _attends(model) else (bands,)
    versions = (_CONVERSION, __version__, ov.__version__)
    facts = (versions, model.sha256, model.factor, model.spec.model_dump_json(), fixed, precision)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    folder = cache_folder() / "openvino" / key
    network = _read(folder)
    if network is None and "torch" not in sys.modules:
        _convert_apart(model, fixed, precision, key)
        network = _read(folder)
    if network is None:
        network = _convert(model, fixed, precision)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the run
            _save(network, folder)
    network.reshape([n, bands, height, width])
    return _scorer(network, scaling, dtype)


def _scorer(network: Any, scaling: Scaling, dtype: str) -> Any:
    """Put scaling, as `landcover.scaling.scale` does it, in front of a network's graph, and a softmax behind it."""
    import openvino as ov
    from openvino import opset13 as op

    (given,) = network.get_parameters()
    n, _, height, width = given.output(0).get_shape()
    dn = op.parameter(given.output(0).get_shape(), ov.Type(np.dtype(dtype)))
    valid = op.parameter([n, 1, height, width], ov.Type.boolean)
    gain, bias = (op.constant(values[None, :, None, None]) for values in (scaling.gain, scaling.bias))
    x = op.clamp(op.add(op.multiply(op.convert(dn, "f32"), gain), bias), -CLIP, CLIP)
    x = op.multiply(x, op.convert(valid, "f32"))
    for user in given.output(0).get_target_inputs():
        user.replace_source_output(x.output(0))
    logits = network.output(0).get_node().input_value(0)
    return ov.Model([op.softmax(logits, axis=1)], [dn, valid])


def cache_folder() -> Path:
    """Where converted networks are kept: LANDCOVER_CACHE, or the user's cache folder."""
    return Path(os.environ.get("LANDCOVER_CACHE") or platformdirs.user_cache_dir("landcover"))


def keep(model: "Model", shape: tuple[int, ...], precision: str, key: str) -> None:
    """Convert a network, and put it into the cache."""
    _save(_convert(model, shape, precision), cache_folder() / "openvino" / key)


def _convert_apart(model: "Model", shape: tuple[int, ...], precision: str, key: str) -> None:
    """Convert in a process of its own, so that torch's memory, more than a prediction takes, is given back.

    If that fails, it is done in this process, where it fails again with a message.
    """
    spec = model.spec.model_dump(mode="json")
    given = json.dumps([spec, str(model.folder), model.sha256, model.factor, shape, precision, key]).encode()
    with contextlib.suppress(OSError):
        subprocess.run([sys.executable, "-P", "-c", _CHILD], input=given, capture_output=True, check=False)


def _read(folder: Path) -> Any:
    """A graph from the cache, or None where it is not there, or not readable."""
    import openvino as ov

    with contextlib.suppress(RuntimeError, OSError):
        graph = ov.Core().read_model(folder / "graph.xml")
        with contextlib.suppress(OSError):  # a cache that cannot be written is of use all the same
            folder.touch()
        return graph
    return None


def _save(graph: Any, folder: Path) -> None:
    """Put a graph into the cache, whole or not at all."""
    import openvino as ov

    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".") as partial:
        try:
            ov.save_model(graph, Path(partial) / "new" / "graph.xml", compress_to_fp16=False)
        except RuntimeError as e:
            raise OSError(str(e)) from e
        shutil.rmtree(folder, ignore_errors=True)
        (Path(partial) / "new").rename(folder)
    kept = sorted((p for p in cache.iterdir() if not p.name.startswith(".")), key=lambda p: p.stat().st_mtime)
    for old in kept[:-CACHED_GRAPHS]:
        shutil.rmtree(old, ignore_errors=True)


def _convert(model: "Model", shape: tuple[int, ...], precision: str) -> Any:
    """Convert a network to an OpenVINO graph, for chips of `shape`, (bands,) for any size, or (bands, height, width).

    A network of convolutions is traced on small chips, which takes a moment and little memory, and the graph takes
    chips of any size. One with attention can bake the size of what it saw into its positions, and is traced on chips of
    the very size.

    Raises:
        ModelError: it has a layer that OpenVINO has not.
    """
    import openvino as ov
    import torch
    from openvino.frontend import OpConversionFailure

    from landcover.engines.rewriting import merge_upsampling
    from landcover.network import noise

    bands, *size = shape
    small = noise(bands, 2 * model.stride)
    network = merge_upsampling(model.network, small, share=precision == "f32")
    example = torch.zeros(1, bands, *size) if size else torch.cat([small, small], dim=3)
    with warnings.catch_warnings(), _same_logging():
        warnings.simplefilter("ignore")  # torch deprecates the tracing that OpenVINO's converter uses
        try:
            return ov.convert_model(
                network, example_input=example, input=[ov.PartialShape([-1, bands, *(size or (-1, -1))])]
            )
        except OpConversionFailure as e:
            raise ModelError(f"OpenVINO cannot compute the model '{model.spec.name}'; add --engine torch") from e


@contextlib.contextmanager
def _same_logging() -> Iterator[None]:
    """OpenVINO's converter silences the warnings of the whole process, and lets them be so where it fails."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


def _attends(model: "Model") -> bool:
    """Whether a network may hold attention: transformers of smp, and any of timm's encoders."""
    encoder = str(model.spec.hyperparameters.get("encoder_name", ""))
    return model.spec.architecture in ("dpt", "segformer") or encoder.startswith(("tu-", "mit_"))
