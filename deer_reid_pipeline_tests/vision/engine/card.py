"""A card whose memory is counted, not real: what torch.cuda says of it, and what its allocator refuses."""

from __future__ import annotations

import pytest
import torch

from deer_reid_pipeline.vision.embedder import Embedder

MIB = 2**20


class CountedCard:
    """A card of 16,000 MiB on which networks hold 100 MiB, and each crop that goes through at once 3 more.

    The networks themselves compute on the CPU.

    Attributes:
        most: most that was ever held, MiB.
        cap: what the process may hold, MiB, as set by `set_per_process_memory_fraction`.
    """

    total, networks, a_crop = 16000, 100, 3

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most, self.cap, self._peak = 0, self.total, 0

        class Properties:
            total_memory = self.total * MIB

        def cap_at(share: float, device: torch.device) -> None:
            self.cap = round(share * self.total)

        def begin_peak(device: torch.device) -> None:
            self._peak = 0

        for name, does in {
            "get_device_properties": lambda device: Properties,
            "get_device_name": lambda device: "a counted card",
            "get_device_capability": lambda device: (9, 0),
            "set_per_process_memory_fraction": cap_at,
            "reset_peak_memory_stats": begin_peak,
            "max_memory_allocated": lambda device: self._peak * MIB,
            "max_memory_reserved": lambda device: self._peak * MIB,
            "mem_get_info": lambda device: ((self.total - self._peak) * MIB, self.total * MIB),
            "empty_cache": lambda: None,
            "synchronize": lambda device: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, does)

    def hold(self, crops: int) -> None:
        """So many crops go through at once.

        Raises:
            torch.cuda.OutOfMemoryError: the cap does not allow it; nothing is held then.
        """
        needed = self.networks + self.a_crop * crops
        if needed > self.cap:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self._peak, self.most = max(self._peak, needed), max(self.most, needed)

    def take(self, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, as_device: bool = False) -> None:
        """Count what an embedder's first network holds.

        Args:
            as_device: the embedder takes itself to be on the card.
        """
        (network,) = [trunk.network for trunk in embedder.trunks.values()]
        forward = network.forward_taps

        def counted(x: torch.Tensor, layers: set[str]) -> dict[str, torch.Tensor]:
            self.hold(len(x))
            return forward(x, layers)

        monkeypatch.setattr(network, "forward_taps", counted)
        if as_device:
            for key, choice in embedder.plan.items():
                embedder.runner(key, choice)  # made ready where it is, before the device is another
            monkeypatch.setattr(embedder, "device", torch.device("cuda", 0))
            monkeypatch.setattr(embedder, "_moved", torch.from_numpy)
