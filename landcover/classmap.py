"""Class maps on disk, and the rasters that go with them: cloud-optimised GeoTIFFs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from pydantic import ValidationError
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from landcover.errors import MapError
from landcover.provenance import legend_tag
from landcover.specs import Legend, load_legend

MAP_NODATA = 0
CONFIDENCE_NODATA = 255
SCORE_NODATA = 65535
SCORE_SCALE = 1e-4
"""Scores are stored as whole ten-thousandths: score = value * SCORE_SCALE."""

ENCODER_CACHE = 128 << 20
"""Bytes of blocks that GDAL may hold while it encodes."""

STRIP_PIXELS = 4_000_000
"""Pixels of a map read at a time, in whole rows of blocks."""

_VRT_TYPES = {"uint8": "Byte", "uint16": "UInt16"}


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
        overviews: how coarser levels are made, "MODE" for classes.
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
    overviews: str = "AVERAGE"
    tags: dict[str, str] = field(default_factory=dict)


def encode(layer: Layer, raw: Path, folder: Path) -> None:
    """Make the cloud-optimised GeoTIFF of a layer, and its side-car if it has one, in a folder.

    Args:
        layer: what it holds.
        raw: its pixels, band by band and row by row, in a file of nothing else.
        folder: where the GeoTIFF goes, under the layer's name.
    """
    vrt = raw.with_suffix(".vrt")
    vrt.write_text(_vrt(layer, raw.name), encoding="utf-8")
    with rasterio.Env(GDAL_CACHEMAX=ENCODER_CACHE):
        rasterio.shutil.copy(vrt, folder / layer.path.name, driver="COG", **_cog_options(layer))


def _cog_options(layer: Layer) -> dict[str, str | int]:
    options: dict[str, str | int] = {
        "COMPRESS": "DEFLATE",
        "BLOCKSIZE": 512,
        "OVERVIEW_RESAMPLING": layer.overviews,
        "NUM_THREADS": "ALL_CPUS",
        "BIGTIFF": "IF_SAFER",
    }
    return options | ({"PREDICTOR": "YES"} if layer.legend is None else {})


def _vrt(layer: Layer, raw: str) -> str:
    """Describe the raw file to GDAL, with colours, names, nodata and tags."""
    size = np.dtype(layer.dtype).itemsize
    bands = "".join(
        f"""
  <VRTRasterBand dataType="{_VRT_TYPES[layer.dtype]}" band="{i + 1}" subClass="VRTRawRasterBand">
    <Description>{escape(name)}</Description>
    <NoDataValue>{layer.nodata}</NoDataValue>{_scale(layer)}{_colours(layer)}
    <SourceFilename relativeToVRT="1">{raw}</SourceFilename>
    <ImageOffset>{i * layer.height * layer.width * size}</ImageOffset>
    <PixelOffset>{size}</PixelOffset>
    <LineOffset>{layer.width * size}</LineOffset>
    <ByteOrder>LSB</ByteOrder>
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
        f'<VRTDataset rasterXSize="{layer.width}" rasterYSize="{layer.height}">'
        f"{crs}{transform}<Metadata>{tags}</Metadata>{bands}\n</VRTDataset>\n"
    )


def _scale(layer: Layer) -> str:
    return "" if layer.scale == 1 else f"<Scale>{layer.scale!r}</Scale>"


def _colours(layer: Layer) -> str:
    if layer.legend is None:
        return ""
    classes = {c.id: c for c in layer.legend.classes}
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


@contextmanager
def open_map(path: str | Path, legend: Legend | str | None = None) -> Iterator[tuple[rasterio.DatasetReader, Legend]]:
    """Open a class map and its legend; what goes wrong while reading it is told as a sentence.

    Raises:
        MapError: it is missing, broken, or not a raster of class ids, or it carries no legend and none is given.
        ConfigError: the legend given is not known.
    """
    if isinstance(legend, str):
        legend = load_legend(legend)
    with open_raster(path) as dataset:
        if legend is None:
            legend = read_legend(dataset)
        elif dataset.count != 1 or dataset.dtypes[0] != "uint8":
            read_legend(dataset)  # says so
        yield dataset, legend


@contextmanager
def open_raster(path: str | Path, error: type[Exception] = MapError) -> Iterator[rasterio.DatasetReader]:
    """Open a raster, with or without a place on the earth; raise `error` if it cannot be opened or read to the end."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as dataset:
                yield dataset
    except RasterioError as e:
        cause = str(e.__cause__ or e)
        raise error(f"{path} cannot be read as a raster: {cause.removeprefix(f'{path}: ')}") from e


def strips(dataset: rasterio.DatasetReader) -> Iterator[tuple[int, np.ndarray]]:
    """Read class ids in whole rows of blocks: the first row, and uint8 (rows, width) with 0 where there is no class."""
    block = dataset.block_shapes[0][0]
    rows = max(1, STRIP_PIXELS // (dataset.width * block)) * block
    for start in range(0, dataset.height, rows):
        window = Window(0, start, dataset.width, min(rows, dataset.height - start))
        yield start, dataset.read(1, window=window, masked=True).filled(MAP_NODATA)


def check_values(pixels: np.ndarray, legend: Legend, name: str) -> None:
    """Refuse values that the legend does not know; `pixels` counts the pixels of each of the 256 values.

    Raises:
        MapError: there are such values.
    """
    unknown = [v for v in np.flatnonzero(pixels) if v != MAP_NODATA and v not in legend.ids]
    if unknown:
        found = ", ".join(f"{v} ({pixels[v]} px)" for v in unknown)
        raise MapError(
            f"{name} holds values that the legend '{legend.name}' does not know: {found}; give its own with --legend"
        )


def read_legend(dataset: rasterio.DatasetReader) -> Legend:
    """The legend that a class map carries.

    Raises:
        MapError: it is not a raster of class ids, or it carries no legend.
    """
    if dataset.count != 1 or dataset.dtypes[0] != "uint8":
        raise MapError(
            f"{dataset.name} is not a class map: it has {dataset.count} bands of {dataset.dtypes[0]}, not one of uint8"
        )
    text = legend_tag(dataset.tags())
    if text is None:
        raise MapError(f"{dataset.name} carries no legend; give one with --legend, for example --legend default")
    try:
        return Legend.model_validate_json(text)
    except ValidationError as e:
        raise MapError(f"{dataset.name} carries a legend that cannot be read; give one with --legend") from e
