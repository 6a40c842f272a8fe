"""The Dockerfile copies all that the package is built from, installs what it asks for, and runs as nobody special."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deer_reid_pipeline_tests.conftest import REPO

DOCKERFILE = (REPO / "Dockerfile").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))


def copied() -> list[str]:
    """What the image copies from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
    return [source for line in lines for source in line.split()[:-1]]


def test_the_package_can_be_built_from_what_is_copied() -> None:
    hatch = PYPROJECT["tool"]["hatch"]
    needed = {
        "pyproject.toml",
        "constraints.txt",
        PYPROJECT["project"]["readme"],
        *PYPROJECT["project"]["license-files"],
        *hatch["build"]["targets"]["wheel"]["packages"],
        *hatch["build"]["targets"]["wheel"]["force-include"],
    }
    assert needed <= set(copied())


def test_the_builder_gets_what_is_copied_and_neither_secrets_nor_homes() -> None:
    lines = (REPO / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert let_in == set(copied())
    for path in (*let_in,):
        assert (REPO / path).exists(), path
    for secret in (".env", ".deer-reid", ".git", "backups", "deploy/proxy/users"):
        assert not any(fnmatch.fnmatch(secret, rule) for rule in let_in)


def test_the_image_runs_without_root_and_names_no_index() -> None:
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.M) == ["deer-reid"]
    assert "--uid 10001" in DOCKERFILE
    assert not re.search(r"http|index[-_]url", DOCKERFILE, re.I)
    assert "HEALTHCHECK" not in DOCKERFILE, "the compose file says how each service is looked after"


@pytest.mark.parametrize("extras", ["", "gpu", "gpu,ray, docker"])
def test_the_image_asks_for_what_the_project_needs(extras: str) -> None:
    command = [sys.executable, str(REPO / "deploy" / "requirements.py"), str(REPO / "pyproject.toml"), extras]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    chosen = [name.strip() for name in extras.split(",") if name.strip()]
    optional = PYPROJECT["project"]["optional-dependencies"]
    assert told == PYPROJECT["project"]["dependencies"] + [line for name in chosen for line in optional[name]]


def test_an_unknown_extra_is_refused() -> None:
    command = [sys.executable, str(REPO / "deploy" / "requirements.py"), str(REPO / "pyproject.toml"), "gpus"]
    assert subprocess.run(command, capture_output=True, text=True).returncode != 0


def test_what_is_asked_for_is_pinned_within_its_range() -> None:
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    extras = PYPROJECT["project"]["optional-dependencies"]
    asked = [
        *PYPROJECT["project"]["dependencies"],
        *(one for name in extras if name != "detect" for one in extras[name]),
    ]
    for one in map(Requirement, asked):
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one
