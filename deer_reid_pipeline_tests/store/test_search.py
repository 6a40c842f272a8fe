"""Exact search against numpy, and the gallery that an index proposes against the whole one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.matching import Known, MatchPolicy, Query, decide
from deer_reid_pipeline.reid.similarity import VectorSet, unit
from deer_reid_pipeline.store import search
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.embedded import EmbeddedServer
from deer_reid_pipeline.store.models import ProfileExemplar
from deer_reid_pipeline.store.search import nearest, plan_search
from deer_reid_pipeline.store.search.index import HALFVEC, index_name
from deer_reid_pipeline_tests.sites import run_sql
from deer_reid_pipeline_tests.store.made_up import copy_of

COUNT = 3000
BRANCHES = ("baseline", "multiscale", "efficientnet")


@pytest.fixture(scope="module")
def template(server: EmbeddedServer, migrated_template: str) -> Iterator[tuple[dict[str, np.ndarray], list[uuid.UUID]]]:
    """3,000 individuals with one exemplar each under recipe `a`, and as many under recipe `b`, to be copied."""
    rng = np.random.default_rng(0)
    ids = [uuid.uuid5(uuid.NAMESPACE_OID, str(n)) for n in range(COUNT)]
    centres = rng.normal(size=(60, 512))
    vectors = {
        branch: unit((centres[rng.integers(0, 60, COUNT)] + rng.normal(size=(COUNT, 512))).astype(np.float32))
        for branch in BRANCHES
    }
    run_sql(server.url("postgres"), f"CREATE DATABASE filled TEMPLATE {migrated_template}")
    database = Database(server.url("filled"), server=server)
    with database.session() as session:
        session.execute(text("INSERT INTO recipes (id, name, spec) VALUES ('a', 'a', '{}'), ('b', 'b', '{}')"))
        each = "FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS t (id, n)"
        for statement in (
            f"INSERT INTO images (id, filename, path) SELECT id, 'x', 'x' {each}",
            f"INSERT INTO deer (id, name, sighting_count) SELECT id, 'd' || to_char(n - 1, 'FM0000'), 1 {each}",
            f"INSERT INTO detections (id, image_id, deer_id, bbox, confidence) SELECT id, id, id, '{{}}', 1 {each}",
        ):
            session.execute(text(statement), {"ids": [str(key) for key in ids]})
        for recipe in ("a", "b"):
            for branch in BRANCHES if recipe == "a" else ("multiscale",):
                rows = vectors[branch] if recipe == "a" else vectors[branch][::-1]
                session.execute(
                    insert(ProfileExemplar),
                    [
                        {"deer_id": key, "recipe_id": recipe, "branch": branch, "detection_id": key, "vector": row}
                        for key, row in zip(ids, rows, strict=True)
                    ],
                )
    database.close()
    yield vectors, ids
    run_sql(server.url("postgres"), "DROP DATABASE filled WITH (FORCE)")


@pytest.fixture
def filled(
    server: EmbeddedServer, template: tuple[dict[str, np.ndarray], list[uuid.UUID]]
) -> Iterator[tuple[Database, dict[str, np.ndarray], list[uuid.UUID]]]:
    """A copy of the filled database, its vectors and its individuals."""
    for database in copy_of(server, "filled"):
        yield database, *template


def test_exact_search_finds_what_numpy_finds(filled: tuple) -> None:
    database, vectors, ids = filled
    queries = unit(vectors["multiscale"][:20] + np.random.default_rng(1).normal(0, 0.02, (20, 512)).astype(np.float32))
    with database.session() as session:
        plan = plan_search(session, "a", "multiscale")
        for row in queries:
            cosines = vectors["multiscale"] @ row
            best = np.argsort(-cosines)[:10]
            exact = nearest(session, plan, row, 10)
            assert [item.deer_id for item in exact] == [ids[index] for index in best]
            np.testing.assert_allclose([item.similarity for item in exact], cosines[best], atol=1e-5)


def test_recipes_are_searched_apart(filled: tuple) -> None:
    database, vectors, ids = filled
    with database.session() as session:
        top = nearest(session, plan_search(session, "b", "multiscale"), vectors["multiscale"][0], 1)[0]
    assert top.deer_id == ids[-1]


def test_the_large_gallery_path_scores_like_the_whole_gallery(filled: tuple) -> None:
    database, vectors, _ = filled
    policy = MatchPolicy(threshold=0.9, new_below=0.2)
    asked = Query({b: VectorSet("a", b, vectors[b][5:6]) for b in BRANCHES}, [None])
    with database.session() as session:
        whole = search.open_gallery(session, "a", policy)
        expected = decide(asked, whole.for_query(asked), policy)
        source = search.open_gallery(session, "a", policy, exact_limit=10)
        near = source.for_query(asked)
        assert len(near.individuals) <= 100
        found = decide(asked, near, policy)
    assert found.best is not None
    assert expected.best is not None
    assert (found.outcome, found.best.name) == (expected.outcome, expected.best.name) == ("matched", "d0005")
    assert found.best.score == pytest.approx(expected.best.score, abs=1e-5)


POLICY = MatchPolicy(threshold=0.9, new_below=0.2)


def seen(rows: dict[str, np.ndarray]) -> dict[str, VectorSet]:
    return {branch: VectorSet("a", branch, matrix) for branch, matrix in rows.items()}


def indexes(session: Session) -> set[str]:
    return set(session.scalars(text("SELECT indexname FROM pg_indexes WHERE tablename = 'profile_exemplars'")))


def test_exemplars_are_loaded_as_they_were_stored(filled: tuple) -> None:
    database, vectors, ids = filled
    with database.session() as session:
        known = search.load_exemplars(session, "a", BRANCHES)
        some = search.load_exemplars(session, "a", BRANCHES, ids[7:9], without={ids[8]})
    assert [item.key for item in known] == ids
    for branch in BRANCHES:
        np.testing.assert_array_equal(np.concatenate([item.vectors[branch].vectors for item in known]), vectors[branch])
        assert known[0].vectors[branch].vectors.base is known[-1].vectors[branch].vectors.base  # one array, no copies
    assert [(item.key, item.name) for item in some] == [(ids[7], "d0007")]


def test_an_exemplar_whose_detection_is_another_deers_or_superseded_does_not_count(filled: tuple) -> None:
    database, vectors, ids = filled
    with database.session() as session:
        session.execute(text("UPDATE detections SET deer_id = :b WHERE id = :a"), {"a": ids[0], "b": ids[1]})
        session.execute(text("UPDATE detections SET superseded = true WHERE id = :a"), {"a": ids[2]})
        session.execute(
            text("DELETE FROM profile_exemplars WHERE detection_id = :a AND branch = 'baseline'"), {"a": ids[4]}
        )
        known = search.load_exemplars(session, "a", BRANCHES, ids[:6])
    assert [item.key for item in known] == [ids[1], ids[3], ids[5]]
    for branch in BRANCHES:
        for row, item in zip((1, 3, 5), known, strict=True):
            np.testing.assert_array_equal(item.vectors[branch].vectors, vectors[branch][row : row + 1])


def test_hnsw_decides_as_the_whole_gallery_does_whatever_was_learned(filled: tuple) -> None:
    database, vectors, ids = filled
    rng = np.random.default_rng(3)

    def fresh() -> dict[str, np.ndarray]:
        return {b: unit(rng.normal(size=(2, 512)).astype(np.float32)) for b in BRANCHES}

    named, opened = fresh(), fresh()
    asked = [
        {b: vectors[b][5:6] for b in BRANCHES},  # the stored exemplar of an individual that the drop names
        {b: named[b][:1] for b in BRANCHES},
        {b: opened[b] for b in BRANCHES},
        {b: vectors[b][40:42] for b in BRANCHES},
    ]
    search.prepare_search(database, "a", POLICY, exact_limit=10)
    with database.session() as session:
        exact = search.open_gallery(session, "a", POLICY)
        hnsw = search.open_gallery(session, "a", POLICY, exact_limit=10)
        for source in (exact, hnsw):
            source.learn(Known(ids[5], "d0005", "female", seen(named), [None, "left"]))
            source.learn(Known(uuid.UUID(int=1), "deer-0001", "unknown", seen(opened), [None, None]))
            source.learn(Known(ids[5], "d0005", "unknown", seen(named), [None, None]))
        best = []
        for rows in asked:
            query = Query(seen(rows), [None] * len(rows["baseline"]))
            whole, near = (decide(query, source.for_query(query), POLICY) for source in (exact, hnsw))
            assert whole.best is not None
            assert near.best is not None
            assert (near.outcome, near.best.name) == (whole.outcome, whole.best.name)
            assert near.best.score == pytest.approx(whole.best.score, abs=1e-5)
            best.append((whole.outcome, whole.best.name))
        kept = {item.key: item for item in hnsw.for_query(query).individuals}[ids[5]]
    assert best[:3] == [("matched", "d0005"), ("matched", "d0005"), ("matched", "deer-0001")]
    assert (len(kept.viewpoints), kept.sex) == (5, "female")


def test_sex_and_flank_decide_as_in_the_whole_gallery(filled: tuple) -> None:
    """The nearest sixty are does: an index that is asked without the sex proposes nobody that may be meant."""
    database, vectors, ids = filled
    query = {b: vectors[b][0] for b in BRANCHES}
    order = np.argsort(-sum(weight * (vectors[b] @ query[b]) for b, weight in POLICY.weights.items()))
    does, bucks = [ids[row] for row in order[:2900]], [ids[row] for row in order[2900:]]
    with database.session() as session:
        session.execute(text("UPDATE deer SET sex = 'doe' WHERE id = ANY(:ids)"), {"ids": does})
        session.execute(text("UPDATE deer SET sex = 'buck' WHERE id = ANY(:ids)"), {"ids": bucks})
        session.execute(
            text("UPDATE profile_exemplars SET viewpoint = 'right' WHERE deer_id = ANY(:ids)"), {"ids": bucks[30:]}
        )
    search.prepare_search(database, "a", POLICY, exact_limit=10)
    rows = seen({b: row[None] for b, row in query.items()})
    with database.session() as session:
        sources = [search.open_gallery(session, "a", POLICY, exact_limit=limit) for limit in (None, 10)]
        for sex, view in (("male", None), ("male", "left"), ("male", "right"), ("female", "left"), ("unknown", "left")):
            asked = Query(rows, [view], sex)
            galleries = [source.for_query(asked) for source in sources]
            whole, near = (decide(asked, gallery, POLICY) for gallery in galleries)
            assert whole.best is not None
            assert near.best is not None
            assert (near.outcome, near.best.name) == (whole.outcome, whole.best.name), (sex, view)
            assert near.best.score == pytest.approx(whole.best.score, abs=1e-5)
            assert near.incomparable == whole.incomparable
            compared = [known for known in galleries[1].individuals if sex in ("unknown", known.sex)]
            everyone = 100 if sex == "male" else 2900 if sex == "female" else 3000
            assert len(compared) + galleries[1].left_out + galleries[1].incomparable == everyone
    assert whole.incomparable == 70


def test_indexes_are_built_before_matching_and_never_by_it(filled: tuple) -> None:
    database, _, _ = filled
    wanted = {index_name("a", branch, HALFVEC) for branch in ("multiscale", "efficientnet")}

    def there() -> set[str]:
        with database.session() as session:
            return {name for name in indexes(session) if "hnsw" in name}

    search.prepare_search(database, "a", POLICY)
    assert there() == set()  # a small gallery needs none
    with database.session() as session:
        search.open_gallery(session, "a", POLICY, exact_limit=10)
    assert there() == set()
    search.prepare_search(database, "a", POLICY, exact_limit=10)
    search.prepare_search(database, "a", POLICY, exact_limit=10)
    assert there() == wanted
