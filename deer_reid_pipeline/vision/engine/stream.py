"""A stream of pictures to a stream of vectors: threads load ahead while the network computes.

Memory is bounded however long the stream is: a few batches of laid-out crops, and one picture a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from deer_reid_pipeline.vision.decode import ImageError, Pixels
from deer_reid_pipeline.vision.embedder import EmbeddedBatch, Embedder, Prepared
from deer_reid_pipeline.vision.engine.loading import Job, cores, in_order, load_crop

K = TypeVar("K")
T = TypeVar("T")

Loaded = Sequence[tuple[K, Pixels | ImageError | OSError]]
"""The crops of one item, each with its key, or why there is none."""

AHEAD = 2
"""Batches that are loaded before the network asks for them."""


@dataclass
class StreamedBatch(Generic[K]):
    """Vectors of some crops in the order of the stream (`keys` names the rows), and the crops without one.

    `taken`: items of the stream whose crops are in this batch or in one before it.
    """

    keys: list[K]
    made: EmbeddedBatch
    failed: list[tuple[K, ImageError | OSError]] = field(default_factory=list)
    taken: int = 0


@dataclass
class _Batch(Generic[K]):
    keys: list[K] = field(default_factory=list)
    crops: list[Prepared] = field(default_factory=list)
    failed: list[tuple[K, ImageError | OSError]] = field(default_factory=list)
    taken: int = 0


def embed_jobs(
    embedder: Embedder, jobs: Iterable[Job[K]], batch: int, workers: int | None = None
) -> Iterator[StreamedBatch[K]]:
    """`embed_stream` of single crops."""

    def load(job: Job[K]) -> Loaded[K]:
        try:
            return [(job.key, load_crop(job))]
        except (ImageError, OSError) as error:
            return [(job.key, error)]

    return embed_stream(embedder, jobs, load, batch, workers)


def embed_stream(
    embedder: Embedder, items: Iterable[T], load: Callable[[T], Loaded[K]], batch: int, workers: int | None = None
) -> Iterator[StreamedBatch[K]]:
    """Embed the crops of every item, in order, in batches across items.

    The thread that iterates draws the items, at most `AHEAD` batches of them before their turn; other threads load and
    lay out. One batch is computed while the caller deals with the one before it.

    Args:
        load: gives the crops of an item, on any thread.
        batch: crops in a batch; the last one may have fewer.
        workers: threads that load; None: one a core.

    Raises:
        EmbeddingError: see `Embedder.embed`. What `items` and `load` raise comes out in its place.
    """

    def prepared(item: T) -> list[tuple[K, Prepared | ImageError | OSError]]:
        return [(key, embedder.prepare(it) if not isinstance(it, Exception) else it) for key, it in load(item)]

    def computed(each: _Batch[K]) -> StreamedBatch[K]:
        return StreamedBatch(each.keys, embedder.embed_prepared(each.crops), each.failed, each.taken)

    threads = workers or cores()
    with (
        ThreadPoolExecutor(threads, "load", initializer=_step_back) as loading,
        ThreadPoolExecutor(1, "network") as network,
    ):
        ready = in_order(loading, prepared, items, max(threads, AHEAD * batch))
        yield from in_order(network, computed, _batched(ready, batch), 2)


def _batched(ready: Iterable[list[tuple[K, Prepared | ImageError | OSError]]], size: int) -> Iterator[_Batch[K]]:
    current: _Batch[K] = _Batch()
    taken = 0
    for crops in ready:
        taken += 1
        for key, crop in crops:
            if isinstance(crop, ImageError | OSError):
                current.failed.append((key, crop))
                continue
            current.keys.append(key)
            current.crops.append(crop)
            if len(current.keys) == size:
                current.taken = taken
                yield current
                current = _Batch()
    if current.keys or current.failed:
        current.taken = taken
        yield current


def _step_back() -> None:
    """Where the network computes on the same cores, its threads wait for each other: loading makes way for them."""
    if hasattr(os, "setpriority"):
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        except OSError:
            return  # not allowed here: only a matter of speed
