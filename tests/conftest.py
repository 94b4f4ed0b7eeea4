"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from landcover.models import Model
from tests.scenes import pointwise_model

settings.register_profile(
    "laws",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("laws")

SHARED = Path(os.environ.get("LANDCOVER_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep converted networks out of the user's cache."""
    os.environ["LANDCOVER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def pointwise(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An untrained model that looks at one pixel."""
    return pointwise_model(tmp_path_factory.mktemp("models") / "pointwise")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real labelled scenes; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the labelled scenes are not at hand; set LANDCOVER_DATA to their folder")
    return SHARED
