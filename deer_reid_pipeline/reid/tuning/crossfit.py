"""Fitting one policy by the same steps on all individuals, and without each group of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.reid.evaluation.criteria import MAX_WRONG_NAMES, fewest_error_free
from deer_reid_pipeline.reid.evaluation.identification import threshold_for
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.searches import Searches, search
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.odds import fit_odds
from deer_reid_pipeline.reid.tuning.cuts import NEVER_NAMES, NEVER_OPENS, mostly_right_from, new_below_for
from deer_reid_pipeline.reid.tuning.fusion import choose_fusion

FEWEST_FOR_ODDS = 10
"""Individuals with a mate to compare with, below which no probability is given."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Fit:
    """A policy, why it is so, and the lowest threshold at which its searches named no stranger."""

    policy: MatchPolicy
    reasons: tuple[str, ...]
    strictest: float


def cross_fitted(
    labelled: Labelled, base: MatchPolicy, bound: float, folds: int, size: int, salt: str, progress: Progress | None
) -> tuple[FittedPolicy, tuple[str, ...]]:
    """The policy fitted on all, and without each group; and why it is so."""

    def done(step: int) -> None:
        if progress is not None:
            progress(step, folds + 1)

    whole = _fit(labelled, base, bound, folds, size, salt)
    done(1)
    group = FittedPolicy(policy=base, without=(base,) * folds, salt=salt).folds_of(list(labelled.names))
    without = []
    for left_out in range(folds):
        without.append(_fit(labelled.of_individuals(group != left_out), base, bound, folds, size, salt))
        done(2 + left_out)
    judging, reason = _naming_alike(whole, without)
    (policy, *judging), other = _opening_alike([whole.policy, *judging])
    return FittedPolicy(policy=policy, without=tuple(judging), salt=salt), (*whole.reasons, *reason, *other)


def _naming_alike(whole: _Fit, without: list[_Fit]) -> tuple[list[MatchPolicy], tuple[str, ...]]:
    """Judging policies that name animals if, and only if, the one for use does.

    One that never names anybody makes no error, and would vouch for one that does. Where too few individuals are left
    to claim a threshold, the strictest one that they show stands for it: with few individuals that is the rule by
    which the policy for use got its own.
    """
    if whole.policy.threshold >= NEVER_NAMES:
        return [fit.policy.model_copy(update={"threshold": NEVER_NAMES}) for fit in without], ()
    unable = [fit.policy.threshold >= NEVER_NAMES for fit in without]
    if not any(unable):
        return [fit.policy for fit in without], ()
    policies = [
        fit.policy.model_copy(update={"threshold": max(fit.strictest, fit.policy.new_below)}) if strict else fit.policy
        for fit, strict in zip(without, unable, strict=True)
    ]
    return policies, (
        "Without some groups too few individuals are left to claim a threshold; the policies that judge those groups "
        "name from just above the highest similarity to a stranger.",
    )


def _opening_alike(policies: list[MatchPolicy]) -> tuple[list[MatchPolicy], tuple[str, ...]]:
    """The policies; none of them opens individuals by similarity where one could not claim a cut for it."""
    opens = [policy.new_below > NEVER_OPENS for policy in policies]
    if all(opens):
        return policies, ()
    never = [policy.model_copy(update={"new_below": NEVER_OPENS}) for policy in policies]
    if not opens[0]:
        return never, ()
    return never, (
        "Still no individual is opened by similarity: without one of the groups of individuals no such cut can be "
        "claimed.",
    )


