"""Ticks over a real folder and a real database: what is sealed, what is requested, and what is told."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest.seal import UNREADABLE
from deer_reid_pipeline.ingest.watch_cursor import WatchCursor
from deer_reid_pipeline.steps import detections as detection_step
from deer_reid_pipeline.steps import images as image_step
from deer_reid_pipeline.steps import watching
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.watch_runs import PAUSE_S, DropRun, RunState
from deer_reid_pipeline.steps.watching import DropRequest
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.vision.boxes import DetectedBox
from deer_reid_pipeline_tests.sites import query, row_counts, settings_for
from deer_reid_pipeline_tests.steps.watched import Watched, jpeg, process, put


@pytest.fixture
def site(make_home: Callable[[], Path], database: Database) -> Site:
    """An installation without a recipe: nothing here is embedded."""
    return Site(settings_for(make_home()), database)


@pytest.fixture
def watched(site: Site, tmp_path: Path) -> Watched:
    """A watched folder without drops; pictures alone do not wait for a table."""
    root = tmp_path / "incoming"
    root.mkdir()
    site.settings = site.settings.model_copy(update={"watch": root, "watch_table_seconds": 0.0})
    return Watched(site, root)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often the job looked at each file, by name."""
    seen: Counter[str] = Counter()
    true_look = image_step.inspect_image

    def counting(path: Path) -> object:
        seen[path.name] += 1
        return true_look(path)

    monkeypatch.setattr(image_step, "inspect_image", counting)
    return seen


def drop(watched: Watched, name: str, numbers: Sequence[int]) -> Path:
    """A folder of pictures with their MegaDetector table; each of them shows one animal."""
    folder = watched.root / name
    for n in numbers:
        put(folder, f"IMG_{n:05}.jpg", jpeg(n))
    table(folder)
    return folder


