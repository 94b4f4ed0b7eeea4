"""Catalogs of every kind → entries."""

from pathlib import Path

from landcover.catalog.entry import Entry, check_names
from landcover.catalog.folders import is_pattern, read_folder, read_pattern, single_entry
from landcover.catalog.looking import without_twins
from landcover.catalog.tables import read_csv, read_parquet
from landcover.catalog.trees import read_json
from landcover.errors import CatalogError
from landcover.products import is_item, is_local

_TABLES = {".csv": read_csv, ".parquet": read_parquet, ".geoparquet": read_parquet}


def read_catalog(source: str) -> list[Entry]:
    """Read which scenes there are, opening none of them but those in a folder that have one name.

    Args:
        source: a folder; a pattern such as `scenes/*.tif`; a CSV or (Geo)Parquet table with a column `path`; a STAC
            ItemCollection, static Catalog or Collection, local or at a URL; a GeoParquet of STAC Items; or one scene.

    Raises:
        CatalogError: it cannot be read, holds no scene, or names that outputs cannot have.
    """
    try:
        entries = _read(source)
    except OSError as e:
        raise CatalogError(f"{str(e.filename or source)[:200]} cannot be read: {e.strerror or e}") from e
    if not entries:
        raise CatalogError(f"{source} holds no scene; give a folder, table or STAC document that does")
    if is_searched(source):
        entries = without_twins(entries)
    check_names(entries, source)
    return entries


def is_searched(source: str) -> bool:
    """Whether a catalog is a place where scenes are looked for, and results may lie among them."""
    return is_local(source) and (Path(source).is_dir() or is_pattern(source))


def _read(source: str) -> list[Entry]:
    suffix = Path(source.partition("?")[0]).suffix.lower()
    if not is_local(source):
        if suffix in _TABLES:
            raise CatalogError(f"{source} is a table on a server; download it, and give the file")
        return read_json(source) if is_item(source) else [single_entry(source)]
    path = Path(source)
    if not path.exists():
        if is_pattern(source):
            return read_pattern(source)
        raise CatalogError(f"{source} does not exist; check the spelling and the folder")
    if path.is_dir():
        return read_folder(source)
    if path.name.startswith("MTD_MSI") or path.name.upper().endswith("_MTL.TXT"):
        return [single_entry(str(path.absolute().parent))]
    if path.suffix.lower() in _TABLES:
        return _TABLES[path.suffix.lower()](path)
    return read_json(source) if is_item(source) else [single_entry(source)]
