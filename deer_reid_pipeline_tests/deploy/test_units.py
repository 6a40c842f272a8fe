"""The systemd units and the values for Kubernetes: what starts, as whom, with what, and how Dagster is set there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deer_reid_pipeline import __version__
from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.deploy.compose_file import services

UNITS = sorted((REPO / "deploy" / "systemd").glob("deer-reid*.service"))
OPT = "/opt/deer-reid"


def lines(unit: Path) -> dict[str, str]:
    """Settings of a unit; the last of a name counts."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(encoding="ascii"), re.M))


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    here = str(Path(sys.executable).parent)
    for unit in (REPO / "deploy" / "systemd").glob("deer-reid*.*"):
        text = unit.read_text(encoding="ascii").replace(f"{OPT}/.venv/bin", here)
        (tmp_path / unit.name).write_text(text, encoding="ascii")
    units = [str(path) for path in tmp_path.iterdir() if path.suffix != ".example"]
    done = subprocess.run([program, "verify", "--man=no", *units], capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if "deer-reid" in line] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_has_no_more_rights_than_it_needs(unit: Path) -> None:
    found = lines(unit)
    assert (found["User"], found["StateDirectoryMode"], found["UMask"]) == ("deer-reid", "0700", "0027")
    assert (found["ProtectSystem"], found["NoNewPrivileges"], found["CapabilityBoundingSet"]) == ("strict", "yes", "")
    assert found["EnvironmentFile"] == "/etc/deer-reid/deer-reid.env"
    assert "0.0.0.0" not in unit.read_text(encoding="ascii")


def test_the_same_commands_run_with_and_without_containers() -> None:
    for name in ("code", "daemon", "webserver"):
        ours = shlex.split(lines(REPO / "deploy" / "systemd" / f"deer-reid-{name}.service")["ExecStart"])
        there = [word.replace("0.0.0.0", "127.0.0.1") for word in services()[name]["command"]]
        there = [word.replace("/etc/deer-reid/", f"{OPT}/deploy/") for word in there]
        assert [word for word in ours if word != "--use-python-environment-entry-point"] == [
            f"{OPT}/.venv/bin/{there[0]}",
            *there[1:],
        ]


def test_nothing_starts_before_the_schema_is_there() -> None:
    for name in ("code", "daemon", "webserver"):
        found = lines(REPO / "deploy" / "systemd" / f"deer-reid-{name}.service")
        assert found["Requires"] == "deer-reid-migrate.service"
        assert {"deer-reid-migrate.service", "deer-reid-database.service"} <= set(found["After"].split())


def test_every_unit_file_is_of_this_checkout() -> None:
    for unit in UNITS:
        for path in re.findall(rf"{OPT}/(deploy/\S+)", unit.read_text(encoding="ascii")):
            assert (REPO / path).exists(), path


def chart_values() -> Any:
    return yaml.safe_load((REPO / "deploy" / "kubernetes" / "values.yaml").read_text(encoding="utf-8"))


def test_the_values_for_kubernetes_pin_the_image_and_hold_no_secret() -> None:
    values = chart_values()
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["image"]["tag"] == __version__
    assert deployment["podSecurityContext"]["runAsUser"] == 10001
    assert values["dagsterWebserver"]["service"]["type"] == "ClusterIP"
    text = yaml.safe_dump(values)
    assert not re.search(r"[Pp]assword:\s*\S|://[^/@\s]*:[^/@\s]*@", text)


def snake_case(values: Any) -> Any:
    """The chart's values under the names of dagster.yaml: maxRetries is max_retries."""
    if not isinstance(values, dict):
        return values
    return {re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower(): snake_case(value) for name, value in values.items()}


def instance_of_the_chart(values: Any) -> dict[str, Any]:
    """What the chart's template writes of these values into the instance's dagster.yaml."""
    daemon, scheduler = values["dagsterDaemon"], values["scheduler"]
    given = {
        "concurrency": values["concurrency"],
        "run_monitoring": daemon["runMonitoring"],
        "run_retries": daemon["runRetries"],
        "retention": values["retention"],
        "telemetry": values["telemetry"],
        "scheduler": {"class": scheduler["type"], "config": scheduler["config"]["daemonScheduler"]},
    }
    written: dict[str, Any] = snake_case(given)
    for name in ("concurrency", "retention"):
        assert written[name].pop("enabled"), f"the chart leaves {name} out otherwise"
    return written | values["additionalInstanceConfig"]


def test_the_values_for_kubernetes_set_what_dagster_yaml_sets() -> None:
    expected = yaml.safe_load((REPO / "dagster.yaml").read_text(encoding="ascii"))
    del expected["storage"]  # the chart has its own
    del expected["scheduler"]["module"]
    expected["retention"]["sensor"]["purge_after_days"]["started"] = -1
    assert instance_of_the_chart(chart_values()) == expected


def test_the_values_for_kubernetes_limit_runs_in_one_place() -> None:
    """The chart fails where both are given; the run coordinator's are the older names."""
    assert "runCoordinator" not in chart_values()["dagsterDaemon"]
