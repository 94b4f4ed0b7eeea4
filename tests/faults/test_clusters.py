"""Workers, schedulers and clients that die in the middle: no scene is lost, and the maps are as if nothing happened."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from landcover.models import Model
from tests.faults.clusters import PATIENCE_SECONDS, cluster, end, kill_batches, kill_group, start_batch, wait_for
from tests.faults.runs import command, run
from tests.ports import listening
from tests.scenes import digital_numbers, write_scene

pytestmark = pytest.mark.slow

NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """What a test that fails has started would take the processors, and raise its warnings, in later ones."""
    yield
    kill_batches()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes that take some seconds each."""
    folder = tmp_path_factory.mktemp("catalog")
    for seed, name in enumerate(NAMES):
        write_scene(folder / f"{name}.tif", digital_numbers(400 + 50 * seed, 400, seed=seed))
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, scenes: Path, pointwise: Model) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in NAMES:
        run(*command(scenes / f"{name}.tif", folder / f"{name}.tif", pointwise))
    return {name: (folder / f"{name}.tif").read_bytes() for name in NAMES}


def maps(out: Path) -> dict[str, bytes]:
    return {name: (out / name / f"{name}_map.tif").read_bytes() for name in NAMES}


def begun(out: Path) -> bool:
    """Whether finished rows of some scene, or of a part of it, are in a journal."""
    return any(out.rglob("journal.json"))


def leftovers(out: Path) -> list[str]:
    return [str(p) for name in NAMES for p in (out / name).glob(".*")]


def workers(process: subprocess.Popen) -> list[int]:
    """Processes of the workers that a process has started; not those that live for an instant, to ask the system."""
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            if any("spawn_main" in word for word in child.cmdline()):
                found.append(child.pid)
    return found


def test_nobody_on_the_network_can_reach_the_cluster_of_a_machine(
    tmp_path: Path, scenes: Path, pointwise: Model
) -> None:
    batch = start_batch(scenes, tmp_path / "out", pointwise, "--workers", "2")
    wait_for(lambda: begun(tmp_path / "out"))
    addresses = listening(psutil.Process(number) for number in (batch.pid, *workers(batch)))
    assert len(addresses) >= 3, "the scheduler and its workers"
    assert set(addresses) == {"127.0.0.1"}
    assert end(batch)[0] == 0


def test_a_worker_is_killed(tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]) -> None:
    """The process of a worker of the local cluster; its nanny starts another one, which goes on from the journal."""
    out = tmp_path / "out"
    batch = start_batch(scenes, out, pointwise, "--workers", "2")
    wait_for(lambda: begun(out))
    os.kill(max(workers(batch)), signal.SIGKILL)
    code, said = end(batch)
    assert code == 0, said
    assert maps(out) == undisturbed
    assert not leftovers(out)


