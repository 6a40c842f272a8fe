"""From an encounter's similarities to the probability that it is the animal it looks most like.

The same similarity means less in a larger gallery: among 165 animals some stranger is bound to look alike. So the
score of each candidate becomes a likelihood ratio, and Bayes' rule weighs all candidates against each other and
against an animal that nobody has seen yet. What comes out is then calibrated on searches of other individuals.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import minimize
from scipy.special import expit, logit

from deer_reid_pipeline.reid.calibration import Ints, Kind, Mask, fit, folds_of
from deer_reid_pipeline.reid.calibrators import EDGE, Calibrator, Floats, Platt, Scale, platt_feature

SLOPE_SPREAD, MOST_SLOPE, MOST_INTERCEPT = 0.5, 2.0, 20.0
"""A recalibration's slope is 1 +- 0.5 before anything is seen, and no more than 2 after: evidence that hardly varied in
the fit must not become certainty where it does."""


class Odds(BaseModel):
    """What turns the scores of one search into a probability for every candidate and for a new animal.

    Among N individuals the prior of each is (1 - new) / N. Bayes' rule with LR(score), the density of scores of the
    right individual over that of others, gives posteriors as if the candidates' scores were independent. They are
    not: pictures differ in how much they look like everything. Two Platt curves on the logit of a posterior, fitted
    on searches whose individual LR was not fitted on, put that right: `best` gives P(the best candidate is right),
    and `new_if_wrong` gives P(new animal) for the rest of it. With probability `lapse` the scores are taken to say
    nothing, so that nothing is claimed nearer to certainty than the number of individuals it was checked on allows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    likelihood: Calibrator = Field(
        description="Score of an individual -> P(it is the right one) among the fit's pairs."
    )
    base_rate: float = Field(gt=0, lt=1, description="Share of right individuals among those pairs.")
    lowest: float = Field(-1.0, description="Lowest score of the fit; a lower one says no more.")
    highest: float = Field(1.0, description="Highest score of the fit; a higher one says no more.")
    new: float = Field(gt=0, lt=1, description="Share of searches for an animal that is not known yet.")
    best: Platt = Platt(scale="probability", slope=1.0, intercept=0.0)
    new_if_wrong: Platt = Platt(scale="probability", slope=1.0, intercept=0.0)
    lapse: float = Field(0.0, ge=0, lt=1, description="Share of searches whose scores are taken to say nothing.")
    searches: int = Field(0, ge=0, description="Searches it was fitted on.")
    individuals: int = Field(0, ge=0, description="Individuals searched for in them.")

    def log_ratio(self, scores: Floats) -> Floats:
        """Natural logarithm of the likelihood ratio of each score; 0 where a score is NaN and says nothing."""
        seen = np.clip(np.asarray(scores, dtype=np.float64), self.lowest, self.highest)
        ratio = self.likelihood.log_odds(seen) - logit(self.base_rate)
        return np.where(np.isnan(ratio), 0.0, ratio)

    def posterior(self, scores: Floats, left_out: int = 0) -> tuple[Floats, float]:
        """Probability of every candidate, and that the animal is new.

        A candidate that cannot be compared (NaN) may still be the one. For the same score a larger gallery gives a
        smaller probability. What the best candidate and a new animal leave is shared among the others in proportion to
        their posteriors, none getting more than the best; so all together are at most 1.

        Args:
            scores: of everyone the animal may be, cosines or probabilities as in the fit; (N,), NaN where not
                comparable.
            left_out: further individuals it may be, that were not scored because they look less alike than these.
                They are taken to score like the lowest of these, so that they are never underestimated.

        Returns:
            Candidates, float (N,), in the order of the scores; new, 1 where there is nobody it may be.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if scores.size + left_out == 0:
            return np.zeros(0), 1.0
        ratios = self.log_ratio(scores)
        known, unknown = bayes(ratios, self.new, scores.size + left_out, left_out)
        if not np.isfinite(scores).any():
            return known, unknown
        at = int(np.nanargmax(scores))
        first = known[at]
        right = (1 - self.lapse) * _at(self.best, first) + self.lapse * (1 - self.new) / (scores.size + left_out)
        wrong_but_new = (1 - self.lapse) * _at(self.new_if_wrong, _if_wrong(unknown, first)) + self.lapse * self.new
        new = (1 - right) * wrong_but_new
        rest = 1 - first - unknown
        others = known * ((1 - right - new) / rest) if rest > 0 else np.zeros_like(known)
        others = np.minimum(others, right)
        others[at] = right
        return others, float(new)


def bayes(log_ratios: Floats, new: float, size: int, left_out: int = 0) -> tuple[Floats, float]:
    """Posterior of each candidate and of a new animal, were the scores independent.

    Args:
        log_ratios: natural logarithm of each candidate's likelihood ratio; (N,).
        new: prior of a new animal; the rest is shared equally by `size` individuals.
        left_out: individuals beside the candidates, taken to have the lowest of their ratios.
    """
    prior = np.log((1 - new) / size)
    logs = np.append(log_ratios + prior, np.log(new))
    highest = logs.max()
    masses = np.exp(logs - highest)
    beside = left_out * np.exp(min(log_ratios, default=0.0) + prior - highest)
    masses /= masses.sum() + beside
    return masses[:-1], float(masses[-1])


def _if_wrong(unknown: float | Floats, first: float | Floats) -> Floats:
    """P(new, if the best candidate is not right), also where rounding leaves nothing beside the best."""
    return np.minimum(unknown / np.maximum(1.0 - np.asarray(first), EDGE**2), 1.0)


def _at(curve: Platt, probability: float | Floats) -> float:
    return float(curve(np.asarray(probability)))


def fit_odds(
    scores: Floats,
    mate: Ints,
    individual: Ints,
    *,
    scale: Scale = "cosine",
    folds: int = 5,
    kind: Kind = "auto",
    compartment: Ints | None = None,
) -> Odds:
    """Fit the odds on searches of which it is known who was searched for.

    The likelihood ratio comes from the scores of right and of other individuals. `best` and `new_if_wrong` come from
    posteriors with likelihood ratios fitted on other individuals than the search's (`folds` parts). Every search
    counts once: an animal that comes often is also searched for often. A column without any score is not in the
    gallery.

    Args:
        scores: similarity of each search to each individual; float (S, G), NaN where not comparable.
        mate: code (column) of the individual that was searched for where it was known before, comparable or not, else
            -1; int (S,). In a search without a mate its own individual's column is no candidate.
        individual: code of the individual that was searched for; int (S,).
        scale: of the scores: `policy.scale`.
        kind: of the likelihood's calibrator, as in `calibration.fit`.
        compartment: of each individual; int (G,). Only those of the compartment of the one that was searched for are
            candidates; None is one for all.

    Raises:
        ValueError: fewer than two individuals have a comparable mate, or no other individual is comparable.
    """
    scores = np.asarray(scores, dtype=np.float64)
    candidate, same = _candidates(scores, mate, individual, compartment)
    compared = candidate & np.isfinite(scores)
    reachable = np.asarray((same & compared).any(axis=1))
    found = len(np.unique(individual[reachable]))
    if found < 2:
        raise ValueError(f"{found} individuals were searched for and comparable; odds need two to be fitted")

    def fitted_on(rows: Mask, chosen: Kind) -> Odds:
        pairs = compared & rows[:, None]
        groups = np.broadcast_to(individual[:, None], scores.shape)[pairs]
        return Odds(
            likelihood=fit(scores[pairs], same[pairs], chosen, groups=groups, scale=scale),
            base_rate=float(same[pairs].mean()),
            lowest=float(scores[pairs].min()),
            highest=float(scores[pairs].max()),
            new=(np.count_nonzero(mate[rows] < 0) + 1) / (np.count_nonzero(rows) + 2),
        )

    whole = fitted_on(np.ones(len(scores), dtype=bool), kind)
    first, unknown, prior = np.full((3, len(scores)), np.nan)
    right = np.zeros(len(scores), dtype=bool)
    part = folds_of(reachable, individual, min(folds, found))
    for fold in np.unique(part).tolist():
        without = fitted_on(part != fold, whole.likelihood.kind)
        for row in np.flatnonzero((part == fold) & compared.any(axis=1)).tolist():
            columns = np.flatnonzero(candidate[row])
            # Known or not, the gallery has the same size: else its size would tell who is new.
            size = len(columns) + (mate[row] < 0)
            known, unknown[row] = bayes(without.log_ratio(scores[row, columns]), whole.new, size)
            at = int(np.nanargmax(scores[row, columns]))
            first[row], prior[row], right[row] = known[at], (1 - whole.new) / size, columns[at] == mate[row]
    asked, wrong = np.isfinite(first), np.isfinite(first) & ~right
    lapse = 1 / (found + 2)
    best = _recalibrated(first[asked], right[asked], individual[asked], lapse * prior[asked], lapse)
    new_if_wrong = _if_wrong(unknown[wrong], first[wrong])
    new = _recalibrated(new_if_wrong, mate[wrong] < 0, individual[wrong], lapse * whole.new, lapse)
    update = {"best": best, "new_if_wrong": new, "lapse": lapse, "searches": len(scores)}
    return whole.model_copy(update=update | {"individuals": len(np.unique(individual))})


def _candidates(scores: Floats, mate: Ints, individual: Ints, compartment: Ints | None) -> tuple[Mask, Mask]:
    """Who may be whom: candidates of each search, and the right one; bool (S, G) each."""
    same = np.zeros(scores.shape, dtype=bool)
    mated, unmated = np.flatnonzero(mate >= 0), np.flatnonzero(mate < 0)
    same[mated, mate[mated]] = True
    candidate = np.broadcast_to(np.isfinite(scores).any(axis=0), scores.shape).copy()
    candidate[unmated, individual[unmated]] = False
    if compartment is not None:
        candidate &= compartment[individual][:, None] == compartment
    return candidate | same, same


def _recalibrated(probabilities: Floats, true: Mask, individual: Ints, floor: Floats | float, lapse: float) -> Platt:
    """Platt's curve on the logit, with a normal prior of mean 1 on its slope; the identity where nothing was tried.

    Args:
        floor: what is said when the scores say nothing, times `lapse`.
    """
    if not len(true):
        return Platt(scale="probability", slope=1.0, intercept=0.0)
    hits, misses = len(np.unique(individual[true])), np.count_nonzero(~true)
    target = np.where(true, (hits + 1) / (hits + 2), 1 / (misses + 2))
    feature = platt_feature(probabilities, "probability")

    def surprise(line: Floats) -> float:
        said = np.clip((1 - lapse) * expit(line[0] * feature + line[1]) + floor, EDGE, 1 - EDGE)
        told = target * np.log(said) + (1 - target) * np.log(1 - said)
        return float(0.5 * ((line[0] - 1) / SLOPE_SPREAD) ** 2 - told.sum()) / len(true)

    bounds = [(0.0, MOST_SLOPE), (-MOST_INTERCEPT, MOST_INTERCEPT)]
    line = minimize(surprise, x0=np.array([1.0, 0.0]), bounds=bounds).x
    return Platt(scale="probability", slope=float(line[0]), intercept=float(line[1]))
