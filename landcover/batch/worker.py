"""What a worker does: it maps a scene or a part of one, makes polygons, and leaves an item as the receipt.

A scene's folder tells by itself what is finished: a journal the rows, raw files the parts, a mark the map, and the item
all of it. So whoever is given the task next goes on from there, whatever died before.
"""

import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin, get_worker

from landcover import __version__
from landcover.batch.jobs import Job, Needs, Outcome, Task
from landcover.engines import Engine, EngineChoice, choose_engine, open_engine
from landcover.errors import (
    BandError,
    BatchError,
    BusyError,
    ConfigError,
    EmptyError,
    LandcoverError,
    PlaceError,
    ResolutionError,
    StaleError,
)
from landcover.items import map_item, write_item
from landcover.journal import kept_engines
from landcover.models import Model, embedded_models, load_model
from landcover.outputs import disk_errors, publish_text
from landcover.planning import Options, Plan, make_plan
from landcover.prediction import join_parts, map_part, map_scene
from landcover.processors import own_cores, own_threads
from landcover.provenance import without_secrets
from landcover.scaling import Scaling

TOPIC = "landcover"
"""Under which workers tell how far they are."""

REPORT_SECONDS = 1.0

_LASTING = (BandError, EmptyError, PlaceError, ResolutionError)
"""Errors that come of what a scene is; others may pass, as those of servers, disks and memory do."""

_log = logging.getLogger("landcover")
_one_at_a_time = threading.Lock()
_stopped: set[str] = set()
_sent: dict[str, Path] = {}


def work(task: Task) -> Outcome:
    """Carry out a task; whatever goes wrong is the outcome, and stands in the log of the scene."""
    began = time.perf_counter()
    who = f"{socket.gethostname()}:{os.getpid()}"
    with _one_at_a_time:
        try:
            _use_own_cores()
            with _log_of(task), _warned() as warnings:
                outcome = _attempt(task)
            outcome = replace(outcome, notes=outcome.notes + tuple(warnings))
        except _UnfitError as e:
            outcome = Outcome("refused", error=str(e))
        except LandcoverError as e:  # the log cannot be written
            outcome = Outcome("failed", error=str(e))
    return replace(outcome, worker=who, address=_address(), seconds=time.perf_counter() - began)


def _address() -> str:
    with suppress(ValueError):  # there is no worker where a task is carried out without Dask
        return get_worker().address
    return ""


async def stop(batch: str) -> None:
    """Let tasks of a batch come to an end at the next window; finished rows are in the journal."""
    _stopped.add(batch)


def fingerprint(engine: dict[str, Any]) -> dict[str, Any]:
    """What makes a worker's maps: the version, and the embedded models.

    Raises:
        ConfigError: it has not the engine or the device that is asked for.
    """
    _check_engine(**engine)
    return {"version": __version__, "digests": _embedded_digests()}


@lru_cache(maxsize=8)
def _check_engine(**engine: Any) -> None:
    try:
        choose_engine(**engine)
    except ImportError as e:
        raise ConfigError(f"the engine cannot be loaded: {e}; `landcover doctor` tells what is there") from e


class SendModel(WorkerPlugin):
    """Brings a model folder to every worker, also to those that join later and share no disk."""

    def __init__(self, model: Model, batch: str) -> None:
        self.name = f"landcover-{batch}"
        self._digest = model.digest
        self._files = {p.name: p.read_bytes() for p in model.folder.iterdir() if p.suffix in (".safetensors", ".json")}

    def setup(self, worker: Any) -> None:
        folder = Path(worker.local_directory) / f"landcover-model-{self._digest}"
        folder.mkdir(exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        _sent[self._digest] = folder


def has_model(digest: str) -> bool:
    """Whether the model was sent here, whole."""
    return digest in _sent and _load(str(_sent[digest])).digest == digest


def dask_setup(worker: Any) -> None:
    """Let a worker of this machine not be interrupted together with the command, which ends it in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _StoppedError(Exception):
    """The batch was asked to stop."""


class _UnfitError(BatchError):
    """The worker is not like the others."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the worker on {socket.gethostname()} {why}")


def _attempt(task: Task) -> Outcome:
    try:
        _check(task.job.needs)
        return _carry_out(task)
    except _StoppedError:
        return Outcome("stopped")
    except BusyError as e:
        return Outcome("busy", error=str(e))
    except _UnfitError as e:
        return Outcome("refused", error=str(e))
    except LandcoverError as e:
        said = without_secrets(str(e))
        _log.error("%s", said)
        return Outcome("failed", error=said, lasting=isinstance(e, _LASTING))
    except Exception as e:  # noqa: BLE001 - one scene's failure must not end the others; it is told with the scene
        _log.error("%s", without_secrets(traceback.format_exc()))
        return Outcome("failed", error=without_secrets(f"{type(e).__name__}: {e} (see {task.job.log})"))


