"""Two releases side by side: the arms are stable, and the comparison is paired."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from deer_reid_pipeline.reid.ab import A, B, Outcome, PairedOutcome, arm_of, compare

IDS = [uuid.UUID(int=number) for number in range(20_000)]


def test_shares_are_kept_and_an_encounter_keeps_its_arm() -> None:
    arms = [arm_of(key, "test-1", 0.5, 0.2) for key in IDS]
    assert arms == [arm_of(key, "test-1", 0.5, 0.2) for key in IDS]
    taking_part = [arm for arm in arms if arm is not None]
    assert len(taking_part) / len(IDS) == pytest.approx(0.5, abs=0.015)
    assert taking_part.count(B) / len(taking_part) == pytest.approx(0.2, abs=0.02)


def test_another_test_divides_the_encounters_anew() -> None:
    first, second = ([arm_of(key, salt, 1.0, 0.5) for key in IDS] for salt in ("one", "two"))
    agree = np.mean([a == b for a, b in zip(first, second, strict=True)])
    assert agree == pytest.approx(0.5, abs=0.02)


def test_nobody_and_everybody() -> None:
    assert {arm_of(key, "s", 0.0, 0.5) for key in IDS[:100]} == {None}
    assert {arm_of(key, "s", 1.0, 0.0) for key in IDS[:100]} == {A}
    assert {arm_of(key, "s", 1.0, 1.0) for key in IDS[:100]} == {B}


def named(who: str) -> Outcome:
    return Outcome("matched", who)


NEW, UNSURE = Outcome("new_individual", "fresh"), Outcome("uncertain", None)


def test_by_hand() -> None:
    pairs = [
        PairedOutcome(named("x"), named("x"), "x"),  # both right
        PairedOutcome(named("y"), named("x"), "x"),  # a names another animal
        PairedOutcome(UNSURE, named("z"), "z"),  # only b names it
        PairedOutcome(NEW, named("x"), "w", known=False),  # unknown animal: a right, b wrong
        PairedOutcome(UNSURE, UNSURE),  # nobody knows
    ]
    found = compare(pairs)
    assert found.encounters == 5
    assert found.outcomes[A] == {"matched": 2, "new_individual": 1, "uncertain": 2}
    assert found.outcomes[B] == {"matched": 4, "new_individual": 0, "uncertain": 1}
    assert found.agreement.value == pytest.approx(2 / 5)
    assert found.with_truth == 4
    assert (found.right[A].value, found.right[B].value) == (2 / 4, 3 / 4)
    assert (found.wrong[A].value, found.wrong[B].value) == (1 / 4, 1 / 4)
    assert found.right_gain is not None
    assert found.right_gain.value == pytest.approx(1 / 4)


def test_two_openings_of_an_individual_agree() -> None:
    found = compare([PairedOutcome(Outcome("new_individual", 1), Outcome("new_individual", 2))])
    assert found.agreement.value == 1.0
    assert found.right_gain is None
    assert np.isnan(found.right[A].value)


def test_a_clear_gain_has_a_lower_bound_above_zero() -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for individual in range(60):
        for _ in range(4):
            a = named(str(individual)) if rng.random() < 0.3 else UNSURE
            b = named(str(individual)) if rng.random() < 0.7 else UNSURE
            pairs.append(PairedOutcome(a, b, str(individual)))
    found = compare(pairs)
    assert found.right_gain is not None
    assert found.right_gain.low > 0.2


def test_encounters_of_one_animal_are_no_independent_trials() -> None:
    """Whether an animal is recognised hangs on the animal: 300 encounters of 20 animals say little more than 20 do."""
    rng = np.random.default_rng(0)
    held, widths = 0, []
    for _ in range(300):
        pairs = []
        for individual in range(20):
            known = named(str(individual)) if rng.random() < 2 / 3 else UNSURE
            pairs += [PairedOutcome(known, named(str(individual)), str(individual))] * 15
        rate = compare(pairs).right[A]
        held += rate.low <= 2 / 3 <= rate.high
        widths.append(rate.high - rate.low)
    assert held / 300 >= 0.93
    assert np.mean(widths) < 0.5
    assert (rate.n, rate.individuals) == (300, 20)
