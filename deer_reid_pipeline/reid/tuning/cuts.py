"""The two cuts of a policy: from where an animal is named, and below which it is opened as a new individual."""

from __future__ import annotations

import numpy as np

from deer_reid_pipeline.reid.evaluation.estimates import Floats, clopper_pearson
from deer_reid_pipeline.reid.evaluation.searches import Searches

NEVER_NAMES = 1.0
"""Threshold of a policy that may claim no bound: only what looks exactly the same reaches it."""

NEVER_OPENS = -1.0
"""`new_below` of a policy that may claim no bound: no similarity is below it."""

MOSTLY = 0.5
"""Share of new animals among those opened as new, above which a cut is worth having."""


def best_scores(searches: Searches) -> Floats:
    """Highest similarity of each search to anybody, its mate included; NaN where nobody is comparable; (S,)."""
    return np.fmax(searches.mate_score, searches.best_nonmate)


def mostly_right_from(searches: Searches, threshold: float, wrong: float) -> float | None:
    """The lowest threshold, at or above the given one, from which all but a share of `wrong` of the names are right.

    A bound on unknown animals bounds how often a stranger is named, and not how many of the names are strangers: where
    hardly any returning animal is recognised, nearly all are. Every search counts as it came, a first encounter as a
    wrong name; one of an animal that is known only by burst neighbours is neither right nor wrong, and is left out. The
    share must be at most `wrong` even if one more name were wrong, so that a handful shows nothing.

    Args:
        wrong: share of the names that may be wrong, 0 to 1.

    Returns:
        None where there is no such threshold.
    """
    best = best_scores(searches)
    named = np.flatnonzero((best >= threshold) & ~searches.only_burst)
    order = named[np.argsort(-best[named], kind="stable")]
    scores = best[order]
    right = searches.mated[order] & (searches.mate_rank[order] == 1)
    names = np.arange(1, len(order) + 1)
    allowed = (np.cumsum(~right) + 1) / (names + 1) <= wrong
    ends = np.r_[scores[1:] < scores[:-1], True]  # ties are named together
    fitting = np.flatnonzero(allowed & ends)
    if not len(fitting):
        return None
    last = int(fitting[-1])
    return threshold if last + 1 == len(order) else float(scores[last])


def new_below_for(searches: Searches, bound: float, confidence: float = 0.95) -> float | None:
    """The highest cut below which at most `bound` of returning animals fall, and most that falls is new.

    An animal is opened as new where even its best candidate is below the cut. The share of returning animals is
    claimed with this confidence: cuts are tried from the lowest up, as long as the one-sided upper confidence bound
    stays within `bound`, so that the claim holds although the cut was chosen by looking. The bound is Clopper-Pearson's
    with each individual as one trial, however often it returns; where some return more often than others, they count
    for fewer (Kish's effective number). Of the encounters below the cut most must be first ones, with the same
    confidence: similarities that do not tell new animals from known ones open none, however few they open wrongly.

    Returns:
        None where nothing can be claimed: too few returning individuals (59 for 5 % where none falls below), or
        nowhere are most of them new.
    """
    mated = np.flatnonzero(searches.mated)
    if not len(mated):
        return None
    best = best_scores(searches)
    order = mated[np.argsort(best[mated], kind="stable")]
    scores, owners = best[order], searches.individual[order]
    new = np.sort(best[searches.first & np.isfinite(best)])
    returns = np.bincount(owners).astype(np.float64)
    individuals = returns.sum() ** 2 / (returns**2).sum()
    level = 2 * confidence - 1
    highest: float | None = None
    for events in np.r_[0, np.flatnonzero(np.diff(scores)) + 1].tolist():
        if clopper_pearson(events / len(order) * individuals, individuals, level=level)[1] > bound:
            break
        opened = int(np.searchsorted(new, scores[events], side="left"))
        if clopper_pearson(opened, opened + events, level=level)[0] > MOSTLY:
            highest = float(scores[events])
    return highest
