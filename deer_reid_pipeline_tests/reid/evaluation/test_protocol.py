"""The protocol as a whole: what is compared with what, by which policy, beside which controls."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from deer_reid_pipeline.reid.evaluation.blocks import fused_blocks
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation
from deer_reid_pipeline.reid.evaluation.known_pairs import change, false_pairs, true_pairs
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.protocol import STAGES, evaluate, remembered
from deer_reid_pipeline.reid.fitted import FittedPolicy, fold_of
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import BRANCHES, FloatArray, VectorSet, unit

SIZE = 16
POLICY = MatchPolicy(threshold=0.8, new_below=0.2)
PLAIN = FittedPolicy(policy=POLICY)
VIEWS = ("left", "right", None)


def herd(
    *,
    individuals: int = 8,
    encounters: int = 4,
    shots: int = 3,
    signal: float = 1.0,
    same_place: float = 0.0,
    seed: int = 0,
) -> Labelled:
    """Every individual is met in as many encounters, in turn, with as many pictures each.

    Args:
        signal: weight of what an individual has of its own.
        same_place: weight of what all pictures of one encounter share.
    """
    rng = np.random.default_rng(seed)
    encounter = np.repeat(np.arange(individuals * encounters), shots)
    individual = encounter % individuals
    vectors = {}
    for branch in BRANCHES:
        own, place = rng.normal(size=(individuals, SIZE)), rng.normal(size=(individuals * encounters, SIZE))
        mixed = signal * own[individual] + same_place * place[encounter] + rng.normal(size=(len(encounter), SIZE))
        vectors[branch] = VectorSet("made-up", branch, unit(mixed.astype(np.float32)))
    count = len(encounter)
    return Labelled(
        keys=[f"d{row:04d}" for row in range(count)],
        vectors=vectors,
        individual=individual,
        encounter=encounter,
        burst=encounter,
        viewpoints=[VIEWS[row % 3] for row in range(count)],
        names=[f"N{code:03d}" for code in range(individuals)],
        sexes=["unknown"] * count,
        strata={
            "light": ["infrared" if code % 2 else "day" for code in encounter.tolist()],
            "camera": [""] * count,
        },
    )


def fused(labelled: Labelled) -> FloatArray:
    multiscale, efficientnet = (labelled.vectors[b].vectors for b in ("multiscale", "efficientnet"))
    similarity: FloatArray = 0.6 * multiscale @ multiscale.T + 0.4 * efficientnet @ efficientnet.T
    return similarity


def by_hand(labelled: Labelled, *, leaky: bool = False, cross: bool = False) -> dict[str, float]:
    """ROC-AUC, rank-1 and mAP of every pair that the protocol compares, pair by pair."""
    similarity = fused(labelled)
    scores, labels, first, precision = [], [], [], []
    for i in range(len(labelled)):
        kept: list[tuple[float, bool]] = []
        for j in range(len(labelled)):
            opposite = {labelled.viewpoints[i], labelled.viewpoints[j]} == {"left", "right"}
            same = labelled.individual[i] == labelled.individual[j]
            junk = i == j or (same and not leaky and labelled.encounter[i] == labelled.encounter[j])
            if junk or opposite != cross:
                continue
            kept.append((float(similarity[i, j]), bool(same)))
        scores += [score for score, _ in kept]
        labels += [same for _, same in kept]
        if any(same for _, same in kept):
            first.append(max(kept)[1])
            precision.append(average_precision_score([same for _, same in kept], [score for score, _ in kept]))
    return {
        "roc_auc": float(roc_auc_score(labels, scores)),
        "rank1": float(np.mean(first)),
        "map": float(np.mean(precision)),
    }


@pytest.fixture(scope="module")
def judged() -> Evaluation:
    return evaluate(herd(), PLAIN)


def test_figures_agree_with_comparing_pair_by_pair(judged: Evaluation) -> None:
    labelled = herd()
    for found, expected in (
        (judged.statistics, by_hand(labelled)),
        (judged.leaky, by_hand(labelled, leaky=True)),
        (judged.cross_flank, by_hand(labelled, cross=True)),
    ):
        for name in set(found) & set(expected):
            assert found[name].value == pytest.approx(expected[name], abs=1e-4), name
    assert set(judged.cross_flank) == {"roc_auc", "rank1"}


def test_counts_are_those_of_the_design(judged: Evaluation) -> None:
    assert judged.counts == {
        "individuals": 8,
        "encounters": 32,
        "detections": 96,
        "returning_individuals": 8,
        "mated_searches": 24,  # all but the first of each individual
        "non_mated_searches": 32,
        "gallery_size": 7,
    }
    assert judged.true == 8
    assert judged.recipe_id == "made-up"


def test_every_figure_of_the_specification_is_there(judged: Evaluation) -> None:
    wanted = {
        "rank1",
        "rank5",
        "map",
        "map_individual",
        "roc_auc",
        "d_prime",
        "eer",
        "fnir_at_fpir_1",
        "fnir_at_fpir_5",
    }
    wanted |= {"fnir", "named", "baks", "baus", "baks_baus", "ari", "pair_precision", "pair_recall"}
    assert set(judged.statistics) == wanted  # calibration error only where probabilities were stated
    assert set(judged.rates) == {"fpir", "fpir_individual", "fpir_first", "wrong_names", "opened_as_new"}


def test_the_real_gallery_is_kept_and_is_never_smaller_than_the_labelled_one() -> None:
    assert evaluate(herd(), PLAIN, gallery_size=500).counts["known_individuals"] == 500
    assert evaluate(herd(), PLAIN, gallery_size=3).counts["known_individuals"] == 8


def test_what_happens_to_returning_animals_is_counted_over_the_whole_policy() -> None:
    for policy in (POLICY, POLICY.model_copy(update={"margin": 2.0}), POLICY.model_copy(update={"new_below": 0.8})):
        found = evaluate(herd(signal=2.0), FittedPolicy(policy=policy))
        assert found.raw is not None
        decided = found.raw.decided
        returning = decided.known_before & decided.comparable
        named = returning & (decided.outcome == "matched") & (decided.said == decided.individual)
        called_new = returning & (decided.outcome == "new_individual")
        assert found.statistics["named"].value == pytest.approx(named.sum() / returning.sum())
        assert found.rates["opened_as_new"].value == pytest.approx(called_new.sum() / returning.sum())
        assert (found.statistics["named"].value == 0) is (policy.margin > 1)
        assert (found.rates["opened_as_new"].value > 0.05) is (policy.new_below == 0.8)


def test_the_strata_make_up_the_rate_of_names_for_unknown_animals() -> None:
    found = evaluate(herd(), FittedPolicy(policy=POLICY.model_copy(update={"threshold": 0.4})))
    parts = [found.strata["light"][value]["fpir"] for value in ("day", "infrared")]
    assert sum(part.n for part in parts) == found.rates["fpir"].n
    assert sum(part.n * part.value for part in parts) == pytest.approx(
        found.rates["fpir"].n * found.rates["fpir"].value
    )
    assert found.rates["fpir"].value > 0


def test_what_is_recognised_by_its_place_shows_in_the_leaky_split_only() -> None:
    found = evaluate(herd(individuals=12, signal=0.0, same_place=5.0), PLAIN)
    assert found.leaky["rank1"].value == 1.0
    assert found.statistics["rank1"].value < 0.35
    assert found.statistics["roc_auc"].value == pytest.approx(0.5, abs=0.1)


def test_strata_split_the_queries_and_share_the_gallery(judged: Evaluation) -> None:
    """Weighted by their queries, the strata make up the whole; a column that says nothing is no stratum."""
    assert set(judged.strata) == {"light"}
    assert set(judged.strata["light"]) == {"day", "infrared"}
    for metric in ("map", "rank1"):
        parts = [judged.strata["light"][value][metric] for value in ("day", "infrared")]
        assert sum(part.n for part in parts) == judged.statistics[metric].n
        total = sum(part.n * part.value for part in parts)
        assert total == pytest.approx(judged.statistics[metric].n * judged.statistics[metric].value)


def test_the_background_is_judged_like_the_animal() -> None:
    labelled = herd()
    telling = evaluate(labelled, PLAIN, control=labelled).control
    assert telling is not None
    assert telling["rank1"].value == pytest.approx(by_hand(labelled)["rank1"])
    part = herd(individuals=8, signal=0.0, seed=3).of_individuals(np.arange(8) < 6)
    silent = evaluate(labelled, PLAIN, control=part).control
    assert silent is not None
    assert silent["roc_auc"].value == pytest.approx(0.5, abs=0.06)
    assert evaluate(labelled, PLAIN).control is None


def test_every_individual_is_judged_by_the_policy_fitted_without_it() -> None:
    """Two folds: one is judged by a branch that tells nobody apart, the other by one that does."""
    labelled = herd(individuals=12, signal=6.0)
    noise = VectorSet("made-up", "efficientnet", herd(individuals=12, signal=0.0, seed=5).vectors["baseline"].vectors)
    labelled = Labelled(**{**vars(labelled), "vectors": {**labelled.vectors, "efficientnet": noise}})
    blind = POLICY.model_copy(update={"weights": {"efficientnet": 1.0}})
    seeing = POLICY.model_copy(update={"weights": {"multiscale": 1.0}})
    found = evaluate(labelled, FittedPolicy(policy=seeing, without=(blind, seeing)))
    folds = np.array([fold_of(name, 2) for name in labelled.names])
    assert 0 < folds.sum() < len(folds)
    assert found.raw is not None
    ranking = found.raw.retrieval
    of_second = folds[ranking.individual] == 1
    assert ranking.statistic("rank1", of_second).value == 1.0
    assert ranking.statistic("rank1", ~of_second).value < 0.35
    named = found.raw.decided.outcome == "matched"
    right = found.raw.decided.correct
    assert right[named & (folds[found.raw.decided.individual] == 1)].all()


def test_one_individual_alone_is_judged_without_a_crash() -> None:
    found = evaluate(herd(individuals=1), PLAIN)
    assert found.counts["non_mated_searches"] == 0
    assert found.statistics["rank1"].value == 1.0
    assert np.isnan(found.statistics["roc_auc"].value)


def test_individuals_met_once_leave_nothing_to_rank() -> None:
    found = evaluate(herd(encounters=1), PLAIN)
    assert (found.counts["mated_searches"], found.counts["returning_individuals"]) == (0, 0)
    assert np.isnan(found.statistics["rank1"].value)
    assert found.rates["fpir"].n == 8


def test_nothing_labelled_is_nothing_to_judge() -> None:
    labelled = herd()
    with pytest.raises(ValueError, match="nothing to judge"):
        evaluate(labelled.rows(np.zeros(len(labelled), dtype=bool)), PLAIN)


def test_progress_goes_from_nothing_to_everything() -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(herd(individuals=3), PLAIN, progress=lambda *item: told.append(item))
    assert [done for _, done, _ in told] == list(range(len(STAGES) + 1))
    assert told[0][0] == STAGES[0]


@pytest.mark.parametrize("most", [0, 4 * 96 * 40, 10**9], ids=["nothing kept", "a part kept", "all kept"])
def test_remembered_similarities_are_the_same_and_belong_to_the_caller(most: int) -> None:
    labelled = herd()
    plain = fused_blocks(labelled, PLAIN)
    kept = remembered(plain, len(labelled), most)
    rng = np.random.default_rng(0)
    for _ in range(6):
        rows = rng.permutation(len(labelled))[:50]
        found = kept(rows)
        np.testing.assert_allclose(found, plain(rows), atol=1e-6)
        found[:] = np.nan


def test_similarities_are_computed_once() -> None:
    labelled = herd()
    plain, asked = fused_blocks(labelled, PLAIN), np.zeros(len(labelled), dtype=np.int64)

    def counting(rows: np.ndarray) -> FloatArray:
        asked[rows] += 1
        return plain(rows)

    block = remembered(counting, len(labelled))
    for rows in (np.arange(0, 60), np.arange(96)[::-1], np.arange(30, 90)):
        block(rows)
    assert (asked == 1).all()


def test_known_pairs_agree_with_comparing_pair_by_pair() -> None:
    labelled = herd(individuals=6)
    labelled = Labelled(
        **{**vars(labelled), "sexes": [["male", "female", "unknown"][c % 3] for c in labelled.individual]}
    )
    similarity = fused(labelled)
    true, false, above, same_sex = [], 0, 0, []
    for i in range(len(labelled)):
        for j in range(len(labelled)):
            if {labelled.viewpoints[i], labelled.viewpoints[j]} == {"left", "right"}:
                continue
            if labelled.individual[i] != labelled.individual[j]:
                false += 1
                above += similarity[i, j] > 0.1
                if labelled.sexes[i] == labelled.sexes[j] != "unknown":
                    same_sex.append(similarity[i, j])
            elif labelled.encounter[i] != labelled.encounter[j]:
                true.append(similarity[i, j])
    pairs = true_pairs(labelled, PLAIN, None, least=5)
    assert pairs.pairs == len(true) // 2
    assert pairs.mean == pytest.approx(np.mean(true), abs=1e-6)
    assert true_pairs(labelled, PLAIN, None, least=13).pairs == 0
    apart = false_pairs(labelled, PLAIN, 0.1, 0.05)
    assert apart.share_above().value == pytest.approx(above / false)
    assert apart.share_above().n == false // 2
    assert apart.same_sex_highest == pytest.approx(max(same_sex), abs=1e-6)
    assert apart.same_sex_mean == pytest.approx(np.mean(same_sex), abs=1e-6)
    assert apart.same_sex_reaching == pytest.approx(np.mean(np.array(same_sex) >= 0.05))


def test_a_change_in_percent_is_that_of_the_means() -> None:
    labelled = herd(individuals=6)
    v1, v3 = (true_pairs(labelled, PLAIN, branch, least=5) for branch in ("baseline", None))
    found = change(v1, v3)
    assert found.value == pytest.approx(100 * (v3.mean / v1.mean - 1))
    assert found.low < found.value < found.high
    assert change(v1, v1).value == 0.0
