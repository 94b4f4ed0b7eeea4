"""From a class map to polygons: small patches merged, outlines traced and simplified with their shared borders kept."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
import pyarrow.compute
import rasterio
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landcover import __version__
from landcover.antimeridian import lonlat_parts, torn
from landcover.classmap import CONFIDENCE_NODATA, check_values, count_values, open_map, open_raster, restripped, strips
from landcover.errors import ConfigError, MapError, OutputError
from landcover.features import BOUNDS, KNOWN, Maker, bounds_column, geometry_field, measure, numbers, told_crs
from landcover.footprints import holds_pole, may_cross_antimeridian
from landcover.grid import Box
from landcover.ground import Ground
from landcover.outlines import STRIP_ROWS, Patches, Simplification, trace
from landcover.pipeline import read_ahead
from landcover.provenance import inherited, legend_tag, tags
from landcover.regions import Area, read_area
from landcover.sieve import sieved
from landcover.specs import Legend
from landcover.vectorfiles import FORMATS, check_layer, write_layer

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_MOST_RUNS = 1_000_000
"""Runs of pixels in the rows that are traced at a time."""

_COARSE_METRES = 1000.0
"""Outlines that do not run along pixel edges are measured edge by edge where pixels are larger."""


@dataclass(frozen=True)
class VectorOptions:
    """How a class map becomes polygons.

    Attributes:
        classes: names or ids of the classes to write; None for all. The choice is made last, so it changes no shape.
        min_area: patches smaller than this, in m², are merged into a neighbour; see `landcover.sieve`.
        connect: 4 if pixels are joined by their edges, 8 if by their corners too; then a patch can be a multipolygon.
        simplify: tolerance in metres; bends that span less than about its square are straightened.
        smooth: round the corners of outlines; shared borders stay shared.
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

    classes: Sequence[str | int] | None = None
    min_area: float = 0.0
    connect: int = 4
    simplify: float = 0.0
    smooth: bool = False
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
        if self.fill_holes and self.points:
            raise ConfigError(
                "--fill-holes and --points exclude each other: a point could lie in the hole of its polygon"
            )
        if isinstance(self.classes, str):
            raise ConfigError(f"classes is one text, '{self.classes}'; give a list of names, such as ['forest']")
        if self.crs is not None:
            try:
                crs = CRS.from_user_input(self.crs)
            except CRSError as e:
                raise ConfigError(
                    f"--crs '{self.crs}' is not a coordinate reference system; write for example EPSG:4326"
                ) from e
            if not (crs.is_geographic or crs.is_projected):
                raise ConfigError(
                    f"--crs '{self.crs}' says nothing of places on the earth; write for example EPSG:4326"
                )

    @property
    def in_metres(self) -> bool:
        """Whether something is to be measured on the ground."""
        return self.min_area > 0 or self.simplify > 0


@dataclass(frozen=True)
class ClassCount:
    """The polygons of one class; hectares is None where the map has no CRS, or where some lie off the earth."""

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


