"""One scene of a catalog, and what makes the names of their outputs safe."""

import datetime as dt
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from shapely.geometry.base import BaseGeometry

from landcover.errors import CatalogError, LandcoverError, counted
from landcover.products import bundled

T = TypeVar("T")

_LISTED = 10
"""Culprits that an error names."""

_LONGEST = 200
"""Bytes of a part of a name, so that suffixes can be added to it."""

_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?|.*[. ]", re.IGNORECASE)

_TAKEN = {"catalog.json", "run.json", "mosaic.tif", "mosaic.vrt"}
"""What a batch writes beside the folders of its scenes."""

_SUFFIX = re.compile(r"(?<=[^/])\.[A-Za-z][A-Za-z0-9]{1,7}$")
_CUTTING = re.compile("[#?;%]")


@dataclass(frozen=True, slots=True)
class Held:
    """A STAC Item as it stands in a catalog, compressed, for there may be very many.

    Attributes:
        content: its JSON.
        base: the document that its hrefs are relative to.
    """

    content: bytes
    base: str

    @classmethod
    def of(cls, text: str, base: str) -> "Held":
        return cls(zlib.compress(text.encode("utf-8", "surrogatepass"), 1), base)

    @property
    def item(self) -> dict[str, Any]:
        """It, with its rasters only, from anywhere."""
        text = zlib.decompress(self.content).decode("utf-8", "surrogatepass")
        return bundled(_without_nulls(json.loads(text)), self.base)


@dataclass(frozen=True, slots=True)
class Entry:
    """One scene of a catalog.

    Attributes:
        source: what `predict` takes: a raster, a folder of bands or a STAC Item, local (then absolute) or remote; ""
            for an Item that only the catalog itself holds.
        name: of its outputs: a relative path with / and without suffix.
        sensor, bands, scale, offset: what the catalog says about bands and scaling, as in `Choice`.
        aoi: the vector file of its area of interest; absolute.
        datetime: when it was taken, in UTC.
        footprint: in degrees of longitude and latitude on WGS 84.
        size: height and width in pixels.
        held: the Item that only the catalog holds; read it as `item`.
        properties: all else that the catalog says.
    """

    source: str
    name: str
    sensor: str | None = None
    bands: dict[str, str] | None = None
    scale: float | None = None
    offset: float | None = None
    aoi: str | None = None
    datetime: dt.datetime | None = None
    footprint: BaseGeometry | None = None
    size: tuple[int, int] | None = None
    held: "Held | None" = field(default=None, repr=False)
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def item(self) -> dict[str, Any] | None:
        """The STAC Item that only the catalog holds, its hrefs absolute; None for a scene with a source."""
        return None if self.held is None else self.held.item

    @property
    def label(self) -> str:
        """What an error calls it."""
        return self.source or f"the item {self.name}"


def _without_nulls(value: Any) -> Any:
    """A JSON value without the members that are null, which say as much as if they were not there."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def name_of(path: str) -> str:
    """What a scene is called after its file: without what looks like a suffix (not `.v2.0`), and what cuts hrefs."""
    return _CUTTING.sub("_", _SUFFIX.sub("", path))


def absolute(path: str | Path) -> str:
    """A path of this machine from its root; links in it are kept, for they may be what the user knows it by.

    Unless `..` follows one, which leads up from where the link leads.
    """
    whole = Path(path).absolute()
    if ".." not in whole.parts:
        return os.path.normpath(whole)
    return _led_up(whole) if whole.name == ".." else str(Path(_led_up(whole.parent)) / whole.name)


@lru_cache
def _led_up(folder: Path) -> str:
    plain, there = os.path.normpath(folder), os.path.realpath(folder)
    return plain if os.path.realpath(plain) == there else there


def make_entries(source: str, rows: Iterable[T], make: Callable[[T], Entry]) -> list[Entry]:
    """Make an entry of each row.

    Raises:
        CatalogError: rows cannot be used; the first of them are named, and their number.
    """
    entries, problems, count = [], [], 0
    for row in rows:
        try:
            entries.append(make(row))
        except LandcoverError as e:
            count += 1
            problems += [str(e)] if count <= _LISTED else []
    if count:
        raise CatalogError(f"{source} has {counted(count, 'scene')} that cannot be used: {_listed(problems, count)}")
    return entries


def check_names(entries: list[Entry], source: str) -> None:
    """Refuse names that lead out of the output folder, or that two scenes share.

    Raises:
        CatalogError: there are such names.
    """
    wrong = [f"{e.name[:80]!r} of {e.label} {problem}" for e in entries if (problem := _problem(e.name))]
    if wrong:
        raise CatalogError(
            f"{source} has {counted(len(wrong), 'scene')} whose name cannot be that of an output: "
            f"{_listed(wrong, len(wrong))}; rename them, or give them names in a table with the columns path and name"
        )
    counts = Counter(e.name.casefold() for e in entries)
    if len(counts) == len(entries):
        return
    twice = [name for name, count in counts.items() if count > 1]
    sharing: dict[str, list[Entry]] = {name: [] for name in twice[:_LISTED]}
    for entry in entries:
        if entry.name.casefold() in sharing and len(sharing[entry.name.casefold()]) < 3:
            sharing[entry.name.casefold()].append(entry)
    told = [f"{same[0].name} of {' and '.join(e.label for e in same)}" for same in sharing.values()]
    capitals = any(len({e.name for e in same}) > 1 for same in sharing.values())
    hint = " (there are disks that take capitals and small letters for the same)" if capitals else ""
    raise CatalogError(
        f"{source} gives {counted(len(twice), 'name')} to more than one scene: {_listed(told, len(twice))}{hint}; "
        "give each its own in a table with the columns path and name"
    )


def _problem(name: str) -> str:
    """Why a name cannot be that of an output, or ""."""
    parts = name.split("/")
    if not name or not name.isprintable() or "\\" in name:
        return "is empty, or holds a sign that names cannot hold"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "is absolute"
    if ".." in parts:
        return "leads out of the output folder"
    if parts[0].casefold() in _TAKEN:
        return "is that of a file of the batch itself"
    if any(part == "" or part.startswith(".") for part in parts):
        return "has a part that is empty or begins with a dot"
    if any(_RESERVED.fullmatch(part) for part in parts):
        return "has a part that Windows keeps for itself"
    if any(len(part.encode()) > _LONGEST for part in parts):
        return f"has a part longer than {_LONGEST} bytes"
    return ""


def _listed(texts: list[str], count: int) -> str:
    more = count - min(len(texts), _LISTED)
    return "; ".join(texts[:_LISTED]) + (f"; and {more:,} more" if more else "")
