"""What a batch reads and what it writes are kept apart, also where both lie in one folder."""

import re
from functools import lru_cache
from pathlib import Path

from landcover.batch.jobs import Job
from landcover.batch.options import BatchOptions
from landcover.batch.state import FOLDER
from landcover.errors import CatalogError
from landcover.products import is_local

_MOSAIC = re.compile(r"mosaic(\.tif|(_\w+)?\.vrt)")
"""What is made of all maps."""


def is_output(path: Path, out: Path) -> bool:
    """Whether a file is one that a batch has written into a folder."""
    try:
        path = path.resolve() if path.is_symlink() else path
        folder = _resolved(path.parent)
        if folder == out:
            return bool(_MOSAIC.fullmatch(path.name)) and (out / FOLDER).is_dir()
        own = {f"{folder.name}_{what}.tif" for what in ("map", "confidence")}
        return folder.is_relative_to(out) and path.name in own and (folder / f"{folder.name}.log").exists()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or no path; it is told with the scene
        return False


def check_apart(options: BatchOptions, jobs: list[Job]) -> None:
    """Refuse to write over what is read.

    Raises:
        CatalogError: the catalog, a scene or an area of interest has the name of an output.
    """
    out = options.out.resolve()
    areas = {options.choose.get("aoi"), *(job.mapping.get("aoi") for job in jobs)} - {None}
    read = [Path(s) for s in (options.catalog, *map(str, areas), *(job.source for job in jobs)) if is_local(s)]
    near = [path for path in read if _is_within(path, out)]
    if not near:
        return
    written = {p for job in jobs for p in (job.item, job.log, *job.outputs.values())}
    together = {"catalog.json", "run.json"} | ({f"polygons{options.suffix}"} if options.merged is not None else set())
    for path in near:
        place = _resolved(path.parent) / path.name
        if place in written or (place.parent == out and (path.name in together or _MOSAIC.fullmatch(path.name))):
            raise CatalogError(
                f"{path} would be written over by an output of this batch; give another folder with --out"
            )


def _is_within(path: Path, out: Path) -> bool:
    try:
        return _resolved(path.parent).is_relative_to(out)
    except (OSError, RuntimeError, ValueError):  # it is told with the scene
        return False


@lru_cache(maxsize=1000)
def _resolved(folder: Path) -> Path:
    return folder.resolve()
