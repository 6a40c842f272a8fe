"""What may become live, what a promotion and a rollback change, and that neither ever does half of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from deer_reid_pipeline.errors import DatabaseError, ReleaseError
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import BRANCHES, unit
from deer_reid_pipeline.steps import matches, releases
from deer_reid_pipeline.steps.checks import check_profiles
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.embeddings import embed_drop
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.profiles import show_live_columns, update_profiles
from deer_reid_pipeline.steps.site import Matcher, Site, os_user
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.store.releases import add_first_release
from deer_reid_pipeline.store.reports import add_report
from deer_reid_pipeline.store.vectors import put_embeddings
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.sites import part_of_herd, query, read_table, run_all, settings_for

SHOWN_BRANCHES = ("baseline", "multiscale", "efficientnet")
POLICY = MatchPolicy(threshold=0.8, new_below=0.3)


def store_vectors(site: Site, recipe: Recipe, seed: int) -> None:
    """Vectors of every detection under a recipe, drawn instead of embedded."""
    with site.database.session() as session:
        ids = [key for (key,) in session.execute(text("SELECT id FROM detections ORDER BY id"))]
        draw = np.random.default_rng(seed)
        vectors = {branch: unit(draw.normal(size=(len(ids), 512)).astype(np.float32)) for branch in BRANCHES}
        put_embeddings(session, recipe.id, ids, vectors)


@pytest.fixture
def known(site: Site) -> Site:
    """A home that knows six individuals, by two pictures each, under its first release."""
    recipe = site.matcher().recipe
    with site.database.session() as session:
        for statement in (
            "INSERT INTO images (id, filename, path) VALUES ('00000000-0000-0000-0000-000000000001', 'a', 'a')",
            "INSERT INTO deer (id, name, identified_by) SELECT gen_random_uuid(), 'named-' || n, 'human' "
            "FROM generate_series(1, 6) n",
            "INSERT INTO detections (id, image_id, deer_id, bbox, confidence, classification_method) "
            "SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000001', id, '{}', 1, 'human' "
            "FROM deer, generate_series(1, 2)",
            "INSERT INTO detection_crops (detection_id, spec_id, file, sha256, width, height) "
            "SELECT id, 'c', 'f', 's', 1, 1 FROM detections",
        ):
            session.execute(text(statement))
    store_vectors(site, recipe, 0)
    update_profiles(site, recipe)
    return site


def squashed(recipe: Recipe) -> Recipe:
    """The recipe with pictures squashed instead of letterboxed: other vectors from the same weights."""
    backbones = {
        key: backbone.model_copy(update={"preprocess": backbone.preprocess.model_copy(update={"mode": "squash"})})
        for key, backbone in recipe.backbones.items()
    }
    return recipe.model_copy(update={"name": "squashed", "backbones": backbones})


def another_recipe(site: Site) -> Recipe:
    """A recipe beside the live one, with profiles of everybody."""
    recipe = registered(site, squashed(site.matcher().recipe))
    store_vectors(site, recipe, 1)
    update_profiles(site, recipe)
    return recipe


def registered(site: Site, recipe: Recipe) -> Recipe:
    with site.database.session() as session:
        register_recipe(session, recipe.id, recipe.name, recipe.to_json(), False)
    return recipe


def validated(site: Site, release: int, verdict: str = "PASS", against: int | None = 1) -> int:
    with site.database.session() as session:
        return add_report(
            session, "validation", {}, candidate_id=release, release_id=against, verdict=verdict, recipe_id=None
        ).id


def candidate(site: Site, recipe: Recipe, threshold: float = 0.8) -> int:
    policy = POLICY.model_copy(update={"threshold": threshold})
    return releases.propose(site, recipe.id, FittedPolicy(policy=policy), "tried in a test")


def columns(site: Site) -> list[Any]:
    """What an application of the owner's reads."""
    return query(
        site,
        "SELECT id, feature_vector::text, feature_vector_multiscale::text, feature_vector_efficientnet::text, "
        "embedding_version FROM deer ORDER BY id",
    )


def columns_that_differ(site: Site, recipe_id: str) -> int:
    """Individuals whose columns are not exactly their profiles under a recipe."""
    rows = query(site, "SELECT deer_id, branch, vector::text FROM profiles WHERE recipe_id = :r", r=recipe_id)
    wanted = {(deer, branch): vector for deer, branch, vector in rows}
    return sum(
        (v1, multiscale, efficientnet) != tuple(wanted.get((deer, branch)) for branch in SHOWN_BRANCHES)
        for deer, v1, multiscale, efficientnet, _ in columns(site)
    )


