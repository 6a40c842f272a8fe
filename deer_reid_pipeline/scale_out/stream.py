"""Stored crops to a stream of vectors by a cluster: Ray Data with a pool of workers, of which any may die."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import numpy as np

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.scale_out.cluster import (
    ScaleOutError,
    Workers,
    cluster_nodes,
    connect,
    first_line,
    this_node,
    workers_for,
)
from deer_reid_pipeline.scale_out.parcel import pack
from deer_reid_pipeline.scale_out.worker import SECONDS, EmbedCrops, read_crops
from deer_reid_pipeline.vision.decode import ImageError
from deer_reid_pipeline.vision.embedder import EmbeddedBatch
from deer_reid_pipeline.vision.engine.loading import Job
from deer_reid_pipeline.vision.engine.options import AUTO, EngineOptions
from deer_reid_pipeline.vision.engine.stream import StreamedBatch
from deer_reid_pipeline.vision.recipe import BRANCHES, Recipe
from deer_reid_pipeline.vision.weights import WeightStore

if TYPE_CHECKING:
    import ray.data

K = TypeVar("K")

log = logging.getLogger(__name__)

READERS = 2
"""Tasks that read crops at once, on this machine."""
READ_AHEAD_BYTES = 512 * 2**20
"""Of Ray's shared memory, for crops and vectors under way."""
GPU_BATCH = 128
"""Crops that a worker on a card is given at once, at least."""
NO_PROGRESS_S = 600.0
"""Seconds without any result after which the cluster is given up."""


def embed_on_cluster(
    recipe: Recipe,
    store: WeightStore,
    jobs: Iterable[Job[K]],
    batch: int,
    device: str = "auto",
    options: EngineOptions = AUTO,
    say: Callable[[str], None] = log.info,
    branches: Sequence[str] = BRANCHES,
) -> Iterator[StreamedBatch[K]]:
    """What `embed_jobs` gives, by the workers of a Ray cluster, in the order in which they are done.

    The jobs are drawn first, their crops are read as the workers get to them. What a worker that dies had under way is
    done again by another; each crop comes out once.

    Args:
        jobs: stored crops as files of this machine.
        batch: crops in a batch; on cards at least `GPU_BATCH`.
        device: 'cpu' leaves cards alone.
        branches: those to be computed.

    Raises:
        ScaleOutError: no Ray, no cluster, no room in it, no card where one is asked for, or no worker is left.
        WeightsError, EmbeddingError: as on one machine.
    """
    connect()
    import ray

    workers = workers_for(cluster_nodes(cards=device != "cpu"), options.vram_mb)
    if device not in ("auto", "cpu") and not workers.gpus:
        raise ScaleOutError(f"DEER_REID_DEVICE={device}, but no node of the Ray cluster has a card: set it to auto")
    drawn = list(jobs)
    if not drawn:
        return
    parcel = pack(recipe, store)
    say(f"{len(drawn)} crops go to {workers} on Ray, with {parcel.size / 2**20:.0f} MiB of weights")
    size = max(batch, GPU_BATCH) if workers.gpus else batch
    done = np.zeros(len(drawn), bool)
    with _ray_speaks():
        data = _pipeline(drawn, size, workers, ray.put(parcel), options, branches)
    for part in _results(data):
        numbers = part["number"]
        if done[numbers].any() or len(np.unique(numbers)) != len(numbers):
            raise ScaleOutError("a crop came back from Ray twice: report this as a bug")
        done[numbers] = True
        yield _streamed(recipe.id, branches, part, drawn, int(done.sum()))
    if not done.all():
        raise ScaleOutError(f"{int((~done).sum())} crops did not come back from Ray: run the command again")


def _ray_speaks() -> contextlib.redirect_stdout[TextIO]:
    """Ray prints what it has to say about its nodes to standard output, which belongs to results; while it works, to
    standard error."""
    return contextlib.redirect_stdout(sys.stderr)


