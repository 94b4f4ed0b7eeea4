"""The model card: what a model is, in Markdown, for people."""

from pathlib import Path

from landcover.errors import counted
from landcover.recipes import Recipe
from landcover.specs import ModelSpec


def write_card(
    folder: Path,
    spec: ModelSpec,
    recipe: Recipe,
    steps: int,
    temperature: float,
    calibration: tuple[float, float] | None,
) -> None:
    """Write `README.md` into a model folder; `steps` are those that were done."""
    gsd = "any resolution" if spec.gsd is None else f"{spec.gsd[0]:g} to {spec.gsd[1]:g} m per pixel"
    parts = [
        f"# {spec.name}",
        spec.description or "No description was given.",
        f"Bands: {', '.join(spec.bands)}, as reflectance. Classes: {', '.join(spec.legend.names)}. Meant for {gsd}. "
        f"Licence: {spec.licence}.",
        "## What it learned from",
        spec.training,
        f"The recipe is `recipe.toml` beside this file; {counted(steps, 'step')} of "
        f"{counted(recipe.loop.batch, 'chip')}, seed {recipe.loop.seed}. `curves.csv` shows how it went.",
        "The weights are stored in 8 bits, and were measured so." if recipe.store == "int8" else "",
        "## What it was measured on",
        _accuracy(spec),
        _calibration(temperature, calibration),
        "## Where it fails" if recipe.failures else "",
        recipe.failures.strip(),
        "## What it was never shown",
        recipe.unseen.strip(),
    ]
    (folder / "README.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _accuracy(spec: ModelSpec) -> str:
    """A table of all figures."""
    if not spec.accuracy:
        return "Nothing was held out, and no test scene was given: its accuracy is unknown."
    columns = list(dict.fromkeys(k for row in spec.accuracy.values() for k in row))
    lines = [
        "| scene | " + " | ".join(c.replace("f1_", "F1 ").replace("_", " ") for c in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for title, row in spec.accuracy.items():
        cells = (f"{row[c]:,}" if c == "pixels" else f"{row[c]:.3f}" if c in row else "" for c in columns)
        cell = " ".join(title.split()).replace("|", "\\|")
        lines.append(f"| {cell} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _calibration(temperature: float, calibration: tuple[float, float] | None) -> str:
    if calibration is None:
        return "" if temperature == 1 else f"Scores are softened by a temperature of {temperature:g}."
    before, after = calibration
    return (
        f"Confidences: the expected calibration error on the places held out is {after:.3f}, after softening by a "
        f"temperature of {temperature:g} that was found there; without it, {before:.3f}."
    )
