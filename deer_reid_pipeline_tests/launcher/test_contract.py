"""What the launcher relies on: Dagster's private names, the functions of nvidia-ml-py, and a start without torch."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

import deer_reid_pipeline.launcher
from deer_reid_pipeline.launcher import dagster_private
from deer_reid_pipeline.launcher.records import WorkerRecord
from deer_reid_pipeline.launcher.run_launcher import GpuRunLauncher
from deer_reid_pipeline.launcher.worker_environment import worker_environment
from deer_reid_pipeline_tests.launcher.dagster_testing import dagster_instance

REPO = Path(__file__).resolve().parents[2]
PACKAGE = Path(deer_reid_pipeline.launcher.__file__).parent
PRIVATE = re.compile(r"^(?:from|import) (?:dagster\._|dagster\.\w+\._)", re.MULTILINE)


def test_private_names_of_dagster_come_from_one_module() -> None:
    using = {path.name for path in PACKAGE.glob("*.py") if PRIVATE.search(path.read_text(encoding="utf-8"))}
    assert using == {"dagster_private.py"}


def test_the_launcher_answers_all_that_dagster_asks_of_one() -> None:
    base = dagster_private.RunLauncher
    asked = {
        name: member
        for name, member in vars(base).items()
        if not name.startswith("_") and (callable(member) or isinstance(member, property))
    }
    assert set(asked) == {
        "launch_run",
        "terminate",
        "dispose",
        "join",
        "supports_check_run_worker_health",
        "check_run_worker_health",
        "get_run_worker_debug_info",
        "supports_resume_run",
        "resume_run",
    }
    for name, member in asked.items():
        own = vars(GpuRunLauncher)[name]
        if callable(member):
            assert list(inspect.signature(own).parameters) == list(inspect.signature(member).parameters), name


def test_worker_statuses_and_execute_run_are_as_expected() -> None:
    assert {status.name for status in dagster_private.WorkerStatus} == {
        "RUNNING",
        "NOT_FOUND",
        "FAILED",
        "SUCCESS",
        "UNKNOWN",
    }
    fields = inspect.signature(dagster_private.ExecuteRunArgs.__new__).parameters
    assert {"job_origin", "run_id", "instance_ref", "set_exit_code_on_failure"} <= set(fields)


def test_the_functions_of_nvidia_ml_py_that_are_used_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)  # another test may have left the one that replays
    nvml = pytest.importorskip("pynvml", reason="the extra gpu is not installed")
    used = set(re.findall(r"nvml\.(\w+)", (PACKAGE / "cards.py").read_text(encoding="utf-8")))
    assert "nvmlInit" in used
    assert {name for name in used if not hasattr(nvml, name)} == set()
    assert {"total", "free"} <= {name for name, _ in nvml.c_nvmlMemory_t._fields_}
    with pytest.raises(nvml.NVMLError):
        nvml.nvmlDeviceGetCount()  # nothing was initialised


def test_it_starts_without_torch_and_without_the_extras() -> None:
    blocked = ["torch", "torchvision", "pynvml", "dagster_docker", "dagster_k8s", "dagster_ray", "ray", "docker"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}));"
        "from deer_reid_pipeline.launcher.run_launcher import GpuRunLauncher as G;"
        "from dagster._config import process_config, resolve_to_config_type as t;"
        "G.from_config_value(None, process_config(t(G.config_type()), {}).value);"
        "assert not [m for m in sys.modules if m.startswith(('deer_reid_pipeline.steps', 'deer_reid_pipeline.defs'))]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_example_in_dagster_yaml_is_a_launcher_once_its_marks_are_removed(tmp_path: Path) -> None:
    text = (REPO / "dagster.yaml").read_text(encoding="ascii")
    assert "run_launcher" not in yaml.safe_load(text)
    shown = yaml.safe_load(re.sub(r"^# (?=run_launcher:|  )", "", text, flags=re.MULTILINE))["run_launcher"]
    assert (shown["module"], shown["class"]) == (GpuRunLauncher.__module__, "GpuRunLauncher")
    with dagster_instance(tmp_path, **shown["config"]) as instance:
        assert isinstance(instance.run_launcher, GpuRunLauncher)


def test_the_threads_of_the_queue_in_the_docs_go_with_the_shipped_limits(tmp_path: Path) -> None:
    documented = re.search(r"```yaml\n(run_queue:\n.*?)```", (REPO / "docs/launcher.md").read_text("utf-8"), re.DOTALL)
    assert documented is not None
    shipped = yaml.safe_load((REPO / "dagster.yaml").read_text(encoding="ascii"))
    both = {"concurrency": shipped["concurrency"], **yaml.safe_load(documented[1])}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(both), encoding="ascii")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        coordinator, limits = instance.run_coordinator, instance.get_concurrency_config()
    assert coordinator.dequeue_use_threads  # type: ignore[attr-defined]
    assert coordinator.dequeue_num_workers == limits.run_queue_config.max_concurrent_runs  # type: ignore[attr-defined, union-attr]
    assert limits.pool_config.pool_granularity.value == "run"


def test_device_and_budget_follow_the_placement() -> None:
    placed = WorkerRecord("r", "process", "h", "b", "n", device="GPU-1", budget_mb=10)
    inherited = {"DEER_REID_DEVICE": "cuda:1", "CUDA_VISIBLE_DEVICES": "0,1", "PATH": "/bin"}
    found = worker_environment(placed, inherited)
    assert (found["CUDA_VISIBLE_DEVICES"], found["DEER_REID_DEVICE"], found["PATH"]) == ("GPU-1", "cuda", "/bin")
    assert worker_environment(placed, {"DEER_REID_DEVICE": "cpu"})["DEER_REID_DEVICE"] == "cpu"
    without = worker_environment(WorkerRecord("r", "process", "h", "b", "n"), {**inherited, "DEER_REID_VRAM_MB": "7"})
    assert (without["CUDA_VISIBLE_DEVICES"], without["DEER_REID_DEVICE"]) == ("", "cpu")
