"""Measure what the U-Net's skip connections are worth: the same training with and without them.

    python benchmarks/skip_connections.py

The classic U-Net is trained on the same chips in the same order, from the same seeds, and scored on the held-out
places: F1 by class over all pixels, and over the pixels within two pixels of a border between classes. About ten
minutes for each pair on two cores.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, torch's own name for it
from measure import ROOT, drain

from landcover.accuracy import confusion, f1_scores, macro_f1, overall_accuracy
from landcover.network import UNet
from landcover.recipes import Recipe, read_recipe
from landcover.specs import BandStats, ModelSpec, load_legend
from landcover.training.checkpoints import read_checkpoint
from landcover.training.learning import Task, View, held_out_logits, learn
from landcover.training.places import folds
from landcover.training.samples import Samples, gather
from landcover.training.sources import read_source

RECIPE = ROOT / "configs" / "train" / "skip-connections.toml"
REACH = 2
"""A pixel this near to another class, in pixels, counts as a border pixel."""

Counts = tuple[np.ndarray, np.ndarray]
"""Confusion matrices of all labelled pixels, and of those at the borders of classes."""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recipe", type=Path, default=RECIPE)
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    p.add_argument("--width", type=int, default=16)
    p.add_argument("--depth", type=int, default=4)
    a = p.parse_args()
    recipe, legend = read_recipe(a.recipe), load_legend("default")
    assert recipe.bands is not None
    rows: dict[str, Counts] = {}
    with tempfile.TemporaryDirectory() as folder:
        pieces = ((0, piece) for piece in read_source(recipe.sources[0], recipe.bands, legend, recipe.chip))
        samples = gather(pieces, Path(folder), recipe.bands, recipe.chip, [1.0])
        for seed in a.seeds:
            for skips in (True, False):
                start = time.monotonic()
                network = UNet(len(recipe.bands), len(legend.classes), a.width, a.depth, skips)
                counts = measure(recipe, samples, network, seed, 2**a.depth)
                minutes = (time.monotonic() - start) / 60
                rows[f"{'with' if skips else 'without'} skips, seed {seed} ({minutes:.1f} min)"] = counts
    print_table(rows, legend.names)


def measure(recipe: Recipe, samples: Samples, network: UNet, seed: int, stride: int) -> Counts:
    """Train a network by a recipe, with a fifth of the places held out, and score it there."""
    legend = load_legend("default")
    torch.manual_seed(seed)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    train, held_out = folds(samples, recipe.split, len(legend.classes), 5)[0]
    mean, stddev = (tuple(map(float, values)) for values in samples.band_stats(train))
    view = View(tuple(range(len(samples.bands))), mean, stddev)
    recipe = recipe.model_copy(update={"loop": recipe.loop.model_copy(update={"seed": seed})})
    stats = tuple(BandStats(mean=m, stddev=s) for m, s in zip(mean, stddev, strict=True))
    spec = ModelSpec(name="unet", architecture="unet", bands=samples.bands, stats=stats, legend=legend)
    task = Task(recipe, spec, samples, train, held_out, view, stride)
    with tempfile.TemporaryDirectory() as folder:
        drain(learn(task, network, Path(folder), torch.device("cpu")))
        network.load_state_dict(read_checkpoint(Path(folder))["best"]["weights"])
    n = len(legend.classes)
    everywhere, borders = np.zeros((n, n), np.int64), np.zeros((n, n), np.int64)
    for _, logits, labels in held_out_logits(task, network.eval(), torch.device("cpu")):
        predicted = logits.argmax(axis=1) + 1
        everywhere += confusion(labels, predicted, n)
        borders += confusion(labels * near_border(labels, n), predicted, n)
    return everywhere, borders


def near_border(labels: np.ndarray, classes: int) -> np.ndarray:
    """Where another class lies within REACH pixels, bool (N, H, W); label 0 is no class."""
    present = torch.from_numpy(np.stack([labels == c for c in range(1, classes + 1)], axis=1)).float()
    near = F.max_pool2d(present, 2 * REACH + 1, stride=1, padding=REACH)
    return (near.sum(1) > 1).numpy()


def print_table(rows: dict[str, Counts], classes: tuple[str, ...]) -> None:
    """Print overall accuracy, macro-F1 and F1 by class as Markdown, once for each set of pixels."""
    for which, title in enumerate(("all labelled pixels", f"pixels within {REACH} of a class border")):
        columns = ("accuracy", "macro-F1", *classes)
        print(f"| {title} |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
        for name, counts in rows.items():
            values = (overall_accuracy(counts[which]), macro_f1(counts[which]), *f1_scores(counts[which]))
            print(f"| {name} |", " | ".join(f"{v:.3f}".removeprefix("0") for v in values), "|")
        print()


if __name__ == "__main__":
    main()
