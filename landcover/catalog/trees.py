"""STAC documents: an Item, an ItemCollection, and static Catalogs and Collections, which are followed link by link."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pystac

from landcover.catalog.documents import FEATURES, Feature, read_document, read_members
from landcover.catalog.entry import Entry, Held, absolute, make_entries
from landcover.catalog.features import item_entry
from landcover.errors import CatalogError, SceneError
from landcover.products import absolute_href, is_local

_DEEPEST = 50
"""Catalogs within catalogs."""

_FETCHED_AT_ONCE = 16
"""Items of a remote catalog."""


def read_json(source: str) -> list[Entry]:
    """The scenes of a STAC Item, an ItemCollection, a static Catalog or a Collection.

    Raises:
        CatalogError: the document, or one that it links to, cannot be read or is none of these.
    """
    source = absolute(source) if is_local(source) else source
    document: dict[str, Any] = {}
    entries = make_entries(source, _features(source, document), _feature_entry)
    if document.get("type") in ("FeatureCollection", "ItemCollection"):
        return entries
    if document.get("type") == "Feature":
        return make_entries(source, [document], lambda item: item_entry(item, source, source=source))
    return _read_items(source, list(dict.fromkeys(_item_links(source, document, (), set()))))


class _Feature(NamedTuple):
    """A feature of a collection, its number in it, and the document that it is from."""

    feature: Feature
    number: int
    base: str


def _feature_entry(each: _Feature) -> Entry:
    item, text = each.feature
    name = str(item.get("id"))[:80] if isinstance(item, dict) else "of no kind"
    return item_entry(item, f"item {each.number:,} ({name})", held=Held.of(text, each.base))


def _features(source: str, document: dict[str, Any]) -> Iterator[_Feature]:
    """The features of a collection and of its further pages; the other members go to `document`."""
    page: str | None = source
    seen: set[str] = set()
    number = 0
    while page is not None:
        seen.add(page)
        members: dict[str, Any] = {}
        for key, value in read_members(page):
            if key == FEATURES:
                number += 1
                yield _Feature(value, number, page)
            else:
                members[key] = value
        document |= members
        page = _next_page(page, members)
        if page in seen:
            raise CatalogError(f"{source[:200]} leads to the page {str(page)[:200]} again; save its answer as a file")


def _next_page(page: str, document: dict[str, Any]) -> str | None:
    """The address of the page after this one of a STAC API; None for the last, and for files, which are complete."""
    links = document.get("links")
    if is_local(page) or not isinstance(links, list):
        return None
    found = [link for link in links if isinstance(link, dict) and link.get("rel") == "next"]
    if not found:
        return None
    if str(found[0].get("method", "GET")).upper() != "GET":
        raise CatalogError(f"{page[:200]} has further pages that cannot be fetched by address; save them as one file")
    return _target(str(found[0].get("href")), page)


def _item_links(source: str, document: dict[str, Any], above: tuple[str, ...], seen: set[str]) -> Iterator[str]:
    """Where the Items of a Catalog or Collection lie, and those of all its children."""
    if len(above) > _DEEPEST:
        raise CatalogError(f"{source[:200]} lies {len(above)} catalogs deep, which no catalog needs; give one of them")
    seen.add(source)
    for relation, href in _links(source, document):
        target = _target(href, source)
        if relation == "item":
            yield target
        elif target in (source, *above):
            raise CatalogError(f"{source[:200]} links to {target[:200]}, in which it lies itself; remove that link")
        elif target not in seen:
            yield from _item_links(target, read_document(target), (*above, source), seen)


def _target(href: str, source: str) -> str:
    """Where a link of a document leads."""
    try:
        target = absolute_href(href, source)
    except SceneError as e:
        raise CatalogError(f"{source[:200]} links to '{href[:200]}', which is not opened; link to files or URLs") from e
    return absolute(target) if is_local(target) else target


def _links(source: str, document: dict[str, Any]) -> list[tuple[str, str]]:
    """The links of a Catalog or Collection to items and children: relation and href."""
    try:
        node = pystac.read_dict(document, href=source)
        if isinstance(node, pystac.Catalog):
            return [(str(x.rel), str(x.href)) for x in node.links if x.rel in ("item", "child")]
    except (pystac.STACError, pystac.STACTypeError, LookupError, TypeError, ValueError, AttributeError) as e:
        raise CatalogError(
            f"{source[:200]} is not a STAC Item, ItemCollection, Catalog or Collection (its type is "
            f"{str(document.get('type'))[:40]!r}); give one of these"
        ) from e
    return []


def _read_items(source: str, hrefs: list[str]) -> list[Entry]:
    if all(map(is_local, hrefs)):
        return make_entries(source, hrefs, _entry_at)
    with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
        fetched = [pool.submit(_entry_at, href) for href in hrefs]
        return make_entries(source, fetched, Future.result)


def _entry_at(href: str) -> Entry:
    return item_entry(read_document(href), href, source=href)