def live(site: Site) -> int:
    ((number,),) = query(site, "SELECT id FROM releases WHERE live")
    return int(number)


def test_a_new_home_has_its_first_release_in_the_log(site: Site) -> None:
    assert releases.status(site).live is None
    matcher = site.matcher()
    found = releases.status(site)
    assert found.live is not None
    assert (found.live.release, found.live.recipe) == (1, matcher.recipe.id)
    assert found.previous is None
    assert found.candidates == ()
    ((action, release, previous, forced, actor),) = [
        (event.action, event.release, event.previous, event.forced, event.actor) for event in found.history
    ]
    assert (action, release, previous, forced, actor) == ("first", 1, None, False, os_user())


def test_a_candidate_waits_and_changes_nothing(known: Site) -> None:
    before = columns(known)
    number = candidate(known, known.matcher().recipe)
    assert candidate(known, known.matcher().recipe) == number, "an equal one was added again"
    assert candidate(known, known.matcher().recipe, threshold=0.7) == number + 1
    found = releases.status(known)
    assert [info.release for info in found.candidates] == [number + 1, number]
    assert found.candidates[1].made_from == 1
    assert known.matcher().release_id == 1
    assert columns(known) == before
    assert [event.action for event in found.history] == ["proposed", "proposed", "first"]


def test_a_release_that_passed_becomes_live_with_its_policies_and_its_columns(known: Site) -> None:
    recipe = another_recipe(known)
    assert columns_that_differ(known, known.matcher().recipe.id) == 0, "a recipe that is not live was shown"
    folds = tuple(POLICY.model_copy(update={"threshold": 0.8 + fold / 100}) for fold in range(3))
    fitted = FittedPolicy(policy=POLICY, without=folds, salt="s")
    number = releases.propose(known, recipe.id, fitted, "better", name="squash", report_id=validated(known, 0, "FAIL"))
    report = validated(known, number)
    done = releases.promote(known, number, backup=False, run_id="run-7")
    assert (done.release, done.previous, done.report, done.verdict, done.forced) == (number, 1, report, "PASS", False)
    assert (done.columns_complete, done.individuals_lacking) == (True, 0)
    matcher = known.matcher_of(number)
    assert (matcher.recipe.id, matcher.policy) == (recipe.id, POLICY)
    assert columns_that_differ(known, recipe.id) == 0
    assert check_profiles(known).wrong_version == []
    status = releases.status(known)
    assert status.live is not None
    assert status.previous is not None
    assert (status.live.release, status.live.name, status.previous.release) == (number, "squash", 1)
    newest = status.history[0]
    assert (newest.action, newest.report, newest.run_id, newest.previous) == ("promoted", report, "run-7", 1)
    ((stored,),) = query(known, "SELECT fitted FROM releases WHERE live")
    assert FittedPolicy.model_validate(stored) == fitted


def no_report(site: Site, release: int) -> None:
    pass


def failed(site: Site, release: int) -> None:
    validated(site, release, "PASS")
    validated(site, release, "FAIL")


def inconclusive(site: Site, release: int) -> None:
    validated(site, release, "INCONCLUSIVE")


def against_another(site: Site, release: int) -> None:
    validated(site, release, "PASS", against=release)


def about_another(site: Site, release: int) -> None:
    validated(site, release + 1, "PASS")


def of_another_kind(site: Site, release: int) -> None:
    with site.database.session() as session:
        add_report(session, "tuning", {}, candidate_id=release, release_id=1, verdict="PASS")


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (no_report, "no validation report is about release 2"),
        (failed, "says FAIL"),
        (inconclusive, "says INCONCLUSIVE"),
        (against_another, "but release 1 is live now"),
        (about_another, "no validation report"),
        (of_another_kind, "no validation report"),
    ],
)
def test_without_a_pass_against_the_live_release_it_is_refused_and_force_is_logged(
    known: Site, evidence: Callable[[Site, int], None], said: str
) -> None:
    number = candidate(known, known.matcher().recipe)
    evidence(known, number)
    with pytest.raises(ReleaseError, match=said):
        releases.promote(known, number, backup=False)
    with pytest.raises(ReleaseError, match="needs a reason"):
        releases.promote(known, number, force=True, reason="  ", backup=False)
    assert live(known) == 1
    done = releases.promote(known, number, force=True, reason="the owner asked", backup=False)
    assert done.forced
    assert live(known) == number
    ((forced, reason, actor),) = query(
        known, "SELECT forced, reason, actor FROM release_events WHERE action = 'promoted'"
    )
    assert (forced, reason, actor) == (True, "the owner asked", os_user())


