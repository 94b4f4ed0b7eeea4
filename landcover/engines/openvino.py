"""OpenVINO on a CPU: each batch is scored by one thread, as many at once as there are cores."""

import contextlib
import logging
import math
from collections import deque
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from landcover.chips import Batch
from landcover.engines.banding import in_bands, live_bytes
from landcover.engines.conversion import converted
from landcover.processors import own_memory
from landcover.scaling import Scaling

if TYPE_CHECKING:
    from landcover.models import Model

_log = logging.getLogger(__name__)

_POLL_MS = 100
"""An interrupt is noticed between two looks at a request."""

_ROWS = 32
"""The best class is looked for in so few rows at once that they stay in a core's cache."""


class OpenVINOEngine:
    """OpenVINO, with the scaling and the softmax inside its graph.

    Its kernels cut their sums by the number of threads they are computed with. So each batch has one thread, whatever
    the machine, and scores do not depend on it; in turn each thread holds the layers of a window.
    """

    out_of_memory: type[BaseException] = MemoryError

    def __init__(
        self,
        model: "Model",
        scaling: Scaling,
        shape: tuple[int, ...],
        dtype: str,
        precision: str = "f32",
        *,
        at_once: int = 1,
    ) -> None:
        import openvino as ov

        graph = in_bands(converted(model, scaling, shape, dtype, precision))
        streams = _that_fit(graph, precision, at_once)
        settings = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": precision,
        }
        compiled = ov.Core().compile_model(graph, "CPU", settings)
        self._requests = [compiled.create_infer_request() for _ in range(compiled.get_property("NUM_STREAMS"))]

    def run(self, batches: Iterable[Batch]) -> Generator[tuple[Batch, np.ndarray], None, None]:
        running: deque[tuple[Batch, Any]] = deque()
        try:
            for i, batch in enumerate(batches):
                request = self._requests[i % len(self._requests)]
                request.start_async([batch.dn, batch.valid], share_inputs=True)
                running.append((batch, request))
                if len(running) == len(self._requests):
                    yield _scored(running)
            while running:
                yield _scored(running)
        finally:
            for _, request in running:
                request.cancel()
                with contextlib.suppress(RuntimeError):  # it says that it was cancelled
                    request.wait()

    def array(self, values: np.ndarray) -> np.ndarray:
        return values

    def numpy(self, values: np.ndarray) -> np.ndarray:
        return values

    def best(self, scores: np.ndarray) -> np.ndarray:
        return best(scores)


def network_bytes(model: "Model", scaling: Scaling, shape: tuple[int, ...], dtype: str, precision: str) -> int:
    """What the layers of a network hold while a batch of that shape is scored; the network is converted for it."""
    return _held(in_bands(converted(model, scaling, shape, dtype, precision)), precision)


def _held(graph: Any, precision: str) -> int:
    """Bytes that a graph's layers hold, with a quarter more for what OpenVINO changes the layout of."""
    return live_bytes(graph, 4 if precision == "f32" else 2) * 5 // 4


def _that_fit(graph: Any, precision: str, at_once: int) -> int:
    """How many batches half of this process's memory holds while they are scored, at most so many."""
    ends = sum(math.prod(port.get_shape()) * port.get_element_type().size for port in graph.inputs + graph.outputs)
    fit = min(at_once, max(1, own_memory() // 2 // (_held(graph, precision) + ends)))
    if fit < at_once:
        n = graph.input(0).get_shape()[0]
        _log.warning(
            "memory for %d of %d windows at once; with a smaller --tile-size more cores are busy", n * fit, n * at_once
        )
    return fit


def _scored(running: deque[tuple[Batch, Any]]) -> tuple[Batch, np.ndarray]:
    """Wait for the request that began first; it counts as running until it is done."""
    batch, request = running[0]
    while not request.wait_for(_POLL_MS):
        pass
    running.popleft()
    return batch, request.get_output_tensor(0).data


def best(scores: np.ndarray) -> np.ndarray:
    """Which class has the highest score, the first of equals; float32 (classes, rows, cols) → uint8 (rows, cols).

    It does what `argmax` does, ten times as fast, because the classes are few.
    """
    found = np.zeros(scores.shape[1:], np.uint8)
    for lo in range(0, len(found), _ROWS):
        some, number = scores[:, lo : lo + _ROWS], found[lo : lo + _ROWS]
        top = some[0].copy()
        for k in range(1, len(some)):
            better = some[k] > top
            np.maximum(top, some[k], out=top)
            np.maximum(number, better.view(np.uint8) * np.uint8(k), out=number)
    return found
