"""`image_drop_sensor` evaluated as the daemon does it, over a real folder, a real database and a Dagster instance."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from deer_reid_pipeline.definitions import defs
from deer_reid_pipeline.defs.ingest import sensor as sensor_module
from deer_reid_pipeline.defs.ingest.sensor import image_drop_sensor
from deer_reid_pipeline.steps import images as image_step
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline_tests.defs.given import GivenSite
from deer_reid_pipeline_tests.sites import part_of_herd, query, read_table, settings_for
from deer_reid_pipeline_tests.steps.watched import jpeg, process, put


@dataclass
class Daemon:
    """What the daemon does with a sensor: keeps its cursor, adds partitions, starts what has a new run key."""

    instance: dg.DagsterInstance
    site: Site
    root: Path
    now: float = 1_700_000_000.0
    cursor: str | None = None
    started: list[dg.RunRequest] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def tick(self, after: float = 30.0) -> list[dg.RunRequest]:
        """One tick; returns the runs to start."""
        self.now += after
        with dg.build_sensor_context(
            instance=self.instance,
            instance_ref=self.instance.get_ref(),
            cursor=self.cursor,
            definitions=defs,
            resources={"site": GivenSite()},
        ) as context:
            found = image_drop_sensor.evaluate_tick(context)
        self.cursor = found.cursor
        for request in found.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        if found.skip_message is not None:
            self.told.append(found.skip_message)
        used = {request.run_key for request in self.started}
        new = [request for request in found.run_requests or [] if request.run_key not in used]
        self.started += new
        return new

    def work(self, *requests: dg.RunRequest, failing: bool = False) -> None:
        """A light stand-in for the job, with its run in the instance."""
        for request in requests:
            if not failing:
                process(self.site, str(request.partition_key))
            run = dg.DagsterRun(
                job_name="process_drop_job",
                tags={**request.tags, "dagster/run_key": str(request.run_key)},
                status=dg.DagsterRunStatus.STARTED if failing else dg.DagsterRunStatus.SUCCESS,
            )
            self.instance.add_run(run)
            if failing:
                self.instance.report_run_failed(run)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One with storage on disk: partitions of run requests are looked up only there."""
    with dg.instance_for_test() as made:
        yield made


@pytest.fixture
def light(make_home: Callable[[], Path], database: Database) -> Site:
    """An installation without a recipe, for drops that nobody embeds."""
    return Site(settings_for(make_home()), database)


