"""Every labelled encounter decided in the order of time by the whole policy, as if it came in now (open set).

Twice: against true identities, as if a person had confirmed every earlier encounter, and against the matcher's own
earlier identities, which shows what it makes of the herd by itself. Pictures of the same encounter, and burst
neighbours of the same individual, never stand in the gallery while one of them is judged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.reid.evaluation.decided import UNNAMED, Decided
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled, Mask
from deer_reid_pipeline.reid.evaluation.searches import stacked_rows
from deer_reid_pipeline.reid.evaluation.standing import (
    NOBODY,
    Comparison,
    Standing,
    Units,
    best_of_each,
    mean_over_crops,
    standing_by_unit,
    standing_over_time,
    units_of,
)
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MATCHED, NEW_INDIVIDUAL, UNCERTAIN, Decision, Known, decide_scored
from deer_reid_pipeline.reid.vocabulary import UNKNOWN, agreed_sex

Floats = NDArray[np.float64]
Scored = Callable[[int, Ints, Ints], Floats]
"""A unit, the rows that stand for individuals side by side and how many each has -> similarity to each, or NaN."""


def decide_in_order(labelled: Labelled, fitted: FittedPolicy, *, truth: bool) -> Decided:
    """Decide encounter after encounter against what was known before, each by the policy fitted without its individual.

    With `truth` every earlier encounter is known by its true individual, which has the first sex that was told of it.
    Without, the gallery is the matcher's own: an encounter called new opens an individual with its pictures as
    evidence; a match adds none, and neither does an uncertain outcome. An encounter that is called new although a
    burst neighbour of the same animal has opened an individual joins that one, as it could not have been compared.
    Each compartment is a herd of its own: nobody of another one is known. With `truth`, and a gallery of all for each
    compartment (`Labelled.shared`), everybody is known, as in `searches.search`.

    Raises:
        RecipeMismatchError: vectors come from different recipes.
        ValueError: a branch that a policy weighs is missing.
    """
    units = units_of(labelled, fitted.policy.unit)
    everybody = truth and labelled.shared
    run = _Run(labelled, units, Comparison(labelled, fitted, everybody=everybody), fitted, everybody)
    if truth:
        _against_truth(run, standing_over_time(labelled, units, fitted.policy.gallery))
    else:
        _against_own(run, standing_by_unit(labelled, units, fitted.policy.gallery))
    return run.decided()


class _Run:
    """Decisions being made, and the similarities that they need, a block of units at a time."""

    def __init__(
        self, labelled: Labelled, units: Units, comparison: Comparison, fitted: FittedPolicy, everybody: bool
    ) -> None:
        self.labelled, self.units, self._comparison = labelled, units, comparison
        self.divided = labelled.divided and not everybody
        self.compartments = labelled.compartments if self.divided else np.zeros(labelled.individuals, dtype=np.int64)
        count = len(units)
        folds = comparison.fold_of_individual[units.individual].tolist()
        self.policies = [fitted.judging(fold) for fold in folds]
        self.sexes = [agreed_sex([labelled.sexes[row] for row in rows.tolist()]) for rows in units.rows]
        self.outcome = np.full(count, UNCERTAIN, dtype=f"U{max(map(len, (MATCHED, NEW_INDIVIDUAL, UNCERTAIN)))}")
        self.said = np.full(count, UNNAMED, dtype=np.int64)
        self.best = np.full(count, UNNAMED, dtype=np.int64)
        self.known_before = np.zeros(count, dtype=bool)
        self.only_burst = np.zeros(count, dtype=bool)
        self.comparable = np.zeros(count, dtype=bool)
        self.score = np.full(count, np.nan)
        self.probability = np.full(count, np.nan)
        self.made = 0

    def scored(self, block: list[int], standing: Standing, needed: Ints) -> Scored:
        """Similarity of the units of a block to individuals; everything needed is compared at once.

        Args:
            needed: rows of `standing.vectors` that the block may ask for.
        """
        rows, starts = stacked_rows(self.units, block)
        columns = np.unique(needed)
        fused = self._comparison.of(rows, standing, columns)
        place = np.zeros(len(standing.flanks), dtype=np.int64)
        place[columns] = np.arange(len(columns))
        crops = dict(zip(block, np.split(fused, starts[1:]), strict=True))

        def of(unit: int, rows: Ints, sizes: Ints) -> Floats:
            best = best_of_each(crops[unit][:, place[rows]], sizes)
            return mean_over_crops(best, np.zeros(1, dtype=np.int64))[0]

        return of

    def write(self, unit: int, decision: Decision, best: int) -> None:
        """Note an outcome; `best` is the true code of the best candidate."""
        self.outcome[unit] = decision.outcome
        if decision.best is not None:
            self.best[unit], self.score[unit] = best, decision.best.score
        if decision.probability is not None:
            self.probability[unit] = decision.probability

    def decided(self) -> Decided:
        right = self.best == self.units.individual
        new = (self.outcome == NEW_INDIVIDUAL) & ~self.known_before
        return Decided(
            encounter=self.units.encounter,
            individual=self.units.individual,
            burst=self.units.burst,
            outcome=self.outcome,
            said=self.said,
            best=self.best,
            known_before=self.known_before,
            only_burst=self.only_burst,
            comparable=self.comparable,
            score=self.score,
            probability=self.probability,
            correct=np.where(self.outcome == MATCHED, right, new),
            claim=np.where(self.outcome == NEW_INDIVIDUAL, ~self.known_before, right),
            rows=self.units.rows,
            individuals=self.labelled.individuals,
            made=self.made,
            compartment=self.compartments[self.units.individual] if self.divided else None,
        )


def _against_truth(run: _Run, standing: Standing) -> None:
    units = run.units
    current: dict[int, int] = {}
    known: dict[int, Known] = {}
    compartments: list[int] = run.compartments.tolist()
    waiting: list[int] = []  # what the encounter being decided will have made known
    for block in units.blocks(np.arange(len(units))):
        around = units.sighting[[*waiting, *block]]
        needed = {*current.values(), *standing.before[around].tolist(), *standing.after[around].tolist()} - {NOBODY}
        similarity = run.scored(block, standing, standing.rows_of(sorted(needed)))
        for unit in block:
            if waiting and units.encounter[unit] != units.encounter[waiting[0]]:
                for earlier in waiting:
                    code = int(units.individual[earlier])
                    current[code] = int(standing.after[units.sighting[earlier]])
                    sex = known[code].sex if code in known else UNKNOWN
                    sex = run.sexes[earlier] if sex == UNKNOWN else sex
                    known[code] = Known(code, run.labelled.names[code], sex, {}, ())
                waiting.clear()
            waiting.append(unit)
            own, before = int(units.individual[unit]), int(standing.before[units.sighting[unit]])
            home = compartments[own]
            versions = {
                code: version
                for code, version in {**current, own: before}.items()
                if version != NOBODY and compartments[code] == home
            }
            sizes = np.array([len(standing.versions[version]) for version in versions.values()], dtype=np.int64)
            scores = similarity(unit, standing.rows_of(list(versions.values())), sizes)
            decision = decide_scored(scores, [known[code] for code in versions], run.sexes[unit], run.policies[unit])
            run.known_before[unit] = before != NOBODY
            run.only_burst[unit] = standing.only_burst[units.sighting[unit]]
            run.comparable[unit] = before != NOBODY and bool(np.isfinite(scores[list(versions).index(own)]))
            best = UNNAMED if decision.best is None else int(str(decision.best.key))
            run.write(unit, decision, best)
            run.said[unit] = best if decision.outcome == MATCHED else UNNAMED


def _against_own(run: _Run, standing: Standing) -> None:
    units = run.units
    # Odds are about true identities; here they would be asked for every individual ever opened.
    policies = {id(policy): policy.model_copy(update={"odds": None}) for policy in run.policies}
    made = _Made(units, standing)
    for block in units.blocks(np.arange(len(units))):
        around = [*made.openers, *block]
        similarity = run.scored(block, standing, standing.rows_of(sorted(set(around))))
        for unit in block:
            own, policy, sex = int(units.individual[unit]), policies[id(run.policies[unit])], run.sexes[unit]
            junk = made.neighbours.setdefault((own, int(units.burst[unit])), [])
            scores = similarity(unit, *made.columns())
            opened = units.individual[made.openers]
            offered = run.compartments[opened] == run.compartments[own]
            offered[junk] = False
            mine = offered & (opened == own)
            run.known_before[unit] = mine.any()
            run.only_burst[unit] = bool(junk) and not mine.any()
            run.comparable[unit] = np.isfinite(scores[mine]).any()
            shortlist = made.worth_deciding(scores, offered, policy.shortlist + 1)
            decision = decide_scored(scores[shortlist], [made.known[i] for i in shortlist], sex, policy)
            best = UNNAMED if decision.best is None else int(str(decision.best.key))
            run.write(unit, decision, UNNAMED if best == UNNAMED else int(units.individual[made.openers[best]]))
            if decision.outcome == MATCHED:
                run.said[unit] = best
            elif decision.outcome == NEW_INDIVIDUAL:
                if not junk:
                    junk.append(made.open(unit, sex))
                run.said[unit] = junk[0]
    run.made = len(made.openers)


class _Made:
    """Individuals that the matcher opened, each known by the unit that opened it."""

    def __init__(self, units: Units, standing: Standing) -> None:
        self._standing = standing
        self.openers: list[int] = []
        self.known: list[Known] = []
        self.neighbours: dict[tuple[int, int], list[int]] = {}
        self._rows = np.zeros(sum(len(version) for version in standing.versions), dtype=np.int64)
        self._sizes = np.zeros(len(units), dtype=np.int64)
        self._sexes = np.full(len(units), UNKNOWN, dtype="U7")
        self._filled = 0

    def columns(self) -> tuple[Ints, Ints]:
        """Rows that stand for each individual, side by side, and how many each has."""
        return self._rows[: self._filled], self._sizes[: len(self.openers)]

    def open(self, unit: int, sex: str) -> int:
        """The code of a new individual."""
        code, version = len(self.openers), self._standing.versions[unit]
        self._rows[self._filled : self._filled + len(version)] = version
        self._filled += len(version)
        self._sizes[code], self._sexes[code] = len(version), sex
        self.openers.append(unit)
        self.known.append(Known(code, f"{code:09d}", sex, {}, ()))
        return code

    def worth_deciding(self, scores: Floats, offered: Mask, count: int) -> list[int]:
        """Those that can change a decision: the `count` most similar of each sex, and one that cannot be compared.

        A matcher that recognises nobody makes thousands of individuals, and ranking them all for every encounter
        would take minutes.
        """
        chosen = np.zeros(len(scores), dtype=bool)
        for sex in np.unique(self._sexes[: len(scores)]):
            mine = np.flatnonzero(offered & (self._sexes[: len(scores)] == sex))
            comparable = mine[np.isfinite(scores[mine])]
            if len(comparable) > count:
                lowest = np.partition(scores[comparable], -count)[-count]
                comparable = comparable[scores[comparable] >= lowest]
            chosen[comparable] = True
            chosen[mine[np.isnan(scores[mine])][:1]] = True
        return np.flatnonzero(chosen).tolist()
