"""Sensors: every configuration loads, and the names that products use lead to the right band."""

from pathlib import Path

import pytest

from landcover.errors import ConfigError
from landcover.specs import band_key, config_names, load_legend, load_sensor

SIX = {"blue", "green", "red", "nir", "swir16", "swir22"}
CONTRACT = (
    "sentinel2-l2a",
    "sentinel2-l1c",
    "hls",
    "landsat-c2-l2",
    "landsat-sr",
    "planetscope-4",
    "naip",
    "rgb",
    "rgbn",
)


def test_the_promised_sensors_exist() -> None:
    assert set(CONTRACT) <= set(config_names("sensors"))


@pytest.mark.parametrize("name", config_names("sensors"))
def test_every_sensor_loads_under_its_file_name_and_no_alias_is_ambiguous(name: str) -> None:
    sensor = load_sensor(name)
    assert sensor.name == name
    keys = [key for b in sensor.bands for key in {band_key(a) for a in (b.name, *b.aliases)}]
    assert len(set(keys)) == len(keys)
    assert len({len(layout) for layout in sensor.layouts}) == len(sensor.layouts) > 0
    assert sensor.title
    assert sensor.offset != "declared" or sensor.offsets == (0.0, -0.1)


@pytest.mark.parametrize("name", [n for n in config_names("sensors") if n.startswith(("sentinel2", "hls", "landsat"))])
def test_every_multispectral_sensor_has_the_six_bands(name: str) -> None:
    assert set(load_sensor(name).band_names) >= SIX


@pytest.mark.parametrize(
    ("sensor", "label", "band"),
    [
        ("sentinel2-l2a", "B04", "red"),
        ("sentinel2-l2a", "B4", "red"),
        ("sentinel2-l2a", "b04", "red"),
        ("sentinel2-l2a", "B08", "nir"),
        ("sentinel2-l2a", "B8A", "nir08"),
        ("sentinel2-l2a", "B12", "swir22"),
        ("sentinel2-l2a", "B10", None),
        ("sentinel2-l1c", "B10", "cirrus"),
        ("landsat-c2-l2", "SR_B5", "nir"),
        ("landsat-c2-l2", "OLI_B7", "swir22"),
        ("landsat-c2-l2", "nir08", "nir"),
        ("landsat-c2-l2", "ST_B10", None),
        ("landsat-c2-l2-tm", "SR_B4", "nir"),
        ("landsat-c2-l2-tm", "SR_B7", "swir22"),
        ("landsat-c2-l2-tm", "SR_B6", None),
        ("landsat-sr", "sr_band4", "red"),
        ("landsat-sr-tm", "sr_band4", "nir"),
        ("hls-l30", "B05", "nir"),
        ("hls-l30", "B07", "swir22"),
        ("hls-s30", "B05", "rededge071"),
        ("hls-s30", "B8A", "nir"),
        ("hls-s30", "B11", "swir16"),
        ("hls", "B04", "red"),
        ("hls", "B05", None),
        ("hls", "nir", "nir"),
        ("planetscope-4", "B4", "nir"),
        ("planetscope-8", "green_i", "green05"),
        ("planetscope-8", "green", "green"),
        ("planetscope-8", "B8", "nir"),
        ("naip", "N", "nir"),
        ("rgb", "R", "red"),
    ],
)
def test_what_products_call_a_band(sensor: str, label: str, band: str | None) -> None:
    assert load_sensor(sensor).common_name(label) == band


def test_numbers_of_the_product_guides() -> None:
    landsat, hls, sentinel2, naip = map(load_sensor, ("landsat-c2-l2", "hls", "sentinel2-l2a", "naip"))
    assert (landsat.scale, landsat.offset, landsat.nodata) == (0.0000275, -0.2, 0)
    assert (hls.scale, hls.offset, hls.nodata) == (0.0001, 0, -9999)
    assert (sentinel2.scale, sentinel2.offset, sentinel2.nodata) == (0.0001, "declared", 0)
    assert naip.scale == 1 / 255
    assert naip.layouts == (("red", "green", "blue", "nir"),)


def test_an_unknown_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ntitle = "t"\ngsd = 1.0\nscale = 1.0\nofset = 0.0\n[[bands]]\nname = "red"\n')
    with pytest.raises(ConfigError, match="unknown key 'ofset'"):
        load_sensor(str(path))


@pytest.mark.parametrize(
    ("name", "said"), [("", "it is missing; add it"), ("name = 2", "2 is no text; write it in quotes")]
)
def test_sensors_and_legends_have_names(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'{name}\ntitle = "t"\ngsd = 1.0\nscale = 1.0\n[[bands]]\nname = "red"\n')
    with pytest.raises(ConfigError, match=rf"mine.toml: name: {said}$"):
        load_sensor(str(path))
    path.write_text(f'{name}\nclasses = [{{ id = 1, name = "all", color = "#ffffff" }}]\n')
    with pytest.raises(ConfigError, match=rf"mine.toml: name: {said}$"):
        load_legend(str(path))


def test_a_value_that_cannot_be_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nclasses = [{ id = 1, name = "all", color = "red" }]\n')
    with pytest.raises(ConfigError, match=r"classes.0.color: 'red' is no colour; write it as '#1b7837'"):
        load_legend(str(path))
    path.write_text('name = "mine"\nclasses = [{ id = 300, name = "all", color = "#ffffff" }]\n')
    with pytest.raises(ConfigError, match=r"classes.0.id: 300 should be less than or equal to 254"):
        load_legend(str(path))


def test_an_unknown_sensor_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sentinel2-l2a'"):
        load_sensor("sentinel2-l2")
