"""`similarity_distribution`: how similar pictures of one animal and of two animals are, under v1, v2 and what is live.

A picture of the overlap, drawn from the animals that people named. It decides nothing: a mean moves with any rescaling
of the vectors, and two heaps that lie apart on average may still overlap where matching happens.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from deer_reid_pipeline.reid.evaluation.blocks import branch_blocks, fused_blocks
from deer_reid_pipeline.reid.evaluation.estimates import Estimate, estimate
from deer_reid_pipeline.reid.evaluation.verification import Verification, verify
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.similarity import BASELINE, MULTISCALE
from deer_reid_pipeline.steps.site import Matcher, Site
from deer_reid_pipeline.steps.truth import load_labelled
from deer_reid_pipeline.store.releases import fitted_of, get_release

COLOURS = {"one animal": "#2e8b57", "two animals": "#b05040"}


@dataclass(frozen=True)
class Spread:
    """Genuine and impostor similarities of one way to compare."""

    name: str
    roc_auc: Estimate
    d_prime: Estimate
    mean_genuine: Estimate
    mean_impostor: Estimate
    edges: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray


@dataclass(frozen=True)
class Distribution:
    """The spreads of v1, v2 and the live matcher, and what they were measured on."""

    recipe: str
    individuals: int
    detections: int
    genuine_pairs: int
    impostor_pairs: int
    spreads: tuple[Spread, ...]

    @property
    def live(self) -> Spread | None:
        """Of what matching uses; None where nothing could be measured."""
        return self.spreads[-1] if self.spreads else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the figures without the histograms."""
        return {
            "recipe": self.recipe,
            "individuals": self.individuals,
            "detections": self.detections,
            "genuine_pairs": self.genuine_pairs,
            "impostor_pairs": self.impostor_pairs,
            "spreads": {
                item.name: {
                    "roc_auc": item.roc_auc.as_dict(),
                    "d_prime": item.d_prime.as_dict(),
                    "mean_genuine": item.mean_genuine.as_dict(),
                    "mean_impostor": item.mean_impostor.as_dict(),
                }
                for item in self.spreads
            },
        }


def similarity_distribution(site: Site) -> Distribution:
    """Compare all labelled detections under the live recipe, same flank and different encounters.

    What is live judges each individual by the policy that was fitted without it, if the release has any.
    """
    matcher = site.matcher()
    labelled = load_labelled(site, matcher.recipe.id)
    if labelled.individuals < 2:
        return Distribution(matcher.recipe.id, labelled.individuals, len(labelled), 0, 0, ())
    ways = {
        "v1 (baseline branch)": branch_blocks(labelled, BASELINE),
        "v2 (multi-scale branch)": branch_blocks(labelled, MULTISCALE),
        "live": fused_blocks(labelled, _fitted(site, matcher)),
    }
    found = {name: verify(labelled, block) for name, block in ways.items()}
    live = found["live"]
    return Distribution(
        matcher.recipe.id,
        labelled.individuals,
        len(labelled),
        live.genuine_pairs,
        live.impostor_pairs,
        tuple(_spread(name, item) for name, item in found.items()),
    )


def _fitted(site: Site, matcher: Matcher) -> FittedPolicy:
    """The release's policies; the matcher's own one where there is no release, or settings override it."""
    if matcher.release_id is None or matcher.overrides:
        return FittedPolicy(policy=matcher.policy)
    with site.database.session() as session:
        return fitted_of(get_release(session, matcher.release_id))


def distribution_plot(found: Distribution) -> bytes | None:
    """One row a way to compare: the two heaps, as densities; PNG. None where nothing was measured."""
    if not found.spreads:
        return None
    from matplotlib.figure import Figure  # slow to import, and most processes never draw

    figure = Figure(figsize=(5.6, 1.5 * len(found.spreads) + 0.5), dpi=90, layout="constrained")
    rows = np.atleast_1d(figure.subplots(len(found.spreads), 1, sharex=True))
    for axes, item in zip(rows, found.spreads, strict=True):
        for name, counts in zip(COLOURS, (item.genuine, item.impostor), strict=True):
            if counts.sum():
                density = counts / counts.sum() / np.diff(item.edges)
                axes.stairs(density, item.edges, fill=True, alpha=0.5, color=COLOURS[name], label=name)
        axes.set_title(f"{item.name}: ROC-AUC {item.roc_auc.value:.3f}", fontsize=8, loc="left")
        axes.set_yticks([])
    rows[0].legend(fontsize=7)
    rows[-1].set_xlabel("similarity of two pictures, same flank, different encounters")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _spread(name: str, item: Verification) -> Spread:
    edges, genuine, impostor = item.histograms()
    return Spread(
        name,
        estimate(item.roc_auc),
        estimate(item.d_prime),
        estimate(item.mean_genuine),
        estimate(item.mean_impostor),
        edges,
        genuine,
        impostor,
    )
