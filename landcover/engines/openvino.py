"""OpenVINO on a CPU: the network is converted once, kept in the user's cache, and never waits for its batches."""

import contextlib
import hashlib
import os
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs

from landcover import __version__
from landcover.chips import Batch
from landcover.engines.arrays import best
from landcover.scaling import Scaling

if TYPE_CHECKING:
    from landcover.models import Model

CACHED_GRAPHS = 8
"""How many converted networks are kept for the next run; the ones used longest ago are dropped."""

_CONVERSION = 2
"""Counts the ways in which networks were converted, so that the cache holds none of an earlier one."""

_POLL_MS = 100
"""An interrupt is noticed between two looks at a request."""


class OpenVINOEngine:
    """OpenVINO on all cores, with the scaling and the softmax inside its graph.

    Two requests share one stream: while one batch is scored, the next one is made ready and waits in line, and the one
    before is blended.
    """

    def __init__(
        self, model: "Model", scaling: Scaling, shape: tuple[int, ...], dtype: str, precision: str = "f32"
    ) -> None:
        import openvino as ov

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
        }
        compiled = ov.Core().compile_model(_cached_graph(model, scaling, shape, dtype), "CPU", settings)
        self._requests = [compiled.create_infer_request() for _ in range(2)]

    def run(self, batches: Iterable[Batch]) -> Generator[tuple[Batch, np.ndarray], None, None]:
        running: deque[tuple[Batch, Any]] = deque()
        try:
            for i, batch in enumerate(batches):
                request = self._requests[i % 2]
                request.start_async([batch.dn, batch.valid], share_inputs=True)
                running.append((batch, request))
                if len(running) == 2:
                    yield _scored(*running.popleft())
            while running:
                yield _scored(*running.popleft())
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


def _scored(batch: Batch, request: Any) -> tuple[Batch, np.ndarray]:
    while not request.wait_for(_POLL_MS):
        pass
    return batch, request.get_output_tensor(0).data


def _cached_graph(model: "Model", scaling: Scaling, shape: tuple[int, ...], dtype: str) -> Any:
    """The converted network from the user's cache, where an earlier run left it; torch need not be imported then."""
    import openvino as ov

    facts = (
        _CONVERSION,
        model.sha256,
        model.spec.model_dump_json(),
        scaling.gain.tobytes(),
        scaling.bias.tobytes(),
        shape,
        dtype,
    )
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

    from landcover.network import Scorer, merge_upsampling

    n, bands, height, width = shape
    side = 4 * model.stride
    small = (n, bands, min(height, side), min(width, side))
    network = merge_upsampling(model.network, torch.rand(1, *small[1:]))
    scorer = Scorer(network, torch.from_numpy(scaling.gain), torch.from_numpy(scaling.bias)).eval()
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
