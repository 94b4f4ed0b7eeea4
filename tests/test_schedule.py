"""Who does what next, with a cluster that answers at once: every scene ends once, whatever its workers do."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from distributed.scheduler import KilledWorker
from hypothesis import given
from hypothesis import strategies as st

from landcover.batch import schedule
from landcover.batch.jobs import Job, Needs, Outcome, Task
from landcover.batch.schedule import Finished, Schedule, Told
from landcover.errors import BatchError

DONE = Outcome("done", seconds=60)


class Lost:
    """An outcome of a worker that died before it told it."""


@dataclass(eq=False)
class Future:
    """What became of a task, known at once."""

    value: Any

    @property
    def status(self) -> str:
        return "error" if isinstance(self.value, Exception) else "finished"

    def result(self, timeout: float) -> Outcome:
        if isinstance(self.value, Lost):
            raise TimeoutError
        return self.value

    def exception(self) -> Exception:
        return self.value

    def add_done_callback(self, tell: Callable) -> None:
        tell(self)

    def release(self) -> None:
        pass


@dataclass
class Cluster:
    """Stands in for a client: each task is answered by a function, and noted."""

    answer: Callable[[Task], Outcome | Exception]
    addresses: list[str] = field(default_factory=lambda: ["w1", "w2"])
    status: str = "running"
    given: list[Task] = field(default_factory=list)
    where: list[dict] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    bare: tuple[str, ...] = ()
    cards: dict[str, float] = field(default_factory=dict)
    stays: bool = False

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.addresses, 1)

    @property
    def scheduler(self) -> "Cluster":
        return self

    def identity(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1  # all
        return {
            "workers": {a: {"resources": {"GPU": self.cards[a]} if a in self.cards else {}} for a in self.addresses}
        }

    def map(self, _work: Callable, tasks: list[Task], *, key: list[str], pure: bool, **where: Any) -> list[Future]:
        assert len(set(key)) == len(key) == len(tasks)
        self.given += tasks
        self.where += [where] * len(tasks)
        return [Future(self.answer(task)) for task in tasks]

    def sync(self, call: Callable, callback_timeout: float | None = None, **how: Any) -> Any:
        return call(**how)

    def gather(self, futures: list[Future], asynchronous: bool) -> list[Outcome]:
        return [future.result(timeout=0) for future in futures]

    def retire_workers(self, addresses: list[str], close_workers: bool) -> None:
        self.retired += addresses
        left = [a for a in self.addresses if a not in addresses]
        self.addresses = left or (self.addresses if self.stays else [])

    def run(self, _what: Callable, _engine: dict[str, Any], workers: list[str], on_error: str) -> dict[str, Any]:
        return {a: ImportError("No module named 'landcover'") if a in self.bare else {} for a in workers}

    def subscribe_topic(self, _topic: str, _hear: Callable) -> None:
        pass


def job(name: str, pixels: int = 100, parts: int = 0) -> Job:
    needs = Needs("1", None, {})
    return Job("b", name, name, "out", "d", "m", needs, pixels=pixels, part_rows=4 if parts else None, parts=parts)


def ended(cluster: Cluster, *jobs: Job, retries: int = 1) -> dict[str, Outcome]:
    """Run a schedule; gives how each task ended, by its name."""
    over = [e for e in Schedule(cluster, jobs, retries).run() if isinstance(e, Finished)]
    names = [e.task.name for e in over]
    assert len(names) == len(set(names)), "a task ended twice"
    return {e.task.name: e.outcome for e in over}


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_every_scene_ends_once_and_the_largest_begins_first(sizes: list[int]) -> None:
    cluster = Cluster(lambda task: DONE)
    jobs = [job(f"s{i}", size) for i, size in enumerate(sizes)]
    assert set(ended(cluster, *jobs)) == {j.name for j in jobs}
    assert [t.job.pixels for t in cluster.given] == sorted(sizes, reverse=True)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_failure_is_tried_again_on_another_worker(retries: int) -> None:
    cluster = Cluster(lambda task: Outcome("failed", address="w1", error="no such band") if task.name == "b" else DONE)
    over = ended(cluster, job("a"), job("b"), job("c"), retries=retries)
    assert over["b"].state == "failed"
    assert over["b"].error == "no such band"
    assert {over[name].state for name in "ac"} == {"done"}
    tries = [w for t, w in zip(cluster.given, cluster.where, strict=True) if t.name == "b"]
    assert len(tries) == 1 + retries
    assert all(w["workers"] == ["w2"] for w in tries[1:])


def test_what_a_scene_is_does_not_change_by_trying_again() -> None:
    cluster = Cluster(lambda task: Outcome("failed", address="w1", error="no band 'blue'", lasting=True))
    assert ended(cluster, job("a"), retries=3)["a"].error == "no band 'blue'"
    assert [task.attempt for task in cluster.given] == [0]


def test_a_failure_that_goes_away_is_none() -> None:
    cluster = Cluster(lambda task: Outcome("failed", error="no route to host") if task.attempt == 0 else DONE)
    assert ended(cluster, job("a"), job("b"))["a"].state == "done"


def test_parts_come_before_the_whole_and_a_failed_one_drops_the_others() -> None:
    cluster = Cluster(lambda task: DONE)
    over = ended(cluster, job("a", parts=3), job("b"))
    assert set(over) == {"a, part 1 of 3", "a, part 2 of 3", "a, part 3 of 3", "a", "b"}
    assert [t.part for t in cluster.given if t.job.name == "a"] == [0, 1, 2, None]
    cluster = Cluster(lambda task: Outcome("failed", error="cut short") if task.part == 1 else DONE, ["w1"])
    over = ended(cluster, job("a", parts=9), job("b"), retries=0)
    assert over["a, part 2 of 9"].state == "failed"
    assert "a" not in over
    assert "a, part 9 of 9" not in over
    assert over["b"].state == "done"


@pytest.mark.parametrize("guilty", [True, False])
def test_a_scene_whose_workers_died_is_tried_alone_at_the_end(guilty: bool) -> None:
    """Another scene may have killed them; alone, it is known."""
    died = KilledWorker("b", None, 3)
    tries: list[str] = []

    def answer(task: Task) -> Outcome | Exception:
        tries.append(task.name)
        return died if task.name == "b" and (guilty or tries.count("b") == 1) else DONE

    over = ended(Cluster(answer), job("a"), job("b"), job("c"))
    assert tries == ["a", "b", "c", "b"]
    assert over["b"].state == ("failed" if guilty else "done")
    assert {over[name].state for name in "ac"} == {"done"}


def test_outputs_that_another_process_holds_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_BUSY_SECONDS", 0.01)
    left = [4]

    def answer(task: Task) -> Outcome:
        left[0] -= task.name == "b"
        return Outcome("busy", error="another run is writing b") if task.name == "b" and left[0] else DONE

    assert ended(Cluster(answer), job("a"), job("b"))["b"].state == "done"
    assert left == [0]
    monkeypatch.setattr(schedule, "BUSY_LIMIT_SECONDS", 0.05)
    over = ended(Cluster(lambda task: Outcome("busy", error="another run is writing b")), job("b"))
    assert over["b"].state == "failed"


def test_a_worker_that_does_not_suit_is_sent_home() -> None:
    bad = Outcome("refused", address="w1", error="it has another model")
    asked: list[Task] = []

    def answer(task: Task) -> Outcome:
        asked.append(task)
        return bad if len(asked) == 1 else DONE

    cluster = Cluster(answer)
    assert {o.state for o in ended(cluster, job("a"), job("b")).values()} == {"done"}
    assert cluster.retired == ["w1"]
    for stays in (False, True):  # Dask keeps the last worker, as nobody else can hold what it said
        with pytest.raises(BatchError, match="it has another model"):
            ended(Cluster(lambda task: bad, ["w1"], stays=stays), job("a"))


def test_a_worker_without_landcover_is_sent_home_and_its_task_done_elsewhere() -> None:
    """One that joined when the batch had begun; no scene fails for it. Another error of that kind is the scene's."""
    broken = ImportError("No module named 'landcover'")
    asked: list[Task] = []

    def answer(task: Task) -> Outcome | Exception:
        asked.append(task)
        return broken if len(asked) <= 2 else DONE

    cluster = Cluster(answer, bare=("w2",))
    assert {o.state for o in ended(cluster, job("a"), job("b"), retries=0).values()} == {"done"}
    assert cluster.retired == ["w2"], "once, though it has broken two tasks by then"
    assert ended(Cluster(lambda task: broken), job("a"), retries=0)["a"].state == "failed"
    with pytest.raises(BatchError, match="w1 cannot import landcover"):
        ended(Cluster(lambda task: broken, ["w1"], bare=("w1",)), job("a"))


