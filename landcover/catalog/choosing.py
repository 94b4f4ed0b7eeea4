"""Which scenes of a catalog are wanted: by place, by time, by what is said of them, by number."""

import datetime as dt
import json
import logging
import re
import sqlite3
from calendar import monthrange
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from shapely import STRtree
from shapely.geometry.base import BaseGeometry

from landcover.catalog.entry import Entry
from landcover.catalog.looking import Seen, survey
from landcover.errors import ConfigError, LandcoverError, counted, listed, nearest
from landcover.footprints import box
from landcover.products import parse_datetime
from landcover.regions import read_area

_log = logging.getLogger(__name__)

_OWN = ("name", "source", "sensor", "datetime")
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"((?:[^\"]|\"\")*)\"")


def choose(
    entries: Sequence[Entry],
    *,
    bbox: tuple[float, float, float, float] | None = None,
    aoi: str | Path | None = None,
    datetime: str | None = None,
    where: str | None = None,
    limit: int | None = None,
) -> list[Entry]:
    """The entries that satisfy every condition, in their order.

    Args:
        entries: of a catalog. Those without a footprint are looked at where a place is asked for; those that cannot be
            opened are taken, for whoever maps them to say so. Those without a time are where a time is asked for.
        bbox: west, south, east and north in degrees; west is the greater for a box across the antimeridian.
        aoi: a vector file of polygons in any CRS; scenes that touch one of them are taken.
        datetime: an instant, a day, a month, a year, or an interval of them, as in "2024-06-01/2024-08-31" or
            "../2023"; its ends belong to it. A scene of unknown time is not taken.
        where: a condition in SQL over the columns name, source, sensor, datetime and all properties, as in
            '"eo:cloud_cover" < 20'.
        limit: take the first of the others only.

    Raises:
        ConfigError: a condition cannot be read.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be at least 1, not {limit}")
    span = parse_interval(datetime) if datetime is not None else None
    chosen = list(entries) if where is None else _satisfying(list(entries), where)
    chosen = chosen if span is None else _within(chosen, *span)
    places = ({"--bbox": _box(bbox)} if bbox is not None else {}) | ({"--aoi": _area(aoi)} if aoi is not None else {})
    return (_touching(chosen, places) if places else chosen)[:limit]


def parse_interval(text: str) -> tuple[dt.datetime, dt.datetime]:
    """The first and the last instant of a time span as STAC writes it.

    Raises:
        ConfigError: it is none, or ends before it begins.
    """
    first, slash, last = text.strip().partition("/")
    try:
        start = _EVER[0] if slash and first in ("", "..") else _span(first)[0]
        stop = (_EVER[1] if last in ("", "..") else _span(last)[1]) if slash else _span(first)[1]
    except ValueError as e:
        raise ConfigError(
            f"--datetime '{text}' is no time span; write a day, or an interval as 2024-06-01/2024-08-31 or ../2023"
        ) from e
    if start > stop:
        raise ConfigError(f"--datetime '{text}' ends before it begins; write the earlier time first")
    return start, stop


_EVER = dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)


def _span(text: str) -> tuple[dt.datetime, dt.datetime]:
    """The first and the last instant of a year, a month or a day; an instant twice."""
    match = re.fullmatch(r"(\d{4})(?:-?(\d\d))?(?:-?(\d\d))?", text.strip())
    if not match:
        if ":" not in text and "T" not in text.upper():
            raise ValueError("neither a day nor an instant")  # a week, say, of which Python gives the first day
        return (parse_datetime(text),) * 2
    year, month, day = (int(part or 1) for part in match.groups())
    start = dt.datetime(year, month, day, tzinfo=dt.UTC)
    last = start.replace(month=month if match[2] else 12)
    last = last if match[3] else last.replace(day=monthrange(year, last.month)[1])
    return start, dt.datetime.combine(last, dt.time.max, dt.UTC)


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Read "west,south,east,north".

    Raises:
        ConfigError: it is not four numbers.
    """
    try:
        west, south, east, north = (float(v) for v in text.replace(",", " ").split())
    except ValueError as e:
        raise ConfigError(f"--bbox '{text}' is not four numbers; write --bbox west,south,east,north in degrees") from e
    return west, south, east, north


def _box(bbox: tuple[float, float, float, float]) -> list[BaseGeometry]:
    west, south, east, north = bbox
    if not (np.isfinite(bbox).all() and max(abs(west), abs(east)) <= 180 and -90 <= south < north <= 90):
        raise ConfigError(
            f"--bbox {','.join(f'{v:.10g}' for v in bbox)} is no box in longitude and latitude; "
            "write west,south,east,north in degrees, the smaller latitude first"
        )
    return [box(west, south, east, north)]


