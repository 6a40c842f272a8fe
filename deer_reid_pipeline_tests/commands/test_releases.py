"""`deer-reid release`: what is printed, what the JSON holds, and that refusals are errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deer_reid_pipeline.commands import releases as commands
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.steps import releases
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.reports import add_report
from deer_reid_pipeline_tests.sites import query


@pytest.fixture
def opened(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A home with its first release and a candidate, opened by every command."""
    recipe = site.matcher().recipe
    policy = MatchPolicy(threshold=0.75, new_below=0.3)
    assert releases.propose(site, recipe.id, FittedPolicy(policy=policy), "tuned", name="autumn") == 2
    monkeypatch.setattr(commands, "ready_site", lambda console: site)
    return site


def call(*arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON object, which must be all of standard output, and what people see."""
    result = CliRunner().invoke(commands.app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    return json.loads(line), result.stderr


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(commands.app, list(arguments))
    assert result.exit_code != 0
    assert isinstance(result.exception, DeerReidError)
    return str(result.exception)


def test_status_names_what_is_live_what_waits_and_the_history(opened: Site) -> None:
    found, said = call("status")
    assert (found["live"]["release"], found["live"]["recipe"]) == (1, opened.matcher().recipe.id)
    assert found["previous"] is None
    assert [(item["release"], item["name"], item["matched_from"]) for item in found["candidates"]] == [
        (2, "autumn", 0.75)
    ]
    assert [event["action"] for event in found["history"]] == ["proposed", "first"]
    assert "candidate: release 2 'autumn'" in said
    assert "identities never judged" in said
    assert "not judged yet" in said
    assert "None" not in said


def test_a_candidate_is_promoted_with_a_backup_and_taken_back(opened: Site) -> None:
    assert "no validation report is about release 2" in refused("promote")
    assert not (opened.settings.home / "backups").exists(), "a backup was made of a promotion that was refused"
    with opened.database.session() as session:
        add_report(session, "validation", {}, candidate_id=2, release_id=1, verdict="PASS")
    done, said = call("promote")
    assert (done["action"], done["release"], done["previous"], done["forced"]) == ("promoted", 2, 1, False)
    assert done["seconds"] < 1
    assert Path(done["backup"]).read_bytes().startswith(b"PGDMP")
    assert Path(done["backup"]).parent == opened.settings.home / "backups"
    assert "Release 2" in said
    assert "say which release: 0 candidates wait" in refused("promote")
    back, _ = call("rollback", "--reason", "worse at night")
    assert (back["action"], back["release"], back["previous"], back["backup"]) == ("rolled_back", 1, 2, None)
    assert query(opened, "SELECT reason FROM release_events WHERE action = 'rolled_back'") == [("worse at night",)]
    found, _ = call("status")
    assert (found["live"]["release"], found["previous"]) == (1, None)


def test_force_needs_a_reason_and_is_said(opened: Site) -> None:
    assert "needs a reason" in refused("promote", "2", "--force", "--no-backup")
    done, said = call("promote", "2", "--force", "--reason", "the owner asked", "--no-backup")
    assert (done["forced"], done["backup"]) == (True, None)
    assert "forced against the gate" in said
    _, shown = call("status")
    assert "FORCED" in shown
