"""The gate on made-up herds: what cannot be told better is refused, and what is better is let through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation
from deer_reid_pipeline.reid.evaluation.gate import FAIL, INCONCLUSIVE, PASS, Verdict, judge_candidate, judge_live
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.protocol import evaluate
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import FloatArray, unit
from deer_reid_pipeline.reid.tuning import fit
from deer_reid_pipeline_tests.reid.worlds import Herd, herd

CAREFUL = FittedPolicy(policy=MatchPolicy(threshold=0.55, new_below=0.0))
"""A threshold that no two directions drawn at random in 64 dimensions reach."""


def shifted(vectors: dict[str, FloatArray], seed: int, amount: float) -> dict[str, FloatArray]:
    """The same constant added to every vector of a branch, and unit length again."""
    rng = np.random.default_rng(seed)
    found = {}
    for branch, rows in vectors.items():
        direction = unit(rng.normal(size=(1, rows.shape[1])).astype(np.float32))
        found[branch] = unit(rows + amount * direction)
    return found


def twenty_pairs(labelled: Labelled, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The fused similarity of 20 true and 20 false pairs, as the owner's acceptance test draws them."""
    fused = sum(
        weight * labelled.vectors[branch].vectors @ labelled.vectors[branch].vectors.T
        for branch, weight in CAREFUL.policy.weights.items()
    )
    one, other = np.triu_indices(len(labelled), 1)
    same = labelled.individual[one] == labelled.individual[other]
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.flatnonzero(kind), 20, replace=False) for kind in (same, ~same)]
    true, false = (fused[one[pairs], other[pairs]] for pairs in drawn)
    return true, false


def background(world: Herd, seed: int = 1) -> Labelled:
    """What remains of the pictures without the animal: nothing that tells one from another."""
    rng = np.random.default_rng(seed)
    rows = len(world.individual)
    return world.labelled({b: unit(rng.normal(size=(rows, 64)).astype(np.float32)) for b in world.truth}, "background")


def found(verdict: Verdict, name: str) -> bool | None:
    return next(finding.ok for finding in verdict.findings if finding.name == name)


def test_a_constant_added_to_every_vector_passes_the_owners_rule_and_is_refused_every_time() -> None:
    refused = 0
    for seed in range(100):
        world = herd(seed)
        live = world.vectors(0.7)
        candidate = shifted(live, seed, 0.6)
        before, _ = twenty_pairs(world.labelled(live), seed)
        after, false = twenty_pairs(world.labelled(candidate), seed)
        assert after.mean() >= 1.10 * before.mean()
        assert np.mean(false > 0.50) < 0.05

        was = evaluate(world.labelled(live), CAREFUL)
        other_recipe = evaluate(world.labelled(candidate, "candidate"), CAREFUL)
        verdicts = [judge_candidate(other, was) for other in (other_recipe, replace(other_recipe, recipe_id="live"))]

        refused += all(verdict.verdict == FAIL and found(verdict, "improvement") is False for verdict in verdicts)
    assert refused == 100


def test_a_candidate_with_the_noise_removed_is_promoted() -> None:
    world = herd(3, individuals=90, encounters=4)
    control = background(world)
    noisy, clean = world.labelled(world.vectors(1.6)), world.labelled(world.vectors(0.6), "candidate")
    live = evaluate(noisy, CAREFUL, control=control)
    candidate = evaluate(clean, fit(clean, CAREFUL.policy).fitted, control=control)

    verdict = judge_candidate(candidate, live)

    assert verdict.verdict == PASS, verdict.reasons
    assert judge_live(candidate).verdict == PASS, judge_live(candidate).reasons
    assert judge_candidate(live, candidate).verdict == FAIL


def test_twenty_animals_seen_twice_are_inconclusive_even_for_a_perfect_candidate() -> None:
    world = herd(4, individuals=20)
    control = background(world)
    candidate = evaluate(world.labelled(world.vectors(0.1), "candidate"), CAREFUL, control=control)

    verdict = judge_candidate(candidate, evaluate(world.labelled(world.vectors(1.6)), CAREFUL, control=control))

    assert verdict.verdict == INCONCLUSIVE
    assert any("needs 59 individuals never seen before, has 20" in reason for reason in verdict.reasons)


def test_an_embedding_of_the_background_is_refused() -> None:
    """Every individual has its home camera, so that recognising the camera ranks as if it were the animal."""
    world = herd(5, individuals=90, encounters=4)
    rng = np.random.default_rng(5)
    cameras = {b: unit(rng.normal(size=(45, 64)).astype(np.float32)) for b in world.truth}
    home = rng.permutation(np.repeat(np.arange(45), 2))
    places = {
        b: unit(cameras[b][home[world.individual]] + 0.3 * world.noise[b])  # two individuals share a home
        for b in world.truth
    }
    candidate = evaluate(world.labelled(places, "candidate"), CAREFUL, control=world.labelled(places, "background"))
    live = evaluate(world.labelled(world.vectors(2.2)), CAREFUL, control=background(world))

    verdict = judge_candidate(candidate, live)

    assert candidate.statistics["map"].value > live.statistics["map"].value + 0.1
    assert found(verdict, "improvement") is True
    assert found(verdict, "background_control") is False
    assert verdict.verdict == FAIL


def test_a_candidate_that_breaks_the_infrared_pictures_is_refused_though_better_on_average() -> None:
    world = herd(6, individuals=90, encounters=4)
    night = np.random.default_rng(6).random(len(world.individual)) < 0.12
    strata = {"light": np.where(night, "infrared", "day").tolist()}
    control = background(world)

    def made(noise: float | np.ndarray, recipe: str) -> Evaluation:
        return evaluate(world.labelled(world.vectors(noise), recipe, strata=strata), CAREFUL, control=control)

    live = made(1.6, "live")
    refused = judge_candidate(made(np.where(night, 4.0, 0.6), "candidate"), live)

    assert found(refused, "improvement") is True
    assert found(refused, "strata") is False
    assert refused.verdict == FAIL
    assert any("light infrared" in reason for reason in refused.reasons)
    assert judge_candidate(made(0.6, "candidate"), live).verdict == PASS
