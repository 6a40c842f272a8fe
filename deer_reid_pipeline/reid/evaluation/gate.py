"""Whether what is live can be trusted, and whether a candidate may replace it.

The rules are SPEC section 10. A verdict is PASS only where every claim was shown, FAIL where one was refuted, and
INCONCLUSIVE where the data cannot tell; only PASS promotes. Mean similarity plays no part: adding a constant to every
vector raises it. The gate reads an `Evaluation` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deer_reid_pipeline.reid.evaluation.criteria import (
    CONFIDENCE,
    FEWEST_IN_STRATUM,
    FEWEST_RETURNING,
    FPIR_BOUND,
    MAX_CALIBRATION_ERROR,
    MAX_STRATUM_LOSS,
    MAX_WRONG_NAMES,
    MIN_IMPROVEMENT,
    Finding,
    background_control,
    better_than_chance,
    false_names,
    identifies,
    judged_as_used,
    keeps_apart,
    keeps_together,
    right_names,
)
from deer_reid_pipeline.reid.evaluation.estimates import LEVEL, Estimate, Statistic, difference, estimate
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"


@dataclass(frozen=True)
class Verdict:
    """PASS, FAIL or INCONCLUSIVE, and the findings it follows from."""

    verdict: str
    findings: tuple[Finding, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not PASS; empty where it is."""
        return tuple(finding.text for finding in self.findings if finding.ok is not True)


def judge_live(evaluation: Evaluation, bound: float = FPIR_BOUND) -> Verdict:
    """Whether the identities that this release makes can be trusted.

    Args:
        bound: share of searches for an unknown animal that may return a name, 0 to 1.
    """
    return _verdict(
        [
            false_names(evaluation, bound),
            better_than_chance(evaluation),
            identifies(evaluation),
            right_names(evaluation, shown=True),
            keeps_apart(evaluation),
            keeps_together(evaluation, bound),
            background_control(evaluation.control),
            judged_as_used(evaluation),
        ]
    )


def judge_candidate(candidate: Evaluation, live: Evaluation, bound: float = FPIR_BOUND) -> Verdict:
    """Whether the candidate may replace what is live. Both are judged on the same detections.

    Of another recipe, the candidate must rank better: mAP, paired over individuals, with a lower bound above zero and
    a gain of `MIN_IMPROVEMENT`. A gain in thresholds alone is no reason to change the recipe, since the live recipe
    can be tuned. Of the same recipe, the decision may improve instead: the live one names unknown animals above the
    bound and the candidate does not, or more returning animals are named while the bound holds. These are three
    looks, so each is taken at a third of the error (Bonferroni). Stating probabilities that hold, where the live one
    states none and the ranking is better than chance, is an improvement too, if they say more than the base rate. Where
    the candidate does without the second network (fast mode), that is the gain, and it takes that mAP is shown not to
    fall by `MIN_IMPROVEMENT`, and returning animals named not to fall by as much as measured. No gain is bought by a
    loss: of mAP, of one stratum, of names that are right, of animals kept apart and together, or of returning animals
    named, unless the live release names them by breaking its bound.

    Args:
        bound: share of searches for an unknown animal that may return a name, 0 to 1; that of the live release, as a
            candidate does not choose what it is held to.
    """
    shared = ("individuals", "encounters", "detections")
    unequal = [name for name in shared if candidate.counts.get(name) != live.counts.get(name)]
    if unequal:
        numbers = ", ".join(f"{candidate.counts.get(n)} {n} against {live.counts.get(n)}" for n in unequal)
        return _verdict(
            [Finding("same_data", None, f"The two were judged on different data ({numbers}): evaluate both anew.")]
        )
    same_recipe = _same_vectors(candidate, live)
    control, measured_on = candidate.control, ""
    if control is None and same_recipe:
        control, measured_on = live.control, " (measured on the live release, which has the same vectors)"
    return _verdict(
        [
            _improvement(candidate, live, bound, same_recipe),
            false_names(candidate, bound),
            right_names(candidate, shown=False),
            _ranking_kept(candidate, live),
            _names_kept(candidate, live),
            _naming_kept(candidate, live, bound),
            _kept_apart(candidate, live),
            keeps_together(candidate, bound, live),
            _probabilities(candidate, live),
            _strata(candidate.strata, live.strata, bound),
            background_control(control, measured_on),
            judged_as_used(candidate),
            _same_bound(candidate, bound),
        ]
    )


