"""From a catalog to jobs: what is to be done, what was done before, and what cannot be done, before anything starts."""

import json
import math
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

from rasterio.errors import NotGeoreferencedWarning

from landcover import __version__
from landcover.batch.apart import Flaws, check_apart, check_folder, without_outputs, without_results
from landcover.batch.checks import BandCheck, check_device, check_options
from landcover.batch.cluster import share_machine
from landcover.batch.identity import digest, identity, sensor_content, unsigned
from landcover.batch.jobs import Job, Needs
from landcover.batch.options import BatchOptions
from landcover.batch.state import FOLDER, Record
from landcover.catalog import Entry, choose, is_searched, measure, read_catalog
from landcover.errors import (
    BandError,
    BatchError,
    CatalogError,
    ConfigError,
    LandcoverError,
    NoSceneError,
    SceneError,
    counted,
    listed,
    nearest,
)
from landcover.models import Model, embedded_models, load_model
from landcover.outputs import disk_errors
from landcover.planning import Options, map_legend, read_legend
from landcover.provenance import without_secrets

_THREADS = 8
_MANY = 2000
_CHUNK = 200
"""Headers of scenes are opened by so many threads, or, where there are many scenes, by processes, so many at a time."""

_ITEMS = (".json", ".geojson")
"""Suffixes of files that only tell where the pixels are."""

_BY_SCENE = ("sensor", "bands", "scale", "offset", "aoi")


@dataclass(frozen=True)
class BatchPlan:
    """What is to be done.

    Attributes:
        options: what was asked for.
        jobs: one for each scene that is left, the largest first.
        done: records of scenes that need no work.
        broken: records of scenes that cannot be read.
        model: the one that was named; None where scenes take the embedded one that suits them.
        items: STAC Items that only the catalog holds, and the files that they are to have.
    """

    options: BatchOptions
    jobs: tuple[Job, ...]
    done: tuple[Record, ...]
    broken: tuple[Record, ...]
    model: Model | None
    items: tuple[tuple[Path, Entry], ...] = ()

    @property
    def pixels(self) -> int:
        """To be mapped, nodata included."""
        return sum(job.pixels for job in self.jobs)

    @property
    def tasks(self) -> int:
        """What can be done at the same time: scenes, and parts of those that are cut."""
        return sum(max(job.parts, 1) for job in self.jobs)


def plan_batch(options: BatchOptions, known: dict[str, Record]) -> BatchPlan:
    """Read the catalog, and find out what is left to do and what cannot be done.

    Args:
        options: what is asked for.
        known: what became of scenes in earlier runs, by name.

    Raises:
        LandcoverError: the catalog, the model or an option cannot be used, or, with `strict`, a scene.
    """
    model = load_model(options.model) if options.model is not None else None
    check_options(options, model)
    check_bands = BandCheck(model)
    check_bands(options.mapping)
    if options.only_failed and not known:
        raise BatchError(f"--only-failed: no batch has mapped scenes into {options.out} yet; leave --only-failed out")
    scenes = without_outputs(read_catalog(options.catalog), options)
    told = {e.name: e.datetime for e in scenes}  # what is found out by looking at a scene is no change of it
    entries = _chosen(scenes, options)
    mapping = _mapping(options, model)
    same = _Same(options, mapping, _needs(options, mapping, model), uuid4().hex, check_bands)
    done, left, broken = [], [], []
    for entry in entries:
        try:
            job = same.job(entry, told[entry.name])
        except (SceneError, ConfigError, BandError) as e:
            broken.append(_broken(entry, e))
            continue
        record = known.get(entry.name)
        if record and not options.overwrite and _still_done(record, job):
            done.append(record)
        elif not options.only_failed or (record and record.state == "failed"):
            left.append((entry, job))
    if left and options.scheduler is None:
        check_device(options)
    check_apart(options, [job for _, job in left])
    check_folder(options)
    if options.only_failed:
        left = left[: options.choose.get("limit")]
    jobs, flaws = _sized(left)
    flaws = without_results(flaws, options, others=bool(jobs or done or broken))
    broken += [_broken(entry, flaw) for entry, flaw in flaws]
    if options.strict and broken:
        raise CatalogError(_listed(broken))
    jobs.sort(key=lambda job: (-job.pixels, job.name))
    items = tuple((Path(job.source), entry) for entry, job in left if not entry.source)
    return BatchPlan(options, tuple(jobs), tuple(done), tuple(broken), model, items)