def _pipeline(
    jobs: Sequence[Job[Any]],
    size: int,
    workers: Workers,
    parcel: Any,
    options: EngineOptions,
    branches: Sequence[str],
) -> ray.data.Dataset:
    """Numbers and file names, from which crops are read on this node, which are embedded on any.

    Ray Data's own rule holds: workers that die are started again where there is room, and their batches with them.
    """
    import ray
    import ray.data

    _quiet()
    here = this_node()
    blocks = -(-len(jobs) // size)
    pool = min(workers.most, blocks)
    rows = [{"number": number, "path": str(_file(job)), "sha256": job.sha256} for number, job in enumerate(jobs)]
    data = ray.data.from_items(rows, override_num_blocks=blocks)
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    data.context.execution_no_progress_timeout_s = NO_PROGRESS_S
    data.context.raise_original_map_exception = True
    data.context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=READ_AHEAD_BYTES
    )
    data = data.map_batches(
        partial(read_crops, node=here),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
        concurrency=READERS,
        label_selector={"ray.io/node-id": here},
    )
    return data.map_batches(
        EmbedCrops,
        fn_constructor_args=(parcel, "cuda" if workers.gpus else "cpu", workers.cpus, options, branches),
        batch_size=size if workers.gpus else None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=pool, initial_size=pool, max_tasks_in_flight_per_actor=2
        ),
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
    )


def _results(data: ray.data.Dataset) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """The tables that the workers give; Ray's errors as ours.

    Raises:
        ScaleOutError, WeightsError, EmbeddingError: see `embed_on_cluster`.
    """
    import ray
    from ray.data.exceptions import ExecutionTimeoutError

    with _ray_speaks():
        parts = iter(data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1))
    while True:
        try:
            with _ray_speaks():
                part = next(parts)
        except StopIteration:
            return
        except ExecutionTimeoutError as error:
            living = sum(node["Alive"] for node in ray.nodes())
            raise ScaleOutError(
                f"no worker has given anything for {NO_PROGRESS_S:.0f} s, and {living} nodes of the Ray cluster are "
                "alive: what was done is stored; look at 'ray status', then run the command again"
            ) from error
        except Exception as error:  # Ray's errors have no common class
            raise _told(error) from error
        yield part


def _told(error: BaseException) -> DeerReidError:
    """The deliberate error that a worker raised, without the lines that Ray adds; else a line about Ray's own."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None) or seen.__cause__
        if isinstance(seen, DeerReidError) and not isinstance(cause, DeerReidError):
            return type(seen)(first_line(seen))
        seen = cause
    told = getattr(error, "cause", None) or error
    return ScaleOutError(
        f"the Ray cluster failed ({first_line(told)}): what was done is stored; look at 'ray status', then run the "
        "command again"
    )


def _streamed(
    recipe_id: str, branches: Sequence[str], part: dict[str, np.ndarray[Any, Any]], jobs: Sequence[Job[K]], taken: int
) -> StreamedBatch[K]:
    keys = [jobs[number].key for number in part["number"]]
    good = np.flatnonzero(part["code"] == "")
    seconds = {branch: float(part[SECONDS + branch].sum()) for branch in branches}
    vectors = {branch: np.asarray(part[branch], np.float32)[good] for branch in branches}
    failed: list[tuple[K, ImageError | OSError]] = [
        (key, ImageError(str(code), str(trouble)))
        for key, code, trouble in zip(keys, part["code"], part["trouble"], strict=True)
        if code
    ]
    log.debug("%d crops by node %s", len(good), part["node"][0])
    for _, error in failed:
        log.warning("a crop cannot be used: %s", first_line(error))
    made = EmbeddedBatch(recipe_id, vectors, branch_seconds=seconds)
    return StreamedBatch([keys[row] for row in good], made, failed, taken)


def _file(job: Job[Any]) -> Path:
    if not isinstance(job.source, Path) or job.box is not None:
        raise ValueError("a cluster embeds stored crops, from their files")
    return job.source


def _quiet() -> None:
    """Ray Data's own log stays in its file: it is not ASCII, and progress is reported by who stores the vectors.

    Other programs put handlers of theirs on its logger too, through which our lines go as well.
    """
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and type(handler).__module__.split(".")[0] == "ray":
            handler.setLevel(logging.CRITICAL)
