"""HNSW indexes: what they find, how their recall is kept, and what a killed build leaves."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from deer_reid_pipeline import progress
from deer_reid_pipeline.errors import DatabaseError, RecipeMismatchError
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.embedded import EmbeddedServer
from deer_reid_pipeline.store.search import building, gallery, nearest, nearest_fused, plan_search, resources
from deer_reid_pipeline.store.search.among import EVERYONE, Among
from deer_reid_pipeline.store.search.building import ensure_index, prepare_search
from deer_reid_pipeline.store.search.index import (
    HALFVEC,
    VECTOR,
    Plan,
    all_indexes,
    index_name,
    keep_measured,
)
from deer_reid_pipeline.store.search.recall import K, draw_probes, find_truth, fused_recall
from deer_reid_pipeline.store.search.resources import BuildSettings, build_settings
from deer_reid_pipeline.store.search.trial import BRANCHES, POLICY, MadeUp, fill, measure_exact
from deer_reid_pipeline.store.search.watch import BEST_INDIVIDUAL, MATCHING, Watched, watch_recall
from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.sites import run_sql
from deer_reid_pipeline_tests.store.made_up import LIMIT, Stored, as_arrays, copy_of

MADE_UP = MadeUp(250, rare=0.02)
RECIPE = MADE_UP.recipe_id
BRANCH = BRANCHES[0]
MALE = Among(sex="male")


@pytest.fixture(scope="module")
def stored() -> Stored:
    """2,500 exemplars a branch, of 250 individuals, five of them male, as numpy sees them."""
    return as_arrays(MADE_UP)


@pytest.fixture(scope="module")
def templates(server: EmbeddedServer, migrated_template: str) -> Iterator[None]:
    """The same in a database, without indexes and with those of both branches; to be copied."""
    for name, source in (("made_up", migrated_template), ("made_up_indexed", "made_up")):
        run_sql(server.url("postgres"), f"CREATE DATABASE {name} TEMPLATE {source}")
        database = Database(server.url(name), server=server)
        if name == "made_up":
            fill(database, MADE_UP, lambda line: None)
        else:
            prepare_search(database, RECIPE, POLICY, exact_limit=LIMIT)
        database.close()
    yield
    for name in ("made_up", "made_up_indexed"):
        run_sql(server.url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(server: EmbeddedServer, templates: None) -> Iterator[Database]:
    """A copy of the filled database, without indexes."""
    yield from copy_of(server, "made_up")


@pytest.fixture
def indexed(server: EmbeddedServer, templates: None) -> Iterator[Database]:
    """A copy with the indexes of both branches."""
    yield from copy_of(server, "made_up_indexed")


def plan_now(database: Database, branch: str = BRANCH) -> Plan:
    """How a branch is searched."""
    with database.session() as session:
        return plan_search(session, RECIPE, branch, LIMIT)


def build(database: Database, branch: str = BRANCH, **more: object) -> Plan:
    return ensure_index(database, RECIPE, branch, exact_limit=LIMIT, **more)  # type: ignore[arg-type]


def names(database: Database) -> dict[str, bool]:
    """Every index of ours and whether it is valid."""
    with database.session() as session:
        return {item.name: item.valid for item in all_indexes(session)}


def best_of(stored: Stored, scores: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Rows of the ten highest scores among those allowed."""
    return np.argsort(-np.where(allowed, scores, -np.inf))[:K]


def test_the_index_finds_what_numpy_finds_and_is_what_is_used(indexed: Database, stored: Stored) -> None:
    probes = MADE_UP.probes(40)
    plan = plan_now(indexed)
    assert plan.index is not None
    assert (plan.index.kind, plan.rows) == (HALFVEC, 2500)
    found = 0
    with indexed.session() as session:
        for query in probes.vectors[BRANCH]:
            cosines = stored.vectors[BRANCH] @ query
            best = best_of(stored, cosines, np.ones(len(cosines), dtype=bool))
            got = nearest(session, plan, query, K)
            rows = [stored.detections.index(item.detection_id) for item in got]
            np.testing.assert_allclose([item.similarity for item in got], cosines[rows], atol=1e-5)
            assert [item.deer_id for item in got] == [stored.deer[row] for row in rows]
            found += len(set(rows) & set(best.tolist()))
        with_index = plan_of(session, plan)
    assert found / (40 * K) >= 0.98
    assert plan.index.name in with_index


