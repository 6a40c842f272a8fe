"""Real Ray clusters of two nodes on this machine: the same vectors, whoever dies; and errors of one line."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.scale_out import cluster as clusters
from deer_reid_pipeline.scale_out import stream
from deer_reid_pipeline.scale_out.cluster import ScaleOutError
from deer_reid_pipeline.scale_out.parcel import pack
from deer_reid_pipeline.scale_out.stream import embed_on_cluster
from deer_reid_pipeline.vision.engine.loading import Job
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.scale_out.clusters import least_cosine, ray_nodes, wait_for

Written = Callable[[int], list[Job[str]]]


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    with ray_nodes({"num_cpus": 1}, {"num_cpus": 1}) as cluster:
        yield cluster


def test_both_nodes_give_the_vectors_of_this_machine(
    two_nodes: Any,
    recipe: Recipe,
    store: WeightStore,
    stored: Written,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = stored(640)
    whole = jobs[3].source.read_bytes()  # type: ignore[union-attr]
    jobs[3].source.write_bytes(whole[:50])  # type: ignore[union-attr]
    jobs[5].source.unlink()  # type: ignore[union-attr]
    said: list[str] = []
    with caplog.at_level(logging.DEBUG, logger=stream.__name__):
        batches = list(embed_on_cluster(recipe, store, jobs, 16, say=said.append))
    assert least_cosine(batches, recipe, store, jobs) >= 0.9999
    assert {key for batch in batches for key, _ in batch.failed} == {"crop 3", "crop 5"}
    assert [batch.taken for batch in batches] == [16 * turn for turn in range(1, 41)]
    assert all(batch.made.branch_seconds["multiscale"] > 0 for batch in batches if batch.keys)
    nodes = {line.split()[-1] for line in caplog.messages if " crops by node " in line}
    assert nodes == {node.node_id for node in two_nodes.list_all_nodes()}
    assert len(said) == 1
    assert said[0].startswith("640 crops go to up to 2 workers of 1 core on Ray")
    assert capsys.readouterr().out == "", "standard output belongs to results"


def test_only_the_branches_that_are_asked_for_come_back(
    two_nodes: Any, recipe: Recipe, store: WeightStore, stored: Written
) -> None:
    jobs, wanted = stored(40), ("baseline", "multiscale")
    whole = {branch: {} for branch in wanted}  # type: ignore[var-annotated]
    for batch in embed_on_cluster(recipe, store, jobs, 16):
        for branch, found in whole.items():
            found.update(zip(batch.keys, batch.made.vectors[branch], strict=True))
    for batch in embed_on_cluster(recipe, store, jobs, 16, branches=wanted):
        assert set(batch.made.vectors) == set(batch.made.branch_seconds) == set(wanted)
        for branch, found in whole.items():
            for key, vector in zip(batch.keys, batch.made.vectors[branch], strict=True):
                assert float(vector @ found[key]) >= 0.9999


def test_what_a_worker_says_of_its_recipe_comes_out_in_one_line(
    two_nodes: Any, recipe: Recipe, store: WeightStore, stored: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "pack", lambda *given: replace(pack(*given), version="9.9"))
    with pytest.raises(WeightsError, match=r"and the command 9\.9: install the same version$"):
        list(embed_on_cluster(recipe, store, stored(40), 16))


def test_a_card_that_is_asked_for_must_be_there(two_nodes: Any, recipe: Recipe, store: WeightStore) -> None:
    with pytest.raises(ScaleOutError, match=r"DEER_REID_DEVICE=cuda:1, but no node .* has a card"):
        list(embed_on_cluster(recipe, store, [], 16, "cuda:1"))


def test_sigterm_stays_what_it_was(two_nodes: Any) -> None:
    """A run of Dagster is cancelled by SIGTERM, and Ray sets a handler of its own."""
    import ray

    ray.shutdown()
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        mine = signal.getsignal(signal.SIGTERM)
        clusters.connect()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_who_stops_listening_leaves_no_worker(
    two_nodes: Any, recipe: Recipe, store: WeightStore, stored: Written
) -> None:
    import ray

    batches = embed_on_cluster(recipe, store, stored(200), 8)
    next(batches)
    assert ray.available_resources().get("CPU", 0.0) < 2
    batches.close()  # type: ignore[attr-defined]
    wait_for(lambda: ray.available_resources().get("CPU", 0.0) == 2, "two free cores")
