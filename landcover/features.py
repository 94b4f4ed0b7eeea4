"""Patches → rows of a layer, in Arrow: their class, what they measure, and a polygon in WKB with its bounds."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow
import shapely
from affine import Affine
from pyproj import CRS

from landcover.ground import WGS84, Ground
from landcover.outlines import Patches, encoded
from landcover.specs import Legend

BOUNDS, KNOWN = "bbox", "_known"
"""Columns for the way: the bounds of each row, and how many of its pixels have a confidence."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")
"""The fields of the bounds, as GeoParquet names them."""

_LONGEST_EDGE_METRES = 1000.0
"""Longer edges are divided before they are measured, since a straight line on a map is not the shortest on earth."""


@dataclass(frozen=True)
class Maker:
    """Makes features of patches.

    Attributes:
        legend: of the classes.
        transform: pixel corners (col, row) to coordinates.
        crs: of the map, or None.
        confidence: whether means of what was weighed are a column.
    """

    legend: Legend
    transform: Affine
    crs: CRS | None
    confidence: bool

    def features(self, patches: Patches) -> pyarrow.Table:
        """One row for each patch. Area and perimeter are null where there is no CRS."""
        geometry, bounds = in_wkb(patches, self.transform)
        places = np.zeros(256, np.int32)
        places[list(self.legend.ids)] = np.arange(len(self.legend.ids))
        known = self.crs is not None
        columns = {
            "class_id": _numbers(patches.values.astype(np.int32)),
            "class_name": _texts(self.legend.names).take(_numbers(places[patches.values])),
            "area_m2": _numbers(np.where(known, patches.area, np.nan)),
            "perimeter_m": _numbers(np.where(known, patches.perimeter, np.nan)),
            "mean_confidence": _numbers(patches.means),
            "geometry": geometry,
            BOUNDS: bounds_column(bounds),
            KNOWN: _numbers(patches.known),
        }
        if not self.confidence:
            del columns["mean_confidence"]
        fields = [geometry_field(self.crs) if n == "geometry" else pyarrow.field(n, c.type) for n, c in columns.items()]
        return pyarrow.Table.from_arrays(list(columns.values()), schema=pyarrow.schema(fields))


def geometry_field(crs: CRS | None) -> pyarrow.Field:
    """The field of geometries, which names their encoding and their CRS."""
    told = json.dumps({"crs": crs.to_json_dict(), "crs_type": "projjson"} if crs is not None else {})
    metadata = {"ARROW:extension:name": "geoarrow.wkb", "ARROW:extension:metadata": told}
    return pyarrow.field("geometry", pyarrow.large_binary(), metadata=metadata)


def told_crs(table: pyarrow.Table) -> dict | None:
    """The CRS of a table's geometries, as PROJJSON; None if it has none."""
    return json.loads(table.schema.field("geometry").metadata[b"ARROW:extension:metadata"]).get("crs")


def bounds_column(bounds: np.ndarray) -> pyarrow.Array:
    """Bounds, float64 (4, n), as a struct."""
    return pyarrow.StructArray.from_arrays([_numbers(b) for b in bounds], CORNERS)


def in_wkb(patches: Patches, transform: Affine) -> tuple[pyarrow.Array, np.ndarray]:
    """The polygons of patches, or multipolygons where corners join, (n,), and their bounds, float64 (4, n).

    Args:
        patches: as they were traced.
        transform: pixel corners (col, row) to coordinates.
    """
    wkb, begin, bounds = encoded(
        patches.nodes, patches.rings, patches.shells, tuple(map(float, transform[:6])), patches.unit
    )
    found = _binary(wkb, begin)
    if patches.diagonal:
        shapes = _valid(shapely.from_wkb(found.to_numpy(zero_copy_only=False)))
        found = pyarrow.array(shapely.to_wkb(shapes), pyarrow.large_binary())
    return found, bounds


def _numbers(values: np.ndarray) -> pyarrow.Array:
    """A column of numbers, NaN as null. (`pyarrow.array` does the same, and loads pandas first.)"""
    values = np.ascontiguousarray(values)
    unknown = np.isnan(values)
    valid = pyarrow.py_buffer(np.packbits(~unknown, bitorder="little")) if unknown.any() else None
    return pyarrow.Array.from_buffers(
        pyarrow.from_numpy_dtype(values.dtype), len(values), [valid, pyarrow.py_buffer(values)]
    )


def numbers(column: pyarrow.ChunkedArray) -> np.ndarray:
    """The numbers of a column, those that are null as whatever they are. (Its `to_numpy` loads pandas, too.)"""
    array, dtype = column.combine_chunks(), column.type.to_pandas_dtype()
    if not len(array):
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]


def _texts(values: tuple[str, ...]) -> pyarrow.Array:
    content = [value.encode() for value in values]
    begin = np.cumsum([0, *map(len, content)]).astype(np.int32)
    buffers = [None, pyarrow.py_buffer(begin), pyarrow.py_buffer(b"".join(content))]
    return pyarrow.Array.from_buffers(pyarrow.string(), len(content), buffers)


def _binary(content: np.ndarray, begin: np.ndarray) -> pyarrow.Array:
    buffers = [None, pyarrow.py_buffer(begin), pyarrow.py_buffer(content)]
    return pyarrow.Array.from_buffers(pyarrow.large_binary(), len(begin) - 1, buffers)


def _valid(shapes: np.ndarray) -> np.ndarray:
    """Polygons whose shells touch themselves, or that holes cut apart, in parts."""
    apart = ~shapely.is_valid(shapes)
    shapes[apart] = shapely.make_valid(shapes[apart])
    return shapes


def measure(polygons: np.ndarray, ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Area in m² and perimeter in m of every polygon on the WGS 84 ellipsoid, edge by edge; with the holes' perimeter.

    It is for polygons that are not as they were traced, and the oracle of what tracing sums.
    """
    if (shapely.get_type_id(polygons) != shapely.GeometryType.POLYGON).any():
        parts, of = shapely.get_parts(polygons, return_index=True)
        areas, lengths = measure(parts, ground)
        return np.bincount(of, areas, minlength=len(polygons)), np.bincount(of, lengths, minlength=len(polygons))
    polygons = shapely.segmentize(polygons, _LONGEST_EDGE_METRES / ground.metres_per_unit)
    _, points, (rings, shells) = shapely.to_ragged_array(polygons)
    inner = np.ones(len(points) - 1, bool)
    inner[rings[1:-1] - 1] = False
    edges = np.flatnonzero(inner)
    begins = rings[:-1] - np.arange(len(rings) - 1)
    lon, lat = ground.to_lonlat.transform(points[:, 0], points[:, 1])
    length = np.add.reduceat(WGS84.inv(lon[edges], lat[edges], lon[edges + 1], lat[edges + 1])[2], begins)
    x, y = ground.to_equal_area.transform(points[:, 0], points[:, 1])
    sizes = np.diff(rings)
    with np.errstate(invalid="ignore"):  # off the earth, where the area is nan
        x, y = x - np.repeat(x[rings[:-1]], sizes), y - np.repeat(y[rings[:-1]], sizes)
        area = np.abs(np.add.reduceat(x[edges] * y[edges + 1] - x[edges + 1] * y[edges], begins)) / 2
    is_hole = np.ones(len(area), bool)
    is_hole[shells[:-1]] = False
    area[is_hole] *= -1
    return np.add.reduceat(area, shells[:-1]), np.add.reduceat(length, shells[:-1])
