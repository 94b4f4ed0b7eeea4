"""What lies on disk or in a catalog: one file, a folder of band files, or a STAC item, told as a list of bands."""

from pathlib import Path

from landcover.errors import SceneError
from landcover.products.folder import is_product, read_folder
from landcover.products.names import time_taken
from landcover.products.product import BandSource, Product
from landcover.products.raster import (
    SUFFIXES,
    gdal_cache,
    gdal_options,
    header_errors,
    is_local,
    masking_bands,
    open_file,
    raster_bands,
    read_raster,
)
from landcover.products.stac import (
    OTHER_TIME,
    absolute_href,
    bundled,
    check_item,
    is_item,
    item_datetime,
    item_product,
    item_size,
    parse_datetime,
    raster_hrefs,
    read_item,
)

__all__ = [
    "OTHER_TIME",
    "SUFFIXES",
    "BandSource",
    "Product",
    "absolute_href",
    "bundled",
    "check_item",
    "gdal_cache",
    "gdal_options",
    "header_errors",
    "is_item",
    "is_local",
    "is_product",
    "is_raster",
    "item_datetime",
    "item_product",
    "item_size",
    "masking_bands",
    "open_file",
    "parse_datetime",
    "raster_bands",
    "raster_hrefs",
    "read_product",
    "time_taken",
]


def read_product(source: str) -> Product:
    """Tell the bands of a scene, and what the scene itself says of them, without reading a pixel.

    Args:
        source: a raster, local or remote; a folder of band files (Sentinel-2 SAFE, Landsat, HLS, or names that end in
            the band), or the metadata file in it; a STAC Item, local or at a URL.

    Raises:
        SceneError: it does not exist, cannot be opened, or does not hold one scene.
    """
    try:
        if folder := _folder(source):
            return read_folder(folder)
        return read_item(source) if is_item(source) else read_raster(source)
    except OSError as e:
        raise SceneError(f"{source[:200]} cannot be read: {e.strerror or e}; check its name and its permissions") from e


def is_raster(source: str) -> bool:
    """True for what is meant as a raster, not a folder of bands, the metadata file in it, or a STAC Item."""
    try:
        return not (is_item(source) or _folder(source))
    except OSError:
        return True


def _folder(source: str) -> Path | None:
    """The folder of bands that is named by itself or by the metadata file in it."""
    if not is_local(source):
        return None
    path = Path(source)
    if (path.name.startswith("MTD_MSI") or path.name.upper().endswith("_MTL.TXT")) and path.is_file():
        return path.parent
    return path if path.is_dir() else None
