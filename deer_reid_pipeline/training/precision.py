"""In which arithmetic a network is trained on a device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def training_type(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """The type of the forward pass; auto: bfloat16 where the device computes in it, float16 on other GPUs, else
    float32."""
    if wanted != "auto":
        return _TYPES[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return torch.bfloat16 if can.get("amx_bf16") or can.get("avx512_bf16") else torch.float32
    return torch.float32


def in_type(device: torch.device, kind: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to this type; nothing at float32."""
    return nullcontext() if kind == torch.float32 else torch.autocast(device.type, dtype=kind)
