"""bfloat16 without the shift that rounded weights and biases give.

A rounded weight is wrong by the same amount for every picture. What follows a ReLU has a large mean, so the error of a
convolution is largely one constant for each channel, and vectors, from which the mean is taken out, change by it more
than the network's own output does. The constant is measured on drawn pictures and taken out of the biases (bias
correction, section 4.2 of Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019),
one convolution after the other, because a bias is rounded too, and what that leaves is met by those that follow.
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
    """A trunk (float32, as loaded) in one or two parts, batch norms folded: the first to be computed in bfloat16, which
    holds its weights and biases exactly, the second, its last `wide` parts, in float32.

    Raises:
        NarrowingError: the network has no more parts than `wide`, or there are no pictures to measure the shift on.
    """
    made = in_precision(trunk, torch.float32, folded=True)
    count = len(made.parts())
    if not 0 <= wide < count:
        raise NarrowingError(f"the network has {count} parts, so {wide} of them cannot be its end")
    first = TrunkPart(made, 0, count - wide)
    _narrow(first, torch.from_numpy(lay_out(pictures(), trunk.spec)))
    return [first, TrunkPart(made, count - wide, count)] if wide else [first]


@torch.inference_mode()
def _narrow(part: TrunkPart, batch: torch.Tensor) -> None:
    """Round weights and biases, so that each channel of each convolution keeps its mean over `batch` (uint8
    [n, h, w, 3]) and its places, as nearly as a rounded bias can, when what comes before is rounded too."""
    layers = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]
    exact: dict[nn.Module, torch.Tensor] = {}

    def note(layer: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        exact[layer] = made.mean(dim=(0, 2, 3))

    def keep_mean(layer: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> torch.Tensor:
        assert isinstance(layer, nn.Conv2d)
        layer.weight.data = _rounded(layer.weight.data)
        layer.bias = None
        rounded = layer.forward(_rounded(given[0]))
        bias = _rounded(exact[layer] - rounded.mean(dim=(0, 2, 3)))
        layer.bias = nn.Parameter(bias, requires_grad=False)
        return _rounded(rounded + bias.view(1, -1, 1, 1))

    for hook in (note, keep_mean):
        handles = [layer.register_forward_hook(hook) for layer in layers]
        part(batch)
        for handle in handles:
            handle.remove()


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.bfloat16).float()


@functools.cache
def pictures() -> list[NDArray[np.uint8]]:
    """What means are kept on, uint8 [h, w, 3]; drawn once a process, which takes seconds.

    Raises:
        NarrowingError: the drawing part of the product is not installed.
    """
    try:
        drawing = importlib.import_module("deer_reid_pipeline.sample.calibration")
    except ImportError as error:
        raise NarrowingError(f"the drawing part of the product is not installed ({error})") from error
    return list(drawing.calibration_pictures(PICTURES, PICTURES_SEED))
