"""Catalogs made from files: a GeoParquet table, or a static STAC Catalog with an Item for each scene."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import shapely

from landcover.catalog.looking import Seen
from landcover.errors import CatalogError
from landcover.items import (
    EXTENSIONS,
    STAC_VERSION,
    place_of,
    relative,
    said_geometry,
    said_time,
    write_catalog,
    write_item,
)
from landcover.outputs import check_destination, disk_errors, publish, work_folder
from landcover.products import BandSource, Product, is_local
from landcover.specs import Sensor, load_sensor

_EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
_TYPES = {".tif": "image/tiff; application=geotiff", ".tiff": "image/tiff; application=geotiff", ".jp2": "image/jp2"}
_STORES = {"/vsicurl/": "", "/vsis3/": "s3://", "/vsigs/": "gs://"}

_SCHEMA = pyarrow.schema(
    {
        "path": pyarrow.string(),
        "name": pyarrow.string(),
        "datetime": pyarrow.timestamp("us", "UTC"),
        "height": pyarrow.int32(),
        "width": pyarrow.int32(),
        "gsd": pyarrow.float64(),
        "crs": pyarrow.string(),
        "product": pyarrow.string(),
        "band_names": pyarrow.list_(pyarrow.string()),
        "geometry": pyarrow.binary(),
    },
    {
        "geo": json.dumps(
            {
                "version": "1.1.0",
                "primary_column": "geometry",
                "columns": {"geometry": {"encoding": "WKB", "geometry_types": []}},
            }
        )
    },
)


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse an output that is no kind of catalog or cannot be written, before any scene is looked at.

    Raises:
        CatalogError: it ends neither in .parquet nor in .json.
        OutputError: it exists, or cannot be written.
    """
    if out.suffix.lower() not in (".parquet", ".json"):
        raise CatalogError(f"{out} is no name of a catalog; let it end in .parquet or .json")
    check_destination(out, overwrite=overwrite)


def build_catalog(seen: Sequence[Seen], out: Path, *, overwrite: bool = False) -> None:
    """Write a catalog of scenes, which `read_catalog` reads again.

    Args:
        seen: the scenes.
        out: a GeoParquet table, .parquet; or a static STAC Catalog, X.json, whose Items go to a folder X-items beside.
            Local scenes are referred to by relative paths.
        overwrite: replace a catalog that exists.

    Raises:
        CatalogError: there is no scene, or `out` is no name of a catalog.
        OutputError: it exists, or cannot be written.
    """
    check_output(out, overwrite=overwrite)
    if not seen:
        raise CatalogError(
            f"no scene could be read, so {out} would be empty; correct the files, or take another folder"
        )
    if out.suffix.lower() == ".parquet":
        _write_table(seen, out)
    else:
        _write_items(seen, out, overwrite=overwrite)


def _write_table(seen: Sequence[Seen], out: Path) -> None:
    table = pyarrow.Table.from_pylist([_row(each, out) for each in seen], _SCHEMA)
    with work_folder(out) as folder, disk_errors(out):
        pq.write_table(table, folder / out.name)
        publish(folder, out)


def _row(each: Seen, out: Path) -> dict[str, Any]:
    entry = each.entry
    height, width = entry.size or (None, None)
    return {
        "path": _href(entry.source, out).removeprefix("./"),
        "name": entry.name,
        "datetime": entry.datetime,
        "height": height,
        "width": width,
        "gsd": each.gsd,
        "crs": place_of(each.ground)["proj:code"] if each.ground else None,
        "product": each.product.sensor,
        "band_names": [b.common_name or b.label or f"band {b.index}" for b in _named(each.product)],
        "geometry": shapely.to_wkb(entry.footprint) if entry.footprint is not None else None,
    }


