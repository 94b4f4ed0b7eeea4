"""Pictures: the right colours in the right place, no larger than asked for, and no file after an error."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import typer
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFont
from typer.testing import CliRunner

from landcover.bands import view_of
from landcover.cli import preview as command
from landcover.errors import BandError, ConfigError, LandcoverError, MapError, OutputError, SceneError
from landcover.preview import draw_legend, preview, stretch
from landcover.specs import LandClass, Legend, load_legend
from tests.maps import NORTH_UP, UTM, write_map
from tests.scenes import write_scene as write_pixels

LEGEND = load_legend("default")


def pixels(path: Path) -> np.ndarray:
    """A PNG as uint8 (rows, cols, 4)."""
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGBA")
        return np.asarray(image)


def quarters(side: int) -> np.ndarray:
    """Nodata in the north-west, then forest, water, urban."""
    return np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((side, side), np.uint8))


def write_scene(path: Path, values: np.ndarray, *, names: tuple[str, ...] = (), **how: Any) -> Path:
    """Write values (bands, rows, cols) as a scene that says no more of its bands than it is told to."""
    return write_pixels(path, values, names=names, scaled=False, photometric="MINISBLACK", **how)


@pytest.mark.parametrize("side", [10, 700])
def test_a_map_is_drawn_in_its_colours(tmp_path: Path, side: int) -> None:
    out = tmp_path / "m.png"
    size = preview(write_map(tmp_path / "m.tif", quarters(side)), out, size=400)
    image = pixels(out)
    assert size == (image.shape[1], image.shape[0])
    across = image.shape[1]
    first, third = across // 4, across * 3 // 4
    corners = [image[r, c] for r in (first, third) for c in (first, third)]
    assert corners[0][3] == 0
    assert [tuple(c) for c in corners[1:]] == [(*c.rgb, 255) for c in LEGEND.classes[:3]]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(64, 500), st.booleans())
def test_a_picture_is_never_larger_than_asked_for(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, size: int, both: bool
) -> None:
    folder = tmp_path_factory.mktemp("size")
    ids = (np.indices((height, width)).sum(0) % 5).astype(np.uint8)
    scene = write_scene(folder / "s.tif", ids[None]) if both else None
    shape = preview(write_map(folder / "m.tif", ids), folder / "m.png", size=size, scene=scene)
    assert max(shape) <= size


def test_a_map_that_is_south_up_is_drawn_north_up(tmp_path: Path) -> None:
    write_map(tmp_path / "m.tif", quarters(10)[::-1], transform=Affine(10, 0, 5e5, 0, 10, 5e6))
    preview(tmp_path / "m.tif", tmp_path / "m.png")
    write_map(tmp_path / "n.tif", quarters(10))
    preview(tmp_path / "n.tif", tmp_path / "n.png")
    np.testing.assert_array_equal(pixels(tmp_path / "m.png"), pixels(tmp_path / "n.png"))


def test_the_legend_shows_the_classes_of_the_map(tmp_path: Path) -> None:
    preview(write_map(tmp_path / "m.tif", quarters(100)), tmp_path / "m.png", size=300)
    image = pixels(tmp_path / "m.png")
    strip = image[image.shape[1] :]
    shown = {tuple(c) for c in strip.reshape(-1, 4)}
    assert {(*c.rgb, 255) for c in LEGEND.classes[:3]} <= shown
    assert (*LEGEND.classes[3].rgb, 255) not in shown


def test_a_long_legend_takes_more_lines() -> None:
    classes = [LandClass(id=i, name=f"class {i}", color="#000000") for i in range(1, 20)]
    one, many = draw_legend(classes, 5000), draw_legend(classes, 300)
    assert many.height > 4 * one.height
    assert many.width == 300


def test_letters_of_other_languages_are_told_apart() -> None:
    """Where the machine has a font with them; without one, Pillow draws the same box for each."""
    try:
        ImageFont.truetype("DejaVuSans.ttf")
    except OSError:
        pytest.skip("this machine has no DejaVu Sans")
    names = ("é", "ł", "ж", "ω")
    drawn = {draw_legend([LandClass(id=1, name=name, color="#000000")], 300).tobytes() for name in names}
    assert len(drawn) == len(names)


def test_a_map_with_many_classes_still_fits(tmp_path: Path) -> None:
    legend = Legend(name="x", classes=tuple(LandClass(id=i, name=f"class {i}", color="#00ff00") for i in range(1, 200)))
    ids = np.arange(200, dtype=np.uint8).reshape(10, 20)
    shape = preview(write_map(tmp_path / "m.tif", ids, legend=legend), tmp_path / "m.png", size=100)
    assert max(shape) <= 100


def test_a_scene_shows_the_bands_named_red_green_and_blue(tmp_path: Path) -> None:
    ramp = np.arange(400, dtype=np.uint16).reshape(20, 20)
    flat = np.full_like(ramp, 7)
    bands = np.stack([flat, flat, ramp, ramp[::-1]])
    write_scene(tmp_path / "s.tif", bands, names=("blue", "green", "red", "nir"))
    preview(tmp_path / "s.tif", tmp_path / "s.png", size=64)
    image = pixels(tmp_path / "s.png")
    assert (image[0, 0, 0], image[-1, -1, 0]) == (0, 255)
    assert not image[..., 1:3].any()


def test_a_scene_without_names_shows_its_first_three_bands_or_one_in_grey(tmp_path: Path) -> None:
    ramp = np.arange(400, dtype=np.int16).reshape(20, 20)
    write_scene(tmp_path / "s.tif", np.stack([ramp * 0, ramp, ramp * 0, ramp]))
    preview(tmp_path / "s.tif", tmp_path / "s.png", size=64)
    assert pixels(tmp_path / "s.png")[-1, -1].tolist() == [0, 255, 0, 255]
    write_scene(tmp_path / "g.tif", np.stack([ramp, ramp]))
    preview(tmp_path / "g.tif", tmp_path / "g.png", size=64)
    assert pixels(tmp_path / "g.png")[-1, -1].tolist() == [255, 255, 255, 255]


def test_a_scene_shows_the_bands_that_are_asked_for(tmp_path: Path) -> None:
    ramp = np.arange(400, dtype=np.int16).reshape(20, 20)
    write_scene(tmp_path / "s.tif", np.stack([ramp * 0, ramp, ramp * 0]), names=("B02", "B03", "B04"))
    for red, blue in (("B04", "B03"), ("b4", "B_3")):  # as `predict` takes them
        bands = {"red": red, "green": "1", "blue": blue}
        preview(tmp_path / "s.tif", tmp_path / "s.png", bands=bands, overwrite=True)
        assert pixels(tmp_path / "s.png")[-1, -1].tolist() == [0, 0, 255, 255]


def test_bands_of_several_data_types_are_shown(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 200, (3, 20, 30))
    stack = write_scene(tmp_path / "stack.tif", values.astype(np.uint16))
    preview(stack, tmp_path / "stack.png")
    types = ("uint8", "int16", "float32")
    files = [write_scene(tmp_path / f"{t}.tif", v[None].astype(t)) for t, v in zip(types, values, strict=True)]
    with ExitStack() as opened:
        mixed = view_of([(opened.enter_context(rasterio.open(file)), 1, None) for file in files])
    (tmp_path / "mixed.vrt").write_text(mixed)
    preview(tmp_path / "mixed.vrt", tmp_path / "mixed.png")
    np.testing.assert_array_equal(pixels(tmp_path / "mixed.png"), pixels(tmp_path / "stack.png"))


def test_bands_of_a_folder_are_chosen_by_number_or_label_and_zero_is_a_value(tmp_path: Path) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 4, (5, 20, 30)).astype(np.uint16) * 1000
    for number, band in enumerate(("B02", "B03", "B04", "B08", "B11")):
        write_scene(folder / f"scene_{band}.tif", values[number : number + 1])
    write_scene(tmp_path / "stack.tif", values)
    preview(tmp_path / "stack.tif", tmp_path / "stack.png", bands={"red": "4", "green": "5", "blue": "1"})
    expected = pixels(tmp_path / "stack.png")
    assert (expected[..., 3] == 255).all()
    for bands in ({"red": "4", "green": "5", "blue": "1"}, {"red": "B08", "green": "B11", "blue": "B02"}):
        preview(folder, tmp_path / "folder.png", bands=bands, overwrite=True)
        assert np.array_equal(pixels(tmp_path / "folder.png"), expected)
    far = write_map(tmp_path / "far.tif", quarters(10), transform=Affine(10, 0, 7e5, 0, -10, 5e6))
    with pytest.raises(SceneError, match=rf"^{folder} does not touch"):
        preview(far, tmp_path / "far.png", scene=folder)


def write_item(folder: Path, values: np.ndarray, bands: dict[str, str | None], **about: str) -> Path:
    """Write values (bands, rows, cols) as a STAC Item, one file a band; `bands` is name → common name."""
    assets = {}
    for (name, common), layer in zip(bands.items(), values, strict=True):
        write_scene(folder / f"{name}.tif", layer[None])
        said = {"name": name, "common_name": common} if common else {"name": name}
        assets[name] = {"href": f"./{name}.tif", "type": "image/tiff", "roles": ["data"], "eo:bands": [said]}
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "item", "collection": about.pop("collection", "scenes")}
    path = folder / "item.json"
    path.write_text(json.dumps(item | {"properties": about, "links": [], "assets": assets}))
    return path


@pytest.mark.parametrize(
    ("bands", "about"),
    [
        ({"B1": "blue", "B2": "green", "B3": "red", "B4": "nir"}, {"platform": "landsat-7"}),
        ({"B02": "blue", "B03": "green", "B04": "red", "B05": "nir"}, {}),
        ({"B00": "blue", "B01": "green", "B02": "red", "B04": None}, {}),
        (dict.fromkeys(("B1", "B2", "B3", "B4")), {"collection": "landsat-c2-l2", "platform": "landsat-7"}),
        (dict.fromkeys(("B02", "B03", "B04", "B08")), {}),
        ({"B02": None, "B03": None, "B04": None, "nir": "nir"}, {}),
        ({"B02": None, "B03": None, "B04": None, "B05": "nir"}, {}),
        ({"B02": None, "B03": None, "B04": None, "pan": "pan"}, {}),
    ],
)
def test_an_item_is_shown_by_the_names_it_tells_else_by_numbers(tmp_path: Path, bands: dict, about: dict) -> None:
    """Whether it tells names or its sensor; where it tells neither, 4, 3 and 2 are red, green and blue."""
    values = np.random.default_rng(0).integers(1, 4, (4, 20, 30)).astype(np.uint16) * 1000
    write_scene(tmp_path / "stack.tif", values, names=("blue", "green", "red", "nir"))
    preview(tmp_path / "stack.tif", tmp_path / "stack.png")
    item = write_item(tmp_path, values, bands, **about)
    preview(item, tmp_path / "item.png")
    np.testing.assert_array_equal(pixels(tmp_path / "item.png"), pixels(tmp_path / "stack.png"))
    chosen = dict(zip(("red", "green", "blue"), reversed([*bands][:3]), strict=True))
    preview(item, tmp_path / "item.png", bands=chosen, overwrite=True)
    np.testing.assert_array_equal(pixels(tmp_path / "item.png"), pixels(tmp_path / "stack.png"))


def test_a_band_with_another_name_is_not_taken_for_blue_by_its_number(tmp_path: Path) -> None:
    """Landsat's Multispectral Scanner had none that is blue; its B2 was red."""
    values = np.ones((4, 20, 30), np.uint8)
    item = write_item(tmp_path, values, {"B1": "green", "B2": "red", "B3": "nir08", "B4": "nir09"})
    with pytest.raises(BandError, match=r"which of its 4 bands \(1: B1, 2: B2, 3: B3, 4: B4\) are red") as caught:
        preview(item, tmp_path / "item.png")
    assert "--sensor" not in str(caught.value), "the command has no such option"


