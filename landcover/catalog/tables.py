"""Tables of scenes: CSV and (Geo)Parquet with a column `path`, and GeoParquet of STAC Items."""

import csv
import datetime as dt
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow
import pyarrow.parquet as pq
import pyproj
import shapely
from pyproj.exceptions import ProjError
from shapely.geometry.base import BaseGeometry

from landcover.catalog.entry import Entry, Held, absolute, make_entries, name_of
from landcover.catalog.features import item_entry, plausible, shared
from landcover.errors import CatalogError, nearest
from landcover.products import is_local, parse_datetime

COLUMNS = ("path", "name", "sensor", "bands", "scale", "offset", "aoi", "datetime", "height", "width")
"""What a table may say of a scene; it has to say `path`."""

_ITEM_COLUMNS = {
    *("type", "stac_version", "stac_extensions", "id", "collection", "geometry"),
    *("bbox", "links", "properties", "assets"),
}
_ENCODER = json.JSONEncoder(separators=(",", ":"), default=str)
_PLAIN = {str, int, float, bool}
_MISSING = {"", "-", "na", "n/a", "nan", "null", "none"}
"""What stands for a number that is not known; as a text it would be greater than every number, in SQL."""

_BATCH = 2000
"""Rows of a Parquet file that are turned into values at a time."""


class _Row(NamedTuple):
    """A row of a table: which one, its values by column, and the place of its scene if the table tells it."""

    where: str
    values: dict[str, Any]
    footprint: BaseGeometry | None = None


def read_csv(path: Path) -> list[Entry]:
    """The scenes of a CSV, whose values are separated by commas, semicolons or tabs.

    Raises:
        CatalogError: it cannot be read, has no column `path`, or a row says what cannot be.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header.count)
            numbered = _numbered(file, delimiter)
            names = [name.strip() for name in next(numbered, (1, []))[1]]
            _check_columns(names, path)
            rows = {number: row for number, row in numbered if any(row)}
            _check_lengths(rows, len(names), path)
    except UnicodeDecodeError as e:
        raise CatalogError(f"{path} cannot be read as CSV: it is not in UTF-8; save it as 'CSV UTF-8'") from e
    except (OSError, csv.Error) as e:
        raise CatalogError(f"{path} cannot be read as CSV: {e}") from e
    texts = [[row[i].strip() if i < len(row) else "" for row in rows.values()] for i in range(len(names))]
    point = "," if delimiter == ";" else "."  # as programs separate values where decimals have a comma
    columns = {n: _column(n, t, point) for n, t in zip(names, texts, strict=True)}
    values = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    told = (_Row(f"line {number:,}", v) for number, v in zip(rows, values, strict=True))
    return make_entries(str(path), told, partial(_entry, path))


def _numbered(file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows, each with the number of the line on which it begins; a value in quotes may go on on the next."""
    reader, begins = csv.reader(file, delimiter=delimiter), 1
    for row in reader:
        yield begins, row
        begins = reader.line_num + 1