def vectorize(
    map_path: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    watch: Callable[[int], None] = lambda rows: None,
    **options: Any,
) -> VectorSummary:
    """Turn a class map into polygons, to use it in a GIS.

    Neighbouring polygons share their borders vertex by vertex, so that no gap opens between them when they are
    simplified or brought to another CRS. Without simplification they cover what GDAL's cover, and rasterise back to the
    identical map.

    Columns are class_id, class_name, area_m2, perimeter_m (with that of holes; both geodesic on WGS 84) and, with
    `confidence`, mean_confidence. A shapefile, whose field names are short, calls the last two perim_m and mean_conf.
    GeoJSON is written in WGS 84 longitude and latitude (RFC 7946). There, and with a `crs` of degrees, polygons that
    cross the antimeridian are cut.

    Args:
        map_path: a class map, uint8, 0 = nodata.
        out: the file; its suffix gives the format (.gpkg .geojson .json .fgb .parquet .geoparquet .shp).
        overwrite: replace `out`.
        watch: is told of so many more rows as they are read, each twice with `min_area`; what it raises ends the work.
        options: the attributes of `landcover.vectorization.VectorOptions`, such as `min_area` and `simplify`.

    Raises:
        ConfigError: an option has an impossible value.
        MapError: the map or the confidence cannot be used.
        OutputError: `out` exists, is what is to be read, or cannot be written.
    """
    out, how = Path(out), VectorOptions(**options)
    check_layer(out, overwrite=overwrite)
    if out.resolve() in {Path(read).resolve() for read in (map_path, how.aoi, how.confidence) if read is not None}:
        raise OutputError(f"{out} is an input of this run; choose another name for the output")
    with _open(map_path, how, watch) as source, ExitStack() as stack:
        facts, cut = _facts(source, how), _is_cut(source, how)  # before another thread reads the dataset
        made = stack.enter_context(read_ahead(_features(source, how), depth=1))
        tally = _Tally(source)
        tables: Iterator[pyarrow.Table] = (_as_asked(table, how, cut) for table in made)
        if how.dissolve:
            tables = iter([_dissolved(pyarrow.concat_tables(list(tables)))])
        if FORMATS[out.suffix.lower()] == "GeoJSON" and source.ground is not None:
            tables = map(partial(_on_earth, name=source.dataset.name), tables)
            if not how.points and may_cross_antimeridian(source.ground):
                tables = map(_cut, tables)
        several = how.dissolve or how.connect == 8 or cut
        kind = "Point" if how.points else "MultiPolygon" if several else "Polygon"
        given = (t.drop_columns(KNOWN) for t in tally.counted(tables))
        write_layer(given, out, source.legend, facts, kind)
    return tally.summary(out, how)


