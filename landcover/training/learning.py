"""The loop: chips are drawn, varied, scored, and the network is moved; then its average is looked at."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from segmentation_models_pytorch.losses import DiceLoss
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from landcover.accuracy import confusion, macro_f1
from landcover.errors import TrainingError
from landcover.network import Enlarging
from landcover.recipes import Loop, Recipe
from landcover.scaling import scale
from landcover.specs import ModelSpec
from landcover.training.augmentation import Augmenter, Chips
from landcover.training.checkpoints import Best, Checkpoint, Step
from landcover.training.samples import Samples
from landcover.training.start import freeze

_EVALUATED_AT_ONCE = 16 * 384**2
"""Pixels, as the network sees them."""

_SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class View:
    """How one network sees samples: which of their bands, and normalised by what.

    Attributes:
        channels: numbers of the samples' bands, in the network's order.
        mean, stddev: of the reflectance of each of them.
    """

    channels: tuple[int, ...]
    mean: tuple[float, ...]
    stddev: tuple[float, ...]

    def __call__(self, reflectance: Tensor, valid: Tensor) -> Tensor:
        """Normalise reflectance (N, bands, H, W), valid (N, H, W), by the function that prediction uses."""
        mean, stddev = (torch.tensor(v, device=reflectance.device)[:, None, None] for v in (self.mean, self.stddev))
        picked = reflectance[:, list(self.channels)]
        x = scale(picked, valid[:, None].float(), 1 / stddev, -mean / stddev)
        return x.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Task:
    """What a network learns, and from what.

    Attributes:
        recipe: how.
        spec: what the model is to be.
        samples: all chips.
        train, held_out: numbers of the chips to learn from, and of those to be scored on.
        view: of the network.
        stride: the network's total stride.
        teachers: networks that score the same classes, and how each sees the samples.
    """

    recipe: Recipe
    spec: ModelSpec
    samples: Samples
    train: np.ndarray
    held_out: np.ndarray
    view: View
    stride: int
    teachers: tuple[tuple[nn.Module, View], ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.spec.legend.names

    def take(self, chips: np.ndarray, device: torch.device) -> Chips:
        """Chips by their numbers, on a device."""
        every = (self.samples.reflectance, self.samples.valid, self.samples.labels)
        reflectance, valid, labels = (torch.from_numpy(array[chips]).to(device) for array in every)
        return reflectance, valid, labels.long()

    @cached_property
    def gsd(self) -> Tensor:
        """Metres per pixel of every chip, float32 (chips,), nan where it is not known."""
        return torch.tensor([o.gsd or float("nan") for o in self.samples.origins])

    @cached_property
    def factors(self) -> np.ndarray:
        """How many times each chip is enlarged before the network sees it, int64 (chips,)."""
        return np.array([self.spec.factor(o.gsd) for o in self.samples.origins])

    @cached_property
    def augment(self) -> Augmenter:
        water = self.classes.index("water") + 1 if "water" in self.classes else 0
        means, _ = self.samples.band_stats(self.train)
        recipe = self.recipe.augmentation
        if recipe.gsd is None and (sees := self.spec.sees):
            recipe = recipe.model_copy(update={"gsd": (0.8 * sees, 1.5 * sees)})
        return Augmenter(recipe, self.samples.bands, means, water)

    def held_out_batches(self) -> Iterator[tuple[int, np.ndarray]]:
        """Chips that are held out, some at a time, each after how many times they are enlarged."""
        for factor in np.unique(self.factors[self.held_out]):
            chips = self.held_out[self.factors[self.held_out] == factor]
            size = max(1, _EVALUATED_AT_ONCE // int(self.samples.size * factor) ** 2)
            yield from ((int(factor), chips[i : i + size]) for i in range(0, len(chips), size))

    @cached_property
    def chances(self) -> Tensor:
        """How likely each training chip is drawn."""
        return torch.from_numpy(self.samples.weights[self.train])

    @cached_property
    def class_weights(self) -> Tensor:
        """Of each class in the loss, float32 (classes,), of mean 1 over those that occur."""
        counts = self.samples.counts(self.train, len(self.classes)).astype(np.float64)
        seen = counts > 0
        weights = np.where(seen, np.maximum(counts, 1) ** -self.recipe.loop.balance, 0)
        return torch.from_numpy(weights / max(weights[seen].mean(), 1e-12) if seen.any() else weights).float()


def learn(
    task: Task, network: nn.Module, folder: Path, device: torch.device, rank: int = 0, world: int = 1
) -> Iterator[Step]:
    """Train a network; at the end its averaged weights, or the best of them, are in the checkpoint in `folder`.

    Every step draws from its own random numbers, which follow from the seed and the step's number. So a run that was
    stopped, and goes on from its checkpoint, ends with the same weights.

    Raises:
        TrainingError: the loss is no number any more, or the checkpoint is that of another network.
        OutputError: a checkpoint cannot be written.
    """
    loop = task.recipe.loop
    network = network.to(device).to(memory_format=torch.channels_last).train()
    if task.recipe.network.freeze_encoder:
        freeze(network.encoder)  # type: ignore[arg-type]
    for teacher, _ in task.teachers:
        teacher.to(device)
    average = AveragedModel(network, multi_avg_fn=_averaging(loop.average), use_buffers=True)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=loop.rate, weight_decay=loop.decay)
    criterion = Criterion(task, device)
    checkpoint = Checkpoint(folder, {"network": network, "average": average, "optimizer": optimizer})
    step, best = checkpoint.load(device)
    together = DistributedDataParallel(network) if world > 1 else network
    half = _in_bf16(loop, device)
    began = saved = time.monotonic()
    while step < loop.steps and not _patience_is_over(loop, step, best):
        reflectance, valid, labels = _batch(task, step, device, rank, world)
        opinion = _opinion(task, reflectance, valid, half)
        rate = loop.rate * warm_cosine(step, loop.steps, loop.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate

        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = together(task.view(reflectance, valid))
        loss = criterion(logits.float(), labels, valid, opinion)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, loop.clip)
        optimizer.step()
        average.update_parameters(network)

        step += 1
        reached = loss.item()
        done = Step(step, reached if _teaches(labels, valid, opinion) else None, rate)
        if not math.isfinite(reached):
            raise TrainingError(
                f"the loss became {reached} at step {step}: training diverged; lower the rate ({loop.rate:g})"
            )
        looked = step == loop.steps or step % loop.between == 0
        if looked and rank == 0:
            if len(task.held_out):
                done.counts = score(task, average.module, device)
            best = _better(best, done, average.module, loop)
        if rank == 0 and (looked or time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS):
            checkpoint.note(done if looked else None, time.monotonic() - began)
            checkpoint.save(step, best)
            saved = time.monotonic()
        if looked:
            best = _shared(best, world, device)
        yield done


def score(task: Task, network: nn.Module, device: torch.device) -> np.ndarray:
    """The confusion matrix of a network on the held-out chips, whole, as they are."""
    counts = np.zeros((len(task.classes),) * 2, np.int64)
    for _, logits, labels in held_out_logits(task, network, device):
        counts += confusion(labels, logits.argmax(axis=1) + 1, len(task.classes))
    return counts


def held_out_logits(
    task: Task, network: nn.Module, device: torch.device
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Held-out chips (N,), logits float32 (N, classes, S, S), and labels (N, S, S), 0 where they are not valid."""
    was = network.training
    network.eval()
    beyond = -task.samples.size % task.stride
    for factor, chips in task.held_out_batches():
        reflectance, valid, labels = task.take(chips, device)
        with torch.inference_mode():
            x = nn.functional.pad(task.view(reflectance, valid), (0, beyond, 0, beyond))
            logits = (Enlarging(network, factor) if factor > 1 else network)(x)
            logits = logits[..., : task.samples.size, : task.samples.size]
        yield chips, logits.float().cpu().numpy(), (labels * valid).cpu().numpy()
    network.train(was)


