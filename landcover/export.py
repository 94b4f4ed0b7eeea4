"""Models for other programs: one graph from reflectance to scores, checked against the model it was made from."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landcover.bands import Choice
from landcover.errors import ConfigError, ModelError, OutputError, nearest
from landcover.grid import Box
from landcover.models import Model
from landcover.outputs import check_destination, disk_errors, publish, work_folder
from landcover.scaling import scale
from landcover.scene import open_scene

_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
_TOLERANCE = 1e-4
"""How far a score of the exported graph may lie from the model's."""

_CHIPS = 8
"""Chips of a scene that the graph is checked on."""


class Exported(nn.Module):
    """A network with its normalisation in front and a softmax behind.

    reflectance float32 (N, bands, H, W), nan where there is no data → scores float32 (N, classes, H, W), of sum 1.
    """

    mean: Tensor
    stddev: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        stats = model.spec.stats
        for name, values in (("mean", [s.mean for s in stats]), ("stddev", [s.stddev for s in stats])):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, reflectance: Tensor) -> Tensor:
        missing = reflectance.isnan().any(dim=1, keepdim=True)
        known = torch.where(missing, self.mean, reflectance)
        valid = torch.ones_like(known)
        return self.network(scale(known, valid, 1 / self.stddev, -self.mean / self.stddev)).softmax(dim=1)


def export_model(
    model: Model,
    out: Path,
    format_: str,
    *,
    scene: str | None = None,
    choice: Choice | None = None,
    overwrite: bool = False,
) -> float:
    """Write a model as one graph, and check it.

    Args:
        model: to be exported.
        out: the file; with `openvino` its weights lie beside it, as `.bin`.
        format_: "onnx", "openvino" or "pt2", which is torch.export's.
        scene: check it on chips of this scene too.
        choice: what is known of the bands and scaling of the scene.
        overwrite: replace `out`.

    Returns:
        How far a score lies from the model's at the most.

    Raises:
        ConfigError: the format is not known, `out` does not end as it should, or a package is missing.
        ModelError: the network cannot be exported, or does not give the same scores then.
        SceneError, BandError: the scene cannot be used.
        OutputError: `out` exists, or cannot be written.
    """
    if format_ not in _SUFFIXES:
        raise ConfigError(f"--format '{format_}' is not known: {nearest(format_, tuple(_SUFFIXES))}")
    if out.suffix != _SUFFIXES[format_]:
        raise ConfigError(f"{out} should end in {_SUFFIXES[format_]} for the format {format_}")
    if choice not in (None, Choice()) and scene is None:
        raise ConfigError("--sensor, --bands, --scale and --offset are of a scene; add --scene, or leave them out")
    for path in {out, out.with_suffix(".bin")} if format_ == "openvino" else {out}:
        check_destination(path, overwrite=overwrite)
    network = Exported(model).eval()
    chips = [_synthetic(model), *(_chips_of(scene, choice, model) if scene else [])]
    with work_folder(out) as folder:
        written = folder / out.name
        try:
            with warnings.catch_warnings(), _quiet():
                warnings.simplefilter("ignore")  # of what torch means to change in its exporters
                _WRITERS[format_](network, model, written)
                apart = _apart(network, _READERS[format_](written), chips)
        except ConfigError:
            raise
        except OSError as e:
            raise OutputError(f"{out} cannot be written: {e.strerror or e}") from e
        except Exception as e:
            reason = str(e).strip().splitlines() or [type(e).__name__]
            raise ModelError(f"{model.spec.name} cannot be exported to {format_}: {reason[0]}") from e
        if not apart <= _TOLERANCE:
            raise ModelError(f"as {format_}, the scores of {model.spec.name} are off by up to {apart:.2g}; not written")
        with disk_errors(out):
            publish(folder, out)
    return apart


def _apart(network: nn.Module, run: Callable[[np.ndarray], np.ndarray], chips: list[np.ndarray]) -> float:
    """How far a score of a graph lies from the network's at the most."""
    with torch.inference_mode():
        return max(float(np.abs(run(chip) - network(torch.from_numpy(chip)).numpy()).max()) for chip in chips)


