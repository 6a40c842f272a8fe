"""Ray clusters of several nodes on this machine, for tests; each node is a raylet of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from deer_reid_pipeline.reid.similarity import BRANCHES
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine.loading import Job
from deer_reid_pipeline.vision.engine.stream import StreamedBatch, embed_jobs
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore

OBJECT_STORE_BYTES = 150 * 2**20


@contextmanager
def ray_nodes(*nodes: dict[str, Any]) -> Iterator[Any]:
    """A cluster with one node for each dict of `Cluster.add_node`'s arguments, the first one its head, at RAY_ADDRESS.

    This process counts as one of the head. Everything is ended afterwards.
    """
    ray = pytest.importorskip("ray", reason='Ray is not installed: .venv/bin/pip install -e ".[ray]"')
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized(), "a test left a connection to Ray behind"
    before = {name: os.environ.get(name) for name in ("RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED")}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster()
    try:
        for node in nodes:
            _add(cluster, node)
        cluster.wait_for_nodes(timeout=120)
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _add(cluster: Any, node: dict[str, Any]) -> None:
    """Ray gives a node 30 s to start, which can be too little where other tests run."""
    for attempt in range(3):
        try:
            cluster.add_node(object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **node)
            return
        except Exception as error:  # Ray raises just that
            if attempt == 2 or "timed out during startup" not in str(error):
                raise


def vectors_of(batches: list[StreamedBatch[str]]) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    """(crop, branch) -> its vector; a crop that comes twice is an error."""
    found: dict[tuple[str, str], np.ndarray[Any, Any]] = {}
    for batch in batches:
        for row, key in enumerate(batch.keys):
            for name in BRANCHES:
                assert (key, name) not in found
                found[key, name] = batch.made.vectors[name][row]
    return found


def least_cosine(batches: list[StreamedBatch[str]], recipe: Recipe, store: WeightStore, jobs: list[Job[str]]) -> float:
    """To the vectors of the local engine, which must be of the same crops."""
    expected = vectors_of(list(embed_jobs(Embedder(recipe, store, "cpu"), jobs, 16)))
    found = vectors_of(batches)
    assert found.keys() == expected.keys()
    return min(float(found[key] @ expected[key]) for key in expected)


def wait_for(condition: Callable[[], bool], what: str, timeout: float = 90.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout:.0f} s"
        time.sleep(0.5)
