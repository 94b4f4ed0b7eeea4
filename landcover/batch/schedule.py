"""Who does what next: the largest scene first, one for each worker, failures again elsewhere, and killers apart."""

import heapq
import queue
import statistics
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from landcover.batch import cluster, worker
from landcover.batch.jobs import Job, Outcome, Task
from landcover.errors import BatchError

_TICK_SECONDS = 0.25
_COUNT_SECONDS = 1.0
_JUDGED_AT_ONCE = 50
_BUSY_SECONDS = 3.0
"""Until an output that another process holds is asked for again."""

BUSY_LIMIT_SECONDS = 900.0
RESULT_SECONDS = 20.0
"""Until the worker that holds the outcome of a task is given up."""

SHORT_SECONDS = 5.0
"""Tasks that are shorter are handed out before a worker is free, so that it need not wait for the client."""


_GONE = "the scheduler is gone; start it again and repeat the command: it goes on where it stopped"


@dataclass(frozen=True)
class Finished:
    """A task is over for good."""

    task: Task
    outcome: Outcome


@dataclass(frozen=True)
class Told:
    """Something the person should know, or only a sign of life where there is no text.

    Attributes:
        text: a sentence, or "".
        pixels: of unfinished tasks, mapped so far.
        workers: there are.
        running: tasks that are under way.
    """

    text: str = ""
    pixels: int = 0
    workers: int = 0
    running: int = 0


@dataclass(order=True)
class _Waiting:
    rank: tuple
    task: Task = field(compare=False)


