"""The part of a scene that is wanted: a bounding box or the polygons of an area of interest, as pixels."""

import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import rasterio
import shapely
from affine import Affine
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.features import rasterize
from rasterio.warp import transform_bounds
from shapely import STRtree
from shapely.geometry.base import BaseGeometry

from landcover.antimeridian import as_counted, in_one_piece, within
from landcover.errors import ConfigError, SceneError
from landcover.grid import Box
from landcover.ground import coordinates

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_STRAIGHT_DEGREES, _STRAIGHT_METRES = 0.01, 1000.0
"""How long the edges of polygons may be that are brought to another CRS, in which straight lines are bent."""

_TOGETHER = 2.0
"""How many times wider than both bounds may be that consist of two halves which meet."""


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

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """min_x, min_y, max_x, max_y, in the scene's CRS.

        Raises:
            SceneError: nothing of the area is near the scene.
        """
        if not self.polygons:
            raise SceneError("the area of interest lies outside the scene; correct --aoi")
        bounds = np.array([p.bounds for p in self.polygons])
        return (*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist())

    @cached_property
    def sha256(self) -> str:
        """What tells one area from another."""
        return sha256(b"".join(p.wkb for p in self.polygons)).hexdigest()


def parse_bbox(text: str) -> tuple[float, float, float, float]:
    """Read "min_x,min_y,max_x,max_y"; whether they are in order, `box_of_bounds` tells.

    Raises:
        ConfigError: it is not four numbers.
    """
    try:
        min_x, min_y, max_x, max_y = (float(v) for v in text.replace(",", " ").split())
    except ValueError as e:
        raise ConfigError(f"--bbox '{text}' is not four numbers; write --bbox min_x,min_y,max_x,max_y") from e
    if not np.isfinite([min_x, min_y, max_x, max_y]).all():
        raise ConfigError(f"--bbox '{text}' is not four finite numbers; leave it out to map the whole scene")
    return min_x, min_y, max_x, max_y


def _crosses(west: float, east: float) -> bool:
    """True for longitudes across the antimeridian: less than half round the earth, else they are taken for swapped."""
    return -180 <= east < west <= 180 and west - east > 180


def box_of_bounds(
    bounds: tuple[float, float, float, float],
    bounds_crs: str | None,
    transform: Affine,
    crs: CRS | None,
    size: tuple[int, int],
) -> Box:
    """The pixels of a scene of `size` (height, width) that bounds touch.

    Args:
        bounds: min_x, min_y, max_x, max_y; min_x is the greater in a box of longitudes across the antimeridian.
        bounds_crs: their CRS; None for the scene's own.
        transform, crs: of the scene.

    Raises:
        ConfigError: a minimum is not below its maximum.
        SceneError: the bounds lie outside the scene, or on both sides of it, or cannot be brought to its CRS.

    References:
        Butler et al. 2016, The GeoJSON Format (RFC 7946), section 5.2.
    """
    if bounds_crs is not None and crs is None:
        raise SceneError("--bbox-crs is given, but the scene has no coordinate reference system; leave it out")
    place = crs if bounds_crs is None else _crs(bounds_crs)
    _check_order(bounds, place)
    asked = [bounds] if bounds_crs is None else _transformed(_near(bounds, place, transform, crs, size), place, crs)
    in_degrees = crs is not None and crs.is_geographic
    turns = [turned for box in asked for turned in _turns(box)] if in_degrees else asked
    xs, ys = zip(*(transform @ (col, row) for col in (0, size[1]) for row in (0, size[0])), strict=True)
    within = [min(xs) <= turned[0] and turned[2] <= max(xs) for turned in turns]
    touched = [_touched(turned, transform, size) for turned in turns]
    found = [box for box in touched if box]
    if not found:
        raise SceneError(
            f"the box {_numbers(asked[0])} lies outside the scene, which spans "
            f"{_numbers((min(xs), min(ys), max(xs), max(ys)))} in {crs.to_string() if crs else 'pixels'}"
        )
    joined = Box(
        min(box.row0 for box in found),
        max(box.row1 for box in found),
        min(box.col0 for box in found),
        max(box.col1 for box in found),
    )
    if joined.width <= sum(box.width for box in found):
        return joined
    whole = [box for box, inside in zip(touched, within, strict=True) if box and inside]
    if len(asked) > 1 or not whole:
        raise SceneError(
            f"the box {_numbers(bounds)} crosses the meridian where the scene begins and ends; give the parts of it on "
            "either side one after the other"
        )
    return whole[0]


