"""Tuning on made-up herds: what is chosen is what the herd was made to need, and nothing is judged on its own fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from deer_reid_pipeline.reid.evaluation.identification import fnir_at, fpir_at
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.searches import Searches, search, searches_of
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import V1_POLICY, MatchPolicy
from deer_reid_pipeline.reid.similarity import EFFICIENTNET, MULTISCALE, FloatArray, VectorSet, unit
from deer_reid_pipeline.reid.tuning import OWNER_WEIGHTS, fit, owner_choice, weight_grid
from deer_reid_pipeline.reid.tuning.crossfit import NEVER_NAMES, NEVER_OPENS
from deer_reid_pipeline.reid.tuning.cuts import mostly_right_from, new_below_for
from deer_reid_pipeline.reid.tuning.fusion import choose_fusion
from deer_reid_pipeline.reid.tuning.sample import Sample, thinned
from deer_reid_pipeline_tests.reid.worlds import herd

LIVE = MatchPolicy(threshold=0.9, new_below=0.2)


def of_new_and_returning(new: np.ndarray, returning: np.ndarray) -> Searches:
    """One first and one returning search of every individual, each with one best score, in a gallery of two."""
    count = len(new)
    scores = np.full((2 * count, count), np.nan, dtype=np.float32)
    stranger = (np.arange(count) + 1) % count
    scores[np.arange(count), stranger] = new
    scores[count + np.arange(count), np.arange(count)] = returning
    scores[count + np.arange(count), stranger] = -1.0
    individual = np.tile(np.arange(count), 2)
    return searches_of(
        scores,
        encounter=np.arange(2 * count),
        individual=individual,
        fold=np.zeros(2 * count, dtype=np.int64),
        first=np.arange(2 * count) < count,
        rows=tuple(np.array([row]) for row in range(2 * count)),
        gallery_size=count - 1,
    )


def of_names(right: list[float], wrong: list[float]) -> Searches:
    """Returning animals found at these similarities, and first encounters whose best candidate is as alike as these."""
    count = len(right) + len(wrong)
    scores = np.full((count, count + 1), -0.5, dtype=np.float32)
    first = np.arange(count) >= len(right)
    for row, score in enumerate([*right, *wrong]):
        scores[row, count if first[row] else row] = score
        if first[row]:
            scores[row, row] = np.nan
    return searches_of(
        scores,
        encounter=np.arange(count),
        individual=np.arange(count),
        fold=np.zeros(count, dtype=np.int64),
        first=first,
        rows=tuple(np.array([row]) for row in range(count)),
        gallery_size=count,
    )


def test_names_start_where_nearly_all_of_them_are_right() -> None:
    right = [0.9 - 0.01 * place for place in range(20)]  # 0.90 down to 0.71
    assert mostly_right_from(of_names(right, []), 0.5, 0.125) == 0.5
    # One wrong name at the top: 15 names are needed for one wrong and one more to be an eighth.
    assert mostly_right_from(of_names(right, [0.95]), 0.5, 0.125) == 0.5
    # Many wrong names below 0.75: the threshold rises to where they are few enough.
    many = mostly_right_from(of_names(right, [0.749] * 10), 0.5, 0.125)
    assert many == pytest.approx(0.75, abs=1e-6)
    assert mostly_right_from(of_names([], [0.9, 0.8]), 0.5, 0.125) is None
    assert mostly_right_from(of_names(right[:6], []), 0.5, 0.125) is None, "six right names show nothing"
    assert mostly_right_from(of_names(right[:7], []), 0.5, 0.125) == 0.5


def test_a_name_for_an_animal_known_only_by_burst_neighbours_is_neither_right_nor_wrong() -> None:
    right = [0.9 - 0.01 * place for place in range(20)]
    searches = of_names(right, [0.749] * 10)
    neighbours = replace(searches, first=np.zeros(30, dtype=bool), only_burst=searches.first)
    assert mostly_right_from(searches, 0.5, 0.125) != 0.5
    assert mostly_right_from(neighbours, 0.5, 0.125) == 0.5


def test_burst_neighbours_do_not_make_new_animals_more_likely() -> None:
    """60 animals in two bursts of three encounters: a quarter of the searches that count are for new ones."""
    world = herd(5, individuals=60, encounters=6)
    labelled = world.labelled(world.vectors(1.0))
    event = np.empty(len(labelled), dtype=np.int64)
    for owner in range(60):
        rows = np.flatnonzero(labelled.individual == owner)
        times = np.unique(labelled.encounter[rows])
        event[rows] = 2 * owner + np.searchsorted(times, labelled.encounter[rows]) // 3
    base = LIVE.model_copy(update={"weights": {MULTISCALE: 1.0}})
    odds = fit(replace(labelled, burst=event), base, folds=2).fitted.policy.odds
    assert odds is not None
    assert odds.searches == 240
    assert odds.new == pytest.approx(61 / 242)


def test_similarities_that_recognise_nobody_name_nobody() -> None:
    world = herd(11, individuals=120, encounters=4)
    tuned = fit(world.labelled(world.vectors(50.0)), LIVE)
    assert tuned.fitted.policy.threshold == NEVER_NAMES
    assert any("of the names right" in line for line in tuned.rationale)


@pytest.mark.parametrize("count", [58, 59, 92, 93, 100, 124, 200])
def test_new_below_is_the_highest_cut_that_the_exact_binomial_bound_allows(count: int) -> None:
    returning = np.random.default_rng(count).permutation(np.linspace(0.4, 0.9, count)).astype(np.float32)

    cut = new_below_for(of_new_and_returning(np.full(count, 0.1, dtype=np.float32), returning), 0.05)

    allowed = [
        errors
        for errors in range(count)
        if stats.binomtest(errors, count, alternative="less").proportion_ci(0.95, method="exact").high <= 0.05
    ]
    assert cut == (pytest.approx(np.sort(returning)[allowed[-1]]) if allowed else None)


def test_new_below_counts_an_animal_that_returns_often_as_one_trial() -> None:
    """70 animals can claim 5 % without a fallen one, whether each returns once or ten times; with one fallen, not."""
    new, returning = np.full(70, 0.1, dtype=np.float32), np.linspace(0.4, 0.9, 70, dtype=np.float32)
    once = of_new_and_returning(new, returning)
    tenfold = searches_of(
        np.concatenate([once.scores[:70], *[once.scores[70:]] * 10]),
        encounter=np.arange(770),
        individual=np.tile(np.arange(70), 11),
        fold=np.zeros(770, dtype=np.int64),
        first=np.arange(770) < 70,
        rows=tuple(np.array([row]) for row in range(770)),
        gallery_size=69,
    )

    assert new_below_for(once, 0.05) == new_below_for(tenfold, 0.05) == pytest.approx(0.4)


def test_new_below_is_not_claimed_where_new_animals_look_no_less_alike_than_returning_ones() -> None:
    scores = np.random.default_rng(0).permutation(np.linspace(0.4, 0.9, 200)).astype(np.float32)

    assert new_below_for(of_new_and_returning(scores, scores), 0.05) is None


def test_new_below_without_a_returning_animal_is_not_claimed() -> None:
    searches = of_new_and_returning(np.full(100, 0.1, dtype=np.float32), np.full(100, 0.9, dtype=np.float32))

    assert new_below_for(searches.only(searches.first), 0.05) is None


def test_thinning_limits_every_individual_alike_and_spreads_over_its_encounters() -> None:
    world = herd(0, individuals=10, encounters=8, pictures=5)
    labelled = world.labelled(world.vectors(1.0))

    few = thinned(labelled, 80)

    assert np.bincount(few.individual).tolist() == [8] * 10
    assert few.names == labelled.names
    pairs = np.unique(np.stack([few.individual, few.encounter]), axis=1)
    assert np.bincount(pairs[0]).min() >= 7
    assert len(thinned(labelled, 400)) == 400


def test_weights_stay_where_both_branches_say_as_much() -> None:
    equal = LIVE.model_copy(update={"weights": {MULTISCALE: 0.5, EFFICIENTNET: 0.5}})
    for seed in range(10):
        world = herd(seed, individuals=50, encounters=3)
        chosen = choose_fusion(world.labelled(world.vectors(1.8)), equal, 5, "").fitted
        assert chosen.policy.weights == equal.weights
        assert chosen.policy.fusion == "weighted_sum"


def test_weights_leave_a_branch_that_says_nothing() -> None:
    world = herd(1, individuals=60, encounters=4)
    labelled = world.labelled(world.vectors({MULTISCALE: 50.0, EFFICIENTNET: 1.3}))

    chosen = choose_fusion(labelled, LIVE, 5, "")

    weights = chosen.fitted.policy.weights
    assert weights[EFFICIENTNET] >= 0.7
    assert sum(weights.values()) == pytest.approx(1.0)
    assert len(chosen.fitted.without) == 5
    assert all(policy.weights[EFFICIENTNET] > LIVE.weights[EFFICIENTNET] for policy in chosen.fitted.without)
    assert "Weights move from 0.60 multiscale + 0.40 efficientnet" in chosen.reasons[0]


def squeezed(vectors: FloatArray, common: float) -> FloatArray:
    """A component that all share, as in features that were not centred: every cosine is near 1."""
    return unit(np.concatenate([vectors, np.full((len(vectors), 1), common, dtype=np.float32)], axis=1))


def test_calibrated_fusion_is_taken_where_no_weight_can_balance_two_spreads() -> None:
    """One branch tells a lot within a band of one thousandth, the other little over the whole range."""
    world = herd(2, individuals=60, encounters=4)
    vectors = world.vectors({MULTISCALE: 1.0, EFFICIENTNET: 3.0})
    labelled = world.labelled({**vectors, MULTISCALE: squeezed(vectors[MULTISCALE], 30.0)})

    chosen = choose_fusion(labelled, LIVE, 5, "")

    assert chosen.fitted.policy.fusion == "calibrated"
    assert all(policy.calibration != chosen.fitted.policy.calibration for policy in chosen.fitted.without)


def test_calibrated_fusion_is_not_taken_where_it_ranks_no_better() -> None:
    world = herd(3, individuals=60, encounters=4)

    chosen = choose_fusion(world.labelled(world.vectors(1.5)), LIVE, 5, "")

    assert chosen.fitted.policy.fusion == "weighted_sum"
    assert "not clearly better" in chosen.reasons[1]


def test_ranking_of_a_sample_is_average_precision_by_hand() -> None:
    directions = {"a": 0.0, "near a": 0.1, "b": 0.3, "far b": 1.2, "once": 2.0}
    rows = np.array([[np.cos(x), np.sin(x)] for x in directions.values()], dtype=np.float32)
    codes = np.array([0, 0, 1, 1, 2])
    labelled = Labelled(
        keys=list(directions),
        vectors={branch: VectorSet("r", branch, rows) for branch in (MULTISCALE, EFFICIENTNET)},
        individual=codes,
        encounter=np.arange(5),
        burst=np.arange(5),
        viewpoints=[None] * 5,
        names=["a", "b", "once"],
        sexes=["unknown"] * 5,
    )

    ranking = Sample(labelled, (MULTISCALE, EFFICIENTNET)).ranking([LIVE])

    # b finds "near a", "a" and then "far b"; far b finds "once" (0.8 away) and then b (0.9).
    assert ranking[:2] == pytest.approx([1.0, (1 / 3 + 1 / 2) / 2])
    assert np.isnan(ranking[2])


def pairs_of(labelled: Labelled, weights: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Score and truth of every pair of one flank and different encounters, one after the other."""
    scores, same = [], []
    opposite = {("left", "right"), ("right", "left")}
    for i in range(len(labelled)):
        for j in range(i):
            mine = labelled.individual[i] == labelled.individual[j]
            if (labelled.viewpoints[i], labelled.viewpoints[j]) in opposite:
                continue
            if mine and labelled.encounter[i] == labelled.encounter[j]:
                continue
            scores.append(
                sum(float(v.vectors[i] @ v.vectors[j]) * weights[branch] for branch, v in labelled.vectors.items())
            )
            same.append(mine)
    return np.array(scores), np.array(same)


