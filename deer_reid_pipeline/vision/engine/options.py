"""How vectors are computed, as data: precision, library, memory budget. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A library and the arithmetic that it computes in.

    Attributes:
        folded: each batch norm is folded into its convolution.
        wide: None: all is computed in `precision`, with weights rounded to it. A number: what rounding shifts is taken
            out again (`narrowing`), and the last so many parts of the network stay in float32.

    Raises:
        ValueError: `wide` for another way than folded bfloat16 of OpenVINO.
    """

    backend: str = "torch"
    precision: str = "float32"
    folded: bool = True
    wide: int | None = None

    def __post_init__(self) -> None:
        if self.wide is not None and (self.backend, self.precision, self.folded) != ("openvino", "bfloat16", True):
            raise ValueError(f"no part of {self.backend} {self.precision} can be kept in float32")

    def __str__(self) -> str:
        said = f"{self.backend} {self.precision}" + ("" if self.folded else ", as loaded")
        if self.wide is None:
            return said
        return f"{said}, shift taken out" + (f", last {self.wide} in float32" if self.wide else "")


PLAIN = Choice(folded=False)
"""What everything else is judged against: the network as loaded, in float32."""

Plan = Mapping[str, Choice]
"""Backbone key -> how it is computed."""


@dataclass(frozen=True)
class EngineOptions:
    """What a person has settled; 'auto' leaves it to the measurement.

    Who names an arithmetic gets it all through: how many parts are kept in float32 is chosen by measuring, so it would
    differ from machine to machine of a cluster.

    Attributes:
        vram_mb: memory of the card that may be used, in MiB; None: 75 % of the card's.
    """

    precision: str = "auto"
    backend: str = "auto"
    vram_mb: int | None = None

    def allows(self, choice: Choice) -> bool:
        if self.precision != "auto" and (choice.precision != self.precision or choice.wide is not None):
            return False
        return self.backend in ("auto", choice.backend)


AUTO = EngineOptions()
"""Everything is left to the measurement."""
