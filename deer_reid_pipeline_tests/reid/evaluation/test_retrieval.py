"""Retrieval against scikit-learn's average precision, a sort by hand, and chance in closed form."""

import numpy as np
import pytest
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from deer_reid_pipeline.reid.evaluation.blocks import branch_blocks
from deer_reid_pipeline.reid.evaluation.estimates import estimate
from deer_reid_pipeline.reid.evaluation.retrieval import METRICS, retrieve
from deer_reid_pipeline_tests.reid.evaluation.made_up import given, herd, labelled, pairs_by_hand, permuted

BRANCH = "multiscale"


@pytest.mark.parametrize("flank", ["same", "cross"])
@pytest.mark.parametrize("leaky", [False, True])
def test_agrees_with_scikit_learn(flank: str, leaky: bool) -> None:
    data = herd(12, 200, 1.0, seed=1)
    vectors = data.vectors[BRANCH].vectors.astype(np.float64)
    matrix = vectors @ vectors.T
    genuine, impostor = pairs_by_hand(data, matrix, flank=flank, leaky=leaky)
    result = retrieve(data, branch_blocks(data, BRANCH), flank=flank, leaky=leaky)
    assert result.row.tolist() == sorted({i for i, _ in genuine})
    for place, row in enumerate(result.row.tolist()):
        right = [j for i, j in genuine if i == row]
        wrong = [j for i, j in impostor if i == row]
        truth = np.r_[np.ones(len(right)), np.zeros(len(wrong))]
        scores = matrix[row, right + wrong]
        assert result.average_precision[place] == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
        assert result.rank[place] == 1 + np.flatnonzero(truth[np.argsort(-scores)])[0]
        assert (result.candidates[place], result.relevant[place]) == (len(truth), len(right))
    assert result.statistic("map").value == pytest.approx(result.average_precision.mean())
    assert result.statistic("rank5").value == pytest.approx((result.rank <= 5).mean())
    by_individual = [
        result.average_precision[result.individual == who].mean() for who in set(result.individual.tolist())
    ]
    assert result.statistic("map_individual").value == pytest.approx(np.mean(by_individual))


def test_a_case_worked_by_hand() -> None:
    data = labelled([0, 0, 0, 1, 1])
    matrix = np.full((5, 5), 0.1, dtype=np.float32)
    matrix[0] = [1.0, 0.9, 0.3, 0.5, 0.2]  # right, wrong, right, wrong: (1 + 2/3) / 2
    matrix[3] = [0.5, 0.4, 0.3, 1.0, 0.35]  # the one mate comes third
    result = retrieve(data, given(matrix))
    assert result.average_precision[0] == pytest.approx(5 / 6)
    assert (result.rank[0], result.rank[3]) == (1, 3)
    assert result.average_precision[3] == pytest.approx(1 / 3)
    assert result.statistic("rank1", keep=result.row == 0).value == 1
    assert result.statistic("rank1", keep=result.row == 3).value == 0
    assert result.statistic("rank5", keep=result.row == 3).value == 1


def test_ties_count_against_the_query() -> None:
    data = labelled([0, 0, 1, 2])
    result = retrieve(data, given(np.full((4, 4), 0.7, dtype=np.float32)))
    assert result.row.tolist() == [0, 1]
    assert result.rank.tolist() == [3, 3]
    np.testing.assert_allclose(result.average_precision, 1 / 3)


def test_pictures_of_the_same_burst_are_no_mates_and_no_errors() -> None:
    data = labelled([0, 0, 0, 1], burst=[5, 5, 6, 7])
    matrix = np.array([[1, 0.9, 0.5, 0.6], [0.9, 1, 0.4, 0.1], [0.5, 0.4, 1, 0.2], [0.6, 0.1, 0.2, 1]], np.float32)
    honest = retrieve(data, given(matrix))
    # Row 0: its burst neighbour (0.9) is left out; the other animal (0.6) stands before the mate (0.5).
    assert honest.rank.tolist() == [2, 1, 1]
    assert honest.candidates.tolist() == [2, 2, 3]
    leaky = retrieve(data, given(matrix), leaky=True)
    assert leaky.rank.tolist() == [1, 1, 1]
    assert leaky.relevant.tolist() == [2, 2, 2]


