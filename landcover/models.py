"""Model folders: `model.safetensors` beside `model.json`, a STAC Item with the MLM extension; nothing is unpickled.

References:
    STAC Machine Learning Model extension v1.5, https://github.com/stac-extensions/mlm.
"""

import colorsys
import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from landcover.errors import ModelError, OutputError, is_text, nearest
from landcover.outputs import check_here, disk_errors, publish_bytes, publish_text
from landcover.scaling import CLIP
from landcover.specs import Legend, ModelSpec, explain

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "model.safetensors"
CARD = "model.json"
CONFIG = "config.json"
"""What segmentation-models-pytorch writes beside its weights, in place of a card; see `landcover.pretrained`."""

EMBEDDED = Path(__file__).parent / "embedded"
DEFAULT_MODEL = "landcover-6band"
EMBEDDED_BY_RANK = (DEFAULT_MODEL, "landcover-rgbn", "landcover-rgb", "landcover-aerial")
"""The embedded models in the order in which they are tried; a scene may lack bands, or be much finer."""

_EXTENSIONS = [
    "https://stac-extensions.github.io/mlm/v1.5.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
_TASKS = ["semantic-segmentation"]
_SHA256_MULTIHASH = "1220"
_DEEPEST = 50
"""No card nests values deeper than this; what does was written to make readers fail."""

_CHANNELS = {"bands", "band", "channel", "channels", "classes", "class"}
"""What the second dimension of arrays may be called."""


@dataclass(frozen=True)
class Model:
    """A model whose folder has been checked; its network is built when it is first needed.

    Attributes:
        spec: everything but the weights.
        folder: where it was read from.
        sha256: of the weights file, in hexadecimal.
        factor: by which scenes are enlarged before the network sees them.
    """

    spec: ModelSpec
    folder: Path
    sha256: str
    factor: int = 1

    @cached_property
    def digest(self) -> str:
        """A hash of all that its maps depend on: the weights, and what the card says of how to use them."""
        told = self.spec.model_dump_json(exclude={"description", "licence", "training", "accuracy", "gsd"})
        return hashlib.sha256(f"{self.sha256} {told}".encode()).hexdigest()

    def for_gsd(self, gsd: float | None) -> "Model":
        """The same model for scenes of so many metres per pixel: coarser than it sees, they are enlarged."""
        factor = self.factor if gsd is None else self.spec.factor(gsd)
        return self if factor == self.factor else replace(self, factor=factor)

    @cached_property
    def network(self) -> "nn.Module":
        """The network with its weights in float32, in evaluation mode; logits out.

        Raises:
            ModelError: the weights do not belong to the network that `model.json` describes.
        """
        from landcover.weights import read_weights

        weights = read_weights(self.folder / WEIGHTS)
        _agree(self._empty().state_dict(), weights, self.folder)
        network = self._build()
        network.load_state_dict(weights)
        network = network.eval().requires_grad_(False)
        self._try_out(network)
        if self.factor == 1:
            return network
        from landcover.network import Enlarging

        return Enlarging(network, self.factor).eval()

    @cached_property
    def stride(self) -> int:
        """The total stride in pixels of a scene; told by the card, so that nothing need be built, or by the network."""
        stride = self.spec.stride
        if stride is None:
            from landcover.network import total_stride

            stride = total_stride(self.spec.architecture, self.spec.hyperparameters, self._empty())
        return stride // math.gcd(stride, self.factor)

    def _try_out(self, network: "nn.Module") -> None:
        """Refuse a network that does not give one score per class and pixel, or whose stride the card belies."""
        import torch

        from landcover.network import total_stride

        spec, where = self.spec, self.folder / CARD
        stride = total_stride(spec.architecture, spec.hyperparameters, network)
        if spec.stride is not None and spec.stride % stride:
            raise ModelError(f"{where} says that the network's stride is {spec.stride}, but it is {stride}")
        side = 2 * stride
        try:
            with torch.inference_mode():
                found = tuple(network(torch.zeros(1, len(spec.bands), side, side)).shape)
        except (RuntimeError, ValueError, AssertionError, AttributeError) as e:
            raise ModelError(f"{where}: the network cannot score chips of {side} × {side} pixels: {e}") from e
        if found != (1, len(spec.legend.classes), side, side):
            raise ModelError(
                f"{where}: the network turns a chip of {side} × {side} into {found}, not into one score a pixel"
            )

    def _empty(self) -> "nn.Module":
        """The network without memory for its weights, where the architecture can be built so."""
        import torch

        try:
            with torch.device("meta"):
                return self._build()
        except ModelError:  # perhaps because it computes with numbers while it is built
            return self._build()

    def _build(self) -> "nn.Module":
        from landcover.network import build_network

        spec = self.spec
        return build_network(spec.architecture, len(spec.bands), len(spec.legend.classes), spec.hyperparameters)


def load_model(name_or_folder: str | Path = DEFAULT_MODEL) -> Model:
    """Load a model by the name of an embedded one, or from a model folder, and check it.

    Raises:
        ModelError: it does not exist, is incomplete or altered, or asks for what cannot be honoured.
    """
    folder = _find(str(name_or_folder))
    card = _read_card(folder / CARD)
    spec = _spec_from_card(card, folder / CARD)
    sha256, declared = hashlib.sha256(read_bytes(folder / WEIGHTS)).hexdigest(), _declared_checksum(card, folder / CARD)
    if sha256 != declared:
        raise ModelError(
            f"{folder / WEIGHTS} has sha256 {sha256[:12]}…, but {CARD} says {declared[:12]}…: the weights were altered "
            "or cut short; copy the folder again"
        )
    return Model(spec, folder, sha256)


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a place for a model before it is made.

    Raises:
        ModelError: a model is there already, and `overwrite` is False.
        OutputError: the folder that it would lie in does not exist.
    """
    with disk_errors(folder):
        if (folder / CARD).exists() and not overwrite:
            raise ModelError(f"{folder} holds a model already; add --overwrite to replace it")
        check_here(folder)
        if not folder.parent.is_dir():
            raise OutputError(f"the folder {folder.parent} does not exist; make it first")


def save_model(folder: Path, spec: ModelSpec, weights: "dict[str, Tensor]", *, store: str = "float32") -> None:
    """Write a model folder.

    Args:
        folder: made if need be; files of an earlier model in it are replaced.
        spec: what the model is.
        weights: the network's state dict.
        store: how, "float32", "float16" for half the size, or "int8" for about a quarter; see `landcover.weights`.

    Raises:
        OutputError: it cannot be written; each file is there as a whole or not at all.
    """
    from safetensors.torch import save

    from landcover.weights import to_store

    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    data = save(to_store(weights, store), metadata={"format": "pt"})
    parameters = sum(
        v.numel() for k, v in weights.items() if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    card = _card_from_spec(spec, hashlib.sha256(data).hexdigest(), len(data), parameters)
    publish_bytes(folder / WEIGHTS, data)
    publish_text(folder / CARD, json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def embedded_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(p.parent.name for p in EMBEDDED.glob(f"*/{CARD}")))


def _find(name: str) -> Path:
    if name in embedded_models():
        return EMBEDDED / name
    folder = Path(name)
    try:
        is_file, is_folder = folder.is_file(), folder.is_dir()
    except OSError as e:
        raise ModelError(f"model '{name[:100]}' cannot be read: {e.strerror or e}") from e
    if is_file:
        raise ModelError(
            f"{folder} is a file; a model is a folder with {WEIGHTS} and {CARD}. "
            "Pickled weights (.pt, .pth, .ckpt, .pkl) can carry code and are never loaded"
        )
    if not is_folder:
        raise ModelError(
            f"model '{name}' is neither a folder nor the name of an embedded model: {nearest(name, embedded_models())}"
        )
    missing = [f for f in (CARD, WEIGHTS) if not (folder / f).is_file()]
    if missing == [CARD] and (folder / CONFIG).is_file():
        raise ModelError(
            f"{folder} was saved by segmentation-models-pytorch and does not say which bands it sees and what its "
            f"classes are; say it once with `landcover models import {folder} --bands … --classes … --out FOLDER`"
        )
    if missing:
        hint = f"; of a cross-validation name one model, such as {folder / 'fold-1'}"
        raise ModelError(
            f"the model folder {folder} is incomplete: {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} "
            f"missing{hint if (folder / 'fold-1').is_dir() else ''}"
        )
    return folder


def _agree(expected: dict[str, Any], found: dict[str, Any], folder: Path) -> None:
    """Refuse weights whose names or shapes are not those of the network."""
    for name in expected.keys() | found.keys():
        want, have = (tuple(d[name].shape) if name in d else None for d in (expected, found))
        if want == have and expected[name].is_floating_point() != found[name].is_floating_point():
            raise ModelError(
                f"{folder / WEIGHTS}: the weight '{name}' should be of another kind than {found[name].dtype}"
            )
        if want != have:
            raise ModelError(
                f"{folder / CARD} and {WEIGHTS} disagree: the weight '{name}' should have shape {want} "
                f"and has {have}; one of the two files belongs to another model"
            )


def _read_card(path: Path) -> dict[str, Any]:
    card = read_object(path)
    if not isinstance(card.get("properties"), dict):
        raise ModelError(f"{path} is not a STAC Item: it has no 'properties'")
    return card


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that describes a model; a ModelError if it is none."""
    try:
        found = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path} is not valid JSON: {e}") from e
    if not isinstance(found, dict):
        raise ModelError(f"{path} does not describe a model: it is not a JSON object")
    if _is_deeper(found, _DEEPEST):
        raise ModelError(f"{path} holds values within values, more than {_DEEPEST} deep; correct it")
    if not is_text(found):
        raise ModelError(f"{path} holds half a character, which is no text; correct it")
    return found


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value holds others within each other, more than so many deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deeper(v, levels - 1) for v in inner if isinstance(v, dict | list))


