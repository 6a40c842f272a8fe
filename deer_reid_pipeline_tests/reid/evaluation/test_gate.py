"""The release gate on evaluations whose figures are made by hand, and on worlds whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from deer_reid_pipeline.reid.evaluation.criteria import (
    FEWEST_IN_STRATUM,
    FEWEST_RETURNING,
    MAX_STRATUM_LOSS,
    fewest_error_free,
    one_sided,
)
from deer_reid_pipeline.reid.evaluation.estimates import (
    Estimate,
    Statistic,
    clustered_rate,
    mean_of_individuals,
    rate,
    ratio,
)
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation
from deer_reid_pipeline.reid.evaluation.gate import FAIL, INCONCLUSIVE, PASS, Verdict, judge_candidate, judge_live
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy

ANIMALS = 100
POLICY = MatchPolicy(threshold=0.9, new_below=0.1)


def around(mean: float, individuals: int = ANIMALS, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    """One value an individual, with exactly this mean."""
    values = np.random.default_rng(seed).normal(size=individuals)
    return mean + spread * (values - values.mean()) / values.std()


def share(mean: float, individuals: int = ANIMALS) -> Statistic:
    """A rate of ten trials an individual, the same in all at both ends."""
    return ratio(10 * around(mean, individuals, 0.1 * mean * (1 - mean)), np.full(individuals, 10.0))


def evaluation(
    *,
    recipe: str = "one",
    individuals: int = ANIMALS,
    ranking: np.ndarray | None = None,
    fnir: Statistic | None = None,
    fpir: Estimate | None = None,
    wrong_names: Estimate | None = None,
    strata: Mapping[str, Mapping[str, Mapping[str, Statistic]]] | None = None,
    control: float | None = 0.52,
    counts: Mapping[str, int] | None = None,
    made: int = ANIMALS,
    rates: Mapping[str, Estimate] | None = None,
    policies: FittedPolicy | None = None,
    **more: Statistic,
) -> Evaluation:
    ranking = around(0.5, individuals) if ranking is None else ranking
    fnir = fnir or share(0.4, individuals)
    ordinary = {"flank": {"left": {"map": mean_of_individuals(ranking)}}}
    return Evaluation(
        recipe_id=recipe,
        policies=policies or FittedPolicy(policy=POLICY),
        counts={"individuals": individuals, "encounters": 300, "detections": 1000, **(counts or {})},
        statistics={
            "map": mean_of_individuals(ranking),
            "rank1": share(0.5, individuals),
            "roc_auc": mean_of_individuals(around(0.9, individuals, 0.05)),
            "fnir": fnir,
            "named": replace(fnir, of=lambda weights: 1 - fnir.of(weights)),
            "pair_precision": mean_of_individuals(around(0.97, individuals, 0.01)),
            **more,
        },
        rates={
            "fpir": fpir or rate(0, individuals),
            "wrong_names": wrong_names or rate(0, 100),
            "opened_as_new": rate(0, individuals),
            **(rates or {}),
        },
        strata=ordinary if strata is None else strata,
        control=None if control is None else {"roc_auc": mean_of_individuals(around(control, individuals, 0.05))},
        made=made,
        true=individuals,
    )


def found(verdict: Verdict, name: str) -> bool | None:
    return next(finding.ok for finding in verdict.findings if finding.name == name)


def text(verdict: Verdict, name: str) -> str:
    return next(finding.text for finding in verdict.findings if finding.name == name)


@pytest.mark.parametrize(("bound", "trials"), [(0.05, 59), (0.01, 299), (0.10, 29)])
def test_fewest_error_free_trials_are_those_of_the_rule_of_three(bound: float, trials: int) -> None:
    assert fewest_error_free(bound) == trials
    assert (1 - bound) ** trials <= 0.05 < (1 - bound) ** (trials - 1)


@pytest.mark.parametrize("bound", [0.0, 1.0, -0.1])
def test_a_bound_that_is_no_rate_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        fewest_error_free(bound)


@pytest.mark.parametrize(("errors", "trials"), [(0, 59), (1, 93), (2, 124), (7, 80), (80, 80), (79, 80)])
def test_one_sided_bounds_are_recovered_from_the_two_sided_interval(errors: int, trials: int) -> None:
    low, high = one_sided(rate(errors, trials))

    assert high == pytest.approx(
        stats.binomtest(errors, trials, alternative="less").proportion_ci(0.95, method="exact").high, abs=1e-6
    )
    assert low == pytest.approx(
        stats.binomtest(errors, trials, alternative="greater").proportion_ci(0.95, method="exact").low, abs=1e-6
    )


def test_one_sided_bounds_of_clustered_trials_lie_inside_the_two_sided_interval() -> None:
    measured = clustered_rate(np.array([3, 0, 0, 1, 0, 0, 0, 0]), np.array([4, 2, 5, 3, 4, 4, 2, 6]))

    low, high = one_sided(measured)

    assert measured.low < low < measured.value < high < measured.high


def test_one_sided_bounds_of_nothing_measured_are_everything() -> None:
    assert one_sided(Estimate(float("nan"), 0.0, 1.0, 0, 0)) == (0.0, 1.0)


def test_a_trustworthy_release_passes_with_its_numbers() -> None:
    verdict = judge_live(evaluation())

    assert verdict.verdict == PASS
    assert verdict.reasons == ()
    assert "60.0 %" in text(verdict, "names_returning_animals")


@pytest.mark.parametrize(
    ("measured", "ok"),
    [
        (rate(0, 59), True),
        (rate(0, 58), None),
        (rate(1, 93), True),
        (rate(1, 92), None),
        (rate(0, 20), None),
        (rate(20, 20), False),
        (rate(30, 100), False),
    ],
)
def test_the_false_positive_bound_holds_is_broken_or_cannot_be_told(measured: Estimate, ok: bool | None) -> None:
    assert found(judge_live(evaluation(fpir=measured)), "false_positive_bound") is ok


def test_too_few_unknown_animals_say_how_many_are_missing() -> None:
    verdict = judge_live(evaluation(fpir=rate(0, 20)))

    assert verdict.verdict == INCONCLUSIVE
    assert "needs 59 individuals never seen before, has 20" in text(verdict, "false_positive_bound")


def test_a_release_that_names_almost_nobody_fails_as_a_shortlist() -> None:
    verdict = judge_live(evaluation(fnir=share(0.99)))

    assert verdict.verdict == FAIL
    assert "ranked shortlist" in text(verdict, "names_returning_animals")


def test_a_release_that_merges_animals_fails() -> None:
    verdict = judge_live(evaluation(pair_precision=mean_of_individuals(around(0.02, spread=0.01)), made=1))

    assert found(verdict, "keeps_animals_apart") is False
    assert "1 individual of 100" in text(verdict, "keeps_animals_apart")


def test_putting_nothing_together_is_not_merging() -> None:
    nothing = ratio(np.zeros(ANIMALS), np.zeros(ANIMALS))

    assert found(judge_live(evaluation(pair_precision=nothing)), "keeps_animals_apart") is True


def test_chance_level_fails_and_is_inconclusive_of_few_animals() -> None:
    chance = mean_of_individuals(around(0.5, spread=0.2))
    few = mean_of_individuals(around(0.5, 20, 0.2))

    assert found(judge_live(evaluation(roc_auc=chance)), "better_than_chance") is False
    assert found(judge_live(evaluation(individuals=20, roc_auc=few)), "better_than_chance") is None


@pytest.mark.parametrize(("auc", "ok"), [(0.52, True), (0.60, None), (0.75, False), (None, None)])
def test_the_background_alone_must_be_near_chance(auc: float | None, ok: bool | None) -> None:
    live, candidate = evaluation(), evaluation(ranking=around(0.6), recipe="two", control=auc)

    assert found(judge_live(candidate), "background_control") is ok
    assert found(judge_candidate(candidate, live), "background_control") is ok


def test_a_candidate_with_the_same_vectors_has_the_background_of_the_live_release() -> None:
    live, candidate = evaluation(control=0.75), evaluation(control=None)

    assert found(judge_candidate(candidate, live), "background_control") is False
    assert found(judge_candidate(evaluation(control=None, recipe="two"), live), "background_control") is None


def test_a_better_ranking_is_promoted() -> None:
    live = evaluation()
    candidate = evaluation(recipe="two", ranking=around(0.5) + around(0.05, spread=0.05, seed=1))

    verdict = judge_candidate(candidate, live)

    assert verdict.verdict == PASS
    assert "+5.0 points" in text(verdict, "improvement")


@pytest.mark.parametrize(
    ("gain", "spread", "ok"),
    [
        (0.005, 0.001, False),  # surely above zero, and too small to matter
        (0.0, 0.0, False),  # nothing changed
        (-0.05, 0.01, False),
        (0.03, 0.3, None),  # could be chance
    ],
)
def test_what_is_no_improvement(gain: float, spread: float, ok: bool | None) -> None:
    live = evaluation()
    candidate = evaluation(recipe="two", ranking=around(0.5) + around(gain, spread=spread, seed=1))

    verdict = judge_candidate(candidate, live)

    assert found(verdict, "improvement") is ok
    assert verdict.verdict != PASS


@pytest.mark.parametrize(
    ("gain", "spread", "ok"),
    [
        (0.0, 0.01, True),  # nothing lost, and the second network saved
        (-0.002, 0.01, True),  # a loss of a point is ruled out
        (-0.005, 0.05, None),  # a loss of a point is not ruled out
        (-0.03, 0.01, False),
        (0.05, 0.5, None),  # a gain may be chance, and so may it hide a loss
    ],
)
def test_doing_without_the_second_network_is_worth_it_where_the_ranking_is_kept(
    gain: float, spread: float, ok: bool | None
) -> None:
    fast = FittedPolicy(policy=POLICY.model_copy(update={"weights": {"multiscale": 1.0}}))
    ranking = around(0.5) + around(gain, spread=spread, seed=1)

    verdict = judge_candidate(evaluation(ranking=ranking, policies=fast), evaluation())

    assert found(verdict, "improvement") is ok
    assert verdict.verdict == {True: PASS, None: INCONCLUSIVE, False: FAIL}[ok]
    assert judge_candidate(evaluation(policies=fast), evaluation(policies=fast)).verdict == FAIL, "nothing is saved"
    other = judge_candidate(evaluation(recipe="two", ranking=ranking, policies=fast), evaluation())
    assert found(other, "improvement") is not True, "of another recipe, the ranking must be better"


FAST = FittedPolicy(policy=POLICY.model_copy(update={"weights": {"multiscale": 1.0}}))


def test_nothing_else_that_a_fast_candidate_gains_makes_up_for_a_loss_of_ranking() -> None:
    unclear = around(0.5) + around(-0.005, spread=0.05, seed=1)
    stating = {"calibration_error": share(0.02), "brier_gain": mean_of_individuals(around(0.1, spread=0.01))}
    assert found(judge_candidate(evaluation(**stating), evaluation()), "improvement") is True
    for gains in (stating, {"fnir": share(0.1)}):
        verdict = judge_candidate(evaluation(ranking=unclear, policies=FAST, **gains), evaluation(fnir=share(0.9)))
        assert found(verdict, "improvement") is None
        assert verdict.verdict == INCONCLUSIVE


def test_a_fast_candidate_that_names_fewer_animals_is_refused_though_the_loss_may_be_chance() -> None:
    verdict = judge_candidate(evaluation(policies=FAST, fnir=share(0.43)), evaluation(fnir=share(0.4)))
    assert found(verdict, "improvement") is False


def test_few_animals_cannot_show_that_the_second_network_is_not_needed() -> None:
    verdict = judge_candidate(evaluation(individuals=20, policies=FAST), evaluation(individuals=20))
    assert found(verdict, "improvement") is None
    assert "it needs" in text(verdict, "improvement")


def test_a_worse_ranking_is_refused_whatever_else_gains() -> None:
    live = evaluation(fnir=share(0.9))
    candidate = evaluation(ranking=around(0.45), fnir=share(0.4))

    verdict = judge_candidate(candidate, live)

    assert found(verdict, "improvement") is True
    assert found(verdict, "ranking_kept") is False
    assert verdict.verdict == FAIL


def test_naming_more_animals_within_the_bound_is_an_improvement_of_the_same_recipe_only() -> None:
    live, same = evaluation(fnir=share(0.9)), evaluation(fnir=share(0.4))

    assert judge_candidate(same, live).verdict == PASS
    assert judge_candidate(evaluation(recipe="two", fnir=share(0.4)), live).verdict == FAIL


def test_naming_more_animals_by_breaking_the_bound_is_refused() -> None:
    verdict = judge_candidate(evaluation(fnir=share(0.1), fpir=rate(40, 100)), evaluation(fnir=share(0.9)))

    assert verdict.verdict == FAIL
    assert found(verdict, "improvement") is False


def test_keeping_a_bound_that_the_live_release_breaks_is_worth_the_names_it_costs() -> None:
    live = evaluation(fnir=share(0.1), fpir=rate(90, 100))
    candidate = evaluation(fnir=share(0.95), fpir=rate(0, 100))

    verdict = judge_candidate(candidate, live)

    assert verdict.verdict == PASS
    assert "price of the bound" in text(verdict, "naming_kept")


def test_naming_fewer_animals_is_refused_where_the_live_release_keeps_the_bound() -> None:
    candidate = evaluation(recipe="two", ranking=around(0.6), fnir=share(0.95))

    verdict = judge_candidate(candidate, evaluation(fnir=share(0.4)))

    assert found(verdict, "improvement") is True
    assert found(verdict, "naming_kept") is False
    assert verdict.verdict == FAIL


def test_three_looks_at_the_same_recipe_are_held_to_a_third_of_the_error() -> None:
    gains = around(0.05, spread=0.23, seed=1)
    level = stats.ttest_1samp(gains, 0.0).pvalue
    assert 0.05 / 3 < level < 0.05

    assert found(judge_candidate(evaluation(recipe="two", ranking=around(0.5) + gains), evaluation()), "improvement")
    assert found(judge_candidate(evaluation(ranking=around(0.5) + gains), evaluation()), "improvement") is None


def by_stratum(values: Mapping[str, np.ndarray]) -> Mapping[str, Mapping[str, Mapping[str, Statistic]]]:
    return {"light": {name: {"map": mean_of_individuals(part)} for name, part in values.items()}}


def only(values: np.ndarray, individuals: slice) -> np.ndarray:
    part = np.full(ANIMALS, np.nan)
    part[individuals] = values[individuals]
    return part


@pytest.mark.parametrize(
    ("night", "spread", "ok"),
    [(-0.15, 0.05, False), (-0.15, 0.6, None), (-0.08, 0.2, True), (-0.09, 0.01, True)],
)
def test_a_stratum_may_not_lose_more_than_ten_points(night: float, spread: float, ok: bool | None) -> None:
    live = around(0.5)
    day_half, night_half = slice(0, 50), slice(50, 100)
    ranking = live.copy()
    ranking[day_half] += 0.5
    ranking[night_half] += around(night, 50, spread, seed=1)
    sides = [by_stratum({"day": only(v, day_half), "infrared": only(v, night_half)}) for v in (live, ranking)]

    verdict = judge_candidate(
        evaluation(recipe="two", ranking=ranking, strata=sides[1]), evaluation(ranking=live, strata=sides[0])
    )

    assert found(verdict, "strata") is ok
    assert found(verdict, "improvement") is True
    assert (verdict.verdict == PASS) is (ok is True)
    if ok is not True or spread == 0.2:
        assert "light infrared" in text(verdict, "strata")


def test_small_strata_are_named_as_not_judged() -> None:
    live = around(0.5)
    few = slice(0, FEWEST_IN_STRATUM - 1)
    broken = live.copy()
    broken[few] -= MAX_STRATUM_LOSS * 2
    sides = [by_stratum({"day": v, "infrared": only(v, few)}) for v in (live, broken)]

    verdict = judge_candidate(evaluation(strata=sides[1]), evaluation(strata=sides[0]))

    assert found(verdict, "strata") is True
    assert "Not judged, fewer than 10 individuals: light infrared" in text(verdict, "strata")


def test_other_data_cannot_be_compared() -> None:
    verdict = judge_candidate(evaluation(counts={"detections": 999}), evaluation())

    assert verdict.verdict == INCONCLUSIVE
    assert "999 detections against 1000" in verdict.reasons[0]


def test_twenty_animals_are_inconclusive_however_good_the_candidate() -> None:
    live = evaluation(individuals=20)
    candidate = evaluation(individuals=20, recipe="two", ranking=around(0.9, 20), fnir=share(0.0, 20))

    verdict = judge_candidate(candidate, live)

    assert verdict.verdict == INCONCLUSIVE
    assert f"needs {FEWEST_RETURNING} individuals seen twice or more, has 20" in text(verdict, "improvement")
    assert judge_live(candidate).verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    ("opened", "before", "live_ok", "candidate_ok"),
    [
        (rate(0, 100), rate(0, 100), True, True),
        (rate(4, 100), rate(0, 100), None, True),  # within the bound, though not shown
        (rate(30, 100), rate(0, 100), False, False),
        (rate(30, 100), rate(40, 100), False, True),  # no worse than what is live
        (rate(6, 100), rate(0, 100), None, None),
    ],
)
def test_returning_animals_may_not_be_opened_as_new(
    opened: Estimate, before: Estimate, live_ok: bool | None, candidate_ok: bool | None
) -> None:
    candidate, live = evaluation(rates={"opened_as_new": opened}), evaluation(rates={"opened_as_new": before})

    assert found(judge_live(candidate), "keeps_animals_together") is live_ok
    assert found(judge_candidate(candidate, live), "keeps_animals_together") is candidate_ok


@pytest.mark.parametrize(
    ("ours", "theirs", "ok"), [(0.5, 0.97, False), (0.5, 0.4, True), (0.5, 0.5, True), (0.97, 0.99, True)]
)
def test_a_candidate_may_not_merge_more_animals(ours: float, theirs: float, ok: bool | None) -> None:
    candidate, live = (
        evaluation(pair_precision=mean_of_individuals(around(value, spread=0.01))) for value in (ours, theirs)
    )

    assert found(judge_candidate(candidate, live), "keeps_animals_apart") is ok


@pytest.mark.parametrize(
    ("rates", "ok", "words"),
    [
        ({"fpir_individual": rate(30, 100)}, False, "each individual counting once"),
        ({"fpir_individual": rate(4, 100)}, None, "each individual counting once"),
        ({"fpir_individual": rate(0, 100)}, True, "in 0.0 % of searches"),
        ({"fpir_first": rate(30, 100)}, False, "for the first time"),
        ({"fpir_first": rate(4, 100)}, True, "in 0.0 % of searches"),
    ],
)
def test_the_worst_rate_of_wrong_names_counts(rates: Mapping[str, Estimate], ok: bool | None, words: str) -> None:
    verdict = judge_live(evaluation(fpir=rate(0, 100), rates=rates))

    assert found(verdict, "false_positive_bound") is ok
    assert words in text(verdict, "false_positive_bound")


def test_the_bound_is_that_of_the_real_gallery() -> None:
    small, large = {"gallery_size": 99, "known_individuals": 99}, {"gallery_size": 99, "known_individuals": 1000}

    assert found(judge_live(evaluation(counts=small)), "false_positive_bound") is True
    verdict = judge_live(evaluation(counts=large))
    assert found(verdict, "false_positive_bound") is None
    assert "a gallery of 99 of the 1000 known ones" in text(verdict, "false_positive_bound")
    needed = int(text(verdict, "false_positive_bound").split("needs ")[1].split()[0])
    assert ANIMALS < needed < 1000
    for individuals, ok in ((needed, True), (needed - 1, None)):
        enough = {"gallery_size": individuals - 1, "known_individuals": 1000}
        shown = judge_live(evaluation(fpir=rate(0, individuals), counts=enough))
        assert found(shown, "false_positive_bound") is ok


def test_a_candidate_does_not_choose_its_bound() -> None:
    bold = evaluation(policies=FittedPolicy(policy=POLICY.model_copy(update={"false_positive_bound": 0.3})))
    careful = evaluation(policies=FittedPolicy(policy=POLICY.model_copy(update={"false_positive_bound": 0.01})))

    assert found(judge_candidate(bold, evaluation(), 0.05), "same_bound") is None
    assert "a person must decide" in text(judge_candidate(bold, evaluation(), 0.05), "same_bound")
    assert all(finding.name != "same_bound" for finding in judge_candidate(careful, evaluation(), 0.05).findings)


@pytest.mark.parametrize(
    ("used", "judging", "open_"),
    [
        ({"threshold": -1.0, "new_below": -1.0}, [{"threshold": 0.55}] * 5, True),
        ({"threshold": 0.52}, [{"threshold": 0.55}, {"threshold": 0.6}], False),
        ({"new_below": 0.9}, [{}] * 5, True),
        ({"threshold": 0.545}, [{"threshold": 0.55}] * 5, False),
    ],
)
def test_what_is_used_may_not_be_bolder_than_what_was_judged(
    used: dict[str, float], judging: list[dict[str, float]], open_: bool
) -> None:
    folds = tuple(POLICY.model_copy(update=item) for item in judging)
    policies = FittedPolicy(policy=POLICY.model_copy(update=used), without=folds)

    for verdict in (
        judge_live(evaluation(policies=policies)),
        judge_candidate(evaluation(policies=policies), evaluation()),
    ):
        assert [f.ok for f in verdict.findings if f.name == "judged_as_used"] == ([None] if open_ else [])


def test_judging_policies_differ_in_what_was_fitted_only() -> None:
    FittedPolicy(policy=POLICY, without=(POLICY.model_copy(update={"threshold": 0.8, "new_below": 0.2}),))
    for name, value in (("margin", 0.1), ("sex_rule", "off"), ("unit", "picture"), ("false_positive_bound", 0.2)):
        with pytest.raises(ValueError, match=f"differs from the policy in use in {name}"):
            FittedPolicy(policy=POLICY, without=(POLICY.model_copy(update={name: value}),))


@pytest.mark.parametrize(
    ("ours", "theirs", "ok"),
    [(rate(10, 100), rate(0, 100), False), (rate(5, 100), rate(0, 1000), True), (rate(10, 100), rate(8, 100), True)],
)
def test_a_candidate_may_not_give_clearly_more_wrong_names(ours: Estimate, theirs: Estimate, ok: bool) -> None:
    assert found(judge_candidate(evaluation(wrong_names=ours), evaluation(wrong_names=theirs)), "names_kept") is ok


@pytest.mark.parametrize(("gain", "low", "promoted"), [(0.05, 0.01, True), (0.0, 0.01, False), (-0.01, 0.01, False)])
def test_probabilities_are_worth_stating_where_they_say_more_than_the_base_rate(
    gain: float, low: float, promoted: bool
) -> None:
    states = evaluation(
        calibration_error=share(0.02), brier_gain=mean_of_individuals(around(gain, spread=low), -1.0, 0.25)
    )

    verdict = judge_candidate(states, evaluation())

    assert found(verdict, "probabilities") is True
    assert (found(verdict, "improvement") is True) is promoted


def test_every_sentence_is_ascii_and_ends() -> None:
    worlds: Sequence[Evaluation] = [
        evaluation(),
        evaluation(individuals=8),
        evaluation(fpir=rate(40, 100), control=None, made=1),
        evaluation(recipe="two", ranking=around(0.3), fnir=share(1.0), strata={}),
    ]
    for candidate in worlds:
        for verdict in (judge_live(candidate), judge_candidate(candidate, worlds[0])):
            assert all(f.text.isascii() and f.text.endswith(".") and "nan" not in f.text for f in verdict.findings)
