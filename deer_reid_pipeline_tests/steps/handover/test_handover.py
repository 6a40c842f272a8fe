"""Export, then import into an empty home: the same individuals, encounters and decisions, and no place of a camera."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from frictionless import validate
from PIL import Image

from deer_reid_pipeline.errors import HandoverError
from deer_reid_pipeline.steps.crops import CropReport, store_crops
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.handover import export as exporting
from deer_reid_pipeline.steps.handover import restore as restoring
from deer_reid_pipeline.steps.handover.export import ExportReport, export_package
from deer_reid_pipeline.steps.handover.package import Choices
from deer_reid_pipeline.steps.handover.restore import import_package
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import describe_drop, summarize
from deer_reid_pipeline.store.handover import CARRIED, filled_table
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.store.releases import add_first_release
from deer_reid_pipeline.vision.decode import decode_image
from deer_reid_pipeline.vision.model_files import sha256_of
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline_tests.sites import query, read_table, row_counts
from deer_reid_pipeline_tests.steps.handover.conftest import (
    LATITUDE,
    LINES,
    LONGITUDE,
    NAMES,
    PLACE,
    POLICY,
    SEEN,
    Source,
    drop_of,
    make_up_vectors,
    process,
)
from deer_reid_pipeline_tests.vision.test_recipe import data as recipe_data

IDENTICAL = {
    "encounters": "SELECT * FROM encounters ORDER BY id",
    "match_decisions": "SELECT * FROM match_decisions ORDER BY id",
    "detections": "SELECT *, bbox::text AS box FROM detections ORDER BY id",
    "drop_media": "SELECT * FROM drop_media ORDER BY drop_key, file_path",
    "quarantine": "SELECT * FROM quarantine ORDER BY id",
    "reviews": "SELECT * FROM reviews ORDER BY id",
    "recipes": "SELECT * FROM recipes ORDER BY id",
    "releases": "SELECT id, recipe_id, policy, live, reason, created_at, fitted, made_from, name, author, promoted_at "
    "FROM releases ORDER BY id",
    "release_events": "SELECT id, action, release_id, previous_release_id, verdict, forced, reason, actor, run_id, at "
    "FROM release_events ORDER BY id",
    "deer": "SELECT id, name, sex, first_seen, last_seen, created_at, confidence, sighting_count, life_stage, "
    "identified_by FROM deer ORDER BY id",
    "images": "SELECT id, filename, timestamp, created_at, sha256, width, height, infrared, deployment_id, event_id, "
    "drop_key FROM images ORDER BY id",
    "drops": "SELECT key, name, digest, layout, detector, warnings, sealed_at, completed_at, summary "
    "FROM drops ORDER BY key",
}


def content(site: Site) -> dict[str, list[tuple[Any, ...]]]:
    """Every row that must be the same, read by statements of the test's own."""
    return {name: [repr(tuple(row)) for row in query(site, statement)] for name, statement in IDENTICAL.items()}


def test_the_home_has_what_is_hard_to_hand_over(source: Source) -> None:
    found = set(map(tuple, query(source.site, "SELECT DISTINCT decision, method FROM match_decisions")))
    assert found == {
        (decision, method)
        for decision, method in (
            ("matched", "human"),
            ("new_individual", "human"),
            ("matched", "machine"),
            ("new_individual", "machine"),
            ("uncertain", "machine"),
        )
    }
    assert [name for (name,) in query(source.site, "SELECT code FROM quarantine ORDER BY 1")] == [
        "not_an_image",
        "not_an_image",
    ]
    again = "SELECT detection FROM (SELECT unnest(detection_ids) detection FROM match_decisions) d GROUP BY 1"
    assert query(source.site, f"{again} HAVING count(*) > 1"), "nothing was decided anew"
    assert query(source.site, "SELECT count(*) FROM images WHERE timestamp IS NULL") == [(1,)]
    with Image.open(source.drops / "second" / "CAM 1" / "IMG_10_1.jpg") as image:
        assert image.getexif().get_ifd(0x8825)
        assert {"xmp", "comment"} <= set(image.info)