def _carry_out(task: Task) -> Outcome:
    job = task.job
    if task.part is not None:
        return _map_part(task)
    if is_finished(job):
        _tidy(job)
        return Outcome("done", notes=("was finished before",))
    outcome = Outcome("done")
    if not _is_mapped(job):
        forget(job)
        outcome = _map(task)
    _mark(job)
    notes = outcome.notes + _make_polygons(job)
    write_item(_item(job), job.item)
    _tidy(job)
    return replace(outcome, notes=notes)


def is_finished(job: Job) -> bool:
    """Whether all outputs of a job are there: the item is written last, and holds the digest."""
    return _receipt(job, "digest") == job.digest and all(path.exists() for path in job.outputs.values())


def forget(job: Job) -> None:
    """Let nothing say that outputs are finished: they are about to be replaced."""
    with disk_errors(job.folder):
        job.item.unlink(missing_ok=True)
        job.mark.unlink(missing_ok=True)


def discard(job: Job) -> None:
    """Let all of a scene be made again, parts too."""
    forget(job)
    _tidy(job)


def _tidy(job: Job) -> None:
    """Let nothing lie there that a finished scene does not need: the mark, and raw parts."""
    job.mark.unlink(missing_ok=True)
    for parts in job.folder.glob(".parts-*"):
        shutil.rmtree(parts, ignore_errors=True)


def _mark(job: Job) -> None:
    """Note that the map is there, and that what else there is may be replaced."""
    publish_text(job.mark, job.map_digest)
    with disk_errors(job.folder):
        job.item.unlink(missing_ok=True)


def _is_mapped(job: Job) -> bool:
    """Whether the map is there already: all that is left, or all that has changed, is of the polygons."""
    told = _receipt(job, "map_digest"), _reads(job.mark)
    return job.map_digest in told and all(path.exists() for key, path in job.outputs.items() if key != "polygons")


def _receipt(job: Job, key: str) -> Any:
    """What the item of a scene says of how its outputs came about; None if it says nothing."""
    with suppress(OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError):
        return json.loads(job.item.read_bytes())["properties"][f"landcover:{key}"]
    return None


def _map(task: Task) -> Outcome:
    """Map a scene, or join its parts."""
    job = task.job
    plan = _plan(job)
    _log.info("Mapping %s with %s, %s", job.name, plan.model.spec.name, plan.choice)
    _log.info("%s", without_secrets(json.dumps(plan.facts, ensure_ascii=False)))
    notes = (f"mapped with {plan.model.spec.name}, for it does not suit the default model",) if plan.why else ()
    if plan.why:
        _log.info("%s", without_secrets(plan.why))
    if job.part_rows is not None:
        _follow(task, join_parts(plan, plan.parts(job.part_rows, job.parts_folder)), tell=False)
        return Outcome("done", notes=notes)
    _gone_on_from(task, plan, map_scene)
    pixels, model = plan.grid.region.height * plan.grid.region.width, plan.model.spec.name
    return Outcome("done", pixels=pixels, notes=notes, model=model, engine=_name(plan.choice))


def _name(choice: EngineChoice) -> str:
    """What makes maps of the same scene equal, bit by bit, on the same kind of processor."""
    return f"{choice.engine} on {choice.device.partition(':')[0]} in {choice.precision}"


def _map_part(task: Task) -> Outcome:
    """Map a part, if that was not done before."""
    job = task.job
    assert job.part_rows is not None, "a part is one of those that a job was cut into"
    assert task.part is not None
    if is_finished(job) or _is_mapped(job):
        return Outcome("done")
    with disk_errors(job.parts_folder):
        job.parts_folder.mkdir(parents=True, exist_ok=True)
    part = _plan(job).parts(job.part_rows, job.parts_folder)[task.part]
    if kept_engines(part.layers, part.facts) is not None:
        return Outcome("done")
    _log.info("Mapping %s, rows %d to %d", task.name, part.grid.region.row0, part.grid.region.row1)
    _gone_on_from(task, part, map_part)
    pixels, model = part.grid.region.height * part.grid.region.width, part.model.spec.name
    return Outcome("done", pixels=pixels, model=model, engine=_name(part.choice))


def _gone_on_from(task: Task, plan: Plan, how: Any) -> None:
    """Map from where an earlier run stopped, or anew where what it left is of no use to this one."""
    try:
        _follow(task, how(plan, _same_engine))
    except StaleError as e:
        _log.warning("%s; starting over", e)
        _follow(task, how(replace(plan, options=replace(plan.options, resume=False)), _same_engine))


