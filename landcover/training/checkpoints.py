"""Checkpoints of training: replaced as a whole, and read without unpickling anything but tensors and numbers."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from landcover.errors import TrainingError
from landcover.outputs import publish_bytes

CHECKPOINT = "checkpoint.pt"


@dataclass
class Step:
    """One step of the loop, for whoever watches.

    Attributes:
        number: from 1.
        loss: of the batch; None where no pixel of it is labelled and no teacher has an opinion of one.
        rate: of learning.
        counts: the confusion matrix on the held-out chips, where they were looked at.
    """

    number: int
    loss: float | None
    rate: float
    counts: np.ndarray | None = None


@dataclass
class Best:
    """The best evaluation so far, and its weights."""

    macro_f1: float = -1.0
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


class Checkpoint:
    """Where a run of the loop has come to.

    Args:
        folder: that exists.
        parts: by name, what has a state that goes on: networks and optimizers.
    """

    def __init__(self, folder: Path, parts: dict[str, Any]) -> None:
        self._path = folder / CHECKPOINT
        self._parts = parts
        self._history: list[dict[str, Any]] = []
        self._seconds = self._passed = 0.0

    def load(self, device: torch.device) -> tuple[int, Best]:
        """Set all parts to what was saved; returns the steps that were done, and the best evaluation.

        Raises:
            TrainingError: what was saved cannot be relied on, or is of other parts.
        """
        if not self._path.exists():
            return 0, Best()
        state = read_checkpoint(self._path.parent, device, self._parts)
        with fitting(self._path.parent):
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
                if isinstance(part, Optimizer):
                    _check_moments(part)
            self._history, self._seconds = list(state["history"]), float(state["seconds"])
            best = state["best"]
            weights = {k: v.cpu() for k, v in best["weights"].items()}
            return int(state["step"]), Best(best["macro_f1"], best["step"], weights)

    def note(self, done: Step | None, seconds: float) -> None:
        """Note the time since this run began, and a step at which held-out places were looked at."""
        self._passed = self._seconds + seconds
        if done is not None:
            counts = None if done.counts is None else done.counts.tolist()
            entry = {"step": done.number, "loss": done.loss, "rate": done.rate}
            self._history.append({**entry, "seconds": round(self._passed, 1), "counts": counts})

    def save(self, step: int, best: Best) -> None:
        """Write all parts, so that the earlier checkpoint stays until this one is complete.

        Raises:
            OutputError: there is no room.
        """
        state = {
            "step": step,
            "best": vars(best),
            "history": self._history,
            "seconds": self._passed,
            **{name: part.state_dict() for name, part in self._parts.items()},
        }
        content = io.BytesIO()
        torch.save(state, content)
        publish_bytes(self._path, content.getvalue())


def _check_moments(optimizer: Optimizer) -> None:
    """Refuse what an optimizer remembers of weights of another shape, which it would only find at its next step."""
    for weight, told in optimizer.state.items():
        if any(v.ndim and v.shape != weight.shape for v in told.values() if isinstance(v, Tensor)):
            raise ValueError(f"the optimizer remembers other weights than those of shape {tuple(weight.shape)}")


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Say of an error, while states of the checkpoint in `folder` are taken up, what it means for the user."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as e:
        raise TrainingError(
            f"the checkpoint in {folder} does not fit the network that this recipe trains, or is damaged; add "
            "--no-resume to start over"
        ) from e


def read_checkpoint(folder: Path, device: torch.device | str = "cpu", parts: Iterable[str] = ()) -> dict[str, Any]:
    """The last checkpoint in a folder: step, best, history, seconds, and the states of what was learning.

    Args:
        folder: of the run.
        device: where the states are wanted.
        parts: whose states it must hold.

    Raises:
        TrainingError: it cannot be relied on.
    """
    try:
        state = torch.load(folder / CHECKPOINT, map_location=device, weights_only=True)
        if absent := {"step", "best", "history", "seconds", *parts} - state.keys():
            raise ValueError(f"it does not hold {', '.join(sorted(absent))}")
        return state
    except Exception as e:
        raise TrainingError(f"the checkpoint in {folder} cannot be read; add --no-resume to start over") from e
