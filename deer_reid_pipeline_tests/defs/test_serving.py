"""What `deer-reid serve` does beside keeping processes up."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg

from deer_reid_pipeline.defs.serving import forget_future_ticks
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
