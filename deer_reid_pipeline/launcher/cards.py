"""The cards of this machine and what is free on them, as NVIDIA's management library (NVML) tells.

It sees every card whatever CUDA_VISIBLE_DEVICES says, allocates nothing on any, and needs `nvidia-ml-py` (the extra
`gpu`), not torch. It never chooses.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from deer_reid_pipeline.launcher.errors import NoCardsError

MIB = 2**20


@dataclass(frozen=True)
class Card:
    """One card at one moment.

    Attributes:
        index: its number in PCI bus order.
        total_mb, free_mb: memory in MiB.
        used_mb: MiB of each process that computes on it, where the driver tells.
    """

    uuid: str
    index: int
    name: str
    total_mb: int
    free_mb: int
    used_mb: dict[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"card {self.index} ({self.name}, {self.uuid})"


def cards_here() -> list[Card]:
    """Every card that can take a run; one that is lost or split by MIG is left out.

    Raises:
        NoCardsError: the library or the driver is missing, or there is no usable card.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise NoCardsError("nvidia-ml-py is not installed: pip install 'deer-reid-pipeline[gpu]'") from error
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError, OSError) as error:
        raise NoCardsError(f"the NVIDIA driver does not answer ({error}): look at nvidia-smi") from error
    try:
        looked_at = [_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        raise NoCardsError(f"the NVIDIA driver does not list its cards ({error}): look at nvidia-smi") from error
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
    cards = [entry for entry in looked_at if isinstance(entry, Card)]
    if not cards:
        faults = "; ".join(str(entry) for entry in looked_at)
        raise NoCardsError(f"the NVIDIA driver has no usable card{f' ({faults})' if faults else ''}")
    return cards


def _card(nvml: Any, index: int) -> Card | str:
    """The card, or why it cannot take a run."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if _split(nvml, handle):
            return f"card {index} is split by MIG, which this launcher does not place on"
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return Card(
            uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
            index=index,
            name=_text(nvml.nvmlDeviceGetName(handle)),
            total_mb=memory.total // MIB,
            free_mb=memory.free // MIB,
            used_mb=_used(nvml, handle),
        )
    except nvml.NVMLError as error:
        return f"card {index} does not answer ({error})"


def _split(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:
        return False  # cards without MIG say so by an error


def _used(nvml: Any, handle: Any) -> dict[int, int]:
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        return {}
    return {process.pid: process.usedGpuMemory // MIB for process in running if process.usedGpuMemory}


def _text(value: str | bytes) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value
