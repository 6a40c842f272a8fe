"""The one self-contained HTML page: no scripts, nothing fetched, readable on paper, desktop and phone."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.reid.evaluation.gate import Finding, Verdict
from deer_reid_pipeline.steps.owner_criteria import Criterion
from deer_reid_pipeline.steps.report.catalogue import GROUPS, MEANINGS, absent
from deer_reid_pipeline.steps.report.cells import cell, change
from deer_reid_pipeline.steps.report.measured import Measured
from deer_reid_pipeline.steps.report.pictures import PicturePair
from deer_reid_pipeline.steps.report.sentences import KINDS, QUESTION, answer, candidate_sentence, finding_title
from deer_reid_pipeline.steps.report.templates import FOLDER, page_template
from deer_reid_pipeline.steps.report.wording import (
    NUMBER,
    SHARE,
    count,
    criterion_value,
    interval,
    is_measured,
    shown,
)

MARKS = {
    True: ("pass", "\N{CHECK MARK}", "shown"),
    False: ("fail", "\N{BALLOT X}", "refuted"),
    None: ("open", "?", "not to be told"),
}


@dataclass(frozen=True)
class Plot:
    """An SVG with what it shows, for those who see it and those who do not."""

    title: str
    caption: str
    alt: str
    svg: str

    @property
    def image(self) -> str:
        """The SVG as a data URI: as an image of its own it can neither run anything nor clash with the page."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode("utf-8")).decode("ascii")


@dataclass(frozen=True)
class Content:
    """Everything that the page shows.

    Attributes:
        subject: which release and recipe, and which candidate.
        basis: how many animals, encounters and detections it was measured on.
        live_verdict, candidate_verdict: of the gate; the second is None without a candidate.
        differences: metric -> candidate minus live, paired.
        made: for live, and candidate where there is one: individuals made by itself, and true ones.
        chance: metric -> what guessing would reach, where that depends on the data.
        pictures_of: whose worst pairs are shown, where that is not obvious.
        remarks: what a reader must know of this validation.
        facts: names and values about the data and the releases.
    """

    subject: str
    made_at: str
    basis: str
    live: Measured
    candidate: Measured | None
    live_verdict: Verdict
    candidate_verdict: Verdict | None
    differences: Mapping[str, Estimate]
    made: Sequence[tuple[int, int]]
    chance: Mapping[str, float]
    owner: Sequence[Criterion]
    plots: Sequence[Plot]
    pictures_of: str
    false_matches: Sequence[PicturePair]
    misses: Sequence[PicturePair]
    remarks: Sequence[str]
    facts: Sequence[tuple[str, str]]
    protocol: Sequence[str]
    limits: Sequence[str]


def render(content: Content) -> str:
    """The page. Text that comes from outside (names, files, cameras) is escaped."""
    return page_template("page.html.j2", FOLDER).render(page=_view(content))


def _view(content: Content) -> dict[str, Any]:
    return {
        "subject": content.subject,
        "made_at": content.made_at,
        "basis": content.basis,
        "verdict": _banner(content),
        "candidate": _candidate(content),
        "tiles": _tiles(content),
        "judgements": _judgements(content),
        "has_candidate": content.candidate is not None,
        "groups": [group for group in (_group(content, *item) for item in GROUPS) if group["rows"]],
        "checks": _checks(content),
        "plots": content.plots,
        "false_matches": [pair_view(pair) for pair in content.false_matches],
        "misses": [pair_view(pair) for pair in content.misses],
        "pictures_of": content.pictures_of,
        "remarks": content.remarks,
        "owner": [_owner(line) for line in content.owner],
        "facts": content.facts,
        "protocol": content.protocol,
        "limits": content.limits,
        "definitions": [(meaning.title, meaning.definition) for meaning in MEANINGS.values()],
    }


def _banner(content: Content) -> dict[str, Any]:
    said = answer(content.live_verdict, content.live.figures, content.chance)
    verdict = content.live_verdict.verdict
    return {
        "kind": KINDS[verdict],
        "word": verdict,
        "question": QUESTION,
        "short": said.short,
        "sentences": said.sentences,
    }


def _candidate(content: Content) -> dict[str, str] | None:
    verdict = content.candidate_verdict
    if verdict is None:
        return None
    return {"kind": KINDS[verdict.verdict], "word": verdict.verdict, "text": candidate_sentence(verdict)}


