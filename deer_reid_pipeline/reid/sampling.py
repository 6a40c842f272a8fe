"""Which of a day's machine matches a person should review, and what the reviews say of all of them.

A probability sample: every match has a known chance of being drawn, part of it uniform, part in proportion to its
risk, and flagged ones are certain. Each reviewed match then stands for as many as one over that chance (Horvitz and
Thompson 1952, J. Am. Stat. Assoc. 47:663-685), so that looking harder where errors are likely does not make the rate
look worse. Nothing is assumed of how errors cluster: the chance is in the drawing, not in the matches.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.evaluation.estimates import clopper_pearson

Floats = NDArray[np.float64]

UNIFORM_REVIEWS = 10.0
"""Expected number of a day's matches drawn whatever their risk."""

RISKY_REVIEWS = 10.0
"""Expected number drawn beside them in proportion to the risk."""

SCORE_SCALE = 0.05
FLAGGED = "flagged"
EVERY = "every"
DRAWN = "drawn"


@dataclass(frozen=True)
class Candidate:
    """A match that may be drawn. `key` names it for ever; `risk` is above or at 0, in any unit."""

    key: str
    risk: float
    flagged: bool


@dataclass(frozen=True)
class Drawn:
    """A match that was drawn. `stratum`: flagged, every (there were few enough to look at all) or drawn."""

    key: str
    stratum: str
    inclusion_probability: float


@dataclass(frozen=True)
class FalseMatchRate:
    """Share of wrong ones among all machine matches of a period.

    Attributes:
        value: NaN where nothing was reviewed; 0 to 1.
        low, high: 95 % interval; 0 to 1.
        matches: that the figure is about.
        sampled, reviewed, wrong: matches drawn, of these with a person's verdict, of these wrong.
    """

    value: float
    low: float
    high: float
    matches: int
    sampled: int
    reviewed: int
    wrong: int


def risk_of(probability: float | None, score: float, threshold: float | None) -> float:
    """How uncertain a match is, 0 or more: the spread sqrt(p (1 - p)) of a wrong one, or closeness to the threshold.

    Args:
        probability: that the match is right, where a calibration says it.
        score, threshold: fused similarity, -1 to 1, or 0 to 1 under a calibrated fusion; used without a probability.
    """
    if probability is not None and math.isfinite(probability):
        p = min(max(probability, 0.0), 1.0)
        return math.sqrt(p * (1 - p))
    return math.exp(-max(0.0, score - (threshold if threshold is not None else score)) / SCORE_SCALE)


def inclusion_probabilities(
    risks: Floats, flagged: NDArray[np.bool_], uniform: float = UNIFORM_REVIEWS, risky: float = RISKY_REVIEWS
) -> Floats:
    """Chance of each match to be drawn, above 0 to 1; float (n,).

    Args:
        risks: finite, 0 or more; (n,).
        flagged: drawn for certain; (n,).
        uniform, risky: expected numbers drawn evenly and by risk, beside the flagged ones; uniform is above 0.

    Raises:
        ValueError: a risk is negative or not finite, or `uniform` is not above 0.
    """
    if uniform <= 0 or risky < 0:
        raise ValueError("every match needs a chance: the uniform part must be above 0")
    if not np.isfinite(risks).all() or (risks < 0).any():
        raise ValueError("risks are finite and not negative")
    chance = np.ones(len(risks))
    rest = ~flagged
    count = int(rest.sum())
    if count == 0:
        return chance
    total = float(risks[rest].sum())
    share = risks[rest] / total if total > 0 else np.full(count, 1 / count)
    chance[rest] = np.minimum(1.0, uniform / count + risky * share)
    return chance


def draw(
    candidates: Sequence[Candidate], salt: str, uniform: float = UNIFORM_REVIEWS, risky: float = RISKY_REVIEWS
) -> list[Drawn]:
    """Poisson sample: each match is drawn by itself, by a number made from its key and the salt.

    Drawing again gives the same sample, and a match that came later changes others' chances but not their numbers.
    """
    flagged = np.array([candidate.flagged for candidate in candidates], dtype=bool)
    risks = np.array([candidate.risk for candidate in candidates], dtype=np.float64)
    chances = inclusion_probabilities(risks, flagged, uniform, risky)
    return [
        Drawn(candidate.key, FLAGGED if candidate.flagged else EVERY if chance >= 1 else DRAWN, float(chance))
        for candidate, chance in zip(candidates, chances, strict=True)
        if number_of(candidate.key, salt) < chance
    ]


