"""What a fine-tuned model is, how it was judged, and what it must not be used for, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deer_reid_pipeline.reid.evaluation.estimates import DRAWS
from deer_reid_pipeline.steps.report.wording import count
from deer_reid_pipeline.steps.training_report.figures import Comparison
from deer_reid_pipeline.training.dataset import UNKNOWN_FLANK
from deer_reid_pipeline.vision.published import PUBLISHED

if TYPE_CHECKING:
    from deer_reid_pipeline.training.outcome import Outcome
    from deer_reid_pipeline.vision.recipe import Backbone

OVERLAP = (
    "Two intervals that overlap do not show that two recipes are equally good: the validation report judges the "
    "difference itself, on the same animals."
)

USES = (
    "It proposes names for animals on camera pictures, within this pipeline, where a person can look at every name.",
    "It may be used by the group whose pictures it was trained on. Whether others may have it is for that group to "
    "say: weights are made of its pictures, and whoever has both weights and pictures can test whether a picture was "
    "among those it was trained on.",
    "It is not meant for other species, for other places without being judged there first, or for decisions about an "
    "animal that nobody checks.",
)

LIMITS = (
    "The figures hold for this herd, these cameras and these seasons only. For others it has to be judged anew.",
    "Figures on animals with a coat pattern, such as nyala, do not show that deer without a pattern can be told apart "
    "at night.",
    "The labels are taken as right. A wrong label teaches an error, and counts as an error of the model or hides one.",
    "Only animals that a person named were trained on and judged. They need not be a fair sample: animals that "
    "are easy to recognise may have been named first.",
    "A model that was trained on pictures from few places can recognise places; the validation report measures what "
    "it reads from the background alone.",
)


def validation(recipe_id: str) -> str:
    """Where the verdict is, which is given after the card was written."""
    return (
        "Whether it may become live is judged after this card is written, by the validation in the same run and by any "
        f"later one: the verdict is in the newest folder reports/validation/TIME-{recipe_id} of the home."
    )


def gaps(card: Mapping[str, Any]) -> tuple[str, ...]:
    """What could not be read when the training began, and pictures of unknown flanks; nothing without either."""
    facts = card["trained_on"]
    lost, unknown = facts["unreadable_pictures"], facts["trained_on"][UNKNOWN_FLANK]
    said = []
    if lost:
        said.append(
            f"Of {count(facts['labelled']['pictures'], 'labelled picture')} {lost:,} could not be read: nothing was "
            f"learned from them. Digest of all of them: {facts['dataset_digest']}."
        )
    if unknown:
        said.append(
            f"{unknown:,} of these pictures do not say which flank they show: they were not learned to differ from the "
            "other pictures of their animal."
        )
    return tuple(said)


def not_compared(comparison: Comparison) -> tuple[str, ...]:
    """How many recipes before it stand in no column, each with the reason and its own card; nothing without any."""
    left_out = comparison.left_out
    if not left_out:
        return ()
    return (f"Not in this table: {count(len(left_out), 'recipe')}.", *(item.sentence for item in left_out))


def protocol(outcome: Outcome) -> tuple[str, ...]:
    """How the figures were made."""
    intervals = (
        f"The intervals are meant to hold 95 times in 100. They come from drawing the animals anew {DRAWS:,} times "
        "(bootstrap), because pictures of one animal are not independent."
    )
    honest = (
        "Only identities that a person gave count as true. A picture is compared with pictures of other encounters "
        "only, left flanks with left, right with right."
    )
    return (*(_one_split(outcome) if not outcome.folds else _cross_validation(outcome)), honest, intervals)


def _cross_validation(outcome: Outcome) -> tuple[str, ...]:
    folds = len(outcome.folds)
    return (
        f"The animals were put into {folds} groups by a hash of their name. {folds} models were trained, each without "
        "one group, and every animal is judged with the model that never saw it. About an eighth of the other animals "
        "decided when that model stopped, and they are not judged with it either.",
        "Vectors of different models are never compared. Rankings (rank-1, rank-5, mAP, ROC-AUC) and the herd book "
        "that it makes by itself are therefore those within a group, for the other recipes in the table too. In the "
        "whole herd there are more animals to be confused with, so that its shortlists are worse than these.",
        "Searches (FNIR, FPIR, thresholds, probabilities) are made among all animals: each model embedded the others "
        "too, most of which it was trained on, as when a new animal comes to a herd that the model knows. An animal "
        "that the model knows is probably recognised more easily in use than here.",
        "Animals that were named since the training are judged with the model that is used, in a group of their own.",
        "The model that is used was trained on all of these animals, for as many epochs as were best in the median of "
        "the groups. No figure is its own: on animals that it was trained on, figures would be far too good.",
    )


def _one_split(outcome: Outcome) -> tuple[str, ...]:
    split = outcome.splits[0]
    return (
        "The animals were put into three parts by a hash of their name: "
        f"{count(len(split.train), 'animal')} to train on, {len(split.validation)} to decide when to stop, "
        f"{len(split.test)} to judge by. The figures are of those to judge by, and of animals that were named since.",
        "The model that is judged is the one that is used. Few animals stand behind the figures, and those that it was "
        "not trained on taught it nothing; a training with folds judges all animals, and learns from all.",
    )


def unrepeatable(outcome: Outcome) -> tuple[str, ...]:
    """That another training with the same seed need not give the same weights, where torch has said so."""
    every = (sentence for log in outcome.logs.values() for epoch in log for sentence in epoch.get("unrepeatable", ()))
    said = list(dict.fromkeys(every))
    if not said:
        return ()
    return (
        "Trained once more with the same seed it need not come out the same, because the device has no repeatable way "
        f"for a part of the training. Torch's words: {'; '.join(said)}.",
    )


def licence(outcome: Outcome) -> tuple[str, ...]:
    """Where the weights come from, network by network, and what follows from that."""
    return (
        *(
            f"{key}: {_origin(backbone, key in outcome.plan.keys)}"
            for key, backbone in outcome.plan.base.backbones.items()
        ),
        "Whoever passes the weights on keeps to the licence of the weights that they come from (docs/recipes.md says "
        "what is known of it), and to what was agreed about the pictures.",
    )


def _origin(backbone: Backbone, trained: bool) -> str:
    ref, arch = backbone.weights, backbone.arch
    start = {
        "published": f"ImageNet weights of {arch} ({PUBLISHED[arch].origin}, file {ref.name})",
        "declared": f"weights of {arch} in a file of your own ({ref.name}), whose licence is known to you only",
        "store": f"weights of {arch} that were fine-tuned before ({ref.name}), and so from what those began with: "
        f"ImageNet weights of {arch}, unless a file of your own was declared for it",
        "random": f"random weights of {arch}",
    }[ref.source]
    return f"derived from {start}, and from the group's own pictures" if trained else f"{start}, left as they were"