def read_bytes(path: Path) -> bytes:
    """Read a file of a model; a ModelError if it cannot be."""
    try:
        return path.read_bytes()
    except OSError as e:
        raise ModelError(f"{path} cannot be read: {e.strerror or e}") from e


def _declared_checksum(card: dict[str, Any], path: Path) -> str:
    try:
        asset = card["assets"]["weights"]
        href, checksum = asset["href"], asset["file:checksum"]
        if Path(href).name != WEIGHTS or href.removeprefix("./") != WEIGHTS:
            raise ModelError(f"{path}: the weights must be {WEIGHTS} in the same folder, not '{href}'")
        return checksum.removeprefix(_SHA256_MULTIHASH)
    except (KeyError, TypeError, AttributeError) as e:
        raise ModelError(f"{path} does not name its weights with a sha256 (assets.weights.file:checksum)") from e


def _card_from_spec(spec: ModelSpec, sha256: str, size: int, parameters: int) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": _EXTENSIONS,
        "id": spec.name,
        "geometry": None,
        "properties": {
            "datetime": None,
            "start_datetime": "2013-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
            **({"description": spec.description} if spec.description else {}),  # nor an empty one in STAC
            "license": spec.licence,
            "bands": [{"name": band} for band in spec.bands],
            "mlm:name": spec.name,
            "mlm:architecture": spec.architecture,
            **({"mlm:hyperparameters": spec.hyperparameters} if spec.hyperparameters else {}),  # no empty ones in MLM
            "mlm:framework": "PyTorch",
            "mlm:tasks": _TASKS,
            "mlm:pretrained": spec.trained,
            "mlm:total_parameters": parameters,
            "mlm:input": [_card_of_input(spec)],
            "mlm:output": [_card_of_output(spec)],
            "landcover:legend": {"name": spec.legend.name, "title": spec.legend.title},
            "landcover:clip_stddev": CLIP,
            "landcover:gsd": spec.gsd and list(spec.gsd),
            "landcover:sees": spec.sees,
            "landcover:stride": spec.stride,
            "landcover:bf16_safe": spec.bf16_safe,
            "landcover:training": spec.training,
            "landcover:accuracy": spec.accuracy,
        },
        "links": [],
        "assets": {
            "weights": {
                "href": WEIGHTS,
                "type": "application/octet-stream",
                "title": "Weights of the network",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "safetensors",
                "file:checksum": _SHA256_MULTIHASH + sha256,
                "file:size": size,
            }
        },
    }


