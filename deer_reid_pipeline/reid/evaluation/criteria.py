"""What one evaluation shows about one release: the claims that the gate asks for, each a sentence with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from scipy import optimize

from deer_reid_pipeline.reid.evaluation.estimates import LEVEL, Estimate, Statistic, clopper_pearson, estimate
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation
from deer_reid_pipeline.reid.evaluation.identification import project_fpir

FPIR_BOUND = 0.05
"""Share of searches for an unknown animal that may return a name."""

CONFIDENCE = 0.95
"""One-sided confidence with which an error rate is said to be below a bound."""

FEWEST_RETURNING = 30
"""Individuals seen in two or more encounters, below which an interval over individuals is too rough to act on."""

FEWEST_IN_STRATUM = 10
"""Individuals with a true mate in a stratum, below which it is named as not judged."""

MIN_IMPROVEMENT = 0.01
"""Smallest gain worth a release, and smallest loss that counts: one point of mAP, or of returning animals named.

A monotone rescaling of similarity changes no rank, and one that is almost monotone changes mAP by less than this.
"""

MAX_STRATUM_LOSS = 0.10
"""mAP that a stratum may lose while the average gains."""

CONTROL_NEAR_CHANCE = 0.60
"""ROC-AUC of the background alone up to which it counts as near chance (0.50)."""

MAX_WRONG_NAMES = 0.125
"""Share of the names given that may be wrong: that many bias an estimate of abundance by a third (Johansson 2020)."""

MAX_CALIBRATION_ERROR = 0.10
"""Mean distance of stated probabilities from what comes true, up to which they are worth stating."""

FOLD_TOLERANCE = 0.01
"""What the cut in use may differ from those judged, beyond what these differ from each other."""

MIN_IDENTIFIED = 0.10
"""Share of returning animals named, below which a matcher is a ranked shortlist and not an identification."""

MIN_PAIR_PRECISION = 0.90
"""Share of the encounter pairs put together that must be one animal: 12.5 % wrong ones bias a count by a third."""


@dataclass(frozen=True)
class Finding:
    """One claim: shown (True), refuted (False) or not to be told (None), in a sentence with its numbers."""

    name: str
    ok: bool | None
    text: str


def fewest_error_free(bound: float, confidence: float = CONFIDENCE) -> int:
    """Independent trials without one error that are needed to say that the error rate is at most `bound`.

    59 for 5 %, 299 for 1 % (Clopper-Pearson, one-sided).

    Raises:
        ValueError: the bound is not between 0 and 1.
    """
    if not 0 < bound < 1:
        raise ValueError(f"a bound lies between 0 and 1, not {bound}")
    trials = 1
    while clopper_pearson(0, trials, level=2 * confidence - 1)[1] > bound:
        trials += 1
    return trials


def one_sided(rate: Estimate, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Lower and upper bound of an error rate, each with this one-sided confidence.

    An `Estimate` carries a two-sided interval, Clopper-Pearson on an effective number of trials. That number is found
    again from the interval, and the bounds are taken from it.
    """
    if rate.individuals == 0 or (rate.low <= 0.0 and rate.high >= 1.0):
        return 0.0, 1.0

    def end(trials: float, level: float) -> float:
        low, high = clopper_pearson(rate.value * trials, trials, level=level)
        return 1 - low if rate.value == 1 else high

    target = 1 - rate.low if rate.value == 1 else rate.high
    few, many = 1e-6, 1e9
    if not end(many, LEVEL) < target < end(few, LEVEL):
        return rate.low, rate.high
    trials = float(optimize.brentq(lambda n: end(n, LEVEL) - target, few, many, xtol=1e-9, rtol=1e-12))
    return clopper_pearson(rate.value * trials, trials, level=2 * confidence - 1)


FPIR_FIGURES = {
    "fpir": "",
    "fpir_individual": ", each individual counting once",
    "fpir_first": ", when it comes for the first time",
}
"""Rates of names for unknown animals -> how the sentence tells them apart."""


