"""A whole benchmark of a small recipe: figures that belong together, and a home that is as it was."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.steps.benchmark import pictures, tables
from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig
from deer_reid_pipeline.steps.benchmark.criteria import speed_criteria, throughput
from deer_reid_pipeline.steps.benchmark.database import SearchTimes, search_times
from deer_reid_pipeline.steps.benchmark.measure import Benchmark, SetFigures
from deer_reid_pipeline.steps.benchmark.pictures import picture_sets, size_of
from deer_reid_pipeline.steps.benchmark.stored import report_benchmark
from deer_reid_pipeline.steps.benchmark.subject import Subject, name_or_fallback, subject
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.benchmark import WriteTimes, evenly_spaced_detections, time_writes
from deer_reid_pipeline.vision.engine.measuring import SpeedReport
from deer_reid_pipeline_tests.sites import query, row_counts
from deer_reid_pipeline_tests.steps.benchmark.small import quick

NONE = np.zeros((0, 512), np.float32)


def stored_pictures(site: Site, folder: Path, count: int) -> None:
    """Noise pictures with one detection each; the last one's file is gone."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:02d}.jpg"
        Image.fromarray(rng.integers(0, 256, (120, 160, 3)).astype(np.uint8)).save(path)
        picture = uuid.UUID(int=number)
        query(
            site,
            "INSERT INTO images (id, filename, path, width, height) VALUES (:id, :name, :path, 160, 120) RETURNING 1",
            id=picture,
            name=path.name,
            path=str(path),
        )
        query(
            site,
            "INSERT INTO detections (id, image_id, bbox, confidence, bbox_x, bbox_y, bbox_width, bbox_height) "
            "VALUES (:id, :picture, '{}', 1, 0.1, 0.1, 0.5, 0.5) RETURNING 1",
            id=uuid.UUID(int=1000 + number),
            picture=picture,
        )
    path.unlink()


def test_a_benchmark_is_stored_written_and_leaves_nothing_else(small: tuple[Site, str]) -> None:
    site, recipe = small
    before = row_counts(site)
    report = report_benchmark(site, quick(recipe, megapixels=[0.02, 0.05]), run_id="run")
    after = row_counts(site)
    assert {name: count - before[name] for name, count in after.items() if count != before[name]} == {"reports": 1}
    assert not (site.settings.home / "scratch").exists()

    found = report.found
    assert {
        "engine_vs_floor",
        "engine_vs_loop",
        "cosine_min",
        "crops_per_second",
        "stages",
        "device",
        "machine",
    } <= set(found)
    assert [each["megapixels"] for each in found["sets"]] == [160 * 120 / 1e6, 256 * 192 / 1e6]
    assert found["engine_vs_floor"] == min(each["speed"]["engine_vs_floor"] for each in found["sets"])
    assert found["crops_per_second"] == min(each["speed"]["engine"] for each in found["sets"])
    for each in found["sets"]:
        assert list(each["stages"]) == [
            "read and decode",
            "cut and encode the crop",
            "decode the crop and lay out",
            "forward: main",
            "projection: baseline",
            "projection: multiscale",
            "projection: efficientnet",
            "end to end",
        ]
        one = each["stages"]["read and decode"]
        assert one["of_floor"] == pytest.approx(one["milliseconds"] / 1000 * each["speed"]["floor"])
        assert one["of_loop"] == pytest.approx(one["milliseconds"] / 1000 * each["speed"]["loop"])
        assert 0 < each["pictures_per_second"] < each["speed"]["engine"]
    assert set(found["batches"]) == {"1", "4"}
    assert found["starts"] is None
    assert found["recipe"] == recipe
    assert {"memory", "cores", "torch", "postgresql", "pgvector"} <= set(found["machine"])

    names = {path.name for path in report.folder.iterdir()}
    assert names == {"benchmark.json", "benchmark.txt", "benchmark.html", "benchmark.png"}
    assert json.loads((report.folder / "benchmark.json").read_text())["in_words"] == report.headline
    text, page = (report.folder / "benchmark.txt").read_text(), (report.folder / "benchmark.html").read_text()
    assert text.isascii()
    for table in report.tables:
        assert table.title in text
        assert table.title.replace("'", "&#39;") in page
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert query(site, "SELECT kind, run_id, recipe_id FROM reports") == [("benchmark", "run", recipe)]
    results = {item["name"]: item["result"] for item in found["owner"]}
    assert results["video_memory"] == results["overnight_batch"] == "NOT MEASURED"
    assert set(results) == {
        "seconds_a_detection",
        "images_a_second",
        "video_memory",
        "profiles_reembedded_in",
        "overnight_batch",
        "vector_search",
    }


