"""Raw pixels → a cloud-optimised GeoTIFF, with overviews; where nothing was ever written costs no time.

GDAL makes the file. The overviews are made here, because GDAL's own of classes take twice as long as the encoding, and
look at every pixel of a scene that is mostly empty.
"""

import errno
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from landcover.processors import own_threads
from landcover.products import gdal_cache
from landcover.specs import Legend

ENCODER_CACHE = 128 << 20
"""Bytes of blocks that GDAL may hold while it encodes."""

BLOCK = 512
"""Side of a block in pixels; the coarsest overview is not larger."""

_PIECE = 8192
"""Columns that are halved at a time."""

_VRT_TYPES = {"uint8": "Byte", "uint16": "UInt16"}
_OPTIONS = {
    "COMPRESS": "DEFLATE",
    "LEVEL": 5,  # a third of the time of GDAL's 6, for files of classes that are 4 to 7 % larger
    "BLOCKSIZE": BLOCK,
    "OVERVIEWS": "FORCE_USE_EXISTING",
    "SPARSE_OK": "YES",
    "BIGTIFF": "IF_SAFER",
}


@dataclass(frozen=True)
class Layer:
    """One raster to be written.

    Attributes:
        path: where it goes when complete.
        height, width: in pixels.
        transform, crs: as in rasterio; crs None for a raster without one.
        dtype: "uint8" or "uint16".
        nodata: the value of pixels without data.
        bands: a description for each band.
        legend: colours and names of the values, for a class map.
        scale: real value of one step.
        overviews: how coarser levels are made, "mode" for classes, or "mean".
        tags: provenance.
    """

    path: Path
    height: int
    width: int
    transform: Affine
    crs: CRS | None
    dtype: str
    nodata: int
    bands: tuple[str, ...]
    legend: Legend | None = None
    scale: float = 1.0
    overviews: str = "mean"
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Level:
    """A raw file with the pixels of a layer, or of an overview of it, band by band and row by row.

    What was never written, whole groups of BLOCK rows, is a hole in the file.
    """

    layer: Layer
    raw: Path
    height: int
    width: int

    @property
    def itemsize(self) -> int:
        return np.dtype(self.layer.dtype).itemsize

    def start(self, band: int, row: int) -> int:
        """Where a row begins in the file, in bytes."""
        return (band * self.height + row) * self.width * self.itemsize

    def groups(self, file: BinaryIO, band: int) -> Iterator[tuple[int, int]]:
        """Groups of rows [lo, hi) of a band in which something was written."""
        for lo in range(0, self.height, BLOCK):
            hi = min(lo + BLOCK, self.height)
            if _holds_data(file, self.start(band, lo), self.start(band, hi)):
                yield lo, hi


def encode(layer: Layer, raw: Path, folder: Path) -> None:
    """Make the cloud-optimised GeoTIFF of a layer, and its side-car if it has one, in a folder.

    Args:
        layer: what it holds.
        raw: its pixels, band by band and row by row, in a file of nothing else.
        folder: where the GeoTIFF goes, under the layer's name.
    """
    levels = [Level(layer, raw, layer.height, layer.width)]
    while max(levels[-1].height, levels[-1].width) > BLOCK:
        levels.append(_coarser(levels[-1], len(levels)))
    for level in levels:
        _raw_vrt(level).write_text(_describe_raw(level), encoding="utf-8")
        overviews = levels[1:] if level is levels[0] else []
        _vrt(level).write_text(_describe(level, overviews), encoding="utf-8")
    predictor = {"PREDICTOR": "YES"} if layer.legend is None else {}
    options = _OPTIONS | {"NUM_THREADS": own_threads()} | predictor
    with gdal_cache(ENCODER_CACHE):
        rasterio.shutil.copy(_vrt(levels[0]), folder / layer.path.name, driver="COG", **options)
    _check_whole(folder / layer.path.name)


