"""What a catalog does not say of a scene, and the headers of its files do."""

import datetime as dt
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from landcover.catalog.entry import Entry
from landcover.errors import LandcoverError, MapError, NoSceneError, SceneError
from landcover.footprints import footprint
from landcover.ground import Ground, ground_resolution
from landcover.products import (
    SUFFIXES,
    Product,
    gdal_options,
    is_local,
    item_product,
    open_file,
    parse_datetime,
    read_product,
    time_taken,
)
from landcover.provenance import is_made

T = TypeVar("T")

_LIKE_THE_GROUND = 0.01
"""How far pixels of a grid may be from those on the ground, as in UTM and not in Mercator grids, as a share."""

_SIZE_ONLY = {"GDAL_GEOREF_SOURCES": "NONE", "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
"""How a file is opened to tell its size: GDAL need neither place it on the earth nor list the folder around it."""

_AT_ONCE = 8
"""Scenes whose headers are read at the same time; most of it is waiting for a disk or a server."""


@dataclass(frozen=True)
class Seen:
    """A scene whose headers were read.

    Attributes:
        entry: with what it lacked.
        product: its bands.
        ground: where the pixels of its finest band lie; None if it is not placed on the earth.
        gsd: the side of these pixels in metres, in a grid of metres as it is there; None likewise.
    """

    entry: Entry
    product: Product
    ground: Ground | None
    gsd: float | None


def look(entry: Entry) -> Entry:
    """Open the headers of a scene, to tell its size and footprint, and when it was taken if the product says so.

    Returns:
        The entry with what it lacked.

    Raises:
        SceneError: the scene cannot be opened, or is none.
    """
    return see(entry).entry


def measure(entries: Sequence[Entry]) -> list[Entry | LandcoverError]:
    """Tell the sizes of scenes, and when they were taken, as `look` does; without footprints, and so faster.

    Returns:
        The entries with what they lacked, or why they cannot be opened.
    """
    with rasterio.Env(**_SIZE_ONLY):
        quick = {i: _or_why_not(_header, entry) for i, entry in enumerate(entries) if _is_plain(entry)}
    return [quick[i] if i in quick else _or_why_not(look, entry) for i, entry in enumerate(entries)]


def _is_plain(entry: Entry) -> bool:
    """Whether a scene is a file of this machine that GDAL opens by its name."""
    path = Path(entry.source)
    return not entry.held and path.suffix.lower() in SUFFIXES and is_local(entry.source) and not path.is_dir()


def _header(entry: Entry) -> Entry:
    with ExitStack() as stack:
        file = _open(entry.source, stack)
        taken = entry.datetime or _time(time_taken(Path(entry.source).name), file)
        return replace(entry, size=entry.size or file.shape, datetime=taken)


def see(entry: Entry) -> Seen:
    """Open the headers of a scene.

    Raises:
        SceneError: the scene cannot be opened, or is none.
    """
    product = item_product(entry.item, entry.label) if entry.item else read_product(entry.source)
    with rasterio.Env(**gdal_options()), ExitStack() as stack:
        files = [_open(path, stack) for path in dict.fromkeys(b.path for b in product.bands)]
        finest = min(files, key=lambda f: abs(f.transform.determinant))
        ground = _ground(finest)
        known = replace(
            entry,
            size=entry.size or finest.shape,
            footprint=entry.footprint or (footprint(ground) if ground else None),
            datetime=entry.datetime or _time(product.datetime, finest),
        )
        return Seen(known, product, ground, _gsd(finest))


def survey(entries: Iterable[Entry]) -> Iterator[Seen | LandcoverError]:
    """Read the headers of many scenes; yields what each is, or why it cannot be read, in their order."""
    with warnings.catch_warnings(), ThreadPoolExecutor(_AT_ONCE) as pool:
        # said for all threads at once, for what one of them says of warnings is said to all
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield from pool.map(partial(_or_why_not, see), entries)


def without_twins(entries: Sequence[Entry]) -> list[Entry]:
    """Leave out what landcover made and is called as something else is, as its mosaic.tif and its mosaic.vrt are.

    Where there is nothing else of a name, one of them stays, for whoever opens it to tell what it is.
    """
    counts = Counter(entry.name.casefold() for entry in entries)
    kept = []
    for entry in entries:
        name = entry.name.casefold()
        if counts[name] > 1 and isinstance(next(survey([entry])), NoSceneError):
            counts[name] -= 1
        else:
            kept.append(entry)
    return kept


def _open(path: str, stack: ExitStack) -> rasterio.DatasetReader:
    file = open_file(path, stack)
    if is_made(file.tags()):
        raise NoSceneError(f"{path} was made by landcover, so it is no scene to be mapped")
    return file


def _or_why_not(tell: Callable[[Entry], T], entry: Entry) -> T | LandcoverError:
    try:
        return tell(entry)
    except LandcoverError as e:
        return e


def _ground(file: rasterio.DatasetReader) -> Ground | None:
    try:
        return Ground.of(file) if file.crs else None
    except MapError as e:
        raise SceneError(str(e)) from e


def _gsd(file: rasterio.DatasetReader) -> float | None:
    """The side of a pixel in metres: that of the grid, 10 for Sentinel-2, unless it is another one on the ground."""
    on_ground = ground_resolution(file.transform, file.crs, *file.shape)
    if on_ground is None:
        return None
    if file.crs.is_projected:
        in_grid = math.sqrt(abs(file.transform.determinant)) * file.crs.linear_units_factor[1]
        if abs(in_grid / on_ground - 1) < _LIKE_THE_GROUND:
            return round(in_grid, 6)
    return round(on_ground, 6)


def _time(said: dt.datetime | None, file: rasterio.DatasetReader) -> dt.datetime | None:
    """When a product says that it was taken, or its file does, in GDAL's metadata of imagery."""
    text = file.tags(ns="IMAGERY").get("ACQUISITIONDATETIME")
    try:
        return said or (parse_datetime(text) if text else None)
    except ValueError:
        return None
