"""Deciding which individual an encounter is.

All crops of an encounter are compared with all exemplars of each individual. Opposite flanks are not compared at
all: they are evidence neither for nor against. The outcome is matched, new_individual, or uncertain, and carries the
numbers that made it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deer_reid_pipeline.errors import RecipeMismatchError
from deer_reid_pipeline.reid.calibrators import CalibratedFusion, Scale
from deer_reid_pipeline.reid.odds import Odds
from deer_reid_pipeline.reid.similarity import (
    BRANCHES,
    EFFICIENTNET,
    FIRST_NETWORK,
    MULTISCALE,
    FloatArray,
    VectorSet,
    cosine_matrix,
    fuse,
)

MATCHED, NEW_INDIVIDUAL, UNCERTAIN = "matched", "new_individual", "uncertain"

FLANK_SIGN = {"left": 1, "right": -1}
"""Signs whose product is -1 for opposite flanks; every other viewpoint counts as 0."""


class MatchPolicy(BaseModel):
    """How a release matches. Stored with the release, so a decision can always be explained.

    `unit="picture"` with `gallery="profile"` is how the owner's matcher works: every detection by itself against
    one vector a deer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    matcher: str = Field("v3_ensemble", description="Name in the decision log: v1_resnet50 or v3_ensemble.")
    weights: dict[str, float] = Field(
        default_factory=lambda: {MULTISCALE: 0.6, EFFICIENTNET: 0.4},
        description="Fusion weight of each branch.",
    )
    threshold: float = Field(ge=-1, le=1, description="Matched at or above this fused similarity.")
    new_below: float = Field(ge=-1, le=1, description="A new individual below this; uncertain in between.")
    margin: float = Field(0.0, ge=0, description="Lead over the runner-up that a match needs.")
    sex_rule: str = Field("narrow", pattern="^(narrow|soft|off)$", description="What a known, different sex does.")
    sex_penalty: float = Field(0.05, ge=0, description="Subtracted for a different sex under the soft rule.")
    other_flank: str = Field(
        "uncertain",
        pattern="^(uncertain|new_individual)$",
        description="Outcome when individuals known only by the other flank cannot be excluded.",
    )
    unit: str = Field("encounter", pattern="^(encounter|picture)$", description="What one decision is about.")
    gallery: str = Field("exemplars", pattern="^(exemplars|profile)$", description="What it is compared with.")
    shortlist: int = Field(5, ge=1, le=50, description="Candidates kept in the log.")
    fusion: str = Field(
        "weighted_sum",
        pattern="^(weighted_sum|calibrated)$",
        description="How branches make one score: the weighted sum of cosines, or the calibrated probability.",
    )
    calibration: CalibratedFusion | None = Field(None, description="What `fusion=calibrated` fuses with.")
    odds: Odds | None = Field(None, description="From scores to probabilities; none where nothing was fitted.")
    false_positive_bound: float = Field(
        0.05, gt=0, lt=1, description="Share of searches for unknown animals that may name somebody."
    )

    @model_validator(mode="after")
    def _ordered(self) -> MatchPolicy:
        if self.new_below > self.threshold:
            raise ValueError(f"new_below {self.new_below} is above threshold {self.threshold}")
        return self

    @model_validator(mode="after")
    def _fusible(self) -> MatchPolicy:
        if self.fusion == "calibrated":
            if self.calibration is None:
                raise ValueError("fusion is calibrated, but the policy has no calibration")
            # Vectors are loaded and searched for the branches that have a weight.
            unloaded = sorted(set(self.calibration.branches) - set(self.branches))
            if unloaded:
                raise ValueError(f"calibrated branches without a weight: {', '.join(unloaded)}")
        return self

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that have a say: those with a weight."""
        return tuple(branch for branch, weight in self.weights.items() if weight)

    @property
    def fast(self) -> bool:
        """Whether the multi-scale branch decides alone, so that the second network need not be computed."""
        return self.branches == (MULTISCALE,)

    @property
    def needed_branches(self) -> tuple[str, ...]:
        """The branches that new pictures are embedded in: all, but in fast mode without the second network's."""
        return FIRST_NETWORK if self.fast else BRANCHES

    @property
    def scale(self) -> Scale:
        """What a score of this policy is: a cosine (-1 to 1) or a probability (0 to 1)."""
        return "probability" if self.fusion == "calibrated" else "cosine"

    def with_threshold(self, threshold: float) -> MatchPolicy:
        """The same policy with a single cut, as REID_THRESHOLD asks: at or above matched, below new."""
        return self.model_copy(update={"threshold": threshold, "new_below": threshold})


