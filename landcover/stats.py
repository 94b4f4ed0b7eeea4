"""How much land a class covers: areas on the WGS 84 ellipsoid, counted from the pixels of a map, whole or by zone."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize

from landcover.antimeridian import as_counted
from landcover.classmap import MAP_NODATA, check_areas, check_values, open_map, strips
from landcover.errors import ConfigError, MapError, listed, nearest
from landcover.ground import Ground, coordinates
from landcover.products import is_local
from landcover.regions import as_text, placed, read_vectors
from landcover.specs import Legend

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_ASIDE = 1e-6
"""Of a pixel, to the right and down, for GDAL counts a centre that lies on a level edge as on both sides."""


@dataclass(frozen=True)
class ClassArea:
    """Pixels and area of one class."""

    class_id: int
    class_name: str
    pixels: int
    hectares: float


@dataclass(frozen=True)
class AreaTable:
    """What covers a piece of land: every class of the legend, and what is not known.

    Attributes:
        zone: the zone's name; None for the whole map.
        classes: in the order of the legend.
        nodata_pixels, nodata_hectares: land without a class; nan hectares where some of it lies off the earth.
    """

    zone: str | None
    classes: tuple[ClassArea, ...]
    nodata_pixels: int
    nodata_hectares: float

    @property
    def hectares(self) -> float:
        """Area that has a class."""
        return math.fsum(c.hectares for c in self.classes)

    @property
    def is_empty(self) -> bool:
        """True if no pixel of the map has its centre there."""
        return not (self.nodata_pixels or any(c.pixels for c in self.classes))

    def told(self) -> list[list[str]]:
        """As rows of a table: class, pixels, hectares and percent of what has a class, and nodata as the last."""
        total = self.hectares
        rows = [
            [c.class_name, f"{c.pixels:,}", f"{c.hectares:,.2f}", f"{100 * c.hectares / total:.2f}" if total else "–"]
            for c in self.classes
        ]
        nodata = "–" if math.isnan(self.nodata_hectares) else f"{self.nodata_hectares:,.2f}"
        return [*rows, ["nodata", f"{self.nodata_pixels:,}", nodata, ""]]


def stats(
    map_path: str | Path,
    *,
    zones: str | Path | None = None,
    zone_name: str | None = None,
    legend: Legend | str | None = None,
) -> tuple[AreaTable, ...]:
    """Measure the classes of a map: one table for the whole map, then one for each zone.

    A pixel belongs to a zone if its centre lies in it; zones may overlap, and each counts for itself.

    Args:
        map_path: a class map with a CRS.
        zones: a file of polygons, in any CRS.
        zone_name: the column that names a zone; by default `name` if there is one, else zones are numbered from 1.
        legend: a legend, its name or its file, for maps that carry none.

    Raises:
        MapError: the map cannot be read as one, has no CRS, holds values that are not in the legend, or classes off the
            earth.
        ConfigError: the legend or the zones cannot be used.
    """
    if zone_name is not None and zones is None:
        raise ConfigError("--zone-name is given without --zones; add the zones, or leave it out")
    with open_map(map_path, legend) as (dataset, known):
        if dataset.crs is None:
            raise MapError(
                f"{dataset.name} has no CRS, so its pixels have no area; assign one with rio edit-info --crs"
            )
        ground = Ground.of(dataset)
        names, shapes = _read_zones(str(zones), zone_name, dataset) if zones else ([], [])
        pixels = np.zeros((1 + len(names), 256), np.int64)
        square = np.zeros((1 + len(names), 256))
        for start, block in strips(dataset):
            areas = ground.pixel_areas(start, start + len(block))
            _count(block, areas, pixels[0], square[0])
            for i, shape in enumerate(shapes, 1):
                inside, at = _pixels_inside(shape, dataset.transform, start, block.shape)
                if inside is not None:
                    _count(block[at][inside], areas[at][inside], pixels[i], square[i])
    check_values(pixels[0], known, str(map_path))
    check_areas(square[0, list(known.ids)], known, str(map_path))
    return tuple(_table(zone, known, p, s / 1e4) for zone, p, s in zip([None, *names], pixels, square, strict=True))


def note_on_zones(tables: tuple[AreaTable, ...]) -> str:
    """What is to be said of zones without a pixel, as `stats` measured them; "" where there are none."""
    empty = [str(table.zone) for table in tables[1:] if table.is_empty]
    if not empty:
        return ""
    return (
        f"no pixel of the map has its centre in {listed(empty)}: such a zone lies outside the map "
        "or is smaller than its pixels; check the place and the CRS of the zones, or measure a finer map"
    )


def _count(block: np.ndarray, areas: np.ndarray, pixels: np.ndarray, square: np.ndarray) -> None:
    """Add the pixels (uint8) and their areas in m² to the sums of their values."""
    flat = block.ravel()
    pixels += np.bincount(flat, minlength=256)
    square += np.bincount(flat, weights=areas.ravel(), minlength=256)


def _table(zone: str | None, legend: Legend, pixels: np.ndarray, hectares: np.ndarray) -> AreaTable:
    rows = (ClassArea(c.id, c.name, int(pixels[c.id]), float(hectares[c.id])) for c in legend.classes)
    return AreaTable(zone, tuple(rows), int(pixels[MAP_NODATA]), float(hectares[MAP_NODATA]))


def _read_zones(path: str, column: str | None, dataset: rasterio.DatasetReader) -> tuple[list[str], list[Any]]:
    """Names and polygons of the zones, the polygons in the map's coordinates."""
    if is_local(path) and not Path(path).exists():
        raise ConfigError(f"the zones {path} do not exist; give a file of polygons")
    table = read_vectors(path, f"the zones {path}")
    _check_zones(table, path)
    shapes = placed(table, f"the zones file {path}", dataset.transform, dataset.crs, dataset.shape)
    names = _zone_names(table, column, path)
    if not dataset.crs.is_geographic:
        return names, list(shapes)
    counted = (as_counted(shapes[i : i + 1], dataset.transform, dataset.shape) for i in range(len(shapes)))
    return names, [found[0] if len(found) == 1 else shapely.geometrycollections(found) for found in counted]


