"""Scenes that lie in folders: every raster, and every folder of bands as one scene."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from landcover.catalog.entry import Entry, absolute, name_of
from landcover.catalog.trees import read_json
from landcover.products import SUFFIXES, is_local, is_product

_DOCUMENTS = (".json", ".geojson")


def read_folder(folder: str) -> list[Entry]:
    """The scenes in a folder and those below it, also behind links; or the folder itself, if it is one; none hidden."""
    root = absolute(folder)
    return [_named_from(path, root) for path in sorted(_scenes_below(root))]


def is_pattern(source: str) -> bool:
    return glob.has_magic(source)


def read_pattern(pattern: str) -> list[Entry]:
    """The scenes that a pattern such as `scenes/**/*.tif` matches.

    Raises:
        CatalogError: a STAC document among them cannot be read.
    """
    fixed, wild = _split(pattern)
    root = Path(absolute(fixed))
    suffixes = {*SUFFIXES, Path(pattern).suffix.lower()} - {""}
    entries: list[Entry] = []
    product = None
    for path in sorted(path for path in root.glob(wild) if not _is_hidden(path.relative_to(root))):
        suffix = path.suffix.lower()
        if product in path.parents:
            continue
        if path.is_dir():
            if _is_product(path):
                product = path
                entries.append(_named_from(str(path), str(root)))
        elif suffix in _DOCUMENTS:
            entries += read_json(str(path))
        elif suffix in suffixes:
            entries.append(_named_from(str(path), str(root)))
    return entries


def single_entry(source: str) -> Entry:
    """The entry of one raster or folder of bands, under its own name."""
    if is_local(source):
        path = absolute(source)
        return _named_from(path, str(Path(path).parent))
    name = source.partition("?")[0].rstrip("/").rpartition("/")[2]
    return Entry(source, name_of(name) or "scene")


def _named_from(path: str, root: str) -> Entry:
    """An entry whose name is its place below a folder."""
    place = Path(path).name if path == root else Path(path).relative_to(root).as_posix()
    return Entry(path, name_of(place))


def _scenes_below(root: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise error

    seen = {os.path.realpath(root)}

    def is_new(folder: Path) -> bool:
        before = len(seen)
        seen.add(os.path.realpath(folder))
        return len(seen) > before

    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        rasters = _rasters(files)
        if is_product(Path(folder), rasters):
            folders.clear()
            yield folder
            continue
        below = [(name, Path(folder, name)) for name in folders if not name.startswith(".")]
        folders[:] = [name for name, path in below if not _is_known(path, root) and is_new(path)]
        yield from (f"{folder}{os.sep}{name}" for name in rasters)


def _is_known(folder: Path, root: str) -> bool:
    """Whether a folder is a link to one whose scenes are found without it, or in which it lies itself."""
    if not folder.is_symlink():
        return False
    target, above = folder.resolve(), (parent.resolve() for parent in folder.parents)
    return target.is_relative_to(Path(root).resolve()) or any(parent.is_relative_to(target) for parent in above)


def _rasters(names: list[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]


def _is_product(folder: Path) -> bool:
    return is_product(folder, _rasters([path.name for path in folder.iterdir()]))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _split(pattern: str) -> tuple[Path, str]:
    """The folders of a pattern that are plain names, and what comes after them."""
    parts = Path(pattern).parts
    plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:plain]), str(Path(*parts[plain:]))
