"""`deer-reid benchmark` as a user runs it: JSON alone, a home that is as it was, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from deer_reid_pipeline_tests.e2e.runs import Home, kill_group

QUICK = ("--drawn", "--pictures", "4", "--megapixels", "0.02", "--ahead", "0", "--rounds", "1")


def test_a_benchmark_prints_one_object(fresh: Home) -> None:
    found = fresh.run("benchmark", *QUICK, "--json").result
    wanted = {"engine_vs_floor", "engine_vs_loop", "cosine_min", "crops_per_second", "stages", "device", "machine"}
    assert wanted <= set(found)
    assert next(iter(found["stages"])) == "read and decode"
    assert found["cosine_min"] >= 0.999
    assert found["starts"]["cold"] > found["starts"]["warm"] > 0
    assert found["gpu_memory"]["memory"] is None
    assert Path(found["report"]).is_file()
    counts = fresh.row_counts()
    assert (counts["reports"], counts["recipes"]) == (2, 1)
    assert not any(counts[name] for name in ("images", "detections", "embeddings", "deer", "releases"))
    assert not (fresh.folder / "scratch").exists()
    assert fresh.runs() == ["SUCCESS"]


def test_a_wrong_size_is_one_line(fresh: Home) -> None:
    assert "0.02 to 100 megapixels" in fresh.run("benchmark", "--megapixels", "1000").complaint
    said = fresh.run("benchmark", "--night", "5", "--megapixels", "1", "--megapixels", "2").complaint
    assert "give --megapixels once" in said


def test_a_night_runs_in_a_home_of_its_own(fresh: Home) -> None:
    found = fresh.run("benchmark", "--night", "6", "--megapixels", "0.05", "--json").result
    assert found["failures"] == []
    assert found["processed"] == found["pictures"] >= 6
    assert found["pictures_per_second"] > 0
    assert found["capacity_8_hours"] == found["pictures_per_second"] * 28_800
    steps = found["steps"]
    assert next(iter(steps)) == "seal the drop"
    assert {"images", "detections", "detection_crops", "deer_matches", "deer_profiles"} <= set(steps)
    assert sum(steps.values()) <= found["seconds"]
    assert found["night_vs_loop"] > 0
    report = Path(found["report"])
    assert report.is_file()
    assert report.is_relative_to(fresh.folder)
    assert not (fresh.folder / "scratch").exists()
    counts = fresh.row_counts()
    assert counts["images"] == counts["detections"] == counts["reports"] == 0


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_during_a_night_leaves_nothing(fresh: Home) -> None:
    process = fresh.start("benchmark", "--night", "2000", "--megapixels", "0.05")
    try:
        deadline = time.monotonic() + 300
        while not list(fresh.folder.glob("scratch/night-*/herd/images/*/*.jpg")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    except BaseException:
        kill_group(process)
        raise
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("Error: stopped: nothing was reported")
    assert "Traceback" not in said
    assert not (fresh.folder / "scratch").exists()