@pytest.mark.parametrize("choices", [Choices(), Choices(files=True), Choices(places=True, files=True)], ids=str)
def test_an_import_gives_the_same_individuals_encounters_and_decisions(
    source: Source, fresh_site: Callable[[], Site], tmp_path: Path, choices: Choices
) -> None:
    made = export_package(source.site, tmp_path / "package", choices)
    other = fresh_site()
    result = import_package(other, made.folder, source.drops)
    assert content(other) == content(source.site)
    assert (result.rows["individuals"], result.rows["decisions"]) == (made.rows["individuals"], made.rows["decisions"])
    assert result.pictures.missing == 0
    for key in result.drops:
        crops = summarize(source.site, key).crops if choices.files else 0
        assert summarize(other, key) == replace(summarize(source.site, key), crops=crops)
        assert describe_drop(other, key).quarantined == describe_drop(source.site, key).quarantined
    places = query(other, "SELECT name, latitude, longitude FROM deployments")
    exif = query(other, "SELECT count(*) FROM images WHERE exif_data::text LIKE '%GPS%'")[0][0]
    assert places
    assert set(map(tuple, places)) == ({(PLACE, LATITUDE, LONGITUDE)} if choices.places else {(None, None, None)})
    assert exif == (1 if choices.places else 0)


def test_exporting_what_was_imported_gives_the_same_tables(
    source: Source, package: ExportReport, fresh_site: Callable[[], Site], tmp_path: Path
) -> None:
    other = fresh_site()
    import_package(other, package.folder)
    again = export_package(other, tmp_path / "again", Choices())
    files = sorted(path.relative_to(package.folder) for path in package.folder.rglob("*.csv"))
    assert len(files) == 16
    for file in files:
        assert (again.folder / file).read_bytes() == (package.folder / file).read_bytes(), file


def test_crops_that_came_along_are_what_vectors_are_made_from(
    source: Source, with_files: ExportReport, package: ExportReport, fresh_site: Callable[[], Site]
) -> None:
    expected = query(source.site, "SELECT detection_id, spec_id, file, sha256 FROM detection_crops ORDER BY 1")
    other = fresh_site()
    import_package(other, with_files.folder)
    query(other, "UPDATE images SET path = 'nowhere' RETURNING 1")
    assert store_crops(other) == CropReport(0, len(expected), ())
    assert query(other, "SELECT detection_id, spec_id, file, sha256 FROM detection_crops ORDER BY 1") == expected
    cut = fresh_site()
    import_package(cut, package.folder, source.drops)
    assert store_crops(cut) == CropReport(len(expected), 0, ())
    assert query(cut, "SELECT detection_id, spec_id, file, sha256 FROM detection_crops ORDER BY 1") == expected


def test_new_pictures_are_matched_with_the_individuals_that_came(
    source: Source, package: ExportReport, fresh_site: Callable[[], Site], tmp_path: Path
) -> None:
    other = fresh_site()
    import_package(other, package.folder, source.drops)
    last = query(other, "SELECT max(id) FROM match_decisions")[0][0]
    store_crops(other)
    for (key,) in query(other, "SELECT key FROM drops"):
        make_up_vectors(other, Recipe.from_json(recipe_data()), key)
    drop_of(tmp_path / "third", [(1, SEEN, False), (30, SEEN, False)], 20)
    process(other, tmp_path / "third")
    added = query(
        other, "SELECT id, method, decision, individual FROM match_decisions WHERE id > :last ORDER BY id", last=last
    )
    opened = query(source.site, "SELECT count(*) FROM deer WHERE identified_by = 'machine'")[0][0]
    assert [tuple(row) for row in added] == [
        (last + 1, "machine", "matched", NAMES[1]),
        (last + 2, "machine", "new_individual", f"deer-{opened + 1:04d}"),
    ]


