"""From a class map to polygons: small patches merged, outlines traced and simplified with their shared borders kept."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Geod
from pyproj.exceptions import CRSError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landcover.classmap import CONFIDENCE_NODATA, STRIP_PIXELS, check_values, open_map, open_raster, strips
from landcover.errors import ConfigError, MapError
from landcover.grid import Box
from landcover.ground import Ground, coordinates
from landcover.outlines import Patches, Tracer
from landcover.regions import Area, read_area
from landcover.sieve import sieve
from landcover.specs import Legend
from landcover.vectorfiles import check_layer, write_layer

_LONGEST_EDGE_METRES = 1000.0
"""Longer edges are divided before they are measured, since a straight line on a map is not the shortest on earth."""

_GEOD = Geod(ellps="WGS84")

_KNOWN = "_known"
"""A column that is not written: how many pixels of a patch have a confidence."""


@dataclass(frozen=True)
class VectorOptions:
    """How a class map becomes polygons.

    Attributes:
        classes: names or ids of the classes to write; None for all. The choice is made last, so it changes no shape.
        min_area: patches smaller than this, in m², are merged into a neighbour; see `landcover.sieve`.
        connect: 4 if pixels are joined by their edges, 8 if by their corners too; then a patch can be a multipolygon.
        simplify: tolerance in metres; bends that span less than about its square are straightened.
        fill_holes: leave out the holes of polygons; what lies in them is then covered twice.
        aoi: vector file with polygons; what lies outside of them is left out.
        dissolve: one multipolygon for each class.
        points: a point inside each polygon in place of the polygon, for labels.
        crs: the CRS to write in, such as EPSG:4326; None for that of the map.
        confidence: a raster of percent on the grid of the map, uint8, 255 = nodata. Each polygon gets the mean over
            the pixels it was traced from.
        legend: a legend, its name or its file, for maps that carry none.
        allow_no_crs: accept a map without a CRS; area and perimeter are then null.

    Raises:
        ConfigError: a value is impossible.
    """

    classes: Sequence[str] | None = None
    min_area: float = 0.0
    connect: int = 4
    simplify: float = 0.0
    fill_holes: bool = False
    aoi: str | Path | None = None
    dissolve: bool = False
    points: bool = False
    crs: str | None = None
    confidence: str | Path | None = None
    legend: Legend | str | None = None
    allow_no_crs: bool = False

    def __post_init__(self) -> None:
        for name, value, unit in (("minimum area", self.min_area, "m²"), ("simplification", self.simplify, "m")):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"the {name} cannot be {value} {unit}; give 0 or more")
        if self.connect not in (4, 8):
            raise ConfigError(f"--connect {self.connect} is not known; choose 4 or 8")
        if self.connect == 8 and self.min_area > 0:
            raise ConfigError("--connect 8 and --min-area exclude each other: patches are merged by their edges")
        if self.fill_holes and (self.dissolve or self.connect == 8):
            raise ConfigError("--fill-holes goes with single polygons; leave out --dissolve and --connect 8")
        if self.dissolve and self.points:
            raise ConfigError("--dissolve and --points exclude each other: a point stands for one polygon")
        if self.crs is not None:
            try:
                CRS.from_user_input(self.crs)
            except CRSError as e:
                raise ConfigError(
                    f"--crs '{self.crs}' is not a coordinate reference system; write for example EPSG:4326"
                ) from e

    @property
    def in_metres(self) -> bool:
        """Whether something is to be measured on the ground."""
        return self.min_area > 0 or self.simplify > 0


@dataclass(frozen=True)
class ClassCount:
    """The polygons of one class; hectares is None where the map has no CRS."""

    class_id: int
    class_name: str
    polygons: int
    hectares: float | None


@dataclass(frozen=True)
class VectorSummary:
    """What was written.

    Attributes:
        path: the file.
        classes: every class asked for, in the order of the legend.
        notes: sentences the person who ran it should read.
    """

    path: Path
    classes: tuple[ClassCount, ...]
    notes: tuple[str, ...]

    @property
    def polygons(self) -> int:
        return sum(c.polygons for c in self.classes)


def vectorize(map_path: str | Path, out: str | Path, *, overwrite: bool = False, **options: Any) -> VectorSummary:
    """Turn a class map into polygons, to use it in a GIS.

    Neighbouring polygons share their borders vertex by vertex, so that no gap opens between them when they are
    simplified or brought to another CRS. Without simplification they cover what GDAL's cover, and rasterise back to the
    identical map.

    Columns are class_id, class_name, area_m2, perimeter_m (with that of holes; both geodesic on WGS 84) and, with
    `confidence`, mean_confidence. A shapefile, whose field names are short, calls the last two perim_m and mean_conf.
    GeoJSON is written in WGS 84 longitude and latitude (RFC 7946).

    Args:
        map_path: a class map, uint8, 0 = nodata.
        out: the file; its suffix gives the format (.gpkg .geojson .json .fgb .parquet .geoparquet .shp).
        overwrite: replace `out`.
        options: the attributes of `VectorOptions`, such as `min_area` and `simplify`.

    Raises:
        ConfigError: an option has an impossible value.
        MapError: the map or the confidence cannot be used.
        OutputError: `out` exists, or cannot be written.
    """
    out, how = Path(out), VectorOptions(**options)
    check_layer(out, overwrite=overwrite)
    with _open(map_path, how) as source:
        tally = _Tally(source)
        counted = tally.counted(_tables(source, how))
        tables: Iterator[geopandas.GeoDataFrame] = (_as_asked(table, how) for table in counted)
        if how.dissolve:
            tables = iter([_dissolved(pandas.concat(list(tables)))])
        kind = "Point" if how.points else "MultiPolygon" if how.dissolve or how.connect == 8 else "Polygon"
        write_layer((t.drop(columns=_KNOWN) for t in tables), out, source.legend, kind)
    return tally.summary(out)


def polygons(map_path: str | Path, **options: Any) -> Iterator[geopandas.GeoDataFrame]:
    """Yield the polygons of a class map while they are made, some at a time, for a notebook or a pipeline.

    Args:
        map_path: a class map, uint8, 0 = nodata.
        options: the attributes of `VectorOptions`; `dissolve` is not among them, for it takes all polygons.

    Yields:
        Tables with the columns that `vectorize` writes. Polygons leave when no further row of the map belongs to them.

    Raises:
        ConfigError, MapError: as for `vectorize`.

    Example:
        >>> for table in landcover.polygons("map.tif"):
        ...     print(table.groupby("class_name").area_m2.sum())
    """
    how = VectorOptions(**options)
    if how.dissolve:
        raise ConfigError("dissolve takes all polygons of a map; use vectorize, or dissolve the tables yourself")
    with _open(map_path, how) as source:
        for table in _tables(source, how):
            if len(table):
                yield _as_asked(table, how).drop(columns=_KNOWN)


@dataclass(frozen=True)
class _Source:
    """An open map, and what is known of it.

    Attributes:
        dataset: open.
        legend: of its values.
        wanted: class ids that are to be written.
        ground: where it lies; None without a CRS.
        counts: how often each value was seen, int64 (256,), as it is read.
    """

    dataset: rasterio.DatasetReader
    legend: Legend
    wanted: tuple[int, ...]
    ground: Ground | None
    counts: np.ndarray


@contextmanager
def _open(map_path: str | Path, how: VectorOptions) -> Iterator[_Source]:
    with open_map(map_path, how.legend) as (dataset, legend):
        wanted = tuple(legend.id_of(name) for name in how.classes) if how.classes is not None else legend.ids
        if how.crs is not None and dataset.crs is None:
            raise ConfigError(f"--crs {how.crs} is given, but the map has no CRS; leave it out")
        yield _Source(dataset, legend, wanted, _ground(dataset, how), np.zeros(256, np.int64))


def _tables(source: _Source, how: VectorOptions) -> Iterator[geopandas.GeoDataFrame]:
    """Tables of patches as they are complete; all in one where they are simplified together."""
    outlined = _outlined(source, how)
    if how.simplify > 0:
        yield _table(list(outlined), source, how)
    else:
        yield from (_table([patches], source, how) for patches in outlined)


def _outlined(source: _Source, how: VectorOptions) -> Iterator[Patches]:
    """Trace the map strip by strip."""
    dataset = source.dataset
    area = read_area(Path(how.aoi), dataset.transform, dataset.crs) if how.aoi is not None else None
    tracer = Tracer(dataset.width, diagonal=how.connect == 8, junctions=True)
    with ExitStack() as stack:
        read = stack.enter_context(_confidence(how.confidence, dataset)) if how.confidence is not None else None
        for row, ids in _rows(source, area, how.min_area):
            yield tracer.add(ids, read(row, len(ids)) if read else None)
        yield tracer.finish()


def _rows(source: _Source, area: Area | None, min_area: float) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of the map, some at a time, with the first of each; where patches are merged, after all were read."""
    blocks = _checked(source, area)
    if min_area > 0 and source.ground:
        sieved = sieve(np.concatenate([ids for _, ids in blocks]), min_area, source.ground)
        rows = max(1, STRIP_PIXELS // source.dataset.width)
        blocks = ((row, sieved[row : row + rows]) for row in range(0, len(sieved), rows))
    yield from blocks


def _checked(source: _Source, area: Area | None) -> Iterator[tuple[int, np.ndarray]]:
    """Rows whose values are all in the legend; nodata outside of an area."""
    dataset = source.dataset
    for row, ids in strips(dataset):
        check_values(np.bincount(ids.ravel(), minlength=256), source.legend, dataset.name)
        if area is not None:
            ids = np.where(area.mask(Box(row, row + len(ids), 0, dataset.width)), ids, 0).astype(np.uint8)
        source.counts[:] += np.bincount(ids.ravel(), minlength=256)
        yield row, ids


def _table(outlined: list[Patches], source: _Source, how: VectorOptions) -> geopandas.GeoDataFrame:
    """One row for each patch of a class that is wanted, with what is known of it."""
    dataset, ground = source.dataset, source.ground
    shapes = np.concatenate([polygons_of(patches, dataset.transform) for patches in outlined])
    columns: dict[str, np.ndarray] = {"class_id": np.concatenate([p.values for p in outlined]).astype("int32")}
    columns["class_name"] = _names(source.legend)[columns["class_id"]]
    if how.simplify > 0 and ground and len(shapes):
        shapes = shapely.coverage_simplify(shapes, how.simplify / ground.metres_per_unit)
    if how.fill_holes and len(shapes):
        shapes = shapely.polygons(shapely.get_exterior_ring(shapes))
    chosen = np.isin(columns["class_id"], source.wanted)
    columns["area_m2"], columns["perimeter_m"] = np.full((2, len(shapes)), np.nan)
    if ground and chosen.any():
        columns["area_m2"][chosen], columns["perimeter_m"][chosen] = measure(shapes[chosen], ground)
    if how.confidence is not None:
        columns["mean_confidence"] = np.concatenate([p.means for p in outlined])
    columns[_KNOWN] = np.concatenate([p.known for p in outlined])
    crs = dataset.crs.to_wkt() if dataset.crs else None
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs)[chosen]


