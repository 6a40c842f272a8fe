"""Narrow weights: the parts make the whole, the shift of rounding goes, and nothing else changes."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deer_reid_pipeline.vision.backbones import build_network
from deer_reid_pipeline.vision.decode import decode_image
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine import narrowing
from deer_reid_pipeline.vision.engine.backends import BackendError, build_runner
from deer_reid_pipeline.vision.engine.narrowing import NarrowingError, narrowed
from deer_reid_pipeline.vision.engine.options import PLAIN, Choice
from deer_reid_pipeline.vision.features import lay_out
from deer_reid_pipeline.vision.recipe import BRANCHES, Preprocess, Recipe, Tap
from deer_reid_pipeline.vision.trunk import Trunk, TrunkPart, in_precision
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import draw_crops

SPEC = Preprocess(width=64, height=96, mode="squash", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.2))
TAPS = {
    "resnet50": ("layer4", "layer2"),
    "mobilenet_v2": ("head", "stride8", "stride32"),
    "efficientnet_b0": ("stride16", "head"),
    "efficientnet_lite0": ("head", "stride8"),
}
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino has no wheel for this machine")


@pytest.fixture(autouse=True)
def _same_kind_of_pictures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Random networks know colour fields, not deer: the shift is measured on others of the kind that tests look at."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(narrowing, "_pictures", lambda: draw_crops(8, seed=9))


def made_trunk(arch: str) -> Trunk:
    """Random weights whose batch norms know the pictures, as in a trained network."""
    torch.manual_seed(3)
    network = build_network(arch, SPEC.width, SPEC.height)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    trunk = Trunk(network, SPEC, [Tap(layer=name) for name in TAPS[arch]])
    with torch.no_grad():
        trunk.train()(batch_of(16, seed=5))
    return trunk.eval().requires_grad_(False)


def batch_of(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(lay_out(draw_crops(count, seed), SPEC))


def in_turn(trunk: Trunk, parts: list[TrunkPart], batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    pooled = {}
    with torch.inference_mode():
        for part in parts:
            found = part(batch)
            pooled.update(zip(part.taps, found, strict=False))
            batch = found[-1]
    return tuple(pooled[tap] for tap in trunk.taps)


@pytest.mark.parametrize("arch", TAPS)
def test_parts_one_after_the_other_are_the_whole(arch: str) -> None:
    trunk, batch = made_trunk(arch), batch_of(3, seed=1)
    folded = in_precision(trunk, torch.float32, folded=True)
    count = len(folded.network.parts())
    with torch.inference_mode():
        expected = trunk(batch)
    for cut in (1, count // 2, count - 1):
        parts = [TrunkPart(folded, 0, cut), TrunkPart(folded, cut, count)]
        assert {tap for part in parts for tap in part.taps} == set(trunk.taps)
        for one, other in zip(in_turn(trunk, parts, batch), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arch", TAPS)
def test_the_shift_of_rounding_is_taken_out_of_every_convolution(arch: str) -> None:
    """By itself, on exact input: what a channel is off by, on the mean over the pictures and their places."""
    trunk, batch = made_trunk(arch), torch.from_numpy(lay_out(narrowing._pictures(), SPEC))
    before = {name: tensor.clone() for name, tensor in trunk.network.state_dict().items()}
    exact = in_precision(trunk, torch.float32, folded=True)
    [made] = narrowed(trunk, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.network.state_dict().items())
    narrow = [layer for layer in made.modules() if isinstance(layer, nn.Conv2d)]
    wide = [layer for _, part in exact.network.parts() for layer in part.modules() if isinstance(layer, nn.Conv2d)]
    seen: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer in wide:
        layer.register_forward_hook(lambda layer, given, made: seen.update({layer: (given[0].clone(), made.clone())}))
    with torch.inference_mode():
        exact(batch)
        shifts, left = [], []
        for layer, other in zip(wide, narrow, strict=True):
            given, made_of_it = seen[layer]
            off = other(given.bfloat16().float()) - made_of_it
            left.append(off.mean(dim=(0, 2, 3)).norm())
            assert layer.bias is not None
            assert other.bias is not None
            shifts.append((off + (layer.bias - other.bias).view(1, -1, 1, 1)).mean(dim=(0, 2, 3)).norm())
    assert len(narrow) > 30
    assert torch.stack(left).norm() < 0.02 * torch.stack(shifts).norm()


def test_weights_of_the_first_part_are_what_bfloat16_holds_and_of_the_last_what_they_were() -> None:
    trunk = made_trunk("resnet50")
    first, last = narrowed(trunk, 1)
    exact = in_precision(trunk, torch.float32, folded=True).network.state_dict()
    weights = {name: layer.weight for name, layer in first.named_modules() if isinstance(layer, nn.Conv2d)}
    assert len(weights) == 43
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())
    assert last.names == ["layer4"]
    kept = {f"layer4.{name.removeprefix('parts.0.')}": tensor for name, tensor in last.state_dict().items()}
    assert kept
    assert all(torch.equal(tensor, exact[name]) for name, tensor in kept.items())


def test_what_cannot_be_narrowed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = made_trunk("mobilenet_v2")
    with pytest.raises(NarrowingError, match="has 19 parts"):
        narrowed(trunk, 19)
    monkeypatch.undo()
    narrowing._pictures.cache_clear()
    monkeypatch.setitem(sys.modules, "deer_reid_pipeline.sample.calibration", None)
    with pytest.raises(NarrowingError, match="drawing part"):
        narrowed(trunk, 0)
    choice = Choice("openvino", "bfloat16", wide=0)
    if find_spec("openvino") is not None:
        with pytest.raises(BackendError, match="drawing part"):
            build_runner(trunk, choice, torch.device("cpu"), 4)


@needs_openvino
@pytest.mark.parametrize("wide", [0, 1, 4])
def test_openvino_computes_the_parts_in_any_batch(small_recipe: Recipe, small_store: WeightStore, wide: int) -> None:
    embedder = Embedder(small_recipe, small_store, "cpu")
    pictures = draw_crops(9, seed=4)
    before = embedder.embed(pictures).vectors
    embedder.use({"main": Choice("openvino", "bfloat16", wide=wide)})
    found, alone = embedder.embed(pictures).vectors, embedder.embed(pictures[:1]).vectors
    for name in BRANCHES:
        assert (found[name] * before[name]).sum(axis=1).min() >= 0.95, "these weights are random"
        assert float(found[name][0] @ alone[name][0]) >= 0.9999


@needs_openvino
@pytest.mark.slow
def test_a_way_that_passes_on_drawn_pictures_holds_on_real_ones(data_dir: Path, tmp_path: Path) -> None:
    """`reference` with random weights: the shift is measured on drawn pictures only."""
    from deer_reid_pipeline.vision.catalog import build_recipe

    store = WeightStore([tmp_path / "weights"], tmp_path / "models", offline=True, allow_random=True)
    embedder = Embedder(build_recipe("reference", store), store, "cpu")
    files = sorted((data_dir / "nyala" / "images").rglob("*.jpg"))
    real = [decode_image(path, min_long_side=512) for path in files[:: len(files) // 40]]
    laid_out = {spec: lay_out(real, spec) for spec in embedder.layouts()}
    for key, wide in (("main", 1), ("second", 0)):
        plain = embedder.vectors_of(key, embedder.runner(key, PLAIN), laid_out)
        choice = Choice("openvino", "bfloat16", wide=wide)
        found = embedder.vectors_of(key, embedder.runner(key, choice), laid_out)
        assert min(np.sum(plain[name] * found[name], axis=1).min() for name in plain) >= 0.999