def _fit(labelled: Labelled, base: MatchPolicy, bound: float, folds: int, size: int, salt: str) -> _Fit:
    if not len(labelled):
        policy = _changed(base, threshold=NEVER_NAMES, new_below=NEVER_OPENS, bound=bound)
        return _Fit(policy, ("Nobody is known: no animal is named.",), NEVER_NAMES)
    fusion = choose_fusion(labelled, base, folds, f"{salt}/inner")
    searches = search(labelled, fusion.fitted)
    claimed = threshold_for(searches, bound, size)
    threshold = None if claimed is None else mostly_right_from(searches, claimed, MAX_WRONG_NAMES)
    new_below = new_below_for(searches, bound)
    names, opens = NEVER_NAMES if threshold is None else threshold, NEVER_OPENS if new_below is None else new_below
    policy = _changed(fusion.fitted.policy, threshold=names, new_below=min(opens, names), bound=bound)
    mates = len(np.unique(searches.individual[searches.mated]))
    reasons = [
        *fusion.reasons,
        _on_threshold(claimed, threshold, bound, size, searches),
        _on_new(new_below, bound, searches, policy),
    ]
    if mates >= FEWEST_FOR_ODDS:
        met = searches.only(~searches.only_burst)  # what is known only by burst neighbours is neither new nor known
        mate = np.where(met.first, -1, met.individual)
        scores = met.scores.astype(np.float64)
        odds = fit_odds(scores, mate, met.individual, scale=policy.scale, compartment=met.compartment)
        policy = policy.model_copy(update={"odds": odds})
    else:
        reasons.append(f"No probabilities: they need {FEWEST_FOR_ODDS} returning individuals, there are {mates}.")
    return _Fit(policy, tuple(reasons), _strictest(searches))


def _strictest(searches: Searches) -> float:
    """Just above the highest similarity to a stranger."""
    if not searches.non_mated.any():
        return NEVER_NAMES
    highest = np.float32(searches.best_nonmate[searches.non_mated].max())
    return min(float(np.nextafter(highest, np.float32(np.inf))), NEVER_NAMES)


def _changed(policy: MatchPolicy, *, threshold: float, new_below: float, bound: float) -> MatchPolicy:
    """With other cuts, validated, and without odds, which belong to the scores they were fitted on."""
    update = {"threshold": threshold, "new_below": new_below, "false_positive_bound": bound, "odds": None}
    return MatchPolicy.model_validate({**policy.model_dump(), **update})


def _on_threshold(claimed: float | None, threshold: float | None, bound: float, size: int, searches: Searches) -> str:
    searched = len(np.unique(searches.individual[searches.non_mated]))
    if claimed is None:
        return (
            f"No animal is named: from {searched} individuals no threshold can be claimed to name at most "
            f"{_percent(bound)} of unknown animals among {size} (it takes {fewest_error_free(bound)} without an error)."
        )
    shown = (
        f"of which {searched} individuals show, with 95 % confidence, that at most {_percent(bound)} of unknown "
        f"animals get a name among {size} individuals"
    )
    if threshold is None:
        return (
            f"No animal is named: {claimed:.4f} is the lowest threshold {shown}, but neither there nor above it are "
            f"all but {_percent(MAX_WRONG_NAMES)} of the names right."
        )
    if threshold > claimed:
        return (
            f"Named from {threshold:.4f}: {claimed:.4f} is the lowest threshold {shown}, and from {threshold:.4f} on "
            f"all but {_percent(MAX_WRONG_NAMES)} of the names are right."
        )
    return f"Named from {threshold:.4f}: the lowest threshold {shown}."


def _on_new(new_below: float | None, bound: float, searches: Searches, policy: MatchPolicy) -> str:
    returned = len(np.unique(searches.individual[searches.mated]))
    if new_below is None:
        return (
            f"No individual is opened by similarity: no cut can be shown, from {returned} returning individuals, to "
            f"open at most {_percent(bound)} of them as new and mostly animals that are new (it takes at least "
            f"{fewest_error_free(bound)} returning individuals); a person decides."
        )
    return (
        f"New below {policy.new_below:.4f}: the highest cut of which {returned} returning individuals show, with 95 % "
        f"confidence, that at most {_percent(bound)} of them are opened as new; between the two cuts a person decides."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