def _as_asked(table: geopandas.GeoDataFrame, how: VectorOptions) -> geopandas.GeoDataFrame:
    """A table as it is to be written: as points, in the CRS asked for."""
    if how.points:
        table = table.set_geometry(table.geometry.representative_point())
    elif how.connect == 8:
        several = [g if g.geom_type == "MultiPolygon" else shapely.multipolygons([g]) for g in table.geometry]
        table = table.set_geometry(geopandas.GeoSeries(several, index=table.index, crs=table.crs))
    return table.to_crs(how.crs) if how.crs is not None else table


def _dissolved(table: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """One multipolygon for each class. Patches of a class touch at points at most, so nothing has to be merged."""
    if not len(table):
        return table
    rows = []
    for (number, name), part in table.groupby(["class_id", "class_name"], sort=True):
        row = {"class_id": number, "class_name": name, _KNOWN: part[_KNOWN].sum()}
        row |= {c: part[c].sum(min_count=1) for c in ("area_m2", "perimeter_m")}
        if "mean_confidence" in part:
            weight = part[_KNOWN]
            row["mean_confidence"] = (part["mean_confidence"] * weight).sum() / weight.sum() if weight.sum() else np.nan
        rows.append({**row, "geometry": shapely.multipolygons(shapely.get_parts(part.geometry.to_numpy()))})
    dissolved = geopandas.GeoDataFrame(rows, columns=list(table.columns), geometry="geometry", crs=table.crs)
    return dissolved.astype({"class_id": "int32"})


def _ground(dataset: rasterio.DatasetReader, how: VectorOptions) -> Ground | None:
    """Where the map lies; None for a map without a CRS, where that is allowed."""
    if dataset.crs is not None:
        return Ground.of(dataset)
    if not how.allow_no_crs:
        raise MapError(f"{dataset.name} has no CRS; assign one with gdal_edit -a_srs, or add --allow-no-crs")
    if how.in_metres:
        raise MapError(f"{dataset.name} has no CRS, so --min-area and --simplify cannot be measured; leave them out")
    return None


@contextmanager
def _confidence(path: str | Path, like: rasterio.DatasetReader) -> Iterator[Callable[[int, int], np.ndarray]]:
    """Open the confidence, which must lie on the grid of the map; gives a function of first row and rows.

    It returns percent, float64 (rows, width), nan where it is not known.
    """
    with open_raster(path) as dataset:
        if dataset.count != 1 or dataset.dtypes[0] != "uint8":
            raise MapError(f"{path} is not a confidence raster: it must have one band of uint8, 0–100 %")
        size, wanted = (dataset.height, dataset.width), (like.height, like.width)
        if size != wanted:
            raise MapError(f"{path} is not on the grid of {like.name}: {size} rows and columns, not {wanted}")
        if dataset.crs != like.crs or not dataset.transform.almost_equals(like.transform, 1e-6):
            raise MapError(f"{path} is not on the grid of {like.name}: its CRS or its transform differs")

        def read(row: int, rows: int) -> np.ndarray:
            try:
                percent = dataset.read(1, window=Window(0, row, dataset.width, rows))
            except RasterioError as e:
                raise MapError(f"{path} cannot be read: {e}; the file may be cut short") from e
            return np.where(percent == CONFIDENCE_NODATA, np.nan, percent)

        yield read


def _names(legend: Legend) -> np.ndarray:
    """Class names by class id, as objects (256,)."""
    names = np.full(256, "", object)
    names[list(legend.ids)] = legend.names
    return names


def polygons_of(patches: Patches, transform: Affine) -> np.ndarray:
    """The polygons of patches, (n,), or multipolygons where corners join.

    Args:
        patches: as they were traced.
        transform: pixel corners (col, row) to coordinates.
    """
    points = np.stack(coordinates(transform, patches.nodes[:, 0], patches.nodes[:, 1]), axis=1)
    found = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (patches.rings, patches.shells))
    if patches.diagonal:
        apart = ~shapely.is_valid(found)
        found[apart] = shapely.make_valid(found[apart])
    return found


