"""STAC Items of maps and Catalogs of them: what other programs read is what the map is."""

import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely
from affine import Affine

from landcover.errors import MapError, OutputError
from landcover.items import map_item, write_catalog, write_item
from landcover.models import Model
from landcover.planning import Options, make_plan
from landcover.prediction import map_scene
from tests.catalogs import stac_item, write_json
from tests.commands import landcover, refused
from tests.maps import write_confidence, write_map
from tests.scenes import digital_numbers, write_scene

TAKEN = dt.datetime(2024, 6, 1, 12, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))


def make(folder: Path, *, source: str = "", **how: Any) -> dict[str, Any]:
    path = write_map(folder / "maps" / "map.tif", np.ones((30, 20), np.uint8))
    assets = {"map": path} | how.pop("assets", {})
    return map_item(folder / "items" / "a.json", name="a", assets=assets, source=source, **{"datetime": TAKEN} | how)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "maps").mkdir()
    (tmp_path / "items").mkdir()
    return tmp_path


def test_an_item_tells_place_time_and_classes(folder: Path) -> None:
    item = make(folder)
    said = item["properties"]
    assert said["datetime"] == "2024-06-01T10:30:00Z"
    assert (said["proj:code"], said["proj:shape"]) == ("EPSG:32633", [30, 20])
    assert said["proj:transform"] == [10, 0, 500_000, 0, -10, 5_000_000]
    assert said["gsd"] == pytest.approx(10, rel=1e-2)
    assert shapely.geometry.shape(item["geometry"]).bounds == tuple(item["bbox"])
    assert item["bbox"] == pytest.approx([15, 45.15078, 15.00254, 45.15348], abs=1e-5)
    asset = item["assets"]["map"]
    assert (asset["href"], asset["roles"], asset["nodata"]) == ("../maps/map.tif", ["data"], 0)
    nodata, forest, *_ = asset["classification:classes"]
    assert nodata == {"value": 0, "name": "nodata", "title": "no data", "nodata": True}
    assert (forest["value"], forest["name"]) == (1, "forest")
    assert len(forest["color_hint"]) == 6


def test_pystac_reads_what_is_written(folder: Path) -> None:
    out = folder / "items" / "a.json"
    confidence = write_confidence(folder / "maps" / "confidence.tif", np.ones((30, 20)))
    item = make(folder, assets={"confidence": confidence, "polygons": folder / "maps" / "p.gpkg"}, facts={"digest": 3})
    write_item(item, out)
    read = pystac.Item.from_file(str(out))
    assert read.to_dict(include_self_link=False, transform_hrefs=False) == item
    assert read.datetime == TAKEN
    assert read.properties["landcover:digest"] == 3
    assert Path(read.assets["confidence"].get_absolute_href()).samefile(confidence)
    assert read.assets["polygons"].media_type == "application/geopackage+sqlite3"
    assert read.ext.has("proj")
    assert read.ext.proj.code == "EPSG:32633"
    assert [c.value for c in read.assets["map"].ext.classification.classes] == [0, 1, 2, 3, 4]


