"""Sentinel-2 SAFE folders, Level-1C and Level-2A, of old and new processing baselines."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

from landcover.errors import SceneError
from landcover.products.names import time_taken
from landcover.products.product import BandSource, Product
from landcover.products.raster import only_band

_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""In the order of `band_id` in the metadata (ESA, Sentinel-2 Products Specification Document)."""

_METADATA = re.compile(r"MTD_(?:MSI|SAF)(L1C|L2A)", re.IGNORECASE)
_IMAGE = re.compile(r"_(B\d\d|B8A)(?:_(\d\d)m)?\.(?:jp2|tiff?)$", re.IGNORECASE)
_QUANTIFICATION = {
    "L1C": ("QUANTIFICATION_VALUE",),
    "L2A": ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE"),
}
_OFFSET = {"L1C": "RADIO_ADD_OFFSET", "L2A": "BOA_ADD_OFFSET"}
_FIRST_WITH_OFFSET = 4.0
_CUSTOM_BASELINE = 99.0
"""From here on, a baseline is not ESA's but of someone's own processing, and says nothing of offsets."""
_LARGEST = 50_000_000


def is_safe(folder: Path) -> bool:
    return folder.suffix.upper() == ".SAFE" or bool(_find_metadata(folder))


def read_safe(folder: Path) -> Product:
    """Read a SAFE folder: each band at its best resolution, with scale and offset from the product's metadata.

    Raises:
        SceneError: metadata or images are missing, there are several granules, or the offset cannot be told.
    """
    if not (found := _find_metadata(folder)):
        raise SceneError(
            f"{folder} has no MTD_MSIL1C.xml or MTD_MSIL2A.xml, which says how its numbers become reflectance; "
            "download it again, or give the folder of its .jp2 files with --sensor"
        )
    metadata, level = found[0]
    values = _read_values(metadata)
    quantification, offsets = _quantification(values, level, metadata), _offsets(values, level, metadata)
    bands = [
        _scaled(only_band(path, label), quantification, offsets, metadata)
        for label, path in sorted(_images(folder).items(), key=lambda item: _BANDS.index(item[0]))
    ]
    return Product(str(folder), tuple(bands), f"sentinel2-{level.lower()}", time_taken(folder.name))


def _find_metadata(folder: Path) -> list[tuple[Path, str]]:
    """The metadata files of a product, and the level that each tells, "L1C" or "L2A"."""
    return [(p, match[1].upper()) for p in sorted(folder.glob("*MTD_*.xml")) if (match := _METADATA.search(p.name))]


def _images(folder: Path) -> dict[str, Path]:
    """The image of each band at its best resolution."""
    granules = sorted(p for p in folder.glob("GRANULE/*") if p.is_dir())
    if len(granules) > 1:
        raise SceneError(
            f"{folder} holds {len(granules)} granules, as products before December 2016 do; give the IMG_DATA folder "
            f"of one of them with --sensor, for example {granules[0] / 'IMG_DATA'}"
        )
    best: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("GRANULE/*/IMG_DATA/**/*")):
        match = _IMAGE.search(path.name)
        if not match or (label := match[1].upper()) not in _BANDS:
            continue
        resolution = int(match[2] or 0)
        if label not in best or resolution < best[label][0]:
            best[label] = (resolution, path)
    if not best:
        raise SceneError(f"{folder} has no band images under GRANULE/*/IMG_DATA; download it again")
    return {label: path for label, (_, path) in best.items()}


def _read_values(metadata: Path) -> list[tuple[str, str, str]]:
    """Every element of the metadata that holds a text: its name, its `band_id` if any, its text."""
    if metadata.stat().st_size > _LARGEST:
        raise SceneError(f"{metadata} is too large to be a product's metadata; download the product again")
    try:
        content = metadata.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise SceneError(f"{metadata} is not valid XML: {e}; download the product again") from e
    if "<!DOCTYPE" in content or "<!ENTITY" in content:
        raise SceneError(f"{metadata} declares a document type or entities, which no such file needs; it is not read")
    try:
        root = ET.fromstring(content)
    except (ET.ParseError, ValueError) as e:
        raise SceneError(f"{metadata} is not valid XML: {e}; download the product again") from e
    return [(e.tag.rpartition("}")[2], e.get("band_id", ""), e.text.strip()) for e in root.iter() if e.text]


def _quantification(values: list[tuple[str, str, str]], level: str, metadata: Path) -> float:
    found = [text for name, _, text in values if name in _QUANTIFICATION[level]]
    quantification = _number(found[0], metadata) if found else 0.0
    if quantification <= 0:
        raise SceneError(f"{metadata} has no usable {_QUANTIFICATION[level][0]}; download the product again")
    return quantification


def _offsets(values: list[tuple[str, str, str]], level: str, metadata: Path) -> dict[str, float]:
    """The digital number to add to each band; empty for products of before baseline 04.00, which have none."""
    offsets = {
        _BANDS[int(band)]: _number(text, metadata)
        for name, band, text in values
        if name == _OFFSET[level] and band.isdecimal() and int(band) < len(_BANDS)
    }
    baselines = [text for name, _, text in values if name == "PROCESSING_BASELINE"]
    if not baselines:
        if offsets:
            return offsets
        raise SceneError(f"{metadata} says neither its PROCESSING_BASELINE nor offsets; download the product again")
    baseline = _number(baselines[0], metadata)
    if baseline < _CUSTOM_BASELINE and (baseline >= _FIRST_WITH_OFFSET) != bool(offsets):
        raise SceneError(
            f"{metadata} has processing baseline {baselines[0]} but {'a' if offsets else 'no'} {_OFFSET[level]}, which "
            "products have from 04.00 on; the metadata was altered, so download the product again"
        )
    return offsets


def _scaled(band: BandSource, quantification: float, offsets: dict[str, float], metadata: Path) -> BandSource:
    if offsets and band.label not in offsets:
        raise SceneError(f"{metadata} gives offsets for some bands but not for {band.label}; download it again")
    offset = offsets.get(band.label, 0.0) / quantification
    return replace(band, scale=1 / quantification, offset=offset, nodata=0.0)


def _number(text: str, metadata: Path) -> float:
    try:
        return float(text)
    except ValueError as e:
        raise SceneError(f"{metadata} has '{text}' where a number belongs; download the product again") from e
