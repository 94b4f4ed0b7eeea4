"""What runs a network fast: torch on CUDA, OpenVINO on a CPU, torch on a CPU as fallback and oracle.

An engine turns digital numbers into scores, and owns the arrays those live in.
"""

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from landcover.chips import Batch
from landcover.engines.choice import EngineChoice, choose_engine, cuda_devices, with_less
from landcover.scaling import Scaling

if TYPE_CHECKING:
    from landcover.models import Model

__all__ = ["Engine", "EngineChoice", "choose_engine", "cuda_devices", "open_engine", "with_less"]


class Engine(Protocol):
    """Scores batches of one constant shape.

    Attributes:
        out_of_memory: what is raised where the device has not the memory for what is done with its scores.
    """

    out_of_memory: type[BaseException]

    def run(self, batches: Iterable[Batch]) -> Generator[tuple[Batch, Any], None, None]:
        """Score batches, one after the other; the next one is under way while the last one is looked at.

        Yields:
            Each batch and its probabilities, float32 (n, classes, h, w), which may be changed and hold until the next
            ones are taken.

        Raises:
            DeviceError: the device has not the memory for a single window.
        """
        ...

    def array(self, values: np.ndarray) -> Any:
        """Copy a NumPy array to where the scores live."""
        ...

    def numpy(self, values: Any) -> np.ndarray:
        """Bring an array of the engine back as a NumPy array."""
        ...

    def best(self, scores: Any) -> np.ndarray:
        """The class with the highest score, the first of equals; (classes, h, w) → uint8 (h, w), in NumPy."""
        ...


def open_engine(
    choice: EngineChoice, model: "Model", scaling: Scaling, shape: tuple[int, ...], dtype: str, at_once: int = 1
) -> Engine:
    """Make an engine ready for batches of one shape.

    Args:
        choice: from `choose_engine`.
        model: its network is used.
        scaling: from digital numbers to what the network sees.
        shape: of a batch, (n, bands, height, width).
        dtype: of the digital numbers.
        at_once: batches that OpenVINO scores at the same time, at most, each on a core of its own.
    """
    if choice.engine == "openvino":
        from landcover.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(model, scaling, shape, dtype, choice.precision, at_once=at_once)
    from landcover.engines.torch import TorchEngine

    return TorchEngine(model, scaling, choice.device, choice.precision, sums=choice.sums)
