"""Narrow weights: the parts make the whole, the shift of rounding goes, and nothing else changes."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deer_reid_pipeline.sample.calibration import calibration_pictures
from deer_reid_pipeline.vision.backbones import build_network, load_backbone
from deer_reid_pipeline.vision.decode import decode_image
from deer_reid_pipeline.vision.embedder import Embedder
from deer_reid_pipeline.vision.engine import backends, narrowing
from deer_reid_pipeline.vision.engine.backends import BackendError, Runner, build_runner, fast_types
from deer_reid_pipeline.vision.engine.choosing import WANTED_COSINE, measure
from deer_reid_pipeline.vision.engine.narrowing import NarrowingError, narrowed
from deer_reid_pipeline.vision.engine.options import PLAIN, Choice, EngineOptions
from deer_reid_pipeline.vision.features import lay_out
from deer_reid_pipeline.vision.recipe import BRANCHES, Backbone, Preprocess, Recipe, Tap
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
CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino has no wheel for this machine")


@pytest.fixture(autouse=True)
def _same_kind_of_pictures(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Random networks know colour fields, not deer: the shift is measured on others of the kind that tests look at."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(narrowing, "pictures", lambda: draw_crops(8, seed=9))


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


def test_nothing_behind_the_last_tap_is_computed() -> None:
    trunk = made_trunk("mobilenet_v2")
    early = Trunk(trunk.network, SPEC, [Tap(layer="stride16"), Tap(layer="stride8")]).eval()
    assert len(early.parts()) == 14
    batch = batch_of(2, seed=1)
    parts = narrowed(early, 3)
    assert parts[1].names[-1] == "stride16"
    for one, other in zip(in_turn(early, parts, batch), early(batch), strict=True):
        assert one.shape == other.shape


def channel_means(part: nn.Module, batch: torch.Tensor, rounding: bool) -> torch.Tensor:
    """Mean of every channel of every convolution, in one row; `rounding`: inputs and outputs as bfloat16 holds them."""
    found: list[torch.Tensor] = []

    def look(layer: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> torch.Tensor:
        kept = layer.forward(given[0].bfloat16().float()).bfloat16().float() if rounding else made.clone()
        found.append(kept.mean(dim=(0, 2, 3)))
        return kept

    handles = [layer.register_forward_hook(look) for layer in part.modules() if isinstance(layer, nn.Conv2d)]
    with torch.inference_mode():
        part(batch)
    for handle in handles:
        handle.remove()
    assert len(found) > 30
    return torch.cat(found)


@pytest.mark.parametrize("arch", TAPS)
def test_every_channel_keeps_its_mean(arch: str) -> None:
    """On the pictures that it was measured on, as nearly as a rounded bias can."""
    trunk, batch = made_trunk(arch), torch.from_numpy(lay_out(narrowing.pictures(), SPEC))
    before = {name: tensor.clone() for name, tensor in trunk.network.state_dict().items()}
    whole = len(trunk.network.parts())
    exact = TrunkPart(in_precision(trunk, torch.float32, folded=True), 0, whole)
    rounded = TrunkPart(in_precision(trunk, torch.float32, folded=True), 0, whole)
    for tensor in rounded.parts.parameters():
        tensor.data = tensor.data.bfloat16().float()
    [made] = narrowed(trunk, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.network.state_dict().items())
    wanted = channel_means(exact, batch, rounding=False)
    shift = (channel_means(rounded, batch, rounding=True) - wanted).norm()
    left = (channel_means(made, batch, rounding=True) - wanted).norm()
    assert left < 0.5 * shift


@needs_openvino
def test_a_trained_network_is_shifted_less(tmp_path: Path) -> None:
    """EfficientNet-Lite0 as OpenVINO computes it, biases included, on pictures that nothing was measured on."""
    if "bfloat16" not in fast_types(CPU):
        pytest.skip("this processor does not compute in bfloat16")
    store = WeightStore([tmp_path / "weights"], tmp_path / "models", offline=True)
    spec = Preprocess(width=224, height=224, mode="letterbox", mean=(0.498,) * 3, std=(0.502,) * 3)
    arch = "efficientnet_lite0"
    network = load_backbone(Backbone(arch=arch, weights=store.resolve(arch), preprocess=spec), store)
    trunk = Trunk(network, spec, [Tap(layer="head")])
    batch = torch.from_numpy(lay_out(calibration_pictures(10, seed=4), spec))
    with torch.inference_mode():
        [exact] = trunk(batch)
        [plain] = build_runner(trunk, Choice("openvino", "bfloat16"), CPU, 10)(batch)
        [found] = build_runner(trunk, Choice("openvino", "bfloat16", wide=0), CPU, 10)(batch)
    assert (found - exact).mean(dim=0).norm() < 0.85 * (plain - exact).mean(dim=0).norm()
    assert (found - exact).norm() < 0.85 * (plain - exact).norm()


def test_weights_of_the_first_part_are_what_bfloat16_holds_and_of_the_last_what_they_were() -> None:
    trunk = made_trunk("resnet50")
    first, last = narrowed(trunk, 3)
    exact = in_precision(trunk, torch.float32, folded=True).network.state_dict()
    weights = {name: layer.weight for name, layer in first.named_modules() if isinstance(layer, nn.Conv2d)}
    assert len(weights) == 43
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())
    assert last.names == ["", "", "layer4"]
    kept = {f"layer4.{name}": tensor for name, tensor in last.parts.state_dict().items()}
    assert kept
    assert all(torch.equal(tensor, exact[name]) for name, tensor in kept.items())


def test_what_cannot_be_narrowed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = made_trunk("mobilenet_v2")
    with pytest.raises(NarrowingError, match="has 19 parts"):
        narrowed(trunk, 19)
    monkeypatch.undo()
    narrowing.pictures.cache_clear()
    monkeypatch.setitem(sys.modules, "deer_reid_pipeline.sample.calibration", None)
    with pytest.raises(NarrowingError, match="drawing part"):
        narrowed(trunk, 0)
    choice = Choice("openvino", "bfloat16", wide=0)
    if find_spec("openvino") is not None:
        with pytest.raises(BackendError, match="drawing part"):
            build_runner(trunk, choice, CPU, 4)


@needs_openvino
def test_the_end_is_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], str]] = []
    convert = backends._converted

    def noted(network: TrunkPart, example: torch.Tensor, precision: str, count: int) -> Runner:
        asked.append((network.names, precision))
        return convert(network, example, precision, count)

    monkeypatch.setattr(backends, "_converted", noted)
    trunk = made_trunk("resnet50")
    build_runner(trunk, Choice("openvino", "bfloat16", wide=4), CPU, 4)
    assert [precision for _, precision in asked] == ["bfloat16", "float32"]
    assert asked[1][0] == ["layer3", "", "", "layer4"]
    asked.clear()
    build_runner(trunk, Choice("openvino", "bfloat16", wide=0), CPU, 4)
    assert [precision for _, precision in asked] == ["bfloat16"]


def test_only_bfloat16_of_openvino_has_parts_in_float32() -> None:
    for wrong in (("torch", "bfloat16", True), ("openvino", "float16", True), ("openvino", "bfloat16", False)):
        with pytest.raises(ValueError, match="kept in float32"):
            Choice(*wrong, wide=1)
    way = Choice("openvino", "bfloat16", wide=1)
    assert str(way) == "openvino bfloat16, shift taken out, last 1 in float32"
    assert EngineOptions(backend="openvino").allows(way)
    assert not EngineOptions(precision="bfloat16", backend="openvino").allows(way), "a cluster computes alike"


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
def test_what_passes_on_the_calibration_pictures_holds_on_others(data_dir: Path, tmp_path: Path) -> None:
    """`reference` with random weights, on real pictures and on drawn ones of which nothing was measured."""
    if "bfloat16" not in fast_types(CPU):
        pytest.skip("this processor does not compute in bfloat16")
    from deer_reid_pipeline.vision.catalog import build_recipe, drawn_pictures

    store = WeightStore([tmp_path / "weights"], tmp_path / "models", offline=True, allow_random=True)
    embedder = Embedder(build_recipe("reference", store), store, "cpu")
    options = EngineOptions(backend="openvino")
    plan = measure(embedder, drawn_pictures(), options=options, time_limit=600).plan(options)
    assert {key: choice.precision for key, choice in plan.items()} == {"main": "bfloat16", "second": "bfloat16"}
    files = sorted((data_dir / "nyala" / "images").rglob("*.jpg"))
    others = [decode_image(path, min_long_side=512) for path in files[:: len(files) // 40]]
    others += calibration_pictures(40, seed=777)
    laid_out = {spec: lay_out(others, spec) for spec in embedder.layouts()}
    for key, choice in plan.items():
        plain = embedder.vectors_of(key, embedder.runner(key, PLAIN), laid_out)
        found = embedder.vectors_of(key, embedder.runner(key, choice), laid_out)
        assert min(np.sum(plain[name] * found[name], axis=1).min() for name in plain) >= WANTED_COSINE