@pytest.fixture
def watch(tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Callable[[Site], Daemon]:
    """A daemon whose watched folder is empty and whose clock is its own."""

    def begin(site: Site) -> Daemon:
        root = tmp_path / "incoming"
        root.mkdir()
        monkeypatch.setenv("DEER_REID_WATCH", str(root))
        GivenSite.given = site
        daemon = Daemon(instance, site, root)
        monkeypatch.setattr(sensor_module, "_now", lambda: daemon.now)
        return daemon

    return begin


def test_the_sensor_runs_by_itself_and_without_a_setting_says_what_to_set(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert image_drop_sensor in defs.sensors  # type: ignore[operator]
    assert image_drop_sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert image_drop_sensor.minimum_interval_seconds == 30
    monkeypatch.delenv("DEER_REID_WATCH", raising=False)
    monkeypatch.chdir(tmp_path)
    with dg.build_sensor_context(
        instance=instance, cursor="kept", definitions=defs, resources={"site": GivenSite()}
    ) as context:
        found = image_drop_sensor.evaluate_tick(context)
    assert "set DEER_REID_WATCH" in str(found.skip_message)
    assert found.cursor == "kept"


def test_a_watched_folder_that_is_gone_and_a_damaged_cursor_are_said_in_the_skipped_tick(
    watch: Callable[[Site], Daemon], light: Site
) -> None:
    daemon = watch(light)
    daemon.cursor = "{garbage"
    assert daemon.tick() == []
    assert daemon.told[-1].startswith("The cursor cannot be read: the sensor starts afresh")
    kept = daemon.cursor
    daemon.root.rmdir()
    assert daemon.tick() == []
    assert "cannot be listed (No such file or directory): mount it" in daemon.told[-1]
    assert daemon.cursor == kept


def test_a_run_that_was_killed_is_requested_again_under_another_key(
    watch: Callable[[Site], Daemon], light: Site
) -> None:
    daemon = watch(light)
    put(daemon.root / "creek", "a.jpg", jpeg(1))
    put(daemon.root / "creek", "_COMPLETE", b"")
    (first,) = daemon.tick()
    daemon.work(first, failing=True)
    (ended,) = [record.end_time for record in daemon.instance.get_run_records()]
    daemon.now = float(ended or 0)
    assert daemon.tick(100) == []
    assert "To be tried again after a failed run: creek (in 4 min)." in daemon.told[-1]
    daemon.now += 200
    (second,) = daemon.tick()
    assert second.partition_key == first.partition_key
    assert second.run_key == f"{first.run_key}:attempt-2"
    daemon.work(second)
    assert daemon.tick() == []
    assert daemon.told[-1] == "Nothing new in 1 folder."


def test_runs_that_dagster_starts_again_by_itself_are_one_attempt(watch: Callable[[Site], Daemon], light: Site) -> None:
    daemon = watch(light)
    put(daemon.root / "creek", "a.jpg", jpeg(1))
    put(daemon.root / "creek", "_COMPLETE", b"")
    (first,) = daemon.tick()
    daemon.work(first, first, first, failing=True)
    daemon.now = max(float(record.end_time or 0) for record in daemon.instance.get_run_records())
    assert daemon.tick(100) == []
    assert "To be tried again after a failed run: creek (in 4 min)." in daemon.told[-1]
    (second,) = daemon.tick(200)
    assert second.run_key == f"{first.run_key}:attempt-2"


def test_the_real_job_processes_a_drop_and_then_only_its_late_picture(
    watch: Callable[[Site], Daemon], site: Site, herd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = watch(site)
    rows = [row for row in read_table(herd / "observations.csv") if row["individualID"]]
    files = list(dict.fromkeys(row["filePath"] for row in rows))[:3]
    looked: list[str] = []
    true_look = image_step.inspect_image
    monkeypatch.setattr(image_step, "inspect_image", lambda path: looked.append(path.name) or true_look(path))
    job = defs.resolve_job_def("process_drop_job")

    def arrive(count: int) -> None:
        part_of_herd(herd, daemon.root / "creek", [row for row in rows if row["filePath"] in files[:count]])
        daemon.tick()
        (request,) = daemon.tick(130)
        result = job.execute_in_process(
            instance=daemon.instance,
            partition_key=request.partition_key,
            resources={"site": GivenSite()},
            tags={**request.tags, "dagster/run_key": str(request.run_key)},
        )
        assert result.success

    arrive(2)
    before = query(site, "SELECT detection_id, branch, created_at FROM embeddings")
    decided = query(site, "SELECT count(*) FROM match_decisions")
    arrive(3)
    assert looked == [Path(file).name for file in files]
    after = query(site, "SELECT detection_id, branch, created_at FROM embeddings")
    assert set(map(tuple, before)) < set(map(tuple, after)), "no vector was made again"
    assert query(site, "SELECT count(*) FROM match_decisions")[0][0] - decided[0][0] <= len(
        [row for row in rows if row["filePath"] == files[2]]
    )
    assert daemon.tick() == []
    assert len(daemon.instance.get_dynamic_partitions("image_drops")) == 2


# A fortnight.

CAMERAS = 20
DAYS = 14


class Fortnight:
    """What people and cameras do to the watched folder, day by day; `good` is every picture that is to be found."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.root, self.number = daemon, daemon.root, 0
        self.good: set[bytes] = set()

    def shoot(self, folder: Path, count: int) -> None:
        """New pictures, with the table of the drop as it then is."""
        for _ in range(count):
            self.number += 1
            content = jpeg(self.number)
            self.good.add(content)
            put(folder, f"IMG_{self.number:05}.jpg", content)

    def table(self, folder: Path) -> None:
        files = [path.name for path in sorted(folder.glob("*.jpg"))]
        put(folder, "detections.json", json.dumps({"images": [{"file": f, "detections": []} for f in files]}).encode())

    def let_pass(self, ticks: int, after: float = 60.0) -> None:
        """Ticks, with every run that they start carried out."""
        for _ in range(ticks):
            self.daemon.work(*self.daemon.tick(after))


def test_a_fortnight_of_twenty_cameras(
    watch: Callable[[Site], Daemon], light: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = watch(light)
    world = Fortnight(daemon)
    looked: Counter[bytes] = Counter()
    true_look = image_step.inspect_image

    def counting(path: Path) -> object:
        looked[path.read_bytes()] += 1
        return true_look(path)

    monkeypatch.setattr(image_step, "inspect_image", counting)

    def folder(day: int, n: int) -> Path:
        return daemon.root / f"camera-{(3 * day + n) % CAMERAS:02}-day-{day:02}"

    for day in range(DAYS):
        daemon.now += 80_000
        # Three cameras are read a day: slowly, in one go, and with a marker.
        slow, whole, marked = (folder(day, n) for n in range(3))
        world.shoot(whole, 2)
        world.table(whole)
        world.shoot(marked, 1)
        put(marked, "_COMPLETE", b"")
        for _ in range(2):
            world.shoot(slow, 1)
            world.let_pass(1)
        if day % 4 == 1:  # the copy pauses for longer than the settling time
            world.table(slow)
            world.let_pass(4)
            world.shoot(slow, 1)
        world.table(slow)
        if day == 2:
            (daemon.root / "empty").mkdir()
        if day == 3:
            put(whole, "IMG_bad.jpg", b"\xff\xd8 not a picture")
        if day == 4:  # the same card is copied twice
            shutil.copytree(whole, daemon.root / "copy-of-a-card")
        if day == 5:  # pictures first, their table five minutes later
            (slow / "detections.json").unlink()
            world.let_pass(5)
            world.table(slow)
        world.let_pass(5)
        if day == 6:
            folder(2, 1).rename(daemon.root / "renamed")
        if day == 7:  # sent again, with other times
            again = shutil.copytree(folder(3, 0), daemon.root.parent / "again", copy_function=shutil.copyfile)
            shutil.rmtree(folder(3, 0))
            world.let_pass(1)
            again.rename(folder(3, 0))
        if day == 8:
            shutil.rmtree(folder(0, 0))
        if day == 9:  # a late picture in a drop of days ago
            world.shoot(folder(1, 1), 1)
            world.table(folder(1, 1))
        if day == 10:
            daemon.cursor = "someone edited this"
        if day == 11:
            daemon.now -= 3 * 86_400  # the clock is set back
        world.let_pass(5, after=150.0)
    assert set(looked) - world.good == {b"\xff\xd8 not a picture"}
    assert {content for content in looked if content in world.good} == world.good, "no good picture is lost"
    assert {looked[content] for content in world.good} == {1}, "and none is processed twice"
    assert query(light, "SELECT count(*) FROM images") == [(len(world.good),)]
    assert query(light, "SELECT count(*) FROM drops WHERE completed_at IS NULL") == [(0,)]
    keys = [str(request.run_key) for request in daemon.started]
    assert len(set(keys)) == len(keys)
    # Each delivery, the rest after each pause, the late picture, and nothing for copies, names and re-sent drops.
    assert len(keys) == 3 * DAYS + len([day for day in range(DAYS) if day % 4 == 1]) + 1
    assert daemon.told[-1] == f"Without pictures so far: empty. Nothing new in {3 * DAYS} folders."
    assert all(line.isascii() and "Traceback" not in line for line in daemon.told)
    waiting = f"Waiting for a table such as detections.json: {folder(5, 0).name} (3 pictures, at most 8 min more)."
    assert any(waiting in line for line in daemon.told)