class Criterion:
    """The loss: class-balanced cross-entropy and Dice on the labels, and distance from the teachers."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self._loop = task.recipe.loop
        self._trust = task.recipe.teacher.weight if task.recipe.teacher else 0.0
        self._weights = task.class_weights.to(device)
        self._dice = DiceLoss("multiclass", from_logits=True, ignore_index=-1)

    def __call__(self, logits: Tensor, labels: Tensor, valid: Tensor, opinion: Tensor | None) -> Tensor:
        """The loss of logits (N, classes, H, W), for labels int64 (N, H, W), 0 = ignore, and valid bool (N, H, W).

        `opinion` is what teachers think, probabilities (N, classes, H, W), or None.
        """
        loss = self._of_labels(logits, labels)
        if opinion is None:
            return loss
        apart = -(opinion * logits.log_softmax(dim=1)).sum(dim=1)
        return (1 - self._trust) * loss + self._trust * (apart * valid).sum() / valid.sum().clamp(min=1)

    def _of_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        target, known = labels - 1, labels > 0
        total = nn.functional.cross_entropy(
            logits, target, self._weights, ignore_index=-1, label_smoothing=self._loop.smoothing, reduction="sum"
        )
        loss = total / self._weights[target[known]].sum().clamp(min=1e-6)
        return loss + self._loop.dice * self._dice(logits, target) if self._loop.dice and known.any() else loss


def warm_cosine(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at a step: up linearly, then down along half a cosine."""
    return min((step + 1) / max(warmup * steps, 1), 0.5 + 0.5 * math.cos(math.pi * step / steps))


