"""Batches: halved when memory runs out, never larger than the budget, and no crop lost or computed twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deer_reid_pipeline.vision.decode import Pixels
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine.batches import SIZES, BatchLimit, largest_batch, limit_memory, vram_budget
from deer_reid_pipeline.vision.recipe import BRANCHES, Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops
from deer_reid_pipeline_tests.vision.engine.card import CountedCard


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_stays_so() -> None:
    limit = BatchLimit(32)
    asked: list[int] = []

    def work(start: int, end: int) -> range:
        asked.append(end - start)
        if end - start > 5:
            raise torch.cuda.OutOfMemoryError("no")
        return range(start, end)

    assert [row for part in limit.run(40, work) for row in part] == list(range(40))
    assert asked[:4] == [32, 16, 8, 4]
    assert set(asked[4:]) == {4}
    assert limit.crops == 4
    with pytest.raises(ValueError, match="0 crops"):
        BatchLimit(0)


def test_one_crop_that_does_not_fit_is_the_callers_error() -> None:
    def work(start: int, end: int) -> None:
        raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="full"):
        BatchLimit(8).run(3, work)


def test_an_embedder_goes_on_with_smaller_batches(small_recipe: Recipe, small_store: WeightStore) -> None:
    crops = draw_crops(20)
    expected = Embedder(small_recipe, small_store, "cpu").embed(crops).vectors
    tight = Embedder(small_recipe, small_store, "cpu")
    network = tight.trunks["main"].network
    forward, sizes = network.forward_taps, []

    def limited(x: torch.Tensor, layers: set[str]) -> dict[str, torch.Tensor]:
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(x, layers)

    network.forward_taps = limited  # type: ignore[method-assign]
    found = tight.embed(crops).vectors
    assert sizes[:4] == [20, 10, 5, 2]
    assert max(sizes[4:]) == tight.limit.crops == 2
    for name in BRANCHES:
        assert (found[name] * expected[name]).sum(axis=1).min() >= 0.9999
    prepared = [tight.prepare(crop) for crop in crops]
    assert (tight.embed_prepared(prepared).vectors["baseline"] == found["baseline"]).all()


@pytest.mark.parametrize(("room", "largest", "asked"), [(20, 16, [1, 2, 4, 8, 16, 32]), (0, 0, [1])])
def test_the_largest_batch_is_the_last_that_runs(room: int, largest: int, asked: list[int]) -> None:
    tried: list[int] = []

    def run(size: int) -> None:
        tried.append(size)
        if size > room:
            raise torch.cuda.OutOfMemoryError("no")

    assert largest_batch(run) == largest
    assert tried == asked, "no further than needed"
    assert largest_batch(lambda size: None) == SIZES[-1]


def test_the_budget_is_what_was_set_else_three_quarters_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        total_memory = 16 * 2**30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    assert vram_budget(None, torch.device("cuda", 0)) == 12 * 2**30
    assert vram_budget(512, torch.device("cuda", 0)) == 512 * 2**20


def test_torch_is_told_the_limit_as_a_share_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card, device = CountedCard(monkeypatch), torch.device("cuda", 0)
    limit_memory(4000 * 2**20, device)
    assert card.cap == 4000
    limit_memory(20000 * 2**20, device)
    assert card.cap == card.total, "torch takes no share above 1"


def test_crops_laid_out_elsewhere_give_the_same_vectors(small_recipe: Recipe, small_store: WeightStore) -> None:
    embedder = Embedder(small_recipe, small_store, "cpu")
    crops: list[Pixels] = draw_crops(7)
    made = embedder.embed_prepared([embedder.prepare(crop) for crop in crops])
    for name, values in embedder.embed(crops).vectors.items():
        assert np.array_equal(made.vectors[name], values)
    assert embedder.embed_prepared([]).vectors["multiscale"].shape == (0, 512)
