"""Every labelled encounter searched in the gallery of all labelled individuals (1:N).

One search serves twice. With its own individual taken out it is a non-mated search at the size of the real gallery;
against what was known of its own individual before, it is a mated one. Sex never narrows here: it narrows in
`decisions`, where the whole policy is judged.

Where models of a cross-validation judge (see `Labelled.compartment`) and each has vectors of everybody
(`Labelled.galleries`), a search is still made among all: the searched animal is one that its model never saw, the
others are mostly animals that it was trained on, as when a new animal comes to a herd that the model knows. A returning
animal is one that the model knows in use, and not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled
from deer_reid_pipeline.reid.evaluation.standing import (
    NOBODY,
    Comparison,
    Standing,
    Units,
    best_of_each,
    mean_over_crops,
    standing_over_time,
    units_of,
)
from deer_reid_pipeline.reid.fitted import FittedPolicy

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Searches:
    """One row a search: an encounter, or a picture where the policy decides about pictures; in the order of time.

    Attributes:
        encounter, individual, fold: of each search; int64 (S,).
        first: nothing at all was known of the individual before; bool (S,).
        only_burst: nothing but burst neighbours was known of it: the search is neither a first nor a returning one, but
            still a non-mated one with its own individual taken out; bool (S,).
        scores: similarity to every individual by code, float32 (S, G): to its own one by what was known of it
            before (burst neighbours left out), to all others by all that is known of them. NaN where nothing shows
            a comparable flank, and for individuals of another compartment, which are no candidates.
        mate_score: similarity to the own individual; NaN where the search has no mate to compare with; (S,).
        best_nonmate: highest similarity to another individual; NaN where none is comparable; (S,).
        best_nonmate_individual: code of that individual, -1 where none.
        candidates: other individuals that can be compared; (S,).
        mate_rank: 1 + the other individuals that score at least as high as the mate; 0 where there is no mate.
        rows: labelled detections of each search.
        individuals: G, those without a detection included.
        gallery_size: individuals of the gallery of a non-mated search: all with a detection, but its own. With
            compartments the usual one, the median over individuals that could be taken for another.
        compartment: of each individual, -1 for those without a detection; int64 (G,). None where a search is made among
            everybody.
    """

    encounter: Ints
    individual: Ints
    fold: Ints
    first: NDArray[np.bool_]
    only_burst: NDArray[np.bool_]
    scores: NDArray[np.float32]
    mate_score: Floats
    best_nonmate: Floats
    best_nonmate_individual: Ints
    candidates: Ints
    mate_rank: Ints
    rows: tuple[Ints, ...]
    individuals: int
    gallery_size: int
    compartment: Ints | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def mated(self) -> NDArray[np.bool_]:
        """Searches with a mate to be found; (S,)."""
        return np.isfinite(self.mate_score)

    @property
    def non_mated(self) -> NDArray[np.bool_]:
        """Searches that somebody could be found in once their own individual is taken out; (S,)."""
        return self.candidates > 0

    @property
    def gallery_sizes(self) -> Ints:
        """Individuals of the gallery of each search with its own individual taken out; int64 (S,)."""
        if self.compartment is None:
            return np.full(len(self), self.gallery_size, dtype=np.int64)
        return np.bincount(self.compartment[self.compartment >= 0])[self.compartment[self.individual]] - 1

    def gallery_of(self, individual: int) -> Ints:
        """Codes of the individuals that searches for this one are made among, itself included; ascending."""
        if self.compartment is None:
            return np.arange(self.individuals)
        return np.flatnonzero(self.compartment == self.compartment[individual])

    def nonmate_scores(self) -> NDArray[np.float32]:
        """`scores` without those of the own individual, which become NaN; (S, G)."""
        others = self.scores.copy()
        others[np.arange(len(self)), self.individual] = np.nan
        return others

    def only(self, keep: NDArray[np.bool_]) -> Searches:
        """These searches alone, in the same gallery."""
        index = np.flatnonzero(keep)
        return Searches(
            self.encounter[index],
            self.individual[index],
            self.fold[index],
            self.first[index],
            self.only_burst[index],
            self.scores[index],
            self.mate_score[index],
            self.best_nonmate[index],
            self.best_nonmate_individual[index],
            self.candidates[index],
            self.mate_rank[index],
            tuple(self.rows[row] for row in index.tolist()),
            self.individuals,
            self.gallery_size,
            self.compartment,
        )


def search(labelled: Labelled, fitted: FittedPolicy) -> Searches:
    """Search every encounter in the gallery, scored as `matching.score_individuals` scores.

    The score of an individual is the mean, over the crops that have one, of the highest fused similarity (under a
    calibrated fusion a probability) to a comparable exemplar; opposite flanks are not compared. With
    `gallery="profile"` it is the similarity to the mean direction of the individual's pictures, whatever their flank.
    Each search is scored by the policy that was fitted without its individual, among all individuals where there is a
    gallery of all (`Labelled.shared`), else in its compartment.

    Raises:
        RecipeMismatchError: vectors come from different recipes.
        ValueError: a branch that a policy weighs is missing.
    """
    units = units_of(labelled, fitted.policy.unit)
    standing = standing_over_time(labelled, units, fitted.policy.gallery)
    comparison = Comparison(labelled, fitted, everybody=labelled.shared)
    divided = labelled.divided and not labelled.shared
    scores = np.full((len(units), labelled.individuals), np.nan, dtype=np.float32)
    _score_others(scores, units, standing, comparison)
    _score_own(scores, units, standing, comparison)
    return searches_of(
        scores,
        encounter=units.encounter,
        individual=units.individual,
        fold=comparison.fold_of_individual[units.individual],
        first=((standing.before == NOBODY) & ~standing.only_burst)[units.sighting],
        only_burst=standing.only_burst[units.sighting],
        rows=units.rows,
        gallery_size=_usual_gallery((labelled.compartments * divided)[standing.final != NOBODY]),
        compartment=labelled.compartments if divided else None,
    )


def searches_of(
    scores: NDArray[np.float32],
    *,
    encounter: Ints,
    individual: Ints,
    fold: Ints,
    first: NDArray[np.bool_],
    rows: tuple[Ints, ...],
    gallery_size: int,
    only_burst: NDArray[np.bool_] | None = None,
    compartment: Ints | None = None,
) -> Searches:
    """Searches from their similarities to every individual; see `Searches` for the arguments.

    Args:
        only_burst: none of them where not given.
    """
    at = np.arange(len(scores))
    mate = scores[at, individual].astype(np.float64)
    others = np.where(np.isnan(scores), -np.inf, scores)
    others[at, individual] = -np.inf
    candidates = np.isfinite(others).sum(axis=1)
    some = candidates > 0
    code = others.argmax(axis=1) if scores.size else np.zeros(len(scores), dtype=np.int64)
    best = np.where(some, others[at, code], np.nan).astype(np.float64)
    ahead = (others >= scores[at, individual][:, None]).sum(axis=1)
    return Searches(
        encounter=encounter,
        individual=individual,
        fold=fold,
        first=first,
        only_burst=np.zeros(len(scores), dtype=bool) if only_burst is None else only_burst,
        scores=scores,
        mate_score=mate,
        best_nonmate=best,
        best_nonmate_individual=np.where(some, code, -1),
        candidates=candidates.astype(np.int64),
        mate_rank=np.where(np.isfinite(mate), 1 + ahead, 0).astype(np.int64),
        rows=rows,
        individuals=scores.shape[1],
        gallery_size=gallery_size,
        compartment=compartment,
    )


def _usual_gallery(compartments: Ints) -> int:
    """Individuals beside one's own in a compartment: the median over individuals that have others there; 0 without any.

    The smallest would let three newly named animals decide what can be claimed for all.

    Args:
        compartments: of the individuals that have a detection.
    """
    _, place, counts = np.unique(compartments, return_inverse=True, return_counts=True)
    others = (counts - 1)[place]
    return int(np.median(others[others > 0])) if np.any(others > 0) else 0


def _score_others(scores: NDArray[np.float32], units: Units, standing: Standing, comparison: Comparison) -> None:
    known = np.flatnonzero(standing.final != NOBODY)
    versions = standing.final[known].tolist()
    columns = standing.rows_of(versions)
    sizes = np.array([len(standing.versions[version]) for version in versions], dtype=np.int64)
    for block in units.blocks(comparison.grouped(units.individual)):
        rows, starts = stacked_rows(units, block)
        best = best_of_each(comparison.of(rows, standing, columns), sizes)
        scores[np.ix_(np.array(block), known)] = mean_over_crops(best, starts)


def _score_own(scores: NDArray[np.float32], units: Units, standing: Standing, comparison: Comparison) -> None:
    """Replace the similarity to the own individual: all that is known of it includes the query itself."""
    scores[np.arange(len(units)), units.individual] = np.nan
    version = standing.before[units.sighting]
    returning = np.flatnonzero(version != NOBODY)
    order = returning[np.argsort(units.individual[returning], kind="stable")]
    for mine in np.split(order, np.flatnonzero(np.diff(units.individual[order])) + 1):
        if not len(mine):
            continue
        rows, starts = stacked_rows(units, mine.tolist())
        columns, inverse = np.unique(standing.rows_of(version[mine].tolist()), return_inverse=True)
        fused = comparison.of(rows, standing, columns)
        ends = np.r_[starts[1:], len(rows)]
        at = 0
        for unit, start, end in zip(mine.tolist(), starts.tolist(), ends.tolist(), strict=True):
            size = len(standing.versions[version[unit]])
            best = fused[start:end, inverse[at : at + size]].max(axis=1, keepdims=True)
            scores[unit, units.individual[unit]] = mean_over_crops(best, np.zeros(1, dtype=np.int64))[0, 0]
            at += size


def stacked_rows(units: Units, chosen: list[int]) -> tuple[Ints, Ints]:
    """Rows of several units one after the other, and where each unit begins."""
    sizes = np.array([len(units.rows[unit]) for unit in chosen], dtype=np.int64)
    return np.concatenate([units.rows[unit] for unit in chosen]), np.cumsum(sizes) - sizes
