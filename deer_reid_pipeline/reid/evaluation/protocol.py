"""One protocol for whatever is judged: the live release, a candidate, a recipe without a release.

Query and gallery come from different encounters, burst neighbours never count as a true pair, opposite flanks are
judged apart, unknown individuals take part, every individual is judged by the policy that was fitted without it, and
ranking never compares across compartments (see `Labelled`); searches and decisions do where each has a gallery of all.
Beside the honest figures stand the leaky split and the background alone, so that both gaps are visible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deer_reid_pipeline.reid.evaluation.blocks import CROSS, SAME, Block, fused_blocks
from deer_reid_pipeline.reid.evaluation.clustering import cluster
from deer_reid_pipeline.reid.evaluation.decisions import Decided, decide_in_order
from deer_reid_pipeline.reid.evaluation.estimates import Estimate, Floats, Statistic, clustered_rate, ratio
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation, Raw
from deer_reid_pipeline.reid.evaluation.identification import (
    fnir_at,
    fnir_at_fpir,
    fpir_at,
    fpir_of_individuals,
    fpir_statistic,
)
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled, Mask, in_compartments_of
from deer_reid_pipeline.reid.evaluation.reliability import reliability
from deer_reid_pipeline.reid.evaluation.retrieval import Retrieval, retrieve
from deer_reid_pipeline.reid.evaluation.searches import Searches, search
from deer_reid_pipeline.reid.evaluation.stated import Stated, stated
from deer_reid_pipeline.reid.evaluation.verification import verify
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MATCHED, NEW_INDIVIDUAL
from deer_reid_pipeline.reid.similarity import FloatArray

Progress = Callable[[str, int, int], None]

STAGES = ("pairs", "ranking", "searches", "decisions", "leaky split", "other flank", "background")
STRATUM_METRICS = ("map", "rank1")

REMEMBERED = 560_000_000
"""Bytes of similarities that one evaluation keeps: those of 11,570 detections to each other."""


def evaluate(
    labelled: Labelled,
    fitted: FittedPolicy,
    *,
    control: Labelled | None = None,
    gallery_size: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge one recipe and its policies on labelled detections.

    Args:
        control: vectors of the background alone of some of these detections, under a recipe of their own; None where
            they were not made. Where the detections have compartments and these do not, they are judged in the same.
        gallery_size: individuals of the real gallery, in which an unknown animal is searched for; those labelled
            where not given.
        progress: is told the stage, how many stages are done, and how many there are.

    Raises:
        ValueError: there is no detection, a branch that a policy weighs is missing, or the control shows individuals of
            which no compartment is known.
    """
    if not len(labelled):
        raise ValueError("nothing to judge: no detection is labelled")
    if control is not None and control.compartment is None:
        control = in_compartments_of(control, labelled)
    if gallery_size is None and labelled.divided:
        gallery_size = labelled.individuals  # in use there are no compartments: that is the gallery to be claimed for
    done = iter(range(len(STAGES) + 1))

    def tell() -> None:
        if progress is not None:
            at = next(done)
            progress(STAGES[min(at, len(STAGES) - 1)], at, len(STAGES))

    tell()
    block = remembered(fused_blocks(labelled, fitted), len(labelled))
    verification = verify(labelled, block)
    tell()
    retrieval = retrieve(labelled, block)
    tell()
    searches = search(labelled, fitted)
    said = stated(searches, fitted)
    tell()
    decided = decide_in_order(labelled, fitted, truth=True)
    identities = decide_in_order(labelled, fitted, truth=False)
    clusters = cluster(identities)
    tell()
    leaky = _compared(labelled, block, ("rank1", "rank5", "map"), leaky=True)
    tell()
    cross_flank = _compared(labelled, block, ("rank1",), flank=CROSS)
    tell()
    background = None if control is None else _compared(control, fused_blocks(control, fitted), ("rank1", "map"))
    tell()
    return Evaluation(
        recipe_id=next(iter(labelled.vectors.values())).recipe_id,
        policies=fitted,
        counts=_counts(labelled, searches)
        | ({} if gallery_size is None else {"known_individuals": max(gallery_size, labelled.individuals)}),
        statistics={
            **{name: retrieval.statistic(name) for name in ("rank1", "rank5", "map", "map_individual")},
            "roc_auc": verification.roc_auc,
            "d_prime": verification.d_prime,
            "eer": verification.eer,
            "fnir_at_fpir_1": fnir_at_fpir(searches, 0.01),
            "fnir_at_fpir_5": fnir_at_fpir(searches, 0.05),
            "fnir": fnir_at(searches, _thresholds(searches, fitted)),
            "named": _named(decided),
            "baks": decided.baks,
            "baus": decided.baus,
            "baks_baus": decided.baks_baus,
            "ari": clusters.ari,
            "pair_precision": clusters.pair_precision,
            "pair_recall": clusters.pair_recall,
            **_calibration(said, labelled.individuals),
        },
        rates=_rates(searches, decided, fitted),
        strata=_strata(labelled, retrieval, searches, _thresholds(searches, fitted)),
        leaky=leaky,
        cross_flank=cross_flank,
        control=background,
        made=clusters.made,
        true=clusters.true,
        raw=Raw(labelled, verification, retrieval, searches, decided, identities, said),
    )


