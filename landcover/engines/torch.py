"""Torch on CUDA, and on a CPU as fallback and oracle."""

import contextlib
import logging
import sys
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from landcover.chips import Batch
from landcover.engines.rewriting import fold_batch_norms
from landcover.errors import DeviceError
from landcover.network import Scorer, activation_count, keep_to_own_threads, noise
from landcover.scaling import Scaling

if TYPE_CHECKING:
    from landcover.models import Model

_log = logging.getLogger(__name__)


class TorchEngine:
    """Torch, channels last; the softmax is in float32 whatever the precision.

    On CUDA three streams overlap: one copies the next batch from pinned memory, one runs the network, and one is for
    what the caller does with the scores; a byte a pixel comes back. Of a batch so many chips are scored at once as the
    device's free memory holds; if that was too many, half as many, and so with all later batches.
    """

    out_of_memory: type[BaseException] = torch.OutOfMemoryError

    def __init__(
        self, model: "Model", scaling: Scaling, device: str, precision: str = "f32", *, sums: str = "device"
    ) -> None:
        self._device = torch.device(device)
        self._half = precision == "bf16"
        self._sums = torch.device("cpu") if sums == "host" else self._device
        self._at_once: int | None = None  # chips; None for the whole batch
        self._values = activation_count(model.network, len(model.spec.bands), model.stride)
        network = model.network
        keep_to_own_threads()
        if self._device.type == "cuda":  # the same bits every time, and f32 that is f32
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            network = fold_batch_norms(network, noise(len(model.spec.bands), 2 * model.stride))
            self._copying, self._using = torch.cuda.Stream(self._device), torch.cuda.Stream(self._device)
        scorer = Scorer(network, torch.from_numpy(scaling.gain), torch.from_numpy(scaling.bias))
        self._scorer = scorer.to(self._device).to(memory_format=torch.channels_last).eval()

    def run(self, batches: Iterable[Batch]) -> Generator[tuple[Batch, list[torch.Tensor]], None, None]:
        before: tuple[Batch, list[torch.Tensor], Any] | None = None
        for batch in batches:
            queued = batch, self._submit(batch), self._now()
            if before is not None:
                with self._beside(*before[1:]):
                    yield before[:2]
            before = queued
        if before is not None:
            with self._beside(*before[1:]):
                yield before[:2]

    def array(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._sums)

    def numpy(self, values: torch.Tensor) -> np.ndarray:
        return values.cpu().numpy()

    def best(self, scores: torch.Tensor) -> np.ndarray:
        return self.numpy(scores.argmax(dim=0).to(torch.uint8))

    def _submit(self, batch: Batch) -> list[torch.Tensor]:
        """Begin to score a batch; float32 (classes, h, w) for each chip, which may not be there yet on CUDA."""
        while True:
            at_once = self._at_once = self._at_once or self._that_fit(batch)
            try:
                parts = (self._score(batch, i, i + at_once) for i in range(0, len(batch.dn), at_once))
                return [chip for part in parts for chip in part.to(self._sums)]
            except torch.OutOfMemoryError as e:
                height, width = batch.dn.shape[-2:]
                if at_once == 1:
                    raise DeviceError(
                        f"{self._device} has not enough free memory to score one window of {height} × {width} pixels; "
                        "give a smaller --tile-size, or --device cpu"
                    ) from e
                self._at_once = -(-at_once // 2)
                _log.warning(
                    "%s has not the memory for %d windows at once: going on with %d",
                    self._device,
                    at_once,
                    self._at_once,
                )
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _that_fit(self, batch: Batch) -> int:
        """How many chips of a batch the device's free memory holds while all layers of the network hold theirs."""
        n, _, height, width = batch.dn.shape
        chip = self._values * height * width * (2 if self._half else 4)
        fit = min(n, max(1, self._free_bytes() // chip))
        if fit < n:
            _log.warning("%s has free memory for %d of %d windows at once", self._device, fit, n)
        return fit

    def _free_bytes(self) -> int:
        if self._device.type != "cuda":
            return sys.maxsize
        held = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return torch.cuda.mem_get_info(self._device)[0] + held

    def _score(self, batch: Batch, lo: int, hi: int) -> torch.Tensor:
        dn, valid = batch.dn[lo:hi], batch.valid[lo:hi]
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            if dn.dtype == np.uint16:  # CUDA counts in few unsigned types
                return self._scorer(self._upload(dn.view(np.int16)).int() & 0xFFFF, self._upload(valid))
            return self._scorer(self._upload(dn), self._upload(valid))

    def _upload(self, values: np.ndarray) -> torch.Tensor:
        """Copy to the device; the network's stream waits for it, the host does not."""
        tensor = torch.from_numpy(values)
        if self._device.type != "cuda":
            return tensor
        with torch.cuda.stream(self._copying):
            tensor = tensor.pin_memory().to(self._device, non_blocking=True)
        torch.cuda.current_stream(self._device).wait_stream(self._copying)
        tensor.record_stream(torch.cuda.current_stream(self._device))
        return tensor

    def _now(self) -> Any:
        """A mark in the network's stream: what was submitted so far is done when it is reached."""
        return torch.cuda.current_stream(self._device).record_event() if self._device.type == "cuda" else None

    @contextlib.contextmanager
    def _beside(self, scores: list[torch.Tensor], ready: Any) -> Iterator[None]:
        """Let what the caller does with scores run beside the network's work on the next batch."""
        if self._sums.type != "cuda":
            yield
            return
        self._using.wait_event(ready)
        for chip in scores:
            chip.record_stream(self._using)
        with torch.cuda.stream(self._using):
            yield