def _check_zones(table: "GeoDataFrame", path: str) -> None:
    kinds = set(table.geom_type.dropna()) if hasattr(table, "geom_type") else {"no geometry"}
    if not kinds or not kinds <= {"Polygon", "MultiPolygon"}:
        raise ConfigError(f"the zones {path} hold {', '.join(sorted(kinds)) or 'nothing'}; give polygons")
    if table.crs is None:
        raise ConfigError(f"the zones {path} have no CRS, so their place is unknown; assign one")


def _zone_names(table: "GeoDataFrame", column: str | None, path: str) -> list[str]:
    columns = [str(c) for c in table.columns if c != table.geometry.name]
    if column is not None and column not in columns:
        raise ConfigError(f"the zones {path} have no column '{column}': {nearest(column, columns)}")
    column = column or ("name" if "name" in columns else None)
    if column is None:
        return [str(i) for i in range(1, len(table) + 1)]
    named = enumerate(zip(table[column].tolist(), table[column].isna(), strict=True), 1)
    return [f"(no name, {i})" if missing else as_text(value) for i, (value, missing) in named]


def _pixels_inside(
    shape: Any, transform: Affine, start: int, size: tuple[int, int]
) -> tuple[np.ndarray | None, tuple[slice, slice]]:
    """Which pixels of a strip lie in a polygon: a boolean block, True inside, and where in the strip it is."""
    nowhere = (slice(0, 0), slice(0, 0))
    if shape is None or shape.is_empty:
        return None, nowhere
    west, south, east, north = shape.bounds
    corners = np.array([west, west, east, east]), np.array([south, north, south, north])
    col, row = coordinates(~transform, *corners)
    if not np.isfinite([col, row]).all():
        return None, nowhere
    top, left = max(0, math.floor(row.min()) - start), max(0, math.floor(col.min()))
    bottom, right = min(size[0], math.ceil(row.max()) - start), min(size[1], math.ceil(col.max()))
    if bottom <= top or right <= left:
        return None, nowhere
    x, y = coordinates(transform, left + _ASIDE, start + top + _ASIDE)
    place = Affine(transform.a, transform.b, x, transform.d, transform.e, y)
    inside = rasterize([(shape, 1)], out_shape=(bottom - top, right - left), transform=place, dtype="uint8")
    return inside.astype(bool), (slice(top, bottom), slice(left, right))