def speeds(engine: float) -> SpeedReport:
    """Figures of an engine of so many crops a second, in batches of 32; the others do not count here."""
    return SpeedReport(
        recipe="any",
        crops=100,
        batch=32,
        plan={},
        floor=50.0,
        engine=engine,
        loop=5.0,
        loop_crops=16,
        engine_vs_floor=engine / 50,
        engine_vs_loop=engine / 5,
        cosine_min=1.0,
        peak_mib=1000.0,
        stages={},
    )


def figures(engine: Sequence[float], search_ms: float, alone: float, card_mib: float | None) -> Benchmark:
    """A benchmark with these crops a second on each set of pictures, where writing a batch of 32 takes 0.64 s."""
    return Benchmark(
        made_at=datetime(2026, 1, 1, tzinfo=UTC),
        seconds=60.0,
        config=BenchmarkConfig(),
        subject=None,  # type: ignore[arg-type]
        device="any",
        machine={},
        load=0.0,
        sets=tuple(
            SetFigures(f"set {n}", f"{n}", "drawn", 0.2, 9, speeds(each), {}, (0.1, alone))
            for n, each in enumerate(engine)
        ),
        variants={},
        batches={},
        starts=None,
        writes=WriteTimes(insert=0.32, commit=0.32),
        search=SearchTimes("home", 165, 1650, 200, 0.1, median_ms=search_ms, p95_ms=search_ms, slowest_ms=search_ms),
        peak_mib=1000.0,
        device_peak_mib=card_mib,
    )


def test_the_owners_criteria_pass_where_the_values_do() -> None:
    """A picture takes 0.04 s of the engine, 0.02 s of writing and 0.004 s of matching: 15.625 a second."""
    found = {item.name: item for item in speed_criteria(figures([50.0, 25.0], 4.0, 0.5, 11_444.0))}
    results = {name: item.result for name, item in found.items()}
    assert results == dict.fromkeys(results, "PASS") | {"overnight_batch": "NOT MEASURED"}
    assert found["images_a_second"].value == pytest.approx(15.625)
    assert "450,000 of 239,040 pictures" in found["images_a_second"].detail
    assert "set 1" in found["images_a_second"].detail, "the slowest set decides"
    assert found["profiles_reembedded_in"].value == pytest.approx(0.205689, abs=1e-6)
    assert found["seconds_a_detection"].value == pytest.approx(0.5 + 0.64 + 0.004)
    assert found["vector_search"].value == pytest.approx(4.0)
    assert found["video_memory"].value == pytest.approx(12.0, abs=0.001)


def test_a_ratio_that_cannot_be_is_said() -> None:
    of = SimpleNamespace(recipe=SimpleNamespace(random_weights=False))
    for engine, impossible in ((99.0, False), (101.0, True)):
        found = replace(figures([40.0, engine], 4.0, 0.5, None), subject=of)  # type: ignore[arg-type]
        assert any("cannot be more than twice as fast" in line for line in tables.warnings(found)) == impossible


def test_the_owners_criteria_fail_where_the_values_do() -> None:
    """A picture takes 1 s of the engine, 0.02 s of writing and 0.98 s of matching: one in two seconds."""
    found = {item.name: item for item in speed_criteria(figures([1.0], 980.0, 1.5, 11_445.0))}
    results = {name: item.result for name, item in found.items()}
    assert results == dict.fromkeys(results, "FAIL") | {"overnight_batch": "NOT MEASURED"}
    assert found["images_a_second"].value == pytest.approx(0.5)
    assert "14,400 of 239,040 pictures" in found["images_a_second"].detail
    assert found["profiles_reembedded_in"].value == pytest.approx(6.427778, abs=1e-6)
    assert found["seconds_a_detection"].value == pytest.approx(3.12)


