"""Small scenes and models with known answers, for the tests."""

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from landcover.models import Model, init_model

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
SCALE = 1e-4


def write_scene(
    path: Path,
    pixels: np.ndarray,
    *,
    names: tuple[str, ...] = ("red", "nir"),
    crs: str | None = "EPSG:32633",
    transform: Affine = UTM,
    nodata: float | None = None,
    scaled: bool = True,
    mask: np.ndarray | None = None,
    alpha: bool = False,
    **profile,
) -> Path:
    """Write pixels (bands, height, width) as a GeoTIFF whose bands are named and scaled to reflectance.

    Args:
        mask: bool (height, width), True = usable, stored as an internal mask.
        alpha: flag the last band so.
    """
    bands, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype} | profile
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", crs=crs, transform=transform, nodata=nodata, **profile) as file,
    ):
        if alpha:
            file.colorinterp = (*file.colorinterp[:-1], ColorInterp.alpha)
        file.write(pixels)
        for i, name in enumerate(names, 1):
            file.set_band_description(i, name)
        if scaled:
            file.scales, file.offsets = (SCALE,) * bands, (0.0,) * bands
        if mask is not None:
            file.write_mask(mask)
    return path


def digital_numbers(height: int, width: int, bands: int = 2, seed: int = 0) -> np.ndarray:
    """Random uint16 pixels between 1 and 5999."""
    return np.random.default_rng(seed).integers(1, 6000, (bands, height, width)).astype(np.uint16)


def pointwise_model(folder: Path) -> Model:
    """A model that looks at one pixel, so that its map is known; see `direct_map`."""
    return init_model(folder, architecture="pointwise", bands=("red", "nir"), classes=("a", "b", "c"), seed=1)


def direct_map(model: Model, pixels: np.ndarray, valid: np.ndarray, scale: float = SCALE) -> np.ndarray:
    """The map of a pointwise model, pixel by pixel in float64, without windows; uint8 (height, width)."""
    weight = model.network.weight.numpy()[:, :, 0, 0].astype(float)
    bias = model.network.bias.numpy().astype(float)
    mean, stddev = model.spec.stats[0].mean, model.spec.stats[0].stddev
    x = ((np.where(valid, pixels, 0) * scale - mean) / stddev).clip(-6, 6)
    scores = np.tensordot(weight, x, axes=1) + bias[:, None, None]
    return np.where(valid, scores.argmax(axis=0) + 1, 0).astype(np.uint8)


def read_map(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)
