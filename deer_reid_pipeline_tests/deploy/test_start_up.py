"""The services in the order of the compose file, as real processes, and every route of the web server refused."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from dagster_webserver.webserver import DagsterWebserver
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from deer_reid_pipeline_tests.deploy.proxy import PASSWORD, USER, Proxy, running_proxy
from deer_reid_pipeline_tests.deploy.stack import Stack, running_stack
from deer_reid_pipeline_tests.e2e.runs import small_drop
from deer_reid_pipeline_tests.launcher.conftest import wait_for
from deer_reid_pipeline_tests.sites import read_table

ENDED = ("SUCCESS", "FAILURE", "CANCELED")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@dataclass
class Running:
    """The stack and the proxy in front of it."""

    stack: Stack
    proxy: Proxy

    def direct(self, method: str, path: str) -> int:
        """Status of the web server itself, as nobody outside can ask it."""
        address = f"http://127.0.0.1:{self.stack.ports['webserver']}{path}"
        return requests.request(method, address, allow_redirects=False, timeout=120).status_code

    def graphql(self, query: str) -> dict[str, Any]:
        """Data of a query that goes through the proxy."""
        answer = requests.post(
            f"https://{self.proxy.address}/graphql",
            json={"query": query},
            auth=(USER, PASSWORD),
            verify=str(self.proxy.certificate),
            timeout=120,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


@pytest.fixture(scope="module")
def running(make_home: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The whole installation."""
    folder = tmp_path_factory.mktemp("stack")
    drops = folder / "drops"
    drops.mkdir()
    with (
        running_stack(make_home(), make_home(), drops, folder) as stack,
        running_proxy(make_home(), f"127.0.0.1:{stack.ports['webserver']}") as proxy,
    ):
        yield Running(stack, proxy)


def routes() -> list[tuple[str, str]]:
    """A request for every route that Dagster's web server has, found out from the server itself."""
    found = []
    webserver = DagsterWebserver(None)  # type: ignore[arg-type]
    for route in webserver.build_routes():
        if isinstance(route, Mount):
            folder = Path(route.app.directory)  # type: ignore[attr-defined]
            file = next(path for path in sorted(folder.rglob("*")) if path.is_file())
            found.append(("GET", f"{route.path}/{file.relative_to(folder).as_posix()}"))
        elif isinstance(route, Route):
            path = re.sub(r"\{[^}]*\}", "some-thing", route.path)
            found += [(method, path) for method in sorted(route.methods or {"GET", "HEAD", "POST"})]
        else:
            assert isinstance(route, WebSocketRoute), f"a new kind of route: {route}"
    return found


def test_the_services_are_up_in_the_order_of_the_compose_file(running: Running) -> None:
    assert running.stack.started == ["db", "migrate", "code", "daemon", "webserver"]
    data = running.graphql(
        "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename } "
        "} } } instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
    )
    assert data["workspaceOrError"] == {
        "locationEntries": [
            {
                "name": "deer_reid_pipeline",
                "loadStatus": "LOADED",
                "locationOrLoadError": {"__typename": "RepositoryLocation"},
            }
        ]
    }
    statuses = data["instance"]["daemonHealth"]["allDaemonStatuses"]
    required = {one["daemonType"]: one["healthy"] for one in statuses if one["required"]}
    assert {"SENSOR", "SCHEDULER", "QUEUED_RUN_COORDINATOR", "MONITORING"} <= set(required)
    assert all(required.values()), required


def test_a_drop_that_arrives_is_processed(running: Running, herd: Path) -> None:
    copied = small_drop(herd, running.stack.folder / "copied")
    (copied / "_COMPLETE").touch()
    arrived = copied.rename(running.stack.drops / "first night")
    query = "{ runsOrError { ... on Runs { results { jobName status tags { key value } } } } }"

    def ended() -> dict[str, Any] | None:
        runs = running.graphql(query)["runsOrError"]["results"]
        done = [run for run in runs if run["jobName"] == "process_drop_job" and run["status"] in ENDED]
        return done[0] if done else None

    run = wait_for(ended, "run of the drop", timeout=1200)
    assert run["status"] == "SUCCESS", running.stack.log_of("code")
    exported = running.stack.folder / "all.csv"
    done = running.stack.run(["deer-reid", "export", str(exported)], 300)
    assert done.returncode == 0, done.stderr
    pictures = {row["filePath"] for row in read_table(exported)}
    assert len(pictures) == len({row["filePath"] for row in read_table(arrived / "observations.csv")}) > 0


def test_every_route_is_refused_without_the_password_and_answers_with_it(running: Running) -> None:
    asked = routes()
    paths = {path for _, path in asked}
    assert {"/graphql", "/server_info", "/dagit_info", "/notebook", "/", "/some-thing"} <= paths
    assert {"/logs/some-thing", "/download_debug/some-thing", "/report_asset_materialization/some-thing"} <= paths
    assert len(paths) > 20
    differing = []
    for method, path in asked:
        for password in (None, "wrong"):
            status, _, body = running.proxy.ask(method, path, password)
            assert status == 401, f"{method} {path} -> {status}"
            assert b"dagster" not in body.lower(), f"{method} {path} tells something"
        status = running.proxy.ask(method, path, PASSWORD)[0]
        direct = running.direct(method, path)
        if status != direct:
            differing.append(f"{method} {path}: {status}, directly {direct}")
        assert status != 401
    assert differing == []
    ok = [
        running.proxy.ask("GET", path, PASSWORD)[0]
        for path in ("/", "/server_info", "/assets", "/graphql?query={__typename}")
    ]
    assert ok == [200] * 4


@pytest.mark.parametrize("user", [None, f"{USER}:wrong", f"nobody:{PASSWORD}"])
def test_the_websocket_is_refused_without_the_password(running: Running, user: str | None) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_socket(running.proxy, user)
    assert refused.value.response.status_code == 401


def test_the_websocket_is_refused_to_a_page_of_another_site(running: Running) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_socket(running.proxy, f"{USER}:{PASSWORD}", origin="https://evil.example")
    assert refused.value.response.status_code == 403


def test_the_websocket_works_with_the_password(running: Running) -> None:
    own = f"https://{running.proxy.address}"
    with open_socket(running.proxy, f"{USER}:{PASSWORD}", origin=own) as socket:
        assert socket.response is not None
        assert socket.response.status_code == 101
        socket.send(json.dumps({"type": "connection_init", "payload": {}}))
        assert json.loads(socket.recv(timeout=60))["type"] == "connection_ack"
        query = "subscription { locationStateChangeEvents { event { message } } }"
        socket.send(json.dumps({"id": "1", "type": "start", "payload": {"query": query, "variables": {}}}))
        socket.send(json.dumps({"id": "1", "type": "stop"}))


def open_socket(proxy: Proxy, user: str | None, origin: str | None = None):  # type: ignore[no-untyped-def]
    """A websocket to /graphql, as the UI opens it."""
    word = base64.b64encode((user or "").encode()).decode()
    return connect(
        f"wss://{proxy.address}/graphql",
        ssl=proxy.tls,
        origin=origin,  # type: ignore[arg-type]
        subprotocols=["graphql-ws"],  # type: ignore[list-item]
        additional_headers={} if user is None else {"Authorization": f"Basic {word}"},
        proxy=None,
        open_timeout=60,
    )
