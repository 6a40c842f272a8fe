"""A fine-tuned recipe is judged and fitted by models that were trained without the animal in question."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.protocol import evaluate
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.similarity import BRANCHES, FloatArray
from deer_reid_pipeline.steps import background_control, validation
from deer_reid_pipeline.steps.fold_models import by_judge, fold_models, needed_by_judges
from deer_reid_pipeline.steps.releases import propose
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import load_identities, load_truth
from deer_reid_pipeline.steps.tuning import fit_release, propose_fit
from deer_reid_pipeline.steps.validation import validate
from deer_reid_pipeline.store.media import CropJob
from deer_reid_pipeline.store.vectors import put_embeddings
from deer_reid_pipeline.vision.background import BackgroundSpec
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline_tests.finetuned import finetuned
from deer_reid_pipeline_tests.labelled_rows import Shot, add_vectors, store_shots
from deer_reid_pipeline_tests.sites import query
from deer_reid_pipeline_tests.steps.test_validation import herd, looks

FOLD = {"N000": 0, "N001": 1, "N002": 0, "N003": 1, "N004": None}
"""What was trained on; N005 and later were named since."""


def embedded(
    site: Site, shots: Sequence[Shot], recipe: Recipe, names: set[str], seed: int
) -> dict[uuid.UUID, dict[str, FloatArray]]:
    """Store vectors of some individuals under a recipe; by detection and branch."""
    part = [shot for shot in shots if shot.given in names]
    vectors = looks(part, signal=3.0, seed=seed)
    add_vectors(site, [shot.key for shot in part], recipe.id, vectors)
    return {shot.key: {branch: vectors[branch][row] for branch in BRANCHES} for row, shot in enumerate(part)}


@pytest.fixture
def shots(site: Site) -> list[Shot]:
    """Seven individuals met three times each, with vectors under the live recipe."""
    made = herd(individuals=7, encounters=3)
    store_shots(site, made, site.matcher().recipe.id, looks(made, signal=3.0))
    return made


def tuned(site: Site, shots: list[Shot], name: str = "lite.tuned", seed: int = 1) -> tuple[Recipe, list[Recipe], Any]:
    """A fine-tuned recipe with the vectors that training makes: the folds' of their own, its own of all others."""
    final, parts = finetuned(site, 2, FOLD, name)
    vectors = {}
    for fold, part in enumerate(parts):
        vectors |= embedded(site, shots, part, {who for who, of in FOLD.items() if of == fold}, seed + fold)
    vectors |= embedded(site, shots, final, {"N004", "N005", "N006"}, seed + 2)
    return final, parts, vectors


def compartments(labelled: Labelled) -> dict[str, int]:
    assert labelled.compartment is not None
    return {
        labelled.names[code]: compartment
        for code, compartment in zip(labelled.individual.tolist(), labelled.compartment.tolist(), strict=True)
    }


def test_each_individual_has_the_vectors_of_the_model_that_did_not_see_it(site: Site, shots: list[Shot]) -> None:
    final, parts, vectors = tuned(site, shots)
    # The final model has seen these animals: vectors of it must not be taken for them.
    embedded(site, shots, final, {"N000", "N001"}, 9)
    embedded(site, shots, parts[0], {"N001"}, 9)
    truth = load_truth(site, final.id)
    labelled = truth.labelled
    assert compartments(labelled) == {"N000": 0, "N001": 1, "N002": 0, "N003": 1, "N005": 2, "N006": 2}
    assert (truth.trained_on, truth.without_vectors, len(labelled)) == (1, 0, 18)
    for branch in BRANCHES:
        assert labelled.vectors[branch].recipe_id == final.id
        for row, key in enumerate(labelled.keys):
            np.testing.assert_array_equal(labelled.vectors[branch].vectors[row], vectors[key][branch])
    frozen = load_truth(site, site.matcher().recipe.id)
    assert (frozen.labelled.compartment, frozen.trained_on, frozen.models) == (None, 0, None)
    assert len(frozen.labelled) == 21


def test_without_folds_only_individuals_that_were_not_trained_on_are_judged(site: Site, shots: list[Shot]) -> None:
    final, _ = finetuned(site, 0, dict.fromkeys(["N000", "N001", "N002"]))
    embedded(site, shots, final, {f"N{n:03d}" for n in range(6)}, 1)
    truth = load_truth(site, final.id)
    assert compartments(truth.labelled) == {"N003": 0, "N004": 0, "N005": 0}
    assert (truth.trained_on, truth.without_vectors) == (3, 3)  # nobody embedded N006


