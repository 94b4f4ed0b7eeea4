"""Looking around: what a scene holds, what a model would see of it, and whether this machine is ready."""

import os
import platform
import tempfile
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from landcover import __version__
from landcover.bands import Choice, with_scaling
from landcover.classmap import open_raster
from landcover.engines import choose_engine, cuda_devices
from landcover.errors import LandcoverError, SceneError
from landcover.grid import Box
from landcover.ground import ground_resolution
from landcover.models import DEFAULT_MODEL, Model, init_model, load_model
from landcover.prediction import predict
from landcover.processors import own_threads
from landcover.products import BandSource, read_product
from landcover.scene import Scene, without_place
from landcover.selection import select_model

_PACKAGES = (
    "numpy",
    "rasterio",
    "shapely",
    "geopandas",
    "pyogrio",
    "torch",
    "segmentation-models-pytorch",
    "openvino",
    "dask",
)
_DRIVERS = ("GTiff", "COG", "JP2OpenJPEG", "HDF5", "netCDF", "Zarr", "VRT")
_SAMPLE_SIDE = 256


def inspect_scene(source: str, model: str | None, choice: Choice) -> dict[str, Any]:
    """Tell what a scene holds and what a model would see of it, as plain values.

    Raises:
        SceneError: the scene cannot be opened.
    """
    product = read_product(source)
    with ExitStack() as stack:
        paths = dict.fromkeys(band.path for band in product.bands)
        files = {path: stack.enter_context(open_raster(path, SceneError)) for path in paths}
        finest = min(files.values(), key=lambda file: abs(file.transform.determinant))
        gsd = ground_resolution(finest.transform, finest.crs, finest.height, finest.width)
        lacking = without_place(source, finest)
        facts = {
            "scene": source,
            "size": f"{finest.height} rows × {finest.width} columns",
            "crs": finest.crs.to_string() if finest.crs else "none",
            "pixel": f"{gsd:.4g} m on the ground" if gsd else "of unknown size on the ground",
            "sensor": product.sensor or "not told by the scene",
            **({"lacks": lacking} if lacking else {}),
            "bands": [
                {"band": number, **_stored_band(band, said, files[band.path])}
                for number, (band, said) in enumerate(zip(product.bands, with_scaling(product.bands), strict=True), 1)
            ],
        }
    return {**facts, "model": _seen_by(source, model, choice)}


def examine_machine() -> dict[str, Any]:
    """Tell versions, drivers, devices and memory, and whether a small prediction comes out right."""
    with rasterio.Env() as env:
        drivers = env.drivers()
    return {
        "landcover": __version__,
        "versions": {"python": platform.python_version(), "GDAL": rasterio.__gdal_version__}
        | {name: _version(name) for name in _PACKAGES},
        "GDAL drivers": {name: "yes" if name in drivers else "MISSING" for name in _DRIVERS},
        "devices": {
            "processors": f"{own_threads()} of {os.cpu_count()}",
            "CUDA": _cuda(),
            "predict takes": _engine(),
        },
        "memory": _memory(),
        "self-test": _self_test(),
    }


def _stored_band(band: BandSource, said: BandSource, file: rasterio.DatasetReader) -> dict[str, Any]:
    gsd = ground_resolution(file.transform, file.crs, file.height, file.width)
    if band.index > file.count:
        raise SceneError(f"{band.path} has no band {band.index}, though the product lists it")
    declared = file.nodatavals[band.index - 1]
    return {
        "label": band.label or None,
        "common_name": band.common_name,
        "dtype": file.dtypes[band.index - 1],
        "nodata": declared if declared is not None else band.nodata,
        "gsd": gsd and round(gsd, 3),
        "scale": said.scale,
        "offset": said.offset,
    }


def _seen_by(source: str, name: str | None, choice: Choice) -> dict[str, Any]:
    """The bands a model would take and their reflectance in the middle of the scene, or why it cannot."""
    wanted = load_model(name or DEFAULT_MODEL).spec
    try:
        model, scene, why = select_model(name, source, choice, allow_no_crs=True)
        dn, valid = _sample(scene)
    except LandcoverError as e:
        return {"name": wanted.name, "bands": dict.fromkeys(wanted.bands, ""), "problem": str(e)}
    return {
        "name": model.spec.name,
        **({"why": why} if why else {}),
        "bands": {b.name: str(b) for b in scene.bands},
        "sample": f"{dn.shape[1]} × {dn.shape[2]} pixels in the middle",
        "valid_percent": round(100 * float(valid.mean()), 2),
        "sees": {
            b.name: _percentiles(pixels[valid] * b.scale + b.offset) for b, pixels in zip(scene.bands, dn, strict=True)
        }
        if valid.any()
        else {},
    }


def _sample(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a scene."""
    height, width = min(scene.height, _SAMPLE_SIDE), min(scene.width, _SAMPLE_SIDE)
    row, col = (scene.height - height) // 2, (scene.width - width) // 2
    with scene.open(width) as reader:
        return reader.read(Box(row, row + height, col, col + width))


def _percentiles(values: np.ndarray) -> dict[str, float]:
    return {f"p{q}": round(float(v), 4) for q, v in zip((2, 50, 98), np.percentile(values, (2, 50, 98)), strict=True)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    if not cuda_devices():
        return "none"
    import torch

    return ", ".join(torch.cuda.get_device_name(i) for i in range(cuda_devices()))


def _engine() -> str:
    try:
        return str(choose_engine())
    except Exception as e:  # noqa: BLE001 - a broken package is what is looked for
        return f"none: {type(e).__name__}: {e}"


def _memory() -> str:
    try:
        free, page = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, AttributeError, OSError):
        return "unknown on this system"
    return f"{free * page / 1e9:.1f} GB free"


def _self_test() -> str:
    """Map a small made-up scene with a network of one pixel, and compare with the direct computation."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pixels = np.random.default_rng(0).integers(1, 3000, (2, 100, 130)).astype(np.uint16)
        profile = {"driver": "GTiff", "dtype": "uint16", "count": 2, "height": 100, "width": 130}
        transform = rasterio.Affine(10, 0, 500000, 0, -10, 5000000)
        with rasterio.open(place / "scene.tif", "w", crs="EPSG:32633", transform=transform, **profile) as file:
            file.write(pixels)
        try:
            model = init_model(place / "model", architecture="pointwise", bands=("red", "nir"), classes=("a", "b", "c"))
            predict(
                place / "scene.tif",
                place / "map.tif",
                model=model,
                bands={"red": "1", "nir": "2"},
                scale=1e-4,
                tile_size=64,
                overlap=16,
                allow_untrained=True,
            )
            with rasterio.open(place / "map.tif") as file:
                found = file.read(1)
        except Exception as e:  # noqa: BLE001 - likewise
            return f"failed: {type(e).__name__}: {e}"
        return (
            "passed" if (found == _directly(model, pixels)).all() else "failed: the map differs from what it should be"
        )


def _directly(model: Model, pixels: np.ndarray) -> np.ndarray:
    """The class ids of a pointwise model, computed without windows."""
    weight = model.network.weight.numpy()[:, :, 0, 0]  # type: ignore[operator]
    bias = model.network.bias.numpy()  # type: ignore[operator]
    stats = model.spec.stats
    means = np.array([s.mean for s in stats])[:, None, None]
    stddevs = np.array([s.stddev for s in stats])[:, None, None]
    scores = np.einsum("cb,bhw->chw", weight, (pixels * 1e-4 - means) / stddevs) + bias[:, None, None]
    return scores.argmax(axis=0).astype(np.uint8) + 1
