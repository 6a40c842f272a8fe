"""The doctor judges the recipe that this home uses, not the one a new home would get."""

from __future__ import annotations

import pytest

from deer_reid_pipeline import doctor
from deer_reid_pipeline.scale_out import cluster
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline_tests.finetuned import finetuned
from deer_reid_pipeline_tests.sites import query


@pytest.fixture
def home_of_lite(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A home whose live release uses `lite`, looked at as the environment describes it."""
    site.matcher()
    for name in ("DEER_REID_RECIPE", "DEER_REID_WEIGHTS_DIR", "REID_THRESHOLD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEER_REID_HOME", str(site.settings.home))
    monkeypatch.setenv("DATABASE_URL", site.database.url)
    monkeypatch.setenv("DEER_REID_DAGSTER_DATABASE_URL", site.database.url)
    monkeypatch.chdir(site.settings.home)
    return site


def weights_of(findings: list[doctor.Finding]) -> dict[str, bool | None]:
    return {item.what: item.ok for item in findings if item.what.startswith("recipe ")}


@pytest.mark.usefixtures("home_of_lite")
def test_weights_that_the_live_recipe_does_not_need_are_no_fault() -> None:
    found = weights_of(doctor.examine())
    assert found["recipe lite"] is True
    assert found["recipe reference"] is None


@pytest.mark.usefixtures("home_of_lite")
def test_weights_of_the_recipe_that_is_asked_for_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEER_REID_RECIPE", "reference")
    assert weights_of(doctor.examine())["recipe reference"] is False


def test_a_new_home_needs_its_own_recipe(monkeypatch: pytest.MonkeyPatch, home_of_lite: Site) -> None:
    monkeypatch.setenv("DEER_REID_HOME", str(home_of_lite.settings.home / "new"))
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("DEER_REID_DAGSTER_DATABASE_URL")
    found = doctor.examine()
    assert weights_of(found)["recipe reference"] is False
    assert next(item for item in found if item.what == "database").ok is None


@pytest.mark.parametrize("asked", [None, "lite"])
def test_files_of_a_live_fine_tuned_recipe_are_needed(
    asked: str | None, home_of_lite: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    final, _ = finetuned(home_of_lite, 0, {})
    query(home_of_lite, "UPDATE releases SET recipe_id = :id RETURNING 1", id=final.id)
    if asked is not None:
        monkeypatch.setenv("DEER_REID_RECIPE", asked)
    found = weights_of(doctor.examine())
    assert found[f"recipe {final.id}"] is True
    assert found["recipe reference"] is None
    for path in home_of_lite.settings.models_dir.glob("*.safetensors"):
        path.unlink()
    lost = next(item for item in doctor.examine() if item.what == f"recipe {final.id}")
    assert lost.ok is False
    assert "restore that folder from a backup" in lost.detail


def test_a_schema_that_is_behind_does_not_hide_the_live_recipe(home_of_lite: Site) -> None:
    query(home_of_lite, "UPDATE alembic_version SET version_num = '0004' RETURNING 1")
    found = doctor.examine()
    assert next(item for item in found if item.what == "database").ok is False
    assert weights_of(found)["recipe reference"] is None


@pytest.mark.usefixtures("home_of_lite")
def test_an_engine_that_is_not_installed_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "engine" not in {item.what for item in doctor.examine()}
    monkeypatch.setenv("DEER_REID_ENGINE", "ray")
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    (found,) = doctor._engine(load_settings())
    assert found.ok is False
    assert "needs Ray" in found.detail
