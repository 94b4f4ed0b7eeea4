"""What is made of all maps of a batch together: a catalog, mosaics, and polygons joined across the scenes' borders."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import numpy as np

from landcover.batch.jobs import Job, Needs
from landcover.batch.options import BatchOptions
from landcover.batch.schedule import Told
from landcover.batch.state import Made, Record, State
from landcover.classmap import open_raster
from landcover.errors import LandcoverError, counted, listed
from landcover.items import write_catalog
from landcover.mosaic import Mosaic, fill_mosaic, plan_mosaic, write_vrt
from landcover.pipeline import StoppedError
from landcover.vectorfiles import FORMATS

_SPARSE = 100
"""How many times as large as its maps a mosaic may be and nothing is said of it."""


@dataclass
class Gathered:
    """What was made of all maps together.

    Attributes:
        outputs: files by what they are.
        notes: what the person should know.
        unmade: what was asked for and could not be made; a note says why.
    """

    outputs: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unmade: list[str] = field(default_factory=list)

    def miss(self, product: "_Product", why: str) -> None:
        """Note that something is not there."""
        older = f"; {product.out} is of an earlier run" if product.out.exists() else ""
        self.notes.append(why + older)
        self.unmade += [product.what] if product.asked else []


Making = Generator[Told, None, Made]


@dataclass(frozen=True)
class _Product:
    """One thing to be made of all maps.

    Attributes:
        what: for people.
        out: the file, or the first of several.
        options: that it depends on, beside the maps.
        make: makes it, and tells how far it is.
        asked: it was asked for by name.
        of: what it is made of, of all that is made of the maps; "" for the maps alone.
    """

    what: str
    out: Path
    options: Any
    make: Callable[[], Making]
    asked: bool = False
    of: str = ""


def gather(options: BatchOptions, done: list[Record], state: State) -> Generator[Told, None, Gathered]:
    """Make what is made of all finished maps; yields what is being made, and returns what was.

    What was made of the same maps before is not made again. What cannot be made is a note: the maps themselves are
    there all the same.
    """
    gathered = Gathered(notes=_left_behind(options, done, state))
    done = sorted(done, key=lambda record: (record.datetime, record.name))  # the later lie above the earlier
    maps = _digest([[record.name, record.digest, record.finished] for record in done])
    jobs = [_job(options, record) for record in done]
    gathered.notes += _outdated(jobs)
    products = list(_products(options, jobs))
    for product in products:
        if product.of and product.of not in gathered.outputs:
            gathered.miss(product, f"without the {product.of} there are no {product.what} of all maps")
            continue
        digest = maps + _digest(product.options)
        made = state.made(product.out, digest)
        if made is None:
            yield Told(f"Making the {product.what} of {counted(len(done), 'map')}")
            state.save_making(product.out)
            try:
                made = yield from product.make()
            except LandcoverError as e:
                gathered.miss(product, f"the {product.what} could not be made: {e}")
                continue
            state.save_made(product.out, digest, made)
        gathered.outputs[product.what] = made.files
        gathered.notes += made.notes
    others = {options.out / name for name in state.made_of_others(maps)} - {product.out for product in products}
    if products and (found := sorted(str(path) for path in others if path.exists())):
        gathered.notes.append(
            f"{' and '.join(found)} {'is' if len(found) == 1 else 'are'} of an earlier run, and not of the maps of "
            "this one; --mosaic and --merge-polygons make them anew"
        )
    return gathered


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()


def _left_behind(options: BatchOptions, done: list[Record], state: State) -> list[str]:
    """A note of maps that lie in the folder, and are none of those that are gathered."""
    names = {record.name for record in done}
    others = [r for r in state.records().values() if r.state == "done" and r.name not in names]
    count = sum(_job(options, record).map.exists() for record in others)
    if not count:
        return []
    if not done:
        return ["no scene of this run is done, so the catalog and the mosaics are left as earlier runs made them"]
    return [
        f"{counted(count, 'map')} of earlier runs {'is' if count == 1 else 'are'} not in the catalog, the mosaics and "
        "the report, being of scenes that were not chosen now or that the catalog no longer has, or of other "
        "options; a run that chooses all scenes has the maps of all of them"
    ]


def _outdated(jobs: list[Job]) -> list[str]:
    """A note of what lies beside maps, was not asked for now, and is older than they are."""
    endings = {"_confidence.tif", *(f"_polygons{suffix}" for suffix in FORMATS)}
    older: list[Path] = []
    for job in jobs:
        beside = {job.path(ending) for ending in endings} - set(job.outputs.values())
        with suppress(OSError):  # a map that is gone is told where it is read
            made = job.map.stat().st_mtime_ns
            older += sorted(p for p in beside.intersection(job.folder.iterdir()) if p.stat().st_mtime_ns < made)
    if not older:
        return []
    return [
        f"older than the maps beside them, and not of these, are {listed([str(path) for path in older])}; "
        "remove them, or make them anew with --confidence, or with --vectorize and their --format"
    ]


def _products(options: BatchOptions, jobs: list[Job]) -> Iterator[_Product]:
    if not jobs:
        return
    maps, items, out = [job.map for job in jobs], [job.item for job in jobs], options.out
    catalog, virtual, mosaic = (out / name for name in ("catalog.json", "mosaic.vrt", "mosaic.tif"))
    yield _Product("catalog", catalog, None, partial(_at_once, _catalog, out, items))
    yield _Product("virtual mosaic", virtual, None, partial(_at_once, _virtual, maps, virtual))
    if options.mosaic or options.merged is not None:
        confidences = [job.outputs["confidence"] for job in jobs] if options.mosaic == "confidence" else None
        yield _Product("mosaic", mosaic, options.mosaic, partial(_mosaic, jobs, mosaic, confidences), True)
    if options.merged is not None:
        polygons = out / f"polygons{options.suffix}"
        asked = [options.mosaic, options.merged, options.suffix]
        joined = partial(_polygons, mosaic, polygons, options.merged)
        yield _Product("polygons", polygons, asked, joined, True, of="mosaic")


def _at_once(make: Callable[..., Made], *args: Any) -> Making:
    yield from ()
    return make(*args)


def _made(*files: Path, notes: Iterable[str] = ()) -> Made:
    return Made([str(file) for file in files], list(notes))


def _catalog(out: Path, items: list[Path]) -> Made:
    return _made(write_catalog(out, items, title=out.resolve().name, description="Land-cover maps"))


def _virtual(maps: list[Path], out: Path) -> Made:
    files, left_out = write_vrt(maps, out)
    if not left_out:
        return _made(*files)
    found = listed([f"{path} {flaw}" for path, flaw in left_out.items()])
    if "has no CRS" in left_out.values():
        hint = "give its scene one, as gdal_edit.py -a_srs does, or leave it out, for --mosaic fails with it"
    else:
        hint = "--mosaic later shows also those that are not north up"
    note = (
        f"the virtual mosaic leaves out {len(left_out)} of {counted(len(maps), 'map')}, for it shows only those that "
        f"have a CRS and are north up: {found}; {hint}"
    )
    return _made(*files, notes=[note])


def _mosaic(jobs: list[Job], out: Path, confidences: list[Path] | None) -> Making:
    plan = plan_mosaic([job.map for job in jobs], out, confidences=confidences)
    yield Told(f"The mosaic has {plan.grid.height:,} × {plan.grid.width:,} pixels{_sparse(plan)}")
    yield from _tenths("Mosaic", fill_mosaic(plan, overwrite=True), plan.pixels)
    return _made(out, notes=() if confidences else _untimed(jobs, plan))


def _tenths(label: str, done: Iterable[int], total: int) -> Iterator[Told]:
    """Tell each tenth of what is being done."""
    told = 0
    for count in done:
        tenths = count * 10 // total
        if tenths > told:
            told = tenths
            yield Told(f"{label}: {tenths * 10} %")


def _untimed(jobs: list[Job], plan: Mosaic) -> list[str]:
    """A note of scenes that tell no time, if maps overlap, of which the later is to lie on top."""
    names = [job.name for job in jobs if job.datetime is None]
    if not names or not plan.overlaps:
        return []
    return [
        f"{len(names)} of {counted(len(jobs), 'scene')} tell no time, such as {names[0]}; where maps overlap in the "
        "mosaic, these lie below the others, the last by name on top; a table with a column datetime tells times"
    ]


def _sparse(plan: Mosaic) -> str:
    """What to do about a mosaic that is nearly empty, as maps lie far apart; "" if it is not."""
    if sum(box.height * box.width for box in set(plan.boxes)) * _SPARSE >= plan.pixels:
        return ""
    centres = np.array([(box.row0 + box.row1, box.col0 + box.col1) for box in plan.boxes]) / 2
    away = np.abs(centres - np.median(centres, axis=0)).max(axis=1)
    return (
        f", of which the maps fill less than a hundredth; {plan.maps[away.argmax()].path} lies farthest out: "
        "leave it out with --bbox, or map it in a batch of its own"
    )


def _polygons(mosaic: Path, out: Path, vectors: dict[str, Any]) -> Making:
    """Polygons of the mosaic, so that none is cut where scenes meet; made in a thread, which tells how far it is."""
    from landcover.vectorization import vectorize

    with open_raster(mosaic) as file:
        rows = file.height * (2 if vectors.get("min_area") else 1)
    read: SimpleQueue[int | None] = SimpleQueue()
    stop = Event()

    def watch(count: int) -> None:
        if stop.is_set():
            raise StoppedError
        read.put(count)

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(vectorize, mosaic, out, overwrite=True, watch=watch, **vectors)
        made.add_done_callback(lambda _: read.put(None))
        try:
            yield from _tenths("Polygons", accumulate(iter(read.get, None)), rows)
        finally:
            stop.set()
    return _made(made.result().path)


def _job(options: BatchOptions, record: Record) -> Job:
    """Where the outputs of a scene are."""
    job = Job("", record.name, record.source, str(options.out), record.digest, "", Needs("", None, {}))
    return replace(
        job,
        confidence=options.confidence,
        vectors=options.vectors,
        suffix=options.suffix,
        datetime=record.datetime or None,
    )