def number_of(key: str, salt: str) -> float:
    """A number in [0, 1) that belongs to a key, evenly spread and the same for ever (53 bits of a sha256)."""
    digest = hashlib.sha256(f"{salt}\x1f{key}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def false_match_rate(inclusion: Floats, wrong: Floats, matches: int) -> FalseMatchRate:
    """Share of wrong matches among all, with its 95 % interval, from reviewed samples.

    Matches that were certain to be drawn count for themselves alone. The others give a weighted mean (Hajek), with
    Clopper-Pearson's interval on its effective number of trials, from the variance of the drawing (Korn and Graubard
    1998, Survey Methodology 24:193-201); without an error, or with errors only, Kish's number for the weights
    alone. The two parts are joined by the square-and-add rule (Zou and Donner 2008, Stat. Med. 27:1693-1702). Verdicts
    that are missing are taken to be missing at random within a part; a part without any verdict may be anything.

    Args:
        inclusion: chance of each drawn match, above 0 to 1; (n,).
        wrong: 1 for a wrong one, 0 for a right one, NaN where nobody said; (n,).
        matches: number of matches that were there to be drawn.

    Raises:
        ValueError: more certain matches than matches, or arrays of different lengths.
    """
    if len(inclusion) != len(wrong):
        raise ValueError(f"{len(inclusion)} chances for {len(wrong)} verdicts")
    certain = inclusion >= 1
    others = matches - int(certain.sum())
    if others < int((~certain).sum()):
        raise ValueError(f"{len(inclusion)} matches drawn from {matches}")
    known = np.isfinite(wrong)
    parts = [
        (share / matches, _part(inclusion[chosen & known], wrong[chosen & known], share))
        for chosen, share in ((certain, int(certain.sum())), (~certain, others))
        if share
    ]
    reviewed, errors = int(known.sum()), int(np.nansum(wrong))
    if not parts or not reviewed:
        return FalseMatchRate(float("nan"), 0.0, 1.0, matches, len(wrong), 0, 0)
    spoken = [(share, part) for share, part in parts if math.isfinite(part[0])]
    value = sum(share * part[0] for share, part in spoken) / sum(share for share, _ in spoken)
    # A silent part takes the mean of the others, and everything that is possible on both sides of it.
    filled = [(share, (value, 0.0, 1.0) if math.isnan(part[0]) else part) for share, part in parts]
    below = math.sqrt(sum((share * (mean - low)) ** 2 for share, (mean, low, _) in filled))
    above = math.sqrt(sum((share * (high - mean)) ** 2 for share, (mean, _, high) in filled))
    return FalseMatchRate(
        value, max(0.0, value - below), min(1.0, value + above), matches, len(wrong), reviewed, errors
    )


def reviews_needed(rate: float, bound: float, most: int = 100_000) -> int | None:
    """Reviews of equal weight after which the interval's upper end is below the bound, should the rate stay.

    None where the rate is not below the bound, or where more than `most` would be needed.
    """
    if not rate < bound:
        return None
    low, high = 1, most
    if _upper(rate, high) > bound:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _upper(rate, middle) <= bound else (middle + 1, high)
    return low


def _upper(rate: float, trials: int) -> float:
    return clopper_pearson(rate * trials, trials)[1]


def _part(inclusion: Floats, wrong: Floats, population: int) -> tuple[float, float, float]:
    """Mean and interval of one part of the matches from its reviewed ones; NaN and 0 to 1 where there are none."""
    reviewed = len(wrong)
    if reviewed == 0:
        return float("nan"), 0.0, 1.0
    weights = 1 / inclusion
    total = float(weights.sum())
    value = float(weights @ wrong) / total
    if reviewed == population:
        return value, value, value
    if (inclusion >= 1).all():
        # Of the certain ones some were reviewed: as if these had been drawn evenly.
        inclusion = np.full(reviewed, reviewed / population)
    trials = total**2 / float((weights**2).sum()) / max(1 - reviewed / population, 1 / population)
    if 0 < value < 1 and reviewed > 1:
        residual = weights * (wrong - value)
        variance = float(((1 - inclusion) * residual**2).sum()) / total**2 * reviewed / (reviewed - 1)
        trials = value * (1 - value) / variance if variance > 0 else trials
    low, high = clopper_pearson(value * trials, trials)
    return value, float(low), float(high)
