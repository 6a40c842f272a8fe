"""A/B tests on a real database: each encounter has its arm, both outcomes are stored, one of them counts."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from deer_reid_pipeline.errors import DatabaseError, ReleaseError
from deer_reid_pipeline.reid.ab import arm_of
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.steps import ab
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.releases import propose
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.ab import named_by_people
from deer_reid_pipeline.store.profiles import detections_lacking
from deer_reid_pipeline.store.releases import lock_releases
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline_tests.sites import part_of_herd, query, read_table, run_all
from deer_reid_pipeline_tests.steps.monitored import DROP, Herd
from deer_reid_pipeline_tests.steps.test_releases import registered, up_to_embedding

REASON = "thresholds side by side"


def bold_release(site: Site, recipe_id: str) -> int:
    """A candidate of the same recipe that names and opens far more readily than the first release."""
    policy = site.matcher().policy.model_copy(update={"threshold": 0.3, "new_below": 0.3})
    return propose(site, recipe_id, FittedPolicy(policy=policy), "to compare")


def divided_by(site: Site, salt: str) -> str:
    """The salt of the one test, which is drawn at its start, made this one: the same division in every run."""
    with site.database.session() as session:
        session.execute(text("UPDATE ab_tests SET salt = :salt"), {"salt": salt})
    return salt


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
    salt = divided_by(site, "both")  # one in 64 salts would give all seven encounters to one release
    key, _ = run_all(site, rest)
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


def same_vectors(site: Site, recipe: Recipe) -> None:
    """Vectors of the live recipe again under another one that is registered with the same projections."""
    with site.database.session() as session:
        session.execute(
            text(
                "INSERT INTO embeddings (detection_id, recipe_id, branch, vector) "
                "SELECT detection_id, :other, branch, vector FROM embeddings WHERE recipe_id = :live "
                "ON CONFLICT DO NOTHING"
            ),
            {"other": recipe.id, "live": site.matcher().recipe.id},
        )


def twin_release(site: Site) -> tuple[int, Recipe]:
    """A release of another recipe with the live one's vectors, and the live policy with one cut."""
    live = site.matcher()
    recipe = registered(site, live.recipe.model_copy(update={"name": "twin"}))
    assert recipe.id != live.recipe.id
    same_vectors(site, recipe)
    update_profiles(site, recipe)
    policy = live.policy.model_copy(update={"threshold": 0.3, "new_below": 0.3})
    return propose(site, recipe.id, FittedPolicy(policy=policy), "other recipe"), recipe


