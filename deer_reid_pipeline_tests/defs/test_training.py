"""The training assets on a real database: what the launchpad shows, and what a run stores on its way to the gate."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from deer_reid_pipeline.definitions import defs
from deer_reid_pipeline.steps import validation
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline_tests.coats import SHORT, Homes, trained_id
from deer_reid_pipeline_tests.defs.given import GivenSite
from deer_reid_pipeline_tests.defs.test_evaluation import checks_of, materialize, metadata_of
from deer_reid_pipeline_tests.sites import query
from deer_reid_pipeline_tests.steps.test_validation import without_animals

CHAIN = (
    "triplet_dataset",
    "finetuned_model",
    "finetuned_embeddings",
    "ab_report",
    "validation_report",
    "embedding_release",
)


@pytest.fixture
def site(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A home in which the training of these settings is done already, so that a run only takes it up."""
    monkeypatch.setattr(validation, "made_backgrounds", without_animals)
    made = homes.copy(homes.trained)
    GivenSite.given = made
    yield made
    made.database.close()


def test_the_launchpad_shows_every_setting_with_its_help() -> None:
    model = next(
        each
        for each in defs.assets or []
        if isinstance(each, dg.AssetsDefinition) and dg.AssetKey("finetuned_model") in each.keys
    )
    shown = model.op.config_schema.config_type.fields  # type: ignore[union-attr]
    assert set(shown) == {"start", *TrainingConfig.model_fields}
    assert all(len(str(field.description)) > 20 for field in shown.values())
    assert "gpu" in {model.op.pool}


def test_the_launchpad_opens_with_the_defaults_spelt_out() -> None:
    job = defs.resolve_job_def("training_job")
    shown = job.run_config["ops"]["finetuned_model"]["config"]  # type: ignore[index]
    assert {"epochs", "folds", "loss", "start"} <= set(shown)
    assert dg.validate_run_config(job)
    expected = TrainingConfig().model_dump(mode="json")
    assert {name: value for name, value in shown.items() if name != "start"} == {
        name: value for name, value in expected.items() if value is not None
    }


def test_a_run_from_dataset_to_gate(site: Site, instance: dg.DagsterInstance) -> None:
    settings = {name: value for name, value in SHORT.model_dump(mode="json").items() if name != "precision"}
    result = materialize(
        instance,
        CHAIN,
        {
            "finetuned_model": {"config": settings},
            "embedding_release": {"config": {"promote": False}},
        },
    )
    recipe = trained_id(site)
    dataset, model = metadata_of(result, "triplet_dataset"), metadata_of(result, "finetuned_model")
    assert (dataset["individuals"], dataset["dagster/row_count"]) == (24, 72)
    assert str(dataset["digest"]).startswith(str(model["dataset_digest"]))
    assert model["recipe"] == recipe
    assert (model["pictures"], model["unreadable_pictures"]) == (72, 0)
    embedded = metadata_of(result, "finetuned_embeddings")
    assert (embedded["detections_embedded"], embedded["embedded_by_fold_models"]) == (72, 2 * 72)
    assert "| started from |" in str(embedded["compared"])
    assert "Model card" in str(embedded["model_card"])
    assert "| started from |" in str(metadata_of(result, "ab_report")["fine_tuned_beside_the_others"])
    judged = metadata_of(result, "validation_report")
    assert recipe in str(judged["judged"])
    stored = query(site, "SELECT kind, recipe_id, candidate_id, run_id FROM reports ORDER BY id")
    assert [row.kind for row in stored] == ["training", "tuning", "training", "validation"]
    assert {row.run_id for row in stored} == {result.run_id}
    assert stored[-1].candidate_id == embedded["candidate"] == 2
    assert query(site, "SELECT id FROM releases WHERE live")[0].id == 1
    assert not checks_of(result)["there_is_enough_to_learn_from"], "for two folds there is, for the usual five not"
    said = {item.check_name: item.description for item in result.get_asset_check_evaluations()}
    assert str(said["there_is_enough_to_learn_from"]).startswith("under the default settings (5 folds): too little")


def test_a_wrong_setting_is_refused_before_anything_runs(site: Site, instance: dg.DagsterInstance) -> None:
    with pytest.raises(Exception, match="loss"):
        materialize(instance, CHAIN[:2], {"finetuned_model": {"config": {"loss": "guessing"}}})
    assert not query(site, "SELECT id FROM reports")
