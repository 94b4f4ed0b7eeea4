"""How large scenes are cut into parts, and how long the whole will take, by the plan of a scene."""

import math
import time
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import numpy as np

from landcover.batch.jobs import Job
from landcover.batch.planning import BatchPlan
from landcover.batch.state import Record
from landcover.chips import Batch
from landcover.engines import Engine, open_engine
from landcover.errors import LandcoverError
from landcover.models import Model
from landcover.planning import Options, Plan, make_plan
from landcover.processors import own_threads

_FEWEST_ROWS = 4
"""Rows of windows in a part, at least: one more is repeated for each."""

_CUT_FROM_ROWS = 16
"""Rows of windows of a scene that is worth cutting."""


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
    """Pixels a second that the network does on all cores of this machine, on windows of the largest scene."""
    job = plan.jobs[0]
    try:
        scene = scene_plan(job, plan.model)
        shape, dtype, at_once = scene.batch_shape, scene.scene.dtype, own_threads()
        engine = open_engine(scene.choice, scene.model, scene.scaling, shape, dtype, at_once)
        seconds = [_seconds(engine, scene, at_once) for _ in range(2)]
    except LandcoverError:
        return None  # whoever is given the scene will tell what is wrong with it
    n, _, height, width = shape
    return at_once * n * height * width / min(seconds) / scene.work


def _seconds(engine: Engine, plan: Plan, batches: int) -> float:
    n, bands, height, width = plan.batch_shape
    dn, valid = np.zeros((n, bands, height, width), plan.scene.dtype), np.ones((n, 1, height, width), bool)
    batch = Batch(0, range(n), dn, valid, valid[:, 0])
    began = time.perf_counter()
    for _ in engine.run([batch] * batches):
        pass
    return time.perf_counter() - began
