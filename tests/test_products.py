"""Products: what a file, a folder or a STAC item says of its bands, and the sentence where it says too little."""

import json
import math
import os
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from landcover.bands import Band, Choice, resolve_bands, view_of
from landcover.errors import BandError, OtherBandsError, SceneError
from landcover.grid import Box
from landcover.models import Model
from landcover.preview import preview
from landcover.products import Product, is_raster, read_product, stac
from landcover.products.names import Ending, common_name, file_ending
from landcover.scene import open_scene
from tests.commands import landcover
from tests.commands import refused as command_refused
from tests.scenes import SCALE, digital_numbers, read_map, write_scene

SAMPLES = Path(__file__).parent.parent / "sample_tiles"


def raster(path: Path, count: int = 1, dtype: str = "uint16", side: int = 8, **how: Any) -> Path:
    """Write an empty raster, which says nothing of its bands but what it is told to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_scene(path, np.zeros((count, side, side), dtype), **{"names": (), "scaled": False} | how)


def described(path: Path, *names: str, **how: Any) -> Path:
    return raster(path, len(names), names=names, **how)


def labels(product: Product) -> list[str]:
    return [b.label for b in product.bands]


def names(product: Product) -> list[str | None]:
    return [b.common_name for b in product.bands]


def refused(source: Path | str, sentence: str) -> None:
    with pytest.raises(SceneError, match=sentence):
        read_product(str(source))


# One raster


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("red", "red"),
        ("Red", "red"),
        ("NIR", "nir"),
        ("near infrared", "nir"),
        ("Near-Infrared", "nir"),
        ("swir1", "swir16"),
        ("SWIR 2", "swir22"),
        ("swir16", "swir16"),
        ("Coastal aerosol", "coastal"),
        ("B04", None),
        ("SR_B4", None),
        ("R_new", None),
        ("", None),
    ],
)
def test_texts_that_are_common_names(text: str, name: str | None) -> None:
    assert common_name(text) == name


def test_descriptions_are_labels_and_perhaps_common_names(tmp_path: Path) -> None:
    product = read_product(str(described(tmp_path / "a.tif", "Red", "near infrared", "B12", "swir1")))
    assert labels(product) == ["Red", "near infrared", "B12", "swir1"]
    assert names(product) == ["red", "nir", None, "swir16"]
    assert [b.index for b in product.bands] == [1, 2, 3, 4]
    assert product.sensor is None


def test_a_band_is_found_by_the_very_name_that_the_model_has_for_it(tmp_path: Path) -> None:
    """Of radar, say, which no sensor knows; but what is known to be one band is never another."""
    product = read_product(str(described(tmp_path / "a.tif", "VV", "vh", "Red")))
    found = resolve_bands(product, ("vh", "vv"), Choice(scale=1, offset=0))
    assert [b.source.index for b in found] == [2, 1]
    with pytest.raises(BandError, match="no band that is known to be 'hh'; it holds 3 bands"):
        resolve_bands(product, ("hh",), Choice(scale=1, offset=0))
    twice = read_product(str(described(tmp_path / "b.tif", "VV", "vv")))
    with pytest.raises(BandError, match="more than one band 'vv'"):
        resolve_bands(twice, ("vv",), Choice(scale=1, offset=0))


def test_colours_name_bands_but_alpha_does_not(tmp_path: Path) -> None:
    path = raster(tmp_path / "naip.tif", 4, "uint8", photometric="RGB")
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    product = read_product(str(path))
    assert labels(product) == ["", "", "", ""]
    assert names(product) == ["red", "green", "blue", None]


def test_colours_count_only_where_nothing_is_described(tmp_path: Path) -> None:
    path = described(tmp_path / "false_colour.tif", "B08", "B04", "B03", dtype="uint8", photometric="RGB")
    assert names(read_product(str(path))) == [None, None, None]


@pytest.mark.skipif(not hasattr(ColorInterp, "nir"), reason="this GDAL has no colour for near infrared")
def test_the_newer_colours(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", 3, photometric="minisblack")
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (ColorInterp.nir, ColorInterp.swir, ColorInterp.red)
    assert names(read_product(str(path))) == ["nir", None, "red"]


def test_the_sentinel_driver_s_descriptions(tmp_path: Path) -> None:
    path = described(tmp_path / "a.tif", "B4, central wavelength 665 nm", "B8A, central wavelength 865 nm")
    assert labels(read_product(str(path))) == ["B4", "B8A"]


def test_scale_and_offset_are_said_together_or_not_at_all(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", 3)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-4, 1.0, 1.0), (0.0, -0.1, 0.0)
    assert [(b.scale, b.offset) for b in read_product(str(path)).bands] == [(1e-4, 0.0), (1.0, -0.1), (None, None)]


def test_a_raster_without_a_place_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    plain = {"driver": "GTiff", "height": 5, "width": 5, "dtype": "uint8", "count": 2}
    with warnings.catch_warnings(action="ignore"), rasterio.open(path, "w", **plain) as file:
        file.write(np.zeros((2, 5, 5), np.uint8))
    assert len(read_product(str(path)).bands) == 2


def test_nothing_complains_about_a_raster_in_kilometres(tmp_path: Path) -> None:
    """PROJ finds its database, in which the unit is looked up."""
    kilometres, place = "+proj=utm +zone=33 +datum=WGS84 +units=km", Affine(0.01, 0, 500, 0, -0.01, 5000)
    path = write_scene(tmp_path / "km.tif", digital_numbers(9, 9), crs=kilometres, transform=place)
    env = {k: v for k, v in os.environ.items() if k not in ("PROJ_DATA", "PROJ_LIB")}
    args = [sys.executable, "-m", "landcover", "info", str(path)]
    done = subprocess.run(args, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "pixel: 10 m on the ground" in done.stdout


def test_any_gdal_path_is_a_source(tmp_path: Path) -> None:
    vrt = f"vrt://{raster(tmp_path / 'a.tif', 3)}?bands=3,1"
    assert len(read_product(vrt).bands) == 2


@pytest.mark.parametrize("source", ["s3://bucket/a.tif", "https://localhost:1/a.tif?" + "signature=" + "x" * 300])
def test_remote_rasters_that_are_not_reached(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_S3_ENDPOINT", "localhost:1")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    refused(source, "cannot be opened as a raster")


def test_files_that_are_no_rasters(tmp_path: Path) -> None:
    refused(tmp_path / "absent.tif", r"absent\.tif does not exist")
    (tmp_path / "zero.tif").touch()
    refused(tmp_path / "zero.tif", r"is empty \(0 bytes\)")
    (tmp_path / "text.tif").write_text("no raster")
    refused(tmp_path / "text.tif", "cannot be opened as a raster")
    for archive in ("S2A.zip", "LC08.tar", "LT05.tar.gz", "LE07.TGZ"):
        (tmp_path / archive).write_bytes(b"PK\x03\x04")
        refused(tmp_path / archive, "is an archive; unpack it")
    refused(tmp_path / ("x" * 300), "cannot be read: File name too long")
    refused(raster(tmp_path / "radar.tif", 1, "complex64"), r"complex numbers \(band 1 is complex64\)")
    (tmp_path / "none.vrt").write_text('<VRTDataset rasterXSize="5" rasterYSize="5"></VRTDataset>')
    refused(tmp_path / "none.vrt", "cannot be opened as a raster")


def test_a_file_of_several_rasters_lists_them(tmp_path: Path) -> None:
    path = raster(tmp_path / "pages.tif")
    append_page(path)
    refused(path, r"holds 2 rasters; name one of them as the scene: GTIFF_DIR:1:.*, GTIFF_DIR:2:")


def append_page(path: Path) -> None:
    """Chain a copy of a small TIFF's only directory behind it, so that the file has two pages."""
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[4:8], "little")
    entries = int.from_bytes(content[first : first + 2], "little")
    end = first + 2 + 12 * entries
    content += b"\0" * (len(content) % 2)
    page = bytes(content[first:end]) + b"\0\0\0\0"
    content[end : end + 4] = len(content).to_bytes(4, "little")
    path.write_bytes(bytes(content) + page)


# Sentinel-2 SAFE

S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


