"""Nodes that die, and clusters that lack what is asked of them, each on a Ray cluster of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from deer_reid_pipeline.scale_out import cluster as clusters
from deer_reid_pipeline.scale_out import stream
from deer_reid_pipeline.scale_out.cluster import ScaleOutError
from deer_reid_pipeline.scale_out.stream import embed_on_cluster
from deer_reid_pipeline.vision.embedder import EmbeddingError
from deer_reid_pipeline.vision.engine.loading import Job
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.scale_out.clusters import least_cosine, ray_nodes

Written = Callable[[int], list[Job[str]]]


def test_a_node_that_dies_loses_and_doubles_nothing(
    recipe: Recipe, store: WeightStore, stored: Written, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=stream.__name__)
    with ray_nodes({"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        jobs = stored(400)
        other = next(iter(cluster.worker_nodes))
        batches, before = [], 0
        for batch in embed_on_cluster(recipe, store, jobs, 8):
            batches.append(batch)
            if not before and other.node_id in caplog.text:
                before = len(batches)
                cluster.remove_node(other, allow_graceful=False)
    assert 0 < before < 45, "something was left to do when it died"
    assert least_cosine(batches, recipe, store, jobs) >= 0.9999
    assert sum(len(batch.keys) for batch in batches) == len(jobs)


@pytest.mark.slow
def test_when_no_worker_is_left_the_run_ends_and_says_so(
    recipe: Recipe, store: WeightStore, stored: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "NO_PROGRESS_S", 60.0)
    with ray_nodes({"num_cpus": 0}, {"num_cpus": 1}) as cluster:
        batches = embed_on_cluster(recipe, store, stored(400), 8)
        next(batches)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        with pytest.raises(ScaleOutError, match=r"no worker has given anything for 60 s, and 1 nodes .* are alive"):
            list(batches)


def test_cards_that_torch_does_not_see_are_said(recipe: Recipe, store: WeightStore, stored: Written) -> None:
    """Ray counts a card where it is told so."""
    with ray_nodes({"num_cpus": 1, "num_gpus": 1}):
        with pytest.raises(ScaleOutError, match="has cards for Ray, but torch sees none there"):
            list(embed_on_cluster(recipe, store, stored(20), 16))
        assert list(embed_on_cluster(recipe, store, stored(20), 16, "cpu"))


def test_a_worker_on_a_card_that_torch_does_not_see_says_so(
    recipe: Recipe, store: WeightStore, stored: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "_card_mb_on", lambda *_: 8192)
    with ray_nodes({"num_cpus": 1, "num_gpus": 1}), pytest.raises(EmbeddingError, match="device cuda is absent"):
        list(embed_on_cluster(recipe, store, stored(20), 16))


def test_a_cluster_without_a_core_is_refused(recipe: Recipe, store: WeightStore, stored: Written) -> None:
    with ray_nodes({"num_cpus": 0}), pytest.raises(ScaleOutError, match="none of the 1 nodes"):
        list(embed_on_cluster(recipe, store, stored(20), 16))
