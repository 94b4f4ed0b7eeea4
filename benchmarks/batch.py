"""Batches against single runs: throughput of workers, overhead of a scene, long catalogs, and many workers, simulated.

Run: python benchmarks/batch.py [--only small large real catalog workers] [--simulate WORKERS SECONDS SCENES]
"""

import argparse
import asyncio
import csv
import itertools
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
from measure import DATA, SAMPLE


def main() -> None:
    parts = {"small": small, "large": large, "real": real, "catalog": catalog, "workers": workers}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--simulate", nargs=3, type=int, metavar=("WORKERS", "SECONDS", "SCENES"))
    parser.add_argument("--folder", type=Path, help="keep scenes and maps here")
    args = parser.parse_args()
    if args.simulate:
        simulate(*args.simulate)
        return
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](args.folder or Path(folder))


def small(folder: Path) -> None:
    """Many small scenes: two workers of one core each, against one process with both."""
    scenes = folder / "scenes"
    scenes.mkdir()
    pixels, profile = sample(512, 512)
    for i in range(100):
        write(scenes / f"{i:03}.tif", pixels, profile)
    compare("100 scenes of 512²", scenes, folder, sorted(scenes.iterdir()))


def large(folder: Path) -> None:
    """Large scenes, likewise."""
    scenes = folder / "scenes"
    scenes.mkdir()
    pixels, profile = sample(6000, 6000)
    for name in "abcd":
        write(scenes / f"{name}.tif", pixels, profile)
    compare("4 scenes of 6000²", scenes, folder, sorted(scenes.iterdir()))


REAL = {
    "s2_eastern_shore/scene.tif": ("sentinel2-l1c", ""),
    "s2_duebendorf/scene.tif": ("sentinel2-l2a", "0"),
    "s2_spain_flood/Spain_7370579_S2Hand.tif": ("sentinel2-l1c", ""),
}
"""Real scenes, with their sensors and offsets."""


def real(folder: Path, side: int = 200, step: int = 140) -> None:
    """A catalog of some 200 scenes that overlap, cut from real ones of two continents; then one of them for itself."""
    rows = [["path", "name", "sensor", "offset"]]
    for scene, (sensor, offset) in REAL.items():
        with rasterio.open(DATA / scene) as file:
            starts = itertools.product(range(0, file.height - side, step), range(0, file.width - side, step))
            for row, col in starts:
                window = rasterio.windows.Window(col, row, side, side)
                path = folder / f"{Path(scene).parent}_{row}_{col}.tif"
                place = {"width": side, "height": side, "transform": file.window_transform(window)}
                with rasterio.open(path, "w", **file.profile | place | {"tiled": False, "blockysize": 8}) as part:
                    part.write(file.read(window=window))
                    part.descriptions = file.descriptions
                rows.append([path.name, f"{Path(scene).parent}/{row}_{col}", sensor, offset])
    with (folder / "scenes.csv").open("w", newline="") as table:
        csv.writer(table).writerows(rows)
    for more in ((), ("--bbox=-90,30,-70,45", "--mosaic", "later", "--merge-polygons")):
        *_, ended = batch(folder / "scenes.csv", folder / "out", "--vectorize", *more)
        print(f"{len(rows) - 1} scenes of {side}² {' '.join(more)}: {ended['at']:.1f} s, {ended}", flush=True)


ONE_PROCESS = """
import sys, time
from landcover import predict
began = time.perf_counter()
for scene in sys.argv[2:]:
    predict(scene, f"{sys.argv[1]}/{scene.rpartition('/')[2]}", overwrite=True)
print(time.perf_counter() - began)
"""


def compare(title: str, scenes: Path, folder: Path, files: list[Path]) -> None:
    """Time both in turn, and print the ratio of throughputs, without and with the start of the workers."""
    (folder / "one").mkdir()
    for _ in range(2):
        args = [sys.executable, "-c", ONE_PROCESS, str(folder / "one"), *map(str, files)]
        one = float(subprocess.run(args, check=True, capture_output=True, text=True).stdout)
        events = batch(scenes, folder / "out", "--workers", "2", "--overwrite")
        began, ended = (next(e["at"] for e in events if e["event"] == name) for name in ("begun", "ended"))
        finished = max(e["at"] for e in events if e["event"] == "scene")
        work = sum(e["seconds"] for e in events if e["event"] == "scene") / 2
        print(
            f"{title}: one process {one:.1f} s; two workers {finished - began:.1f} s, {one / (finished - began):.2f} × "
            f"its throughput; with their start and the mosaic {ended:.1f} s; "
            f"overhead a scene {1e3 * (finished - began - work) * 2 / len(files):.0f} ms"
        )


def batch(catalog: Path, out: Path, *more: str) -> list[dict]:
    """Run a batch; gives its events with the seconds since its start."""
    args = [sys.executable, "-m", "landcover", "batch", str(catalog), "--out", str(out), "--json", *more]
    began = time.perf_counter()
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = (line for line in process.stderr if line.startswith("{"))  # others are warnings
    return [json.loads(line) | {"at": time.perf_counter() - began} for line in lines]