def _check_order(bounds: tuple[float, float, float, float], place: CRS | None) -> None:
    """Refuse bounds whose minimum is not below their maximum, but for longitudes across the antimeridian."""
    min_x, min_y, max_x, max_y = bounds
    if min_y < max_y and (min_x < max_x or (place and place.is_geographic and _crosses(min_x, max_x))):
        return
    told = f"--bbox {_numbers(bounds)} is empty: write the minimum before the maximum, min_x,min_y,max_x,max_y"
    if min_y < max_y and _crosses(min_x, max_x):
        told = (
            f"--bbox {_numbers(bounds)} would cross the antimeridian if these were longitudes, and their CRS has none: "
            "add --bbox-crs EPSG:4326, or write the smaller x first"
        )
    raise ConfigError(told)


def _turns(bounds: tuple[float, float, float, float]) -> list[tuple[float, float, float, float]]:
    """Bounds of longitudes as a scene may count them, below -180 or above 180; first as they are, if they may be so."""
    west, south, east, north = bounds
    if west > east:
        return [(west + turn, south, east + 360 + turn, north) for turn in (-360, 0)]
    return [(west + turn, south, east + turn, north) for turn in (0, -360, 360)]


def _touched(bounds: tuple[float, float, float, float], transform: Affine, size: tuple[int, int]) -> Box | None:
    """The pixels that bounds in a scene's CRS touch, if any."""
    min_x, min_y, max_x, max_y = bounds
    corners = [~transform @ (x, y) for x in (min_x, max_x) for y in (min_y, max_y)]
    cols, rows = zip(*corners, strict=True)
    if not np.isfinite((cols, rows)).all():
        raise SceneError(f"the box {_numbers(bounds)} reaches beyond what the scene's CRS can show; give a smaller one")
    row0, row1 = max(0, _floor(min(rows))), min(size[0], -_floor(-max(rows)))
    col0, col1 = max(0, _floor(min(cols))), min(size[1], -_floor(-max(cols)))
    return Box(row0, row1, col0, col1) if row0 < row1 and col0 < col1 else None