def safe_xml(level: str, baseline: str | None, offsets: dict[int, int], extra: str = "") -> str:
    tag = {"L1C": "RADIO_ADD_OFFSET", "L2A": "BOA_ADD_OFFSET"}[level]
    quantification = {
        "L1C": '<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>',
        "L2A": '<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>'
        '<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>',
    }[level]
    listed = "".join(f'<{tag} band_id="{i}">{value}</{tag}>' for i, value in offsets.items())
    said = f"<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>" if baseline else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>{extra}<n1:Level-{level[1:]}_User_Product xmlns:n1="https://psd/User">'
        f"<n1:General_Info><Product_Info>{said}</Product_Info><Product_Image_Characteristics>{quantification}"
        f"<OFFSETS>{listed}</OFFSETS></Product_Image_Characteristics></n1:General_Info>"
        f"</n1:Level-{level[1:]}_User_Product>"
    )


def make_safe(folder: Path, level: str, *, baseline: str | None, offsets: dict[int, int], extra: str = "") -> Path:
    """A SAFE folder with the images of a product, and pictures and masks that are not bands."""
    safe = folder / f"S2A_MSI{level}_20220701T101041_N0400_R022_T33UUP_20220701T140000.SAFE"
    images = safe / "GRANULE" / f"{level}_T33UUP_A036682_20220701T101555" / "IMG_DATA"
    stem = "T33UUP_20220701T101041"
    if level == "L1C":
        for band in S2_BANDS:
            raster(images / f"{stem}_{band}.tif")
        raster(images / f"{stem}_TCI.tif", 3, "uint8")
    else:
        for resolution, bands in ((10, S2_BANDS[1:4]), (20, S2_BANDS[1:8]), (60, S2_BANDS[:10] + S2_BANDS[11:])):
            for band in bands:
                raster(images / f"R{resolution}m" / f"{stem}_{band}_{resolution}m.tif")
        for name in ("B08_10m", "SCL_20m", "AOT_10m", "B8A_20m", "B11_20m", "B12_20m"):
            raster(images / f"R{name[-3:]}" / f"{stem}_{name}.tif")
    (safe / f"MTD_MSI{level}.xml").write_text(safe_xml(level, baseline, offsets, extra))
    return safe


ALL_OFFSETS = dict.fromkeys(range(13), -1000)


def test_level_2a_of_new_baseline(tmp_path: Path) -> None:
    safe = make_safe(tmp_path, "L2A", baseline="04.00", offsets=ALL_OFFSETS)
    product = read_product(str(safe))
    assert product.sensor == "sentinel2-l2a"
    assert labels(product) == [b for b in S2_BANDS if b != "B10"]
    assert {(b.scale, b.offset, b.nodata) for b in product.bands} == {(1e-4, -0.1, 0.0)}
    resolution = {b.label: b.path[-7:-4] for b in product.bands}
    assert [resolution[b] for b in ("B01", "B02", "B05", "B08", "B8A", "B12")] == ["60m", "10m", "20m", "10m"] + [
        "20m"
    ] * 2
    assert read_product(str(safe / "MTD_MSIL2A.xml")).bands == product.bands


def test_level_1c_of_old_and_new_baseline(tmp_path: Path) -> None:
    old = read_product(str(make_safe(tmp_path / "old", "L1C", baseline="02.09", offsets={})))
    new = read_product(str(make_safe(tmp_path / "new", "L1C", baseline="05.11", offsets=ALL_OFFSETS)))
    assert old.sensor == new.sensor == "sentinel2-l1c"
    assert labels(old) == list(S2_BANDS)
    assert {(b.scale, b.offset) for b in old.bands} == {(1e-4, 0.0)}
    assert {(b.scale, b.offset) for b in new.bands} == {(1e-4, -0.1)}


def test_offsets_go_by_band_id(tmp_path: Path) -> None:
    safe = make_safe(tmp_path, "L1C", baseline="04.00", offsets=ALL_OFFSETS | {3: -900, 8: -800})
    offsets = {b.label: b.offset for b in read_product(str(safe)).bands}
    assert (offsets["B04"], offsets["B8A"], offsets["B08"]) == (-0.09, -0.08, -0.1)


def test_the_names_of_before_2016(tmp_path: Path) -> None:
    safe = tmp_path / "S2A_OPER_PRD_MSIL1C_PDMC_20160101T000000.SAFE"
    granule = safe / "GRANULE" / "S2A_OPER_MSI_L1C_TL_EPA__A000001_T33UUP_N02.01"
    raster(granule / "IMG_DATA" / "S2A_OPER_MSI_L1C_TL_EPA__A000001_T33UUP_B04.tif")
    (safe / "S2A_OPER_MTD_SAFL1C_PDMC_20160101T000000.xml").write_text(safe_xml("L1C", "02.01", {}))
    product = read_product(str(safe))
    assert (product.sensor, labels(product)) == ("sentinel2-l1c", ["B04"])
    raster(safe / "GRANULE" / "S2A_OPER_MSI_L1C_TL_EPA__A000001_T33UUQ_N02.01" / "IMG_DATA" / "x_T33UUQ_B04.tif")
    refused(safe, "holds 2 granules")


@pytest.mark.parametrize(
    ("baseline", "offsets", "sentence"),
    [
        ("04.00", {}, r"baseline 04\.00 but no BOA_ADD_OFFSET"),
        ("03.01", ALL_OFFSETS, r"baseline 03\.01 but a BOA_ADD_OFFSET"),
        (None, {}, "neither its PROCESSING_BASELINE nor offsets"),
        ("04.00", {3: -1000}, "offsets for some bands but not for B01"),
        ("new", ALL_OFFSETS, "'new' where a number belongs"),
    ],
)
def test_metadata_that_leave_the_offset_open(
    tmp_path: Path, baseline: str | None, offsets: dict[int, int], sentence: str
) -> None:
    refused(make_safe(tmp_path, "L2A", baseline=baseline, offsets=offsets), sentence)


def test_a_product_of_one_s_own_processing_says_its_offsets_itself(tmp_path: Path) -> None:
    product = read_product(str(make_safe(tmp_path, "L2A", baseline="99.99", offsets={})))
    assert {b.offset for b in product.bands} == {0.0}


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    refused(make_safe(tmp_path, "L2A", baseline="04.00", offsets=ALL_OFFSETS, extra=bomb), "document type or entities")
    metadata = next(tmp_path.glob("*/MTD*"))
    metadata.write_bytes(metadata.read_text().encode("utf-16"))
    refused(metadata.parent, "not valid XML")


def test_incomplete_safe_folders(tmp_path: Path) -> None:
    safe = make_safe(tmp_path, "L2A", baseline="04.00", offsets=ALL_OFFSETS)
    metadata = safe / "MTD_MSIL2A.xml"
    for text, sentence in (("<a>", "not valid XML"), ("<a>1</a>", "no usable BOA_QUANTIFICATION_VALUE")):
        metadata.write_text(text)
        refused(safe, sentence)
    metadata.unlink()
    refused(safe, r"has no MTD_MSIL1C\.xml or MTD_MSIL2A\.xml")
    empty = tmp_path / "empty.SAFE"
    empty.mkdir()
    (empty / "MTD_MSIL1C.xml").write_text(safe_xml("L1C", "02.09", {}))
    refused(empty, "no band images")


# Landsat

L2 = "LC08_L2SP_045033_20200715_20210330_02_T1"
L1 = "LC09_L1TP_015034_20220601_20220601_02_T1"


def test_landsat_level_2(tmp_path: Path) -> None:
    for n in (*range(1, 8), "QA_AEROSOL"):
        raster(tmp_path / f"{L2}_SR_B{n}.TIF" if n != "QA_AEROSOL" else tmp_path / f"{L2}_SR_QA_AEROSOL.TIF")
    for name in ("ST_B10", "QA_PIXEL", "ST_EMIS"):
        raster(tmp_path / f"{L2}_{name}.TIF")
    product = read_product(str(tmp_path))
    assert product.sensor == "landsat-c2-l2"
    assert labels(product) == [f"SR_B{n}" for n in range(1, 8)]
    assert {(b.scale, b.offset) for b in product.bands} == {(None, None)}
    nir, red = resolve_bands(product, ("nir", "red"), Choice())
    assert (nir.source.label, nir.scale, nir.offset, nir.nodata) == ("SR_B5", 0.0000275, -0.2, 0)
    assert red.source.label == "SR_B4"


