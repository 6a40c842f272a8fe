"""A/B tests on a real database: each encounter has its arm, both outcomes are stored, one of them counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from deer_reid_pipeline.errors import DatabaseError, ReleaseError
from deer_reid_pipeline.reid.ab import arm_of
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.steps import ab
from deer_reid_pipeline.steps.releases import propose
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline_tests.sites import part_of_herd, query, read_table, run_all

REASON = "thresholds side by side"


def bold_release(site: Site, recipe_id: str) -> int:
    """A candidate of the same recipe that names and opens far more readily than the first release."""
    policy = site.matcher().policy.model_copy(update={"threshold": 0.3, "new_below": 0.3})
    return propose(site, recipe_id, FittedPolicy(policy=policy), "to compare")


@pytest.fixture
def drops(herd: Path, tmp_path: Path) -> tuple[Path, Path, list[dict[str, str]]]:
    """A labelled half of the herd, and the other half with the names taken off."""
    rows = read_table(herd / "observations.csv")
    truth = {row["filePath"]: row["individualID"] for row in read_table(herd / "ground_truth.csv")}
    events = sorted({row["eventID"] for row in rows})
    known = set(events[: len(events) // 2])
    first = [{**row, "individualID": truth[row["filePath"]]} for row in rows if row["eventID"] in known]
    rest = [{**row, "individualID": ""} for row in rows if row["eventID"] not in known]
    return part_of_herd(herd, tmp_path / "first", first), part_of_herd(herd, tmp_path / "rest", rest), rest


def test_both_outcomes_are_stored_and_the_arm_s_is_applied(site: Site, drops, tmp_path: Path, herd: Path) -> None:  # type: ignore[no-untyped-def]
    first, rest, unnamed = drops
    run_all(site, first)
    live = site.matcher()
    other = bold_release(site, live.recipe.id)
    test = ab.start(site, other, share_b=0.5, share_all=1.0, reason=REASON)
    key, _ = run_all(site, rest)
    salt = query(site, "SELECT salt FROM ab_tests")[0].salt
    rows = query(
        site,
        "SELECT o.*, m.decision, m.score, m.deer_id, m.release_id AS decided_by, m.method, m.threshold "
        "FROM ab_outcomes o JOIN match_decisions m USING (encounter_id) WHERE m.drop_key = :key",
        key=key,
    )
    encounters = query(site, "SELECT count(*) AS n FROM encounters WHERE drop_key = :key", key=key)[0].n
    assert len(rows) == encounters > 0
    assert {row.arm for row in rows} == {"a", "b"}
    releases = {"a": live.release_id, "b": other}
    for row in rows:
        assert row.arm == arm_of(row.encounter_id, salt, 1.0, 0.5)
        assert row.release_id == row.decided_by == releases[row.arm]
        applied = row.outcome_a if row.arm == "a" else row.outcome_b
        assert applied["decision"] == row.decision
        assert applied["deer_id"] == (None if row.deer_id is None else str(row.deer_id))
        assert applied["score"] == pytest.approx(row.score)
        assert row.threshold == pytest.approx(live.policy.threshold if row.arm == "a" else 0.3)
    # The bold release never leaves anything between its two equal cuts.
    assert all(row.outcome_b["decision"] != "uncertain" or row.outcome_b["score"] < 0.3 for row in rows)
    names = [row.name for row in query(site, "SELECT name FROM deer WHERE identified_by = 'machine'")]
    assert len(names) == len(set(names)), "both arms opened individuals under one name"

    before = ab.ab_report(site)
    assert before.comparison.encounters == encounters
    assert before.comparison.with_truth == 0

    truth = {row["filePath"]: row["individualID"] for row in read_table(herd / "ground_truth.csv")}
    named = [{**row, "individualID": truth[row["filePath"]]} for row in unnamed]
    run_all(site, part_of_herd(herd, tmp_path / "named", named))
    after = ab.ab_report(site, test.test)
    assert after.comparison.with_truth == encounters
    assert after.comparison.right_gain is not None
    stored = query(site, "SELECT kind, release_id, candidate_id, summary FROM reports WHERE id = :id", id=after.report)
    assert (stored[0].kind, stored[0].release_id, stored[0].candidate_id) == ("ab", live.release_id, other)
    assert stored[0].summary["with_truth"] == encounters


def test_a_test_rests_when_its_release_is_not_what_matches(site: Site, drops) -> None:  # type: ignore[no-untyped-def]
    first, rest, _ = drops
    run_all(site, first)
    other = bold_release(site, site.matcher().recipe.id)
    ab.start(site, other, share_b=1.0, share_all=1.0, reason=REASON)
    site.settings = site.settings.model_copy(update={"reid_threshold": 0.8})
    run_all(site, rest)
    assert query(site, "SELECT count(*) AS n FROM ab_outcomes")[0].n == 0


def test_what_cannot_be_started_says_why(site: Site, drops) -> None:  # type: ignore[no-untyped-def]
    run_all(site, drops[0])
    live = site.matcher()
    assert live.release_id is not None
    other = bold_release(site, live.recipe.id)
    with pytest.raises(ReleaseError, match="reason"):
        ab.start(site, other, share_b=0.5, share_all=1.0, reason=" ")
    with pytest.raises(DatabaseError, match="itself"):
        ab.start(site, live.release_id, share_b=0.5, share_all=1.0, reason=REASON)
    with pytest.raises(DatabaseError, match="0 to 1"):
        ab.start(site, other, share_b=1.5, share_all=1.0, reason=REASON)
    with pytest.raises(ReleaseError, match="no A/B test"):
        ab.stop(site)
    with pytest.raises(ReleaseError, match="no A/B test yet"):
        ab.ab_report(site)
    ab.start(site, other, share_b=0.5, share_all=1.0, reason=REASON)
    with pytest.raises(DatabaseError, match="running"):
        ab.start(site, other, share_b=0.5, share_all=1.0, reason=REASON)
    assert not ab.stop(site).running