def test_the_owners_table_agrees_with_pairs_counted_one_by_one() -> None:
    world = herd(4, individuals=15, encounters=3, pictures=2)
    views = np.random.default_rng(4).choice(["left", "right", None], len(world.individual)).tolist()
    labelled = world.labelled(world.vectors(2.0), viewpoints=views)

    rows = weight_grid(labelled, LIVE, step=0.1)

    assert [row.weights[MULTISCALE] for row in rows] == pytest.approx(np.arange(1, 10) / 10)
    assert [row.weights[MULTISCALE] for row in rows if row.by_owner] == list(OWNER_WEIGHTS)
    for row in rows:
        scores, same = pairs_of(labelled, row.weights)
        cuts = np.unique(scores)
        fpr = np.array([np.mean(scores[~same] >= cut) for cut in cuts])
        tpr = np.array([np.mean(scores[same] >= cut) for cut in cuts])
        f1 = np.array([2 * np.sum(same & (scores >= cut)) / (np.sum(scores >= cut) + same.sum()) for cut in cuts])
        assert row.roc_auc.value == pytest.approx(roc_auc_score(same, scores), abs=1e-4)
        assert row.fpr.value < 0.05
        assert row.tpr.value == pytest.approx(tpr[fpr < 0.05].max(), abs=0.02)
        assert row.f1 == pytest.approx(f1.max(), abs=0.01)
        assert row.fpr.low < row.fpr.value < row.fpr.high
    best = owner_choice(rows)
    assert best is not None
    assert best.tpr.value == max(row.tpr.value for row in rows if row.by_owner)