@pytest.mark.parametrize("craft", ["LE07", "LT05", "LT04"])
def test_landsat_of_the_older_instruments(tmp_path: Path, craft: str) -> None:
    for n in (1, 2, 3, 4, 5, 7):
        raster(tmp_path / f"{craft}_L2SP_016035_20000331_20200918_02_T1_SR_B{n}.TIF")
    product = read_product(str(tmp_path))
    assert product.sensor == "landsat-c2-l2-tm"
    assert resolve_bands(product, ("nir",), Choice())[0].source.label == "SR_B4"


def test_landsat_collection_1_surface_reflectance(tmp_path: Path) -> None:
    for n in (4, 5):
        raster(tmp_path / f"LC08_L1TP_045033_20180715_20180730_01_T1_sr_band{n}.tif")
    product = read_product(str(tmp_path))
    assert product.sensor == "landsat-sr"
    assert resolve_bands(product, ("nir",), Choice())[0].scale == 1e-4


def make_level_1(folder: Path, mtl: str | None) -> Path:
    for n in (4, 5, 10):
        raster(folder / f"{L1}_B{n}.TIF")
    if mtl is not None:
        (folder / f"{L1}_MTL.txt").write_text(mtl)
    return folder


MTL = """GROUP = LANDSAT_METADATA_FILE
    SUN_ELEVATION = 30.00000000
    REFLECTANCE_MULT_BAND_4 = 2.0000E-05
    REFLECTANCE_MULT_BAND_5 = 2.0000E-05
    REFLECTANCE_ADD_BAND_4 = -0.100000
    REFLECTANCE_ADD_BAND_5 = -0.100000
    LANDSAT_PRODUCT_ID = "LC09"
END_GROUP = LANDSAT_METADATA_FILE
END
"""


def test_landsat_level_1_is_scaled_by_its_mtl_and_the_sun(tmp_path: Path) -> None:
    product = read_product(str(make_level_1(tmp_path, MTL)))
    assert (product.sensor, labels(product), names(product)) == (None, ["B4", "B5"], ["red", "nir"])
    red = product.bands[0]
    assert red.scale == pytest.approx(2e-5 / math.sin(math.radians(30)))
    assert red.offset == pytest.approx(-0.2)
    assert red.nodata == 0
    assert read_product(str(tmp_path / f"{L1}_MTL.txt")).bands == product.bands


@pytest.mark.parametrize(
    ("mtl", "sentence"),
    [
        (None, r"_MTL\.txt, which is missing"),
        ("", "no usable SUN_ELEVATION"),
        (MTL.replace("30.0", "-3.0"), "sun below the horizon"),
        (MTL.replace("MULT_BAND_5", "x"), "no usable REFLECTANCE_MULT_BAND_5"),
        (MTL.replace("2.0000E-05", "two"), "no usable REFLECTANCE_MULT_BAND_4"),
    ],
)
def test_landsat_level_1_that_cannot_be_scaled(tmp_path: Path, mtl: str | None, sentence: str) -> None:
    refused(make_level_1(tmp_path, mtl), sentence)


def test_landsat_folders_that_are_not_one_product(tmp_path: Path) -> None:
    raster(tmp_path / f"{L2}_SR_B4.TIF")
    raster(tmp_path / "two" / f"{L2}_SR_B4.TIF")
    raster(tmp_path / "two" / f"{L2.replace('045033', '045034')}_SR_B4.TIF")
    refused(tmp_path / "two", "bands of 2 products")
    raster(tmp_path / "mss" / "LM05_L1TP_045033_19850715_20210330_02_T1_B4.TIF")
    refused(tmp_path / "mss", "product of LM05")
    raster(tmp_path / "thermal" / f"{L1}_B10.TIF")
    (tmp_path / "thermal" / f"{L1}_MTL.txt").write_text(MTL)
    refused(tmp_path / "thermal", "no reflective bands")


# HLS and other folders


@pytest.mark.parametrize(("kind", "nir"), [("L30", "B05"), ("S30", "B8A")])
def test_hls(tmp_path: Path, kind: str, nir: str) -> None:
    for name in ("B04", "B05", "B8A", "Fmask", "SZA"):
        raster(tmp_path / f"HLS.{kind}.T18SUJ.2020123T154911.v2.0.{name}.tif", dtype="int16")
    product = read_product(str(tmp_path))
    assert (product.sensor, labels(product)) == (f"hls-{kind.lower()}", ["B04", "B05", "B8A"])
    assert resolve_bands(product, ("nir",), Choice())[0].source.label == nir
    raster(tmp_path / f"HLS.{kind}.T18SUJ.2020133T154911.v2.0.B04.tif")
    refused(tmp_path, "bands of 2 products")
    raster(tmp_path / f"{L2}_SR_B4.TIF")
    refused(tmp_path, "both Landsat and HLS")


@pytest.mark.parametrize(
    ("stem", "ending"),
    [
        ("scene_2020_B04", Ending("scene_2020", "B04", 0)),
        ("T33_B8A_20m", Ending("T33", "B8A", 20)),
        ("red", Ending("", "red", 0)),
        ("x_near_infrared", Ending("x", "near_infrared", 0)),
        ("x-swir16", Ending("x", "swir16", 0)),
        ("LC08_SR_B4", Ending("LC08", "SR_B4", 0)),
        ("x_band4", Ending("x", "band4", 0)),
        ("x_SCL_20m", None),
        ("infrared", None),
        ("scene", None),
    ],
)
def test_bands_at_the_end_of_file_names(stem: str, ending: Ending | None) -> None:
    assert file_ending(stem) == ending


def test_any_folder_of_band_files(tmp_path: Path) -> None:
    for name in ("B04", "nir", "cloudmask"):
        raster(tmp_path / f"scene_{name}.tif")
    (tmp_path / "notes.txt").write_text("")
    product = read_product(str(tmp_path))
    assert (product.sensor, labels(product), names(product)) == (None, ["B04", "nir"], [None, "nir"])


def test_the_best_resolution_of_a_band_is_taken(tmp_path: Path) -> None:
    for name in ("B04_20m", "B04_10m", "B04_60m"):
        raster(tmp_path / f"T33_{name}.tif")
    assert [Path(b.path).name for b in read_product(str(tmp_path)).bands] == ["T33_B04_10m.tif"]


def test_folders_that_are_not_one_scene(tmp_path: Path) -> None:
    refused(tmp_path, "holds no rasters; give the folder of the bands")
    (tmp_path / "inside").mkdir()
    refused(tmp_path, "it holds folders, so give one of them: inside")
    raster(tmp_path / "scene.tif", 4)
    refused(tmp_path, "no name ends in a band")
    raster(tmp_path / "twice" / "a_B4.tif")
    raster(tmp_path / "twice" / "a_B04.tif")
    refused(tmp_path / "twice", r"holds band B4 twice \(a_B04\.tif, a_B4\.tif\)")
    raster(tmp_path / "two" / "a_B04.tif")
    raster(tmp_path / "two" / "b_B03.tif")
    refused(tmp_path / "two", r"bands of 2 products \(a, b\)")
    raster(tmp_path / "stack" / "a_B04.tif", 3)
    refused(tmp_path / "stack", r"has 3 bands, where its name says that it is band B04")
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "a_B04.tif").touch()
    refused(tmp_path / "zero", r"is empty \(0 bytes\)")


# STAC


def item(assets: dict[str, Any], collection: str | None = None, **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "x",
        "collection": collection,
        "properties": {"datetime": "2022-07-01T00:00:00Z"} | properties,
        "assets": assets,
    }


