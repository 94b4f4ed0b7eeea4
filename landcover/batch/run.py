"""A batch from its catalog to its report: planned, carried out by a cluster, and gathered."""

import json
import logging
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distributed import Client

from landcover import __version__
from landcover.batch import worker
from landcover.batch.cluster import Place, open_cluster, share_machine, workers_for, workers_prepared
from landcover.batch.cutting import cut_large, measure_rate
from landcover.batch.gathering import gather
from landcover.batch.identity import unsigned
from landcover.batch.jobs import Job
from landcover.batch.options import BatchOptions
from landcover.batch.planning import BatchPlan, describe, items_for_workers, plan_batch
from landcover.batch.schedule import Finished, Schedule, Told
from landcover.batch.state import Record, State, known_records, open_state
from landcover.outputs import publish_text

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """The batch is planned, and its workers are there.

    Attributes:
        plan: what is to be done.
        workers: there are.
        dashboard: address of Dask's dashboard; "" where there is none.
    """

    plan: BatchPlan
    workers: int
    dashboard: str = ""


@dataclass(frozen=True)
class Summary:
    """What came of a batch.

    Attributes:
        records: of all scenes chosen, in the order of their names.
        report: run.json.
        outputs: what was made of all maps together, by what it is.
        notes: what the person should know of them.
        unmade: what was asked for of all maps together, and could not be made; a note says why.
    """

    records: tuple[Record, ...]
    report: Path
    outputs: dict[str, list[str]]
    notes: tuple[str, ...]
    unmade: tuple[str, ...]

    @property
    def failed(self) -> tuple[Record, ...]:
        return tuple(r for r in self.records if r.state == "failed")


Event = Begun | Told | Record | Summary


def run_batch(options: BatchOptions) -> Generator[Event, None, None]:
    """Map the scenes of a catalog, as far as that was not done before.

    Yields:
        Begun once; Told now and then; a Record for each scene that is over; the Summary at the end.

    Raises:
        LandcoverError: the catalog, the model, an option or the cluster cannot be used. That a scene cannot be mapped
            is not an error of the batch: it stands in its record.
    """
    began = datetime.now(UTC)
    with open_state(options.out) as state:
        known = state.records()
        plan = plan_batch(options, known)
        state.save(plan.broken)
        over = [*plan.done, *plan.broken]
        if plan.jobs:
            with items_for_workers(plan):
                for event in _carry_out(plan, known, state):
                    if isinstance(event, Record):
                        over.append(event)
                    yield event
        else:
            yield Begun(plan, 0)
            if options.only_failed and not plan.broken:
                yield Told("none of the scenes chosen failed the last time")
        over.sort(key=lambda record: record.name)
        _report(options, over, {}, began)  # whatever happens to what is made of them
        gathered = yield from gather(options, [r for r in over if r.state == "done"], state)
        report = _report(options, over, gathered.outputs, began)
    yield Summary(tuple(over), report, gathered.outputs, tuple(gathered.notes), tuple(gathered.unmade))


def foresee(options: BatchOptions) -> dict[str, Any]:
    """Plan a batch, and say what it would do, without doing it.

    Raises:
        LandcoverError: as for `run_batch`.
    """
    known = known_records(options.out)
    plan, places = _placed(plan_batch(options, known), known)
    rate = measure_rate(plan) if plan.jobs else None
    seconds = plan.pixels / rate if rate else None
    return describe(plan, len(places) or None, seconds)


def _placed(plan: BatchPlan, known: dict[str, Record]) -> tuple[BatchPlan, list[Place]]:
    """Cut scenes for the workers of this machine, and share it among as many as have something to do; not elsewhere."""
    options = plan.options
    if options.scheduler:
        return plan, []
    plan = cut_large(plan, known, len(share_machine(options.workers, options.device)))
    return plan, share_machine(options.workers, options.device, plan.tasks)


def _carry_out(plan: BatchPlan, known: dict[str, Record], state: State) -> Iterator[Begun | Told | Record]:
    options = plan.options
    plan, places = _placed(plan, known)
    first = plan.jobs[0]
    with ExitStack() as stack:
        client = stack.enter_context(open_cluster(options.scheduler, places))
        to_send = plan.model if options.scheduler else None
        stack.enter_context(workers_prepared(client, first.needs, to_send, first.batch))
        workers = len(places) or len(workers_for(client, first.needs.device)[0])
        plan = cut_large(plan, known, workers) if options.scheduler else plan
        if options.overwrite:
            for job in plan.jobs:
                worker.discard(job)
        state.save(_record(job, "begun") for job in plan.jobs if job.part_rows)
        yield Begun(plan, workers, client.dashboard_link if options.scheduler or find_spec("bokeh") else "")
        stack.enter_context(_stopping(client, plan))
        yield from _keep(Schedule(client, plan.jobs, options.retries), state)


def _keep(schedule: Schedule, state: State) -> Iterator[Told | Record]:
    """Turn the ends of tasks into records of scenes, and keep those."""
    so_far: dict[str, Record] = {}
    told: set[str] = set()
    for event in schedule.run():
        if isinstance(event, Told):
            yield event
            continue
        record = _added(event, so_far.get(event.task.job.name))
        if record.state == "failed" and record.name in so_far and so_far[record.name].state == "failed":
            continue  # another part of the same scene
        so_far[record.name] = record
        for note in event.outcome.notes if event.task.part is None or record.name not in told else ():
            told.add(record.name)  # of parts, the first that has something to say says it for all
            yield Told(f"{record.name}: {note}")
        if record.state != "begun":
            state.save([record])
            yield record


def _added(event: Finished, before: Record | None) -> Record:
    """The record of a scene when one more of its tasks is over."""
    task, outcome = event.task, event.outcome
    state = "begun" if task.part is not None and outcome.state == "done" else outcome.state
    before = before or _record(task.job, "begun")
    if before.state == "failed":
        return before
    return replace(
        before,
        state=state,
        pixels=before.pixels + outcome.pixels,
        seconds=before.seconds + outcome.seconds,
        worker=outcome.worker,
        attempts=max(before.attempts, task.attempt + 1),
        error=outcome.error,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _record(job: Job, state: str) -> Record:
    return Record(
        job.name,
        job.digest,
        state,
        unsigned(job.source),
        job.datetime or "",
        part_rows=job.part_rows or 0,
        parts=job.parts,
    )


@contextmanager
def _stopping(client: Client, plan: BatchPlan) -> Iterator[None]:
    """Let workers stop at the next window if the block fails; they keep what is finished."""
    try:
        yield
    except BaseException:
        _log.warning("What is finished is kept in %s: the same command goes on from there", plan.options.out)
        with suppress(Exception):
            client.run(worker.stop, plan.jobs[0].batch, wait=False, on_error="ignore")
        raise


def _report(options: BatchOptions, over: list[Record], outputs: dict[str, Any], began: datetime) -> Path:
    path = options.out / "run.json"
    states = [record.state for record in over]
    report = {
        "landcover": __version__,
        "catalog": unsigned(options.catalog),
        "began": began.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "done": states.count("done"),
        "failed": states.count("failed"),
        "outputs": outputs,
        "scenes": [asdict(record) for record in over],
    }
    publish_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return path