def test_processing_an_original_folder_again_finds_its_pictures_and_decides_nothing(
    source: Source, package: ExportReport, fresh_site: Callable[[], Site]
) -> None:
    other = fresh_site()
    result = import_package(other, package.folder)
    assert (result.pictures.found, result.pictures.missing) == (0, made_pictures(source))
    before = content(other)
    for name in ("second", "first drop"):
        register_drop(other, source.drops / name, "none")
    assert all(Path(path).is_file() for (path,) in query(other, "SELECT path FROM images"))
    assert content(other) == before


def test_rows_from_before_the_pipeline_are_handed_over_too(fresh_site: Callable[[], Site], tmp_path: Path) -> None:
    old, new = fresh_site(), fresh_site()
    for statement in (
        "INSERT INTO images (id, filename, path) VALUES (md5('i')::uuid, '.. odd\n~name.jpg', '/old/odd.jpg')",
        "INSERT INTO deer (id, name, sex) VALUES (md5('a')::uuid, NULL, 'doe'), (md5('b')::uuid, 'Twin', 'buck'), "
        "(md5('c')::uuid, 'Twin', 'fawn'), (md5('d')::uuid, '', 'unknown')",
        "INSERT INTO detections (id, image_id, deer_id, bbox, confidence) SELECT md5(n)::uuid, md5('i')::uuid, "
        "md5(n)::uuid, '{\"x\": 1,  \"y\": 2}', 'NaN' FROM unnest(ARRAY['a', 'b', 'c', 'd']) n",
    ):
        query(old, f"{statement} RETURNING 1")
    made = export_package(old, tmp_path / "package", Choices())
    import_package(new, made.folder)
    assert content(new) == content(old)
    assert query(new, "SELECT bbox::text FROM detections") == query(old, "SELECT bbox::text FROM detections")
    names = sorted(row["individualID"] for row in read_table(made.folder / "observations.csv"))
    assert [name.split(" ")[0] for name in names] == ["Twin", "Twin", "individual", "individual"]
    assert len(set(names)) == 4
    assert [row["bboxX"] for row in read_table(made.folder / "observations.csv")] == [""] * 4
    (medium,) = read_table(made.folder / "media.csv")
    assert medium["filePath"] == "%2E%2E odd%0A~name.jpg"


def made_pictures(source: Source) -> int:
    return int(query(source.site, "SELECT count(*) FROM images")[0][0])