class Schedule:
    """Hands tasks to the workers of a cluster.

    At most as many are handed out as there are workers (twice as many where they are short), so that a worker that
    dies takes few others along, and the largest are always begun first.
    """

    def __init__(self, client: Client, jobs: tuple[Job, ...], retries: int) -> None:
        self._client = client
        self._retries = retries
        self._waiting: list[_Waiting] = []
        self._later: deque[tuple[float, Task]] = deque()
        self._killers: deque[Task] = deque()
        self._running: dict[Future, tuple[Task, bool]] = {}
        self._ended: deque[tuple[Future, Task, bool]] = deque()
        self._over: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._parts_left = Counter({job.name: job.parts for job in jobs if job.part_rows})
        self._busy_since: dict[str, float] = {}
        self._seconds: deque[float] = deque(maxlen=50)
        self._pixels: dict[str, int] = {}
        self._avoided: dict[str, str] = {}
        self._dropped: set[str] = set()
        self._missing: set[str] = set()  # what workers without landcover said
        self._engines: dict[str, set[str]] = {}
        self._lonely = False
        self._device = jobs[0].needs.device if jobs else "auto"
        self._there: set[str] = set()
        self._addresses: tuple[str, ...] = ()  # of those that may have tasks
        self._resources: dict[str, float] = {}
        self._counted = float("-inf")
        self._asked = 0
        for job in jobs:
            self._wait(*([Task(job, i) for i in range(job.parts)] if job.part_rows else [Task(job)]))

    def run(self) -> Iterator[Finished | Told]:
        """Carry out all tasks; yields what happens, and a sign of life a few times a second.

        Raises:
            BatchError: the scheduler is gone.
        """
        self._client.subscribe_topic(worker.TOPIC, self._hear)
        try:
            while self._waiting or self._later or self._killers or self._running or self._ended:
                yield from self._count()
                self._hand_out()
                self._take_ended()
                self._hand_out()  # their workers are free before it is looked at what came out
                yield from self._judge_ended()
                yield Told("", sum(self._pixels.values()), len(self._addresses), len(self._running))
        except OSError as e:  # of a connection; tasks hand back their errors as outcomes
            raise BatchError(_GONE) from e

    def _wait(self, *tasks: Task) -> None:
        for task in tasks:
            if task.job.name in self._dropped:
                continue
            pixels = task.job.pixels // max(task.job.parts, 1)
            heapq.heappush(self._waiting, _Waiting((-pixels, task.job.name, task.part or 0), task))

    def _hear(self, event: tuple[float, Any]) -> None:
        _, said = event
        if said["task"] in self._pixels:
            self._pixels[said["task"]] = said["pixels"]

    def _count(self) -> Iterator[Told]:
        """See how many workers there are, now and then."""
        if time.monotonic() - self._counted < _COUNT_SECONDS:
            return
        self._counted = time.monotonic()
        self._check_scheduler()
        before, there = self._addresses, set(self._client.nthreads())
        if there != self._there or not self._addresses:
            self._there = there
            self._look()
        if not self._addresses and not self._lonely:
            kind = "workers with cards" if self._resources else "workers"
            yield Told(f"no {kind}{' are left' if before else ''}; waiting for some")
        self._lonely = not self._addresses

    def _look(self) -> None:
        """See which workers may have tasks. Once some had cards, others are waited for when they are gone."""
        self._addresses, resources = cluster.workers_for(self._client, self._device)
        if self._resources and not resources:
            self._addresses = ()
        self._resources = self._resources or resources

    def _check_scheduler(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise BatchError(_GONE)

    def _hand_out(self) -> None:
        """Give tasks to workers that have none; those that may kill their worker are tried alone, at the end."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._wait(self._later.popleft()[1])
        short = bool(self._seconds) and statistics.median(self._seconds) < SHORT_SECONDS
        free = len(self._addresses) * (2 if short else 1) - len(self._running)
        tasks = [heapq.heappop(self._waiting).task for _ in range(min(free, len(self._waiting)))]
        again = [task for task in tasks if task.name in self._avoided]
        self._submit([task for task in tasks if task.name not in self._avoided])
        for task in again:
            self._submit([task], **self._elsewhere(task))
        busy = self._running or self._ended or self._waiting or self._later
        if self._killers and not busy and self._addresses:
            self._submit([self._killers.popleft()], alone=True)

    def _submit(self, tasks: list[Task], alone: bool = False, **where: Any) -> None:
        """Hand out tasks together, since each message costs the scheduler some milliseconds."""
        if not tasks:
            return
        keys = [f"landcover-{task.job.batch[:8]}-{self._asked + i}" for i, task in enumerate(tasks)]
        self._asked += len(tasks)
        where |= {"resources": self._resources} if self._resources else {}
        futures = self._client.map(worker.work, tasks, key=keys, pure=False, **where)
        for task, future in zip(tasks, futures, strict=True):
            self._running[future] = task, alone
            self._pixels[task.name] = 0
            future.add_done_callback(self._over.put)

    def _elsewhere(self, task: Task) -> dict[str, Any]:
        """What failed on one worker is tried on another, if there is one.

        Not where workers declare cards: when the others are gone, Dask would drop this wish and the card with it.
        """
        others = [a for a in self._addresses if a != self._avoided[task.name]] if not self._resources else []
        return {"workers": others, "allow_other_workers": True} if others else {}

    def _take_ended(self) -> None:
        """Take what is over from what is running, waiting a moment for it if there is nothing else to do."""
        wait = not self._ended
        with suppress(queue.Empty):
            while True:
                future = self._over.get(wait, timeout=_TICK_SECONDS)
                if future in self._running:
                    self._ended.append((future, *self._running.pop(future)))
                wait = False

    def _judge_ended(self) -> Iterator[Finished | Told]:
        some = [self._ended.popleft() for _ in range(min(len(self._ended), _JUDGED_AT_ONCE))]
        finished = [future for future, _, _ in some if future.status == "finished"]
        outcomes = self._gathered(finished) if finished else {}
        for future, task, alone in some:
            self._pixels.pop(task.name, None)
            if future in outcomes:
                yield from self._judge(task, outcomes[future])
            else:
                yield from self._end(future, task, alone)
            future.release()

    def _gathered(self, futures: list[Future]) -> dict[Future, Outcome]:
        """Get outcomes together, which spares the scheduler most of its work; none if one of them cannot be had."""
        try:
            found = self._client.sync(
                lambda: self._client.gather(futures, asynchronous=True), callback_timeout=RESULT_SECONDS
            )
        except (TimeoutError, CancelledError):
            return {}
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - of one of the tasks, which was begun again as its outcome was lost
            return {}
        return dict(zip(futures, found, strict=True))

    def _end(self, future: Future, task: Task, alone: bool) -> Iterator[Finished | Told]:
        """End a task that failed, or of which the outcome could not be had together with others."""
        if future.status == "finished":
            yield from self._fetch(task, alone, future)
        elif future.status == "error":
            yield from self._judge_error(task, alone, future.exception())
        else:  # lost with the scheduler, or cancelled by somebody
            self._check_scheduler()
            self._wait(task)

    def _fetch(self, task: Task, alone: bool, future: Future) -> Iterator[Finished | Told]:
        """Get one outcome from the worker that holds it."""
        try:
            outcome = future.result(timeout=RESULT_SECONDS)
        except (TimeoutError, CancelledError):  # it died or hangs; the scene's folder tells the next one what is done
            self._check_scheduler()
            self._wait(task)
        except OSError:
            raise
        except Exception as e:  # noqa: BLE001 - it was begun again as its outcome was lost, and failed
            yield from self._judge_error(task, alone, e)
        else:
            yield from self._judge(task, outcome)

    def _judge_error(self, task: Task, alone: bool, error: Any) -> Iterator[Finished | Told]:
        missing = isinstance(error, ImportError | AttributeError)
        if missing and (unfit := cluster.unfit_workers(self._client, self._addresses)):
            self._missing.add(str(error))
            yield from self._retire(task, unfit)
        elif missing and str(error) in self._missing:
            self._wait(task)  # of a worker that was sent home meanwhile
        elif not isinstance(error, KilledWorker):
            yield from self._judge(task, Outcome("failed", error=f"{type(error).__name__}: {error}"))
        elif alone:
            self._drop_parts(task.job)
            yield Finished(
                task, Outcome("failed", error="every worker that began it died; has it the memory it needs?")
            )
        else:
            self._killers.append(task)
            yield Told(f"{task.name}: workers died while they had it; it will be tried alone at the end")

    def _judge(self, task: Task, outcome: Outcome) -> Iterator[Finished | Told]:
        if outcome.state == "done":
            self._seconds.append(outcome.seconds)
            yield from self._compare(outcome)
            self._busy_since.pop(task.name, None)
            yield Finished(task, outcome)
            if task.part is not None:
                self._parts_left[task.job.name] -= 1
                if not self._parts_left[task.job.name]:
                    self._wait(Task(task.job))
        elif outcome.state == "busy":
            yield from self._busy(task, outcome)
        elif outcome.state == "refused":
            yield from self._retire(task, {outcome.address: outcome.error})
        elif outcome.state == "failed" and task.attempt < self._retries and not outcome.lasting:
            yield Told(f"{task.name}: {outcome.error}; trying again")
            self._avoided[task.name] = outcome.address
            self._wait(replace(task, attempt=task.attempt + 1))
        else:
            self._drop_parts(task.job)
            yield Finished(task, outcome)

    def _compare(self, outcome: Outcome) -> Iterator[Told]:
        """Tell when workers do not compute alike; of two models, each may have an engine of its own."""
        engines = self._engines.setdefault(outcome.model, set())
        if outcome.engine and outcome.engine not in engines:
            engines.add(outcome.engine)
            if len(engines) > 1:
                kinds = " and ".join(sorted(engines))
                yield Told(f"workers compute with {kinds}: maps of the same land may differ a little between them")

    def _drop_parts(self, job: Job) -> None:
        """Do not begin parts of a scene of which one has failed."""
        self._dropped.add(job.name)
        self._waiting = [w for w in self._waiting if w.task.job.name != job.name]
        heapq.heapify(self._waiting)
        self._killers = deque(t for t in self._killers if t.job.name != job.name)

    def _busy(self, task: Task, outcome: Outcome) -> Iterator[Finished | Told]:
        """Wait for another process to let go of the outputs: a worker that was given up, perhaps, and has not ended."""
        if task.name not in self._busy_since:
            yield Told(f"{task.name}: {outcome.error}; asking again")
        since = self._busy_since.setdefault(task.name, time.monotonic())
        if time.monotonic() - since < BUSY_LIMIT_SECONDS:
            self._later.append((time.monotonic() + _BUSY_SECONDS, task))
        else:
            yield Finished(task, replace(outcome, state="failed"))

    def _retire(self, task: Task, unfit: dict[str, str]) -> Iterator[Finished | Told]:
        """Send home workers that are not like the others, for the reason of each; raises if they were the last."""
        for error in unfit.values():
            yield Told(error)
        self._client.retire_workers(list(unfit), close_workers=True)
        self._counted = float("-inf")
        self._look()
        if not set(self._addresses) - set(unfit):  # the last one stays, for it holds what it said
            raise BatchError(next(iter(unfit.values())))
        self._wait(task)