def test_opposite_flanks_are_looked_up_apart() -> None:
    data = labelled([0, 0, 0, 1], viewpoints=["left", "right", "left", "right"])
    matrix = np.full((4, 4), 0.5, dtype=np.float32)
    same = retrieve(data, given(matrix))
    assert (same.row.tolist(), same.candidates.tolist()) == ([0, 2], [1, 1])
    cross = retrieve(data, given(matrix), flank="cross")
    assert cross.row.tolist() == [0, 1, 2]
    assert cross.candidates.tolist() == [2, 2, 2]
    assert cross.rank.tolist() == [2, 1, 2]


def test_chance_is_what_random_scores_reach() -> None:
    data = herd(8, 160, 1.0, seed=3)
    rng = np.random.default_rng(0)
    runs = [retrieve(data, given(rng.random((160, 160)).astype(np.float32))) for _ in range(60)]
    assert np.mean([run.statistic("rank1").value for run in runs]) == pytest.approx(runs[0].chance_rank1, abs=0.012)
    assert np.mean([run.statistic("map").value for run in runs]) == pytest.approx(runs[0].chance_map, abs=0.006)


@pytest.mark.parametrize("individual", [[0, 1, 2], [0], []])
def test_no_mated_query(individual: list[int]) -> None:
    result = retrieve(labelled(individual), given(np.eye(len(individual), dtype=np.float32)))
    assert len(result) == 0
    assert np.isnan(result.chance_rank1)
    for name in METRICS:
        figure = estimate(result.statistic(name))
        assert np.isnan(figure.value)
        assert (figure.low, figure.high, figure.n) == (0, 1, 0)


def test_one_individual_is_always_right_and_says_nothing() -> None:
    result = retrieve(labelled([0, 0, 0]), given(np.zeros((3, 3), dtype=np.float32)))
    assert result.rank.tolist() == [1, 1, 1]
    assert result.chance_rank1 == 1
    figure = estimate(result.statistic("rank1"))
    assert (figure.value, figure.low, figure.high, figure.individuals) == (1, 0, 1, 1)


def test_there_is_no_such_metric() -> None:
    with pytest.raises(ValueError, match="there are rank1"):
        retrieve(labelled([0, 0]), given(np.eye(2, dtype=np.float32))).statistic("rank2")


@settings(max_examples=25, deadline=None)
@any_of(
    seed=st.integers(0, 10_000),
    individuals=st.integers(1, 9),
    rows=st.integers(2, 60),
    leaky=st.booleans(),
    levels=st.one_of(st.none(), st.integers(1, 5)),
)
def test_order_of_the_rows_changes_nothing(
    seed: int, individuals: int, rows: int, leaky: bool, levels: int | None
) -> None:
    data = herd(individuals, rows, 0.7, seed)
    rng = np.random.default_rng(seed)
    matrix = rng.random((rows, rows)) if levels is None else rng.integers(0, levels, (rows, rows)) / levels
    order = rng.permutation(rows)
    here = retrieve(data, given(matrix), leaky=leaky)
    there = retrieve(permuted(data, order), given(matrix[np.ix_(order, order)]), leaky=leaky)
    back = np.argsort(order[there.row])
    np.testing.assert_array_equal(here.row, order[there.row][back])
    for name in ("individual", "rank", "average_precision", "candidates", "relevant"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name)[back])
    assert np.all((here.rank >= 1) & (here.rank <= here.candidates - here.relevant + 1))
    assert np.all((here.average_precision > 0) & (here.average_precision <= 1))
    assert np.all((here.rank == 1) | (here.average_precision < 1))
