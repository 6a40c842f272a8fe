"""Reviews by hand, and camera positions: good rows are stored, bad ones named, and a file fits its own export."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deer_reid_pipeline.commands import monitoring as commands
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.exports import write_reviews
from deer_reid_pipeline.steps.cameras import import_cameras
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.monitoring import report_day, today
from deer_reid_pipeline.steps.reviews import EXPORT_COLUMNS, import_reviews, reviews_to_fill_in
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline_tests.ingest.drops import picture
from deer_reid_pipeline_tests.ingest.packages import write_package, write_table
from deer_reid_pipeline_tests.sites import query, read_table
from deer_reid_pipeline_tests.steps.monitored import DROP, Herd

COLUMNS = ["left", "right", "verdict", "reviewer", "reviewedAt"]
TODAY_NOON = datetime.combine(today(), time(), UTC)


@pytest.fixture
def herd(site: Site) -> Herd:
    """Two individuals, one picture each, and a match of each today."""
    made = Herd(site)
    for name in ("N00", "N01"):
        made.individual(name)
        made.meets(name, TODAY_NOON - timedelta(days=3), method="human", decided=today() - timedelta(days=3))
        made.meets(name, TODAY_NOON - timedelta(hours=9), decided=today() - timedelta(days=1))
    return made


def files(site: Site) -> list[tuple[str, str]]:
    """Path and detection of each picture, in the order in which they were made."""
    return [
        (path, str(key))
        for path, key in query(
            site,
            "SELECT m.file_path, d.id FROM drop_media m JOIN detections d USING (image_id) ORDER BY m.ordinal",
        )
    ]


def write(path: Path, *rows: tuple[str, ...], columns: list[str] = COLUMNS, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([columns, *rows])
    return path


def test_pictures_are_named_by_detection_or_by_file(site: Site, herd: Herd, tmp_path: Path) -> None:
    (a_file, a), (_, b), (c_file, c), (_, d) = files(site)
    table = write(
        tmp_path / "r.csv",
        (a, b, "same", "R1", "2026-01-05T10:00:00+01:00"),
        (f"./{a_file}", c_file.replace("/", "\\"), "Different", "R1", "2026-01-05T10:00:00"),
        (f"{DROP}:{a_file}", d, "unsure", "R2", "2026-01-05 10:00"),
    )
    result = import_reviews(site, table)
    assert (result.imported, result.known, result.blank, result.refused) == (3, 0, 0, ())
    stored = query(
        site, "SELECT detection_a, detection_b, verdict, reviewer, reviewed_at, source FROM reviews ORDER BY id"
    )
    assert [tuple(sorted((str(x), str(y)))) for x, y, *_ in stored] == [
        tuple(sorted(pair)) for pair in ((a, b), (a, c), (a, d))
    ]
    assert [(v, who) for _, _, v, who, *_ in stored] == [("same", "R1"), ("different", "R1"), ("unsure", "R2")]
    assert [when for *_, when, _ in stored] == [datetime(2026, 1, 5, hour, tzinfo=UTC) for hour in (9, 10, 10)]
    assert {source for *_, source in stored} == {"r.csv"}
    again = import_reviews(site, table)
    assert (again.imported, again.known) == (0, 3)
    assert query(site, "SELECT count(*) FROM reviews") == [(3,)]


def test_semicolons_other_columns_and_orders_are_understood(site: Site, herd: Herd, tmp_path: Path) -> None:
    (_, a), (_, b), *_ = files(site)
    table = write(
        tmp_path / "r.csv",
        ("R1", "2026-01-05T10:00", a, "same", "note", b),
        columns=["REVIEWER", "reviewedat", "Left", "verdict", "note", "right"],
        delimiter=";",
    )
    assert import_reviews(site, table).imported == 1


def test_every_bad_row_is_named_and_the_good_ones_are_stored(site: Site, herd: Herd, tmp_path: Path) -> None:
    (a_file, a), (_, b), *_ = files(site)
    both = herd.picture()
    herd.meets("N00", TODAY_NOON, pictures=[both])
    herd.meets("N01", TODAY_NOON, pictures=[both], box=(0.7, 0.3, 0.2, 0.3))
    two_file = query(site, "SELECT file_path FROM drop_media WHERE image_id = :id", id=both)[0][0]
    when = "2026-01-05T10:00"
    bad = {
        "none of same": (a, b, "maybe", "R1", when),
        "no reviewer": (a, b, "same", "", when),
        "no reviewedAt": (a, b, "same", "R1", ""),
        "not ISO 8601": (a, b, "same", "R1", "yesterday"),
        "in the future": (a, b, "same", "R1", "2199-01-01T00:00"),
        "right: it is empty": (a, "", "same", "R1", when),
        "no standing detection": (a, "00000000-0000-0000-0000-000000000000", "same", "R1", when),
        "no detection in a picture 'images/none.jpg'": ("images/none.jpg", b, "same", "R1", when),
        "2 detections in the picture": (two_file, b, "same", "R1", when),
        "one detection": (a, a_file, "same", "R1", when),
        "more fields": (a, b, "same", "R1", when, "surplus"),
        "control characters": (a, b, "same", "R\x07", when),
    }
    table = write(tmp_path / "r.csv", (a, b, "same", "R1", when), *bad.values(), (a, b, "", "", ""))
    result = import_reviews(site, table)
    assert (result.imported, result.blank) == (1, 1)
    assert [line for line, _ in result.refused] == list(range(3, 3 + len(bad)))
    for (line, reason), expected in zip(result.refused, bad, strict=True):
        assert expected in reason, (line, reason)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([("x", "y", "same", "R1", "2026-01-05T10:00")], COLUMNS, r"no usable review \(line 2: left: no detection"),
        ([("x", "y", "", "", "")], COLUMNS, "fill in verdict"),
        ([("x", "y")], ["left", "right"], "no column verdict or reviewer or reviewedAt"),
    ],
)
def test_a_file_without_anything_usable_is_an_error(
    site: Site, tmp_path: Path, rows: list[tuple[str, ...]], columns: list[str], message: str
) -> None:
    with pytest.raises(DeerReidError, match=message):
        import_reviews(site, write(tmp_path / "r.csv", *rows, columns=columns))
    with pytest.raises(DeerReidError, match="is not a file"):
        import_reviews(site, tmp_path / "absent.csv")


def test_a_path_of_several_drops_needs_its_drop(site: Site, herd: Herd, tmp_path: Path) -> None:
    (a_file, a), (_, b), (_, c), _ = files(site)
    query(
        site,
        "INSERT INTO drops (key, name, root, digest, layout, detector) "
        "VALUES ('herd-2', 'herd', '/', '1', 'images', 'none') RETURNING 1",
    )
    query(
        site,
        "INSERT INTO drop_media (drop_key, file_path, sha256, ordinal, image_id) "
        "SELECT 'herd-2', :file, sha256, 0, image_id FROM drop_media m JOIN detections USING (image_id) "
        "WHERE detections.id = :other RETURNING 1",
        file=a_file,
        other=c,
    )
    when = "2026-01-05T10:00"
    table = write(
        tmp_path / "r.csv",
        (a_file, b, "same", "R1", when),
        (f"herd-2:{a_file}", b, "different", "R1", when),
        (f"{DROP}:{a_file}", b, "same", "R1", when),
    )
    result = import_reviews(site, table)
    assert [line for line, _ in result.refused] == [2]
    assert "several drops" in result.refused[0][1]
    pairs = {frozenset((str(x), str(y))) for x, y in query(site, "SELECT detection_a, detection_b FROM reviews")}
    assert pairs == {frozenset((b, c)), frozenset((a, b))}


def test_the_export_is_filled_in_and_read_back(site: Site, herd: Herd, tmp_path: Path) -> None:
    day = today() - timedelta(days=1)
    assert reviews_to_fill_in(site) == []  # nobody looked at the day yet
    report_day(site, day)
    herd.crops()
    table = tmp_path / "pairs.csv"
    write_reviews(table, EXPORT_COLUMNS, reviews_to_fill_in(site))
    rows = read_table(table)
    assert len(rows) == 2
    assert {row["individualID"] for row in rows} == {"N00", "N01"}
    assert all(Path(row[f"{side}Crop"]).is_file() for row in rows for side in ("left", "right"))
    assert all(row["verdict"] == row["reviewer"] == row["reviewedAt"] == "" for row in rows)
    for row, verdict in zip(rows, ("same", "different"), strict=True):
        row.update(verdict=verdict, reviewer="R1", reviewedAt=f"{today()}T00:00:00Z")
    write_table(table, rows, list(rows[0]))
    assert import_reviews(site, table).imported == 2
    assert reviews_to_fill_in(site) == []
    rate = report_day(site, day).rate
    assert (rate.reviewed, rate.wrong, rate.value) == (2, 1, 0.5)


def test_commands_print_and_fail_as_promised(
    site: Site, herd: Herd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ready_site", lambda console: site)
    run = CliRunner()
    (_, a), (_, b), *_ = files(site)
    table = write(tmp_path / "r.csv", (a, b, "same", "R1", "2026-01-05T10:00"), (a, b, "?", "R1", "2026-01-05T10:00"))
    done = run.invoke(commands.review_app, ["import", str(table)])
    assert done.exit_code == 0
    assert "line 3: verdict '?' is none of" in done.output
    assert "1 reviews imported" in done.output
    empty = run.invoke(commands.review_app, ["import", str(write(tmp_path / "e.csv"))])
    assert isinstance(empty.exception, DeerReidError)
    report_day(site, today() - timedelta(days=1))
    assert run.invoke(commands.review_app, ["export", str(tmp_path / "x.csv")]).exit_code == 0
    assert len(read_table(tmp_path / "x.csv")) == 1  # the other one was just reviewed
    assert "1 pairs wait" in run.invoke(commands.review_app, ["list"]).output


def test_camera_positions_are_stored_and_never_repeated(site: Site, tmp_path: Path) -> None:
    table = write(
        tmp_path / "c.csv",
        ("CAM01", "51.5678", "-0.1234", "Oak"),
        ("CAM02", "95.4321", "8.7654", ""),
        ("CAM03", "51.5678", "", ""),
        ("", "51.5678", "8.7654", ""),
        ("CAM04", "north", "8.7654", ""),
        ("CAM01", "52.5678", "8.7654", ""),
        ("C" * 201, "51.5678", "8.7654", ""),
        ("CAM\0", "51.5678", "8.7654", ""),
        ("CAM05", "51.5678", "8.7654", "O\0ak"),
        columns=["deploymentID", "latitude", "longitude", "locationName"],
    )
    result = import_cameras(site, table)
    assert result.cameras == 1
    assert [line for line, _ in result.refused] == [3, 4, 5, 6, 7, 8, 9, 10]
    assert not any(number in reason for _, reason in result.refused for number in ("5678", "1234", "4321", "7654"))
    stored = query(site, "SELECT id, name, latitude, longitude FROM deployments")
    assert stored == [("CAM01", "Oak", 51.5678, -0.1234)]
    import_cameras(
        site, write(tmp_path / "d.csv", ("CAM01", "1", "2"), columns=["deploymentID", "latitude", "longitude"])
    )
    assert query(site, "SELECT name, latitude, longitude FROM deployments") == [("Oak", 1.0, 2.0)]
    with pytest.raises(DeerReidError, match="no row with a camera"):
        import_cameras(site, write(tmp_path / "e.csv", columns=["deploymentID", "latitude", "longitude"]))


def test_positions_of_a_camtrap_dp_package_are_stored_at_ingest(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    picture(folder, "images/1.jpg")
    write_package(
        folder, [{"mediaID": "1", "filePath": "images/1.jpg"}], [{"mediaID": "1", "observationType": "blank"}]
    )
    rows = [
        {"deploymentID": "d1", "latitude": 50.1234, "longitude": 8.4321, "locationName": "Oak"},
        {"deploymentID": "d2", "latitude": "", "longitude": "", "locationName": "Elm"},
        {"deploymentID": "d3", "latitude": 150.9876, "longitude": 8, "locationName": ""},
    ]
    write_table(folder / "deployments.csv", rows, list(rows[0]))
    key = register_drop(site, folder, "none").key
    stored = query(site, "SELECT id, name, latitude, longitude, drop_key FROM deployments")
    assert stored == [("d1", "Oak", 50.1234, 8.4321, key)]
    warnings = query(site, "SELECT warnings FROM drops")[0][0]
    assert any("deployment whose latitude" in line and "d3" in line for line in warnings)
    assert "150.9876" not in str(warnings)
    assert "50.1234" not in str(warnings)