def read_parquet(path: Path) -> list[Entry]:
    """The scenes of a (Geo)Parquet table with a column `path`, or of a GeoParquet of STAC Items.

    Raises:
        CatalogError: it cannot be read, has no column `path`, or a row says what cannot be.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            items = "assets" in names and "id" in names
            if not items:
                _check_columns(names, path)
            make = partial(_item_entry if items else _entry, path)
            return make_entries(str(path), _parquet_rows(file, path), make)
    except (OSError, pyarrow.ArrowException) as e:
        raise CatalogError(f"{path} cannot be read as Parquet: {str(e).splitlines()[0]}") from e


def _check_columns(names: list[str], path: Path) -> None:
    if "path" not in names:
        raise CatalogError(f"{path} has no column 'path', which tells where scenes are: {nearest('path', names[:50])}")
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise CatalogError(f"{path} has the column '{twice[0]}' twice; remove one")


def _check_lengths(rows: dict[int, list[str]], columns: int, path: Path) -> None:
    long = next((number for number, row in rows.items() if len(row) > columns), None)
    if long:
        raise CatalogError(
            f"{path} has {len(rows[long])} values for {columns} columns in line {long:,}, that of "
            f"{rows[long][0][:80]!r}; put a value that holds the separator in double quotes"
        )


def _parquet_rows(file: pq.ParquetFile, path: Path) -> Iterator[_Row]:
    column, to_lonlat = _geometry_column(file, path)
    number = 0
    for batch in file.iter_batches(_BATCH):
        columns = {n: _values(batch.column(i)) for i, n in enumerate(batch.schema.names) if n != column}
        geometry = _footprints(batch.column(column), to_lonlat) if column else [None] * len(batch)
        for values, footprint in zip(zip(*columns.values(), strict=True), geometry, strict=True):
            number += 1
            yield _Row(f"row {number:,}", dict(zip(columns, values, strict=True)), footprint)


def _values(column: pyarrow.Array) -> list[Any]:
    if pyarrow.types.is_timestamp(column.type):
        column = column.cast(pyarrow.timestamp("us", column.type.tz), safe=False)
    try:
        return column.to_pylist()
    except (OverflowError, ValueError):  # of a date that Python does not know
        return [_known(value) for value in column]


def _known(value: pyarrow.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return None


def _geometry_column(file: pq.ParquetFile, path: Path) -> tuple[str | None, Callable | None]:
    """The column of footprints as WKB, if there is one, and what brings its points to longitude and latitude."""
    schema = file.schema_arrow
    try:
        said = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
        name = said.get("primary_column", "geometry")
        crs = said.get("columns", {}).get(name, {}).get("crs")
        to_lonlat = None if crs is None else _to_lonlat(json.dumps(crs))
    except (ValueError, AttributeError, TypeError, ProjError) as e:
        raise CatalogError(f"{path} tells a CRS of its geometry that cannot be read: {e}; write it again") from e
    kinds = (pyarrow.binary(), pyarrow.large_binary(), pyarrow.binary_view())
    return (name if name in schema.names and schema.field(name).type in kinds else None), to_lonlat


def _to_lonlat(crs: str) -> Callable | None:
    known = pyproj.CRS.from_user_input(crs)
    if known.equals(pyproj.CRS("OGC:CRS84"), ignore_axis_order=True):
        return None
    return pyproj.Transformer.from_crs(known, "EPSG:4326", always_xy=True).transform


def _footprints(column: pyarrow.Array, to_lonlat: Callable | None) -> list[BaseGeometry | None]:
    geometry = shapely.from_wkb(column.to_numpy(zero_copy_only=False), on_invalid="ignore")
    if to_lonlat is not None:
        geometry = shapely.transform(geometry, to_lonlat, interleaved=False)
    return [plausible(g) for g in geometry]


def _entry(path: Path, row: _Row) -> Entry:
    """The entry of a row that names a path."""
    values, where = row.values, row.where
    written = _text(values, "path", where)
    if not written:
        raise CatalogError(f"{where} has no path")
    aoi = _text(values, "aoi", where)
    sensor = _text(values, "sensor", where)
    height, width = (_size(values, name, where) for name in ("height", "width"))
    return Entry(
        source=_absolute(written, path),
        name=_text(values, "name", where) or _default_name(written),
        sensor=_absolute(sensor, path) if sensor and sensor.endswith(".toml") else sensor,
        bands=_bands(values.get("bands"), where),
        scale=_number(values, "scale", where),
        offset=_number(values, "offset", where),
        aoi=_absolute(aoi, path) if aoi else None,
        datetime=_datetime(values.get("datetime"), where),
        footprint=row.footprint,
        size=(height, width) if height and width else None,
        properties=shared({k: plain(v) for k, v in values.items() if k not in COLUMNS and v not in (None, "")}),
    )


def _item_entry(path: Path, row: _Row) -> Entry:
    """The entry of a row that is a STAC Item, whose properties may be columns of their own."""
    values = row.values
    assets, properties = (_object(values.get(name)) for name in ("assets", "properties"))
    others = {k: plain(v) for k, v in values.items() if v is not None and k not in _ITEM_COLUMNS}
    item = {
        "type": "Feature",
        "stac_version": values.get("stac_version") or "1.0.0",
        "id": values.get("id"),
        "collection": values.get("collection"),
        "geometry": None,
        "properties": (properties if isinstance(properties, dict) else {}) | others,
        "links": [],
        "assets": assets,
    }
    held = Held.of(_ENCODER.encode(item), f"{_folder(path)}{os.sep}{path.name}")
    label = f"{row.where} ({str(item['id'])[:80]})"
    return item_entry(item, label, held=held, footprint=row.footprint)


def _object(value: Any) -> Any:
    """An object, which may be written as JSON, or told as a list of pairs."""
    value = _parsed(value)
    return plain(value) if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """A value as JSON knows it, without what is null; a list of pairs, which is how a map is told, as an object."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        return {k: v if type(v) in _PLAIN else plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):
            return plain(dict(value))
        return [plain(v) for v in value]
    if isinstance(value, dt.datetime):
        return _utc(value).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return float(value)
    return str(value)


