"""Folders of Landsat files, one band each: Level-2 of Collections 1 and 2, and Level-1 with its MTL.txt."""

import math
import re
from dataclasses import replace
from pathlib import Path

from landcover.errors import SceneError
from landcover.products.names import time_taken
from landcover.products.product import BandSource, Product
from landcover.products.raster import only_band

_NAME = re.compile(
    r"^(?P<product>(?P<craft>L[A-Z]\d\d)_(?P<level>L1\w\w|L2\w\w)_\d{6}_\d{8}_\d{8}_(?P<collection>\d\d)_(?:T1|T2|RT))"
    r"_(?P<label>(?:SR_|sr_)?(?:B|band)\d{1,2})\.tiff?$",
    re.IGNORECASE,
)
_OLI, _TM = ("LC08", "LC09", "LO08", "LO09"), ("LT04", "LT05", "LE07")
_NUMBERS = {
    _OLI: {1: "coastal", 2: "blue", 3: "green", 4: "red", 5: "nir", 6: "swir16", 7: "swir22", 8: "pan", 9: "cirrus"},
    _TM: {1: "blue", 2: "green", 3: "red", 4: "nir", 5: "swir16", 7: "swir22", 8: "pan"},
}


def landsat_files(files: list[Path]) -> list[re.Match[str]]:
    """The names among `files` that are those of Landsat reflectance bands, or of what becomes them."""
    return [match for path in files if (match := _NAME.match(path.name))]


def read_landsat(folder: Path, names: list[re.Match[str]]) -> Product:
    """Read one Landsat product of band files.

    Raises:
        SceneError: an unknown spacecraft, or Level-1 without a usable MTL.txt.
    """
    first = names[0]
    instrument = next((crafts for crafts in _NUMBERS if first["craft"].upper() in crafts), None)
    if instrument is None:
        raise SceneError(
            f"{folder} holds a product of {first['craft']}, which is not Landsat 4–9 with TM, ETM+ or OLI; "
            "give one raster of its bands and name them with --bands"
        )
    taken = time_taken(first["product"])
    surface = [m for m in names if "sr_" in m["label"].lower()]
    if first["level"].upper().startswith("L1") and not surface:
        return Product(str(folder), _level_1(folder, first["product"], names, _NUMBERS[instrument]), datetime=taken)
    name = "landsat-sr" if first["collection"] == "01" else "landsat-c2-l2"
    bands = [only_band(folder / m.string, m["label"]) for m in _sorted(surface or names)]
    return Product(str(folder), tuple(bands), name + ("-tm" if instrument is _TM else ""), taken)


def _level_1(folder: Path, product: str, names: list[re.Match[str]], numbers: dict[int, str]) -> tuple[BandSource, ...]:
    """Bands of digital numbers, with the scaling to top-of-atmosphere reflectance from MTL.txt; thermal ones left out.

    References:
        USGS, Landsat 8 Data Users Handbook: reflectance = (M * DN + A) / sin(sun elevation).
    """
    path = folder / f"{product}_MTL.txt"
    if not path.is_file():
        raise SceneError(
            f"{folder} is a Level-1 product, whose numbers become reflectance only with {path.name}, which is missing; "
            "put it there, or use the Level-2 product (_L2SP_)"
        )
    values = _read_mtl(path)
    sine = math.sin(math.radians(_value(values, "SUN_ELEVATION", path)))
    if sine <= 0:
        raise SceneError(f"{path} has the sun below the horizon; a scene of the night has no reflectance")
    bands = []
    for match in _sorted(names):
        number = _number(match)
        if number not in numbers:
            continue
        mult = _value(values, f"REFLECTANCE_MULT_BAND_{number}", path)
        add = _value(values, f"REFLECTANCE_ADD_BAND_{number}", path)
        band = only_band(folder / match.string, match["label"])
        bands.append(replace(band, common_name=numbers[number], scale=mult / sine, offset=add / sine, nodata=0.0))
    if not bands:
        raise SceneError(f"{folder} holds no reflective bands of {product}; put its files _B2.TIF and so on there")
    return tuple(bands)


def _number(match: re.Match[str]) -> int:
    return int(re.sub(r"\D", "", match["label"]))


def _sorted(names: list[re.Match[str]]) -> list[re.Match[str]]:
    return sorted(names, key=_number)


def _read_mtl(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return dict(re.findall(r'^\s*(\w+)\s*=\s*"?([^"\n]*?)"?\s*$', text, re.MULTILINE))


def _value(values: dict[str, str], key: str, path: Path) -> float:
    try:
        return float(values[key])
    except (KeyError, ValueError) as e:
        raise SceneError(f"{path} has no usable {key}; download the product again") from e
