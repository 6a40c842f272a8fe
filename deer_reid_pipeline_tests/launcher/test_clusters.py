"""Docker, Kubernetes and Ray: the real launchers and clients of the extras, with only their HTTP answered here.

Each is skipped where its extra is not installed. Nothing here shows that a container, pod or job does run on a card.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deer_reid_pipeline.launcher.errors import LauncherError
from deer_reid_pipeline.launcher.leases import LeaseBook
from deer_reid_pipeline.launcher.records import PLACEMENT_TAG
from deer_reid_pipeline_tests.launcher.conftest import SMALL
from deer_reid_pipeline_tests.launcher.dagster_testing import dagster_instance, make_run, start, under_way

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    "users": [{"name": "u", "user": {}}],
    "current-context": "c",
}


class Http:
    """Answers by method and end of the path; keeps what was asked."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, Any]] = []
        self.reachable = True

    def answer(self, method: str, url: str, body: Any) -> tuple[int, str]:
        """Status and body; ConnectionError where the server is switched off."""
        if not self.reachable:
            raise ConnectionError("nobody listens")
        self.asked.append((method, url, body))
        for (wanted, part), found in self.answers.items():
            if wanted == method and part in url:
                status, content = found if isinstance(found, tuple) else (200, found)
                return status, json.dumps(content)
        raise AssertionError(f"no answer for {method} {url}")

    def body_of(self, method: str, part: str) -> Any:
        return next(body for asked, url, body in self.asked if asked == method and part in url)


