"""The owner's criteria that concern speed (SPEC section 2), each with its value and what that was measured on.

Projections say so. A criterion that was not measured is neither PASS nor FAIL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deer_reid_pipeline.steps.benchmark.config import NIGHT
from deer_reid_pipeline.steps.owner_criteria import ASKED, FAIL, NOT_MEASURED, PASS, Criterion

if TYPE_CHECKING:
    from deer_reid_pipeline.steps.benchmark.measure import Benchmark

MOST_SECONDS = 3.0
PICTURES_A_SECOND = 8.3
SEARCH_MS = 10.0
VRAM_GB = 12.0
REEMBED_HOURS = 2.0
NIGHT_HOURS = 8
OWNERS_DETECTIONS = 11_570
OVERNIGHT = 5_000
FEWEST_SUSTAINED = 500


def speed_criteria(of: Benchmark) -> tuple[Criterion, ...]:
    """What a benchmark measures of them; the slowest set of pictures decides."""
    return (
        _one_detection(of),
        _throughput(of),
        video_memory(of.device_peak_mib, "most that torch held of the card during this benchmark"),
        _profiles(of),
        _unmeasured("overnight_batch", "a benchmark does not process a drop: deer-reid benchmark --night does"),
        _search(of),
    )


def throughput(pictures_a_second: float, detail: str, pictures: int | None = None) -> Criterion:
    """Sustained throughput, with what it makes of a night.

    Args:
        pictures: that were processed; start-up is most of what few of them take. None: it is projected from parts.
    """
    if pictures is not None and pictures < FEWEST_SUSTAINED:
        why = f"start-up is part of what {pictures:,} pictures take; {FEWEST_SUSTAINED:,} are the fewest to judge by"
        return _unmeasured("images_a_second", why)
    capacity = pictures_a_second * 3600 * NIGHT_HOURS
    return judged(
        "images_a_second",
        pictures_a_second,
        "images/s",
        pictures_a_second >= PICTURES_A_SECOND,
        f"{detail}; projected to {NIGHT_HOURS} hours: {capacity:,.0f} of {NIGHT:,} pictures",
    )


def video_memory(peak_mib: float | None, detail: str) -> Criterion:
    """Memory of the card; GB are 10^9 bytes."""
    if peak_mib is None:
        return _unmeasured("video_memory", "there is no CUDA card here")
    value = peak_mib * 2**20 / 1e9
    return judged("video_memory", value, "GB", value < VRAM_GB, detail)


def overnight(pictures: int, failures: int) -> Criterion:
    """Whether a batch of the owner's size went through."""
    if failures:
        return judged("overnight_batch", float(failures), "failures", False, f"{pictures:,} pictures processed")
    if pictures < OVERNIGHT:
        return _unmeasured("overnight_batch", f"only {pictures:,} pictures were processed, without a failure")
    return judged("overnight_batch", 0.0, "failures", True, f"{pictures:,} pictures processed")


def judged(name: str, value: float, unit: str, passed: bool, detail: str) -> Criterion:
    """A criterion that was measured."""
    title, wanted = ASKED[name]
    return Criterion(name, title, value, unit, wanted, PASS if passed else FAIL, detail)


def _one_detection(of: Benchmark) -> Criterion:
    item = max(of.sets, key=lambda each: each.alone[1])
    value = item.alone[1] + of.writes.insert + of.writes.commit + of.search.p95_ms / 1000
    detail = (
        f"the slowest of those measured alone, from file to vectors ({item.pictures}), with the writing of a whole "
        f"batch and a slow search (95 %); the median from file to vectors is {item.alone[0]:.3f} s"
    )
    return judged("seconds_a_detection", value, "s", value < MOST_SECONDS, detail)


def _throughput(of: Benchmark) -> Criterion:
    item = min(of.sets, key=of.sustained)
    detail = f"projected from the engine, then writing, then matching, on {item.pictures}, one animal a picture"
    return throughput(of.sustained(item), detail)


def _profiles(of: Benchmark) -> Criterion:
    rate = of.sustained(of.slowest)
    value = OWNERS_DETECTIONS / rate / 3600
    detail = (
        f"projected: the owner's {OWNERS_DETECTIONS:,} detections at {rate:.1f} a second, measured from pictures "
        f"({of.slowest.pictures}), where re-embedding reads stored crops"
    )
    return judged("profiles_reembedded_in", value, "h", value < REEMBED_HOURS, detail)


def _search(of: Benchmark) -> Criterion:
    found = of.search
    detail = (
        f"95 % of {found.searches} searches of the matcher took no longer; {found.individuals} individuals "
        f"({found.gallery}) with {found.exemplars} exemplars"
    )
    return judged("vector_search", found.p95_ms, "ms", found.p95_ms < SEARCH_MS, detail)


def _unmeasured(name: str, why: str) -> Criterion:
    title, wanted = ASKED[name]
    return Criterion(name, title, None, "", wanted, NOT_MEASURED, why)
