"""Decisions in the order of time against the matcher run one encounter at a time with a gallery of its own."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deer_reid_pipeline.reid.calibrators import Platt
from deer_reid_pipeline.reid.evaluation.decisions import UNNAMED, decide_in_order
from deer_reid_pipeline.reid.evaluation.estimates import estimate
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import (
    MATCHED,
    NEW_INDIVIDUAL,
    UNCERTAIN,
    V1_POLICY,
    Decision,
    Gallery,
    Known,
    MatchPolicy,
    decide,
)
from deer_reid_pipeline.reid.odds import Odds
from deer_reid_pipeline_tests.reid.evaluation.open_set import (
    FOLDED,
    asked,
    gallery_entry,
    permuted,
    pictured,
    wild_herd,
)

ONE = MatchPolicy(weights={"multiscale": 1.0}, threshold=0.9, new_below=0.5)
CUT = FittedPolicy(policy=ONE.with_threshold(0.9))
PICTURES = FittedPolicy(
    policy=V1_POLICY.model_copy(update={"weights": {"multiscale": 0.7, "efficientnet": 0.3}, "threshold": 0.6})
)
SOFT = FittedPolicy(policy=MatchPolicy(threshold=0.6, new_below=0.5, sex_rule="soft", sex_penalty=0.2, margin=0.05))
WITH_ODDS = FittedPolicy(
    policy=FOLDED.policy.model_copy(
        update={"odds": Odds(likelihood=Platt(scale="cosine", slope=6, intercept=-3), base_rate=0.1, new=0.2)}
    )
)


def one_by_one(data: Labelled, fitted: FittedPolicy, truth: bool) -> list[tuple[Decision, int, bool]]:
    """Each unit's decision, what was said, and whether its individual was known: a gallery built anew every time."""
    policy = fitted.policy
    folds = fitted.folds_of(list(data.names))
    order = sorted(range(len(data)), key=lambda row: (data.encounter[row], data.individual[row], row))
    units: list[list[int]] = []
    for row in order:
        together = units and data.encounter[units[-1][0]] == data.encounter[row]
        if together and policy.unit == "encounter":
            units[-1].append(row)
        else:
            units.append([row])
    results: list[tuple[Decision, int, bool]] = []
    opened: list[list[int]] = []
    for unit in units:
        own, event, burst = data.individual[unit[0]], data.encounter[unit[0]], data.burst[unit[0]]
        animals: list[Known] = []
        if truth:
            for code in range(data.individuals):
                seen = (data.individual == code) & (data.encounter < event)
                if code == own:
                    seen &= data.burst != burst
                if seen.any():
                    told = np.flatnonzero((data.individual == code) & (data.encounter < event))
                    sexes = [data.sexes[row] for row in told[np.argsort(data.encounter[told], kind="stable")]]
                    sex = next((sex for sex in sexes if sex != "unknown"), "unknown")
                    animals.append(gallery_entry(data, np.flatnonzero(seen), code, policy.gallery, sex))
            known = any(animal.key == own for animal in animals)
        else:
            for made, rows in enumerate(opened):
                if data.individual[rows[0]] != own or data.burst[rows[0]] != burst:
                    whose = data.individual[rows[0]]
                    item = gallery_entry(data, np.array(rows), whose, policy.gallery, data.sexes[rows[0]])
                    animals.append(Known(made, f"{made:05d}", item.sex, item.vectors, item.viewpoints))
            known = any(data.individual[opened[int(str(animal.key))][0]] == own for animal in animals)
        decision = decide(asked(data, np.array(unit)), Gallery(animals), fitted.judging(int(folds[own])))
        said = UNNAMED
        if decision.outcome == MATCHED:
            assert decision.best is not None
            said = int(str(decision.best.key))
        elif decision.outcome == NEW_INDIVIDUAL and not truth:
            siblings = [
                made
                for made, rows in enumerate(opened)
                if data.individual[rows[0]] == own and data.burst[rows[0]] == burst
            ]
            said = siblings[0] if siblings else len(opened)
            if not siblings:
                opened.append(unit)
        results.append((decision, said, known))
    return results


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([FOLDED, PICTURES, SOFT, WITH_ODDS]), st.booleans())
def test_decisions_are_those_of_the_matcher(seed: int, fitted: FittedPolicy, truth: bool) -> None:
    data = wild_herd(seed, encounters=30)
    found = decide_in_order(data, fitted, truth=truth)
    expected = one_by_one(data, fitted, truth)
    assert found.outcome.tolist() == [decision.outcome for decision, _, _ in expected]
    assert found.said.tolist() == [said for _, said, _ in expected]
    assert found.known_before.tolist() == [known for _, _, known in expected]
    scores = [np.nan if decision.best is None else decision.best.score for decision, _, _ in expected]
    np.testing.assert_allclose(found.score, scores, atol=2e-6, equal_nan=True)
    if truth:
        stated = [np.nan if d.probability is None else d.probability for d, _, _ in expected]
        np.testing.assert_allclose(found.probability, stated, atol=1e-4, equal_nan=True)
        assert found.best.tolist() == [UNNAMED if d.best is None else d.best.key for d, _, _ in expected]