def asset(href: str, name: str, common: str | None = None, *raster_bands: dict, **more: Any) -> dict[str, Any]:
    eo = {"name": name} | ({"common_name": common} if common else {})
    bands = {"eo:bands": [eo]} | ({"raster:bands": list(raster_bands)} if raster_bands else {})
    return {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"]} | bands | more


def save(folder: Path, content: Any) -> Path:
    path = folder / "item.json"
    path.write_text(json.dumps(content))
    return path


SCALED = {"nodata": 0, "scale": 0.0001, "offset": -0.1}


def test_an_item_of_version_1_0(tmp_path: Path) -> None:
    assets = {
        "red": asset("./B04.tif", "B04", "red", SCALED),
        "nir": asset("https://example.com/B08.tif?token=a", "B08", "nir", SCALED),
        "thumbnail": {"href": "t.jpg", "type": "image/jpeg", "roles": ["thumbnail"]},
        "metadata": {"href": "m.xml", "type": "application/xml", "roles": ["metadata"]},
    }
    product = read_product(str(save(tmp_path, item(assets, "sentinel-2-c1-l2a"))))
    assert product.sensor == "sentinel2-l2a"
    red, nir = product.bands
    assert red.path == str(tmp_path / "B04.tif")
    assert nir.path == "/vsicurl/https://example.com/B08.tif?token=a"
    assert (red.label, red.common_name, red.scale, red.offset, red.nodata) == ("B04", "red", 1e-4, -0.1, 0)


def test_assets_without_roles_count_where_no_other_says_what_it_is(tmp_path: Path) -> None:
    silent = {key: {"href": f"{key}.tif", "type": "image/tiff"} for key in ("B04", "visual")}
    far = {"qa": {"href": "ftp://example.com/qa.tif", "type": "image/tiff"}}
    write_scene(tmp_path / "B04.tif", np.ones((1, 8, 8), np.uint16), names=())
    alone = read_product(str(save(tmp_path, item(silent))))
    assert [band.path for band in alone.bands] == [str(tmp_path / "B04.tif")]
    beside = read_product(str(save(tmp_path, item({"red": asset("./red.tif", "B04", "red")} | silent | far))))
    assert [band.path for band in beside.bands] == [str(tmp_path / "red.tif")]


def test_an_item_of_version_1_1(tmp_path: Path) -> None:
    bands = [{"name": "B04", "eo:common_name": "red", "raster:scale": 0.0001}]
    assets = {
        "B04": {"href": "B04.tif", "bands": bands, "roles": ["data"], "nodata": "nan", "raster:offset": -0.1},
        "nir": {"href": "s3://bucket/B08.tif", "eo:common_name": "nir", "roles": ["data"], "bands": [{"name": "B08"}]},
    }
    product = read_product(str(save(tmp_path, item(assets) | {"stac_version": "1.1.0"})))
    red, nir = product.bands
    assert (red.label, red.common_name, red.scale, red.offset) == ("B04", "red", 1e-4, -0.1)
    assert red.nodata is not None
    assert math.isnan(red.nodata)
    assert (nir.path, nir.common_name, nir.scale, nir.offset) == ("/vsis3/bucket/B08.tif", "nir", None, None)


def test_one_asset_of_several_bands(tmp_path: Path) -> None:
    eo = [{"name": n, "common_name": n.lower()} for n in ("Red", "Green", "Blue", "NIR")]
    assets = {"image": {"href": "a.tif", "type": "image/tiff", "roles": ["data"], "eo:bands": eo}}
    product = read_product(str(save(tmp_path, item(assets, "naip"))))
    assert (product.sensor, names(product)) == ("naip", ["red", "green", "blue", "nir"])
    assert [b.index for b in product.bands] == [1, 2, 3, 4]


def test_pictures_and_copies_are_left_out(tmp_path: Path) -> None:
    colours = [{"name": f"B0{i}", "common_name": n} for i, n in ((4, "red"), (3, "green"), (2, "blue"))]
    single = {n: asset(f"{n}.tif", f"B0{i}", n) for i, n in ((2, "blue"), (3, "green"), (4, "red"))}
    assets = {
        "visual": {"href": "tci.tif", "type": "image/tiff", "roles": ["data"], "eo:bands": colours},
        "visual-too": {"href": "tci.tif", "type": "image/tiff", "roles": ["visual"], "eo:bands": colours},
        "red-jp2": asset("red.jp2", "B04", "red", type="image/jp2"),
        "red-20m": asset("red20.tif", "B04", "red", gsd=20),
    }
    single["red"]["gsd"] = assets["red-jp2"]["gsd"] = 10
    product = read_product(str(save(tmp_path, item(assets | single))))
    assert [Path(b.path).name for b in product.bands] == ["blue.tif", "green.tif", "red.tif"]


def test_bands_of_one_common_name_stay_apart(tmp_path: Path) -> None:
    assets = {n: asset(f"{n}.tif", n, "rededge") for n in ("B05", "B06", "B07")}
    product = read_product(str(save(tmp_path, item(assets, "sentinel-2-l2a"))))
    assert resolve_bands(product, ("rededge075",), Choice(scale=1, offset=0))[0].source.label == "B06"


def test_earth_search_has_taken_the_offset_out_of_its_geotiffs(tmp_path: Path) -> None:
    assets = {
        "red": asset("red.tif", "red", "red", SCALED),
        "nir-jp2": asset("nir.jp2", "nir", "nir", SCALED, type="image/jp2"),
        "scl": asset("scl.tif", "scl", None, {"nodata": 0}),
    }
    content = item(
        assets, "sentinel-2-l2a", **{"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.09"}
    )
    offsets = [b.offset for b in read_product(str(save(tmp_path, content))).bands]
    assert offsets == [0.0, -0.1, None]


def test_the_first_earth_search_has_its_own_word_for_an_offset_that_is_taken_out(tmp_path: Path) -> None:
    told = {"sentinel:boa_offset_applied": True, "sentinel:processing_baseline": "04.00", "platform": "sentinel-2b"}
    content = item({"B04": asset("B04.tif", "B04", "red")}, "sentinel-s2-l2a-cogs", **told)
    [red] = read_product(str(save(tmp_path, content))).bands
    assert (red.scale, red.offset) == (1e-4, 0.0)


@pytest.mark.parametrize(("darkest", "offset"), [(100, 0.0), (1100, None)])
def test_an_offset_that_earth_search_says_is_still_there_is_left_to_the_pixels(
    tmp_path: Path, darkest: int, offset: float | None
) -> None:
    pixels = digital_numbers(32, 32, 1) + np.uint16(darkest)
    write_scene(tmp_path / "red.tif", pixels, names=(), scaled=False, nodata=0)
    told = {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.09"}
    content = item(
        {"red": asset("red.tif", "red", "red", SCALED), "red-jp2": asset("r.jp2", "r", "red", SCALED)},
        "sentinel-2-l2a",
        **told,
    )
    product = read_product(str(save(tmp_path, content)))
    assert product.bands[1].offset == -0.1  # whose numbers are ESA's
    red = replace(product, bands=product.bands[:1])
    if offset is None:
        with pytest.raises(BandError, match="say it with --offset"):
            resolve_bands(red, ("red",), Choice())
    else:
        assert resolve_bands(red, ("red",), Choice())[0].offset == offset


@pytest.mark.parametrize(("baseline", "offset"), [("02.12", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.09", -0.1)])
def test_the_baseline_tells_the_offset_where_the_item_lists_none(tmp_path: Path, baseline: str, offset: float) -> None:
    content = item(
        {"B04": asset("B04.tif", "B04", "red"), "SCL": asset("SCL.tif", "SCL")},
        "sentinel-2-l2a",
        **{"s2:processing_baseline": baseline},
    )
    red, scl = read_product(str(save(tmp_path, content))).bands
    assert (red.scale, red.offset, scl.scale) == (1e-4, offset, None)


@pytest.mark.parametrize(
    ("collection", "properties", "sensor"),
    [
        ("sentinel-2-l1c", {}, "sentinel2-l1c"),
        ("sentinel-s2-l2a-cogs", {}, "sentinel2-l2a"),
        (None, {"platform": "sentinel-2b", "processing:level": "L2A"}, "sentinel2-l2a"),
        ("mine", {"constellation": "Sentinel-2", "processing:level": "Level-1C"}, "sentinel2-l1c"),
        ("mine", {"constellation": "sentinel-2"}, None),
        ("landsat-c2l2-sr", {"platform": "LANDSAT_9"}, "landsat-c2-l2"),
        ("landsat-c2-l2", {"platform": "landsat-7"}, "landsat-c2-l2-tm"),
        ("landsat-c2-l1", {"platform": "landsat-7"}, None),
        ("HLSS30_2.0", {}, "hls-s30"),
        ("HLSL30.v2.0", {}, "hls-l30"),
        ("naip", {}, "naip"),
        ("mine", {}, None),
    ],
)
def test_the_sensor_of_an_item(tmp_path: Path, collection: str | None, properties: dict, sensor: str | None) -> None:
    path = save(tmp_path, item({"a": asset("a.tif", "B04")}, collection, **properties))
    assert read_product(str(path)).sensor == sensor


def test_landsat_s_nir08_is_nir(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif")
    path = save(tmp_path, item({"nir08": asset("a.tif", "OLI_B5", "nir08")}, "landsat-c2-l2", platform="landsat-8"))
    assert resolve_bands(read_product(str(path)), ("nir",), Choice())[0].source.label == "OLI_B5"


@pytest.mark.parametrize(
    "href",
    [
        *("ftp://host/a.tif", "file:///etc/a.tif", "NETCDF:a.nc:v", "/vsistdin/", "<VRTDataset/>", "data:x"),
        *("javascript:x", "a.tif\0.tif", "https://host/a\0.tif"),
    ],
)
def test_hrefs_of_odd_schemes_are_refused(tmp_path: Path, href: str) -> None:
    refused(save(tmp_path, item({"a": asset(href, "B04", "red")})), "is not opened; allowed are")


@pytest.mark.parametrize(
    ("href", "path"),
    [
        ("gs://bucket/a.tif", "/vsigs/bucket/a.tif"),
        ("/data/a.tif", "/data/a.tif"),
        ("/vsiaz/c/a.tif", "/vsiaz/c/a.tif"),
    ],
)
def test_hrefs_that_are_opened(tmp_path: Path, href: str, path: str) -> None:
    assert read_product(str(save(tmp_path, item({"a": asset(href, "B04", "red")})))).bands[0].path == path


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1], "not a STAC Item but JSON of type 'list'"),
        ({"type": "FeatureCollection", "features": []}, "JSON of type 'FeatureCollection'"),
        ({"type": "Collection", "stac_version": "1.0.0"}, "a STAC Collection"),
        ({"type": "Feature", "geometry": None}, "not a STAC Item"),
        (item({}), "no raster assets with bands; known are: none"),
        (item({"t": {"href": "t.png", "roles": ["thumbnail"]}}), "no raster assets with bands; known are: t"),
        (item({"a": {}}), "asset 'a' has no href"),
        (item({"a": {"href": "a.tif", "eo:bands": "red"}}), "not a list of objects"),
        (item({"a": {"href": "a.tif", "bands": [{"name": 4}]}}), "band name that is not a text"),
        (item({"a": {"href": "a.tif", "bands": [{"name": "\ud800"}]}}), "half a character"),
        (item({}) | {"properties": []} | {"properties": [1]}, "properties are not an object"),
    ],
)
def test_json_that_is_no_usable_item(tmp_path: Path, content: Any, sentence: str) -> None:
    refused(save(tmp_path, content), sentence)


@pytest.mark.parametrize(
    ("source", "single"),
    [
        ("https://x.org/collections/a/items/S2A_1", False),
        ("https://x.org/a/item.json?token=1", False),
        ("https://x.org/items/a.tif?token=1", True),
        ("item.geojson", False),
        ("LC08_MTL.txt", False),
        (".", False),
        ("absent.tif", True),
        ("/vsizip/a.zip/b.tif", True),
        ("x" * 300, True),
    ],
)
def test_what_is_meant_as_a_raster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, single: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LC08_MTL.txt").touch()
    assert is_raster(source) == single


def test_an_asset_of_no_role_is_no_picture(tmp_path: Path) -> None:
    raster(tmp_path / "a.tif")
    content = item({"B05": {"href": "a.tif", "title": "Download"}, "browse": {"href": "b.jpg"}}, "HLSL30.v2.0")
    assert labels(read_product(str(save(tmp_path, content)))) == ["B05"]


def test_items_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    refused(tmp_path / "a.json", "not valid JSON")
    refused(tmp_path / "absent.json", "does not exist")
    refused("s3://bucket/item.json", "give a STAC Item as a local file or an http")
    refused("http://localhost:1/item.json", "cannot be fetched")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of the test's folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.shutdown()
        thread.join()


def test_a_remote_item_and_what_it_may_name(tmp_path: Path, server: str) -> None:
    (tmp_path / "items").mkdir()
    raster(tmp_path / "data" / "B04.tif")
    content = item({"a": asset("../data/B04.tif", "B04", "red")})
    (tmp_path / "items" / "x").write_text(json.dumps(content))
    [red] = read_product(f"{server}/items/x").bands
    assert red.path == f"/vsicurl/{server}/data/B04.tif"
    for href in ("/vsizip/etc/a.zip", "file:///etc/a.tif"):
        save(tmp_path, item({"a": asset(href, "B04", "red")}))
        refused(f"{server}/item.json", r"is not opened; allowed are paths relative to the item, and http")
    save(tmp_path, item({"a": asset("/etc/a.tif", "B04", "red")}))
    assert read_product(f"{server}/item.json").bands[0].path == f"/vsicurl/{server}/etc/a.tif"


@pytest.mark.parametrize("bands", [{}, {"eo:bands": [{"common_name": "red"}, {"common_name": "nir"}]}])
def test_a_virtual_raster_does_not_lead_from_an_item_elsewhere_to_this_machine(tmp_path: Path, bands: dict) -> None:
    """Whatever its name; as a scene of its own, and among one's own files, it is as good as any raster."""
    write_scene(tmp_path / "own.tif", digital_numbers(20, 30))
    rasterio.shutil.copy(tmp_path / "own.tif", tmp_path / "view.vrt", driver="VRT")
    text = (tmp_path / "view.vrt").read_text().replace("own.tif", str(tmp_path / "own.tif"))
    with zipfile.ZipFile(tmp_path / "sent.zip", "w") as archive:
        archive.writestr("sent.tif", text.replace('relativeToVRT="1"', 'relativeToVRT="0"'))
    sent = f"/vsizip/{tmp_path}/sent.zip/sent.tif"
    path = save(tmp_path, item({"a": {"href": sent, "roles": ["data"]} | bands}))
    with pytest.raises(SceneError, match=r"sent.tif is a virtual raster, which could lead from an item"):
        open_scene(str(path), ("red", "nir"))
    assert open_scene(sent, ("red", "nir")).width == 30
    path = save(tmp_path, item({"a": {"href": "view.vrt", "roles": ["data"]} | bands}))
    assert open_scene(str(path), ("red", "nir")).width == 30


# The sample tiles


@pytest.mark.parametrize("name", ["s2_eastern_shore.tif", "s2_town.tif", "landsat7_raleigh.tif"])
def test_the_sample_tiles_need_no_options(name: str) -> None:
    wanted = ("blue", "green", "red", "nir", "swir16", "swir22")
    bands = resolve_bands(read_product(str(SAMPLES / name)), wanted, Choice())
    with rasterio.open(SAMPLES / name) as file:
        pixels = file.read()
    valid = (pixels > 0).any(axis=0)
    reflectance = {b.name: p[valid] * b.scale + b.offset for b, p in zip(bands, pixels, strict=True)}
    assert 0.15 < np.median(reflectance["nir"]) < 0.3
    assert 0.05 < np.median(reflectance["red"]) < 0.12
    assert min(values.min() for values in reflectance.values()) > -0.02


def test_the_sample_folder_of_bands() -> None:
    product = read_product(str(SAMPLES / "s2_bands"))
    nir, swir = resolve_bands(product, ("nir", "swir16"), Choice(sensor="sentinel2-l1c"))
    assert (nir.source.label, nir.scale, nir.offset) == ("B08", 1e-4, 0)
    with rasterio.open(nir.source.path) as fine, rasterio.open(swir.source.path) as coarse:
        assert fine.bounds == coarse.bounds
        assert (fine.shape, coarse.shape) == ((256, 256), (128, 128))


def test_the_reference_lies_on_the_sample_scene() -> None:
    with (
        rasterio.open(SAMPLES / "landsat7_raleigh.tif") as scene,
        rasterio.open(SAMPLES / "landsat7_labels.tif") as labels,
    ):
        assert (scene.transform, scene.shape) == (labels.transform, labels.shape)
        assert np.bincount(labels.read(1).ravel()).tolist()[1:] == [907, 200, 427, 915]


def test_offsets_of_bands_that_there_are_not_are_passed_over(tmp_path: Path) -> None:
    safe = make_safe(tmp_path, "L1C", baseline="04.00", offsets=ALL_OFFSETS | {13: -1, 99: -1})
    assert {b.offset for b in read_product(str(safe)).bands} == {-0.1}


def test_surface_reflectance_goes_before_the_level_1_files_beside_it(tmp_path: Path) -> None:
    for name in ("B4", "B5", "sr_band4", "sr_band5"):
        raster(tmp_path / f"LC08_L1TP_045033_20180715_20180730_01_T1_{name}.tif")
    product = read_product(str(tmp_path))
    assert (product.sensor, labels(product)) == ("landsat-sr", ["sr_band4", "sr_band5"])


def test_a_finer_copy_goes_before_a_quicker_one(tmp_path: Path) -> None:
    assets = {
        "fine": asset("fine.jp2", "B04", "red", type="image/jp2", gsd=10),
        "coarse": asset("c.tif", "B04", "red", gsd=20),
    }
    assert [Path(b.path).name for b in read_product(str(save(tmp_path, item(assets)))).bands] == ["fine.jp2"]


def test_what_is_too_large_for_an_item_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, item({"a": asset("a.tif", "B04", "red")}))
    monkeypatch.setattr(stac, "_LARGEST", path.stat().st_size)
    assert labels(read_product(str(path))) == ["B04"]
    monkeypatch.setattr(stac, "_LARGEST", path.stat().st_size - 1)
    refused(path, "is larger than")


def test_of_earth_search_what_lists_no_offset_is_left_to_its_pixels(tmp_path: Path) -> None:
    told = {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.09"}
    content = item({"red": asset("red.tif", "red", "red")}, "sentinel-2-l2a", **told)
    [red] = read_product(str(save(tmp_path, content))).bands
    assert (red.scale, red.offset) == (None, None)


def test_what_is_data_too_is_no_mere_picture(tmp_path: Path) -> None:
    content = item({"red": asset("red.tif", "B04", "red", roles=["data", "overview"])})
    assert labels(read_product(str(save(tmp_path, content)))) == ["B04"]


def test_a_band_with_and_without_a_resolution_is_there_twice(tmp_path: Path) -> None:
    raster(tmp_path / "T33_B04.tif")
    raster(tmp_path / "T33_B04_10m.tif")
    refused(tmp_path, "holds band B04 twice")


# What is told of bands and scaling


def told(path: Path, choice: Choice | None = None) -> tuple[Band, ...]:
    """Red and near infrared of a product."""
    return resolve_bands(read_product(str(path)), ("red", "nir"), choice or Choice())


def test_a_few_dark_pixels_in_a_hundred_prove_that_the_offset_is_absent(tmp_path: Path) -> None:
    """Water is a small part of most scenes."""
    pixels = np.full((2, 64, 64), 3000, np.uint16)
    pixels[:, :4] = 100  # 6 % of the pixels, which with an offset of -0.1 would reflect less than nothing
    path = write_scene(tmp_path / "s2.tif", pixels, names=("B04", "B08"), scaled=False)
    assert [b.offset for b in told(path, Choice("sentinel2-l2a"))] == [0, 0]


def test_percent_is_not_taken_for_ten_thousandths(tmp_path: Path) -> None:
    """Whose offset would seem to be proven by how small all numbers are, while the map is wrong."""
    pixels = np.linspace(1, 40, 2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64)
    path = write_scene(tmp_path / "s2.tif", pixels, names=("B04", "B08"), scaled=False)
    with pytest.raises(BandError, match=r"if they are percent, give --scale 0\.01 --offset 0"):
        told(path, Choice("sentinel2-l2a"))
    assert [(b.scale, b.offset) for b in told(path, Choice("sentinel2-l2a", scale=0.01, offset=0.0))] == [(0.01, 0)] * 2


def test_an_offset_is_proven_by_bands_of_several_data_types(tmp_path: Path) -> None:
    pixels = np.full((2, 64, 64), 100, np.uint16)
    pixels[:, 32:] = 3000
    red = write_scene(tmp_path / "red.tif", pixels[:1], names=(), scaled=False)
    nir = write_scene(tmp_path / "nir.tif", pixels[1:].astype(np.int16), names=(), scaled=False)
    with rasterio.open(red) as one, rasterio.open(nir) as other:
        (tmp_path / "s2.vrt").write_text(view_of([(one, 1, None), (other, 1, None)]))
    choice = Choice("sentinel2-l2a", {"red": 1, "nir": 2})
    assert [b.offset for b in told(tmp_path / "s2.vrt", choice)] == [0, 0]


def test_an_offset_that_the_scene_says_is_taken(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", digital_numbers(8, 8))
    with rasterio.open(path, "r+") as file:
        file.offsets = (-0.1, -0.2)
    assert [b.offset for b in told(path)] == [-0.1, -0.2]
    assert [b.offset for b in told(path, Choice("sentinel2-l2a"))] == [-0.1, -0.2]


def test_undeclared_nodata_proves_no_offset(tmp_path: Path) -> None:
    pixels = digital_numbers(200, 200) + np.uint16(1300)
    pixels[:, :, :60] = 0
    path = write_scene(tmp_path / "s2.tif", pixels, names=("B04", "B08"), scaled=False)
    with pytest.raises(BandError, match="does not say which offset"):
        told(path, Choice("sentinel2-l2a"))


def test_an_offset_is_proven_by_the_scale_that_is_said(tmp_path: Path) -> None:
    """Reflectance itself: its dark pixels leave room for one offset, once the scale of 1 is told."""
    pixels = np.linspace(0.01, 0.4, 2 * 64 * 64, dtype=np.float32).reshape(2, 64, 64)
    path = write_scene(tmp_path / "s2.tif", pixels, names=("B04", "B08"), scaled=False)
    with pytest.raises(BandError, match="too small for sentinel2-l2a"):
        told(path, Choice("sentinel2-l2a"))
    assert {(b.scale, b.offset) for b in told(path, Choice("sentinel2-l2a", scale=1.0))} == {(1, 0)}


def test_a_photograph_with_an_alpha_band_is_told_how_to_name_its_bands(tmp_path: Path) -> None:
    """Whether the fourth band is a mask or near infrared the person has to say, and can copy the bands from there."""
    pixels = np.full((4, 3, 3), 90, np.uint8)
    path = write_scene(tmp_path / "photo.tif", pixels, names=(), scaled=False, photometric="RGB", alpha=True)
    wanted = ("red", "green", "blue")
    with pytest.raises(BandError, match=r"flagged as alpha.*--bands red=1,green=2,blue=3$") as caught:
        resolve_bands(read_product(str(path)), wanted, Choice("rgb"))
    bands = dict(pair.split("=") for pair in str(caught.value).split()[-1].split(","))
    assert [b.source.index for b in resolve_bands(read_product(str(path)), wanted, Choice("rgb", bands))] == [1, 2, 3]
    with pytest.raises(OtherBandsError, match="rgb, which has no band 'nir'"):  # so another model is tried
        resolve_bands(read_product(str(path)), (*wanted, "nir"), Choice("rgb", bands))


def test_bands_are_counted_from_one(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", digital_numbers(8, 8))
    with pytest.raises(BandError, match=r"red=0: .* has no such band"):
        told(path, Choice(bands={"red": "0"}))


def test_python_counts_bands_in_numbers(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", digital_numbers(8, 8))
    assert told(path, Choice(bands={"red": 2, "nir": 1})) == told(path, Choice(bands={"red": "2", "nir": "1"}))


def test_the_sensor_that_is_named_goes_before_the_scene(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "scene.tif", digital_numbers(8, 8), names=("SR_B4", "SR_B5"))
    assert {(b.scale, b.offset) for b in told(path, Choice("landsat-c2-l2"))} == {(0.0000275, -0.2)}


def test_numbers_for_names_are_no_names(tmp_path: Path) -> None:
    """Programs write "Band 1", "Band 2" …: of four bands, in the usual order, the second is green, not B2."""
    labels = [f"Band {i}" for i in range(1, 5)]
    product = read_product(str(described(tmp_path / "a.tif", *labels)))
    plain = read_product(str(raster(tmp_path / "b.tif", 4)))
    for scene in (product, plain):
        found = resolve_bands(scene, ("blue", "green", "red", "nir"), Choice("sentinel2-l2a", scale=1e-4, offset=0))
        assert [b.source.index for b in found] == [1, 2, 3, 4]
    apart = read_product(str(described(tmp_path / "c.tif", "B2", "B3", "B4", "B8")))
    assert resolve_bands(apart, ("blue",), Choice("sentinel2-l2a", scale=1e-4, offset=0))[0].source.index == 1


def test_a_common_name_alone_goes_before_the_usual_order(tmp_path: Path) -> None:
    """The usual files of the sensor have red first; this item says what its bands are."""
    bands = [{"common_name": name} for name in ("nir", "red", "green", "blue")]
    content = item({"image": {"href": "a.tif", "roles": ["data"], "eo:bands": bands}}, "naip")
    product = read_product(str(save(tmp_path, content)))
    found = resolve_bands(product, ("red", "nir"), Choice("naip"))
    assert [b.source.index for b in found] == [2, 1]


def test_what_an_asset_says_of_itself_holds_for_its_bands(tmp_path: Path) -> None:
    said = {"eo:common_name": "red", "raster:scale": 1e-4, "raster:offset": -0.1, "nodata": 0}
    [red] = read_product(str(save(tmp_path, item({"a": {"href": "a.tif", "roles": ["data"], **said}})))).bands
    assert (red.common_name, red.scale, red.offset, red.nodata) == ("red", 1e-4, -0.1, 0)
    raster_alone = {"href": "a.tif", "eo:common_name": "red", "raster:bands": [{"scale": 1e-4}]}
    [red] = read_product(str(save(tmp_path, item({"a": raster_alone})))).bands
    assert (red.common_name, red.scale) == ("red", 1e-4)


@pytest.mark.parametrize("name", [["red"], 5, {}])
def test_a_common_name_that_is_no_text_is_refused(tmp_path: Path, name: Any) -> None:
    content = item({"a": {"href": "a.tif", "eo:common_name": name, "bands": [{}, {}]}})
    refused(save(tmp_path, content), "band name that is not a text")


def test_bands_that_share_a_common_name_are_all_there(tmp_path: Path) -> None:
    assets = {key: {"href": f"{key}.tif", "eo:bands": [{"common_name": "rededge"}]} for key in ("B05", "B06", "B07")}
    assert labels(read_product(str(save(tmp_path, item(assets))))) == ["B05", "B06", "B07"]


def test_of_an_item_that_says_nothing_of_bands_the_file_tells_them(tmp_path: Path) -> None:
    described(tmp_path / "stack.tif", "red", "nir")
    alone = {"href": "stack.tif", "roles": ["data"]}
    product = read_product(str(save(tmp_path, item({"image": alone}))))
    assert names(product) == ["red", "nir"]
    said = {"nodata": 7, "raster:scale": 1e-4}
    bands = read_product(str(save(tmp_path, item({"image": alone | said})))).bands
    assert [(b.common_name, b.scale, b.nodata) for b in bands] == [("red", 1e-4, 7), ("nir", 1e-4, 7)]


@pytest.mark.parametrize("form", ["eo:bands", "bands"])
def test_of_a_band_whose_scaling_an_item_leaves_out_the_file_tells_it(tmp_path: Path, form: str) -> None:
    """Band by band; what the item says of one goes before what the file says, and options before both."""
    with rasterio.open(raster(tmp_path / "stack.tif", 3), "r+") as file:
        file.scales, file.offsets = (2e-4, 3e-4, 1.0), (-0.1, 0.0, 0.0)
    with rasterio.open(raster(tmp_path / "alone.tif"), "r+") as file:
        file.scales = (5e-4,)
    key = "common_name" if form == "eo:bands" else "eo:common_name"
    stack = {form: [{key: "red"}, {key: "nir", "raster:scale": 1e-4}, {key: "green"}]}
    if form == "eo:bands":
        stack = {form: [{key: "red"}, {key: "nir"}, {key: "green"}], "raster:bands": [{}, {"scale": 1e-4}]}
    assets = {"a": {"href": "stack.tif", "roles": ["data"]} | stack, "b": asset("alone.tif", "B2", "blue")}
    path = save(tmp_path, item(assets))
    product = read_product(str(path))
    assert [b.scale for b in product.bands] == [None, 1e-4, None, None]
    red, nir, blue = resolve_bands(product, ("red", "nir", "blue"), Choice())
    assert [(b.scale, b.offset) for b in (red, nir, blue)] == [(2e-4, -0.1), (1e-4, 0), (5e-4, 0)]
    assert [b.why.split("; ")[1] for b in (red, nir)] == [
        "scale from its file, offset from its file",
        "scale from the scene, offset from the scene",
    ]
    (red,) = resolve_bands(product, ("red",), Choice(scale=7e-4))
    assert (red.scale, red.offset) == (7e-4, -0.1)
    with pytest.raises(BandError, match="does not say how its numbers become reflectance"):
        resolve_bands(product, ("green",), Choice())


@pytest.mark.parametrize(("craft", "sensor"), [("LC08", "landsat-c2-l2-tm"), ("LT05", "landsat-c2-l2")])
def test_a_sensor_that_is_not_that_of_a_product_is_refused(
    tmp_path: Path, pointwise: Model, capsys: pytest.CaptureFixture[str], craft: str, sensor: str
) -> None:
    """Landsat 8 numbers its bands otherwise than Landsat 5 did: each was taken for its neighbour."""
    folder = tmp_path / "product"
    folder.mkdir()
    for number in (1, 2, 3, 4, 5, 7):
        name = f"{craft}_L2SP_188034_20230601_20230607_02_T1_SR_B{number}.TIF"
        write_scene(folder / name, digital_numbers(20, 20, 1), names=(), scaled=False)
    how = ("--model", pointwise.folder, "--allow-untrained", "--out", tmp_path / "map.tif", "--sensor", sensor)
    assert "leave --sensor out" in command_refused(capsys, tmp_path, "predict", folder, *how)
    outcome = landcover(capsys, "predict", folder, *how, "--bands", "red=SR_B3,nir=SR_B4")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("crs", [None, "EPSG:32633"])
def test_info_tells_what_a_scene_lacks_to_be_mapped(
    tmp_path: Path, pointwise: Model, capsys: pytest.CaptureFixture[str], crs: str | None
) -> None:
    place = Affine(10, 0, 5e5, 0, 0 if crs else -10, 5e6)
    path = write_scene(tmp_path / "scene.tif", digital_numbers(20, 20), crs=crs, transform=place)
    refusal = landcover(capsys, "predict", path, "--out", tmp_path / "m.tif", "--model", pointwise.folder).err
    (lacking,) = [line.removeprefix("Error: ") for line in refusal.splitlines() if line.startswith("Error: ")]
    told = landcover(capsys, "info", path, "--model", pointwise.folder).out
    assert f"it is not mapped as it is: {lacking}" in told
    assert "100.0 %" in told


def test_an_item_without_a_scaling_is_mapped_as_its_file(
    tmp_path: Path, pointwise: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no option that says how its numbers become reflectance; `info` tells who said it."""
    write_scene(tmp_path / "scene.tif", digital_numbers(70, 50))
    image = {"href": "scene.tif", "roles": ["data"], "eo:bands": [{"common_name": "red"}, {"common_name": "nir"}]}
    path = save(tmp_path, item({"image": image}))
    for source in (tmp_path / "scene.tif", path):
        args = ("--model", pointwise.folder, "--allow-untrained", "-o", tmp_path / f"{source.stem}_map.tif")
        assert landcover(capsys, "predict", source, *args).code == 0
    assert (read_map(tmp_path / "item_map.tif") == read_map(tmp_path / "scene_map.tif")).all()
    told = landcover(capsys, "info", path, "--model", pointwise.folder).out
    assert told.count("scale from its file") == 2
    assert landcover(capsys, "info", path, "--json").out.count(f'"scale": {SCALE}') == 2


@pytest.mark.parametrize(("nodata", "told"), [(None, "no nodata"), (0, "nodata 0"), (65535, "nodata 65535")])
def test_nodata_is_told_as_people_write_it(
    tmp_path: Path, pointwise: Model, capsys: pytest.CaptureFixture[str], nodata: float | None, told: str
) -> None:
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(9, 9), nodata=nodata)
    how = ("--model", pointwise.folder)
    info = landcover(capsys, "info", scene, *how).out
    plan = landcover(capsys, "predict", scene, *how, "--allow-untrained", "--explain", "-o", tmp_path / "map.tif").out
    assert info.count(f"red: band 1 'red' × 0.0001 +0, {told} (") == 1
    assert plan.count(f"red: band 1 'red' × 0.0001 +0, {told} (") == 1
    assert "0.0 " not in info.partition("model:")[0]


def test_a_file_of_several_bands_is_not_one_band(tmp_path: Path) -> None:
    """Which of them is meant nobody has said; an alpha band is none."""
    pixels = digital_numbers(40, 30, 3)
    for alpha in (False, True):
        write_scene(tmp_path / f"{alpha}.tif", pixels[: 3 - alpha], names=(), alpha=alpha, photometric="minisblack")
    write_scene(tmp_path / "nir.tif", pixels[:1], names=("nir",))
    for form in ({"eo:bands": [{"common_name": "red"}]}, {"bands": [{"name": "B04"}]}):
        assets = {"nir": asset("nir.tif", "B08", "nir"), "red": {"href": "False.tif", "roles": ["data"]} | form}
        path = str(save(tmp_path, item(assets, "sentinel-2-l2a")))
        with pytest.raises(SceneError, match=r"False.tif has 3 bands, and the item does not say which is 'red'; let"):
            open_scene(path, ("red", "nir"), Choice(offset=0))
        assert open_scene(path, ("nir",), Choice(offset=0)).bands
        seen = assets | {"green": asset("nir.tif", "B03", "green"), "blue": asset("nir.tif", "B02", "blue")}
        with pytest.raises(SceneError, match="does not say which is 'red'"):
            preview(save(tmp_path, item(seen, "sentinel-2-l2a")), tmp_path / "picture.png")
        assets["red"]["href"] = "True.tif"
        assert open_scene(str(save(tmp_path, item(assets, "sentinel-2-l2a"))), ("red", "nir"), Choice(offset=0)).bands


def test_of_a_file_that_has_more_bands_than_an_item_tells_of_none_is_guessed(tmp_path: Path) -> None:
    """Whether they are the first ones nobody has said, unless the file describes them by the same names."""
    said = {"eo:bands": [{"name": "B02", "common_name": "blue"}, {"name": "B08", "common_name": "nir"}]}
    path = str(save(tmp_path, item({"image": {"href": "stack.tif", "roles": ["data"]} | said})))
    for described in ((), ("blue", "red", "green", "nir")):
        write_scene(tmp_path / "stack.tif", digital_numbers(40, 30, 4), names=described)
        with pytest.raises(SceneError, match=r"stack.tif has 4 bands, and the item does not say which is 'nir'; let"):
            open_scene(path, ("nir",))
    write_scene(tmp_path / "stack.tif", digital_numbers(40, 30, 4), names=("B2", "NIR", "red", ""))
    assert [b.source.index for b in open_scene(path, ("nir", "blue")).bands] == [2, 1]


def test_an_item_that_tells_of_more_bands_than_its_file_has(tmp_path: Path) -> None:
    """Those that are there can be mapped, whatever the scaling is told by."""
    write_scene(tmp_path / "one.tif", digital_numbers(20, 30, 1), names=("B04",), scaled=False)
    eo = [{"name": "B04", "common_name": "red"}, {"name": "B08", "common_name": "nir"}]
    one = {"image": {"href": "one.tif", "roles": ["data"], "eo:bands": eo}}
    for collection in ("sentinel-2-l2a", None):
        path = str(save(tmp_path, item(one, collection)))
        assert open_scene(path, ("red",), Choice(scale=1e-4, offset=0)).bands[0].source.index == 1
        with pytest.raises(SceneError, match=r"one\.tif has no band 2"):
            open_scene(path, ("nir",), Choice(scale=1e-4, offset=0))
    with pytest.raises(SceneError, match=r"one\.tif has no band 2, which it is said to hold"):
        open_scene(str(save(tmp_path, item(one, "sentinel-2-l2a"))), ("red", "nir"))


@pytest.mark.parametrize("nodata", [(9, 9), (5, 9), (0, 9), (None, 9)])
def test_nodata_of_one_band_of_a_coarser_file_is_not_mixed_into_others(tmp_path: Path, nodata: tuple) -> None:
    """GDAL takes a pixel of several bands for missing only where all bands are, and mixes it with its neighbours."""
    fine = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    write_scene(tmp_path / "red.tif", np.full((1, 8, 8), 500, np.uint16), names=("red",), transform=fine)
    pixels = np.full((2, 4, 4), 300, np.uint16)
    pixels[1, 0, 2] = 9
    write_scene(tmp_path / "a & b.tif", pixels, names=(), transform=fine @ Affine.scale(2))
    said = [{} if value is None else {"nodata": value} for value in nodata]
    coarse = asset("a & b.tif", "B11", "swir16", *said)
    coarse["eo:bands"].append({"name": "B12", "common_name": "swir22"})
    path = save(tmp_path, item({"red": asset("red.tif", "B04", "red"), "swir": coarse}))
    for wanted in (("red", "swir16", "swir22"), ("swir22", "red")):
        scene = open_scene(str(path), wanted, Choice(scale=1e-4))
        with scene.open(8) as reader:
            dn, valid = reader.read(Box(0, 8, 0, 8))
        missing = np.zeros((8, 8), bool)
        missing[:2, 4:6] = True
        assert (valid == ~missing).all()
        assert set(np.unique(dn[:, valid])) == {300, 500}


def test_near_infrared_of_a_coarser_file_that_is_flagged_as_alpha_masks_nothing(tmp_path: Path) -> None:
    """In a view of all bands GDAL would take the green where near infrared is 0 for 0, too."""
    fine = Affine(10, 0, 500_000, 0, -10, 5_000_000)
    write_scene(tmp_path / "red.tif", np.full((1, 8, 8), 50, np.uint8), names=("red",), transform=fine)
    pixels = np.full((4, 4, 4), 100, np.uint8)
    pixels[3, 1, 1] = 0
    flagged = {"count": 4, "dtype": "uint8", "height": 4, "width": 4, "photometric": "RGB", "alpha": "yes"}
    place = {"crs": "EPSG:32633", "transform": fine @ Affine.scale(2)}
    with rasterio.open(tmp_path / "coarse.tif", "w", driver="GTiff", **flagged, **place) as file:
        file.write(pixels)
        file.descriptions = names = ("swir16", "green", "blue", "nir")
    coarse = asset("coarse.tif", "B1", "swir16")
    coarse["eo:bands"] = [{"name": name, "common_name": name} for name in names]
    path = save(tmp_path, item({"red": asset("red.tif", "B04", "red"), "rest": coarse}))
    scene = open_scene(str(path), ("red", "green"), Choice(scale=1e-4))
    with scene.open(8) as reader:
        dn, valid = reader.read(Box(0, 8, 0, 8))
    assert valid.all()
    assert (dn[1] == 100).all()


def test_an_asset_whose_name_is_too_long_for_the_disk(tmp_path: Path) -> None:
    path = save(tmp_path, item({"a": asset(f"{'a' * 300}.tif", "B04", "red")}))
    with pytest.raises(SceneError, match="cannot be read: File name too long"):
        open_scene(str(path), ("red",))


def test_an_href_may_be_percent_encoded(tmp_path: Path) -> None:
    """As URIs are; a name that has a percent sign in it is a name all the same."""
    for href, name in (("./a%20b.tif", "a b.tif"), ("./50%25.tif", "50%25.tif")):
        raster(tmp_path / name)
        content = item({"a": asset(href, "B04", "red")})
        assert Path(read_product(str(save(tmp_path, content))).bands[0].path) == tmp_path / name


def test_metadata_that_is_not_there_is_no_folder(tmp_path: Path) -> None:
    raster(tmp_path / "x_B04.tif")
    refused(tmp_path / "MTD_MSIL2A.xml", "does not exist")


def test_a_zarr_store_is_named_as_gdal_names_it(tmp_path: Path) -> None:
    (tmp_path / "cube.zarr" / "Band1").mkdir(parents=True)
    (tmp_path / "cube.zarr" / ".zgroup").write_text("{}")
    refused(tmp_path / "cube.zarr", "it is a Zarr store")