def noted(verdict: Verdict, finding: Finding) -> Verdict:
    """The verdict with one more finding."""
    return _verdict([*verdict.findings, finding])


def _verdict(asked: Sequence[Finding | None]) -> Verdict:
    findings = [finding for finding in asked if finding is not None]
    answers = [finding.ok for finding in findings]
    outcome = FAIL if False in answers else INCONCLUSIVE if None in answers else PASS
    return Verdict(outcome, tuple(findings))


def _points(gain: Estimate) -> str:
    return f"{100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def _gain(better: Statistic | None, worse: Statistic | None, level: float) -> Estimate | None:
    """The paired difference of two figures, or None where one of them was not measured."""
    if better is None or worse is None or better.individuals != worse.individuals or not (better.n and worse.n):
        return None
    return difference(better, worse, level=level)


def _same_vectors(candidate: Evaluation, live: Evaluation) -> bool:
    """Whether the two are of one recipe, and its vectors are what was judged, as far as they can be seen."""
    if candidate.recipe_id != live.recipe_id:
        return False
    if candidate.raw is None or live.raw is None:
        return True
    ours, theirs = candidate.raw.labelled.vectors, live.raw.labelled.vectors
    return all(np.array_equal(ours[branch].vectors, theirs[branch].vectors) for branch in set(ours) & set(theirs))


def _ranking(candidate: Evaluation, live: Evaluation, level: float = LEVEL) -> Estimate | None:
    """Gain in mAP; exactly none where the same vectors rank every individual alike, and only the cuts differ."""
    ours, theirs = candidate.statistics.get("map"), live.statistics.get("map")
    gain = _gain(ours, theirs, level)
    if gain is None or ours is None or theirs is None or not _same_vectors(candidate, live):
        return gain
    each_left_out = 1.0 - np.eye(ours.individuals)
    alike = np.array_equal(ours.of(each_left_out), theirs.of(each_left_out), equal_nan=True)
    return replace(gain, low=0.0, high=0.0) if alike and gain.value == 0 else gain


def _naming(candidate: Evaluation, live: Evaluation, level: float = LEVEL) -> Estimate | None:
    """Gain in the share of returning animals' encounters that the whole policy names rightly."""
    return _gain(candidate.statistics.get("named"), live.statistics.get("named"), level)


def _improvement(candidate: Evaluation, live: Evaluation, bound: float, same_recipe: bool) -> Finding:
    name = "improvement"
    looks = 3 if same_recipe else 1
    level = 1 - (1 - LEVEL) / looks
    ranking = _ranking(candidate, live, level)
    if ranking is None:
        return Finding(name, None, "No animal was seen in two encounters from one flank: no ranking to compare.")
    found = [f"Ranking (mAP) changes by {_points(ranking)}"]
    gains = [ranking]
    safer = False
    if same_recipe:
        holds = false_names(candidate, bound).ok
        safer = holds is True and false_names(live, bound, 1 - (1 - CONFIDENCE) / looks).ok is False
        naming = _naming(candidate, live, level)
        if naming is not None:
            found.append(f"returning animals named rightly by {_points(naming)}")
            gains += [naming] if holds else []
    speaks = False
    if same_recipe and "calibration_error" not in live.statistics and "calibration_error" in candidate.statistics:
        holding = _probabilities(candidate, live).ok is True and better_than_chance(candidate).ok is True
        speaks = holding and false_names(candidate, bound).ok is True and _says_more(candidate)
        found.append(
            f"it states probabilities{' that hold and say more than the base rate' if speaks else ''}, the live "
            "release states none"
        )
    if safer:
        found.append("the live release breaks the bound on wrong names, which the candidate keeps")
    text = "; ".join(found)
    if same_recipe and candidate.policies.policy.fast and not live.policies.policy.fast:
        return _saved(candidate, live, ranking, text)
    if (
        safer
        or speaks
        or any(g.individuals >= FEWEST_RETURNING and g.low > 0 and round(g.value, 9) >= MIN_IMPROVEMENT for g in gains)
    ):
        return Finding(name, True, f"{text}: an improvement.")
    fewest = min(g.individuals for g in gains)
    if fewest < FEWEST_RETURNING:
        needs = f"It needs {FEWEST_RETURNING} individuals seen twice or more, has {fewest}."
        return Finding(name, None, f"{text}. {needs}")
    if any(g.value > 0 and g.high >= MIN_IMPROVEMENT for g in gains):
        return Finding(name, None, f"{text}: a gain is possible, but not shown.")
    return Finding(name, False, f"{text}: no improvement.")