def test_docker_gives_the_container_the_leased_card(
    cards: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dagster_docker", reason="the extra docker is not installed")
    import docker
    import requests

    state = {"Status": "running"}
    container = {"Id": "c1", "State": state, "Config": {"Image": "deer:1"}, "Name": "/c1"}
    http = Http(
        {
            ("POST", "/containers/create"): (201, {"Id": "c1", "Warnings": []}),
            ("POST", "/containers/c1/start"): (204, {}),
            ("GET", "/containers/c1/json"): container,
            ("GET", "/containers/json"): [{"Id": "c1"}],
        }
    )

    def send(self: Any, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        response = requests.Response()
        body = json.loads(request.body) if request.body else None
        response.status_code, text = http.answer(str(request.method), str(request.url), body)
        response._content = text.encode()
        return response

    monkeypatch.setattr(docker.api.client.APIClient, "send", send)
    monkeypatch.setattr(docker.client, "from_env", lambda: docker.DockerClient("tcp://127.0.0.1:1", version="1.43"))
    config = {"image": "deer:1", "env_vars": ["DATABASE_URL=postgresql://db"], "container_kwargs": {"shm_size": "2g"}}
    with dagster_instance(tmp_path, gpu={"docker": config}, vram_mb=4000) as instance:
        run = start(instance, make_run(instance, "gpu_job"))
        asked = http.body_of("POST", "/containers/create")
        (request,) = asked["HostConfig"]["DeviceRequests"]
        assert (request["DeviceIDs"], request["Capabilities"], request["Count"]) == ([SMALL], [["gpu"]], 0)
        assert asked["HostConfig"]["ShmSize"] == 2 * 2**30
        assert {
            "DATABASE_URL=postgresql://db",
            f"CUDA_VISIBLE_DEVICES={SMALL}",
            "CUDA_DEVICE_ORDER=PCI_BUS_ID",
            "DEER_REID_VRAM_MB=4000",
        } <= set(asked["Env"])
        launcher, book = instance.run_launcher, LeaseBook(tmp_path / "state")
        (lease,) = book.all()
        assert (lease.device, lease.back_end) == (SMALL, "docker")
        assert launcher._holds(lease)  # type: ignore[attr-defined]
        run = under_way(instance, run)
        assert launcher.check_run_worker_health(run).status.value == "RUNNING"
        http.reachable = False
        with pytest.raises(ConnectionError):
            launcher.check_run_worker_health(run)
        assert launcher._holds(lease), "what cannot be reached may still use its card"  # type: ignore[attr-defined]
        http.reachable = True
        http.answers["GET", "/containers/json"] = []
        assert not launcher._holds(lease)  # type: ignore[attr-defined]
        state["Status"] = "exited"
        assert launcher.check_run_worker_health(run).status.value == "FAILED"
        assert book.all() == []


def test_kubernetes_asks_for_cards_and_never_says_unknown(
    no_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dagster_k8s", reason="the extra k8s is not installed")
    import kubernetes

    http = Http({("POST", "/jobs"): (201, {"metadata": {"name": "j"}}), ("GET", "/status"): {"status": {"active": 1}}})

    def request(self: Any, method: str, url: str, body: Any = None, **_: Any) -> Any:
        status, text = http.answer(method, url, body)
        if status >= 400:
            refused = kubernetes.client.rest.ApiException(status=status)
            refused.body = text.encode()
            raise refused
        return SimpleNamespace(
            status=status, data=text.encode(), getheader=lambda *_: "application/json", getheaders=lambda: {}, reason=""
        )

    monkeypatch.setattr(kubernetes.client.rest.RESTClientObject, "request", request)
    monkeypatch.setattr("dagster_k8s.client.DEFAULT_WAIT_BETWEEN_ATTEMPTS", 0)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(KUBECONFIG))
    config = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "dagster_home": "/home/dagster",
        "job_image": "deer:1",
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig),
        "gpus": 2,
    }
    own = {"container_config": {"resources": {"limits": {"memory": "8Gi"}}, "env": [{"name": "A", "value": "1"}]}}
    with dagster_instance(tmp_path, gpu={"kubernetes": config}, vram_mb=4000) as instance:
        run = start(instance, make_run(instance, "gpu_job", {"dagster-k8s/config": json.dumps(own)}))
        (container,) = http.body_of("POST", "/jobs")["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "2"}
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert (environment["A"], environment["DEER_REID_VRAM_MB"]) == ("1", "4000")
        assert json.loads(run.tags["dagster-k8s/config"]) == own, "a retry would inherit the card"
        assert run.tags[PLACEMENT_TAG] == "kubernetes: pool gpu; the cluster chooses the card"
        assert LeaseBook(tmp_path / "state").all() == []
        launcher, run = instance.run_launcher, under_way(instance, run)
        assert launcher.check_run_worker_health(run).status.value == "RUNNING"
        http.reachable = False
        with pytest.raises(LauncherError, match="nobody listens"):
            launcher.check_run_worker_health(run)
        http.reachable = True
        http.answers["GET", "/status"] = (404, {})
        assert launcher.check_run_worker_health(run).status.value == "FAILED"


def test_ray_asks_for_a_fraction_of_a_card_and_never_says_unknown(
    no_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dagster_ray", reason="the extra ray is not installed")
    import ray
    import requests

    job = {"type": "SUBMISSION", "entrypoint": "x", "status": "RUNNING", "submission_id": "s"}
    version = {"version": "4", "ray_version": ray.__version__, "ray_commit": ray.__commit__}
    http = Http(
        {
            ("GET", "/api/version"): version,
            ("POST", "/api/jobs/"): {"job_id": "s", "submission_id": "s"},
            ("GET", "/api/jobs/"): job,
        }
    )

    def request(method: str, url: str, json: Any = None, **_: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, text = http.answer(method, url, json)
        response._content = text.encode()
        return response

    monkeypatch.setattr(requests, "request", request)
    config = {"ray": {"address": "http://127.0.0.1:1", "runtime_env": {"env_vars": {"A": "1"}}}, "num_gpus": 0.5}
    with dagster_instance(tmp_path, gpu={"ray": config}, vram_mb=4000) as instance:
        run = under_way(instance, start(instance, make_run(instance, "gpu_job")))
        asked = http.body_of("POST", "/api/jobs/")
        assert asked["entrypoint_num_gpus"] == 0.5
        variables = asked["runtime_env"]["env_vars"]
        assert (variables["A"], variables["DEER_REID_VRAM_MB"]) == ("1", "4000")
        assert "dagster-ray/config" not in run.tags
        launcher = instance.run_launcher
        assert launcher.check_run_worker_health(run).status.value == "RUNNING"
        http.answers["GET", "/api/jobs/"] = (500, {"error": "starting"})
        with pytest.raises(LauncherError, match="status code 500"):
            launcher.check_run_worker_health(run)
        http.answers["GET", "/api/jobs/"] = (404, {"error": "no job"})
        assert launcher.check_run_worker_health(run).status.value == "FAILED"
