"""From a class map to polygons: small patches merged, outlines traced and simplified with their shared borders kept."""

import io
import math
import shutil
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import geopandas
import numpy as np
import pandas
import pyarrow
import pyogrio
import rasterio
import shapely
from affine import Affine
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import Geod

from landcover.classmap import (
    CONFIDENCE_NODATA,
    MAP_NODATA,
    STRIP_PIXELS,
    check_values,
    open_map,
    open_raster,
    strips,
)
from landcover.errors import ConfigError, MapError, OutputError
from landcover.ground import Ground, coordinates
from landcover.outlines import Patches, Tracer
from landcover.outputs import check_destination, disk_errors, publish, work_folder
from landcover.specs import Legend

LAYER = "landcover"
"""The name of the layer, in formats whose layers have names."""

FORMATS = {
    ".gpkg": "GPKG",
    ".geojson": "GeoJSON",
    ".json": "GeoJSON",
    ".fgb": "FlatGeobuf",
    ".parquet": "Parquet",
    ".geoparquet": "Parquet",
    ".shp": "ESRI Shapefile",
}
SHAPEFILE_NAMES = {"perimeter_m": "perim_m", "mean_confidence": "mean_conf"}
"""Shapefile fields have at most ten characters; the other columns keep their names."""

_COMPANIONS = {
    ".gpkg": ("{name}-wal", "{name}-shm", "{name}-journal"),
    ".shp": tuple("{stem}" + s for s in (".shx", ".dbf", ".prj", ".cpg", ".qix", ".sbn", ".sbx", ".qpj", ".shp.xml")),
}
_LONGEST_EDGE_METRES = 1000.0
"""Longer edges are divided before they are measured, since a straight line on a map is not the shortest on earth."""

_GEOD = Geod(ellps="WGS84")


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


def vectorize(
    map_path: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | None = None,
    min_area: float = 0.0,
    simplify: float = 0.0,
    confidence: str | Path | None = None,
    legend: Legend | str | None = None,
    overwrite: bool = False,
    allow_no_crs: bool = False,
) -> VectorSummary:
    """Turn a class map into polygons, to use it in a GIS.

    Neighbouring polygons share their borders vertex by vertex, also after simplification. Without simplification
    they rasterise back to the identical map. Columns are class_id, class_name, area_m2, perimeter_m (with that of
    holes; both geodesic on WGS 84) and, with `confidence`, mean_confidence; a shapefile, whose field names are short,
    calls the last two perim_m and mean_conf. GeoJSON is written in WGS 84 longitude and latitude (RFC 7946).

    Args:
        map_path: a class map, uint8, 0 = nodata.
        out: the file; its suffix gives the format (.gpkg .geojson .json .fgb .parquet .geoparquet .shp).
        classes: names or ids of the classes to write; all by default. The choice is made last, so it changes no shape.
        min_area: patches smaller than this, in m², are merged into a neighbour; see `sieve`.
        simplify: tolerance in metres; bends that span less than about its square are straightened.
        confidence: a raster of percent on the grid of the map, uint8, 255 = nodata. Each polygon gets the mean over
            the pixels it was traced from.
        legend: a legend, its name or its file, for maps that carry none.
        overwrite: replace `out`.
        allow_no_crs: accept a map without a CRS; area and perimeter are then null.

    Raises:
        ConfigError: an option has an impossible value.
        MapError: the map or the confidence cannot be used.
        OutputError: `out` exists, or cannot be written.
    """
    out = Path(out)
    _check_options(out, min_area, simplify)
    check_destination(out, overwrite=overwrite)
    _check_companions(out, overwrite=overwrite)
    with open_map(map_path, legend) as (dataset, known):
        wanted = tuple(known.id_of(name) for name in classes) if classes is not None else known.ids
        ground = _ground(dataset, allow_no_crs=allow_no_crs, in_metres=min_area > 0 or simplify > 0)
        crs, transform, name = dataset.crs, dataset.transform, dataset.name
        percent = _read_confidence(confidence, dataset) if confidence is not None else None
        tracer = Tracer(dataset.width, junctions=simplify > 0)
        counts = np.zeros(256, np.int64)
        blocks: Iterator[np.ndarray] = (block for _, block in strips(dataset))
        if min_area > 0 and ground:
            ids = np.concatenate(list(blocks))
            check_values(np.bincount(ids.ravel(), minlength=256), known, name)
            blocks = iter([sieve(ids, min_area, ground)])
        outlined, row = [], 0
        for block in blocks:
            counts += np.bincount(block.ravel(), minlength=256)
            weights = _weights(percent[row : row + len(block)]) if percent is not None else None
            outlined.append(tracer.add(block, weights))
            row += len(block)
        outlined.append(tracer.finish())
    check_values(counts, known, name)
    polygons = np.concatenate([polygons_of(patches, transform) for patches in outlined])
    columns: dict[str, np.ndarray] = {"class_id": np.concatenate([p.values for p in outlined]).astype("int32")}
    columns["class_name"] = _names(known)[columns["class_id"]]
    if simplify > 0 and ground and len(polygons):
        polygons = shapely.coverage_simplify(polygons, simplify / ground.metres_per_unit)
    chosen = np.isin(columns["class_id"], wanted)
    columns["area_m2"], columns["perimeter_m"] = np.full((2, len(polygons)), np.nan)
    if ground and chosen.any():
        columns["area_m2"][chosen], columns["perimeter_m"][chosen] = measure(polygons[chosen], ground)
    if percent is not None:
        columns["mean_confidence"] = np.concatenate([p.means for p in outlined])
    table = geopandas.GeoDataFrame(columns, geometry=polygons, crs=crs.to_wkt() if crs else None)[chosen]
    _write(table, out, known)
    return _summary(table, out, known, wanted, bool(counts[1:].any()), crs is not None)