def cuts_in_words(threshold: float, new_below: float) -> str:
    """The two cuts for people: 1 and above names nobody, -1 and below opens nobody."""
    names = "names nobody" if threshold >= 1 else f"matched from {threshold:g}"
    opens = "opens nobody as new" if new_below <= -1 else f"new below {new_below:g}"
    return f"{names}, {opens}"


V1_POLICY = MatchPolicy(
    matcher="v1_resnet50",
    weights={"baseline": 1.0},
    threshold=0.40,
    new_below=0.40,
    unit="picture",
    gallery="profile",
)
"""The owner's matcher before the enhancement: cosine >= 0.40 on deer.feature_vector."""


@dataclass(frozen=True)
class Query:
    """The crops of one encounter.

    Attributes:
        vectors: branch -> VectorSet with one row a crop.
        viewpoints: one a crop; None is unknown and is compared with everything.
    """

    vectors: Mapping[str, VectorSet]
    viewpoints: Sequence[str | None]
    sex: str = "unknown"


@dataclass
class Known:
    """One individual of the gallery: its exemplar vectors by branch, and what is known of it."""

    key: Hashable
    name: str
    sex: str
    vectors: Mapping[str, VectorSet]
    viewpoints: Sequence[str | None]


@dataclass(frozen=True)
class Candidate:
    """An individual and its fused similarity to the query (-1 to 1)."""

    key: Hashable
    name: str
    score: float


@dataclass(frozen=True)
class Decision:
    """An outcome with its evidence.

    Attributes:
        probability: that the outcome is true (0 to 1): matched, that it is the named individual; new_individual, that
            it is none of the known ones; uncertain, that it is the best candidate. None where the policy has no odds,
            or an uncertain outcome no candidate.
    """

    outcome: str
    best: Candidate | None
    runner_up: Candidate | None
    shortlist: tuple[Candidate, ...]
    incomparable: int
    reason: str
    probability: float | None = None


