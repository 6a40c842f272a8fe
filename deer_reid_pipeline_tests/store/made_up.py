"""Made-up galleries of a few thousand exemplars, as numpy sees them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.reid.similarity import FloatArray
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.embedded import EmbeddedServer
from deer_reid_pipeline.store.search.trial import BRANCHES, MadeUp
from deer_reid_pipeline_tests.sites import fresh_database

LIMIT = 1000
"""Rows above which these galleries get an index."""


@dataclass(frozen=True)
class Stored:
    """Exemplars: detections, their individuals and viewpoints, and the vectors by branch, row by row."""

    made_up: MadeUp
    detections: list[uuid.UUID]
    deer: list[uuid.UUID]
    left: np.ndarray
    male: np.ndarray
    vectors: dict[str, FloatArray]


def as_arrays(made_up: MadeUp) -> Stored:
    """What `trial.fill` stores of these."""
    people, each = made_up.individuals, made_up.each
    pictures = {
        branch: np.stack([made_up.pictures(branch, 0, people, number) for number in range(each)], axis=1)
        for branch in BRANCHES
    }
    owner = np.repeat(np.arange(people), each)
    return Stored(
        made_up,
        [uuid.UUID(int=(2 << 96) + number) for number in range(people * each)],
        [uuid.UUID(int=(1 << 96) + int(number)) for number in owner],
        np.tile(np.arange(each) % 2 == 0, people),
        owner < max(int(people * made_up.rare), 1),
        {branch: matrix.reshape(people * each, -1) for branch, matrix in pictures.items()},
    )


def copy_of(server: EmbeddedServer, template: str) -> Iterator[Database]:
    """A copy of a database on the tests' server; dropped at the end."""
    with fresh_database(server, template) as url:
        made = Database(url, server=server)
        yield made
        made.close()