def _saved(candidate: Evaluation, live: Evaluation, ranking: Estimate, found: str) -> Finding:
    """Whether doing without the second network, which is the gain here, loses nothing that matters; no other gain
    replaces that.

    A loss of mAP by `MIN_IMPROVEMENT` must be ruled out, and no more than that of the names may be lost as measured.
    """
    name, point = "improvement", f"{100 * MIN_IMPROVEMENT:.0f} point"
    text = f"The second network is mostly not computed any more. {found}"
    naming = _naming(candidate, live)
    if ranking.individuals < FEWEST_RETURNING:
        needs = f"needs {FEWEST_RETURNING} individuals seen twice or more, has {ranking.individuals}"
        return Finding(name, None, f"{text}: to rule out a loss of {point} of mAP it {needs}.")
    if ranking.high <= -MIN_IMPROVEMENT or (naming is not None and naming.value <= -MIN_IMPROVEMENT):
        return Finding(name, False, f"{text}: more than {point} is lost.")
    if ranking.low <= -MIN_IMPROVEMENT:
        return Finding(name, None, f"{text}: a loss of {point} of mAP is not ruled out.")
    return Finding(name, True, f"{text}: a loss of {point} of mAP is ruled out.")


def _says_more(evaluation: Evaluation) -> bool:
    """Whether the stated probabilities are better than always stating how often the best candidate is right."""
    gain = evaluation.statistics.get("brier_gain")
    return gain is not None and gain.n > 0 and estimate(gain).low > 0


def _names_kept(candidate: Evaluation, live: Evaluation) -> Finding:
    """Whether clearly more of the names are wrong than of those that the live release gives."""
    name = "names_kept"
    ours, theirs = candidate.rates.get("wrong_names"), live.rates.get("wrong_names")
    if ours is None or theirs is None or not (ours.n and theirs.n):
        return Finding(name, True, "One of the two gives no name: no loss of right names to compare.")
    found = f"Of the names given {100 * ours.value:.1f} % are wrong, by the live release {100 * theirs.value:.1f} %"
    if ours.low > theirs.high and ours.value > MAX_WRONG_NAMES / 2:
        return Finding(name, False, f"{found}: clearly more.")
    return Finding(name, True, f"{found}: no clear loss.")


def _kept_apart(candidate: Evaluation, live: Evaluation) -> Finding:
    """`keeps_apart`, which a candidate need not show where it merges no more than the live release."""
    own = keeps_apart(candidate)
    ours, theirs = candidate.statistics.get("pair_precision"), live.statistics.get("pair_precision")
    if own.ok is True or ours is None or theirs is None or not (ours.n and theirs.n) or ours.value < theirs.value:
        return own
    return Finding(
        own.name, True, f"{own.text[:-1]}; of those of the live release {100 * theirs.value:.1f} % are, no more."
    )


def _same_bound(candidate: Evaluation, bound: float) -> Finding | None:
    """A candidate that was fitted to a larger bound is judged at the live one, and left to a person."""
    own = candidate.policies.policy.false_positive_bound
    if own <= bound:
        return None
    text = f"It was fitted to the bound {100 * own:.1f} %, the live release to {100 * bound:.1f} %"
    return Finding("same_bound", None, f"{text}: it is judged at the latter, and a person must decide of the former.")


def _ranking_kept(candidate: Evaluation, live: Evaluation) -> Finding:
    name = "ranking_kept"
    ranking = _ranking(candidate, live)
    if ranking is None:
        return Finding(name, None, "Whether the ranking gets worse was not measured.")
    lost = ranking.high < 0 and ranking.value <= -MIN_IMPROVEMENT
    return Finding(name, not lost, f"Ranking {'gets worse' if lost else 'is kept'}: mAP {_points(ranking)}.")


def _naming_kept(candidate: Evaluation, live: Evaluation, bound: float) -> Finding:
    name = "naming_kept"
    naming = _naming(candidate, live)
    if naming is None:
        return Finding(name, None, "Whether fewer returning animals are named was not measured.")
    found = f"Returning animals named rightly: {_points(naming)}"
    if not (naming.high < 0 and naming.value <= -MIN_IMPROVEMENT):
        return Finding(name, True, f"{found}, no loss shown.")
    if false_names(live, bound).ok:
        return Finding(name, False, f"{found}: fewer are named, though the live release keeps the bound as well.")
    return Finding(name, True, f"{found}: the price of the bound, which the live release is not known to keep.")