def test_frictionless_finds_the_package_valid(
    package: ExportReport, with_files: ExportReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for made in (package, with_files):
        report = validate(str(made.folder / "datapackage.json"))
        assert report.valid, report.flatten(["type", "note"])
        monkeypatch.chdir(made.folder)
        assert validate("datapackage.json").valid
    document = json.loads((package.folder / "datapackage.json").read_text(encoding="ascii"))
    needed = {"resources", "created", "contributors", "project", "spatial", "temporal", "taxonomic"}
    assert needed <= set(document)
    assert [item["name"] for item in document["resources"][:3]] == ["deployments", "media", "observations"]
    damaged = package.folder.parent / "damaged"
    shutil.copytree(package.folder, damaged)
    table = damaged / "observations.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",animal,", ",deer,", 1), encoding="utf-8")
    assert not validate(str(damaged / "datapackage.json")).valid


def test_observations_say_who_it_is_and_who_says_so(source: Source, package: ExportReport) -> None:
    rows = read_table(package.folder / "observations.csv")
    media = {row["mediaID"]: row for row in read_table(package.folder / "media.csv")}
    assert len(rows) == query(source.site, "SELECT count(*) FROM detections WHERE NOT superseded")[0][0]
    assert len(media) == made_pictures(source)
    assert not any("broken" in row["filePath"] for row in media.values())
    stored = {
        str(key): row
        for key, *row in query(
            source.site,
            "SELECT d.id, n.name, m.decision, m.method, m.recipe_id, m.release_id, d.bbox_x FROM detections d "
            "LEFT JOIN deer n ON n.id = d.deer_id "
            "LEFT JOIN LATERAL (SELECT * FROM match_decisions x WHERE x.encounter_id = d.encounter_id "
            "ORDER BY id DESC LIMIT 1) m ON true",
        )
    }
    for row in rows:
        name, decision, method, recipe, release, x = stored[row["observationID"]]
        assert row["individualID"] == (name or "")
        assert (name is None) == (decision == "uncertain")
        assert row["classificationMethod"] == method
        assert row["classifiedBy"] == (f"{recipe} release {release}" if method == "machine" else "")
        assert float(row["bboxX"]) == x
        assert row["classificationTimestamp"].endswith("Z")
        assert row["eventID"]
        assert media[row["mediaID"]]["filePath"].split("/")[0] in ("first drop", "second")
    assert {*NAMES[1:3], LINES, "Corrected"} & {row["individualID"] for row in rows}
    places = {(row["latitude"], row["longitude"]) for row in read_table(package.folder / "deployments.csv")}
    assert places == {("0", "0")}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


TOLD = (b"51.567", b"7.1234", PLACE.encode(), b"GPSL", b"maker ")
HIDDEN = (*TOLD, b"51.56", b"51.57", b"51.568", b"-7.12", b"-7.1")


def test_no_coordinate_of_the_home_is_anywhere_in_the_package(
    source: Source, package: ExportReport, with_files: ExportReport, tmp_path: Path
) -> None:
    asked = export_package(source.site, tmp_path / "asked", Choices(places=True, files=True))
    told = bytes_of(asked.folder)
    for said in TOLD:
        assert any(said in data for data in told.values()), said
    for made in (package, with_files):
        for name, data in bytes_of(made.folder).items():
            for said in HIDDEN:
                assert said not in data, (name, said)
            assert str(source.drops).encode() not in data
            assert str(source.site.settings.home).encode() not in data
    with_position = 0
    for row in read_table(with_files.folder / "media.csv"):
        with Image.open(with_files.folder / row["filePath"]) as image:
            assert dict(image.getexif().get_ifd(0x8825)) == {}
            assert not {"xmp", "comment"} & set(image.info)
        with Image.open(asked.folder / row["filePath"]) as image:
            with_position += bool(image.getexif().get_ifd(0x8825))
    assert with_position


def test_copied_pictures_show_the_same_pixels_and_keep_their_identity(
    source: Source, with_files: ExportReport, fresh_site: Callable[[], Site]
) -> None:
    assert with_files.left_out == ()
    paths = dict(map(tuple, query(source.site, "SELECT id::text, path FROM images")))  # type: ignore[arg-type]
    for row in read_table(with_files.folder / "media.csv"):
        copied, original = with_files.folder / row["filePath"], Path(paths[row["mediaID"]])
        assert np.array_equal(decode_image(copied), decode_image(original))
    other = fresh_site()
    result = import_package(other, with_files.folder)
    assert result.pictures.missing == 0
    assert result.crops == query(source.site, "SELECT count(*) FROM detection_crops")[0][0] > 0
    for path, sha256 in query(other, "SELECT path, sha256 FROM images"):
        assert Path(path).is_relative_to(with_files.folder)
        assert Path(path).is_file()
        assert len(sha256) == 64
    for file, sha256 in query(other, "SELECT file, sha256 FROM detection_crops"):
        assert sha256_of(other.settings.crops_dir / file) == sha256


def test_a_picture_that_is_gone_or_cannot_be_stripped_is_left_out_and_told(source: Source, tmp_path: Path) -> None:
    path = source.drops / "second" / "CAM 1" / "IMG_11_0.jpg"
    away = path.with_name("away")
    path.rename(away)
    try:
        made = export_package(source.site, tmp_path / "package", Choices(files=True))
    finally:
        away.rename(path)
    assert made.copied == made_pictures(source) - 1
    ((name, reason),) = made.left_out
    assert name == "second/CAM 1/IMG_11_0.jpg"
    assert reason.startswith("no file at") or "cannot be read" in reason
    assert len(read_table(made.folder / "media.csv")) == made_pictures(source)


def test_a_home_that_is_not_empty_takes_nothing_over(source: Source, package: ExportReport) -> None:
    before = row_counts(source.site)
    with pytest.raises(HandoverError, match=r"this home is not empty .* set DEER_REID_HOME to a new folder"):
        import_package(source.site, package.folder)
    assert row_counts(source.site) == before


def test_a_home_that_made_its_first_release_is_not_empty(package: ExportReport, fresh_site: Callable[[], Site]) -> None:
    other = fresh_site()
    recipe = Recipe.from_json(recipe_data())
    with other.database.session() as session:
        register_recipe(session, recipe.id, recipe.name, recipe.to_json(), False)
        add_first_release(session, recipe.id, POLICY, "first", None)
    with pytest.raises(HandoverError, match="not empty"):
        import_package(other, package.folder)


def rehash(package: Path, name: str, path: Path) -> None:
    """Let datapackage.json state the table as it is now, as somebody would who means it."""
    file = package / "datapackage.json"
    document = json.loads(file.read_text(encoding="ascii"))
    for resource in document["resources"]:
        if resource["name"] == name:
            resource["hash"], resource["bytes"] = f"sha256:{sha256_of(path)}", path.stat().st_size
    file.write_text(json.dumps(document), encoding="ascii")


def change(package: Path, name: str, column: str, value: str, *, own: bool = True) -> None:
    """Change a cell of the first row of a table, and state the table anew."""
    import csv

    path = package / (f"deer-reid/{name}.csv" if own else f"{name}.csv")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    rows[1][rows[0].index(column)] = value
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    rehash(package, name, path)


def refused(site: Site, package: Path, match: str) -> None:
    with pytest.raises(HandoverError, match=match) as caught:
        import_package(site, package)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isascii()
    with site.database.session() as session:
        assert filled_table(session) is None
    assert not list(site.settings.crops_dir.rglob("*.jpg"))


@pytest.mark.parametrize("file", ["deer-reid/decisions.csv", "observations.csv", "datapackage.json"])
def test_a_package_that_lacks_a_file_is_refused(package: ExportReport, empty: Site, tmp_path: Path, file: str) -> None:
    shutil.copytree(package.folder, tmp_path / "p")
    (tmp_path / "p" / file).unlink()
    refused(empty, tmp_path / "p", "is missing" if file.endswith("csv") else "is not a package")


def test_a_truncated_or_changed_table_is_refused(package: ExportReport, empty: Site, tmp_path: Path) -> None:
    for number, file in enumerate(["deer-reid/decisions.csv", "media.csv", "deer-reid/recipes.csv"]):
        folder = tmp_path / str(number)
        shutil.copytree(package.folder, folder)
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[:-20] if number else data.replace(b"machine", b"machinE", 1))
        refused(empty, folder, f"{file} .* does not hold")