def _card_of_input(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": "reflectance",
        "bands": list(spec.bands),
        "input": _array("bands", len(spec.bands)),
        "value_scaling": [{"type": "z-score", "mean": s.mean, "stddev": s.stddev} for s in spec.stats],
    }


def _card_of_output(spec: ModelSpec) -> dict[str, Any]:
    classes = spec.legend.classes
    return {
        "name": "class scores",
        "tasks": _TASKS,
        "result": _array("classes", len(classes)),
        "classification:classes": [
            {"value": c.id, "name": c.name, "description": c.name, "color_hint": c.color[1:].upper()} for c in classes
        ],
    }


def _array(channels: str, count: int) -> dict[str, Any]:
    """The shape of any number of chips of any size; see `_check_array`."""
    return {
        "shape": [-1, count, -1, -1],
        "dim_order": ["batch", channels, "height", "width"],
        "data_type": "float32",
    }


def _spec_from_card(card: dict[str, Any], path: Path) -> ModelSpec:
    p = card["properties"]
    try:
        (given,), (result,) = p["mlm:input"], p["mlm:output"]
        _refuse_what_cannot_be_honoured(p, given, result, path)
        legend = p.get("landcover:legend") or {"name": p["mlm:name"]}
        return ModelSpec.model_validate(
            {
                "name": p["mlm:name"],
                "description": p.get("description", ""),
                "architecture": p["mlm:architecture"],
                "hyperparameters": p.get("mlm:hyperparameters", {}),
                "bands": tuple(b if isinstance(b, str) else b["name"] for b in given["bands"]),
                "stats": tuple({"mean": s["mean"], "stddev": s["stddev"]} for s in given["value_scaling"]),
                "legend": {
                    **legend,
                    "classes": [
                        {"id": c["value"], "name": c["name"], "color": f"#{c['color_hint'].lower()}"}
                        for c in result["classification:classes"]
                    ],
                },
                "gsd": p.get("landcover:gsd"),
                "sees": p.get("landcover:sees"),
                "stride": p.get("landcover:stride"),
                "bf16_safe": p.get("landcover:bf16_safe", False),
                "trained": p["mlm:pretrained"],
                "licence": p.get("license", "other"),
                "training": p.get("landcover:training", ""),
                "accuracy": p.get("landcover:accuracy", {}),
            }
        )
    except ValidationError as e:
        raise ModelError(f"{path}: {explain(e)}") from e
    except KeyError as e:
        raise ModelError(f"{path} lacks {e}; it is needed to run the model as it was trained") from e
    except (TypeError, ValueError, AttributeError, IndexError) as e:
        raise ModelError(f"{path} is not a model card with one input and one output of scores ({e})") from e