def _probabilities(candidate: Evaluation, live: Evaluation) -> Finding:
    """Probabilities are right within `MAX_CALIBRATION_ERROR` on animals outside the fit, and are not given up."""
    name = "probabilities"
    stated = candidate.statistics.get("calibration_error")
    if stated is None:
        if "calibration_error" in live.statistics:
            return Finding(name, False, "It states no probabilities, which the live release does.")
        return Finding(name, True, "No probabilities are stated, and none are given up.")
    error = estimate(stated)
    text = (
        f"Stated probabilities are off by {100 * error.value:.1f} points on average (95 %: {100 * error.low:.1f} to "
        f"{100 * error.high:.1f})"
    )
    if error.individuals < FEWEST_RETURNING:
        needs = f"it needs {FEWEST_RETURNING} individuals to judge them, has {error.individuals}"
        return Finding(name, None, f"{text}; {needs}.")
    limit = f"{100 * MAX_CALIBRATION_ERROR:.0f} points"
    if error.high <= MAX_CALIBRATION_ERROR:
        return Finding(name, True, f"{text}: within {limit}.")
    if error.low > MAX_CALIBRATION_ERROR:
        return Finding(name, False, f"{text}: more than {limit}.")
    return Finding(name, None, f"{text}: whether within {limit} cannot be told.")


Strata = Mapping[str, Mapping[str, Mapping[str, Statistic]]]


def _strata(candidate: Strata, live: Strata, bound: float) -> Finding:
    """No stratum loses more than `MAX_STRATUM_LOSS` of mAP, and none newly breaks the bound on wrong names.

    A measured loss beyond it refuses where chance does not explain it, and leaves the verdict open where it might. A
    smaller measured loss whose interval reaches beyond it is named and does not stop the release: small strata always
    have wide intervals, and asking for proof in each would refuse every candidate. Where strata are known but all are
    too small, nothing can be said.
    """
    if not candidate and not live:
        return Finding("strata", True, "The data has no strata: all of it is of one kind.")
    broken: list[str] = []
    unclear: list[str] = []
    noted: list[str] = []
    unjudged: list[str] = []
    named = _strata_named(candidate, live, bound)
    judged = 0
    for stratum, value in sorted({(s, v) for side in (candidate, live) for s, values in side.items() for v in values}):
        label = f"{stratum} {value}"
        better, worse = (side.get(stratum, {}).get(value, {}).get("map") for side in (candidate, live))
        gain = _gain(better, worse, LEVEL)
        if gain is None or gain.individuals < FEWEST_IN_STRATUM:
            unjudged.append(label)
            continue
        judged += 1
        if gain.value < -MAX_STRATUM_LOSS:
            (broken if gain.high < 0 else unclear).append(f"{label} {_points(gain)}")
        elif gain.value < 0 and gain.low < -MAX_STRATUM_LOSS:
            noted.append(f"{label} {_points(gain)}")
    sentences = [f"{judged} strata judged by mAP, which may lose {100 * MAX_STRATUM_LOSS:.0f} points in none."]
    for label, items in (
        ("Broken", broken),
        (f"Unknown animals named above the bound {100 * bound:.1f} %, not so by the live release", named),
        ("Lost more, perhaps by chance", unclear),
        ("Could have lost more, though measured within it", noted),
        (f"Not judged, fewer than {FEWEST_IN_STRATUM} individuals", unjudged),
    ):
        if items:
            more = f" and {len(items) - 6} more" if len(items) > 6 else ""
            sentences.append(f"{label}: {', '.join(items[:6])}{more}.")
    return Finding("strata", False if broken or named else None if unclear or not judged else True, " ".join(sentences))


def _strata_named(candidate: Strata, live: Strata, bound: float) -> list[str]:
    """Strata in which unknown animals are surely named more often than the bound allows, and not by the live release.

    A bound on all of them says little of a stratum with few searches.
    """
    broken = []
    for stratum, value in sorted((stratum, value) for stratum, values in candidate.items() for value in values):
        ours, theirs = (side.get(stratum, {}).get(value, {}).get("fpir") for side in (candidate, live))
        if ours is None or ours.taking_part < FEWEST_IN_STRATUM:
            continue
        rate = estimate(ours, level=2 * CONFIDENCE - 1)
        before = estimate(theirs, level=2 * CONFIDENCE - 1) if theirs is not None and theirs.n else None
        if rate.low > bound and not (before is not None and before.low > bound):
            broken.append(f"{stratum} {value} {100 * rate.value:.1f} %")
    return broken
