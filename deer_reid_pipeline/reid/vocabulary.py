"""The owner's words for sex and age, and the Camtrap DP words that they stand for."""

from __future__ import annotations

SEX_BY_CLASSIFICATION = {"buck": "male", "mature": "male", "mid": "male", "young": "male", "doe": "female"}
"""Owner's classification -> Camtrap DP sex; every other word (fawn, unknown) says nothing of the sex."""

LIFE_STAGE_BY_CLASSIFICATION = {"fawn": "juvenile"}
"""Owner's classification -> Camtrap DP lifeStage."""

UNKNOWN = "unknown"


def sex_of(classification: str | None) -> str:
    """Return male, female or unknown for one of the owner's words (buck, doe, fawn, ...)."""
    return SEX_BY_CLASSIFICATION.get((classification or "").lower(), UNKNOWN)


def classification_of(sex: str | None, life_stage: str | None) -> str:
    """Return the owner's word (buck, doe, fawn or unknown) for a Camtrap DP sex and lifeStage.

    A juvenile is a fawn whatever its sex, as in the owner's data.
    """
    if life_stage == "juvenile":
        return "fawn"
    return {"male": "buck", "female": "doe"}.get(sex or "", UNKNOWN)


def agreed_sex(sexes: list[str]) -> str:
    """Return the one known sex among several statements; unknown when none is known or they contradict."""
    known = {sex for sex in sexes if sex in ("male", "female")}
    return known.pop() if len(known) == 1 else UNKNOWN