def facts(model: Model) -> dict[str, str]:
    """What a program must know to use the graph, by name."""
    spec = model.spec
    return {
        "name": spec.name,
        "sha256": model.sha256,
        "input": f"reflectance, float32 (n, {len(spec.bands)}, height, width), nan for no data; sides are multiples of "
        f"{model.stride}",
        "metres per pixel": f"about {spec.sees:g}; enlarge coarser images" if spec.sees else "any",
        "bands": json.dumps(spec.bands),
        "output": "scores, float32 (n, classes, height, width), of sum 1",
        "classes": json.dumps({c.id: c.name for c in spec.legend.classes}),
        "licence": spec.licence,
    }


def _write_onnx(network: Exported, model: Model, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as e:
        raise ConfigError("the format onnx needs two more packages; pip install onnx onnxscript") from e
    program = torch.onnx.export(
        network,
        (_example(model),),
        dynamic_shapes=(_dynamic(model),),
        input_names=["reflectance"],
        output_names=["scores"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, facts(model))
    path.write_bytes(proto.SerializeToString())


def _write_openvino(network: Exported, model: Model, path: Path) -> None:
    import openvino as ov

    graph = ov.convert_model(network, example_input=_example(model))
    for name, value in facts(model).items():
        graph.set_rt_info(value, ["landcover", name])
    ov.save_model(graph, path, compress_to_fp16=False)


def _write_pt2(network: Exported, model: Model, path: Path) -> None:
    program = torch.export.export(network, (_example(model),), dynamic_shapes=(_dynamic(model),))
    torch.export.save(program, path, extra_files={"landcover.json": json.dumps(facts(model))})


def _run_openvino(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    import openvino as ov

    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda chip: compiled(chip)[0]


def _run_pt2(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    network = torch.export.load(path).module()
    return lambda chip: network(torch.from_numpy(chip)).numpy()


_WRITERS: dict[str, Callable[[Exported, Model, Path], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "pt2": _write_pt2,
}
_READERS = {"onnx": _run_openvino, "openvino": _run_openvino, "pt2": _run_pt2}


def _dynamic(model: Model) -> dict[int, Any]:
    """Any number of chips, with sides that are any multiple of the stride."""
    dim, stride = torch.export.Dim, model.stride
    rows, cols = (stride * dim(name, min=2, max=4096) if stride > 1 else dim(name, min=2) for name in ("rows", "cols"))
    return {0: dim("chips", min=1, max=1024), 2: rows, 3: cols}


def _example(model: Model) -> Tensor:
    return torch.full((2, len(model.spec.bands), 3 * model.stride, 4 * model.stride), 0.1)


def _synthetic(model: Model) -> np.ndarray:
    """Chips of another shape than the example, with pixels that are missing."""
    rng = np.random.default_rng(0)
    chip = rng.random((3, len(model.spec.bands), 5 * model.stride, 2 * model.stride), np.float32) / 2
    chip[1, :, 0, :2] = np.nan
    return chip


def _chips_of(source: str, choice: Choice | None, model: Model) -> list[np.ndarray]:
    """Chips of a scene, spread evenly over it."""
    scene = open_scene(source, model.spec.bands, choice)
    side = min(256, scene.height, scene.width) // model.stride * model.stride
    if not side:
        raise ModelError(f"{source} is smaller than the network's stride, {model.stride}; check on a larger scene")
    gain = np.array([b.scale for b in scene.bands], np.float32)[:, None, None]
    bias = np.array([b.offset for b in scene.bands], np.float32)[:, None, None]
    chips = []
    with scene.open(scene.width) as reader:
        for k in range(_CHIPS):
            row, col = ((edge - side) * k // max(1, _CHIPS - 1) for edge in (scene.height, scene.width))
            dn, valid = reader.read(Box(row, row + side, col, col + side))
            chips.append(np.where(valid, dn * gain + bias, np.float32(np.nan))[None].astype(np.float32))
    return chips


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters print."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
