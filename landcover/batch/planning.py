"""From a catalog to jobs: what is to be done, what was done before, and what cannot be done, before anything starts."""

import hashlib
import json
import math
import re
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from uuid import uuid4

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from landcover import __version__
from landcover.bands import open_file
from landcover.batch.cluster import share_machine
from landcover.batch.jobs import Job, Needs
from landcover.batch.options import BatchOptions
from landcover.batch.state import FOLDER, Record
from landcover.catalog import Entry, choose, is_pattern, measure, read_catalog
from landcover.chips import Batch
from landcover.engines import Engine, open_engine
from landcover.errors import CatalogError, ConfigError, LandcoverError, SceneError, nearest
from landcover.models import Model, embedded_models, load_model
from landcover.outputs import disk_errors
from landcover.planning import Options, Plan, make_plan
from landcover.products import is_local
from landcover.provenance import without_secrets
from landcover.vectorfiles import FORMATS
from landcover.vectorization import VectorOptions

_THREADS = 8
_MANY = 2000
_CHUNK = 200
"""Headers of scenes are opened by so many threads, or, where there are many scenes, by processes, so many at a time."""

_FEWEST_ROWS = 4
"""Rows of windows in a part, at least: one more is repeated for each."""

_CUT_FROM_ROWS = 16
"""Rows of windows of a scene that is worth cutting."""

_MOSAIC = re.compile(r"mosaic(\.tif|(_\w+)?\.vrt)")
"""What is made of all maps."""

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
    _check_vectors(options, model)
    limit = None if options.only_failed else options.choose.get("limit")
    scenes = _scenes(options)
    told = {e.name: e.datetime for e in scenes}  # what is found out by looking at a scene is no change of it
    entries = choose(scenes, **{**options.choose, "limit": limit})
    mapping = _mapping(options)
    same = _Same(options, mapping, _needs(options, mapping, model), uuid4().hex)
    done, left, broken = [], [], []
    for entry in entries:
        try:
            job = same.job(entry, told[entry.name])
        except SceneError as e:
            broken.append(_broken(entry, e))
            continue
        record = known.get(entry.name)
        if record and not options.overwrite and _still_done(record, job):
            done.append(record)
        elif not options.only_failed or (record and record.state == "failed"):
            left.append((entry, job))
    _check_apart(options, [job for _, job in left])
    if options.only_failed:
        left = left[: options.choose.get("limit")]
    jobs, unreadable = _sized(left)
    broken += unreadable
    if options.strict and broken:
        raise CatalogError(_listed(broken))
    jobs.sort(key=lambda job: (-job.pixels, job.name))
    items = tuple((Path(job.source), entry) for entry, job in left if not entry.source)
    return BatchPlan(options, tuple(jobs), tuple(done), tuple(broken), model, items)


def _scenes(options: BatchOptions) -> list[Entry]:
    """What the catalog names, but not the maps of earlier runs, where their folder lies in that of the scenes."""
    out = options.out.resolve()
    scenes = read_catalog(options.catalog)
    if is_local(options.catalog) and (Path(options.catalog).is_dir() or is_pattern(options.catalog)):
        scenes = [e for e in scenes if not (e.source and _is_output(Path(e.source), out))]
    if not scenes:
        raise CatalogError(f"{options.catalog} names nothing but maps in {out}; give the scenes, not their maps")
    return scenes


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


@lru_cache(maxsize=1000)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def _check_apart(options: BatchOptions, jobs: list[Job]) -> None:
    """Refuse to write over what is read.

    Raises:
        CatalogError: the catalog or a scene has the name of an output.
    """
    out = options.out.resolve()
    read = [Path(s) for s in (options.catalog, *(job.source for job in jobs)) if is_local(s)]
    near = [path for path in read if _is_within(path, out)]
    if not near:
        return
    written = {p for job in jobs for p in (job.item, job.log, *job.outputs.values())}
    together = {"catalog.json", "run.json", f"polygons{options.suffix}"}
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
                path.write_text(json.dumps(_unsigned(entry.item)), encoding="utf-8")


def _unsigned(value: Any) -> Any:
    """A JSON value in which no address has a password or a query."""
    if isinstance(value, dict):
        return {k: _unsigned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_unsigned(v) for v in value]
    if isinstance(value, str) and (value.startswith("/vsi") or "://" in value):
        return without_secrets(value.partition("?")[0].partition("#")[0])
    return value


def _check_vectors(options: BatchOptions, model: Model | None) -> None:
    """Find now what is wrong with the options of polygons, not with every scene."""
    legend = (model or load_model()).spec.legend
    for vectors in (options.vectors, options.merged):
        if vectors is not None:
            if options.suffix not in FORMATS:
                known = [suffix[1:] for suffix in FORMATS]
                raise ConfigError(f"--format {options.suffix[1:]} is not known: {nearest(options.suffix[1:], known)}")
            for name in VectorOptions(**vectors).classes or ():
                legend.id_of(name)


