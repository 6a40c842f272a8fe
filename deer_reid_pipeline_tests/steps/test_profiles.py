"""Profiles follow what was decided, whatever happened between deciding and profiling."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.progress import listening
from deer_reid_pipeline.steps import embeddings
from deer_reid_pipeline.steps.checks import check_profiles
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.embeddings import embed_drop
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.profiles import embed_unknown, update_profiles
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import finish_drop, is_finished
from deer_reid_pipeline.store.profiles import outdate_profiles
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline_tests.sites import query, read_table, run_all, write_table


def up_to_matching(site: Site, folder: Path) -> str:
    """Everything of a drop but the profiles: what a kill right after deciding leaves."""
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    matcher = site.matcher()
    embed_drop(site, matcher.recipe, key, branches=site.needed_branches(matcher.recipe.id))
    match_drop(site, matcher, key)
    finish_drop(site, key)
    return key


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many crops each stream was begun with; nothing is measured for them."""
    begun: list[int] = []
    monkeypatch.setattr(embeddings, "settle", lambda _embedder, _folder, _options, crops, _say: begun.append(crops))
    return begun


def test_a_drop_sees_what_was_decided_before_it_though_nobody_made_profiles(
    site: Site, named: Path, unnamed: Path
) -> None:
    up_to_matching(site, named)
    assert query(site, "SELECT count(*) FROM profiles")[0][0] == 0
    up_to_matching(site, unnamed)
    known = {name for (name,) in query(site, "SELECT name FROM deer WHERE identified_by = 'human'")}
    listed = query(site, "SELECT candidates FROM match_decisions WHERE method = 'machine'")
    assert listed
    assert all(candidates for (candidates,) in listed)
    assert {item["individual"] for (candidates,) in listed for item in candidates} & known


def test_a_drop_is_finished_only_when_the_profiles_show_what_was_decided(site: Site, named: Path) -> None:
    rows = read_table(named / "observations.csv")
    key, _ = run_all(site, named)
    assert is_finished(site, key)
    names = sorted({row["individualID"] for row in rows})
    swapped = {names[0]: names[1], names[1]: names[0]}
    write_table(named, [{**row, "individualID": swapped.get(row["individualID"], row["individualID"])} for row in rows])
    again = up_to_matching(site, named)
    assert not is_finished(site, again)
    update_profiles(site, site.matcher().recipe)
    assert is_finished(site, again)
    wrong = query(
        site,
        "SELECT count(*) FROM profile_exemplars e JOIN detections d ON d.id = e.detection_id "
        "WHERE d.deer_id <> e.deer_id",
    )[0][0]
    assert wrong == 0


def test_an_individual_without_its_vectors_fails_the_check_and_is_mended(site: Site, named: Path) -> None:
    run_all(site, named)
    name = query(site, "SELECT name FROM deer ORDER BY name LIMIT 1")[0][0]
    with site.database.session() as session:
        session.execute(text("UPDATE deer SET feature_vector_efficientnet = NULL WHERE name = :n"), {"n": name})
    assert check_profiles(site).without_vectors == [name]
    update_profiles(site, site.matcher().recipe)
    assert check_profiles(site).without_vectors == []
    with site.database.session() as session:
        session.execute(text("DELETE FROM profile_exemplars"))
        session.execute(text("DELETE FROM profiles"))
        session.execute(text("UPDATE deer SET feature_vector = NULL"))
    assert name in check_profiles(site).without_vectors


def test_a_machines_match_does_not_become_an_example_of_whom_it_matched(site: Site, named: Path, unnamed: Path) -> None:
    run_all(site, named)
    before = query(site, "SELECT deer_id, detection_id FROM profile_exemplars ORDER BY 1, 2")
    site.settings = site.settings.model_copy(update={"reid_threshold": -1.0})  # everything that may match does
    run_all(site, unnamed)
    matched = query(site, "SELECT count(*) FROM match_decisions WHERE method = 'machine' AND decision = 'matched'")
    assert matched[0][0] > 0
    assert query(site, "SELECT deer_id, detection_id FROM profile_exemplars ORDER BY 1, 2") == before
    sightings = query(site, "SELECT sum(sighting_count) FROM deer")[0][0]
    assert sightings == query(site, "SELECT count(*) FROM detections WHERE deer_id IS NOT NULL")[0][0]