def _area(path: str | Path) -> list[BaseGeometry]:
    """Polygons in degrees, from -180 to 180 as footprints are."""
    earth = Affine(1, 0, -180, 0, -1, 90), CRS.from_epsg(4326), (180, 360)
    return list(read_area(path, *earth).polygons)


def _within(entries: list[Entry], start: dt.datetime, stop: dt.datetime) -> list[Entry]:
    """The entries that were taken in a span of time, as they or their headers tell."""
    looked = survey(e for e in entries if e.datetime is None)
    found = [(e, e if e.datetime is not None else _known(next(looked))) for e in entries]
    if closed := [e.name for e, seen in found if seen is None]:
        of = counted(len(closed), "scene")
        _log.warning("--datetime leaves out %s that cannot be read as such: %s", of, listed(closed))
    known = [seen for _, seen in found if seen is not None]
    if silent := [e.name for e in known if e.datetime is None]:
        _log.warning("--datetime leaves out %s of unknown time: %s", counted(len(silent), "scene"), listed(silent))
    return [e for e in known if e.datetime is not None and start <= e.datetime <= stop]


def _touching(entries: list[Entry], places: dict[str, list[BaseGeometry]]) -> list[Entry]:
    """The entries that touch each of the places, which are by option, or may do so for all that is known."""
    looked = survey(e for e in entries if e.footprint is None)
    known = [e if e.footprint is not None else _known(next(looked)) for e in entries]
    if silent := [e.name for e in known if e is not None and e.footprint is None]:
        asked = f"{' and '.join(places)} {'leaves' if len(places) == 1 else 'leave'}"
        _log.warning("%s out %s of unknown place: %s", asked, counted(len(silent), "scene"), listed(silent))
    footprints = np.array([None if e is None else e.footprint for e in known], object)
    taken = np.array([e is None for e in known], bool)
    near = np.ones(len(entries), bool)
    for place in places.values():
        touched = STRtree(footprints).query(place, predicate="intersects")[1]
        near &= np.isin(np.arange(len(entries)), touched)
    return [known[i] or entries[i] for i in np.flatnonzero(near | taken)]


def _known(seen: Seen | LandcoverError) -> Entry | None:
    """The entry of a scene that could be opened, else None."""
    return seen.entry if isinstance(seen, Seen) else None


def _satisfying(entries: list[Entry], where: str) -> list[Entry]:
    """The entries that satisfy a condition in SQL, which can read one table in memory and do nothing else."""
    known = _columns(entries)
    for match in _QUOTED.finditer(where):
        # SQLite takes an unknown name in double quotes as a text, and so finds nothing where a name is misspelt.
        name = match[1] and match[1].replace('""', '"')
        if name and name.casefold() not in known:
            raise ConfigError(f'--where {where!r} asks for "{name}", which no scene has: {_nearest(name, known)}')
    used = {folded: name for folded, name in known.items() if folded.replace('"', '""') in where.casefold()}
    try:
        found = _query(entries, list(used.values()), where)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as e:
        missing = re.match("no such column: (.*)", str(e))
        raise ConfigError(
            f"--where {where!r} cannot be evaluated: {e}; write names with signs in them in double quotes, as "
            f'"eo:cloud_cover", and texts in single ones; {_nearest(missing[1] if missing else "", known)}'
        ) from e
    return [entry for i, entry in enumerate(entries) if i in found]


def _columns(entries: Iterable[Entry]) -> dict[str, str]:
    """The names of columns by what SQLite, which knows no capitals, takes them for."""
    known = {name: name for name in _OWN}
    for entry in entries:
        for name in entry.properties:
            known.setdefault(name.casefold(), name)
    return known


def _nearest(name: str, known: dict[str, str]) -> str:
    return nearest(name, sorted(known.values())[:100])


def _query(entries: list[Entry], columns: list[str], where: str) -> set[Any]:
    quoted = ", ".join('"{}"'.format(name.replace('"', '""')) for name in columns)
    number = "i"
    while number in {name.casefold() for name in columns}:
        number += "_"
    db = sqlite3.connect(":memory:")
    try:
        db.execute(f"CREATE TABLE scenes ({number}{', ' if columns else ''}{quoted})")
        rows = ((i, *(_value(entry, name) for name in columns)) for i, entry in enumerate(entries))
        db.executemany(f"INSERT INTO scenes VALUES ({', '.join('?' * (len(columns) + 1))})", rows)
        db.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
        return {row[0] for row in db.execute(f"SELECT {number} FROM scenes WHERE ({where}\n)")}
    finally:
        db.close()


def _value(entry: Entry, name: str) -> Any:
    """What an entry says, as SQLite stores it."""
    if name == "datetime":
        return entry.datetime and entry.datetime.isoformat().replace("+00:00", "Z")
    value = getattr(entry, name) if name in _OWN else entry.properties.get(name)
    if value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**63 else float(value) if abs(value) < 10**300 else str(value)[:40]
    return json.dumps(value, default=str)
