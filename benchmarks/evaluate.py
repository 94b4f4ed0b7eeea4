"""Score models on every labelled scene, whole, and print a table for each.

    python benchmarks/evaluate.py landcover-6band my-model

Amazon and Buffalo have hand-drawn polygons, the Spanish flood a hand-drawn water mask, Maryland a map drawn at one
metre. Scenes of 10 m are also scored with air that imitates the top of the atmosphere laid over them, averaged to
30 m, and both. `--agreement` adds the scenes whose reference is itself a map, Google's Dynamic World; some models
learned from these scenes, with labels of other models. The aerial scene is one that its model learned from, but for a
fifth.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from measure import DATA, ROOT
from torch import nn

from landcover.accuracy import confusion, figures
from landcover.models import Model, load_model
from landcover.scaling import make_scaling

CLASSES = ("forest", "water", "urban", "other")
SENTINEL2 = {"B2": "blue", "B3": "green", "B4": "red", "B8": "nir", "B11": "swir16", "B12": "swir22"}
WAVELENGTHS = {"blue": 0.49, "green": 0.56, "red": 0.66, "nir": 0.85, "swir16": 1.61, "swir22": 2.20}
HAZE, STEEPNESS, GAIN = 0.08, 4.0, 0.95
"""Of the air: reflectance added at the blue band, how it falls with wavelength, and what is lost of the ground's."""


@dataclass(frozen=True)
class Scene:
    """A scene with a reference.

    Attributes:
        title: what the table calls it.
        image, reference: paths in the data folder, or whole ones.
        band: of the reference, from 1.
        scale: reflectance = number * scale; None for what the file says of each band.
        bands: common names in file order; empty where the file names them, or as Sentinel-2 does.
        water_only: the reference says 1 = water, 0 = not, −1 = unknown.
        gsd: metres per pixel.
        vary: score it through air and at 30 m too.
    """

    title: str
    image: str
    reference: str
    band: int = 1
    scale: float | None = 1e-4
    bands: tuple[str, ...] = ()
    water_only: bool = False
    gsd: float = 10.0
    vary: bool = False


LABELLED = (
    Scene("Amazon, L2A", "s2_amazon/scene.tif", "s2_amazon/labels.tif", vary=True),
    Scene("Buffalo, L2A", "s2_buffalo/scene.tif", "s2_buffalo/labels.tif", vary=True),
    Scene(
        "Spain flood, L1C, water",
        "s2_spain_flood/Spain_7370579_S2Hand.tif",
        "s2_spain_flood/Spain_7370579_LabelHand.tif",
        water_only=True,
    ),
    Scene(
        "Raleigh in March, Landsat 7",
        str(ROOT / "sample_tiles" / "landsat7_raleigh.tif"),
        str(ROOT / "sample_tiles" / "landsat7_labels.tif"),
        scale=None,
        gsd=28.5,
    ),
    Scene(
        "Brandenburg in February, L1C",
        str(ROOT / "build" / "winter" / "scene.tif"),
        str(ROOT / "build" / "winter" / "labels.tif"),
        scale=None,
    ),
)
AGREEMENT = (
    Scene("Eastern Shore, L1C, Dynamic World", "s2_eastern_shore/scene.tif", "s2_eastern_shore/dynamic_world.tif", 2),
    Scene("Duebendorf, L2A, Dynamic World", "s2_duebendorf/scene.tif", "s2_duebendorf/dynamic_world.tif", 2),
)
AERIAL = (
    Scene(
        "Maryland, NAIP 1 m (four fifths of it learned from)",
        "naip_md_1m/image.tif",
        "naip_md_1m/labels.tif",
        scale=1 / 255,
        bands=("red", "green", "blue", "nir"),
        gsd=1.0,
    ),
)

Pixels = tuple[np.ndarray, np.ndarray, np.ndarray]
"""reflectance float32 (bands, height, width), valid bool (height, width), reference 0 to 4 (height, width)."""


def evaluate(model: Model, data: Path, scenes: tuple[Scene, ...]) -> dict[str, dict[str, float]]:
    """Figures of a model on each scene that is there and that it has the bands for, by title."""
    found = {}
    for scene in scenes:
        if not (data / scene.image).is_file():
            continue
        for how, gsd, pixels in variants(read_scene(data, scene, model.spec.bands), model.spec.bands, scene):
            counts = score(model.for_gsd(gsd), pixels, water_only=scene.water_only)
            names = ("water", "not_water") if scene.water_only else CLASSES
            found[scene.title + how] = figures(counts, names)
    return found


def read_scene(data: Path, scene: Scene, bands: tuple[str, ...]) -> Pixels:
    with rasterio.open(data / scene.image) as r:
        names = scene.bands or [SENTINEL2.get((d or "").replace("B0", "B"), d) for d in r.descriptions]
        chosen = [list(names).index(b) + 1 for b in bands]
        dn = r.read(chosen).astype(np.float32)
        valid = (dn != (0 if r.nodata is None else r.nodata)).any(axis=0)
        scale, offset = scene.scale or _of_bands(r.scales, chosen), 0 if scene.scale else _of_bands(r.offsets, chosen)
    with rasterio.open(data / scene.reference) as r:
        reference = r.read(scene.band).astype(np.int16)
    if scene.water_only:  # 1 water, 2 not
        reference = np.where(reference >= 0, 2 - reference, 0)
    return dn * scale + offset, valid, reference * valid


