"""The networks that a recipe may name and the feature maps in them, as plain tables that need no package at all."""

from __future__ import annotations

DIMENSION = 512
BRANCHES = ("baseline", "multiscale", "efficientnet")

CHANNELS: dict[str, dict[str, int]] = {
    "resnet50": {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048},
    "efficientnet_b0": {"stride8": 40, "stride16": 112, "stride32": 320, "head": 1280},
    "efficientnet_lite0": {"stride8": 40, "stride16": 112, "stride32": 320, "head": 1280},
    "efficientnet_lite2": {"stride8": 48, "stride16": 120, "stride32": 352, "head": 1280},
    "mobilenet_v2": {"stride8": 32, "stride16": 96, "stride32": 320, "head": 1280},
}
"""Architecture -> the feature maps that can be tapped -> their channels."""