def false_names(evaluation: Evaluation, bound: float, confidence: float = CONFIDENCE) -> Finding:
    """Whether searches for animals that are not known return a name in at most `bound` of all, in the real gallery.

    The worse one counts of the rate over searches and that over individuals. Where more individuals are known than
    were searched, both are carried to that gallery (`identification.project_fpir`). The first searches of individuals
    are too few to show the bound, but they refute it.
    """
    name = "false_positive_bound"
    measured = {figure: evaluation.rates[figure] for figure in FPIR_FIGURES if figure in evaluation.rates}
    size = evaluation.counts.get("gallery_size", 0)
    known = evaluation.counts.get("known_individuals", 0)
    needed = _fewest_searched(bound, known)
    if "fpir" not in measured or measured["fpir"].individuals == 0:
        return Finding(
            name,
            None,
            f"Wrong names for unknown animals were not measured: needs {needed} individuals never seen before, has 0.",
        )
    limit = f"the bound {_percent(bound)}"
    sure = f"with {100 * confidence:.0f} % confidence in"
    bounds = {figure: one_sided(rate, confidence) for figure, rate in measured.items() if rate.individuals}

    def found(figure: str) -> str:
        searched = f", in a gallery of {size} of the {known} known ones" if 0 < size < known else ""
        rate = measured[figure]
        return (
            f"An animal never seen before gets a name in {_percent(rate.value)} of searches{FPIR_FIGURES[figure]} "
            f"({rate.individuals} individuals{searched})"
        )

    refuted = max(bounds, key=lambda figure: bounds[figure][0])
    low = bounds[refuted][0]
    if low > bound:
        return Finding(name, False, f"{found(refuted)}, and {sure} more than {_percent(low)}: {limit} is broken.")
    worst = max((figure for figure in bounds if figure != "fpir_first"), key=lambda figure: bounds[figure][1])
    rate, high = measured[worst], bounds[worst][1]
    among = ""
    if 0 < size < known:
        high = project_fpir(replace(rate, high=high), size, known).high
        among = f" of all {known}"
    if high <= bound:
        return Finding(name, True, f"{found(worst)}, and {sure} at most {_percent(high)}{among}: {limit} holds.")
    if rate.individuals < needed:
        missing = f"needs {needed} individuals never seen before, has {rate.individuals}"
    else:
        missing = "more individuals, or a higher threshold, must show it"
    return Finding(
        name,
        None,
        f"{found(worst)}, but it could be up to {_percent(high)}{among}, and {limit} is not shown: {missing}.",
    )


def _fewest_searched(bound: float, known: int) -> int:
    """Labelled individuals without an error that show the bound in a gallery of `known` individuals."""
    fewest = fewest_error_free(bound)
    while known > fewest - 1:
        high = clopper_pearson(0, fewest, level=2 * CONFIDENCE - 1)[1]
        if project_fpir(Estimate(0.0, 0.0, high, fewest, fewest), fewest - 1, known).high <= bound:
            break
        fewest += 1
    return fewest


def better_than_chance(evaluation: Evaluation) -> Finding:
    """Whether true pairs are told from false ones, and the right animal is found first, more often than by chance."""
    name = "better_than_chance"
    separation, first = evaluation.statistics.get("roc_auc"), evaluation.statistics.get("rank1")
    if separation is None or first is None or not separation.n or not first.n:
        return Finding(name, None, "No animal was seen in two encounters from one flank: nothing to compare.")
    auc, rank1 = estimate(separation), estimate(first)
    chance = evaluation.by_chance.get("rank1", 0.0)
    by_chance = f", by chance {_percent(chance)}" if chance else ""
    found = (
        f"The right animal comes first in {_with_interval(rank1)} of searches{by_chance}; "
        f"ROC-AUC {auc.value:.3f} (95 %: {auc.low:.3f} to {auc.high:.3f}), by chance 0.5"
    )
    if auc.individuals < FEWEST_RETURNING:
        return Finding(
            name, None, f"{found}. It needs {FEWEST_RETURNING} individuals seen twice or more, has {auc.individuals}."
        )
    above = auc.low > 0.5 and rank1.low > chance
    return Finding(name, above, f"{found}: {'better than chance' if above else 'not to be told from chance'}.")