def test_pixels_of_a_scene_are_transparent_only_where_no_band_has_data(tmp_path: Path) -> None:
    values = np.full((3, 16, 16), 50, np.int16)
    values[0, 0, 0] = values[:, 8, 8] = 0
    write_scene(tmp_path / "s.tif", values, nodata=0)
    preview(tmp_path / "s.tif", tmp_path / "s.png", size=64)
    alpha = pixels(tmp_path / "s.png")[::4, ::4, 3]
    assert (alpha[8, 8], alpha[0, 0]) == (0, 255)
    assert (alpha == 0).sum() == 1


@pytest.mark.parametrize("count", range(1, 7))
def test_what_an_alpha_band_masks_is_transparent_and_stretches_nothing(tmp_path: Path, count: int) -> None:
    values = np.random.default_rng(0).integers(1000, 2000, (count + 1, 40, 50)).astype(np.uint16)
    values[-1] = 255
    bare = preview(write_scene(tmp_path / "bare.tif", values[:-1, 20:]), tmp_path / "bare.png", size=64)
    values[:-1, :20], values[-1, :20] = 60_000, 0
    preview(write_scene(tmp_path / "s.tif", values, alpha=True), tmp_path / "s.png", size=64)
    drawn = pixels(tmp_path / "s.png")
    assert bare == (50, 20)
    assert (drawn[:20, :, 3] == 0).all()
    np.testing.assert_array_equal(drawn[20:], pixels(tmp_path / "bare.png"))


