"""Our way through each network gives what the library's own way gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from deer_reid_pipeline.vision.backbones import build_network, load_backbone
from deer_reid_pipeline.vision.recipe import CHANNELS, Backbone, Preprocess
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.vision.conftest import save_stand_in


def loaded(tmp_path: Path, arch: str, width: int = 224, height: int = 224) -> torch.nn.Module:
    store = WeightStore([tmp_path], tmp_path / "models", offline=True)
    preprocess = Preprocess(width=width, height=height, mode="squash", mean=(0, 0, 0), std=(1, 1, 1))
    return load_backbone(Backbone(arch=arch, weights=store.resolve(arch), preprocess=preprocess), store)


@pytest.mark.parametrize("arch", sorted(CHANNELS))
def test_taps_have_their_channels_and_strides(arch: str) -> None:
    strides = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    strides |= {"stride8": 8, "stride16": 16, "stride32": 32, "head": 32}
    with torch.inference_mode():
        maps = build_network(arch, 96, 64).eval().forward_taps(torch.randn(1, 3, 64, 96), CHANNELS[arch])
    for layer, channels in CHANNELS[arch].items():
        assert maps[layer].shape == (1, channels, 64 // strides[layer], 96 // strides[layer])


def test_resnet_taps_equal_forward_hooks_on_plain_torchvision(tmp_path: Path) -> None:
    from torchvision.models import resnet50

    torch.manual_seed(3)
    whole = resnet50(weights=None).eval()
    for name, module in whole.named_modules():  # a trained file's activations are of the order of one
        if name.endswith("bn3"):
            module.weight.data.fill_(0.2)
    torch.save(whole.state_dict(), tmp_path / "stand_in.pth")
    from deer_reid_pipeline.vision.weights import declare

    declare(tmp_path, "resnet50", "stand_in.pth")
    seen: dict[str, torch.Tensor] = {}
    for name in ("layer2", "layer3", "layer4", "avgpool"):
        getattr(whole, name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    x = torch.randn(2, 3, 224, 224)
    network = loaded(tmp_path, "resnet50").to(memory_format=torch.channels_last)
    with torch.inference_mode():
        whole(x)
        maps = network.forward_taps(x.contiguous(memory_format=torch.channels_last), ["layer2", "layer3", "layer4"])
    for name in ("layer2", "layer3", "layer4"):
        torch.testing.assert_close(maps[name].contiguous(), seen[name], atol=1e-4, rtol=1e-4)
    pooled = functional.adaptive_avg_pool2d(maps["layer4"], 1)
    torch.testing.assert_close(pooled.contiguous(), seen["avgpool"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(224, 224), (192, 240)])
def test_efficientnet_b0_equals_its_package(tmp_path: Path, size: tuple[int, int]) -> None:
    from efficientnet_pytorch import EfficientNet

    from deer_reid_pipeline.vision.weights import declare

    torch.manual_seed(4)
    whole = EfficientNet.from_name("efficientnet-b0", image_size=[size[1], size[0]]).eval()
    torch.save(whole.state_dict(), tmp_path / "stand_in.pth")
    declare(tmp_path, "efficientnet_b0", "stand_in.pth")
    x = torch.randn(2, 3, size[1], size[0])
    network = loaded(tmp_path, "efficientnet_b0", *size).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = functional.adaptive_avg_pool2d(whole.extract_features(x), 1)
        ends = whole.extract_endpoints(x)
        maps = network.forward_taps(x.contiguous(memory_format=torch.channels_last), CHANNELS["efficientnet_b0"])
    found = functional.adaptive_avg_pool2d(maps["head"], 1)
    torch.testing.assert_close(found.contiguous(), expected, atol=1e-4, rtol=1e-4)
    for layer, end in (("stride8", "reduction_3"), ("stride16", "reduction_4"), ("stride32", "reduction_5")):
        torch.testing.assert_close(maps[layer].contiguous(), ends[end], atol=1e-4, rtol=1e-4)


def test_lite_features_equal_its_package(tmp_path: Path) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    store = WeightStore([tmp_path], tmp_path / "models", offline=True)
    ref = store.resolve("efficientnet_lite0")
    whole = EfficientNet.from_name("efficientnet-lite0").eval()
    whole.load_state_dict(store.state("efficientnet_lite0", ref), strict=False)
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        found = loaded(tmp_path, "efficientnet_lite0").forward_taps(x, ["head"])["head"]
        torch.testing.assert_close(found, whole.extract_features(x), atol=1e-4, rtol=1e-4)


def test_mobilenet_equals_torchvision(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2

    save_stand_in(tmp_path, "mobilenet_v2")
    whole = mobilenet_v2(weights=None).eval()
    whole.load_state_dict(torch.load(tmp_path / "mobilenet_v2.pth", weights_only=True), strict=False)
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        found = loaded(tmp_path, "mobilenet_v2", 96, 96).forward_taps(x, ["stride16", "head"])
        torch.testing.assert_close(found["head"], whole.features(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found["stride16"], whole.features[:14](x), atol=1e-4, rtol=1e-4)


def test_layers_beyond_the_last_wanted_one_are_not_computed() -> None:
    network = build_network("mobilenet_v2", 64, 64).eval()
    calls: list[int] = []
    for block in network.features:
        block.register_forward_hook(lambda *_: calls.append(1))
    network.forward_taps(torch.randn(1, 3, 64, 64), ["stride8"])
    assert len(calls) == 7
    with pytest.raises(ValueError, match="layer9"):
        network.forward_taps(torch.randn(1, 3, 64, 64), ["layer9"])
