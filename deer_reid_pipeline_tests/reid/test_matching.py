"""Decisions against a brute-force reference and against the rules of the field."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deer_reid_pipeline.errors import RecipeMismatchError
from deer_reid_pipeline.reid.calibrators import CalibratedFusion, Platt
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
    decide_scored,
    fused_similarity,
    joined,
    score_individuals,
)
from deer_reid_pipeline.reid.odds import Odds
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


EVEN = Odds(likelihood=Platt(slope=float(np.log(9)), intercept=0.0), base_rate=0.5, new=0.5)
"""The likelihood ratio of a score s is 9 ** s, and half of the animals are new."""

RATED = ONE.model_copy(update={"odds": EVEN})


def animals(*names: str, sex: str = "unknown") -> list[Known]:
    return [Known(name, name, sex, {}, []) for name in names]


@pytest.mark.parametrize(
    ("score", "outcome", "probability"),
    [(1.0, MATCHED, 9 / 12), (0.5, UNCERTAIN, 3 / 6), (0.0, NEW_INDIVIDUAL, 2 / 4)],
)
def test_the_probability_is_that_of_the_outcome(score: float, outcome: str, probability: float) -> None:
    """Weights by hand, times four: 9 ** score and 1 for the two candidates, 2 for a new animal."""
    decision = decide_scored(np.array([score, 0.0]), animals("A", "B"), "unknown", RATED)
    assert decision.outcome == outcome
    assert decision.probability == pytest.approx(probability)


def test_without_odds_there_is_no_probability() -> None:
    assert decide_scored(np.array([1.0]), animals("A"), "unknown", ONE).probability is None
    assert V1_POLICY.odds is None


def test_another_threshold_changes_the_outcome_and_not_the_odds() -> None:
    decision = decide_scored(np.array([0.5, 0.0]), animals("A", "B"), "unknown", RATED.with_threshold(0.45))
    assert (decision.outcome, decision.probability) == (MATCHED, pytest.approx(1 / 2))


def test_only_whom_it_may_be_counts_for_the_probability() -> None:
    """Of five, one is of another sex, one stands in the same picture, and one shows the other flank only."""
    known = [*animals("A", "B", "C", "D"), *animals("E", sex="male")]
    scores = np.array([1.0, 0.9, 0.0, np.nan, 0.95])
    decision = decide_scored(scores, known, "female", RATED, forbidden=frozenset("B"))
    assert (decision.outcome, decision.incomparable) == (MATCHED, 1)
    assert decision.probability == pytest.approx((9 / 6) / (9 / 6 + 1 / 6 + 1 / 6 + 1 / 2))


def test_a_first_animal_is_new_for_certain_and_a_hidden_one_is_not_rated() -> None:
    assert decide_scored(np.zeros(0), [], "unknown", RATED).probability == 1.0
    hidden = decide_scored(np.array([np.nan]), animals("A"), "unknown", RATED)
    assert (hidden.outcome, hidden.probability) == (UNCERTAIN, None)


def test_individuals_that_an_index_left_out_lower_the_probability() -> None:
    seen = [known("A", 0), known("B", 60)]
    whole = decide(query(0), Gallery(seen), RATED)
    part = decide(query(0), Gallery(seen, left_out=98), RATED)
    assert whole.probability is not None
    assert part.probability == pytest.approx(EVEN.posterior(np.array([1.0, *[0.5] * 99]))[0][0])
    assert part.probability < whole.probability / 4


def test_individuals_of_the_other_flank_that_an_index_left_out_are_not_excluded() -> None:
    decided = decide(query(0), Gallery(), MatchPolicy(threshold=0.9, new_below=0.2))
    hidden = decide(query(0), Gallery(incomparable=3), MatchPolicy(threshold=0.9, new_below=0.2))
    assert (decided.outcome, decided.incomparable) == (NEW_INDIVIDUAL, 0)
    assert (hidden.outcome, hidden.incomparable) == (UNCERTAIN, 3)


CURVES = {"multiscale": Platt(slope=10.0, intercept=-5.0), "efficientnet": Platt(slope=4.0, intercept=-2.0)}
CALIBRATED = MatchPolicy(
    threshold=0.9,
    new_below=0.1,
    fusion="calibrated",
    calibration=CalibratedFusion(
        branches=CURVES, coefficients={"multiscale": 1.0, "efficientnet": 0.5}, intercept=0.25
    ),
    odds=EVEN,
)


def test_calibrated_fusion_is_the_probability_of_a_logistic_regression() -> None:
    similarities = {"multiscale": np.float32([[0.2, 0.9]]), "efficientnet": np.float32([[0.1, 0.8]])}
    expected = 1 / (1 + np.exp([[-(0.25 + (2 - 5) + 0.5 * (0.4 - 2)), -(0.25 + (9 - 5) + 0.5 * (3.2 - 2))]]))
    fused = fused_similarity(similarities, CALIBRATED)
    assert fused.dtype == np.float32
    np.testing.assert_allclose(fused, expected, rtol=1e-5)
    plain = CALIBRATED.model_copy(update={"fusion": "weighted_sum"})
    np.testing.assert_allclose(fused_similarity(similarities, plain), [[0.16, 0.86]], rtol=1e-5)
    assert (CALIBRATED.scale, plain.scale) == ("probability", "cosine")


def test_scores_of_individuals_are_fused_as_the_policy_says() -> None:
    both = {b: axis(0, 60, branch=b) for b in CURVES}
    gallery = Gallery([Known("A", "A", "unknown", both, [None, None])])
    asked = Query({b: axis(0, branch=b) for b in CURVES}, [None])
    assert score_individuals(asked, gallery, CALIBRATED)[0] == pytest.approx(1 / (1 + np.exp(-(0.25 + 5 + 1))))


def test_a_calibrated_policy_needs_its_calibration_and_weights_for_its_branches() -> None:
    with pytest.raises(ValidationError, match="no calibration"):
        MatchPolicy(threshold=0.9, new_below=0.1, fusion="calibrated")
    with pytest.raises(ValidationError, match="without a weight: efficientnet"):
        MatchPolicy(**{**CALIBRATED.model_dump(), "weights": {"multiscale": 1.0, "efficientnet": 0.0}})


def test_a_policy_survives_its_release_exactly() -> None:
    stored = json.loads(json.dumps(CALIBRATED.model_dump(mode="json")))
    assert MatchPolicy.model_validate(stored) == CALIBRATED
    older = {k: v for k, v in stored.items() if k not in ("fusion", "calibration", "odds", "false_positive_bound")}
    assert MatchPolicy.model_validate(older) == MatchPolicy(threshold=0.9, new_below=0.1)
