"""Verification against scikit-learn, closed forms, a double loop and cases worked by hand."""

import numpy as np
import pytest
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from deer_reid_pipeline.reid.evaluation.blocks import branch_blocks, fused_blocks, row_blocks
from deer_reid_pipeline.reid.evaluation.estimates import estimate
from deer_reid_pipeline.reid.evaluation.pair_scores import SAMPLED
from deer_reid_pipeline.reid.evaluation.verification import verify
from deer_reid_pipeline.reid.evaluation.worst_pairs import EXAMPLES
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline_tests.reid.evaluation.made_up import given, herd, labelled, pairs_by_hand, permuted

BRANCH = "multiscale"


def scores_of(data, matrix, **protocol):
    genuine, impostor = pairs_by_hand(data, matrix, **protocol)
    return np.array([matrix[p] for p in genuine]), np.array([matrix[p] for p in impostor])


def cosines(data):
    vectors = data.vectors[BRANCH].vectors
    return np.clip(vectors @ vectors.T, -1, 1)


@pytest.mark.parametrize("flank", ["same", "cross"])
@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("noise", [0.3, 1.5])
def test_agrees_with_scikit_learn_and_the_closed_form(flank: str, leaky: bool, noise: float) -> None:
    data = herd(12, 300, noise, seed=3)
    matrix = cosines(data)
    genuine, impostor = scores_of(data, matrix, flank=flank, leaky=leaky)
    result = verify(data, branch_blocks(data, BRANCH), flank=flank, leaky=leaky)

    truth = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))]
    both = np.r_[genuine, impostor]
    assert (result.genuine_pairs, result.impostor_pairs) == (len(genuine) // 2, len(impostor) // 2)
    assert result.roc_auc.value == pytest.approx(roc_auc_score(truth, both), abs=2e-5)
    spread = np.sqrt((genuine.var() + impostor.var()) / 2)
    assert result.d_prime.value == pytest.approx((genuine.mean() - impostor.mean()) / spread, abs=1e-3)
    assert result.mean_genuine.value == pytest.approx(genuine.mean(), abs=3e-5)
    assert result.mean_impostor.value == pytest.approx(impostor.mean(), abs=3e-5)
    for threshold in (-0.2, 0.0, 0.31, 0.7):
        assert result.fmr_at(threshold).value == pytest.approx((impostor >= threshold).mean(), abs=2e-4)
        assert result.fnmr_at(threshold).value == pytest.approx((genuine < threshold).mean(), abs=2e-4)
    fpr, tpr, _ = roc_curve(truth, both)
    crossing = np.argmin(np.abs(fpr - (1 - tpr)))
    assert result.eer.value == pytest.approx((fpr[crossing] + 1 - tpr[crossing]) / 2, abs=3e-3)


def test_d_prime_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    rows = 900
    data = labelled(np.arange(rows) % 2)
    same = data.individual[:, None] == data.individual[None, :]
    matrix = np.where(same, rng.normal(0.3, 0.1, (rows, rows)), rng.normal(0.0, 0.1, (rows, rows)))
    result = verify(data, given(matrix))
    assert result.d_prime.value == pytest.approx(3.0, abs=0.02)
    assert result.roc_auc.value == pytest.approx(stats.norm.cdf(3 / np.sqrt(2)), abs=1e-3)
    assert result.eer.value == pytest.approx(stats.norm.cdf(-1.5), abs=1e-3)


def worked() -> tuple:
    """Three individuals of two pictures: genuine scores 0.9, 0.5, 0.2; impostors 0.5 twice, -0.1 else."""
    data = labelled([0, 0, 1, 1, 2, 2])
    matrix = np.full((6, 6), -0.1)
    for (i, j), score in {(0, 1): 0.9, (2, 3): 0.5, (4, 5): 0.2, (0, 2): 0.5, (1, 4): 0.5}.items():
        matrix[i, j] = matrix[j, i] = score
    return data, matrix.astype(np.float32)


def test_a_case_worked_by_hand() -> None:
    data, matrix = worked()
    result = verify(data, given(matrix))
    assert (result.genuine_pairs, result.impostor_pairs) == (3, 12)
    # 0.9 beats 12 of 12, 0.5 beats 10 and ties with 2, 0.2 beats 10.
    assert result.roc_auc.value == pytest.approx((12 + 11 + 10) / 36, abs=1e-9)
    # A score equal to the threshold is accepted.
    assert result.fmr_at(0.5).value == pytest.approx(2 / 12)
    assert result.fmr_at(0.501).value == 0
    assert result.fnmr_at(0.5).value == pytest.approx(1 / 3)
    assert result.fnmr_at(0.2).value == 0
    assert result.fmr_at(-1).value == 1
    assert result.fnmr_at(1).value == 1
    assert result.mean_genuine.value == pytest.approx(1.6 / 3, abs=1e-4)
    assert set(result.worst_missed[0][:2]) == {4, 5}
    assert [round(score, 3) for _, _, score in result.worst_missed] == [0.2, 0.5, 0.9]
    assert {frozenset(pair[:2]) for pair in result.worst_false[:2]} == {frozenset((0, 2)), frozenset((1, 4))}


def test_weights_count_an_impostor_pair_by_both_animals() -> None:
    data, matrix = worked()
    result = verify(data, given(matrix))
    # Individual 0 twice, 1 once, 2 never: impostor pairs of 0 and 1 only, each with weight 2.
    weights = np.array([[2.0, 1.0, 0.0]])
    assert result.fmr_at(0.5).of(weights)[0] == pytest.approx(1 / 4)
    assert result.fnmr_at(0.6).of(weights)[0] == pytest.approx(1 / 3)
    assert result.mean_genuine.of(weights)[0] == pytest.approx((2 * 0.9 + 0.5) / 3, abs=1e-4)
    # AUC: 0.9 (weight 2) beats 4 of 4, 0.5 beats 3 and ties with one.
    assert result.roc_auc.of(weights)[0] == pytest.approx((2 * 4 + 3.5) / 12, abs=1e-6)


def test_weights_are_individuals_drawn_several_times() -> None:
    """A weight of two is the same as the individual standing there twice, its copies not compared."""
    data = herd(8, 120, 0.8, seed=5, flanks=False)
    matrix = cosines(data)
    weights = np.random.default_rng(0).integers(0, 4, (3, 8)).astype(float)
    result = verify(data, given(matrix))
    genuine, impostor = pairs_by_hand(data, matrix)
    who = data.individual
    for draw, auc, fmr in zip(weights, result.roc_auc.of(weights), result.fmr_at(0.25).of(weights), strict=True):
        of_genuine = np.array([draw[who[i]] for i, _ in genuine])
        of_impostor = np.array([draw[who[i]] * draw[who[j]] for i, j in impostor])
        scores = np.array([matrix[p] for p in genuine + impostor])
        truth = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))]
        expected = roc_auc_score(truth, scores, sample_weight=np.r_[of_genuine, of_impostor])
        assert auc == pytest.approx(expected, abs=2e-4)
        false = scores[len(genuine) :] >= 0.25
        assert fmr == pytest.approx((of_impostor * false).sum() / of_impostor.sum(), abs=2e-3)