def _refuse_what_cannot_be_honoured(p: dict, given: dict, result: dict, path: Path) -> None:
    for what, value in (
        ("pre_processing_function", given.get("pre_processing_function")),
        ("post_processing_function", result.get("post_processing_function")),
        ("resize_type", given.get("resize_type")),
    ):
        if value:
            raise ModelError(
                f"{path} asks for the {what} {value!r}, which is not run; remove it or fold it into the network"
            )
    _check_array(path, "input", given.get("input") or {}, len(given["bands"]))
    _check_array(path, "output", result.get("result") or {}, len(result["classification:classes"]))
    for band in given["bands"]:
        if isinstance(band, dict) and band.keys() & {"format", "expression"}:
            raise ModelError(f"{path} computes the band '{band.get('name')}' by an expression, which is not evaluated")
    if p.get("landcover:clip_stddev", CLIP) != CLIP:
        raise ModelError(
            f"{path} clips at {p['landcover:clip_stddev']} standard deviations; this version clips at {CLIP}"
        )
    for s in given["value_scaling"] or [None]:
        if not isinstance(s, dict) or s.get("type") != "z-score":
            raise ModelError(
                f"{path}: only value_scaling of type 'z-score' is understood, one for each band, not {s!r}"
            )


def _check_array(path: Path, what: str, told: dict, channels: int) -> None:
    """Refuse arrays that are not float32 (batch, channels, height, width), as far as the card tells."""
    first, second, *rest = told.get("dim_order", ("batch", "bands", "height", "width"))
    number = told.get("shape", (-1, -1, -1, -1))[1]
    if (first, rest) != ("batch", ["height", "width"]) or second not in _CHANNELS:
        raise ModelError(
            f"{path}: the {what} has the dimensions {told['dim_order']}, not batch, channels, height, width"
        )
    if told.get("data_type", "float32") != "float32":
        raise ModelError(f"{path}: the {what} is of {told['data_type']!r}; only float32 is understood")
    if number not in (-1, channels):
        named = "bands" if what == "input" else "classes"
        raise ModelError(f"{path}: the {what} has {number!r} channels, and {channels} {named}")


