"""What a policy would say of every search in the gallery of today, and whether it would be true.

Probabilities are judged in the whole gallery and not in the order of time: a history begins with nobody known, when
nearly every animal is new, and tonight's matching does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.evaluation.estimates import Floats
from deer_reid_pipeline.reid.evaluation.labelled import Ints
from deer_reid_pipeline.reid.evaluation.searches import Searches
from deer_reid_pipeline.reid.fitted import FittedPolicy


@dataclass(frozen=True)
class Stated:
    """Probabilities of searches.

    Attributes:
        probability: stated for the best candidate, 0 to 1; NaN where the policy has no odds, there is no candidate, or
            only burst neighbours are known of the animal.
        right: the best candidate is the animal.
        individual: true individual.
    """

    probability: Floats
    right: NDArray[np.bool_]
    individual: Ints

    @property
    def any(self) -> bool:
        """Whether anything was stated."""
        return bool(np.isfinite(self.probability).any())


def stated(searches: Searches, fitted: FittedPolicy) -> Stated:
    """The probability of the best candidate of every search, by the policy fitted without its individual.

    An animal that was not met before is searched for in a gallery that does not have it. One that is known only by
    burst neighbours is neither new nor known, and nothing is stated of it.
    """
    probability = np.full(len(searches), np.nan)
    right = np.zeros(len(searches), dtype=bool)
    for place, fold in enumerate(searches.fold.tolist()):
        if searches.only_burst[place]:
            continue
        odds = fitted.judging(fold).odds
        own = int(searches.individual[place])
        gallery = searches.gallery_of(own)
        if searches.first[place]:
            gallery = gallery[gallery != own]
        scores = searches.scores[place, gallery].astype(np.float64)
        if odds is None or not np.isfinite(scores).any():
            continue
        best = int(np.nanargmax(scores))
        probability[place] = odds.posterior(scores)[0][best]
        right[place] = gallery[best] == own
    return Stated(probability, right, searches.individual)