def test_a_second_recipe_takes_part_and_a_retried_run_stores_each_outcome_once(
    site: Site,
    drops: tuple[Path, Path, list[dict[str, str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, _, unnamed = drops
    run_all(site, first)
    live = site.matcher()
    number, twin = twin_release(site)
    ab.start(site, number, share_b=0.5, share_all=1.0, reason=REASON)
    key = up_to_embedding(site, live, part_of_herd(tmp_path / "rest", tmp_path / "few", unnamed[:8]))
    same_vectors(site, twin)
    decide, seen = ab.SideBySide.decide, []

    def killed(self: ab.SideBySide, *args: Any) -> None:
        seen.append(1)
        if len(seen) == 3:
            raise RuntimeError("killed")
        decide(self, *args)

    monkeypatch.setattr(ab.SideBySide, "decide", killed)
    with pytest.raises(RuntimeError, match="killed"):
        match_drop(site, live, key)
    stored = "SELECT o.encounter_id, o.arm, o.release_id, m.release_id, m.recipe_id FROM ab_outcomes o "
    stored += "JOIN match_decisions m USING (encounter_id) ORDER BY 1"
    assert query(site, "SELECT count(*) FROM ab_outcomes")[0][0] == 0, "half a drop was stored"
    decided = match_drop(site, live, key).decided
    rows = query(site, stored)
    assert match_drop(site, live, key).decided == 0
    assert query(site, stored) == rows
    assert len(rows) == decided == query(site, "SELECT count(*) FROM ab_outcomes")[0][0] > 2
    salt = query(site, "SELECT salt FROM ab_tests")[0].salt
    sides = {"a": (live.release_id, live.recipe.id), "b": (number, twin.id)}
    for encounter, arm, release, decided_by, recipe in rows:
        assert arm == arm_of(encounter, salt, 1.0, 0.5)
        assert (release, recipe) == (decided_by, recipe) == sides[arm]


def test_after_a_rest_release_b_knows_what_was_learnt_without_it(site: Site, drops, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    first, _, unnamed = drops
    run_all(site, first)
    number, twin = twin_release(site)
    assert ab.start(site, number, share_b=0.5, share_all=1.0, reason=REASON).resting is None
    site.settings = site.settings.model_copy(update={"reid_threshold": 0.95})
    assert ab.ab_report(site).as_dict()["resting"] == "settings override the live release"
    who = read_table(first / "observations.csv")[0]["individualID"]
    rows = [{**row, "individualID": who} for row in unnamed[:2]]
    run_all(site, part_of_herd(tmp_path / "rest", tmp_path / "seen", rows))
    known = "SELECT detections FROM profiles p JOIN deer d ON d.id = p.deer_id WHERE name = :n AND recipe_id = :r"
    live = site.matcher()
    assert query(site, known, n=who, r=twin.id) != query(site, known, n=who, r=live.recipe.id)
    site.settings = site.settings.model_copy(update={"reid_threshold": None})
    key = up_to_embedding(site, site.matcher(), part_of_herd(tmp_path / "rest", tmp_path / "then", unnamed[2:3]))
    match_drop(site, site.matcher(), key)
    assert query(site, "SELECT count(*) FROM ab_outcomes")[0][0] == 1
    with site.database.session() as session:
        assert detections_lacking(session, twin.id) == []
    both = [query(site, known, n=who, r=recipe) for recipe in (twin.id, live.recipe.id)]
    assert both[0] == both[1] != []


def test_an_individual_of_the_owner_s_own_was_known_before_the_log_began(site: Site) -> None:
    site.matcher()
    deer = {"before": uuid.uuid4(), "after": uuid.uuid4()}
    Herd(site)
    other = bold_release(site, site.matcher().recipe.id)
    test = ab.start(site, other, share_b=0.5, share_all=1.0, reason=REASON)
    with site.database.session() as session:
        for when, (name, owner) in zip(("- interval '1 year'", "+ interval '1 year'"), deer.items(), strict=True):
            values = {"d": owner, "n": name, "i": uuid.uuid4(), "e": uuid.uuid4(), "x": uuid.uuid4(), "t": test.test}
            for statement in (
                "INSERT INTO images (id, filename, path) VALUES (:i, 'a', :n)",
                "INSERT INTO deer (id, name) VALUES (:d, :n)",
                "INSERT INTO detections (id, image_id, deer_id, bbox, confidence, created_at) "
                f"VALUES (gen_random_uuid(), :i, :d, '{{}}', 1, now() {when})",
                "INSERT INTO encounters (id, drop_key, ordinal, event_key, sex) "
                f"VALUES (:e, '{DROP}', (SELECT count(*) FROM encounters), :n, 'unknown')",
                "INSERT INTO detections (id, image_id, deer_id, bbox, confidence, classification_method, encounter_id) "
                "VALUES (:x, :i, :d, '{}', 1, 'human', :e)",
                "INSERT INTO match_decisions "
                "(encounter_id, drop_key, detection_ids, decision, method, reason, matcher) "
                f"VALUES (:e, '{DROP}', ARRAY[:x]::uuid[], 'uncertain', 'machine', 'r', 'v3_ensemble')",
                "INSERT INTO ab_outcomes (ab_test_id, encounter_id, arm, release_id, outcome_a, outcome_b) "
                "SELECT id, :e, 'a', release_a, '{}', '{}' FROM ab_tests WHERE id = :t",
            ):
                session.execute(text(statement), values)
    with site.database.session() as session:
        said = named_by_people(session, test.test)
    assert {item.deer_id: item.known_before for item in said.values()} == {deer["before"]: True, deer["after"]: False}


def test_a_start_waits_for_a_promotion_and_compares_with_what_is_live_then(site: Site) -> None:
    live = site.matcher()
    bold = bold_release(site, live.recipe.id)
    policy = live.policy.model_copy(update={"threshold": 0.5, "new_below": 0.2})
    promoted = propose(site, live.recipe.id, FittedPolicy(policy=policy), "promoted meanwhile")
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ThreadPoolExecutor(1) as pool:
        with site.database.session() as session:
            lock_releases(session)
            started = pool.submit(ab.start, site, bold, share_b=0.5, share_all=1.0, reason=REASON)
            until = time.monotonic() + 30
            while not query(site, waiting)[0][0] and time.monotonic() < until:
                time.sleep(0.02)
            session.execute(text("UPDATE releases SET live = false WHERE live"))
            session.execute(text("UPDATE releases SET live = true WHERE id = :n"), {"n": promoted})
        found = started.result(timeout=30)
    assert (found.release_a, found.resting) == (promoted, None)
    with site.database.session() as session:
        session.execute(text("UPDATE releases SET live = false WHERE live"))
        session.execute(text("UPDATE releases SET live = true WHERE id = :n"), {"n": live.release_id})
    resting = ab.ab_report(site).test.resting
    assert resting == f"release {promoted} is not live now"
    assert ab.stop(site).resting is None
