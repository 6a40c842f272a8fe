"""The web server that `serve` starts, as a process: other sites' pages get nothing, its own and programs everything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.deploy.proxy import free_port
from deer_reid_pipeline_tests.launcher.conftest import wait_for

QUERY = "/graphql?query={version}"
OTHER = "https://other.example"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a running web server without a code location."""
    folder = tmp_path_factory.mktemp("dagster")
    (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="ascii")
    port = free_port()
    command = [sys.executable, "-m", "deer_reid_pipeline.defs.web_server", "--empty-workspace", "--port", str(port)]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPO,
            env={**os.environ, "DAGSTER_HOME": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, "web server")
        assert process.poll() is None, log.read_text()
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(timeout=60)


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/server_info", timeout=60).ok
    except requests.ConnectionError:
        return False


def status(address: str, method: str, path: str, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.request(method, f"http://{address}{path}", headers=named, timeout=60).status_code


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", QUERY, {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}),
        ("GET", QUERY, {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}),
        ("GET", QUERY, {"Sec_Fetch_Site": "same-site"}),
        ("GET", QUERY, {"Origin": OTHER}),
        ("GET", QUERY, {"Origin": "null"}),
        ("POST", QUERY, {"Origin": OTHER, "Content_Type": "text/plain"}),
        ("POST", QUERY, {"Sec_Fetch_Site": "cross-site", "Content_Type": "text/plain"}),
        ("POST", "/report_asset_materialization/a", {"Origin": OTHER}),
        ("GET", "/logs/a", {"Sec_Fetch_Site": "cross-site"}),
    ],
)
def test_what_a_page_of_another_site_asks_for_is_refused(
    address: str, method: str, path: str, headers: dict[str, str]
) -> None:
    assert status(address, method, path, **headers) == 403


def test_another_port_of_the_same_machine_is_another_site(address: str) -> None:
    assert status(address, "GET", QUERY, Origin="http://127.0.0.1:1") == 403


@pytest.mark.parametrize("path", [QUERY, "/server_info", "/"])
def test_its_own_pages_and_programs_get_an_answer(address: str, path: str) -> None:
    assert status(address, "GET", path) == 200
    assert status(address, "GET", path, Origin=f"http://{address}", Sec_Fetch_Site="same-origin") == 200
    assert status(address, "GET", path, Sec_Fetch_Site="none") == 200


def test_a_link_leads_to_a_page(address: str) -> None:
    assert status(address, "GET", "/runs", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 200


def test_the_websocket_opens_for_its_own_pages_only(address: str) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{address}/graphql", origin=OTHER, subprotocols=["graphql-ws"], open_timeout=60)  # type: ignore[arg-type, list-item]
    with connect(f"ws://{address}/graphql", origin=f"http://{address}", subprotocols=["graphql-ws"]) as opened:  # type: ignore[arg-type, list-item]
        opened.send('{"type": "connection_init"}')
        assert "connection_ack" in str(opened.recv(timeout=60))
