"""How figures are written for people: percent or plain numbers, with their interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deer_reid_pipeline.reid.evaluation.estimates import Estimate

if TYPE_CHECKING:
    from deer_reid_pipeline.steps.owner_criteria import Criterion

SHARE, NUMBER = "share", "number"
"""Units: a share is written in percent, a number with two decimals."""

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
FIXED = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, so that no line ends there."""


def shown(value: float, unit: str) -> str:
    """A value as text: 0.1234 -> 12.3 %, or 0.68 for a number.

    A share that is not 0 or 1 is never shown as 0 or 100 %, one that is, always.
    """
    if not math.isfinite(value):
        return NOT_MEASURED
    if unit != SHARE:
        return _rounded(value, "", 2)
    text = f"{value * 100:.1f}"
    if text == "0.0" and value > 0:
        text = "<0.1"
    elif text == "100.0" and value < 1:
        text = ">99.9"
    return {"0.0": "0", "100.0": "100"}.get(text, text).replace("-", MINUS) + f"{FIXED}%"


def shown_change(value: float, unit: str) -> str:
    """A difference as text: +1.2 points for shares, +0.03 for numbers."""
    if not math.isfinite(value):
        return NOT_MEASURED
    return _rounded(100 * value, "+", 1) + f"{FIXED}points" if unit == SHARE else _rounded(value, "+", 2)


def _rounded(value: float, sign: str, digits: int) -> str:
    """Zero has no sign, whatever it was rounded from."""
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def interval(estimate: Estimate, unit: str) -> str:
    """Its 95 % interval as text."""
    return f"{shown(estimate.low, unit)} to {shown(estimate.high, unit)}"


def with_interval(estimate: Estimate | None, unit: str) -> str:
    """Value and 95 % interval in ASCII: 26.0 % (21.3 to 31.2)."""
    if estimate is None or not is_measured(estimate):
        return NOT_MEASURED
    low, high = (shown(value, unit).removesuffix(f"{FIXED}%") for value in (estimate.low, estimate.high))
    return ascii_text(f"{shown(estimate.value, unit)} ({low} to {high})")


def change_interval(difference: Estimate, unit: str) -> str:
    """The 95 % interval of a difference as text."""
    low, high = (
        shown_change(value, unit).removesuffix(f"{FIXED}points") for value in (difference.low, difference.high)
    )
    return f"{low} to {high}"


def criterion_value(line: Criterion) -> str:
    """The value of one of the owner's criteria with its unit."""
    if line.value is None or not math.isfinite(line.value):
        return NOT_MEASURED
    text = f"{line.value:.4f}" if not line.unit and line.value != int(line.value) else f"{line.value:,.2f}"
    text = text.removesuffix(".00").replace("-", MINUS)
    return f"{text}{FIXED}{line.unit}".rstrip()


def is_measured(estimate: Estimate | None) -> bool:
    """Whether there was anything to measure."""
    return estimate is not None and estimate.n > 0 and math.isfinite(estimate.value)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """1 animal, 2 animals, 1,138 detections."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def ascii_text(text: str) -> str:
    """The same in ASCII, for logs and text files."""
    for character, plain in ((MINUS, "-"), (FIXED, " ")):
        text = text.replace(character, plain)
    return text.encode("ascii", "backslashreplace").decode()
