"""What a product is to the rest of the tool: a list of bands and where each of them lies."""

import datetime as dt
from dataclasses import dataclass


@dataclass(frozen=True)
class BandSource:
    """One band of a product, before anything is decided about it.

    Attributes:
        path: what GDAL opens.
        index: the band in that file, from 1.
        label: what the product calls the band; "" if it does not name it.
        common_name: what STAC, a description or the colour interpretation says the band is; None if nothing does.
        scale, offset: `reflectance = digital number * scale + offset`, where the product says it; else None.
        nodata: the digital number of missing pixels, where the product's metadata, not the file, says it; else None.
        told: how many bands of the file the product's metadata tells of; None where the file itself tells.
        alpha: its file flags it as alpha, a mask or not; False where the file was not asked.
    """

    path: str
    index: int
    label: str = ""
    common_name: str | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    told: int | None = None
    alpha: bool = False


@dataclass(frozen=True)
class Product:
    """A scene as it is stored.

    Attributes:
        name: what the user gave.
        bands: in the order of the product.
        sensor: the name of the sensor's configuration, where the product's names or metadata tell it; else None.
        datetime: when it was taken, in UTC, where the product's names or metadata tell it; else None. Names of Landsat
            tell the day alone.
    """

    name: str
    bands: tuple[BandSource, ...]
    sensor: str | None = None
    datetime: dt.datetime | None = None