def test_a_policy_judges_only_individuals_it_was_fitted_without() -> None:
    data = herd(10, 80, 0.8, seed=2)
    one, other = (MatchPolicy(threshold=0.5, new_below=0.5, weights={BRANCH: weight}) for weight in (1.0, 0.5))
    fitted = FittedPolicy(policy=one, without=(one, other))
    fold = fitted.folds_of(list(data.names))[data.individual]
    block = fused_blocks(data, fitted)
    matrix = np.concatenate([block(rows) for rows in row_blocks(len(data), 7)])
    assert set(fold.tolist()) == {0, 1}
    np.testing.assert_allclose(matrix, cosines(data) * np.where(fold == 0, 1.0, 0.5)[:, None], atol=1e-6)


def test_rows_come_in_blocks_and_all_of_them() -> None:
    assert [rows.tolist() for rows in row_blocks(5, 2)] == [[0, 1], [2, 3], [4]]
    assert list(row_blocks(0)) == []
    with pytest.raises(ValueError, match="at least one row"):
        list(row_blocks(3, 0))


@settings(max_examples=25, deadline=None)
@any_of(seed=st.integers(0, 10_000), individuals=st.integers(1, 9), rows=st.integers(2, 60), leaky=st.booleans())
def test_order_of_the_rows_changes_nothing(seed: int, individuals: int, rows: int, leaky: bool) -> None:
    data = herd(individuals, rows, 0.7, seed)
    order = np.random.default_rng(seed).permutation(rows)
    other = permuted(data, order)
    here = verify(data, branch_blocks(data, BRANCH), leaky=leaky)
    there = verify(other, branch_blocks(other, BRANCH), leaky=leaky)
    for name in ("roc_auc", "eer", "mean_genuine", "mean_impostor"):
        first, second = getattr(here, name).value, getattr(there, name).value
        assert first == pytest.approx(second, abs=1e-3, nan_ok=True)
        assert np.isnan(first) or -1 <= first <= 1
    assert (here.genuine_pairs, here.impostor_pairs) == (there.genuine_pairs, there.impostor_pairs)