def catalog(folder: Path, count: int = 100_000) -> None:
    """A catalog of 100,000 items: planned, and resumed when all is done."""
    from landcover.batch.options import BatchOptions
    from landcover.batch.planning import plan_batch
    from landcover.batch.state import Record

    pixels, profile = sample(16, 16)
    write(folder / "scene.tif", pixels, profile | {"tiled": False, "blockxsize": None, "blockysize": None})
    content = (folder / "scene.tif").read_bytes()
    scenes = folder / "scenes"
    scenes.mkdir()
    with (folder / "catalog.csv").open("w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["path", "name", "cloud"])
        for i in range(count):
            (scenes / f"{i}.tif").write_bytes(content)
            rows.writerow([scenes / f"{i}.tif", f"{i % 100}/{i}", i % 100])
    options = BatchOptions(str(folder / "catalog.csv"), folder / "out")
    began = time.perf_counter()
    plan = plan_batch(options, {})
    planned = time.perf_counter() - began
    for job in plan.jobs:
        job.folder.mkdir(parents=True)
        job.map.touch()
        job.item.touch()
    known = {j.name: Record(j.name, j.digest, "done", j.source) for j in plan.jobs}
    began = time.perf_counter()
    left = len(plan_batch(options, known).jobs)
    resumed = time.perf_counter() - began
    assert not left
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{count:,} scenes: planned in {planned:.1f} s, resumed in {resumed:.1f} s, {memory:.2f} GiB")


def workers(folder: Path) -> None:
    """Many workers that sleep for as long as a scene takes, on one scheduler."""
    for count, seconds, scenes in ((64, 30.0, 256), (256, 30.0, 1024), (256, 3.0, 5120), (256, 1.0, 5120)):
        simulate(count, seconds, scenes)


def simulate(count: int, seconds: float, scenes: int) -> None:
    """Tasks that sleep, handed out by the schedule of a batch; prints the share of time that workers were busy.

    Scheduler and client are processes of their own, as they are on a cluster; the workers share some.
    """
    from distributed import Client

    from landcover.batch import schedule, worker
    from landcover.batch.jobs import Job, Needs, Outcome

    def sleep(task) -> Outcome:
        time.sleep(seconds)
        return Outcome("done", seconds=seconds)

    worker.work = sleep  # type: ignore[assignment]
    jobs = tuple(Job("b", f"s{i}", "", "", "", "", Needs("", None, {}), pixels=1) for i in range(scenes))
    with cluster(count) as (address, scheduler), Client(address) as client:
        client.wait_for_workers(count, timeout=300)
        before, began = psutil.Process(scheduler).cpu_times(), time.perf_counter()
        over = sum(isinstance(e, schedule.Finished) for e in schedule.Schedule(client, jobs, 0).run())
        took, after = time.perf_counter() - began, psutil.Process(scheduler).cpu_times()
    assert over == scenes
    cost = after.user + after.system - before.user - before.system
    print(
        f"{count} workers, {scenes} scenes of {seconds:g} s: {took:.1f} s, {scenes * seconds / count / took:.1%} busy; "
        f"the scheduler computed {cost:.1f} s, {1e3 * cost / scenes:.1f} ms a scene",
        flush=True,
    )


@contextmanager
def cluster(count: int) -> Iterator[tuple[str, int]]:
    """A scheduler, and so many workers in four processes; its address and its process."""
    context = get_context("spawn")
    told = context.SimpleQueue()
    scheduler = context.Process(target=serve, args=(told,), daemon=True)
    scheduler.start()
    address = told.get()
    shares = [(count + i) // 4 for i in range(4)]
    hosts = [context.Process(target=host, args=(address, share), daemon=True) for share in shares]
    for process in hosts:
        process.start()
    try:
        yield address, scheduler.pid
    finally:
        for process in (*hosts, scheduler):
            process.kill()


def serve(told: Any) -> None:
    """A scheduler, until it is killed."""
    from distributed import Scheduler

    async def run() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
            told.put(scheduler.address)
            await scheduler.finished()

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    asyncio.run(run())


def host(address: str, count: int) -> None:
    """So many workers of one thread each, until they are killed.

    They do not watch themselves, which on a cluster each does on its own machine, and here all of them on this one.
    """
    import dask
    from distributed import Worker

    dask.config.set(
        {
            "distributed.worker.profile.enabled": False,
            "distributed.admin.system-monitor.interval": "60s",
            "distributed.admin.tick.interval": "60s",
        }
    )

    async def run() -> None:
        here = [Worker(address, nthreads=1, host="127.0.0.1", dashboard=False) for _ in range(count)]
        await asyncio.gather(*here)
        await asyncio.gather(*(worker.finished() for worker in here))

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    asyncio.run(run())


def sample(height: int, width: int) -> tuple[np.ndarray, dict]:
    """Real pixels, repeated to a size."""
    with rasterio.open(SAMPLE) as file:
        pixels, profile = file.read(), file.profile
    times = (1, -(-height // pixels.shape[1]), -(-width // pixels.shape[2]))
    return np.tile(pixels, times)[:, :height, :width], profile | {"height": height, "width": width}


def write(path: Path, pixels: np.ndarray, profile: dict) -> None:
    with rasterio.open(SAMPLE) as like, rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        file.descriptions, file.scales, file.offsets = like.descriptions, like.scales, like.offsets


if __name__ == "__main__":
    main()