def _check_whole(path: Path) -> None:
    """See that every block is in the file: where the disk is full, GDAL says so only on the screen.

    In a cloud-optimised GeoTIFF of GDAL's the size of a block, in 4 bytes, goes before it, and its last 4 bytes are
    repeated after it.

    Raises:
        OSError: a block is not, or not as a whole.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        dataset = rasterio.open(path)
    with dataset, path.open("rb") as file:
        for overview, (x, y) in _blocks(dataset):
            offset, size = (
                dataset.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=1, ovr=overview)
                for what in ("OFFSET", "SIZE")
            )
            if offset is None:
                continue  # it is empty, and left out
            file.seek(int(offset) - 4)
            leader = int.from_bytes(file.read(4), "little")
            file.seek(int(offset) + int(size) - 4)
            end = file.read(8)
            if leader != int(size) or len(end) < 8 or end[:4] != end[4:]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _blocks(dataset: rasterio.DatasetReader) -> Iterator[tuple[int | None, tuple[int, int]]]:
    """Column and row of every block, with the number of the overview that it belongs to, or None."""
    for overview, factor in [(None, 1), *enumerate(dataset.overviews(1))]:
        cols, rows = (-(-size // factor) for size in (dataset.width, dataset.height))
        for y in range(-(-rows // BLOCK)):
            for x in range(-(-cols // BLOCK)):
                yield overview, (x, y)


def halve_mode(pixels: np.ndarray) -> np.ndarray:
    """Halve class ids (rows, cols): each 2 × 2 pixels become the most frequent class among them, the first of equals.

    Nodata, 0, counts only where there is nothing else. Odd sizes are rounded up.
    """
    a, b, c, d = _quarters(pixels)
    most = a
    for x in (b, c, d):
        most = np.where(most == 0, x, most)
    for x, again in ((c, c == d), (b, (b == c) | (b == d)), (a, (a == b) | (a == c) | (a == d))):
        most = np.where(again & (x != 0), x, most)
    return most


def halve_mean(pixels: np.ndarray, nodata: int) -> np.ndarray:
    """Halve values (rows, cols): each 2 × 2 pixels become the mean of those that are not nodata, rounded."""
    total, count = np.zeros((), np.uint32), np.zeros((), np.uint8)
    for quarter in _quarters(pixels):
        there = quarter != nodata
        total, count = total + np.where(there, quarter, 0).astype(np.uint32), count + there
    return np.where(count > 0, (total + count // 2) // np.maximum(count, 1), nodata).astype(pixels.dtype)


def _quarters(pixels: np.ndarray) -> list[np.ndarray]:
    """The four pixels of each 2 × 2; the last row or column is repeated where their number is odd."""
    rows, cols = pixels.shape
    even = np.pad(pixels, ((0, rows % 2), (0, cols % 2)), mode="edge") if rows % 2 or cols % 2 else pixels
    return [even[y::2, x::2].copy() for y in (0, 1) for x in (0, 1)]


def _coarser(level: Level, number: int) -> Level:
    """Make the overview of half the resolution."""
    bands = range(len(level.layer.bands))
    raw = level.raw.with_name(f"overview{number}.raw")
    coarse = Level(level.layer, raw, (level.height + 1) // 2, (level.width + 1) // 2)
    with level.raw.open("rb") as given, raw.open("wb") as made:
        made.truncate(coarse.start(len(bands), 0))
        groups = [(band, lo, hi) for band in bands for lo, hi in level.groups(given, band)]
        with ThreadPoolExecutor(own_threads()) as pool:
            list(pool.map(partial(_halve, level, coarse), groups))
        os.fsync(made.fileno())  # some file systems tell of holes where data are not on the disk yet
    return coarse


def _halve(level: Level, coarse: Level, group: tuple[int, int, int]) -> None:
    """Make some rows of an overview, from the rows [lo, hi) of a band."""
    layer, (band, lo, hi) = level.layer, group
    count, offset = (hi - lo) * level.width, level.start(band, lo)
    pixels = np.fromfile(level.raw, layer.dtype, count, offset=offset).reshape(hi - lo, level.width)
    pieces = [pixels[:, x : x + _PIECE] for x in range(0, level.width, _PIECE)]
    half = [halve_mode(p) if layer.overviews == "mode" else halve_mean(p, layer.nodata) for p in pieces]
    with coarse.raw.open("r+b") as made:
        made.seek(coarse.start(band, lo // 2))
        made.write(np.concatenate(half, axis=1).data)


def _holds_data(file: BinaryIO, start: int, stop: int) -> bool:
    """Whether anything was written between two places of a file, as far as the file system can tell."""
    if not hasattr(os, "SEEK_DATA"):
        return True
    try:
        return os.lseek(file.fileno(), start, os.SEEK_DATA) < stop
    except OSError as e:
        return e.errno != errno.ENXIO  # which says that there is nothing from there on


def _vrt(level: Level) -> Path:
    return level.raw.with_suffix(".vrt")


def _raw_vrt(level: Level) -> Path:
    return level.raw.with_suffix(".raw.vrt")


def _describe_raw(level: Level) -> str:
    """Describe a raw file to GDAL."""
    bands = "".join(
        f"""
  <VRTRasterBand dataType="{_VRT_TYPES[level.layer.dtype]}" band="{i + 1}" subClass="VRTRawRasterBand">
    <SourceFilename relativeToVRT="1">{level.raw.name}</SourceFilename>
    <ImageOffset>{level.start(i, 0)}</ImageOffset>
    <PixelOffset>{level.itemsize}</PixelOffset>
    <LineOffset>{level.width * level.itemsize}</LineOffset>
    <ByteOrder>LSB</ByteOrder>
  </VRTRasterBand>"""
        for i in range(len(level.layer.bands))
    )
    return f'<VRTDataset rasterXSize="{level.width}" rasterYSize="{level.height}">{bands}\n</VRTDataset>\n'


def _describe(level: Level, overviews: list[Level]) -> str:
    """Describe a layer to GDAL: its raw file without the holes, with colours, names, nodata, tags and overviews."""
    layer = level.layer
    with level.raw.open("rb") as file:
        bands = "".join(
            f"""
  <VRTRasterBand dataType="{_VRT_TYPES[layer.dtype]}" band="{i + 1}">
    <Description>{escape(name)}</Description>
    <NoDataValue>{layer.nodata}</NoDataValue>{_scale(layer)}{_colours(layer)}{_sources(level, file, i)}{
                "".join(
                    f'<Overview><SourceFilename relativeToVRT="1">{_vrt(o).name}</SourceFilename>'
                    f"<SourceBand>{i + 1}</SourceBand></Overview>"
                    for o in overviews
                )
            }
  </VRTRasterBand>"""
            for i, name in enumerate(layer.bands)
        )
    tags = "".join(f"<MDI key={quoteattr(k)}>{escape(v)}</MDI>" for k, v in layer.tags.items())
    crs = f"<SRS>{escape(layer.crs.to_wkt())}</SRS>" if layer.crs else ""
    transform = (
        ""
        if layer.transform.is_identity
        else f"<GeoTransform>{','.join(map(repr, layer.transform.to_gdal()))}</GeoTransform>"
    )
    return (
        f'<VRTDataset rasterXSize="{level.width}" rasterYSize="{level.height}">'
        f"{crs}{transform}<Metadata>{tags}</Metadata>{bands}\n</VRTDataset>\n"
    )


def _sources(level: Level, file: BinaryIO, band: int) -> str:
    """The rows of a band that hold anything."""
    runs: list[list[int]] = []
    for lo, hi in level.groups(file, band):
        if runs and runs[-1][1] == lo:
            runs[-1][1] = hi
        else:
            runs.append([lo, hi])
    return "".join(
        f"""
    <SimpleSource>
      <SourceFilename relativeToVRT="1">{_raw_vrt(level).name}</SourceFilename>
      <SourceBand>{band + 1}</SourceBand>
      <SrcRect xOff="0" yOff="{lo}" xSize="{level.width}" ySize="{hi - lo}"/>
      <DstRect xOff="0" yOff="{lo}" xSize="{level.width}" ySize="{hi - lo}"/>
    </SimpleSource>"""
        for lo, hi in runs
    )


def _scale(layer: Layer) -> str:
    return "" if layer.scale == 1 else f"<Scale>{layer.scale!r}</Scale>"


def _colours(layer: Layer) -> str:
    return "" if layer.legend is None else palette(layer.legend)


def palette(legend: Legend) -> str:
    """Describe the colours and names of a band of class ids to GDAL, as elements of a virtual raster."""
    classes = {c.id: c for c in legend.classes}
    top = max(classes)
    names = "".join(
        f"<Category>{escape(classes[v].name if v in classes else 'nodata' if v == 0 else '')}</Category>"
        for v in range(top + 1)
    )
    colours = "".join(
        '<Entry c1="{}" c2="{}" c3="{}" c4="{}"/>'.format(*((*classes[v].rgb, 255) if v in classes else (0, 0, 0, 0)))
        for v in range(top + 1)
    )
    return f"<ColorInterp>Palette</ColorInterp><CategoryNames>{names}</CategoryNames><ColorTable>{colours}</ColorTable>"
