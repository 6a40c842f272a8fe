"""Debian's nginx with the shipped configuration, on free ports, and what a client of it needs."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.deploy.compose_file import filled, services

USER, PASSWORD = "analyst", "a long: passphrase"
TEMPLATE = REPO / "deploy" / "proxy" / "deer-reid.conf.template"
FRAME = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ }}
http {{
    include /etc/nginx/mime.types;
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    include {folder}/deer-reid.conf;
}}
"""


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    address: str
    alive: str
    certificate: Path
    folder: Path

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))

    def ask(
        self, method: str, path: str, password: str | None = None, **headers: str
    ) -> tuple[int, requests.structures.CaseInsensitiveDict[str], bytes]:
        """Status, headers and body; no redirect is followed."""
        answer = requests.request(
            method,
            f"https://{self.address}{path}",
            auth=None if password is None else (USER, password),
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            verify=str(self.certificate),
            allow_redirects=False,
            timeout=120,
        )
        return answer.status_code, answer.headers, answer.content


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_nginx() -> str:
    """The program; the test is skipped where it is not installed."""
    for folder in ("/usr/sbin", "/usr/bin", "/usr/local/sbin"):
        if (Path(folder) / "nginx").exists():
            return f"{folder}/nginx"
    pytest.skip("nginx is not installed (apt-get install nginx)")


def openssl(*arguments: str) -> str:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def running_proxy(folder: Path, upstream: str) -> Iterator[Proxy]:
    """Run it in front of `upstream` (host:port). Others must be able to pass the folder: its workers are not root."""
    program = find_nginx()
    certificate, key, users = folder / "certificate.pem", folder / "key.pem", folder / "users"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key), "-out",
            str(certificate), *names)  # fmt: skip
    users.write_text(f"{USER}:{openssl('passwd', '-6', PASSWORD)}\n", encoding="ascii")
    users.chmod(0o644)
    port, alive = free_port(), free_port()
    values = {
        **services()["proxy"]["environment"],
        "PROXY_LISTEN": f"127.0.0.1:{port}",
        "PROXY_ALIVE": f"127.0.0.1:{alive}",
        "PROXY_UPSTREAM": upstream,
        "PROXY_CERTIFICATE": str(certificate),
        "PROXY_KEY": str(key),
        "PROXY_USERS": str(users),
    }
    text = filled(TEMPLATE.read_text(encoding="ascii"), values)
    assert "${" not in text
    (folder / "deer-reid.conf").write_text(text, encoding="ascii")
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder), encoding="ascii")
    command = [program, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until_open(port)
        yield Proxy(f"localhost:{port}", f"http://127.0.0.1:{alive}", certificate, folder)
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_until_open(port: int, timeout: float = 60.0) -> None:
    """Wait until somebody listens on a port of this machine.

    Raises:
        AssertionError: nobody does.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on port {port}")