def test_throughput_passes_from_eight_point_three_on() -> None:
    least, below = throughput(8.3, "any"), throughput(8.29, "any")
    assert (least.result, below.result) == ("PASS", "FAIL")
    assert "239,040 of 239,040 pictures" in least.detail


def test_the_homes_own_pictures_come_first_and_are_spread_over_all(small: tuple[Site, str], tmp_path: Path) -> None:
    site, recipe = small
    stored_pictures(site, tmp_path, 12)
    with site.database.session() as session:
        found = evenly_spaced_detections(session, "any", 4)
    assert [Path(job.path).name for job in found] == ["00.jpg", "03.jpg", "06.jpg", "09.jpg"]
    said: list[str] = []
    (own,) = picture_sets(site, quick(recipe, drawn=False, pictures=12), tmp_path, said.append)
    assert (own.origin, len(own.jobs), own.distinct, own.left_out) == ("home", 11, 11, 1)
    assert own.jobs[0].box == (0.1, 0.1, 0.5, 0.5)
    assert said == []
    for path in tmp_path.glob("*.jpg"):
        path.unlink()
    (drawn,) = picture_sets(site, quick(recipe, drawn=False), tmp_path, said.append)
    assert drawn.origin == "drawn"
    assert len(said) == 1


def test_drawn_pictures_have_the_size_that_is_asked_for(small: tuple[Site, str], tmp_path: Path) -> None:
    assert size_of(0.2) == (512, 384)
    assert size_of(12) == (4000, 3000)
    site, recipe = small
    (made,) = picture_sets(site, quick(recipe, pictures=30), tmp_path, lambda line: None)
    assert len(made.jobs) == 30
    with Image.open(made.jobs[0].source) as image:  # type: ignore[arg-type]
        assert image.size == (160, 120)
    assert made.distinct == len({job.source for job in made.jobs}) > pictures.FEWEST


def test_writing_is_timed_and_rolled_back(small: tuple[Site, str]) -> None:
    site, recipe = small
    before = row_counts(site)
    vectors = np.eye(4, 512, dtype=np.float32)
    times = time_writes(site.database, recipe, {"baseline": vectors, "multiscale": vectors}, rounds=2)
    assert times.insert > 0
    assert times.commit > 0
    assert row_counts(site) == before
    with pytest.raises(ValueError, match="no vectors"):
        time_writes(site.database, recipe, {"baseline": NONE})


def test_the_matchers_search_is_timed_on_made_up_individuals_where_the_home_knows_none(
    small: tuple[Site, str],
) -> None:
    site, recipe = small
    vectors = {branch: np.eye(3, 512, dtype=np.float32) for branch in ("baseline", "multiscale", "efficientnet")}
    of = Subject(subject(site, recipe).recipe, MatchPolicy(threshold=0.9, new_below=-1.0))
    found = search_times(site, of, vectors)
    assert (found.gallery, found.individuals, found.exemplars) == ("made up", 165, 1650)
    assert 0 < found.median_ms <= found.p95_ms <= found.slowest_ms


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"megapixels": [0.001]}, {"megapixels": []}, {"batches": [0]}, {"pictures": 0}, {"picture": 1}):
        with pytest.raises(ValidationError):
            BenchmarkConfig.model_validate(wrong)
    assert BenchmarkConfig(batches=[8, 1, 8]).batches == [1, 8]


def test_a_fallback_is_measured_where_the_weights_are_missing(site: Site) -> None:
    site.settings = site.settings.model_copy(update={"recipe": "reference"})
    name, why = name_or_fallback(site, "", "lite")
    assert name == "lite"
    assert "Measuring the recipe 'lite'" in why
    assert query(site, "SELECT count(*) FROM releases") == [(0,)], "nothing is released by a benchmark"
    assert name_or_fallback(site, "lite", None) == ("lite", "")
