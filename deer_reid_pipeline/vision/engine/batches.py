"""How many crops go through at once: as many as the device's memory holds, and never a failure for one too many."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from deer_reid_pipeline.card_budget import CARD_SHARE

log = logging.getLogger(__name__)

R = TypeVar("R")

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DEFAULT = 32
"""Crops at once where memory is no question: on a CPU larger batches are no faster, and hold more of it."""


class BatchLimit:
    """The largest batch that a device has been seen to hold; shrinks for good when memory runs out.

    Args:
        start: crops at once to begin with.
    """

    def __init__(self, start: int = DEFAULT) -> None:
        if start < 1:
            raise ValueError(f"a batch of {start} crops is none")
        self.crops = start

    def run(self, count: int, work: Callable[[int, int], R]) -> list[R]:
        """Call `work(start, end)` over all of `count` crops, in order, no more than the limit at once.

        A call that runs out of the device's memory is made again in halves.

        Raises:
            torch.cuda.OutOfMemoryError: not even one crop fits.
        """
        results: list[R] = []
        start = 0
        while start < count:
            end = min(count, start + self.crops)
            try:
                results.append(work(start, end))
            except torch.cuda.OutOfMemoryError:
                if end - start == 1:
                    raise
                self.crops = (end - start) // 2
                log.warning(
                    "the device's memory does not hold %d crops at once: going on with %d", end - start, self.crops
                )
                torch.cuda.empty_cache()
                continue
            start = end
        return results


def largest_batch(run: Callable[[int], object], sizes: tuple[int, ...] = SIZES) -> int:
    """The largest of `sizes` that runs; they are tried upwards and no further than needed.

    Args:
        run: runs a batch of a size; raises torch.cuda.OutOfMemoryError where it does not fit, or where `limit_memory`
            does not allow it.

    Returns:
        0 where not even the first one fits.
    """
    best = 0
    for size in sizes:
        try:
            run(size)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        best = size
    return best


def vram_budget(vram_mb: int | None, device: torch.device) -> int:
    """Bytes of a CUDA device that may be used: what was set, else 75 % of the card."""
    if vram_mb is not None:
        return vram_mb * 2**20
    return int(torch.cuda.get_device_properties(device).total_memory * CARD_SHARE)


def limit_memory(limit: int, device: torch.device) -> None:
    """Let torch's allocator hold at most so many bytes of a CUDA device, in this process alone.

    What would need more raises torch.cuda.OutOfMemoryError, and nothing more is taken. What the driver and its
    libraries take for a process comes on top.
    """
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)


def peak_bytes(work: Callable[[int], object], device: torch.device) -> Callable[[int], int]:
    """Measures the bytes that torch holds of a CUDA device at most while `work(size)` runs."""

    def measured(size: int) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        work(size)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_reserved(device))

    return measured
