"""Runs as they really come about (UI, job, backfill, sensor), through a real workspace, and where each is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from deer_reid_pipeline.launcher.records import PLACEMENT_TAG
from deer_reid_pipeline.launcher.routing import GPU_TAG, pools_of, wants_gpu
from deer_reid_pipeline_tests.launcher.dagster_testing import (
    RECORDING,
    DaemonRounds,
    dagster_instance,
    make_run,
    workspace,
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonRounds]:
    """A Dagster with the launcher, no card, and a delegate that starts nothing; its code is behind gRPC."""
    folder = tmp_path_factory.mktemp("routing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "pynvml", None)
        with dagster_instance(folder, delegate={**RECORDING, "config": {}}) as instance, workspace(instance) as context:
            yield DaemonRounds(context)


def placed(daemon: DaemonRounds, runs: list[dg.DagsterRun]) -> list[str]:
    """What is written on the runs, up to the reason why no card was found."""
    found = [daemon.instance.get_run_by_id(run.run_id) for run in runs]
    assert all(run is not None and GPU_TAG not in run.tags for run in found)
    return [run.tags[PLACEMENT_TAG].partition(":  ")[0].partition(", but no card")[0] for run in found if run]


WANTED, NOT_WANTED = "cpu: pool gpu", "cpu: no step is in pool gpu"


def test_runs_that_the_ui_starts_on_assets(daemon: DaemonRounds) -> None:
    """They use the implicit asset job, which has no tags."""
    assert placed(daemon, daemon.materialize_in_ui("on_card")) == [WANTED]
    assert placed(daemon, daemon.materialize_in_ui("without_card")) == [NOT_WANTED]
    assert placed(daemon, daemon.materialize_in_ui("without_card", "on_card")) == [WANTED]


def test_runs_of_jobs(daemon: DaemonRounds) -> None:
    assert placed(daemon, daemon.launch_job_in_ui("gpu_job")) == [WANTED]
    assert placed(daemon, daemon.launch_job_in_ui("cpu_job")) == [NOT_WANTED]


def test_runs_of_a_backfill(daemon: DaemonRounds) -> None:
    assert placed(daemon, daemon.backfill("partitioned", ["a", "b"])) == [WANTED, WANTED]


def test_runs_of_sensors(daemon: DaemonRounds) -> None:
    assert placed(daemon, daemon.tick_sensor("gpu_sensor")) == [WANTED]
    assert placed(daemon, daemon.tick_sensor("cpu_sensor")) == [NOT_WANTED]


def test_a_run_without_pool_information_is_routed_by_its_plan(tmp_path: Path) -> None:
    """As runs are that an older Dagster stored."""
    with dagster_instance(tmp_path) as instance:
        for job, expected in (("gpu_job", {"gpu"}), ("cpu_job", set())):
            run = make_run(instance, job)._replace(run_op_concurrency=None)
            assert pools_of(run, instance) == expected
            assert wants_gpu(run, instance, ["gpu"])[0] is bool(expected)
        assert wants_gpu(make_run(instance, "gpu_job"), instance, ["other"]) == (False, "no step is in pool other")
