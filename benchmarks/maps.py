"""Draw the maps that the embedded models make of all scenes, for docs/maps.md.

    python benchmarks/maps.py [--only s2_amazon] [--out docs/images/maps]

Every map is made by `landcover predict` and drawn by `landcover preview`; the scene is shown beside it where its
licence lets it be. The chips of the training pack and of West Virginia are mapped one by one and set side by side.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from evaluate import classes_of
from measure import DATA, ROOT, run
from PIL import Image

from landcover.models import load_model
from landcover.specs import load_legend

SAMPLES = ROOT / "sample_tiles"
SIDE = 900
"""Pixels of the longest side of a picture of one map."""


@dataclass(frozen=True)
class Shown:
    """A scene to map: its file, what `landcover predict` is told of it, and whether it may be shown beside its map."""

    path: Path
    options: tuple[str, ...] = ()
    beside: bool = False


L2A = ("--sensor", "sentinel2-l2a", "--offset", "0")
L1C = ("--sensor", "sentinel2-l1c")
SCENES = {
    "s2_amazon": Shown(DATA / "s2_amazon/scene.tif", L2A),
    "s2_buffalo": Shown(DATA / "s2_buffalo/scene.tif", L2A),
    "s2_spain_flood": Shown(DATA / "s2_spain_flood/Spain_7370579_S2Hand.tif", L1C),
    "s2_duebendorf": Shown(DATA / "s2_duebendorf/scene.tif", L2A),
    "s2_eastern_shore": Shown(DATA / "s2_eastern_shore/scene.tif", L1C, beside=True),
    "naip_md_1m": Shown(DATA / "naip_md_1m/image.tif", ("--sensor", "naip", "-m", "landcover-aerial"), beside=True),
    "sample_town": Shown(SAMPLES / "s2_town.tif", beside=True),
    "sample_harbour": Shown(SAMPLES / "s2_bands", L1C, beside=True),
    "sample_raleigh": Shown(SAMPLES / "landsat7_raleigh.tif", beside=True),
    "rgb_amazon": Shown(DATA / "s2_amazon/scene.tif", (*L2A, "-m", "landcover-rgb")),
    "rgb_spain_flood": Shown(
        DATA / "s2_spain_flood/Spain_7370579_S2Hand.tif", (*L1C, "--offset", "0", "-m", "landcover-rgb")
    ),
    "rgb_town": Shown(SAMPLES / "s2_town.tif", ("-m", "landcover-rgb"), beside=True),
    "winter": Shown(ROOT / "build/winter/scene.tif", beside=True),
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "maps")
    p.add_argument("--only", choices=[*SCENES, "naip_wv_1m", "hls_worldcover"])
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for name, scene in SCENES.items():
        if a.only in (None, name):
            draw(scene, a.out / f"{name}.webp")
    if a.only in (None, "naip_wv_1m"):
        mosaic(aerial_chips(), 8, a.out / "naip_wv_1m.webp")
    if a.only in (None, "hls_worldcover"):
        mosaic(pack_chips(), 8, a.out / "hls_worldcover.webp")


def draw(scene: Shown, out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        made, picture = Path(name) / "map.tif", Path(name) / "map.png"
        run("predict", scene.path, *scene.options, "-o", made)
        beside = ("--scene", scene.path, "--size", 2 * SIDE) if scene.beside else ("--size", SIDE)
        run("preview", made, *beside, "-o", picture)
        Image.open(picture).convert("RGB").save(out, quality=80)


def aerial_chips() -> list[np.ndarray]:
    """Maps of the chips of West Virginia, the newer photograph."""
    model = load_model("landcover-aerial")
    found = []
    for path in sorted((DATA / "naip_wv_1m").glob("*.tif")):
        with rasterio.open(path) as file:
            reflectance = file.read([1, 2, 3, 4]).astype(np.float32) / 255
        found.append(classes_of(model, reflectance, np.ones(reflectance.shape[1:], bool)))
    return found


def pack_chips() -> list[np.ndarray]:
    """Maps of one chip of each place of the training pack."""
    model = load_model("landcover-6band").for_gsd(30)
    with np.load(DATA / "hls_worldcover.npz") as pack:
        images, clear, group = pack["images"], pack["clear"], pack["group"]
    chosen = [int(np.flatnonzero(group == g)[0]) for g in np.unique(group)]
    return [classes_of(model, images[i].astype(np.float32) * 1e-4, clear[i]) * clear[i] for i in chosen]


def mosaic(maps: list[np.ndarray], columns: int, out: Path) -> None:
    """Set maps of one size side by side, with white lines between them."""
    palette = np.array([(255, 255, 255), *(c.rgb for c in load_legend("default").classes)], np.uint8)
    tiles = [np.pad(palette[m], ((0, 2), (0, 2), (0, 0)), constant_values=255) for m in maps]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    picture = Image.fromarray(np.concatenate(rows))
    picture.thumbnail((1040, 1040))
    picture.save(out, quality=80)


if __name__ == "__main__":
    main()