def test_force_is_not_called_forced_where_the_gate_agreed(known: Site) -> None:
    number = candidate(known, known.matcher().recipe)
    validated(known, number)
    assert not releases.promote(known, number, force=True, reason="to be sure", backup=False).forced


def test_what_can_never_be_live_is_refused_even_by_force(known: Site) -> None:
    recipe = known.matcher().recipe
    rows = {"random": (True, None), "control": (False, recipe.id)}
    with known.database.session() as session:
        for name, (random, control_of) in rows.items():
            register_recipe(session, f"{name}-1", name, recipe.to_json(), random, control_of)
    for name in rows:
        with pytest.raises(DatabaseError, match="never be released"):
            releases.propose(known, f"{name}-1", FittedPolicy(policy=POLICY), "by mistake")
        with known.database.session() as session, session.begin_nested() as savepoint:
            session.execute(text("UPDATE releases SET live = false"))
            with pytest.raises(DatabaseError, match="never be released"):
                add_first_release(session, f"{name}-1", POLICY, "by mistake")
            savepoint.rollback()
        with known.database.session() as session:
            session.execute(
                text(
                    "INSERT INTO releases (recipe_id, policy, reason) SELECT :recipe, policy, 'by hand' FROM releases"
                ),
                {"recipe": f"{name}-1"},
            )
        number = query(known, "SELECT max(id) FROM releases")[0][0]
        validated(known, number)
        with pytest.raises(DatabaseError, match="never be released"):
            releases.promote(known, number, force=True, reason="no matter what", backup=False)
        with known.database.session() as session:
            session.execute(text("DELETE FROM releases WHERE id > 1"))
    with pytest.raises(ReleaseError, match="live already"):
        releases.promote(known, 1, force=True, reason="again", backup=False)
    with pytest.raises(DatabaseError, match="release 99 is not in this database"):
        releases.promote(known, 99, backup=False)
    assert live(known) == 1


def test_incomplete_profiles_are_refused_even_by_force_and_the_way_out_works(known: Site) -> None:
    recipe = registered(known, squashed(known.matcher().recipe))
    number = candidate(known, recipe)
    validated(known, number)
    individuals = query(known, "SELECT count(DISTINCT deer_id) FROM detections WHERE deer_id IS NOT NULL")[0][0]
    with pytest.raises(ReleaseError, match=f"{individuals} individuals lack profiles .* reembed --recipe squashed"):
        releases.promote(known, number, force=True, reason="now", backup=False)
    store_vectors(known, recipe, 1)
    update_profiles(known, recipe)
    with known.database.session() as session:  # a picture that only the live recipe has embedded
        for statement in (
            "INSERT INTO detections (id, image_id, deer_id, bbox, confidence, classification_method) SELECT "
            "gen_random_uuid(), image_id, deer_id, bbox, 1, 'human' FROM detections ORDER BY id LIMIT 1",
            "INSERT INTO detection_crops SELECT d.id, 'c', 'f', 's', 1, 1 FROM detections d "
            "LEFT JOIN detection_crops c ON c.detection_id = d.id WHERE c.detection_id IS NULL",
        ):
            session.execute(text(statement))
    store_vectors(known, known.matcher().recipe, 0)
    update_profiles(known, known.matcher().recipe)
    with pytest.raises(ReleaseError, match="1 individuals lack"):
        releases.promote(known, number, backup=False)
    store_vectors(known, recipe, 1)
    update_profiles(known, recipe)
    releases.promote(known, number, backup=False)
    assert live(known) == number


