"""Catalogs: which scenes there are, which of them are wanted, and what is known of each before it is opened."""

from landcover.catalog.choosing import choose
from landcover.catalog.entry import Entry
from landcover.catalog.looking import look, measure
from landcover.catalog.reading import is_searched, read_catalog

__all__ = ["Entry", "choose", "is_searched", "look", "measure", "read_catalog"]
