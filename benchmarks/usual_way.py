"""The usual way to map a scene, to compare with: rasterio, the same network in torch, MONAI's sliding window.

    python benchmarks/usual_way.py SCENE OUT.tif --tile 1440 --overlap 64

The whole scene is read into memory, scored by `monai.inferers.sliding_window_inference` in float32, with Gaussian
weights, in windows of the same size and overlap, and the map is written as a compressed GeoTIFF.
"""

import argparse
from pathlib import Path

import numpy as np
import rasterio
import torch
from monai.inferers import sliding_window_inference

from landcover.models import load_model
from landcover.scaling import make_scaling, scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tile", type=int, required=True)
    parser.add_argument("--overlap", type=int, required=True)
    args = parser.parse_args()
    model = load_model()
    with rasterio.open(args.scene) as file:
        dn, profile, valid = file.read(), file.profile, file.dataset_mask() > 0
        scales, offsets = file.scales, file.offsets
    stats = model.spec.stats
    scaling = make_scaling(scales, offsets, [s.mean for s in stats], [s.stddev for s in stats])
    bands = zip(dn, scaling.gain, scaling.bias, strict=True)
    image = torch.from_numpy(np.stack([scale(band, valid, gain, bias) for band, gain, bias in bands]))[None]
    del dn
    with torch.inference_mode():
        logits = sliding_window_inference(
            image,
            roi_size=(args.tile, args.tile),
            sw_batch_size=1,
            predictor=model.network,
            overlap=args.overlap / args.tile,
            mode="gaussian",
        )
    classes = (logits[0].argmax(dim=0).to(torch.uint8) + 1).numpy() * valid
    profile.update(count=1, dtype="uint8", nodata=0, compress="deflate", tiled=True, blockxsize=512, blockysize=512)
    with rasterio.open(args.out, "w", **profile) as file:
        file.write(classes, 1)


if __name__ == "__main__":
    main()
