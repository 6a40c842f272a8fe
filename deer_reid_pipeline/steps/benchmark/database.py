"""What the database costs an encounter: the search of the live matcher, and the writing of vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.reid.matching import Gallery, Known, Query, decide
from deer_reid_pipeline.reid.similarity import FloatArray, VectorSet, unit
from deer_reid_pipeline.steps.benchmark.subject import Subject
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.benchmark import exemplar_counts
from deer_reid_pipeline.store.search import open_gallery
from deer_reid_pipeline.vision.engine.timing import timed

QUERIES = 200
MADE_UP_INDIVIDUALS = 165
MADE_UP_EXEMPLARS = 10
"""Of one individual: five a flank, as many as a profile keeps."""

HOME, MADE_UP = "home", "made up"


@dataclass(frozen=True)
class SearchTimes:
    """How long the matcher takes for one picture among those that it knows.

    Attributes:
        gallery: 'home', or 'made up' where the home knows nobody under the recipe.
        opening: seconds to have the gallery ready, once a drop.
        median_ms, p95_ms, slowest_ms: of one search with its decision.
    """

    gallery: str
    individuals: int
    exemplars: int
    searches: int
    opening: float
    median_ms: float
    p95_ms: float
    slowest_ms: float


def search_times(site: Site, of: Subject, vectors: Mapping[str, FloatArray]) -> SearchTimes:
    """Search each of these pictures (in turns, `QUERIES` times) by the policy, as matching does.

    Args:
        vectors: branch -> float32 (n, 512) of the recipe.
    """
    recipe = of.recipe.id
    count = len(next(iter(vectors.values())))
    queries = [
        Query({b: VectorSet(recipe, b, matrix[row : row + 1]) for b, matrix in vectors.items()}, [None])
        for row in (number % count for number in range(QUERIES))
    ]
    with site.database.session() as session:
        individuals, exemplars = exemplar_counts(session, recipe)
        if individuals:
            start = time.perf_counter()
            source = open_gallery(session, recipe, of.policy)
            decide(queries[0], source.for_query(queries[0]), of.policy)  # the first one stacks the vectors
            opening = time.perf_counter() - start
            took = [timed(lambda: decide(query, source.for_query(query), of.policy)) for query in queries]  # noqa: B023
            return _times(HOME, individuals, exemplars, opening, took)
    gallery = Gallery(made_up_individuals(recipe, list(vectors)))
    start = time.perf_counter()
    decide(queries[0], gallery, of.policy)
    opening = time.perf_counter() - start
    took = [timed(lambda: decide(query, gallery, of.policy)) for query in queries]  # noqa: B023
    return _times(MADE_UP, MADE_UP_INDIVIDUALS, MADE_UP_INDIVIDUALS * MADE_UP_EXEMPLARS, opening, took)


def made_up_individuals(recipe: str, branches: list[str]) -> list[Known]:
    """As many individuals as the owner has, with vectors at random: what they are does not change the time."""
    rng = np.random.default_rng(0)
    flanks = ["left" if number % 2 else "right" for number in range(MADE_UP_EXEMPLARS)]
    return [
        Known(
            number,
            f"made-up-{number}",
            "unknown",
            {
                branch: VectorSet(
                    recipe, branch, unit(rng.standard_normal((MADE_UP_EXEMPLARS, 512)).astype(np.float32))
                )
                for branch in branches
            },
            flanks,
        )
        for number in range(MADE_UP_INDIVIDUALS)
    ]


def _times(gallery: str, individuals: int, exemplars: int, opening: float, took: list[float]) -> SearchTimes:
    times = np.array(took) * 1000
    return SearchTimes(
        gallery,
        individuals,
        exemplars,
        len(took),
        opening,
        float(np.median(times)),
        float(np.percentile(times, 95)),
        float(times.max()),
    )
