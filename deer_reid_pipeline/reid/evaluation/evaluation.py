"""What one evaluation found: figures to be compared and judged, and the raw results that plots are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deer_reid_pipeline.reid.evaluation.estimates import Estimate, Statistic

if TYPE_CHECKING:
    from deer_reid_pipeline.reid.evaluation.decisions import Decided
    from deer_reid_pipeline.reid.evaluation.labelled import Labelled
    from deer_reid_pipeline.reid.evaluation.retrieval import Retrieval
    from deer_reid_pipeline.reid.evaluation.searches import Searches
    from deer_reid_pipeline.reid.evaluation.stated import Stated
    from deer_reid_pipeline.reid.evaluation.verification import Verification
    from deer_reid_pipeline.reid.fitted import FittedPolicy


@dataclass(frozen=True)
class Raw:
    """Results that figures were made of, for plots and picture pairs."""

    labelled: Labelled
    verification: Verification
    retrieval: Retrieval
    searches: Searches
    decided: Decided
    """Decisions in time order against true identities known before."""
    identities: Decided
    """Decisions in time order against the matcher's own earlier identities."""
    stated: Stated
    """Probabilities in the gallery of today."""


@dataclass(frozen=True)
class Evaluation:
    """One recipe and policy judged on labelled detections, by the protocol of `protocol.evaluate`.

    Attributes:
        counts: individuals, encounters, detections, returning_individuals (two or more encounters), mated_searches,
            non_mated_searches, gallery_size (of a search for an unknown animal), and known_individuals, those of
            the real gallery, where that was told, or where compartments make the galleries smaller.
        statistics: metric -> Statistic, same flank and different encounters. rank1, rank5, map, map_individual,
            roc_auc, d_prime, eer, fnir_at_fpir_1, fnir_at_fpir_5, fnir, named (share of
            returning animals' encounters that the whole policy names rightly), baks, baus, baks_baus, ari,
            pair_precision, pair_recall, calibration_error, brier, brier_gain (how far the Brier score is better than
            that of always stating the base rate).
        rates: metric -> Estimate of error rates whose trials are clustered in individuals: fpir, fpir_individual
            (each individual counting once), fpir_first (new individuals in time order), wrong_names (share of the
            names given that are wrong), opened_as_new (share of returning animals' encounters called new).
        strata: stratum -> value -> metric -> Statistic (map, rank1, fpir).
        leaky: the same metrics when pictures of one encounter may be compared: what the honest split is compared with.
        cross_flank: roc_auc, rank1 of opposite flanks.
        control: roc_auc, rank1, map of the background alone; None where it was not measured.
        made, true: individuals that the matcher makes of these detections by itself, and how many there are.
    """

    recipe_id: str
    policies: FittedPolicy
    counts: Mapping[str, int]
    statistics: Mapping[str, Statistic]
    rates: Mapping[str, Estimate]
    strata: Mapping[str, Mapping[str, Mapping[str, Statistic]]] = field(default_factory=dict)
    leaky: Mapping[str, Statistic] = field(default_factory=dict)
    cross_flank: Mapping[str, Statistic] = field(default_factory=dict)
    control: Mapping[str, Statistic] | None = None
    made: int = 0
    true: int = 0
    raw: Raw | None = None

    @property
    def by_chance(self) -> dict[str, float]:
        """Metric -> what guessing would reach, where that depends on the galleries and the raw results are there."""
        return {} if self.raw is None else self.raw.retrieval.by_chance