def test_the_owners_table_is_empty_for_one_branch() -> None:
    world = herd(4, individuals=5)
    one = MatchPolicy(threshold=0.9, new_below=0.2, weights={MULTISCALE: 1.0})

    assert weight_grid(world.labelled(world.vectors(1.0)), one) == ()
    assert owner_choice(()) is None


def test_an_individual_has_no_part_in_the_policy_that_judges_it() -> None:
    world = herd(5, individuals=100, encounters=3)
    labelled = world.labelled(world.vectors(1.2))
    before = fit(labelled, LIVE, folds=3).fitted
    group = before.folds_of(list(labelled.names))
    # More noise on that group alone, not so much that the policy for use would name nobody.
    other = world.vectors(np.where(group[labelled.individual] == 1, 1.3, 1.2))

    after = fit(world.labelled(other), LIVE, folds=3).fitted

    assert after.without[1] == before.without[1]
    assert after.policy != before.policy
    assert after.without[0] != before.without[0]


def test_a_fitted_policy_names_animals_and_says_at_what_price() -> None:
    world = herd(6, individuals=120, encounters=4)
    labelled = world.labelled(world.vectors(1.2))

    tuned = fit(labelled, LIVE)

    policy = tuned.fitted.policy
    assert NEVER_OPENS < policy.new_below <= policy.threshold < NEVER_NAMES
    assert policy.odds is not None
    assert tuned.fpir.high <= 0.05
    searches = search(labelled, tuned.fitted)
    thresholds = np.array([tuned.fitted.without[fold].threshold for fold in searches.fold])
    assert tuned.fpir == fpir_at(searches, thresholds)
    assert tuned.fnir.value == fnir_at(searches, thresholds).value
    price = tuned.rationale[-1]
    assert f"not named rightly {100 * tuned.fnir.value:.1f} %" in price
    assert any("by F1" in reason for reason in tuned.rationale)
    assert all(reason.isascii() for reason in tuned.rationale)
    assert FittedPolicy.model_validate_json(tuned.fitted.model_dump_json()) == tuned.fitted
    assert json.loads(json.dumps(tuned.as_dict()))["policy"]["threshold"] == policy.threshold


