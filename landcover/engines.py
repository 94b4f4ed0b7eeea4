"""What runs a network fast: torch on CUDA, OpenVINO on a CPU, torch on a CPU as fallback and oracle.

An engine turns digital numbers into scores, and owns the arrays those live in.
"""

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import platformdirs

from landcover import __version__
from landcover.errors import ConfigError
from landcover.scaling import Scaling

if TYPE_CHECKING:
    from landcover.models import Model

ENGINES = ("auto", "openvino", "torch")
PRECISIONS = ("auto", "f32", "bf16")


@dataclass(frozen=True)
class EngineChoice:
    """Which engine runs, on which device, and why.

    Attributes:
        engine: "torch" or "openvino".
        device: "cpu" or "cuda:N".
        why: one clause for people.
        precision: of the network's arithmetic, "f32" or "bf16".
    """

    engine: str
    device: str
    why: str
    precision: str = "f32"

    def __str__(self) -> str:
        return f"{self.engine} on {self.device} in {self.precision} ({self.why})"


class Engine(Protocol):
    """Scores batches of one constant shape."""

    def scores(self, dn: np.ndarray, valid: np.ndarray) -> Any:
        """Probabilities, float32 (n, classes, h, w), of dn (n, bands, h, w) and valid (n, 1, h, w) bool.

        They hold until the next call.
        """
        ...

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Float32 zeros, where the engine's scores live."""
        ...

    def array(self, values: np.ndarray) -> Any:
        """Copy a NumPy array to where the scores live."""
        ...

    def numpy(self, values: Any) -> np.ndarray:
        """Bring an array of the engine back as a NumPy array."""
        ...


def choose_engine(
    device: str = "auto", engine: str = "auto", precision: str = "auto", *, bf16_safe: bool = True
) -> EngineChoice:
    """Decide on engine, device and precision.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        engine: "auto", "openvino" (CPU only) or "torch".
        precision: "f32", "bf16", or "auto" for bf16 where the processor computes in it and the model allows it.
        bf16_safe: whether the model was measured to keep its accuracy in bf16.

    Raises:
        ConfigError: an unknown name, or a device or engine that this machine has not.
    """
    for option, value, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ConfigError(f"--{option} '{value}' is not known; choose one of {', '.join(known)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"--device '{device}' is not known; choose auto, cpu, cuda or cuda:N")
    choice = _choose_device(device, engine)
    if precision == "auto":
        precision = "bf16" if bf16_safe and _computes_in_bf16(choice) else "f32"
    return replace(choice, precision=precision)


def _choose_device(device: str, engine: str) -> EngineChoice:
    if device.startswith("cuda"):
        return _choose_cuda(device, engine)
    why = "asked for" if device == "cpu" else "no CUDA device"
    if device == "auto" and engine != "openvino" and cuda_devices():
        return EngineChoice("torch", "cuda:0", "a CUDA device is there")
    if engine == "openvino" and not _has_openvino():
        raise ConfigError("--engine openvino: the package openvino is not installed; install it or choose torch")
    if engine == "torch":
        return EngineChoice("torch", "cpu", why)
    if _has_openvino():
        return EngineChoice("openvino", "cpu", why)
    return EngineChoice("torch", "cpu", f"{why}, and no openvino package")


def _computes_in_bf16(choice: EngineChoice) -> bool:
    """Whether bf16 is native there; torch on a CPU is the oracle, and stays in f32."""
    if choice.engine == "openvino":
        import openvino as ov

        return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if choice.device == "cpu":
        return False
    import torch

    return torch.cuda.get_device_capability(choice.device) >= (8, 0)


def open_engine(choice: EngineChoice, model: "Model", scaling: Scaling, shape: tuple[int, ...], dtype: str) -> Engine:
    """Make an engine ready for batches of one shape.

    Args:
        choice: from `choose_engine`.
        model: its network is used.
        scaling: from digital numbers to what the network sees.
        shape: of a batch, (n, bands, height, width).
        dtype: of the digital numbers.
    """
    if choice.engine == "openvino":
        return OpenVINOEngine(model, scaling, shape, dtype, choice.precision)
    return TorchEngine(model, scaling, choice.device, choice.precision)


def cuda_devices() -> int:
    """How many CUDA devices torch can use; torch is imported only where there is a driver."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class TorchEngine:
    """Torch on a CPU or on CUDA, channels last; the softmax is in float32 whatever the precision."""

    def __init__(self, model: "Model", scaling: Scaling, device: str, precision: str = "f32") -> None:
        import torch

        from landcover.network import Scorer

        self._torch = torch
        self._device = torch.device(device)
        scorer = Scorer(model.network, torch.from_numpy(scaling.gain), torch.from_numpy(scaling.bias))
        self._scorer = scorer.to(self._device).to(memory_format=torch.channels_last).eval()
        self._half = precision == "bf16"
        if self._device.type == "cuda":  # the same bits every time, and f32 that is f32
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def scores(self, dn: np.ndarray, valid: np.ndarray) -> Any:
        torch = self._torch
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            return self._scorer(self.array(dn), self.array(valid))

    def zeros(self, shape: tuple[int, ...]) -> Any:
        return self._torch.zeros(shape, device=self._device)

    def array(self, values: np.ndarray) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(values)).to(self._device, non_blocking=True)

    def numpy(self, values: Any) -> np.ndarray:
        return values.cpu().numpy()


class OpenVINOEngine:
    """OpenVINO on a CPU, with the scaling and the softmax inside its graph."""

    def __init__(
        self, model: "Model", scaling: Scaling, shape: tuple[int, ...], dtype: str, precision: str = "f32"
    ) -> None:
        import openvino as ov

        graph = _cached_graph(model, scaling, shape, dtype)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
        }
        self._request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def scores(self, dn: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return self._request.infer([dn, valid], share_inputs=True, share_outputs=True)[0]

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def array(self, values: np.ndarray) -> np.ndarray:
        return values

    def numpy(self, values: np.ndarray) -> np.ndarray:
        return values


CACHED_GRAPHS = 8
"""How many converted networks are kept for the next run; the ones used longest ago are dropped."""


def _cached_graph(model: "Model", scaling: Scaling, shape: tuple[int, ...], dtype: str) -> Any:
    """The converted network from the user's cache, where an earlier run left it; torch need not be imported then."""
    import openvino as ov

    facts = (model.sha256, model.spec.model_dump_json(), scaling.gain.tobytes(), scaling.bias.tobytes(), shape, dtype)
    key = hashlib.sha256(repr((facts, __version__, ov.__version__)).encode()).hexdigest()[:32]
    folder = cache_folder() / "openvino"
    try:
        graph = ov.Core().read_model(folder / key / "graph.xml")
        (folder / key).touch()
        return graph
    except (RuntimeError, OSError):  # not there, or not readable: make it anew
        graph = _openvino_graph(model, scaling, shape, dtype)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the run
        _keep(graph, folder, key)
    return graph


def _keep(graph: Any, folder: Path, key: str) -> None:
    """Put a graph into the cache, whole or not at all."""
    import openvino as ov

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as partial:
        try:
            ov.save_model(graph, Path(partial) / "new" / "graph.xml", compress_to_fp16=False)
        except RuntimeError as e:
            raise OSError(str(e)) from e
        shutil.rmtree(folder / key, ignore_errors=True)
        (Path(partial) / "new").rename(folder / key)
    kept = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.stat().st_mtime)
    for old in kept[:-CACHED_GRAPHS]:
        shutil.rmtree(old, ignore_errors=True)


