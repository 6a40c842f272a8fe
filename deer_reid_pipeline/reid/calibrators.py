"""What a fitted calibration is: curves from scores to P(same), and the fusion of several branches by them.

All of it is a few plain numbers, so that a release holds it as JSON, and using it needs no scikit-learn. No curve ever
falls. `calibration` fits them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit, logit

Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating]
Scale = Literal["cosine", "probability"]

EDGE = 1e-6
"""Distance that scores keep from both ends of their range where a logarithm is taken."""


class Platt(BaseModel):
    """Logistic curve of a cosine, or of the logit of a probability.

    Platt 1999, in Advances in Large Margin Classifiers, 61-74.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["platt"] = "platt"
    scale: Scale = "cosine"
    slope: float = Field(ge=0)
    intercept: float

    def log_odds(self, scores: AnyFloats) -> AnyFloats:
        """Natural logarithm of P(same) / P(different), elementwise; NaN stays NaN."""
        return self.slope * platt_feature(scores, self.scale) + self.intercept

    def __call__(self, scores: AnyFloats) -> AnyFloats:
        """P(same), elementwise; NaN stays NaN."""
        return expit(self.log_odds(scores))


class Beta(BaseModel):
    """Beta calibration: log-odds a ln u - b ln(1 - u) + c with a, b >= 0 (Kull, Silva Filho and Flach, AISTATS 2017).

    u is the score as a share of its range: (1 + s) / 2 for a cosine s, s itself for a probability.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["beta"] = "beta"
    scale: Scale = "cosine"
    a: float = Field(ge=0)
    b: float = Field(ge=0)
    c: float

    def log_odds(self, scores: AnyFloats) -> AnyFloats:
        """Natural logarithm of P(same) / P(different), elementwise; NaN stays NaN."""
        total = np.zeros_like(scores) + self.c
        for weight, share in ((self.a, 1.0), (-self.b, -1.0)):
            if weight:
                total += weight * log_share(scores, self.scale, share)
        return total

    def __call__(self, scores: AnyFloats) -> AnyFloats:
        """P(same), elementwise; NaN stays NaN."""
        return expit(self.log_odds(scores))


class Isotonic(BaseModel):
    """Isotonic regression as knots: P(same) is linear between them and constant outside."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["isotonic"] = "isotonic"
    scale: Scale = "cosine"
    scores: tuple[float, ...] = Field(min_length=1)
    probabilities: tuple[float, ...]

    @model_validator(mode="after")
    def _rising(self) -> Isotonic:
        if len(self.scores) != len(self.probabilities):
            raise ValueError(f"{len(self.scores)} knots have {len(self.probabilities)} probabilities")
        if np.any(np.diff(self.scores) <= 0) or np.any(np.diff(self.probabilities) < 0):
            raise ValueError("the knots of an isotonic calibration must rise")
        if not 0 < self.probabilities[0] <= self.probabilities[-1] < 1:
            raise ValueError("probabilities of an isotonic calibration lie between 0 and 1, both excluded")
        return self

    def log_odds(self, scores: AnyFloats) -> AnyFloats:
        """Natural logarithm of P(same) / P(different), elementwise; NaN stays NaN."""
        return logit(self(scores))

    def __call__(self, scores: AnyFloats) -> AnyFloats:
        """P(same), elementwise; NaN stays NaN."""
        values = np.interp(scores, self.scores, self.probabilities)
        return values.astype(scores.dtype, copy=False)


Calibrator = Annotated[Platt | Beta | Isotonic, Field(discriminator="kind")]


class CalibratedFusion(BaseModel):
    """P(same) from several branches: logistic regression over the log-odds of each calibrated branch.

    Never decreasing in any branch. Unlike in a weighted sum of cosines, a branch of wide spread does not count for
    more than its evidence. The probability is that of two pictures drawn as in the fit; `odds` turns what comes of it
    into the probability of an identity at the size of a gallery.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    branches: dict[str, Calibrator] = Field(min_length=1)
    coefficients: dict[str, Annotated[float, Field(ge=0)]]
    intercept: float

    @model_validator(mode="after")
    def _complete(self) -> CalibratedFusion:
        if set(self.branches) != set(self.coefficients):
            raise ValueError("calibrators and coefficients name different branches")
        return self

    def __call__(self, similarities: Mapping[str, AnyFloats]) -> AnyFloats:
        """P(same), elementwise, in the float type of the similarities.

        Args:
            similarities: branch -> cosines, all of one shape; further branches are ignored.

        Raises:
            ValueError: a branch has no similarities, or shapes differ.
        """
        missing = sorted(set(self.branches) - set(similarities))
        if missing:
            raise ValueError(f"no similarities for branch {', '.join(missing)}")
        if len({similarities[branch].shape for branch in self.branches}) != 1:
            raise ValueError("similarity matrices of the branches differ in shape")
        first = similarities[next(iter(self.branches))]
        total = np.full(first.shape, self.intercept, dtype=first.dtype)
        for branch, calibrator in self.branches.items():
            if self.coefficients[branch]:
                total += self.coefficients[branch] * calibrator.log_odds(similarities[branch])
        return expit(total)


def platt_feature(scores: AnyFloats, scale: Scale) -> AnyFloats:
    """What Platt's curve is a logistic curve of: the cosine, or the logit of the probability."""
    return scores if scale == "cosine" else logit(np.clip(scores, EDGE, 1.0 - EDGE))


def log_share(scores: AnyFloats, scale: Scale, end: float) -> AnyFloats:
    """ln u for `end` 1 and ln(1 - u) for `end` -1, elementwise.

    1 - u is taken from the score itself: a float32 u near 1 has no digits left for it.
    """
    share = 0.5 + 0.5 * end * scores if scale == "cosine" else scores if end > 0 else 1.0 - scores
    return np.log(np.clip(share, EDGE, 1.0))
