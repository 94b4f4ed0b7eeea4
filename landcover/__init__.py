"""Land-cover maps and polygons from satellite scenes of any size."""

import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "LandcoverError",
    "assess",
    "load_legend",
    "load_model",
    "load_sensor",
    "polygons",
    "predict",
    "sample",
    "vectorize",
]

if TYPE_CHECKING:
    from landcover.assessment import assess
    from landcover.errors import LandcoverError
    from landcover.models import load_model
    from landcover.prediction import predict
    from landcover.sampling import sample
    from landcover.specs import load_legend, load_sensor
    from landcover.vectorization import polygons, vectorize

# Whenever OpenVINO is imported, it tells Google Analytics so, from a process that it forks off whatever goes on in this
# one, and leaves an identity in the user's home. Where this module is not found, it does nothing of the kind.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_HOMES = {
    "LandcoverError": "landcover.errors",
    "assess": "landcover.assessment",
    "load_legend": "landcover.specs",
    "load_model": "landcover.models",
    "load_sensor": "landcover.specs",
    "polygons": "landcover.vectorization",
    "predict": "landcover.prediction",
    "sample": "landcover.sampling",
    "vectorize": "landcover.vectorization",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that importing the package stays light."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'landcover' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Name what can be imported too, so that help() and completion show it before it is."""
    return sorted({*globals(), *__all__})