@pytest.mark.parametrize(
    ("name", "column", "value", "match"),
    [
        ("files", "file_path", "../../outside.jpg", "leads out of its folder"),
        ("files", "file_path", "/outside.jpg", "leads out of its folder"),
        ("pictures", "filename", "../outside.jpg", "leads out of its folder"),
        ("drops", "key", "../drop", "leads out of its folder"),
        ("drops", "name", "..", "leads out of its folder"),
        ("decisions", "encounter_id", "00000000-0000-0000-0000-000000000000", "decisions cannot be stored"),
        ("decisions", "decision", "a decision of far more than twenty letters", "decisions cannot be stored"),
        ("decisions", "detection_ids", "no list", "decisions cannot be stored"),
        ("detections", "deer_id", "no id", "detections cannot be stored"),
        ("individuals", "name", "Somebody else", "observations of the package does not say what the others say|^$"),
        ("recipes", "spec", "{}", "recipe"),
        ("releases", "policy", '{"threshold": "high"}', "recipe or release"),
        ("encounters", "started_at", "tomorrow", "does not hold"),
    ],
)
def test_a_changed_table_is_refused_though_its_hash_was_stated_anew(
    package: ExportReport, empty: Site, tmp_path: Path, name: str, column: str, value: str, match: str
) -> None:
    shutil.copytree(package.folder, tmp_path / "p")
    change(tmp_path / "p", name, column, value)
    refused(empty, tmp_path / "p", match)


