"""When a folder has finished arriving: what is looked at, what is waited for, and that time alone loses nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest.scan import FoundFile
from deer_reid_pipeline.ingest.watch import (
    Look,
    Pending,
    Sealed,
    Stage,
    WatchRules,
    judge,
    list_watched,
    look_at,
)
from deer_reid_pipeline_tests.ingest.drops import picture, table

RULES = WatchRules(settle_s=120, table_s=600)
NO_TABLE = WatchRules(settle_s=120, table_s=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A drop with a picture and a table."""
    made = tmp_path / "creek"
    picture(made, "a.jpg")
    table(made, "filePath\na.jpg\n")
    return made


def stages(times: list[float], looks: Callable[[float], Look], rules: WatchRules = RULES) -> list[Stage]:
    """Stages of a folder looked at at these times, sealed by nobody."""
    pending: Pending | None = None
    found = []
    for now in times:
        verdict = judge(looks(now), pending, None, now, rules)
        pending = verdict.pending
        found.append(verdict.stage)
    return found


# What is looked at.


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: picture(folder, "b.jpg"),
        lambda folder: picture(folder, "sub/deep/b.JPEG"),
        lambda folder: (folder / "a.jpg").unlink(),
        lambda folder: (folder / "a.jpg").rename(folder / "c.jpg"),
        lambda folder: picture(folder, "a.jpg", b"longer than before"),
        lambda folder: os.utime(folder / "a.jpg", ns=(1, 1)),
        lambda folder: os.utime(folder / "observations.csv", ns=(1, 1)),
        lambda folder: table(folder, "{}", "detections.json"),
        lambda folder: (folder / "b.jpg").symlink_to("/etc/hostname"),
    ],
)
def test_every_change_of_pictures_and_tables_is_seen(folder: Path, change: Callable[[Path], object]) -> None:
    before = look_at(folder).signature
    assert look_at(folder).signature == before
    change(folder)
    assert look_at(folder).signature != before


@pytest.mark.parametrize(
    "name",
    [
        "_COMPLETE",
        "camera.log",
        "Thumbs.db",
        "ground_truth.csv",
        ".hidden.jpg",
        ".sync/a.jpg",
        "b.jpg.part",
        "b.jpg.tmp",
        "b.jpg~",
        "upload.part/b.jpg",
        "upload.tmp/b.jpg",
        "old~/b.jpg",
    ],
)
def test_what_is_no_part_of_a_drop_keeps_it_from_nothing(folder: Path, name: str) -> None:
    before = look_at(folder)
    picture(folder, name)
    after = look_at(folder)
    assert (after.signature, after.pictures) == (before.signature, 1)


def test_tables_that_a_package_names_are_part_of_it(folder: Path) -> None:
    (folder / "observations.csv").unlink()
    table(folder, "{}", "datapackage.json")
    (folder / "tables").mkdir()
    table(folder, "mediaID\n1\n", "tables/media.csv")
    before = look_at(folder).signature
    table(folder, "mediaID\n2\n3\n", "tables/media.csv")
    assert look_at(folder).signature != before


def test_a_file_cannot_hide_behind_an_old_time_or_one_of_the_future(folder: Path) -> None:
    for n, moment in enumerate((0, 10**18, 4 * 10**18)):
        before = look_at(folder).signature
        os.utime(picture(folder, f"late-{n}.jpg"), ns=(moment, moment))
        assert look_at(folder).signature != before


def test_a_removed_folder_cannot_be_looked_at(tmp_path: Path) -> None:
    with pytest.raises(DropError, match="gone does not exist"):
        look_at(tmp_path / "gone")


def test_only_real_folders_are_drops(tmp_path: Path) -> None:
    for name in (
        "b/1.jpg",
        "a/1.jpg",
        ".hidden/1.jpg",
        "x.part/1.jpg",
        "y.tmp/1.jpg",
        "z~/1.jpg",
        "1.jpg",
        "notes.txt",
    ):
        picture(tmp_path, name)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "1.jpg")
    listing = list_watched(tmp_path)
    assert listing.folders == ("a", "b")
    assert listing.loose_pictures == 1


def test_a_watched_folder_that_is_gone_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DropError, match=r"gone cannot be listed \(No such file or directory\): mount it.*DEER_REID_WATCH"
    ):
        list_watched(tmp_path / "gone")


# What is waited for.


def test_a_folder_settles_over_two_looks_and_the_settling_time(folder: Path) -> None:
    assert stages([0, 30, 119, 120], lambda _: look_at(folder)) == [
        Stage.CHANGING,
        Stage.SETTLING,
        Stage.SETTLING,
        Stage.READY,
    ]


def test_a_long_time_between_two_looks_does_not_replace_the_second(folder: Path) -> None:
    assert stages([0, 5000], lambda _: look_at(folder)) == [Stage.CHANGING, Stage.READY]
    assert stages([5000], lambda _: look_at(folder)) == [Stage.CHANGING]
    assert stages([0, 0], lambda _: look_at(folder), WatchRules(0, 0)) == [Stage.CHANGING, Stage.READY]


def test_a_slow_copy_is_waited_for_from_its_last_change(folder: Path) -> None:
    def grows(now: float) -> Look:
        if now <= 300:
            picture(folder, "growing.jpg", b"x" * int(now + 1))
        return look_at(folder)

    found = stages([float(t) for t in range(0, 451, 30)], grows)
    assert found == [Stage.CHANGING] * 11 + [Stage.SETTLING] * 3 + [Stage.READY] * 2


def test_a_marker_ends_the_waiting_for_everything(folder: Path) -> None:
    (folder / "observations.csv").unlink()
    picture(folder, "_COMPLETE", b"")
    assert stages([0], lambda _: look_at(folder)) == [Stage.READY]