def _write_items(seen: Sequence[Seen], out: Path, *, overwrite: bool) -> None:
    folder = out.parent / f"{out.stem}-items"
    before = _items_of(out, folder)
    paths = [folder / f"{each.entry.name}.json" for each in seen]
    for path in paths:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        check_destination(path, overwrite=overwrite)
    for each, path in zip(seen, paths, strict=True):
        write_item(_item(each, path), path)
    title = f"Scenes of {out.absolute().parent.name}"
    write_catalog(out.parent, paths, title=title, description="Scenes to be mapped", name=out.name)
    for stale in before - set(paths):
        stale.unlink(missing_ok=True)


def _items_of(catalog: Path, folder: Path) -> set[Path]:
    """The Items in a folder that a catalog links to; none if there is no such catalog."""
    try:
        links = json.loads(catalog.read_bytes())["links"]
        linked = [catalog.parent / link["href"] for link in links if link["rel"] == "item"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {path for path in linked if path.is_file() and path.resolve().is_relative_to(folder.resolve())}


def _item(each: Seen, out: Path) -> dict[str, Any]:
    """Describe a scene as a STAC Item whose assets tell the common names and the scaling of their bands."""
    entry = each.entry
    height, width = entry.size or (0, 0)
    place = place_of(each.ground) if each.ground else {"proj:code": None, "proj:shape": [height, width]}
    files: dict[str, list[BandSource]] = {}
    for band in _named(each.product):
        files.setdefault(band.path, []).append(band)
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EXTENSIONS["proj"], EXTENSIONS["raster"], _EO],
        "id": entry.name,
        **said_geometry(entry.footprint),
        "properties": said_time(entry.datetime, "cataloguing") | place | ({"gsd": each.gsd} if each.gsd else {}),
        "links": [],
        "assets": dict(zip(_keys(files), (_asset(path, bands, out) for path, bands in files.items()), strict=True)),
    }


def _keys(files: dict[str, list[BandSource]]) -> list[str]:
    """What assets are called: each by its band, or its file if it has several, and by its number if that is not new."""
    keys: list[str] = []
    for number, (path, bands) in enumerate(files.items(), 1):
        key = (bands[0].label or bands[0].common_name if len(bands) == 1 else "") or Path(path).stem
        keys.append(f"{key} {number}" if key in keys else key)
    return keys


def _asset(path: str, bands: list[BandSource], out: Path) -> dict[str, Any]:
    by_index = {b.index: _band(b) for b in bands}
    asset: dict[str, Any] = {
        "href": _href(path, out),
        "roles": ["data"],
        "bands": [by_index.get(i, {"name": f"band {i}"}) for i in range(1, max(by_index) + 1)],
    }
    kind = _TYPES.get(Path(path).suffix.lower())
    return asset | ({"type": kind} if kind else {})


def _band(band: BandSource) -> dict[str, Any]:
    nodata = "nan" if band.nodata is not None and math.isnan(band.nodata) else band.nodata
    said = {
        "name": band.label or None,
        "eo:common_name": band.common_name,
        "raster:scale": band.scale,
        "raster:offset": band.offset,
        "nodata": nodata,
    }
    return {key: value for key, value in said.items() if value is not None}


def _named(product: Product) -> list[BandSource]:
    """The bands of a product, with what its sensor says of them where the product itself does not."""
    sensor = load_sensor(product.sensor) if product.sensor else None
    return [_by_sensor(band, sensor) if sensor else band for band in product.bands]


def _by_sensor(band: BandSource, sensor: Sensor) -> BandSource:
    name = band.common_name or (sensor.common_name(band.label) if band.label else None)
    nodata = band.nodata if band.nodata is not None else sensor.nodata
    if band.scale is not None or isinstance(sensor.offset, str):
        return replace(band, common_name=name, nodata=nodata)
    return replace(band, common_name=name, nodata=nodata, scale=sensor.scale, offset=sensor.offset)


def _href(path: str, out: Path) -> str:
    """Where a file lies, as a catalog says it; what GDAL calls a URL as the URL."""
    if is_local(path):
        return relative(Path(path), out)
    store = re.match("/vsi(?:curl|s3|gs)/", path)
    return _STORES[store[0]] + path[store.end() :] if store else path
