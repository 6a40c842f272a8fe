"""Pictures read, decoded, cut and laid out by many threads ahead of the network, in order and in bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from deer_reid_pipeline.vision.crops import NEW_HOME, Box, CropSpec, cut_crops, decode_crop
from deer_reid_pipeline.vision.decode import ImageError, Pixels

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Job(Generic[K]):
    """One crop to embed.

    Attributes:
        key: whatever the caller knows it by.
        source: a stored crop (its file or bytes), or with `box` a picture file.
        box: what to cut out of the picture, as shares of it.
        sha256: of the stored crop; another content is an error. Empty: not checked.
        spec: how the box is cut.
    """

    key: K
    source: Path | bytes
    box: Box | None = None
    sha256: str = ""
    spec: CropSpec = NEW_HOME


def load_crop(job: Job[K]) -> Pixels:
    """The pixels of a job's crop: a box gives what would be stored of it, so that the vector is the same.

    Raises:
        ImageError: it cannot be decoded, or a stored crop is not what was written.
        OSError: the file cannot be read.
        ValueError: the box has no area or lies outside the picture.
    """
    if job.box is not None:
        if isinstance(job.source, bytes):
            raise ValueError("a box is cut out of a picture file, not out of bytes")
        return decode_crop(cut_crops(job.source, [job.box], job.spec)[0])
    content = job.source if isinstance(job.source, bytes) else job.source.read_bytes()
    if job.sha256 and hashlib.sha256(content).hexdigest() != job.sha256:
        raise ImageError("unreadable", "it is not the file that was written")
    return decode_crop(content)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """`work` of every item, by the threads of a pool, in the order of the items.

    At most `ahead` items are taken that were not handed out yet, so an endless iterator is fine. What `work` or the
    iterator raises comes out in its place; work under way is then finished and thrown away.

    Args:
        ahead: at least 1.
    """
    waiting: deque[Future[R]] = deque()
    source = iter(items)
    try:
        while True:
            for item in islice(source, ahead - len(waiting)):
                waiting.append(pool.submit(work, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
