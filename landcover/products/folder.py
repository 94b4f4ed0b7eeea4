"""Folders of one-band files: Sentinel-2 SAFE, Landsat, HLS, or any other whose file names end in the band."""

import re
from pathlib import Path

from landcover.errors import SceneError
from landcover.products.landsat import landsat_files, read_landsat
from landcover.products.names import file_ending, time_taken
from landcover.products.product import Product
from landcover.products.raster import SUFFIXES, only_band
from landcover.products.safe import is_safe, read_safe

_HLS = re.compile(
    r"^(?P<product>HLS\.(?P<kind>[LS]30)\.T\w{5}\.\d{7}T\d{6}\.v\d\.\d)\.(?P<label>B\d\d|B8A)\.tiff?$", re.I
)


def read_folder(folder: Path) -> Product:
    """Read a folder that holds one product.

    Raises:
        SceneError: it holds no bands, a band twice, or more than one product.
    """
    if is_safe(folder):
        return read_safe(folder)
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise SceneError(f"{folder} holds no rasters{_hint(folder)}")
    landsat = landsat_files(files)
    hls = [match for p in files if (match := _HLS.match(p.name))]
    if landsat and hls:
        raise SceneError(f"{folder} holds both Landsat and HLS products; give one a folder")
    if landsat:
        _only_product(folder, [m["product"].upper() for m in landsat])
        return read_landsat(folder, landsat)
    return _read_hls(folder, hls) if hls else _read_any(folder, files)


def is_product(folder: Path, rasters: list[str]) -> bool:
    """Tell by names alone whether a folder is one product, whose rasters are its bands, not scenes of their own.

    Args:
        folder: it.
        rasters: the names of the rasters in it.
    """
    if is_safe(folder):
        return True
    if not rasters:
        return False
    if landsat_files([folder / name for name in rasters]) or any(map(_HLS.match, rasters)):
        return True
    stems = [Path(name).stem for name in rasters]
    named = [ending for stem in stems if (ending := file_ending(stem))]
    product = named[0].product if named else ""
    alike = {ending.product for ending in named} == {product} and len({e.label.lower() for e in named}) > 1
    return alike and (len(named) == len(stems) or (product != "" and all(stem.startswith(product) for stem in stems)))


def _read_hls(folder: Path, names: list[re.Match[str]]) -> Product:
    product = _only_product(folder, [m["product"] for m in names])
    bands = tuple(only_band(folder / m.string, m["label"]) for m in names)
    return Product(str(folder), bands, f"hls-{names[0]['kind'].lower()}", time_taken(product))


def _read_any(folder: Path, files: list[Path]) -> Product:
    """Rasters whose names end in a band label or a common name; others, such as cloud masks, are left out."""
    named = [(path, ending) for path in files if (ending := file_ending(path.stem))]
    if not named:
        raise SceneError(
            f"{folder} holds {len(files)} rasters ({_listed([p.name for p in files])}), but no name ends in a band "
            "such as _B04 or _red; if one file holds all bands, give that file"
        )
    product = _only_product(folder, [ending.product for _, ending in named])
    best: dict[str, tuple[int, Path, str]] = {}
    for path, ending in named:
        key = re.sub(r"(?<=\D)0+", "", ending.label.lower())
        if key in best and (best[key][0] == ending.resolution or 0 in (best[key][0], ending.resolution)):
            raise SceneError(f"{folder} holds band {ending.label} twice ({best[key][1].name}, {path.name}); remove one")
        if key not in best or ending.resolution < best[key][0]:
            best[key] = (ending.resolution, path, ending.label)
    bands = tuple(only_band(path, label) for _, path, label in best.values())
    return Product(str(folder), bands, datetime=time_taken(product))


def _only_product(folder: Path, products: list[str]) -> str:
    """The product that all bands are of; a SceneError if they are of several."""
    found = sorted(set(products))
    if len(found) > 1:
        names = _listed([p or "no name" for p in found])
        raise SceneError(f"{folder} holds bands of {len(found)} products ({names}); give one a folder")
    return found[0]


def _hint(folder: Path) -> str:
    if any((folder / name).is_file() for name in (".zgroup", "zarr.json", ".zattrs")):
        return f"; it is a Zarr store, so name it as GDAL does: 'ZARR:\"{folder}\"'"
    inside = sorted(p.name for p in folder.iterdir() if p.is_dir())
    return f"; it holds folders, so give one of them: {_listed(inside)}" if inside else "; give the folder of the bands"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
