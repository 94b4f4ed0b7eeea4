"""Rows of classes → outlines of patches, strip by strip: no patch is cut where strips meet, and none is kept when done.

A patch is the pixels of one class that are joined by their edges (or also by their corners). Its outlines are walked
along pixel edges with the patch on the left, so that its shell runs counter-clockwise where rows run south, and its
holes clockwise. What reaches the last row of a strip is left open, and is walked on from there in the next one.
"""

from landcover.outlines.simplify import STRIP_ROWS, Simplification
from landcover.outlines.tracer import Patches, trace
from landcover.outlines.walk import join, label_runs, root_of, runs_of
from landcover.outlines.wkb import encoded

__all__ = [
    "STRIP_ROWS",
    "Patches",
    "Simplification",
    "encoded",
    "join",
    "label_runs",
    "root_of",
    "runs_of",
    "trace",
]
