"""Agreement of groupings against scikit-learn, a double loop over pairs, and herds copied out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import pair_confusion_matrix

from deer_reid_pipeline.reid.evaluation.clustering import cluster, groups_of
from deer_reid_pipeline.reid.evaluation.decisions import UNNAMED, Decided
from deer_reid_pipeline.reid.evaluation.estimates import estimate


def decided(
    individual: list[int] | np.ndarray, said: list[int] | np.ndarray, burst: list[int] | None = None
) -> Decided:
    """Decisions of which only the true and the made individual matter."""
    who = np.asarray(individual, dtype=np.int64)
    count = len(who)
    named = np.asarray(said, dtype=np.int64)
    return Decided(
        encounter=np.arange(count),
        individual=who,
        burst=np.arange(count) if burst is None else np.array(burst, dtype=np.int64),
        outcome=np.where(named == UNNAMED, "uncertain", "matched"),
        said=named,
        best=named,
        known_before=np.ones(count, dtype=bool),
        only_burst=np.zeros(count, dtype=bool),
        comparable=np.ones(count, dtype=bool),
        score=np.zeros(count),
        probability=np.full(count, np.nan),
        correct=np.zeros(count, dtype=bool),
        claim=np.zeros(count, dtype=bool),
        rows=tuple(np.array([row]) for row in range(count)),
        individuals=int(who.max(initial=-1)) + 1,
        made=len(set(named.tolist()) - {UNNAMED}),
    )


def random_decisions(seed: int, bursts: bool) -> Decided:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(5, 60))
    individuals = int(rng.integers(1, 8))
    who = np.r_[np.arange(individuals), rng.integers(0, individuals, count)]
    said = rng.integers(-1, int(rng.integers(1, 8)), len(who))
    burst = rng.integers(0, 12, len(who)).tolist() if bursts else None
    return decided(who, said, burst)


def by_hand(found: Decided, copies: list[int]) -> tuple[float, float, float]:
    """ARI, precision and recall of a herd in which each individual stands as often as in `copies`.

    Pairs of two copies of one animal, of which nothing was observed, are put together as often as other different
    animals' pairs, per pair of animals.
    """
    groups = groups_of(found)
    both = together = same = different = 0.0
    for a in range(len(groups)):
        for b in range(a):
            alike = groups[a] == groups[b]
            if found.individual[a] != found.individual[b]:
                weight = copies[found.individual[a]] * copies[found.individual[b]]
                different += weight
                together += weight * alike
            elif found.burst[a] != found.burst[b]:
                same += copies[found.individual[a]]
                both += copies[found.individual[a]] * alike
    animals = sum(copies)
    apart = sum(a * b for i, a in enumerate(copies) for j, b in enumerate(copies) if i != j)
    if apart:
        together *= animals * (animals - 1) / apart
        different *= animals * (animals - 1) / apart
    together += both
    everything = same + different
    expected = together * same / everything if everything else np.nan
    highest = (together + same) / 2
    ari = 1.0 if np.isclose(highest, expected) else (both - expected) / (highest - expected)
    return (
        ari if everything else np.nan,
        both / together if together else np.nan,
        both / same if same else np.nan,
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_ari_and_pairs_agree_with_scikit_learn(seed: int) -> None:
    found = random_decisions(seed, bursts=False)
    groups = groups_of(found)
    result = cluster(found)
    assert result.ari.value == pytest.approx(adjusted_rand_score(found.individual, groups))
    (_, false), (missed, right) = pair_confusion_matrix(found.individual, groups)
    for statistic, whole in ((result.pair_precision, right + false), (result.pair_recall, right + missed)):
        assert statistic.n == whole / 2
        assert statistic.value == pytest.approx(right / whole if whole else np.nan, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_every_draw_agrees_with_a_loop_over_pairs(seed: int) -> None:
    found = random_decisions(seed, bursts=True)
    rng = np.random.default_rng(seed)
    count = found.individuals
    draws = np.concatenate(
        [np.ones((1, count)), rng.multinomial(count, np.full(count, 1 / count), 4), 1 - np.eye(count)]
    )
    result = cluster(found)
    columns = [statistic.of(draws) for statistic in (result.ari, result.pair_precision, result.pair_recall)]
    for row, copies in enumerate(draws.astype(int).tolist()):
        expected = by_hand(found, copies)
        assert [column[row] for column in columns] == pytest.approx(list(expected), nan_ok=True, abs=1e-9)


def test_an_animal_drawn_twice_is_two_animals_and_not_one_seen_twice_as_often() -> None:
    # Animal 0 is split in two, animal 1 and 2 are right.
    found = decided([0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2, 3, 3])
    recall = cluster(found).pair_recall
    assert recall.value == pytest.approx((2 + 1 + 1) / (6 + 1 + 1))
    # Two copies of animal 0 have 2 * 6 pairs; eight encounters of one animal would have 28.
    assert recall.of(np.array([[2.0, 1.0, 0.0]]))[0] == pytest.approx((2 * 2 + 1) / (2 * 6 + 1))


def test_a_perfect_matcher_is_perfect_in_every_draw() -> None:
    who = np.repeat(np.arange(12), 4)
    result = cluster(decided(who, who[::-1]))
    for statistic in (result.ari, result.pair_precision, result.pair_recall):
        found = estimate(statistic, draws=300)
        assert (found.value, found.high) == (1, 1)
        assert statistic.of(np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), 50).astype(float)).min() == 1
    assert (result.made, result.true) == (12, 12)


def test_one_group_for_all_and_all_alone_are_worth_nothing() -> None:
    who = np.repeat(np.arange(10), 3)
    merged = cluster(decided(who, np.zeros(30, dtype=int)))
    assert (merged.ari.value, merged.pair_recall.value, merged.made, merged.true) == (0, 1, 1, 10)
    assert merged.pair_precision.value == pytest.approx(10 * 3 / (30 * 29 / 2))
    alone = cluster(decided(who, np.full(30, UNNAMED)))
    assert (alone.ari.value, alone.pair_recall.value, alone.made) == (0, 0, 0)
    assert np.isnan(alone.pair_precision.value)
    assert alone.pair_precision.n == 0


def test_burst_neighbours_are_neither_a_success_nor_a_failure() -> None:
    split = cluster(decided([0, 0, 1], [0, 1, 2], burst=[0, 0, 1]))
    joined = cluster(decided([0, 0, 1], [0, 0, 2], burst=[0, 0, 1]))
    assert split.pair_recall.n == joined.pair_recall.n == 0
    assert joined.pair_precision.n == 0
    wrong = cluster(decided([0, 1, 2], [0, 0, 2], burst=[0, 0, 1]))  # two animals of one burst that became one
    assert (wrong.pair_precision.n, wrong.pair_precision.value) == (1, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_names_and_order_change_nothing(seed: int) -> None:
    found = random_decisions(seed, bursts=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(found))
    new_name = np.r_[rng.permutation(20) + 5, UNNAMED]  # the last one is what UNNAMED indexes
    shuffled = decided(found.individual[order], new_name[found.said[order]], found.burst[order].tolist())
    draws = rng.multinomial(found.individuals, np.full(found.individuals, 1 / found.individuals), 5).astype(float)
    one, other = cluster(found), cluster(shuffled)
    for name in ("ari", "pair_precision", "pair_recall"):
        np.testing.assert_allclose(getattr(one, name).of(draws), getattr(other, name).of(draws), equal_nan=True)


def test_without_a_decision_or_with_one_animal_nothing_is_claimed() -> None:
    nothing = cluster(decided([], []))
    assert (nothing.ari.n, nothing.made, nothing.true) == (0, 0, 0)
    assert np.isnan(nothing.ari.value)
    one = cluster(decided([0, 0, 0], [0, 0, 0]))
    assert (one.ari.value, one.pair_precision.value, one.pair_recall.value) == (1, 1, 1)
