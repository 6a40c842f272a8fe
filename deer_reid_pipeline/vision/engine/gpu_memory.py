"""Memory of the card during `gpu_check`: never more than the budget, and what happens when there is too little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine.batches import limit_memory, vram_budget
from deer_reid_pipeline.vision.engine.choosing import LEAST_BATCH_COSINE, least_cosine

Vectors = Mapping[str, NDArray[np.float32]]

MIB = 2**20
BESIDE_MIB = 512
"""Of a card, that the driver and its libraries may take for a process on top of the budget: as much as the launcher
keeps free of each card for them (`reserve_mb`)."""
_FREE_SHARE = 0.9
"""Of what is free on the card: neighbours may want the rest while this runs."""
_SHARES = (0.5, 0.25, 0.1)
"""How much of the difference between a quarter of a batch and the whole is left, tried in turn: a convolution that does
not get all the memory it asks for may find a way that needs less."""


@dataclass(frozen=True)
class Budget:
    """Bytes of a card that this process may take, and what the card had when it began."""

    bytes: int
    total: int
    free: int

    @property
    def vram_mb(self) -> int:
        return self.bytes // MIB

    def describe(self) -> str:
        return f"{self.vram_mb} MiB of {self.total // MIB} MiB, of which {self.free // MIB} MiB were free"


def claim_budget(vram_mb: int | None, device: torch.device) -> Budget:
    """The engine's budget on a card, no more than most of what is free; the engine itself keeps to it (`fit_batch`)."""
    free, total = torch.cuda.mem_get_info(device)
    return Budget(min(vram_budget(vram_mb, device), int(free * _FREE_SHARE)), total, free)


def taken_bytes(budget: Budget, device: torch.device) -> int:
    """Bytes that are free on the card no more since the budget was claimed.

    As the driver counts them: what torch's allocator holds, what libraries take beside it, and what neighbours took
    meanwhile.
    """
    free, _ = torch.cuda.mem_get_info(device)
    return budget.free - free


@dataclass(frozen=True)
class OutOfMemoryTrial:
    """What a batch became for which memory was made too small.

    Attributes:
        before, after: crops at once.
        limit_mib: memory that the process was left.
        cosine: least cosine to the vectors made with enough memory.
        reason: why it is no success; empty: it is one.
    """

    before: int
    after: int
    limit_mib: float
    cosine: float | None
    reason: str = ""


def judge(before: int, after: int, limit: int, expected: Vectors, found: Vectors | None) -> OutOfMemoryTrial:
    """Whether running out of memory ended in a smaller batch and the same vectors.

    Args:
        found: None: the batch was not survived.
    """
    if found is None:
        return OutOfMemoryTrial(before, after, limit / MIB, None, "running out of memory was not survived")
    cosine = least_cosine(expected, found)
    reason = ""
    if after >= before:
        reason = f"a batch of {before} was not halved within {limit // MIB} MiB, so nothing was tried"
    elif not cosine >= LEAST_BATCH_COSINE:
        reason = f"vectors made in smaller batches have cosine {cosine:.6f} to the others, below {LEAST_BATCH_COSINE}"
    return OutOfMemoryTrial(before, after, limit / MIB, cosine, reason)


def out_of_memory_trial(embedder: Embedder, crops: Sequence[Pixels], budget: Budget) -> OutOfMemoryTrial | None:
    """Make memory too small for the largest batch, and run it.

    Returns:
        None where there is nothing to halve: the largest batch is below 4, or a quarter of it takes as much memory.
    """
    before = embedder.limit.crops
    if before < 4:
        return None
    several = [crops[index % len(crops)] for index in range(before)]
    needed, _ = _peaks(embedder, several)
    _, enough = _peaks(embedder, several[: before // 4])
    if enough >= needed:
        return None
    expected = embedder.embed(several).vectors
    for share in _SHARES:
        limit = enough + int(share * (needed - enough))
        found, after = _embed_within(embedder, several, limit, budget)
        if after < before or found is None:
            break
    return judge(before, after, limit, expected, found)


def _embed_within(
    embedder: Embedder, crops: Sequence[Pixels], limit: int, budget: Budget
) -> tuple[Vectors | None, int]:
    """Vectors (None: memory did not even hold one crop) and the batch that came of it; all is as before afterwards."""
    before = embedder.limit.crops
    try:
        limit_memory(limit, embedder.device)
        return embedder.embed(crops).vectors, embedder.limit.crops
    except torch.cuda.OutOfMemoryError:
        return None, embedder.limit.crops
    finally:
        embedder.limit.crops = before
        limit_memory(budget.bytes, embedder.device)


def _peaks(embedder: Embedder, crops: Sequence[Pixels]) -> tuple[int, int]:
    """Bytes of the card that embedding needs at most, and that torch holds for it at most."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(embedder.device)
    embedder.embed(crops)
    torch.cuda.synchronize(embedder.device)
    return torch.cuda.max_memory_allocated(embedder.device), torch.cuda.max_memory_reserved(embedder.device)
