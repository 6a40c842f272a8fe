"""All figures of an evaluation with their intervals, for page, text and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deer_reid_pipeline.reid.evaluation.estimates import Estimate, Statistic, estimate
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation

STRATUM_METRIC = "rank1"
"""What is shown by flank, light, sex and so on."""


@dataclass(frozen=True)
class Measured:
    """Estimates of one evaluation.

    Attributes:
        figures: metric -> estimate, same flank and different encounters, error rates included.
        leaky: the same where pictures of one encounter may be compared.
        cross_flank: opposite flanks.
        control: the background alone; None where it was not measured.
        strata: stratum -> value -> rank-1.
    """

    figures: Mapping[str, Estimate]
    leaky: Mapping[str, Estimate]
    cross_flank: Mapping[str, Estimate]
    control: Mapping[str, Estimate] | None
    strata: Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True)
class Judged:
    """An evaluation with its figures; `label` is live or candidate."""

    label: str
    evaluation: Evaluation
    measured: Measured


def judged(label: str, evaluation: Evaluation, figures: Mapping[str, Estimate]) -> Judged:
    """The evaluation with the rest of its figures estimated.

    Args:
        figures: metric -> estimate, as the validation has them.
    """
    return Judged(label, evaluation, measure(evaluation, figures))


def measure(evaluation: Evaluation, figures: Mapping[str, Estimate]) -> Measured:
    """What stands beside the figures, with 95 % intervals: leaky split, other flank, background, strata."""
    return Measured(
        figures=figures,
        leaky=_all(evaluation.leaky),
        cross_flank=_all(evaluation.cross_flank),
        control=None if evaluation.control is None else _all(evaluation.control),
        strata={
            stratum: {
                value: estimate(found[STRATUM_METRIC]) for value, found in values.items() if STRATUM_METRIC in found
            }
            for stratum, values in evaluation.strata.items()
        },
    )


NOTHING = Measured({}, {}, {}, None, {})
"""Where there was too little data to judge anything."""


def _all(statistics: Mapping[str, Statistic]) -> dict[str, Estimate]:
    return {name: estimate(statistic) for name, statistic in statistics.items()}
