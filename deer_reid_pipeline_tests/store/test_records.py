"""Reports, reviews, camera positions and A/B tests as rows: what is kept, what is refused, which one counts."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.store import ab, deployments, releases, reports, reviews
from deer_reid_pipeline.store.database import Database, _engine
from deer_reid_pipeline.store.deployments import Place
from deer_reid_pipeline.store.recipes import find_recipe, fold_recipes, register_recipe, training_of
from deer_reid_pipeline.store.reviews import PairReview

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
A, B, C = (uuid.UUID(int=n) for n in (1, 2, 3))


def review(first: uuid.UUID, second: uuid.UUID, verdict: str, who: str = "ranger", hours: int = 0) -> PairReview:
    return PairReview(first, second, verdict, who, NOON + timedelta(hours=hours), "pairs.csv")


@pytest.fixture
def two_releases(database: Database) -> Database:
    with database.session() as session:
        register_recipe(session, "r-1", "r", {}, False)
        releases.add_first_release(session, "r-1", MatchPolicy(threshold=0.9, new_below=0.2), "first")
        policy = MatchPolicy(threshold=0.8, new_below=0.2)
        releases.add_candidate(session, "r-1", FittedPolicy(policy=policy), "second")
    return database


def test_the_newest_validation_report_about_a_candidate_counts(database: Database) -> None:
    with database.session() as session:
        for candidate, verdict, kind in (
            (7, "PASS", "validation"),
            (7, "FAIL", "validation"),
            (8, "PASS", "validation"),
            (7, "PASS", "tuning"),
        ):
            reports.add_report(session, kind, {"n": candidate}, candidate_id=candidate, verdict=verdict)
        reports.add_report(session, "monitoring", {}, day=date(2026, 11, 1))
        reports.add_report(session, "monitoring", {}, day=date(2026, 11, 2))
    with database.session() as session:
        newest = reports.newest_about_candidate(session, 7)
        assert newest is not None
        assert (newest.verdict, newest.summary) == ("FAIL", {"n": 7})
        assert reports.newest_about_candidate(session, 9) is None
        day = reports.newest_report(session, "monitoring", day=date(2026, 11, 1))
        assert day is not None
        assert day.day == date(2026, 11, 1)


def test_reviews_are_kept_once_and_the_newest_word_of_each_reviewer_counts(database: Database) -> None:
    rows = [
        review(B, A, "same"),
        review(A, B, "different", hours=1),
        review(A, B, "unsure", "guest"),
        review(C, A, "same"),
    ]
    with database.session() as session:
        assert reviews.add_reviews(session, rows) == 4
        assert reviews.add_reviews(session, [*rows, review(A, B, "same", hours=2)]) == 1
    with database.session() as session:
        standing = reviews.standing_reviews(session)
        assert [(row.pair, row.reviewer, row.verdict) for row in standing] == [
            ((A, B), "guest", "unsure"),
            ((A, B), "ranger", "same"),
            ((A, C), "ranger", "same"),
        ]
        assert [row.pair for row in reviews.standing_reviews(session, [C])] == [(A, C)]
        assert [row.pair for row in reviews.standing_reviews(session, [B])] == [(A, B), (A, B)]
        assert reviews.unknown_detections(session, [A, B]) == {A, B}
        for wrong in (review(A, A, "same"), review(A, B, "perhaps")):
            with pytest.raises(ValueError, match=r"itself|perhaps"):
                reviews.add_reviews(session, [wrong])


def test_what_a_later_drop_says_of_a_camera_replaces_and_silence_keeps(database: Database) -> None:
    with database.session() as session:
        given = [Place("ridge", "Ridge", 45.5, -110.25), Place("creek", "Creek")]
        assert deployments.put_deployments(session, given, "drop-1") == 2
        assert deployments.put_deployments(session, [Place("ridge", None, None, None)], "drop-2") == 1
        assert deployments.put_deployments(session, [], "drop-3") == 0
    with database.session() as session:
        assert deployments.places(session) == {"ridge": Place("ridge", "Ridge", 45.5, -110.25)}
        deployments.put_deployments(session, [Place("ridge", "Ridge", 46.0, -111.0), Place("creek", None, 0.0, 0.0)])
        assert deployments.places(session, ["creek"]) == {"creek": Place("creek", "Creek", 0.0, 0.0)}
        assert deployments.places(session)["ridge"].latitude == 46.0
        for wrong in (Place("x", None, 91.0, 0.0), Place("x", None, 0.0, 181.0), Place("x", None, 1.0, None)):
            with pytest.raises(ValueError, match="deployment x"):
                deployments.put_deployments(session, [wrong])


def test_no_error_of_the_database_holds_a_coordinate(database: Database) -> None:
    never_an_index_entry = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
    with pytest.raises(DBAPIError) as raised, database.session() as session:
        deployments.put_deployments(session, [Place(never_an_index_entry, None, 50.123456, 8.654321)])
    assert "INSERT INTO deployments" in str(raised.value)
    assert not re.search("123456|654321", str(raised.value))
    with pytest.raises(DBAPIError) as raised, _engine(make_url(database.url)).connect() as connection:
        connection.execute(text("SELECT :a / 0"), {"a": 50.123456})
    assert "123456" not in str(raised.value)


def test_one_ab_test_runs_at_a_time_and_outcomes_are_kept_once(two_releases: Database) -> None:
    database = two_releases
    with database.session() as session:
        test = ab.start_test(session, 1, 2, 0.5, 0.2, "salt", "which is better")
        with pytest.raises(DatabaseError, match=f"A/B test {test.id} is running"):
            ab.start_test(session, 1, 2, 0.5, 1.0, "salt", "again")
        session.execute(text("INSERT INTO drops (key, name, root, digest, layout, detector) "
                             "VALUES ('d', 'd', '/', '', 'folder', 'none')"))  # fmt: skip
        session.execute(
            text("INSERT INTO encounters (id, drop_key, ordinal, event_key) VALUES (:id, 'd', 1, 'e')"), {"id": A}
        )
        for score in (0.5, 0.9):
            ab.put_outcome(session, test.id, A, "b", 2, {"score": None}, {"score": score})
    with database.session() as session:
        running = ab.running_test(session)
        assert running is not None
        assert (running.id, running.share_b, running.share_all) == (test.id, 0.5, 0.2)
        assert [(row.arm, row.outcome_b) for row in ab.outcomes(session, test.id)] == [("b", {"score": 0.5})]
        ended = ab.end_test(session)
        assert ended is not None
        assert ended.ended_at is not None
        assert ab.end_test(session) is None
        assert ab.start_test(session, 2, 1, 1.0, 1.0, "salt", "the other way").id == test.id + 1
    for arguments in ((1, 1, 0.5, 0.5), (1, 9, 0.5, 0.5), (1, 2, 1.5, 0.5), (1, 2, 0.5, -0.1)):
        with database.session() as session:
            ab.end_test(session)
            with pytest.raises(DatabaseError):
                ab.start_test(session, *arguments, "salt", "wrong")


def insert_review(database: Database) -> None:
    with database.session() as session:
        reviews.add_reviews(session, [review(A, B, "same")])


def insert_event(database: Database) -> None:
    with database.session() as session:
        register_recipe(session, "r-1", "r", {}, False)
        releases.add_first_release(session, "r-1", MatchPolicy(threshold=0.9, new_below=0.2), "first")


@pytest.mark.parametrize("statement", ["UPDATE {0} SET {1} = 'x'", "DELETE FROM {0}", "TRUNCATE {0}"])
@pytest.mark.parametrize(
    ("table", "column", "fill"), [("reviews", "source", insert_review), ("release_events", "reason", insert_event)]
)
def test_logs_are_append_only(
    database: Database, table: str, column: str, fill: Callable[[Database], None], statement: str
) -> None:
    fill(database)
    with pytest.raises(DBAPIError, match=f"{table} is append-only"), database.session() as session:
        session.execute(text(statement.format(table, column)))
    with database.session() as session:
        assert session.scalar(text(f"SELECT count(*) FROM {table} WHERE {column} <> 'x'")) == 1


def test_the_database_itself_refuses_what_the_functions_do(two_releases: Database) -> None:
    for statement in (
        f"INSERT INTO reviews (detection_a, detection_b, verdict, reviewer, reviewed_at, source) "
        f"VALUES ('{B}', '{A}', 'same', 'r', now(), 's')",
        f"INSERT INTO reviews (detection_a, detection_b, verdict, reviewer, reviewed_at, source) "
        f"VALUES ('{A}', '{B}', 'maybe', 'r', now(), 's')",
        "INSERT INTO release_events (action, release_id, reason) VALUES ('erased', 1, 'r')",
        "UPDATE releases SET live = true",
        "INSERT INTO ab_tests (release_a, release_b, share_b, share_all, salt, reason) "
        "VALUES (1, 2, 0.5, 1, '', ''), (1, 2, 0.5, 1, '', '')",
    ):
        with pytest.raises(DBAPIError), two_releases.session() as session:
            session.execute(text(statement))


@pytest.mark.parametrize(
    ("log", "path"),
    [
        ("first 1", [1]),
        ("first 1, promoted 2, promoted 3", [1, 2, 3]),
        ("first 1, promoted 2, rolled_back 1", [1]),
        ("first 1, promoted 2, promoted 3, rolled_back 2, rolled_back 1", [1]),
        ("first 1, promoted 2, rolled_back 1, promoted 3", [1, 3]),
        ("first 1, promoted 2, promoted 1", [1, 2, 1]),
        ("first 1, promoted 2, promoted 1, rolled_back 2, proposed 3", [1, 2]),
        ("proposed 2", [1]),
    ],
)
def test_the_path_behind_the_live_release_follows_the_log(database: Database, log: str, path: list[int]) -> None:
    with database.session() as session:
        register_recipe(session, "r-1", "r", {}, False)
        for number in (1, 2, 3):
            session.execute(
                text("INSERT INTO releases (recipe_id, policy, live, reason) VALUES ('r-1', '{}', :live, '')"),
                {"live": number == path[-1]},
            )
        for entry in log.split(", "):
            action, number = entry.split()
            releases.log_event(session, action, int(number), "")
        assert releases.live_path(session) == path


def test_recipes_know_their_folds_and_their_training(database: Database) -> None:
    training = {"individuals": {"N1": 0, "N2": None}, "folds": 2}
    with database.session() as session:
        with pytest.raises(DatabaseError, match="best is not in this database; it has none yet"):
            find_recipe(session, "best")
        register_recipe(session, "lite-1", "lite", {}, False)
        register_recipe(session, "lite.tuned-1", "lite.tuned", {}, False, training=training)
        for fold in (1, 0):
            part = f"lite.tuned.fold{fold}"
            register_recipe(session, f"{part}-1", part, {}, False, fold_of="lite.tuned-1", fold=fold)
        register_recipe(session, "lite.background-1", "lite.background", {}, False, "lite-1")
        register_recipe(session, "lite.tuned-1", "lite.tuned", {}, False)  # known: stays as it is
    with database.session() as session:
        rows = session.execute(text('SELECT id, fold_of, fold, training FROM recipes ORDER BY id COLLATE "C"'))
        assert [tuple(row) for row in rows] == [
            ("lite-1", None, None, None),
            ("lite.background-1", None, None, None),
            ("lite.tuned-1", None, None, training),
            ("lite.tuned.fold0-1", "lite.tuned-1", 0, None),
            ("lite.tuned.fold1-1", "lite.tuned-1", 1, None),
        ]
        assert training_of(session, "lite.tuned-1") == training
        assert training_of(session, "lite-1") is None
        assert fold_recipes(session, "lite.tuned-1") == {0: "lite.tuned.fold0-1", 1: "lite.tuned.fold1-1"}
        assert fold_recipes(session, "lite-1") == {}
        assert session.scalar(text("SELECT count(*) FROM recipes WHERE training = 'null'::jsonb")) == 0
        for known in ("lite-1", "lite.tuned.fold0-1", "lite.background-1"):
            assert find_recipe(session, known) == known
        assert find_recipe(session, "lite.tuned") == "lite.tuned-1"
        for unknown in ("lite.tuned.fold0", "lite.background", "best"):
            with pytest.raises(DatabaseError, match=f"recipe {unknown} .*; known are lite, lite.tuned, and the ids"):
                find_recipe(session, unknown)
        register_recipe(session, "lite.tuned-0", "lite.tuned", {}, False, training=training)
        session.execute(text("UPDATE recipes SET created_at = now() + interval '1 hour' WHERE id = 'lite.tuned-0'"))
        assert find_recipe(session, "lite.tuned") == "lite.tuned-0"