@pytest.mark.parametrize("sexed", [True, False])
def test_a_matcher_that_opens_many_individuals_decides_as_if_all_were_ranked(sexed: bool) -> None:
    data = wild_herd(4, individuals=120, encounters=240)
    data = data if sexed else replace(data, sexes=["unknown"] * len(data))
    policy = MatchPolicy(threshold=0.75, new_below=0.7, margin=0.02, shortlist=1, other_flank="new_individual")
    fitted = FittedPolicy(policy=policy)
    found = decide_in_order(data, fitted, truth=False)
    expected = one_by_one(data, fitted, truth=False)
    assert found.made > 60
    assert found.outcome.tolist() == [decision.outcome for decision, _, _ in expected]
    assert found.said.tolist() == [said for _, said, _ in expected]
    assert {MATCHED, NEW_INDIVIDUAL, UNCERTAIN} == set(found.outcome.tolist())


def test_baks_and_baus_worked_by_hand() -> None:
    pictures = [(0, 0, 0), (1, 1, 90), (0, 2, 5), (0, 3, 40), (1, 4, 92), (2, 5, 10)]
    found = decide_in_order(pictured(pictures), CUT, truth=True)
    # Encounter 3 looks like nobody and is called new, encounter 5 is a new animal that looks like the first one.
    assert found.outcome.tolist() == [NEW_INDIVIDUAL, NEW_INDIVIDUAL, MATCHED, NEW_INDIVIDUAL, MATCHED, MATCHED]
    assert found.correct.tolist() == [True, True, True, False, True, False]
    assert found.said.tolist() == [UNNAMED, UNNAMED, 0, UNNAMED, 1, 0]
    assert found.baks.value == pytest.approx((1 / 2 + 1) / 2)
    assert found.baus.value == pytest.approx((1 + 1 + 0) / 3)
    assert found.baks_baus.value == pytest.approx((3 / 4 * 2 / 3) ** 0.5)
    assert (found.baks.n, found.baus.n) == (2, 3)
    assert (found.wrong_names.value, found.wrong_names.n) == (pytest.approx(1 / 3), 3)


def test_the_score_of_both_needs_both_in_every_draw() -> None:
    found = decide_in_order(pictured([(0, 0, 0), (1, 1, 90), (0, 2, 5)]), CUT, truth=True)
    draws = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(found.baks_baus.of(draws), [1, 1, np.nan])


def test_uncertain_is_never_correct_but_its_claim_can_be_true() -> None:
    fitted = FittedPolicy(policy=ONE)
    found = decide_in_order(pictured([(0, 0, 0), (0, 1, 40), (1, 2, 45), (2, 3, 120)]), fitted, truth=True)
    assert found.outcome.tolist() == [NEW_INDIVIDUAL, UNCERTAIN, MATCHED, NEW_INDIVIDUAL]
    assert found.correct.tolist() == [True, False, False, True]
    assert found.claim.tolist() == [True, True, False, True]


def test_the_matchers_own_identities_learn_nothing_from_matches() -> None:
    # A chain of small steps: each encounter resembles the one before, only the first stands for the individual.
    chain = pictured([(0, event, 20.0 * event) for event in range(6)])
    own = decide_in_order(chain, CUT, truth=False)
    assert own.said.tolist() == [0, 0, 1, 1, 2, 2]
    assert own.made == 3
    told = decide_in_order(chain, CUT, truth=True)
    assert told.outcome.tolist() == [NEW_INDIVIDUAL, *[MATCHED] * 5]
    assert told.made == 0


