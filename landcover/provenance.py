"""What made a map, as tags tell it, without the secrets of addresses."""

import json
import re
from collections.abc import Mapping
from typing import Any

from landcover import __version__

PREFIX = "LANDCOVER_"

_PASSWORD = re.compile(r"(?<=://)[^\s/]*@")
_SIGNED = re.compile(r"((?:://|/vsi\w+/)[^\s?#]*)[?#](\S*)|\?[^\s=]*=(\S*)", re.IGNORECASE)
_AFTER = re.compile(r"[\\'\",;:.)\]}>]*$")
"""Signs at the end of an address that belong to the text around it."""


def tags(**facts: Any) -> dict[str, str]:
    """Turn facts into raster tags. They hold no date, host or path, so that equal work gives equal bytes."""
    named = {"VERSION": __version__, **{k.upper(): v for k, v in facts.items() if v is not None}}
    return {PREFIX + k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in named.items()}


def is_made(tags: Mapping[str, str]) -> bool:
    """Whether a raster with these tags is a result, and no scene."""
    return PREFIX + "VERSION" in tags


def legend_tag(tags: Mapping[str, str]) -> str | None:
    """The legend that a map carries, as JSON, or None."""
    return tags.get(PREFIX + "LEGEND")


def inherited(tags: Mapping[str, str]) -> dict[str, str]:
    """What the tags of a map tell of how it was made, without its legend."""
    return {k: v for k, v in tags.items() if k.startswith(PREFIX) and k != PREFIX + "LEGEND"}


def without_secrets(text: str) -> str:
    """A text that is to be kept, with addresses in it, but without their passwords, queries and fragments."""

    def cut(found: re.Match[str]) -> str:
        after = _AFTER.search(found[2] or found[3] or "")
        return (found[1] or "") + (after[0] if after else "")

    return _SIGNED.sub(cut, _PASSWORD.sub("", text))
