"""Which matcher decides: the live release, the owner's design, the v1 column, and what the settings override."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from deer_reid_pipeline.errors import DatabaseError, SettingsError
from deer_reid_pipeline.reid.matching import V1_POLICY
from deer_reid_pipeline.reid.similarity import unit
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.store.releases import add_first_release
from deer_reid_pipeline_tests.sites import part_of_herd, query, read_table, row_counts, run_all, settings_for


@pytest.fixture
def unnamed(herd: Path, tmp_path: Path) -> Path:
    """Four encounters of the herd without names, sexes and viewpoints."""
    rows = read_table(herd / "observations.csv")
    events = list(dict.fromkeys(row["eventID"] for row in rows))[:4]
    chosen = [
        {**row, "individualID": "", "sex": "", "viewpoint": "", "lifeStage": ""}
        for row in rows
        if row["eventID"] in events
    ]
    return part_of_herd(herd, tmp_path / "unnamed", chosen)


def test_the_log_says_which_matcher_is_live(site: Site) -> None:
    line = site.matcher().describe()
    assert line.startswith("Enhanced Re-ID enabled: recipe lite-")
    assert "release 1" in line


def test_a_threshold_from_the_environment_overrides_visibly(site: Site, unnamed: Path) -> None:
    site.settings = site.settings.model_copy(update={"reid_threshold": -1.0})
    assert "overridden by REID_THRESHOLD=-1" in site.matcher().describe()
    _, summary = run_all(site, unnamed)
    assert (summary.new, summary.uncertain) == (1, 0)
    thresholds = {row[0] for row in query(site, "SELECT threshold FROM match_decisions WHERE method = 'machine'")}
    assert thresholds == {-1.0}


def test_a_run_keeps_the_release_it_started_with(site: Site, unnamed: Path) -> None:
    matcher = site.matcher()
    run_all(site, unnamed)
    with site.database.session() as session:
        session.execute(text("UPDATE releases SET policy = jsonb_set(policy, '{threshold}', '0.99')"))
    assert matcher.policy.threshold != 0.99
    assert site.matcher().policy.threshold == 0.99


def test_another_recipe_than_the_live_one_is_refused(site: Site) -> None:
    site.matcher()
    site.settings = settings_for(site.settings.home, recipe="mobile")
    with pytest.raises(SettingsError, match="DEER_REID_RECIPE=mobile but the live release 1"):
        site.matcher()


def with_random_weights(site: Site, recipe: str) -> Site:
    return Site(settings_for(site.settings.home, recipe=recipe, allow_random_weights=True), site.database)


def test_random_weights_are_never_released(site: Site) -> None:
    trial = with_random_weights(site, "original")
    matcher = trial.matcher()
    assert matcher.recipe.random_weights
    assert matcher.release_id is None
    with site.database.session() as session:
        register_recipe(session, matcher.recipe.id, "original", matcher.recipe.to_json(), True)
    with pytest.raises(DatabaseError, match="never be released"), site.database.session() as session:
        add_first_release(session, matcher.recipe.id, matcher.policy, "by mistake")
    assert query(site, "SELECT count(*) FROM releases")[0][0] == 0


def test_the_owners_design_decides_each_picture_by_one_cut_against_one_vector_a_deer(site: Site, unnamed: Path) -> None:
    trial = with_random_weights(site, "original")
    _, summary = run_all(trial, unnamed)
    assert summary.encounters == summary.detections
    assert summary.uncertain == 0
    rows = query(
        trial,
        "SELECT detection_ids[1], decision, deer_id, score FROM match_decisions ORDER BY id",
    )
    vectors = {
        (key, branch): np.array(json.loads(vector))
        for key, branch, vector in query(trial, "SELECT detection_id, branch, vector::text FROM embeddings")
    }
    known: dict[uuid.UUID, uuid.UUID] = {}
    for detection, decision, deer, score in rows:
        scores = {
            who: 0.6 * float(vectors[detection, "multiscale"] @ vectors[first, "multiscale"])
            + 0.4 * float(vectors[detection, "efficientnet"] @ vectors[first, "efficientnet"])
            for who, first in known.items()
            if not _same_picture(trial, detection, who)
        }
        best = max(scores, key=lambda who: scores[who], default=None)
        if best is not None and scores[best] >= 0.40:
            assert (decision, deer) == ("matched", best)
            assert score == pytest.approx(scores[best], abs=1e-4)
        else:
            assert decision == "new_individual"
            known[deer] = detection


def _same_picture(site: Site, detection: uuid.UUID, deer: uuid.UUID) -> bool:
    return bool(
        query(
            site,
            "SELECT 1 FROM detections a JOIN detections b ON a.image_id = b.image_id AND a.id <> b.id "
            "JOIN match_decisions m ON m.detection_ids[1] = b.id "
            "JOIN match_decisions mine ON mine.detection_ids[1] = a.id "
            "WHERE a.id = :detection AND b.deer_id = :deer AND m.id < mine.id",
            detection=detection,
            deer=deer,
        )
    )


def owners_deer(site: Site, count: int, seed: int = 0) -> np.ndarray:
    """Deer with v1 vectors from before the enhancement, as an existing installation has them."""
    vectors = unit(np.random.default_rng(seed).normal(size=(count, 512)).astype(np.float32))
    with site.database.session() as session:
        session.execute(
            text(
                "INSERT INTO deer (id, name, sex, sighting_count, feature_vector, first_seen, last_seen) "
                "VALUES (:id, :name, 'unknown', 3, :vector, now(), now())"
            ),
            [
                {"id": uuid.uuid4(), "name": f"old-{n:03d}", "vector": str(vector.tolist())}
                for n, vector in enumerate(vectors)
            ],
        )
    return vectors


def test_without_the_enhancement_matching_uses_the_old_column_as_before(site: Site, unnamed: Path) -> None:
    key, _ = run_all(site, unnamed)
    first = query(
        site,
        "SELECT detection_id, vector::text FROM embeddings WHERE branch = 'baseline' ORDER BY detection_id LIMIT 1",
    )[0]
    # The same pictures again, in a database that knows one old deer with exactly this v1 vector.
    with site.database.session() as session:
        for table in ("profile_exemplars", "profiles"):
            session.execute(text(f"DELETE FROM {table}"))
        session.execute(text("UPDATE detections SET deer_id = NULL, encounter_id = NULL, classification_method = NULL"))
        session.execute(text("ALTER TABLE match_decisions DISABLE TRIGGER USER"))
        session.execute(text("DELETE FROM match_decisions"))
        session.execute(text("ALTER TABLE match_decisions ENABLE TRIGGER USER"))
        session.execute(text("DELETE FROM encounters"))
        session.execute(text("DELETE FROM deer"))
    vectors = owners_deer(site, 20)
    with site.database.session() as session:
        session.execute(
            text("UPDATE deer SET feature_vector = (CAST(:v AS vector)) WHERE name = 'old-000'"), {"v": first[1]}
        )
    site.settings = site.settings.model_copy(update={"use_enhanced_reid": False})
    matcher = site.matcher()
    assert matcher.policy == V1_POLICY
    assert matcher.describe().startswith("Enhanced Re-ID disabled (v1)")
    match_drop(site, matcher, key)
    decision, individual, score, name, threshold = query(
        site,
        "SELECT decision, individual, score, matcher, threshold FROM match_decisions WHERE detection_ids[1] = :d",
        d=first[0],
    )[0]
    assert (decision, individual, name, threshold) == ("matched", "old-000", "v1_resnet50", 0.40)
    assert score == pytest.approx(1.0, abs=1e-4)
    baseline = {
        key: np.array(json.loads(vector))
        for key, vector in query(site, "SELECT detection_id, vector::text FROM embeddings WHERE branch = 'baseline'")
    }
    for detection, outcome, best in query(
        site, "SELECT detection_ids[1], decision, score FROM match_decisions WHERE decision = 'new_individual'"
    ):
        assert outcome == "new_individual"
        assert best < 0.40
        assert max(float(baseline[detection] @ vector) for vector in vectors[1:]) < 0.40


def test_an_old_v1_vector_is_never_overwritten(site: Site, unnamed: Path) -> None:
    owners_deer(site, 3)
    before = query(site, "SELECT name, feature_vector::text FROM deer ORDER BY 1")
    rows = read_table(unnamed / "observations.csv")
    part_of_herd(
        unnamed, unnamed, [{**row, "individualID": "old-001"} for row in rows if row["eventID"] == rows[0]["eventID"]]
    )
    run_all(site, unnamed)
    after = query(site, "SELECT name, feature_vector::text FROM deer WHERE name LIKE 'old-%' ORDER BY 1")
    assert after == before
    version, multiscale, recipe = query(
        site,
        "SELECT embedding_version, feature_vector_multiscale IS NOT NULL, vector_recipe_id FROM deer "
        "WHERE name = 'old-001'",
    )[0]
    assert (version, multiscale, recipe) == ("v3_ensemble", True, None)


def test_the_log_of_decisions_cannot_be_changed(site: Site, unnamed: Path) -> None:
    run_all(site, unnamed)
    before = row_counts(site)["match_decisions"]
    for statement in (
        "UPDATE match_decisions SET score = 1",
        "DELETE FROM match_decisions",
        "TRUNCATE match_decisions",
    ):
        with pytest.raises(Exception, match="append-only"), site.database.session() as session:
            session.execute(text(statement))
    assert row_counts(site)["match_decisions"] == before


def test_two_drops_matched_at_once_take_turns(site: Site, herd: Path, tmp_path: Path, database: Database) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from deer_reid_pipeline.steps.crops import store_crops
    from deer_reid_pipeline.steps.detections import store_detections
    from deer_reid_pipeline.steps.drops import register_drop
    from deer_reid_pipeline.steps.embeddings import embed_drop
    from deer_reid_pipeline.steps.images import store_images

    rows = [{**row, "individualID": ""} for row in read_table(herd / "observations.csv")]
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    keys = []
    for number, half in enumerate(halves):
        key = register_drop(site, part_of_herd(herd, tmp_path / f"half{number}", half), "auto").key
        store_images(site, key)
        store_detections(site, key)
        store_crops(site, drop_key=key)
        embed_drop(site, site.matcher().recipe, key)
        keys.append(key)
    matcher = site.matcher()
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda key: match_drop(site, matcher, key), keys))
    names = [name for (name,) in query(site, "SELECT name FROM deer ORDER BY 1")]
    assert len(names) == len(set(names)) == sum(report.outcomes["new_individual"] for report in reports)
