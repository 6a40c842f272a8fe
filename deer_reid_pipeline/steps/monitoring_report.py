"""What one day's monitoring found, as one record, in one sentence and as JSON."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from datetime import date, datetime

from deer_reid_pipeline.reid.plausibility import Flag
from deer_reid_pipeline.reid.sampling import FalseMatchRate

BOUND = 0.05
"""The owner's: fewer than 5 % of the matches may be wrong."""

SIMILAR_ABOVE = 0.50
RECENT_DAYS = 7
PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"


@dataclass(frozen=True)
class MatchLine:
    """A machine match of the day with similarity above 0.50. None where a comparison was not possible."""

    decision_id: int
    encounter_id: str
    individual: str
    similarity: float
    probability: float | None
    same_sex: bool | None
    similar_size: bool | None
    compatible_times: bool | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class ReviewItem:
    """A match for a person to look at: compare detection `left` with detection `right`.

    Attributes:
        why: in words; what a rule found, or that it was drawn.
    """

    day: date
    decision_id: int
    individual: str
    similarity: float | None
    probability: float | None
    left: uuid.UUID
    right: uuid.UUID
    flagged: bool
    why: str


@dataclass(frozen=True)
class Recent:
    """Similarities of the matches of the last 7 days by what people said of them; NaN-free."""

    right: tuple[float, ...]
    wrong: tuple[float, ...]
    unknown: tuple[float, ...]


@dataclass(frozen=True)
class MonitoringReport:
    """What one day's monitoring found.

    Attributes:
        outcomes: machine decisions of the day by outcome.
        flags: of the rules, on the day's machine matches.
        compared, not_judged: comparisons by rule that were made, and that could not be.
        without_pair: matches that cannot be reviewed, because no picture of the individual is left to compare with.
        rate: of false matches over the last `window` days, from reviewed samples.
        days_without_report: days of the window with matches that nobody drew a sample of.
        needed: further reviews after which the rate could be claimed to be below the bound; None: it is not.
        folder: of its files, relative to the home.
    """

    day: date
    until: datetime
    outcomes: dict[str, int]
    by_person: int
    releases: tuple[int, ...]
    similar: tuple[MatchLine, ...]
    flags: tuple[Flag, ...]
    compared: dict[str, int]
    not_judged: dict[str, int]
    sampled: int
    without_pair: int
    window: int
    rate: FalseMatchRate
    verdict: str
    needed: int | None
    days_without_report: int
    recent: Recent
    to_review: tuple[ReviewItem, ...]
    history: tuple[tuple[date, int, int], ...]
    folder: str

    @property
    def matched(self) -> int:
        return self.outcomes.get("matched", 0)

    @property
    def sentence(self) -> str:
        """Whether the matches can be trusted, in one sentence."""
        rate = self.rate
        if not rate.matches:
            return f"No machine match in the last {self.window} days."
        if not rate.reviewed:
            return (
                f"No reviewed match in the last {self.window} days, so the share of false matches is not known "
                f"({rate.sampled} drawn matches wait for a person)."
            )
        text = (
            f"{rate.value:.1%} of the last {self.window} days' {rate.matches} matches are false (95 % interval "
            f"{rate.low:.1%} to {rate.high:.1%}; {rate.reviewed} of {rate.sampled} drawn ones reviewed)"
        )
        if self.verdict == INCONCLUSIVE and self.needed is not None:
            text += f"; about {self.needed} more reviews are needed to claim less than {BOUND:.0%}"
        return text + "."


def summary_of(report: MonitoringReport) -> dict[str, object]:
    """The report as JSON types, without pictures and without NaN."""
    rate = report.rate
    return {
        "day": report.day.isoformat(),
        "until": report.until.isoformat(timespec="seconds"),
        "verdict": report.verdict,
        "text": report.sentence,
        "matches": report.matched,
        "outcomes": report.outcomes,
        "by_person": report.by_person,
        "releases": list(report.releases),
        "flags": [
            {
                "rule": flag.rule,
                "encounters": [str(key) for key in flag.encounters],
                "individual": str(flag.individual),
                "text": flag.text,
            }
            for flag in report.flags
        ],
        "compared": report.compared,
        "not_judged": report.not_judged,
        "sampled": report.sampled,
        "without_pair": report.without_pair,
        "false_match_rate": {
            "value": None if math.isnan(rate.value) else rate.value,
            "low": rate.low,
            "high": rate.high,
            "n": rate.reviewed,
            "matches": rate.matches,
            "sampled": rate.sampled,
            "wrong": rate.wrong,
            "days": report.window,
            "bound": BOUND,
            "needed": report.needed,
            "days_without_report": report.days_without_report,
        },
        "similar": [vars(line) for line in report.similar],
        "recent": {name: list(values) for name, values in vars(report.recent).items()},
        "to_review": [
            {
                "day": item.day.isoformat(),
                "individual": item.individual,
                "left": str(item.left),
                "right": str(item.right),
                "similarity": item.similarity,
                "probability": item.probability,
                "why": item.why,
            }
            for item in report.to_review
        ],
    }
