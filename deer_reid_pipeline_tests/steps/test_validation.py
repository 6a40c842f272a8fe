"""Validation of an installation: what is judged, what is said, and how long it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from deer_reid_pipeline.errors import DatabaseError, DeerReidError
from deer_reid_pipeline.reid.evaluation.gate import FAIL, INCONCLUSIVE, PASS
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import BRANCHES, FloatArray, VectorSet, unit
from deer_reid_pipeline.steps.owner_criteria import NOT_MEASURED, Criterion
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.validation import Background, ValidationResult, validate
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.store.releases import add_candidate
from deer_reid_pipeline.store.reviews import PairReview, add_reviews
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline_tests.labelled_rows import Shot, add_vectors, store_shots
from deer_reid_pipeline_tests.sites import row_counts, settings_for

START = datetime(2026, 1, 1, tzinfo=UTC)
FIGURES = {"value", "low", "high", "n", "individuals"}


def herd(individuals: int, encounters: int, shots: int = 1, seed: int = 0) -> list[Shot]:
    """Everybody is met once before anybody is met again; a day lies between two encounters."""
    rng = np.random.default_rng(seed)
    made = []
    for turn in range(encounters):
        for place, code in enumerate(rng.permutation(individuals).tolist()):
            number = turn * individuals + place
            made += [
                Shot(
                    given=f"N{code:03d}",
                    decided=(f"N{code:03d}", "human"),
                    event=f"event:{number}",
                    camera=f"camera-{number % 3}",
                    at=START + timedelta(days=number),
                    ordinal=number,
                    sex=("male", "female")[code % 2],
                    infrared=bool(number % 2),
                    viewpoint=("left", None)[shot % 2],
                )
                for shot in range(shots)
            ]
    return made


def looks(shots: list[Shot], signal: float, constant: float = 0.0, seed: int = 0) -> dict[str, FloatArray]:
    """Vectors with as much of the individual's own, and with a constant direction added to all of them."""
    rng = np.random.default_rng(seed)
    names = sorted({str(shot.given) for shot in shots})
    owner = [names.index(str(shot.given)) for shot in shots]
    found = {}
    for branch in BRANCHES:
        own, noise = rng.normal(size=(len(names), 512)), rng.normal(size=(len(shots), 512))
        vectors = unit((signal * own[owner] + noise).astype(np.float32))
        found[branch] = unit(vectors + np.float32(constant) * np.eye(1, 512, dtype=np.float32))
    return found


def without_animals(_: Site, recipe: Recipe, labelled: Labelled) -> Background:
    """A background that says nothing."""
    rng = np.random.default_rng(1)
    vectors = {
        branch: VectorSet(
            f"{recipe.id}.background", branch, unit(rng.normal(size=(len(labelled), 512)).astype(np.float32))
        )
        for branch in BRANCHES
    }
    return Background(Labelled(**{**vars(labelled), "vectors": vectors}), "the background is noise")


def mean_of_true_pairs(shots: list[Shot], vectors: Mapping[str, FloatArray]) -> float:
    """Fused similarity of the pairs of one individual from two encounters, pair by pair."""
    first, second = vectors["multiscale"], vectors["efficientnet"]
    pairs = [
        (i, j) for i, a in enumerate(shots) for j, b in enumerate(shots) if a.given == b.given and a.event != b.event
    ]
    return float(np.mean([0.6 * first[i] @ first[j] + 0.4 * second[i] @ second[j] for i, j in pairs]))


def criterion(result: ValidationResult, name: str) -> Criterion:
    return next(item for item in result.owner if item.name == name)


def other_recipe(site: Site, name: str) -> Recipe:
    """A recipe beside the live one."""
    recipe = site.matcher().recipe.model_copy(update={"name": name})
    with site.database.session() as session:
        register_recipe(session, recipe.id, name, recipe.to_json(), False)
    return recipe


