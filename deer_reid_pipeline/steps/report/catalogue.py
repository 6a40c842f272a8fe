"""What each figure is called, what it means in one sentence, and how it is defined."""

from __future__ import annotations

from dataclasses import dataclass

from deer_reid_pipeline.steps.report.wording import NOT_MEASURED, NUMBER, SHARE


@dataclass(frozen=True)
class Meaning:
    """A figure for a person who does not work on re-identification.

    Attributes:
        title: its name on the page.
        means: one sentence for an analyst.
        definition: how it is computed, and whose definition that is.
        more_is_better: False for error rates.
        unit: SHARE (0 to 1, shown in percent) or NUMBER.
        chance: what a guess would reach, where that does not depend on the data.
        scale: ends of the bar that the interval is drawn on.
    """

    title: str
    means: str
    definition: str
    more_is_better: bool = True
    unit: str = SHARE
    chance: float | None = None
    scale: tuple[float, float] = (0.0, 1.0)


MEANINGS: dict[str, Meaning] = {
    "wrong_names": Meaning(
        "Wrong names",
        "Of the encounters that were given a name, this share was given the wrong one.",
        "Encounters in time order against the true identities known before; wrong matches over all matches.",
        more_is_better=False,
    ),
    "fpir": Meaning(
        "Strangers given a name (FPIR)",
        "An animal that is not in the gallery is given somebody's name this often.",
        "False-positive identification rate (ISO/IEC 19795-1): share of searches without a mate in the gallery that "
        "return a candidate at or above the threshold. The own individual is taken out of the gallery.",
        more_is_better=False,
    ),
    "fpir_individual": Meaning(
        "Strangers given a name, every animal counting once",
        "The same, so that animals seen often do not decide it.",
        "Mean over individuals of the FPIR of their searches.",
        more_is_better=False,
    ),
    "fpir_first": Meaning(
        "New animals given a name",
        "The first time an animal is ever seen, it is taken for a known one this often.",
        "FPIR over first encounters in time order, against what was known by then.",
        more_is_better=False,
    ),
    "named": Meaning(
        "Returning animals named right",
        "An animal that is known is given its own name this often, by all rules of the release together.",
        "Encounters in time order against the true identities known before; right matches over those that could be "
        "compared with their own animal.",
    ),
    "opened_as_new": Meaning(
        "Returning animals opened as new",
        "An animal that is known is called a new one this often, and then counted twice.",
        "Encounters in time order against the true identities known before; new individuals over those that could be "
        "compared with their own animal.",
        more_is_better=False,
    ),
    "fnir": Meaning(
        "Returning animals not named (FNIR)",
        "An animal that is known is not given its own name this often; it is on a shortlist, or called new.",
        "False-negative identification rate (ISO/IEC 19795-1) at the threshold of the release: share of searches "
        "with a mate whose mate is not first, or is below the threshold.",
        more_is_better=False,
    ),
    "fnir_at_fpir_5": Meaning(
        "Not named, if 5 % of strangers may be named",
        "With a threshold that lets 5 % of strangers through, this share of returning animals would still be missed.",
        "FNIR at the threshold where FPIR is 5 %, at the real gallery size.",
        more_is_better=False,
    ),
    "fnir_at_fpir_1": Meaning(
        "Not named, if 1 % of strangers may be named",
        "The same with 1 % of strangers let through.",
        "FNIR at the threshold where FPIR is 1 %, at the real gallery size.",
        more_is_better=False,
    ),
    "baks": Meaning(
        "Known animals named right (BAKS)",
        "Share of a known animal's encounters that are given its own name, averaged over animals.",
        "Balanced accuracy on known samples (AnimalCLEF).",
    ),
    "baus": Meaning(
        "New animals called new (BAUS)",
        "Share of never-seen animals that are opened as new individuals, averaged over animals.",
        "Balanced accuracy on unknown samples (AnimalCLEF).",
    ),
    "baks_baus": Meaning(
        "Both together",
        "High only if known animals are named and new ones are called new.",
        "Geometric mean of BAKS and BAUS (AnimalCLEF).",
    ),
    "rank1": Meaning(
        "Right animal first",
        "The most similar picture from another encounter shows the right animal this often.",
        "Rank-1: nearest detection of another encounter on the same flank, burst neighbours left out; ties count "
        "against.",
    ),
    "rank5": Meaning(
        "Right animal among the first five",
        "A shortlist of five pictures contains the right animal this often.",
        "Rank-5, as rank-1.",
    ),
    "map": Meaning(
        "Ranking as a whole (mAP)",
        "How far up the list all pictures of the right animal stand.",
        "Mean average precision over queries.",
    ),
    "map_individual": Meaning(
        "Ranking, every animal counting once",
        "The same, so that animals with many pictures do not decide it.",
        "Mean over individuals of their queries' average precision.",
    ),
    "roc_auc": Meaning(
        "Telling two animals apart (ROC AUC)",
        "Given one pair of the same animal and one of two animals, the same one scores higher this often.",
        "Area under the ROC curve over pairs of detections (1:1).",
        unit=NUMBER,
        chance=0.5,
    ),
    "d_prime": Meaning(
        "Distance of the two score distributions (d')",
        "0 is no separation; human faces reach 4 and more.",
        "Difference of the means of genuine and impostor scores over the root of their mean variance.",
        unit=NUMBER,
        chance=0.0,
        scale=(0.0, 4.0),
    ),
    "eer": Meaning(
        "Error where both errors are equal (EER)",
        "At the threshold where as many true pairs are missed as false pairs are accepted, this share is wrong.",
        "Equal error rate: FMR = FNMR (ISO/IEC 19795-1).",
        more_is_better=False,
        chance=0.5,
    ),
    "ari": Meaning(
        "Agreement of its own herd book (ARI)",
        "How well the individuals that it makes by itself agree with the true ones; 0 is chance, 1 is perfect.",
        "Adjusted Rand index of the identities made when the matcher relies on its own earlier decisions.",
        unit=NUMBER,
        chance=0.0,
    ),
    "pair_precision": Meaning(
        "Encounters rightly put together",
        "Of two encounters that it puts into one individual, this share really is one animal.",
        "Pairwise precision of the identities made.",
    ),
    "pair_recall": Meaning(
        "Encounters found to belong together",
        "Of two encounters of one animal, this share ends up in one individual.",
        "Pairwise recall of the identities made.",
    ),
    "calibration_error": Meaning(
        "Error of the stated probabilities",
        "How far the probability written beside a decision is from how often it is right.",
        "Expected calibration error over bins of equal mass.",
        more_is_better=False,
    ),
    "brier": Meaning(
        "Brier score of the probabilities",
        "Mean squared error of the probabilities; 0 is perfect, a coin toss is 0.25.",
        "Mean of (probability - outcome) squared.",
        more_is_better=False,
        unit=NUMBER,
    ),
    "brier_gain": Meaning(
        "What the probabilities say beyond the base rate",
        "0 where they say no more than how often the first candidate is right on the whole; more is better.",
        "p (1 - p) less the Brier score, with p the share of best candidates that are right.",
        unit=NUMBER,
        chance=0.0,
        scale=(-0.25, 0.25),
    ),
}

GROUPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "When it gives a name",
        "Encounters decided in the order in which they happened.",
        (
            "wrong_names",
            "fpir",
            "fpir_individual",
            "fpir_first",
            "named",
            "opened_as_new",
            "fnir",
            "fnir_at_fpir_5",
            "fnir_at_fpir_1",
            "baks",
            "baus",
            "baks_baus",
        ),
    ),
    (
        "When it ranks candidates for a person",
        "What a shortlist is worth.",
        ("rank1", "rank5", "map", "map_individual"),
    ),
    ("Telling pairs of pictures apart", "How much identity is in the scores at all.", ("roc_auc", "d_prime", "eer")),
    (
        "The herd book that it would make by itself",
        "Nobody correcting it.",
        ("ari", "pair_precision", "pair_recall"),
    ),
    (
        "Its probabilities",
        "Whether a stated 80 % is right 80 times in 100.",
        ("calibration_error", "brier", "brier_gain"),
    ),
)
"""Heading, what the group is about, and its figures."""


def absent(name: str) -> str:
    """What stands in place of a figure that has no trial."""
    return "no name was given" if name == "wrong_names" else NOT_MEASURED
