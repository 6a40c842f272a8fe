"""What the report shows of a validation: from its result to the content of page and text."""

from __future__ import annotations

import platform

from deer_reid_pipeline import __version__
from deer_reid_pipeline.steps.report.drawings import draw_plots
from deer_reid_pipeline.steps.report.measured import NOTHING, Judged, judged
from deer_reid_pipeline.steps.report.page import Content
from deer_reid_pipeline.steps.report.pictures import picture_pairs
from deer_reid_pipeline.steps.report.protocol_words import limits, policy_words, protocol_paragraphs
from deer_reid_pipeline.steps.report.wording import count
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.validation import ValidationResult

PAIRS = 6
"""Picture pairs of each kind."""


def sides_of(result: ValidationResult) -> tuple[Judged, ...]:
    """The live release, and the candidate where there is one; empty where nothing could be judged."""
    sides = []
    if result.live_evaluation is not None:
        sides.append(judged("live", result.live_evaluation, result.live_metrics))
    if result.candidate_evaluation is not None:
        sides.append(judged("candidate", result.candidate_evaluation, result.metrics))
    return tuple(sides)


def content_of(site: Site, result: ValidationResult, sides: tuple[Judged, ...]) -> Content:
    """Everything that page and text show.

    Args:
        sides: of `sides_of`.
    """
    live = next((side for side in sides if side.label == "live"), None)
    candidate = next((side for side in sides if side.label == "candidate"), None)
    shown = candidate or live  # with a candidate, its errors are what a person should look at
    raw = shown.evaluation.raw if shown is not None else None
    found = raw.verification if raw is not None else None
    bound = result.live.fitted.policy.false_positive_bound
    subject = result.live.describe()
    if result.candidate is not None:
        subject += f", and candidate {result.candidate.describe()}"
    return Content(
        subject=subject,
        made_at=f"{result.made_at:%d %B %Y, %H:%M} UTC".lstrip("0"),
        basis=_basis(result),
        live=live.measured if live is not None else NOTHING,
        candidate=candidate.measured if candidate is not None else None,
        live_verdict=result.live_verdict,
        candidate_verdict=result.verdict if result.candidate is not None else None,
        differences=result.differences,
        made=[(side.evaluation.made, side.evaluation.true) for side in sides],
        chance=live.evaluation.by_chance if live is not None else {},
        owner=result.owner,
        plots=draw_plots(sides, bound),
        pictures_of=shown.label if shown is not None and candidate is not None else "",
        false_matches=picture_pairs(site, raw.labelled, found.worst_false[:PAIRS]) if raw and found else (),
        misses=picture_pairs(site, raw.labelled, found.worst_missed[:PAIRS]) if raw and found else (),
        remarks=tuple(dict.fromkeys(result.remarks)),  # the same may hold for both
        facts=_facts(result),
        protocol=protocol_paragraphs(len(result.live.fitted.without)),
        limits=limits(result.counts.get("gallery_size", 0)),
    )


def _basis(result: ValidationResult) -> str:
    counts = result.counts
    return ", ".join(count(counts.get(f"{noun}s", 0), noun) for noun in ("individual", "encounter", "detection"))


def _facts(result: ValidationResult) -> list[tuple[str, str]]:
    facts = [("Live", result.live.describe()), ("Its policy", policy_words(result.live.fitted.policy))]
    if result.candidate is not None:
        facts += [
            ("Candidate", result.candidate.describe()),
            ("Its policy", policy_words(result.candidate.fitted.policy)),
        ]
    names = {
        "individuals": "Labelled individuals",
        "returning_individuals": "Seen in two or more encounters",
        "encounters": "Encounters",
        "detections": "Detections",
        "mated_searches": "Searches for a returning animal",
        "non_mated_searches": "Searches for a stranger",
        "gallery_size": "Animals in the gallery of a stranger",
        "known_individuals": "Animals that the database knows",
    }
    facts += [(title, f"{result.counts[name]:,}") for name, title in names.items() if name in result.counts]
    return [
        *facts,
        ("Data digest", result.data_digest),
        ("Made", f"{result.made_at:%Y-%m-%d %H:%M:%S} UTC in {result.seconds:.0f} s"),
        ("Program", f"deer-reid-pipeline {__version__}, Python {platform.python_version()}"),
    ]
