"""How many threads compute at once, and what memory they have: by the machine, its user, and a container's limits."""

import os
from pathlib import Path

import psutil
import pytest

from landcover import processors
from landcover.batch.cluster import share_machine
from landcover.errors import ConfigError
from landcover.processors import own_cores, own_memory, own_threads

CORES = "0,1,2,3,4,5,6,7"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of version 2 as a container sees them, on a machine of eight cores, without a limit."""
    monkeypatch.setattr(processors, "_GROUPS", tmp_path)
    monkeypatch.setattr(processors, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setenv("LANDCOVER_CORES", CORES)
    monkeypatch.delenv("LANDCOVER_THREADS", raising=False)
    (tmp_path / "own").write_text("0::/pod/container\n")
    return tmp_path


def limit(group: Path, text: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "cpu.max").write_text(text + "\n")


def test_a_thread_a_core_without_a_limit(groups: Path) -> None:
    limit(groups / "pod" / "container", "max 100000")
    assert own_threads() == 8


@pytest.mark.parametrize(("text", "threads"), [("400000 100000", 4), ("50000 100000", 1), ("250000 100000", 3)])
def test_a_limit_of_time_is_one_of_threads(groups: Path, text: str, threads: int) -> None:
    limit(groups / "pod" / "container", text)
    assert own_threads() == threads
    assert own_cores() == list(range(8))


def test_the_narrowest_group_around_counts(groups: Path) -> None:
    limit(groups / "pod" / "container", "600000 100000")
    limit(groups / "pod", "200000 100000")
    assert own_threads() == 2


def test_a_container_sees_its_own_group_as_the_root(groups: Path) -> None:
    (groups / "own").write_text("0::/\n")
    limit(groups, "300000 100000")
    assert own_threads() == 3


def test_control_groups_of_version_1(groups: Path) -> None:
    (groups / "own").write_text("5:memory:/x\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/x\n")
    (groups / "cpu").mkdir()
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (groups / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert own_threads() == 2
    (groups / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert own_threads() == 8


def test_a_user_names_the_number(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(groups / "pod" / "container", "200000 100000")
    monkeypatch.setenv("LANDCOVER_THREADS", "5")
    assert own_threads() == 5
    for wrong in ("0", "-1", "two", "1.5", "٣"):
        monkeypatch.setenv("LANDCOVER_THREADS", wrong)
        with pytest.raises(ConfigError, match="LANDCOVER_THREADS must be a number"):
            own_threads()


def test_on_this_machine_no_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANDCOVER_THREADS", raising=False)
    assert 1 <= own_threads() <= (os.cpu_count() or 1)


def test_workers_share_the_threads_of_a_limited_container(groups: Path) -> None:
    """Pinned to cores, workers of several containers would all sit on the first few."""
    limit(groups / "pod" / "container", "400000 100000")
    places = share_machine(2, "cpu")
    assert [p.threads for p in places] == [2, 2]
    assert [p.environment["LANDCOVER_CORES"] for p in places] == [CORES] * 2
    limit(groups / "pod" / "container", "max 100000")
    assert [p.cores for p in share_machine(2, "cpu")] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_the_memory_of_a_process_is_its_threads_share_of_the_machine(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    whole = psutil.virtual_memory().total
    assert own_memory() == whole
    monkeypatch.setenv("LANDCOVER_THREADS", "2")
    assert own_memory() == whole // 4


@pytest.mark.parametrize(
    ("own", "file"), [("0::/pod", "pod/memory.max"), ("5:memory:/pod", "memory/pod/memory.limit_in_bytes")]
)
def test_a_container_limits_the_memory(groups: Path, own: str, file: str) -> None:
    (groups / "own").write_text(own + "\n")
    before = own_memory()
    (groups / file).parent.mkdir(parents=True)
    for text, limit in (("max", before), ("1048576", 2**20), ("9223372036854771712", before)):
        (groups / file).write_text(text + "\n")
        assert own_memory() == limit
