"""A page about a map: what it shows, that it stands alone, and that no name in it is taken for markup."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image

from landcover.assessment import assess
from landcover.report import report
from landcover.sampling import sample
from landcover.specs import LandClass, Legend
from tests.commands import landcover as run
from tests.commands import refused
from tests.maps import UTM, blotches, labelled, mistaken, write_map
from tests.scenes import digital_numbers, write_scene

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 5, (40, 60)).repeat(3, 0).repeat(3, 1).astype(np.uint8)


def test_a_page_shows_areas_accuracy_and_origin(
    tmp_path: Path, ids: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_map(tmp_path / "map.tif", ids)
    out, points = tmp_path / "map.html", tmp_path / "points.gpkg"
    assert run(capsys, "report", path, "--out", out).code == 0
    page = Page(out)
    picture = next(a["src"] for tag, a in page.elements if tag == "img")
    assert picture is not None
    with Image.open(io.BytesIO(base64.b64decode(picture.removeprefix("data:image/png;base64,")))) as image:
        assert image.format == "PNG"
        assert max(image.size) > 200
    assert f"{np.count_nonzero(ids == 2):,}" in page.text
    assert "Not assessed" in page.text
    assert "EPSG:32633" in page.text
    sample(path, points, count=200)
    table = geopandas.read_file(points)
    table["reference"] = table["stratum"]
    table.to_file(points, layer="landcover")
    assert run(capsys, "report", path, "--out", out, "-f", "--reference", points).code == 0
    assert "Overall accuracy 100.0 ± 0.0 %, from 200 points, with intervals of 95 % confidence." in Page(out).text
    addresses = [v for _, a in Page(out).elements for k, v in a.items() if k in ("src", "href", "srcset")]
    assert all(str(v).startswith("data:") for v in addresses), "it needs no other file"


def test_names_are_no_markup(tmp_path: Path, ids: np.ndarray) -> None:
    legend = Legend(
        name="evil", classes=tuple(LandClass(id=k, name=f"{EVIL}{k}", color="#112233") for k in range(1, 5))
    )
    path = write_map(tmp_path / "<b>map&.tif", ids, legend=legend)
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(
            LANDCOVER_SCENE=EVIL,
            LANDCOVER_OPTIONS="[" * 5000,
            LANDCOVER_BANDS=json.dumps({EVIL: {"a": 1}}),
            LANDCOVER_ODD='"\\ud800"',
            LANDCOVER_SIGN='"\\u0000\\u001b"',
        )
    zones = tmp_path / "zones.gpkg"
    square = shapely.box(500_000, 4_999_000, 501_000, 5_000_000)
    geopandas.GeoDataFrame({"name": [EVIL]}, geometry=[square], crs=UTM).to_file(zones)
    points = tmp_path / "points.gpkg"
    sample(path, points, count=200)
    table = geopandas.read_file(points)
    table["reference"] = table["stratum"]
    table.to_file(points, layer="landcover")
    report(path, tmp_path / "map.html", zones=zones, reference=points)
    page = Page(tmp_path / "map.html")
    assert not {"script", "b"} & {tag for tag, _ in page.elements}
    assert page.text.count(EVIL) > 10
    assert "\x1b" not in page.text


def test_no_page_is_better_than_a_wrong_one(
    tmp_path: Path, ids: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_map(tmp_path / "map.tif", ids)
    assert ".html" in refused(capsys, tmp_path, "report", path, "-o", tmp_path / "map.pdf")
    assert "--reference" in refused(capsys, tmp_path, "report", path, "-o", tmp_path / "m.html", "--column", "a")
    missing = ("report", path, "-o", tmp_path / "m.html", "-r", tmp_path / "none.gpkg")
    assert "does not exist" in refused(capsys, tmp_path, *missing)
    (tmp_path / "old.html").write_text("old")
    assert "--overwrite" in refused(capsys, tmp_path, "report", path, "-o", tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == "old"
    without = ("report", path, "-o", tmp_path / "m.html", "--scene", tmp_path / "none.tif")
    assert "none.tif" in refused(capsys, tmp_path, *without)
    far = tmp_path / "far.tif"
    write_scene(far, digital_numbers(40, 60, bands=6), names=(), transform=Affine(10, 0, 700_000, 0, -10, 5_000_000))
    assert "does not touch" in refused(capsys, tmp_path, "report", path, "-o", tmp_path / "m.html", "--scene", far)


def test_a_page_names_zones_without_a_pixel(tmp_path: Path) -> None:
    path = write_map(tmp_path / "map.tif", blotches(5))
    squares = [shapely.box(500_000, 4_999_400, 500_600, 5_000_000), shapely.box(0, 0, 9, 9)]
    geopandas.GeoDataFrame({"name": ["here", "<far>"]}, geometry=squares, crs=UTM).to_file(tmp_path / "zones.gpkg")
    report(path, tmp_path / "map.html", zones=tmp_path / "zones.gpkg")
    assert "No pixel of the map has its centre in <far>: such a zone" in Page(tmp_path / "map.html").text
    report(path, tmp_path / "plain.html")
    assert "has its centre in" not in Page(tmp_path / "plain.html").text


def test_a_page_says_what_assess_and_stats_say(tmp_path: Path) -> None:
    """Of a map that carries no legend, and points whose class is in a column of its own."""
    truth = blotches(5)
    path = write_map(tmp_path / "map.tif", mistaken(truth, 6), tagged=False)
    sample(path, tmp_path / "points.gpkg", count=400, legend="default")
    table = labelled(tmp_path / "points.gpkg", truth).rename(columns={"reference": "real"})
    table.assign(reference="other").to_file(tmp_path / "points.gpkg", layer="landcover")
    found = assess(path, tmp_path / "points.gpkg", column="real", legend="default")
    squares = [shapely.box(500_000, 4_999_400, 500_600, 5_000_000), shapely.box(500_600, 4_999_400, 501_200, 5_000_000)]
    zones = geopandas.GeoDataFrame({"name": ["a", "b"], "parish": ["Upper", "Lower"]}, geometry=squares, crs=UTM)
    zones.to_file(tmp_path / "zones.gpkg")
    report(
        path,
        tmp_path / "map.html",
        legend="default",
        reference=tmp_path / "points.gpkg",
        column="real",
        zones=tmp_path / "zones.gpkg",
        zone_name="parish",
    )
    text = Page(tmp_path / "map.html").text
    head = ["class", "mapped hectares", "hectares", "user’s %", "producer’s %", "F1 %"]
    rows = [[c.class_name, *c.told()] for c in found.classes]
    counts = [[c.class_name, *map(str, row)] for c, row in zip(found.classes, found.counts, strict=True)]
    for row in (head, *rows, *counts):
        assert "".join(row) in text
    assert {"Upper", "Lower"} == set(re.findall("Upper|Lower", text))
