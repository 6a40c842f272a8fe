"""In which arithmetic a network is trained on a device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from deer_reid_pipeline.vision.engine.backends import TYPES, fast_types


def training_type(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """The type of the forward pass; auto: bfloat16 where the device computes in it, float16 on other NVIDIA cards, else
    float32."""
    if wanted != "auto":
        return TYPES[wanted]
    if "bfloat16" in fast_types(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def in_type(device: torch.device, kind: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to this type; nothing at float32."""
    return nullcontext() if kind == torch.float32 else torch.autocast(device.type, dtype=kind)
