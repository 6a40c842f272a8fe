"""bfloat16 weights without the shift that rounding them gives.

A rounded weight is wrong by the same amount for every picture. What follows a ReLU has a large mean, so the error of a
convolution is mostly one constant for each channel; vectors, from which the mean is taken out, change by it far more
than the network's own output does. The constant is measured on drawn pictures and taken out of the bias (bias
correction, section 4.2 of Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019).
"""

from __future__ import annotations

import functools
import importlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.vision.features import lay_out
from deer_reid_pipeline.vision.trunk import Trunk, TrunkPart, in_precision

PICTURES = 8
PICTURES_SEED = 20261123
"""Other pictures than those of the self-test, which judges what comes of it."""


class NarrowingError(DeerReidError):
    """A network cannot be made ready for narrow weights."""


def narrowed(trunk: Trunk, wide: int) -> list[TrunkPart]:
    """A trunk (float32, as loaded) in one or two parts, batch norms folded: the first to be computed in bfloat16, with
    weights that bfloat16 holds exactly and corrected biases, the second, its last `wide` parts, in float32.

    Raises:
        NarrowingError: the network has no more parts than `wide`, or there are no pictures to measure the shift on.
    """
    made = in_precision(trunk, torch.float32, folded=True)
    count = len(made.network.parts())
    if not 0 <= wide < count:
        raise NarrowingError(f"the network has {count} parts, so {wide} of them cannot be its end")
    first = TrunkPart(made, 0, count - wide)
    _take_out_shift(first, torch.from_numpy(lay_out(_pictures(), trunk.spec)))
    return [first, TrunkPart(made, count - wide, count)] if wide else [first]


@torch.inference_mode()
def _take_out_shift(part: TrunkPart, batch: torch.Tensor) -> None:
    """Round the weights of its convolutions, and take what that shifts each channel by, on the mean over `batch` (uint8
    [n, h, w, 3]) and its places, out of the biases. Every convolution is measured on float32 input."""
    shifts: dict[nn.Conv2d, torch.Tensor] = {}

    def measure(layer: nn.Module, given: tuple[torch.Tensor, ...], exact: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight.data
        layer.weight.data = _rounded(weight)
        shifts[layer] = (layer.forward(_rounded(given[0])) - exact).mean(dim=(0, 2, 3))
        layer.weight.data = weight

    layers = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_hook(measure) for layer in layers]
    part(batch)
    for hook in hooks:
        hook.remove()
    for layer, shift in shifts.items():
        layer.weight.data = _rounded(layer.weight.data)
        bias = -shift if layer.bias is None else layer.bias.data - shift
        layer.bias = nn.Parameter(bias, requires_grad=False)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.bfloat16).float()


@functools.cache
def _pictures() -> list[NDArray[np.uint8]]:
    try:
        drawing = importlib.import_module("deer_reid_pipeline.sample.calibration")
    except ImportError as error:
        raise NarrowingError(f"the drawing part of the product is not installed ({error})") from error
    return list(drawing.calibration_pictures(PICTURES, PICTURES_SEED))