@pytest.mark.parametrize(("name", "column"), [("observations", "individualID"), ("deployments", "latitude")])
def test_a_change_in_a_table_of_the_standard_is_noticed(
    package: ExportReport, empty: Site, tmp_path: Path, name: str, column: str
) -> None:
    shutil.copytree(package.folder, tmp_path / "p")
    change(tmp_path / "p", name, column, "1", own=False)
    refused(empty, tmp_path / "p", f"table {name} of the package does not say what the others say")


def test_a_path_in_media_csv_that_leaves_the_package_is_refused(
    package: ExportReport, empty: Site, tmp_path: Path
) -> None:
    shutil.copytree(package.folder, tmp_path / "p")
    change(tmp_path / "p", "media", "filePath", "../outside.jpg", own=False)
    refused(empty, tmp_path / "p", r"media.csv .* does not hold: .*pattern")


def test_an_observation_of_a_picture_that_is_not_there_is_refused(
    package: ExportReport, empty: Site, tmp_path: Path
) -> None:
    shutil.copytree(package.folder, tmp_path / "p")
    change(tmp_path / "p", "observations", "mediaID", "nowhere", own=False)
    refused(empty, tmp_path / "p", r"observations.csv .* does not hold: .*foreign-key")


def test_a_table_that_is_no_text_is_refused(package: ExportReport, empty: Site, tmp_path: Path) -> None:
    for number, rubbish in enumerate((b"\x00", b"\xff\xfe", b'"')):
        folder = tmp_path / str(number)
        shutil.copytree(package.folder, folder)
        path = folder / "deer-reid" / "files.csv"
        path.write_bytes(path.read_bytes()[:-1] + rubbish + b"\n")
        rehash(folder, "files", path)
        refused(empty, folder, "files")


def test_a_copied_file_that_is_gone_another_or_a_link_is_refused(
    with_files: ExportReport, empty: Site, tmp_path: Path
) -> None:
    row = read_table(with_files.folder / "deer-reid" / "copies.csv")[0]
    last = read_table(with_files.folder / "deer-reid" / "copies.csv")[-1]
    assert (row["kind"], last["kind"]) == ("picture", "crop")
    for number, file in enumerate([row["file"], last["file"]]):
        for how in ("gone", "other", "link"):
            folder = tmp_path / f"{number}{how}"
            shutil.copytree(with_files.folder, folder)
            path = folder / file
            if how == "other":
                path.write_bytes(path.read_bytes() + b"0")
            elif how == "gone":
                path.unlink()
            else:
                (tmp_path / f"away{number}").write_bytes(path.read_bytes())
                path.unlink()
                path.symlink_to(tmp_path / f"away{number}")
            refused(empty, folder, "copy the package again, whole")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("file", "media/../../outside.jpg"),
        ("file", "/outside.jpg"),
        ("file", "deer-reid/decisions.csv"),
        ("kind", "crop"),
        ("id", "media"),
    ],
)
def test_a_copy_with_a_path_of_its_own_is_refused(
    with_files: ExportReport, empty: Site, tmp_path: Path, column: str, value: str
) -> None:
    shutil.copytree(with_files.folder, tmp_path / "p")
    change(tmp_path / "p", "copies", column, value)
    refused(empty, tmp_path / "p", "which no export writes")


def test_a_link_in_place_of_a_table_is_refused(package: ExportReport, empty: Site, tmp_path: Path) -> None:
    shutil.copytree(package.folder, tmp_path / "p")
    table = tmp_path / "p" / "deer-reid" / "drops.csv"
    table.rename(tmp_path / "drops.csv")
    table.symlink_to(tmp_path / "drops.csv")
    refused(empty, tmp_path / "p", "drops.csv is missing")