def _follow(task: Task, done: Generator[int, None, None], tell: bool = True) -> None:
    """Let pixels be made, tell how far they are, and stop when asked to."""
    told = 0.0
    with closing(done):
        for pixels in done:
            if task.job.batch in _stopped:
                raise _StoppedError
            if tell and time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                _tell(task, pixels)


def _tell(task: Task, pixels: int) -> None:
    with suppress(ValueError):  # there is no worker where a task is carried out without Dask
        get_worker().log_event(TOPIC, {"batch": task.job.batch, "task": task.name, "pixels": pixels})


def _plan(job: Job) -> Plan:
    confidence = job.outputs.get("confidence")
    return make_plan(
        Options(job.source, job.map, _model(job.needs), confidence=confidence, overwrite=True, **job.mapping)
    )


def _make_polygons(job: Job) -> tuple[str, ...]:
    if job.polygons is None:
        return ()
    from landcover.vectorization import vectorize

    confidence = job.outputs.get("confidence")  # where there is one, polygons tell its mean
    how = {"allow_no_crs": job.mapping.get("allow_no_crs", False)} | (job.vectors or {})
    return vectorize(job.map, job.polygons, overwrite=True, confidence=confidence, **how).notes


def _item(job: Job) -> dict[str, Any]:
    when = datetime.fromisoformat(job.datetime) if job.datetime else None
    return map_item(
        job.item,
        name=job.name,
        assets=job.outputs,
        source=job.source,
        datetime=when,
        facts={"landcover:digest": job.digest, "landcover:map_digest": job.map_digest},
    )


def _check(needs: Needs) -> None:
    """Refuse to work where the maps would come out differently from those of the other workers."""
    if needs.version != __version__:
        raise _UnfitError(f"has landcover {__version__}, the batch {needs.version}; install the same version")
    if needs.model is None:
        if _embedded_digests() != needs.digests:
            raise _UnfitError("has other embedded models than the batch; install the same version")
    else:
        _model(needs)
    try:
        _check_engine(**needs.engine)
    except ConfigError as e:
        raise _UnfitError(f"cannot map as it is asked to: {e}") from e


def _embedded_digests() -> dict[str, str]:
    return {name: _load(name).digest for name in embedded_models()}


def _model(needs: Needs) -> Model | None:
    """The model that is asked for, loaded once."""
    if needs.model is None:
        return None
    (digest,) = needs.digests.values()
    name = str(_sent.get(digest, needs.model))
    try:
        if (model := _load(name)).digest != digest:  # it was edited since, perhaps
            _load.cache_clear()
            model = _load(name)
    except LandcoverError as e:
        raise _UnfitError(f"cannot load the model: {e}") from e
    if model.digest != digest:
        _load.cache_clear()
        raise _UnfitError(
            f"has another model at {needs.model} than the batch, by its weights or its card; copy it there"
        )
    return model


@lru_cache(maxsize=8)
def _load(name: str) -> Model:
    return load_model(name)


class _SameEngine:
    """Gives the last engine again for the next scene of the same shape: to make one ready takes longer than a chip."""

    def __init__(self) -> None:
        self._key: tuple | None = None
        self._engine: Engine | None = None

    def __call__(
        self, choice: EngineChoice, model: Model, scaling: Scaling, shape: tuple[int, ...], dtype: str, at_once: int
    ) -> Engine:
        scaled = scaling.gain.tobytes(), scaling.bias.tobytes()
        key = (choice, model.digest, model.factor, scaled, shape, dtype, at_once)
        if key != self._key or self._engine is None:
            self._key, self._engine = None, None  # its memory is free before the next one is made
            self._engine, self._key = open_engine(choice, model, scaling, shape, dtype, at_once), key
        return self._engine


_same_engine = _SameEngine()


@contextmanager
def _log_of(task: Task) -> Iterator[None]:
    """Let what the package says during a task stand in the log of the scene."""
    job = task.job
    with disk_errors(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(job.log, encoding="utf-8")
    file.handleError = lambda record: None  # type: ignore[method-assign]  # a log that finds no room stops no work
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = _log.level
    _log.addHandler(file)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.setLevel(before)
        _log.removeHandler(file)
        with suppress(OSError):
            file.close()


@contextmanager
def _warned() -> Iterator[list[str]]:
    """What is said of a scene while it is mapped that the person should know."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(without_secrets(record.getMessage()))  # type: ignore[method-assign]
    mapping = logging.getLogger("landcover.prediction")
    mapping.addHandler(handler)
    try:
        yield warnings
    finally:
        mapping.removeHandler(handler)


def _use_own_cores() -> None:
    """Keep to the cores that this worker was given, if it was; what it starts keeps to them too."""
    try:
        cores, _ = own_cores(), own_threads()
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
    except (ConfigError, OSError) as e:
        raise _UnfitError(f"cannot use its cores: {e}; correct LANDCOVER_CORES or LANDCOVER_THREADS") from e


def _reads(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