def test_a_time_that_is_not_known_is_that_of_processing_and_says_so(folder: Path) -> None:
    said = make(folder, datetime=None)["properties"]
    assert abs(dt.datetime.fromisoformat(said["datetime"]) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    assert "time of processing" in said["landcover:datetime_is"]
    assert "landcover:datetime_is" not in make(folder)["properties"]


@pytest.mark.parametrize(
    ("source", "href"),
    [
        ("https://me:pass@example.org/a.tif?X-Amz-Signature=secret#x", "https://example.org/a.tif"),
        ("s3://bucket/a.tif?secret", "s3://bucket/a.tif"),
        ("/vsicurl/https://example.org/a.tif?secret", None),
        ("none.tif", None),
        ("", None),
        ("maps", None),
    ],
)
def test_an_item_keeps_no_secret(folder: Path, source: str, href: str | None) -> None:
    facts = {"scene": source, "all": [{"x": f"of {source} and"}]}
    item = make(folder, source=source, facts=facts)
    assert [link["href"] for link in item["links"]] == ([href] if href else [])
    text = json.dumps(item)
    assert "secret" not in text
    assert "me:pass" not in text


def test_a_scene_that_is_a_file_is_linked_to_relatively(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_scene(folder / "scene.tif", digital_numbers(5, 5))
    assert make(folder, source=str(scene))["links"] == [{"rel": "derived_from", "href": "../scene.tif"}]
    monkeypatch.chdir(folder)
    assert make(folder, source="scene.tif")["links"][0]["href"] == "../scene.tif"


def test_a_map_across_the_antimeridian_is_told_in_two_parts(folder: Path) -> None:
    place = Affine(0.01, 0, 179.9, 0, -0.01, 10)
    path = write_map(folder / "maps" / "m.tif", np.ones((20, 20), np.uint8), transform=place, crs="EPSG:4326")
    item = make(folder, assets={"map": path})
    assert item["geometry"]["type"] == "MultiPolygon"
    assert item["bbox"] == pytest.approx([179.9, 9.8, -179.9, 10])
    assert pystac.Item.from_dict(item).bbox == item["bbox"]


def test_a_map_without_a_place_has_no_geometry(folder: Path) -> None:
    path = write_map(folder / "maps" / "m.tif", np.ones((20, 20), np.uint8), crs=None, transform=Affine.identity())
    item = make(folder, assets={"map": path})
    assert item["geometry"] is None
    assert "bbox" not in item
    assert pystac.Item.from_dict(item).geometry is None


def test_a_crs_without_a_code_is_told_in_words(folder: Path) -> None:
    path = write_map(folder / "maps" / "m.tif", np.ones((20, 20), np.uint8), crs="+proj=laea +lat_0=45 +lon_0=15")
    said = make(folder, assets={"map": path})["properties"]
    assert said["proj:code"] is None
    assert "Lambert Azimuthal" in said["proj:wkt2"]


def test_what_is_no_map_or_no_json_is_refused(folder: Path) -> None:
    with pytest.raises(MapError, match="carries no legend"):
        make(folder, assets={"map": write_confidence(folder / "maps" / "c.tif", np.ones((5, 5)))})
    with pytest.raises(OutputError, match="a cannot be described in JSON"):
        write_item(make(folder, facts={"x": float("nan")}), folder / "items" / "a.json")
    with pytest.raises(OutputError, match="does not exist; make it first"):
        write_item(make(folder), folder / "none" / "a.json")
    assert not any((folder / "items").iterdir())


def test_a_catalog_links_to_thousands_of_items_in_seconds(tmp_path: Path) -> None:
    items = [tmp_path / "north" / f"{i}.json" for i in range(5000)]
    for path in items[:3]:
        write_json(path, stac_item(path.stem))
    began = time.perf_counter()
    out = write_catalog(tmp_path, items, title="Land cover 2024: all of it", description="Maps")
    assert time.perf_counter() - began < 5
    assert len(json.loads(out.read_text())["links"]) == 5001
    write_catalog(tmp_path, items[:3], title="Land cover", description="Maps")
    catalog = pystac.Catalog.from_file(str(out))
    assert catalog.id == "Land-cover"
    assert [item.id for item in catalog.get_items()] == ["0", "1", "2"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["catalog.json", "north"]


# predict --stac


@pytest.fixture
def how(pointwise: Model) -> tuple[str | Path, ...]:
    return ("--model", pointwise.folder, "--allow-untrained", "--engine", "torch", "--stac")


def test_predict_writes_an_item_beside_the_map(
    tmp_path: Path, pointwise: Model, how: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "T33UUP_20220701T101041"
    scene = write_scene(tmp_path / f"{name}.tif", digital_numbers(40, 30))
    out = tmp_path / "map.tif"
    outcome = landcover(capsys, "predict", scene, "--out", out, "--confidence", tmp_path / "c.tif", *how)
    assert outcome.code == 0, outcome.err
    item = pystac.Item.from_file(str(tmp_path / "map.json"))
    assert (item.id, item.datetime) == ("map", dt.datetime(2022, 7, 1, 10, 10, 41, tzinfo=dt.UTC))
    assert {key: asset.href for key, asset in item.assets.items()} == {"map": "./map.tif", "confidence": "./c.tif"}
    assert item.properties["landcover:model_sha256"] == pointwise.sha256
    assert item.get_single_link("derived_from").get_href() == f"./{name}.tif"


def test_a_map_that_replaces_one_with_an_item_says_that_the_item_is_stale(
    tmp_path: Path, how: tuple, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    scene = write_scene(tmp_path / "T33UUP_20220701T101041.tif", digital_numbers(40, 30))
    command = ("predict", scene, "--out", tmp_path / "map.tif", *how)
    assert f"Wrote {tmp_path / 'map.tif'}, {tmp_path / 'map.json'} in" in landcover(capsys, *command).err
    assert not caplog.text
    landcover(capsys, *command[:-1], "-f")
    assert "map.json describes the map that was here before" in caplog.text
    caplog.clear()
    (tmp_path / "map.json").write_text('{"assets": "none of ours"}')
    landcover(capsys, *command[:-1], "-f")
    assert not caplog.text


def test_what_is_mapped_is_kept_where_its_item_cannot_be_written(tmp_path: Path, pointwise: Model) -> None:
    """Its name was taken while the scene was mapped; the next run maps nothing again."""
    scene = write_scene(tmp_path / "scene.tif", digital_numbers(40, 30))
    options = Options(scene, tmp_path / "map.tif", pointwise, stac=True, allow_untrained=True, engine="torch")
    run = map_scene(make_plan(options))
    assert next(run) == 0
    (tmp_path / "map.json").mkdir()
    with pytest.raises(OutputError, match=r"map.json is a folder"):
        list(run)
    assert not (tmp_path / "map.tif").exists()
    (tmp_path / "map.json").rmdir()
    assert list(map_scene(make_plan(options))) == [40 * 30]
    assert pystac.Item.from_file(str(tmp_path / "map.json")).assets["map"].href == "./map.tif"


def test_predict_does_not_write_over_an_item(tmp_path: Path, how: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    write_scene(tmp_path / "a.tif", digital_numbers(40, 30))
    scene = write_json(tmp_path / "map.json", stac_item("map"))
    command = ("predict", scene, "--out", tmp_path / "map.tif", *how)
    assert "exists already" in refused(capsys, tmp_path, *command)
    assert "is an input of this run" in refused(capsys, tmp_path, *command, "--overwrite")