@pytest.mark.parametrize(("fourth", "shown"), [("nir", True), ("NIR", True), ("mask", False), ("", False)])
def test_a_band_flagged_as_alpha_is_a_mask_unless_it_has_the_name_of_a_spectral_one(
    tmp_path: Path, fourth: str, shown: bool
) -> None:
    """Of a scene alone and beside a map, on its grid and half a pixel off: water is black in near infrared."""
    values = np.random.default_rng(0).integers(100, 200, (4, 20, 40)).astype(np.uint8)
    values[3, :10] = 0
    map_path = write_map(tmp_path / "m.tif", np.ones((20, 40), np.uint8))
    for off in (0, -0.5):
        place = NORTH_UP @ Affine.translation(off, 0)
        names = ("red", "green", "blue", fourth)
        scene = write_scene(tmp_path / "s.tif", values, names=names, alpha=True, transform=place)
        preview(scene, tmp_path / "s.png", size=64, overwrite=True)
        preview(map_path, tmp_path / "m.png", scene=scene, size=88, overwrite=True)
        for picture in ("s.png", "m.png"):
            alpha = pixels(tmp_path / picture)[:20, :39, 3]
            assert (alpha[:9] == (255 if shown else 0)).all(), picture
            assert (alpha[11:] == 255).all(), picture


