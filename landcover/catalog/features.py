"""STAC Items of a catalog: what each says of its scene."""

import json
import math
import sys
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from landcover.catalog.entry import Entry, Held
from landcover.errors import NoSceneError, SceneError
from landcover.products import check_item, item_datetime, item_size, raster_hrefs

_ENCODER = json.JSONEncoder()


def item_entry(
    item: Any, label: str, *, source: str = "", held: Held | None = None, footprint: BaseGeometry | None = None
) -> Entry:
    """The entry of a STAC Item.

    Args:
        item: its JSON.
        label: what an error calls it.
        source: its own file or URL; "" if it has none.
        held: it, if it has no source.
        footprint: where it is told beside the Item.

    Raises:
        SceneError: it is no Item, has no id, or assets that may not be opened, or tells of a map.
    """
    item = check_item(item, label)
    if not isinstance(item.get("id"), str):
        raise SceneError(f"{label} is a STAC Item without an id; repair it")
    if _is_made(item):
        raise NoSceneError(f"{label} is of a map that landcover made; give the scenes, not their maps")
    raster_hrefs(item, held.base if held else source)
    return Entry(
        source=source,
        name=item["id"],
        datetime=item_datetime(item),
        footprint=footprint if footprint is not None else read_footprint(item.get("geometry")),
        size=item_size(item),
        held=held,
        properties=shared(item.get("properties") or {}) | {"id": item["id"], "collection": item.get("collection")},
    )


def _is_made(item: dict[str, Any]) -> bool:
    """Whether an Item describes a result."""
    software = (item.get("properties") or {}).get("processing:software")
    return isinstance(software, dict) and "landcover" in software and "map" in item["assets"]


def read_footprint(geometry: Any) -> BaseGeometry | None:
    """The geometry of a GeoJSON feature; None if it is no place in longitude and latitude."""
    if not isinstance(geometry, dict):
        return None
    try:
        return plausible(shapely.from_geojson(_ENCODER.encode(geometry), on_invalid="ignore"))
    except (ValueError, RecursionError):
        return None


def plausible(geometry: BaseGeometry | None) -> BaseGeometry | None:
    """A geometry that lies in longitude and latitude; None for any other."""
    if geometry is None or geometry.is_empty:
        return None
    west, south, east, north = geometry.bounds
    inside = -360 <= west <= east <= 360 and -91 <= south <= north <= 91
    return geometry if inside and math.isfinite(west + south + east + north) else None


def shared(properties: dict[str, Any]) -> dict[str, Any]:
    """Properties with the one text there is of each key, for the keys of all Items are alike."""
    return {sys.intern(str(key)): value for key, value in properties.items()}