def _of_bands(values: tuple[float, ...], chosen: list[int]) -> np.ndarray:
    return np.array([values[i - 1] for i in chosen], np.float32)[:, None, None]


def variants(pixels: Pixels, bands: tuple[str, ...], scene: Scene) -> Iterator[tuple[str, float, Pixels]]:
    """A scene as it is, and through air, averaged to a third, and both, with their metres per pixel."""
    yield "", scene.gsd, pixels
    if scene.vary:
        yield ", through air", scene.gsd, through_air(pixels, bands)
        yield ", at 30 m", 3 * scene.gsd, averaged(pixels)
        yield ", through air, at 30 m", 3 * scene.gsd, averaged(through_air(pixels, bands))


def through_air(pixels: Pixels, bands: tuple[str, ...]) -> Pixels:
    """The scene as it may look from the top of the atmosphere."""
    waves = np.array([WAVELENGTHS[b] for b in bands], np.float32)[:, None, None]
    haze = HAZE * (waves / WAVELENGTHS["blue"]) ** -STEEPNESS
    return pixels[0] * GAIN * (1 - haze) + haze, *pixels[1:]


def averaged(pixels: Pixels, factor: int = 3) -> Pixels:
    """The scene at a third of its resolution; a label is kept where more than half of the nine pixels have it."""
    reflectance, valid, reference = pixels
    height, width = (side // factor for side in valid.shape)

    def blocks(x: np.ndarray) -> np.ndarray:
        x = x[..., : height * factor, : width * factor]
        return x.reshape(*x.shape[:-2], height, factor, width, factor).swapaxes(-3, -2)

    labels = blocks(reference).reshape(height, width, -1)
    votes = np.stack([(labels == k).sum(axis=-1) for k in range(1, len(CLASSES) + 1)])
    majority = np.where(votes.max(axis=0) > factor * factor // 2, votes.argmax(axis=0) + 1, 0)
    return blocks(reflectance).mean(axis=(-2, -1)), blocks(valid).all(axis=(-2, -1)), majority


@torch.inference_mode()
def classes_of(model: Model, reflectance: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The class number of each pixel of a scene, whole, mirrored at its far edges to the network's stride; from 1."""
    stats = model.spec.stats
    scaling = make_scaling(1.0, 0.0, [s.mean for s in stats], [s.stddev for s in stats])
    x = torch.from_numpy(scaling(reflectance, valid))[None]
    height, width = valid.shape
    far = (0, -width % model.stride, 0, -height % model.stride)
    logits = model.network(nn.functional.pad(x, far, mode="reflect"))[0, :, :height, :width]
    return logits.argmax(dim=0).numpy() + 1


def score(model: Model, pixels: Pixels, *, water_only: bool = False) -> np.ndarray:
    """The confusion matrix of a model on a scene."""
    reflectance, valid, reference = pixels
    predicted = classes_of(model, reflectance, valid)
    if not water_only:
        return confusion(reference * valid, predicted, len(CLASSES))
    return confusion(reference, np.where(predicted == CLASSES.index("water") + 1, 1, 2), 2)


def print_table(found: dict[str, dict[str, float]]) -> None:
    """Print figures as a Markdown table."""
    columns = ("pixels", "overall_accuracy", "macro_f1", *(f"f1_{c}" for c in CLASSES))
    print("| scene | pixels | overall accuracy | macro-F1 |", " | ".join(f"F1 {c}" for c in CLASSES), "|")
    print("|---|" + "---:|" * len(columns))
    for title, row in found.items():
        cells = [_cell(c, row.get(c)) for c in columns]
        print(f"| {title} |", " | ".join(cells), "|")


def _cell(column: str, value: float | None) -> str:
    if value is None or column == "pixels":
        return "" if value is None else str(value)
    return f"{value:.3f}".removeprefix("0")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", help="model folders, or names of embedded models")
    p.add_argument("--data", type=Path, default=DATA, help="folder of the labelled scenes")
    p.add_argument("--agreement", action="store_true", help="also score against Dynamic World")
    p.add_argument("--json", type=Path, help="add all figures to this file, by model")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    everything = json.loads(a.json.read_text()) if a.json and a.json.is_file() else {}
    for name in a.models:
        model = load_model(name)
        aerial = model.spec.gsd is not None and model.spec.gsd[1] < 5
        scenes = AERIAL if aerial else LABELLED + AGREEMENT * a.agreement
        found = evaluate(model, a.data, scenes)
        if not found:
            raise SystemExit(f"no labelled scene in {a.data}; say where they are with --data FOLDER")
        print(f"\n{name}\n")
        print_table(found)
        everything[name] = found
    if a.json:
        a.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
