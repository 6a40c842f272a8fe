"""How vectors are computed, as data: precision, library, memory budget. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A library and the arithmetic that it computes in; `folded` has each batch norm folded into its convolution."""

    backend: str = "torch"
    precision: str = "float32"
    folded: bool = True

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}" + ("" if self.folded else ", as loaded")


PLAIN = Choice(folded=False)
"""What everything else is judged against: the network as loaded, in float32."""

Plan = Mapping[str, Choice]
"""Backbone key -> how it is computed."""


@dataclass(frozen=True)
class EngineOptions:
    """What a person has settled; 'auto' leaves it to the measurement.

    Attributes:
        vram_mb: memory of the card that may be used, in MiB; None: 75 % of the card's.
    """

    precision: str = "auto"
    backend: str = "auto"
    vram_mb: int | None = None

    def allows(self, choice: Choice) -> bool:
        return self.precision in ("auto", choice.precision) and self.backend in ("auto", choice.backend)


AUTO = EngineOptions()
"""Everything is left to the measurement."""
