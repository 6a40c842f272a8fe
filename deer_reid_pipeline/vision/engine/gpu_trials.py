"""What `gpu_check` measures of one recipe: speed at every batch, memory, and which part would be the next limit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from deer_reid_pipeline.vision.crops import decode_crop
from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine.batches import peak_bytes
from deer_reid_pipeline.vision.engine.choosing import WANTED_COSINE, least_cosine, measure
from deer_reid_pipeline.vision.engine.gpu_memory import (
    BESIDE_MIB,
    MIB,
    Budget,
    OutOfMemoryTrial,
    out_of_memory_trial,
    taken_bytes,
)
from deer_reid_pipeline.vision.engine.loading import Job, cores
from deer_reid_pipeline.vision.engine.measuring import batches_on_device, finish, forward
from deer_reid_pipeline.vision.engine.options import AUTO, EngineOptions
from deer_reid_pipeline.vision.engine.settling import fit_batch
from deer_reid_pipeline.vision.engine.stream import embed_jobs

Say = Callable[[str], None]

LEAST_BATCHES = 4
_COPIED = 64 * MIB


@dataclass(frozen=True)
class BatchFigures:
    """One batch size. Speeds in crops a second.

    Attributes:
        bare: the networks alone on bytes that lie on the device; None: the engine does not take so many at once.
        engine: JPEG bytes in, vectors out.
        peak_mib: most that torch held of the card meanwhile; None without a card.
        taken_mib: what was free on the card before the check and was not right afterwards; None without a card.
    """

    batch: int
    bare: float | None
    engine: float
    peak_mib: float | None
    taken_mib: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.bare is None else self.engine / self.bare


@dataclass(frozen=True)
class Limits:
    """How fast each part is by itself at one batch size, crops a second.

    Attributes:
        decode: JPEG bytes to laid-out crops, on all cores.
        copy: laid-out batches to the card, pinning included; None without a card.
        compute: the networks alone.
        network_thread: laid-out crops to vectors on the host: stacking, copying, computing, projecting, in turns.
        copy_gb_per_s: plain pinned copies to the card; None without a card.
        next: what would have to become faster first.
    """

    batch: int
    decode: float
    copy: float | None
    compute: float
    network_thread: float
    copy_gb_per_s: float | None
    next: str


@dataclass(frozen=True)
class RecipeFigures:
    """All that was measured of one recipe; `failures`: what was not as it has to be, a sentence each."""

    recipe: str
    stand_ins: list[str]
    trials: list[str]
    plan: dict[str, str]
    cosine: float
    largest_batch: int
    batches: list[BatchFigures]
    limits: Limits
    out_of_memory: OutOfMemoryTrial | None
    failures: list[str] = field(default_factory=list)


def measure_recipe(
    name: str,
    stand_ins: list[str],
    embedder: Embedder,
    contents: Sequence[bytes],
    budget: Budget | None,
    sizes: Sequence[int],
    seconds: float,
    say: Say,
) -> RecipeFigures:
    """Measure one recipe as the engine runs it: batch fitted to the card, arithmetic chosen by the self-test.

    Args:
        contents: JPEG of crops.
        budget: None: there is no card, and memory is left out.
        sizes: crops in a batch, rising.
        seconds: spent on each speed.

    Raises:
        torch.cuda.OutOfMemoryError: the budget does not hold one crop.
    """
    crops = [decode_crop(content) for content in contents]
    embedder.limit.crops = max(sizes)
    if budget is not None:
        embedder.limit.crops = min(max(sizes), fit_batch(embedder, EngineOptions(vram_mb=budget.vram_mb)))
        say(f"{name}: batches of {embedder.limit.crops} crops stay within the budget")
    largest = embedder.limit.crops
    plain = embedder.embed(crops).vectors
    decision = measure(embedder, crops, full=False, say=lambda line: say(f"{name}: {line}"))
    embedder.use(decision.plan(AUTO))
    cosine = least_cosine(plain, embedder.embed(crops).vectors)
    rows = []
    for size in sizes:
        rows.append(_at_batch(embedder, contents, crops, size, largest, seconds, budget))
        say(f"{name}: batch {size}: {rows[-1].engine:.1f} crops/s")
    limits = _limits(embedder, contents, crops, rows, seconds)
    halved = embedder.limit.crops < largest
    trial = None
    if budget is not None:
        trial = out_of_memory_trial(embedder, crops, budget)
    return RecipeFigures(
        recipe=name,
        stand_ins=stand_ins,
        trials=decision.describe(),
        plan={key: str(choice) for key, choice in embedder.plan.items()},
        cosine=cosine,
        largest_batch=largest,
        batches=rows,
        limits=limits,
        out_of_memory=trial,
        failures=[f"{name}: {reason}" for reason in failures_of(cosine, rows, halved, budget, trial)],
    )


def failures_of(
    cosine: float, rows: Sequence[BatchFigures], halved: bool, budget: Budget | None, trial: OutOfMemoryTrial | None
) -> list[str]:
    """What was not as it has to be, a sentence each."""
    found = []
    if not cosine >= WANTED_COSINE:
        found.append(f"the vectors of the way of computing in use have cosine {cosine:.5f} to float32")
    if budget is None:
        return found
    for row in rows:
        if row.peak_mib is not None and row.peak_mib * MIB > budget.bytes:
            found.append(f"batch {row.batch} took {row.peak_mib:.0f} MiB, more than the budget of {budget.vram_mb} MiB")
        if row.taken_mib is not None and row.taken_mib > budget.vram_mb + BESIDE_MIB:
            found.append(
                f"after batch {row.batch} the card had {row.taken_mib:.0f} MiB less than before, more than the budget "
                f"of {budget.vram_mb} MiB and {BESIDE_MIB} MiB for the driver: unless a neighbour grew meanwhile, "
                "something takes memory past torch"
            )
    if halved:
        found.append("the largest batch that the engine picked was halved later: it was not safe")
    if trial is None:
        found.append("running out of memory was not tried: batches are too small")
    elif trial.reason:
        found.append(trial.reason)
    return found


def _at_batch(
    embedder: Embedder,
    contents: Sequence[bytes],
    crops: Sequence[Pixels],
    size: int,
    largest: int,
    seconds: float,
    budget: Budget | None,
) -> BatchFigures:
    bare = bare_rate(embedder, crops, size, seconds) if size <= largest else None
    rates: list[float] = []

    def run(batch: int) -> None:
        rates.append(engine_rate(embedder, contents, batch, seconds))

    if budget is None:
        run(size)
        return BatchFigures(size, bare, rates[-1], None)
    peak = peak_bytes(run, embedder.device)(size)
    return BatchFigures(size, bare, rates[-1], peak / MIB, taken_bytes(budget, embedder.device) / MIB)


def bare_rate(embedder: Embedder, crops: Sequence[Pixels], size: int, seconds: float) -> float:
    """Crops a second of the networks alone, by the plan in use, on bytes that lie on the device already."""
    on_device = batches_on_device(embedder, crops, size)
    return size / _seconds_each(lambda: forward(embedder, on_device), embedder.device, seconds)


def engine_rate(embedder: Embedder, contents: Sequence[bytes], batch: int, seconds: float) -> float:
    """Crops a second from JPEG bytes to vectors on the host, through the engine's own stream.

    Raises:
        ImageError: a picture that was drawn here cannot be read.
    """
    list(embed_jobs(embedder, [Job(n, contents[n % len(contents)]) for n in range(batch)], batch))
    began = time.perf_counter()

    def jobs() -> Iterator[Job[int]]:
        for number in itertools.count():
            if number >= LEAST_BATCHES * batch and time.perf_counter() - began > seconds:
                return
            yield Job(number, contents[number % len(contents)])

    done = 0
    for made in embed_jobs(embedder, jobs(), batch):
        if made.failed:
            raise made.failed[0][1]
        done += len(made.keys)
    return done / (time.perf_counter() - began)


def _limits(
    embedder: Embedder, contents: Sequence[bytes], crops: Sequence[Pixels], rows: Sequence[BatchFigures], seconds: float
) -> Limits:
    """Every part by itself at the batch at which the engine was fastest."""
    able = [row for row in rows if row.bare is not None]
    best = max(able, key=lambda row: row.engine)
    size, compute = best.batch, best.bare or 0.0
    prepared = [embedder.prepare(crops[index % len(crops)]) for index in range(size)]
    network = size / _seconds_each(lambda: embedder.embed_prepared(prepared), embedder.device, seconds)
    copy, plain = _copy_rates(embedder, size, seconds)
    decode = decode_rate(embedder, contents, seconds)
    return Limits(size, decode, copy, compute, network, plain, next_limit(decode, copy, compute, network))


def next_limit(decode: float, copy: float | None, compute: float, network_thread: float) -> str:
    """Which part takes longest: loading runs beside the network's thread, which copies and computes in turns.

    Args:
        decode, copy, compute, network_thread: crops a second, see `Limits`.
    """
    if decode < network_thread:
        return "decode"
    parts = {"copy": 1.0 / copy if copy else 0.0, "compute": 1.0 / compute}
    parts["host work between copy and compute"] = 1.0 / network_thread - sum(parts.values())
    return max(parts, key=lambda name: parts[name])


def decode_rate(embedder: Embedder, contents: Sequence[bytes], seconds: float) -> float:
    """Crops a second from JPEG bytes to laid-out crops, on all cores, with nothing else to do."""
    began = time.perf_counter()
    done = 0
    with ThreadPoolExecutor(cores()) as pool:
        while done < len(contents) or time.perf_counter() - began < seconds:
            done += len(list(pool.map(lambda content: embedder.prepare(decode_crop(content)), contents)))
    return done / (time.perf_counter() - began)


def _copy_rates(embedder: Embedder, size: int, seconds: float) -> tuple[float | None, float | None]:
    """Crops a second as the engine copies them, and GB a second of plain pinned copies; None without a card."""
    device = embedder.device
    if device.type != "cuda":
        return None, None
    batches = [np.zeros((size, spec.height, spec.width, 3), np.uint8) for spec in embedder.layouts()]

    def as_engine() -> None:
        for batch in batches:
            torch.from_numpy(batch).pin_memory().to(device, non_blocking=True)
        torch.cuda.synchronize(device)

    block = torch.zeros(_COPIED, dtype=torch.uint8).pin_memory()
    target = torch.empty(_COPIED, dtype=torch.uint8, device=device)
    plain = _COPIED / _seconds_each(lambda: target.copy_(block, non_blocking=True), device, seconds) / 1e9
    return size / _seconds_each(as_engine, device, seconds), plain


def _seconds_each(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds that a call takes, over as many calls as fill `seconds`; a device is waited for once, at the end."""
    work()
    finish(device)
    start = time.perf_counter()
    work()
    finish(device)
    count = max(3, int(seconds / max(1e-6, time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(count):
        work()
    finish(device)
    return (time.perf_counter() - start) / count
