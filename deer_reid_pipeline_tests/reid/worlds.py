"""Made-up herds in embedding space: who is who is known, and how hard it is to tell is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.similarity import EFFICIENTNET, MULTISCALE, FloatArray, VectorSet, unit

BRANCHES = (MULTISCALE, EFFICIENTNET)


@dataclass(frozen=True)
class Herd:
    """Encounters in random order, each of one individual, with the truth and the noise of each detection.

    Attributes:
        individual, encounter: of each detection; (n,).
        truth: branch -> direction of each individual; (G, d), unit rows.
        noise: branch -> unit noise of each detection; (n, d).
    """

    individual: np.ndarray
    encounter: np.ndarray
    truth: Mapping[str, FloatArray]
    noise: Mapping[str, FloatArray]

    def vectors(self, amount: float | np.ndarray | Mapping[str, float | np.ndarray]) -> dict[str, FloatArray]:
        """Truth plus this much noise (its length; that of the truth is 1), the same in all or one a detection."""
        found = {}
        for branch in BRANCHES:
            scale = np.broadcast_to(amount[branch] if isinstance(amount, Mapping) else amount, len(self.individual))
            found[branch] = unit(self.truth[branch][self.individual] + scale[:, None] * self.noise[branch])
        return found

    def labelled(
        self,
        vectors: Mapping[str, FloatArray],
        recipe: str = "live",
        viewpoints: Sequence[str | None] | None = None,
        strata: Mapping[str, Sequence[str]] | None = None,
    ) -> Labelled:
        n = len(self.individual)
        return Labelled(
            keys=list(range(n)),
            vectors={branch: VectorSet(recipe, branch, item) for branch, item in vectors.items()},
            individual=self.individual,
            encounter=self.encounter,
            burst=self.encounter,
            viewpoints=viewpoints or [None] * n,
            names=[f"animal-{code:03d}" for code in range(int(self.individual.max()) + 1)],
            sexes=["unknown"] * n,
            strata=strata or {},
        )


def herd(seed: int, individuals: int = 60, encounters: int = 2, pictures: int = 1, size: int = 64) -> Herd:
    """Every individual in as many encounters of as many pictures.

    Args:
        size: dimensions of a vector.
    """
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(individuals), encounters))
    individual = np.repeat(owner, pictures)
    encounter = np.repeat(np.arange(len(owner)), pictures)
    return Herd(
        individual,
        encounter,
        {branch: unit(rng.normal(size=(individuals, size)).astype(np.float32)) for branch in BRANCHES},
        {branch: unit(rng.normal(size=(len(individual), size)).astype(np.float32)) for branch in BRANCHES},
    )