def test_rollback_goes_back_one_release_at_a_time_and_restores_the_columns(known: Site) -> None:
    first = known.matcher().recipe
    recipe = another_recipe(known)
    before = columns(known)
    second, third = candidate(known, recipe), candidate(known, recipe, threshold=0.7)
    validated(known, second)
    releases.promote(known, second, backup=False)
    assert columns(known) != before
    validated(known, third, against=second)
    releases.promote(known, third, backup=False)
    for expected, recipe_id in ((second, recipe.id), (1, first.id)):
        done = releases.rollback(known, reason="worse at night")
        assert (done.release, done.recipe, done.individuals_lacking) == (expected, recipe_id, 0)
        assert live(known) == expected
        assert columns_that_differ(known, recipe_id) == 0
    assert columns(known) == before
    with pytest.raises(ReleaseError, match="no earlier release"):
        releases.rollback(known, reason="further")
    with pytest.raises(ReleaseError, match="needs a reason"):
        releases.rollback(known, reason=" ")
    with pytest.raises(ReleaseError, match=f"release {second} was taken back"):
        releases.promote(known, second, backup=False)
    validated(known, second)
    releases.promote(known, second, backup=False)
    log = [(event.action, event.release, event.previous) for event in releases.status(known).history]
    assert log[:5] == [
        ("promoted", second, 1),
        ("rolled_back", 1, second),
        ("rolled_back", second, third),
        ("promoted", third, second),
        ("promoted", second, 1),
    ]


def test_a_v1_vector_from_before_the_enhancement_is_never_overwritten(known: Site) -> None:
    recipe = another_recipe(known)
    with known.database.session() as session:
        session.execute(text("UPDATE deer SET vector_recipe_id = NULL WHERE name = (SELECT min(name) FROM deer)"))
    old = query(known, "SELECT id, feature_vector::text FROM deer WHERE vector_recipe_id IS NULL")
    assert len(old) == 1
    number = candidate(known, recipe)
    validated(known, number)
    for change in (
        lambda: releases.promote(known, number, backup=False),
        lambda: releases.rollback(known, reason="back"),
    ):
        change()
        assert query(known, "SELECT id, feature_vector::text FROM deer WHERE vector_recipe_id IS NULL") == old
        assert columns_that_differ(known, known.matcher_of(live(known)).recipe.id) == (1 if live(known) != 1 else 0)
        assert check_profiles(known).wrong_version == []


def test_columns_that_do_not_fit_into_the_transaction_follow_and_a_refresh_resumes_them(
    known: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = another_recipe(known)
    individuals = query(known, "SELECT count(*) FROM deer")[0][0]
    number = candidate(known, recipe)
    validated(known, number)
    monkeypatch.setattr(releases, "COLUMNS_BUDGET_S", -1.0)
    done = releases.promote(known, number, backup=False)
    assert (done.columns_shown, done.columns_complete) == (0, False)
    assert len(check_profiles(known).wrong_version) == individuals, "columns of another recipe pass the check"
    assert show_live_columns(known) == individuals
    assert columns_that_differ(known, recipe.id) == 0
    assert show_live_columns(known) == 0
    releases.rollback(known, reason="back")
    assert columns_that_differ(known, known.matcher().recipe.id) == individuals
    update_profiles(known, known.matcher().recipe)
    assert columns_that_differ(known, known.matcher().recipe.id) == 0
    assert check_profiles(known).wrong_version == []


def test_an_individual_that_somebody_is_changing_is_not_waited_for_and_follows(known: Site) -> None:
    recipe = another_recipe(known)
    number = candidate(known, recipe)
    validated(known, number)
    individuals = query(known, "SELECT count(*) FROM deer")[0][0]
    with known.database.session() as other:
        other.execute(text("UPDATE deer SET sighting_count = 9 WHERE name = (SELECT min(name) FROM deer)"))
        begun = time.perf_counter()
        done = releases.promote(known, number, backup=False)
        assert time.perf_counter() - begun < 1.0
        assert show_live_columns(known) == 0
    assert (done.columns_shown, done.columns_complete) == (individuals - 1, False)
    assert columns_that_differ(known, recipe.id) == 1
    assert show_live_columns(known) == 1
    assert columns_that_differ(known, recipe.id) == 0
    assert query(known, "SELECT sighting_count FROM deer ORDER BY name LIMIT 1") == [(9,)]


KILLED = """
import sys, time
from pathlib import Path
from deer_reid_pipeline.steps import releases
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline_tests.sites import settings_for

def stop(*args, **kwargs):
    print("everything but the log is written", flush=True)
    time.sleep(600)

releases.table.log_event = stop
site = Site(settings_for(Path(sys.argv[1])), Database(sys.argv[2]))
releases.promote(site, int(sys.argv[3]), backup=False)
"""


def test_kill_9_in_the_middle_of_a_promotion_leaves_the_old_release_whole(known: Site) -> None:
    recipe = another_recipe(known)
    number = candidate(known, recipe)
    validated(known, number)
    tables = ("releases", "release_events", "deer", "profiles")
    digest = {name: f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {name} t" for name in tables}
    before = {name: query(known, statement) for name, statement in digest.items()}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(known.settings.home), known.database.url, str(number)],
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("everything")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert {name: query(known, statement) for name, statement in digest.items()} == before
    assert known.matcher().release_id == 1
    releases.promote(known, number, backup=False)
    assert live(known) == number


def test_of_two_promotions_at_once_one_wins_and_the_other_is_refused(known: Site) -> None:
    recipe = known.matcher().recipe
    numbers = [candidate(known, recipe, threshold) for threshold in (0.7, 0.8)]
    for number in numbers:
        validated(known, number)

    def attempt(number: int) -> str:
        try:
            return str(releases.promote(known, number, backup=False).release)
        except ReleaseError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(attempt, numbers))
    winner = live(known)
    assert winner in numbers
    assert str(winner) in said
    (refused,) = [line for line in said if line != str(winner)]
    assert f"but release {winner} is live now" in refused
    assert query(known, "SELECT count(*) FROM release_events WHERE action = 'promoted'")[0][0] == 1


