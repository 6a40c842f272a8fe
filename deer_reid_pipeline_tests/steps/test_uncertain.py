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
from deer_reid_pipeline.steps.reviews import import_reviews
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import load_identities
from deer_reid_pipeline.steps.uncertain import Uncertain, uncertain_encounters, uncertain_page, uncertain_to_fill_in
from deer_reid_pipeline_tests.ingest.packages import write_table
from deer_reid_pipeline_tests.sites import query, read_table
from deer_reid_pipeline_tests.steps.monitored import DROP, Herd

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


@pytest.fixture
def herd(site: Site) -> Herd:
    """Three named animals, and two encounters that resemble them: the second more surely than the first."""
    made = Herd(site)
    for name in ("N00", "N01", "<b>N02</b>"):
        made.individual(name)
        made.meets(name, NOON - timedelta(days=3), method="human")
    made.meets(None, NOON, outcome="uncertain", score=0.7, resembles=[("N00", 0.7), ("N01", 0.6)])
    made.meets(
        None, NOON, outcome="uncertain", score=0.8, resembles=[("<b>N02</b>", 0.8), ("N00", 0.5)], probability=0.4
    )
    return made


def likenesses(found: list[Uncertain]) -> list[list[tuple[int, str, float]]]:
    return [[(each.rank, each.individual, each.similarity) for each in item.likenesses] for item in found]


def fill_in(site: Site, folder: Path, **verdicts: str) -> None:
    """Say something of the pairs of these individuals, wherever they are listed."""
    rows = [row for row in uncertain_to_fill_in(site, uncertain_encounters(site)) if row["individualID"] in verdicts]
    for row in rows:
        row.update(verdict=verdicts[row["individualID"]], reviewer="R1", reviewedAt="2026-03-15T00:00:00Z")
    write_table(folder / "filled.csv", rows, list(rows[0]))
    assert import_reviews(site, folder / "filled.csv").imported == len(rows)


def test_the_likeliest_come_first_with_whom_they_resemble(site: Site, herd: Herd) -> None:
    found = uncertain_encounters(site)
    assert likenesses(found) == [
        [(1, "<b>N02</b>", 0.8), (2, "N00", 0.5)],
        [(1, "N00", 0.7), (2, "N01", 0.6)],
    ]
    assert uncertain_encounters(site, limit=1) == found[:1]
    of_deer = dict(query(site, "SELECT id, deer_id FROM detections"))
    for item in found:
        for each in item.likenesses:
            assert of_deer[each.left] is None
            assert of_deer[each.right] == herd.deer[each.individual]
    with pytest.raises(DeerReidError, match="no drop 'other'"):
        uncertain_encounters(site, "other")
    assert uncertain_encounters(site, DROP) == found


def test_what_a_person_answered_is_not_asked_again(site: Site, herd: Herd, tmp_path: Path) -> None:
    fill_in(site, tmp_path, N00="different")
    assert likenesses(uncertain_encounters(site)) == [[(1, "<b>N02</b>", 0.8)], [(2, "N01", 0.6)]]
    fill_in(site, tmp_path, N01="same")
    assert likenesses(uncertain_encounters(site)) == [[(1, "<b>N02</b>", 0.8)]]
    fill_in(site, tmp_path, **{"<b>N02</b>": "unsure"})
    assert uncertain_encounters(site) == []


def test_an_answer_counts_as_the_identity(site: Site, herd: Herd, tmp_path: Path) -> None:
    before = load_identities(site)
    fill_in(site, tmp_path, N01="same")
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


def test_the_page_names_the_lines_of_the_table(site: Site, herd: Herd) -> None:
    herd.crops()
    found = uncertain_encounters(site)
    page = uncertain_page(site, found, "list.csv")
    assert "<b>N02</b>" not in page
    assert "1. &lt;b&gt;N02&lt;/b&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 6
    for line, row in enumerate(uncertain_to_fill_in(site, found), 2):
        assert f"similarity {row['similarity']:.3f}, line {line}" in page
    assert "40 %" in page
    assert "Nothing waits." in uncertain_page(site, [], "list.csv")


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
    refused = run.invoke(commands.review_app, ["uncertain", str(tmp_path / "list.html")])
    assert isinstance(refused.exception, DeerReidError)
    assert "list.csv" in str(refused.exception)
