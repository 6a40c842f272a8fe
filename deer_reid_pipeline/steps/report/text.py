"""The owner's dated text report: the same content in plain ASCII, for a terminal or a mail."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap

from deer_reid_pipeline.reid.evaluation.estimates import Estimate
from deer_reid_pipeline.reid.evaluation.gate import Verdict
from deer_reid_pipeline.steps.report.catalogue import GROUPS, MEANINGS, absent
from deer_reid_pipeline.steps.report.page import Content
from deer_reid_pipeline.steps.report.sentences import QUESTION, answer, candidate_sentence, finding_title
from deer_reid_pipeline.steps.report.wording import (
    ascii_text,
    change_interval,
    criterion_value,
    interval,
    is_measured,
    shown,
    shown_change,
)

WIDTH = 100
_MARKS = {True: "[yes]", False: "[NO] ", None: "[?]  "}


def text_report(content: Content) -> str:
    """The report as ASCII text."""
    said = answer(content.live_verdict, content.live.figures, content.chance)
    lines = [
        "DEER RE-ID VALIDATION REPORT",
        content.made_at,
        *_wrapped(content.subject),
        *_wrapped(f"judged on {content.basis}"),
        "",
        f"VERDICT: {content.live_verdict.verdict}",
        *_wrapped(f"{QUESTION} {said.short}"),
        *(line for sentence in said.sentences for line in _wrapped(sentence)),
        "",
        *_findings(content.live_verdict),
    ]
    if content.candidate_verdict is not None:
        lines += [
            "",
            f"MAY THE CANDIDATE REPLACE IT? {content.candidate_verdict.verdict}",
            *_wrapped(candidate_sentence(content.candidate_verdict)),
            *_findings(content.candidate_verdict),
        ]
    if content.remarks:
        lines += ["", "PLEASE NOTE", *(line for remark in content.remarks for line in _wrapped(remark))]
    lines += ["", "THE OWNER'S CRITERIA, AS ASKED (they are reported and do not decide)"]
    for line in content.owner:
        lines.append(f"{line.result:<13} {line.title}: {criterion_value(line)} (asked: {line.wanted})")
        lines += _wrapped(line.detail, indent=14) if line.detail else []
    lines += ["", "FIGURES OF THE LIVE RELEASE, WITH 95 % INTERVALS", *_figures(content.live.figures)]
    if content.candidate is not None:
        lines += ["", "FIGURES OF THE CANDIDATE", *_figures(content.candidate.figures)]
        lines += ["", "CANDIDATE MINUS LIVE, PAIRED", *_changes(content.differences)]
    lines += ["", "HOW IT WAS MEASURED"]
    lines += [line for name, value in content.facts for line in _wrapped(f"{name}: {value}")]
    lines += [line for paragraph in (*content.protocol, *content.limits) for line in _wrapped(paragraph)]
    return ascii_text("\n".join(lines)) + "\n"


def _findings(verdict: Verdict) -> list[str]:
    lines = []
    for finding in verdict.findings:
        first, *rest = wrap(f"{finding_title(finding.name)}: {finding.text}", WIDTH - 6)
        lines += [f"{_MARKS[finding.ok]} {first}", *(" " * 6 + line for line in rest)]
    return lines


def _figures(figures: Mapping[str, Estimate]) -> list[str]:
    lines = []
    for name in (name for _, _, names in GROUPS for name in names):
        item, meaning = figures.get(name), MEANINGS[name]
        if item is None:
            continue
        if is_measured(item):
            lines.append(_line(meaning.title, shown(item.value, meaning.unit), interval(item, meaning.unit), item))
        else:
            lines.append(f"{meaning.title:<48} {absent(name):>9}")
    return lines or ["none"]


def _changes(differences: Mapping[str, Estimate]) -> list[str]:
    lines = []
    for name in (name for _, _, names in GROUPS for name in names):
        item, meaning = differences.get(name), MEANINGS[name]
        if item is not None and is_measured(item):
            value, between = shown_change(item.value, meaning.unit), change_interval(item, meaning.unit)
            lines.append(_line(meaning.title, value, between, item))
    return lines or ["none"]


def _line(title: str, value: str, between: str, item: Estimate) -> str:
    return f"{title:<48} {value:>12}   {between:<20} n = {item.n:,}, {item.individuals:,} animals"


def _wrapped(text: str, indent: int = 0) -> list[str]:
    return wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)
