"""What a run has finished, kept beside its output until all is done, so that a run that was stopped goes on from there.

Finished pixels go to raw files, one a layer. Python's own files never lose an error of writing, as a raster library can
when it flushes its cache, and what is never written is a hole that costs no disk. The journal says how much of them can
be relied on. It is replaced as a whole, and only after the pixels it speaks of are on the disk.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, TypeAdapter, ValidationError

from landcover.cog import Layer, encode
from landcover.errors import StaleError
from landcover.outputs import (
    check_destination,
    disk_errors,
    drop_work_folder,
    publish,
    publish_text,
    work_folder,
    work_path,
)
from landcover.provenance import tags

_NAME, _MARK, _OTHERS = "journal.json", "run", "others.json"


class Progress(BaseModel):
    """How far a run has come.

    Attributes:
        panel: the panel it is in; those before are finished.
        row: rows above this one, counted from the top of the region, are finished in that panel.
        mapped: pixels so far that are not nodata.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    panel: NonNegativeInt = 0
    row: NonNegativeInt = 0
    mapped: NonNegativeInt = 0


class Entry(BaseModel):
    """The journal: of which run, and how far it has come.

    Attributes:
        run: what its raw files are marked with, for another run may have begun to write one of them since.
        facts: what the pixels depend on.
        progress: how far it has come.
        engines: that computed the pixels so far, in the order in which they did.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    run: str = ""
    facts: dict[str, Any]
    progress: Progress
    engines: tuple[str, ...] = ()


class Run:
    """The layers that a run is writing.

    Attributes:
        progress: how far an earlier run had come, and then this one.
        engine: what computes the pixels that are written next.
        engines: what has computed those that are finished; where any is known, the files tell so.
    """

    def __init__(
        self, layers: dict[str, Layer], folders: dict[str, Path], facts: dict[str, Any], complete: "Complete"
    ) -> None:
        self._complete = complete
        self._out = next(iter(layers.values())).path
        self._journal = next(iter(folders.values())) / _NAME
        self._facts = json.loads(json.dumps(facts))
        entry = self._read_journal()
        self.progress, self._run = (entry.progress, entry.run) if entry else (Progress(), uuid4().hex)
        self.engine, self.engines = "", entry.engines if entry else ()
        self._mapped = self.progress.mapped
        self._written = False
        run, fresh = self._run, entry is None
        if fresh and len(layers) > 1:
            _note_others(self._journal.parent, [layer.path for layer in layers.values()][1:])
        self._files: dict[str, _RawFile] = {}
        try:
            for name, layer in layers.items():
                self._files[name] = _RawFile(layer, folders[name], run, fresh=fresh)
        except BaseException:
            self.close()
            raise

    def write(self, row: int, col: int, shape: tuple[int, int], blocks: dict[str, np.ndarray], mapped: int = 0) -> None:
        """Write finished pixels.

        Args:
            row, col: their first row and column, counted from the region's corner.
            shape: (height, width).
            blocks: for each layer (bands, height, width) of its dtype; a layer that is not named is nodata there.
            mapped: how many of the pixels are not nodata.
        """
        self._mapped += mapped
        self._written |= bool(blocks)
        for name, file in self._files.items():
            file.write(row, col, shape, blocks.get(name))

    def mark(self, panel: int, row: int) -> None:
        """Make what is written so far survive, and note in the journal how far that is, as in `Progress`."""
        progress = Progress(panel=panel, row=row, mapped=self._mapped)
        if (panel, row) == (self.progress.panel, self.progress.row) or (row and not self._written):
            return  # nothing is finished by it; or what is empty, which is quickly done again
        if self._written and self.engine and self.engine not in self.engines:
            self.engines = (*self.engines, self.engine)
        self._written = False
        for file in self._files.values():
            file.sync()
        entry = Entry(run=self._run, facts=self._facts, progress=progress, engines=self.engines)
        publish_text(self._journal, entry.model_dump_json())
        self.progress = progress

    def rewind(self) -> None:
        """Drop what was written after the last mark; it will be written again."""
        self._mapped = self.progress.mapped
        self._written = False

    def forget(self) -> None:
        """Let nothing of this run be kept."""
        self._journal.unlink(missing_ok=True)

    def finish(self) -> dict[str, Path]:
        """Complete all layers; returns the folders with the finished files."""
        if self.engines:
            for file in self._files.values():
                file.tag(tags(engine=", then ".join(self.engines)))
        return {name: file.finish(self._complete) for name, file in self._files.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _read_journal(self) -> Entry | None:
        """The journal that a run has left, if one has.

        Raises:
            StaleError: the journal is that of another run, or cannot be relied on.
        """
        if not self._journal.exists():
            return None
        where = f"{self._journal.parent} holds the finished rows of a run that was stopped"
        over = "add --no-resume to drop them and start over"
        try:
            entry = Entry.model_validate_json(self._journal.read_bytes())
        except (OSError, ValidationError) as e:
            raise StaleError(f"{where}, but its journal cannot be read; {over}") from e
        keys = [*self._facts, *(k for k in entry.facts if k not in self._facts)]
        other = [k for k in keys if self._facts.get(k) != entry.facts.get(k)]
        if other:
            raise StaleError(
                f"{where}, but not of this one: {', '.join(other)} {'differ' if len(other) > 1 else 'differs'}; "
                f"repeat the command as it was to go on, or {over}"
            )
        return entry


Complete = Callable[[Layer, Path, Path], None]
"""Makes the file of a layer from its raw pixels, in a folder."""


def keep_raw(layer: Layer, raw: Path, folder: Path) -> None:
    """Let the raw pixels be the file: those of a part, which is joined with others before it is encoded.

    The journal stays beside the first layer, and tells how they came about.
    """
    if (journal := raw.with_name(_NAME)).exists():
        shutil.copyfile(journal, folder / f"{layer.path.name}.{_NAME}")
    raw.replace(folder / layer.path.name)


def kept_engines(layers: dict[str, Layer], facts: dict[str, Any]) -> tuple[str, ...] | None:
    """What computed the pixels of layers that were kept raw; None if they are not whole, or made of other facts."""
    first = next(iter(layers.values())).path
    try:
        entry = Entry.model_validate_json(first.with_name(f"{first.name}.{_NAME}").read_bytes())
        whole = all(layer.path.stat().st_size == raw_size(layer) for layer in layers.values())
    except (OSError, ValidationError):
        return None
    same = all(entry.facts.get(k) == v for k, v in json.loads(json.dumps(facts)).items())
    return entry.engines if whole and same else None


def raw_size(layer: Layer) -> int:
    """Bytes of the pixels of a layer."""
    return len(layer.bands) * layer.height * layer.width * np.dtype(layer.dtype).itemsize


@contextmanager
def open_run(
    layers: dict[str, Layer],
    *,
    facts: dict[str, Any] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    complete: Complete = encode,
) -> Iterator[Run]:
    """Write layers; they appear under their names when all of them are complete, and not before.

    If the block fails after something was marked, that is kept, and the next run of the same facts goes on from it.

    Args:
        layers: by name; the journal lies beside the first.
        facts: what the pixels depend on, as plain values by name.
        resume: False to drop what an earlier run left, also of layers that are not written now.
        overwrite: replace outputs that exist.
        complete: what makes the files of the raw pixels.

    Raises:
        OutputError: an output exists and `overwrite` is False, its folder cannot be written, another run is writing
            it, the disk is full, or an earlier run of other facts left finished rows.
    """
    for layer in layers.values():
        check_destination(layer.path, overwrite=overwrite)
    first = next(iter(layers.values())).path
    forsaken = _forsaken(first) if not resume or finished_part(first) is None else []
    with ExitStack() as stack:
        folders = {
            name: stack.enter_context(
                work_folder(layer.path, keep=lambda: finished_part(first) is not None, clear=not resume)
            )
            for name, layer in layers.items()
        }
        for path, dropped in forsaken:
            drop_work_folder(path, dropped)
        run = Run(layers, folders, facts or {}, complete)
        try:
            yield run
            finished = run.finish()
        finally:
            run.close()
        for name, folder in finished.items():
            with disk_errors(layers[name].path):
                publish(folder, layers[name].path)


def finished_part(out: Path) -> Path | None:
    """The folder with what a run that was stopped had finished of an output, or None."""
    folder = work_path(out)
    return folder if (folder / _NAME).exists() else None


def _note_others(folder: Path, others: list[Path]) -> None:
    """Note beside the first layer where the others go, so that a run without them can drop what is left of them."""
    publish_text(folder / _OTHERS, json.dumps([str(path.absolute()) for path in others]))


def _forsaken(out: Path) -> list[tuple[Path, Callable[[Path], bool]]]:
    """The other outputs of a run that was stopped while it wrote one, and what tells that their folders are its own.

    What it noted can be out of date, so only the mark of a folder decides.
    """
    folder = work_path(out)
    try:
        others = TypeAdapter(list[str]).validate_json((folder / _OTHERS).read_bytes())
    except (OSError, ValidationError):
        return []
    run = _marked(folder)
    return [(Path(other), lambda f: _marked(f) == run) for other in others] if run else []


def _marked(folder: Path) -> str:
    """The run whose rows a folder holds; "" if that is not known."""
    try:
        return (folder / _MARK).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


class _RawFile:
    """The pixels of one layer, band by band and row by row."""

    def __init__(self, layer: Layer, folder: Path, run: str, *, fresh: bool) -> None:
        self._layer = layer
        self._folder = folder
        self._path = folder / "rows.raw"
        self._dtype = np.dtype(layer.dtype)
        size = raw_size(layer)
        with disk_errors(layer.path):
            mark = folder / _MARK
            whole = self._path.exists() and self._path.stat().st_size == size
            if not fresh and not (whole and mark.exists() and mark.read_text(encoding="utf-8") == run):
                raise StaleError(
                    f"{folder} lacks the finished rows that the journal tells of; add --no-resume to start over"
                )
            if fresh:
                mark.write_text(run, encoding="utf-8")
            self._file: BinaryIO = self._path.open("wb" if fresh else "r+b")
            try:
                self._file.truncate(size)
            except OSError:
                self.close()
                raise

    def write(self, row: int, col: int, shape: tuple[int, int], block: np.ndarray | None) -> None:
        layer = self._layer
        if block is None:
            if layer.nodata == 0:
                return  # a hole reads as zeros
            block = np.full((len(layer.bands), *shape), layer.nodata, self._dtype)
        with disk_errors(layer.path):
            for band, pixels in enumerate(block):
                whole = [pixels.reshape(-1)] if shape[1] == layer.width else pixels
                start = (band * layer.height + row) * layer.width + col
                for i, run in enumerate(whole):
                    self._file.seek((start + i * layer.width) * self._dtype.itemsize)
                    self._file.write(np.ascontiguousarray(run).data)

    def tag(self, facts: dict[str, str]) -> None:
        """Let the file say something else of how it was made."""
        self._layer = replace(self._layer, tags={**self._layer.tags, **facts})

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        with disk_errors(self._layer.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what could not be written to it was said before, or is not relied on."""
        with suppress(OSError):
            self._file.close()

    def finish(self, complete: Complete) -> Path:
        """Complete the layer; returns the folder with the finished file."""
        with disk_errors(self._layer.path):
            self._file.close()
            done = self._folder / "done"
            shutil.rmtree(done, ignore_errors=True)
            done.mkdir()
            complete(self._layer, self._path, done)
        return done