def _parsed(value: Any) -> Any:
    """What is written as JSON in a text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _absolute(written: str, table: Path) -> str:
    """Where a path of a table leads, which counts from the table's folder."""
    if not is_local(written):
        return written
    rooted = written.startswith(("/", os.sep)) or written[1:2] == ":"
    path = written if rooted else f"{_folder(table)}{os.sep}{written}"
    return absolute(path) if ".." in path else os.path.normpath(path)


@cache
def _folder(table: Path) -> str:
    return absolute(table.parent)


def _default_name(written: str) -> str:
    """The path below the table's folder, or the file's name alone where it lies elsewhere."""
    written = written.partition("?")[0] if not is_local(written) else os.path.normpath(written).replace(os.sep, "/")
    below = is_local(written) and not written.startswith(("/", "..")) and written[1:2] != ":"
    return name_of(written if below else written.rstrip("/").rpartition("/")[2])


def _text(values: dict[str, Any], name: str, where: str) -> str | None:
    value = values.get(name)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        raise CatalogError(f"{where} has {name} {str(value)[:40]!r}, which is not a text")
    return value


def _number(values: dict[str, Any], name: str, where: str) -> float | None:
    value = values.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(value)
        if math.isfinite(number):
            return number
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if math.isnan(number) and not isinstance(value, str):
        return None  # how some tables tell that there is none
    if not math.isfinite(number):
        raise CatalogError(f"{where} has {name} {str(value)[:40]!r}, which is not a finite number")
    return number


def _size(values: dict[str, Any], name: str, where: str) -> int | None:
    number = _number(values, name, where)
    if number is None:
        return None
    if number != int(number) or not 0 < number < 2**31:
        raise CatalogError(f"{where} has {name} {values[name]}, which is not a number of pixels")
    return int(number)


def _bands(written: Any, where: str) -> dict[str, str] | None:
    """Read "red=4,nir=8", or the same as an object."""
    value = plain(_parsed(written)) if written not in (None, "") else None
    if value is None:
        return None
    if isinstance(value, dict) and value:
        return {name: str(band) for name, band in value.items()}
    pairs = re.findall(r"([^=,;\s]+)\s*=\s*([^=,;\s]+)", str(value))
    rest = re.sub(r"[^=,;\s]+\s*=\s*[^=,;\s]+|[,;\s]", "", str(value))
    if isinstance(written, bytes) or rest or not pairs or len(dict(pairs)) < len(pairs):
        raise CatalogError(f"{where} has bands {str(value)[:60]!r}; write for example red=4;nir=8, each name once")
    return dict(pairs)


def _datetime(value: Any, where: str) -> dt.datetime | None:
    if value is None or value == "":
        return None
    try:
        return _utc(value) if isinstance(value, dt.date) else parse_datetime(str(value))
    except ValueError as e:
        raise CatalogError(f"{where} has datetime {str(value)[:40]!r}; write for example 2024-06-01T10:30:00Z") from e


def _utc(value: dt.date) -> dt.datetime:
    """A time or a day as an instant in UTC, which is meant where no time zone is said."""
    time = value if isinstance(value, dt.datetime) else dt.datetime(value.year, value.month, value.day)
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def _column(name: str, texts: list[str], point: str) -> list[Any]:
    """The values of a column of a CSV, in whose numbers there may be another sign for the decimal point."""
    if name in ("scale", "offset"):
        return [text.replace(point, ".") for text in texts]
    return list(texts) if name in COLUMNS else _numbers(texts, point)


def _numbers(texts: list[str], point: str) -> list[Any]:
    """A column as numbers, if all its texts are such, or what tables write where there is none; else as they are."""
    try:
        return [None if text.casefold() in _MISSING else float(text.replace(point, ".")) for text in texts]
    except ValueError:
        return list(texts)
