"""When to measure and what to use: nobody waits for a measurement that the work ahead does not pay for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder, EmbeddingError
from deer_reid_pipeline.vision.engine.backends import BackendError
from deer_reid_pipeline.vision.engine.batches import largest_batch, limit_memory, vram_budget
from deer_reid_pipeline.vision.engine.choosing import Decision, keep, kept, measure
from deer_reid_pipeline.vision.engine.options import PLAIN, EngineOptions

log = logging.getLogger(__name__)

Say = Callable[[str], None]

QUICK_FROM = 120.0
"""Seconds of work ahead from which trying what is measured quickly (half a minute to a minute here) is worth it."""
LEAST_BACKLOG = 200
"""Crops of work ahead below which nothing is measured by itself, however slow: measuring computes far more."""
FULL_FROM = 900.0
"""Seconds of work ahead from which trying every library in every arithmetic (minutes) is worth it."""
GAIN_OVER_START = 3.0
"""A library that takes long to start must save this many times its start."""


def _drawn_pictures() -> Sequence[Pixels]:
    # Only who measures loads the catalogue, which needs packages that computing does not.
    from deer_reid_pipeline.vision.catalog import drawn_pictures

    return drawn_pictures()


def begin(embedder: Embedder, folder: Path, options: EngineOptions) -> None:
    """At loading: keep to the memory budget of the card, and use what was found here before and is ready at once.

    Raises:
        EmbeddingError: see `fit_batch`.
    """
    if embedder.device.type == "cuda":
        fit_batch(embedder, options)
    use_kept(embedder, folder, options, quick_start=True)


def settle(
    embedder: Embedder,
    folder: Path,
    options: EngineOptions,
    backlog: int,
    say: Say = log.info,
    pictures: Callable[[], Sequence[Pixels]] = _drawn_pictures,
) -> Decision | None:
    """Before `backlog` crops are embedded: measure if it pays or was asked for, and compute in the best way that pays.

    Args:
        folder: the model store; what was measured is kept in it.
        pictures: gives the calibration pictures; called only to measure.

    Returns:
        What was measured, now or before; None where nothing was.
    """
    decision = kept(folder, embedder)
    if decision is None or not decision.full:
        ahead = backlog * _seconds_a_crop(embedder) if backlog >= LEAST_BACKLOG else 0.0
        slow_asked = options.backend not in ("auto", "torch") and backlog > 0
        narrow_asked = options.precision not in ("auto", "float32") and backlog > 0
        full = ahead >= FULL_FROM or slow_asked
        if full or (decision is None and (ahead >= QUICK_FROM or narrow_asked)):
            decision = measure_and_keep(embedder, folder, full, say, pictures, first=options.backend)
    if decision is not None:
        quick, best = decision.plan(options, quick_start=True), decision.plan(options)
        saved = backlog * (decision.seconds_a_crop(quick) - decision.seconds_a_crop(best))
        pays = saved > GAIN_OVER_START * decision.start_seconds(best)
        _use(embedder, decision, options, quick_start=not pays, say=say)
    return decision


def use_kept(
    embedder: Embedder, folder: Path, options: EngineOptions, say: Say = log.info, quick_start: bool = False
) -> None:
    """Compute in the best way that was found here before (`quick_start`: of those that are ready at once), if any was;
    measure nothing."""
    decision = kept(folder, embedder)
    if decision is not None:
        _use(embedder, decision, options, quick_start, say)


def measure_and_keep(
    embedder: Embedder,
    folder: Path,
    full: bool = True,
    say: Say = log.info,
    pictures: Callable[[], Sequence[Pixels]] = _drawn_pictures,
    first: str = "auto",
) -> Decision:
    """Measure on request, and keep what was found. `first`: see `measure`."""
    say(f"measuring how recipe {embedder.recipe.id} is computed fastest here (once, and again when something changes)")
    decision = measure(embedder, pictures(), full, first=first, say=say)
    try:
        keep(folder, embedder, decision)
    except WeightsError as error:
        log.warning("what was measured cannot be kept, and will be measured again: %s", error)
    return decision


def fit_batch(embedder: Embedder, options: EngineOptions) -> int:
    """Keep to the memory budget of the card in this process from now on, and set the largest batch that it holds.

    Returns:
        Crops in that batch.

    Raises:
        EmbeddingError: the budget does not hold the networks and one crop.
    """
    budget = vram_budget(options.vram_mb, embedder.device)
    limit_memory(budget, embedder.device)
    largest = largest_batch(whole_batches(embedder))
    if not largest:
        raise EmbeddingError(
            f"{budget // 2**20} MiB of {embedder.device} do not hold the networks of recipe {embedder.recipe.id} and "
            "one crop: allow more (DEER_REID_VRAM_MB, or --vram-mb of the GPU check), or set DEER_REID_DEVICE=cpu"
        )
    embedder.limit.crops = largest
    torch.cuda.empty_cache()
    log.info("batches of %d crops stay within %d MiB of the card", largest, budget // 2**20)
    return largest


def whole_batches(embedder: Embedder) -> Callable[[int], None]:
    """Embeds so many crops of noise at once, and sets the embedder's limit to them.

    The call raises torch.cuda.OutOfMemoryError where they do not fit, also where smaller batches would have done.
    """

    def work(size: int) -> None:
        embedder.limit.crops = size
        embedder.embed([_noise()] * size)
        if embedder.limit.crops < size:
            raise torch.cuda.OutOfMemoryError(f"{size} crops at once do not fit {embedder.device}")

    return work


def _noise() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def _use(
    embedder: Embedder, decision: Decision, options: EngineOptions, quick_start: bool, say: Say = log.info
) -> None:
    plan = decision.plan(options, quick_start)
    if options.precision != "auto" or options.backend != "auto":
        for trial in decision.trials:
            if trial.reason and options.allows(trial.choice) and plan[trial.backbone] == PLAIN:
                log.warning("what was asked for is not used: %s", trial.describe())
    if dict(plan) == dict(embedder.plan):
        return
    try:
        embedder.use(plan)
    except BackendError as error:
        log.warning("going on as before, because what was measured cannot be used now: %s", error)
        return
    say("computing " + ", ".join(f"{key} by {choice}" for key, choice in plan.items()))


def _seconds_a_crop(embedder: Embedder) -> float:
    """Of this recipe as it is computed now, from one batch of noise."""
    crop = _noise()
    count = min(8, embedder.limit.crops)
    start = time.perf_counter()
    embedder.embed([crop] * count)
    return (time.perf_counter() - start) / count