@settings(max_examples=25, deadline=None)
@any_of(seed=st.integers(0, 10_000), levels=st.integers(1, 4))
def test_ties_count_half(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    data = labelled(rng.integers(0, 5, 30))
    matrix = rng.integers(0, levels, (30, 30)).astype(np.float32) / 4
    genuine, impostor = scores_of(data, matrix)
    result = verify(data, given(matrix))
    if len(genuine) and len(impostor):
        truth = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))]
        assert result.roc_auc.value == pytest.approx(roc_auc_score(truth, np.r_[genuine, impostor]), abs=1e-6)
        for score in np.unique(matrix):
            assert result.fmr_at(float(score)).value == pytest.approx((impostor >= score).mean(), abs=1e-6)
    if levels == 1:
        assert result.eer.value == pytest.approx(0.5)
        assert np.isnan(result.d_prime.value)


def test_scores_squeezed_into_a_sliver_are_told_apart() -> None:
    """A constant added to every vector moves all cosines near 1; ranks, and so the area, stay what they are."""
    data = herd(10, 200, 0.8, seed=4, flanks=False)
    matrix = cosines(data).astype(np.float64)
    plain = verify(data, given(matrix))
    squeezed = verify(data, given((1 - (1 - matrix) * 5e-3).astype(np.float32)))
    assert squeezed.roc_auc.value == pytest.approx(plain.roc_auc.value, abs=1e-4)
    assert squeezed.d_prime.value == pytest.approx(plain.d_prime.value, abs=1e-2)
    assert squeezed.mean_impostor.value > 0.99


