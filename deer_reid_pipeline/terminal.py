"""What a person sees in the terminal: lines, a progress bar, the table of who was seen. ASCII only.

With `--json` everything here goes to standard error, so that standard output holds the object alone.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from rich.box import ASCII2
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from deer_reid_pipeline.progress import hearing, listening
from deer_reid_pipeline.steps.site import Matcher
from deer_reid_pipeline.steps.summary import DropSummary, Seen
from deer_reid_pipeline.store.drops import QuarantineRow

MOST_LINES = 20
SAY_EVERY = 20.0
"""Seconds between progress lines where no bar can be drawn."""


def plain(text: str) -> str:
    """Printable ASCII on one line; anything else as backslash escapes, so that no name can steer a terminal."""
    escaped = text.encode("ascii", "backslashreplace").decode()
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in escaped)


class Console:
    """Prints for a person; everything is ASCII."""

    def __init__(self, as_json: bool) -> None:
        self.rich = RichConsole(stderr=as_json, highlight=False, markup=False, emoji=False, safe_box=True)

    def say(self, line: str) -> None:
        """One line."""
        self.rich.print(plain(line), soft_wrap=True)

    def warnings(self, warnings: Sequence[str], quarantined: Sequence[QuarantineRow]) -> None:
        """What a person should know of a drop: warnings, then what was quarantined and why."""
        for line in warnings[:MOST_LINES]:
            self.say(f"Warning: {line}")
        if len(warnings) > MOST_LINES:
            self.say(f"... and {len(warnings) - MOST_LINES} more warnings")
        if quarantined:
            self.say(f"Warning: {len(quarantined)} files or rows were quarantined:")
            for row in quarantined[:MOST_LINES]:
                self.say(f"  {row.file}: {row.reason}")
            if len(quarantined) > MOST_LINES:
                self.say(f"  ... and {len(quarantined) - MOST_LINES} more (in the database and the UI)")

    def finding(self, ok: bool | None, what: str, detail: str) -> None:
        """One line of the doctor: ok, note or FAIL."""
        self.say(f"{ {True: 'ok  ', None: 'note', False: 'FAIL'}[ok] }  {what}: {detail}")

    def who_was_seen(
        self, seen: Sequence[Seen], summary: DropSummary, matcher: Matcher, drop: str, seconds: float
    ) -> None:
        """The table that `process` ends with: one row an individual, then the totals."""
        table = Table(title=f"Who was seen in {plain(drop)}", box=ASCII2, title_justify="left")
        headings = ["individual", "sex", "identified by", "encounters", "pictures", "similarity"]
        odds = matcher.policy.odds
        for heading in headings if odds is None else [*headings, "probability"]:
            table.add_column(heading, justify="left" if heading in ("individual", "sex", "identified by") else "right")
        groups: dict[str, list[Seen]] = defaultdict(list)
        for item in seen:
            groups[item.individual or ""].append(item)
        for name in sorted(filter(None, groups)):
            items = groups[name]
            methods = {item.row["method"] for item in items}
            cells = [
                plain(name),
                str(items[0].row["sex"] or ""),
                _by(methods, {item.row["decision"] for item in items}),
                str(len({item.row["encounter"] for item in items})),
                str(len(items)),
                _span(items, "similarity"),
            ]
            table.add_row(*(cells if odds is None else [*cells, _span(items, "probability")]))
        if table.row_count:
            self.rich.print(table)
        self._to_be_reviewed(groups.get("", []), drop)
        self.say(
            f"{summary.images} pictures, {summary.detections} detections, {summary.encounters} encounters: "
            f"{summary.by_person} identified by a person, {summary.matched_by_machine} matched and "
            f"{summary.new_by_machine} opened as new by the machine, {summary.uncertain} uncertain. "
            f"Known individuals: {summary.individuals}. "
            f"{seconds:.1f} s."
        )
        if summary.encounters > summary.by_person:
            self._what_numbers_mean(matcher)

    def _what_numbers_mean(self, matcher: Matcher) -> None:
        odds = matcher.policy.odds
        if odds is not None:
            self.say(
                "A probability is that the decision is right: that it is the individual named, or a new one; for an "
                "uncertain encounter, that it is the first of the list. It was fitted on "
                f"{odds.searches} encounters of {odds.individuals} individuals."
            )
        elif matcher.release_id is not None:
            self.say(
                "Thresholds were not yet calibrated on your own animals: similarities rank candidates, they are "
                "not probabilities."
            )

    def _to_be_reviewed(self, items: Sequence[Seen], drop: str) -> None:
        """Encounters left uncertain, each with its ranked shortlist."""
        encounters = _shortlists(items)
        if not encounters:
            return
        table = Table(title=f"Uncertain, for a person to look at: {len(encounters)} encounters", box=ASCII2)
        table.title_justify = "left"
        headings = ["first picture", "pictures", "most similar known individuals"]
        rated = any(item.row["probability"] is not None for item in items)
        for heading in [*headings, "probability of the first"] if rated else headings:
            table.add_column(heading, justify="right" if heading == "pictures" else "left", overflow="fold")
        for members in list(encounters.values())[:MOST_LINES]:
            row = members[0].row
            shortlist = "; ".join(str(row["candidates"]).split("; ")[:3]) or str(row["reason"])
            cells = [plain(str(row["filePath"])), str(len(members)), plain(shortlist)]
            table.add_row(*([*cells, _span(members, "probability")] if rated else cells))
        self.rich.print(table)
        if len(encounters) > MOST_LINES:
            self.say(f"... and {len(encounters) - MOST_LINES} more (--output FILE.csv lists all)")
        self.say(
            f"`deer-reid review uncertain FILE.csv --drop {plain(drop)}` writes them to be filled in, beside "
            "pictures of the animals that they resemble."
        )


def _shortlists(items: Sequence[Seen]) -> dict[object, list[Seen]]:
    encounters: dict[object, list[Seen]] = defaultdict(list)
    for item in items:
        if item.row["decision"] == "uncertain":
            encounters[item.row["encounter"]].append(item)
    return encounters


def _span(items: Sequence[Seen], column: str) -> str:
    """Lowest and highest value of some detections, or a dash where none has one."""
    values = [item.row[column] for item in items if item.row[column] is not None]
    if not values:
        return "-"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if column == "probability" and low == high else f"{low} to {high}"


def _by(methods: set[str | None], decisions: set[str | None]) -> str:
    if methods == {"human"}:
        return "a person"
    machine = "opened as new" if decisions == {"new_individual"} else "matched"
    return machine if methods == {"machine"} else f"a person, {machine}"


class Progress:
    """A bar per step, fed by `deer_reid_pipeline.progress`; on a pipe a line now and then.

    Args:
        remarks: print what long work says of itself, too.
    """

    def __init__(self, console: Console, *, remarks: bool = False) -> None:
        self._remarks = remarks
        self._bar = RichProgress(
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console.rich,
            transient=True,
            disable=not console.rich.is_terminal,
        )
        self._tasks: dict[str, int] = {}
        self._console = console
        self._said_at = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        self._stack.enter_context(self._bar)
        self._stack.enter_context(listening(self._update))
        if self._remarks:
            self._stack.enter_context(hearing(lambda line: self._console.say(f"  {line}")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bars away."""
        self._stack.close()

    def _update(self, step: str, done: int, total: int) -> None:
        if self._bar.disable:
            self._line(step, done, total)
            return
        if step not in self._tasks:
            self._tasks[step] = self._bar.add_task(step, total=total)
        self._bar.update(self._tasks[step], completed=done, total=total)  # type: ignore[arg-type]

    def _line(self, step: str, done: int, total: int) -> None:
        """Without a terminal: a line when a step ends, and every 20 seconds in between."""
        now = time.monotonic()
        if done == total or now - self._said_at > SAY_EVERY:
            self._said_at = now
            self._console.say(f"  {step}: {done} of {total}")
