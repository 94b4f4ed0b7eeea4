"""Catalogs: every kind is read into the same entries, and what is asked for is chosen from them."""

import csv
import datetime as dt
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pystac
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from landcover.catalog import Entry, choose, look, read_catalog
from landcover.catalog.choosing import parse_interval
from landcover.catalog.documents import read_members
from landcover.catalog.entry import Held
from landcover.errors import CatalogError, ConfigError
from landcover.models import Model
from landcover.products import read_product
from tests.catalogs import collection, node, serving, stac_item, write_json
from tests.commands import landcover, refused
from tests.scenes import UTM, digital_numbers, read_map, write_scene

UTC = dt.UTC


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(entries: list[Entry]) -> list[str]:
    return [e.name for e in entries]


# Folders and patterns


def test_a_folder_is_all_its_rasters_below_it_but_no_side_car_and_nothing_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "a.tif", "a.tif.aux.xml", "a.tif.ovr", "a.tif.msk", "b/c.TIFF", "b/d.v2.0.jp2", "b/notes.txt")
    touch(tmp_path, ".hidden.tif", ".cache/e.tif", "b/.map.tif.work/rows.tif")
    entries = read_catalog(str(tmp_path))
    assert names(entries) == ["a", "b/c", "b/d.v2.0"]
    assert [e.source for e in entries] == [str(tmp_path / n) for n in ("a.tif", "b/c.TIFF", "b/d.v2.0.jp2")]


def test_links_to_folders_elsewhere_are_followed_and_no_scene_is_found_twice(tmp_path: Path) -> None:
    touch(tmp_path, "scenes/2024/a.tif", "archive/2023/b.tif", "archive/2023/deep/d.tif", "other/c.tif")
    for link, target in {
        "scenes/2023": "../archive/2023",
        "scenes/latest": "2024",
        "scenes/2024/up": "..",
        "archive/2023/other": "../../other",
        "other/back": "../archive/2023",
        "scenes/2023-again": "../archive/2023",
        "scenes/part": "../archive/2023/deep",
        "scenes/gone": "nowhere",
    }.items():
        (tmp_path / link).symlink_to(target)
    entries = read_catalog(str(tmp_path / "scenes"))
    assert sorted(Path(name).name for name in names(entries)) == ["a", "b", "c", "d"]
    assert "2024/a" in names(entries)


def test_folders_that_are_all_linked_to_each_other_are_listed_once(tmp_path: Path) -> None:
    for k in range(9):
        touch(tmp_path, f"{k}/{k}.tif")
        for other in range(9):
            (tmp_path / str(k) / f"to{other}").symlink_to(f"../{other}")
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "first").symlink_to("../0")
    assert len(read_catalog(str(tmp_path / "scenes"))) == 9


SAFE = "S2A_MSIL2A_20220701T101041_N0400_R022_T33UUP_20220701T140000"
LANDSAT = "LC08_L2SP_193026_20200101_20200824_02_T1"
HLS = "HLS.S30.T33UUP.2023122T101010.v2.0"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([f"p/{SAFE}.SAFE/GRANULE/L2A/IMG_DATA/R10m/T33UUP_B04_10m.jp2"], [f"p/{SAFE}"]),
        (["p/x/MTD_MSIL2A.xml", "p/x/GRANULE/L2A/IMG_DATA/T33UUP_B04.jp2"], ["p/x"]),
        ([f"p/x/{LANDSAT}_SR_B4.TIF", f"p/x/{LANDSAT}_SR_B5.TIF", f"p/x/{LANDSAT}_QA_PIXEL.TIF"], ["p/x"]),
        ([f"p/{HLS}/{HLS}.B04.tif", f"p/{HLS}/{HLS}.Fmask.tif"], [f"p/{HLS}"]),
        (["p/x/scene_B04.tif", "p/x/scene_B08.tif", "p/x/scene_SCL.tif", "p/y/a.tif"], ["p/x", "p/y/a"]),
        (["p/x/red.tif", "p/x/nir.tif"], ["p/x"]),
        (["p/x/one_red.tif", "p/x/two_red.tif"], ["p/x/one_red", "p/x/two_red"]),
        (["p/x/red.tif", "p/x/nir.tif", "p/x/town.tif"], ["p/x/nir", "p/x/red", "p/x/town"]),
        (["p/x/scene_B04.tif", "p/x/scene_B08.tif", "p/x/town.tif"], ["p/x/scene_B04", "p/x/scene_B08", "p/x/town"]),
    ],
)
def test_a_folder_of_bands_is_one_scene(tmp_path: Path, files: list[str], found: list[str]) -> None:
    assert names(read_catalog(str(touch(tmp_path, *files)))) == found
    assert names(read_catalog(str(tmp_path / "p" / "**" / "*"))) == [f.removeprefix("p/") for f in found]


