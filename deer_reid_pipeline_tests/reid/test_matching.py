"""Decisions against a brute-force reference and against the rules of the field."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deer_reid_pipeline.errors import RecipeMismatchError
from deer_reid_pipeline.reid.matching import (
    MATCHED,
    NEW_INDIVIDUAL,
    UNCERTAIN,
    V1_POLICY,
    Gallery,
    Known,
    MatchPolicy,
    Query,
    decide,
    joined,
    score_individuals,
)
from deer_reid_pipeline.reid.similarity import VectorSet, unit

ONE = MatchPolicy(weights={"multiscale": 1.0}, threshold=0.8, new_below=0.4)
VIEWS = [None, "left", "right", "front", "back"]


def axis(*angles: float, recipe: str = "r", branch: str = "multiscale") -> VectorSet:
    radians = np.deg2rad(angles)
    return VectorSet(recipe, branch, np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32))


def known(name: str, *angles: float, views: list | None = None, sex: str = "unknown", recipe: str = "r") -> Known:
    return Known(name, name, sex, {"multiscale": axis(*angles, recipe=recipe)}, views or [None] * len(angles))


def query(*angles: float, views: list | None = None, sex: str = "unknown") -> Query:
    return Query({"multiscale": axis(*angles)}, views or [None] * len(angles), sex)


def test_matched_new_and_uncertain_by_the_two_cuts() -> None:
    gallery = Gallery([known("A", 0)])
    assert decide(query(20), gallery, ONE).outcome == MATCHED
    assert decide(query(50), gallery, ONE).outcome == UNCERTAIN
    assert decide(query(80), gallery, ONE).outcome == NEW_INDIVIDUAL


def test_an_empty_gallery_opens_a_new_individual() -> None:
    decision = decide(query(0), Gallery(), ONE)
    assert (decision.outcome, decision.best) == (NEW_INDIVIDUAL, None)


def test_the_score_is_exactly_the_cut_and_matches() -> None:
    policy = ONE.model_copy(update={"threshold": float(score_individuals(query(30), Gallery([known("A", 0)]), ONE)[0])})
    assert decide(query(30), Gallery([known("A", 0)]), policy).outcome == MATCHED


def test_runner_up_and_shortlist_are_ranked() -> None:
    gallery = Gallery([known("C", 60), known("A", 5), known("B", 15)])
    decision = decide(query(0), gallery, ONE)
    assert [candidate.name for candidate in decision.shortlist] == ["A", "B", "C"]
    assert decision.runner_up is not None
    assert decision.runner_up.name == "B"


def test_a_lead_below_the_margin_is_uncertain() -> None:
    policy = ONE.model_copy(update={"margin": 0.05})
    assert decide(query(0), Gallery([known("A", 5), known("B", 6)]), policy).outcome == UNCERTAIN
    assert decide(query(0), Gallery([known("A", 5), known("B", 40)]), policy).outcome == MATCHED


def test_opposite_flanks_are_no_evidence_against() -> None:
    gallery = Gallery([known("A", 0, 90, views=["left", "right"])])
    assert score_individuals(query(0, views=["left"]), gallery, ONE)[0] == pytest.approx(1.0)
    assert score_individuals(query(0, views=["right"]), gallery, ONE)[0] == pytest.approx(0.0, abs=1e-6)


def test_an_animal_known_only_from_the_other_flank_cannot_be_excluded() -> None:
    gallery = Gallery([known("A", 0, views=["left"])])
    decision = decide(query(0, views=["right"]), gallery, ONE)
    assert (decision.outcome, decision.incomparable) == (UNCERTAIN, 1)
    opening = ONE.model_copy(update={"other_flank": NEW_INDIVIDUAL})
    assert decide(query(0, views=["right"]), gallery, opening).outcome == NEW_INDIVIDUAL


def test_sex_narrows_and_unknown_matches_both() -> None:
    gallery = Gallery([known("M", 0, sex="male"), known("U", 30, sex="unknown")])
    names = [c.name for c in decide(query(0, sex="female"), gallery, ONE).shortlist]
    assert names == ["U"]
    assert len(decide(query(0, sex="unknown"), gallery, ONE).shortlist) == 2


def test_sex_can_be_soft_so_that_a_mis_sexed_deer_stays_findable() -> None:
    soft = ONE.model_copy(update={"sex_rule": "soft", "sex_penalty": 0.1})
    decision = decide(query(0, sex="female"), Gallery([known("M", 0, sex="male")]), soft)
    assert decision.best is not None
    assert decision.best.score == pytest.approx(0.9)


def test_another_animal_of_the_picture_is_forbidden() -> None:
    gallery = Gallery([known("A", 0), known("B", 20)])
    assert decide(query(0), gallery, ONE, frozenset({"A"})).best.name == "B"  # type: ignore[union-attr]


def test_vectors_of_two_recipes_raise() -> None:
    with pytest.raises(RecipeMismatchError):
        decide(query(0), Gallery([known("A", 0, recipe="other")]), ONE)
    with pytest.raises(RecipeMismatchError):
        decide(query(0), Gallery([known("A", 0), known("B", 0, recipe="other")]), ONE)


def test_new_below_above_the_threshold_is_refused() -> None:
    with pytest.raises(ValidationError, match="above threshold"):
        MatchPolicy(threshold=0.4, new_below=0.5)


def test_the_owners_v1_has_one_cut_and_no_doubt() -> None:
    gallery = Gallery([Known("A", "A", "unknown", {"baseline": axis(0, branch="baseline")}, [None])])
    for angle, expected in ((66.0, MATCHED), (67.0, NEW_INDIVIDUAL)):
        asked = Query({"baseline": axis(angle, branch="baseline")}, ["left"])
        assert decide(asked, gallery, V1_POLICY).outcome == expected


def brute_force(asked: Query, gallery: Gallery, policy: MatchPolicy) -> list[float]:
    """Crop by crop and exemplar by exemplar, in plain Python."""
    scores = []
    for animal in gallery.individuals:
        best = []
        for row, view in enumerate(asked.viewpoints):
            values = [
                sum(
                    w * float(asked.vectors[b].vectors[row] @ animal.vectors[b].vectors[i])
                    for b, w in policy.weights.items()
                )
                for i, other in enumerate(animal.viewpoints)
                if {view, other} != {"left", "right"}
            ]
            if values:
                best.append(max(values))
        scores.append(sum(best) / len(best) if best else float("nan"))
    return scores


@given(st.integers(0, 10_000))
def test_scores_equal_the_brute_force_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    policy = MatchPolicy(threshold=0.5, new_below=0.2)

    def some(count: int) -> tuple[dict[str, VectorSet], list]:
        sets = {
            b: VectorSet("r", b, unit(rng.normal(size=(count, 6)).astype(np.float32)))
            for b in ("multiscale", "efficientnet")
        }
        return sets, [VIEWS[i] for i in rng.integers(0, len(VIEWS), count)]

    gallery = Gallery(
        [Known(n, f"N{n}", "unknown", *some(int(rng.integers(1, 5)))) for n in range(int(rng.integers(1, 6)))]
    )
    asked = Query(*some(int(rng.integers(1, 4))))
    np.testing.assert_allclose(
        score_individuals(asked, gallery, policy),
        brute_force(asked, gallery, policy),
        atol=1e-5,
        equal_nan=True,
    )


@given(st.integers(0, 10_000))
def test_a_gallery_that_grew_scores_like_one_made_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for n in rng.integers(0, 4, 12).tolist():
        count = int(rng.integers(1, 4))
        views = [VIEWS[i] for i in rng.integers(0, len(VIEWS), count)]
        parts.append(known(f"N{n}", *rng.uniform(0, 180, count).tolist(), views=views))
    asked = query(*rng.uniform(0, 180, 3).tolist(), views=[VIEWS[i] for i in rng.integers(0, len(VIEWS), 3)])
    whole = Gallery()
    for part in parts:
        before = whole.get(part.key)
        whole.add(part if before is None else joined(before, part))
    grown = Gallery()
    for part in parts:
        grown.extend(part)
        score_individuals(asked, grown, ONE)
    assert [animal.key for animal in grown.individuals] == [animal.key for animal in whole.individuals]
    np.testing.assert_allclose(
        score_individuals(asked, grown, ONE), brute_force(asked, whole, ONE), atol=1e-5, equal_nan=True
    )


def test_a_growing_gallery_is_not_stacked_again() -> None:
    gallery = Gallery([known("A", 0)])
    gallery.extend(known("B", 10))
    buffer = gallery.stacked(["multiscale"])[0]["multiscale"].vectors.base
    for n in range(100):
        gallery.extend(known(f"N{n}", 20))
        gallery.extend(known("A", 30))
        vectors = gallery.stacked(["multiscale"])[0]["multiscale"].vectors
        assert vectors.base is buffer
    assert len(vectors) == 202
    other = known("A", 0, recipe="other")
    with pytest.raises(RecipeMismatchError):
        gallery.extend(other)


def test_decisions_do_not_depend_on_the_order_of_the_gallery() -> None:
    animals = [known(name, angle) for name, angle in zip("ABCD", (10, 10, 25, 70), strict=True)]
    outcomes = {
        tuple((c.name, round(c.score, 6)) for c in decide(query(0), Gallery(order), ONE).shortlist)
        for order in itertools.permutations(animals)
    }
    assert len(outcomes) == 1
