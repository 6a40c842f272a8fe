"""The launchers behind this one: what reaches them, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

from deer_reid_pipeline.launcher.errors import LauncherError
from deer_reid_pipeline_tests.launcher.dagster_testing import RECORDING, dagster_instance, make_run, start
from deer_reid_pipeline_tests.launcher.test_outcomes import opened


def test_the_environment_is_resolved_in_the_delegates_config(
    no_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_WORD", "from the environment")
    with dagster_instance(
        tmp_path, delegate={**RECORDING, "config": {"word": {"env": "A_WORD"}}}, vram_mb={"env": "VRAM"}
    ) as instance:
        monkeypatch.setenv("VRAM", "5000")
        launcher = instance.run_launcher
        assert launcher._cpu.launcher.config == {"word": "from the environment"}  # type: ignore[attr-defined]
        assert launcher._options.vram_mb == 5000  # type: ignore[attr-defined]
        assert launcher._cpu.launcher._instance is instance  # type: ignore[attr-defined]


def test_a_delegate_that_does_not_know_is_asked_again(no_driver: None, tmp_path: Path) -> None:
    """Unknown would make the monitor fail a living run."""
    with opened(tmp_path) as (instance, launcher, delegate):
        run = start(instance, make_run(instance, "cpu_job"))
        assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
        delegate.answer = CheckRunHealthResult(WorkerStatus.UNKNOWN, "no route")
        with pytest.raises(LauncherError, match="no route; it is asked again"):
            launcher.check_run_worker_health(run)
        delegate.answer = CheckRunHealthResult(WorkerStatus.FAILED, "exit 1")
        assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED
        assert launcher.terminate(run.run_id)
        assert delegate.terminated == [run.run_id]
        launcher.dispose()
        assert delegate.disposed


def test_a_wrong_delegate_says_what_is_wrong(no_driver: None, tmp_path: Path) -> None:
    for delegate, complaint in (
        ({"module": "no_such_module", "class": "X"}, "no_such_module, which cannot be imported"),
        ({"module": "json", "class": "JSONDecoder"}, "json has no run launcher named JSONDecoder"),
    ):
        with dagster_instance(tmp_path, delegate=delegate) as instance, pytest.raises(LauncherError, match=complaint):
            _ = instance.run_launcher


@pytest.mark.parametrize(("back_end", "extra"), [("docker", "docker"), ("kubernetes", "k8s"), ("ray", "ray")])
def test_a_back_end_whose_package_is_missing_names_the_extra(
    no_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back_end: str, extra: str
) -> None:
    find = __import__("importlib.util").util.find_spec
    hidden: Callable[..., object] = lambda name, *rest: None if name.startswith("dagster_") else find(name, *rest)  # noqa: E731
    with dagster_instance(tmp_path, gpu={back_end: {}}) as instance:
        monkeypatch.setattr("importlib.util.find_spec", hidden)
        with pytest.raises(LauncherError, match=rf"pip install 'deer-reid-pipeline\[{extra}\]'"):
            _ = instance.run_launcher