def identifies(evaluation: Evaluation) -> Finding:
    """Whether returning animals are named at all."""
    name = "names_returning_animals"
    share = evaluation.statistics.get("named")
    if share is None or not share.n:
        return Finding(name, None, "No animal returned: whether returning animals are named cannot be told.")
    named = estimate(share)
    found = f"Of the encounters of returning animals {_with_interval(named)} are named rightly"
    if named.individuals < FEWEST_RETURNING:
        return Finding(
            name, None, f"{found}. It needs {FEWEST_RETURNING} individuals seen twice or more, has {named.individuals}."
        )
    if named.high < MIN_IDENTIFIED:
        return Finding(
            name, False, f"{found}, which is almost nobody: it serves as a ranked shortlist for a person, no more."
        )
    if named.low < MIN_IDENTIFIED:
        return Finding(name, None, f"{found}: whether that is {_percent(MIN_IDENTIFIED)} or more cannot be told.")
    return Finding(name, True, f"{found}; the rest are left to a person or missed.")


def right_names(evaluation: Evaluation, *, shown: bool) -> Finding:
    """Whether the names that are given are right, all but `MAX_WRONG_NAMES` of them.

    Args:
        shown: ask that the interval lies below the limit; otherwise the share itself is enough.
    """
    name = "names_are_right"
    wrong = evaluation.rates.get("wrong_names")
    if wrong is None:
        return Finding(name, None, "Whether the names given are right was not measured.")
    if not wrong.n:
        return Finding(name, True, "No name was given: none was wrong, and none was right.")
    found = f"Of {wrong.n} names given {_with_interval(wrong)} are wrong"
    limit = _percent(MAX_WRONG_NAMES)
    if wrong.low > MAX_WRONG_NAMES:
        return Finding(name, False, f"{found}: more than {limit}.")
    if wrong.high <= MAX_WRONG_NAMES:
        return Finding(name, True, f"{found}: at most {limit}.")
    if wrong.value <= MAX_WRONG_NAMES and not shown:
        return Finding(name, True, f"{found}: few enough, though {limit} is not shown by so few names.")
    return Finding(name, None, f"{found}: whether that is {limit} or less cannot be told from so few.")


def keeps_apart(evaluation: Evaluation) -> Finding:
    """Whether the identities that the matcher makes by itself hold one animal each."""
    name = "keeps_animals_apart"
    made = f"Left to itself it makes {evaluation.made} individual{'s' * (evaluation.made != 1)} of {evaluation.true}"
    precision = evaluation.statistics.get("pair_precision")
    if precision is None:
        return Finding(name, None, "Whether it merges animals was not measured.")
    if not precision.n:
        return Finding(name, True, f"{made} and puts no two encounters together.")
    pure = estimate(precision)
    found = f"{made}; of the encounter pairs it puts together {_with_interval(pure)} are one animal"
    if pure.high < MIN_PAIR_PRECISION:
        return Finding(name, False, f"{found}: it merges different animals.")
    if pure.low < MIN_PAIR_PRECISION:
        return Finding(name, None, f"{found}: whether that is {_percent(MIN_PAIR_PRECISION)} or more cannot be told.")
    return Finding(name, True, f"{found}.")


