"""Trains one network in a process of its own: `python -m deer_reid_pipeline.training.worker FOLDER JOB [STOP_AFTER]`.

What it has to say it writes into the job's folder: `log.json` (one entry an epoch), then `result.json`, or `error.txt`.
It ends when the process that started it ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.training.crop_cache import open_cache
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.training.plan import Job, Plan, read_plan
from deer_reid_pipeline.vision.model_files import write_whole

LOG, RESULT, ERROR = "log.json", "result.json", "error.txt"
THREADS, PARENT = "DEER_REID_TRAINING_THREADS", "DEER_REID_TRAINING_PARENT"

_LOOK_S = 1.0
_LOADERS = 8
"""Threads that make pictures ready for a GPU."""


@dataclass(frozen=True)
class Result:
    """What a job left behind.

    Attributes:
        weights: sha256 of the backbone's file in the model store; projections: branch -> that of its projection.
        epoch: the one whose weights these are, of `epochs` done.
        seconds: of training.
        device: it was trained on.
        memory_mb: highest that the GPU's memory was used; 0 without one.
    """

    weights: str
    projections: dict[str, str]
    epoch: int
    epochs: int
    seconds: float
    device: str
    memory_mb: int


def read_result(folder: Path) -> Result | None:
    """The result in a job's folder; None where it is not done."""
    try:
        return Result(**json.loads((folder / RESULT).read_text(encoding="ascii")))
    except (OSError, ValueError, TypeError):
        return None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """What a job has told so far: one entry an epoch."""
    try:
        found: list[dict[str, Any]] = json.loads((folder / LOG).read_text(encoding="ascii"))
        return found
    except (OSError, ValueError):
        return []


@contextmanager
def _told_what_to_do() -> Iterator[None]:
    """Full memory of a card as an error that says what to do about it."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            "the memory of the GPU, or what may be used of it, does not hold this training: allow more "
            "(DEER_REID_VRAM_MB), choose a smaller width and height, or a smaller recipe"
        ) from error


@_told_what_to_do()
def train(plan: Plan, job: Job, folder: Path, stop_after: int | None = None, threads: int | None = None) -> Result:
    """Train a job's network and put it into the model store; on a card within the plan's budget of its memory.

    Args:
        folder: of the run; the job's is inside.

    Raises:
        TrainingError: the crops are gone, the training went wrong, or the memory of the card is too small.
        WeightsError: the weights to start from are not there, or the result cannot be written.
    """
    import torch

    from deer_reid_pipeline.training.network import EmbeddingNetwork
    from deer_reid_pipeline.training.shape import branches_of, last_stride, layout, store_network
    from deer_reid_pipeline.training.trainer import Epoch, Trainer
    from deer_reid_pipeline.training.warm_start import start_heads
    from deer_reid_pipeline.vision.backbones import load_backbone
    from deer_reid_pipeline.vision.embedder import resolve_device
    from deer_reid_pipeline.vision.engine.batches import limit_memory, vram_budget
    from deer_reid_pipeline.vision.weights import WeightStore

    device = resolve_device(plan.device)
    if device.type == "cuda":
        limit_memory(vram_budget(plan.vram_mb, device), device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a pass over memory
    torch.set_num_threads(threads or 1)
    crops = open_cache(folder)
    if crops is None:
        raise TrainingError(f"the decoded crops in {folder} are damaged: run it again, which makes them anew")
    start = plan.starts[job.fold]
    store = WeightStore([Path(d) for d in plan.search_dirs], Path(plan.models_dir), offline=True)
    spec = layout(start.backbones[job.backbone], plan.config)
    backbone = start.backbones[job.backbone].model_copy(
        update={"preprocess": spec, "last_stride": last_stride(start, job.backbone, plan.config)}
    )
    torch.manual_seed(plan.config.seed)
    branches = branches_of(start, job.backbone)
    network = EmbeddingNetwork(
        load_backbone(backbone, store).requires_grad_(True),
        backbone,
        branches,
        plan.config.frozen,
        plan.config.frozen_statistics,
    )
    readable = [picture for picture in plan.data.pictures if picture.key in crops]
    train_on = readable if job.split is None else [p for p in readable if p.individual in job.split.train]
    validation = [] if job.split is None else [p for p in readable if p.individual in job.split.validation]
    start_heads(network, start, job.backbone, store.models, [crops[p.key] for p in train_on], spec, device)
    own = folder / job.name
    own.mkdir(parents=True, exist_ok=True)
    log = read_log(own)

    def tell(epoch: Epoch) -> None:
        entry = {k: (None if isinstance(v, float) and v != v else v) for k, v in asdict(epoch).items()}
        entry["figures"] = {k: None if v != v else v for k, v in epoch.figures.items()}
        log[:] = [entry for entry in log if entry["number"] < epoch.number] + [entry]
        write_whole(own / LOG, json.dumps(log).encode("ascii"))

    trainer = Trainer(
        network,
        spec,
        plan.config,
        crops,
        train_on,
        validation,
        branch="multiscale" if "multiscale" in branches else next(iter(branches)),
        folder=own,
        device=device,
        stop_after=stop_after,
        loaders=min(_LOADERS, os.cpu_count() or 1) if device.type != "cpu" else 1,
    )
    trained = trainer.run(tell)
    files = store_network(store.models, trained.network, start, job.backbone)
    result = Result(
        weights=files.weights,
        projections=dict(files.projections),
        epoch=trained.epoch,
        epochs=trained.epochs,
        seconds=trained.seconds,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        memory_mb=torch.cuda.max_memory_allocated(device) >> 20 if device.type == "cuda" else 0,
    )
    write_whole(own / RESULT, json.dumps(asdict(result)).encode("ascii"))
    return result


def _end_with(parent: int) -> None:
    """A killed run must not leave trainings behind that write into its folder."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def main(folder: Path, name: str, stop_after: int | None) -> int:
    """Run a job; the exit status is 1 where it failed."""
    parent = int(os.environ.get(PARENT, os.getppid()))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    own = folder / name
    own.mkdir(parents=True, exist_ok=True)
    (own / ERROR).unlink(missing_ok=True)
    try:
        plan = read_plan(folder)
        train(plan, plan.job(name), folder, stop_after, int(os.environ.get(THREADS, "1")))
    except (DeerReidError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        with suppress(OSError):  # on a full disk, what was written to standard error is read instead
            (own / ERROR).write_text(f"{error}\n", encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None))