def test_a_larger_gallery_asks_for_a_higher_threshold() -> None:
    world = herd(7, individuals=200, encounters=2)
    labelled = world.labelled(world.vectors(1.2))

    small, large = (fit(labelled, LIVE, folds=2, gallery_size=size).fitted.policy for size in (200, 390))

    assert small.threshold < large.threshold < NEVER_NAMES
    assert fit(labelled, LIVE, folds=2, gallery_size=2000).fitted.policy.threshold == NEVER_NAMES


def test_with_few_individuals_nobody_is_named_and_none_opened_whatever_they_look_like() -> None:
    world = herd(8, individuals=20, encounters=3)

    tuned = fit(world.labelled(world.vectors(0.1)), LIVE)

    for policy in (tuned.fitted.policy, *tuned.fitted.without):
        assert (policy.threshold, policy.new_below) == (NEVER_NAMES, NEVER_OPENS)
    assert tuned.fnir.value == 1.0
    assert any("No animal is named: from 20 individuals" in reason for reason in tuned.rationale)


def test_judging_policies_name_animals_where_the_one_for_use_does() -> None:
    """65 individuals can claim 5 %, but no four fifths of them: a policy that never names would vouch for this one."""
    world = herd(9, individuals=65, encounters=4)

    tuned = fit(world.labelled(world.vectors(0.6)), LIVE)

    assert tuned.fitted.policy.threshold < NEVER_NAMES
    assert all(policy.threshold < NEVER_NAMES for policy in tuned.fitted.without)
    assert tuned.fnir.value < 0.5
    assert any("too few individuals are left to claim a threshold" in reason for reason in tuned.rationale)