def test_scenes_go_to_workers_that_declare_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scene takes one, as Dask counts them; when these workers are gone, others like them are waited for."""
    monkeypatch.setattr(schedule, "_COUNT_SECONDS", 0.0)
    cluster = Cluster(lambda task: DONE, ["w1", "w2", "w3"], cards={"w3": 1, "w2": 0.5})
    ended(cluster, job("a"), job("b"))
    assert cluster.where == [{"resources": {"GPU": 1}}] * 2
    on_cpu = replace(job("a"), needs=Needs("1", None, {}, {"device": "cpu"}))
    ended(cluster, on_cpu)
    assert cluster.where[2:] == [{}]

    failing = Cluster(lambda task: Outcome("failed", address="w1", error="no"), cards={"w1": 1, "w2": 1})
    ended(failing, job("a"))
    assert failing.where == [{"resources": {"GPU": 1}}] * 2, "Dask drops the card with a wish for a worker that is gone"

    cluster = Cluster(lambda task: DONE, cards={"w1": 1})
    events = Schedule(cluster, tuple(job(name) for name in "abcd"), 0).run()
    next(e for e in events if isinstance(e, Finished))
    cluster.addresses = ["w2"]
    assert (
        next(e.text for e in events if isinstance(e, Told) and e.text)
        == "no workers with cards are left; waiting for some"
    )
    given = len(cluster.given)
    for _ in range(5):
        next(events)
    assert len(cluster.given) == given < 4, "w2 was given a scene"
    cluster.addresses = ["w2", "w1"]
    assert any(isinstance(e, Finished) for e in events)
    assert cluster.where == [{"resources": {"GPU": 1}}] * 4


def test_an_outcome_that_is_lost_with_its_worker_is_asked_for_again() -> None:
    """The task is given to another one, who finds what is done already."""
    asked: list[Task] = []

    def answer(task: Task) -> Any:
        asked.append(task)
        return Lost() if len(asked) == 1 else DONE

    assert ended(Cluster(answer), job("a"), retries=0)["a"].state == "done"
    assert [task.attempt for task in asked] == [0, 0]


@pytest.mark.parametrize(("models", "told"), [(("a", "a"), True), (("a", "b"), False)])
def test_engines_are_compared_where_the_model_is_the_same(models: tuple[str, str], told: bool) -> None:
    """One worker computes with one model in bf16 and with another in f32, and there is nothing to tell."""
    how = {"one": ("bf16", models[0]), "two": ("f32", models[1])}

    def answer(task: Task) -> Outcome:
        engine, model = how[task.job.name]
        return replace(DONE, engine=engine, model=model)

    events = list(Schedule(Cluster(answer), [job("one"), job("two")], 0).run())
    notes = [e.text for e in events if isinstance(e, Told) and e.text]
    sentence = "workers compute with bf16 and f32: maps of the same land may differ a little between them"
    assert notes == ([sentence] if told else [])


def test_a_scheduler_that_is_gone_is_told() -> None:
    cluster = Cluster(lambda task: replace(DONE), status="closed")
    with pytest.raises(BatchError, match="the scheduler is gone"):
        ended(cluster, job("a"))


def test_short_tasks_are_handed_out_before_workers_are_free() -> None:
    """So that a worker need not wait for the client; long ones are not, lest a slow worker hold them."""
    for seconds, most in ((60.0, 2), (0.5, 4)):
        schedule = Schedule(
            Cluster(lambda task, s=seconds: Outcome("done", seconds=s)), tuple(job(f"s{i}") for i in range(20)), 0
        )
        running = [e.running for e in schedule.run() if isinstance(e, Told) and not e.text]
        assert max(running) == most
        assert running[-1] == 0