def propose(site: Site, recipe: Recipe, policy: MatchPolicy) -> int:
    with site.database.session() as session:
        return add_candidate(session, recipe.id, FittedPolicy(policy=policy), "to be judged").id


@pytest.fixture
def sharp(site: Site) -> Site:
    """A home in which every animal is recognised."""
    shots = herd(individuals=70, encounters=4)
    store_shots(site, shots, site.matcher().recipe.id, looks(shots, signal=8.0))
    return site


def test_a_matcher_that_recognises_everybody_passes(sharp: Site) -> None:
    result = validate(sharp, backgrounds=without_animals)
    assert result.verdict.verdict == PASS, result.verdict.reasons
    assert result.live.release_id == 1
    assert result.counts["individuals"] == result.counts["individuals_made"] == 70
    assert result.metrics["rank1"].value == result.metrics["ari"].value == result.metrics["baks"].value == 1.0
    assert result.metrics["wrong_names"].value == 0.0
    assert "the background is noise" in result.remarks
    assert any(
        remark.startswith("on the same 280 pictures the animals come first in 100.0 %") for remark in result.remarks
    )
    expected = {
        "well_known_right": NOT_MEASURED,  # nobody has five detections
        "deer_merged": PASS,
        "false_positives_pairs": PASS,
        "false_positives_matches": PASS,
        "same_sex_similarity": PASS,
        "vector_search": NOT_MEASURED,
    }
    assert {name: criterion(result, name).result for name in expected} == expected
    assert criterion(result, "assignment_rate").value == 100.0
    assert criterion(result, "profiles_on_new_embedding").value == 0.0  # nobody made profiles here


def test_without_the_background_nothing_is_certain(sharp: Site) -> None:
    assert validate(sharp, control=False).verdict.verdict == INCONCLUSIVE

    def broken(*_: object) -> Background | None:
        raise DeerReidError("the weights are gone")

    for source, words in ((broken, "the weights are gone"), (lambda *_: None, "no picture")):
        result = validate(sharp, backgrounds=source)
        assert result.verdict.verdict == INCONCLUSIVE
        assert any(words in remark for remark in result.remarks)


def test_the_json_is_that_of_the_specification(sharp: Site) -> None:
    result = validate(sharp, control=False)
    printed = json.loads(json.dumps(result.with_report(Path("r.html")).as_json(), allow_nan=False))
    assert (printed["verdict"], printed["recipe"], printed["report"]) == (INCONCLUSIVE, result.live.recipe.id, "r.html")
    assert printed["reasons"]
    wanted = {"rank1", "rank5", "map", "roc_auc", "fnir_at_fpir_1", "fnir_at_fpir_5", "baks", "baus", "ari"}
    assert wanted <= set(printed["metrics"])
    assert all(set(item) == FIGURES for item in printed["metrics"].values())
    assert all({"name", "value", "wanted", "result"} <= set(item) for item in printed["owner"])
    assert {item["result"] for item in printed["owner"]} <= {PASS, FAIL, NOT_MEASURED}


def test_validating_writes_nothing(sharp: Site) -> None:
    before = row_counts(sharp)
    validate(sharp, backgrounds=without_animals)
    assert row_counts(sharp) == before


@pytest.mark.parametrize(("individuals", "words"), [(0, "No embedded detection"), (1, "Only one individual")])
def test_too_few_animals_leave_it_open(site: Site, individuals: int, words: str) -> None:
    shots = [*herd(individuals, encounters=3), Shot(decided=("deer-0001", "machine"), event="event:x")]
    vectors = {branch: np.eye(len(shots), 512, dtype=np.float32) for branch in BRANCHES}
    store_shots(site, shots, site.matcher().recipe.id, vectors)
    result = validate(site)
    assert result.verdict.verdict == INCONCLUSIVE
    assert words in result.verdict.reasons[0]
    assert result.metrics == {}
    assert criterion(result, "similarity_v1_v3").result == NOT_MEASURED
    assert criterion(result, "assignment_rate").value == 100.0
    json.dumps(result.as_json(), allow_nan=False)


