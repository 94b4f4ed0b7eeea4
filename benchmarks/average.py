"""Average the weights of models that were refined one from another, and write the mean as a model.

    python benchmarks/average.py build/one build/refined --out build/mean --recipe configs/train/landcover-rgbn.toml

All weigh alike. The mean is scored on the tests of the recipe, as `landcover predict` maps them, and stored as it
says. The mean of networks that learned apart from each other is worth nothing; that of one and what was refined from
it is often better elsewhere than either.

References:
    Wortsman et al. (2022), Robust fine-tuning of zero-shot models, arXiv:2109.01903.
"""

import argparse
from pathlib import Path

import torch

from landcover.models import load_model, save_model
from landcover.recipes import read_recipe
from landcover.training.outcome import score_tests


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("models", nargs="+", help="names or folders; the first one's card is taken")
    p.add_argument("--out", type=Path, required=True, help="the model folder to write")
    p.add_argument("--recipe", type=Path, required=True, help="whose tests, and way to store weights, are taken")
    a = p.parse_args()
    models, recipe = [load_model(name) for name in a.models], read_recipe(a.recipe)
    states = [m.network.state_dict() for m in models]
    mean = {
        name: torch.stack([s[name].double() for s in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }
    spec = models[0].spec
    save_model(a.out, spec, mean, store=recipe.store)
    accuracy, safe = score_tests(a.out, spec, recipe)
    spec = spec.model_copy(update={"accuracy": accuracy, "bf16_safe": safe, "gsd": recipe.gsd})
    save_model(a.out, spec, mean, store=recipe.store)
    for title, found in accuracy.items():
        print(title, found)


if __name__ == "__main__":
    main()
