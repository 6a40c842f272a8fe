"""Weights and kind of fusion, chosen by how well individuals outside the choice are ranked.

Noise must not move what is live: a change is made only where cross-validation over individuals shows it to be better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.reid.calibration import fit_fusion
from deer_reid_pipeline.reid.evaluation.criteria import FEWEST_RETURNING, MIN_IMPROVEMENT
from deer_reid_pipeline.reid.evaluation.estimates import Floats
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.fitted import FittedPolicy, fold_of
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.tuning.grid import first_weights, with_weights
from deer_reid_pipeline.reid.tuning.sample import Sample, thinned

SURE = 1.96
"""Standard errors by which a change must rank better to be made."""

ALL = -1
"""The group that nobody is in."""


@dataclass(frozen=True)
class Fusion:
    """What was chosen.

    Attributes:
        fitted: the policy with the chosen fusion, and those whose fusion was chosen and fitted without each inner
            group of individuals, which make cross-fitted scores. Its thresholds mean nothing yet.
        reasons: sentences.
    """

    fitted: FittedPolicy
    reasons: tuple[str, ...]


def choose_fusion(labelled: Labelled, base: MatchPolicy, folds: int, salt: str) -> Fusion:
    """Choose weights, and whether calibrated fusion takes the place of the weighted sum.

    The figure is each individual's mean average precision. Weights follow the one-standard-error rule (Breiman et al.
    1984): of all that are within one standard error of the best, those nearest to the live ones. They are taken only
    if, chosen anew without each inner group, they rank that group better than the live ones by `MIN_IMPROVEMENT`, with
    a lower 95 % bound above zero. A calibrated fusion, fitted without each group, must be better than the weights by
    as much, whatever is live.

    Args:
        folds: inner groups.
        salt: of the groups; another than that of the outer ones.
    """
    branches = base.branches
    if len(branches) != 2:
        return Fusion(FittedPolicy(policy=base), ("The policy does not fuse two branches: no weights to choose.",))
    start = with_weights(base, branches, base.weights[branches[0]] / sum(base.weights.values()))
    sample = Sample(thinned(labelled), branches)
    live = sample.ranking([start])
    queried = np.flatnonzero(np.isfinite(live))
    if len(queried) < FEWEST_RETURNING:
        needs = f"choosing others needs {FEWEST_RETURNING} individuals seen twice or more from one flank"
        return Fusion(FittedPolicy(policy=start), (f"Weights stay: {needs}, there are {len(queried)}.",))
    groups = np.array([fold_of(name, folds, salt) for name in sample.labelled.names], dtype=np.int64)
    chosen, weight_reason = _weights(sample, start, queried, groups, folds)
    calibrated, fusion_reason = _calibrated(sample, chosen, start, queried, groups)
    policy, *without = calibrated or chosen
    return Fusion(FittedPolicy(policy=policy, without=tuple(without), salt=salt), (weight_reason, fusion_reason))


def _weights(
    sample: Sample, start: MatchPolicy, queried: Ints, groups: Ints, folds: int
) -> tuple[list[MatchPolicy], str]:
    """The policy with the weights of all individuals, then of those outside each group; and why."""
    firsts = first_weights(start, sample.branches)
    policies = [with_weights(start, sample.branches, first) for first in firsts]
    ranked = np.stack([sample.ranking([policy])[queried] for policy in policies], axis=1)
    now = firsts.index(start.weights[sample.branches[0]])
    without = []
    gains = np.empty(len(queried))
    for fold in range(folds):
        inside = groups[queried] == fold
        without.append(_one_standard_error(ranked[~inside], now))
        gains[inside] = ranked[inside, without[-1]] - ranked[inside, now]
    gain, error = _mean_and_error(gains)
    best = _one_standard_error(ranked, now)
    found = f"chosen without each group of individuals, weights change mAP of that group by {_points(gain, error)}"
    if best == now or not _clear(gain, error):
        return [start] * (folds + 1), f"Weights stay at {_named(start)}: {found}, no clear improvement."
    moved = [policies[index] for index in (best, *without)]
    return moved, f"Weights move from {_named(start)} to {_named(moved[0])}: {found}."


def _calibrated(
    sample: Sample, weighted: list[MatchPolicy], start: MatchPolicy, queried: Ints, groups: Ints
) -> tuple[list[MatchPolicy] | None, str]:
    """The same with calibrated fusion, or None where it is not clearly better; and why."""
    pairs = sample.pairs()

    def fitted(without: int) -> MatchPolicy | None:
        chosen = pairs.among(groups != without)
        if len(np.unique(chosen.first[chosen.same])) < 2 or chosen.same.all():
            return None
        fusion = fit_fusion(chosen.similarities, chosen.same, chosen.first, weights=chosen.weights)
        return start.model_copy(update={"fusion": "calibrated", "calibration": fusion})

    without = [fitted(fold) for fold in range(len(weighted) - 1)]
    policies = [policy for policy in without if policy is not None]
    if len(policies) < len(without):
        return None, "Calibrated fusion is not used: too few individuals to fit it without each group."
    held_out = sample.ranking(policies, groups) - sample.ranking(weighted[1:], groups)
    gain, error = _mean_and_error(held_out[queried])
    found = f"fitted without each group of individuals, it changes mAP of that group by {_points(gain, error)}"
    whole = fitted(ALL) if _clear(gain, error) else None
    if whole is None:
        return None, f"Calibrated fusion is not used: {found}, which is not clearly better."
    return [whole, *policies], f"Calibrated fusion takes the place of the weighted sum: {found}."


def _one_standard_error(ranked: Floats, now: int) -> int:
    """The choice nearest to the present one among those within one standard error of the best.

    Args:
        ranked: figure of each individual under each choice; (G, W).
    """
    if len(ranked) < 2:
        return now
    best = int(np.argmax(ranked.mean(axis=0)))
    behind = ranked[:, [best]] - ranked
    close = behind.mean(axis=0) <= behind.std(axis=0, ddof=1) / np.sqrt(len(ranked)) + 1e-12
    return int(min(np.flatnonzero(close), key=lambda choice: (abs(int(choice) - now), int(choice))))


def _mean_and_error(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def _clear(gain: float, error: float) -> bool:
    return gain > SURE * error and gain >= MIN_IMPROVEMENT


def _points(gain: float, error: float) -> str:
    return f"{100 * gain:+.1f} points (standard error {100 * error:.1f})"


def _named(policy: MatchPolicy) -> str:
    return " + ".join(f"{weight:.2f} {branch}" for branch, weight in policy.weights.items())