def measure(polygons: np.ndarray, ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Area in m² and perimeter in m of every polygon on the WGS 84 ellipsoid; the perimeter includes the holes'."""
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
    length = np.add.reduceat(_GEOD.inv(lon[edges], lat[edges], lon[edges + 1], lat[edges + 1])[2], begins)
    x, y = ground.to_equal_area.transform(points[:, 0], points[:, 1])
    sizes = np.diff(rings)
    x, y = x - np.repeat(x[rings[:-1]], sizes), y - np.repeat(y[rings[:-1]], sizes)
    area = np.abs(np.add.reduceat(x[edges] * y[edges + 1] - x[edges + 1] * y[edges], begins)) / 2
    is_hole = np.ones(len(area), bool)
    is_hole[shells[:-1]] = False
    area[is_hole] *= -1
    return np.add.reduceat(area, shells[:-1]), np.add.reduceat(length, shells[:-1])


class _Tally:
    """Counts what is written."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._polygons = np.zeros(256, np.int64)
        self._square_metres = np.zeros(256)

    def counted(self, tables: Iterator[geopandas.GeoDataFrame]) -> Iterator[geopandas.GeoDataFrame]:
        """Pass tables on, and count them."""
        for table in tables:
            ids, areas = table["class_id"].to_numpy(), table["area_m2"].to_numpy()
            self._polygons += np.bincount(ids, minlength=256)
            self._square_metres += np.bincount(ids, areas, minlength=256)
            yield table

    def summary(self, out: Path) -> VectorSummary:
        source = self._source
        has_crs = source.ground is not None
        rows = tuple(
            ClassCount(c.id, c.name, int(self._polygons[c.id]), self._square_metres[c.id] / 1e4 if has_crs else None)
            for c in source.legend.classes
            if c.id in source.wanted
        )
        notes = []
        if not source.counts[1:].any():
            notes.append("the map holds nothing but nodata, so the layer is empty")
        elif not self._polygons.any():
            notes.append("the map holds none of the classes asked for, so the layer is empty")
        if not has_crs:
            notes.append("the map has no CRS, so area_m2 and perimeter_m are null")
        return VectorSummary(out, rows, tuple(notes))
