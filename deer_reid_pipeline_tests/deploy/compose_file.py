"""The compose file as data, and its variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from deer_reid_pipeline_tests.conftest import REPO

VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::?([-?])([^}]*))?\}")


def compose() -> dict[str, Any]:
    """docker-compose.yml, anchors and merges applied, variables left as they are."""
    return yaml.safe_load((REPO / "docker-compose.yml").read_text(encoding="utf-8"))


def services() -> dict[str, dict[str, Any]]:
    return compose()["services"]


def in_starting_order(profile: str | None = None) -> list[str]:
    """Names of the services that start, each after those that it depends on."""
    chosen = {name: one for name, one in services().items() if {*one.get("profiles", ())} <= {profile}}
    order: list[str] = []

    def put(name: str) -> None:
        for earlier in chosen[name].get("depends_on", {}):
            put(earlier)
        if name not in order:
            order.append(name)

    for name in chosen:
        put(name)
    return order


def filled(text: str, values: Mapping[str, str]) -> str:
    """Text with its variables replaced, defaults where there is no value.

    Raises:
        KeyError: a variable has neither.
    """

    def value(found: re.Match[str]) -> str:
        name, kind, default = found.groups()
        if name in values:
            return values[name]
        if kind == "-":
            return str(default)
        raise KeyError(name)

    return VARIABLE.sub(value, text)


def example_variables() -> tuple[set[str], set[str]]:
    """What .env.example asks for, and what it offers behind a comment mark."""
    text = (REPO / ".env.example").read_text(encoding="utf-8")
    return set(re.findall(r"^(\w+)=$", text, re.M)), set(re.findall(r"^# (\w+)=", text, re.M))