def cut_large(plan: BatchPlan, known: dict[str, Record], workers: int) -> BatchPlan:
    """Let scenes so large that workers would wait for them at the end be mapped in parts.

    A scene that was cut before, and not finished, is cut as it was, so that its finished parts are of use.
    """
    rows = plan.options.part_rows
    if rows == 0:
        return plan
    jobs = []
    for job in plan.jobs:
        before = known.get(job.name)
        if before and before.digest == job.digest and before.part_rows:
            job = replace(job, part_rows=before.part_rows, parts=before.parts)
        elif rows is not None or (workers > 1 and job.pixels * 2 * workers > plan.pixels):
            job = _cut(job, plan.model, rows, workers)
        jobs.append(job)
    return replace(plan, jobs=tuple(jobs))


def check_device(plan: BatchPlan) -> None:
    """Find now what is wrong with device, engine or windows, not with every scene.

    Raises:
        ConfigError: this machine has no such device, or an option is impossible.
    """
    job, device = plan.jobs[0], plan.options.device
    try:
        scene_plan(replace(job, mapping=job.mapping | {"device": device}), plan.model)
    except ConfigError:
        raise
    except LandcoverError:
        pass  # of the scene; whoever is given it will tell


def _cut(job: Job, model: Model | None, rows: int | None, workers: int) -> Job:
    try:
        whole = scene_plan(job, model)
    except LandcoverError:
        return job  # the worker will tell what is wrong with it
    windows = len(whole.grid.window_rows)
    if rows is None and windows < _CUT_FROM_ROWS:
        return job
    most = rows or max(_FEWEST_ROWS, math.ceil(windows / (4 * workers)))
    parts = len(whole.grid.parts(most))
    return job if parts < 2 else replace(job, part_rows=most, parts=parts)


def scene_plan(job: Job, model: Model | None) -> Plan:
    """The plan of one scene, to know its windows; its outputs are not looked at."""
    unwritten = Path(gettempdir()) / "landcover-unwritten.tif"
    return make_plan(Options(job.source, unwritten, model, overwrite=True, **job.mapping))


def measure_rate(plan: BatchPlan) -> float | None:
    """Pixels a second that the network does on all cores of this machine, on one window of the largest scene."""
    job = plan.jobs[0]
    try:
        scene = scene_plan(job, plan.model)
        engine = open_engine(scene.choice, scene.model, scene.scaling, scene.batch_shape, scene.scene.dtype)
        seconds = [_seconds(engine, scene) for _ in range(2)]
    except LandcoverError:
        return None  # whoever is given the scene will tell what is wrong with it
    n, _, height, width = scene.batch_shape
    return n * height * width / min(seconds) / scene.work


def _seconds(engine: Engine, plan: Plan) -> float:
    n, bands, height, width = plan.batch_shape
    dn, valid = np.zeros((n, bands, height, width), plan.scene.dtype), np.ones((n, 1, height, width), bool)
    batch = Batch(0, range(n), dn, valid, valid[:, 0])
    began = time.perf_counter()
    for _ in engine.run([batch]):
        pass
    return time.perf_counter() - began


def _mapping(options: BatchOptions) -> dict[str, Any]:
    """How scenes are mapped, as their workers see it: elsewhere, and one of this machine sees its own card alone."""
    known = {f.name for f in fields(Options)} - {"scene", "out", "model", "overwrite"}
    for name in options.mapping.keys() - known:
        raise ConfigError(f"mapping has no option '{name}': {nearest(name, sorted(known))}")
    one_card = options.scheduler is None and options.device.startswith("cuda:")
    sensor = options.mapping.get("sensor")
    at = {"sensor": str(Path(sensor).absolute())} if sensor and sensor.endswith(".toml") else {}
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

    def __init__(self, options: BatchOptions, mapping: dict[str, Any], needs: Needs, batch: str) -> None:
        self._options, self._mapping, self._needs, self._batch = options, mapping, needs, batch
        self._out = str(options.out.resolve())
        self._content = cache(_content)
        self._polygons = (options.vectors, options.suffix) if options.vectors is not None else None

    def job(self, entry: Entry, told: datetime | None) -> Job:
        """The job of a scene.

        Args:
            entry: with what is known of it.
            told: when it was taken, as the catalog says.

        Raises:
            SceneError: the scene does not exist.
        """
        options = self._options
        own = {k: v for k in _BY_SCENE if (v := getattr(entry, k)) is not None}
        unless = {"sensor", "bands"} if own.keys() & {"sensor", "bands"} else set()
        mapping = {k: v for k, v in self._mapping.items() if k not in unless} | own
        when = entry.datetime.isoformat() if entry.datetime else None
        sensor = self._content(mapping.get("sensor"))
        mapped = _digest(__version__, self._needs.digests, _identity(entry), mapping | sensor, options.confidence)
        source = entry.source or str(Path(self._out) / FOLDER / "items" / f"{entry.name}.json")
        return Job(
            batch=self._batch,
            name=entry.name,
            source=source,
            out=self._out,
            digest=_digest(mapped, self._polygons, told and told.isoformat()),
            map_digest=mapped,
            needs=self._needs,
            mapping=mapping,
            confidence=options.confidence,
            vectors=options.vectors,
            suffix=options.suffix,
            datetime=when,
            pixels=math.prod(entry.size) if entry.size else 0,
        )


