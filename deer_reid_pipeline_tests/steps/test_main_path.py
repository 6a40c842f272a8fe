"""A drop from folder to profiles: what is stored, and that doing it again changes nothing."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from deer_reid_pipeline.errors import DatabaseError, DropError
from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import is_finished, summarize
from deer_reid_pipeline_tests.sites import query, read_table, row_counts, run_all, write_table


def test_every_picture_detection_and_name_of_the_table_is_stored(site: Site, named: Path) -> None:
    rows = read_table(named / "observations.csv")
    _, summary = run_all(site, named)
    assert summary.images == len({row["filePath"] for row in rows})
    assert summary.detections == len(rows)
    assert summary.individuals == len({row["individualID"] for row in rows})
    assert summary.by_person == summary.encounters
    stored = query(
        site,
        "SELECT i.filename, d.bbox_x, n.name FROM detections d JOIN images i ON i.id = d.image_id "
        "JOIN deer n ON n.id = d.deer_id",
    )
    expected = {(Path(r["filePath"]).name, round(float(r["bboxX"]), 4), r["individualID"]) for r in rows}
    assert {(name, round(x, 4), individual) for name, x, individual in stored} == expected


def test_every_individual_has_unit_vectors_of_the_live_recipe_and_flanks_apart(site: Site, named: Path) -> None:
    run_all(site, named)
    live = query(site, "SELECT recipe_id FROM releases WHERE live")[0][0]
    rows = query(
        site,
        "SELECT name, feature_vector::text, feature_vector_multiscale::text, feature_vector_efficientnet::text, "
        "embedding_version, vector_recipe_id FROM deer WHERE sighting_count > 0",
    )
    assert rows
    for _, *vectors, version, recipe in rows:
        assert (version, recipe) == ("v3_ensemble", live)
        for vector in vectors:
            assert np.linalg.norm(json.loads(vector)) == pytest.approx(1.0, abs=1e-4)
    truth = defaultdict(set)
    for row in read_table(named / "observations.csv"):
        truth[row["individualID"]].add(row["viewpoint"])
    views = defaultdict(set)
    for name, view in query(
        site, "SELECT d.name, e.viewpoint FROM profile_exemplars e JOIN deer d ON d.id = e.deer_id"
    ):
        views[name].add(view)
    assert views == truth


def test_doing_it_again_changes_nothing(site: Site, named: Path) -> None:
    key, _ = run_all(site, named)
    before = row_counts(site)
    profiles = query(site, "SELECT deer_id, branch, digest, updated_at FROM profiles ORDER BY 1, 2")
    assert is_finished(site, key)
    run_all(site, named)
    assert row_counts(site) == before
    assert query(site, "SELECT deer_id, branch, digest, updated_at FROM profiles ORDER BY 1, 2") == profiles


def test_unnamed_encounters_are_all_decided_and_logged(site: Site, herd: Path) -> None:
    key, summary = run_all(site, herd)
    encounters = query(site, "SELECT count(*) FROM encounters WHERE drop_key = :key", key=key)[0][0]
    decided = query(site, "SELECT count(DISTINCT encounter_id) FROM match_decisions")[0][0]
    assert encounters == decided == summary.encounters
    assert summary.encounters > summary.by_person > 0
    machine = query(
        site,
        "SELECT decision, score, threshold, recipe_id, release_id, candidates FROM match_decisions "
        "WHERE method = 'machine'",
    )
    for decision, score, threshold, recipe, release, candidates in machine:
        assert decision in ("matched", "new_individual", "uncertain")
        assert recipe
        assert release
        assert threshold is not None
        if decision == "matched":
            assert score >= threshold
            assert candidates[0]["score"] == pytest.approx(score, abs=1e-5)


def test_no_individual_stands_twice_in_one_picture(site: Site, herd: Path) -> None:
    site.settings = site.settings.model_copy(update={"reid_threshold": -1.0})  # merge whatever may be merged
    run_all(site, herd)
    twice = query(
        site,
        "SELECT image_id, deer_id FROM detections WHERE deer_id IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1",
    )
    several = query(site, "SELECT image_id FROM detections GROUP BY 1 HAVING count(*) > 1")
    assert several
    assert twice == []


def test_a_person_naming_a_processed_folder_overrules_the_machine(site: Site, named: Path) -> None:
    rows = read_table(named / "observations.csv")
    write_table(named, [{**row, "individualID": ""} for row in rows])
    run_all(site, named)
    before = query(site, "SELECT count(*) FROM match_decisions WHERE method = 'machine'")[0][0]
    write_table(named, rows)
    _, summary = run_all(site, named)
    found = query(
        site,
        "SELECT d.name, count(*) FROM detections x JOIN deer d ON d.id = x.deer_id "
        "WHERE x.classification_method = 'human' GROUP BY 1",
    )
    truth: dict[str, int] = defaultdict(int)
    for row in rows:
        truth[row["individualID"]] += 1
    assert dict(map(tuple, found)) == truth  # type: ignore[arg-type]
    assert query(site, "SELECT count(*) FROM match_decisions WHERE method = 'machine'")[0][0] == before
    counts = dict(map(tuple, query(site, "SELECT name, sighting_count FROM deer WHERE sighting_count <> 0")))  # type: ignore[arg-type]
    assert counts == truth
    assert summary.individuals == len(truth)


def test_a_person_correcting_a_name_is_followed(site: Site, named: Path) -> None:
    rows = read_table(named / "observations.csv")
    run_all(site, named)
    wrong = rows[0]["individualID"]
    write_table(
        named,
        [{**row, "individualID": "corrected" if row["individualID"] == wrong else row["individualID"]} for row in rows],
    )
    run_all(site, named)
    names = {
        name for (name,) in query(site, "SELECT DISTINCT d.name FROM detections x JOIN deer d ON d.id = x.deer_id")
    }
    assert "corrected" in names
    assert wrong not in names


def test_a_picture_is_stored_once_whatever_its_name_and_drop(site: Site, named: Path, tmp_path: Path) -> None:
    run_all(site, named)
    before = row_counts(site)
    source = next((named / "images").rglob("*.jpg"))
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(source, other / "renamed.jpg")
    shutil.copyfile(source, other / "twice.jpg")
    key, summary = run_all(site, other)
    after = row_counts(site)
    assert {k: after[k] for k in ("images", "detections", "embeddings", "deer")} == {
        k: before[k] for k in ("images", "detections", "embeddings", "deer")
    }
    per_picture = query(
        site,
        "SELECT count(*) FROM detections d JOIN images i ON i.id = d.image_id WHERE i.filename = :n",
        n=source.name,
    )[0][0]
    assert summary.images == 1
    assert summary.detections == 2 * per_picture
    assert [row.code for row in describe(site, key)] == ["duplicate_image"]


def describe(site: Site, key: str) -> tuple:
    from deer_reid_pipeline.steps.summary import describe_drop

    return describe_drop(site, key).quarantined


def test_without_boxes_the_whole_frame_is_flagged_and_gives_way_to_real_boxes(
    site: Site, herd: Path, tmp_path: Path
) -> None:
    rows = [row for row in read_table(herd / "observations.csv")][:4]
    bare = tmp_path / "bare"
    bare.mkdir()
    for row in rows:
        shutil.copyfile(herd / row["filePath"], bare / Path(row["filePath"]).name)
    run_all(site, bare, "none")
    assert {source for (source,) in query(site, "SELECT DISTINCT source FROM detections")} == {"whole_frame"}
    write_table(bare, [{**row, "filePath": Path(row["filePath"]).name} for row in rows])
    _, summary = run_all(site, bare)
    assert summary.detections == len(rows)
    standing = query(site, "SELECT DISTINCT source FROM detections WHERE NOT superseded")
    assert [source for (source,) in standing] == ["manifest"]


def test_deciding_without_vectors_is_refused(site: Site, named: Path) -> None:
    key = register_drop(site, named, "auto").key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    with pytest.raises(DatabaseError, match="have no vectors"):
        match_drop(site, site.matcher(), key)


def test_a_drop_of_nothing_usable_is_an_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    key = register_drop(site, tmp_path, "auto").key
    with pytest.raises(DropError, match="no usable picture"):
        store_images(site, key)


def test_a_file_that_changes_after_sealing_is_quarantined(site: Site, named: Path) -> None:
    key = register_drop(site, named, "auto").key
    pictures = sorted((named / "images").rglob("*.jpg"))
    shutil.copyfile(pictures[1], pictures[0])
    store_images(site, key)
    assert [row.code for row in describe(site, key)] == ["changed_file"]
    assert summarize(site, key).images == len(pictures) - 1


def test_a_second_recipe_stands_beside_the_live_one(site: Site, named: Path) -> None:
    run_all(site, named)
    columns = query(site, "SELECT id, feature_vector::text, feature_vector_multiscale::text FROM deer ORDER BY 1")
    live = site.matcher().recipe
    other = live.model_copy(update={"name": "other"})
    with site.database.session() as session:
        from deer_reid_pipeline.store.recipes import register_recipe

        register_recipe(session, other.id, other.name, other.to_json(), False)
    assert other.id != live.id
    report = update_profiles(site, other)
    assert report.made == len(columns)
    per_recipe = dict(map(tuple, query(site, "SELECT recipe_id, count(*) FROM embeddings GROUP BY 1")))  # type: ignore[arg-type]
    assert per_recipe[live.id] == per_recipe[other.id] > 0
    assert (
        query(site, "SELECT id, feature_vector::text, feature_vector_multiscale::text FROM deer ORDER BY 1") == columns
    )


def test_each_crop_has_exactly_one_vector_a_branch(site: Site, herd: Path) -> None:
    run_all(site, herd)
    counts = query(site, "SELECT branch, count(*), count(DISTINCT detection_id) FROM embeddings GROUP BY 1")
    detections = query(site, "SELECT count(*) FROM detections")[0][0]
    assert sorted(map(tuple, counts)) == [(branch, detections, detections) for branch in sorted(BRANCHES)]


def test_a_detector_named_later_is_asked_where_whole_frames_stood(
    site: Site, herd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deer_reid_pipeline.steps import detections as step
    from deer_reid_pipeline.vision.boxes import DetectedBox

    class Middle:
        """Finds one animal in the middle of every picture."""

        name = "middle"

        def detect(self, pixels: np.ndarray) -> list[DetectedBox]:
            return [DetectedBox(0.25, 0.25, 0.5, 0.5, 0.9, "animal"), DetectedBox(0, 0, 1, 1, 0.9, "person")]

    source = sorted((herd / "images").rglob("*.jpg"))[0]
    shutil.copyfile(source, tmp_path / "a.jpg")
    run_all(site, tmp_path, "none")
    monkeypatch.setattr(step, "open_detector", lambda *_: Middle())
    _, summary = run_all(site, tmp_path, "onnx")
    standing = query(site, "SELECT source, bbox_x, bbox_width FROM detections WHERE NOT superseded")
    assert [tuple(row) for row in standing] == [("middle", 0.25, 0.5)]
    assert summary.detections == 1


def test_a_named_detector_replaces_a_detectors_boxes_but_nothing_that_a_person_said() -> None:
    from deer_reid_pipeline.steps.detections import asks_detector

    plain = {"x": 0.1, "individual_id": None, "viewpoint": None, "sex": "unknown", "life_stage": None}
    assert asks_detector(None, "auto")
    assert not asks_detector([plain], "auto")
    assert asks_detector([plain], "onnx")
    assert not asks_detector([], "onnx")
    for said in ({"individual_id": "X"}, {"viewpoint": "left"}, {"sex": "male"}, {"life_stage": "adult"}):
        assert not asks_detector([{**plain, **said}], "onnx")


def test_what_a_person_says_later_of_a_known_box_is_taken_over(site: Site, named: Path) -> None:
    rows = read_table(named / "observations.csv")
    write_table(named, [{**row, "viewpoint": "", "sex": "", "lifeStage": ""} for row in rows])
    run_all(site, named)
    write_table(named, [{**row, "viewpoint": "left", "sex": "female", "lifeStage": "adult"} for row in rows])
    run_all(site, named)
    said = query(site, "SELECT DISTINCT viewpoint, life_stage, classification FROM detections")
    assert [tuple(row) for row in said] == [("left", "adult", "doe")]


def test_a_box_without_area_costs_its_own_crop_and_no_other(site: Site, named: Path) -> None:
    key = register_drop(site, named, "auto").key
    store_images(site, key)
    store_detections(site, key)
    bad = query(site, "SELECT id FROM detections ORDER BY id LIMIT 1")[0][0]
    with site.database.session() as session:
        from sqlalchemy import text

        session.execute(text("UPDATE detections SET bbox_x = NULL, bbox = '{}' WHERE id = :id"), {"id": bad})
    report = store_crops(site, drop_key=key)
    assert len(report.lost) == 1
    assert report.written == query(site, "SELECT count(*) FROM detections")[0][0] - 1
