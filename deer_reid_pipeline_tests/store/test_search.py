"""Exact search against numpy, and HNSW against exact search."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from deer_reid_pipeline.reid.matching import Known, MatchPolicy, Query, decide
from deer_reid_pipeline.reid.similarity import VectorSet, unit
from deer_reid_pipeline.store import search
from deer_reid_pipeline.store.database import Database

COUNT = 3000
BRANCHES = ("baseline", "multiscale", "efficientnet")


@pytest.fixture
def filled(database: Database) -> tuple[Database, dict[str, np.ndarray], list[uuid.UUID]]:
    """3,000 individuals with one exemplar each under recipe `a`, and as many under recipe `b`."""
    rng = np.random.default_rng(0)
    ids = [uuid.uuid5(uuid.NAMESPACE_OID, str(n)) for n in range(COUNT)]
    centres = rng.normal(size=(60, 512))
    vectors = {
        branch: unit((centres[rng.integers(0, 60, COUNT)] + rng.normal(size=(COUNT, 512))).astype(np.float32))
        for branch in BRANCHES
    }
    with database.session() as session:
        session.execute(text("INSERT INTO recipes (id, name, spec) VALUES ('a', 'a', '{}'), ('b', 'b', '{}')"))
        session.execute(
            text("INSERT INTO images (id, filename, path) VALUES (:i, 'x', 'x')"), [{"i": key} for key in ids]
        )
        session.execute(
            text("INSERT INTO deer (id, name, sighting_count) VALUES (:i, :n, 1)"),
            [{"i": key, "n": f"d{n:04d}"} for n, key in enumerate(ids)],
        )
        session.execute(
            text("INSERT INTO detections (id, image_id, deer_id, bbox, confidence) VALUES (:i, :i, :i, '{}', 1)"),
            [{"i": key} for key in ids],
        )
        for recipe in ("a", "b"):
            for branch in BRANCHES if recipe == "a" else ("multiscale",):
                rows = vectors[branch] if recipe == "a" else vectors[branch][::-1]
                session.execute(
                    text(
                        "INSERT INTO profile_exemplars (deer_id, recipe_id, branch, detection_id, vector) "
                        f"VALUES (:i, '{recipe}', '{branch}', :i, :v)"
                    ),
                    [{"i": key, "v": str(row.tolist())} for key, row in zip(ids, rows, strict=True)],
                )
    return database, vectors, ids


def test_exact_and_hnsw_find_what_numpy_finds(filled: tuple) -> None:
    database, vectors, ids = filled
    queries = unit(vectors["multiscale"][:20] + np.random.default_rng(1).normal(0, 0.02, (20, 512)).astype(np.float32))
    with database.session() as session:
        search.ensure_hnsw(session, "a", "multiscale")
        found_by_hnsw = 0
        for row in queries:
            cosines = vectors["multiscale"] @ row
            best = np.argsort(-cosines)[:10]
            exact = search.nearest(session, "a", "multiscale", row, 10, method="exact")
            assert [item.deer_id for item in exact] == [ids[index] for index in best]
            np.testing.assert_allclose([item.similarity for item in exact], cosines[best], atol=1e-5)
            hnsw = search.nearest(session, "a", "multiscale", row, 10, method="hnsw", ef_search=200)
            found_by_hnsw += len({item.deer_id for item in hnsw} & {item.deer_id for item in exact})
        assert found_by_hnsw / 200 >= 0.95
        session.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
        plan = "\n".join(
            line
            for (line,) in session.execute(
                text(
                    "EXPLAIN SELECT deer_id FROM profile_exemplars WHERE recipe_id = 'a' AND branch = 'multiscale' "
                    "ORDER BY vector <=> CAST(:v AS vector) LIMIT 10"
                ),
                {"v": str(queries[0].tolist())},
            )
        )
    assert search.hnsw_index_name("a", "multiscale") in plan


def test_recipes_are_searched_apart(filled: tuple) -> None:
    database, vectors, ids = filled
    with database.session() as session:
        top = search.nearest(session, "b", "multiscale", vectors["multiscale"][0], 1, method="exact")[0]
    assert top.deer_id == ids[-1]


def test_an_unknown_method_is_refused(database: Database) -> None:
    with database.session() as session, pytest.raises(ValueError, match="unknown search method"):
        search.nearest(session, "a", "multiscale", np.zeros(512, np.float32), 1, method="magic")


def test_the_large_gallery_path_scores_like_the_whole_gallery(filled: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    database, vectors, _ = filled
    policy = MatchPolicy(threshold=0.9, new_below=0.2)
    asked = Query({b: VectorSet("a", b, vectors[b][5:6]) for b in BRANCHES}, [None])
    with database.session() as session:
        whole = search.open_gallery(session, "a", policy)
        expected = decide(asked, whole.for_query(asked), policy)
        monkeypatch.setattr(search, "EXACT_LIMIT", 10)
        source = search.open_gallery(session, "a", policy)
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


def test_hnsw_decides_as_the_whole_gallery_does_whatever_was_learned(
    filled: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    with database.session() as session:
        exact = search.open_gallery(session, "a", POLICY)
        monkeypatch.setattr(search, "EXACT_LIMIT", 10)
        search.prepare_search(session, "a", POLICY)
        hnsw = search.open_gallery(session, "a", POLICY)
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


def test_indexes_are_built_before_matching_and_never_by_it(filled: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    database, _, _ = filled
    wanted = {search.hnsw_index_name("a", branch) for branch in ("multiscale", "efficientnet")}
    with database.session() as session:
        search.prepare_search(session, "a", POLICY)
        assert not wanted & indexes(session)  # a small gallery needs none
        monkeypatch.setattr(search, "EXACT_LIMIT", 10)
        search.open_gallery(session, "a", POLICY)
        assert not wanted & indexes(session)
        search.prepare_search(session, "a", POLICY)
        search.prepare_search(session, "a", POLICY)
        assert {name for name in indexes(session) if "hnsw" in name} == wanted
