"""Polygons on disk: which suffix is which format, files that appear when they are complete, and a QGIS style."""

import itertools
import json
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pyarrow
import pyarrow.parquet
import pyproj
from pyproj import Transformer
from pyproj.exceptions import CRSError

from landcover.errors import ConfigError, OutputError
from landcover.features import BOUNDS, CORNERS, told_crs
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


def check_layer(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that cannot be written.

    Raises:
        ConfigError: its suffix is no format.
        OutputError: it, or a file that belongs to it, exists, or cannot be written.
    """
    if out.suffix.lower() not in FORMATS:
        what = f"'{out.suffix}' is the suffix of" if out.suffix else "there is no suffix in"
        raise ConfigError(f"{what} {out}; it gives the format, one of {' '.join(FORMATS)}")
    if out.suffix != ".shp" and out.suffix.lower() == ".shp":  # GDAL takes it for the name of a folder
        raise ConfigError(f"'{out.suffix}' is the suffix of {out}; write .shp in small letters")
    check_destination(out, overwrite=overwrite)
    there = [p.name for p in _companions(out) if p.exists()]  # a shapefile must not swallow the table of another one
    if there and not overwrite:
        raise OutputError(f"{out.parent / there[0]} exists already and belongs to {out.name}; add --overwrite")


def _companions(out: Path) -> list[Path]:
    return [
        out.parent / pattern.format(name=out.name, stem=out.stem) for pattern in _COMPANIONS.get(out.suffix.lower(), ())
    ]


def write_layer(
    tables: Iterator[pyarrow.Table], out: Path, legend: Legend, facts: dict[str, str], kind: str = "Polygon"
) -> None:
    """Write tables one after the other, beside their destination, and move the file there when it is complete.

    Args:
        tables: as `landcover.features` makes them, at least one; they are taken as they are made.
        out: the file.
        legend: for the style of a GeoPackage.
        facts: what made the polygons, for the metadata of a GeoPackage and of GeoParquet.
        kind: of the geometries, "Polygon", "MultiPolygon" or "Point".

    Raises:
        OutputError: the disk is full, or the file cannot be written for another reason.
        LandcoverError: whatever the making of a table raises.
    """
    with _write_errors(out), disk_errors(out), work_folder(out) as work:
        done = work / "done"
        done.mkdir()
        geopackage = out.suffix.lower() == ".gpkg"
        made = done / (f"{LAYER}.gpkg" if geopackage else out.name)  # SQLite opens no path of more than 512 bytes
        _WRITERS.get(out.suffix.lower(), _write_gdal)(tables, made, kind, facts)
        if geopackage and kind != "Point":
            add_style(made, legend)
        made.rename(done / out.name)
        if out.suffix == ".shp":
            out.unlink(missing_ok=True)  # its parts come one after the other, and must not be taken for its own
        for stale in _companions(out):
            if not (done / stale.name).exists():
                stale.unlink(missing_ok=True)
        publish(done, out)


@contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except (_UnwrittenError, sqlite3.Error, pyarrow.ArrowException) as e:
        raise OutputError(f"{out} cannot be written: {e}; is the disk full?") from e


class _UnwrittenError(Exception):
    """GDAL could not write a file."""


def _write_gdal(tables: Iterator[pyarrow.Table], path: Path, kind: str, facts: dict[str, str]) -> None:
    """Let GDAL take the tables as a stream of Arrow batches; it is looked at afterwards whether all of them arrived."""
    import pyogrio  # here, as it imports geopandas, which GeoParquet does without
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

    driver = FORMATS[path.suffix.lower()]
    tables = iter(_up_to_some(tables))
    first = next(tables)
    crs = _kept_crs(first, driver, path)
    first = _arrow(first, driver)
    given = _Stream(itertools.chain([first], (_arrow(t, driver) for t in tables)))
    options = {"ESRI Shapefile": {"ENCODING": "UTF-8"}}.get(driver, {})
    if driver == "GeoJSON" and crs is not None:
        options = {"RFC7946": "YES"}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*'crs' was not provided")  # allowed by the caller
            pyogrio.raw.write_arrow(
                pyarrow.RecordBatchReader.from_batches(first.schema, given.batches()),
                path,
                layer=LAYER,
                driver=driver,
                geometry_name="geometry",
                geometry_type=kind,
                crs=crs,
                layer_metadata=facts if driver == "GPKG" else None,
                layer_options=options,
            )
        arrived = _arrived(path, driver, given.rows)
    except (DataSourceError, DataLayerError, FeatureError, pyarrow.ArrowException, RuntimeError) as e:
        if given.failure is not None:
            raise given.failure from None
        raise _UnwrittenError(str(e)) from e
    if not arrived:
        raise _UnwrittenError("not all polygons arrived")


def _kept_crs(table: pyarrow.Table, driver: str, path: Path) -> str | None:
    """The CRS of a table, in words of which GDAL's driver makes the same CRS again.

    Drivers look up a CRS without a code by its name, projection and datum, and overlook its unit or prime meridian.

    Raises:
        OutputError: none are found; the polygons would come to lie elsewhere.
    """
    told = told_crs(table)
    if told is None:
        return None
    crs = pyproj.CRS.from_json_dict(told)
    if driver == "GeoJSON" or not len(table) or crs.to_authority(min_confidence=100):
        return crs.to_wkt()
    for version in ("WKT2_2019", "WKT1_GDAL"):
        with suppress(CRSError):
            words = crs.to_wkt(version)
            if words and _keeps(words, crs, table, driver, path):
                return words
    raise OutputError(
        f"{driver} cannot hold the coordinate reference system '{crs.name}', in it the polygons would lie elsewhere; "
        "write .parquet, or name another one with --crs, such as EPSG:4326"
    )


def _keeps(words: str, crs: pyproj.CRS, table: pyarrow.Table, driver: str, path: Path) -> bool:
    """Whether a file with a CRS in these words has its first row where it is to lie."""
    import pyogrio

    trial = path.with_name(f"trial{path.suffix}")
    first = _arrow(table.slice(0, 1), driver)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what the words cannot say: it is looked at what becomes of them
        pyogrio.raw.write_arrow(
            first, trial, driver=driver, geometry_name="geometry", geometry_type="Unknown", crs=words
        )
        found = pyogrio.read_info(trial)["crs"]
    for part in path.parent.glob("trial.*"):
        part.unlink()
    if found is None:
        return False
    bounds = table[BOUNDS].combine_chunks()
    x, y = (np.array([bounds.field(corner)[0].as_py() for corner in pair]) for pair in (CORNERS[::2], CORNERS[1::2]))
    there = Transformer.from_crs(crs, found, always_xy=True).transform(x, y)
    return bool(np.allclose(there, (x, y), rtol=1e-9, atol=1e-6))


def _up_to_some(tables: Iterator[pyarrow.Table]) -> Iterator[pyarrow.Table]:
    """Tables without the empty ones before the first that holds anything; an empty one where none does."""
    table = next(tables)
    while not len(table) and (after := next(tables, None)) is not None:
        table = after
    yield table
    yield from tables


class _Stream:
    """Arrow batches of tables, how many rows they had, and what went wrong while they were made."""

    def __init__(self, tables: Iterator[pyarrow.Table]) -> None:
        self._tables = tables
        self.rows = 0
        self.failure: BaseException | None = None

    def batches(self) -> Iterator[pyarrow.RecordBatch]:
        try:
            for table in self._tables:
                self.rows += len(table)
                yield from table.to_batches()
        except BaseException as e:
            self.failure = e  # Arrow would pass on its text alone
            raise


def _arrow(table: pyarrow.Table, driver: str) -> pyarrow.Table:
    """A table without bounds, its columns named as a format allows."""
    table = table.drop_columns(BOUNDS)
    if driver == "ESRI Shapefile":
        table = table.rename_columns([SHAPEFILE_NAMES.get(name, name) for name in table.column_names])
    return table


def _arrived(path: Path, driver: str, rows: int) -> bool:
    """Whether a file holds so many rows, and ends as it should."""
    if driver == "GeoJSON":
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - 16))
            return b"".join(f.read().split()).endswith((b"}]}", b"[]}"))
    import pyogrio

    if pyogrio.read_info(path, layer=0, force_feature_count=True)["features"] != rows:
        return False
    return _is_indexed(path) if driver == "GPKG" else rows == 0 or _has_row(path, rows - 1)


def _has_row(path: Path, row: int) -> bool:
    """Whether a row is in a file that was counted by its header; GDAL does not say where the end of one was lost."""
    import pyogrio

    _, _, shapes, columns = pyogrio.raw.read(path, fids=[row])
    return shapes[0] is not None and not np.isnan(columns[0][0])


def _is_indexed(path: Path) -> bool:
    """Whether a GeoPackage has its spatial index; on a full disk GDAL leaves it out and says so only on the screen."""
    with closing(sqlite3.connect(path)) as connection:
        found = "SELECT count(*) FROM gpkg_extensions WHERE extension_name = 'gpkg_rtree_index'"
        return connection.execute(found).fetchone()[0] == 1


def _write_parquet(tables: Iterator[pyarrow.Table], path: Path, kind: str, facts: dict[str, str]) -> None:
    """GeoParquet 1.1, with the bounding box of each row, so that readers can leave out what they do not need.

    References:
        GeoParquet specification 1.1.0, https://geoparquet.org/releases/v1.1.0.
    """
    first = next(tables)
    told = pyarrow.schema(
        [f.remove_metadata() for f in first.schema], {**facts, "geo": json.dumps(_geo(told_crs(first), kind))}
    )
    how = {"compression": "zstd", "use_dictionary": ["class_id", "class_name"], "write_statistics": _ordered(told)}
    with pyarrow.parquet.ParquetWriter(path, told, **how) as writer:
        for table in itertools.chain([first], tables):
            if len(table):
                writer.write_table(table.cast(told))


def _ordered(schema: pyarrow.Schema) -> list[str]:
    """The columns of which the least and the greatest value mean something; of WKB they cost time and memory only."""
    parts = {BOUNDS: [f"{BOUNDS}.{corner}" for corner in CORNERS], "geometry": []}
    return [path for name in schema.names for path in parts.get(name, [name])]


def _geo(crs: dict | None, kind: str) -> dict:
    paths = {corner: [BOUNDS, corner] for corner in CORNERS}
    column = {"encoding": "WKB", "geometry_types": [kind], "crs": crs, "covering": {"bbox": paths}}
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


_WRITERS = {".parquet": _write_parquet, ".geoparquet": _write_parquet}


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