def _check_options(out: Path, min_area: float, simplify: float) -> None:
    if out.suffix.lower() not in FORMATS:
        what = f"'{out.suffix}' is the suffix of" if out.suffix else "there is no suffix in"
        raise ConfigError(f"{what} {out}; it gives the format, one of {' '.join(FORMATS)}")
    for name, value, unit in (("minimum area", min_area, "m²"), ("simplification", simplify, "m")):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"the {name} cannot be {value} {unit}; give 0 or more")


def _check_companions(out: Path, *, overwrite: bool) -> None:
    """A shapefile must not swallow the table or the index of another one."""
    there = [p.name for p in _companions(out) if p.exists()]
    if there and not overwrite:
        raise OutputError(f"{out.parent / there[0]} exists already and belongs to {out.name}; add --overwrite")


def _companions(out: Path) -> list[Path]:
    return [
        out.parent / pattern.format(name=out.name, stem=out.stem) for pattern in _COMPANIONS.get(out.suffix.lower(), ())
    ]


def _ground(dataset: rasterio.DatasetReader, *, allow_no_crs: bool, in_metres: bool) -> Ground | None:
    """Where the map lies; None for a map without a CRS, where that is allowed."""
    if dataset.crs is not None:
        return Ground.of(dataset)
    if not allow_no_crs:
        raise MapError(f"{dataset.name} has no CRS; assign one with gdal_edit -a_srs, or add --allow-no-crs")
    if in_metres:
        raise MapError(f"{dataset.name} has no CRS, so --min-area and --simplify cannot be measured; leave them out")
    return None


def _read_confidence(path: str | Path, like: rasterio.DatasetReader) -> np.ndarray:
    """The confidence on the grid of the map, uint8 (rows, width) in percent."""
    with open_raster(path) as dataset:
        if dataset.count != 1 or dataset.dtypes[0] != "uint8":
            raise MapError(f"{path} is not a confidence raster: it must have one band of uint8, 0–100 %")
        size, wanted = (dataset.height, dataset.width), (like.height, like.width)
        if size != wanted:
            raise MapError(f"{path} is not on the grid of {like.name}: {size} rows and columns, not {wanted}")
        if dataset.crs != like.crs or not dataset.transform.almost_equals(like.transform, 1e-6):
            raise MapError(f"{path} is not on the grid of {like.name}: its CRS or its transform differs")
        return dataset.read(1)


