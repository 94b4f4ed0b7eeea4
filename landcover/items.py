"""What describes maps to other programs: a STAC Item beside each, and a static Catalog of many."""

import datetime as dt
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import rasterio
import shapely

from landcover import __version__
from landcover.classmap import CONFIDENCE_NODATA, MAP_NODATA, SCORE_NODATA, SCORE_SCALE, open_raster, read_legend
from landcover.errors import MapError, OutputError
from landcover.footprints import bounds, footprint
from landcover.ground import Ground, ground_resolution
from landcover.outputs import check_destination, publish_text
from landcover.products import OTHER_TIME, is_local
from landcover.provenance import PREFIX, without_secrets
from landcover.specs import Legend

STAC_VERSION = "1.1.0"
EXTENSIONS = {
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
}

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_TYPES = {
    ".tif": _COG,
    ".tiff": _COG,
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".shp": "application/vnd.shp",
    ".png": "image/png",
    ".html": "text/html",
    ".json": "application/json",
}
_RASTERS: dict[str, dict[str, Any]] = {
    "map": {"title": "Land cover", "data_type": "uint8", "nodata": MAP_NODATA},
    "confidence": {"title": "Confidence", "data_type": "uint8", "nodata": CONFIDENCE_NODATA, "unit": "%"},
    "scores": {"title": "Scores", "data_type": "uint16", "nodata": SCORE_NODATA, "raster:scale": SCORE_SCALE},
}
"""What is said of the rasters that `predict` writes."""

_ROLES = {"map": ["data"], "polygons": ["data"], "preview": ["overview"]}


