"""Fourteen days and nights of twenty cameras: the real database, code server, daemon and jobs, by a clock of their own.

The days are those of `diary.py`; here is what has to be true afterwards. Takes about a quarter of an hour on two idle
cores.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from deer_reid_pipeline.defs.automation.schedules import WORK
from deer_reid_pipeline.defs.automation.upkeep import FOLLOWERS
from deer_reid_pipeline_tests.e2e.runs import lowest_cosine, new_home
from deer_reid_pipeline_tests.fortnight.clock import SiteClock
from deer_reid_pipeline_tests.fortnight.diary import LIVE, MANY, Diary, Told
from deer_reid_pipeline_tests.fortnight.pictures import CAMERAS, Pictures
from deer_reid_pipeline_tests.fortnight.seen import SeenRun, SeenTick, seen_at
from deer_reid_pipeline_tests.fortnight.services import running_services
from deer_reid_pipeline_tests.fortnight.world import FOLLOWING, ZONE, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

BEGIN = datetime(2027, 3, 15, 11, 50, tzinfo=ZONE)
"""A Monday; clocks are set an hour forward in the last night but one."""

NIGHTS = [date(2027, 3, 16) + timedelta(days=n) for n in range(14)]
NIGHTLY = [work.name for work in WORK if work.weekday == "*"]
WEEKLY = [work.name for work in WORK if work.weekday != "*"]


@dataclass
class Lived:
    """The site after the fortnight."""

    world: World
    pictures: Pictures
    told: Told

    def drops(self) -> list[SeenRun]:
        return self.world.seen.runs("process_drop_job")

    def looks(self) -> list[SeenTick]:
        return [tick for _, tick in sorted(self.told.looks.items())]

    def query(self, statement: str) -> list[tuple[object, ...]]:
        return self.world.home.query(statement)


@pytest.fixture(scope="module")
def lived(make_home: Callable[[], Path], lite_models: Path) -> Iterator[Lived]:
    """The fortnight, lived once."""
    folder = make_home()
    root = folder / "incoming"
    root.mkdir()
    clock = SiteClock(folder, BEGIN)
    home = new_home(
        make_home,
        lite_models,
        DEER_REID_WATCH=str(root),
        DEER_REID_WATCH_SETTLE_SECONDS="90",
        DEER_REID_WATCH_TABLE_SECONDS="7200",
        DEER_REID_WATCH_MB="2",
        DEER_REID_TIMEZONE="Europe/Berlin",
        DEER_REID_NIGHT_START="01:00",
        REID_THRESHOLD="0.72",  # the first release matches next to nothing, and monitoring looks at matches
    )
    pictures = Pictures(folder)
    with running_services(home, clock, folder) as services, seen_at(home) as seen:
        world = World(clock, services, seen, root)
        yield Lived(world, pictures, Diary(world, pictures).live())


def test_every_good_picture_is_stored_once_with_every_deer_on_it(lived: Lived) -> None:
    found = dict(
        lived.query(
            "SELECT i.sha256, count(d.id) FROM images i "
            "LEFT JOIN detections d ON d.image_id = i.id AND NOT d.superseded GROUP BY i.id, i.sha256"
        )
    )
    assert lived.query("SELECT count(*) FROM images") == [(len(found),)], "no picture is stored twice"
    assert found == lived.pictures.good, "nothing is lost and nothing is made up"
    assert len(found) > MANY


def test_every_deer_has_vectors_and_a_decision(lived: Lived) -> None:
    lacking = lived.query(
        f"SELECT d.id FROM detections d LEFT JOIN embeddings e ON e.detection_id = d.id AND {LIVE} "
        "WHERE NOT d.superseded GROUP BY d.id HAVING count(e.branch) <> 3"
    )
    assert lacking == [], "ResNet's final layer, its multi-scale taps, and EfficientNet"
    undecided = lived.query(
        "SELECT d.id FROM detections d WHERE NOT d.superseded AND NOT EXISTS (SELECT FROM match_decisions m "
        "WHERE m.encounter_id = d.encounter_id)"
    )
    assert undecided == []
    assert lived.query("SELECT key FROM drops WHERE completed_at IS NULL") == []


def test_every_drop_is_processed_by_one_run(lived: Lived) -> None:
    runs = lived.drops()
    assert {run.status for run in runs} == {"SUCCESS", "FAILURE"}
    assert [run.folder for run in runs if run.status == "FAILURE"] == ["camera-13"]
    done = Counter(run.partition for run in runs if run.status == "SUCCESS")
    assert set(done.values()) == {1}
    assert len({run.run_key for run in runs}) == len(runs)
    folders = Counter(run.folder for run in runs if run.status == "SUCCESS")
    twins = {"camera-04", "camera-04 again"}
    assert sum(folders.pop(name, 0) for name in twins) == 1, "of two identical ones, one"
    expected = Counter(["named", *(f"camera-{n:02}" for n in range(1, CAMERAS + 1) if n != 4)])
    expected.update(["camera-03", "camera-06"])  # the rest after a pause, and a late card
    assert folders == expected
    assert lived.query("SELECT count(*) FROM drops") == [(len(done),)]


def test_nothing_is_computed_or_decided_twice(lived: Lived) -> None:
    """Each vector was made while the run worked that first had its picture; those that the night made again aside."""
    again = {key for key, _ in lived.told.lost}
    spans: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
    for run in lived.drops():
        assert run.started is not None
        assert run.ended is not None
        spans[str(run.partition)].append((run.started, run.ended))
    first: dict[str, str] = {}
    for detection, drop in lived.query(
        "SELECT d.id::text, m.drop_key FROM detections d JOIN drop_media m ON m.image_id = d.image_id "
        "JOIN drops p ON p.key = m.drop_key ORDER BY p.completed_at"
    ):
        first.setdefault(str(detection), str(drop))
    made = lived.query(f"SELECT detection_id::text, created_at FROM embeddings WHERE {LIVE}")
    for detection, at in made:
        assert isinstance(at, datetime)
        inside = any(begun <= at.astimezone(UTC) <= ended for begun, ended in spans[first[str(detection)]])
        assert inside is (detection not in again), f"{detection} of {first[str(detection)]} at {at}"
    decided = Counter(key for (key,) in lived.query("SELECT encounter_id::text FROM match_decisions"))
    assert set(decided.values()) == {1}


def test_bad_files_are_named_and_nothing_else(lived: Lived) -> None:
    rows = lived.query("SELECT drop_key, file, reason FROM quarantine")
    bad = {str(file): str(reason) for drop, file, reason in rows if str(drop).startswith("camera-09")}
    assert set(bad) == lived.pictures.bad
    assert all(reason and reason.isascii() for reason in bad.values())
    others = {str(drop)[: len("camera-00")] for drop, file, _ in rows if file not in lived.pictures.bad}
    assert others <= {"camera-03"}, "pictures that its table had and that were not copied yet"


def test_ten_thousand_files_are_looked_through_bit_by_bit(lived: Lived) -> None:
    said = [tick.skipped or "" for tick in lived.looks()]
    parts = [int(n) for text in said for n in re.findall(rf"Being read: camera-10 \((\d+) of {MANY} pictures\)", text)]
    assert len(parts) >= 2
    assert parts == sorted(set(parts))
    assert max(b - a for a, b in zip([0, *parts], [*parts, MANY], strict=True)) < MANY / 2
    (run,) = [run for run in lived.drops() if run.folder == "camera-10"]
    assert lived.query(f"SELECT count(*) FROM drop_media WHERE drop_key = '{run.partition}'") == [(MANY,)]


def test_no_look_fails_and_the_reasons_read_well(lived: Lived) -> None:
    looks = lived.looks()
    assert {tick.status for tick in looks} == {"SKIPPED", "SUCCESS"}, [tick.error for tick in looks if tick.error]
    said = list(dict.fromkeys(tick.skipped for tick in looks if tick.skipped))
    print("\n".join(said))
    for text in said:
        assert text.isascii()
        assert text.endswith(".")
        assert len(text) < 500
        assert str(lived.world.root) not in text, "folders go by their names"
        assert ".." not in text
        assert "  " not in text
    everything = "\n".join(said)
    for expected in (
        "Still changing: camera-01 (1 picture).",
        "Unchanged, but not for long enough: camera-",
        "Waiting for a table such as detections.json: camera-05 (",
        "Being read: camera-10 (",
        "Being processed: ",
        "The same as an earlier drop, so nothing runs: camera-04",
        "Without pictures so far: camera-07.",
        "To be tried again after a failed run: camera-13 (in ",
        "Nothing new in ",
    ):
        assert expected in everything, expected
    assert "camera-15.part" not in everything, "names of unfinished copies are passed over"


def test_each_night_each_schedule_runs_or_says_why_not(lived: Lived) -> None:
    assert lived.told.nights == NIGHTS
    for name in [*NIGHTLY, *WEEKLY]:
        nights = [night for night in NIGHTS if name in NIGHTLY or night.isoweekday() == 7]
        ticks = lived.world.seen.ticks(name)
        assert [tick.at.astimezone(ZONE).date() for tick in ticks] == nights, name
        for tick in ticks:
            assert tick.status == "SUCCESS" if tick.runs else tick.status == "SKIPPED", tick.error
            print(f"{tick.at.astimezone(ZONE):%m-%d %H:%M} {name}: {tick.skipped or 'run'}")
            if not tick.runs:
                assert tick.skipped
                assert tick.skipped.isascii()
                assert "\n" not in tick.skipped


def test_the_nights_runs_end_well_one_after_the_other(lived: Lived) -> None:
    runs = [run for run in lived.world.seen.runs() if run.night is not None]
    for run in runs:
        assert run.status == "SUCCESS", f"{run.job} of {run.night}"
        assert run.reason
    spans = sorted((run.started, run.ended, run.job) for run in runs if run.started and run.ended)
    for before, after in pairwise(spans):
        assert before[1] <= after[0], f"{before[2]} and {after[2]} at once"
    first = [run.job for run in runs if run.night == "2027-03-16"]
    expected = ["reembedding_job", "validation_job", "tuning_job"]
    assert first == expected, "the stored rows were never checked, animals were named the day before, and nothing else"
    jobs = {run.job for run in runs}
    assert {"reembedding_job", "fp_monitoring_job", "validation_job", "tuning_job"} <= jobs
    assert {run.job: run.night for run in runs}["reembedding_job"] == "2027-03-27"


def test_what_follows_follows_in_the_morning(lived: Lived) -> None:
    assert "FAILURE" not in {tick.status for tick in lived.world.seen.ticks(FOLLOWING)}
    runs = [run for run in lived.world.seen.runs() if run.job.startswith("__ASSET_JOB")]
    assert runs
    for run in runs:
        assert run.status == "SUCCESS"
        assert 6 <= run.created.astimezone(ZONE).hour < 12, "in the morning, and not before six"
    assert len(FOLLOWERS) == 2


def test_lost_vectors_are_made_again_by_the_night(lived: Lived) -> None:
    assert lived.told.lost
    assert lowest_cosine(lived.told.found, lived.told.lost) >= 0.9999


def test_the_gate_decided_and_promoted_nothing_without_evidence(lived: Lived) -> None:
    verdicts = lived.query(
        "SELECT kind, verdict, candidate_id, run_id FROM reports WHERE kind = 'validation' ORDER BY id"
    )
    runs = {run.run_id: run for run in lived.world.seen.runs()}
    judged = [(runs[str(run)].job, verdict, candidate) for _, verdict, candidate, run in verdicts]
    print(judged)
    live = [(job, verdict) for job, verdict, candidate in judged if candidate is None]
    assert set(live) == {("validation_job", "FAIL")}, "the low threshold names strangers, as even five animals show"
    candidates = [(job, verdict) for job, verdict, candidate in judged if candidate is not None]
    assert set(candidates) == {("tuning_job", "INCONCLUSIVE")}, "five animals prove nothing good"
    events = lived.query("SELECT action, verdict, forced FROM release_events ORDER BY id")
    print(events)
    assert events[0][0] == "first"
    assert "proposed" in {action for action, _, _ in events}
    assert {action for action, _, _ in events} == {"first", "proposed"}
    assert lived.query("SELECT id FROM releases WHERE live") == [(1,)]


def test_what_the_night_keeps_up_is_fresh(lived: Lived) -> None:
    assert lived.told.freshness == dict.fromkeys(
        (
            "deer_profiles",
            "similarity_distribution",
            "validation_report",
            "assignment_report",
            "false_positive_report",
        ),
        "PASS",
    )


def test_a_failed_run_leaves_a_report(lived: Lived) -> None:
    (report,) = lived.told.failures
    (failed,) = [run for run in lived.drops() if run.status == "FAILURE"]
    print(report)
    assert failed.run_id in report
    assert "process_drop_job" in report
    assert str(failed.partition) in report
    assert "the sensor of drops starts it again" in report
