"""Stages, branches and batches timed apart: each does what it says, and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deer_reid_pipeline.vision.crops import encode_crop
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine import stages
from deer_reid_pipeline.vision.engine.loading import Job
from deer_reid_pipeline.vision.engine.measuring import batches_on_device, evenly
from deer_reid_pipeline.vision.engine.stages import (
    CUT,
    LAY_OUT,
    READ,
    VARIANTS,
    batch_seconds,
    compute,
    device_peak_mib,
    memory_of_batches,
    stage_seconds,
    variant_seconds,
)
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops
from deer_reid_pipeline_tests.vision.engine.card import CountedCard


@pytest.fixture
def embedder(small_recipe: Recipe, small_store: WeightStore) -> Embedder:
    return Embedder(small_recipe, small_store, "cpu")


def test_pictures_have_two_stages_more_than_stored_crops(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(np.tile(draw_crops(1)[0], (4, 4, 1))).save(path)
    after = ["forward: main", "projection: baseline", "projection: multiscale", "projection: efficientnet"]
    found = stage_seconds(embedder, [Job(n, path, (0.1, 0.1, 0.5, 0.5)) for n in range(18)], 4)
    assert list(found) == [READ, CUT, LAY_OUT, *after]
    assert min(found.values()) > 0
    stored = stage_seconds(embedder, [Job(0, encode_crop(draw_crops(1)[0]))], 4)
    assert list(stored) == [LAY_OUT, *after]
    with pytest.raises(ValueError, match="no pictures"):
        stage_seconds(embedder, [], 4)


def test_branches_of_one_backbone_share_its_pass(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, passes, projected = embedder.runner("main", embedder.plan["main"]), [], []
    monkeypatch.setattr(
        embedder, "runner", lambda key, choice: lambda batch: (passes.append(len(batch)), runner(batch))[1]
    )
    projector = embedder.projector
    monkeypatch.setattr(embedder, "projector", lambda name: (projected.append(name), projector(name))[1])
    on_device = batches_on_device(embedder, draw_crops(3), 5)
    for branches in VARIANTS.values():
        compute(embedder, on_device, branches)
    assert passes == [5] * len(VARIANTS)
    assert projected == [name for branches in VARIANTS.values() for name in branches]
    assert set(variant_seconds(embedder, draw_crops(3), 2, rounds=1)) == set(VARIANTS)


def test_a_batch_that_does_not_fit_is_said_to(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = stages.compute

    def limited(embedder: Embedder, on_device: dict, branches: tuple[str, ...]) -> None:
        if len(next(iter(on_device.values()))) > 4:
            raise torch.cuda.OutOfMemoryError("full")
        plain(embedder, on_device, branches)

    monkeypatch.setattr(stages, "compute", limited)
    found = batch_seconds(embedder, draw_crops(3), [1, 4, 8], rounds=1)
    assert found[8] is None
    assert found[1] is not None
    assert found[4] is not None


def test_without_a_card_nothing_is_said_of_its_memory(embedder: Embedder) -> None:
    assert memory_of_batches(embedder, 2**30) is None
    assert device_peak_mib(embedder.device) is None


def test_the_cards_memory_by_batch_and_the_largest_within_the_budget(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = CountedCard(monkeypatch)
    card.take(embedder, monkeypatch, as_device=True)
    before = embedder.limit.crops
    found = memory_of_batches(embedder, 150 * 2**20)
    assert found is not None
    assert found.peaks == {1: 103, 8: 124, 16: 148, 32: None}
    assert (found.largest, found.budget, found.total, found.device) == (16, 150, 16000, "a counted card")
    assert embedder.limit.crops == before
    assert card.most == 148, "what the budget does not hold is not held to find out"


def test_a_batch_that_the_embedder_had_to_halve_did_not_fit(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedder goes on in halves when memory runs out, which must not pass for a fit."""

    def embed(crops: list[object]) -> None:
        if len(crops) > 8:
            embedder.limit.crops = len(crops) // 2

    CountedCard(monkeypatch)
    monkeypatch.setattr(embedder, "embed", embed)
    embedder.device = torch.device("cuda", 0)
    found = memory_of_batches(embedder, 2**29)
    assert found is not None
    assert found.peaks == {1: 0, 8: 0, 16: None, 32: None}
    assert found.largest == 8


def test_items_are_taken_evenly() -> None:
    assert evenly(range(10), 3) == [0, 3, 6]
    assert evenly(range(2), 5) == [0, 1]
