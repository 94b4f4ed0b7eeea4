"""Laws of windows: they cover the scene, they are aligned, and a region needs no others than the whole scene has."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landcover.blend import axis_weights
from landcover.errors import ConfigError
from landcover.grid import Axis, Box, make_grid

sizes = st.integers(1, 400)


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    tile = draw(st.integers(1, 64))
    return Axis(draw(sizes), tile, draw(st.integers(1, tile)))


@given(axes())
def test_windows_reach_every_pixel_and_none_is_superfluous(axis: Axis) -> None:
    covered = np.zeros(axis.start(axis.count - 1) + axis.tile, int)
    for k in range(axis.count):
        covered[axis.start(k) : axis.start(k) + axis.tile] += 1
    assert covered[: axis.size].all()
    assert axis.count == 1 or axis.start(axis.count - 2) + axis.tile < axis.size


@given(axes())
def test_weights_sum_to_one_at_every_pixel(axis: Axis) -> None:
    total = np.zeros(axis.start(axis.count - 1) + axis.tile)
    for k in range(axis.count):
        total[axis.start(k) : axis.start(k) + axis.tile] += axis_weights(axis, k)
    np.testing.assert_allclose(total[: axis.size], 1, atol=1e-6)


@given(axes())
def test_each_pixel_is_finished_once_and_in_order(axis: Axis) -> None:
    ends = [axis.finished(k) for k in range(axis.count)]
    assert [p for lo, hi in ends for p in range(lo, hi)] == list(range(axis.size))


@given(axes(), st.data())
def test_a_region_is_covered_by_all_windows_that_touch_it(axis: Axis, data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, axis.size - 1))
    hi = data.draw(st.integers(lo + 1, axis.size))
    touching = [k for k in range(axis.count) if axis.start(k) < hi and axis.start(k) + axis.tile > lo]
    assert list(axis.covering(lo, hi)) == touching


@given(sizes, sizes, st.integers(1, 300), st.integers(0, 299), st.sampled_from([1, 2, 8, 32]))
def test_starts_are_multiples_of_the_stride(height: int, width: int, tile: int, overlap: int, stride: int) -> None:
    if overlap >= tile:
        return
    grid = make_grid(height, width, tile=tile, overlap=overlap, stride=stride)
    for axis in (grid.rows, grid.cols):
        assert axis.step % stride == 0
        assert axis.tile % stride == 0
        assert axis.tile < tile + stride
        assert axis.count == 1 or axis.tile - axis.step >= min(overlap, axis.tile - stride)


def test_a_small_scene_gets_a_snug_tile() -> None:
    grid = make_grid(100, 5000, tile=512, overlap=64, stride=32)
    assert (grid.rows.tile, grid.rows.count) == (128, 1)


def test_windows_are_no_larger_than_their_number_asks_for() -> None:
    axis = make_grid(100, 1200, tile=1024, overlap=64, stride=32).cols
    assert (axis.count, axis.tile, axis.step) == (2, 640, 576)


def test_the_rows_of_a_region_are_completed_once() -> None:
    grid = make_grid(1000, 1000, tile=128, overlap=32, region=Box(333, 700, 10, 20))
    rows = [r for k in grid.window_rows for r in range(*grid.completed_rows(k))]
    assert rows == list(range(333, 700))


@pytest.mark.parametrize(
    ("tile", "overlap", "says"),
    [(0, 0, "--tile-size"), (64, 64, "smaller than --tile-size 64"), (64, 100, "smaller"), (64, -1, "negative")],
)
def test_impossible_windows_are_refused(tile: int, overlap: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_grid(100, 100, tile=tile, overlap=overlap)