def plan_of(session: Session, plan: Plan) -> str:
    """The server's plan of the statement that a search by index sends."""
    sent: list[tuple[str, object]] = []

    def note(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        sent.append((statement, parameters))

    event.listen(session.get_bind(), "before_cursor_execute", note)
    nearest(session, plan, MADE_UP.probes(1).vectors[BRANCH][0], K)
    event.remove(session.get_bind(), "before_cursor_execute", note)
    ((statement, parameters),) = [item for item in sent if "LIMIT" in item[0]]
    settings = [statement for statement, _ in sent if "enable_sort" in statement]
    session.execute(text(settings[0]))
    cursor = session.connection().connection.cursor()
    cursor.execute("EXPLAIN " + statement, parameters)
    return "\n".join(row[0] for row in cursor.fetchall())


def test_exact_up_to_the_limit_and_by_index_above_it(database: Database, stored: Stored) -> None:
    with database.session() as session:
        assert plan_search(session, RECIPE, BRANCH).index is None
        assert plan_search(session, RECIPE, BRANCH, LIMIT).index is None, "there is none yet"
    prepare_search(database, RECIPE, POLICY)
    assert names(database) == {}
    plans = prepare_search(database, RECIPE, POLICY, exact_limit=LIMIT)
    assert names(database) == {index_name(RECIPE, branch, HALFVEC): True for branch in BRANCHES}
    assert [plan.index is not None for plan in plans] == [True, True]
    with database.session() as session:
        assert plan_search(session, RECIPE, BRANCH).index is None
        assert plan_search(session, RECIPE, BRANCH, LIMIT).index == plans[0].index


def test_a_filter_of_two_percent_leaves_k_and_the_right_ones(indexed: Database, stored: Stored) -> None:
    plan = plan_now(indexed)
    found = wanted = 0
    with indexed.session() as session:
        for query in MADE_UP.probes(20).vectors[BRANCH]:
            for among, allowed in (
                (MALE, stored.male),
                (Among(viewpoint="left"), stored.left),
                (Among("male", "right"), stored.male & ~stored.left),
                (Among("unknown", "front"), np.ones(len(stored.left), dtype=bool)),
            ):
                got = nearest(session, plan, query, K, among)
                assert len(got) == K
                rows = {stored.detections.index(item.detection_id) for item in got}
                assert allowed[sorted(rows)].all(), among
                found += len(rows & set(best_of(stored, stored.vectors[BRANCH] @ query, allowed).tolist()))
                wanted += K
    assert found / wanted >= 0.98


def test_a_filter_that_leaves_fewer_than_k_gives_all_of_them(indexed: Database, stored: Stored) -> None:
    plan = plan_now(indexed)
    with indexed.session() as session:
        session.execute(text("UPDATE deer SET sex = 'doe' WHERE id <> :first"), {"first": stored.deer[0]})
        got = nearest(session, plan, stored.vectors[BRANCH][2000], 30, MALE)
    assert {item.detection_id for item in got} == set(stored.detections[:10])


def test_two_branches_are_fused_by_the_policy_over_the_union(indexed: Database, stored: Stored) -> None:
    plans = {branch: plan_now(indexed, branch) for branch in BRANCHES}
    probes = MADE_UP.probes(15)
    with indexed.session() as session:
        exact = {branch: plan_search(session, RECIPE, branch) for branch in BRANCHES}
        for among, allowed in ((EVERYONE, np.ones(2500, dtype=bool)), (MALE, stored.male)):
            found = 0
            for number in range(15):
                query = {branch: rows[number] for branch, rows in probes.vectors.items()}
                cosines = {branch: stored.vectors[branch] @ row for branch, row in query.items()}
                scores = sum(weight * cosines[branch] for branch, weight in POLICY.weights.items())
                best = best_of(stored, np.asarray(scores), allowed)
                whole = nearest_fused(session, exact, query, K, POLICY, among)
                assert [item.detection_id for item in whole] == [stored.detections[row] for row in best]
                near = nearest_fused(session, plans, query, K, POLICY, among)
                rows = [stored.detections.index(item.detection_id) for item in near]
                np.testing.assert_allclose([item.similarity for item in near], np.asarray(scores)[rows], atol=1e-5)
                found += len(set(rows) & set(best.tolist()))
            assert found / (15 * K) >= 0.98
        recall, _ = fused_recall(session, plans, probes, POLICY, MALE)
    assert recall >= 0.98


def test_two_recipes_are_never_mixed(indexed: Database, stored: Stored) -> None:
    other = MadeUp(250, recipe_id="other", seed=7)
    fill(indexed, other, lambda line: None)
    plan = plan_now(indexed)
    second = ensure_index(indexed, "other", BRANCH, exact_limit=LIMIT)
    assert plan.index is not None
    assert second.index is not None
    assert plan.index.name != second.index.name
    query = stored.vectors[BRANCH][17]
    with indexed.session() as session:
        own = nearest(session, plan, query, 1)
        foreign = nearest(session, second, query, 1)
        with pytest.raises(RecipeMismatchError, match="cannot be fused"):
            nearest_fused(session, {BRANCHES[0]: plan, BRANCHES[1]: second}, dict.fromkeys(BRANCHES, query), 1, POLICY)
        # A comment that speaks of another recipe is of no use: it is measured anew.
        measured = plan.index.measured
        assert measured is not None
        keep_measured(session.connection(), plan.index.name, measured.model_copy(update={"recipe_id": "other"}))
        assert plan_search(session, RECIPE, BRANCH, LIMIT).index is None
    assert own[0].similarity == pytest.approx(1.0, abs=1e-5)
    expected = other.pictures(BRANCH, 0, 250, 0)
    assert foreign[0].similarity < 0.9
    assert foreign[0].similarity >= float((expected @ query).max()) - 1e-5
    again = build(indexed).index
    assert again is not None
    assert again.measured is not None
    assert again.measured.recipe_id == RECIPE


def test_the_measured_curve_is_kept_with_the_index_and_made_anew_when_the_rows_doubled(
    indexed: Database, stored: Stored
) -> None:
    first = plan_now(indexed).index
    assert first is not None
    assert first.measured is not None
    assert first.measured.curve[-1].ef_search == first.measured.ef_search
    assert first.measured.recall >= 0.98
    indexed.engine.dispose()  # as after a restart: nothing is kept in memory
    assert build(indexed).index == first

    add(indexed, "WHERE recipe_id = :r AND branch = :b AND right(detection_id::text, 1) < '8'")
    assert build(indexed).index.measured == first.measured  # type: ignore[union-attr]
    add(indexed, "WHERE recipe_id = :r AND branch = :b AND detection_id::text < '3'")
    grown = build(indexed).index
    assert grown is not None
    assert grown.measured is not None
    assert grown.name == first.name
    assert (first.measured.rows, grown.measured.rows) == (2500, 6252)
    assert grown.measured.at > first.measured.at


def add(database: Database, of_which: str) -> None:
    """Copy exemplars as other pictures."""
    with database.session() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(
            text(
                "INSERT INTO profile_exemplars (deer_id, recipe_id, branch, detection_id, viewpoint, vector) "
                "SELECT deer_id, recipe_id, branch, CAST('f' || right(gen_random_uuid()::text, -1) AS uuid), "
                f"viewpoint, vector FROM profile_exemplars {of_which}"
            ),
            {"r": RECIPE, "b": BRANCH},
        )


def test_float16_is_used_only_where_it_keeps_the_neighbours(
    database: Database, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.session() as session:
        truth = find_truth(session, RECIPE, draw_probes(session, RECIPE, [BRANCH], 30))
    assert truth.halfvec is not None
    assert 0.999 <= truth.halfvec <= 1.0
    monkeypatch.setattr(building, "HALFVEC_RECALL", 1.1)
    plan = build(database)
    assert plan.index is not None
    assert plan.index.kind == VECTOR
    with database.session() as session:
        assert nearest(session, plan, stored.vectors[BRANCH][5], 1)[0].detection_id == stored.detections[5]
    monkeypatch.undo()
    assert build(database).index == plan.index  # what is there and measured stays
    assert build(database, again=True).index.kind == HALFVEC  # type: ignore[union-attr]
    assert names(database) == {index_name(RECIPE, BRANCH, HALFVEC): True}


def test_vectors_that_float16_cannot_tell_apart_are_seen(database: Database) -> None:
    # Pictures that differ by less than float16 resolves: their order is lost in it.
    close = MadeUp(1, each=400, noise=2e-5, branches=(BRANCH,), recipe_id="close")
    fill(database, close, lambda line: None)
    with database.session() as session:
        truth = find_truth(session, "close", close.probes(5))
    assert truth.halfvec is not None
    assert truth.halfvec < 0.9


def test_truth_is_what_numpy_finds_without_the_probe_itself(database: Database, stored: Stored) -> None:
    with database.session() as session:
        probes = draw_probes(session, RECIPE, [BRANCH], 25)
        truth = find_truth(session, RECIPE, probes)
        again = draw_probes(session, RECIPE, [BRANCH], 25)
    assert probes.detections == again.detections
    for own, query, similarities in zip(probes.detections, probes.vectors[BRANCH], truth.similarities, strict=True):
        cosines = stored.vectors[BRANCH] @ query
        cosines[stored.detections.index(own)] = -2
        np.testing.assert_allclose(similarities, np.sort(cosines)[::-1][:K], atol=1e-5)


@contextmanager
def writing(database: Database) -> Iterator[None]:
    """A transaction that wrote exemplars and goes on: a concurrent build waits for it."""
    connection = database.engine.connect()
    connection.execute(text("UPDATE profile_exemplars SET viewpoint = viewpoint WHERE recipe_id = 'nobody'"))
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def building_now(database: Database, within: float = 60.0) -> int:
    """Backend that builds an index of ours, once there is one."""
    deadline = time.monotonic() + within
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while True:
            found = connection.scalar(
                text(
                    "SELECT pid FROM pg_stat_progress_create_index "
                    "WHERE datname = current_database() AND relid = 'profile_exemplars'::regclass"
                )
            )
            if found is not None:
                return int(found)
            assert time.monotonic() < deadline, "no build began"
            time.sleep(0.02)


def test_what_a_killed_build_leaves_is_cleared_away_by_the_next(
    database: Database, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "POLL_S", 0.05)
    reports: list[tuple[str, int, int]] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            build(database)
        except DBAPIError as error:
            failed.append(error)

    with progress.listening(lambda *of: reports.append(of)), writing(database):
        thread = threading.Thread(target=run)
        thread.start()
        pid = building_now(database)
        deadline = time.monotonic() + 30
        while not reports and time.monotonic() < deadline:
            time.sleep(0.02)
        with database.session() as session:
            session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        thread.join(60)
    assert failed, "the build was not killed"
    assert ("search index", 0, 2500) in reports
    assert names(database) == {index_name(RECIPE, BRANCH, HALFVEC): False}
    with database.session() as session:
        half_built = plan_search(session, RECIPE, BRANCH, LIMIT)
        assert half_built.index is None
        got = nearest(session, half_built, stored.vectors[BRANCH][3], 1)
    assert got[0].detection_id == stored.detections[3]
    assert build(database).index is not None
    assert names(database) == {index_name(RECIPE, BRANCH, HALFVEC): True}


BUILD = """
import sys
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.search import ensure_index
from deer_reid_pipeline.store.embedded import start_embedded
from pathlib import Path
database = Database(sys.argv[1], server=start_embedded(Path(sys.argv[2])))
ensure_index(database, "made-up", "efficientnet", exact_limit=1000)
"""


def test_where_the_client_is_killed_the_next_run_waits_for_the_server_to_finish(
    database: Database, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert database.server is not None
    monkeypatch.setattr(building, "POLL_S", 0.05)
    done: list[Plan] = []
    with writing(database):
        client = subprocess.Popen(
            [sys.executable, "-c", BUILD, database.url, str(database.server.home)], cwd=REPO, stderr=subprocess.DEVNULL
        )
        building_now(database)
        client.send_signal(signal.SIGKILL)
        client.wait(30)
        thread = threading.Thread(target=lambda: done.append(build(database)))
        thread.start()
        time.sleep(0.3)
        assert not done
    thread.join(120)
    assert done[0].index is not None
    assert done[0].index.measured is not None
    assert names(database) == {index_name(RECIPE, BRANCH, HALFVEC): True}


def test_indexes_go_with_their_rows(indexed: Database, stored: Stored) -> None:
    with indexed.session() as session:
        session.execute(
            text("DELETE FROM profile_exemplars WHERE recipe_id = :r AND detection_id::text > :d"),
            {"r": RECIPE, "d": str(stored.detections[700])},
        )
    assert build(indexed).index is None
    assert len(names(indexed)) == 2, "a little below the limit they stay"
    with indexed.session() as session:
        session.execute(text("DELETE FROM profile_exemplars WHERE branch = :b"), {"b": BRANCH})
    assert build(indexed).index is None
    assert names(indexed) == {index_name(RECIPE, BRANCHES[1], HALFVEC): True}


def test_a_poor_index_is_noticed(indexed: Database, stored: Stored) -> None:
    plans = {branch: plan_now(indexed, branch) for branch in BRANCHES}
    good = watched(indexed)
    assert [item.what for item in good] == [*BRANCHES, MATCHING, BEST_INDIVIDUAL]
    assert all(item.holds and item.indexed and item.sample == 30 for item in good)
    index = plans[BRANCH].index
    assert index is not None
    assert index.measured is not None
    with indexed.session() as session:  # a graph with hardly any edges
        session.execute(text(f"DROP INDEX {index.name}"))
        session.execute(
            text(
                f"CREATE INDEX {index.name} ON profile_exemplars USING hnsw "
                "((vector::halfvec(512)) halfvec_cosine_ops) "
                f"WITH (m = 2, ef_construction = 4) WHERE recipe_id = '{RECIPE}' AND branch = '{BRANCH}'"
            )
        )
        keep_measured(session.connection(), index.name, index.measured)
    assert next(item.what for item in watched(indexed) if not item.holds) == BRANCH
    build(indexed, again=True)
    assert all(item.holds for item in watched(indexed))


def test_a_gallery_that_lacks_candidates_is_noticed_though_the_indexes_hold(
    indexed: Database, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe is a stored picture: asked for one candidate, each branch proposes the probe, which does not count."""
    monkeypatch.setattr(gallery, "PROPOSED", 1)
    nobody = {item.what: item for item in watched(indexed)}
    assert all(nobody[branch].holds for branch in BRANCHES)
    assert (nobody[MATCHING].recall, nobody[BEST_INDIVIDUAL].recall) == (0.0, 0.0)
    # Asked for two, each finds another of the nine pictures of the same animal; the tenth nearest shows another one.
    monkeypatch.setattr(gallery, "PROPOSED", 2)
    own = {item.what: item for item in watched(indexed)}
    assert 0.85 < own[MATCHING].recall < 0.98
    assert not own[MATCHING].holds
    assert own[BEST_INDIVIDUAL].holds


def watched(database: Database) -> list[Watched]:
    with database.session() as session:
        return watch_recall(session, RECIPE, POLICY, sample=30, exact_limit=LIMIT)


def test_nothing_is_searched_where_nothing_can_be_missed(database: Database, stored: Stored) -> None:
    with database.session() as session:
        found = watch_recall(session, RECIPE, POLICY)
    assert [(item.indexed, item.recall, item.sample, item.rows) for item in found] == [(False, 1.0, 0, 2500)] * 2


def test_too_little_memory_or_disk_is_said_before_the_build(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    external = Database(database.url)
    with database.engine.connect() as connection:
        many = 10_000_000_000
        with pytest.raises(DatabaseError, match=r"needs \d+ MB of memory while it is built, and \d+ MB are free: stop"):
            build_settings(database, connection, many, HALFVEC, "the index")
        with pytest.raises(DatabaseError, match=r"run ALTER ROLE postgres SET maintenance_work_mem = '\d+MB'"):
            build_settings(external, connection, many, HALFVEC, "the index")
        monkeypatch.setattr(resources, "free_mb", lambda: resources.memory_mb(many, HALFVEC))
        with pytest.raises(DatabaseError, match=r"needs \d+ MB of disk while it is built, and \d+ MB are free in"):
            build_settings(database, connection, many, HALFVEC, "the index")
        assert build_settings(external, connection, 2500, HALFVEC, "the index") == BuildSettings(None, None)
    external.close()


def test_the_advice_for_an_external_server_is_enough(database: Database, stored: Stored) -> None:
    external = Database(database.url)
    role, wanted = "postgres", resources.memory_mb(2500, HALFVEC)
    with external.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            f"ALTER ROLE {role} IN DATABASE {external.engine.url.database} SET maintenance_work_mem = '1MB'"
        )
    external.close()
    with pytest.raises(DatabaseError, match="maintenance_work_mem"):
        build(external)
    assert names(external) == {}
    with external.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            f"ALTER ROLE {role} IN DATABASE {external.engine.url.database} SET maintenance_work_mem = '{wanted}MB'"
        )
    external.close()
    assert build(external).index is not None
    external.close()


@pytest.mark.parametrize("kind", [VECTOR, HALFVEC])
def test_the_memory_asked_for_holds_the_graph_and_not_much_more(
    kind: str,
    database: Database,
    stored: Stored,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """pgvector says at which row the graph left the memory that it was given."""
    monkeypatch.setattr(building, "HALFVEC_RECALL", 1.1 if kind == VECTOR else 0.9)
    monkeypatch.setattr(building, "build_settings", lambda *_: BuildSettings(2, 0))
    with caplog.at_level(logging.INFO, logger="sqlalchemy.dialects.postgresql"):
        build(database)
    (rows,) = [int(line.split("after ")[1].split()[0]) for line in caplog.messages if "no longer fits" in line]
    needed = 2 * resources.MIB / rows
    estimated = resources.element_bytes(kind)
    assert needed <= estimated * resources.SPARE
    assert estimated <= 1.25 * needed


def test_the_disk_estimate_holds_the_index(indexed: Database, stored: Stored) -> None:
    index = plan_now(indexed).index
    assert index is not None
    assert index.bytes <= resources.disk_bytes(2500, HALFVEC) * 1.02 + 2 * resources.PAGE
    assert resources.disk_bytes(2500, HALFVEC) <= 1.3 * index.bytes


def test_the_exact_path_is_timed_among_all_that_is_stored(database: Database) -> None:
    found = measure_exact(database, [20, 40], lambda line: None, sample=3)
    assert [(found[size]["rows"], found[size]["exact"]) for size in (20, 40)] == [(200, True), (400, True)]
    assert min(found[size]["decision_ms"]["p50"] for size in (20, 40)) > 0
