"""The gate on made-up herds: what cannot be told better is refused, and what is better is let through."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import logit

from deer_reid_pipeline.reid.calibrators import Platt
from deer_reid_pipeline.reid.evaluation.evaluation import Evaluation
from deer_reid_pipeline.reid.evaluation.gate import FAIL, INCONCLUSIVE, PASS, Verdict, judge_candidate, judge_live
from deer_reid_pipeline.reid.evaluation.identification import fpir_at
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.protocol import evaluate
from deer_reid_pipeline.reid.evaluation.searches import search
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.odds import Odds
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


def policy(**changes: Any) -> FittedPolicy:
    return FittedPolicy(policy=MatchPolicy(**{"threshold": 0.55, "new_below": 0.0} | changes))


def test_a_candidate_that_opens_returning_animals_as_new_is_refused() -> None:
    world = herd(3, individuals=90, encounters=4)
    control = background(world)
    live = evaluate(world.labelled(world.vectors(1.6)), CAREFUL, control=control)
    clean = world.labelled(world.vectors(0.9), "candidate")
    kept, split = (evaluate(clean, policy(new_below=cut), control=control) for cut in (0.0, 0.55))

    verdict = judge_candidate(split, live)

    assert judge_candidate(kept, live).verdict == PASS
    assert split.rates["opened_as_new"].value > 0.1
    assert found(verdict, "keeps_animals_together") is False
    assert (verdict.verdict, judge_live(split).verdict) == (FAIL, FAIL)


def test_a_margin_that_names_nobody_is_seen() -> None:
    world = herd(3, individuals=90, encounters=4)
    control = background(world)
    live = evaluate(world.labelled(world.vectors(0.9)), CAREFUL, control=control)
    silent = evaluate(world.labelled(world.vectors(0.6), "candidate"), policy(margin=1.0), control=control)

    assert silent.statistics["fnir"].value < 0.1
    assert found(judge_live(silent), "names_returning_animals") is False
    assert found(judge_candidate(silent, live), "naming_kept") is False


def test_a_probability_that_is_always_the_base_rate_is_no_improvement() -> None:
    world = herd(3, individuals=90, encounters=4)
    control = background(world)
    clean = world.labelled(world.vectors(1.2))
    live = evaluate(clean, policy(threshold=0.6), control=control)
    assert live.raw is not None
    said = live.raw.searches
    base_rate = float((said.mated & (said.mate_rank == 1)).mean())
    constant = Odds(
        likelihood=Platt(slope=0, intercept=0),
        base_rate=0.5,
        new=0.25,
        best=Platt(scale="probability", slope=0, intercept=float(logit(base_rate))),
    )

    candidate = evaluate(clean, policy(threshold=0.6, odds=constant), control=control)

    assert candidate.statistics["calibration_error"].value < 0.05
    assert candidate.statistics["brier_gain"].value <= 1e-6
    assert found(judge_candidate(candidate, live), "improvement") is not True


def test_strangers_are_searched_for_in_the_real_herd() -> None:
    """A threshold that holds among 120 labelled animals does not among the 1,000 that are known."""
    world = herd(11, individuals=1000, encounters=3, size=32)
    whole = world.labelled(world.vectors(0.8))
    part = whole.of_individuals(np.arange(1000) < 120)
    lax = policy(threshold=0.46)
    among_all = search(whole, lax)

    labelled, real = evaluate(part, lax), evaluate(part, lax, gallery_size=1000)

    assert fpir_at(among_all, 0.46).value > 0.15
    assert found(judge_live(labelled), "false_positive_bound") is True
    assert found(judge_live(real), "false_positive_bound") is not True


def test_animals_that_come_once_are_not_outvoted_by_those_that_come_often() -> None:
    """Twenty animals that are met once look like ten that are met twice; sixty met 30 times are easy."""
    often, twice, once = 60, 10, 20
    rng = np.random.default_rng(1)
    owner = np.r_[np.repeat(np.arange(often), 30), np.repeat(np.arange(often, often + twice), 2)]
    owner = rng.permutation(np.r_[owner, np.arange(often + twice, often + twice + once)])
    world, rows = herd(0, individuals=often + twice + once), len(owner)
    truth = {}
    for branch, own in world.truth.items():
        alike = own[often + np.arange(once) % twice] + 0.5 * unit(rng.normal(size=(once, 64)).astype(np.float32))
        truth[branch] = np.concatenate([own[: often + twice], unit(alike)])
    noise = {b: unit(rng.normal(size=(rows, 64)).astype(np.float32)) for b in truth}
    made = Herd(owner, np.arange(rows), truth, noise)

    judged = evaluate(made.labelled(made.vectors(0.7)), CAREFUL)
    finding = judge_live(judged).findings[0]

    assert judged.rates["fpir"].high < 0.05
    assert judged.rates["fpir_individual"].value > 0.2
    assert (finding.name, finding.ok) == ("false_positive_bound", False)


def test_infrared_pictures_that_look_alike_are_named_by_no_lower_threshold() -> None:
    world = herd(6, individuals=200, encounters=4)
    night = np.random.default_rng(6).random(len(world.individual)) < 0.10
    strata = {"light": np.where(night, "infrared", "day").tolist()}
    vectors = world.vectors(0.8)
    for branch, rows in vectors.items():
        artefact = unit(np.random.default_rng(len(branch)).normal(size=(1, 64)).astype(np.float32))
        vectors[branch] = unit(rows + np.where(night, 0.85, 0.0)[:, None].astype(np.float32) * artefact)
    labelled = world.labelled(vectors, strata=strata)
    control = background(world)
    live, candidate = (evaluate(labelled, policy(threshold=cut), control=control) for cut in (0.75, 0.58))

    verdict = judge_candidate(candidate, live)

    assert candidate.strata["light"]["infrared"]["fpir"].value > 0.1
    assert candidate.rates["fpir"].value < 0.05
    assert found(verdict, "strata") is False
    assert any("light infrared" in reason for reason in verdict.reasons)


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
