"""Runs the jobs of a plan, each in a process of its own, and says how far they are.

Without a GPU as many run side by side as there are cores, with one thread each where there are as many: that is faster
than one with all threads. With a GPU they take turns. What is done is not done again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import psutil

from deer_reid_pipeline.training.crop_cache import DATA, INDEX
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.training.plan import BEST, CHECKPOINT, Job, Plan
from deer_reid_pipeline.training.worker import ERROR, LOG, PARENT, THREADS, Result, read_log, read_result
from deer_reid_pipeline.vision.engine.loading import cores
from deer_reid_pipeline.vision.model_files import ModelFiles

STANDARD_ERROR = "stderr.txt"

_LOOK_S = 0.5
_MEMORY_OF_ONE = 2 << 30
"""Bytes that one training is expected to take at most without a GPU."""

_MALLOC = {
    # Without these glibc gives every large activation back to the system and pays for its pages anew in each step,
    # which costs a third of the time.
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


@dataclass(frozen=True)
class Told:
    """How far a run is.

    Attributes:
        done, total: epochs of all jobs.
        job: the one that this is about, with its newest epoch as in `worker.read_log`.
        seconds_left: None before the first epoch.
    """

    done: int
    total: int
    job: str
    epoch: Mapping[str, object]
    seconds_left: float | None


Tell = Callable[[Told], None]


def side_by_side(plan: Plan) -> int:
    """How many jobs run at a time."""
    if not plan.device.startswith("cpu"):
        return 1
    fit = max(1, int(psutil.virtual_memory().available // _MEMORY_OF_ONE))
    return max(1, min(plan.config.workers or cores(), fit, len(plan.jobs())))


def run_jobs(plan: Plan, folder: Path, tell: Tell | None = None) -> dict[str, Result]:
    """Run what is not done yet.

    Returns:
        name of the job -> its result.

    Raises:
        TrainingError: a job failed; its own words are passed on, and the others are stopped.
    """
    jobs = plan.jobs()
    waiting = [job for job in jobs if not _done(plan, folder, job)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    told = {job.name: len(read_log(folder / job.name)) for job in jobs}
    most = side_by_side(plan)
    started, before = time.monotonic(), sum(told.values())
    try:
        while waiting or running:
            ready = [job for job in waiting if _ready(plan, job, folder)]
            if not ready and not running:
                raise TrainingError(f"{waiting[0].name} waits for trainings that left no result: delete {folder}")
            for job in ready[: most - len(running)]:
                waiting.remove(job)
                running[job.name] = _start(plan, job, folder, _threads(plan, job))
            time.sleep(_LOOK_S)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    _refuse_failed(folder / name, name, process.returncode)
                told[name] = _tell_news(plan, folder, name, told, tell, started, before)
    finally:
        _stop(list(running.values()))
    found = {job.name: read_result(folder / job.name) for job in jobs}
    return {name: result for name, result in found.items() if result is not None}


def finished(plan: Plan, folder: Path) -> bool:
    """Whether every job has its result, and the model store what it made."""
    return all(_done(plan, folder, job) for job in plan.jobs())


def discard_intermediate(plan: Plan, folder: Path) -> None:
    """Delete what only a run that is not finished needs: checkpoints and decoded crops. Plan, results and logs stay."""
    jobs = [folder / job.name / name for job in plan.jobs() for name in (CHECKPOINT, BEST)]
    for path in [folder / DATA, folder / INDEX, *jobs]:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def epochs_of_all(key: str, results: Sequence[Result]) -> int:
    """How long the model on all individuals is trained: the median of what was best in the folds."""
    if not results:
        raise TrainingError(f"no fold of {key} was trained")
    return max(1, median_low([result.epoch for result in results]))


def _done(plan: Plan, folder: Path, job: Job) -> bool:
    """Whether a job has its result, and the files that it names are in the model store."""
    result, models = read_result(folder / job.name), ModelFiles(Path(plan.models_dir))
    return result is not None and all(models.has(key) for key in (result.weights, *result.projections.values()))


def _ready(plan: Plan, job: Job, folder: Path) -> bool:
    """The model on all is trained as long as the folds say."""
    if job.split is not None:
        return True
    return all(_done(plan, folder, other) for other in plan.jobs() if other.backbone == job.backbone and other.split)


def _threads(plan: Plan, job: Job) -> int:
    """Threads of a job: those of all cores together, and all of them for the one that runs alone at the end.

    By the machine and what the plan's id is made of, since sums differ with the number of threads: not by how many run
    side by side.
    """
    if not plan.device.startswith("cpu"):
        return 1
    alone = job.split is None and len(plan.keys) == 1
    return max(1, cores() // (1 if alone else len(plan.jobs())))


def _start(plan: Plan, job: Job, folder: Path, threads: int) -> subprocess.Popen[bytes]:
    own = folder / job.name
    own.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "deer_reid_pipeline.training.worker", str(folder), job.name]
    if job.split is None:
        folds = [read_result(folder / other.name) for other in plan.jobs() if other.backbone == job.backbone]
        command.append(str(epochs_of_all(job.backbone, [each for each in folds if each is not None])))
    environment = os.environ | _MALLOC
    environment |= {
        THREADS: str(threads),
        PARENT: str(os.getpid()),
        "OMP_NUM_THREADS": str(threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS gives other sums each time
    }
    with (own / STANDARD_ERROR).open("wb") as stream:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stream, env=environment
        )


def _refuse_failed(own: Path, name: str, status: int) -> None:
    if status == 0:
        return
    words = ""
    for file in (own / ERROR, own / STANDARD_ERROR):
        with suppress(OSError):
            words = words or (file.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
    if status < 0:
        words = f"it was killed (signal {-status}), perhaps for want of memory. Run it again to go on where it was"
    raise TrainingError(f"training {name} ended with status {status}: {words or 'it said nothing'}")


def _tell_news(
    plan: Plan, folder: Path, name: str, told: Mapping[str, int], tell: Tell | None, started: float, before: int
) -> int:
    if not (folder / name / LOG).exists():
        return told[name]
    log = read_log(folder / name)
    if tell is not None and len(log) > told[name]:
        finished = {job.name for job in plan.jobs() if read_result(folder / job.name) is not None}
        done = {**told, name: len(log)}
        total = sum(done[n] if n in finished else plan.config.epochs for n in done)
        new = sum(done.values()) - before
        left = (time.monotonic() - started) / new * (total - sum(done.values())) if new > 0 else None
        tell(Told(sum(done.values()), total, name, log[-1], left))
    return len(log)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
