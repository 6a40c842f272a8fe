"""From crops to pooled taps: preprocessing and pooling, shared by the embedder and by the making of
projections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from deer_reid_pipeline.vision.backbones import Network
from deer_reid_pipeline.vision.crops import inner_part, letterbox, squash
from deer_reid_pipeline.vision.decode import Pixels

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Preprocess, Tap

_GEM_FLOOR = 1e-6


def lay_out(crops: Sequence[Pixels], spec: Preprocess) -> NDArray[np.uint8]:
    """Crops (uint8 [h, w, 3], any sizes) as one uint8 array [n, height, width, 3].

    Raises:
        ValueError: a crop is not uint8 [h, w, 3] with at least one pixel.
    """
    batch = np.empty((len(crops), spec.height, spec.width, 3), np.uint8)
    for index, crop in enumerate(crops):
        if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or 0 in crop.shape:
            raise ValueError(f"crop {index} is {crop.dtype} {crop.shape}, not uint8 [h, w, 3]")
        part = inner_part(crop, spec.inner)
        if spec.mode == "letterbox":
            batch[index] = letterbox(part, spec.width, spec.height, spec.fill)
        else:
            batch[index] = squash(part, spec.width, spec.height)
    return batch


def normalise(batch: NDArray[np.uint8], spec: Preprocess, device: torch.device) -> torch.Tensor:
    """uint8 [n, h, w, 3] to float32 [n, 3, h, w] (channels last in memory) on `device`; bytes travel, not
    floats."""
    x = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float()
    mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)
    return x.div_(255.0).sub_(mean).div_(std)


def pool(features: torch.Tensor, tap: Tap) -> torch.Tensor:
    """A feature map [n, c, h, w] to [n, c * grid * grid], as a recipe's tap says."""
    if tap.pool == "max":
        pooled = functional.adaptive_max_pool2d(features, tap.grid)
    elif tap.pool == "gem":
        powers = features.clamp(min=_GEM_FLOOR).pow(tap.p)
        pooled = functional.adaptive_avg_pool2d(powers, tap.grid).pow(1.0 / tap.p)
    else:
        pooled = functional.adaptive_avg_pool2d(features, tap.grid)
    return pooled.flatten(1)


def mean_direction(views: Sequence[torch.Tensor]) -> torch.Tensor:
    """Unit vectors of several views of the same crops, each [n, d], to one float32 [n, d]; of one view, itself."""
    if len(views) == 1:
        return views[0].float()
    return functional.normalize(torch.stack([view.float() for view in views]).sum(dim=0), dim=1)


def pooled_taps(network: Network, x: torch.Tensor, taps: Sequence[Tap]) -> dict[Tap, torch.Tensor]:
    """Every tap of one forward pass, float32 [n, features]; taps that several branches share are pooled
    once."""
    maps = network.forward_taps(x, {tap.layer for tap in taps})
    return {tap: pool(maps[tap.layer].float(), tap) for tap in dict.fromkeys(taps)}
