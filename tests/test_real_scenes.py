"""Real scenes with the embedded model: the seams of windows, the accuracy on labels, the files as others see them.

The labelled scenes are not part of the project; these tests are skipped where they are not at hand.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo import cog_validate

from landcover.planning import Options, Plan, make_plan
from landcover.prediction import map_scene, predict
from tests.scenes import read_map

NEAR = 16


@pytest.fixture(scope="module")
def coast(data: Path) -> str:
    return str(data / "s2_eastern_shore" / "scene.tif")


@pytest.fixture(scope="module")
def plan(coast: str, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The coast of Virginia, 1947 × 1933, with default options on a CPU."""
    out = tmp_path_factory.mktemp("coast") / "map.tif"
    return make_plan(Options(coast, out, sensor="sentinel2-l1c", device="cpu", overwrite=True))


@pytest.fixture(scope="module")
def mapped(plan: Plan) -> np.ndarray:
    for _ in map_scene(plan):
        pass
    return read_map(Path(plan.options.out))


@pytest.fixture(scope="module")
def at_once(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The same network on the whole image, without windows."""
    out = tmp_path_factory.mktemp("whole") / "map.tif"
    whole = make_plan(dataclasses.replace(plan.options, out=out, tile_size=1 << 14, overlap=0))
    assert whole.grid.windows == 1
    for _ in map_scene(whole):
        pass
    return read_map(out)


def near_borders(plan: Plan) -> Iterator[np.ndarray]:
    """For rows, then columns: pixels within 16 pixels of where a window begins or ends inside the scene."""
    for axis in (plan.grid.rows, plan.grid.cols):
        position, near = np.arange(axis.size), np.zeros(axis.size, bool)
        for k in range(axis.count):
            for border in (axis.start(k), axis.start(k) + axis.tile):
                if 0 < border < axis.size:
                    near |= abs(position - border + 0.5) <= NEAR
        yield near


@pytest.mark.slow
def test_windows_leave_no_seams(plan: Plan, mapped: np.ndarray, at_once: np.ndarray) -> None:
    differ = mapped != at_once
    near = np.logical_or.outer(*near_borders(plan))
    assert near.any()
    assert differ.mean() <= 0.001
    assert differ[near].mean() <= 0.01


@pytest.mark.slow
def test_windows_that_are_not_aligned_leave_several_times_the_seams(
    plan: Plan, mapped: np.ndarray, at_once: np.ndarray, tmp_path: Path
) -> None:
    rows, cols = (dataclasses.replace(axis, step=axis.step - 1) for axis in (plan.grid.rows, plan.grid.cols))
    shifted = dataclasses.replace(
        plan,
        grid=dataclasses.replace(plan.grid, rows=rows, cols=cols),
        options=dataclasses.replace(plan.options, out=tmp_path / "map.tif"),
    )
    for _ in map_scene(shifted):
        pass
    assert (read_map(tmp_path / "map.tif") != at_once).mean() > 3 * (mapped != at_once).mean()


@pytest.mark.slow
def test_a_box_of_the_map_is_the_map_of_the_box(coast: str, plan: Plan, mapped: np.ndarray, tmp_path: Path) -> None:
    (left, top), (right, bottom) = plan.scene.transform @ (700, 900), plan.scene.transform @ (1500, 1300)
    box = (left, bottom, right, top)
    predict(coast, tmp_path / "box.tif", sensor="sentinel2-l1c", device="cpu", bbox=box)
    np.testing.assert_array_equal(read_map(tmp_path / "box.tif"), mapped[900:1300, 700:1500])


def test_the_map_is_a_valid_cog(plan: Plan, mapped: np.ndarray) -> None:
    valid, errors, warnings = cog_validate(plan.options.out, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])


FLOORS = {
    "s2_amazon/scene.tif": ("sentinel2-l2a", "s2_amazon/labels.tif", 0.85),
    "s2_buffalo/scene.tif": ("sentinel2-l2a", "s2_buffalo/labels.tif", 0.75),
}


@pytest.mark.parametrize("scene", FLOORS)
def test_labelled_scenes_are_mapped_well(data: Path, tmp_path: Path, scene: str) -> None:
    sensor, labels, floor = FLOORS[scene]
    predict(data / scene, tmp_path / "map.tif", sensor=sensor, device="cpu")
    found, reference = read_map(tmp_path / "map.tif"), read_map(data / labels)
    known = reference > 0
    assert (found == reference)[known].mean() > floor


def test_the_accuracy_on_the_card_is_that_of_the_map(data: Path, tmp_path: Path) -> None:
    """What `models show` says of the Amazon is what the command line reaches there, but for half a point."""
    from landcover.models import CARD, load_model

    said = json.loads((load_model().folder / CARD).read_text())["properties"]["landcover:accuracy"]
    figure = next(f for name, f in said.items() if "amazon" in name.lower())["overall_accuracy"]
    predict(data / "s2_amazon" / "scene.tif", tmp_path / "map.tif", sensor="sentinel2-l2a", device="cpu")
    with rasterio.open(data / "s2_amazon" / "labels.tif") as file:
        reference = file.read(1)
    known = reference > 0
    assert (read_map(tmp_path / "map.tif") == reference)[known].mean() == pytest.approx(figure, abs=0.005)
