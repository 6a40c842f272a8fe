"""What is said of a night: capacity, failures, and a process that works in another home only for a while."""

from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deer_reid_pipeline.sample.herd import HerdSummary
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.steps.benchmark.criteria import overnight
from deer_reid_pipeline.steps.benchmark.night import Night, draw_night, own_home, write_night
from deer_reid_pipeline.vision.engine.measuring import SpeedReport
from deer_reid_pipeline_tests.sites import settings_for

SPEED = SpeedReport("r", 64, 32, {"main": "torch"}, 40.0, 36.0, 9.0, 16, 0.9, 4.0, 0.9999, 900.0, {"loop": 1.0})


def night(**changes: object) -> Night:
    """5,000 pictures at 10 a second."""
    made = Night(
        made_at=datetime(2026, 1, 1, tzinfo=UTC),
        asked=5000,
        drawn=HerdSummary(Path("herd"), 5000, 5800, 165, 2000, 2300, 1150, 33),
        size=(1280, 960),
        drawing=100.0,
        recipe_id="lite-0123456789ab",
        images=5000,
        detections=5800,
        encounters=2300,
        individuals=165,
        seconds=500.0,
        steps={"seal the drop": 20.0, "embeddings": 300.0, "deer_matches": 100.0},
        failures=(),
        speed=SPEED,
        peak_mib=1000.0,
        load=0.0,
        machine={"device": "cpu: a processor", "cores": "2"},
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_the_capacity_and_what_is_missing_are_said(tmp_path: Path) -> None:
    found = write_night(tmp_path, night())
    assert found["capacity_8_hours"] == 288_000
    assert found["missed_by"] == 0
    assert found["crops_per_second"] == pytest.approx(11.6)
    assert found["night_vs_floor"] == pytest.approx(0.29)
    assert found["night_vs_loop"] == pytest.approx(11.6 / 9)
    assert "exceeds the 239,040" in found["in_words"]
    assert "60% of the time went into embeddings" in found["in_words"]
    assert {item["name"]: item["result"] for item in found["owner"]} == {
        "images_a_second": "PASS",
        "overnight_batch": "PASS",
    }
    text = (Path(found["report"]).parent / "benchmark.txt").read_text()
    assert "between the steps" in text
    slow = night(seconds=1000.0, failures=("a.jpg was quarantined: empty",)).to_json()
    assert slow["missed_by"] == 239_040 - 144_000
    assert "misses by 95,040" in slow["in_words"]
    assert [item["result"] for item in slow["owner"]] == ["FAIL", "FAIL"]


def test_a_small_batch_proves_nothing_of_a_large_one() -> None:
    assert overnight(4999, 0).result == "NOT MEASURED"
    assert overnight(5000, 0).result == "PASS"
    assert overnight(10, 1).result == "FAIL"
    assert [item.result for item in night(images=8, seconds=12.0).criteria] == ["NOT MEASURED", "NOT MEASURED"]
    assert "too few to say anything of a night" in night(images=8, seconds=12.0).sentence
    assert "8 pictures" in night(images=8, seconds=12.0).criteria[0].detail


def test_at_least_as_many_pictures_are_drawn_as_asked(tmp_path: Path) -> None:
    drawn = draw_night(tmp_path / "herd", 9, (160, 120))
    assert 9 <= drawn.pictures < 20
    assert drawn.pictures == len(list((tmp_path / "herd").rglob("*.jpg")))


def test_another_home_is_used_for_the_block_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/real")
    monkeypatch.delenv("DEER_REID_RECIPE", raising=False)
    home, other = tmp_path / "home", tmp_path / "other"
    other.mkdir()
    with own_home(settings_for(home), other, "lite"):
        inside = load_settings()
        assert inside.home == other
        assert inside.database_url is None
        assert inside.recipe == "lite"
        assert inside.dagster_home == other / "dagster"
        assert (other / "models").resolve() == home / "models"
        assert home / "weights" in inside.weight_search_dirs
    assert os.environ["DATABASE_URL"] == "postgresql://elsewhere/real"
    assert "DEER_REID_RECIPE" not in os.environ
