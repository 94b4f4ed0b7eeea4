"""One raster that GDAL opens, local or remote: its bands, and what it says of them."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from landcover.errors import SceneError, check_name
from landcover.processors import own_threads
from landcover.products.names import common_name, time_taken
from landcover.products.product import BandSource, Product

SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
"""Of raster files in folders and catalogs, in lower case."""

_GDAL_OPTIONS = {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
}
"""How files are asked for again where a network fails or stalls."""

_REMOTE = {"http": "/vsicurl/{url}", "https": "/vsicurl/{url}", "s3": "/vsis3/{rest}", "gs": "/vsigs/{rest}"}
_SENTINEL_DESCRIPTION = re.compile(r"^(B\d{1,2}A?), central wavelength")
_COLOURS = {
    ColorInterp.red: "red",
    ColorInterp.green: "green",
    ColorInterp.blue: "blue",
    **{ColorInterp[n]: n for n in ("nir", "coastal", "rededge", "pan") if n in ColorInterp.__members__},
}
"""Colours that say which band it is. Alpha does not: many aerial images flag near infrared so. Nor does `swir`, of
which there are two."""


def read_raster(source: str) -> Product:
    """Read one file, or whatever else GDAL opens under one name, as a product."""
    return Product(source, raster_bands(gdal_path(source)), datetime=time_taken(Path(source).name))


def gdal_path(source: str) -> str:
    """What GDAL calls a file, a URL, or a place in a bucket."""
    scheme, separator, rest = source.partition("://")
    pattern = _REMOTE.get(scheme.lower()) if separator else None
    return pattern.format(url=source, rest=rest) if pattern else source


def gdal_options() -> dict[str, str]:
    """GDAL's settings for reading scenes; those of the user's environment go first.

    Raises:
        ConfigError: LANDCOVER_THREADS or LANDCOVER_CORES is not what it must be.
    """
    options = {"GDAL_NUM_THREADS": str(own_threads())} | _GDAL_OPTIONS
    return {name: os.environ.get(name, value) for name, value in options.items()}


@contextmanager
def gdal_cache(size: int) -> Iterator[None]:
    """Let GDAL keep so many bytes of pixels that it has read, in the whole process, while a block of code runs.

    By default it keeps a twentieth of the machine's memory, and so it does again afterwards.
    """
    before = get_gdal_config("GDAL_CACHEMAX")
    set_gdal_config("GDAL_CACHEMAX", size)
    try:
        yield
    finally:
        set_gdal_config("GDAL_CACHEMAX", before)


def raster_bands(path: str) -> tuple[BandSource, ...]:
    """The bands of one raster, with what it says of each.

    Raises:
        SceneError: there is no such file, it is no raster, or no single raster of real numbers.
    """
    check_name(path, SceneError)
    if is_local(path):
        try:
            _check_file(Path(path))
        except OSError as e:
            raise SceneError(f"{path[:200]} cannot be read: {e.strerror}; check its name and its permissions") from e
    with rasterio.Env(**gdal_options()), header_errors(path), ExitStack() as stack:
        file = open_file(path, stack)
        _check_content(file, path)
        described = any(file.descriptions)
        return tuple(_band(file, path, i, described) for i in file.indexes)


def open_file(path: str, stack: ExitStack) -> rasterio.DatasetReader:
    """Open a raster for as long as `stack` lasts; a SceneError if it cannot be."""
    check_name(path, SceneError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # said as an error, or allowed, by open_scene
            return stack.enter_context(rasterio.open(path))
    except RasterioError as e:
        raise SceneError(f"{path} cannot be opened as a raster: {e}") from e


@contextmanager
def header_errors(path: str) -> Iterator[None]:
    """Say of an error that GDAL meets in what a raster tells of itself, which it may read long after opening it.

    Raises:
        SceneError: in place of GDAL's own, which rasterio passes on as it is.
    """
    try:
        yield
    except CPLE_BaseError as e:
        raise SceneError(f"{path} cannot be read: {e}; its server may be out of reach, or the file cut short") from e


def only_band(path: Path, label: str) -> BandSource:
    """The band of a file that holds a single one, under the label that its name gives it."""
    bands = raster_bands(str(path))
    if len(bands) > 1:
        raise SceneError(
            f"{path} has {len(bands)} bands, where its name says that it is band {label}; "
            "a folder of bands needs one band a file, so give this file itself, or take it out of the folder"
        )
    return replace(bands[0], label=label, common_name=common_name(label))


def is_local(path: str) -> bool:
    """True for a path of this machine, not a URL or what GDAL alone understands."""
    return not (path.startswith(("/vsi", "<")) or re.match(r"[A-Za-z][A-Za-z0-9+_]+:", path))


def _check_file(path: Path) -> None:
    if not path.exists():
        raise SceneError(f"{path} does not exist; check the spelling and the folder")
    if path.is_file() and path.stat().st_size == 0:
        raise SceneError(f"{path} is empty (0 bytes); download or copy it again")
    if path.name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        raise SceneError(f"{path} is an archive; unpack it and give the folder or the file in it")


def _check_content(file: rasterio.DatasetReader, path: str) -> None:
    if file.subdatasets:
        listed = ", ".join(file.subdatasets[:20]) + (", …" if len(file.subdatasets) > 20 else "")
        raise SceneError(
            f"{path} holds {len(file.subdatasets)} rasters; name one of them as the scene: {listed}; where each is a "
            "band, stack them first (gdalbuildvrt -separate scene.vrt …)"
        )
    if file.count == 0:
        raise SceneError(f"{path} is a raster without bands; give the file that holds the pixels")
    complex_bands = [i for i, dtype in zip(file.indexes, file.dtypes, strict=True) if dtype.startswith("complex")]
    if complex_bands:
        dtype = file.dtypes[complex_bands[0] - 1]
        raise SceneError(
            f"{path} holds complex numbers (band {complex_bands[0]} is {dtype}), as radar products do; "
            "a land-cover model needs reflectances, so give an optical scene"
        )


def _band(file: rasterio.DatasetReader, path: str, index: int, described: bool) -> BandSource:
    label = _label(file, index)
    # GDAL calls any three-band image red, green and blue, so colours count only where nothing else is said.
    name = common_name(label) if described else _COLOURS.get(file.colorinterp[index - 1])
    alpha = file.colorinterp[index - 1] == ColorInterp.alpha
    scale, offset = file.scales[index - 1], file.offsets[index - 1]
    if (scale, offset) == (1, 0):
        return BandSource(path, index, label, name, alpha=alpha)
    return BandSource(path, index, label, name, scale, offset, alpha=alpha)


def _label(file: rasterio.DatasetReader, index: int) -> str:
    """What a file calls one of its bands; "" if it does not name it."""
    label = (file.descriptions[index - 1] or "").strip()
    match = _SENTINEL_DESCRIPTION.match(label)
    return match[1] if match else label


def masking_bands(file: rasterio.DatasetReader) -> list[int]:
    """The bands of a file that are masks: flagged as alpha, and not named as a spectral band.

    GDAL flags the fourth band of bytes so, near infrared or not.
    """
    alpha = (i for i, role in zip(file.indexes, file.colorinterp, strict=True) if role == ColorInterp.alpha)
    return [i for i in alpha if common_name(_label(file, i)) is None]