def keeps_together(evaluation: Evaluation, bound: float, live: Evaluation | None = None) -> Finding:
    """Whether returning animals are opened as new in at most `bound` of their encounters.

    Args:
        live: what a candidate is compared with. It needs no proof of the bound, and may be above it where it is no
            worse than what is live. None where the live release itself is judged, which must show the bound.
    """
    name = "keeps_animals_together"
    opened = evaluation.rates.get("opened_as_new")
    if opened is None or not opened.n:
        return Finding(name, None, "No animal returned: whether returning animals are opened as new cannot be told.")
    low, high = one_sided(opened)
    found = f"Of {opened.n} encounters of returning animals {_with_interval(opened)} are opened as a new animal"
    limit = f"the bound {_percent(bound)}"
    if live is None:
        if low > bound:
            return Finding(name, False, f"{found}: {limit} is broken, and animals are counted twice.")
        if high > bound:
            return Finding(name, None, f"{found}: whether {limit} holds cannot be told.")
        return Finding(name, True, f"{found}: {limit} holds.")
    before = live.rates.get("opened_as_new")
    if opened.value <= bound:
        return Finding(name, True, f"{found}, within {limit}.")
    if before is not None and before.n and opened.value <= before.value:
        return Finding(name, True, f"{found}: no more than the live release, {_percent(before.value)}.")
    against = f", by the live release {_percent(before.value)}" if before is not None and before.n else ""
    if low > bound:
        return Finding(name, False, f"{found}{against}: {limit} is broken, and animals are counted twice.")
    return Finding(name, None, f"{found}{against}: whether {limit} holds cannot be told.")


def judged_as_used(evaluation: Evaluation) -> Finding | None:
    """Whether the policy in use is bolder than those it was judged by; None where nothing is to be said.

    The policies fitted without a part of the individuals differ from each other by chance, and so may the one in use,
    but not by more than they do.
    """
    name = "judged_as_used"
    fitted = evaluation.policies
    used = fitted.policy
    if not fitted.without:
        return None
    judging = [policy for policy in fitted.without if policy.scale == used.scale]
    if not judging:
        return Finding(name, None, "What would be used fuses the branches in another way than all that was judged.")
    cuts = [policy.threshold for policy in judging]
    lowest, highest = min(cuts), max(cuts)
    if used.threshold < lowest - (highest - lowest) - FOLD_TOLERANCE:
        return Finding(
            name,
            None,
            f"What would be used is bolder than what was judged: it names from {used.threshold:.3f}, those judged from "
            f"{lowest:.3f} to {highest:.3f}.",
        )
    cuts = [policy.new_below for policy in judging]
    lowest, highest = min(cuts), max(cuts)
    if used.new_below > highest + (highest - lowest) + FOLD_TOLERANCE:
        return Finding(
            name,
            None,
            f"What would be used is bolder than what was judged: it opens new animals below {used.new_below:.3f}, "
            f"those judged below {lowest:.3f} to {highest:.3f}.",
        )
    return None


def background_control(control: Mapping[str, Statistic] | None, measured_on: str = "") -> Finding:
    """Whether the background alone, without the animal, is near chance.

    Args:
        control: metrics of the background; None where it was not measured.
        measured_on: what else it was measured on, for the sentence.
    """
    name = "background_control"
    separation = control.get("roc_auc") if control else None
    if separation is None or not separation.n:
        return Finding(
            name, None, "The background alone was not measured, so it may be places that are recognised, not animals."
        )
    auc = estimate(separation)
    found = (
        f"The background alone{measured_on} tells animals apart with ROC-AUC {auc.value:.3f} "
        f"(95 %: {auc.low:.3f} to {auc.high:.3f})"
    )
    if auc.low > CONTROL_NEAR_CHANCE:
        return Finding(name, False, f"{found}: places are recognised, not animals.")
    if auc.high > CONTROL_NEAR_CHANCE:
        return Finding(name, None, f"{found}: whether that is at most {CONTROL_NEAR_CHANCE:.2f} cannot be told.")
    return Finding(name, True, f"{found}, near chance.")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _with_interval(item: Estimate) -> str:
    return f"{_percent(item.value)} (95 %: {_percent(item.low)} to {_percent(item.high)})"