def up_to_embedding(site: Site, matcher: Matcher, folder: Path) -> str:
    key = register_drop(site, folder, "auto").key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    embed_drop(site, matcher.recipe, key)
    return key


@pytest.mark.parametrize("enhanced", [True, False])
def test_a_drop_being_matched_keeps_its_release_and_holds_nobody_up(
    site: Site, named: Path, unnamed: Path, herd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enhanced: bool
) -> None:
    run_all(site, named)
    recipe = registered(site, squashed(site.matcher().recipe))
    update_profiles(site, recipe)
    number = candidate(site, recipe)
    validated(site, number)
    with site.database.session() as session:  # every encounter below it opens an individual
        session.execute(text("""UPDATE releases SET policy = policy || '{"new_below": 0.9}' WHERE live"""))
    site.settings = site.settings.model_copy(update={"use_enhanced_reid": enhanced})
    matcher = site.matcher()
    key = up_to_embedding(site, matcher, unnamed)
    half, go_on = threading.Event(), threading.Event()
    decide_one = matches.decide_one
    decided = []

    def slowly(*args: Any) -> None:
        decide_one(*args)
        decided.append(1)
        if len(decided) == 2:
            half.set()
            assert go_on.wait(60)

    monkeypatch.setattr(matches, "decide_one", slowly)
    with ThreadPoolExecutor(1) as pool:
        matching = pool.submit(match_drop, site, matcher, key)
        assert half.wait(60)
        begun = time.perf_counter()
        releases.promote(site, number, backup=False)
        seconds = time.perf_counter() - begun
        go_on.set()
        report = matching.result(timeout=120)
    assert seconds < 1.0, "the promotion waited for the drop"
    assert live(site) == number
    assert report.decided > 2
    rows = query(site, "SELECT DISTINCT release_id, recipe_id FROM match_decisions WHERE drop_key = :k", k=key)
    assert [tuple(row) for row in rows] == [(1, matcher.recipe.id)]
    # The run goes on with the matcher it began with, and the columns show what is live now.
    update_profiles(site, matcher.recipe)
    assert check_profiles(site).wrong_version == []
    opened = {name for (name,) in query(site, "SELECT name FROM deer WHERE identified_by = 'machine'")}
    if enhanced:
        assert opened, "nobody was opened, so that nothing is shown about them"
    # Individuals opened under the old release are known to the next drop under the new one.
    site.settings = site.settings.model_copy(update={"use_enhanced_reid": True})
    monkeypatch.setattr(matches, "decide_one", decide_one)
    site.settings = settings_for(site.settings.home, recipe="lite").model_copy(update={"recipe": "reference"})
    site.settings.model_fields_set.discard("recipe")
    after = site.matcher()
    assert (after.release_id, after.recipe.id) == (number, recipe.id)
    rows = read_table(herd / "observations.csv")
    again = part_of_herd(herd, tmp_path / "again", [{**row, "individualID": ""} for row in rows[:2]])
    (again / rows[0]["filePath"]).write_bytes((herd / rows[0]["filePath"]).read_bytes() + b"\0")
    match_drop(site, after, up_to_embedding(site, after, again))
    known_to_it = {
        item["individual"]
        for (candidates,) in query(site, "SELECT candidates FROM match_decisions WHERE release_id = :n", n=number)
        for item in candidates or []
    }
    lacking = query(
        site,
        "SELECT count(*) FROM deer d WHERE EXISTS (SELECT FROM detections WHERE deer_id = d.id) AND NOT EXISTS "
        "(SELECT FROM profiles p WHERE p.deer_id = d.id AND p.recipe_id = :r)",
        r=recipe.id,
    )[0][0]
    assert lacking == 0
    assert known_to_it
    by_release, counts = documented_queries()
    name = query(site, "SELECT individual FROM match_decisions WHERE release_id = 1 AND deer_id IS NOT NULL LIMIT 1")
    if enhanced:
        lines = query(site, by_release.replace("deer-0001", name[0][0]))
        assert {(row.release_id, row.action) for row in lines if row.release_id} == {(1, "first")}
    by_machine = query(site, "SELECT count(*) FROM match_decisions WHERE method = 'machine'")[0][0]
    found = query(site, counts)
    assert {row.release_id for row in found} == {1, number}
    assert sum(row.count for row in found) == by_machine


