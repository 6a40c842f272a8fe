"""The verdict in plain words: whether tonight's identities can be trusted, and what the figures mean for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.reid.evaluation.gate import FAIL, INCONCLUSIVE, PASS, Verdict
from deer_reid_pipeline.steps.report.wording import SHARE, count, interval, is_measured, shown

QUESTION = "Can I trust tonight's identities?"

KINDS = {PASS: "pass", FAIL: "fail", INCONCLUSIVE: "open"}
"""Verdict -> style of its banner."""

FINDING_TITLES = {
    "false_positive_bound": "Strangers given a name",
    "better_than_chance": "Better than chance",
    "names_returning_animals": "Returning animals named",
    "keeps_animals_apart": "Animals kept apart",
    "keeps_animals_together": "Animals kept together",
    "background_control": "Background alone",
    "judged_as_used": "Used as judged",
    "labels_from_reviews": "Labels from reviews",
    "improvement": "Improvement",
    "names_are_right": "Names are right",
    "probabilities": "Stated probabilities",
    "ranking_kept": "Ranking kept",
    "names_kept": "Right names kept",
    "naming_kept": "Naming kept",
    "strata": "No part gets worse",
    "same_data": "Same data",
    "same_bound": "Same bound",
}

_NO = {
    "background_control": "No. It recognises places rather than animals.",
    "false_positive_bound": "No. Too many strangers are given the name of a known animal.",
    "keeps_animals_apart": "No. It puts different animals together.",
    "keeps_animals_together": "No. It opens too many returning animals as new, and counts them twice.",
    "better_than_chance": "No. It does not recognise animals better than a guess would.",
    "names_returning_animals": "No names to rely on: it hardly names any. Use its shortlists, and decide yourself.",
}
"""What a refuted claim means, the gravest first."""


@dataclass(frozen=True)
class Answer:
    """The answer to QUESTION: a short one, and the sentences with the numbers."""

    short: str
    sentences: tuple[str, ...]


def answer(verdict: Verdict, figures: Mapping[str, Estimate], chance: Mapping[str, float]) -> Answer:
    """What an analyst should make of the live release.

    Args:
        chance: metric -> what guessing would reach, where that is known.
    """
    return Answer(_short(verdict), (_wrong(figures), _named(figures, chance.get("rank5"))))


def finding_title(name: str) -> str:
    """Name of a finding for people."""
    return FINDING_TITLES.get(name, name.replace("_", " ").capitalize())


def candidate_sentence(verdict: Verdict) -> str:
    """What becomes of the candidate."""
    if verdict.verdict == PASS:
        return "The candidate may replace the live release: its gain is named under Improvement, and no loss was shown."
    if verdict.verdict == FAIL:
        return "The candidate must not replace the live release."
    return "Whether the candidate is better cannot be told from these data, so the live release stays."


def _short(verdict: Verdict) -> str:
    if verdict.verdict == PASS:
        return "Yes, the names it gives hold within the stated bound."
    if verdict.verdict == INCONCLUSIVE:
        return "Not known yet. Treat every name as a suggestion."
    refuted = {finding.name for finding in verdict.findings if finding.ok is False}
    return next((text for name, text in _NO.items() if name in refuted), "No. A claim that it rests on was refuted.")


def _wrong(figures: Mapping[str, Estimate]) -> str:
    wrong = figures.get("wrong_names")
    if wrong is None:
        return "How many of the names it gives are wrong was not measured."
    if not wrong.n:
        return (
            "In this trial it gave no name at all, so none was wrong, and nothing is known of the names it would give."
        )
    given = count(wrong.n, "name")
    if wrong.value == 0:
        return f"None of the {given} that it gave in this trial was wrong, so at most {_bound(wrong)} of its names are."
    return (
        f"Of the {given} that it gave in this trial {shown(wrong.value, SHARE)} were wrong; "
        f"at worst {_bound(wrong)} of its names are."
    )


def _bound(item: Estimate) -> str:
    return shown(item.high, SHARE)


def _named(figures: Mapping[str, Estimate], chance: float | None) -> str:
    missed = figures.get("fnir")
    listed = figures.get("rank5")
    if missed is None or not is_measured(missed):
        named = "How many returning animals it names cannot be told: no labelled animal returned"
    else:
        right = Estimate(1 - missed.value, 1 - missed.high, 1 - missed.low, missed.n, missed.individuals)
        named = (
            f"It names {shown(right.value, SHARE)} of the returning animals rightly ({interval(right, SHARE)}); the "
            "rest are ranked shortlists for a person, or opened as new"
        )
    if listed is None or not is_measured(listed):
        return named + "."
    guess = "" if chance is None else f" (by chance {shown(chance, SHARE)})"
    return f"{named}. The first five pictures of a list hold the right animal in {shown(listed.value, SHARE)}{guess}."
