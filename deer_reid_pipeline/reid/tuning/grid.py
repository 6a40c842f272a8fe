"""The owner's table of ensemble weights: true and false positive rate of pairs, and thresholds chosen from them.

Pair rates say little about identification (a false positive rate of 5 % of pairs is one of 99.98 % of searches among
165 animals), so the table is reported, and `fusion` and `cuts` decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deer_reid_pipeline.reid.evaluation.estimates import Estimate, Floats, estimate
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.verification import Verification, verify
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.tuning.sample import Sample, thinned

OWNER_WEIGHTS = (0.5, 0.6, 0.7, 0.8)
"""Weights of the first branch that the owner asked to compare; the second has the rest."""

MOST_FPR = 0.05
STEP = 0.05
DRAWS = 1000
"""Of each bootstrap; the table has many intervals."""


@dataclass(frozen=True)
class GridRow:
    """One pair of weights.

    Attributes:
        weights: branch -> weight.
        roc_auc: area under the ROC of pairs.
        threshold, tpr, fpr: where most genuine pairs are accepted with less than 5 % of the impostors.
        f1_threshold, f1, f1_tpr, f1_fpr: where F1 of the pairs is highest.
        roc: FPR and TPR, from the highest threshold down.
        by_owner: one of the pairs that the owner asked for.
    """

    weights: Mapping[str, float]
    roc_auc: Estimate
    threshold: float
    tpr: Estimate
    fpr: Estimate
    f1_threshold: float
    f1: float
    f1_tpr: float
    f1_fpr: Estimate
    roc: tuple[Floats, Floats]
    by_owner: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {key: value for key, value in asdict(self).items() if key != "roc"}
        plain |= {key: getattr(self, key).as_dict() for key in ("roc_auc", "tpr", "fpr", "f1_fpr")}
        return {**plain, "roc": {"fpr": self.roc[0].tolist(), "tpr": self.roc[1].tolist()}}


def with_weights(base: MatchPolicy, branches: Sequence[str], first: float) -> MatchPolicy:
    """The policy with a weighted sum in which the first branch has this weight, and the second the rest."""
    weights = {branches[0]: round(first, 4), branches[1]: round(1 - first, 4)}
    return base.model_copy(update={"weights": weights, "fusion": "weighted_sum", "calibration": None})


def first_weights(base: MatchPolicy, branches: Sequence[str], step: float = STEP) -> list[float]:
    """Weights of the first branch that are compared: between 0 and 1 in steps, and what is live.

    Neither branch is dropped, so that the next tuning can raise its weight again.
    """
    steps = round(1 / step)
    live = base.weights[branches[0]] / (base.weights[branches[0]] + base.weights[branches[1]])
    return sorted({round(index / steps, 4) for index in range(1, steps)} | {round(live, 4)})


def weight_grid(labelled: Labelled, base: MatchPolicy, *, step: float = STEP) -> tuple[GridRow, ...]:
    """The table, of pairs of one flank and of different encounters; empty unless the policy fuses two branches.

    Of more than about 2,500 detections that many are taken, spread over individuals and encounters. Intervals are
    bootstraps over individuals.
    """
    branches = base.branches
    if len(branches) != 2:
        return ()
    sample = Sample(thinned(labelled), branches)
    nobody = np.zeros(len(sample.labelled), dtype=np.int64)
    rows = []
    for first in first_weights(base, branches, step):
        policy = with_weights(base, branches, first)
        verification = verify(sample.labelled, sample.block([policy], nobody))
        if not verification.genuine_pairs or not verification.impostor_pairs:
            return ()
        rows.append(_row(policy.weights, verification, first in OWNER_WEIGHTS))
    return tuple(rows)


def owner_choice(rows: Sequence[GridRow]) -> GridRow | None:
    """The owner's rule: of the weights asked for, most genuine pairs with less than 5 % of impostor pairs."""
    asked = [row for row in rows if row.by_owner]
    return max(asked, key=lambda row: row.tpr.value) if asked else None


def _row(weights: Mapping[str, float], verification: Verification, by_owner: bool) -> GridRow:
    thresholds, fmr, fnmr = verification.curve(2000)
    tpr = 1 - fnmr
    allowed = np.flatnonzero(fmr < MOST_FPR)  # the last threshold lets nothing through
    chosen = allowed[np.argmax(tpr[allowed])]
    accepted, wrong = tpr * verification.genuine_pairs, fmr * verification.impostor_pairs
    f1 = 2 * accepted / (accepted + wrong + verification.genuine_pairs)
    best = int(np.argmax(f1))
    points = np.unique(np.linspace(0, len(thresholds) - 1, 200).round().astype(np.int64))[::-1]
    missed = estimate(verification.fnmr_at(float(thresholds[chosen])), draws=DRAWS)
    return GridRow(
        weights=weights,
        roc_auc=estimate(verification.roc_auc, draws=DRAWS),
        threshold=float(thresholds[chosen]),
        tpr=Estimate(1 - missed.value, 1 - missed.high, 1 - missed.low, missed.n, missed.individuals),
        fpr=estimate(verification.fmr_at(float(thresholds[chosen])), draws=DRAWS),
        f1_threshold=float(thresholds[best]),
        f1=float(f1[best]),
        f1_tpr=float(tpr[best]),
        f1_fpr=estimate(verification.fmr_at(float(thresholds[best])), draws=DRAWS),
        roc=(fmr[points], tpr[points]),
        by_owner=by_owner,
    )
