"""Class maps for the tests: an array in, a file as `landcover predict` writes it out."""

from pathlib import Path

import geopandas
import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

from landcover import provenance
from landcover.classmap import CONFIDENCE_NODATA, MAP_NODATA
from landcover.cog import Layer
from landcover.features import in_wkb
from landcover.journal import open_run
from landcover.outlines import Patches
from landcover.specs import Legend, load_legend

UTM = "EPSG:32633"
NORTH_UP = Affine(10, 0, 500_000, 0, -10, 5_000_000)
NAMES = np.array(["", "forest", "water", "urban", "other"])
"""Of the default legend's classes, by their ids."""


def write_map(
    path: Path,
    ids: np.ndarray,
    *,
    transform: Affine = NORTH_UP,
    crs: str | None = UTM,
    legend: Legend | None = None,
    tagged: bool = True,
) -> Path:
    """Write class ids, uint8 (rows, cols), as a class map; `tagged` False leaves its legend out of it."""
    legend = legend or load_legend("default")
    tags = provenance.tags(legend=legend.model_dump(mode="json")) if tagged else {}
    return _write(
        path, ids, transform, crs, nodata=MAP_NODATA, bands=("class",), legend=legend, tags=tags, overviews="mode"
    )


def write_confidence(path: Path, percent: np.ndarray, *, transform: Affine = NORTH_UP, crs: str | None = UTM) -> Path:
    """Write a confidence raster, uint8 (rows, cols) in percent."""
    return _write(path, percent, transform, crs, nodata=CONFIDENCE_NODATA, bands=("confidence",))


def _write(path: Path, values: np.ndarray, transform: Affine, crs: str | None, **layer) -> Path:
    height, width = values.shape
    place = CRS.from_user_input(crs) if crs else None
    with open_run({"map": Layer(path, height, width, transform, place, "uint8", **layer)}, overwrite=True) as run:
        run.write(0, 0, (height, width), {"map": values.astype("uint8")[None]})
    return path


def shapes_of(patches: Patches, transform: Affine) -> np.ndarray:
    """The polygons of patches, (n,)."""
    return shapely.from_wkb(in_wkb(patches, transform)[0].to_numpy(zero_copy_only=False))


def blotches(seed: int) -> np.ndarray:
    """Class ids 1 to 4 in patches, uint8 (120, 120); few are urban."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([1, 2, 3, 4], size=(20, 20), p=[0.5, 0.2, 0.04, 0.26])
    return np.kron(coarse, np.ones((6, 6))).astype(np.uint8)


def mistaken(truth: np.ndarray, seed: int, share: float = 0.15) -> np.ndarray:
    """The same map with some pixels wrong, water more often than others."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(truth.shape) < np.where(truth == 2, 2 * share, share)
    return np.where(wrong, rng.integers(1, 5, truth.shape), truth).astype(np.uint8)


def labelled(points: Path, truth: np.ndarray) -> geopandas.GeoDataFrame:
    """Points with the class that is really there."""
    table = geopandas.read_file(points)
    col, row = ~NORTH_UP @ (table.geometry.x.to_numpy(), table.geometry.y.to_numpy())
    table["reference"] = NAMES[truth[row.astype(int), col.astype(int)]]
    return table