def cache_folder() -> Path:
    """Where converted networks are kept: LANDCOVER_CACHE, or the user's cache folder."""
    return Path(os.environ.get("LANDCOVER_CACHE") or platformdirs.user_cache_dir("landcover"))


def _openvino_graph(model: "Model", scaling: Scaling, shape: tuple[int, ...], dtype: str) -> Any:
    """Convert scaling, network and softmax to an OpenVINO model of a fixed shape.

    A network of convolutions is traced on small chips, which takes a moment and little memory. One with attention can
    bake the size of what it saw into its positions, and is traced on chips of the very size.
    """
    import openvino as ov
    import torch

    from landcover.network import Scorer

    scorer = Scorer(model.network, torch.from_numpy(scaling.gain), torch.from_numpy(scaling.bias)).eval()
    n, bands, height, width = shape
    side = 4 * model.stride
    small = (n, bands, min(height, side), min(width, side))
    graph = _trace(scorer, shape if _attends(model) else small, shape)
    prepare = ov.preprocess.PrePostProcessor(graph)
    for i, stored in enumerate((dtype, "bool")):
        prepare.input(i).tensor().set_element_type(ov.Type(np.dtype(stored)))
        prepare.input(i).preprocess().convert_element_type(ov.Type.f32)
    return prepare.build()


def _attends(model: "Model") -> bool:
    """Whether a network may hold attention: transformers of smp, and any of timm's encoders."""
    encoder = str(model.spec.hyperparameters.get("encoder_name", ""))
    return model.spec.architecture in ("dpt", "segformer") or encoder.startswith(("tu-", "mit_"))


def _trace(scorer: Any, example: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Trace a scorer on chips of shape `example`, (n, bands, height, width), and make a graph for chips of `shape`."""
    import openvino as ov
    import torch

    (n, bands, tall, wide), (_, _, height, width) = example, shape
    given = (torch.zeros(n, bands, tall, wide), torch.ones(n, 1, tall, wide))
    wanted = [ov.PartialShape([n, channels, height, width]) for channels in (bands, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the tracing that OpenVINO's converter uses
        return ov.convert_model(scorer, example_input=given, input=wanted)


def _choose_cuda(device: str, engine: str) -> EngineChoice:
    if engine == "openvino":
        raise ConfigError("--engine openvino runs on a CPU; leave out --engine or choose --device cpu")
    number = int(device.partition(":")[2] or 0)
    count = cuda_devices()
    if number >= count:
        raise ConfigError(
            f"--device {device}: torch sees {count or 'no'} CUDA device{'s' if count != 1 else ''} here; "
            "choose --device cpu, or see what `landcover doctor` says"
        )
    return EngineChoice("torch", f"cuda:{number}", "asked for")


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None
