"""Fitting a policy to labelled individuals, and the policies without each group of them that it is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deer_reid_pipeline.reid.evaluation.estimates import Estimate, clustered_rate, estimate
from deer_reid_pipeline.reid.evaluation.identification import fnir_at, fpir_at
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.evaluation.searches import Searches, search
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.tuning.crossfit import Progress, cross_fitted
from deer_reid_pipeline.reid.tuning.cuts import best_scores
from deer_reid_pipeline.reid.tuning.grid import GridRow, owner_choice, weight_grid


@dataclass(frozen=True)
class Tuned:
    """A fitted policy with what it rests on.

    Attributes:
        fitted: the policy, and those fitted without each group of individuals.
        gallery_size: individuals for which the thresholds hold.
        bound: of wrong names for unknown animals, and of returning animals opened as new.
        fpir, fnir, opened_as_new: of individuals that the thresholds were not fitted on: unknown animals named,
            returning animals not named rightly, and returning animals opened as new.
        grid: the owner's table of weights.
        rationale: why, in sentences.
    """

    fitted: FittedPolicy
    gallery_size: int
    bound: float
    fpir: Estimate
    fnir: Estimate
    opened_as_new: Estimate
    grid: tuple[GridRow, ...]
    rationale: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the policies fitted without a group."""
        return {
            "policy": self.fitted.policy.model_dump(mode="json"),
            "gallery_size": self.gallery_size,
            "bound": self.bound,
            "fpir": self.fpir.as_dict(),
            "fnir": self.fnir.as_dict(),
            "opened_as_new": self.opened_as_new.as_dict(),
            "grid": [row.as_dict() for row in self.grid],
            "rationale": list(self.rationale),
        }


def fit(
    labelled: Labelled,
    base: MatchPolicy,
    *,
    bound: float = 0.05,
    folds: int = 5,
    gallery_size: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tuned:
    """Fit weights, fusion, thresholds and odds.

    Everything is fitted once on all individuals, and once more, by the same steps, without each of `folds` groups of
    them: an animal is judged by the policy that was fitted without it. Inside each fit, inner groups choose weights
    and fusion, and the scores that thresholds and odds are fitted on come from a fusion fitted without their
    individual. What the base says about sex, flanks, unit and gallery stays.

    Args:
        base: the live policy; what is not clearly better does not change.
        bound: share of searches for unknown animals that may return a name, and of returning animals that may be
            opened as new; each is claimed with 95 % confidence.
        folds: groups of individuals, outer and inner.
        gallery_size: individuals known where the policy will be used; those labelled where not given.
        seed: which individuals share a group.
        progress: called with fits done and fits in all.

    Raises:
        ValueError: there is nothing to fit on, or `bound` is not between 0 and 1.
        RecipeMismatchError: vectors come from different recipes.
    """
    if not len(labelled):
        raise ValueError("no labelled detection to fit on: import identities given by people first")
    size = gallery_size or labelled.individuals
    fitted, reasons = cross_fitted(labelled, base, bound, folds, size, str(seed), progress)
    searches = search(labelled, fitted)
    thresholds = np.array([policy.threshold for policy in fitted.without])[searches.fold]
    fpir, fnir = fpir_at(searches, thresholds), estimate(fnir_at(searches, thresholds))
    opened = _opened_as_new(searches, np.array([policy.new_below for policy in fitted.without])[searches.fold])
    grid = weight_grid(labelled, base)
    rationale = (*_on_grid(grid), *reasons, _price(fpir, fnir, opened))
    return Tuned(fitted, size, bound, fpir, fnir, opened, grid, rationale)


def _opened_as_new(searches: Searches, below: np.ndarray) -> Estimate:
    mated = searches.mated
    fallen = mated & (best_scores(searches) < below)

    def count(rows: np.ndarray) -> Ints:
        return np.bincount(searches.individual[rows], minlength=searches.individuals)

    return clustered_rate(count(fallen), count(mated))


def _with_interval(item: Estimate) -> str:
    if not item.n:
        return "not measured"
    return f"{100 * item.value:.1f} % (95 %: {100 * item.low:.1f} % to {100 * item.high:.1f} %)"


def _on_grid(grid: tuple[GridRow, ...]) -> tuple[str, ...]:
    chosen = owner_choice(grid)
    if chosen is None:
        return ()
    weights = " + ".join(f"{weight:.2f} {branch}" for branch, weight in chosen.weights.items())
    return (
        f"By the owner's rule on pairs (most true pairs with less than 5 % of false ones) it would be {weights} from "
        f"{chosen.threshold:.4f}: true pairs {_with_interval(chosen.tpr)}, false pairs {_with_interval(chosen.fpr)}; "
        f"by F1 from {chosen.f1_threshold:.4f}. Pairs are not searches: at that rate a search among many would name "
        "almost every unknown animal, so the thresholds below are taken from searches.",
    )


def _price(fpir: Estimate, fnir: Estimate, opened: Estimate) -> str:
    return (
        f"On individuals outside the fit: unknown animals named {_with_interval(fpir)}; the price is returning animals "
        f"not named rightly {_with_interval(fnir)}; returning animals opened as new {_with_interval(opened)}."
    )
