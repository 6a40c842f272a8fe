"""A drop's encounters: the order in which they are decided, and what is settled once for a whole drop."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, text

from deer_reid_pipeline.reid.encounters import EncounterGroup
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import BRANCHES, FloatArray
from deer_reid_pipeline.steps import matches
from deer_reid_pipeline.steps.deciding import Deciding, MatchReport, decide_one
from deer_reid_pipeline.steps.encounter_groups import DropToDecide, encounters_of
from deer_reid_pipeline.steps.site import Matcher
from deer_reid_pipeline.store import decisions as log_book
from deer_reid_pipeline.store.checks import undecided
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.media import DetectionRow
from deer_reid_pipeline.store.search import open_gallery

START = datetime(2026, 11, 1, 6, 0, tzinfo=UTC)
MATCHER = Matcher(SimpleNamespace(id="r"), MatchPolicy(threshold=0.9, new_below=0.2), None, ())  # type: ignore[arg-type]


def row(number: int, minute: float | None, camera: str, **changes: Any) -> DetectionRow:
    values: dict[str, Any] = {
        "id": uuid.UUID(int=number),
        "image_id": uuid.UUID(int=number),
        "file_path": f"{number}.jpg",
        "order": number,
        "camera": camera,
        "event_id": None,
        "timestamp": None if minute is None else START + timedelta(minutes=minute),
        "box": (0.1, 0.1, 0.2, 0.2),
        "classification": "unknown",
        "viewpoint": None,
        "life_stage": None,
        "given_individual": None,
        "individual": None,
        "encounter_id": None,
        "method": None,
        "confidence": 1.0,
    }
    known = set(DetectionRow.__dataclass_fields__)
    return DetectionRow(**{key: value for key, value in {**values, **changes}.items() if key in known})


def drop_of(rows: list[DetectionRow], looks: dict[int, FloatArray] | None = None) -> DropToDecide:
    """A drop whose detections look as given, else each like nobody else."""
    vectors = {item.id: np.eye(512, dtype=np.float32)[item.order] for item in rows}
    vectors |= {uuid.UUID(int=key): look for key, look in (looks or {}).items()}
    return DropToDecide("d", {item.id: item for item in rows}, dict.fromkeys(BRANCHES, vectors))


def numbers(groups: list[EncounterGroup]) -> list[list[int]]:
    return [[item.key.int for item in group.sightings] for group in groups]  # type: ignore[attr-defined]


def test_groups_of_an_event_are_neighbours_though_cameras_see_events_at_once() -> None:
    a, b, c = uuid.UUID(int=91), uuid.UUID(int=92), uuid.UUID(int=93)
    rows = [
        row(1, 0, "CAM1", image_id=a),
        row(2, 0, "CAM1", image_id=a),
        row(3, 1, "CAM2", image_id=b),
        row(4, 1, "CAM2", image_id=b),
        row(5, 2, "CAM1", image_id=c, box=(0.5, 0.5, 0.2, 0.2)),
        row(6, 2, "CAM1", image_id=c, given_individual="X"),
    ]
    groups = encounters_of(drop_of(rows), MATCHER)
    assert numbers(groups) == [[6], [1], [2], [5], [3], [4]]
    # The clearest animal of an event chooses first, wherever in the event it was seen.
    scores = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.9}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matches, "_top_score", lambda _w, _g, group: scores[group.sightings[0].key.int])
        ordered = matches._best_first(None, None, groups)  # type: ignore[arg-type]
    assert numbers(ordered) == [[6], [5], [2], [1], [4], [3]]


def test_linking_asks_for_appearance_above_the_policys_new_below_and_never_across_flanks() -> None:
    rows = [row(1, 0, "C", box=(0, 0, 0.1, 0.1)), row(2, 9, "C", box=(0.5, 0, 0.1, 0.1))]
    look = np.zeros(512, dtype=np.float32)
    look[1], look[2] = 0.6, 0.8
    looks = {2: look}  # similarity 0.6 to the first
    assert numbers(encounters_of(drop_of(rows, looks), MATCHER)) == [[1, 2]]
    strict = Matcher(MATCHER.recipe, MatchPolicy(threshold=0.9, new_below=0.7), None, ())
    assert numbers(encounters_of(drop_of(rows, looks), strict)) == [[1], [2]]
    flanks = [row(1, 0, "C", viewpoint="left"), row(2, 9, "C", viewpoint="right", box=(0.5, 0, 0.1, 0.1))]
    assert numbers(encounters_of(drop_of(flanks), MATCHER)) == [[1, 2]]


def test_names_of_individuals_are_read_once_a_drop(database: Database) -> None:
    rows = [row(number, None, "C") for number in range(1, 6)]
    asked: list[str] = []

    def listen(_c: Any, _cur: Any, statement: str, *_: Any) -> None:
        if "max(" in statement and "deer.name" in statement:
            asked.append(statement)

    with database.session() as session:
        session.execute(text("INSERT INTO recipes (id, name, spec) VALUES ('r', 'r', '{}')"))
        session.execute(
            text("INSERT INTO drops (key, name, root, digest, layout, detector) VALUES ('d', 'd', '/', 'x', 'x', 'x')")
        )
        for name in ("deer-0041", "deer-0007", "deer-x9", "reindeer-0099", "deer-", "deer-²"):
            session.execute(text("INSERT INTO deer (id, name) VALUES (:i, :n)"), {"i": uuid.uuid4(), "n": name})
        for item in rows:
            session.execute(text("INSERT INTO images (id, filename, path) VALUES (:i, 'x', 'x')"), {"i": item.id})
            session.execute(
                text("INSERT INTO detections (id, image_id, bbox, confidence) VALUES (:i, :i, '{}', 1)"),
                {"i": item.id},
            )
        drop = drop_of(rows)
        work = Deciding(MATCHER, drop, None, lambda _: None, MatchReport())
        gallery = open_gallery(session, "r", MATCHER.policy)
        groups = encounters_of(drop, MATCHER)
        event.listen(database.engine, "before_cursor_execute", listen)
        taken: dict[object, set[object]] = {item.id: set() for item in rows}
        for position, group in enumerate(groups):
            decide_one(session, work, gallery, group, position, taken)
        event.remove(database.engine, "before_cursor_execute", listen)
        opened = session.scalars(text("SELECT name FROM deer WHERE identified_by = 'machine' ORDER BY name")).all()
        assert undecided(session, "d") == 0
        session.execute(
            text("INSERT INTO encounters (id, drop_key, ordinal, event_key) VALUES (:i, 'd', 99, 'e')"),
            {"i": uuid.uuid4()},
        )
        assert undecided(session, "d") == 1
    assert opened == [f"deer-{number:04d}" for number in range(42, 47)]
    assert len(asked) == 1


def test_waiting_for_another_drop_is_said_once(database: Database) -> None:
    said: list[str] = []
    waiting, got = threading.Event(), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        waiting.set()

    def second() -> None:
        with database.session() as session:
            log_book.lock_matching(session, say)
            got.set()

    with database.session() as session:
        log_book.lock_matching(session, said.append)
        assert said == []
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(20)
        assert not got.is_set()
    thread.join(20)
    assert got.is_set()
    assert said == ["another drop is being decided; waiting"]
