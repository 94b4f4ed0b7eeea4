"""Score a model on every labelled scene, whole, and print a table.

    python benchmarks/evaluate.py landcover/embedded/landcover-6band

Amazon and Buffalo have hand-drawn polygons, the Spanish flood a hand-drawn water mask. `--agreement` adds the scenes
whose reference is itself a map, Google's Dynamic World: a score against it is agreement, not accuracy.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from packs import BANDS, CLASSES, DATA, DN_SCALE, confusion, f1_scores, overall_accuracy, to_network
from torch import Tensor, nn

from landcover.models import load_model
from landcover.scaling import Scaling, make_scaling

BAND_OF = {"B2": "blue", "B3": "green", "B4": "red", "B8": "nir", "B11": "swir16", "B12": "swir22"}
STRIDE = 32


@dataclass(frozen=True)
class Scene:
    """A scene with a reference.

    Attributes:
        title: what the table calls it.
        image, reference: paths in the data folder.
        band: of the reference, from 1.
        water_only: the reference says 1 = water, 0 = not, −1 = unknown.
    """

    title: str
    image: str
    reference: str
    band: int = 1
    water_only: bool = False


LABELLED = (
    Scene("Amazon, Sentinel-2 L2A", "s2_amazon/scene.tif", "s2_amazon/labels.tif"),
    Scene("Buffalo, Sentinel-2 L2A", "s2_buffalo/scene.tif", "s2_buffalo/labels.tif"),
    Scene(
        "Spain flood, Sentinel-2 L1C, water only",
        "s2_spain_flood/Spain_7370579_S2Hand.tif",
        "s2_spain_flood/Spain_7370579_LabelHand.tif",
        water_only=True,
    ),
)
AGREEMENT = (
    Scene(
        "Eastern Shore, L1C, Dynamic World",
        "s2_eastern_shore/scene.tif",
        "s2_eastern_shore/dynamic_world.tif",
        band=2,
    ),
    Scene(
        "Spain flood, L1C, Dynamic World",
        "s2_spain_flood/Spain_7370579_S2Hand.tif",
        "s2_spain_flood/Spain_7370579_S2Hand_dw_class.tif",
        band=2,
    ),
    Scene("Duebendorf, L2A, Dynamic World", "s2_duebendorf/scene.tif", "s2_duebendorf/dynamic_world.tif", band=2),
)


def evaluate_scenes(
    network: nn.Module, scaling: Scaling, data: Path, scenes: tuple[Scene, ...] = LABELLED
) -> dict[str, np.ndarray]:
    """The confusion matrix of each scene that is there, by its title."""
    network.eval()
    return {s.title: score_scene(network, scaling, s, data) for s in scenes if (data / s.image).is_file()}


def score_scene(network: nn.Module, scaling: Scaling, scene: Scene, data: Path) -> np.ndarray:
    """Map one scene whole; returns the confusion matrix, int64 (4, 4), or (2, 2), water first, if water only."""
    dn, valid = read_scene(data / scene.image)
    predicted = classify(network, to_network(dn[None], valid[None], scaling))[0]
    with rasterio.open(data / scene.reference) as r:
        reference = torch.from_numpy(r.read(scene.band).astype(np.int16))
    if not scene.water_only:
        return confusion(reference * valid, predicted)
    water = CLASSES.index("water") + 1
    counts = confusion((reference >= 0) * valid * (2 - reference), torch.where(predicted == water, 1, 2))
    return counts[:2, :2]


def read_scene(path: Path) -> tuple[Tensor, Tensor]:
    """Read the six bands of a scene by their names; returns dn int16 (6, H, W) and valid bool (H, W)."""
    with rasterio.open(path) as r:
        names = [BAND_OF.get((d or "").replace("B0", "B")) for d in r.descriptions]
        dn = r.read([names.index(b) + 1 for b in BANDS]).astype(np.int32)
        missing = 0 if r.nodata is None else r.nodata
    return torch.from_numpy(dn), torch.from_numpy((dn != missing).all(0))


@torch.inference_mode()
def classify(network: nn.Module, x: Tensor) -> Tensor:
    """The class 1 to 4 of each pixel, (N, H, W), of x (N, bands, H, W) mirrored at its far edges to the stride."""
    height, width = x.shape[-2:]
    far = (0, -width % STRIDE, 0, -height % STRIDE)
    padded = nn.functional.pad(x, far, mode="reflect")
    return network(padded)[..., :height, :width].argmax(1) + 1


def figures(scores: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Overall accuracy, macro-F1 and F1 of each class, to three digits, by scene."""
    out = {}
    for title, counts in scores.items():
        f1 = f1_scores(counts)
        row = {"pixels": int(counts.sum()), "overall_accuracy": overall_accuracy(counts)}
        if len(counts) == len(CLASSES):
            row |= {"macro_f1": np.nanmean(f1), **{f"f1_{c}": f for c, f in zip(CLASSES, f1, strict=True)}}
        else:
            row["f1_water"] = f1[0]
        out[title] = {k: round(float(v), 3) if k != "pixels" else v for k, v in row.items()}
    return out


def print_table(scores: dict[str, np.ndarray]) -> None:
    """Print the figures as a Markdown table."""
    columns = ("pixels", "overall_accuracy", "macro_f1", *(f"f1_{c}" for c in CLASSES))
    print("| scene | pixels | overall accuracy | macro-F1 |", " | ".join(f"F1 {c}" for c in CLASSES), "|")
    print("|---|" + "---:|" * len(columns))
    for title, row in figures(scores).items():
        print(f"| {title} |", " | ".join(_cell(row.get(c)) for c in columns), "|")


def _cell(value: float | None) -> str:
    if value is None or isinstance(value, int):
        return "" if value is None else str(value)
    return f"{value:.3f}".removeprefix("0")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="model folder, or the name of an embedded model")
    p.add_argument("--data", type=Path, default=DATA, help="folder of the labelled scenes")
    p.add_argument("--agreement", action="store_true", help="also score against Dynamic World")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model = load_model(a.model)
    if model.spec.bands != BANDS:
        raise SystemExit(f"these scenes are scored with the bands {', '.join(BANDS)}; the model wants others")
    means, stddevs = zip(*((s.mean, s.stddev) for s in model.spec.stats), strict=True)
    scaling = make_scaling(DN_SCALE, 0.0, means, stddevs)
    scores = evaluate_scenes(model.network, scaling, a.data, LABELLED + AGREEMENT * a.agreement)
    if not scores:
        raise SystemExit(f"no labelled scene in {a.data}; say where they are with --data FOLDER")
    print_table(scores)


if __name__ == "__main__":
    main()