def test_a_marker_is_a_file(folder: Path) -> None:
    (folder / "_COMPLETE").mkdir()
    assert look_at(folder).marker is None


def test_a_marker_vouches_once(folder: Path) -> None:
    marker = picture(folder, "_COMPLETE", b"")
    look = look_at(folder)
    sealed = Sealed(look.signature, look.marker, "creek-1")
    assert judge(look, None, sealed, 0, RULES).stage is Stage.SEALED
    picture(folder, "late.jpg")
    late = look_at(folder)
    first = judge(late, None, sealed, 0, RULES)
    assert first.stage is Stage.CHANGING
    assert judge(late, first.pending, sealed, 30, RULES).stage is Stage.SETTLING
    os.utime(marker, ns=(5, 5))
    assert judge(look_at(folder), first.pending, sealed, 30, RULES).stage is Stage.READY


def test_pictures_alone_wait_for_a_table_and_not_for_ever(folder: Path) -> None:
    (folder / "observations.csv").unlink()
    times = [0.0, 120.0, 599.0, 600.0]
    assert stages(times, lambda _: look_at(folder))[1:] == [Stage.TABLE, Stage.TABLE, Stage.READY]
    assert stages(times, lambda _: look_at(folder), NO_TABLE)[1:] == [Stage.READY] * 3


def test_a_table_that_arrives_is_given_time_to_arrive_whole(folder: Path) -> None:
    (folder / "observations.csv").unlink()

    def looks(now: float) -> Look:
        if now == 240:
            table(folder, "{}", "detections.json")
        return look_at(folder)

    assert stages([0, 120, 240, 270, 360], looks) == [
        Stage.CHANGING,
        Stage.TABLE,
        Stage.CHANGING,
        Stage.SETTLING,
        Stage.READY,
    ]


def test_a_clock_that_is_set_back_costs_one_settling_time_and_no_more(folder: Path) -> None:
    assert stages([1e9, 1e9 + 60, 500, 530, 619, 620], lambda _: look_at(folder)) == [
        Stage.CHANGING,
        *[Stage.SETTLING] * 4,
        Stage.READY,
    ]


def test_a_clock_that_goes_back_at_every_look_cannot_stall_a_marked_drop(folder: Path) -> None:
    picture(folder, "_COMPLETE")
    assert stages([1e9, 5e8, 1e8], lambda _: look_at(folder)) == [Stage.READY] * 3


def test_a_late_file_makes_a_sealed_folder_wait_again(folder: Path) -> None:
    look = look_at(folder)
    sealed = Sealed(look.signature, None, "creek-1")
    assert judge(look, None, sealed, 0, RULES).stage is Stage.SEALED
    picture(folder, "late.jpg")
    late = look_at(folder)
    waiting = judge(late, None, sealed, 0, RULES)
    assert waiting.stage is Stage.CHANGING
    assert judge(late, waiting.pending, sealed, 120, RULES).stage is Stage.READY


def test_what_cannot_be_a_drop_is_not_tried_until_it_changes(folder: Path) -> None:
    look = look_at(folder)
    refused = Sealed(look.signature, None, None, "mixes layouts")
    assert judge(look, None, refused, 9999, RULES).stage is Stage.REFUSED
    picture(folder, "b.jpg")
    assert judge(look_at(folder), None, refused, 9999, RULES).stage is Stage.CHANGING


def test_an_empty_folder_is_not_remembered(tmp_path: Path) -> None:
    picture(tmp_path, "empty/_COMPLETE")
    verdict = judge(look_at(tmp_path / "empty"), None, None, 0, RULES)
    assert (verdict.stage, verdict.pending) == (Stage.EMPTY, None)


# A fortnight of 20 cameras, a tick every five minutes, on looks alone.


def copied_by(camera: int, within: int) -> int:
    """Files of a day's delivery after so many ticks: every third camera pauses half-way, and one file comes late."""
    first = 10 + camera
    pause = 20 * (camera % 3 == 0)
    return min(within, first) + max(0, min(within - first - pause, 15)) + (within > 150 + camera)


def test_over_a_fortnight_no_state_of_a_folder_is_missed_and_none_is_sealed_while_it_changes() -> None:
    ticks_a_day, lasting = 288, 4
    rules = WatchRules(settle_s=lasting * 300, table_s=0)
    file = FoundFile("a.jpg", 1, 0)
    for camera in range(20):
        looks: dict[tuple[int, int], Look] = {}
        pending: Pending | None = None
        sealed: Sealed | None = None
        sealings: list[str] = []
        stable: list[str] = []
        unchanged = 0
        shown = ""
        for tick in range(14 * ticks_a_day):
            day, within = divmod(tick, ticks_a_day)
            count = copied_by(camera, within - 2 * camera) if within >= 2 * camera else 0
            look = looks.get((day, count))
            if look is None:
                look = looks[day, count] = Look("c", f"{day}:{count}", (file,) * count, 0, True, None)
            unchanged, shown = (unchanged + 1 if look.signature == shown else 0), look.signature
            if unchanged == lasting and count:
                stable.append(shown)
            verdict = judge(look, pending, sealed, 300.0 * tick, rules)
            pending = verdict.pending
            if verdict.stage is Stage.READY:
                assert unchanged >= lasting
                sealed, pending = Sealed(shown, None, f"key-{tick}"), None
                sealings.append(shown)
        assert sealings == stable
        assert len(stable) == 14 * (3 if camera % 3 == 0 else 2), (
            "each delivery, its half before a pause, the late file"
        )
