"""STAC Items, versions 1.0 and 1.1: assets, their bands, and what catalogs say of their scaling."""

import datetime as dt
import http.client
import json
import os
import re
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from landcover.errors import SceneError, is_text
from landcover.products.names import common_name
from landcover.products.product import BandSource, Product
from landcover.products.raster import SUFFIXES, gdal_path, is_local, raster_bands

OTHER_TIME = "landcover:datetime_is"
"""The property of an Item that says of what its time is, where it is not that of the scene."""

_TIMEOUT = 30
_LARGEST = 16_000_000
_REMOTE_SCHEMES = ("http", "https", "s3", "gs")
_REMOTE_FILESYSTEMS = ("/vsicurl/", "/vsis3/", "/vsigs/", "/vsiaz/")
_FILESYSTEMS = (*_REMOTE_FILESYSTEMS, "/vsizip/", "/vsitar/", "/vsigzip/")
_RASTER_TYPES = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "application/x-geotiff")
_PICTURES = {"thumbnail", "overview", "visual", "metadata"}
_OWN = ("nodata", "raster:scale", "raster:offset", "eo:common_name")
_OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_FIRST_WITH_OFFSET = 4.0
_SENTINEL2_SCALE = 1e-4


@dataclass(frozen=True)
class _Asset:
    """A raster of an item.

    Attributes:
        key, href: as in the item.
        bands: what is said of each band, the asset's own fields included.
        kind: media type.
        gsd: metres, infinite where it is not said.
    """

    key: str
    href: str
    bands: tuple[dict[str, Any], ...]
    kind: str
    gsd: float

    @property
    def is_jp2(self) -> bool:
        return self.kind.startswith("image/jp2") or _suffix(self.href) == ".jp2"

    @property
    def name(self) -> str:
        """What tells its first band from others. Common names do not where a catalog calls three bands `rededge`."""
        common = self.bands[0].get("eo:common_name")
        return str(self.bands[0].get("name") or (common if common != "rededge" else None) or self.key)

    def repeats(self, singles: Collection["_Asset"]) -> bool:
        """True if each of its bands, by name or common name, is an asset of its own."""
        keys = ("name", "eo:common_name")
        known = {(key, a.bands[0].get(key)) for a in singles for key in keys}
        return all(any(b.get(key) and (key, b[key]) in known for key in keys) for b in self.bands)


def is_item(source: str) -> bool:
    """True for what is meant as a STAC Item: a .json file or URL, or an item of a STAC API."""
    path = source if is_local(source) else source.partition("?")[0].partition("#")[0]
    api = source.lower().startswith(("http://", "https://")) and "/items/" in path and _suffix(path) not in SUFFIXES
    return path.lower().endswith((".json", ".geojson")) or api


def read_item(source: str) -> Product:
    """Read the bands of a STAC Item.

    Raises:
        SceneError: it cannot be fetched, is no STAC Item, or has no raster assets that may be opened.
    """
    return item_product(_parse(source, _fetch(source)), source)


def item_product(item: dict[str, Any], source: str) -> Product:
    """The bands of a STAC Item that is at hand.

    Args:
        item: it, as `check_item` lets it pass.
        source: its file or URL, or that of the collection it is from.

    Raises:
        SceneError: it has no raster assets that may be opened.
    """
    assets = _chosen(_assets(source, item))
    if not assets:
        raise SceneError(f"{source} has no raster assets with bands; known are: {', '.join(item['assets']) or 'none'}")
    sensor = _sensor(item)
    bands = [
        _with_offset(band, asset, item, sensor)
        for asset in assets
        for band in _bands(asset, gdal_path(absolute_href(asset.href, source)), alone=len(assets) == 1)
    ]
    return Product(source, tuple(bands), sensor, item_datetime(item))


def bundled(item: dict[str, Any], source: str) -> dict[str, Any]:
    """A STAC Item with its rasters only, which do not depend on where it lies."""
    assets = {key: item["assets"][key] | {"href": href} for key, href in raster_hrefs(item, source).items()}
    return item | {"assets": assets, "links": []}


def raster_hrefs(item: dict[str, Any], source: str) -> dict[str, str]:
    """Where the rasters of an Item lie, by the keys of its assets.

    Raises:
        SceneError: an asset has no href, or one that is not opened.
    """
    hrefs = {}
    for key, asset in item["assets"].items():
        if asset is None:
            continue  # as tables tell that an Item lacks what others have
        if not isinstance(asset, dict) or not isinstance(asset.get("href"), str):
            raise SceneError(f"{source}: asset '{key}' has no href; repair the item")
        if _is_raster(asset):
            hrefs[key] = absolute_href(asset["href"], source)
    return hrefs


