"""The benchmark assets: what the launchpad shows, what a run stores, and that no other job runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from deer_reid_pipeline.definitions import defs
from deer_reid_pipeline.defs.performance.assets import benchmark_job, benchmark_report, gpu_memory_report
from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig, GpuMemoryConfig
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline_tests.defs.given import GivenSite
from deer_reid_pipeline_tests.sites import query
from deer_reid_pipeline_tests.steps.benchmark.small import quick, small_site

ASSETS = {"benchmark_report": BenchmarkConfig, "gpu_memory_report": GpuMemoryConfig}


@pytest.fixture
def small(make_home: Callable[[], Path], database: Database) -> tuple[Site, str]:
    site, recipe = small_site(make_home(), database)
    GivenSite.given = site
    return site, recipe


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (made,) = [m for m in result.get_asset_materialization_events() if m.asset_key == dg.AssetKey(asset)]
    return {name: value.value for name, value in made.materialization.metadata.items()}


@pytest.mark.parametrize("asset", ASSETS)
def test_the_launchpad_shows_every_setting_with_its_help(asset: str) -> None:
    (found,) = [
        each for each in defs.assets or [] if isinstance(each, dg.AssetsDefinition) and dg.AssetKey(asset) in each.keys
    ]
    shown = found.op.config_schema.config_type.fields  # type: ignore[union-attr]
    assert set(shown) == set(ASSETS[asset].model_fields)
    assert all(len(str(field.description)) > 20 for field in shown.values())
    assert found.op.pool == "gpu"


def test_the_launchpad_opens_with_the_defaults_spelt_out() -> None:
    job = defs.resolve_job_def("benchmark_job")
    assert dg.validate_run_config(job)
    for asset, model in ASSETS.items():
        assert job.run_config["ops"][asset]["config"] == model().model_dump(mode="json")  # type: ignore[index]


def test_no_other_job_selects_them() -> None:
    jobs = {job.name: defs.resolve_job_def(job.name) for job in defs.jobs or []}
    selecting = {
        name
        for name, job in jobs.items()
        if {dg.AssetKey(asset) for asset in ASSETS} & set(job.asset_layer.selected_asset_keys)
    }
    assert selecting == {"benchmark_job"}
    graph = defs.resolve_asset_graph()
    for asset in ASSETS:
        node = graph.get(dg.AssetKey(asset))
        assert not node.parent_keys
        assert not node.child_keys
        assert node.automation_condition is None


def test_a_run_stores_both_reports_and_says_that_there_is_no_card(
    small: tuple[Site, str], instance: dg.DagsterInstance
) -> None:
    site, recipe = small
    job = dg.Definitions(
        assets=[benchmark_report, gpu_memory_report], jobs=[benchmark_job], resources={"site": GivenSite()}
    ).resolve_job_def("benchmark_job")
    config = {
        "benchmark_report": {"config": quick(recipe, pictures=4).model_dump(mode="json")},
        "gpu_memory_report": {"config": {"recipe": recipe}},
    }
    result = job.execute_in_process(instance=instance, run_config={"ops": config})
    assert query(site, "SELECT kind, run_id FROM reports ORDER BY kind") == [
        ("benchmark", result.run_id),
        ("gpu_memory", result.run_id),
    ]
    speed, card = metadata_of(result, "benchmark_report"), metadata_of(result, "gpu_memory_report")
    for name in ("engine_vs_floor", "engine_vs_loop", "cosine_min", "crops_per_second", "process_peak_mib"):
        assert isinstance(speed[name], float), name
        assert speed[name] > 0
    assert "| criterion |" in speed["owners_criteria"]
    assert "| ensemble |" in speed["baseline_multi_scale_ensemble"]
    assert speed["speeds"].startswith("![speeds](data:image/png;base64,")
    assert len(speed["speeds"]) < 140_000
    assert Path(speed["report"]).is_file()
    assert card["card"] is False
    assert "There is no CUDA card here" in card["in_words"]
    assert card["owners_criterion"].startswith("NOT MEASURED")