def _chosen(scenes: list[Entry], options: BatchOptions) -> list[Entry]:
    """The scenes that satisfy every condition; with `only_failed` the limit is for later, when it is known which."""
    chosen = choose(scenes, **{**options.choose, "limit": None})
    if not chosen:
        asked = {k: v for k, v in options.choose.items() if v is not None and k != "limit"}
        alone = {k: v for k, v in asked.items() if len(asked) > 1 and not choose(scenes, **{k: v})}
        by = " and ".join(f"--{k} {_typed(v)}" for k, v in (alone or asked).items())
        raise CatalogError(
            f"of {counted(len(scenes), 'scene')} in {options.catalog} none is chosen by {by}; "
            "`landcover catalog list` shows what there is"
        )
    limit = None if options.only_failed else options.choose.get("limit")
    return chosen[:limit] if limit is None or not is_searched(options.catalog) else _first(chosen, limit)


def _first(chosen: list[Entry], limit: int) -> list[Entry]:
    """The first so many scenes, and what landcover made that lies among them, which is no scene."""
    first: list[Entry] = []
    while limit and len(first) < len(chosen):
        some = chosen[len(first) : len(first) + limit]
        limit -= sum(not isinstance(found, NoSceneError) for found in _measured(some))
        first += some
    return first


def _typed(value: Any) -> str:
    """The value of an option as it was given."""
    return ",".join(f"{v:.10g}" for v in value) if isinstance(value, tuple) else repr(str(value))


@contextmanager
def items_for_workers(plan: BatchPlan) -> Iterator[None]:
    """Give items that came inside a catalog files of their own, which any worker can read.

    Addresses in them may be signed; what is left after the block, for maps are linked to it, is without signatures.

    Raises:
        OutputError: they cannot be written.
    """
    try:
        for path, entry in plan.items:
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(entry.item), encoding="utf-8")
        yield
    finally:
        for path, entry in plan.items:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                path.write_text(json.dumps(unsigned(entry.item)), encoding="utf-8")


def _mapping(options: BatchOptions, model: Model | None) -> dict[str, Any]:
    """How scenes are mapped, as their workers see it: elsewhere, and one of this machine sees its own card alone."""
    known = {f.name for f in fields(Options)} - {"scene", "out", "model", "overwrite"}
    for name in options.mapping.keys() - known:
        raise ConfigError(f"mapping has no option '{name}': {nearest(name, sorted(known))}")
    one_card = options.scheduler is None and options.device.startswith("cuda:")
    sensor = options.mapping.get("sensor")
    at: dict[str, Any] = {"sensor": str(Path(sensor).absolute())} if sensor and sensor.endswith(".toml") else {}
    if (legend := options.mapping.get("legend")) is not None:
        at["legend"] = map_legend(read_legend(legend), model or load_model()).model_dump(mode="json")
    return options.mapping | at | ({"device": "cuda"} if one_card else {})


def _needs(options: BatchOptions, mapping: dict[str, Any], model: Model | None) -> Needs:
    engine: dict[str, Any] = {k: mapping[k] for k in ("device", "engine", "precision") if k in mapping}
    engine["bf16_safe"] = model is None or model.spec.bf16_safe
    if model is None:
        return Needs(__version__, None, {name: load_model(name).digest for name in embedded_models()}, engine)
    name = options.model if options.model in embedded_models() else model.folder.resolve()
    return Needs(__version__, str(name), {model.spec.name: model.digest}, engine)