def named_classes(classes: tuple[str, ...], name: str = "classes") -> Legend:
    """A legend of names alone: ids count from 1, and colours are as unlike as they can be.

    Raises:
        ModelError: a class has no name, or occurs twice, or there are too many.
    """
    hues = [colorsys.hsv_to_rgb(i / len(classes), 0.65, 0.85) for i in range(len(classes))]
    colors = ["#" + bytes(round(255 * v) for v in rgb).hex() for rgb in hues]
    known = [{"id": i, "name": n, "color": c} for i, (n, c) in enumerate(zip(classes, colors, strict=True), 1)]
    try:
        return Legend.model_validate({"name": name, "classes": known})
    except ValidationError as e:
        raise ModelError(f"the classes {', '.join(classes)[:100]} make no legend: {explain(e)}") from e


def init_model(
    folder: Path,
    *,
    architecture: str,
    bands: tuple[str, ...],
    classes: tuple[str, ...],
    seed: int = 0,
    hyperparameters: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Model:
    """Write an untrained model with random weights; `predict` refuses it unless it is allowed.

    Args:
        folder: the model folder to write.
        architecture: see `landcover.network.build_network`.
        bands: common names.
        classes: class names; their ids count from 1.
        seed: of the random weights.
        hyperparameters: arguments of the architecture.
        overwrite: replace a model that exists.

    Raises:
        ModelError: the architecture is not known, or a model is there already.
        OutputError: the folder cannot be written.
    """
    import torch

    from landcover.network import build_network, total_stride

    check_folder(folder, overwrite=overwrite)
    try:
        spec = ModelSpec.model_validate(
            {
                "name": f"untrained-{architecture}",
                "description": "Random weights, for tests and benchmarks.",
                "architecture": architecture,
                "hyperparameters": hyperparameters or {},
                "bands": bands,
                "stats": [{"mean": 0.15, "stddev": 0.1}] * len(bands),
                "legend": named_classes(classes, "untrained"),
                "trained": False,
                "licence": "CC0-1.0",
            }
        )
    except ValidationError as e:
        raise ModelError(f"the model cannot be made: {explain(e)}") from e
    if not all(bands):
        raise ModelError(f"a band of {', '.join(bands)} has no name; write for example --bands red,nir")
    if not -(2**63) <= seed < 2**64:
        raise ModelError(f"--seed {seed} is not a number of 64 bits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(architecture, len(bands), len(classes), spec.hyperparameters)
    stride = total_stride(architecture, spec.hyperparameters, network)
    save_model(folder, spec.model_copy(update={"stride": stride}), network.state_dict())
    return load_model(folder)
