"""JSON documents, local or remote, read member by member, so that a collection of any length takes little memory."""

import codecs
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from landcover.errors import CatalogError

FEATURES = "features"
_TIMEOUT = 30
_CHUNK = 1 << 20
_LARGEST = 64_000_000
"""Characters of one member or feature; the links of a catalog of half a million items are fewer."""

_LOOKAHEAD = 2
"""Characters, such as `e-`, that a number which seems to end may go on with."""

_SPACES = " \t\r\n"


def read_document(source: str) -> dict[str, Any]:
    """A JSON object as a whole.

    Raises:
        CatalogError: it cannot be fetched or read.
    """
    return dict(read_members(source))


class Feature(NamedTuple):
    """An element of `features`: what it is, and how it is written."""

    value: Any
    text: str


def read_members(source: str) -> Iterator[tuple[str, Any]]:
    """The members of a JSON object; its array `features`, if it has one, is given one by one, each as a `Feature`.

    Raises:
        CatalogError: it cannot be fetched or read, or is not an object.
    """
    with _open(source) as file:
        text = _Text(file)
        try:
            yield from _members(text)
        except UnicodeDecodeError as e:
            raise CatalogError(f"{source} is not JSON: it is not encoded in UTF-8") from e
        except (ValueError, RecursionError) as e:
            raise CatalogError(f"{source} is not valid JSON at character {text.place:,}: {e}") from e


@contextmanager
def _open(source: str) -> Iterator[IO[bytes]]:
    """Open a file or an http(s) URL."""
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    try:
        if scheme in ("http", "https"):
            with urllib.request.urlopen(source, timeout=_TIMEOUT) as answer:
                yield answer
        elif scheme or source.startswith("/vsi"):
            raise CatalogError(f"{source} cannot be fetched; give a local file or an http(s) URL")
        else:
            with Path(source).open("rb") as file:
                yield file
    except FileNotFoundError as e:
        raise CatalogError(f"{source} does not exist; check the spelling and the folder") from e
    except (OSError, ValueError, http.client.HTTPException) as e:
        if isinstance(e, urllib.error.HTTPError):
            e.close()
        raise CatalogError(f"{source} cannot be fetched: {e}") from e


def _members(text: "_Text") -> Iterator[tuple[str, Any]]:
    text.expect("{")
    while not text.accept("}"):
        key = text.value()
        text.expect(":")
        if key == FEATURES:
            text.expect("[")
            while not text.accept("]"):
                yield FEATURES, Feature(text.value(), text.written)
                if not text.accept(","):
                    text.expect("]")
                    break
        else:
            yield str(key), text.value()
        if not text.accept(","):
            text.expect("}")
            break
    if text.peek():
        raise ValueError("something follows its end")


class _Text:
    """The characters of a file, of which only those at hand are held."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decode = file, codecs.getincrementaldecoder("utf-8-sig")().decode
        self._held, self._at, self._before, self._ended = "", 0, 0, False
        self._value = slice(0)

    @property
    def place(self) -> int:
        """How many characters were read."""
        return self._before + self._at

    @property
    def written(self) -> str:
        """The value that was read last, as it is written; until something else is read."""
        return self._held[self._value]

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._at < len(self._held):
                if self._held[self._at] not in _SPACES:
                    return self._held[self._at]
                self._at += 1
            if not self._more():
                return ""

    def accept(self, character: str) -> bool:
        """Go past the next character if it is this one."""
        found = self.peek() == character
        self._at += found
        return found

    def expect(self, character: str) -> None:
        if not self.accept(character):
            raise ValueError(f"'{character}' is missing")

    def value(self) -> Any:
        """Read the next value; where it breaks off, there may be more of it in the file."""
        decoder = json.JSONDecoder()
        self.peek()
        while True:
            try:
                value, end = decoder.raw_decode(self._held, self._at)
            except json.JSONDecodeError as e:
                if not self._more():
                    raise ValueError(e.msg) from e
                continue
            if end + _LOOKAHEAD < len(self._held) or not self._more():
                self._value, self._at = slice(self._at, end), end
                return value

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        if self._ended:
            return False
        rest = self._held[self._at :]
        if len(rest) > _LARGEST:
            raise ValueError(f"what begins here is longer than {_LARGEST // 1_000_000} MB")
        content = self._file.read(max(_CHUNK, len(rest)))
        more = self._decode(content, not content)
        if not content:
            self._ended = True
            return False
        self._before += self._at
        self._held, self._at = rest + more, 0
        return True
