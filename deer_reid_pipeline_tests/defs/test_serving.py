"""What `deer-reid serve` does beside keeping processes up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import dagster as dg
import pytest

from deer_reid_pipeline.defs import serving
from deer_reid_pipeline.defs.serving import DatabaseUpkeep, environment_of, forget_future_ticks
from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.store.embedded import EmbeddedServer
from deer_reid_pipeline_tests.defs.automation.dagster_testing import last_looks, looked_at


def test_sensors_that_looked_in_the_future_look_again_and_keep_their_cursor(tmp_path: Path) -> None:
    now = time.time()
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="ascii")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        looked_at(instance, "ahead", now + 7200.0, "waits for a folder")
        looked_at(instance, "in time", now - 10.0, "waits too")
        assert forget_future_ticks(instance) == 1
        assert last_looks(instance) == {
            "ahead": (None, None, "waits for a folder"),
            "in time": (now - 10.0, now - 10.0, "waits too"),
        }
        assert forget_future_ticks(instance) == 0


class Hindered:
    """A server that cannot start while something is in the way."""

    def __init__(self, *hindrances: Exception) -> None:
        self.hindrances = list(hindrances)
        self.asked = 0

    def ensure_running(self) -> None:
        self.asked += 1
        if self.hindrances:
            raise self.hindrances.pop(0)


def test_a_database_that_cannot_be_started_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Hindered(PermissionError(13, "Permission denied", "/run/deer-reid"), DatabaseError("the disk is full"))
    told: list[str] = []
    upkeep = DatabaseUpkeep(cast(EmbeddedServer, server), told.append)
    upkeep()
    upkeep()
    assert server.asked == 1, "there is a pause"
    monkeypatch.setattr(serving, "DATABASE_EVERY_S", 0.0)
    upkeep = DatabaseUpkeep(cast(EmbeddedServer, server), told.append)
    upkeep()
    upkeep()
    assert server.asked == 3
    assert told == [
        "The database does not start: [Errno 13] Permission denied: '/run/deer-reid'. It is tried again.",
        "The database does not start: the disk is full. It is tried again.",
    ]


def test_reports_link_to_the_port_that_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEER_REID_UI_URL", raising=False)
    monkeypatch.setenv("DATABASE_URL", "")
    found = environment_of(load_settings(), "postgresql://embedded/deer", "127.0.0.1", 3377)
    assert found["DEER_REID_UI_URL"] == "http://127.0.0.1:3377"
    assert "DATABASE_URL" not in found
    assert environment_of(load_settings(), "", "::1", 80)["DEER_REID_UI_URL"] == "http://[::1]:80"
    monkeypatch.setenv("DEER_REID_UI_URL", "https://deer.example")
    monkeypatch.setenv("DATABASE_URL", "postgresql://server/deer")
    found = environment_of(load_settings(), "postgresql://server/deer", "127.0.0.1", 3377)
    assert (found["DEER_REID_UI_URL"], found["DATABASE_URL"]) == ("https://deer.example", "postgresql://server/deer")
