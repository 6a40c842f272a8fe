"""A policy together with the policies fitted without each group of individuals.

What was fitted on an animal must not be judged on it. The individuals are put into groups by a hash of their name,
so that the groups stay the same as data grows, and beside the policy fitted on all of them stand those fitted without
each group. An animal is always judged by the policy that was fitted without it.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deer_reid_pipeline.reid.matching import MatchPolicy

SHARED = ("matcher", "unit", "gallery", "sex_rule", "other_flank", "margin", "false_positive_bound")
"""What no fit chooses: the policies that judge have it of the policy that they judge."""


def fold_of(name: str, folds: int, salt: str = "") -> int:
    """The group, 0 to folds - 1, of an individual: by a hash of its name."""
    return int.from_bytes(hashlib.sha256(f"{salt}/{name}".encode()).digest()[:8], "big") % folds


class FittedPolicy(BaseModel):
    """What a release matches with, and what it is judged with.

    Attributes:
        without: policy fitted without the individuals of each group; empty where nothing was fitted, and the policy
            itself is judged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: MatchPolicy = Field(description="Fitted on all labelled individuals; what matching uses.")
    without: tuple[MatchPolicy, ...] = ()
    salt: str = ""

    @model_validator(mode="after")
    def _judged_alike(self) -> FittedPolicy:
        for judging in self.without:
            other = [name for name in SHARED if getattr(judging, name) != getattr(self.policy, name)]
            if other:
                raise ValueError(f"a judging policy differs from the policy in use in {', '.join(other)}")
        return self

    def folds_of(self, names: list[str]) -> NDArray[np.int64]:
        """Group of each individual; all 0 where nothing was fitted; int64 (len(names),)."""
        folds = len(self.without)
        return np.array([fold_of(name, folds, self.salt) if folds else 0 for name in names], dtype=np.int64)

    def judging(self, fold: int) -> MatchPolicy:
        """The policy that individuals of this group are judged with."""
        return self.without[fold] if self.without else self.policy