class _Rows:
    """An array that grows by rows; it is copied only when a chunk is full, so appending costs what is appended."""

    CHUNK = 1024

    def __init__(self, like: np.ndarray) -> None:
        self._buffer = np.empty((0, *like.shape[1:]), dtype=like.dtype)
        self._count = 0

    @property
    def filled(self) -> np.ndarray:
        """The rows appended so far, as a view."""
        return self._buffer[: self._count]

    def append(self, rows: np.ndarray) -> None:
        wanted = self._count + len(rows)
        if wanted > len(self._buffer):
            larger = np.empty((wanted + max(self.CHUNK, wanted // 4), *rows.shape[1:]), dtype=self._buffer.dtype)
            larger[: self._count] = self.filled
            self._buffer = larger
        self._buffer[self._count : wanted] = rows
        self._count = wanted


class Gallery:
    """Individuals in a fixed order, stacked once so that a query costs one product per branch.

    What is added later is appended to the stack. Rows of one individual need not be neighbours.

    Attributes:
        left_out: further known individuals, which an index did not propose because they look less alike.
        incomparable: further known individuals that were seen only from the other flank.
    """

    def __init__(self, individuals: Iterable[Known] = (), left_out: int = 0, incomparable: int = 0) -> None:
        self.left_out = left_out
        self.incomparable = incomparable
        self._known: dict[Hashable, Known] = {known.key: known for known in individuals}
        self._position = {key: index for index, key in enumerate(self._known)}
        self._clear()

    def _clear(self) -> None:
        self._vectors: dict[str, _Rows] = {}
        self._recipes: dict[str, str] = {}
        self._owner = _Rows(np.empty(0, dtype=np.int64))
        self._flanks = _Rows(np.empty(0, dtype=np.int8))

    @property
    def individuals(self) -> list[Known]:
        """The individuals, in the order of the scores."""
        return list(self._known.values())

    def get(self, key: Hashable) -> Known | None:
        """The individual with this key, or None."""
        return self._known.get(key)

    def add(self, known: Known) -> None:
        """Add an individual, or replace the one with the same key."""
        replaced = known.key in self._known
        self._known[known.key] = known
        if replaced:
            self._clear()
            return
        self._position[known.key] = len(self._position)
        self._append([known])

    def extend(self, more: Known) -> None:
        """Give an individual more exemplars, and a sex where its own is unknown; add it if it is not there."""
        before = self._known.get(more.key)
        if before is None:
            self.add(more)
            return
        self._known[more.key] = joined(before, more)
        self._append([more])

    def stacked(self, branches: Sequence[str]) -> tuple[dict[str, VectorSet], np.ndarray, np.ndarray]:
        """All exemplars as one VectorSet a branch, each row's individual (index) and flank sign.

        Raises:
            RecipeMismatchError: individuals come from different recipes.
        """
        if set(branches) - set(self._vectors):
            self._clear()
            individuals = self.individuals
            for branch in branches if individuals else ():
                self._vectors[branch] = _Rows(individuals[0].vectors[branch].vectors)
                self._recipes[branch] = individuals[0].vectors[branch].recipe_id
            try:
                self._append(individuals)
            except RecipeMismatchError:
                self._clear()
                raise
        stack = {b: VectorSet(self._recipes[b], b, self._vectors[b].filled) for b in branches}
        return stack, self._owner.filled, self._flanks.filled

    def _append(self, individuals: Sequence[Known]) -> None:
        if not self._vectors or not individuals:
            return
        for branch, recipe in self._recipes.items():
            for known in individuals:
                _check_recipe(recipe, known.vectors[branch])
        for branch, rows in self._vectors.items():
            rows.append(np.concatenate([known.vectors[branch].vectors for known in individuals]))
        positions = [self._position[known.key] for known in individuals]
        self._owner.append(np.repeat(positions, [len(known.viewpoints) for known in individuals]))
        self._flanks.append(flank_signs([view for known in individuals for view in known.viewpoints]))


def joined(before: Known, more: Known) -> Known:
    """One individual with the exemplars of both, in the branches of the first; its sex is the first one known.

    Raises:
        RecipeMismatchError: the two come from different recipes.
    """
    vectors = {}
    for branch, item in before.vectors.items():
        _check_recipe(item.recipe_id, more.vectors[branch])
        both = np.concatenate([item.vectors, more.vectors[branch].vectors])
        vectors[branch] = VectorSet(item.recipe_id, branch, both)
    sex = more.sex if before.sex == "unknown" else before.sex
    return Known(before.key, more.name, sex, vectors, [*before.viewpoints, *more.viewpoints])


def _check_recipe(recipe_id: str, item: VectorSet) -> None:
    if item.recipe_id != recipe_id:
        cosine_matrix(VectorSet(recipe_id, item.branch, item.vectors[:0]), item)  # raises with the explanation


def flank_signs(viewpoints: Sequence[str | None]) -> np.ndarray:
    """+1 for left, -1 for right, 0 for front, back and unknown; int8, shape (n,)."""
    return np.array([FLANK_SIGN.get(view or "", 0) for view in viewpoints], dtype=np.int8)


def fused_similarity(similarities: Mapping[str, FloatArray], policy: MatchPolicy) -> FloatArray:
    """What the policy makes of the cosines of its branches, elementwise; float32, same shape.

    The weighted sum (-1 to 1), or under `fusion="calibrated"` the probability that two pictures show one animal (0 to
    1).

    Args:
        similarities: branch -> cosines, all of one shape.

    Raises:
        ValueError: a branch has no similarities, shapes differ, or a calibrated policy has no calibration.
    """
    if policy.fusion == "weighted_sum":
        return fuse(similarities, policy.weights)
    if policy.calibration is None:
        raise ValueError("fusion is calibrated, but the policy has no calibration")
    return policy.calibration(similarities).astype(np.float32, copy=False)


def score_individuals(query: Query, gallery: Gallery, policy: MatchPolicy) -> np.ndarray:
    """Fused similarity of a query to every individual of the gallery.

    Each crop takes its best comparable exemplar of an individual; the score is the mean over the crops that have
    one.

    Returns:
        float64, shape (n_individuals,); NaN where no crop and exemplar show the same flank.

    Raises:
        RecipeMismatchError: query and gallery come from different recipes.
    """
    individuals = gallery.individuals
    if not individuals:
        return np.zeros(0)
    branches = policy.branches
    stacked, owner, flanks = gallery.stacked(branches)
    fused = fused_similarity({b: cosine_matrix(query.vectors[b], stacked[b]) for b in branches}, policy)
    same_or_unknown = np.multiply.outer(flank_signs(query.viewpoints), flanks) >= 0
    masked = np.where(same_or_unknown, fused, -np.inf)
    starts = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    best = _best_by_owner(np.maximum.reduceat(masked, starts, axis=1), owner[starts], len(individuals))
    seen = np.isfinite(best)
    counts = seen.sum(axis=0)
    totals = np.where(seen, best, 0.0).sum(axis=0)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def _best_by_owner(best: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Highest value of each individual, whose rows may stand in several places; (n_queries, count)."""
    if len(owner) == count and bool(np.all(owner[1:] > owner[:-1])):
        return best
    merged = np.full((count, len(best)), -np.inf, dtype=best.dtype)
    np.maximum.at(merged, owner, best.T)
    return merged.T


def decide(
    query: Query, gallery: Gallery, policy: MatchPolicy, forbidden: frozenset[Hashable] = frozenset()
) -> Decision:
    """Decide one encounter against the gallery.

    Args:
        forbidden: individuals it cannot be, such as the other animals of the same picture.
    """
    scores = score_individuals(query, gallery, policy)
    left_out, incomparable = gallery.left_out, gallery.incomparable
    return decide_scored(scores, gallery.individuals, query.sex, policy, forbidden, left_out, incomparable)


def decide_scored(
    scores: np.ndarray,
    individuals: Sequence[Known],
    sex: str,
    policy: MatchPolicy,
    forbidden: frozenset[Hashable] = frozenset(),
    left_out: int = 0,
    incomparable: int = 0,
) -> Decision:
    """Decide one encounter from its similarity to every individual.

    Args:
        scores: shape (n_individuals,), NaN where an individual cannot be compared.
        individuals: in the order of the scores; only key, name and sex are read.
        sex: of the encounter: male, female or unknown.
        forbidden: individuals it cannot be.
        left_out: further known individuals, which an index did not propose because they look less alike.
        incomparable: further known individuals that were seen only from the other flank.
    """
    candidates: list[Candidate] = []
    for known, score in zip(individuals, scores.tolist(), strict=True):
        differs = "unknown" not in (sex, known.sex) and sex != known.sex
        if known.key in forbidden or (differs and policy.sex_rule == "narrow"):
            continue
        if math.isnan(score):
            incomparable += 1
            continue
        penalty = policy.sex_penalty if differs and policy.sex_rule == "soft" else 0.0
        candidates.append(Candidate(known.key, known.name, score - penalty))
    candidates.sort(key=lambda item: (-item.score, item.name, str(item.key)))
    best = candidates[0] if candidates else None
    runner_up = candidates[1] if len(candidates) > 1 else None
    outcome, reason = _outcome(best, runner_up, incomparable, policy)
    probability = _probability(outcome, candidates, incomparable, left_out, policy)
    return Decision(outcome, best, runner_up, tuple(candidates[: policy.shortlist]), incomparable, reason, probability)


def _probability(
    outcome: str, ranked: Sequence[Candidate], incomparable: int, left_out: int, policy: MatchPolicy
) -> float | None:
    if policy.odds is None:
        return None
    scores = np.array([candidate.score for candidate in ranked] + [np.nan] * incomparable)
    known, new = policy.odds.posterior(scores, left_out)
    if outcome == NEW_INDIVIDUAL:
        return float(new)
    return float(known[0]) if ranked else None


def _outcome(
    best: Candidate | None, runner_up: Candidate | None, incomparable: int, policy: MatchPolicy
) -> tuple[str, str]:
    if best is not None and best.score >= policy.threshold:
        if runner_up is not None and best.score - runner_up.score < policy.margin:
            return UNCERTAIN, (
                f"{best.name} leads {runner_up.name} by {best.score - runner_up.score:.4f}, "
                f"less than the margin {policy.margin:.4f}"
            )
        return MATCHED, f"similarity {best.score:.4f} to {best.name} reaches {policy.threshold:.4f}"
    if best is not None and best.score >= policy.new_below:
        return UNCERTAIN, (
            f"similarity {best.score:.4f} to {best.name} is left to a person: this release "
            f"{cuts_in_words(round(policy.threshold, 4), round(policy.new_below, 4))}"
        )
    if incomparable and policy.other_flank == UNCERTAIN:
        return UNCERTAIN, f"{incomparable} known individuals were seen only from the other flank"
    if best is None:
        return NEW_INDIVIDUAL, "no known individual to compare with"
    return NEW_INDIVIDUAL, (f"best similarity {best.score:.4f} (to {best.name}) is below {policy.new_below:.4f}")