def item_size(item: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width of the finest raster of an Item, in pixels, where the Item says it; else None."""
    properties = item.get("properties") or {}
    assets = [a for a in item["assets"].values() if isinstance(a, dict) and isinstance(a.get("href"), str)]
    shapes: list[Any] = [properties.get("proj:shape"), *(a.get("proj:shape") for a in assets if _is_raster(a))]
    sizes = [(shape[0], shape[1]) for shape in shapes if _is_shape(shape)]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def item_datetime(item: dict[str, Any]) -> dt.datetime | None:
    """When an Item was taken, or that began; None if it says neither."""
    properties = item.get("properties") or {}
    if OTHER_TIME in properties:
        return None
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        return parse_datetime(text) if isinstance(text, str) else None
    except ValueError:
        return None


def parse_datetime(text: str) -> dt.datetime:
    """Read an instant in RFC 3339, or a day, which begins at midnight; UTC where no time zone is said.

    Raises:
        ValueError: it is neither.
    """
    try:
        time = dt.datetime.fromisoformat(text.strip())
        return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
    except OverflowError as e:
        raise ValueError(f"{text} is out of range") from e


def _fetch(source: str) -> bytes:
    scheme = urlsplit(source).scheme.lower()
    try:
        if scheme in ("http", "https"):
            with urllib.request.urlopen(source, timeout=_TIMEOUT) as answer:
                content = answer.read(_LARGEST + 1)
        elif "://" in source or source.startswith("/vsi"):
            raise SceneError(f"{source} cannot be fetched: give a STAC Item as a local file or an http(s) URL")
        else:
            with Path(source).open("rb") as file:
                content = file.read(_LARGEST + 1)
    except FileNotFoundError as e:
        raise SceneError(f"{source} does not exist; check the spelling and the folder") from e
    except (OSError, ValueError, http.client.HTTPException) as e:
        raise SceneError(f"{source} cannot be fetched: {e}") from e
    if len(content) > _LARGEST:
        raise SceneError(
            f"{source} is larger than {_LARGEST // 1_000_000} MB; a STAC Item is not, so give another file"
        )
    return content


def _parse(source: str, content: bytes) -> dict[str, Any]:
    try:
        item = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise SceneError(f"{source} is not valid JSON: {e}") from e
    return check_item(item, source)


def check_item(item: Any, source: str) -> dict[str, Any]:
    """Give back what is a STAC Item.

    Raises:
        SceneError: it is something else.
    """
    kind = item.get("type") if isinstance(item, dict) else type(item).__name__
    if kind != "Feature" or "stac_version" not in item or not isinstance(item.get("assets"), dict):
        raise SceneError(f"{source} is not a STAC Item but {_what(item, kind)}; give the JSON of one Item")
    if not is_text(item):
        raise SceneError(f"{source} holds half a character, which is no text; correct the Item")
    if not isinstance(item.get("properties") or {}, dict):
        raise SceneError(f"{source} is a STAC Item whose properties are not an object; repair it")
    return item


def _what(item: Any, kind: Any) -> str:
    if isinstance(item, dict) and "stac_version" in item and kind != "Feature":
        return f"a STAC {kind}"
    return f"JSON of type '{kind}'"


def _assets(source: str, item: dict[str, Any]) -> list[_Asset]:
    """The assets that are rasters of data, in the item's order; where none says so, those that say nothing."""
    found: list[_Asset] = []
    silent: list[_Asset] = []
    for key, asset in item["assets"].items():
        if not isinstance(asset, dict) or not isinstance(asset.get("href"), str):
            raise SceneError(f"{source}: asset '{key}' has no href; repair the item")
        roles = set(map(str, _list(asset.get("roles"))))
        bands = _described_bands(asset)
        if (roles & _PICTURES and "data" not in roles) or not _is_raster(asset):
            continue
        told = bands or roles & {"data", "reflectance"}
        if told or not (roles or key in _PICTURES):
            kind = str(asset.get("type") or "").lower()
            raster = _Asset(key, asset["href"], bands or (_own(asset),), kind, _resolution(bands, asset))
            (found if told else silent).append(raster)
    return found or silent


def _own(asset: dict[str, Any]) -> dict[str, Any]:
    """What an asset says of all its bands."""
    own = {k: asset[k] for k in _OWN if asset.get(k) is not None}
    if not isinstance(own.get("eo:common_name", ""), str):
        raise SceneError(f"the STAC asset at '{asset['href'][:200]}' has a band name that is not a text; repair it")
    return own


def _described_bands(asset: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """What is said of each band, in the words of STAC 1.1."""
    own = _own(asset)
    if bands := _objects(asset, "bands"):
        return tuple(own | b for b in bands)
    eo, raster = _objects(asset, "eo:bands"), _objects(asset, "raster:bands")
    merged = []
    for i in range(max(len(eo), len(raster))):
        said = own | (raster[i] if i < len(raster) else {})
        said |= {f"raster:{k}": said[k] for k in ("scale", "offset") if k in said}
        optical = eo[i] if i < len(eo) else {}
        said |= {to: optical[k] for k, to in (("name", "name"), ("common_name", "eo:common_name")) if k in optical}
        merged.append(said)
    return tuple(merged) or ((own,) if "eo:common_name" in own else ())


def _objects(asset: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = asset.get(key)
    if not found:
        return []
    if not isinstance(found, list) or not all(isinstance(b, dict) for b in found):
        raise SceneError(
            f"the STAC asset at '{asset['href'][:200]}' has {key} that is not a list of objects; repair it"
        )
    names = [v for b in found for k in ("name", "common_name", "eo:common_name") if (v := b.get(k)) is not None]
    if not all(isinstance(name, str) for name in names):
        raise SceneError(f"the STAC asset at '{asset['href'][:200]}' has a band name that is not a text; repair it")
    return found


def _resolution(bands: tuple[dict[str, Any], ...], asset: dict[str, Any]) -> float:
    """Metres per pixel, where any of the usual places says it."""
    places = (asset, *bands[:1])
    said = [p.get(k) for p in places for k in ("gsd", "raster:spatial_resolution", "spatial_resolution")]
    transform = asset.get("proj:transform")
    said += transform[:1] if isinstance(transform, list) else []
    return next((abs(number) for value in said if (number := _number(value))), float("inf"))


def _chosen(assets: list[_Asset]) -> list[_Asset]:
    """Leave out what only repeats other assets: colour pictures of several bands, coarser copies, JPEG 2000 copies."""
    singles: dict[str, _Asset] = {}
    for asset in assets:
        if len(asset.bands) == 1 and _rank(asset) < _rank(singles.setdefault(asset.name, asset)):
            singles[asset.name] = asset
    best = {id(asset) for asset in singles.values()}
    return [
        asset
        for asset in assets
        if (id(asset) in best if len(asset.bands) == 1 else not asset.repeats(singles.values()))
    ]


def _rank(asset: _Asset) -> tuple[float, bool]:
    return asset.gsd, asset.is_jp2


def _bands(asset: _Asset, path: str, *, alone: bool) -> tuple[BandSource, ...]:
    """The bands of an asset; as its file tells them where the item has that file alone and names no band of it."""
    (said, *more) = asset.bands
    if alone and not more and not {"name", "eo:common_name"} & said.keys() and len(told := raster_bands(path)) > 1:
        all_bands = _band(asset, 0, path)
        own = {k: v for k in ("scale", "offset", "nodata") if (v := getattr(all_bands, k)) is not None}
        return tuple(replace(band, told=len(told), **own) for band in told)
    return tuple(_band(asset, i, path) for i in range(len(asset.bands)))


def _band(asset: _Asset, i: int, path: str) -> BandSource:
    said = asset.bands[i]
    label = said.get("name") or (asset.key if len(asset.bands) == 1 else said.get("eo:common_name") or "")
    scale, offset = _number(said.get("raster:scale")), _number(said.get("raster:offset"))
    if scale is not None or offset is not None:
        scale, offset = 1.0 if scale is None else scale, offset or 0.0
    nodata = _number(said.get("nodata"))
    name = said.get("eo:common_name") or common_name(str(label))
    return BandSource(path, i + 1, str(label), name, scale, offset, nodata, told=len(asset.bands))


def _with_offset(band: BandSource, asset: _Asset, item: dict[str, Any], sensor: str | None) -> BandSource:
    """Settle the offset of Sentinel-2, on which catalogs differ.

    Earth Search has taken the offset out of the numbers of its GeoTIFFs where it says so, and yet lists it. Where it
    says that it has not, it often has, so that the pixels have to tell. Other catalogs keep ESA's numbers and list no
    offset; there the processing baseline tells.

    References:
        github.com/cirrus-geo/cirrus-earth-search, issue 33, and github.com/Element84/earth-search, issue 71.
    """
    properties = item.get("properties") or {}
    is_reflectance = band.common_name is not None or re.fullmatch(r"B(\d\d|8A)(_\d0m)?", band.label)
    if not is_reflectance or not (sensor or "").startswith("sentinel2"):
        return band
    applied = next((properties[key] for key in _OFFSET_APPLIED if key in properties), None)
    if applied is True and not asset.is_jp2:
        return replace(band, scale=band.scale or _SENTINEL2_SCALE, offset=0.0)
    if applied is False and band.offset and not asset.is_jp2:
        return replace(band, scale=None, offset=None)
    baseline = _number(properties.get("s2:processing_baseline"))
    if band.scale is not None or baseline is None or any(k.startswith("earthsearch:") for k in properties):
        return band
    return replace(band, scale=_SENTINEL2_SCALE, offset=-0.1 if baseline >= _FIRST_WITH_OFFSET else 0.0)


def _sensor(item: dict[str, Any]) -> str | None:
    """The sensor's name, where collection, platform and level leave no doubt."""
    properties = item.get("properties") or {}
    words = re.sub(r"[^a-z0-9]", "", str(item.get("collection") or "").lower())
    platform = re.sub(r"[^a-z0-9]", "", f"{properties.get('constellation')} {properties.get('platform')}".lower())
    level = re.sub(r"[^a-z0-9]", "", str(properties.get("processing:level") or "").lower()).replace("level", "l")
    if "hls" in words or "hls" in str(item.get("id", "")).lower()[:3]:
        kinds = [k for k in ("l30", "s30") if k in words or f".{k}." in str(item.get("id", "")).lower()]
        return f"hls-{kinds[0]}" if kinds else None
    if "sentinel2" in platform or "sentinel2" in words or "sentinels2" in words:
        levels = {k for k in ("l1c", "l2a") if k in words} or ({level} & {"l1c", "l2a"})
        return f"sentinel2-{levels.pop()}" if len(levels) == 1 else None
    if "landsatc2l2" in words:
        number = re.search(r"landsat(\d)", platform)
        return None if not number else "landsat-c2-l2" if number[1] in "89" else "landsat-c2-l2-tm"
    return "naip" if words == "naip" else None


def absolute_href(href: str, source: str) -> str:
    """Where an href of a document at `source` leads: a URL, a path, or what GDAL alone understands.

    Raises:
        SceneError: the href has a scheme that is not of a file or a well-known store, or leads from a remote item to
            this machine's files.
    """
    target = _target(href, source)
    if target is None:
        local = "" if _is_remote(source) else ", local paths"
        raise SceneError(
            f"{source}: the asset at '{href[:200]}' is not opened; "
            f"allowed are paths relative to the item{local}, and http, https, s3 and gs URLs"
        )
    return target


def _target(href: str, source: str) -> str | None:
    """Where an href leads, if it may."""
    if "\0" in href:  # which ends a name, for all below
        return None
    if href.startswith(("https://", "http://", "s3://")):
        return href  # as most do, so that this is quick
    if _is_remote(href):
        return href
    remote = _is_remote(source)
    if href.startswith("/vsi"):
        return href if href.startswith(_REMOTE_FILESYSTEMS if remote else _FILESYSTEMS) else None
    if remote:
        joined = urljoin(source, href) if _scheme(href) is not None else ""
        return joined if _is_remote(joined) else None
    if len(_scheme(href) or "") > 1 or href.startswith("<"):  # one letter is a drive of Windows
        return None
    path, decoded = (Path(source).parent / name for name in (href, unquote(href)))
    encoded = "%" in href and not os.path.exists(path) and os.path.exists(decoded)  # noqa: PTH110 - long names
    return str(decoded if encoded else path)


def _is_remote(address: str) -> bool:
    return _scheme(address) in _REMOTE_SCHEMES


def _scheme(address: str) -> str | None:
    """The scheme of an address; "" of a path, None where it is none."""
    try:
        return urlsplit(address).scheme.lower()
    except ValueError:
        return None


def _is_raster(asset: dict[str, Any]) -> bool:
    kind = str(asset.get("type") or "").lower()
    return kind.startswith(_RASTER_TYPES) or _suffix(asset["href"]) in SUFFIXES


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) is int and 0 < v < 2**31 for v in value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _suffix(href: str) -> str:
    name = href.partition("?")[0].partition("#")[0].rpartition("/")[2]
    return name[name.rfind(".") :].lower() if "." in name[1:] else ""


def _number(value: Any) -> float | None:
    """A number, or a text that is one, such as "nan"; None for anything else."""
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
