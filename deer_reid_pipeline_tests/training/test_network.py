"""A trained network and the recipe made of it give the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline.training.errors import TrainingError
from deer_reid_pipeline.training.network import EmbeddingNetwork, layers_of
from deer_reid_pipeline.training.shape import branches_of, last_stride, layout, store_network, tuned_recipe, views_of
from deer_reid_pipeline.training.trainer import embed
from deer_reid_pipeline.vision.backbones import build_network, load_backbone
from deer_reid_pipeline.vision.catalog import build_recipe
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.model_files import ModelFiles
from deer_reid_pipeline.vision.recipe import CHANNELS, Recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.coats import striped

SMALL = TrainingConfig(width=96, height=64)


def network_of(recipe: Recipe, key: str, store: WeightStore, config: TrainingConfig) -> EmbeddingNetwork:
    backbone = recipe.backbones[key].model_copy(
        update={"preprocess": layout(recipe.backbones[key], config), "last_stride": last_stride(recipe, key, config)}
    )
    torch.manual_seed(1)
    made = EmbeddingNetwork(
        load_backbone(backbone, store).requires_grad_(True), backbone, branches_of(recipe, key), config.frozen
    )
    for head in made.heads.values():  # as after some training: nothing is neutral any more
        for norm in (head.norm, head.neck):
            torch.nn.init.uniform_(norm.weight, 0.5, 2)
            torch.nn.init.uniform_(norm.bias, -1, 1)
            torch.nn.init.uniform_(norm.running_mean, -1, 1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    return made


@pytest.mark.parametrize("name", ["mobile", "lite", "reference"])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_the_recipe_gives_the_trained_networks_vectors(name: str, last_stride: int, store: WeightStore) -> None:
    config = SMALL.model_copy(update={"last_stride": last_stride})
    start = build_recipe(name, store)
    networks = {key: network_of(start, key, store, config) for key in start.backbones}
    files = {key: store_network(store.models, network, start, key) for key, network in networks.items()}
    recipe = tuned_recipe(start, files, config, "0" * 64, "0" * 12)
    assert recipe.name == f"{name}.tuned"
    assert Recipe.from_json(recipe.to_json()) == recipe
    crops = [striped(1, 1), striped(2, 1), striped(3, 2)[:40]]
    found = Embedder(recipe, store, "cpu").embed(crops).vectors
    for key, network in networks.items():
        own = embed(network, layout(start.backbones[key], config), crops, torch.device("cpu"))
        for branch, vectors in own.items():
            np.testing.assert_allclose(found[branch], vectors, atol=2e-5)


@pytest.mark.parametrize(
    ("inner", "views", "expected"),
    [
        (0.85, 1, ()),
        (0.85, 3, (0.7391, 0.9775)),
        (0.85, 2, (0.7391,)),
        (1.0, 3, (0.8696,)),
        (0.9, 5, (0.6805, 0.7826, 1.0)),
    ],
)
def test_views_lie_around_the_share_that_was_trained(inner: float, views: int, expected: tuple[float, ...]) -> None:
    assert views_of(inner, views) == expected


def test_a_recipe_of_other_weights_or_another_stride_has_another_id(store: WeightStore, base: Recipe) -> None:
    made = network_of(base, "main", store, SMALL)
    files = {"main": store_network(store.models, made, base, "main")}
    recipe = tuned_recipe(base, files, SMALL, "0" * 64, "0" * 12)
    assert recipe.id != tuned_recipe(base, files, SMALL.model_copy(update={"last_stride": 2}), "0" * 64, "0" * 12).id
    assert recipe.branches["efficientnet"] == base.branches["efficientnet"]
    with torch.no_grad():
        made.heads["baseline"].linear.weight += 1e-3
    other = {"main": store_network(store.models, made, base, "main")}
    assert recipe.id != tuned_recipe(base, other, SMALL, "0" * 64, "0" * 12).id


@pytest.mark.parametrize("part", ["network", "multiscale"])
def test_a_network_that_is_not_finite_is_not_stored(
    store: WeightStore, base: Recipe, tmp_path: Path, part: str
) -> None:
    made = network_of(base, "main", store, SMALL)
    spoilt = next(made.network.parameters()) if part == "network" else made.heads[part].linear.weight
    with torch.no_grad():
        spoilt.view(-1)[7] = float("inf")
    with pytest.raises(
        TrainingError, match=f"the trained {part} has values that are not finite .* lower learning_rate"
    ):
        store_network(ModelFiles(tmp_path), made, base, "main")
    assert list(tmp_path.iterdir()) == []


def test_frozen_layers_do_not_move_and_statistics_stay(store: WeightStore, base: Recipe) -> None:
    made = network_of(base, "main", store, SMALL)
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    made.train()
    out = made(torch.randn(4, 3, 64, 96))
    sum(item.after.square().sum() for item in out.values()).backward()
    torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1).step()
    after = made.network.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved
    assert not any("running" in name for name in moved)
    frozen = len(layers_of(made.network)[: int(SMALL.frozen * len(layers_of(made.network)))])
    assert frozen > 0
    assert min(int(name.split(".")[1]) for name in moved) == frozen


@pytest.mark.parametrize("arch", list(CHANNELS))
def test_the_last_stage_keeps_its_resolution(arch: str) -> None:
    maps = {
        stride: build_network(arch, 160, 128, stride).eval().forward_taps(torch.zeros(1, 3, 128, 160), CHANNELS[arch])
        for stride in (2, 1)
    }
    *early, half, last = CHANNELS[arch] if arch == "resnet50" else list(CHANNELS[arch])[:3]
    for layer in (*early, half):
        assert maps[1][layer].shape == maps[2][layer].shape
    assert maps[1][last].shape[2:] == maps[1][half].shape[2:]
    assert maps[2][last].shape[2:] == torch.Size(side // 2 for side in maps[2][half].shape[2:])
