"""What the proxy lets through, in front of a server that tells what it was asked."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from deer_reid_pipeline_tests.deploy.proxy import PASSWORD, Proxy, running_proxy

ELSEWHERE = {"Sec_Fetch_Site": "cross-site"}


class Echo(BaseHTTPRequestHandler):
    """Answers every request with its path and headers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def proxy(make_home: Callable[[], Path]) -> Iterator[Proxy]:
    """The proxy in front of `Echo`."""
    behind = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    try:
        with running_proxy(make_home(), f"127.0.0.1:{behind.server_port}") as running:
            yield running
    finally:
        behind.shutdown()
        behind.server_close()


@pytest.mark.parametrize(
    "path",
    ["/", "/graphql", "//graphql", "/%67raphql", "/a/../graphql", "/server_info", "/alive", "/.well-known/x", "/a?b=c"],
)
def test_without_the_password_nobody_gets_anything(proxy: Proxy, path: str) -> None:
    tried = [(method, None) for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD")]
    for method, password in (*tried, ("GET", ""), ("GET", "wrong"), ("POST", "wrong")):
        status, headers, body = proxy.ask(method, path, password)
        assert status == 401
        assert headers["WWW-Authenticate"] == 'Basic realm="deer-reid"'
        assert b"path" not in body


def test_with_the_password_it_passes_on_everything_but_the_password(proxy: Proxy) -> None:
    status, headers, body = proxy.ask("POST", "/graphql?a=%2Fb", PASSWORD, Upgrade="websocket", Connection="Upgrade")
    assert status == 200
    asked = json.loads(body)
    assert asked["path"] == "/graphql?a=%2Fb"
    assert "authorization" not in asked
    assert (asked["host"], asked["x-forwarded-proto"]) == (proxy.address, "https")
    assert (asked["upgrade"], asked["connection"]) == ("websocket", "upgrade")
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Strict-Transport-Security"].startswith("max-age=")
    assert "nginx/" not in headers["Server"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/graphql?query=mutation", ELSEWHERE, 403),
        ("GET", "/graphql?query=mutation", {**ELSEWHERE, "Sec_Fetch_Mode": "navigate"}, 403),
        ("GET", "/%67raphql?query=mutation", {**ELSEWHERE, "Sec_Fetch_Mode": "navigate"}, 403),
        ("GET", "//graphql?query=mutation", {**ELSEWHERE, "Sec_Fetch_Mode": "navigate"}, 403),
        ("POST", "/report_asset_check/a", {"Sec_Fetch_Site": "same-site"}, 403),
        ("POST", "/graphql", {"Origin": "https://evil.example"}, 403),
        ("POST", "/graphql", {"Origin": "null"}, 403),
        ("POST", "/graphql", {"Origin": "https://localhost"}, 403),
        ("GET", "/graphql", {"Origin": "https://evil.example", "Upgrade": "websocket", "Connection": "Upgrade"}, 403),
        ("GET", "/assets/deer_matches", {**ELSEWHERE, "Sec_Fetch_Mode": "navigate"}, 200),
        ("GET", "/assets/deer_matches", {**ELSEWHERE, "Sec_Fetch_Mode": "no-cors"}, 403),
        ("POST", "/graphql", {"Sec_Fetch_Site": "same-origin", "Origin": "SELF"}, 200),
        ("GET", "/graphql", {"Sec_Fetch_Site": "none"}, 200),
        ("POST", "/graphql", {}, 200),
    ],
)
def test_a_page_of_another_site_cannot_use_the_password_of_a_browser(
    proxy: Proxy, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    given = {name: value.replace("SELF", f"https://{proxy.address}") for name, value in headers.items()}
    assert proxy.ask(method, path, PASSWORD, **given)[0] == status


def test_plain_http_and_old_tls_are_refused(proxy: Proxy) -> None:
    assert requests.get(f"http://{proxy.address}/", timeout=30).status_code == 400
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(str(proxy.certificate))
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    host, _, port = proxy.address.partition(":")
    with socket.create_connection((host, int(port))) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname=host)


def test_a_body_that_is_too_large_is_refused(proxy: Proxy) -> None:
    answer = requests.post(
        f"https://{proxy.address}/graphql",
        data=b"x" * (9 * 2**20),
        auth=("analyst", PASSWORD),
        verify=str(proxy.certificate),
        timeout=60,
    )
    assert answer.status_code == 413


def test_the_health_check_tells_nothing_else(proxy: Proxy) -> None:
    assert requests.get(f"{proxy.alive}/alive", timeout=30).status_code == 200
    assert requests.get(f"{proxy.alive}/graphql", timeout=30).status_code == 404


def test_a_client_that_asks_without_end_is_slowed_down(make_home: Callable[[], Path]) -> None:
    with running_proxy(make_home(), "127.0.0.1:9") as alone:
        host, _, port = alone.address.partition(":")
        with (
            socket.create_connection((host, int(port))) as plain,
            alone.tls.wrap_socket(plain, server_hostname=host) as channel,
        ):
            channel.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 900)
            channel.settimeout(60)
            told = b""
            while told.count(b"HTTP/1.1 ") < 900 and (more := channel.recv(1 << 16)):
                told += more
    found = [told.count(b"HTTP/1.1 " + status) for status in (b"401", b"429")]
    assert sum(found) == 900
    assert 500 < found[0] < 900
