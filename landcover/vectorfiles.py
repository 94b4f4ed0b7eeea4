"""Polygons on disk: which suffix is which format, files that appear when they are complete, and a QGIS style."""

import io
import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import quoteattr

import geopandas
import pyarrow
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError

from landcover.errors import ConfigError, OutputError
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
    check_destination(out, overwrite=overwrite)
    there = [p.name for p in _companions(out) if p.exists()]  # a shapefile must not swallow the table of another one
    if there and not overwrite:
        raise OutputError(f"{out.parent / there[0]} exists already and belongs to {out.name}; add --overwrite")


def _companions(out: Path) -> list[Path]:
    return [
        out.parent / pattern.format(name=out.name, stem=out.stem) for pattern in _COMPANIONS.get(out.suffix.lower(), ())
    ]


def write_layer(table: geopandas.GeoDataFrame, out: Path, legend: Legend) -> None:
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
            table, target, layer=LAYER, driver=driver, geometry_type=_geometry_type(table), use_arrow=True, **options
        )


def _geometry_type(table: geopandas.GeoDataFrame) -> str:
    kinds = set(table.geometry.geom_type)
    return kinds.pop() if len(kinds) == 1 else "MultiPolygon" if "MultiPolygon" in kinds else "Polygon"


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
