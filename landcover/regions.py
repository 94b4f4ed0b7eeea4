"""The part of a scene that is wanted: a bounding box or the polygons of an area of interest, as pixels."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.warp import transform_bounds
from shapely import STRtree
from shapely.geometry.base import BaseGeometry

from landcover.errors import ConfigError, SceneError
from landcover.grid import Box


@dataclass(frozen=True)
class Area:
    """Polygons in the scene's CRS.

    Attributes:
        polygons: their union is the area of interest.
        transform: of the scene.
    """

    polygons: tuple[BaseGeometry, ...]
    transform: Affine

    def mask(self, box: Box) -> np.ndarray:
        """Pixels of a box whose centre lies in the area; bool (rows, cols), True = inside."""
        near = self._tree.query(shapely.box(box.col0, box.row0, box.col1, box.row1))
        if not len(near):
            return np.zeros((box.height, box.width), bool)
        place = Affine.translation(box.col0, box.row0)
        polygons = self._tree.geometries[near]
        return rasterize(polygons, (box.height, box.width), transform=place, fill=0, dtype="uint8").view(bool)

    @cached_property
    def _tree(self) -> STRtree:
        """The polygons in pixels of the scene, from whose corner whole numbers are taken off exactly for any box."""
        to_pixels = ~self.transform

        def pixels(points: np.ndarray) -> np.ndarray:
            return np.stack(to_pixels @ (points[:, 0], points[:, 1]), axis=1)

        return STRtree([shapely.transform(polygon, pixels) for polygon in self.polygons])

    @cached_property
    def sha256(self) -> str:
        """What tells one area from another."""
        return sha256(b"".join(p.wkb for p in self.polygons)).hexdigest()


def parse_bbox(text: str) -> tuple[float, float, float, float]:
    """Read "min_x,min_y,max_x,max_y".

    Raises:
        ConfigError: it is not four numbers, or a minimum is not below its maximum.
    """
    try:
        min_x, min_y, max_x, max_y = (float(v) for v in text.replace(",", " ").split())
    except ValueError as e:
        raise ConfigError(f"--bbox '{text}' is not four numbers; write --bbox min_x,min_y,max_x,max_y") from e
    if not np.isfinite([min_x, min_y, max_x, max_y]).all():
        raise ConfigError(f"--bbox '{text}' is not four finite numbers; leave it out to map the whole scene")
    if not (min_x < max_x and min_y < max_y):
        raise ConfigError(f"--bbox '{text}' is empty: write the minimum before the maximum, min_x,min_y,max_x,max_y")
    return min_x, min_y, max_x, max_y


def box_of_bounds(
    bounds: tuple[float, float, float, float],
    bounds_crs: str | None,
    transform: Affine,
    crs: CRS | None,
    size: tuple[int, int],
) -> Box:
    """The pixels of a scene of `size` (height, width) that bounds touch.

    Args:
        bounds: min_x, min_y, max_x, max_y.
        bounds_crs: their CRS; None for the scene's own.
        transform, crs: of the scene.

    Raises:
        SceneError: the bounds lie outside the scene.
    """
    if bounds_crs is not None:
        if crs is None:
            raise SceneError("--bbox-crs is given, but the scene has no coordinate reference system; leave it out")
        bounds = transform_bounds(_crs(bounds_crs), crs, *bounds, densify_pts=21)
    min_x, min_y, max_x, max_y = bounds
    corners = [~transform @ (x, y) for x in (min_x, max_x) for y in (min_y, max_y)]
    cols, rows = zip(*corners, strict=True)
    if not np.isfinite((cols, rows)).all():
        raise SceneError(f"the box {_numbers(bounds)} reaches beyond what the scene's CRS can show; give a smaller one")
    height, width = size
    row0, row1 = max(0, _floor(min(rows))), min(height, -_floor(-max(rows)))
    col0, col1 = max(0, _floor(min(cols))), min(width, -_floor(-max(cols)))
    if row0 >= row1 or col0 >= col1:
        extent = [transform @ corner for corner in ((0, 0), (width, 0), (0, height), (width, height))]
        xs, ys = zip(*extent, strict=True)
        raise SceneError(
            f"the box {_numbers(bounds)} lies outside the scene, which spans "
            f"{_numbers((min(xs), min(ys), max(xs), max(ys)))} in {crs.to_string() if crs else 'pixels'}"
        )
    return Box(row0, row1, col0, col1)


def read_area(path: Path, transform: Affine, crs: CRS | None) -> Area:
    """Read the polygons of a vector file into a scene's CRS.

    Raises:
        ConfigError: the file cannot be read, or holds no polygon.
    """
    import geopandas

    try:
        parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        frame = geopandas.read_parquet(path) if parquet else geopandas.read_file(path)
    except Exception as e:
        raise ConfigError(f"--aoi {path} cannot be read as a vector file: {e}") from e
    if crs is not None:
        if getattr(frame, "crs", None) is None:
            raise ConfigError(f"--aoi {path} has no CRS, so its place is unknown; assign one")
        try:
            frame = frame.to_crs(crs.to_wkt())
        except ProjError as e:
            raise ConfigError(f"--aoi {path} cannot be brought to the scene's CRS: {e}") from e
    polygons = [g for g in frame.geometry if g is not None and not g.is_empty and "Polygon" in g.geom_type]
    if not polygons:
        raise ConfigError(f"--aoi {path} holds no polygon")
    return Area(tuple(polygons), transform)


def bounds_of(area: Area) -> tuple[float, float, float, float]:
    """min_x, min_y, max_x, max_y of an area, in the scene's CRS."""
    bounds = np.array([p.bounds for p in area.polygons])
    return (*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist())


def _floor(value: float) -> int:
    """Round down, but take a hair's breadth below a whole pixel as that pixel."""
    return int(np.floor(value + 1e-6))


def _crs(text: str) -> CRS:
    try:
        return CRS.from_user_input(text)
    except (CRSError, ValueError) as e:
        raise ConfigError(
            f"--bbox-crs '{text}' is not a coordinate reference system; write for example EPSG:4326"
        ) from e


def _numbers(bounds: tuple[float, ...]) -> str:
    return ",".join(f"{v:.10g}" for v in bounds)