def polygons(map_path: str | Path, **options: Any) -> Iterator["GeoDataFrame"]:
    """Yield the polygons of a class map while they are made, some at a time, for a notebook or a pipeline.

    Args:
        map_path: a class map, uint8, 0 = nodata.
        options: the attributes of `landcover.vectorization.VectorOptions`; `dissolve` is not among them, for it takes
            all polygons.

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
    import geopandas

    with _open(map_path, how) as source:
        cut = _is_cut(source, how)
        for table in _features(source, how):
            if len(table):
                yield geopandas.GeoDataFrame.from_arrow(_as_asked(table, how, cut).drop_columns([BOUNDS, KNOWN]))


@dataclass(frozen=True)
class _Source:
    """An open map, and what is known of it.

    Attributes:
        dataset: open.
        legend: of its values.
        wanted: class ids that are to be written.
        ground: where it lies; None without a CRS.
        counts: how often each value was seen, int64 (256,), as it is read.
        watch: is told of rows that were read.
    """

    dataset: rasterio.DatasetReader
    legend: Legend
    wanted: tuple[int, ...]
    ground: Ground | None
    counts: np.ndarray
    watch: Callable[[int], None]


@contextmanager
def _open(
    map_path: str | Path, how: VectorOptions, watch: Callable[[int], None] = lambda rows: None
) -> Iterator[_Source]:
    with open_map(map_path, how.legend) as (dataset, legend):
        wanted = tuple(legend.id_of(name) for name in how.classes) if how.classes is not None else legend.ids
        if how.crs is not None and dataset.crs is None:
            raise ConfigError(f"--crs {how.crs} is given, but the map has no CRS; leave it out")
        yield _Source(dataset, legend, wanted, _ground(dataset, how), np.zeros(256, np.int64), watch)


def _facts(source: _Source, how: VectorOptions) -> dict[str, str]:
    """What made the polygons: the map, what is known of it, and the options that are not the defaults."""
    changed = {f.name: getattr(how, f.name) for f in fields(how) if getattr(how, f.name) != f.default}
    told = {k: Path(v).name if k in ("aoi", "confidence") else v for k, v in changed.items() if k != "legend"}
    polygons = {"version": __version__, "map": Path(source.dataset.name).name, **told}
    return tags(polygons=polygons) | inherited(source.dataset.tags())


def _features(source: _Source, how: VectorOptions) -> Iterator[pyarrow.Table]:
    """Patches of classes that are wanted, as they are complete."""
    dataset = source.dataset
    crs = CRS.from_wkt(dataset.crs.to_wkt()) if dataset.crs else None
    maker = Maker(source.legend, dataset.transform, crs, how.confidence is not None)
    for table in map(maker.features, _outlined(source, how)):
        if how.classes is not None:
            wanted = pyarrow.array(source.wanted, pyarrow.int32())
            table = table.filter(pyarrow.compute.is_in(table["class_id"], wanted))
        yield _remeasured(table, source.ground, how) if len(table) else table


def _remeasured(table: pyarrow.Table, ground: Ground | None, how: VectorOptions) -> pyarrow.Table:
    """A table with its holes filled, if asked for, and measured anew where what was traced does not hold."""
    coarse = ground is not None and ground.pixel_metres > _COARSE_METRES and (how.simplify > 0 or how.smooth)
    if not (how.fill_holes or coarse):
        return table
    shapes = _shapes(table)
    if how.fill_holes:
        shapes = shapely.polygons(shapely.get_exterior_ring(shapes))
    measures = measure(shapes, ground) if ground is not None else ()
    for name, values in zip(("area_m2", "perimeter_m"), measures, strict=False):
        table = table.set_column(table.column_names.index(name), name, pyarrow.array(values, from_pandas=True))
    return _with_shapes(table, shapes)


def _shapes(table: pyarrow.Table) -> np.ndarray:
    return shapely.from_wkb(table["geometry"].to_numpy())


def _with_shapes(table: pyarrow.Table, shapes: np.ndarray, crs: CRS | None = None) -> pyarrow.Table:
    """A table with other geometries, in another CRS if one is named."""
    at, bounds_at = (table.column_names.index(n) for n in ("geometry", BOUNDS))
    wkb = pyarrow.array(shapely.to_wkb(shapes), pyarrow.large_binary())
    table = table.set_column(at, geometry_field(crs) if crs is not None else table.schema.field(at), wkb)
    return table.set_column(bounds_at, BOUNDS, bounds_column(shapely.bounds(shapes).reshape(-1, 4).T))


def _outlined(source: _Source, how: VectorOptions) -> Iterator[Patches]:
    """Trace the map strip by strip, while the next rows are read."""
    dataset, ground = source.dataset, source.ground
    place = dataset.transform, dataset.crs, dataset.shape
    area = read_area(how.aoi, *place) if how.aoi is not None else None
    with ExitStack() as stack:
        read = stack.enter_context(_confidence(how.confidence, dataset)) if how.confidence is not None else None
        rows = stack.enter_context(read_ahead(_rows(source, area, how)))
        yield from trace(
            ((ids, read(row, len(ids)) if read else None) for row, ids in rows),
            dataset.width,
            diagonal=how.connect == 8,
            junctions=True,
            ground=ground,
            simplification=_simplification(how, ground),
        )


def _simplification(how: VectorOptions, ground: Ground | None) -> Simplification | None:
    if how.simplify == 0 and not how.smooth:
        return None
    return Simplification((how.simplify / ground.pixel_metres) ** 2 if ground else 0.0, how.smooth)


def _rows(source: _Source, area: Area | None, how: VectorOptions) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of the map, some at a time, with the first of each."""
    blocks = _checked(source, area)
    if how.min_area > 0 and source.ground:
        for _ in blocks:  # how much each class covers has to be known before small patches are merged
            pass
        cover = source.counts.copy()
        blocks = sieved(_checked(source, area), how.min_area, source.ground, cover)
        source.counts[:] = 0
    return restripped(blocks, STRIP_ROWS) if how.simplify > 0 or how.smooth else _parts(blocks)


