"""Refine the embedded model with twenty polygons on one sample scene, and score both maps on the others.

    python benchmarks/refine.py [--teacher 0.1] [--picture docs/images/refined.webp]

The labels of the Landsat scene of Raleigh are 29 places. Twenty are learned from, five of each class where there are so
many; the others are held back. Everything runs through the command line, as a user would.
"""

import argparse
import tempfile
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from measure import ROOT, run
from PIL import Image
from rasterio.features import rasterize

from landcover.accuracy import confusion, figures
from landcover.specs import load_legend

SAMPLES = ROOT / "sample_tiles"
SCENE, LABELS = SAMPLES / "landsat7_raleigh.tif", SAMPLES / "landsat7_labels.tif"
RECIPE = """name = "raleigh"

[[sources]]
kind = "scene"
scene = "{scene}"
labels = "learned.gpkg"
column = "class_name"
"""
TEACHER = """
[teacher]
models = ["landcover-6band"]
weight = {weight}
"""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--polygons", type=int, default=20)
    p.add_argument("--teacher", type=float, help="learn the embedded model's opinion too, with this weight")
    p.add_argument("--picture", type=Path, help="draw the scene and both maps here")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("vectorize", LABELS, "--legend", "default", "-o", folder / "places.gpkg")
        places = geopandas.read_file(folder / "places.gpkg", layer="landcover")
        learned = choose(places, a.polygons)
        places[learned].to_file(folder / "learned.gpkg")
        teacher = TEACHER.format(weight=a.teacher) if a.teacher else ""
        (folder / "recipe.toml").write_text(RECIPE.format(scene=SCENE) + teacher)
        taken = run("train", folder / "recipe.toml", "--init", "landcover-6band", "-o", folder / "raleigh")
        print(f"{learned.sum()} polygons, trained in {taken.wall:.0f} s")
        print("| map | pixels | accuracy | macro-F1 | forest | water | urban | other |\n|---|" + "---:|" * 7)
        for title, model in (("embedded model", "landcover-6band"), ("refined", folder / "raleigh")):
            out = folder / f"{title}.tif"
            run("predict", SCENE, "-m", model, "-o", out)
            print(f"| {title} |", " | ".join(score(out, places[~learned])), "|")
        if a.picture:
            draw(folder, a.picture)


def choose(places: geopandas.GeoDataFrame, count: int) -> np.ndarray:
    """Which polygons to learn from, bool: in turn one of each class, every other one in the order of the file."""
    order = {name: list(part.index[::2]) + list(part.index[1::2]) for name, part in places.groupby("class_name")}
    keep = {name: max(1, len(part) // 3) for name, part in order.items()}  # a third of each class is never learned from
    chosen: list[int] = []
    while len(chosen) < count and any(len(order[n]) > keep[n] for n in order):
        for name in order:
            if len(order[name]) > keep[name] and len(chosen) < count:
                chosen.append(order[name].pop(0))
    return np.isin(places.index, chosen)


def score(path: Path, places: geopandas.GeoDataFrame) -> list[str]:
    """The cells of a row of the table: a map against polygons."""
    with rasterio.open(path) as file:
        ids, transform = file.read(1), file.transform
    pairs = zip(places.geometry, places.class_id, strict=True)
    reference = rasterize(list(pairs), ids.shape, transform=transform, dtype="uint8")
    found = figures(confusion(reference, ids, 4), load_legend("default").names)
    return [str(found.pop("pixels")), *(f"{v:.3f}".removeprefix("0") for v in found.values())]


def draw(folder: Path, out: Path) -> None:
    """The scene, and the map before and after."""
    parts = []
    for title in ("embedded model", "refined"):
        picture = folder / f"{title}.png"
        run("preview", folder / f"{title}.tif", "--scene", SCENE, "-o", picture, "--size", "1200")
        parts.append(Image.open(picture).convert("RGB"))
    right = parts[1].crop((parts[1].width // 2, 0, parts[1].width, parts[1].height))
    whole = Image.new("RGB", (parts[0].width + right.width, parts[0].height), "white")
    whole.paste(parts[0], (0, 0))
    whole.paste(right, (parts[0].width, 0))
    whole.save(out)


if __name__ == "__main__":
    main()
