"""What a catalog does not say of a scene, and the headers of its files do."""

import datetime as dt
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from landcover.bands import gdal_options, open_file
from landcover.catalog.entry import Entry
from landcover.errors import LandcoverError, MapError, SceneError
from landcover.footprints import footprint
from landcover.ground import Ground, ground_resolution
from landcover.products import SUFFIXES, Product, is_local, item_product, parse_datetime, read_product, time_taken

_AT_ONCE = 8
"""Scenes whose headers are read at the same time; most of it is waiting for a disk or a server."""


@dataclass(frozen=True)
class Seen:
    """A scene whose headers were read.

    Attributes:
        entry: with what it lacked.
        product: its bands.
        ground: where the pixels of its finest band lie; None if it is not placed on the earth.
        gsd: the side of these pixels in metres; None likewise.
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
        SceneError: the scene cannot be opened.
    """
    return see(entry).entry


def measure(entry: Entry) -> Entry:
    """Tell the size of a scene, and when it was taken, as `look` does; without a footprint, and so faster.

    Raises:
        SceneError: the scene cannot be opened.
    """
    path = Path(entry.source)
    if entry.item or path.suffix.lower() not in SUFFIXES or not is_local(entry.source) or path.is_dir():
        return look(entry)
    with ExitStack() as stack:
        file = open_file(entry.source, stack)
        return replace(
            entry, size=entry.size or file.shape, datetime=entry.datetime or _time(time_taken(path.name), file)
        )


def see(entry: Entry) -> Seen:
    """Open the headers of a scene.

    Raises:
        SceneError: the scene cannot be opened.
    """
    product = item_product(entry.item, entry.label) if entry.item else read_product(entry.source)
    with rasterio.Env(**gdal_options()), ExitStack() as stack:
        files = [open_file(path, stack) for path in dict.fromkeys(b.path for b in product.bands)]
        finest = min(files, key=lambda f: abs(f.transform.determinant))
        ground = _ground(finest)
        known = replace(
            entry,
            size=entry.size or finest.shape,
            footprint=entry.footprint or (footprint(ground) if ground else None),
            datetime=entry.datetime or _time(product.datetime, finest),
        )
        return Seen(known, product, ground, ground_resolution(finest.transform, finest.crs, *finest.shape))


def survey(entries: Iterable[Entry]) -> Iterator[Seen | LandcoverError]:
    """Read the headers of many scenes; yields what each is, or why it cannot be read, in their order."""
    with warnings.catch_warnings(), ThreadPoolExecutor(_AT_ONCE) as pool:
        # said for all threads at once, for what one of them says of warnings is said to all
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield from pool.map(_see_or_tell, entries)


def _see_or_tell(entry: Entry) -> Seen | LandcoverError:
    try:
        return see(entry)
    except LandcoverError as e:
        return e


def _ground(file: rasterio.DatasetReader) -> Ground | None:
    try:
        return Ground.of(file) if file.crs else None
    except MapError as e:
        raise SceneError(str(e)) from e


def _time(said: dt.datetime | None, file: rasterio.DatasetReader) -> dt.datetime | None:
    """When a product says that it was taken, or its file does, in GDAL's metadata of imagery."""
    text = file.tags(ns="IMAGERY").get("ACQUISITIONDATETIME")
    try:
        return said or (parse_datetime(text) if text else None)
    except ValueError:
        return None
