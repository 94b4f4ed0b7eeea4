"""Which engine runs, on which device, in which precision, and why."""

import ctypes
import importlib.util
import re
import sys
from dataclasses import dataclass, replace

from landcover.errors import ConfigError

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
        sums: where overlapping scores are added up, "device", or "host" where a card has not the memory for it.
    """

    engine: str
    device: str
    why: str
    precision: str = "f32"
    sums: str = "device"

    @property
    def tag(self) -> str:
        """What makes maps of the same scene equal, bit by bit, on the same kind of processor."""
        return f"{self.engine} {self.device.partition(':')[0]} {self.precision}"

    def __str__(self) -> str:
        return f"{self.engine} on {self.device} in {self.precision} ({self.why})"


def with_less(choice: EngineChoice) -> EngineChoice | None:
    """How to go on where a device's memory did not suffice: sums on the host, then all on the CPU, then nothing."""
    if choice.device == "cpu":
        return None
    if choice.sums == "device":
        return replace(choice, sums="host", why="its memory did not suffice for the sums of scores")
    return replace(_choose_device("cpu", "auto"), why="the CUDA device has not the memory for one window")


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
        precision = "bf16" if bf16_safe and computes_in_bf16(choice) else "f32"
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


def computes_in_bf16(choice: EngineChoice) -> bool:
    """Whether bf16 is native there; torch on a CPU is the oracle, and stays in f32."""
    if choice.engine == "openvino":
        import openvino as ov

        return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if choice.device == "cpu":
        return False
    import torch

    return torch.cuda.get_device_capability(choice.device) >= (8, 0)


def cuda_devices() -> int:
    """How many CUDA devices torch can use; torch is imported only where there is a driver."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


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