def test_a_constant_passes_the_owners_rule_and_not_the_gate(site: Site) -> None:
    shots = herd(individuals=40, encounters=3, shots=2)
    live = site.matcher().recipe
    moved = other_recipe(site, "moved")
    plain = looks(shots, signal=0.7)
    store_shots(site, shots, live.id, plain)
    shifted = {branch: unit(vectors + 0.3 * np.eye(1, 512, dtype=np.float32)) for branch, vectors in plain.items()}
    add_vectors(site, [shot.key for shot in shots], moved.id, shifted)
    release = propose(site, moved, site.matcher().policy)
    result = validate(site, candidate=release, backgrounds=without_animals)
    raised = criterion(result, "similarity_live_candidate")
    assert raised.result == PASS
    before, after = mean_of_true_pairs(shots, plain), mean_of_true_pairs(shots, shifted)
    assert raised.value == pytest.approx(100 * (after / before - 1), abs=1e-3)
    assert criterion(result, "owners_rule").result == PASS
    assert result.verdict.verdict == FAIL
    assert result.candidate is not None
    assert result.candidate.release_id == release
    assert abs(result.differences["rank1"].value) < 0.05
    assert result.as_json()["candidate"] == release
    assert result.as_json()["recipe"] == moved.id


def test_both_are_judged_on_the_detections_that_both_have(site: Site) -> None:
    shots = herd(individuals=6, encounters=3)
    live, other = site.matcher().recipe, other_recipe(site, "mobile")
    vectors = looks(shots, signal=3.0)
    store_shots(site, shots, live.id, vectors)
    add_vectors(site, [shot.key for shot in shots[:15]], other.id, {b: v[:15] for b, v in vectors.items()})
    result = validate(site, recipe="mobile", control=False)
    assert result.counts["detections"] == 15
    assert result.candidate_evaluation is not None
    assert result.candidate_evaluation.counts["detections"] == 15
    assert any("15 detections that are embedded under both" in remark for remark in result.remarks)
    assert all(item.value == pytest.approx(0.0) for item in result.differences.values())
    assert result.data_digest != validate(site, control=False).data_digest


def test_a_candidate_is_held_to_the_bound_of_the_live_release(site: Site) -> None:
    shots = herd(individuals=6, encounters=3)
    store_shots(site, shots, site.matcher().recipe.id, looks(shots, signal=3.0))
    lax = site.matcher().policy.model_copy(update={"false_positive_bound": 0.9})
    result = validate(site, candidate=propose(site, site.matcher().recipe, lax), control=False)
    findings = {finding.name: finding for finding in result.verdict.findings}
    assert "the bound 5.0 %" in findings["false_positive_bound"].text
    assert findings["same_bound"].ok is None


def test_strangers_are_judged_in_the_herd_that_is_known(site: Site) -> None:
    shots = herd(individuals=6, encounters=3)
    others = [Shot(decided=(f"deer-{number:04d}", "machine"), event=f"event:m{number}") for number in range(9)]
    vectors = looks([*shots, *(Shot(given="other") for _ in others)], signal=3.0)
    store_shots(site, [*shots, *others], site.matcher().recipe.id, vectors)
    result = validate(site, control=False)
    assert (result.counts["individuals"], result.counts["known_individuals"]) == (6, 15)
    assert "a gallery of 5 of the 15 known ones" in result.verdict.findings[0].text