def test_a_few_high_scores_in_a_large_herd_are_not_lost() -> None:
    """Two rows in 2,200 that are not among those by which the bins are laid out."""
    rows = 4 * SAMPLED + 152
    data = labelled(np.arange(rows) // 2)
    matrix = np.random.default_rng(0).uniform(-0.2, 0.3, (rows, rows)).astype(np.float32)
    sampled = np.linspace(0, rows - 1, SAMPLED).astype(np.int64)
    one, other = (int(row) for row in np.setdiff1d(np.arange(rows), sampled)[[5, 900]])
    matrix[one, other] = matrix[other, one] = 0.95
    matrix[one + 3, other + 3] = matrix[other + 3, one + 3] = -0.7
    result = verify(data, given(matrix))
    assert result.fmr_at(0.9).value * result.impostor_pairs == pytest.approx(1)
    assert (result.pairs.scale.low, result.pairs.scale.high) == pytest.approx((-0.7, 0.95))


def test_one_individual_has_no_impostors() -> None:
    data = labelled([0, 0, 0])
    result = verify(data, given(np.eye(3, dtype=np.float32)))
    assert result.impostor_pairs == 0
    assert np.isnan(result.roc_auc.value)
    assert result.worst_false == ()
    figure = estimate(result.fmr_at(0.5))
    assert (figure.low, figure.high, figure.n) == (0.0, 1.0, 0)
    assert result.fnmr_at(0.5).value == 1


@pytest.mark.parametrize("individual", [[0, 1, 2], [0], []])
def test_without_a_true_pair_there_is_no_figure(individual: list[int]) -> None:
    data = labelled(individual)
    result = verify(data, given(np.eye(len(individual), dtype=np.float32)))
    assert result.genuine_pairs == 0
    assert result.worst_missed == ()
    for statistic in (result.roc_auc, result.d_prime, result.eer, result.mean_genuine, result.fnmr_at(0.1)):
        assert np.isnan(statistic.value)
        assert estimate(statistic).n == 0


def test_a_burst_is_one_look_at_an_animal() -> None:
    data = labelled([0, 0, 0, 1], burst=[7, 7, 8, 7])
    matrix = np.zeros((4, 4), dtype=np.float32)
    honest = verify(data, given(matrix))
    assert (honest.genuine_pairs, honest.impostor_pairs) == (2, 3)
    assert verify(data, given(matrix), leaky=True).genuine_pairs == 3


def test_worst_false_names_no_individual_three_times() -> None:
    data = herd(30, 300, 1.0, seed=8)
    matrix = cosines(data)
    result = verify(data, given(matrix))
    assert len(result.worst_false) == EXAMPLES
    names = [data.individual[row] for pair in result.worst_false for row in pair[:2]]
    assert max(np.bincount(names)) <= 2
    _, impostor = pairs_by_hand(data, matrix)
    assert result.worst_false[0][2] == pytest.approx(max(matrix[p] for p in impostor), abs=1e-4)
    for row, other, score in result.worst_false:
        assert (row, other) in set(impostor)
        assert score == pytest.approx(matrix[row, other])
    assert max(np.bincount([data.individual[row] for row, _, _ in result.worst_missed])) <= 2


def test_curve_and_histograms_hold_all_pairs() -> None:
    data = herd(10, 200, 0.8, seed=6)
    genuine, impostor = scores_of(data, cosines(data))
    result = verify(data, branch_blocks(data, BRANCH))
    thresholds, fmr, fnmr = result.curve()
    assert np.all(np.diff(thresholds) > 0)
    assert (fmr[0], fnmr[0], fmr[-1], fnmr[-1]) == (1, 0, 0, 1)
    place = len(thresholds) // 2
    assert fmr[place] == pytest.approx((impostor >= thresholds[place]).mean(), abs=1e-3)
    assert fnmr[place] == pytest.approx((genuine < thresholds[place]).mean(), abs=1e-3)
    np.testing.assert_allclose([result.fmr_at(float(cut)).value for cut in thresholds], fmr, atol=1e-6)
    np.testing.assert_allclose([result.fnmr_at(float(cut)).value for cut in thresholds], fnmr, atol=1e-6)
    edges, true, false = result.histograms(bins=20)
    assert len(edges) == 21
    assert (true.sum(), false.sum()) == (len(genuine) / 2, len(impostor) / 2)
    expected, _ = np.histogram(genuine, bins=edges)
    assert np.abs(true - expected / 2).max() <= 1


def test_more_individuals_than_the_memory_allows_are_weighted_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    data = herd(40, 400, 0.8, seed=9)
    block = branch_blocks(data, BRANCH)
    full = verify(data, block)
    monkeypatch.setattr("deer_reid_pipeline.reid.evaluation.pair_scores.MEMORY", 40 * 10 * 16 * 4)
    small = verify(data, block)
    assert small.pairs.impostor.shape == (40, 10, 16)
    assert small.roc_auc.value == pytest.approx(full.roc_auc.value, abs=1e-6)
    assert small.fmr_at(0.4).value == pytest.approx(full.fmr_at(0.4).value, abs=1e-9)
    wide, narrow = estimate(full.roc_auc), estimate(small.roc_auc)
    assert narrow.high - narrow.low == pytest.approx(wide.high - wide.low, rel=0.25)


def test_a_flank_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="same or cross"):
        verify(labelled([0, 1]), given(np.eye(2, dtype=np.float32)), flank="left")