def _names(legend: Legend) -> np.ndarray:
    """Class names by class id, as objects (256,)."""
    names = np.full(256, "", object)
    names[list(legend.ids)] = legend.names
    return names


# Patches


def label_patches(ids: np.ndarray) -> np.ndarray:
    """Number the patches: pixels of one value that are joined by their edges.

    Args:
        ids: (rows, cols).

    Returns:
        Patch numbers from 0 on, int32 (rows, cols), in the order in which the patches begin.
    """
    begins = np.ones(ids.shape, bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    run = (np.cumsum(begins.ravel(), dtype=np.int32) - 1).reshape(ids.shape)
    meets = (ids[1:] == ids[:-1]) & (begins[1:] | begins[:-1])
    root = _components(int(run[-1, -1]) + 1, run[:-1][meets], run[1:][meets])
    number = np.cumsum(root == np.arange(len(root)), dtype=np.int32) - 1
    return number[root][run]


def _components(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each of `count` things, the lowest one that the links a–b connect it with."""
    root = np.arange(count)
    while True:
        a, b = root[a], root[b]
        apart = a != b
        if not apart.any():
            return root
        a, b = a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]


def sieve(ids: np.ndarray, min_area: float, ground: Ground) -> np.ndarray:
    """Merge every patch smaller than `min_area` into its neighbours, the smallest first.

    A patch takes the class it shares the longest border with, counted in pixel edges; among equals, the class that
    covers more of the map. It then is one patch with all neighbours of that class. A small patch that touches nothing
    but nodata stays as it is, nodata takes no part, and pixels of patches that are large enough never change.

    Args:
        ids: uint8 (rows, cols), 0 = nodata.
        min_area: in m².
        ground: where the pixels lie.

    Returns:
        uint8 (rows, cols).
    """
    patch = label_patches(ids)
    first = np.unique(patch, return_index=True)[1]
    cls = ids.ravel()[first]
    pixels = np.bincount(patch.ravel())
    area = _patch_areas(patch, ground)
    a, b = _borders(patch, cls, area < min_area)
    values = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    by_cover = values[np.argsort(-np.bincount(ids.ravel(), minlength=256)[values], kind="stable")]
    place = np.zeros(256, np.int64)
    place[by_cover] = np.arange(len(by_cover))
    return by_cover.astype(np.uint8)[_absorb(a, b, place[cls], pixels, area, min_area)[patch]]


def _patch_areas(patch: np.ndarray, ground: Ground) -> np.ndarray:
    """Area of every patch in m², summed over its pixels."""
    total = np.zeros(int(patch.max()) + 1)
    rows = max(1, STRIP_PIXELS // patch.shape[1])
    for start in range(0, len(patch), rows):
        block = patch[start : start + rows]
        areas = ground.pixel_areas(start, start + len(block))
        total += np.bincount(block.ravel(), weights=areas.ravel(), minlength=len(total))
    return total


def _borders(patch: np.ndarray, cls: np.ndarray, small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two patches at every pixel edge where classes meet and at least one patch is small."""
    pairs = [(patch[:, :-1], patch[:, 1:]), (patch[:-1], patch[1:])]
    sides = [np.concatenate(side) for side in zip(*((a[a != b], b[a != b]) for a, b in pairs), strict=True)]
    a, b = sides
    keep = (cls[a] != MAP_NODATA) & (cls[b] != MAP_NODATA) & (small[a] | small[b])
    return a[keep], b[keep]


def _absorb(
    a: np.ndarray, b: np.ndarray, cls: np.ndarray, pixels: np.ndarray, area: np.ndarray, min_area: float
) -> np.ndarray:
    """The class of every patch after merging; `a`, `b` are the patches at each pixel edge between two.

    In each round those patches change that come before all their small neighbours. They do not touch each other, so
    it is as if they were merged one after the other. Patches of one size come in a scattered order, so that a few
    rounds do.
    """
    count, kinds = len(cls), int(cls.max()) + 1
    root = np.arange(count)
    scattered = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    while True:
        small = area < min_area
        keep = (a != b) & (small[a] | small[b])
        a, b = a[keep], b[keep]
        if not len(a):
            return cls[root]
        here, there = np.concatenate([a, b]), np.concatenate([b, a])
        turn = np.full(count, count)
        waiting = np.unique(here[small[here]])
        turn[waiting[np.lexsort((scattered[waiting], pixels[waiting]))]] = np.arange(len(waiting))
        earliest = np.full(count, count)
        np.minimum.at(earliest, here, turn[there])
        changes = turn < earliest
        here, there = here[changes[here]], there[changes[here]]
        who, at = np.unique(here, return_inverse=True)
        votes = np.bincount(at * kinds + cls[there], minlength=len(who) * kinds).reshape(-1, kinds)
        cls[who] = votes.argmax(axis=1)
        same = cls[here] == cls[there]
        joined = _components(count, here[same], there[same])
        pixels, area = (np.bincount(joined, weights=w, minlength=count) for w in (pixels, area))
        root, a, b = joined[root], joined[a], joined[b]


# Outlines


def polygons_of(patches: Patches, transform: Affine) -> np.ndarray:
    """The polygons of patches, (n,); `transform` from pixel corners (col, row) to coordinates."""
    points = np.stack(coordinates(transform, patches.nodes[:, 0], patches.nodes[:, 1]), axis=1)
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (patches.rings, patches.shells))


def _weights(percent: np.ndarray) -> np.ndarray:
    return np.where(percent == CONFIDENCE_NODATA, np.nan, percent)


def measure(polygons: np.ndarray, ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """Area in m² and perimeter in m of every polygon on the WGS 84 ellipsoid; the perimeter includes the holes'."""
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


# Files


def _write(table: geopandas.GeoDataFrame, out: Path, legend: Legend) -> None:
    """Write the polygons beside their destination, and move them there when they are complete."""
    with _write_errors(out), disk_errors(out), work_folder(out) as work:
        done = work / "done"
        done.mkdir()
        _WRITERS.get(out.suffix.lower(), _write_single)(table, done / out.name)
        if out.suffix.lower() == ".gpkg":
            add_style(done / out.name, legend)
        for stale in _companions(out):
            if not (done / stale.name).exists():
                stale.unlink(missing_ok=True)
        publish(done, out)


@contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except (DataSourceError, DataLayerError, sqlite3.Error, pyarrow.ArrowException) as e:
        raise OutputError(f"{out} cannot be written: {e}; is the disk full?") from e


def _write_single(table: geopandas.GeoDataFrame, path: Path) -> None:
    """Let GDAL write in memory and Python on disk, so that no write error is lost."""
    driver = FORMATS[path.suffix.lower()]
    options = {"RFC7946": "YES"} if driver == "GeoJSON" and table.crs is not None else {}
    content = io.BytesIO()
    _to_gdal(table, content, driver, **options)
    content.seek(0)
    with path.open("wb") as f:
        shutil.copyfileobj(content, f, 1 << 24)


def _write_shapefile(table: geopandas.GeoDataFrame, path: Path) -> None:
    _to_gdal(table.rename(columns=SHAPEFILE_NAMES), path, "ESRI Shapefile", ENCODING="UTF-8")
    if pyogrio.read_info(path, force_feature_count=True)["features"] != len(table):
        raise DataLayerError("not all polygons arrived")


def _write_parquet(table: geopandas.GeoDataFrame, path: Path) -> None:
    table.to_parquet(path, index=False, compression="zstd")


_WRITERS = {".shp": _write_shapefile, ".parquet": _write_parquet, ".geoparquet": _write_parquet}


def _to_gdal(table: geopandas.GeoDataFrame, target: io.BytesIO | Path, driver: str, **options: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*'crs' was not provided")  # allowed by the caller
        pyogrio.write_dataframe(
            table, target, layer=LAYER, driver=driver, geometry_type="Polygon", use_arrow=True, **options
        )


def add_style(path: Path, legend: Legend) -> None:
    """Put a QGIS style into a GeoPackage, as QGIS itself stores it, so that the layer opens coloured.

    References:
        QGIS documentation, "Storing styles in a database": the table `layer_styles`.
    """
    connection = sqlite3.connect(path)
    try:
        with connection:
            column = connection.execute("SELECT column_name FROM gpkg_geometry_columns").fetchone()[0]
            connection.execute(_STYLE_TABLE)
            connection.execute(
                "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column,"
                " styleName, styleQML, styleSLD, useAsDefault, description, owner)"
                " VALUES ('', '', ?, ?, 'landcover', ?, '', 1, ?, '')",
                (LAYER, column, qml(legend), legend.title or legend.name),
            )
            connection.execute(
                "INSERT INTO gpkg_contents (table_name, data_type, identifier, description)"
                " VALUES ('layer_styles', 'attributes', 'layer_styles', '')"
            )
    finally:
        connection.close()


_STYLE_TABLE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256),
    f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
    useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)"""


def qml(legend: Legend) -> str:
    """A QGIS style that fills every class with its colour, by class_name."""
    categories = "".join(
        f'<category value={quoteattr(c.name)} symbol="{i}" label={quoteattr(c.name)} render="true" type="string"/>'
        for i, c in enumerate(legend.classes)
    )
    symbols = "".join(_symbol(str(i), c.rgb) for i, c in enumerate(legend.classes))
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.22.0" styleCategories="Symbology">'
        '<renderer-v2 type="categorizedSymbol" attr="class_name" symbollevels="0" enableorderby="0" forceraster="0">'
        f"<categories>{categories}</categories><symbols>{symbols}</symbols></renderer-v2>"
        "<layerGeometryType>2</layerGeometryType></qgis>"
    )


def _symbol(name: str, rgb: tuple[int, int, int]) -> str:
    """A fill without an outline, since outlines hide small polygons."""
    colour = ",".join(map(str, (*rgb, 255)))
    values = {"color": colour, "style": "solid", "outline_style": "no"}
    options = "".join(f'<Option name="{k}" value="{v}" type="QString"/>' for k, v in values.items())
    props = "".join(f'<prop k="{k}" v="{v}"/>' for k, v in values.items())
    return (
        f'<symbol name="{name}" type="fill" alpha="1" clip_to_extent="1" force_rhr="0">'
        f'<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">{options}</Option>{props}'
        "</layer></symbol>"
    )


def _summary(
    table: geopandas.GeoDataFrame, out: Path, legend: Legend, wanted: Sequence[int], has_data: bool, has_crs: bool
) -> VectorSummary:
    by_class: pandas.DataFrame = table.groupby("class_id")["area_m2"].agg(["size", "sum"])
    sizes, areas = by_class["size"].to_dict(), by_class["sum"].to_dict()
    rows = tuple(
        ClassCount(c.id, c.name, sizes.get(c.id, 0), areas.get(c.id, 0.0) / 1e4 if has_crs else None)
        for c in legend.classes
        if c.id in wanted
    )
    notes = []
    if not has_data:
        notes.append("the map holds nothing but nodata, so the layer is empty")
    elif not len(table):
        notes.append("the map holds none of the classes asked for, so the layer is empty")
    if not has_crs:
        notes.append("the map has no CRS, so area_m2 and perimeter_m are null")
    return VectorSummary(out, rows, tuple(notes))