def table(folder: Path) -> None:
    boxes = [{"category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.5, 0.5]}]
    images = [{"file": path.name, "detections": boxes} for path in sorted(folder.glob("*.jpg"))]
    put(folder, "detections.json", json.dumps({"images": images, "detection_categories": {"1": "animal"}}).encode())


def stored(watched: Watched) -> int:
    return int(query(watched.site, "SELECT count(*) FROM images")[0][0])


def test_a_drop_is_requested_once_with_name_and_digest(watched: Watched) -> None:
    drop(watched, "Creek 1", [1, 2, 3])
    assert watched.tick().message == "Still changing: Creek 1 (3 pictures)."
    assert watched.tick(60).message == "Unchanged, but not for long enough: Creek 1 (3 pictures, 60 s more)."
    third = watched.tick(60)
    (request,) = third.requests
    ((key, digest),) = query(watched.site, "SELECT key, digest FROM drops")
    assert (request.key, request.run_key) == (key, f"Creek 1:{digest}")
    assert third.message == "Starting: Creek 1."
    assert watched.cursor == WatchCursor()
    assert watched.tick().message == "Being processed: Creek 1."
    watched.work()
    assert watched.tick().message == "Nothing new in 1 folder."
    assert len(watched.requested) == 1


def test_a_marked_drop_is_requested_at_once(watched: Watched) -> None:
    put(drop(watched, "creek", [1]), "_COMPLETE", b"")
    assert len(watched.tick().requests) == 1


def test_a_marker_that_is_written_after_the_sealing_vouches_for_no_later_file(watched: Watched) -> None:
    folder = drop(watched, "creek", [1])
    watched.settle()
    put(folder, "_COMPLETE", b"")
    watched.tick()
    put(folder, "IMG_00002.jpg", jpeg(2))
    assert watched.tick().message.startswith("Still changing: creek")


def test_a_copy_that_pauses_half_way_is_processed_in_two_parts_and_no_picture_twice(
    watched: Watched, read: Counter[str]
) -> None:
    folder = drop(watched, "creek", range(4))
    assert len(watched.settle()) == 1
    for n in range(4, 7):
        put(folder, f"IMG_{n:05}.jpg", jpeg(n))
    table(folder)
    assert len(watched.settle()) == 1
    assert read == Counter(f"IMG_{n:05}.jpg" for n in range(7))
    assert stored(watched) == 7
    assert query(watched.site, "SELECT count(*) FROM detections")[0][0] == 7


def test_a_picture_that_is_late_by_its_name_only_is_not_missed(watched: Watched, read: Counter[str]) -> None:
    folder = drop(watched, "creek", [5])
    watched.settle()
    os.utime(put(folder, "AAA.jpg", jpeg(9)), ns=(0, 0))
    assert len(watched.settle()) == 1
    assert read == Counter(["IMG_00005.jpg", "AAA.jpg"])


def test_blank_pictures_that_a_detector_looked_at_are_not_looked_at_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Blind:
        name = "blind"

        def detect(self, pixels: np.ndarray) -> list[DetectedBox]:
            asked.append(pixels.shape)
            return []

    monkeypatch.setattr(detection_step, "open_detector", lambda *_: Blind())
    for n in range(3):
        put(watched.root / "creek", f"{n}.jpg", jpeg(n))
    watched.settle()
    assert len(asked) == 3
    put(watched.root / "creek", "late.jpg", jpeg(3))
    assert len(watched.settle()) == 1
    assert len(asked) == 4


def test_a_drop_that_is_sent_again_runs_nothing(watched: Watched) -> None:
    folder = drop(watched, "creek", [1, 2])
    watched.settle()
    before = row_counts(watched.site)
    shutil.rmtree(folder)
    watched.tick()
    drop(watched, "creek", [1, 2])
    for file in folder.iterdir():
        os.utime(file, (5e8, 5e8))
    assert watched.settle() == []
    assert watched.tick().message == "Nothing new in 1 folder."
    assert row_counts(watched.site) == before


def test_two_identical_drops_are_one(watched: Watched) -> None:
    drop(watched, "creek", [1, 2])
    drop(watched, "ridge", [1, 2])
    (request,) = watched.settle()
    assert request.folder == "creek"
    assert query(watched.site, "SELECT name FROM drops") == [("creek",)]
    assert watched.tick().message == "Nothing new in 2 folders."


def first_of_two_alike(watched: Watched) -> tuple[Path, DropRequest]:
    """A folder of which there is a copy, and the run that was asked for it."""
    first = drop(watched, "creek", [1, 2])
    drop(watched, "ridge", [1, 2])
    for after in (30, 130):
        watched.tick(after)
    (request,) = watched.requested
    return first, request


def test_a_copy_takes_over_where_the_first_is_removed_before_its_run(watched: Watched) -> None:
    first, request = first_of_two_alike(watched)
    shutil.rmtree(first)
    watched.work()
    assert watched.runs[request.key][0].state is RunState.FAILED
    for after in (30, PAUSE_S):
        watched.tick(after)
    watched.work()
    assert [each.folder for each in watched.requested] == ["creek", "ridge"]
    assert stored(watched) == 2


@pytest.mark.parametrize("reused", [False, True])
def test_a_copy_takes_over_where_the_first_holds_something_else_before_its_run(watched: Watched, reused: bool) -> None:
    first, request = first_of_two_alike(watched)
    shutil.rmtree(first)
    first.mkdir()
    if reused:
        drop(watched, "creek", [3])
    watched.work()
    assert watched.runs[request.key][0].state is RunState.FAILED
    for after in (30, 30, 130, PAUSE_S, 30):
        message = watched.tick(after).message
        watched.work()
    assert sorted(each.folder for each in watched.requested) == ["creek", *["creek"] * reused, "ridge"]
    assert stored(watched) == 2 + reused
    assert query(watched.site, "SELECT count(*) FROM drops WHERE completed_at IS NULL") == [(0,)]
    assert message.endswith(f"Nothing new in {1 + reused} folder{'s' * reused}.")


def test_a_copy_that_lost_a_file_itself_takes_over_with_the_others(watched: Watched) -> None:
    first, copy = drop(watched, "creek", [1, 2]), drop(watched, "ridge", [1, 2])
    for after in (30, 130):
        watched.tick(after)
    (copy / "IMG_00002.jpg").unlink()
    for after in (30, 130):
        told = watched.tick(after)
    assert "Lost files but got none, so nothing runs: ridge." in told.message
    shutil.rmtree(first)
    first.mkdir()
    watched.work()
    for after in (30, PAUSE_S):
        watched.tick(after)
    watched.work()
    assert [each.folder for each in watched.requested] == ["creek", "ridge"]
    assert stored(watched) == 1
    assert watched.settle() == []


def test_a_copy_gives_what_the_first_had_lost_when_it_was_processed(watched: Watched) -> None:
    first = drop(watched, "creek", [1, 2])
    drop(watched, "ridge", [1, 2])
    for after in (30, 130):
        watched.tick(after)
    (first / "IMG_00002.jpg").unlink()
    drop(watched, "creek", [3])
    watched.work()
    assert stored(watched) == 1
    watched.settle()
    assert sorted(each.folder for each in watched.requested) == ["creek", "creek", "ridge"]
    assert stored(watched) == 3
    assert query(watched.site, "SELECT count(*) FROM quarantine") == [(0,)]
    assert watched.settle() == []


def test_a_copy_of_a_drop_that_waits_for_its_run_is_not_called_settled(watched: Watched) -> None:
    drop(watched, "creek", [1, 2])
    drop(watched, "ridge", [1, 2])
    for after in (30, 130):
        watched.tick(after)
    ((key,),) = query(watched.site, "SELECT key FROM drops")
    assert watched.tick().message == (
        f"Being processed: creek. The same as an earlier drop, so nothing runs: ridge (drop {key})."
    )


def test_a_renamed_drop_runs_nothing_and_is_found_where_it_is(watched: Watched) -> None:
    folder = drop(watched, "creek", [1, 2])
    watched.settle()
    moved = folder.rename(watched.root / "ridge")
    assert watched.settle() == []
    assert query(watched.site, "SELECT root FROM drops") == [(str(moved),)]
    assert {Path(path).parent for (path,) in query(watched.site, "SELECT path FROM images")} == {moved}


def test_a_drop_that_is_renamed_before_its_run_is_not_lost(watched: Watched) -> None:
    folder = drop(watched, "creek", [1, 2])
    for after in (30, 130):
        watched.tick(after)
    folder.rename(watched.root / "ridge")
    watched.work()
    watched.settle()
    watched.tick(PAUSE_S)
    watched.work()
    assert stored(watched) == 2
    assert query(watched.site, "SELECT count(*) FROM drops WHERE completed_at IS NULL") == [(0,)]


def test_a_drop_that_is_removed_while_it_is_waited_for_is_forgotten(watched: Watched) -> None:
    folder = drop(watched, "creek", [1])
    watched.tick()
    assert "creek" in watched.cursor.pending
    shutil.rmtree(folder)
    assert watched.tick().message == "The watched folder holds no drop yet."
    assert watched.cursor == WatchCursor()


def test_the_record_of_a_removed_drop_goes_but_not_while_the_disk_is_away(watched: Watched) -> None:
    records = watched.site.settings.home / "watch"
    first, _ = drop(watched, "creek", [1]), drop(watched, "ridge", [2])
    watched.settle()
    assert len(list(records.iterdir())) == 2
    away = watched.root.rename(watched.root.parent / "away")
    with pytest.raises(DropError, match="cannot be listed"):
        watched.tick()
    watched.root.mkdir()
    watched.tick()
    assert len(list(records.iterdir())) == 2
    watched.root.rmdir()
    away.rename(watched.root)
    assert watched.tick().message == "Nothing new in 2 folders."
    shutil.rmtree(first)
    watched.tick()
    assert len(list(records.iterdir())) == 1


def test_a_folder_that_only_lost_files_runs_nothing_until_one_that_its_run_missed_is_back(watched: Watched) -> None:
    folder = drop(watched, "creek", [1, 2, 3])
    for after in (30, 130):
        watched.tick(after)
    away = (folder / "IMG_00003.jpg").rename(watched.root.parent / "away.jpg")
    watched.work()
    (folder / "IMG_00001.jpg").unlink()
    assert watched.settle() == []
    assert stored(watched) == 2
    away.rename(folder / "IMG_00003.jpg")
    assert len(watched.settle()) == 1
    assert stored(watched) == 3
    assert query(watched.site, "SELECT count(*) FROM quarantine") == [(0,)]


def test_one_bad_file_stops_none_of_the_others(watched: Watched) -> None:
    folder = drop(watched, "creek", [1, 2, 3])
    put(folder, "IMG_00002.jpg", jpeg(2)[:200])
    assert len(watched.settle()) == 1
    assert stored(watched) == 2
    assert query(watched.site, "SELECT file FROM quarantine WHERE file NOT LIKE '%.json%'") == [("IMG_00002.jpg",)]


@pytest.mark.parametrize("numbers", [[1, 2], [2]])
def test_a_file_that_becomes_readable_is_processed(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, numbers: list[int]
) -> None:
    folder = drop(watched, "creek", numbers)
    closed = folder / "IMG_00002.jpg"
    true_open = Path.open

    def opens(path: Path, *args: object, **kwargs: object) -> object:
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return true_open(path, *args, **kwargs)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opens)
        watched.settle()
        assert stored(watched) == len(numbers) - 1
        assert "With files that cannot be read (make them readable): creek (1 file, first IMG_00002.jpg)." in (
            watched.tick().message
        )
        assert len(watched.requested) == len(numbers) - 1
    watched.tick()
    watched.work()
    assert stored(watched) == len(numbers)


def test_a_file_that_was_away_only_while_its_drop_was_processed_is_processed(watched: Watched) -> None:
    folder = drop(watched, "creek", [1, 2])
    for after in (30, 130):
        watched.tick(after)
    away = (folder / "IMG_00002.jpg").rename(watched.root.parent / "away.jpg")
    watched.work()
    away.rename(folder / "IMG_00002.jpg")
    assert stored(watched) == 1
    assert len(watched.settle()) == 1
    assert stored(watched) == 2
    assert query(watched.site, "SELECT count(*) FROM quarantine") == [(0,)]


def test_a_drop_without_some_crops_is_tried_again_when_the_pictures_open_and_not_for_ever(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drop(watched, "creek", [1, 2])
    watched.settle()
    lost = (
        "INSERT INTO quarantine (drop_key, file, code, reason) SELECT key, :file, 'no_crop', 'gone' FROM drops "
        "RETURNING 1"
    )
    true_open = Path.open

    def opens(path: Path, *args: object, **kwargs: object) -> object:
        if path == folder / "IMG_00002.jpg":
            raise OSError(5, "Input/output error")
        return true_open(path, *args, **kwargs)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opens)
        query(watched.site, lost, file="IMG_00002.jpg")
        assert watched.settle() == []
    assert len(watched.settle()) == 1
    assert watched.settle() == [], "nothing here cuts crops, so the row stands"
    query(watched.site, lost, file="IMG_00001.jpg")
    assert len(watched.settle()) == 1, "another one"
    query(watched.site, "DELETE FROM quarantine RETURNING 1")
    assert watched.settle() == []
    query(watched.site, lost, file="IMG_00001.jpg")
    assert len(watched.settle()) == 1, "it was well in the meantime"
    assert watched.settle() == []


def test_what_cannot_be_a_drop_is_named_and_stops_none_of_the_others(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(watched, "good", [1])
    put(drop(watched, "mixed", [2]), "observations.csv", b"filePath\nIMG_00002.jpg\n")
    put(watched.root / "hollow", "a.jpg", b"")
    (watched.root / "empty").mkdir()
    drop(watched, "closed", [3])
    put(watched.root, "loose.jpg", jpeg(4))
    (watched.root / os.fsdecode(b"bad\xff")).mkdir()
    true_scandir = os.scandir

    def lists(path: object) -> object:
        if str(path).endswith("/closed"):
            raise PermissionError(13, "Permission denied")
        return true_scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", lists)
    assert [each.folder for each in watched.settle()] == ["good"]
    message = watched.tick().message
    assert "Without pictures so far: empty." in message
    assert "mixed cannot be a drop: " in message
    assert "detections.json and observations.csv both describe its pictures; keep one." in message
    assert "hollow cannot be a drop: " in message
    assert "has no usable picture" in message
    assert "closed cannot be listed (Permission denied); check its permissions." in message
    assert "bad\\udcff has a name that is not valid UTF-8: rename it." in message
    assert "1 picture in the watched folder itself: put each drop into a folder." in message
    (watched.root / "mixed" / "observations.csv").unlink()
    assert [each.folder for each in watched.settle()] == ["mixed"]


def test_a_file_that_changes_while_its_drop_is_sealed_is_waited_for(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = drop(watched, "creek", [1, 2])
    true_seal = watching.seal_folder

    def sealing(*args: object) -> object:
        put(folder, "IMG_00003.jpg", jpeg(3))
        return true_seal(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(watching, "seal_folder", sealing)
    watched.tick()
    assert watched.tick(130).message == "Still changing: creek (3 pictures)."
    monkeypatch.setattr(watching, "seal_folder", true_seal)
    assert len(watched.settle()) == 1
    assert query(watched.site, "SELECT count(*) FROM drops") == [(1,)]
    assert stored(watched) == 3


@pytest.mark.parametrize("what", ["folder", "table"])
def test_what_goes_away_while_a_drop_is_sealed_is_waited_for(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    folder = drop(watched, "creek", [1, 2])
    true_seal = watching.seal_folder

    def sealing(*args: object) -> object:
        away = folder.rename(watched.root.parent / "away")
        try:
            return true_seal(*args)  # type: ignore[arg-type]
        finally:
            away.rename(folder)

    watched.tick()
    with monkeypatch.context() as patched:
        if what == "folder":
            patched.setattr(watching, "seal_folder", sealing)
        else:
            patched.setattr("deer_reid_pipeline.ingest.read.hash_file", lambda path: UNREADABLE)
        told = watched.tick(130)
    assert told.requests == ()
    assert told.message.startswith("creek is waited for: ")
    assert "creek" in watched.cursor.pending
    assert len(watched.tick().requests) == 1


# What is lost between two ticks.


def test_without_cursor_records_or_database_everything_is_found_again_and_nothing_runs_twice(watched: Watched) -> None:
    drop(watched, "creek", [1, 2])
    watched.settle()
    before = row_counts(watched.site)
    shutil.rmtree(watched.site.settings.home / "watch")
    watched.cursor = WatchCursor()
    assert watched.settle() == []
    for record in (watched.site.settings.home / "watch").iterdir():
        record.write_text("{garbage")
    assert watched.settle() == []
    assert row_counts(watched.site) == before
    query(watched.site, "DELETE FROM drops RETURNING 1")  # restored from a backup that is older than the drop
    assert len(watched.settle()) == 1
    assert query(watched.site, "SELECT count(*) FROM drops WHERE completed_at IS NOT NULL") == [(1,)]


def test_a_tick_that_is_cut_short_after_the_sealing_still_leads_to_a_run(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(watched, "creek", [1])
    watched.tick()
    waiting = watched.cursor
    with monkeypatch.context() as patched:
        patched.setattr(watching._Watch, "wanted", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError):
            watched.tick(130)
    watched.cursor = waiting
    assert len(watched.tick().requests) == 1


def test_failed_runs_are_tried_again_a_few_times_and_then_left_to_a_person(watched: Watched) -> None:
    drop(watched, "creek", [1])
    watched.tick()
    (request,) = watched.tick(130).requests
    for failures in (1, 2):
        watched.end(request.key, RunState.FAILED)
        assert watched.tick().requests == ()
        assert "To be tried again after a failed run: creek (in " in watched.tick().message
        assert len(watched.tick(failures * PAUSE_S).requests) == 1
    watched.end(request.key, RunState.FAILED)
    told = watched.tick(99 * PAUSE_S)
    assert told.requests == ()
    assert (
        "Failed too often (read the last run in the UI, mend the cause, then deer-reid process FOLDER): "
        in told.message
    )
    assert f"creek (3 times, partition {request.key})." in told.message
    process(watched.site, request.key)
    assert watched.tick().message == "Nothing new in 1 folder."


def test_drops_that_were_given_up_keep_no_later_one_from_being_processed(watched: Watched) -> None:
    query(
        watched.site,
        "INSERT INTO drops (key, name, root, digest, layout, detector, sealed_at) SELECT 'old-' || n, 'old', "
        ":root || '/old', n, 'images', 'auto', '2020-01-01' FROM generate_series(1, 600) AS n RETURNING 1",
        root=str(watched.root),
    )
    drop(watched, "creek", [1])
    assert [each.folder for each in watched.settle()] == ["creek"]
    assert query(watched.site, "SELECT count(*) FROM drops WHERE completed_at IS NOT NULL") == [(1,)]


def test_a_drop_that_failed_and_was_mended_is_not_told_of_any_more(watched: Watched) -> None:
    folder = drop(watched, "creek", [1])
    watched.tick()
    (request,) = watched.tick(130).requests
    watched.runs[request.key] = [DropRun(RunState.FAILED, watched.now, n) for n in (3, 2, 1)]
    put(folder, "IMG_00002.jpg", jpeg(2))
    assert len(watched.settle()) == 1
    assert watched.tick().message == "Nothing new in 1 folder."


def test_a_cancelled_run_stays_cancelled(watched: Watched) -> None:
    drop(watched, "creek", [1])
    watched.tick()
    (request,) = watched.tick(130).requests
    watched.end(request.key, RunState.CANCELLED)
    told = watched.tick(99 * PAUSE_S)
    assert told.requests == ()
    assert "Cancelled by a person" in told.message


def test_drops_of_other_folders_are_left_alone(watched: Watched, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    drop(replace(watched, root=other), "creek", [1])
    from deer_reid_pipeline.steps.drops import register_drop

    register_drop(watched.site, other / "creek", "auto")
    assert watched.tick().requests == ()
    shutil.copytree(other / "creek", watched.root / "ridge")
    assert [each.folder for each in watched.settle()] == ["ridge"], "nobody else would process it"


def test_the_home_is_never_a_drop(watched: Watched) -> None:
    site = watched.site
    with pytest.raises(DropError, match="DEER_REID_WATCH is the home itself"):
        watching.watch_once(site, site.settings.home, WatchCursor(), 0.0, lambda _: [])
    inside = watched.root / "home"
    put(inside, "crops/a.jpg", jpeg(1))
    site.settings = site.settings.model_copy(update={"home": inside})
    assert watched.tick().message == "The watched folder holds no drop yet."


# Bounds of a tick.


def test_a_tick_seals_so_many_drops_and_the_next_goes_on(watched: Watched) -> None:
    watched.site.settings = watched.site.settings.model_copy(update={"watch_drops": 2})
    for n in range(5):
        drop(watched, f"creek-{n}", [n])
    watched.tick()
    told = watched.tick(130)
    assert [each.folder for each in told.requests] == ["creek-0", "creek-1"]
    assert "Waiting for their turn: creek-2 (1 picture), creek-3 (1 picture), creek-4 (1 picture)." in told.message
    assert [len(watched.tick().requests) for _ in range(3)] == [2, 1, 0]


def test_a_drop_of_ten_thousand_files_is_read_over_many_ticks_each_bounded(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = watched.root / "archive"
    folder.mkdir()
    content = b"x" * 2048
    for n in range(10_000):
        (folder / f"{n:05}.jpg").write_bytes(content + str(n).encode())
    watched.site.settings = watched.site.settings.model_copy(update={"watch_mb": 5})
    sizes: list[int] = []
    true_hash = watching.hash_file

    def counting(path: Path) -> str:
        sizes.append(path.stat().st_size)
        return true_hash(path)

    monkeypatch.setattr(watching, "hash_file", counting)
    seal_read: list[Path] = []
    monkeypatch.setattr("deer_reid_pipeline.ingest.seal.hash_file", seal_read.append)
    monkeypatch.setattr(watching, "LOOKING_S", 600.0)
    monkeypatch.setattr(watching, "READING_S", 600.0)
    monkeypatch.setattr(watching, "_BATCH", 500)
    read, messages = [], []
    while not watched.requested and len(read) < 20:
        sizes.clear()
        messages.append(watched.tick(130).message)
        read.append(sum(sizes))
        assert len(watched.cursor.to_text()) < 1000
    assert max(read) <= 5 << 20, "no tick reads more than its share"
    assert sum(read) == sum(file.stat().st_size for file in folder.iterdir()), "and nothing is read twice"
    assert [size > 0 for size in read] == [False, True, True, True, True]
    assert seal_read == []
    assert "Being read: archive (" in messages[1]
    assert query(watched.site, "SELECT count(*) FROM drop_media WHERE drop_key LIKE 'archive-%'") == [(10_000,)]


def test_a_file_that_is_larger_than_the_limit_is_read_all_the_same(watched: Watched) -> None:
    watched.site.settings = watched.site.settings.model_copy(update={"watch_mb": 1})
    for name in ("a.jpg", "b.jpg"):
        put(watched.root / "creek", name, jpeg(1) + name.encode() + b"\0" * (2 << 20))
    put(watched.root / "delta", "a.jpg", jpeg(2))
    watched.tick()
    message = watched.tick(130).message
    assert message == "Being read: creek (1 of 2 pictures). Waiting for their turn: delta (1 picture)."
    assert len(watched.tick().requests) == 1


def test_a_look_that_takes_too_long_goes_on_where_it_was(watched: Watched) -> None:
    for n in range(6):
        drop(watched, f"creek-{n}", [n])
    seconds = 0.0

    def slow() -> float:
        nonlocal seconds
        seconds += watching.LOOKING_S / 2
        return seconds

    begun = []
    for _ in range(6):
        watched.now += 130
        told = watching.watch_once(
            watched.site, watched.root, watched.cursor, watched.now, lambda _: [DropRun(RunState.GOING)], slow
        )
        assert "folders will be looked at by the next tick." in told.message
        begun.append(watched.cursor.following)
        watched.cursor = told.cursor
    assert len(set(begun)) > 2
    assert query(watched.site, "SELECT count(*) FROM drops") == [(6,)]


def test_a_look_that_cannot_ask_for_all_runs_in_time_goes_on_with_the_others(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(6):
        drop(watched, f"creek-{n}", [n])
    for after in (30, 130):
        watched.tick(after)
    monkeypatch.setattr(watching, "LOOKING_S", 1e9)
    seconds = 0.0
    asked: list[str] = []

    def slow() -> float:
        nonlocal seconds
        seconds += watching.ASKING_S / 2
        return seconds

    def going(key: str) -> list[DropRun]:
        asked.append(key.rpartition("-")[0])
        return [DropRun(RunState.GOING)]

    told = []
    for _ in range(2):
        found = watching.watch_once(watched.site, watched.root, watched.cursor, watched.now, going, slow)
        watched.cursor, _ = watching.read_cursor(found.cursor.to_text())
        told.append(found.message)
    assert asked == [f"creek-{n}" for n in range(6)]
    assert told == [
        f"Being processed: {three}. 3 folders will be looked at by the next tick."
        for three in ("creek-0, creek-1, creek-2", "creek-3, creek-4, creek-5")
    ]
