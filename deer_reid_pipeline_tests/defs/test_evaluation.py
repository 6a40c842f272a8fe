"""The evaluation assets on a real database: what a run stores, and that only a PASS makes a release live."""

from __future__ import annotations

import dagster as dg
import pytest

from deer_reid_pipeline.definitions import defs
from deer_reid_pipeline.steps import validation
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline_tests.defs.given import GivenSite
from deer_reid_pipeline_tests.labelled_rows import store_shots
from deer_reid_pipeline_tests.sites import query
from deer_reid_pipeline_tests.steps.test_validation import herd, looks, without_animals

TUNING = ("similarity_distribution", "ensemble_weights", "match_threshold", "validation_report", "embedding_release")


@pytest.fixture
def labelled(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A home whose animals the first release hardly names, and a fitted one would."""
    monkeypatch.setattr(validation, "made_backgrounds", without_animals)
    shots = herd(individuals=80, encounters=4, seed=3)
    recipe = site.matcher().recipe
    store_shots(site, shots, recipe.id, looks(shots, signal=1.5, seed=3))
    update_profiles(site, recipe)
    GivenSite.given = site
    return site


def materialize(
    instance: dg.DagsterInstance, only: tuple[str, ...], config: dict[str, object] | None = None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*defs.assets],
        instance=instance,
        resources={"site": GivenSite()},
        selection=dg.AssetSelection.assets(*only),
        run_config={"ops": config or {}},
    )


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (made,) = [m for m in result.get_asset_materialization_events() if m.asset_key == dg.AssetKey(asset)]
    return {name: value.value for name, value in made.materialization.metadata.items()}


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {found.check_name: found.passed for found in result.get_asset_check_evaluations()}


def test_a_night_tunes_judges_and_releases_on_a_pass(labelled: Site, instance: dg.DagsterInstance) -> None:
    result = materialize(instance, TUNING, {"embedding_release": {"config": {"backup": False}}})
    stored = query(labelled, "SELECT kind, verdict, candidate_id, run_id FROM reports ORDER BY id")
    assert [(row.kind, row.verdict, row.candidate_id) for row in stored] == [
        ("tuning", None, None),
        ("validation", "PASS", 2),
    ]
    assert {row.run_id for row in stored} == {result.run_id}
    released = query(labelled, "SELECT id FROM releases WHERE live")
    assert [row.id for row in released] == [2]
    event = query(labelled, "SELECT * FROM release_events ORDER BY id DESC LIMIT 1")[0]
    assert (event.action, event.forced, event.run_id, event.previous_release_id) == (
        "promoted",
        False,
        result.run_id,
        1,
    )
    behind = query(labelled, "SELECT count(*) AS n FROM deer WHERE columns_recipe_id IS NULL")[0].n
    assert behind == 0, "the columns of deer do not follow the promotion"

    assert metadata_of(result, "embedding_release")["promoted_now"] == 2
    figures = metadata_of(result, "validation_report")
    assert figures["verdict"] == "PASS"
    assert 0.5 < float(str(figures["roc_auc"])) <= 1
    assert str(figures["report"]).endswith("report.html")
    assert "| weights |" in str(metadata_of(result, "ensemble_weights")["weights_tried"])
    assert "data:image/png;base64" in str(metadata_of(result, "similarity_distribution")["similarities"])
    assert checks_of(result) == {
        "true_pairs_are_more_similar": True,
        "unknown_animals_stay_unnamed_outside_the_fit": True,
        "thresholds_name_animals": True,
        "identities_can_be_trusted": False,  # of what was live before
        "unknown_animals_stay_unnamed": True,
        "live_release_rests_on_evidence": True,
    }

    again = materialize(instance, ("validation_report", "assignment_report"))
    assert checks_of(again)["identities_can_be_trusted"], metadata_of(again, "validation_report")["findings"]
    assert metadata_of(again, "assignment_report")["individuals"] == 80


def test_a_pass_can_be_left_to_a_person(labelled: Site, instance: dg.DagsterInstance) -> None:
    result = materialize(instance, TUNING, {"embedding_release": {"config": {"promote": False}}})
    assert metadata_of(result, "validation_report")["verdict"] == "PASS"
    assert metadata_of(result, "embedding_release")["promoted_now"] == 0
    assert [row.id for row in query(labelled, "SELECT id FROM releases WHERE live")] == [1]
    assert checks_of(result)["live_release_rests_on_evidence"] is False


def test_an_empty_home_is_told_what_is_missing(site: Site, instance: dg.DagsterInstance) -> None:
    GivenSite.given = site
    result = materialize(instance, (*TUNING, "assignment_report", "ab_report"))
    assert metadata_of(result, "validation_report")["verdict"] == "INCONCLUSIVE"
    assert "individualID" in str(metadata_of(result, "match_threshold")["reason"])
    assert metadata_of(result, "embedding_release")["candidates_waiting"] == 0
    assert metadata_of(result, "ab_report")["encounters"] == 0
