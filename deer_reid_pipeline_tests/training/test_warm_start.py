"""A network that goes on from a fine-tuned recipe begins with the vectors of that recipe, in training too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.training.network import EmbeddingNetwork, Head
from deer_reid_pipeline.training.shape import (
    branches_of,
    last_stride,
    layout,
    learned_branches,
    store_network,
    tuned_recipe,
)
from deer_reid_pipeline.training.trainer import embed
from deer_reid_pipeline.training.warm_start import start_heads
from deer_reid_pipeline.vision.backbones import load_backbone
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.coats import striped
from deer_reid_pipeline_tests.training.test_network import SMALL, network_of

CPU = torch.device("cpu")
CROPS = [striped(who, when) for who in range(8) for when in range(4)]


@pytest.fixture(scope="module")
def tuned(store: WeightStore, base: Recipe) -> Recipe:
    network = network_of(base, "main", store, SMALL)
    return tuned_recipe(base, {"main": store_network(store.models, network, base, "main")}, SMALL, "0" * 64, "0" * 12)


def going_on(recipe: Recipe, store: WeightStore, seed: int = 7) -> EmbeddingNetwork:
    """As the worker makes it, with heads of its own at first."""
    backbone = recipe.backbones["main"].model_copy(
        update={
            "preprocess": layout(recipe.backbones["main"], SMALL),
            "last_stride": last_stride(recipe, "main", SMALL),
        }
    )
    torch.manual_seed(seed)
    return EmbeddingNetwork(
        load_backbone(backbone, store).requires_grad_(True), backbone, branches_of(recipe, "main"), SMALL.frozen
    )


def test_it_begins_with_the_vectors_of_the_recipe(store: WeightStore, tuned: Recipe) -> None:
    network = going_on(tuned, store)
    spec = layout(tuned.backbones["main"], SMALL)
    start_heads(network, tuned, "main", store.models, CROPS[:20], spec, CPU)
    expected = Embedder(tuned, store, "cpu").embed(CROPS).vectors
    for branch, vectors in embed(network, spec, CROPS, CPU).items():
        np.testing.assert_allclose(vectors, expected[branch], atol=2e-5)
    again = store_network(store.models, network, tuned, "main")
    for branch, sha256 in again.projections.items():
        before, after = (store.models.load(each) for each in (tuned.branches[branch].projection.sha256, sha256))
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-4)


def test_in_training_a_head_begins_near_what_it_was() -> None:
    generator = torch.Generator().manual_seed(3)
    scale, shift = (torch.rand(96, generator=generator) * factor for factor in (4, 9))

    def features(rows: int) -> torch.Tensor:
        return torch.randn(rows, 96, generator=generator) * scale + shift

    torch.manual_seed(3)
    before = Head(96)
    torch.nn.init.uniform_(before.norm.weight, 0.5, 2)
    torch.nn.init.uniform_(before.norm.bias, -1, 1)
    torch.nn.init.uniform_(before.neck.weight, 0.5, 2)
    for norm in (before.norm, before.neck):
        norm.momentum = 1.0  # so that one batch tells it all
    before.train()(features(4000))
    matrix, offset = (part.detach() for part in before.affine())
    after = Head(96)
    after.start_from(matrix, offset, features(500))
    shown = features(64)
    expected = normalize(shown @ matrix.T + offset, dim=1)
    torch.testing.assert_close(normalize(after.eval()(shown).after, dim=1), expected, rtol=1e-4, atol=1e-5)
    cosine = (normalize(after.train()(shown).after, dim=1) * expected).sum(dim=1).detach()
    assert float(cosine.min()) > 0.9
    assert float(cosine.mean()) > 0.98
    assert not after.neck.bias.any()
    assert not after.neck.bias.requires_grad, "the neck learns no shift"


def test_what_was_never_fine_tuned_is_left_as_it_is(store: WeightStore, base: Recipe, tuned: Recipe) -> None:
    assert [learned_branches(base, key) for key in base.backbones] == [(), ()]
    assert learned_branches(tuned, "main") == ("baseline", "multiscale")
    assert learned_branches(tuned, "second") == ()
    network = going_on(base, store)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    start_heads(network, base, "main", store.models, CROPS, layout(base.backbones["main"], SMALL), CPU)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_head_that_pools_otherwise_begins_anew(store: WeightStore, tuned: Recipe) -> None:
    other = tuned.branches["multiscale"]
    taps = (other.taps[0].model_copy(update={"p": 4.0}), *other.taps[1:])
    changed = {**tuned.branches, "multiscale": other.model_copy(update={"taps": taps})}
    recipe = tuned.model_copy(update={"branches": changed})
    assert learned_branches(recipe, "main") == ("baseline",)
    network, fresh = going_on(recipe, store), going_on(recipe, store)
    start_heads(network, recipe, "main", store.models, CROPS, layout(recipe.backbones["main"], SMALL), CPU)
    assert torch.equal(network.heads["multiscale"].linear.weight, fresh.heads["multiscale"].linear.weight)
    assert not torch.equal(network.heads["baseline"].linear.weight, fresh.heads["baseline"].linear.weight)


def test_a_map_that_is_gone_is_said(store: WeightStore, tuned: Recipe) -> None:
    lost = tuned.branches["baseline"].projection.model_copy(update={"sha256": "0" * 64})
    changed = {**tuned.branches, "baseline": tuned.branches["baseline"].model_copy(update={"projection": lost})}
    recipe = tuned.model_copy(update={"branches": changed})
    with pytest.raises(WeightsError, match="is missing and this recipe needs it"):
        start_heads(
            going_on(recipe, store), recipe, "main", store.models, CROPS, layout(recipe.backbones["main"], SMALL), CPU
        )