def _near(
    bounds: tuple[float, float, float, float], place: CRS, transform: Affine, crs: CRS, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """What of bounds lies around a scene, if any, for far from it a CRS may turn back, and the edges with it."""
    try:
        back = pyproj.Transformer.from_crs(crs.to_wkt(), place.to_wkt(), always_xy=True)
    except ProjError:
        return bounds  # as told when they are brought to the scene's CRS
    near = _surroundings(transform, size, back, place.is_geographic)
    if near is None:
        return bounds
    west, south, east, north = bounds
    east += 360 if west > east else 0
    turns = (0, -360, 360) if place.is_geographic else (0,)
    spans = [(max(west + turn, near[0]), min(east + turn, near[2])) for turn in turns]
    met = [span for span in spans if span[0] < span[1]]
    south, north = max(south, near[1]), min(north, near[3])
    if not met or south >= north:
        return bounds
    west, east = min(low for low, _ in met), max(high for _, high in met)
    if not place.is_geographic:
        return west, south, east, north
    turn = 360 * math.floor((west + 180) / 360)
    west, east = west - turn, east - turn
    return bounds if east - west >= 360 else (west, south, east - 360 if east > 180 else east, north)


def _transformed(
    bounds: tuple[float, float, float, float], place: CRS, crs: CRS
) -> list[tuple[float, float, float, float]]:
    """Bounds in the scene's CRS; PROJ, too, writes min_x as the greater where they cross the antimeridian.

    They are in two parts where they cross it and the CRS ends there, for it shows the whole earth.
    """
    west, south, east, north = bounds
    halves = [(west, south, 180.0, north), (-180.0, south, east, north)] if west > east else []
    try:
        whole, *parts = (transform_bounds(place, crs, *box, densify_pts=21) for box in (bounds, *halves))
    except (RasterioError, CRSError, CPLE_BaseError) as e:
        told = f"the box {_numbers(bounds)} in {place.to_string()}"
        raise SceneError(f"{told} cannot be brought to the scene's CRS: {e}") from e
    apart = whole[2] - whole[0] > _TOGETHER * sum(part[2] - part[0] for part in parts)
    return parts if parts and apart and not crs.is_geographic else [whole]


def read_area(path: str | Path, transform: Affine, crs: CRS | None, size: tuple[int, int] | None = None) -> Area:
    """Read the polygons of a vector file into a scene's CRS.

    Args:
        path: the file.
        transform, crs: of the scene.
        size: of the scene, height and width; then polygons may be far larger than what its CRS can show.

    Raises:
        ConfigError: the file cannot be read, or holds no polygon that has an area.
    """
    frame = read_vectors(path, f"--aoi {path}")
    if not hasattr(frame, "geom_type"):  # a table without geometries
        raise ConfigError(f"--aoi {path} holds no polygon")
    if crs is not None and frame.crs is None:
        raise ConfigError(f"--aoi {path} has no CRS, so its place is unknown; assign one")
    while (frame.geom_type == "GeometryCollection").any():  # as overlays of layers leave; there are polygons in them
        frame = frame[~frame.is_empty].explode(index_parts=False)
    frame = frame[frame.geom_type.isin(["Polygon", "MultiPolygon"]) & ~frame.is_empty]
    if not len(frame):
        raise ConfigError(f"--aoi {path} holds no polygon")
    frame = frame[_has_area(frame.geometry.to_numpy())]
    if not len(frame):
        raise ConfigError(
            f"--aoi {path} holds only polygons without an area, whose corners lie on a line; draw the area of interest "
            "as a polygon that has width and height"
        )
    polygons = _filled(frame) if crs is None else placed(frame, f"--aoi {path}", transform, crs, size)
    polygons = polygons[_has_area(polygons)]
    if crs is not None and crs.is_geographic and size is not None:
        polygons = as_counted(polygons, transform, size)
    return Area(tuple(polygons), transform)


def _has_area(polygons: np.ndarray) -> np.ndarray:
    """Which polygons enclose anything, bool (n,); so does one that crosses itself, though its halves cancel out."""
    found = shapely.area(polygons) != 0
    found[~found] = shapely.area(shapely.make_valid(polygons[~found])) != 0
    return found


def read_vectors(path: str | Path, name: str) -> "GeoDataFrame":
    """Read the features of a vector file, or rows of a table without geometries.

    Args:
        path: the file, or what GDAL alone understands; as a text, for a Path has no two slashes in a row.
        name: of what it is, for errors.

    Raises:
        ConfigError: it cannot be read, or holds several layers.
    """
    import geopandas
    import pyogrio

    try:
        if Path(path).suffix.lower() in (".parquet", ".geoparquet"):
            return geopandas.read_parquet(path)
        layers = [layer for layer, kind in pyogrio.list_layers(path) if kind]
        frame = geopandas.read_file(path, layer=layers[0] if layers else None)
    except Exception as e:
        raise ConfigError(f"{name} cannot be read as a vector file: {e}") from e
    if len(layers) > 1:
        raise ConfigError(
            f"{name} holds several layers ({', '.join(layers)}); write the one that is meant to a file of its own, "
            f"as with ogr2ogr one.gpkg {Path(path).name} {layers[-1]}"
        )
    return frame


def as_text(value: object) -> str:
    """A value of a column as text: whole numbers as such, though a column with gaps holds them as 2.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _filled(table: "GeoDataFrame") -> np.ndarray:
    """The shapes of a table, multipolygons without empty parts: of those GEOS dies, and GDAL overlooks what has one."""
    shapes = np.array(table.geometry, object)
    parts, of = shapely.get_parts(shapes, return_index=True)
    empty = shapely.is_empty(parts)
    for i in np.unique(of[empty & (shapely.get_type_id(shapes)[of] == shapely.GeometryType.MULTIPOLYGON)]):
        shapes[i] = shapely.multipolygons(parts[(of == i) & ~empty])
    return shapes


def placed(table: "GeoDataFrame", name: str, transform: Affine, crs: CRS, size: tuple[int, int] | None) -> np.ndarray:
    """The polygons of a table in the CRS of a raster, edges that are straight in their own CRS bent as they are there.

    Args:
        table: polygons with a CRS.
        name: of the table, for errors.
        transform, crs: of the raster.
        size: of the raster, height and width; then what lies far from it is cut off, and may leave empty polygons.

    Raises:
        ConfigError: the polygons cannot be brought to the CRS of the raster.
    """
    shapes, here, there = _filled(table), table.crs, pyproj.CRS.from_wkt(crs.to_wkt())
    if here == there:
        return shapes
    try:
        to_there, back = (pyproj.Transformer.from_crs(a, b, always_xy=True) for a, b in ((here, there), (there, here)))
    except ProjError as e:
        raise ConfigError(f"{name} cannot be brought to the CRS of the raster: {e}") from e
    beyond = here.is_geographic and np.abs(table.total_bounds[[0, 2]]).max() > 180.1  # longitudes up to 360°
    near = _surroundings(transform, size, back, here.is_geographic) if size is not None and not beyond else None
    if near is not None:
        shapes = within(shapes, near) if here.is_geographic else shapely.clip_by_rect(shapes, *near)
    shapes = shapely.segmentize(shapes, _STRAIGHT_DEGREES if here.is_geographic else _STRAIGHT_METRES)
    shapes = shapely.transform(shapes, to_there.transform, interleaved=False)
    if not np.isfinite(shapely.get_coordinates(shapes)).all():
        raise ConfigError(f"{name} reaches beyond what the CRS of the raster can show; cut it to what lies around it")
    return in_one_piece(shapes) if size is not None and there.is_geographic else shapes


def _surroundings(
    transform: Affine, size: tuple[int, int], back: pyproj.Transformer, in_degrees: bool
) -> tuple[float, float, float, float] | None:
    """Bounds of a raster in another CRS with a margin, of points all over it; None where they cannot tell its place.

    Longitudes go on beyond ±180 where it crosses the antimeridian.
    """
    row, col = np.meshgrid(np.linspace(0, size[0], 33), np.linspace(0, size[1], 33), indexing="ij")
    x, y = back.transform(*coordinates(transform, col, row))
    if not np.isfinite([x, y]).all():
        return None
    west, east = -np.inf, np.inf
    if in_degrees:
        x = np.unwrap(np.unwrap(x, period=360, axis=0), period=360, axis=1)
        if max(np.abs(np.diff(x, axis=axis)).max() for axis in (0, 1)) > 180:
            return None  # it lies around a pole
        west, east = min(-180, x.min()), max(180, x.max())
    wide, high = 0.05 * np.ptp(x), 0.05 * np.ptp(y)
    return max(x.min() - wide, west), y.min() - high, min(x.max() + wide, east), y.max() + high


def _floor(value: float) -> int:
    """Round down, but take a hair's breadth below a whole pixel as that pixel."""
    return int(np.floor(value + 1e-6))


def _crs(text: str) -> CRS:
    try:
        with rasterio.Env():  # outside of one, GDAL itself prints what it says of a CRS that there is not
            return CRS.from_user_input(text)
    except (CRSError, ValueError) as e:
        raise ConfigError(
            f"--bbox-crs '{text}' is not a coordinate reference system; write for example EPSG:4326"
        ) from e


def _numbers(bounds: tuple[float, ...]) -> str:
    return ",".join(f"{v:.10g}" for v in bounds)
