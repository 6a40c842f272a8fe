"""How many encounters, detections and individuals are identified, and by whom.

An assignment rate says how much was named and nothing of how much was named rightly: it rises with false matches. So it
stands in a report of its own, beside the validation report and never in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deer_reid_pipeline.reid.vocabulary import sex_of
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.assignments import DecisionCount, decision_counts, detection_counts, sightings

OUTCOMES = ("matched", "new_individual", "uncertain")
SIGHTING_CLASSES = ((1, 1, "1"), (2, 4, "2 to 4"), (5, 9, "5 to 9"), (10, 19, "10 to 19"), (20, None, "20 and more"))


@dataclass(frozen=True)
class AssignmentSummary:
    """Counts of what is identified.

    Attributes:
        detections, assigned, by_person: standing detections; those with an individual; those a person identified.
        encounters, undecided: encounters with a standing detection; those without any decision yet.
        outcomes: matched, new_individual, uncertain -> who (human, machine) -> encounters, by the latest decision.
        releases: release -> outcome -> encounters decided by the machine; "none" for trials without a release.
        individuals: those with a detection.
        sexes: male, female, unknown -> individuals.
        opened_by_machine: individuals that no person named.
        per_individual: 1, 2 to 4, ... sightings (detections) -> individuals.
        most_seen: detections of the individual seen most; 0 without individuals.
    """

    detections: int
    assigned: int
    by_person: int
    encounters: int
    undecided: int
    outcomes: Mapping[str, Mapping[str, int]]
    releases: Mapping[str, Mapping[str, int]]
    individuals: int
    sexes: Mapping[str, int]
    opened_by_machine: int
    per_individual: Mapping[str, int]
    most_seen: int

    @property
    def assignment_rate(self) -> float | None:
        """Share of the detections that have an individual; None without detections."""
        return self.assigned / self.detections if self.detections else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "assignment_rate": self.assignment_rate}

    def markdown(self) -> str:
        """The report, for the Dagster UI and for people; ASCII."""
        rate = self.assignment_rate
        lines = [
            "## Assignment report",
            "",
            f"{self.assigned:,} of {self.detections:,} detections have an individual"
            + ("" if rate is None else f" ({rate * 100:.1f} %)")
            + f"; {self.by_person:,} of them were identified by a person. This says how much is named, not how much is "
            "named rightly: see the validation report.",
            "",
            f"{self.encounters:,} encounters, {self.undecided:,} not decided yet; {self.individuals:,} individuals, "
            f"{self.opened_by_machine:,} of them opened by the matcher.",
            "",
            *markdown_table(
                ("Latest decision", "by a person", "by the machine"),
                [(_words(name), who.get("human", 0), who.get("machine", 0)) for name, who in self.outcomes.items()],
            ),
            *markdown_table(
                ("Release", *(_words(name) for name in OUTCOMES)),
                [(name, *(counts.get(o, 0) for o in OUTCOMES)) for name, counts in self.releases.items()],
            ),
            *markdown_table(("Sex", "individuals"), list(self.sexes.items())),
            *markdown_table(("Sightings (detections)", "individuals"), list(self.per_individual.items())),
            f"The individual seen most has {self.most_seen:,} detections.",
        ]
        return "\n".join(lines) + "\n"


def assignment_summary(site: Site) -> AssignmentSummary:
    """Count what is identified in the whole database."""
    with site.database.session() as session:
        decisions = decision_counts(session)
        found = detection_counts(session)
        seen = sightings(session)
    decided = [row for row in decisions if row.decision is not None]
    sexes = Counter(sex_of(item.sex) for item in seen)
    return AssignmentSummary(
        detections=sum(row.detections for row in found),
        assigned=sum(row.detections for row in found if row.method is not None),
        by_person=sum(row.detections for row in found if row.method == "human"),
        encounters=sum(row.encounters for row in decisions),
        undecided=sum(row.encounters for row in decisions if row.decision is None),
        outcomes={name: _by_method(decided, name) for name in OUTCOMES},
        releases=_by_release(decided),
        individuals=len(seen),
        sexes={sex: sexes[sex] for sex in ("male", "female", "unknown")},
        opened_by_machine=sum(item.identified_by == "machine" for item in seen),
        per_individual={
            label: sum(low <= item.detections and (high is None or item.detections <= high) for item in seen)
            for low, high, label in SIGHTING_CLASSES
        },
        most_seen=max((item.detections for item in seen), default=0),
    )


def _by_method(decided: list[DecisionCount], outcome: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in decided:
        if row.decision == outcome:
            counts[row.method or "machine"] += row.encounters
    return {"human": counts["human"], "machine": counts["machine"]}


def _by_release(decided: list[DecisionCount]) -> dict[str, dict[str, int]]:
    machine = [row for row in decided if row.method == "machine"]
    releases: dict[str, dict[str, int]] = {}
    for row in sorted(machine, key=lambda row: (row.release_id is None, row.release_id or 0)):
        name = "none" if row.release_id is None else str(row.release_id)
        counts = releases.setdefault(name, dict.fromkeys(OUTCOMES, 0))
        counts[row.decision or ""] = counts.get(row.decision or "", 0) + row.encounters
    return releases


def _words(name: str) -> str:
    return name.replace("_", " ")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table and an empty line; nothing without rows."""
    if not rows:
        return []
    lines = [" | ".join(str(cell) for cell in row) for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {line} |" for line in lines), ""]
