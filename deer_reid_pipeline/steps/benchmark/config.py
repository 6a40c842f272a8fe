"""What is measured, as data: the command line and Dagster's launchpad show these settings and their help. No torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

NIGHT = 239_040
"""Pictures in 8 hours, as the owner asked."""

ON_A_CARD_ABOVE = 64
"""Larger batches are measured on a card only: a processor holds much memory for them, and gains nothing."""


class BenchmarkConfig(BaseModel):
    """Settings of one benchmark."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field("", description="Name or id of the recipe to measure; empty: the live one.")
    pictures: int = Field(
        100,
        ge=1,
        le=100_000,
        description="Detections to measure on, evenly spaced over the cameras and times there are.",
    )
    drawn: bool = Field(
        False, description="Measure on drawn pictures even where the home has pictures of its own that can be read."
    )
    megapixels: list[float] = Field(
        [0.2, 12.0], min_length=1, description="Sizes of drawn pictures in megapixels; 0.2 is 512 pixels wide."
    )
    ahead: int = Field(
        NIGHT,
        ge=0,
        description="Pictures that the engine settles for, which decides what is worth trying and starting; 0 measures "
        "no ways of computing and takes what was found before.",
    )
    rounds: int = Field(3, ge=1, le=100, description="How often each figure is measured; medians are reported.")
    loop_pictures: int = Field(
        16, ge=1, le=10_000, description="Pictures of the plain loop, which is slow; its time is scaled to all of them."
    )
    batches: list[int] = Field(
        [1, 8, 16, 32, 64, 128, 256],
        min_length=1,
        description=f"Batch sizes to compare; those above {ON_A_CARD_ABOVE} are measured on a card only.",
    )
    starts: bool = Field(
        True, description="Measure how long the first picture waits, in a new process and after loading again."
    )

    @field_validator("megapixels")
    @classmethod
    def _drawable(cls, value: list[float]) -> list[float]:
        if not all(0.02 <= each <= 100 for each in value):
            raise ValueError("pictures are drawn from 0.02 to 100 megapixels")
        return list(dict.fromkeys(value))

    @field_validator("batches")
    @classmethod
    def _sizes(cls, value: list[int]) -> list[int]:
        if not all(1 <= each <= 1024 for each in value):
            raise ValueError("a batch has 1 to 1024 crops")
        return sorted(set(value))


class GpuMemoryConfig(BaseModel):
    """Settings of one measurement of the card's memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field("", description="Name or id of the recipe to measure; empty: the live one.")