def _parts(blocks: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """The same rows, fewer at a time where classes change often, so that memory does not hold millions of polygons."""
    for row, ids in blocks:
        changes = int(np.count_nonzero(ids[:, 1:] != ids[:, :-1])) + len(ids)
        rows = max(1, len(ids) * _MOST_RUNS // changes)
        for first in range(0, len(ids), rows):
            yield row + first, ids[first : first + rows]


def _checked(source: _Source, area: Area | None) -> Iterator[tuple[int, np.ndarray]]:
    """Rows whose values are all in the legend; nodata outside of an area."""
    dataset = source.dataset
    for row, ids in strips(dataset):
        counts = count_values(ids, source.legend)
        check_values(counts, source.legend, dataset.name)
        if area is not None:
            ids = np.where(area.mask(Box(row, row + len(ids), 0, dataset.width)), ids, 0).astype(np.uint8)
            counts = count_values(ids, source.legend)
        source.counts[:] += counts
        source.watch(len(ids))
        yield row, ids


def _as_asked(table: pyarrow.Table, how: VectorOptions, cut: bool) -> pyarrow.Table:
    """A table as it is to be written: as points, in the CRS asked for; `cut` as in `_is_cut`."""
    if how.points:
        table = _with_shapes(table, shapely.point_on_surface(_shapes(table)))
    if how.crs is not None:
        table = _moved(table, how.crs, cut=cut)
    if (how.connect == 8 or cut) and not how.points:
        several = [g if g.geom_type == "MultiPolygon" else shapely.multipolygons([g]) for g in _shapes(table)]
        table = _with_shapes(table, np.array(several, object))
    return table


def _moved(table: pyarrow.Table, crs: str, *, cut: bool) -> pyarrow.Table:
    """A table in another CRS; what crosses the antimeridian in two parts, if it may be cut."""
    here, there = CRS.from_user_input(told_crs(table)), CRS.from_user_input(crs)
    try:
        transformer = Transformer.from_crs(here, there, always_xy=True)
    except ProjError as e:
        raise ConfigError(f"the map cannot be brought to --crs {crs}: {e}") from e

    def move(points: np.ndarray) -> np.ndarray:
        return np.stack(transformer.transform(*points.T), axis=1)

    before = _shapes(table)
    points = move(shapely.get_coordinates(before))
    if not np.isfinite(points).all():
        raise ConfigError(f"the map reaches beyond what --crs {crs} can show; leave it out to keep the map's CRS")
    moved = shapely.set_coordinates(before.copy(), points)
    apart = np.flatnonzero(torn(before, moved, move))
    parts = lonlat_parts(before[apart], here, there) if cut else moved[apart]
    if shapely.equals_identical(parts, moved[apart]).any():
        raise ConfigError(
            f"--crs {crs} would tear polygons that cross its antimeridian or lie around a pole; leave it out to keep "
            "the map's CRS, or write GeoJSON without it, which is cut there"
        )
    moved[apart] = parts
    return _with_shapes(table, moved, there)


def _is_cut(source: _Source, how: VectorOptions) -> bool:
    """Whether a map that is not in degrees goes into some, and may cross the antimeridian there."""
    if how.crs is None or how.points or source.ground is None or source.ground.crs.is_geographic:
        return False
    there = CRS.from_user_input(how.crs)
    if not there.is_geographic or there.axis_info[0].unit_name != "degree" or holds_pole(source.ground):
        return False
    return may_cross_antimeridian(source.ground)


def _is_lonlat(crs: str) -> bool:
    return CRS.from_user_input(crs).equals("EPSG:4326", ignore_axis_order=True)


def _on_earth(table: pyarrow.Table, name: str) -> pyarrow.Table:
    """The same table; what is off the earth has no area, and no longitude and latitude."""
    if table["area_m2"].null_count:
        raise MapError(f"{name} has pixels that lie off the earth, where GeoJSON has no place; cut them off")
    return table


def _cut(table: pyarrow.Table) -> pyarrow.Table:
    """A table in longitude and latitude, its polygons cut at the antimeridian.

    GDAL would do it too, but it loses holes that touch the antimeridian, and crashes on some longitudes above 180.
    """
    shapes, here, there = _shapes(table), CRS.from_user_input(told_crs(table)), CRS.from_epsg(4326)
    return _with_shapes(table, lonlat_parts(shapes, here, there) if len(table) else shapes, there)


def _dissolved(table: pyarrow.Table) -> pyarrow.Table:
    """One multipolygon for each class. Patches of a class touch at points at most, so nothing has to be merged."""
    rows, shapes = [], []
    for number in np.unique(table["class_id"].to_numpy()):
        part = table.filter(pyarrow.compute.equal(table["class_id"], number))
        known = part[KNOWN].to_numpy()
        row = {"class_id": number, "class_name": part["class_name"][0].as_py(), KNOWN: known.sum()}
        sums = {name: pyarrow.compute.sum(part[name], skip_nulls=False) for name in ("area_m2", "perimeter_m")}
        row |= {name: total.as_py() for name, total in sums.items()}
        if "mean_confidence" in part.column_names:
            row["mean_confidence"] = (
                np.nansum(part["mean_confidence"].to_numpy() * known) / known.sum() if known.any() else None
            )
        rows.append(row)
        shapes.append(shapely.multipolygons(shapely.get_parts(_shapes(part))))
    columns = {f.name: pyarrow.array([r.get(f.name) for r in rows], f.type) for f in table.schema}
    return _with_shapes(pyarrow.table(columns, table.schema), np.array(shapes, object))


def _ground(dataset: rasterio.DatasetReader, how: VectorOptions) -> Ground | None:
    """Where the map lies; None for a map without a CRS, where that is allowed."""
    if dataset.crs is not None:
        return Ground.of(dataset)
    if not how.allow_no_crs:
        raise MapError(f"{dataset.name} has no CRS; assign one with rio edit-info --crs, or add --allow-no-crs")
    if how.in_metres:
        raise MapError(f"{dataset.name} has no CRS, so --min-area and --simplify cannot be measured; leave them out")
    return None


@contextmanager
def _confidence(path: str | Path, like: rasterio.DatasetReader) -> Iterator[Callable[[int, int], np.ndarray]]:
    """Open the confidence, which must lie on the grid of the map; gives a function of first row and rows.

    It returns percent, float64 (rows, width), nan where it is not known.
    """
    with open_raster(path) as dataset:
        if dataset.count != 1 or dataset.dtypes[0] != "uint8" or legend_tag(dataset.tags()) is not None:
            raise MapError(
                f"{path} is not a confidence raster: it must have one band of uint8, 0–100 %, and no classes"
            )
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
            unknown = percent == CONFIDENCE_NODATA
            if (odd := percent[(percent > 100) & ~unknown]).size:
                raise MapError(f"{path} holds {odd[0]}; confidence is 0–100 %, {CONFIDENCE_NODATA} = nodata")
            return np.where(unknown, np.nan, percent)

        yield read


class _Tally:
    """Counts what is written."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._polygons = np.zeros(256, np.int64)
        self._square_metres = np.zeros(256)

    def counted(self, tables: Iterator[pyarrow.Table]) -> Iterator[pyarrow.Table]:
        """Pass tables on, and count them."""
        for table in tables:
            ids = numbers(table["class_id"])
            self._polygons += np.bincount(ids, minlength=256)
            if self._source.ground is not None:
                self._square_metres += np.bincount(ids, numbers(table["area_m2"]), minlength=256)
                if table["area_m2"].null_count:
                    lost = table.filter(pyarrow.compute.is_null(table["area_m2"]))
                    self._square_metres[numbers(lost["class_id"])] = np.nan
            yield table

    def summary(self, out: Path, how: VectorOptions) -> VectorSummary:
        source = self._source
        has_crs = source.ground is not None
        told = np.isfinite(self._square_metres) & has_crs
        rows = tuple(
            ClassCount(c.id, c.name, int(self._polygons[c.id]), self._square_metres[c.id] / 1e4 if told[c.id] else None)
            for c in source.legend.classes
            if c.id in source.wanted
        )
        notes = []
        if not source.counts[1:].any():
            where = "nothing of the map lies within --aoi" if how.aoi else "the map holds nothing but nodata"
            notes.append(f"{where}, so the layer is empty")
        elif not self._polygons.any():
            notes.append("the map holds none of the classes asked for, so the layer is empty")
        if not has_crs:
            notes.append("the map has no CRS, so area_m2 and perimeter_m are null")
        elif not told.all():
            notes.append("some polygons reach off the earth, so their area_m2 and the hectares of their class are null")
        geojson = FORMATS[out.suffix.lower()] == "GeoJSON"
        ground = source.ground
        if geojson and not how.points and ground and not ground.crs.is_geographic and holds_pole(ground):
            notes.append(
                "the map holds a pole, beside which long edges are others in degrees, so that land there "
                "can lie in the polygon of a neighbour; to keep it where it is write another format, such as .gpkg"
            )
        if geojson and how.crs is not None and not _is_lonlat(how.crs):
            notes.append(
                f"GeoJSON is longitude and latitude on WGS 84 (RFC 7946), not --crs {how.crs}; for that write another "
                "format, such as .gpkg"
            )
        return VectorSummary(out, rows, tuple(notes))
