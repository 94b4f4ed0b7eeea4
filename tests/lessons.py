"""Small things to learn from: scenes whose classes can be told by their colour, and recipes for them."""

from pathlib import Path

import numpy as np
import rasterio

from tests.scenes import UTM, write_scene

LEGEND = """
name = "two"
classes = [{ id = 3, name = "bright", color = "#ff0000" }, { id = 7, name = "dark", color = "#0000ff" }]
"""

RECIPE = """
name = "lesson"
bands = ["red", "nir"]
legend = "two.toml"
chip = 32

[[sources]]
kind = "scene"
scene = "scene.tif"
labels = "{labels}"

[split]
by = "blocks"
block = 32
validation = 0.25

[network]
architecture = "unet"
hyperparameters = {{ width = 4, depth = 2 }}

[augmentation]
size = 32
haze = 0.02

[loop]
steps = {steps}
batch = 4
rate = 1e-2
evaluations = 4
precision = "f32"
"""


def write_lesson(folder: Path, side: int = 128, labels: str = "labels.tif", steps: int = 24) -> Path:
    """Write a scene of bright and dark patches, its labels (3 bright, 7 dark) and a recipe; returns the recipe."""
    bright = patches(side)
    noise = np.random.default_rng(1).integers(-200, 200, (2, side, side))
    pixels = (np.where(bright, 3000, 500) + noise).astype(np.uint16)
    write_scene(folder / "scene.tif", pixels)
    write_labels(folder / "labels.tif", np.where(bright, 3, 7).astype(np.uint8))
    (folder / "two.toml").write_text(LEGEND)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(labels=labels, steps=steps))
    return recipe


def patches(side: int) -> np.ndarray:
    """Bright patches of 8 × 8 pixels at random, bool (side, side)."""
    return np.kron(np.random.default_rng(0).random((side // 8, side // 8)) < 0.4, np.ones((8, 8))).astype(bool)


def write_labels(path: Path, labels: np.ndarray, transform=UTM, crs: str = "EPSG:32633") -> None:
    profile = {"driver": "GTiff", "count": 1, "dtype": labels.dtype, "height": labels.shape[0], "nodata": 0}
    with rasterio.open(path, "w", width=labels.shape[1], crs=crs, transform=transform, **profile) as file:
        file.write(labels, 1)


def change(recipe: Path, before: str, after: str) -> Path:
    """Replace a part of a recipe, which must be there."""
    text = recipe.read_text()
    assert before in text
    recipe.write_text(text.replace(before, after))
    return recipe