@pytest.mark.parametrize("rounds", [5, 1])
def test_a_drop_knows_whom_another_one_opened_under_the_old_release_while_it_waited(
    site: Site, named: Path, unnamed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    run_all(site, named)
    first = site.matcher()
    opening = first.policy.model_copy(update={"threshold": 0.9999, "new_below": 0.999})
    recipe = registered(site, first.recipe.model_copy(update={"name": "twin"}))
    update_profiles(site, recipe)
    number = releases.propose(site, recipe.id, FittedPolicy(policy=opening), "opens everybody")
    validated(site, number)
    rows = read_table(unnamed / "observations.csv")
    events = sorted({row["eventID"] for row in rows})
    folders = [
        part_of_herd(unnamed, tmp_path / f"drop-{event}", [row for row in rows if row["eventID"] == event])
        for event in events[:2]
    ]
    second = site.matcher_of(number)
    one, two = (up_to_embedding(site, matcher, f) for matcher, f in zip((first, second), folders, strict=True))
    monkeypatch.setattr(matches, "ROUNDS", rounds)
    decide_all, decided, go_on = matches._decide_all, threading.Event(), threading.Event()

    known: set[str] = set()
    profiled = text("SELECT name FROM deer d JOIN profiles p ON p.deer_id = d.id WHERE p.recipe_id = :r")

    def holding(session: Any, work: Any, *args: Any) -> None:
        if work.drop.key == two:
            known.update(session.scalars(profiled, {"r": recipe.id}))
        decide_all(session, work, *args)
        if work.drop.key == one:
            decided.set()
            assert go_on.wait(60)

    def say(line: str) -> None:
        if "waiting" in line:  # for the lock: whom the recipe does not know was asked before
            go_on.set()

    monkeypatch.setattr(matches, "_decide_all", holding)
    with ThreadPoolExecutor(2) as pool:
        opens = pool.submit(match_drop, site, replace(first, policy=opening), one)
        assert decided.wait(60)
        releases.promote(site, number, backup=False)
        waits = pool.submit(match_drop, site, second, two, None, say)
        opens.result(timeout=120)
        if rounds == 1:
            with pytest.raises(DatabaseError, match="was not decided"):
                waits.result(timeout=120)
            assert query(site, "SELECT count(*) FROM match_decisions WHERE drop_key = :k", k=two)[0][0] == 0
            return
        assert waits.result(timeout=120).decided
    opened = {name for (name,) in query(site, "SELECT individual FROM match_decisions WHERE drop_key = :k", k=one)}
    assert opened
    assert opened <= known, "the second drop was decided without them"


def documented_queries() -> list[str]:
    """The SQL that docs/releases.md gives to people."""
    blocks = (REPO / "docs" / "releases.md").read_text().split("```sql\n")[1:]
    return [block.split("```")[0] for block in blocks]
