"""Measure what the U-Net's skip connections are worth: the same training with and without them.

    python benchmarks/skip_connections.py

The classic U-Net is trained on the same chips in the same order, from the same seeds, and scored on the held-out
places: F1 by class over all pixels, and over the pixels within two pixels of a border between classes. About ten
minutes for each pair on two cores.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812, torch's own name for it
from packs import (
    BANDS,
    CLASSES,
    PACK,
    PLAIN,
    Pack,
    confusion,
    f1_scores,
    load_pack,
    overall_accuracy,
    pack_scaling,
    predict_chips,
    split_by_group,
)
from torch import Tensor, nn
from train_embedded import Recipe, fit

from landcover.network import UNet
from landcover.scaling import Scaling

REACH = 2
"""A pixel this near to another class, in pixels, counts as a border pixel."""


def main() -> None:
    a = _arguments()
    torch.set_num_threads(a.threads)
    train, held_out = split_by_group(load_pack(a.pack))
    scaling = pack_scaling(train)
    print(
        f"{len(train)} chips to train on, {len(held_out)} held out, width {a.width}, depth {a.depth}, {a.steps} steps\n"
    )
    rows = {}
    for seed in a.seeds:
        for skips in (True, False):
            start = time.monotonic()
            network = train_unet(train, scaling, skips, seed, a)
            minutes = (time.monotonic() - start) / 60
            rows[f"{'with' if skips else 'without'} skips, seed {seed} ({minutes:.1f} min)"] = score(
                network, held_out, scaling
            )
    print_table(rows)


def train_unet(train: Pack, scaling: Scaling, skips: bool, seed: int, a: argparse.Namespace) -> nn.Module:
    """Train the classic U-Net by the recipe of the embedded model, with flips and turns only.

    The weights are not averaged: in a run this short from random weights, the averaged statistics of the batch
    normalisation do not fit the averaged weights, and a network without skips then calls every pixel forest.
    """
    torch.manual_seed(seed)
    network = UNet(len(BANDS), len(CLASSES), a.width, a.depth, skips)
    recipe = Recipe(steps=a.steps, batch=a.batch, ema=0.0, seed=seed)
    return fit(network, train, scaling, PLAIN, recipe)


def score(network: nn.Module, pack: Pack, scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
    """Confusion matrices of all labelled pixels and of those at the borders of classes."""
    predicted, labels = predict_chips(network, pack, scaling), pack.labels * pack.valid
    return confusion(labels, predicted), confusion(labels * near_border(labels, REACH), predicted)


def near_border(labels: Tensor, reach: int) -> Tensor:
    """Where another class lies within `reach` pixels, bool (N, H, W); label 0 is no class."""
    present = torch.stack([labels == c for c in range(1, len(CLASSES) + 1)], 1).float()
    near = F.max_pool2d(present, 2 * reach + 1, stride=1, padding=reach)
    return near.sum(1) > 1


def print_table(rows: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Print overall accuracy, macro-F1 and F1 by class as Markdown, once for each set of pixels."""
    for which, title in enumerate(("all labelled pixels", f"pixels within {REACH} of a class border")):
        columns = ("accuracy", "macro-F1", *CLASSES)
        print(f"| {title} |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
        for name, counts in rows.items():
            f1 = f1_scores(counts[which])
            values = (overall_accuracy(counts[which]), np.nanmean(f1), *f1)
            print(f"| {name} |", " | ".join(f"{v:.3f}".removeprefix("0") for v in values), "|")
        print()


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pack", type=Path, default=PACK, help="the training pack, hls_worldcover.npz")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--width", type=int, default=16)
    p.add_argument("--depth", type=int, default=4)
    p.add_argument("--threads", type=int, default=2)
    return p.parse_args()


if __name__ == "__main__":
    main()
