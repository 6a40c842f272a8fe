"""Encounters left uncertain: listed beside whom they resemble, filled in by a person, and then no longer listed."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deer_reid_pipeline.commands import monitoring as commands
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.steps import uncertain
from deer_reid_pipeline.steps.reviews import import_reviews
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import load_identities
from deer_reid_pipeline.steps.uncertain import (
    MOST_PICTURES,
    Uncertain,
    uncertain_encounters,
    uncertain_page,
    uncertain_to_fill_in,
)
from deer_reid_pipeline_tests.ingest.packages import write_table
from deer_reid_pipeline_tests.sites import query, read_table
from deer_reid_pipeline_tests.steps.monitored import DROP, Herd

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


@pytest.fixture
def herd(site: Site) -> Herd:
    """Three named animals, and two encounters that resemble them: only the second with a probability."""
    made = Herd(site)
    for name in ("N00", "N01", "<b>N02</b>"):
        made.individual(name)
        made.meets(name, NOON - timedelta(days=3), method="human")
    made.meets(None, NOON, outcome="uncertain", score=0.7, resembles=[("N00", 0.7), ("N01", 0.6)])
    made.meets(
        None, NOON, outcome="uncertain", score=0.6, resembles=[("<b>N02</b>", 0.6), ("N00", 0.5)], probability=0.4
    )
    return made


def likenesses(found: list[Uncertain]) -> list[list[tuple[int, str, float]]]:
    return [[(each.rank, each.individual, each.similarity) for each in item.likenesses] for item in found]


def say(site: Site, folder: Path, verdict: str, *names: str, reviewer: str = "R1", at: str = "2026-03-15") -> None:
    """Say something of the pairs of these individuals, wherever they are listed."""
    rows = [row for row in uncertain_to_fill_in(site, uncertain_encounters(site)) if row["individualID"] in names]
    for row in rows:
        row.update(verdict=verdict, reviewer=reviewer, reviewedAt=f"{at}T00:00:00Z")
    write_table(folder / "filled.csv", rows, list(rows[0]))
    assert import_reviews(site, folder / "filled.csv").imported == len(rows)


def test_the_likeliest_come_first_with_whom_they_resemble(site: Site, herd: Herd) -> None:
    found = uncertain_encounters(site)
    assert likenesses(found) == [
        [(1, "<b>N02</b>", 0.6), (2, "N00", 0.5)],
        [(1, "N00", 0.7), (2, "N01", 0.6)],
    ]
    assert [item.probability for item in found] == [0.4, None]
    of_deer = dict(query(site, "SELECT id, deer_id FROM detections"))
    for item in found:
        for each in item.likenesses:
            assert of_deer[each.left] is None
            assert of_deer[each.right] == herd.deer[each.individual]
            assert each.named
    with pytest.raises(DeerReidError, match="no drop 'other'"):
        uncertain_encounters(site, "other")
    assert uncertain_encounters(site, DROP) == found


def test_whom_a_person_compared_is_not_asked_about_again(site: Site, herd: Herd, tmp_path: Path) -> None:
    say(site, tmp_path, "different", "N00")
    assert likenesses(uncertain_encounters(site)) == [[(1, "<b>N02</b>", 0.6)], [(2, "N01", 0.6)]]
    say(site, tmp_path, "same", "N01")
    assert likenesses(uncertain_encounters(site)) == [[(1, "<b>N02</b>", 0.6)]]
    say(site, tmp_path, "unsure", "<b>N02</b>")
    assert uncertain_encounters(site) == []


def test_the_probability_is_told_of_no_other_individual(site: Site, herd: Herd, tmp_path: Path) -> None:
    say(site, tmp_path, "different", "<b>N02</b>")
    asked = [(item.probability, item.likenesses[0].individual) for item in uncertain_encounters(site)]
    assert asked == [(None, "N00"), (None, "N00")]
    assert uncertain_encounters(site)[0].likenesses[0].similarity == 0.7
    assert "with probability" not in uncertain_page(site, uncertain_encounters(site), "list.csv", 2)


def test_an_answer_that_is_taken_back_opens_the_question_again(site: Site, herd: Herd, tmp_path: Path) -> None:
    before = uncertain_encounters(site)
    wanted = next(item for item in before if item.likenesses[1].individual == "N01")
    say(site, tmp_path, "same", "N01")
    assert len(uncertain_encounters(site)) == 1
    pair = wanted.likenesses[1]
    row = {
        "left": pair.left,
        "right": pair.right,
        "verdict": "different",
        "reviewer": "R2",
        "reviewedAt": "2026-03-16T00:00",
    }
    write_table(tmp_path / "later.csv", [row], list(row))
    assert import_reviews(site, tmp_path / "later.csv").imported == 1
    assert [(1, "N00", 0.7)] in likenesses(uncertain_encounters(site))


def test_encounters_of_one_unknown_animal_stay(site: Site, herd: Herd, tmp_path: Path) -> None:
    before = uncertain_encounters(site)
    left, right = (item.pictures[0] for item in before)
    row = {"left": left, "right": right, "verdict": "same", "reviewer": "R1", "reviewedAt": "2026-03-16T00:00"}
    write_table(tmp_path / "both.csv", [row], list(row))
    assert import_reviews(site, tmp_path / "both.csv").imported == 1
    assert uncertain_encounters(site) == uncertain_encounters(site, DROP) == before
    say(site, tmp_path, "same", "N01")  # and so the other one is N01 too
    assert uncertain_encounters(site) == []


def test_a_picture_that_a_person_named_is_compared_with(site: Site, herd: Herd, tmp_path: Path) -> None:
    herd.individual("N05")
    herd.meets("N05", NOON, outcome="new_individual", viewpoint="left")
    herd.meets(None, NOON, outcome="uncertain", score=0.99, resembles=[("N05", 0.99)], viewpoint="left")
    (opened,) = uncertain_encounters(site)[1].likenesses
    assert not opened.named
    herd.meets("N05", NOON, method="human", viewpoint="front", confidence=0.1)
    (told,) = uncertain_encounters(site)[1].likenesses
    assert told.named
    assert told.right != opened.right
    assert "no person has named" not in uncertain_page(site, uncertain_encounters(site), "list.csv", 3)


def test_the_pictures_to_compare_are_on_the_page(site: Site, herd: Herd) -> None:
    herd.individual("N06")
    herd.meets("N06", NOON, method="human", viewpoint="right")
    pictures = [herd.picture() for _ in range(MOST_PICTURES + 3)]
    herd.meets(None, NOON, outcome="uncertain", score=0.99, resembles=[("N06", 0.99)], pictures=pictures)
    query(
        site,
        "UPDATE detections SET viewpoint = 'right', confidence = 0.1 WHERE image_id = :id RETURNING 1",
        id=pictures[3],
    )
    herd.crops()
    found = uncertain_encounters(site)
    (mine,) = [item for item in found if len(item.pictures) > 1]
    ((key, of),) = query(site, "SELECT id, image_id FROM detections WHERE viewpoint = 'right' AND deer_id IS NULL")
    assert of == pictures[3]
    assert mine.likenesses[0].left == key == mine.pictures[0]
    page = uncertain_page(site, [mine], "list.csv", 9)
    assert page.count("data:image/jpeg;base64,") == MOST_PICTURES + 1
    assert page.count("compared in row 1") == 1
    assert "the table has 1 of 9" in page


def test_the_page_shows_the_first_and_says_how_many_wait(
    site: Site, herd: Herd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertain, "MOST_ENCOUNTERS", 1)
    page = uncertain_page(site, uncertain_encounters(site), "list.csv", 2)
    assert page.count("resembles</p>") == 1
    assert "The first 1 are shown; the table has 2 of 2." in page


def test_individuals_that_are_gone_are_left_out_and_renamed_ones_have_their_new_name(site: Site, herd: Herd) -> None:
    query(site, "UPDATE deer SET name = 'Z' WHERE name = 'N00' RETURNING 1")
    query(site, "UPDATE detections SET deer_id = NULL WHERE deer_id = :id RETURNING 1", id=herd.deer["<b>N02</b>"])
    query(site, "DELETE FROM deer WHERE id = :id RETURNING 1", id=herd.deer["<b>N02</b>"])
    assert sorted(likenesses(uncertain_encounters(site))) == [[(1, "Z", 0.7), (2, "N01", 0.6)], [(2, "Z", 0.5)]]


def test_an_answer_counts_as_the_identity(site: Site, herd: Herd, tmp_path: Path) -> None:
    before = load_identities(site)
    say(site, tmp_path, "same", "N01")
    after = load_identities(site)
    assert len(after.keys) == len(before.keys) + 1
    (added,) = set(after.keys) - set(before.keys)
    assert after.names[int(after.individual[after.keys.index(added)])] == "N01"


def test_pictures_named_since_or_taken_away_are_left_out(site: Site, herd: Herd) -> None:
    first, second = (item.pictures[0] for item in uncertain_encounters(site))
    query(site, "UPDATE detections SET deer_id = :deer WHERE id = :id RETURNING 1", deer=herd.deer["N00"], id=first)
    assert likenesses(uncertain_encounters(site)) == [[(1, "N00", 0.7), (2, "N01", 0.6)]]
    query(site, "UPDATE detections SET superseded = true WHERE id = :id RETURNING 1", id=second)
    assert uncertain_encounters(site) == []


def test_a_machine_s_match_is_not_shown_as_who_somebody_is(site: Site, herd: Herd) -> None:
    herd.individual("N03")
    herd.meets("N03", NOON, outcome="matched")
    herd.meets(None, NOON, outcome="uncertain", resembles=[("N03", 0.7)])
    assert len(uncertain_encounters(site)) == 2
    herd.meets("N03", NOON, outcome="new_individual")
    assert [(1, "N03", 0.7)] in likenesses(uncertain_encounters(site))


def test_the_page_names_the_rows_of_the_table(site: Site, herd: Herd) -> None:
    herd.crops()
    found = uncertain_encounters(site)
    page = uncertain_page(site, found, "list.csv", len(found))
    assert "<b>N02</b>" not in page
    assert "1. &lt;b&gt;N02&lt;/b&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 6
    for row in uncertain_to_fill_in(site, found):
        assert f"similarity {row['similarity']:.3f}, row {row['row']}" in page
    assert "40 %" in page
    assert "Nothing waits." in uncertain_page(site, [], "list.csv", 0)


def test_the_command_writes_both_and_says_so(
    site: Site, herd: Herd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ready_site", lambda console: site)
    herd.crops()
    run = CliRunner()
    done = run.invoke(commands.review_app, ["uncertain", str(tmp_path / "list.csv"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["encounters"] == 2
    rows = read_table(tmp_path / "list.csv")
    assert [row["rank"] for row in rows] == ["1", "2", "1", "2"]
    assert [row["probability"] for row in rows] == ["0.4", "", "", ""]
    assert all(uuid.UUID(row["encounter"]) and Path(row["leftCrop"]).is_file() for row in rows)
    assert (tmp_path / "list.html").read_text().startswith("<!DOCTYPE html>")
    done = run.invoke(commands.review_app, ["uncertain", str(tmp_path / "x"), "--limit", "1", "--json"])
    printed = json.loads(done.output.splitlines()[-1])
    assert (printed["encounters"], printed["waiting"]) == (1, 2)
    assert (tmp_path / "x.html").is_file()
    for name in (".", str(tmp_path)):
        refused = run.invoke(commands.review_app, ["uncertain", name])
        assert isinstance(refused.exception, DeerReidError), name


@pytest.mark.parametrize("command", ["uncertain", "export"])
def test_a_table_with_verdicts_is_not_written_over(
    site: Site, herd: Herd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(commands, "ready_site", lambda console: site)
    table = tmp_path / "list.csv"
    run = CliRunner()
    assert run.invoke(commands.review_app, ["uncertain", str(table)]).exit_code == 0
    assert run.invoke(commands.review_app, ["uncertain", str(table)]).exit_code == 0  # nothing is filled in yet
    rows = read_table(table)
    rows[1]["verdict"] = "same"
    write_table(table, rows, list(rows[0]))
    before = table.read_bytes()
    refused = run.invoke(commands.review_app, [command, str(table)])
    assert isinstance(refused.exception, DeerReidError)
    assert "1 verdicts, which would be lost" in str(refused.exception)
    assert table.read_bytes() == before
