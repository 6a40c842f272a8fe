"""The owner's acceptance criteria (SPEC sections 2 and 9), measured as they were asked.

They are reported and never decide: a useless recipe can meet them, which is why the gate exists. Nothing here is
softened by an interval; a criterion that a validation does not measure says so.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation, Raw
from deer_reid_pipeline.reid.evaluation.known_pairs import FalsePairs, change, false_pairs, true_pairs
from deer_reid_pipeline.reid.matching import MATCHED
from deer_reid_pipeline.reid.similarity import BASELINE, MULTISCALE

PASS, FAIL, NOT_MEASURED = "PASS", "FAIL", "NOT MEASURED"

WELL_KNOWN = 5
"""Detections from which on the owner calls a deer well known ("5+ sightings")."""

SIMILAR = 0.50
DIFFERENT_BELOW = 0.40
IMPROVEMENT = 10.0
FALSE_POSITIVES = 5.0
ASSIGNED = 70.0
RIGHT = 80.0


@dataclass(frozen=True)
class Criterion:
    """One criterion of the owner.

    Attributes:
        name: short, for programs; title: in words.
        value: in `unit`; None where it was not measured.
        wanted: as the owner asked.
        result: PASS, FAIL or NOT MEASURED, by the value alone.
        detail: what was counted, with its interval.
    """

    name: str
    title: str
    value: float | None
    unit: str
    wanted: str
    result: str
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class HomeState:
    """What the owner's tables show now.

    Attributes:
        detections, assigned: standing detections, and those with an individual.
        by_person: of the assigned, those that a person identified.
        profiles, on_ensemble: individuals with a profile, and those that show the new embedding.
    """

    detections: int
    assigned: int
    by_person: int
    profiles: int
    on_ensemble: int


ASKED = {
    "assignment_rate": ("Detections assigned to a deer", f">= {ASSIGNED:g} %"),
    "well_known_right": ("Deer with 5+ sightings: detections right", f">= {RIGHT:g} %"),
    "similarity_v1_v2": ("Similarity of true pairs, v1 to v2", f">= +{IMPROVEMENT:g} %"),
    "similarity_v1_v3": ("Similarity of true pairs, v1 to v3", f">= +{IMPROVEMENT:g} %"),
    "similarity_live_candidate": ("Similarity of true pairs, live to candidate", f">= +{IMPROVEMENT:g} %"),
    "false_positives_pairs": ("Pairs of different deer with similarity > 0.50", f"< {FALSE_POSITIVES:g} %"),
    "false_positives_matches": ("Matches with similarity > 0.50 that are wrong", f"< {FALSE_POSITIVES:g} %"),
    "owners_rule": (
        "PASS rule: similarity up and few false positives",
        f">= +{IMPROVEMENT:g} % and < {FALSE_POSITIVES:g} %",
    ),
    "same_sex_similarity": ("Different deer of one sex: highest similarity", f"< {DIFFERENT_BELOW:.2f}"),
    "deer_merged": ("Deer merged into another", "0"),
    "profiles_on_new_embedding": ("Profiles on the new embedding", "100 %"),
    "seconds_a_detection": ("Time a detection, end to end", "< 3 s"),
    "images_a_second": ("Sustained throughput", ">= 8.3 images/s"),
    "video_memory": ("GPU memory", "< 12 GB"),
    "profiles_reembedded_in": ("All profiles re-embedded", "< 2 h"),
    "overnight_batch": ("5,000 images overnight without a crash", "no crash"),
    "vector_search": ("Vector search", "< 10 ms"),
    "rollback": ("Rollback, nothing lost", "< 2 min"),
    "migration": ("Schema migration, additive, no downtime", "seconds"),
}
"""Every criterion, in the order of the specification: in words, and what is wanted."""

_FROM_PAIRS = (
    "well_known_right",
    "similarity_v1_v2",
    "similarity_v1_v3",
    "false_positives_pairs",
    "false_positives_matches",
    "owners_rule",
    "same_sex_similarity",
    "deer_merged",
)
_ELSEWHERE = (
    "seconds_a_detection",
    "images_a_second",
    "video_memory",
    "profiles_reembedded_in",
    "overnight_batch",
    "vector_search",
    "rollback",
    "migration",
)


def owner_criteria(
    state: HomeState, judged: Evaluation | None, compared_with: Evaluation | None = None
) -> tuple[Criterion, ...]:
    """Every criterion of the owner, in the order of the specification.

    Args:
        judged: of the live release, or of the candidate where there is one; None where there is too little data.
        compared_with: of the live release where `judged` is a candidate's. The owner's rule then asks for a candidate
            whose true pairs are more similar than under the live release, instead of v3 against v1.
    """
    rows = [_assigned(state)]
    if judged is None or judged.raw is None:
        rows += [_unmeasured(name, "too few labelled animals") for name in _FROM_PAIRS]
    else:
        rows += _measured(judged, judged.raw, compared_with)
    rows.append(_profiles(state))
    rows += [_unmeasured(name, "measured by a benchmark or in operation, not by a validation") for name in _ELSEWHERE]
    return tuple(rows)


def _measured(judged: Evaluation, raw: Raw, live: Evaluation | None) -> list[Criterion]:
    labelled, fitted = raw.labelled, judged.policies
    v1, v2, v3 = (true_pairs(labelled, fitted, branch, WELL_KNOWN) for branch in (BASELINE, MULTISCALE, None))
    apart = false_pairs(labelled, fitted, SIMILAR, DIFFERENT_BELOW)
    improvement = change(v1, v3)
    words = f"mean v1 {v1.mean:.4f}, v2 {v2.mean:.4f}, v3 {v3.mean:.4f} over {v1.pairs} pairs of {v1.individuals} deer"
    rows = [
        _right(raw),
        _change("similarity_v1_v2", change(v1, v2), words),
        _change("similarity_v1_v3", improvement, words),
    ]
    if live is not None and live.raw is not None:
        before = true_pairs(live.raw.labelled, live.policies, None, WELL_KNOWN)
        improvement = change(before, v3)
        words = f"mean live {before.mean:.4f}, candidate {v3.mean:.4f} over {v3.pairs} pairs of {v3.individuals} deer"
        rows.append(_change("similarity_live_candidate", improvement, words))
    false_positives = _as_percent(apart.share_above())
    return [
        *rows,
        _different(false_positives),
        _wrong_matches(raw),
        _rule(improvement, false_positives),
        _same_sex(apart),
        _merged(raw),
    ]


def meets_owners_rule(improvement: float, false_positives: float) -> bool:
    """The owner's PASS rule: similarity of true pairs up by 10 % or more, and fewer than 5 % false positives.

    Args:
        improvement, false_positives: in percent.
    """
    return improvement >= IMPROVEMENT and false_positives < FALSE_POSITIVES


def _right(raw: Raw) -> Criterion:
    """Share of the detections of returning well-known deer that are given their name, encounters in time order."""
    decided, labelled = raw.decided, raw.labelled
    sizes = np.array([len(rows) for rows in decided.rows], dtype=np.int64)
    well_known = np.bincount(labelled.individual, minlength=labelled.individuals) >= WELL_KNOWN
    counted = decided.known_before & well_known[decided.individual]
    named = counted & (decided.outcome == MATCHED) & (decided.said == decided.individual)
    trials, right = int(sizes[counted].sum()), int(sizes[named].sum())
    if not trials:
        return _unmeasured("well_known_right", "no deer with 5+ detections returned")
    value = 100 * right / trials
    deer = len(set(decided.individual[counted].tolist()))
    detail = f"{right} of {trials} detections of {deer} deer in encounters after their first"
    return _judged("well_known_right", value, value >= RIGHT, detail)


def _wrong_matches(raw: Raw) -> Criterion:
    decided = raw.decided
    matches = (decided.outcome == MATCHED) & (decided.score > SIMILAR)
    wrong = int(np.count_nonzero(matches & (decided.said != decided.individual)))
    total = int(np.count_nonzero(matches))
    if not total:
        return _unmeasured("false_positives_matches", "the release matched nobody with a similarity > 0.50")
    value = 100 * wrong / total
    detail = f"{wrong} of {total} matches, encounters in time order"
    return _judged("false_positives_matches", value, value < FALSE_POSITIVES, detail)


def _rule(improvement: Estimate, false_positives: Estimate) -> Criterion:
    if not (math.isfinite(improvement.value) and math.isfinite(false_positives.value)):
        return _unmeasured("owners_rule", "it needs true pairs of deer with 5+ detections, and pairs of different deer")
    passed = meets_owners_rule(improvement.value, false_positives.value)
    detail = f"similarity {improvement.value:+.1f} %, false positives {false_positives.value:.2f} %"
    return _judged("owners_rule", improvement.value, passed, detail)


def _different(measured: Estimate) -> Criterion:
    name = "false_positives_pairs"
    if not math.isfinite(measured.value):
        return _unmeasured(name, "no pair of different deer")
    return _judged(
        name, measured.value, measured.value < FALSE_POSITIVES, f"of {measured.n} pairs{_interval(measured)}"
    )


def _same_sex(apart: FalsePairs) -> Criterion:
    if not apart.same_sex_pairs:
        return _unmeasured("same_sex_similarity", "no two deer of one known sex are labelled")
    highest = apart.same_sex_highest
    detail = (
        f"mean {apart.same_sex_mean:.4f}, {100 * apart.same_sex_reaching:.2f} % reach {DIFFERENT_BELOW:.2f}, over "
        f"{apart.same_sex_pairs} pairs of pictures"
    )
    return _judged("same_sex_similarity", highest, highest < DIFFERENT_BELOW, detail, unit="")


def _merged(raw: Raw) -> Criterion:
    """Deer that share an individual with another one, when the matcher relies on its own decisions."""
    made, true = raw.identities.said, raw.identities.individual
    pairs = np.unique(np.stack([made, true])[:, made >= 0], axis=1)
    deer = np.bincount(pairs[0], minlength=1)
    merged = int((deer[deer > 1] - 1).sum())
    detail = (
        f"left to itself it makes {int(np.count_nonzero(deer))} of {len(np.unique(true))} deer, "
        f"{int(np.count_nonzero(deer > 1))} of them out of several"
    )
    return _judged("deer_merged", float(merged), merged == 0, detail, unit="")


def _profiles(state: HomeState) -> Criterion:
    name = "profiles_on_new_embedding"
    if not state.profiles:
        return _unmeasured(name, "nobody is known yet")
    value = 100 * state.on_ensemble / state.profiles
    return _judged(name, value, state.on_ensemble == state.profiles, f"{state.on_ensemble} of {state.profiles} deer")


def _assigned(state: HomeState) -> Criterion:
    name = "assignment_rate"
    if not state.detections:
        return _unmeasured(name, "no detections yet")
    value = 100 * state.assigned / state.detections
    detail = f"{state.assigned} of {state.detections} detections, {state.by_person} of them by a person"
    return _judged(name, value, value >= ASSIGNED, detail)


def _change(name: str, measured: Estimate, detail: str) -> Criterion:
    if not math.isfinite(measured.value):
        return _unmeasured(name, f"{detail}: nothing to take a percentage of")
    return _judged(name, measured.value, measured.value >= IMPROVEMENT, f"{detail}{_interval(measured)}")


def _as_percent(item: Estimate) -> Estimate:
    return Estimate(100 * item.value, 100 * item.low, 100 * item.high, item.n, item.individuals)


def _interval(item: Estimate) -> str:
    if not (math.isfinite(item.low) and math.isfinite(item.high)):
        return ""
    return f" (95 %: {item.low:.2f} to {item.high:.2f} %)"


def _judged(name: str, value: float, passed: bool, detail: str, *, unit: str = "%") -> Criterion:
    title, wanted = ASKED[name]
    return Criterion(name, title, value, unit, wanted, PASS if passed else FAIL, detail)


def _unmeasured(name: str, why: str) -> Criterion:
    title, wanted = ASKED[name]
    return Criterion(name, title, None, "", wanted, NOT_MEASURED, why)
