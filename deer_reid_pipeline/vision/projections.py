"""The fixed maps from pooled taps to 512 dimensions, made once and kept as files of the recipe.

Two kinds. `linear` is the owner's design: untrained Linear layers, but from a fixed seed and saved, so that a
restart does not make yesterday's vectors incomparable. `signs` is ours: each tap loses its mean over
calibration pictures (rectified features all point into one corner, which squeezes every cosine into a narrow
band), is scaled to unit mean length so that no tap outvotes another by its size, and is then projected by a
matrix of random signs (Johnson-Lindenstrauss; D. Achlioptas, Database-friendly random projections, JCSS 66,
2003). The signs come from SHAKE-256 over a text and are the same bits on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision.architectures import DIMENSION
from deer_reid_pipeline.vision.model_files import ModelFiles

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.recipe import Branch, Projection, Tap

_CENTRE_STEPS = 16
"""Centres are rounded to 1/16 of their rms (a power of two): float noise between machines (about 1e-6 of it)
almost never crosses a step, so ids agree; what is left of the mean is 0.03 % of its energy."""


class Projector(nn.Module):
    """Pooled taps to unit vectors: one affine map for each tap, concatenated or summed, L2-normalised."""

    def __init__(self, branch: Branch, features: Sequence[int], tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.taps = branch.taps
        self.combine = branch.projection.combine
        expected = set()
        for index, (size, out) in enumerate(zip(features, branch.projection.outputs, strict=True)):
            weight, bias = tensors.get(f"tap{index}.weight"), tensors.get(f"tap{index}.bias")
            expected |= {f"tap{index}.weight", f"tap{index}.bias"}
            if weight is None or tuple(weight.shape) != (out, size) or (bias is not None and bias.shape != (out,)):
                shape = None if weight is None else tuple(weight.shape)
                raise WeightsError(
                    f"projection {branch.projection.sha256[:12]} has tap{index} of shape {shape}, not {(out, size)}"
                )
            if not all(bool(torch.isfinite(each).all()) for each in (weight, bias) if each is not None):
                raise WeightsError(f"projection {branch.projection.sha256[:12]} holds numbers that are not finite")
            self.register_buffer(f"weight{index}", weight.float())
            self.register_buffer(f"bias{index}", None if bias is None else bias.float())
        if set(tensors) - expected:
            raise WeightsError(
                f"projection {branch.projection.sha256[:12]} holds unknown tensors: {sorted(set(tensors) - expected)}"
            )

    def forward(self, pooled: Mapping[Tap, torch.Tensor]) -> torch.Tensor:
        """tap -> float32 [n, features] to float32 [n, 512] of unit length."""
        parts = [
            nn.functional.linear(pooled[tap], getattr(self, f"weight{i}"), getattr(self, f"bias{i}"))
            for i, tap in enumerate(self.taps)
        ]
        joined = torch.cat(parts, dim=1) if self.combine == "concat" else torch.stack(parts).sum(dim=0)
        return nn.functional.normalize(joined, dim=1)


def linear_projection(models: ModelFiles, features: Sequence[int], outputs: Sequence[int], seed: int) -> Projection:
    """The owner's untrained Linear layers (torch's default initialisation, with bias), saved.

    Args:
        features: length of each pooled tap; outputs: width that each is brought to (512 in sum).
    """
    from deer_reid_pipeline.vision.recipe import Projection

    tensors = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for index, (size, out) in enumerate(zip(features, outputs, strict=True)):
            layer = nn.Linear(size, out)
            tensors[f"tap{index}.weight"], tensors[f"tap{index}.bias"] = layer.weight.data, layer.bias.data
    return Projection(kind="linear", sha256=models.save(tensors), outputs=tuple(outputs), seed=str(seed))


def sign_projection(
    models: ModelFiles,
    pooled: Sequence[NDArray[np.float32]],
    outputs: Sequence[int],
    seed: str,
    calibration: str,
) -> Projection:
    """Our projection, fitted (centre and scale only) on calibration pictures that show no real animal, saved.

    Args:
        pooled: for each tap float32 [n calibration pictures, features].
        outputs: width of each tap's share (512 in sum).
        seed: text that the signs are drawn from.
        calibration: digest of the calibration pictures, for the record.
    """
    from deer_reid_pipeline.vision.recipe import Projection

    tensors = {}
    for index, (values, out) in enumerate(zip(pooled, outputs, strict=True)):
        centre, scale = centre_and_scale(values)
        signs = sign_matrix(f"{seed}/tap{index}", out, values.shape[1])
        # Signs times a centre on a power-of-two grid: every sum is exact in float64, whatever the order.
        offset = signs.astype(np.float64) @ centre
        unit = 1.0 / (scale * np.sqrt(out))
        tensors[f"tap{index}.weight"] = torch.from_numpy((signs * unit).astype(np.float32))
        tensors[f"tap{index}.bias"] = torch.from_numpy((-offset * unit).astype(np.float32))
    return Projection(
        kind="signs", sha256=models.save(tensors), outputs=tuple(outputs), seed=seed, calibration=calibration
    )


def centre_and_scale(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Mean [features] and mean distance from it, of pooled features [n, features], rounded to be the same on
    any machine.

    Raises:
        WeightsError: the features do not vary, so nothing can be told from them.
    """
    mean = values.astype(np.float64).mean(axis=0)
    rms = float(np.sqrt(np.mean(mean**2)))
    step = 2.0 ** np.floor(np.log2(max(rms, 1e-12))) / _CENTRE_STEPS
    centre = np.rint(mean / step) * step
    spread = float(np.linalg.norm(values - centre, axis=1).mean())
    if not np.isfinite(spread) or spread <= 0:
        raise WeightsError("calibration pictures give features that do not vary; the weights are not usable")
    exponent = np.floor(np.log2(spread))
    return centre, float(np.rint(spread / 2.0**exponent * 32) / 32 * 2.0**exponent)


def sign_matrix(seed: str, rows: int, columns: int) -> NDArray[np.int8]:
    """int8 [rows, columns] of -1 and +1 from SHAKE-256 over `seed`; the same on every machine and version."""
    count = rows * columns
    stream = hashlib.shake_256(seed.encode("ascii")).digest((count + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), count=count).reshape(rows, columns)
    return (bits.astype(np.int8) * 2 - 1).astype(np.int8)


def shares(taps: int) -> tuple[int, ...]:
    """512 split evenly over the taps."""
    if DIMENSION % taps:
        raise ValueError(f"{taps} taps do not divide {DIMENSION}")
    return (DIMENSION // taps,) * taps
