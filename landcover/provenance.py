"""What made a map: the tags that name the version, the model and the options."""

import json
from collections.abc import Mapping
from typing import Any

from landcover import __version__

PREFIX = "LANDCOVER_"


def tags(**facts: Any) -> dict[str, str]:
    """Turn facts into raster tags. They hold no date, host or path, so that equal work gives equal bytes."""
    named = {"VERSION": __version__, **{k.upper(): v for k, v in facts.items() if v is not None}}
    return {PREFIX + k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in named.items()}


def legend_tag(tags: Mapping[str, str]) -> str | None:
    """The legend that a map carries, as JSON, or None."""
    return tags.get(PREFIX + "LEGEND")


def inherited(tags: Mapping[str, str]) -> dict[str, str]:
    """What the tags of a map tell of how it was made, without its legend."""
    return {k: v for k, v in tags.items() if k.startswith(PREFIX) and k != PREFIX + "LEGEND"}