def _tiles(content: Content) -> list[dict[str, str]]:
    figures = content.live.figures
    wrong, missed, listed = figures.get("wrong_names"), figures.get("fnir"), figures.get("rank5")
    tiles = []
    if wrong is not None and wrong.n:
        note = f"{shown(wrong.value, SHARE)} of the {count(wrong.n, 'name')} given in the trial"
        tiles.append(("Names that are wrong", f"at most {shown(wrong.high, SHARE)}", note))
    else:
        said = ("not measured", "nothing was judged") if wrong is None else ("no name given", "so none was wrong")
        tiles.append(("Names that are wrong", *said))
    if missed is not None and is_measured(missed):
        named = Estimate(1 - missed.value, 1 - missed.high, 1 - missed.low, missed.n, missed.individuals)
        tiles.append(("Returning animals named rightly", shown(named.value, SHARE), interval(named, SHARE)))
    else:
        tiles.append(("Returning animals named rightly", "not measured", "no labelled animal returned"))
    if listed is not None and is_measured(listed):
        chance = content.chance.get("rank5")
        note = interval(listed, SHARE) + ("" if chance is None else f"; by chance {shown(chance, SHARE)}")
        tiles.append(("Right animal in the first five pictures", shown(listed.value, SHARE), note))
    else:
        tiles.append(("Right animal in the first five pictures", "not measured", "no labelled animal returned"))
    if content.made:
        made, true = content.made[0]
        there = f"there are {true:,} among the labelled ones; what it leaves uncertain counts for none"
        tiles.append(("Animals it would count by itself", f"{made:,}", there))
    return [{"what": what, "number": number, "note": note} for what, number, note in tiles]


def _judgements(content: Content) -> list[dict[str, Any]]:
    judged = [("What the verdict rests on", content.live_verdict)]
    if content.candidate_verdict is not None:
        word = content.candidate_verdict.verdict
        judged.append((f"May the candidate replace it? {word}", content.candidate_verdict))
    return [
        {
            "heading": heading,
            "findings": [_finding(finding) for finding in verdict.findings],
            "missing": ", ".join(
                finding_title(finding.name).lower() for finding in verdict.findings if finding.ok is None
            ),
        }
        for heading, verdict in judged
    ]


def _finding(finding: Finding) -> dict[str, str]:
    kind, mark, word = MARKS[finding.ok]
    return {"kind": kind, "mark": mark, "word": word, "name": finding_title(finding.name), "text": finding.text}


def _group(content: Content, heading: str, about: str, names: Sequence[str]) -> dict[str, Any]:
    rows = []
    for name in names:
        meaning = MEANINGS[name]
        chance = content.chance.get(name, meaning.chance)
        live = cell(content.live.figures.get(name), meaning, chance)
        candidate = cell(content.candidate.figures.get(name), meaning, chance) if content.candidate else None
        if live is None and candidate is None and name not in content.live.figures:
            continue
        rows.append(
            {
                "title": meaning.title,
                "means": meaning.means,
                "live": live,
                "candidate": candidate,
                "difference": change(content.differences.get(name), meaning),
                "absent": absent(name),
                "unpaired": "compare the intervals" if live and candidate else "",
                "chance": "" if chance is None else shown(chance, meaning.unit),
            }
        )
    return {"heading": heading, "about": about, "rows": rows}


CHECK_COLUMNS = ("rank1", "map", "roc_auc")

COMPARISONS = (
    ("other encounters only", "The honest comparison, which every figure above uses."),
    (
        "same encounter allowed",
        "The leaky comparison: two pictures seconds apart are alike whatever is in them. What it reads more than the "
        "honest one is not recognition.",
    ),
    (
        "opposite flanks",
        "Left against right. The coat differs, so a high value here means that something else is recognised.",
    ),
    (
        "background alone",
        "The animal is blanked out. Near chance is good: then it is not the place that is recognised.",
    ),
)


def _checks(content: Content) -> dict[str, Any]:
    columns = [MEANINGS[name].title for name in CHECK_COLUMNS]
    sides = [("Live", content.live, "live")]
    if content.candidate is not None:
        sides.append(("Candidate", content.candidate, "candidate"))
    rows = []
    for index, (title, means) in enumerate(COMPARISONS if content.live.figures else ()):
        for who, found, kind in sides:
            figures = (found.figures, found.leaky, found.cross_flank, found.control or {})[index]
            # What guessing reaches in a ranking depends on the galleries, which are known for the honest one.
            chance = content.chance if index == 0 else {}
            rows.append(
                {
                    "title": f"{who}: {title}" if len(sides) > 1 else title[0].upper() + title[1:],
                    "means": means if kind == "live" else "",
                    "cells": [
                        cell(figures.get(name), MEANINGS[name], chance.get(name, MEANINGS[name].chance))
                        for name in CHECK_COLUMNS
                    ],
                    "kind": kind,
                }
            )
    return {"columns": columns, "rows": rows}


def _owner(line: Criterion) -> dict[str, str]:
    return {
        "title": line.title,
        "asked": line.wanted,
        "value": criterion_value(line),
        "note": line.detail,
        "result": line.result,
        "kind": KINDS.get(line.result, "open"),
    }


def pair_view(pair: PicturePair) -> dict[str, Any]:
    """A pair as the macro `picture_list` takes it."""
    return {"left": pair.left, "right": pair.right, "score": shown(pair.score, NUMBER)}