@given(hnp.arrays(np.float32, (6, 7), elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan)))
def test_stretching_keeps_the_order_of_values(values: np.ndarray) -> None:
    known = np.isfinite(values)
    drawn = stretch(values, known)
    order = np.argsort(values[known])
    assert (np.diff(drawn[known][order].astype(int)) >= 0).all()


def test_scene_and_map_stand_side_by_side(tmp_path: Path) -> None:
    ids = quarters(20)
    grey = np.kron(ids, np.ones((2, 2), np.uint8))[None] * 50
    write_scene(tmp_path / "same.tif", ids[None] * 50 + 1)
    finer = Affine(5, 0, NORTH_UP.c, 0, -5, NORTH_UP.f)
    write_scene(tmp_path / "finer.tif", grey + 1, transform=finer)
    write_map(tmp_path / "m.tif", ids)
    for scene in ("same", "finer"):
        width, height = preview(
            tmp_path / "m.tif", tmp_path / f"{scene}.png", scene=tmp_path / f"{scene}.tif", size=400
        )
        image = pixels(tmp_path / f"{scene}.png")
        side = (width - 8) // 2
        assert (height > side, width > 300) == (True, True)
        assert image[side // 4, side // 4].tolist() == [0, 0, 0, 255]
        assert image[side * 3 // 4, side * 3 // 4].tolist() == [255, 255, 255, 255]
        assert image[side // 4, side + 8 + side // 4, 3] == 0
        assert tuple(image[side // 4, width - side // 4][:3]) == LEGEND.classes[0].rgb


def scenes(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, dict]]:
    """Scenes of 1 to 7 bands, without nodata, with it, or with alpha, and how each is written."""
    values = rng.integers(1000, 2000, (7, 20, 20)).astype(np.uint16)
    values[-1] = 255  # an alpha that is far from the largest of its type
    plain: dict[str, tuple[np.ndarray, dict]] = {f"{count} bands": (values[:count], {}) for count in range(1, 8)}
    floats = (values[:6] / 1e4).astype(np.float32)
    plain |= {f"{count} bands and alpha": (values[-count - 1 :], {"alpha": True}) for count in (1, 3, 6)}
    return plain | {
        "nodata": (values[:6], {"nodata": 0}),
        "floats": (floats, {}),
        "bytes": ((values[:6] % 256).astype(np.uint8), {}),
    }


def test_what_lies_outside_of_a_scene_is_transparent(tmp_path: Path) -> None:
    """The scene covers the west half of the map, and lies half a pixel off its grid."""
    map_path = write_map(tmp_path / "m.tif", np.ones((20, 40), np.uint8))
    for name, (values, how) in scenes(np.random.default_rng(0)).items():
        shifted = NORTH_UP @ Affine.translation(-0.5, 0)
        scene = write_scene(tmp_path / "s.tif", values, transform=shifted, **how)
        preview(map_path, tmp_path / "m.png", scene=scene, size=88, overwrite=True)
        alpha = pixels(tmp_path / "m.png")[:20, :40, 3]
        assert (alpha[:, :19] == 255).all(), name
        assert (alpha[:, 21:] == 0).all(), name


def test_a_scene_elsewhere_is_refused_however_many_bands_it_has(tmp_path: Path) -> None:
    map_path = write_map(tmp_path / "m.tif", np.ones((20, 40), np.uint8))
    places = {UTM: Affine(10, 0, 7e5, 0, -10, 5e6), "EPSG:4326": Affine(1e-3, 0, 20, 0, -1e-3, 40)}
    for values, how in scenes(np.random.default_rng(0)).values():
        for crs, transform in places.items():
            scene = write_scene(tmp_path / "s.tif", values, crs=crs, transform=transform, **how)
            with pytest.raises(SceneError, match="does not touch"):
                preview(map_path, tmp_path / "m.png", scene=scene)


def bad(folder: Path) -> dict[str, tuple[dict, type[LandcoverError], str]]:
    good = write_map(folder / "good.tif", quarters(10))
    plain = write_map(folder / "plain.tif", quarters(10), tagged=False)
    odd = write_map(folder / "odd.tif", quarters(10) * 60)
    scene = write_scene(folder / "scene.tif", np.ones((3, 20, 20), np.uint8))
    far = write_scene(folder / "far.tif", np.ones((3, 20, 20), np.uint8), transform=Affine(10, 0, 7e5, 0, -10, 5e6))
    (folder / "text.tif").write_text("no raster")
    (folder / "there.png").write_text("precious")
    png = folder / "out.png"
    return {
        "missing": ({"path": folder / "none.tif", "out": png}, SceneError, "No such file"),
        "text": ({"path": folder / "text.tif", "out": png}, SceneError, "cannot be read as a raster"),
        "no legend": ({"path": plain, "out": png}, MapError, "carries no legend"),
        "values": ({"path": odd, "out": png}, MapError, "does not know: 60"),
        "suffix": ({"path": good, "out": folder / "out.jpg"}, ConfigError, "let it end in .png"),
        "size": ({"path": good, "out": png, "size": 10}, ConfigError, "between 64 and"),
        "exists": ({"path": good, "out": folder / "there.png"}, OutputError, "--overwrite"),
        "no map": ({"path": scene, "out": png, "scene": scene}, ConfigError, "not a class map"),
        "two bands": ({"path": scene, "out": png, "bands": {"red": "1", "nir": "2"}}, ConfigError, "red=4,green=3"),
        "no band": (
            {"path": scene, "out": png, "bands": dict.fromkeys(("red", "green", "blue"), "4")},
            ConfigError,
            "no band '4' to show as red",
        ),
        "no scene": ({"path": good, "out": png, "scene": folder / "none.tif"}, SceneError, "No such file"),
        "itself": (
            {"path": folder / "there.png", "out": folder / "there.png", "overwrite": True},
            OutputError,
            "is what is to be shown",
        ),
        "bands of a map": (
            {"path": good, "out": png, "bands": {"red": "1", "green": "2", "blue": "3"}},
            ConfigError,
            "is a class map; add its --scene",
        ),
        "far": ({"path": good, "out": png, "scene": far}, SceneError, "does not touch"),
    }


def test_bad_inputs_are_told_in_one_sentence_and_leave_nothing(tmp_path: Path) -> None:
    for name, (arguments, error, words) in bad(tmp_path).items():
        before = sorted(tmp_path.iterdir())
        with pytest.raises(error, match=words) as caught:
            preview(**arguments)
        assert "\n" not in str(caught.value), name
        assert sorted(tmp_path.iterdir()) == before, name


def test_the_command_draws_and_says_so(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command.preview)
    write_map(tmp_path / "m.tif", quarters(10))
    result = CliRunner().invoke(app, [str(tmp_path / "m.tif"), "--out", str(tmp_path / "m.png"), "--size", "200"])
    assert result.exit_code == 0, result.output
    assert "Wrote" in result.stderr
    assert result.stdout == ""
    assert max(pixels(tmp_path / "m.png").shape) <= 200