def test_what_tuning_does_not_choose_stays() -> None:
    base = LIVE.model_copy(update={"sex_rule": "soft", "shortlist": 9, "margin": 0.02})
    world = herd(10, individuals=65, encounters=2)

    policy = fit(world.labelled(world.vectors(0.6)), base, bound=0.06, folds=2).fitted.policy

    assert (policy.sex_rule, policy.shortlist, policy.margin) == ("soft", 9, 0.02)
    assert policy.false_positive_bound == 0.06


def test_a_policy_of_one_branch_keeps_its_weights() -> None:
    world = herd(11, individuals=65, encounters=2)
    labelled = world.labelled({**world.vectors(0.6), "baseline": world.vectors(0.6)[MULTISCALE]})

    tuned = fit(labelled, V1_POLICY, folds=2)

    assert tuned.fitted.policy.weights == {"baseline": 1.0}
    assert (tuned.fitted.policy.unit, tuned.fitted.policy.gallery) == ("picture", "profile")
    assert tuned.fitted.policy.threshold < NEVER_NAMES


def test_nothing_to_fit_on_is_an_error() -> None:
    world = herd(12, individuals=3)
    labelled = world.labelled(world.vectors(1.0))

    with pytest.raises(ValueError, match="no labelled detection"):
        fit(labelled.rows(np.zeros(len(labelled), dtype=bool)), LIVE)
    with pytest.raises(ValueError, match="bound"):
        fit(labelled, LIVE, bound=0.0)


def test_one_animal_seen_once_is_fitted_without_a_claim() -> None:
    world = herd(13, individuals=1, encounters=1)

    tuned = fit(world.labelled(world.vectors(1.0)), LIVE)

    assert tuned.fitted.policy.threshold == NEVER_NAMES
    assert np.isnan(tuned.fnir.value)


@pytest.mark.slow
def test_thresholds_hold_on_individuals_outside_the_fit_in_nineteen_of_twenty_splits() -> None:
    held = 0
    for seed in range(20):
        world = herd(100 + seed, individuals=160, encounters=3)
        noise = 0.6 + np.random.default_rng(seed).gamma(1.0, 0.6, len(world.individual))  # some pictures are bad
        labelled = world.labelled(world.vectors(noise))
        half = np.random.default_rng(seed).permutation(160) < 80
        policy = fit(labelled.of_individuals(half), LIVE, folds=2).fitted.policy
        searches = search(labelled.of_individuals(~half), FittedPolicy(policy=policy))
        held += fpir_at(searches, policy.threshold).value <= 0.05
        assert policy.threshold < NEVER_NAMES
    assert held >= 19