def _digest(*facts: Any) -> str:
    """A checksum of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _content(sensor: str | None) -> dict[str, str]:
    """What a sensor's file says in place of where it is; nothing for a sensor with a name."""
    if not sensor or not sensor.endswith(".toml"):
        return {}
    with suppress(OSError):  # whoever is given the scene will tell
        return {"sensor": hashlib.sha256(Path(sensor).read_bytes()).hexdigest()}
    return {}


def _identity(entry: Entry) -> list[Any]:
    """What tells a scene from another, or from itself before it was changed."""
    aoi = [_facts(Path(entry.aoi))] if entry.aoi else []
    if entry.source and not is_local(entry.source):
        return [entry.source.partition("?")[0], *aoi]  # a signed address changes, the scene does not
    path = Path(entry.source)
    if not entry.source or path.suffix.lower() in (".json", ".geojson"):
        item = _read_item(path) if entry.source else entry.item or {"assets": {}}
        hrefs = [str(asset.get("href")) for asset in item["assets"].values()]
        files = [path.parent / href for href in hrefs if is_local(href)]
        return [_digest(_unsigned(item)), *(_facts(p) for p in files if p.exists()), *aoi]
    files = [p for p in sorted(path.rglob("*")) if p.is_file()] if path.is_dir() else [path, *_behind(path)]
    return [_facts(p) for p in files] + aoi


def _behind(path: Path, known: frozenset[Path] = frozenset()) -> list[Path]:
    """The files of this machine that a virtual raster is made of, those of virtual rasters in it too."""
    if path.suffix.lower() != ".vrt" or path in known:
        return []
    files: list[str] = []
    with suppress(SceneError), ExitStack() as stack:  # whoever is given it will tell what is wrong with it
        files = open_file(str(path), stack).files
    found = sorted(p for file in files if (p := Path(file)).is_file() and p != path)
    return found + [p for each in found for p in _behind(each, known | {path})]


def _read_item(path: Path) -> dict[str, Any]:
    """A STAC Item, as far as it tells its assets; whoever is given it will tell what is wrong with it."""
    facts = _facts(path)
    try:
        item = json.loads(path.read_bytes())
        return item if all(isinstance(asset, dict) for asset in item["assets"].values()) else {"assets": {}}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {"assets": {}, "file": facts}


def _facts(path: Path) -> list[Any]:
    try:
        facts = path.stat()
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        reason = "does not exist" if isinstance(e, FileNotFoundError) else f"cannot be read: {why}"
        raise SceneError(f"{path} {reason}; correct the catalog, or bring it back") from e
    return [path.name, facts.st_size, facts.st_mtime_ns]


def _still_done(record: Record, job: Job) -> bool:
    there = all(path.exists() for path in (job.item, *job.outputs.values()))
    return record.state == "done" and record.digest == job.digest and there


def _sized(left: list[tuple[Entry, Job]]) -> tuple[list[Job], list[Record]]:
    """Open the headers of scenes of which the catalog does not tell the size; the others are broken."""
    seen = _measured([entry for entry, _ in left if entry.size is None])
    jobs, broken = [], []
    for entry, job in left:
        found = entry if entry.size else next(seen)
        if isinstance(found, LandcoverError):
            broken.append(_broken(entry, found))
        else:
            when = job.datetime or (found.datetime.isoformat() if found.datetime else None)
            jobs.append(replace(job, pixels=math.prod(found.size or ()), datetime=when))
    return jobs, broken


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
    return Record(entry.name, "", "failed", without_secrets(entry.source), error=without_secrets(str(error)))


def _listed(broken: Iterable[Record]) -> str:
    errors = [record.error for record in broken]
    more = f" … and {len(errors) - 5} more" if len(errors) > 5 else ""
    return f"{len(errors)} of the scenes cannot be read: {' · '.join(errors[:5])}{more}"


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
    return {"name": job.name, "scene": without_secrets(job.source), "pixels": job.pixels, "parts": job.parts}


def _bytes(plan: BatchPlan) -> int:
    """Bytes of the scenes that are files of this machine."""
    return sum(path.stat().st_size for j in plan.jobs if (path := Path(j.source)).is_file())