class _Same:
    """What all jobs of a batch have in common."""

    def __init__(
        self, options: BatchOptions, mapping: dict[str, Any], needs: Needs, batch: str, check_bands: BandCheck
    ) -> None:
        self._options, self._mapping, self._needs, self._batch = options, mapping, needs, batch
        self._check_bands = check_bands
        self._out = str(options.out.resolve())
        self._content = cache(sensor_content)
        self._polygons = (options.vectors, options.suffix) if options.vectors is not None else None

    def job(self, entry: Entry, told: datetime | None) -> Job:
        """The job of a scene.

        Args:
            entry: with what is known of it.
            told: when it was taken, as the catalog says.

        Raises:
            SceneError: the scene does not exist.
            ConfigError, BandError: what the catalog says of its sensor, bands or scaling cannot be.
        """
        options = self._options
        own = {k: v for k in _BY_SCENE if (v := getattr(entry, k)) is not None}
        unless = {"sensor", "bands"} if own.keys() & {"sensor", "bands"} else set()
        mapping = {k: v for k, v in self._mapping.items() if k not in unless} | own
        self._check_bands(mapping, own)
        when = entry.datetime.isoformat() if entry.datetime else None
        how = unsigned(mapping | self._content(mapping.get("sensor")))
        mapped = digest(__version__, self._needs.digests, identity(entry), how, options.confidence)
        source = entry.source or str(Path(self._out) / FOLDER / "items" / f"{entry.name}.json")
        return Job(
            batch=self._batch,
            name=entry.name,
            source=source,
            out=self._out,
            digest=digest(mapped, self._polygons, told and told.isoformat()),
            map_digest=mapped,
            needs=self._needs,
            mapping=mapping,
            confidence=options.confidence,
            vectors=options.vectors,
            suffix=options.suffix,
            datetime=when,
            pixels=math.prod(entry.size) if entry.size else 0,
        )


def _still_done(record: Record, job: Job) -> bool:
    there = all(path.exists() for path in (job.item, *job.outputs.values()))
    return record.state == "done" and record.digest == job.digest and there


def _sized(left: list[tuple[Entry, Job]]) -> tuple[list[Job], Flaws]:
    """Open the headers of scenes of which the catalog does not tell the size; gives also those that cannot be."""
    seen = _measured([entry for entry, _ in left if entry.size is None])
    jobs: list[Job] = []
    flaws: Flaws = []
    for entry, job in left:
        found = entry if entry.size else next(seen)
        if isinstance(found, LandcoverError):
            flaws.append((entry, found))
        else:
            when = job.datetime or (found.datetime.isoformat() if found.datetime else None)
            jobs.append(replace(job, pixels=math.prod(found.size or ()), datetime=when))
    return jobs, flaws


def _measured(entries: list[Entry]) -> Iterator[Entry | LandcoverError]:
    """Look at scenes: few of them, which may lie on a server, in threads; many in processes, which compute."""
    many = len(entries) > _MANY
    chunks = [entries[i : i + _CHUNK] for i in range(0, len(entries), _CHUNK)] if many else [[e] for e in entries]
    processes = len(share_machine(None, "cpu"))
    pool = ProcessPoolExecutor(processes, get_context("spawn")) if many else ThreadPoolExecutor(_THREADS)
    with warnings.catch_warnings(), pool:
        # said for all threads at once, for what one of them says of warnings is said to all
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for found in pool.map(measure, chunks):
            yield from found


def _broken(entry: Entry, error: LandcoverError) -> Record:
    return Record(entry.name, "", "failed", unsigned(entry.source), error=without_secrets(str(error)))


def _listed(broken: Iterable[Record]) -> str:
    errors = [f"{record.name}: {record.error}" for record in broken]
    return f"{len(errors)} of the scenes cannot be read: {listed(errors, ' · ')}"


def describe(plan: BatchPlan, workers: int | None, seconds: float | None) -> dict[str, Any]:
    """A plan as plain values, to be printed.

    Args:
        plan: from `plan_batch`.
        workers: how many there are; None if unknown.
        seconds: that it is estimated to take; None if unknown.
    """
    return {
        "out": str(plan.options.out),
        "scenes": len(plan.jobs),
        "done before": len(plan.done),
        "cannot be read": len(plan.broken),
        "pixels": plan.pixels,
        "bytes": _bytes(plan),
        "workers": workers,
        "seconds": None if seconds is None else round(seconds),
        "largest": [_told(job) for job in plan.jobs[:20]],
        "broken": [asdict(r) for r in plan.broken],
    }


def _told(job: Job) -> dict[str, Any]:
    return {"name": job.name, "scene": unsigned(job.source), "pixels": job.pixels, "parts": job.parts}


def _bytes(plan: BatchPlan) -> int | None:
    """Bytes of the scenes that are single rasters of this machine; None if none is, of items and folders say."""
    paths = (Path(job.source) for job in plan.jobs)
    sizes = [path.stat().st_size for path in paths if path.suffix.lower() not in _ITEMS and path.is_file()]
    return sum(sizes) if sizes or not plan.jobs else None