def test_all_workers_die_and_others_come(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    with cluster(tmp_path, 2, "--no-nanny") as running:
        batch = start_batch(scenes, out, pointwise, "--scheduler", running.file, "--part-rows", "10")
        wait_for(lambda: begun(out))
        for worker in running.workers:
            kill_group(worker)
        running.start_worker()
        code, said = end(batch)
    assert code == 0, said
    assert maps(out) == undisturbed
    assert not leftovers(out)


def test_the_scheduler_is_killed_and_the_command_repeated(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    with cluster(tmp_path, 1) as running:
        batch = start_batch(scenes, out, pointwise, "--scheduler", running.file)
        wait_for(lambda: begun(out))
        kill_group(running.scheduler)
        code, said = end(batch)
        assert code == 3, said
        assert "the scheduler is gone" in said
        assert "Traceback" not in said
        for worker in running.workers:
            kill_group(worker)
        running.start_scheduler()
        running.start_worker()
        code, said = end(start_batch(scenes, out, pointwise, "--scheduler", running.file))
    assert code == 0, said
    assert maps(out) == undisturbed


def test_the_client_is_killed_and_the_command_repeated(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    """On a cluster of its own the workers end with it; on another one they may still be writing."""
    out = tmp_path / "out"
    with cluster(tmp_path, 1) as running:
        for how in (["--workers", "1"], ["--scheduler", running.file]):
            batch = start_batch(scenes, out, pointwise, *how)
            wait_for(lambda: begun(out))
            kill_group(batch)
            end(batch)
        code, said = end(start_batch(scenes, out, pointwise, "--scheduler", running.file))
    assert code == 0, said
    assert maps(out) == undisturbed
    assert not leftovers(out)


def test_interrupted_it_keeps_what_is_finished(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    batch = start_batch(scenes, out, pointwise, "--workers", "2")
    wait_for(lambda: begun(out))
    os.killpg(batch.pid, signal.SIGINT)  # as a terminal does
    out_, err = batch.communicate(timeout=PATIENCE_SECONDS)
    assert batch.returncode == 130, err
    assert "kept in" in err
    assert "Traceback" not in out_ + err
    code, said = end(start_batch(scenes, out, pointwise, "--workers", "1"))
    assert code == 0, said
    assert maps(out) == undisturbed
    assert not leftovers(out)


@pytest.mark.parametrize("seconds", [0, 0.7, 1.4])
def test_interrupted_while_workers_start_it_ends_without_a_word_of_dask(
    tmp_path: Path, scenes: Path, pointwise: Model, seconds: float
) -> None:
    batch = start_batch(scenes, tmp_path / "out", pointwise, "--workers", "2")
    wait_for(lambda: workers(batch))
    time.sleep(seconds)
    os.killpg(batch.pid, signal.SIGINT)
    code, said = end(batch)
    assert code == 130, said
    assert "Traceback" not in said


def test_interrupted_on_a_joined_cluster_its_workers_stop(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    """At the next window, so that nothing holds the outputs when the command is given again."""
    out = tmp_path / "out"
    with cluster(tmp_path, 1) as running:
        batch = start_batch(scenes, out, pointwise, "--scheduler", running.file)
        wait_for(lambda: begun(out))
        os.killpg(batch.pid, signal.SIGINT)
        code, said = end(batch)
        assert code == 130, said
        wait_for(lambda: not any(out.rglob("*.lock")), "the end of the task")
        assert not any(out.rglob("*_map.tif")), "it was stopped, not carried to its end"
        code, said = end(start_batch(scenes, out, pointwise, "--scheduler", running.file))
    assert code == 0, said
    assert maps(out) == undisturbed


def test_a_stopped_worker_is_given_up(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    """One that sends no sign of life, and holds the output that another one is to go on with."""
    out = tmp_path / "out"
    with cluster(tmp_path, 2, DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="5s") as running:
        batch = start_batch(scenes, out, pointwise, "--scheduler", running.file)
        wait_for(lambda: begun(out))
        for pid in workers(running.workers[0]):
            os.kill(pid, signal.SIGSTOP)
        code, said = end(batch)
    assert code == 0, said
    assert maps(out) == undisturbed


POISON = """
import os, signal
from landcover.batch import worker
real = getattr(worker, "real", worker.make_plan)  # this is run twice
worker.real = real
def deadly(options):
    if options.scene.endswith("/b.tif"):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(options)
worker.make_plan = deadly
"""


def test_a_scene_that_kills_its_workers_does_not_take_the_others_along(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    (tmp_path / "poison.py").write_text(POISON)
    out = tmp_path / "out"
    with cluster(
        tmp_path, 2, "--preload", str(tmp_path / "poison.py"), DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1"
    ) as running:
        code, said = end(start_batch(scenes, out, pointwise, "--scheduler", running.file))
    assert code == 4, said
    states = {s["name"]: s for s in json.loads((out / "run.json").read_bytes())["scenes"]}
    assert {name: s["state"] for name, s in states.items()} == {"a": "done", "b": "failed", "c": "done"}
    assert "worker that began it died" in states["b"]["error"]
    assert (out / "a" / "a_map.tif").read_bytes() == undisturbed["a"]


FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
"""


def test_what_one_worker_cannot_write_another_one_does(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    """One may write small files only, as if its disk were full."""
    (tmp_path / "full.py").write_text(FULL)
    out = tmp_path / "out"
    with cluster(tmp_path, 1) as running:
        running.start_worker("--preload", str(tmp_path / "full.py"))
        batch = start_batch(scenes, out, pointwise, "--scheduler", running.file, "--retries", "3")
        code, said = end(batch)
    assert code == 0, said
    assert maps(out) == undisturbed


def test_a_folder_that_is_full_or_read_only(
    small_disk: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    """It is said in a sentence; when it can be written again, the same command goes on."""
    out = small_disk / "out"
    code, said = end(start_batch(scenes, out, pointwise, "--workers", "1"))
    assert code in (3, 4), said
    assert "cannot be" in said
    assert "Traceback" not in said
    subprocess.run(["mount", "-o", "remount,ro,size=9m", small_disk], check=True)
    code, said = end(start_batch(scenes, out, pointwise, "--workers", "1"))
    assert code == 3, said
    assert "Read-only file system" in said or "readonly" in said
    assert "Traceback" not in said
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    code, said = end(start_batch(scenes, out, pointwise, "--workers", "1"))
    assert code == 0, said
    assert maps(out) == undisturbed


def test_a_folder_that_becomes_read_only(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    """In the middle: nothing in it can be made, changed or deleted any more."""
    out = tmp_path / "out"
    batch = start_batch(scenes, out, pointwise, "--workers", "2")
    wait_for(lambda: begun(out))
    frozen = subprocess.run(["chattr", "-R", "+i", out], capture_output=True, check=False).returncode == 0
    try:
        code, said = end(batch)
    finally:
        subprocess.run(["chattr", "-R", "-i", out], capture_output=True, check=False)
    if not frozen:
        pytest.skip("a folder cannot be frozen here: it needs root and a file system that can")
    assert code == 3, said
    assert "readonly" in said or "unable to open" in said or "not permitted" in said
    assert "Traceback" not in said
    code, said = end(start_batch(scenes, out, pointwise, "--workers", "2"))
    assert code == 0, said
    assert maps(out) == undisturbed
    assert not leftovers(out)


OTHER_VERSION = """
import landcover
landcover.__version__ = "0.0.1"
"""


def test_a_worker_of_another_version_is_refused(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    (tmp_path / "other.py").write_text(OTHER_VERSION)
    with cluster(tmp_path, 1, "--preload", str(tmp_path / "other.py")) as running:
        code, said = end(start_batch(scenes, tmp_path / "out", pointwise, "--scheduler", running.file))
    assert code == 3, said
    assert "has landcover 0.0.1, this machine" in said


WITHOUT = """
import sys
sys.modules["landcover"] = None
"""


def test_only_workers_with_a_card_are_used_where_some_declare_one(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    """Others may then be as they like, even without landcover; for `--device cpu` they are asked, and do not suit."""
    (tmp_path / "other.py").write_text(OTHER_VERSION)
    out = tmp_path / "out"
    with cluster(tmp_path, 1, "--resources", "GPU=1") as running:
        running.start_worker("--preload", str(tmp_path / "other.py"))
        (tmp_path / "without.py").write_text(WITHOUT)
        running.start_worker("--preload", str(tmp_path / "without.py"))
        wait_for(lambda: all("Registered" in (tmp_path / f"local{i}.log").read_text() for i in range(3)))
        wherever = ("--device", "auto", "--engine", "auto")
        code, said = end(start_batch(scenes, out, pointwise, "--scheduler", running.file, *wherever))
        assert code == 0, said
        assert maps(out) == undisturbed
        assert len({scene["worker"] for scene in json.loads((out / "run.json").read_text())["scenes"]}) == 1
        code, said = end(start_batch(scenes, out, pointwise, "--scheduler", running.file, "--overwrite"))
    assert code == 3, said
    assert "has landcover 0.0.1, this machine" in said or "cannot import landcover" in said


OTHER_PRECISION = """
from landcover.batch import worker
worker._name = lambda choice: "openvino on cpu in bf16"
"""


def test_workers_that_compute_differently_are_told(tmp_path: Path, scenes: Path, pointwise: Model) -> None:
    (tmp_path / "other.py").write_text(OTHER_PRECISION)
    with cluster(tmp_path, 1) as running:
        running.start_worker("--preload", str(tmp_path / "other.py"))
        wait_for(lambda: "Registered" in (tmp_path / "local1.log").read_text())
        code, said = end(start_batch(scenes, tmp_path / "out", pointwise, "--scheduler", running.file))
    assert code == 0, said
    assert "workers compute with openvino on cpu in bf16 and openvino on cpu in f32" in said


def test_a_worker_without_landcover_that_would_join_later_harms_no_scene(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    """It cannot be given the model, and so does not start."""
    (tmp_path / "without.py").write_text(WITHOUT)
    rows = [f"{scenes / name}.tif,{name}{again}" for name in NAMES for again in ("", *"123456")]
    (tmp_path / "scenes.csv").write_text("\n".join(["path,name", *rows]))
    out = tmp_path / "out"
    with cluster(tmp_path, 1) as running:
        how = ("--scheduler", running.file, "--retries", "0")
        batch = start_batch(tmp_path / "scenes.csv", out, pointwise, *how)
        wait_for(lambda: begun(out))
        running.start_worker("--preload", str(tmp_path / "without.py"), "--no-nanny")
        code, said = end(batch)
        assert code == 0, said
        assert "Worker failed to start" in (tmp_path / "local1.log").read_text()
        assert maps(out) == undisturbed


def test_a_scene_vanishes_and_another_batch_is_refused(
    tmp_path: Path, scenes: Path, pointwise: Model, undisturbed: dict[str, bytes]
) -> None:
    """Between plan and run; meanwhile a second batch wants the same folder."""
    import shutil

    mine = tmp_path / "scenes"
    shutil.copytree(scenes, mine)
    out = tmp_path / "out"
    batch = start_batch(mine, out, pointwise, "--workers", "1")
    wait_for(lambda: begun(out))
    os.killpg(batch.pid, signal.SIGSTOP)  # so that it is at work for as long as the other one takes to begin
    try:
        (mine / "a.tif").unlink()  # the smallest comes last
        code, said = end(start_batch(mine, out, pointwise))
    finally:
        os.killpg(batch.pid, signal.SIGCONT)
    assert (code, "another batch is at work" in said) == (3, True), said
    code, said = end(batch)
    assert code == 4, said
    assert "a.tif does not exist" in said
    assert (out / "c" / "c_map.tif").read_bytes() == undisturbed["c"]
    shutil.copy2(scenes / "a.tif", mine / "a.tif")
    code, said = end(start_batch(mine, out, pointwise, "--only-failed"))
    assert code == 0, said
    assert maps(out) == undisturbed
