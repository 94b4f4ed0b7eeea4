"""Raw pixels become a cloud-optimised GeoTIFF with the same pixels, holes or not, and overviews that mean something."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from landcover.cog import BLOCK, Layer, Level, encode, halve_mean, halve_mode
from landcover.specs import load_legend


def layer(path: Path, height: int, width: int, **more) -> Layer:
    legend = load_legend("default")
    usual = {"dtype": "uint8", "nodata": 0, "bands": ("class",), "legend": legend, "overviews": "mode"}
    return Layer(path, height, width, Affine(10, 0, 500_000, 0, -10, 5_000_000), None, **{**usual, **more})


def quads(pixels: np.ndarray, row: int, col: int) -> list[int]:
    """The pixels that one pixel of the overview stands for; beyond an odd edge the last ones again."""
    height, width = pixels.shape
    rows, cols = (min(2 * row, height - 1), min(2 * row + 1, height - 1)), (2 * col, min(2 * col + 1, width - 1))
    return [int(pixels[y, x]) for y in rows for x in cols]


sizes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(0, 999))


@given(sizes)
def test_mode(size: tuple[int, int, int]) -> None:
    height, width, seed = size
    pixels = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.uint8)
    half = halve_mode(pixels)
    assert half.shape == ((height + 1) // 2, (width + 1) // 2)
    for (row, col), found in np.ndenumerate(half):
        four = [v for v in quads(pixels, row, col) if v]
        assert found == (Counter(four).most_common(1)[0][0] if four else 0)


@given(sizes)
def test_mean(size: tuple[int, int, int]) -> None:
    height, width, seed = size
    pixels = np.random.default_rng(seed).choice([0, 3, 100, 255, 65535], (height, width)).astype(np.uint16)
    for (row, col), found in np.ndenumerate(halve_mean(pixels, 65535)):
        four = [v for v in quads(pixels, row, col) if v != 65535]
        assert found == (int(np.floor(np.mean(four) + 0.5)) if four else 65535)


@pytest.mark.parametrize("filled", [(0, 0, 1300, 1100), (600, 700, 1, 1), (1040, 0, 100, 1100)])
def test_what_was_written_and_nothing_else(tmp_path: Path, filled: tuple[int, int, int, int]) -> None:
    """Rows that were never written are nodata, and take no room in the file."""
    height, width = 1300, 1100
    row, col, tall, wide = filled
    pixels = np.zeros((height, width), np.uint8)
    pixels[row : row + tall, col : col + wide] = np.random.default_rng(0).integers(1, 5, (tall, wide))
    raw = tmp_path / "rows.raw"
    with raw.open("wb") as file:
        file.truncate(pixels.size)
        for y in range(row, row + tall):
            file.seek(y * width)
            file.write(pixels[y].data)
    with raw.open("rb") as file:
        groups = list(Level(layer(raw, height, width), raw, height, width).groups(file, 0))
    touched = [(lo, min(lo + BLOCK, height)) for lo in range(0, height, BLOCK) if row < lo + BLOCK and row + tall > lo]
    assert groups == touched, "only these are looked at; a file system that tells of no holes would show all"
    (tmp_path / "done").mkdir()
    encode(layer(tmp_path / "map.tif", height, width), raw, tmp_path / "done")
    with rasterio.open(tmp_path / "done" / "map.tif") as file:
        np.testing.assert_array_equal(file.read(1), pixels)
        assert file.overviews(1) == [2, 4]
        half = halve_mode(pixels)
        np.testing.assert_array_equal(file.read(1, out_shape=half.shape), half)
        stored = [file.get_tag_item(f"BLOCK_OFFSET_0_{y}", "TIFF", bidx=1) for y in range(-(-height // BLOCK))]
        for y, offset in enumerate(stored):
            assert (offset is None) == (not pixels[y * BLOCK : (y + 1) * BLOCK, :BLOCK].any())


def test_bands_of_other_types(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (2, 600, 700)).astype(np.uint16)
    pixels[:, :90] = 65535
    raw = tmp_path / "rows.raw"
    raw.write_bytes(pixels.tobytes())
    (tmp_path / "done").mkdir()
    more = {"dtype": "uint16", "nodata": 65535, "bands": ("a", "b"), "legend": None, "overviews": "mean"}
    encode(layer(tmp_path / "scores.tif", 600, 700, **more), raw, tmp_path / "done")
    with rasterio.open(tmp_path / "done" / "scores.tif") as file:
        np.testing.assert_array_equal(file.read(), pixels)
        np.testing.assert_array_equal(file.read(2, out_shape=(300, 350)), halve_mean(pixels[1], 65535))
        assert file.descriptions == ("a", "b")