def test_a_scene_may_be_named_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the way to it leads up: `../a.tif`."""
    touch(tmp_path, "a.tif", "sub/b.tif", "p/x_B04.tif", "p/x_B08.tif")
    monkeypatch.chdir(tmp_path / "sub")
    for named in ("../a.tif", "./../a.tif", "../sub/b.tif", "../p", ".."):
        assert read_catalog(named) == read_catalog(os.path.normpath(tmp_path / "sub" / named)), named


def test_what_leads_up_from_behind_a_link_leads_where_the_system_has_it(tmp_path: Path) -> None:
    touch(tmp_path, "a.tif", "disk/a.tif", "disk/year/b.tif")
    (tmp_path / "link").symlink_to("disk/year")
    (tmp_path / "scenes.csv").write_text("path\nlink/../a.tif\n")
    for named in (tmp_path / "link/../a.tif", tmp_path / "scenes.csv"):
        (entry,) = read_catalog(str(named))
        assert Path(entry.source).samefile(tmp_path / "disk" / "a.tif")
        assert ".." not in entry.source
    (tmp_path / "latest.tif").symlink_to("a.tif")
    for named in ("link/b.tif", "disk/../latest.tif", "disk/year/../../latest.tif"):
        (kept,) = read_catalog(str(tmp_path / named))
        assert kept.source == os.path.normpath(tmp_path / named)
    (kept,) = read_catalog(str(tmp_path / "link/../../latest.tif"))
    assert kept.source == str(tmp_path / "latest.tif"), "the last name is the user's"


def test_a_product_folder_by_itself_is_one_scene_under_its_own_name(tmp_path: Path) -> None:
    folder = touch(tmp_path, f"{SAFE}.SAFE/MTD_MSIL2A.xml") / f"{SAFE}.SAFE"
    for source in (folder, folder / "MTD_MSIL2A.xml"):
        (entry,) = read_catalog(str(source))
        assert (entry.source, entry.name) == (str(folder), SAFE)


def test_a_pattern_names_scenes_from_its_first_plain_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "s/2023/a.tif", "s/2024/a.tif", "s/2024/b.ntf", "s/2024/.c.tif", "s/2024/d.txt")
    assert names(read_catalog(f"{tmp_path}/s/*/*.tif")) == ["2023/a", "2024/a"]
    assert names(read_catalog(f"{tmp_path}/s/2024/*")) == ["a"]
    assert names(read_catalog(f"{tmp_path}/s/2024/*.ntf")) == ["b"]
    monkeypatch.chdir(tmp_path)
    assert read_catalog("s/202?/a.tif") == read_catalog(f"{tmp_path}/s/202?/a.tif")


def test_a_name_that_looks_like_a_pattern_but_exists_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].tif", "a1.tif")
    assert names(read_catalog(str(tmp_path / "a[1].tif"))) == ["a[1]"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://example.org/scenes/a.tif?signature=x/y", "a"),
        ("s3://bucket/a.b.tif", "a.b"),
        ("/vsizip/scenes.zip/a.tif", "a"),
    ],
)
def test_a_remote_raster_is_one_scene(source: str, name: str) -> None:
    assert read_catalog(source) == [Entry(source, name)]


# Tables


def write_csv(path: Path, *rows: dict[str, Any], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


ROWS = (
    {
        "path": "x/a.tif",
        "name": "north/a",
        "sensor": "sentinel2-l2a",
        "bands": "red=4;nir=8",
        "scale": 1e-4,
        "offset": -0.1,
        "aoi": "zones/a.gpkg",
        "datetime": "2024-06-01T12:30:00+02:00",
        "height": 100,
        "width": 200,
        "cloud": 5.5,
    },
    {"path": "https://example.org/b.tif", "sensor": "mine.toml", "datetime": "2024-06-02"},
    {"path": "x/../c.tif", "cloud": 7.0},
    {"path": "../d.tif"},
)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_tells_all_that_predict_needs(tmp_path: Path, delimiter: str) -> None:
    check_rows(write_csv(tmp_path / "scenes.csv", *ROWS, delimiter=delimiter), tmp_path)


@pytest.mark.parametrize("missing", ["", "NA", "n/a", "NaN", "null", "-"])
def test_a_number_that_a_csv_does_not_know_satisfies_no_condition(tmp_path: Path, missing: str) -> None:
    table = write_csv(tmp_path / "t.csv", {"path": "a.tif", "cloud": missing}, {"path": "b.tif", "cloud": "30"})
    entries = read_catalog(str(table))
    assert names(choose(entries, where="cloud > 20")) == ["b"]
    assert names(choose(entries, where="cloud < 40")) == ["b"]
    assert names(choose(entries, where="cloud is null")) == ["a"]


def test_a_csv_as_excel_writes_it_where_decimals_have_a_comma(tmp_path: Path) -> None:
    """As texts, 7,5 and 12,0 were both greater than every number."""
    table = tmp_path / "t.csv"
    table.write_bytes("\ufeffpath;scale;cloud\r\na.tif;0,0001;7,5\r\nb.tif;1E-04;12\r\nc,d.tif;;\r\n".encode())
    entries = read_catalog(str(table))
    assert [e.scale for e in entries] == [1e-4, 1e-4, None]
    assert names(entries) == ["a", "b", "c,d"]
    assert names(choose(entries, where="cloud < 10")) == ["a"]
    assert names(choose(entries, where="cloud > 10")) == ["b"]


def test_a_parquet_table_tells_the_same(tmp_path: Path) -> None:
    whole = [{column: row.get(column) for column in ROWS[0]} for row in ROWS]
    check_rows(write_parquet(tmp_path / "scenes.parquet", *whole), tmp_path)


def check_rows(table: Path, folder: Path) -> None:
    a, b, c, d = read_catalog(str(table))
    assert a == Entry(
        source=str(folder / "x" / "a.tif"),
        name="north/a",
        sensor="sentinel2-l2a",
        bands={"red": "4", "nir": "8"},
        scale=1e-4,
        offset=-0.1,
        aoi=str(folder / "zones" / "a.gpkg"),
        datetime=dt.datetime(2024, 6, 1, 10, 30, tzinfo=UTC),
        size=(100, 200),
        properties={"cloud": 5.5},
    )
    assert b == Entry(
        "https://example.org/b.tif", "b", str(folder / "mine.toml"), datetime=dt.datetime(2024, 6, 2, tzinfo=UTC)
    )
    assert c == Entry(str(folder / "c.tif"), "c", properties={"cloud": 7.0})
    assert d == Entry(str(folder.parent / "d.tif"), "d")


def test_geoparquet_tells_footprints_in_any_crs(tmp_path: Path) -> None:
    square = shapely.box(14, 45, 15, 46)
    times = np.array(["2024-06-01T10:30:00.5"], "datetime64[ns]")
    frame = geopandas.GeoDataFrame(
        {"path": ["a.tif"], "datetime": times, "bands": [{"red": 4, "nir": 8}]}, geometry=[square], crs="EPSG:4326"
    )
    frame.to_parquet(tmp_path / "lonlat.parquet")
    frame.to_crs("EPSG:32633").to_parquet(tmp_path / "utm.parquet")
    for name in ("lonlat.parquet", "utm.parquet"):
        (entry,) = read_catalog(str(tmp_path / name))
        assert shapely.hausdorff_distance(entry.footprint, square) < 1e-6
        assert entry.datetime == dt.datetime(2024, 6, 1, 10, 30, 0, 500_000, tzinfo=UTC)
        assert entry.bands == {"red": "4", "nir": "8"}


# STAC


def test_an_item_of_its_own_is_its_source(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", stac_item("a", **{"eo:cloud_cover": 7}))
    (entry,) = read_catalog(str(path))
    assert (entry.source, entry.name, entry.size, entry.item) == (str(path), "a", (120, 90), None)
    assert entry.datetime == dt.datetime(2024, 6, 1, 10, 30, tzinfo=UTC)
    assert entry.footprint.equals(shapely.box(14, 45, 15, 46))
    assert entry.properties["eo:cloud_cover"] == 7


def test_an_item_collection_holds_its_items_whose_rasters_are_found_from_anywhere(tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", digital_numbers(6, 5))
    items = [stac_item("a"), stac_item("b", href="https://example.org/b.tif")]
    a, b = read_catalog(str(write_json(tmp_path / "items.json", collection(*items))))
    assert a.source == b.source == ""
    assert b.item["assets"]["image"]["href"] == "https://example.org/b.tif"
    away = write_json(tmp_path / "elsewhere" / "a.json", a.item)
    wanted = read_product(str(write_json(tmp_path / "own.json", items[0])))
    assert read_product(str(away)).bands == wanted.bands
    assert look(a).size == (120, 90)
    assert pickle.loads(pickle.dumps(a)) == a


def test_members_may_come_in_any_order_and_features_at_any_length(tmp_path: Path) -> None:
    items = [stac_item(f"a{i}", note="x" * (i * 40_000)) for i in range(40)]
    document = {
        "numberMatched": 40,
        "features": items,
        "links": [{"rel": "next", "href": "x"}],
        "type": "FeatureCollection",
    }
    path = write_json(tmp_path / "items.json", document)
    assert names(read_catalog(str(path))) == [f"a{i}" for i in range(40)]


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        ),
        max_size=4,
    ),
    st.sampled_from([None, 2]),
    st.integers(1, 9),
)
def test_a_document_read_piece_by_piece_is_what_json_reads(
    tmp_path: Path, document: dict, indent: int | None, chunk: int
) -> None:
    path = tmp_path / "document.json"
    path.write_text(json.dumps(document, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landcover.catalog.documents._CHUNK", chunk)
        assert dict(read_members(str(path))) == document


@pytest.mark.parametrize("kind", ["Catalog", "Collection"])
def test_a_static_catalog_is_followed_to_its_items(tmp_path: Path, kind: str) -> None:
    root = write_json(
        tmp_path / "catalog.json",
        node(
            "root", ("child", "./north/collection.json"), ("item", "./a.json"), ("self", "https://example.org/c.json")
        ),
    )
    write_json(tmp_path / "a.json", stac_item("a"))
    links = [("root", "../catalog.json"), ("parent", "../catalog.json"), ("item", "b/b.json"), ("item", "./c.json")]
    write_json(tmp_path / "north" / "collection.json", node("north", *links, kind=kind))
    write_json(tmp_path / "north" / "b" / "b.json", stac_item("b"))
    write_json(tmp_path / "north" / "c.json", stac_item("c"))
    entries = read_catalog(str(root))
    assert {e.name: e.source for e in entries} == {
        "a": str(tmp_path / "a.json"),
        "b": str(tmp_path / "north" / "b" / "b.json"),
        "c": str(tmp_path / "north" / "c.json"),
    }


def test_a_child_that_two_catalogs_share_is_read_once(tmp_path: Path) -> None:
    root = write_json(tmp_path / "catalog.json", node("root", ("child", "x.json"), ("child", "y.json")))
    write_json(tmp_path / "x.json", node("x", ("child", "z.json")))
    write_json(tmp_path / "y.json", node("y", ("child", "./z.json"), ("item", "a.json")))
    write_json(tmp_path / "z.json", node("z", ("item", "a.json")))
    write_json(tmp_path / "a.json", stac_item("a"))
    assert names(read_catalog(str(root))) == ["a"]


def test_a_remote_catalog_and_the_pages_of_an_api() -> None:
    pages = {
        "/items/search": collection(stac_item("a")) | {"links": [{"rel": "next", "href": "/items/2"}]},
        "/items/2": collection(stac_item("b", href="https://example.org/b.tif")),
        "/catalog.json": node("root", ("item", "one/c.json")),
        "/one/c.json": stac_item("c"),
    }
    with serving(pages) as address:
        a, b = read_catalog(f"{address}/items/search")
        (c,) = read_catalog(f"{address}/catalog.json")
    assert a.item["assets"]["image"]["href"] == f"{address}/items/a.tif"
    assert b.name == "b"
    assert c.source == f"{address}/one/c.json"


def geoparquet_of_items(path: Path, *items: dict[str, Any], flat: bool = True) -> Path:
    rows = []
    for item in items:
        row = {k: item[k] for k in ("type", "stac_version", "id", "collection", "assets")}
        row["geometry"] = shapely.to_wkb(shapely.geometry.shape(item["geometry"]))
        row["bbox"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), item["bbox"], strict=True))
        row["links"] = []
        if flat:
            taken = dt.datetime.fromisoformat(item["properties"]["datetime"])
            row |= item["properties"] | {"datetime": taken}
        else:
            row |= {"assets": json.dumps(item["assets"]), "properties": item["properties"]}
        rows.append(row)
    table = pyarrow.Table.from_pylist(rows)
    if flat:
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
        table = table.replace_schema_metadata({"geo": json.dumps(geo)})
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("flat", [True, False])
def test_a_geoparquet_of_items_is_as_good_as_their_collection(tmp_path: Path, flat: bool) -> None:
    items = [stac_item("a", **{"eo:cloud_cover": 5.0, "proj:epsg": 32633}), stac_item("b", **{"eo:cloud_cover": 9.5})]
    items[1]["assets"]["more"] = {"href": "b2.tif", "type": "image/tiff", "roles": ["data"]}
    table = read_catalog(str(geoparquet_of_items(tmp_path / "items.parquet", *items, flat=flat)))
    wanted = read_catalog(str(write_json(tmp_path / "items.json", collection(*items))))
    for got, want in zip(table, wanted, strict=True):
        assert (got.name, got.source, got.datetime, got.size) == (want.name, "", want.datetime, want.size)
        assert got.footprint.equals(want.footprint)
        assert got.properties["eo:cloud_cover"] == want.properties["eo:cloud_cover"]
        assert got.item["assets"] == want.item["assets"]
        assert names(choose([got], where='"eo:cloud_cover" > 0')) == [want.name]


# Choosing


def entry(name: str, **facts: Any) -> Entry:
    return Entry(f"/{name}.tif", name, **facts)


def placed(name: str, *bounds: float) -> Entry:
    return entry(name, footprint=shapely.box(*bounds))


WEST, EAST, HOME = placed("west", 178, -10, 180, 0), placed("east", -180, -10, -178, 0), placed("home", 14, 45, 15, 46)


@pytest.mark.parametrize(
    ("bbox", "found"),
    [
        ((14.5, 45.5, 20, 50), ["home"]),
        ((15, 46, 16, 47), ["home"]),
        ((16, 46, 17, 47), []),
        ((179, -5, -179, 5), ["west", "east"]),
        ((-180, -90, 180, 90), ["west", "east", "home"]),
        ((170, -90, 14, 90), ["west", "east", "home"]),
    ],
)
def test_a_box_of_degrees_may_cross_the_antimeridian(bbox: tuple[float, ...], found: list[str]) -> None:
    assert names(choose([WEST, EAST, HOME], bbox=bbox)) == found


def test_an_area_of_interest_lies_in_any_crs(tmp_path: Path) -> None:
    area = geopandas.GeoDataFrame(geometry=[shapely.box(14.2, 45.2, 14.4, 45.4)], crs="EPSG:4326")
    area.to_crs("EPSG:3035").to_file(tmp_path / "area.gpkg")
    assert names(choose([WEST, HOME], aoi=tmp_path / "area.gpkg")) == ["home"]
    assert choose([WEST, HOME], aoi=tmp_path / "area.gpkg", bbox=(170, -20, 180, 10)) == []


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32760", "EPSG:3832"])
def test_an_area_of_interest_may_cross_the_antimeridian(tmp_path: Path, crs: str) -> None:
    """In degrees beyond 180, or in metres; it is no band around the earth."""
    far = placed("far", 20, -10, 30, 0)
    geopandas.GeoSeries([shapely.box(179, -6, 181, -5)], crs="EPSG:4326").to_crs(crs).to_file(tmp_path / "area.gpkg")
    assert names(choose([WEST, EAST, HOME, far], aoi=tmp_path / "area.gpkg")) == ["west", "east"]


def test_scenes_are_looked_at_only_where_a_place_is_asked_for(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", digital_numbers(6, 5))  # at 15° east, 45° north
    there, missing = Entry(str(path), "a"), Entry(str(tmp_path / "none.tif"), "none")
    assert choose([there, missing], where="name = 'none'") == [missing]
    assert names(choose([there], bbox=(14, 44, 16, 46))) == ["a"]
    assert choose([there], bbox=(0, 0, 1, 1)) == []
    assert choose([there, missing], bbox=(0, 0, 1, 1)) == [missing]
    assert names(choose([HOME, missing, there], bbox=(14, 44, 16, 46), limit=2)) == ["home", "none"]


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("2024-06-01", "2024-06-01T00:00:00", "2024-06-01T23:59:59.999999"),
        ("2024-02", "2024-02-01T00:00:00", "2024-02-29T23:59:59.999999"),
        ("2023", "2023-01-01T00:00:00", "2023-12-31T23:59:59.999999"),
        ("2023-12", "2023-12-01T00:00:00", "2023-12-31T23:59:59.999999"),
        ("2024-06-01T10:00:00Z", "2024-06-01T10:00:00", "2024-06-01T10:00:00"),
        ("2024-06-01T10:00:00+02:00/2024-06-02", "2024-06-01T08:00:00", "2024-06-02T23:59:59.999999"),
        ("../2023", "0001-01-01T00:00:00", "2023-12-31T23:59:59.999999"),
        ("2024-06-01/..", "2024-06-01T00:00:00", "9999-12-31T23:59:59.999999"),
        ("2024-06-01/", "2024-06-01T00:00:00", "9999-12-31T23:59:59.999999"),
        ("2024-06-01/9999-12-31", "2024-06-01T00:00:00", "9999-12-31T23:59:59.999999"),
        ("9999", "9999-01-01T00:00:00", "9999-12-31T23:59:59.999999"),
        ("20240601/20240831", "2024-06-01T00:00:00", "2024-08-31T23:59:59.999999"),
    ],
)
def test_time_spans(text: str, start: str, stop: str) -> None:
    assert [t.replace(tzinfo=None).isoformat() for t in parse_interval(text)] == [start, stop]


def test_a_time_span_includes_its_ends_and_not_what_has_no_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = ["2024-05-31T23:59:59.999999", "2024-06-01", "2024-06-30T23:59:59", "2024-07-01"]
    entries = [entry(t, datetime=dt.datetime.fromisoformat(t).replace(tzinfo=UTC)) for t in times]
    never = Entry(str(write_scene(tmp_path / "never.tif", digital_numbers(6, 5))), "never")
    assert names(choose([*entries, entry("gone"), never], datetime="2024-06-01/2024-06-30")) == times[1:3]
    assert caplog.messages == [
        "--datetime leaves out 1 scene that cannot be read as such: gone",
        "--datetime leaves out 1 scene of unknown time: never",
    ]
    assert names(choose(entries, datetime="2024-06-30T23:59:59Z")) == [times[2]]
    assert names(choose(entries, datetime="2024-06-01/2024-06-30T23:59:59Z")) == times[1:3]


def test_scenes_are_looked_at_for_the_time_that_their_catalog_does_not_tell(tmp_path: Path) -> None:
    """As a batch does, which records it; by a folder of Sentinel-2 scenes none was chosen."""
    names_ = [SAFE, SAFE.replace("20220701", "20220801"), "scene_20220701"]
    for name in names_:
        write_scene(tmp_path / f"{name}.tif", digital_numbers(6, 5))
    entries = read_catalog(str(tmp_path))
    assert names(choose(entries, datetime="2022-07")) == names_[:1]
    assert names(choose(entries, datetime="2022", bbox=(14, 44, 16, 46))) == names_[:2]
    told = [entry("never", datetime=dt.datetime(2022, 7, 1, tzinfo=UTC))]
    assert choose(told, datetime="2022-07") == told, "and not where it does"


CLOUDY = [
    entry("a", sensor="hls", properties={"eo:cloud_cover": 5, "Orbit": 1, "tags": ["x"]}),
    entry("b", sensor="naip", properties={"eo:cloud_cover": 50.5, "i": 7, "note": "it's", "big": 10**400}),
    entry("c", datetime=dt.datetime(2024, 6, 1, tzinfo=UTC), properties={"ok": True, 'odd"name': 1}),
]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ('"eo:cloud_cover" < 20', "a"),
        ('"eo:cloud_cover" >= 5', "ab"),
        ('"eo:cloud_cover" is null', "c"),
        ("[eo:cloud_cover] < 20 or ok", "ac"),
        ("sensor in ('hls', 'naip') and not orbit", ""),
        ("ORBIT = 1", "a"),
        ("note = 'it''s'", "b"),
        ("note like '%\"quoted\"%' or name = 'a' -- all", "a"),
        ("datetime < '2024-07'", "c"),
        ("source like '/%'", "abc"),
        ('"odd""name" = 1', "c"),
        ("tags = '[\"x\"]'", "a"),
        ("big is not null", "b"),
        ("I = 7 or name like '%a'", "ab"),
        ("exists (select 1)", "abc"),
        ("1) union select 0 where (1", "abc"),
    ],
)
def test_a_condition_is_sql_over_all_that_is_said(where: str, found: str) -> None:
    assert "".join(names(choose(CLOUDY, where=where))) == found


def test_a_limit_takes_the_first_of_those_that_satisfy_the_rest() -> None:
    assert names(choose(CLOUDY, where="name > 'a'", limit=1)) == ["b"]
    assert choose(CLOUDY) == CLOUDY
    assert choose([], where="name = 'a'", bbox=(0, 0, 1, 1)) == []


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"where": "cloudcover < 3"}, "no such column: cloudcover"),
        ({"where": '"eo:cloud" < 3'}, "\"eo:cloud\", which no scene has: did you mean 'eo:cloud_cover'"),
        ({"where": "eo:cloud_cover < 3"}, "names with signs in them in double quotes"),
        ({"where": "name ="}, "known are: .*eo:cloud_cover"),
        ({"where": "1); drop table scenes; --"}, "cannot be evaluated"),
        ({"where": "load_extension('x')"}, "cannot be evaluated"),
        (
            {"where": "(with recursive r as (select 1 union all select 1 from r) select count(*) from r)"},
            "not authorized",
        ),
        ({"where": "(pragma_table_info('scenes'))"}, "cannot be evaluated"),
        ({"where": "name = '\0'"}, "cannot be evaluated"),
        ({"datetime": "June"}, "'June' is no time span"),
        ({"datetime": "2024-13-01"}, "no time span"),
        ({"datetime": "2024-W01"}, "no time span"),
        ({"datetime": "2024-06-02/2024-06-01"}, "ends before it begins"),
        ({"datetime": "0001-01-01T00:00:00+23:00"}, "no time span"),
        ({"bbox": (0, 5, 1, 4)}, "no box in longitude and latitude"),
        ({"bbox": (0, 0, 500_000, 10)}, "no box in longitude and latitude"),
        ({"bbox": (441_525, 0, 443_525, 4_176_345)}, "--bbox 441525,0,443525,4176345 is no box"),
        ({"bbox": (0, float("nan"), 1, 1)}, "no box"),
        ({"limit": 0}, "at least 1"),
        ({"aoi": "none.gpkg"}, "cannot be read"),
    ],
)
def test_conditions_that_cannot_be_read(how: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        choose(CLOUDY, **how)


# Looking


def test_headers_tell_size_footprint_and_time(tmp_path: Path) -> None:
    folder = tmp_path / HLS
    folder.mkdir()
    for band in ("B04", "B8A"):
        write_scene(folder / f"{HLS}.{band}.tif", digital_numbers(12, 20, 1), names=())
    seen = look(Entry(str(folder), "a"))
    assert seen.size == (12, 20)
    assert seen.datetime == dt.datetime(2023, 5, 2, 10, 10, 10, tzinfo=UTC)
    west, _, east, north = seen.footprint.bounds
    assert (west, north) == pytest.approx((15, 45.1537), abs=1e-3)
    assert 0 < east - west < 0.01


def test_what_the_catalog_says_is_kept(tmp_path: Path) -> None:
    path = write_scene(tmp_path / f"{SAFE}.tif", digital_numbers(6, 5))
    known = Entry(str(path), "a", size=(1, 2), datetime=dt.datetime(2000, 1, 1, tzinfo=UTC))
    assert look(known).size == (1, 2)
    assert look(known).datetime.year == 2000
    assert look(Entry(str(path), "a")).datetime == dt.datetime(2022, 7, 1, 10, 10, 41, tzinfo=UTC)


def test_a_scene_without_a_place_has_no_footprint_and_where_one_is_asked_for_it_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_scene(tmp_path / "a.tif", digital_numbers(6, 5), crs=None)
    assert look(Entry(str(path), "a")).footprint is None
    assert choose([Entry(str(path), "a")], bbox=(0, 0, 1, 1)) == []
    assert caplog.messages == ["--bbox leaves out 1 scene of unknown place: a"]


def test_an_item_held_by_the_catalog_is_looked_at(tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", digital_numbers(6, 5))
    held = stac_item("a", href=str(tmp_path / "a.tif"))
    assert look(Entry("", "a", held=Held.of(json.dumps(held), ""))).size == (6, 5)


# Building and listing, by the command line


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of three scenes, each of another kind, and of two that cannot be read."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    write_scene(folder / "T33UUP_20220701T101041.tif", digital_numbers(40, 30, seed=1))
    write_scene(folder / "nowhere.tif", digital_numbers(20, 20, seed=2), crs=None)
    landsat = folder / "2020" / LANDSAT
    landsat.mkdir(parents=True)
    for band in ("B4", "B5"):
        write_scene(landsat / f"{LANDSAT}_SR_{band}.TIF", digital_numbers(30, 40, 1), names=(), scaled=False)
    (folder / "broken.tif").write_text("no raster")
    (folder / "empty.tif").touch()
    return folder


FOUND = [f"2020/{LANDSAT}", "T33UUP_20220701T101041", "nowhere"]


@pytest.mark.parametrize("name", ["scenes.parquet", "catalog.json"])
def test_a_catalog_of_a_folder_is_read_back(
    tmp_path: Path, scenes: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / name
    out.parent.mkdir()
    outcome = landcover(capsys, "catalog", "build", scenes, "--out", out)
    assert outcome.code == 0, outcome.err
    assert f"Wrote {out}: 3 scenes; 2 left out" in outcome.err
    assert outcome.err.count("Left out: ") == 2
    entries = read_catalog(str(out))
    assert names(entries) == FOUND
    assert [e.size for e in entries] == [(30, 40), (40, 30), (20, 20)]
    assert [e.datetime and e.datetime.year for e in entries] == [2020, 2022, None]
    assert names(choose(entries, bbox=(14.9, 45, 15.1, 45.2), where="gsd < 11")) == FOUND[:2]
    sources = [scenes / FOUND[0], scenes / f"{FOUND[1]}.tif", scenes / "nowhere.tif"]
    for entry, source in zip(entries, sources, strict=True):
        wanted = look(Entry(str(source), entry.name))
        assert look(entry).size == wanted.size
        assert (entry.footprint is None) == (wanted.footprint is None)
    assert "exists already" in refused(capsys, tmp_path, "catalog", "build", scenes, "--out", out)
    assert landcover(capsys, "catalog", "build", scenes, "--out", out, "--overwrite").code == 0


def test_a_built_table_is_geoparquet(tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    landcover(capsys, "catalog", "build", scenes, "--out", tmp_path / "scenes.parquet")
    frame = geopandas.read_parquet(tmp_path / "scenes.parquet")
    assert frame.crs == "OGC:CRS84"
    assert list(frame["path"]) == [f"scenes/2020/{LANDSAT}", "scenes/T33UUP_20220701T101041.tif", "scenes/nowhere.tif"]
    assert [list(b) for b in frame["band_names"]] == [["red", "nir"]] * 3
    assert list(frame["crs"][:2]) == ["EPSG:32633"] * 2


def test_predict_maps_the_items_of_a_built_catalog_as_it_maps_the_scenes(
    tmp_path: Path, scenes: Path, pointwise: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    landcover(capsys, "catalog", "build", scenes, "--out", tmp_path / "catalog.json")
    how = ("--model", pointwise.folder, "--allow-untrained", "--engine", "torch", "--allow-no-crs")
    sources = (scenes / FOUND[0], scenes / f"{FOUND[1]}.tif", scenes / "nowhere.tif")
    for name, source in zip(FOUND, sources, strict=True):
        for what, scene in (("item", tmp_path / "catalog-items" / f"{name}.json"), ("scene", source)):
            outcome = landcover(capsys, "predict", scene, "--out", tmp_path / f"{what}.tif", "-f", *how)
            assert outcome.code == 0, outcome.err
        assert np.array_equal(read_map(tmp_path / "item.tif"), read_map(tmp_path / "scene.tif"))


def test_the_items_of_scenes_with_odd_names_lead_to_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scenes").mkdir()
    odd = ["-dash", "a b", "c%20d", "e#f", "g?h=1", "k;l", "[i]", "j'k\"", "ü"]
    for name in odd:
        write_scene(tmp_path / "scenes" / f"{name}.tif", digital_numbers(6, 5))
    assert landcover(capsys, "catalog", "build", tmp_path / "scenes", "--out", tmp_path / "c.json").code == 0
    entries = read_catalog(str(tmp_path / "c.json"))
    assert names(entries) == [re.sub("[#?;%]", "_", name) for name in sorted(odd)]
    for entry, name in zip(entries, sorted(odd), strict=True):
        (path,) = {band.path for band in read_product(entry.source).bands}
        assert Path(path).resolve() == tmp_path / "scenes" / f"{name}.tif"
    others = pystac.Catalog.from_file(str(tmp_path / "c.json")).get_items()
    assert [item.id for item in others] == names(entries), "it takes what follows one of these signs for no name"


def test_catalogs_of_one_folder_keep_their_items_apart(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_scene(other / "nowhere.tif", digital_numbers(20, 20, seed=3))
    write_scene(other / "more.tif", digital_numbers(20, 20, seed=4))
    for folder, name in ((scenes, "a"), (other, "b")):
        assert landcover(capsys, "catalog", "build", folder, "--out", tmp_path / f"{name}.json").code == 0
    for name, folder in (("a", scenes), ("b", other)):
        bands = [
            band for entry in read_catalog(str(tmp_path / f"{name}.json")) for band in read_product(entry.source).bands
        ]
        assert all(Path(band.path).resolve().is_relative_to(folder) for band in bands)
    (other / "more.tif").unlink()
    assert landcover(capsys, "catalog", "build", other, "--out", tmp_path / "b.json", "-f").code == 0
    assert [p.name for p in (tmp_path / "b-items").iterdir()] == ["nowhere.json"]


def test_the_resolution_of_a_catalog_is_that_of_the_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """UTM pixels of 10 m cover 10.004 on the ground; those of Web Mercator at 45° north cover 7.1."""
    for name, crs in (("utm", "EPSG:32633"), ("web", "EPSG:3857")):
        (tmp_path / name).mkdir()
        place = UTM if name == "utm" else Affine(10, 0, 1_700_000, 0, -10, 5_621_521)
        write_scene(tmp_path / name / "a.tif", digital_numbers(20, 20), crs=crs, transform=place)
        landcover(capsys, "catalog", "build", tmp_path / name, "--out", tmp_path / f"{name}.parquet")
    of_utm, of_web = (geopandas.read_parquet(tmp_path / f"{name}.parquet").gsd[0] for name in ("utm", "web"))
    assert of_utm == 10
    assert 7.0 < of_web < 7.2


def test_pystac_reads_a_built_catalog(tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    landcover(capsys, "catalog", "build", scenes, "--out", tmp_path / "catalog.json")
    found = pystac.Catalog.from_file(str(tmp_path / "catalog.json")).get_items(recursive=True)
    items = {item.id: item for item in found}
    assert sorted(items) == FOUND
    assert items[FOUND[0]].ext.proj.code == "EPSG:32633"
    assert "time of cataloguing" in items["nowhere"].properties["landcover:datetime_is"]
    (asset,) = items[FOUND[1]].assets.values()
    assert Path(asset.get_absolute_href()).samefile(scenes / f"{FOUND[1]}.tif")


def test_a_folder_of_nothing_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "broken.tif").write_text("no raster")
    build = ("catalog", "build", tmp_path / "scenes", "--out")
    assert "no scene could be read" in refused(capsys, tmp_path, *build, tmp_path / "scenes.parquet")
    assert "let it end in .parquet or .json" in refused(capsys, tmp_path, *build, tmp_path / "scenes.xlsx")
    assert "does not exist; make it first" in refused(capsys, tmp_path, *build, tmp_path / "none" / "scenes.json")
    (tmp_path / "scenes.csv").write_text("path,sensor\nscenes/broken.tif,naip\n")
    build = ("catalog", "build", tmp_path / "scenes.csv", "--out")
    assert "is a file; give a folder" in refused(capsys, tmp_path, *build, tmp_path / "scenes.parquet")


def test_a_table_may_hold_dates_that_python_does_not_know(tmp_path: Path) -> None:
    far = pyarrow.array([2**61, 0], pyarrow.timestamp("us"))
    pq.write_table(pyarrow.table({"path": ["a.tif", "b.tif"], "expires": far}), tmp_path / "scenes.parquet")
    found = read_catalog(str(tmp_path / "scenes.parquet"))
    assert [e.properties.get("expires") for e in found] == [None, "1970-01-01T00:00:00Z"]


def test_the_list_of_what_a_batch_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [stac_item(name, **{"eo:cloud_cover": i * 10}) for i, name in enumerate("abc")]
    path = write_json(tmp_path / "items.json", collection(*items))
    how = ("--bbox", "14,45,15,46", "--datetime", "2024", "--where", '"eo:cloud_cover" > 5', "--limit", "1")
    outcome = landcover(capsys, "catalog", "list", path, *how)
    assert outcome.out.splitlines()[2].split() == [
        "b",
        "2024-06-01T10:30:00Z",
        "120",
        "×",
        "90",
        "in",
        "the",
        "catalog",
    ]
    assert "1 scene of 3" in outcome.err
    (told,) = json.loads(landcover(capsys, "catalog", "list", path, *how, "--json").out)
    assert (told["name"], told["bbox"], told["size"]) == ("b", [14, 45, 15, 46], [120, 90])
    assert told["properties"]["eo:cloud_cover"] == 10
    assert landcover(capsys, "catalog", "list", path, "--bbox", "170,0,-170,10").err == "0 scenes of 3\n"
    assert "not four numbers" in refused(capsys, tmp_path, "catalog", "list", path, "--bbox", "1,2,3")
    assert "not four numbers" in refused(capsys, tmp_path, "catalog", "list", path, "--bbox", "")


def test_bands_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Bytes, as some programs write texts to Parquet; their quotes would be part of the names."""
    pq.write_table(pyarrow.table({"path": ["a.tif"], "bands": [b"red=4,nir=8"]}), tmp_path / "a.parquet")
    with pytest.raises(CatalogError, match=r"has bands .*red=4,nir=8.*; write for example"):
        read_catalog(str(tmp_path / "a.parquet"))