def test_a_fold_without_its_recipe_is_left_out(site: Site, shots: list[Shot]) -> None:
    """As after a training that was killed before the last fold."""
    final, parts, _ = tuned(site, shots)
    embedded(site, shots, final, {"N001", "N003"}, 9)
    query(site, "DELETE FROM embeddings WHERE recipe_id = :id RETURNING 1", id=parts[1].id)
    query(site, "DELETE FROM recipes WHERE id = :id RETURNING 1", id=parts[1].id)
    truth = load_truth(site, final.id)
    assert set(compartments(truth.labelled)) == {"N000", "N002", "N005", "N006"}
    assert truth.trained_on == 3


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Labelled]:
    """Everything that is evaluated, in order: what is live, then the candidate."""
    seen: list[Labelled] = []
    real = validation.evaluate

    def evaluate(labelled: Labelled, *args: Any, **options: Any) -> Any:
        seen.append(labelled)
        return real(labelled, *args, **options)

    monkeypatch.setattr(validation, "evaluate", evaluate)
    return seen


def test_a_frozen_recipe_is_compared_in_the_same_compartments(
    site: Site, shots: list[Shot], judged: list[Labelled]
) -> None:
    final, parts, _ = tuned(site, shots)
    result = validate(site, recipe=final.id, control=False)
    assert result.candidate is not None
    assert (result.candidate.recipe.id, result.candidate.release_id) == (final.id, None)
    live, candidate = judged
    assert list(live.keys) == list(candidate.keys)
    assert compartments(live) == compartments(candidate)
    assert live.vectors["multiscale"].recipe_id != candidate.vectors["multiscale"].recipe_id
    assert any(
        remark.startswith("4 individuals were judged by models that were trained without them (2 folds)")
        for remark in result.remarks
    )
    assert any(
        remark.startswith("1 individuals were left out: the recipe was trained on them") for remark in result.remarks
    )
    assert any(remark.startswith("2 individuals that no training saw") for remark in result.remarks)
    with pytest.raises(DatabaseError, match=f"judge that one, with --recipe {final.id}"):
        validate(site, recipe=parts[0].id)


def test_a_recipe_that_only_its_folds_embedded_can_be_judged(site: Site, shots: list[Shot]) -> None:
    final, parts = finetuned(site, 2, {f"N{n:03d}": n % 2 for n in range(7)})
    for fold, part in enumerate(parts):
        embedded(site, shots, part, {f"N{n:03d}" for n in range(7) if n % 2 == fold}, fold)
    result = validate(site, recipe="lite.tuned", control=False)
    assert result.candidate is not None
    assert result.candidate.recipe.id == final.id
    assert result.counts["individuals"] == 7


def test_two_fine_tuned_recipes_are_compared_where_both_have_one_model(
    site: Site, shots: list[Shot], judged: list[Labelled]
) -> None:
    first, _, _ = tuned(site, shots)
    second, parts = finetuned(site, 2, {f"N{n:03d}": int(n > 2) for n in range(7)}, "lite.tuned2")
    for fold, part in enumerate(parts):
        embedded(site, shots, part, {f"N{n:03d}" for n in range(7) if int(n > 2) == fold}, 5 + fold)
    query(site, "UPDATE releases SET recipe_id = :id RETURNING 1", id=first.id)
    assert site.matcher().recipe.id == first.id
    validate(site, recipe=second.id, control=False)
    live, candidate = judged
    of = compartments(live)
    assert of == compartments(candidate)
    # (fold of the first, fold of the second): N000 and N002 (0, 0), N001 (1, 0), N003 (1, 1), N005 and N006 (own, 1)
    groups = [["N000", "N002"], ["N001"], ["N003"], ["N005", "N006"]]
    assert sorted(sorted(name for name in of if of[name] == code) for code in set(of.values())) == groups


def test_backgrounds_are_embedded_by_controls_of_the_fold_models(
    site: Site, shots: list[Shot], monkeypatch: pytest.MonkeyPatch
) -> None:
    final, parts, _ = tuned(site, shots)

    def embed(site: Site, control: Recipe, spec: BackgroundSpec, jobs: Sequence[CropJob]) -> None:
        vector = np.eye(1, 512, dtype=np.float32).repeat(len(jobs), axis=0)
        with site.database.session() as session:
            put_embeddings(session, control.id, [job.detection_id for job in jobs], dict.fromkeys(BRANCHES, vector))

    monkeypatch.setattr(background_control, "_embed", embed)
    made = background_control.control_vectors(site, final, load_truth(site, final.id).labelled)
    assert made is not None
    assert len(made.labelled) == 18
    assert compartments(made.labelled)["N001"] == 1
    rows = query(
        site,
        "SELECT r.control_of, array_agg(DISTINCT d.given_individual ORDER BY d.given_individual) FROM embeddings e "
        "JOIN recipes r ON r.id = e.recipe_id JOIN detections d ON d.id = e.detection_id "
        "WHERE r.control_of IS NOT NULL GROUP BY 1",
    )
    assert {row[0]: row[1] for row in rows} == {
        parts[0].id: ["N000", "N002"],
        parts[1].id: ["N001", "N003"],
        final.id: ["N005", "N006"],
    }


