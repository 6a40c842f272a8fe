"""What was decided about every labelled encounter, and how much of it is right.

BAKS and BAUS are those of AnimalCLEF 2025 (the individual animal identification task of LifeCLEF): accuracy on known
and on unknown animals, each animal counting once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.evaluation.estimates import Estimate, Statistic, clustered_rate, mean_of_individuals
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Mask
from deer_reid_pipeline.reid.matching import MATCHED

Floats = NDArray[np.float64]

UNNAMED = -1


@dataclass(frozen=True)
class Decided:
    """Decisions in the order of time, one an encounter, or a picture where the policy decides about pictures.

    Attributes:
        encounter, individual, burst: of each decision; int64 (D,).
        outcome: matched, new_individual or uncertain; str (D,).
        said: code of the individual that was named. Against true identities the code of `Labelled.names`, UNNAMED
            unless matched; against the matcher's own ones the code of an individual that it made, also where it was
            made here, UNNAMED where uncertain; (D,).
        best: true code of the individual that the best candidate's pictures show, UNNAMED where nobody could be
            compared; (D,).
        known_before: the individual stands in the gallery (burst neighbours apart); bool (D,).
        only_burst: nothing but burst neighbours is known of it: neither known nor new, and no trial of any figure here;
            bool (D,).
        comparable: and something of it shows a flank that can be compared; bool (D,).
        score: of the best candidate, a probability under a calibrated fusion; NaN where there is none; (D,).
        probability: of what the outcome says (see `matching.Decision`), NaN where the policy has no odds; (D,).
        correct: named rightly, or called new when it did not stand in the gallery; never for an uncertain outcome;
            bool (D,).
        claim: what `probability` is the probability of was true; bool (D,).
        rows: labelled detections of each decision.
        individuals: G, those without a detection included.
        made: individuals that the matcher made; 0 against true identities.
        compartment: of each decision, which knows nobody of another one; None where there is one for all; (D,).
    """

    encounter: Ints
    individual: Ints
    burst: Ints
    outcome: NDArray[np.str_]
    said: Ints
    best: Ints
    known_before: Mask
    only_burst: Mask
    comparable: Mask
    score: Floats
    probability: Floats
    correct: Mask
    claim: Mask
    rows: tuple[Ints, ...]
    individuals: int
    made: int
    compartment: Ints | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def baks(self) -> Statistic:
        """Balanced accuracy on known samples: mean over known individuals of the share of encounters named rightly.

        Taken of encounters whose individual was known before by a flank that can be compared; an uncertain outcome
        counts as wrong. Each individual counts once, however often it was seen.
        """
        trials = self.known_before & self.comparable
        return self._mean_share(trials & self.correct, trials)

    @property
    def baus(self) -> Statistic:
        """Balanced accuracy on unknown samples: mean over individuals of the share of first encounters called new."""
        trials = ~self.known_before & ~self.only_burst
        return self._mean_share(trials & self.correct, trials)

    @property
    def baks_baus(self) -> Statistic:
        """sqrt(BAKS * BAUS), AnimalCLEF's score."""
        known, unknown = self.baks, self.baus
        return Statistic(
            lambda weights: np.sqrt(known.of(weights) * unknown.of(weights)),
            self.individuals,
            known.n + unknown.n if known.n and unknown.n else 0,
            max(known.taking_part, unknown.taking_part),
        )

    @property
    def wrong_names(self) -> Estimate:
        """Share of the names given (matched outcomes) that are wrong; its interval is clustered by true individual.

        Those given to an animal of which only burst neighbours are known are left out: none of them could be right.
        """
        given = (self.outcome == MATCHED) & ~self.only_burst
        count = self.individuals
        return clustered_rate(
            np.bincount(self.individual[given & ~self.correct], minlength=count),
            np.bincount(self.individual[given], minlength=count),
        )

    def _mean_share(self, events: Mask, trials: Mask) -> Statistic:
        of_each = np.bincount(self.individual[trials], minlength=self.individuals)
        right = np.bincount(self.individual[events], minlength=self.individuals)
        return mean_of_individuals(np.divide(right, of_each, out=np.full(len(of_each), np.nan), where=of_each > 0))
