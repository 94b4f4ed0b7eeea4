"""What a batch reads and what it writes are kept apart, also where both lie in one folder."""

import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from landcover.batch.jobs import Job
from landcover.batch.options import BatchOptions
from landcover.batch.state import FOLDER, known_files
from landcover.catalog import Entry, is_searched
from landcover.errors import CatalogError, LandcoverError, NoSceneError, OutputError, listed
from landcover.products import is_local

Flaws = list[tuple[Entry, LandcoverError]]
"""Scenes that cannot be opened, each with why."""

_log = logging.getLogger(__name__)

_REPORT = "run.json"

_MOSAIC = re.compile(r"mosaic(\.tif|(_\w+)?\.vrt)")
"""What is made of all maps."""


def without_outputs(scenes: Sequence[Entry], options: BatchOptions) -> list[Entry]:
    """What a catalog names, but not the maps of earlier runs, where their folder lies in that of the scenes.

    Raises:
        CatalogError: it names nothing else.
    """
    out = options.out.resolve()
    if is_searched(options.catalog):
        scenes = [e for e in scenes if not (e.source and _is_output(Path(e.source), out))]
    if not scenes:
        raise CatalogError(_only_results(options))
    return list(scenes)


def without_results(flaws: Flaws, options: BatchOptions, *, others: bool) -> Flaws:
    """Leave out results of other batches, or of `landcover predict`, that lie among scenes.

    Args:
        flaws: what cannot be opened as a scene.
        options: of the batch.
        others: there are scenes besides.

    Raises:
        CatalogError: nothing else was chosen.
    """
    results = [entry for entry, flaw in flaws if isinstance(flaw, NoSceneError)]
    if not results or not is_searched(options.catalog):
        return flaws
    found = listed([entry.source for entry in results])
    if len(results) == len(flaws) and not others:
        raise CatalogError(
            f"landcover made all that is chosen of {options.catalog} ({found}); give the scenes, not their maps"
        )
    _log.warning("Left out, for landcover made them: %s", found)
    return [(entry, flaw) for entry, flaw in flaws if not isinstance(flaw, NoSceneError)]


def check_folder(options: BatchOptions) -> None:
    """Refuse to write over files that no batch has made.

    Raises:
        OutputError: the folder has such a file of the name of one that is made of all maps.
    """
    if options.overwrite:
        return
    for name in sorted(_gathered(options) - known_files(options.out) - _reported(options.out / _REPORT)):
        if (options.out / name).exists():
            raise OutputError(
                f"{options.out / name} exists already, and no batch is known to have made it; give another folder with "
                "--out, or add --overwrite to replace it"
            )


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
    together = _gathered(options)
    for path in near:
        place = _resolved(path.parent) / path.name
        if place in written or (place.parent == out and (path.name in together or _MOSAIC.fullmatch(path.name))):
            raise CatalogError(
                f"{path} would be written over by an output of this batch; give another folder with --out"
            )


def _gathered(options: BatchOptions) -> set[str]:
    """Names of what is made of all maps; parts of the virtual mosaic may come to it."""
    mosaic = {"mosaic.tif"} if options.mosaic or options.merged is not None else set()
    polygons = {f"polygons{options.suffix}"} if options.merged is not None else set()
    return {_REPORT, "catalog.json", "mosaic.vrt"} | mosaic | polygons


def _reported(report: Path) -> set[str]:
    """Names of what a batch tells that it has made of all maps, its report too; nothing where no batch wrote that."""
    try:
        content = json.loads(report.read_bytes())
        if "landcover" not in content:
            return set()
        return {report.name, *(Path(file).name for files in content["outputs"].values() for file in files)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()


def _only_results(options: BatchOptions) -> str:
    return f"{options.catalog} names nothing but what landcover made; give the scenes, not their maps"


def _is_output(path: Path, out: Path) -> bool:
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


def _is_within(path: Path, out: Path) -> bool:
    try:
        return _resolved(path.parent).is_relative_to(out)
    except (OSError, RuntimeError, ValueError):  # it is told with the scene
        return False


@lru_cache(maxsize=1000)
def _resolved(folder: Path) -> Path:
    return folder.resolve()
