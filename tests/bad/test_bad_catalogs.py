"""Catalogs that cannot be used: each is one sentence that names the culprits, and nothing is opened that may not be."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landcover.catalog import choose, read_catalog
from landcover.catalog.tables import COLUMNS
from landcover.errors import CatalogError, LandcoverError
from tests.catalogs import collection, node, serving, stac_item, write_json


def refused(source: Path | str, sentence: str) -> str:
    with pytest.raises(CatalogError, match=sentence) as caught:
        read_catalog(str(source))
    assert_sentence(str(caught.value))
    return str(caught.value)


def assert_sentence(said: str) -> None:
    assert "\n" not in said
    assert len(said) < 5000


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "none", "does not exist")
    refused(tmp_path / "none.csv", "does not exist")
    refused(tmp_path, "holds no scene")
    refused("x" * 5000, "cannot be read: File name too long")
    refused(f"{tmp_path}/*.tif", "holds no scene")
    refused(write_json(tmp_path / "items.json", collection()), "holds no scene")
    refused(write_json(tmp_path / "catalog.json", node("root")), "holds no scene")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read as CSV|no column 'path'"),
        ("paths,name\na.tif,a\n", "no column 'path', .* did you mean 'paths'"),
        ("path,path\na.tif,b.tif\n", "column 'path' twice"),
        ("path\n\n", "holds no scene"),
        ("path,name\n,a\n", "line 2 has no path"),
        ("path,name\n\na.tif,a\n\n,b\n", "line 5 has no path"),
        ('path,title\r\na.tif,"one\r\n\r\ntwo"\r\n,"three\r\nfour"\r\n', "line 5 has no path"),
        ("path,scale\na.tif,1e-4\nb.tif,many\n", "line 3 has scale 'many', which is not a finite number"),
        ("path,offset\na.tif,1e999\n", "not a finite number"),
        ("path,scale\na.tif,nan\n", "not a finite number"),
        ("path,height\na.tif,-3\n", "not a number of pixels"),
        ("path,width\na.tif,2.5\n", "not a number of pixels"),
        ("path,height\na.tif,1e300\n", "not a number of pixels"),
        ('path,bands\na.tif,"red=4,nir"\n', "line 2 has bands 'red=4,nir'; write for example red=4;nir=8"),
        ("path,bands\na.tif,red=4;red=5\n", "each name once"),
        ("path,bands\na.tif,4\n", "write for example"),
        ("path,bands,name\na.tif,red=4,nir=8,a\n", "4 values for 3 columns in line 2, that of 'a.tif'; put a value"),
        ("path,datetime\na.tif,yesterday\n", "datetime 'yesterday'"),
        ("path,datetime\na.tif,2024-02-30\n", "datetime '2024-02-30'"),
    ],
)
def test_tables_that_say_what_cannot_be(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "scenes.csv"
    path.write_text(text)
    refused(path, sentence)


def test_tables_that_are_none(tmp_path: Path) -> None:
    for name, content in {
        "a.csv": b"path\n\xff\xfe.tif\n",
        "b.csv": b'path\n"' + b"x" * 200_000,
        "c.parquet": b"PAR1",
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "cannot be read as")
    refused("https://example.org/scenes.csv?key=1", "download it")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_folders_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    refused(tmp_path, "closed cannot be read: Permission denied")
    refused(f"{tmp_path}/*", "closed cannot be read: Permission denied")


def test_many_culprits_are_counted_and_the_first_named(tmp_path: Path) -> None:
    path = tmp_path / "scenes.csv"
    path.write_text("path,scale\n" + "".join(f"{i}.tif,x\n" for i in range(5000)))
    said = refused(path, "5,000 scenes that cannot be used: line 2 .*; and 4,990 more")
    assert said.count("line ") == 10


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("../a", "leads out of the output folder"),
        ("x/../../a", "leads out of the output folder"),
        ("/etc/a", "is absolute"),
        ("C:/a", "is absolute"),
        ("c:a", "is absolute"),
        ("a\\..\\b", "a sign that names cannot hold"),
        ("a\x07", "a sign that names cannot hold"),
        ("a\u202eb", "a sign that names cannot hold"),
        (".a", "begins with a dot"),
        ("x/.git/a", "begins with a dot"),
        ("x//a", "a part that is empty"),
        ("a" * 300, "longer than 200 bytes"),
        ("x/nul", "keeps for itself"),
        ("COM1.a", "keeps for itself"),
        ("a.", "keeps for itself"),
    ],
)
def test_names_that_escape(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "scenes.csv").write_text(f'path,name\na.tif,"{name}"\n')
    refused(tmp_path / "scenes.csv", sentence)
    refused(write_json(tmp_path / "items.json", collection(stac_item(name))), sentence)


def test_names_of_two_scenes(tmp_path: Path) -> None:
    (tmp_path / "scenes.csv").write_text("path,name\na.tif,x\nb.tif,x\nc.tif,\n/d/c.tif,\n")
    said = refused(tmp_path / "scenes.csv", r"2 names to more than one scene: x of \S*a\.tif and \S*b\.tif; c of")
    assert "columns path and name" in said
    for name in ("s.tif", "s.jp2"):
        (tmp_path / name).touch()
    refused(tmp_path, r"1 name to more than one scene: s of \S*s\.jp2 and \S*s\.tif")
    refused(
        write_json(tmp_path / "items.json", collection(stac_item("a"), stac_item("A"))),
        "a of the item a and the item A .*take capitals and small letters for the same",
    )
    refused(
        write_json(tmp_path / "items.json", collection(stac_item("a"), stac_item("a"))),
        "a of the item a and the item a",
    )


# JSON


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not valid JSON at character 0: '{' is missing"),
        ("[]", "'{' is missing"),
        ('{"type": "FeatureCollection", "features": [{"a": 1}', "not valid JSON"),
        ('{"features": [1 2]}', "']' is missing"),
        ('{"features": []} {}', "something follows its end"),
        ('{"features": [' + "[" * 100_000, "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"a": "\ud800', "not valid JSON|not encoded"),
        (
            '{"type": "FeatureCollection", "features": [3, null, [], {}]}',
            "4 scenes that cannot be used: item 1 .* 'int'",
        ),
        ('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}', "not a STAC Item"),
        ('{"type": "Topology"}', "not a STAC Item, ItemCollection, Catalog or Collection .*'Topology'"),
        ('{"type": {}, "links": 3}', "not a STAC Item, ItemCollection"),
        (
            '{"type": "Catalog", "stac_version": "1.0.0", "id": "x", "description": "", "links": [{"rel": "item"}]}',
            "not a",
        ),
        ('{"type": "Catalog", "stac_version": "1.0.0", "id": "x", "description": "", "links": "none"}', "not a"),
    ],
)
def test_documents_that_are_no_catalog(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "items.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    refused(path, sentence)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_csv_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "scenes.csv"
    path.write_text("path\nMüller.tif\n", encoding=encoding)
    refused(path, "it is not in UTF-8; save it as 'CSV UTF-8'")


HREFS = ["file:///etc/passwd", "/vsimem/a.tif", "/vsicurl_streaming/x", "<VRTDataset/>", "ab:c.tif", "a.tif\0b"]


@pytest.mark.parametrize("href", HREFS)
def test_assets_that_lead_where_nothing_is_opened(tmp_path: Path, href: str) -> None:
    path = write_json(tmp_path / "items.json", collection(stac_item("a"), stac_item("b", href=href)))
    refused(path, "1 scene that cannot be used: .*is not opened")
    refused(write_json(tmp_path / "a.json", stac_item("b", href=href)), "is not opened")


@pytest.mark.parametrize(
    "href", [*HREFS, "/vsizip/a.zip/a.tif", "C:/a.tif", " file:///etc/a.tif", "GTIFF_DIR:1:/etc/a.tif", "//[x/a.tif"]
)
def test_a_remote_catalog_does_not_lead_to_this_machine(href: str) -> None:
    pages = {"/items.json": collection(stac_item("a", href=href)), "/catalog.json": node("root", ("item", href))}
    with serving(pages) as address:
        refused_or_remote(f"{address}/items.json", address)
        refused_or_remote(f"{address}/catalog.json", address)


def refused_or_remote(source: str, address: str) -> None:
    try:
        entries = read_catalog(source)
    except CatalogError:
        return
    assert all(e.item["assets"]["image"]["href"].startswith(address) for e in entries)


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": 3},
        {"id": ["a"]},
        {"assets": []},
        {"assets": {"a": 3}},
        {"assets": {"a": {"href": 3}}},
        {"properties": 3},
        {"stac_version": None, "type": "feature"},
    ],
)
def test_items_of_wrong_types(tmp_path: Path, change: dict[str, Any]) -> None:
    refused(write_json(tmp_path / "items.json", collection(stac_item("a") | change)), "1 scene that cannot be used: ")


@pytest.mark.parametrize(
    "change",
    [
        {"geometry": 3},
        {"geometry": {"type": "Polygon", "coordinates": "none"}},
        {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}},
        {"geometry": {"type": "Polygon", "coordinates": [[[1e308, 0], [1e309, 1], [0, 1], [1e308, 0]]]}},
        {"geometry": {"type": "Point", "coordinates": [500_000, 5_000_000]}},
        {"geometry": {"type": "GeometryCollection", "geometries": [{"type": "x"}]}},
        {"properties": {"datetime": 3}},
        {"properties": {"datetime": "soon", "start_datetime": ["2024"]}},
        {"properties": None},
        {"properties": {"proj:shape": [10**400, 1]}},
        {"properties": {"proj:shape": "big"}},
        {"properties": {"proj:shape": [True, 5]}},
        {"collection": {"a": 1}},
        {"links": 3},
        {"bbox": "x"},
    ],
)
def test_what_only_selects_may_be_missing_or_wrong(tmp_path: Path, change: dict[str, Any]) -> None:
    item = stac_item("a") | change
    del item["assets"]["image"]["proj:shape"]
    (entry,) = read_catalog(str(write_json(tmp_path / "items.json", collection(item))))
    assert entry.size is None
    assert entry.footprint is None or "geometry" not in change
    assert entry.datetime is None or "properties" not in change


# Links


def test_catalogs_that_link_in_a_circle(tmp_path: Path) -> None:
    refused(write_json(tmp_path / "a.json", node("a", ("child", "./a.json"))), "in which it lies itself")
    write_json(tmp_path / "b.json", node("b", ("child", "x/../c.json")))
    write_json(tmp_path / "c.json", node("c", ("child", "b.json")))
    refused(tmp_path / "b.json", r"c\.json links to \S*b\.json, in which it lies itself")


@pytest.mark.parametrize(
    "extent", [{"spatial": {"bbox": []}}, {"temporal": {"interval": []}}, {"temporal": {"interval": [[]]}}]
)
def test_a_collection_whose_extent_is_damaged(tmp_path: Path, extent: dict[str, Any]) -> None:
    whole = node("c", kind="Collection")
    write_json(tmp_path / "c.json", whole | {"extent": whole["extent"] | extent})
    refused(tmp_path / "c.json", "c.json")


def test_catalogs_without_end(tmp_path: Path) -> None:
    for i in range(60):
        write_json(tmp_path / f"{i}.json", node(str(i), ("child", f"{i + 1}.json")))
    refused(tmp_path / "0.json", "catalogs deep")


def test_links_to_what_is_not_there_or_no_item(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", stac_item("a"))
    links = [("item", "a.json"), ("item", "none.json"), ("item", "catalog.json")]
    said = refused(write_json(tmp_path / "catalog.json", node("c", *links)), "2 scenes that cannot be used")
    assert "none.json does not exist" in said
    assert "catalog.json is not a STAC Item but a STAC Catalog" in said
    refused(write_json(tmp_path / "d.json", node("d", ("child", "none.json"))), "none.json does not exist")
    refused(write_json(tmp_path / "e.json", node("e", ("child", "file:///etc/passwd"))), "is not opened")


def test_servers_that_do_not_answer() -> None:
    with serving({"/items/1": collection() | {"links": [{"rel": "next", "href": "/items/1"}]}}) as address:
        refused(f"{address}/none.json", "cannot be fetched: HTTP Error 404")
        refused(f"{address}/items/1", "again")
    refused(f"{address}/catalog.json", "cannot be fetched")
    refused("http://[/catalog.json", "cannot be fetched")
    refused("s3://bucket/catalog.json", "give a local file or an http")


def test_pages_that_have_to_be_posted() -> None:
    page = collection(stac_item("a")) | {"links": [{"rel": "next", "href": "/items/2", "method": "POST"}]}
    with serving({"/items/1": page}) as address:
        refused(f"{address}/items/1", "cannot be fetched by address; save them")


def test_a_geoparquet_of_items_is_as_strict(tmp_path: Path) -> None:
    asset = json.dumps({"image": {"href": "file:///etc/a.tif", "type": "image/tiff", "roles": ["data"]}})
    table = pyarrow.table({"id": ["a", "b"], "assets": [asset, "{not json"], "geometry": [b"\1nothing", None]})
    pq.write_table(table, tmp_path / "items.parquet")
    refused(
        tmp_path / "items.parquet", r"2 scenes that cannot be used: .*is not opened.*; row 2 \(b\) is not a STAC Item"
    )
    pq.write_table(table.replace_schema_metadata({"geo": "{}"}), tmp_path / "items.parquet")
    refused(tmp_path / "items.parquet", "2 scenes")
    pq.write_table(table.replace_schema_metadata({"geo": "[3"}), tmp_path / "items.parquet")
    refused(tmp_path / "items.parquet", "CRS of its geometry that cannot be read")


# Whatever stands where something else belongs

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(HREFS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(document: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document, as the keys that lead to it."""
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [p for k, v in inside for p in ((*above, k), *places(v, (*above, k)))]


