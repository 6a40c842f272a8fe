"""How a validation is made, in plain words, and what it cannot say."""

from __future__ import annotations

from deer_reid_pipeline.reid.evaluation.estimates import DRAWS
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.steps.report.wording import count


def protocol_paragraphs(groups: int) -> tuple[str, ...]:
    """What was compared with what, and how the intervals were made.

    Args:
        groups: groups of animals that the policy was fitted without in turn; 0 where nothing was fitted.
    """
    fitted = (
        f"Weights, calibration and thresholds were fitted {groups} times, each time without one group of animals, and "
        "every animal was judged with the fit that had not seen it."
        if groups
        else "Nothing was fitted to these animals: the release works with the values that its recipe came with."
    )
    return (
        "Only identities that a person gave count as true; what the machine decided is never taken for the truth. A "
        "picture is compared with pictures of other encounters only, and pictures of one burst never count as a "
        "recognised animal. Left flanks are compared with left, right with right; opposite flanks are reported apart.",
        "Names are judged as they are given in the field: encounter after encounter in the order of time, against what "
        "was known before, with animals that were never seen among them. For strangers, each animal is also taken out "
        "of the gallery and searched among all others.",
        fitted,
        f"The intervals are meant to hold 95 times in 100. They come from drawing the animals anew {DRAWS:,} times "
        "(bootstrap), because pictures of one animal are not independent; for error rates they are Clopper-Pearson "
        "intervals on the effective number of trials. More animals make them narrow, not more pictures of the same.",
    )


def limits(gallery: int) -> tuple[str, ...]:
    """What the figures do not cover.

    Args:
        gallery: animals that a stranger was searched among.
    """
    growth = (
        f"It holds for a gallery of {count(gallery, 'animal')}; beyond that the plot of a growing herd gives upper "
        "bounds, as long as the animals to come are as easy to tell apart as these."
    )
    return (
        "It was measured on your own labelled animals. Animals without labels were not judged, and for other seasons, "
        "cameras or herds than the labelled ones the figures may not hold.",
        "The labels are taken as right. A wrong label counts as an error of the matcher, or hides one.",
        *([growth] if gallery else []),
        "Shortlist figures look pictures up among pictures; a list of animals has fewer entries.",
    )


def policy_words(policy: MatchPolicy) -> str:
    """Weights and thresholds of a policy in one line."""
    weights = " + ".join(f"{weight:g} {branch}" for branch, weight in policy.weights.items())
    fused = f"{weights}, fused as calibrated probabilities" if policy.fusion == "calibrated" else weights
    return (
        f"{fused}; named from {policy.threshold:.4g}, new below {policy.new_below:.4g}, a shortlist in between; "
        f"decided per {policy.unit}"
    )
