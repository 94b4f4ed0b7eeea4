"""What names tell: which texts are common names of bands, which band a file is, and when a product was taken."""

import datetime as dt
import re
from typing import NamedTuple

_SYNONYMS = {
    "coastal": ("coastal", "coastal aerosol"),
    "blue": ("blue",),
    "green": ("green",),
    "yellow": ("yellow",),
    "red": ("red",),
    "rededge": ("rededge", "red edge"),
    "rededge071": ("rededge071", "rededge1", "red edge 1"),
    "rededge075": ("rededge075", "rededge2", "red edge 2"),
    "rededge078": ("rededge078", "rededge3", "red edge 3"),
    "nir": ("nir", "near infrared"),
    "nir08": ("nir08",),
    "nir09": ("nir09",),
    "cirrus": ("cirrus",),
    "pan": ("pan", "panchromatic"),
    "swir16": ("swir16", "swir1", "shortwave infrared 1"),
    "swir22": ("swir22", "swir2", "shortwave infrared 2"),
}
_BAND = r"(?:(?:sr_)?(?:b|band_?)\d{1,2}|b8a)"
_RESOLUTION = re.compile(r"_(\d{2})m$", re.IGNORECASE)
_TIMES = (
    (re.compile(r"^(?:S2[A-D]_MSIL\w\w|T\d\d[A-Z]{3})_(\d{8}T\d{6})", re.IGNORECASE), "%Y%m%dT%H%M%S"),
    (re.compile(r"^HLS\.[LS]30\.T\w{5}\.(\d{7}T\d{6})", re.IGNORECASE), "%Y%jT%H%M%S"),
    (re.compile(r"^L[A-Z]\d\d_L\w{3}_\d{6}_(\d{8})_", re.IGNORECASE), "%Y%m%d"),
)
"""Where the names of Sentinel-2, HLS and Landsat products tell when they were taken."""


def _key(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


_COMMON_NAMES = {_key(text): name for name, texts in _SYNONYMS.items() for text in texts}
_WORDS = "|".join(
    sorted(("[ _-]?".join(text.split()) for t in _SYNONYMS.values() for text in t), key=len, reverse=True)
)
_ENDING = re.compile(rf"^(?P<product>.*?)(?:^|[_.\- ])(?P<label>{_BAND}|{_WORDS})$", re.IGNORECASE)


class Ending(NamedTuple):
    """What a file name says: product_label_resolution. Resolution is 0 where it is not said."""

    product: str
    label: str
    resolution: int


def common_name(text: str) -> str | None:
    """The common name that a text is, in any usual spelling: "Red", "near infrared", "SWIR1"; None for "B04"."""
    return _COMMON_NAMES.get(_key(text))


def file_ending(stem: str) -> Ending | None:
    """Read the band at the end of a file name without its suffix, or None if there is none."""
    resolution = _RESOLUTION.search(stem)
    match = _ENDING.match(stem[: resolution.start()] if resolution else stem)
    if not match:
        return None
    return Ending(match["product"], match["label"], int(resolution[1]) if resolution else 0)


def time_taken(name: str) -> dt.datetime | None:
    """When a product was taken, in UTC, where its name is one of Sentinel-2, HLS or Landsat; else None."""
    for pattern, form in _TIMES:
        if match := pattern.match(name):
            try:
                return dt.datetime.strptime(match[1].upper(), form).replace(tzinfo=dt.UTC)
            except ValueError:
                return None
    return None
