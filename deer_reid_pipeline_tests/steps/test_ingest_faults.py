"""Faults on the way from a folder to crops: what fails for now is tried again, and nothing that was said is undone."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.steps import crops as crop_step
from deer_reid_pipeline.steps import detections as detection_step
from deer_reid_pipeline.steps import images as image_step
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import match_boxes, store_detections
from deer_reid_pipeline.steps.drops import in_transaction, register_drop
from deer_reid_pipeline.steps.embeddings import embed_drop
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import describe_drop, markdown_text
from deer_reid_pipeline.vision.boxes import DetectedBox
from deer_reid_pipeline.vision.crops import cut_crops
from deer_reid_pipeline.vision.decode import ImageError
from deer_reid_pipeline.vision.model_files import sha256_of
from deer_reid_pipeline_tests.sites import part_of_herd, query, read_table, run_all, write_table

BOX = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")


class Finds:
    """A detector that finds the same boxes in every picture."""

    def __init__(self, *boxes: tuple[float, float, float, float], name: str = "finder") -> None:
        self.boxes, self.name, self.asked = boxes, name, 0

    def detect(self, pixels: np.ndarray) -> list[DetectedBox]:
        self.asked += 1
        return [DetectedBox(*box, 0.9, "animal") for box in self.boxes]


@pytest.fixture
def rows(herd: Path) -> list[dict[str, str]]:
    """Rows of four pictures of the herd that show one named animal each."""
    table = read_table(herd / "observations.csv")
    files = [row["filePath"] for row in table]
    return [row for row in table if row["individualID"] and files.count(row["filePath"]) == 1][:4]


@pytest.fixture
def folder(herd: Path, tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    """A drop of these pictures with their table."""
    return part_of_herd(herd, tmp_path / "drop", rows)


@pytest.fixture
def bare(folder: Path) -> Path:
    """The same pictures without a table."""
    (folder / "observations.csv").unlink()
    return folder


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Callable[[Finds], Finds]:
    """Puts a detector in the place of the real one."""

    def use(found: Finds) -> Finds:
        monkeypatch.setattr(detection_step, "open_detector", lambda *_: found)
        return found

    return use


def codes(site: Site, key: str) -> list[str]:
    return [row.code for row in describe_drop(site, key).quarantined]


def standing(site: Site) -> list[tuple[Any, ...]]:
    return [
        tuple(row)
        for row in query(
            site, "SELECT id, source, round(bbox_x::numeric, 4)::float FROM detections WHERE NOT superseded ORDER BY id"
        )
    ]


# What cannot be read for now.


def test_a_failing_disk_stops_the_drop_and_running_again_goes_on(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = register_drop(site, folder, "auto").key
    bad = sorted(folder.rglob("*.jpg"))[1]
    true_open = Path.open

    def failing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == bad:
            raise OSError(5, "Input/output error")
        return true_open(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", failing)
        with pytest.raises(DropError, match=f"{bad.name} cannot be read now .*run again") as caught:
            store_images(site, key)
    assert "\n" not in str(caught.value)
    assert codes(site, key) == []
    store_images(site, key)
    assert query(site, "SELECT count(*) FROM images")[0][0] == 4


def test_a_file_in_a_folder_that_may_not_be_entered_is_not_gone(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = register_drop(site, folder, "auto").key
    bad = sorted(folder.rglob("*.jpg"))[1]

    def closed(true: Callable[..., Any]) -> Callable[..., Any]:
        def failing(path: Any, *args: Any, **kwargs: Any) -> Any:
            if str(path) == str(bad):
                raise PermissionError(13, "Permission denied")
            return true(path, *args, **kwargs)

        return failing

    with monkeypatch.context() as patched:
        for owner, name in ((os, "stat"), (os, "lstat"), (Path, "open")):
            patched.setattr(owner, name, closed(getattr(owner, name)))
        with pytest.raises(DropError, match=r"cannot be read now \(Permission denied\)"):
            store_images(site, key)
    assert codes(site, key) == []


def test_a_moved_folder_stops_the_drop_and_is_found_where_it_is_now(site: Site, folder: Path, tmp_path: Path) -> None:
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    (tmp_path / "disk").mkdir()
    moved = tmp_path / "disk" / folder.name
    folder.rename(moved)
    with site.database.session() as session:
        session.execute(text("UPDATE drop_media SET image_id = NULL WHERE ordinal > 1"))
        session.execute(text("DELETE FROM images WHERE id NOT IN (SELECT image_id FROM drop_media WHERE ordinal < 2)"))
    with pytest.raises(DropError, match="cannot be read now"):
        store_images(site, key)
    assert codes(site, key) == []
    assert register_drop(site, moved, "auto").key == key
    store_images(site, key)
    store_detections(site, key)
    assert store_crops(site, drop_key=key).lost == ()
    assert query(site, "SELECT root FROM drops")[0][0] == str(moved)
    assert all(Path(path).is_relative_to(moved) for (path,) in query(site, "SELECT path FROM images"))


def test_a_missing_file_is_quarantined_until_it_is_back(site: Site, folder: Path, tmp_path: Path) -> None:
    key = register_drop(site, folder, "auto").key
    gone = sorted(folder.rglob("*.jpg"))[0]
    gone.rename(tmp_path / "away.jpg")
    store_images(site, key)
    assert codes(site, key) == ["missing_file"]
    store_images(site, key)
    assert codes(site, key) == ["missing_file"]
    (tmp_path / "away.jpg").rename(gone)
    store_images(site, key)
    assert codes(site, key) == []
    assert query(site, "SELECT count(*) FROM images")[0][0] == 4


def test_content_that_cannot_be_decoded_is_quarantined_all_the_same(site: Site, folder: Path) -> None:
    bad = sorted(folder.rglob("*.jpg"))[0]
    bad.write_bytes(bad.read_bytes()[:4000])
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    assert codes(site, key) == ["truncated"]


# Two sets of boxes of one picture.


def test_boxes_are_paired_one_to_one_and_the_best_overlap_first() -> None:
    known = [(0.10, 0.1, 0.4, 0.4), (0.14, 0.1, 0.4, 0.4)]
    new = [(0.13, 0.1, 0.4, 0.4), (0.05, 0.1, 0.4, 0.4), (0.7, 0.7, 0.2, 0.2)]
    assert match_boxes(new, known) == {0: 1, 1: 0}


def test_a_table_whose_boxes_are_a_little_off_speaks_of_the_detectors_animals(
    site: Site, bare: Path, rows: list[dict[str, str]], detector: Callable[[Finds], Finds]
) -> None:
    detector(Finds((0.30, 0.3, 0.3, 0.3)))
    run_all(site, bare)
    before = standing(site)
    assert len(before) == 4
    box = dict(zip(BOX, ("0.302", "0.3", "0.3", "0.3"), strict=True))
    write_table(bare, [{**row, **box} for row in rows])
    run_all(site, bare)
    assert standing(site) == [(key, "manifest", 0.302) for key, _, _ in before]
    assert query(site, "SELECT count(*) FROM detections")[0][0] == 4
    assert {name for (name,) in query(site, "SELECT given_individual FROM detections")} == {
        row["individualID"] for row in rows
    }
    crops = query(site, "SELECT count(*) FROM detection_crops")[0][0]
    assert crops == 4, "the crops of the moved boxes are cut again"


def test_a_detectors_box_moves_no_box_of_a_table(
    site: Site, folder: Path, rows: list[dict[str, str]], detector: Callable[[Finds], Finds]
) -> None:
    box = dict(zip(BOX, ("0.3", "0.3", "0.3", "0.3"), strict=True))
    write_table(folder, [{**row, **box} for row in rows])
    run_all(site, folder)
    before = standing(site)
    detector(Finds((0.31, 0.3, 0.3, 0.3)))
    (folder / "observations.csv").unlink()
    run_all(site, folder, "onnx")
    assert standing(site) == before


def test_boxes_that_a_table_does_not_know_are_retired_and_sightings_follow(
    site: Site, bare: Path, rows: list[dict[str, str]], detector: Callable[[Finds], Finds]
) -> None:
    detector(Finds((0.0, 0.0, 0.25, 0.25), (0.6, 0.6, 0.3, 0.3)))
    run_all(site, bare)
    assert len(standing(site)) == 8
    box = dict(zip(BOX, ("0.6", "0.6", "0.3", "0.3"), strict=True))
    write_table(bare, [{**row, **box} for row in rows])
    run_all(site, bare)
    assert [(source, x) for _, source, x in standing(site)] == [("manifest", 0.6)] * 4
    wrong = query(
        site,
        "SELECT name FROM deer WHERE sighting_count <> "
        "(SELECT count(*) FROM detections d WHERE d.deer_id = deer.id AND NOT d.superseded)",
    )
    assert wrong == []


@pytest.mark.parametrize("found", [[], [(0.1, 0.1, 0.3, 0.3)]], ids=["whole frame", "detector"])
def test_a_picture_that_a_table_calls_blank_keeps_no_machine_box(
    site: Site,
    bare: Path,
    rows: list[dict[str, str]],
    found: Sequence[tuple[float, float, float, float]],
    detector: Callable[[Finds], Finds],
) -> None:
    if found:
        detector(Finds(*found))
    run_all(site, bare, "auto" if found else "none")
    assert len(standing(site)) == 4
    write_table(bare, [{"filePath": row["filePath"], "observationType": "blank"} for row in rows])
    run_all(site, bare)
    assert standing(site) == []
    assert query(site, "SELECT sum(sighting_count) FROM deer")[0][0] == 0


def test_a_row_that_cannot_be_used_does_not_make_its_picture_blank(
    site: Site, bare: Path, rows: list[dict[str, str]]
) -> None:
    run_all(site, bare, "none")
    bad = dict(zip(BOX, ("nan", "0.1", "0.1", "0.1"), strict=True))
    write_table(bare, [{"filePath": row["filePath"], **bad} for row in rows])
    run_all(site, bare)
    assert len(standing(site)) == 4


# What people said.


def test_an_old_drop_run_again_reverts_no_later_correction(
    site: Site, folder: Path, rows: list[dict[str, str]]
) -> None:
    old, _ = run_all(site, folder)
    said = {"individualID": "CORRECTED", "viewpoint": "right", "lifeStage": "juvenile", "sex": "female"}
    write_table(folder, [{**row, **said} for row in rows])
    run_all(site, folder)
    statement = "SELECT DISTINCT given_individual, viewpoint, life_stage, classification FROM detections"
    after = query(site, statement)
    assert [row[0] for row in after] == ["CORRECTED"]
    store_detections(site, old)
    assert query(site, statement) == after


def test_a_machine_changes_nothing_that_a_person_said(site: Site, folder: Path) -> None:
    from deer_reid_pipeline.store.media import add_detections

    run_all(site, folder)
    statement = (
        "SELECT id, given_individual, viewpoint, life_stage, classification, given_at FROM detections ORDER BY 1"
    )
    before = query(site, statement)
    assert all(row.given_at is not None for row in before)
    images = dict(map(tuple, query(site, "SELECT id, image_id FROM detections")))  # type: ignore[arg-type]
    machine = {
        "bbox": {},
        "confidence": 0.5,
        "classification": "mid",
        "source": "finder",
        "viewpoint": "back",
        "life_stage": "subadult",
        "given_individual": None,
        "given_at": None,
    }
    with site.database.session() as session:
        add_detections(session, [{"id": row.id, "image_id": images[row.id], **machine} for row in before])
    assert query(site, statement) == before


# Crops.


def crop_paths(site: Site) -> list[Path]:
    return [
        site.settings.crops_dir / file
        for (file,) in query(site, "SELECT file FROM detection_crops ORDER BY detection_id")
    ]


@pytest.mark.parametrize("damage", ["truncated", "another"])
def test_a_damaged_crop_is_cut_again(site: Site, folder: Path, damage: str) -> None:
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    first, second = crop_paths(site)[:2]
    whole = first.read_bytes()
    first.write_bytes(whole[:500] if damage == "truncated" else second.read_bytes())
    report = embed_drop(site, site.matcher().recipe, key)
    assert (report.embedded, report.without_crop) == (4, 0)
    assert first.read_bytes() == whole


def test_no_crop_is_cut_from_another_picture_under_the_same_path(site: Site, folder: Path) -> None:
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    one, other = sorted(folder.rglob("*.jpg"))[:2]
    shutil.copyfile(other, one)
    report = store_crops(site, drop_key=key)
    assert (report.written, len(report.lost)) == (3, 1)
    assert "another picture" in report.lost[0]


def test_a_picture_that_is_gone_holds_up_nothing_and_is_picked_up_when_it_is_back(
    site: Site, folder: Path, tmp_path: Path
) -> None:
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    gone = sorted(folder.rglob("*.jpg"))[0]
    gone.rename(tmp_path / "away.jpg")
    _, summary = run_steps(site, key)
    assert codes(site, key) == ["no_crop"]
    assert summary == (3, 1)
    (tmp_path / "away.jpg").rename(gone)
    run_all(site, folder)
    assert codes(site, key) == []
    assert run_steps(site, key)[1] == (4, 0)


def run_steps(site: Site, key: str) -> tuple[str, tuple[int, int]]:
    """Crops to decisions; how many detections are decided and how many are not."""
    store_crops(site, drop_key=key)
    matcher = site.matcher()
    embed_drop(site, matcher.recipe, key)
    match_drop(site, matcher, key)
    decided, every = query(site, "SELECT count(encounter_id), count(*) FROM detections")[0]
    return key, (decided, every - decided)


@pytest.mark.parametrize("fault", ["unmounted", "failing", "no more files"])
def test_a_disk_that_is_away_while_crops_are_cut_stops_the_drop_and_running_again_goes_on(
    site: Site, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    bad = sorted(folder.rglob("*.jpg"))[1]
    true_open = Path.open

    def failing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == bad:
            raise OSError(5, "Input/output error") if fault == "failing" else OSError(24, "Too many open files")
        return true_open(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        if fault == "unmounted":
            folder.rename(tmp_path / "away")
        else:
            patched.setattr(Path, "open", failing)
            os.utime(bad)  # its hash is not remembered any more
        with pytest.raises(DropError, match=r"cannot be read now .*run again") as caught:
            store_crops(site, drop_key=key)
    assert "\n" not in str(caught.value)
    assert codes(site, key) == []
    assert query(site, "SELECT count(*) FROM detection_crops")[0][0] == (0 if fault == "unmounted" else 3)
    if fault == "unmounted":
        (tmp_path / "away").rename(folder)
    assert store_crops(site, drop_key=key).lost == ()
    assert run_steps(site, key)[1] == (4, 0)


def test_a_disk_that_fails_while_a_picture_is_decoded_for_its_crop_stops_the_drop(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    bad = sorted(folder.rglob("*.jpg"))[1]

    def failing(path: Path, *args: Any) -> list[bytes]:
        if path == bad:
            raise ImageError("unreadable", "b.jpg cannot be decoded") from OSError(5, "Input/output error")
        return cut_crops(path, *args)

    with monkeypatch.context() as patched:
        patched.setattr(crop_step, "cut_crops", failing)
        with pytest.raises(DropError, match=f"{bad.name} cannot be read now .Input/output error"):
            store_crops(site, drop_key=key)
    assert codes(site, key) == []
    assert store_crops(site, drop_key=key).lost == ()


def test_a_drop_that_was_moved_away_holds_up_nobody_who_wants_its_crops(
    site: Site, folder: Path, tmp_path: Path
) -> None:
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    folder.rename(tmp_path / "away")
    ids = [key for (key,) in query(site, "SELECT id FROM detections")]
    assert len(store_crops(site, detections=ids).lost) == 4
    assert codes(site, key) == ["no_crop"] * 4


def test_a_completed_drop_is_opened_again_when_what_it_missed_is_back(site: Site, folder: Path, tmp_path: Path) -> None:
    key, _ = run_all(site, folder)
    register_drop(site, folder, "auto")
    assert describe_drop(site, key).completed
    with site.database.session() as session:
        session.execute(
            text(
                "INSERT INTO quarantine (drop_key, file, code, reason) "
                "SELECT drop_key, file_path, 'no_crop', 'gone' FROM drop_media LIMIT 1"
            )
        )
    register_drop(site, folder, "auto")
    assert not describe_drop(site, key).completed


def test_a_crop_is_cut_from_the_newer_drop_where_the_older_is_gone(site: Site, folder: Path, tmp_path: Path) -> None:
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "more.txt").write_text("x")
    later = register_drop(site, copy, "auto").key
    assert later != key
    store_images(site, later)
    store_detections(site, later)
    shutil.rmtree(folder)
    assert store_crops(site, drop_key=later).lost == ()


# Several processes.


def test_a_batch_that_met_a_deadlock_is_done_again_once(site: Site) -> None:
    class DeadlockError(Exception):
        pgcode = "40P01"

    calls = []

    def work(session: Any) -> str:
        calls.append(session)
        if len(calls) == 1:
            raise OperationalError("", {}, DeadlockError())
        return "done"

    assert in_transaction(site.database, work) == "done"
    assert len(calls) == 2


def test_rows_are_written_in_the_order_of_their_ids(site: Site, folder: Path) -> None:
    seen: dict[str, list[list[str]]] = {"images": [], "detections": [], "detection_crops": [], "embeddings": []}

    def watch(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        for table, batches in seen.items():
            if statement.startswith(f"INSERT INTO {table} "):
                name = "id" if table in ("images", "detections") else "detection_id"
                compiled = context.compiled_parameters
                batches.append([str(values[name]) for values in compiled if name in values])

    event.listen(site.database.engine, "before_cursor_execute", watch)
    run_all(site, folder)
    for table, batches in seen.items():
        assert any(len(batch) > 1 for batch in batches), table
        assert all(batch == sorted(batch) for batch in batches), table


def test_a_drop_registered_by_two_at_once_is_registered_once(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deer_reid_pipeline.steps import drops as step

    both = threading.Barrier(2)
    true_read = step.read_drop

    def together(*args: Any, **kwargs: Any) -> Any:
        contents = true_read(*args, **kwargs)
        both.wait(20)
        return contents

    monkeypatch.setattr(step, "read_drop", together)
    failures: list[BaseException] = []

    def register() -> None:
        try:
            register_drop(site, folder, "auto")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=register) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert query(site, "SELECT count(*) FROM drops")[0][0] == 1
    assert query(site, "SELECT count(*) FROM drop_media")[0][0] == 4


# Pictures from before the enhancement.


def test_the_owners_picture_rows_are_taken_over(site: Site, folder: Path) -> None:
    paths = sorted(folder.rglob("*.jpg"))
    ids = {str(path): uuid.uuid4() for path in paths}
    with site.database.session() as session:
        for path, key in ids.items():
            session.execute(
                text("INSERT INTO images (id, filename, path) VALUES (:id, :name, :path)"),
                {"id": key, "name": Path(path).name, "path": path},
            )
    key, summary = run_all(site, folder)
    stored = query(site, "SELECT id, path, sha256, width, height, infrared, drop_key FROM images")
    assert {row.path: row.id for row in stored} == ids
    assert all(row.sha256 and row.width and row.height and row.infrared is not None for row in stored)
    assert {row.drop_key for row in stored} == {key}
    assert summary.images == summary.detections == 4
    assert {image for (image,) in query(site, "SELECT image_id FROM drop_media")} == set(ids.values())


# What people read.


def test_warnings_are_escaped_and_capped() -> None:
    from deer_reid_pipeline.defs.ingest.assets import _as_list

    shown = _as_list([f"<img src=x> [a](b) \u9e7f {n}" for n in range(60)]).splitlines()
    assert len(shown) == 51
    assert shown[-1] == "- and 10 more"
    assert all("<" not in line and "[" not in line and line.isascii() for line in shown)
    assert shown[0] == "- " + markdown_text("<img src=x> [a](b) \u9e7f 0")
    assert _as_list([]) == "none"


def test_many_animated_pictures_are_one_warning(site: Site, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for path in sorted(bare.rglob("*.jpg")):
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".gif"), save_all=True, append_images=[picture.rotate(90)], duration=100)
        path.unlink()
    monkeypatch.setattr(image_step, "BATCH", 2)
    key = register_drop(site, bare, "auto").key
    store_images(site, key)
    told = [line for line in describe_drop(site, key).warnings if "animated" in line]
    assert len(told) == 1
    assert told[0].startswith("4 pictures are animated")


def test_a_lost_crop_is_logged_in_ascii(site: Site, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    from deer_reid_pipeline.steps.embeddings import store_crops_quietly

    rows = read_table(folder / "observations.csv")
    (folder / rows[0]["filePath"]).rename(folder / "h\u00f6 \u9e7f.jpg")
    write_table(folder, [{**rows[0], "filePath": "h\u00f6 \u9e7f.jpg"}, *rows[1:]])
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    (folder / "h\u00f6 \u9e7f.jpg").unlink()
    store_crops_quietly(site, site.build_recipe("lite"), [key for (key,) in query(site, "SELECT id FROM detections")])
    lines = [record.getMessage() for record in caplog.records if "no crop" in record.getMessage()]
    assert lines
    assert all(line.isascii() for line in lines)


# Work that is not done twice.


def test_a_blank_picture_is_looked_at_once(site: Site, bare: Path, detector: Callable[[Finds], Finds]) -> None:
    blind = detector(Finds())
    key = register_drop(site, bare, "auto").key
    store_images(site, key)
    store_detections(site, key)
    assert blind.asked == 4
    assert {name for (name,) in query(site, "SELECT looked_at_by FROM drop_media")} == {"finder"}
    store_detections(site, key)
    assert blind.asked == 4
    other = detector(Finds(name="other"))
    store_detections(site, key)
    assert other.asked == 4


def test_a_batch_of_pictures_is_linked_by_one_statement(site: Site, folder: Path) -> None:
    statements: list[str] = []

    def watch(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        statements.append(statement)

    event.listen(site.database.engine, "before_cursor_execute", watch)
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    linked = [line for line in statements if line.startswith("UPDATE drop_media")]
    assert len(linked) == 3, "one for known pictures, one for the batch, one for copies"
    assert query(site, "SELECT count(image_id) FROM drop_media")[0][0] == 4


def test_a_hash_is_not_remembered_for_a_changed_file_of_the_same_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    facts = path.stat()
    first = sha256_of(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_mtime_ns == facts.st_mtime_ns
    assert sha256_of(path) != first


def test_a_table_without_boxes_does_not_take_back_what_a_detector_found(
    site: Site, herd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deer_reid_pipeline.steps import detections as step
    from deer_reid_pipeline.vision.boxes import DetectedBox
    from deer_reid_pipeline_tests.sites import part_of_herd

    class Two:
        """Finds two animals in every picture."""

        name = "two"

        def detect(self, pixels: object) -> list[DetectedBox]:
            return [DetectedBox(0.1, 0.1, 0.3, 0.3, 0.9, "animal"), DetectedBox(0.6, 0.6, 0.3, 0.3, 0.9, "animal")]

    source = sorted((herd / "images").rglob("*.jpg"))[0].relative_to(herd).as_posix()
    folder = part_of_herd(herd, tmp_path / "bare", [{"filePath": source, "eventID": "e1"}])
    monkeypatch.setattr(step, "open_detector", lambda *_: Two())
    run_all(site, folder, "onnx")
    _, summary = run_all(site, folder)
    standing = query(site, "SELECT source, count(*) FROM detections WHERE NOT superseded GROUP BY 1")
    assert [tuple(row) for row in standing] == [("two", 2)]
    assert summary.detections == 2
