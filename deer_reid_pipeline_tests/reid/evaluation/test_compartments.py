"""Compartments: what comes from different models is never compared, and is judged as if each were a herd of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deer_reid_pipeline.reid.calibrators import Platt
from deer_reid_pipeline.reid.evaluation.blocks import CROSS, SAME, branch_blocks, fused_blocks, never_compared
from deer_reid_pipeline.reid.evaluation.clustering import cluster
from deer_reid_pipeline.reid.evaluation.decisions import Decided, decide_in_order
from deer_reid_pipeline.reid.evaluation.estimates import Statistic, drawn_weights
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation
from deer_reid_pipeline.reid.evaluation.identification import fpir_at_size, threshold_for
from deer_reid_pipeline.reid.evaluation.known_pairs import false_pairs
from deer_reid_pipeline.reid.evaluation.labelled import Ints, Labelled, in_compartments_of
from deer_reid_pipeline.reid.evaluation.protocol import evaluate
from deer_reid_pipeline.reid.evaluation.retrieval import METRICS, Retrieval, retrieve
from deer_reid_pipeline.reid.evaluation.searches import Searches, search
from deer_reid_pipeline.reid.evaluation.stated import Stated, stated
from deer_reid_pipeline.reid.evaluation.verification import verify
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.odds import Odds, fit_odds
from deer_reid_pipeline.reid.similarity import VectorSet
from deer_reid_pipeline.reid.tuning.crossfit import cross_fitted
from deer_reid_pipeline.reid.tuning.sample import Sample, thinned
from deer_reid_pipeline_tests.reid import worlds
from deer_reid_pipeline_tests.reid.evaluation.open_set import pictured, wild_herd
from deer_reid_pipeline_tests.reid.test_odds import searches as made_up_searches

ODDS = Odds(likelihood=Platt(scale="cosine", slope=6, intercept=-3), base_rate=0.1, new=0.2)
POLICY = FittedPolicy(policy=MatchPolicy(threshold=0.42, new_below=0.35, odds=ODDS))

ANGLES = FittedPolicy(
    policy=MatchPolicy(
        weights={"multiscale": 1.0},
        threshold=float(np.cos(np.deg2rad(12))),
        new_below=float(np.cos(np.deg2rad(14))),
        other_flank="uncertain",
    )
)
"""Named within 12 degrees, new beyond 14, and never new while a known animal cannot be compared."""

A, B, C, D = range(4)


def two_pairs() -> Labelled:
    """A and B in one compartment, C and D in another in whose space the same directions mean other animals."""
    found = pictured(
        [(A, 0, 0), (B, 1, 60), (C, 2, 5), (D, 3, 90), (A, 4, 10), (B, 5, 70), (C, 6, 15), (D, 7, 21)],
    )
    return replace(found, compartment=np.array([0, 0, 1, 1, 0, 0, 1, 1]))


def look_alikes(individuals: int = 24, encounters: int = 3, noise: float = 1.1, **strata: list[str]) -> Labelled:
    """Two compartments: every individual of the second has the true direction of one of the first."""
    made = worlds.herd(3, individuals, encounters, pictures=2, size=16)
    half = individuals // 2
    truth = {branch: np.concatenate([item[:half], item[:half]]) for branch, item in made.truth.items()}
    made = replace(made, truth=truth)
    views = [["left", "right", "front", None][row % 4] for row in range(len(made.individual))]
    labelled = made.labelled(made.vectors(noise), viewpoints=views, strata=strata)
    return replace(labelled, compartment=(labelled.individual >= half).astype(np.int64))


def turned(labelled: Labelled, compartment: int, seed: int = 5) -> Labelled:
    """The same, with the vectors of this compartment rotated, each branch by an orthogonal matrix of its own."""
    assert labelled.compartment is not None
    rng = np.random.default_rng(seed)
    vectors = {}
    for branch, item in labelled.vectors.items():
        rotation = np.linalg.qr(rng.normal(size=(item.vectors.shape[1],) * 2))[0]
        rotated = np.where(
            (labelled.compartment == compartment)[:, None], item.vectors @ rotation.astype(np.float32), item.vectors
        )
        vectors[branch] = VectorSet(item.recipe_id, branch, rotated.astype(np.float32))
    return replace(labelled, vectors=vectors)


def parts_of(labelled: Labelled) -> list[Labelled]:
    """Each compartment as a herd of its own."""
    assert labelled.compartment is not None
    return [
        replace(labelled.rows(labelled.compartment == number), compartment=None)
        for number in np.unique(labelled.compartment)
    ]


def test_a_small_herd_by_hand() -> None:
    """D at 21 degrees looks like C; without compartments C at 5 degrees would be taken for A."""
    judged = evaluate(two_pairs(), ANGLES)
    assert judged.raw is not None
    values = {name: statistic.value for name, statistic in judged.statistics.items()}
    # D at 21 finds itself third, C at 15 second, all others first; one of three candidates is right.
    assert values["rank1"] == pytest.approx(6 / 8)
    assert values["map"] == pytest.approx((6 + 1 / 3 + 1 / 2) / 8)
    assert judged.raw.retrieval.chance_rank1 == pytest.approx(1 / 3)
    # Degrees apart: A, B, C 10 and D 69; strangers 50, 60, 60, 70 in one compartment, 6, 16, 75, 85 in the other.
    assert judged.raw.verification.impostor_pairs == 8
    assert values["roc_auc"] == pytest.approx((3 * 7 + 3) / 32, abs=1e-6)
    assert {frozenset(pair[:2]) for pair in judged.raw.verification.worst_false} == {
        frozenset((4, 1)),  # A at 10 and B at 60
        frozenset((6, 7)),  # C at 15 and D at 21
    }
    # C at 15 and D at 21 are each taken for the other; of the four that come back C and D rank second.
    assert judged.rates["fpir"].value == pytest.approx(2 / 8)
    assert values["fnir"] == pytest.approx(2 / 4)
    assert judged.counts["gallery_size"] == 1
    assert judged.counts["known_individuals"] == 4
    # In the order of time only D at 21 gets a wrong name, and everybody is opened as new.
    assert values["named"] == pytest.approx(3 / 4)
    assert values["baus"] == 1.0
    # Left to itself it has C at 5 only, 16 degrees away: D at 21 is opened a second time.
    assert judged.made == 5
    assert values["pair_precision"] == 1.0
    assert values["pair_recall"] == pytest.approx(3 / 4)
    # 3 pairs of 12 together, 4 the same: (3 - 1) / (3.5 - 1).
    assert values["ari"] == pytest.approx(2 / 2.5)


FIGURES = ("rank1", "map", "roc_auc", "fnir", "named", "baks", "baus", "ari", "pair_precision", "pair_recall")


def figures(judged: Evaluation) -> dict[str, float]:
    found = {name: judged.statistics[name].value for name in (*FIGURES, "brier")}
    found |= {name: rate.value for name, rate in judged.rates.items()}
    found |= {f"leaky {name}": statistic.value for name, statistic in judged.leaky.items()}
    found |= {f"cross {name}": statistic.value for name, statistic in judged.cross_flank.items()}
    return {**found, "made": judged.made}


def test_turning_one_compartment_changes_nothing() -> None:
    labelled = look_alikes()
    plain, rotated = (evaluate(data, POLICY) for data in (labelled, turned(labelled, 1)))
    expected, found = figures(plain), figures(rotated)
    for name, value in expected.items():
        # Areas are of scores in bins; all else is counted.
        assert found[name] == pytest.approx(value, abs=1e-4 if "roc_auc" in name or name == "brier" else 1e-9), name
    assert plain.counts == rotated.counts
    for weights in drawn_weights(24, 20)[:, None]:
        for name in ("rank1", "named", "ari", "pair_precision"):
            np.testing.assert_allclose(
                rotated.statistics[name].of(weights), plain.statistics[name].of(weights), atol=1e-12
            )


def test_without_compartments_turning_changes_nearly_everything() -> None:
    """Or the test above would show nothing."""
    labelled = look_alikes()
    plain, rotated = (
        figures(evaluate(replace(data, compartment=None), POLICY)) for data in (labelled, turned(labelled, 1))
    )
    changed = {name for name, value in plain.items() if abs(rotated[name] - value) > 1e-3}
    assert changed >= {"rank1", "map", "roc_auc", "fpir", "fnir", "named", "ari", "pair_precision", "made"}


def test_a_ranking_is_that_of_each_compartment_pooled() -> None:
    labelled = look_alikes(individuals=14)
    policy = POLICY
    for rules in ({}, {"leaky": True}, {"flank": CROSS}):
        whole = retrieve(labelled, fused_blocks(labelled, policy), **rules)
        parts = [retrieve(part, fused_blocks(part, policy), **rules) for part in parts_of(labelled)]

        def pooled(name: str, parts: list[Retrieval] = parts) -> float:
            statistics = [part.statistic(name) for part in parts]
            return sum(item.n * item.value for item in statistics) / sum(item.n for item in statistics)

        assert len(whole) == sum(len(part) for part in parts) > 0
        for name in METRICS:
            assert whole.statistic(name).value == pytest.approx(pooled(name), abs=1e-12)
        chance = sum(len(part) * part.chance_rank1 for part in parts) / len(whole)
        assert whole.chance_rank1 == pytest.approx(chance)
        chance = sum(len(part) * part.chance_map for part in parts) / len(whole)
        assert whole.chance_map == pytest.approx(chance)


def test_pairs_are_those_of_each_compartment_pooled() -> None:
    labelled = look_alikes(individuals=14)
    whole = verify(labelled, fused_blocks(labelled, POLICY))
    parts = [verify(part, fused_blocks(part, POLICY)) for part in parts_of(labelled)]
    assert whole.genuine_pairs == sum(part.genuine_pairs for part in parts)
    assert whole.impostor_pairs == sum(part.impostor_pairs for part in parts)
    for threshold in (0.2, 0.4, 0.6):
        accepted = sum(part.impostor_pairs * part.fmr_at(threshold).value for part in parts)
        assert whole.fmr_at(threshold).value == pytest.approx(accepted / whole.impostor_pairs, abs=1e-3)
    home = labelled.compartments
    assert all(home[labelled.individual[a]] == home[labelled.individual[b]] for a, b, _ in whole.worst_false)
    known = false_pairs(labelled, POLICY, above=0.4, same_sex_below=0.4)
    assert known.total.sum() == 2 * whole.impostor_pairs
    assert not known.total[home[:, None] != home].any()


def wild_compartments(seed: int) -> Labelled:
    data = wild_herd(seed)
    return replace(data, compartment=data.individual % 2)


STRICT = POLICY.policy.model_copy(update={"other_flank": "uncertain", "sex_rule": "soft", "margin": 0.02})
POLICIES = {
    "exemplars": POLICY,
    "nobody incomparable": FittedPolicy(policy=STRICT),
    "profiles of pictures": FittedPolicy(
        policy=STRICT.model_copy(update={"unit": "picture", "gallery": "profile", "odds": None})
    ),
}


@pytest.mark.parametrize("fitted", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("seed", range(3))
def test_searches_are_made_in_the_gallery_of_the_compartment(seed: int, fitted: FittedPolicy) -> None:
    labelled = wild_compartments(seed)
    whole = search(labelled, fitted)
    said = stated(whole, fitted)
    seen = 0
    for number, part in enumerate(parts_of(labelled)):
        alone = search(part, fitted)
        here = np.flatnonzero(labelled.compartments[whole.individual] == number)
        codes = np.flatnonzero(labelled.compartments == number)
        assert keys_of(labelled, whole.only(labelled.compartments[whole.individual] == number)) == keys_of(part, alone)
        np.testing.assert_allclose(whole.scores[np.ix_(here, codes)], alone.scores, atol=1e-6)
        assert np.isnan(np.delete(whole.scores[here], codes, axis=1)).all()
        np.testing.assert_array_equal(whole.candidates[here], alone.candidates)
        np.testing.assert_array_equal(whole.mate_rank[here], alone.mate_rank)
        np.testing.assert_array_equal(whole.gallery_sizes[here], len(codes) - 1)
        own: Stated = stated(alone, fitted)
        np.testing.assert_allclose(said.probability[here], own.probability, atol=1e-6)
        np.testing.assert_array_equal(said.right[here], own.right)
        seen += len(alone)
    assert seen == len(whole)


@pytest.mark.parametrize("fitted", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("truth", [True, False], ids=["true gallery", "own gallery"])
@pytest.mark.parametrize("seed", range(3))
def test_decisions_are_those_of_each_compartment_alone(seed: int, truth: bool, fitted: FittedPolicy) -> None:
    labelled = wild_compartments(seed)
    whole = decide_in_order(labelled, fitted, truth=truth)
    made = 0
    for number, part in enumerate(parts_of(labelled)):
        alone = decide_in_order(part, fitted, truth=truth)
        here = np.flatnonzero(labelled.compartments[whole.individual] == number)
        assert [keys_of(labelled, whole)[place] for place in here] == keys_of(part, alone)
        for name in ("outcome", "known_before", "only_burst", "comparable", "correct", "claim"):
            np.testing.assert_array_equal(getattr(whole, name)[here], getattr(alone, name), err_msg=name)
        for name in ("score", "probability"):
            np.testing.assert_allclose(getattr(whole, name)[here], getattr(alone, name), atol=1e-6, err_msg=name)
        made += alone.made
    assert whole.made == made


def keys_of(labelled: Labelled, found: Decided | Searches) -> list[tuple[object, ...]]:
    return [tuple(labelled.keys[row] for row in rows) for rows in found.rows]


def test_pairs_of_two_compartments_count_for_no_grouping() -> None:
    """ARI from the pairs of one compartment alone, in a double loop; also where individuals are drawn."""
    labelled = look_alikes()
    found = decide_in_order(labelled, POLICY, truth=False)
    clusters = cluster(found)
    assert found.compartment is not None

    def by_hand(weights: Ints) -> float:
        both = together = same = everything = 0.0
        for number in (0, 1):
            rows = np.flatnonzero(found.compartment == number)
            members = weights[labelled.compartments == number]
            drawn = members.sum()
            scale = drawn * (drawn - 1) / (drawn**2 - (members**2).sum())
            for place, a in enumerate(rows):
                for b in rows[:place]:
                    alike = found.said[a] == found.said[b] >= 0
                    if found.individual[a] == found.individual[b]:
                        weight = weights[found.individual[a]]
                        same += weight
                        both += weight * alike
                    else:
                        weight = weights[found.individual[a]] * weights[found.individual[b]] * scale
                    together += weight * alike
                    everything += weight
        expected = together * same / everything
        return float((both - expected) / ((together + same) / 2 - expected))

    for weights in (np.ones(24), *drawn_weights(24, 3)):
        assert clusters.ari.of(weights[None])[0] == pytest.approx(by_hand(weights))


def everything(judged: Evaluation) -> dict[str, Statistic]:
    found = {**judged.statistics, **{f"leaky {k}": v for k, v in judged.leaky.items()}}
    found |= {f"cross {k}": v for k, v in judged.cross_flank.items()}
    return found | {
        f"{s} {v} {m}": item for s, vs in judged.strata.items() for v, ms in vs.items() for m, item in ms.items()
    }


@pytest.mark.parametrize("number", [0, 3])
def test_one_compartment_is_none(number: int) -> None:
    labelled = look_alikes(light=["day", "infrared"] * 72)
    plain = evaluate(replace(labelled, compartment=None), POLICY)
    one = evaluate(replace(labelled, compartment=np.full(len(labelled), number)), POLICY)
    assert plain.counts == one.counts
    assert (plain.made, plain.true) == (one.made, one.true)
    assert {k: v.as_dict() for k, v in plain.rates.items()} == {k: v.as_dict() for k, v in one.rates.items()}
    weights = drawn_weights(24, 25)
    assert everything(plain).keys() == everything(one).keys()
    for name, statistic in everything(plain).items():
        other = everything(one)[name]
        np.testing.assert_array_equal(other.of(weights), statistic.of(weights), err_msg=name)
        assert (other.n, other.taking_part) == (statistic.n, statistic.taking_part)


def test_the_gallery_is_that_of_the_usual_animal() -> None:
    labelled = look_alikes(individuals=12)
    uneven = np.array([0] * 7 + [1] * 4 + [2])
    found = search(replace(labelled, compartment=uneven[labelled.individual]), POLICY)
    assert found.gallery_size == 6
    assert set(found.gallery_sizes[found.individual < 7].tolist()) == {6}
    assert found.gallery_sizes[found.individual == 11].tolist() == [0, 0, 0]
    assert not found.non_mated[found.individual == 11].any()
    alone = search(replace(labelled, compartment=np.arange(12)[labelled.individual]), POLICY)
    assert (alone.gallery_size, alone.non_mated.any()) == (0, False)
    assert threshold_for(alone, 0.05, 100) is None


def test_the_rate_in_a_smaller_gallery_is_that_of_each_compartment() -> None:
    labelled = look_alikes(individuals=12)
    uneven = np.array([0] * 8 + [1] * 4)
    labelled = replace(labelled, compartment=uneven[labelled.individual])
    whole = fpir_at_size(search(labelled, POLICY), 0.5, 2)
    parts = [fpir_at_size(search(part, POLICY), 0.5, 2) for part in parts_of(labelled)]
    assert whole.n == sum(part.n for part in parts)
    assert whole.value == pytest.approx(sum(part.n * part.value for part in parts) / whole.n)
    assert whole.value > 0


def test_odds_are_fitted_on_candidates_of_the_compartment() -> None:
    scores, mate, individual = made_up_searches(0, 0.25, count=400, size=20)
    home = np.arange(20) % 2
    across = home[individual][:, None] != home
    apart = fit_odds(np.where(across, np.nan, scores), mate, individual, compartment=home)
    assert fit_odds(np.where(across, 0.99, scores), mate, individual, compartment=home) == apart
    assert fit_odds(np.where(across, np.nan, scores), mate, individual) != apart


def test_tuning_compares_nothing_across_compartments() -> None:
    labelled = look_alikes(individuals=48, encounters=2, noise=0.6)
    base = MatchPolicy(threshold=0.6, new_below=0.3)
    plain, rotated = (cross_fitted(data, base, 0.3, 2, 40, "0", None)[0] for data in (labelled, turned(labelled, 1)))
    assert plain.policy.threshold < 1
    for ours, theirs in zip((rotated.policy, *rotated.without), (plain.policy, *plain.without), strict=True):
        assert ours.weights == theirs.weights
        assert (ours.threshold, ours.new_below) == pytest.approx((theirs.threshold, theirs.new_below), abs=1e-5)
        assert ours.odds is not None
        assert theirs.odds is not None
        scores = np.array([0.5, 0.2, np.nan])
        np.testing.assert_allclose(ours.odds.posterior(scores)[0], theirs.odds.posterior(scores)[0], atol=1e-3)
    small = thinned(labelled, 100)
    assert small.divided
    pairs = Sample(small, tuple(small.vectors)).pairs()
    np.testing.assert_array_equal(small.compartments[pairs.first], small.compartments[pairs.second])


def test_tuned_odds_are_those_of_galleries_of_one_compartment() -> None:
    """One branch leaves no fusion to choose, so that the searches behind the odds are known."""
    labelled = look_alikes()
    base = MatchPolicy(weights={"multiscale": 1.0}, threshold=0.6, new_below=0.3)
    tuned = cross_fitted(labelled, base, 0.3, 2, 40, "0", None)[0].policy
    found = search(labelled, FittedPolicy(policy=base))
    mate = np.where(found.first, -1, found.individual)
    home = labelled.compartments
    assert tuned.odds == fit_odds(found.scores.astype(np.float64), mate, found.individual, compartment=home)


def test_the_background_is_judged_in_the_same_compartments() -> None:
    labelled = look_alikes()
    assert labelled.compartment is not None
    bare = replace(labelled, compartment=None)
    given = evaluate(labelled, POLICY, control=labelled).control
    taken = evaluate(labelled, POLICY, control=bare).control
    assert given is not None
    assert taken is not None
    assert taken["rank1"].value == given["rank1"].value
    assert taken["roc_auc"].value == given["roc_auc"].value


@pytest.mark.parametrize("flank", [SAME, CROSS])
def test_flanks_and_compartments_bar_together(flank: str) -> None:
    labelled = look_alikes(individuals=6)
    assert labelled.compartment is not None
    rows = np.arange(5)
    barred = never_compared(labelled, flank)(rows)
    assert barred is not None
    for row in rows:
        for column in range(len(labelled)):
            opposite = {labelled.viewpoints[row], labelled.viewpoints[column]} == {"left", "right"}
            across = labelled.compartment[row] != labelled.compartment[column]
            assert barred[row, column] == (opposite != (flank == CROSS) or across)
    assert branch_blocks(labelled, "multiscale")(rows).shape == (5, len(labelled))


def test_rows_keep_their_compartments() -> None:
    labelled = two_pairs()
    part = labelled.of_individuals(np.array([True, False, True, True]))
    assert part.compartment is not None
    assert part.compartment.tolist() == [0, 1, 1, 0, 1, 1]
    assert part.compartments.tolist() == [0, 1, 1]
    assert part.divided
    assert not labelled.of_individuals(np.array([False, False, True, True])).divided
    assert replace(labelled, compartment=None).compartments.tolist() == [0, 0, 0, 0]


def test_an_individual_lies_in_one_compartment() -> None:
    with pytest.raises(ValueError, match="more than one compartment"):
        replace(two_pairs(), compartment=np.array([0, 0, 1, 1, 1, 0, 1, 1]))
    with pytest.raises(ValueError, match="negative"):
        replace(two_pairs(), compartment=np.full(8, -1))
    with pytest.raises(ValueError, match="differ in length"):
        replace(two_pairs(), compartment=np.zeros(7, dtype=np.int64))


def test_compartments_are_taken_over_by_name() -> None:
    labelled = two_pairs()
    bare = replace(labelled, compartment=None)
    part = bare.of_individuals(np.array([False, True, False, True]))
    taken = in_compartments_of(part, labelled).compartment
    assert taken is not None
    assert taken.tolist() == [0, 1, 0, 1]
    assert in_compartments_of(labelled, bare).compartment is None
    with pytest.raises(ValueError, match="deer 0, deer 2"):
        in_compartments_of(bare, labelled.of_individuals(np.array([False, True, False, True])))


def with_galleries(labelled: Labelled) -> Labelled:
    """Each compartment judged in a space of its own, turned against the others, in which all detections are known."""
    assert labelled.compartment is not None
    everything = np.zeros(len(labelled), dtype=np.int64)
    galleries = {
        number: turned(replace(labelled, compartment=everything + number), number, seed=number).vectors
        for number in np.unique(labelled.compartment).tolist()
    }
    own = {
        branch: VectorSet(
            item.recipe_id,
            branch,
            np.array([galleries[c][branch].vectors[row] for row, c in enumerate(labelled.compartment.tolist())]),
        )
        for branch, item in labelled.vectors.items()
    }
    return replace(labelled, vectors=own, galleries=galleries)


@pytest.mark.parametrize("fitted", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("seed", range(3))
def test_with_galleries_of_all_a_search_is_made_among_everybody(seed: int, fitted: FittedPolicy) -> None:
    """Models that see the same but for a rotation search as one model does that may compare everything."""
    labelled = wild_compartments(seed)
    together, one = search(with_galleries(labelled), fitted), search(replace(labelled, compartment=None), fitted)
    assert keys_of(labelled, together) == keys_of(labelled, one)
    np.testing.assert_allclose(together.scores, one.scores, atol=1e-5)
    assert (together.gallery_size, together.compartment) == (one.gallery_size, None)
    apart = search(labelled, fitted)
    assert together.gallery_size > apart.gallery_size
    assert not np.allclose(together.scores, apart.scores, equal_nan=True)


def test_a_gallery_of_all_is_searched_only_where_every_compartment_has_one() -> None:
    labelled = with_galleries(wild_compartments(0))
    apart = search(replace(labelled, galleries={}), POLICY)
    found = search(replace(labelled, galleries={0: labelled.galleries[0]}), POLICY)
    assert found.compartment is not None
    assert found.gallery_size == apart.gallery_size


@pytest.mark.parametrize("fitted", POLICIES.values(), ids=POLICIES.keys())
def test_with_galleries_of_all_everybody_is_known_by_true_identity(fitted: FittedPolicy) -> None:
    labelled = wild_compartments(2)
    together = decide_in_order(with_galleries(labelled), fitted, truth=True)
    one = decide_in_order(replace(labelled, compartment=None), fitted, truth=True)
    np.testing.assert_array_equal(together.outcome, one.outcome)
    np.testing.assert_array_equal(together.best, one.best)
    np.testing.assert_allclose(together.score, one.score, atol=1e-5)
    assert together.compartment is None
    own = decide_in_order(with_galleries(labelled), fitted, truth=False)
    apart = decide_in_order(labelled, fitted, truth=False)
    np.testing.assert_array_equal(own.said, apart.said)
    assert own.compartment is not None


def test_a_gallery_goes_with_the_last_row_of_its_compartment() -> None:
    labelled = with_galleries(wild_compartments(0))
    part = labelled.rows(np.asarray(labelled.compartment) == 1)
    assert set(part.galleries) == {1}
    plain = replace(part, compartment=None, galleries={})
    borrowed = in_compartments_of(plain, replace(part, galleries={0: part.vectors, 1: part.vectors}))
    assert set(borrowed.galleries) == {1}


def test_galleries_follow_their_rows_and_compartments() -> None:
    labelled = with_galleries(wild_compartments(0))
    keep = np.arange(len(labelled)) % 3 > 0
    part = labelled.rows(keep)
    for number, gallery in labelled.galleries.items():
        for branch, item in gallery.items():
            np.testing.assert_array_equal(part.galleries[number][branch].vectors, item.vectors[keep])
    plain = replace(wild_compartments(0), compartment=None)
    assert in_compartments_of(labelled, plain).galleries == {}
    borrowed = in_compartments_of(plain, labelled)
    assert borrowed.shared
    np.testing.assert_allclose(search(borrowed, POLICY).scores, search(plain, POLICY).scores, atol=1e-6)
    swapped = replace(plain, compartment=1 - labelled.individual % 2)
    again = in_compartments_of(labelled, replace(swapped, galleries={0: plain.vectors, 1: plain.vectors}))
    for branch in plain.vectors:
        assert again.galleries[0][branch] is labelled.galleries[1][branch]


def test_ranking_and_decisions_stay_in_the_compartment() -> None:
    labelled = with_galleries(wild_compartments(1))
    apart = replace(labelled, galleries={})
    one, other = evaluate(labelled, POLICY), evaluate(apart, POLICY)
    weights = drawn_weights(labelled.individuals, 5)
    for name in ("rank1", "map", "roc_auc", "ari"):
        np.testing.assert_array_equal(one.statistics[name].of(weights), other.statistics[name].of(weights))
    assert one.counts["gallery_size"] > other.counts["gallery_size"]
