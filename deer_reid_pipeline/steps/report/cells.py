"""One figure as a table cell: value, interval, a bar, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.steps.report.catalogue import Meaning
from deer_reid_pipeline.steps.report.wording import change_interval, interval, is_measured, shown, shown_change


@dataclass(frozen=True)
class Bar:
    """Places on a bar, percent of its width; `spoken` is what a screen reader says."""

    low: float
    width: float
    value: float
    chance: float | None
    spoken: str


@dataclass(frozen=True)
class Cell:
    """A measured figure for people."""

    value: str
    interval: str
    basis: str
    bar: Bar


@dataclass(frozen=True)
class Change:
    """Candidate minus live. `kind` is better, worse or quiet, `word` says it."""

    value: str
    interval: str
    kind: str
    word: str


def cell(estimate: Estimate | None, meaning: Meaning, chance: float | None = None) -> Cell | None:
    """The figure as a cell; None where it was not measured.

    Args:
        chance: what guessing would reach; None where that is not known.
    """
    if estimate is None or not is_measured(estimate):
        return None
    start, end = meaning.scale

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - start) / (end - start))), 2)

    low, high = place(estimate.low), place(estimate.high)
    text, between = shown(estimate.value, meaning.unit), interval(estimate, meaning.unit)
    bar = Bar(low, round(high - low, 2), place(estimate.value), None if chance is None else place(chance),
              f"{text}, 95 percent interval {between}")  # fmt: skip
    return Cell(text, between, f"n = {estimate.n:,}, {estimate.individuals:,} animals", bar)


def change(difference: Estimate | None, meaning: Meaning) -> Change | None:
    """A paired difference as a cell; None where it was not measured.

    It is called better or worse only where its interval leaves out zero.
    """
    if difference is None or not is_measured(difference):
        return None
    sign = 1 if meaning.more_is_better else -1
    low, high = sorted((sign * difference.low, sign * difference.high))
    kind, word = (
        ("better", "better") if low > 0 else ("worse", "worse") if high < 0 else ("quiet", "no difference shown")
    )
    return Change(shown_change(difference.value, meaning.unit), change_interval(difference, meaning.unit), kind, word)