@pytest.mark.parametrize(("reviewed", "said"), [(1, False), (4, True)])
def test_labels_learned_from_reviews_leave_it_open(site: Site, reviewed: int, said: bool) -> None:
    shots = herd(individuals=8, encounters=3)
    matched = [Shot(decided=("N000", "machine"), event=f"event:m{number}") for number in range(reviewed)]
    vectors = looks([*shots, *(Shot(given="N000") for _ in matched)], signal=3.0)
    store_shots(site, [*shots, *matched], site.matcher().recipe.id, vectors)
    named = next(shot for shot in shots if shot.given == "N000")
    with site.database.session() as session:
        add_reviews(session, [PairReview(shot.key, named.key, "same", "R1", START, "r.csv") for shot in matched])
    candidate = propose(site, site.matcher().recipe, site.matcher().policy)
    result = validate(site, candidate=candidate, control=False)
    for verdict in (result.verdict, result.live_verdict):
        assert [f.ok for f in verdict.findings if f.name == "labels_from_reviews"] == ([None] if said else [])


def test_what_cannot_be_judged_is_said(sharp: Site) -> None:
    with pytest.raises(DatabaseError, match="nothing was embedded with recipe mobile"):
        validate(sharp, recipe="mobile")
    with pytest.raises(DatabaseError, match="release 7"):
        validate(sharp, candidate=7)
    with pytest.raises(DatabaseError, match="is live"):
        validate(sharp, candidate=1)
    with pytest.raises(ValueError, match="not both"):
        validate(sharp, candidate=2, recipe="mobile")


def test_an_override_is_judged_as_it_matches_and_said(sharp: Site) -> None:
    sharp.settings = sharp.settings.model_copy(update={"reid_threshold": -1.0})
    result = validate(sharp, control=False)
    assert result.remarks[0] == "judged as overridden by REID_THRESHOLD=-1"
    assert result.counts["individuals_made"] == 2  # everybody is matched to the first of the same sex
    assert criterion(result, "deer_merged").value == 68.0


def test_a_recipe_with_random_weights_is_judged_without_a_release(site: Site) -> None:
    trial = Site(settings_for(site.settings.home, recipe="original", allow_random_weights=True), site.database)
    shots = herd(individuals=8, encounters=3)
    store_shots(trial, shots, trial.matcher().recipe.id, looks(shots, signal=0.0, constant=3.0))
    result = validate(trial, control=False)
    assert (result.live.release_id, result.candidate) == (None, None)
    assert result.verdict.verdict == FAIL
    assert result.counts["individuals_made"] == 2  # at 0.40 all of one sex are one
    assert any("never releasable" in remark for remark in result.remarks)


MEASURE = """
import json, resource, sys, time
started = time.perf_counter()
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps.site import connect_site
from deer_reid_pipeline.steps.validation import validate
site = connect_site(load_settings())
result = validate(site, control=False)
json.dump({
    "seconds": time.perf_counter() - started,
    "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "result": result.as_json(),
}, sys.stdout)
"""


@pytest.mark.slow
def test_the_whole_herd_is_judged_within_a_minute_and_two_gigabytes(site: Site) -> None:
    """165 deer in 11,570 detections, in a process of its own."""
    rng = np.random.default_rng(0)
    shots = herd(individuals=165, encounters=28, shots=2)
    shots += [
        Shot(**{**vars(shots[row]), "key": uuid.uuid4()}) for row in rng.permutation(len(shots))[: 11_570 - len(shots)]
    ]
    store_shots(site, shots, site.matcher().recipe.id, looks(shots, signal=0.7))
    measured = _in_its_own_process(site)
    print({name: measured[name] for name in ("seconds", "bytes")})
    assert measured["result"]["counts"]["detections"] == 11_570
    assert measured["result"]["counts"]["individuals"] == 165
    assert measured["result"]["metrics"]["rank1"]["value"] > 0.5
    assert measured["seconds"] < 60
    assert measured["bytes"] < 2e9


def _in_its_own_process(site: Site) -> dict:  # type: ignore[type-arg]
    environment: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DEER_REID_")},
        "DEER_REID_HOME": str(site.settings.home),
        "DATABASE_URL": site.database.url,
        "DEER_REID_OFFLINE": "true",
        "DEER_REID_DEVICE": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict = json.loads(done.stdout)  # type: ignore[type-arg]
    return found