def test_what_is_no_package_of_this_version_is_refused(package: ExportReport, empty: Site, tmp_path: Path) -> None:
    refused(empty, tmp_path, "is not a package")
    for number, (key, value, match) in enumerate(
        [
            (None, None, "was not written by `deer-reid export`"),
            ("format", 2, "has the format 2"),
            ("revision", "0099", "at revision '0099'"),
        ]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(package.folder, folder)
        file = folder / "datapackage.json"
        document = json.loads(file.read_text(encoding="ascii"))
        if key is None:
            del document["deerReid"]
        else:
            document["deerReid"][key] = value
        file.write_text(json.dumps(document), encoding="ascii")
        refused(empty, folder, match)
        file.write_text("[" * 100_000)
        refused(empty, folder, "cannot be read as JSON")


def test_an_import_that_fails_late_leaves_nothing(
    with_files: ExportReport, empty: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = restoring.restore_crops

    def fails(*arguments: Any) -> Any:
        undo = whole(*arguments)
        assert list(empty.settings.crops_dir.rglob("*.jpg"))
        undo()
        raise HandoverError("the disk is full")

    monkeypatch.setattr(restoring, "restore_crops", fails)
    refused(empty, with_files.folder, "the disk is full")


def test_an_export_that_fails_leaves_nothing(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "judge", full)
        with pytest.raises(HandoverError, match="cannot be written: No space left on device; nothing was left there"):
            export_package(source.site, tmp_path / "package", Choices())
    assert list(tmp_path.iterdir()) == []
    left = tmp_path / ".package.part"
    (left / "media").mkdir(parents=True)
    (left / "media" / "old.jpg").write_text("of an export that was killed")
    export_package(source.site, tmp_path / "package", Choices())
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
    assert not (tmp_path / "package" / "media").exists()


def test_an_export_never_writes_into_a_folder_that_holds_something(source: Source, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(HandoverError, match="is not empty: give the name of a new folder"):
        export_package(source.site, tmp_path, Choices())
    with pytest.raises(HandoverError, match="is not a folder"):
        export_package(source.site, tmp_path / "mine.txt", Choices())
    (tmp_path / "new").mkdir()
    assert export_package(source.site, tmp_path / "new", Choices()).rows["media"] == made_pictures(source)


def test_tools_that_ask_for_web_addresses_get_them_and_the_import_needs_no_web(
    source: Source, fresh_site: Callable[[], Site], tmp_path: Path
) -> None:
    made = export_package(source.site, tmp_path / "package", Choices(), addresses=True)
    document = json.loads((made.folder / "datapackage.json").read_text(encoding="ascii"))
    assert document["profile"].endswith("/tdwg/camtrap-dp/1.0/camtrap-dp-profile.json")
    assert document["resources"][2]["schema"].endswith("/1.0/observations-table-schema.json")
    other = fresh_site()
    import_package(other, made.folder)
    assert content(other) == content(source.site)


def test_every_table_is_carried_or_left_behind_on_purpose() -> None:
    from deer_reid_pipeline.store.models import Base

    left = {"embeddings", "profiles", "profile_exemplars"}  # made anew by reembed
    left |= {"reports", "monitor_flags", "monitor_samples", "ab_tests", "ab_outcomes"}  # stay with who made them
    assert {carried.table for carried in CARRIED} | left == set(Base.metadata.tables)


def test_processing_the_package_elsewhere_takes_no_placeholder_for_a_fact(
    with_files: ExportReport, fresh_site: Callable[[], Site]
) -> None:
    other = fresh_site()
    key = register_drop(other, with_files.folder, "none").key
    store_images(other, key)
    assert query(other, "SELECT count(*) FROM deployments WHERE latitude IS NOT NULL") == [(0,)]
    assert query(other, "SELECT count(*) FROM images WHERE timestamp < '1990-01-01'") == [(0,)]
    pictures = len(read_table(with_files.folder / "media.csv"))
    assert query(other, "SELECT count(*) FROM drop_media WHERE drop_key = :key", key=key) == [(pictures,)]
