"""What tells a scene from another, or from itself before it was changed, so that what is finished is known again."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from landcover.catalog import Entry
from landcover.errors import SceneError
from landcover.products import absolute_href, is_local, open_file
from landcover.provenance import without_secrets


def digest(*facts: Any) -> str:
    """A checksum of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def sensor_content(sensor: str | None) -> dict[str, str]:
    """What a sensor's file says in place of where it is; nothing for a sensor with a name."""
    if not sensor or not sensor.endswith(".toml"):
        return {}
    with suppress(OSError):  # whoever is given the scene will tell
        return {"sensor": hashlib.sha256(Path(sensor).read_bytes()).hexdigest()}
    return {}


def identity(entry: Entry) -> list[Any]:
    """What tells a scene from another, or from itself before it was changed."""
    aoi = [_facts(Path(entry.aoi))] if entry.aoi and is_local(entry.aoi) else []
    if entry.source and not is_local(entry.source):
        return [entry.source.partition("?")[0], *aoi]  # a signed address changes, the scene does not
    path = Path(entry.source)
    if not entry.source or path.suffix.lower() in (".json", ".geojson"):
        item = _read_item(path) if entry.source else entry.item or {"assets": {}}
        return [digest(unsigned(item)), *(_facts(p) for p in _asset_files(item, entry.source)), *aoi]
    folder = os.path.isdir(path)  # noqa: PTH112 - see `_is_file`
    files = [p for p in sorted(path.rglob("*")) if _is_file(p)] if folder else _files(path)
    return [_facts(p) for p in files] + aoi


def _asset_files(item: dict[str, Any], source: str) -> Iterator[Path]:
    """The files of this machine that the assets of an Item are, and those behind them."""
    for asset in item["assets"].values():
        with suppress(SceneError):  # one that is not opened
            target = absolute_href(str(asset.get("href")), source)
            if is_local(target) and _is_file(Path(target)):
                yield from _files(Path(target))


def _files(path: Path, known: frozenset[Path] = frozenset()) -> list[Path]:
    """A raster, what lies beside it and tells how to read it, and what it is made of if it is a virtual one."""
    world = f"{path.suffix[:2]}{path.suffix[-1:]}w"
    names = (f"{path.name}.aux.xml", f"{path.name}.msk", path.stem + world, f"{path.stem}.hdr")
    beside = [p for name in names if _is_file(p := path.with_name(name))] if path.suffix else []
    return [path, *beside, *(p for each in _sources(path, known) for p in _files(each, known | {path}))]


def _sources(path: Path, known: frozenset[Path]) -> list[Path]:
    """The files of this machine that a virtual raster is made of, unless it is known already."""
    if path.suffix.lower() != ".vrt" or path in known:
        return []
    files: list[str] = []
    with suppress(SceneError), ExitStack() as stack:  # whoever is given it will tell what is wrong with it
        files = open_file(str(path), stack).files
    return sorted(p for file in files if _is_file(p := Path(file)) and p != path)


def _is_file(path: Path) -> bool:
    """Whether there is a file; none is where its name is too long, or its folder locked, which pathlib raises."""
    return os.path.isfile(path)  # noqa: PTH113


def _read_item(path: Path) -> dict[str, Any]:
    """A STAC Item, as far as it tells its assets; whoever is given it will tell what is wrong with it."""
    facts = _facts(path)
    try:
        item = json.loads(path.read_bytes())
        return item if all(isinstance(asset, dict) for asset in item["assets"].values()) else {"assets": {}}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {"assets": {}, "file": facts}


def _facts(path: Path) -> list[Any]:
    try:
        facts = path.stat()
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        reason = "does not exist" if isinstance(e, FileNotFoundError) else f"cannot be read: {why}"
        raise SceneError(f"{path} {reason}; correct the catalog, or bring it back") from e
    return [path.name, facts.st_size, facts.st_mtime_ns]


def unsigned(value: Any) -> Any:
    """A JSON value in which no address has a password or a query."""
    if isinstance(value, dict):
        return {k: unsigned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [unsigned(v) for v in value]
    if isinstance(value, str) and (value.startswith("/vsi") or "://" in value):
        return without_secrets(value.partition("?")[0].partition("#")[0])
    return value
