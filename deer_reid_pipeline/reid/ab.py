"""Two releases side by side on new encounters: which decides which, and how they compare afterwards.

Both decide every encounter that takes part; a hash of the encounter says whose outcome counts. So the share is exact
in the long run, a repeated run gives the same arm, and the comparison is paired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.reid.evaluation.estimates import Estimate, clustered_rate, difference, rate, ratio
from deer_reid_pipeline.reid.evaluation.labelled import Ints
from deer_reid_pipeline.reid.matching import MATCHED, NEW_INDIVIDUAL, UNCERTAIN

A, B = "a", "b"
OUTCOMES = (MATCHED, NEW_INDIVIDUAL, UNCERTAIN)


def arm_of(encounter: Hashable, salt: str, share_all: float, share_b: float) -> str | None:
    """Whose outcome counts for an encounter: "a", "b", or None where it does not take part.

    Args:
        encounter: its id; only its text counts.
        salt: of the test, so that two tests divide the encounters differently.
        share_all: share of encounters that take part, 0 to 1.
        share_b: share of those that b decides, 0 to 1.
    """
    digest = hashlib.sha256(f"{salt}/{encounter}".encode()).digest()
    takes_part, side = (int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in (0, 8))
    if takes_part >= share_all:
        return None
    return B if side < share_b else A


@dataclass(frozen=True)
class Outcome:
    """What one release made of an encounter: matched, new_individual or uncertain, and the individual's id."""

    decision: str
    individual: Hashable | None


@dataclass(frozen=True)
class PairedOutcome:
    """Both outcomes of an encounter.

    Attributes:
        truth: id of the individual that a person gave it, None where nobody has.
        known: the true individual was known when it was decided, so that a match could be right.
    """

    a: Outcome
    b: Outcome
    truth: Hashable | None = None
    known: bool = True


@dataclass(frozen=True)
class Comparison:
    """How two releases compare on the same encounters.

    Attributes:
        outcomes: arm -> outcome -> encounters, whoever's counted.
        agreement: share of encounters with the same outcome and individual.
        with_truth: encounters that a person has identified.
        right: arm -> share of these decided rightly (a known animal named, an unknown one opened as new).
        wrong: arm -> share of these given a wrong name.
        right_gain, wrong_gain: b minus a, paired; None without truth.
        The intervals of what is right or wrong count encounters of one true individual as dependent.
    """

    encounters: int
    outcomes: dict[str, dict[str, int]]
    agreement: Estimate
    with_truth: int
    right: dict[str, Estimate]
    wrong: dict[str, Estimate]
    right_gain: Estimate | None
    wrong_gain: Estimate | None


def compare(pairs: Sequence[PairedOutcome]) -> Comparison:
    """Compare two releases on the encounters that both decided."""
    outcomes = {
        arm: {decision: sum(o.decision == decision for o in found) for decision in OUTCOMES}
        for arm, found in ((A, [p.a for p in pairs]), (B, [p.b for p in pairs]))
    }
    same = sum(_said(pair.a) == _said(pair.b) for pair in pairs)
    judged = [pair for pair in pairs if pair.truth is not None]
    trials = _of_each(judged, lambda _: True)
    right = {A: _of_each(judged, lambda p: is_right(p, p.a)), B: _of_each(judged, lambda p: is_right(p, p.b))}
    wrong = {A: _of_each(judged, lambda p: is_wrong_name(p, p.a)), B: _of_each(judged, lambda p: is_wrong_name(p, p.b))}
    return Comparison(
        encounters=len(pairs),
        outcomes=outcomes,
        agreement=rate(same, len(pairs)),
        with_truth=len(judged),
        right={arm: clustered_rate(events, trials) for arm, events in right.items()},
        wrong={arm: clustered_rate(events, trials) for arm, events in wrong.items()},
        right_gain=_gain(right, trials),
        wrong_gain=_gain(wrong, trials),
    )


def is_right(pair: PairedOutcome, outcome: Outcome) -> bool:
    """A known animal was named, or an unknown one opened as new. Uncertain is neither right nor wrong."""
    if pair.known:
        return outcome.decision == MATCHED and outcome.individual == pair.truth
    return outcome.decision == NEW_INDIVIDUAL


def is_wrong_name(pair: PairedOutcome, outcome: Outcome) -> bool:
    """It was given the name of another animal."""
    return outcome.decision == MATCHED and outcome.individual != pair.truth


def _said(outcome: Outcome) -> tuple[str, Hashable | None]:
    return outcome.decision, outcome.individual if outcome.decision == MATCHED else None


def _of_each(judged: Sequence[PairedOutcome], test: Callable[[PairedOutcome], bool]) -> Ints:
    """Encounters of each true individual that pass the test; (G,)."""
    found: dict[Hashable, int] = {}
    for pair in judged:
        found[pair.truth] = found.get(pair.truth, 0) + test(pair)
    return np.array(list(found.values()), dtype=np.int64)


def _gain(events: dict[str, Ints], trials: Ints) -> Estimate | None:
    if not len(trials):
        return None
    a, b = (ratio(events[arm].astype(np.float64), trials.astype(np.float64)) for arm in (A, B))
    return difference(b, a)