@pytest.mark.parametrize("name", ["items.json", "item.json", "catalog.json"])
@settings(max_examples=60)
@given(data=st.data(), value=ANYTHING)
def test_json_with_anything_anywhere_is_read_or_refused(
    tmp_path: Path, name: str, data: st.DataObject, value: Any
) -> None:
    write_json(tmp_path / "a.json", stac_item("a"))
    document = {
        "items.json": collection(stac_item("b")),
        "item.json": stac_item("b"),
        "catalog.json": node("c", ("item", "a.json")),
    }[name]
    document = json.loads(json.dumps(document))
    *above, last = data.draw(st.sampled_from(places(document)))
    inside: Any = document
    for key in above:
        inside = inside[key]
    inside[last] = value
    try:
        entries = read_catalog(str(write_json(tmp_path / name, document)))
        choose(entries, where="name is not null", datetime="2024", bbox=(-180, -90, 180, 90))
        assert all(e.item is None or e.item["assets"] is not None for e in entries)
    except LandcoverError as e:
        assert_sentence(str(e))


@settings(max_examples=60)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from([*COLUMNS, "id", "assets", "geometry", "x"]), ANYTHING), max_size=3)
)
def test_tables_with_anything_anywhere_are_read_or_refused(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(k for row in rows for k in row)}
    try:
        pq.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        return  # no table can hold it
    try:
        choose(read_catalog(str(tmp_path / "t.parquet")), where="name is not null", datetime="2024")
    except LandcoverError as e:
        assert_sentence(str(e))