def test_a_policy_is_fitted_on_the_fold_models_and_proposed_for_the_recipe(site: Site) -> None:
    shots = herd(individuals=20, encounters=3)
    store_shots(site, shots, site.matcher().recipe.id, looks(shots, signal=0.0))
    names = sorted({str(shot.given) for shot in shots})
    final, parts = finetuned(site, 2, {name: place % 2 for place, name in enumerate(names)})
    for fold, part in enumerate(parts):
        embedded(site, shots, part, set(names[fold::2]), fold)
    fitted = fit_release(site, recipe=final.id, run_id="training-run")
    assert (fitted.recipe, fitted.release) == (final.id, 1)
    assert fitted.tuned is not None
    proposed = propose_fit(site, fitted.report)
    row = query(site, "SELECT recipe_id, report_id, live FROM releases WHERE id = :id", id=proposed.candidate)[0]
    assert tuple(row) == (final.id, fitted.report, False)
    report = query(site, "SELECT recipe_id, release_id, kind, run_id FROM reports WHERE id = :id", id=fitted.report)[0]
    assert tuple(report) == (final.id, 1, "tuning", "training-run")
    assert site.matcher().recipe.name == "lite"
    with pytest.raises(DatabaseError, match="fold recipe and can never be released"):
        fit_release(site, recipe=parts[0].id)
    with pytest.raises(DatabaseError, match="fold recipe and can never be released"):
        propose(site, parts[0].id, FittedPolicy(policy=site.matcher().policy), "by mistake")
    with pytest.raises(DatabaseError, match="nothing is not in this database"):
        fit_release(site, recipe="nothing")


def test_every_model_that_judges_has_a_gallery_of_all_once_it_embedded_all(site: Site, shots: list[Shot]) -> None:
    final, parts, vectors = tuned(site, shots)
    assert not load_truth(site, final.id).labelled.shared
    judged = {name for name in FOLD if name != "N004"} | {"N005", "N006"}
    every = {
        number: {key: vectors[key] for key in vectors} | embedded(site, shots, recipe, judged - own, 20 + number)
        for number, (recipe, own) in enumerate(
            [(parts[0], {"N000", "N002"}), (parts[1], {"N001", "N003"}), (final, {"N005", "N006"})]
        )
    }
    labelled = load_truth(site, final.id).labelled
    assert labelled.shared
    assert set(labelled.galleries) == {0, 1, 2}
    for number, gallery in labelled.galleries.items():
        assert gallery["multiscale"].recipe_id == final.id
        for row, key in enumerate(labelled.keys):
            expected = every[number][key]["multiscale"]
            np.testing.assert_array_equal(gallery["multiscale"].vectors[row], expected)
    whole = evaluate(labelled, FittedPolicy(policy=site.matcher().policy))
    assert whole.counts["gallery_size"] == 5


def test_what_the_judges_lack_is_what_they_need_vectors_of(site: Site, shots: list[Shot]) -> None:
    final, parts, _ = tuned(site, shots)
    with site.database.session() as session:
        models = fold_models(session, final.id)
    assert models is not None
    labelled = load_identities(site)
    keys = [key for key in labelled.keys if isinstance(key, uuid.UUID)]
    own, needed = by_judge(models, labelled, keys), needed_by_judges(models, labelled, keys)
    assert {recipe: len(found) for recipe, found in own.items()} == {parts[0].id: 6, parts[1].id: 6, final.id: 6}
    assert {recipe: len(found) for recipe, found in needed.items()} == dict.fromkeys(own, 18)


def test_with_compartments_more_backgrounds_are_embedded_for_as_many_pairs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = herd(individuals=16, encounters=3)
    store_shots(site, made, site.matcher().recipe.id, looks(made, signal=1.0))

    def embed(site: Site, control: Recipe, spec: BackgroundSpec, jobs: Sequence[CropJob]) -> None:
        vector = np.eye(1, 512, dtype=np.float32).repeat(len(jobs), axis=0)
        with site.database.session() as session:
            put_embeddings(session, control.id, [job.detection_id for job in jobs], dict.fromkeys(BRANCHES, vector))

    monkeypatch.setattr(background_control, "_embed", embed)
    whole = load_truth(site, site.matcher().recipe.id).labelled
    parted = replace(whole, compartment=whole.individual % 4)
    found = [
        background_control.control_vectors(site, site.matcher().recipe, each, limit=12) for each in (whole, parted)
    ]
    assert [len(each.labelled) for each in found if each is not None] == [12, 24]