def _in_bf16(loop: Loop, device: torch.device) -> bool:
    """Whether to learn in bf16: as the recipe says, else where the device computes in it."""
    if loop.precision != "auto":
        return loop.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _random(*numbers: int) -> Generator:
    """Random numbers that follow from some numbers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.manual_seed(seed)  # for layers that are random themselves, such as dropout
    return Generator().manual_seed(seed)


def _batch(task: Task, step: int, device: torch.device, rank: int, world: int) -> Chips:
    """Draw the chips of a step, alike in all processes, and vary those that are for one of them."""
    loop = task.recipe.loop
    rng = _random(0, loop.seed, step)
    drawn = torch.multinomial(task.chances, loop.batch, replacement=True, generator=rng)
    chips = task.train[drawn.numpy()[rank::world]]
    return task.augment(task.take(chips, device), task.gsd[chips], _random(1, loop.seed, step, rank))


def _opinion(task: Task, reflectance: Tensor, valid: Tensor, half: bool) -> Tensor | None:
    """What the teachers think of a batch: the mean of their probabilities, float32 (N, classes, S, S)."""
    if not task.teachers:
        return None
    with torch.no_grad(), torch.autocast(reflectance.device.type, torch.bfloat16, enabled=half):
        opinions = [net(view(reflectance, valid)).float().softmax(dim=1) for net, view in task.teachers]
    return torch.stack(opinions).mean(dim=0)


def _teaches(labels: Tensor, valid: Tensor, opinion: Tensor | None) -> bool:
    """Whether there is anything to learn from a batch, whose loss of zero would otherwise look like a perfect one."""
    return bool((labels > 0).any()) or (opinion is not None and bool(valid.any()))


def _averaging(most: float) -> Any:
    """An exponential moving average that begins quickly, so that the first, random weights are soon forgotten."""

    def update(averages: list[Tensor], currents: list[Tensor], n: Tensor | int) -> None:
        kept = min(most, (1 + int(n)) / (10 + int(n)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, 1 - kept)
        else:
            for mean, current in zip(averages, currents, strict=True):
                mean.copy_(current)

    return update


def _better(best: Best, done: Step, network: nn.Module, loop: Loop) -> Best:
    """The best so far: by macro-F1 where that decides when to stop, else the last."""
    reached = macro_f1(done.counts) if done.counts is not None else 0.0
    if loop.patience and done.counts is not None and reached <= best.macro_f1:
        return best
    return Best(reached, done.number, {k: v.detach().cpu().clone() for k, v in network.state_dict().items()})


def _patience_is_over(loop: Loop, step: int, best: Best) -> bool:
    return bool(loop.patience) and best.step > 0 and step - best.step >= loop.patience * loop.between


def _shared(best: Best, world: int, device: torch.device) -> Best:
    """Let all processes know which step was the best."""
    if world == 1:
        return best
    told = torch.tensor([best.step], device=device)
    dist.broadcast(told, 0)
    return best if dist.get_rank() == 0 else Best(best.macro_f1, int(told))