def test_burst_neighbours_never_name_each_other() -> None:
    data = pictured([(0, 0, 0), (0, 1, 0), (0, 2, 0)], burst=[0, 0, 1])
    told = decide_in_order(data, CUT, truth=True)
    assert told.known_before.tolist() == [False, False, True]
    assert told.only_burst.tolist() == [False, True, False]
    assert told.outcome.tolist() == [NEW_INDIVIDUAL, NEW_INDIVIDUAL, MATCHED]
    own = decide_in_order(data, CUT, truth=False)
    assert own.said.tolist() == [0, 0, 0]
    assert own.made == 1
    assert own.only_burst.tolist() == [False, True, False]


def test_burst_neighbours_of_a_first_encounter_are_no_trials() -> None:
    # Deer 1 is new in encounter 1; its neighbours in encounters 2 and 3 look like deer 0 and get its name.
    data = pictured([(0, 0, 0), (1, 1, 90), (1, 2, 5), (1, 3, 5), (0, 4, -3)], burst=[0, 1, 1, 1, 2])
    found = decide_in_order(data, CUT, truth=True)
    assert found.outcome.tolist() == [NEW_INDIVIDUAL, NEW_INDIVIDUAL, MATCHED, MATCHED, MATCHED]
    assert (found.baus.n, found.baus.value) == (2, 1.0)
    assert (found.baks.n, found.baks.value) == (1, 1.0)
    assert (found.wrong_names.n, found.wrong_names.value) == (1, 0.0)


def test_pictures_of_one_encounter_never_name_each_other() -> None:
    data = pictured([(0, 0, 0), (0, 0, 1), (1, 1, 100), (0, 2, 2)])
    pictures = FittedPolicy(policy=ONE.model_copy(update={"unit": "picture", "gallery": "profile", "new_below": 0.9}))
    found = decide_in_order(data, pictures, truth=True)
    assert found.outcome.tolist() == [NEW_INDIVIDUAL, NEW_INDIVIDUAL, NEW_INDIVIDUAL, MATCHED]
    assert found.score[3] == pytest.approx(np.cos(np.deg2rad(1.5)), abs=1e-6)  # to the mean of both pictures


def test_sex_narrows_and_is_learned_from_the_first_encounter_that_tells() -> None:
    sexes = ["unknown", "male", "female", "female"]
    data = pictured([(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 3, 0)], sexes=sexes)
    found = decide_in_order(data, CUT, truth=True)
    assert found.outcome.tolist() == [NEW_INDIVIDUAL, MATCHED, NEW_INDIVIDUAL, NEW_INDIVIDUAL]
    assert found.known_before.tolist() == [False, True, True, False]
    assert found.correct.tolist() == [True, True, False, True]


def test_a_flank_that_was_never_seen_is_known_but_not_comparable() -> None:
    data = pictured([(0, 0, 0), (0, 1, 0), (0, 2, 0)])
    sided = replace(data, viewpoints=["left", "right", "right"])
    found = decide_in_order(sided, CUT, truth=True)
    assert found.outcome.tolist() == [NEW_INDIVIDUAL, UNCERTAIN, MATCHED]
    assert found.known_before.tolist() == [False, True, True]
    assert found.comparable.tolist() == [False, False, True]
    assert (found.baks.n, found.baks.value) == (1, 1.0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_order_of_rows_changes_nothing(seed: int, truth: bool) -> None:
    data = wild_herd(seed)
    order = np.random.default_rng(seed).permutation(len(data))
    one, other = (decide_in_order(item, FOLDED, truth=truth) for item in (data, permuted(data, order)))
    for column in (
        "encounter",
        "individual",
        "outcome",
        "said",
        "best",
        "known_before",
        "only_burst",
        "comparable",
        "correct",
        "claim",
    ):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))
    np.testing.assert_allclose(one.score, other.score, atol=1e-6, equal_nan=True)


def test_one_individual_and_nobody_known_give_no_figure_but_no_error() -> None:
    alone = decide_in_order(pictured([(0, 0, 0)]), CUT, truth=True)
    assert (alone.baks.n, alone.baks_baus.n, alone.wrong_names.n) == (0, 0, 0)
    assert np.isnan(estimate(alone.baks_baus).value)
    nothing = pictured([(0, 0, 0)]).rows(np.zeros(1, dtype=bool))
    for truth in (True, False):
        assert len(decide_in_order(nothing, CUT, truth=truth)) == 0
