"""Train the embedded model of six bands, a U-Net on MobileNetV2, and write its model folder.

    python benchmarks/train_embedded.py --encoder-weights mobilenet_v2.pth --out landcover/embedded/landcover-6band

About nine minutes on two cores. `--hold-out` keeps a fifth of the places for agreement figures; without it the
model learns from every place. The foreign scenes that it is scored on at the end never take part in training.
Without `--encoder-weights`, a state dict of torchvision's MobileNetV2, it starts from random weights.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evaluate import evaluate_scenes, figures, print_table
from packs import (
    BANDS,
    CLASSES,
    DATA,
    PACK,
    Augmentation,
    Loss,
    Pack,
    band_stats,
    class_weights,
    load_pack,
    pack_scaling,
    score_chips,
    split_by_group,
    to_network,
    weighted_cross_entropy,
)
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from landcover.models import save_model
from landcover.network import build_network
from landcover.scaling import Scaling
from landcover.specs import BandStats, ModelSpec, load_legend

NAME = "landcover-6band"
ARCHITECTURE = "smp-unet"
HYPERPARAMETERS = {"encoder_name": "mobilenet_v2", "decoder_channels": [128, 64, 32, 16, 16]}
DESCRIPTION = (
    "Forest, water, urban and all other land from six bands of reflectance, at the top of the atmosphere or at "
    "the surface, at 10 to 30 m."
)
TRAINING = (
    "{chips} chips of 128 x 128 pixels from {places} places: NASA's Harmonized Landsat Sentinel-2 surface reflectance "
    "at 30 m (public domain), labelled with ESA WorldCover 2021 (CC BY 4.0; (c) ESA WorldCover project, contains "
    "modified Copernicus Sentinel data processed by the ESA WorldCover consortium). Water was used only where "
    "two sources agree. The encoder started from torchvision's MobileNetV2, trained on ImageNet (BSD-3-Clause). Chips "
    "were enlarged up to three times to look like 10 m, and haze was laid over half of them so that reflectance at the "
    "top of the atmosphere works too. No scene that it was scored on was trained on."
)


@dataclass(frozen=True)
class Recipe:
    """What can be varied between runs."""

    steps: int = 1500
    batch: int = 16
    rate: float = 1e-3
    decay: float = 0.02
    ema: float = 0.995
    balance: float = 0.6
    smoothing: float = 0.05
    seed: int = 0


def main() -> None:
    a = _arguments()
    torch.set_num_threads(a.threads)
    pack = load_pack(a.pack)
    train, held_out = split_by_group(pack) if a.hold_out else (pack, None)
    scaling = pack_scaling(pack)
    torch.manual_seed(a.seed)
    network = build_network(ARCHITECTURE, len(BANDS), len(CLASSES), HYPERPARAMETERS)
    if a.encoder_weights:
        load_encoder(network, a.encoder_weights)
    recipe = Recipe(steps=a.steps, batch=a.batch, balance=a.balance, seed=a.seed)
    network = fit(network, train, scaling, Augmentation(), recipe)
    network = network.half().float()  # score what is stored

    scores = evaluate_scenes(network, scaling, a.data)
    if held_out is not None:
        scores["pack, held-out places"] = score_chips(network, held_out, scaling)
    print_table(scores)
    save_model(a.out, make_spec(pack, train, figures(scores)), network.state_dict(), half=True)
    print(f"written to {a.out}")


def fit(network: nn.Module, train: Pack, scaling: Scaling, augment: Augmentation, recipe: Recipe) -> nn.Module:
    """Train a network; returns the exponential moving average of its weights."""
    rng = torch.Generator().manual_seed(recipe.seed)
    network = network.to(memory_format=torch.channels_last).train()
    loss = weighted_cross_entropy(class_weights(train, recipe.balance), recipe.smoothing)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: warm_cosine(i, recipe.steps))
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    start, total = time.monotonic(), 0.0
    for step in range(1, recipe.steps + 1):
        chips = torch.randint(len(train), (recipe.batch,), generator=rng).numpy()
        total += _step(network, augment(train[chips], rng), scaling, loss, optimizer)
        schedule.step()
        average.update_parameters(network)
        if step % 50 == 0:
            seconds = time.monotonic() - start
            print(f"step {step:5d}  loss {total / 50:.4f}  {seconds:6.0f} s", file=sys.stderr, flush=True)
            total = 0.0
    return average.module.eval()


def _step(
    network: nn.Module,
    batch: tuple[Tensor, Tensor, Tensor],
    scaling: Scaling,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
) -> float:
    dn, valid, labels = batch
    x = to_network(dn, valid, scaling).contiguous(memory_format=torch.channels_last)
    value = loss(network(x), labels)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return value.item()


def warm_cosine(step: int, steps: int, warm: float = 0.05) -> float:
    """The share of the learning rate at a step: up linearly, then down along half a cosine."""
    done = step / steps
    return min((step + 1) / (warm * steps), 0.5 + 0.5 * math.cos(math.pi * done))


def load_encoder(network: nn.Module, path: Path) -> None:
    """Start the encoder from torchvision's MobileNetV2, whose three input colours become six bands.

    Blue, green and red take their own filters; the other bands take the mean of the three, and all are halved so that
    six bands excite a filter about as much as three did.
    """
    weights = torch.load(path, map_location="cpu", weights_only=True)
    weights = {k: v for k, v in weights.items() if k.startswith("features.")}
    red_green_blue = weights["features.0.0.weight"]
    others = red_green_blue.mean(1, keepdim=True).expand(-1, len(BANDS) - 3, -1, -1)
    weights["features.0.0.weight"] = torch.cat([red_green_blue.flip(1), others], 1) / 2
    try:
        network.encoder.load_state_dict(weights)  # type: ignore[union-attr, operator]
    except RuntimeError as e:
        raise SystemExit(f"{path} is not the state dict of torchvision's MobileNetV2: {e}") from e


def make_spec(pack: Pack, train: Pack, accuracy: dict[str, dict[str, float]]) -> ModelSpec:
    """Describe the model for its card: scaled by the statistics of `pack`, trained on `train`."""
    stats = (BandStats(mean=float(m), stddev=float(s)) for m, s in np.stack(band_stats(pack), 1))
    return ModelSpec(
        name=NAME,
        description=DESCRIPTION,
        architecture=ARCHITECTURE,
        hyperparameters=HYPERPARAMETERS,
        bands=BANDS,
        stats=tuple(stats),
        legend=load_legend("default"),
        gsd=(10, 30),
        licence="Apache-2.0",
        training=TRAINING.format(chips=len(train), places=len(np.unique(train.groups))),
        accuracy=accuracy,
    )


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--pack", type=Path, default=PACK, help="the training pack, hls_worldcover.npz")
    p.add_argument("--data", type=Path, default=DATA, help="folder of the labelled scenes to score on")
    p.add_argument("--encoder-weights", type=Path, help="torchvision's mobilenet_v2-b0353104.pth")
    p.add_argument("--out", type=Path, required=True, help="model folder to write")
    p.add_argument("--hold-out", action="store_true", help="keep a fifth of the places for agreement figures")
    p.add_argument("--steps", type=int, default=Recipe.steps)
    p.add_argument("--batch", type=int, default=Recipe.batch)
    p.add_argument("--balance", type=float, default=Recipe.balance, help="0 = all pixels alike, 1 = all classes alike")
    p.add_argument("--seed", type=int, default=Recipe.seed)
    p.add_argument("--threads", type=int, default=2)
    return p.parse_args()


if __name__ == "__main__":
    main()