def map_item(
    out: Path,
    *,
    name: str,
    assets: Mapping[str, Path],
    source: str,
    datetime: dt.datetime | None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe a map as a STAC Item.

    Args:
        out: where the Item will be; its hrefs count from there.
        name: its id.
        assets: the files, by key; "map" is the class map, others may be "confidence", "scores", "polygons".
        source: the scene; it is linked to where it is a file or a URL, whose query may be a secret and is left out.
        datetime: when the scene was taken; None for the time of processing, and a property that says so.
        facts: more properties by name; those without a prefix get `landcover:`.

    Raises:
        MapError: the map cannot be read as one.
    """
    with open_raster(assets["map"]) as file:
        legend, tags = read_legend(file), file.tags()
        place, geometry = _place(file)
    made = {k: v for k in ("MODEL", "MODEL_SHA256") if (v := tags.get(PREFIX + k))}
    item = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": list(EXTENSIONS.values()),
        "id": name,
        "properties": {
            **said_time(datetime, "processing"),
            **place,
            "processing:software": {"landcover": tags.get(PREFIX + "VERSION", __version__)},
            **{f"landcover:{k.lower()}": v for k, v in made.items()},
            **{k if ":" in k else f"landcover:{k}": _kept(v) for k, v in (facts or {}).items()},
        },
        "links": _origin(source, out),
        "assets": {key: _asset(key, path, out, legend) for key, path in assets.items()},
    }
    return item | said_geometry(geometry)


def write_item(item: dict[str, Any], path: Path) -> None:
    """Write an Item, in the place of one that was there.

    Raises:
        OutputError: it cannot be written.
    """
    check_destination(path, overwrite=True)
    publish_text(path, _json(item))


def describes(item: Path, map_path: Path) -> bool:
    """Whether a file is an Item whose map is at a path."""
    try:
        href = json.loads(item.read_bytes())["assets"]["map"]["href"]
        return (item.parent / href).resolve() == map_path.resolve()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_catalog(
    folder: Path, items: Iterable[Path], *, title: str, description: str, name: str = "catalog.json"
) -> Path:
    """Write a static STAC Catalog that links to Items by relative paths, in the place of one that was there.

    Args:
        folder: where it goes.
        items: their files; nothing is read of them.
        title, description: for people.
        name: of the file.

    Returns:
        The path of the catalog.

    Raises:
        OutputError: it cannot be written.
    """
    out = folder / name
    check_destination(out, overwrite=True)
    root = {"rel": "root", "href": f"./{name}", "type": "application/json"}
    links = [{"rel": "item", "href": relative(path, out), "type": "application/geo+json"} for path in items]
    catalog = {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": re.sub(r"[^\w.-]+", "-", title).strip("-") or "catalog",
        "title": title,
        "description": description,
        "links": [root, *links],
    }
    publish_text(out, _json(catalog))
    return out


def place_of(ground: Ground) -> dict[str, Any]:
    """The grid of a raster in the words of STAC's projection extension."""
    authority = ground.crs.to_authority()
    code = {"proj:code": ":".join(authority)} if authority else {"proj:code": None, "proj:wkt2": ground.crs.to_wkt()}
    return {**code, "proj:shape": [ground.height, ground.width], "proj:transform": list(ground.transform[:6])}


def _place(file: rasterio.DatasetReader) -> tuple[dict[str, Any], shapely.Geometry | None]:
    """The grid of a map, and its footprint; nothing of them for a map that is not placed on the earth."""
    try:
        ground = Ground.of(file) if file.crs is not None else None
    except MapError:  # of a building site, say
        ground = None
    if ground is None:
        return {"proj:code": None, "proj:shape": list(file.shape)}, None
    gsd = ground_resolution(file.transform, file.crs, file.height, file.width)
    return place_of(ground) | ({"gsd": round(gsd, 4)} if gsd else {}), footprint(ground)


def said_geometry(geometry: shapely.Geometry | None) -> dict[str, Any]:
    """A footprint in the words of STAC."""
    if geometry is None:
        return {"geometry": None}
    return {"geometry": json.loads(shapely.to_geojson(geometry)), "bbox": bounds(geometry)}


def said_time(taken: dt.datetime | None, instead: str) -> dict[str, str]:
    """When a scene was taken, in the words of STAC, which demands a time: if it is not known, that of something else.

    Args:
        taken: the time, or None.
        instead: what is done now.
    """
    time = taken or dt.datetime.now(dt.UTC)
    said = {"datetime": time.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")}
    return said if taken else said | {OTHER_TIME: f"time of {instead}; the scene does not tell its own"}


def _asset(key: str, path: Path, out: Path, legend: Legend) -> dict[str, Any]:
    kind = _TYPES.get(path.suffix.lower())
    said: dict[str, Any] = {"href": relative(path, out), "roles": _ROLES.get(key, ["metadata"])}
    if kind:
        said["type"] = kind
    if key == "map":
        said["classification:classes"] = _classes(legend)
    if key == "scores":
        said["bands"] = [{"name": name} for name in legend.names]
    return said | _RASTERS.get(key, {"title": key.capitalize()})


def _classes(legend: Legend) -> list[dict[str, Any]]:
    """The legend in the words of STAC's classification extension, whose names are without spaces."""
    nodata = {"value": MAP_NODATA, "name": "nodata", "title": "no data", "nodata": True}
    classes = [
        {
            "value": c.id,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "_", c.name),
            "title": c.name,
            "color_hint": c.color[1:].upper(),
        }
        for c in legend.classes
    ]
    return [nodata, *classes]


def _origin(source: str, out: Path) -> list[dict[str, str]]:
    """The link to the scene, if it is one that can be followed."""
    if not is_local(source):
        followed = source.startswith(("http://", "https://", "s3://", "gs://"))
        return [{"rel": "derived_from", "href": _kept(source)}] if followed else []
    path = Path(source)
    return [{"rel": "derived_from", "href": relative(path, out)}] if path.is_file() else []


def _kept(value: Any) -> Any:
    """A value whose URLs have no query and no password, either of which may open a store."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {k: _kept(v) for k, v in value.items()}
    return [_kept(v) for v in value] if isinstance(value, list | tuple) else value


def relative(path: Path, document: Path) -> str:
    """Where a file lies, as a document says it."""
    place = os.path.relpath(path.absolute(), document.absolute().parent).replace(os.sep, "/")
    return place if place.startswith("../") else f"./{place}"


def _json(document: dict[str, Any]) -> str:
    try:
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as e:
        raise OutputError(f"{document['id']} cannot be described in JSON: {e}") from e