def test_a_lost_projection_is_made_again_with_the_same_id(site: Site) -> None:
    recipe = site.matcher().recipe
    for path in site.settings.models_dir.glob("*.safetensors"):
        path.unlink()
    assert site.matcher().recipe.id == recipe.id
    site.embedder(recipe)


def test_whatever_lacks_vectors_is_embedded_in_one_stream(site: Site, herd: Path, streams: list[int]) -> None:
    run_all(site, herd)
    recipe = site.matcher().recipe
    total, assigned = query(site, "SELECT count(*), count(deer_id) FROM detections WHERE NOT superseded")[0]
    individuals = query(site, "SELECT count(DISTINCT deer_id) FROM detections WHERE NOT superseded")[0][0]
    assert 1 < individuals < assigned < total
    streams.clear()
    told: list[tuple[str, int, int]] = []
    with listening(lambda *of: told.append(of)):
        report = update_profiles(site, recipe, again=True, backlog=True)
    assert streams == [total]
    assert (report.embedded, report.made) == (total, individuals)
    assert ("re-embedding", total, total) in told
    assert told[-1] == ("profiles", individuals, individuals)
    assert update_profiles(site, recipe, again=True).embedded == assigned
    lost = "DELETE FROM embeddings WHERE detection_id IN (SELECT min(id::text)::uuid FROM detections GROUP BY deer_id)"
    query(site, f"{lost} RETURNING 1")
    assert update_profiles(site, recipe, backlog=True).embedded == individuals + 1, "one of each, one of nobody"
    assert streams == [total, assigned, individuals + 1]
    assert update_profiles(site, recipe, backlog=True).embedded == 0
    assert len(streams) == 3


def test_whom_another_release_opened_is_embedded_in_one_stream(site: Site, named: Path, streams: list[int]) -> None:
    run_all(site, named)
    other = site.matcher().recipe.model_copy(update={"name": "other"})
    with site.database.session() as session:
        register_recipe(session, other.id, other.name, other.to_json(), False)
    streams.clear()
    deer = [key for (key,) in query(site, "SELECT id FROM deer ORDER BY id")]
    assert embed_unknown(site, other) == deer
    assert streams == [query(site, "SELECT count(*) FROM detections")[0][0]]
    assert embed_unknown(site, other) == []
    assert len(streams) == 1


def test_after_a_restart_that_died_profiles_follow_the_vectors_though_no_detection_changed(
    site: Site, named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(site, named)
    recipe = site.matcher().recipe
    before = query(site, "SELECT deer_id, branch, vector::text, updated_at FROM profiles ORDER BY 1, 2")
    site.settings.batch_size = 4
    embedder, calls = site.embedder(recipe), 0
    whole = embedder.embed_prepared

    def failing(crops: list[object]) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise DeerReidError("the second batch fails")
        return whole(crops)  # type: ignore[arg-type]

    monkeypatch.setattr(embedder, "embed_prepared", failing)
    with pytest.raises(DeerReidError, match="second batch"):
        update_profiles(site, recipe, again=True)
    monkeypatch.setattr(embedder, "embed_prepared", whole)
    during = query(site, "SELECT deer_id, branch, vector::text, updated_at FROM profiles ORDER BY 1, 2")
    assert during == before, "the profiles were gone meanwhile"
    report = update_profiles(site, recipe)
    assert (report.made, report.unchanged, report.embedded) == (len(before) // 3, 0, 0)
    assert update_profiles(site, recipe).made == 0


def test_a_restart_waits_for_nobody_who_makes_a_profile(site: Site, named: Path) -> None:
    run_all(site, named)
    recipe = site.matcher().recipe.id
    with site.database.session() as busy:
        busy.execute(
            text("SELECT 1 FROM profiles WHERE deer_id = (SELECT min(deer_id::text)::uuid FROM profiles) FOR UPDATE")
        )
        with site.database.session() as session:
            session.execute(text("SET LOCAL lock_timeout = '5s'"))
            outdate_profiles(session, recipe)
    current = query(
        site, "SELECT count(DISTINCT deer_id) FILTER (WHERE digest <> ''), count(DISTINCT deer_id) FROM profiles"
    )
    assert current[0][0] == 1 < current[0][1]