def remembered(block: Block, n: int, most: int = REMEMBERED) -> Block:
    """The same similarities, computed once: as many rows are kept as fit into `most` bytes, the others made anew.

    What is returned belongs to the caller and may be changed.

    Args:
        n: rows of the labelled detections.
    """
    kept = np.empty((min(n, most // (4 * max(n, 1))), n), dtype=np.float32)
    there = np.zeros(len(kept), dtype=bool)

    def of(rows: Ints) -> FloatArray:
        inside = rows < len(kept)
        missing = rows[inside][~there[rows[inside]]]
        if len(missing):
            kept[missing] = block(missing)
            there[missing] = True
        if inside.all():
            return kept[rows]
        found = np.empty((len(rows), n), dtype=np.float32)
        found[inside] = kept[rows[inside]]
        found[~inside] = block(rows[~inside])
        return found

    return of


def _compared(
    labelled: Labelled, block: Block, metrics: Sequence[str], *, flank: str = SAME, leaky: bool = False
) -> dict[str, Statistic]:
    """ROC-AUC and these metrics of ranking under another rule of what is compared."""
    ranking = retrieve(labelled, block, flank=flank, leaky=leaky)
    return {
        "roc_auc": verify(labelled, block, flank=flank, leaky=leaky).roc_auc,
        **{name: ranking.statistic(name) for name in metrics},
    }


def _counts(labelled: Labelled, searches: Searches) -> dict[str, int]:
    met = np.unique(np.stack([labelled.individual, labelled.burst]), axis=1)[0]
    return {
        "individuals": len(np.unique(labelled.individual)),
        "encounters": labelled.encounters,
        "detections": len(labelled),
        "returning_individuals": int(np.count_nonzero(np.bincount(met) >= 2)),
        "mated_searches": int(np.count_nonzero(searches.mated)),
        "non_mated_searches": int(np.count_nonzero(searches.non_mated)),
        "gallery_size": searches.gallery_size,
    }


def _thresholds(searches: Searches, fitted: FittedPolicy) -> Floats:
    """The threshold that each search is judged with: that of the policy fitted without its individual."""
    return np.array([fitted.judging(fold).threshold for fold in searches.fold.tolist()], dtype=np.float64)


def _rates(searches: Searches, decided: Decided, fitted: FittedPolicy) -> dict[str, Estimate]:
    first = searches.only(searches.first)
    return {
        "fpir": fpir_at(searches, _thresholds(searches, fitted)),
        "fpir_individual": fpir_of_individuals(searches, _thresholds(searches, fitted)),
        "fpir_first": fpir_at(first, _thresholds(first, fitted)),
        "wrong_names": decided.wrong_names,
        "opened_as_new": _opened_as_new(decided),
    }


def _named(decided: Decided) -> Statistic:
    """Share of the encounters of returning animals that the whole policy names rightly: margin and sex rule count."""
    trials = decided.known_before & decided.comparable
    return ratio(*_of_each(decided, trials & (decided.outcome == MATCHED) & decided.correct, trials))


def _opened_as_new(decided: Decided) -> Estimate:
    """Share of the encounters of returning animals that are called new."""
    trials = decided.known_before & decided.comparable
    called_new, met = _of_each(decided, trials & (decided.outcome == NEW_INDIVIDUAL), trials)
    return clustered_rate(called_new.astype(np.int64), met.astype(np.int64))


def _of_each(decided: Decided, events: Mask, trials: Mask) -> tuple[Floats, Floats]:
    """Events and trials of each individual; each (G,)."""
    one, other = (np.bincount(decided.individual[kind], minlength=decided.individuals) for kind in (events, trials))
    return one.astype(np.float64), other.astype(np.float64)


def _calibration(said: Stated, individuals: int) -> dict[str, Statistic]:
    """How far the stated probabilities are from what came true; nothing where none was stated."""
    if not said.any:
        return {}
    found = reliability(said.probability, said.right, said.individual, individuals)
    return {
        "calibration_error": found.calibration_error,
        "brier": found.brier,
        "brier_gain": _brier_gain(said, found.brier, individuals),
    }


def _brier_gain(said: Stated, brier: Statistic, individuals: int) -> Statistic:
    """p (1 - p), the Brier score of always stating the base rate p, less that of what was stated."""
    trials = np.isfinite(said.probability)
    of_each = np.bincount(said.individual[trials], minlength=individuals).astype(np.float64)
    came_true = np.bincount(said.individual[trials & said.right], minlength=individuals).astype(np.float64)
    base_rate = ratio(came_true, of_each)

    def of(weights: Floats) -> Floats:
        p = base_rate.of(weights)
        return p * (1 - p) - brier.of(weights)

    return Statistic(of, individuals, base_rate.n, base_rate.taking_part, -1.0, 0.25)


def _strata(
    labelled: Labelled, retrieval: Retrieval, searches: Searches, thresholds: Floats
) -> dict[str, dict[str, dict[str, Statistic]]]:
    """Ranking and FPIR of each stratum, among all that the whole is ranked and searched in; one value says nothing.

    A search is of the stratum of its first picture.
    """
    found: dict[str, dict[str, dict[str, Statistic]]] = {}
    for name, column in labelled.strata.items():
        column_of = np.array(column, dtype=object)
        values = column_of[retrieval.row]
        searched = column_of[np.array([rows[0] for rows in searches.rows], dtype=np.int64)]
        known = sorted({str(value) for value in values.tolist() if value})
        if len(known) > 1:
            found[name] = {
                value: {
                    **{metric: retrieval.statistic(metric, values == value) for metric in STRATUM_METRICS},
                    "fpir": fpir_statistic(searches.only(searched == value), thresholds[searched == value]),
                }
                for value in known
            }
    return found
