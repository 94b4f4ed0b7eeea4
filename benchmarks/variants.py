"""What parts of the recipe are worth: short trainings that differ in one thing each.

    python benchmarks/variants.py [NAME ...] [--steps 400] [--seed 0] [--threads 1]

All start from `configs/train/teachers.toml`, hold the same fifth of the places out, and are scored on them and on the
labelled scenes of `evaluate.py`. Without names, all variants are trained. A run this short ranks what learns quickly;
compare rows of one table only.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import evaluate
import torch
from measure import DATA, ROOT

from landcover.models import load_model
from landcover.training import plan_training, train

RECIPE = ROOT / "configs" / "train" / "teachers.toml"
MOBILENET = {"encoder_name": "mobilenet_v2", "decoder_channels": [128, 64, 32, 16, 16]}
IMAGENET = str(ROOT / "build" / "mobilenet_v2.pth")

Variant = dict[str, dict[str, Any]]
"""Keys that are set otherwise, by part of the recipe."""


def encoder(name: str) -> Variant:
    """An encoder with random weights."""
    return {"network": {"encoder_weights": None}, "network.hyperparameters": {"encoder_name": name}}


BASE: Variant = {
    "network": {"architecture": "smp-unet", "encoder_weights": IMAGENET},
    "network.hyperparameters": MOBILENET,
    "augmentation": {"turbid": 0.3, "mix": 0.3},
    "loop": {"balance": 0.5, "evaluations": 1},
}
VARIANTS: dict[str, Variant] = {
    "baseline": {},
    "random weights": encoder("mobilenet_v2"),
    "resnet18, random weights": encoder("resnet18"),
    "efficientnet-b0, random weights": encoder("efficientnet-b0"),
    "resnet34, random weights": encoder("resnet34"),
    "classic U-Net, width 16": {
        "network": {"architecture": "unet", "encoder_weights": None},
        "network.hyperparameters": {"encoder_name": None, "decoder_channels": None, "width": 16, "depth": 4},
    },
    "decoder from 64": {"network.hyperparameters": {"decoder_channels": [64, 48, 32, 16, 16]}},
    "no Dice": {"loop": {"dice": 0.0}},
    "balance 0": {"loop": {"balance": 0.0}},
    "balance 0.8": {"loop": {"balance": 0.8}},
    "no haze, gain or noise": {"augmentation": {"haze": 0.0, "gain": 0.0, "noise": 0.0}},
    "twice the haze and gain": {"augmentation": {"haze": 0.24, "gain": 0.2}},
    "no turbid water, no mixed places": {"augmentation": {"turbid": 0.0, "mix": 0.0}},
    "shown 10 to 30 m": {"augmentation": {"gsd": [10, 30]}},
    "bands lost": {"augmentation": {"drop": 0.3}},
    "no averaged weights": {"loop": {"average": 0.0}},
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", help="of variants: " + "; ".join(VARIANTS))
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    if unknown := set(a.names) - set(VARIANTS):
        p.error(f"there is no variant {min(unknown)!r}")
    torch.set_num_threads(a.threads)
    for i, name in enumerate(a.names or VARIANTS):
        cells = row(VARIANTS[name], a.steps, a.seed)
        if i == 0:
            print("| variant |", " | ".join(cells), "|\n|---|" + "---:|" * len(cells))
        print(f"| {name} |", " | ".join(cells.values()), "|", flush=True)


def row(variant: Variant, steps: int, seed: int) -> dict[str, str]:
    """Train one variant; the cells of its row, by what stands above them."""
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as name:
        recipe, out = Path(name) / "recipe.toml", Path(name) / "model"
        recipe.write_text(text(variant))
        began = time.monotonic()
        trained = train(plan_training(recipe, out, device="cpu", changes={"steps": steps, "seed": seed}))
        minutes = (time.monotonic() - began) / 60
        held_out = trained.results[0].accuracy["places held out"]
        found = evaluate.evaluate(load_model(out), DATA, evaluate.LABELLED)
    scores = {short(title): row["macro_f1"] for title, row in found.items()}
    figures = {"held-out places, macro-F1": held_out["macro_f1"], "urban": held_out["f1_urban"], **scores}
    cells = {title: f"{v:.3f}".removeprefix("0") for title, v in figures.items()}
    return {"minutes": f"{minutes:.1f}", **cells, "sum": f"{sum(scores.values()):.2f}"}


def text(variant: Variant) -> str:
    """The recipe of the teachers, with what the variant sets otherwise."""
    sources = RECIPE.read_text().split("[network]")[0]  # build/x is as deep as configs/train
    parts = []
    for part, usual in BASE.items():
        keys = {k: v for k, v in (usual | variant.get(part, {})).items() if v is not None}
        parts.append(f"[{part}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items()))
    return sources + "\n".join(parts)


def short(title: str) -> str:
    return title.replace(", L2A", "").replace(" flood, L1C, water", "")


if __name__ == "__main__":
    main()
