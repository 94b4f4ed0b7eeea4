"""Label a scene by what several models agree on, to train another one on it.

    python benchmarks/pseudo_labels.py scene.tif model-1 model-2 --sensor sentinel2-l1c --out labels.tif

A pixel gets the class with the highest mean score, or 0 (ignore) where that is below `--least`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio

import landcover
from landcover.classmap import SCORE_NODATA, SCORE_SCALE


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("scene")
    p.add_argument("models", nargs="+")
    p.add_argument("--sensor")
    p.add_argument("--offset", type=float)
    p.add_argument("--least", type=float, default=0.7, help="mean score below which a pixel is ignored")
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out, scores = Path(folder) / "map.tif", Path(folder) / "scores.tif"
        total: np.ndarray | float = 0.0
        for model in a.models:
            landcover.predict(
                a.scene, out, model=model, sensor=a.sensor, offset=a.offset, scores=scores, overwrite=True
            )
            with rasterio.open(scores) as r:
                found, profile = r.read(), r.profile
            total = total + np.where(found == SCORE_NODATA, 0, found * SCORE_SCALE)
    mean = np.asarray(total) / len(a.models)
    labels = np.where(mean.max(axis=0) >= a.least, mean.argmax(axis=0) + 1, 0).astype(np.uint8)
    profile.update(count=1, dtype="uint8", nodata=0, predictor=2, compress="deflate", driver="GTiff")
    with rasterio.open(a.out, "w", **profile) as w:
        w.write(labels, 1)
    print(f"{np.count_nonzero(labels) / labels.size:.0%} of {a.scene} is labelled in {a.out}")


if __name__ == "__main__":
    main()
