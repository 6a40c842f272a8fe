"""Camtrap DP's event-level observations: what is said of a whole event, and which pictures belong to it.

An identity given to an event goes to its pictures only where it can mean one animal alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from deer_reid_pipeline.ingest.claims import Claim, Claims
from deer_reid_pipeline.ingest.ledger import BadValue, Ledger
from deer_reid_pipeline.ingest.records import BoxRecord
from deer_reid_pipeline.ingest.values import given, timestamp


@dataclass(slots=True)
class Event:
    """What event-level rows say of one event. `certain` is false once more than one animal may be meant."""

    event_id: str
    deployment_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    animals: list[tuple[BoxRecord, str]] = field(default_factory=list)
    blank: bool = False
    certain: bool = True


def comparable(moment: datetime) -> datetime:
    """The moment with an offset; one without is taken as UTC, for comparing only."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class Events:
    """All events of a package, filled from event-level rows, then applied to the pictures."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._events: dict[str, Event] = {}

    def add(self, cells: dict[str, str | None], kind: str, box: BoxRecord | None, place: str) -> None:
        """Note one event-level row. `box` is the animal in it, None where it is not an animal.

        Raises:
            BadValue: bad_row where the row names no event.
        """
        event_id = given(cells.get("eventID"))
        if event_id is None:
            raise BadValue("bad_row", "the row has neither a mediaID nor an eventID")
        event = self._events.setdefault(event_id, Event(event_id))
        event.deployment_id = event.deployment_id or given(cells.get("deploymentID"))
        event.start = event.start or self._moment(cells.get("eventStart"))
        event.end = event.end or self._moment(cells.get("eventEnd"))
        event.blank = event.blank or kind == "blank"
        if kind == "animal":
            if box is not None:
                event.animals.append((box, place))
            if box is None or (given(cells.get("count")) or "1") not in ("1", "1.0"):
                event.certain = False

    def _moment(self, cell: str | None) -> datetime | None:
        try:
            return timestamp(cell)
        except BadValue as error:
            self._ledger.tally("event time that could not be read, left empty", error.reason)
            return None

    def apply(self, claims: Claims) -> None:
        """Give every picture its event, and the event's one animal or blankness to its pictures."""
        self._assign(claims)
        members: dict[str, list[Claim]] = defaultdict(list)
        for claim in claims:
            if claim.event_id in self._events:
                members[claim.event_id or ""].append(claim)
        for event_id, event in self._events.items():
            self._apply_one(event, members.get(event_id, []), claims)

    def _apply_one(self, event: Event, members: list[Claim], claims: Claims) -> None:
        if not event.animals:
            if event.blank and event.certain:
                for claim in members:
                    claim.looked_at = True
            return
        named = [(box, place) for box, place in event.animals if box.individual_id is not None]
        if not named:
            return
        box, place = named[0]
        others = {name for claim in members for name in claim.individuals} - {box.individual_id}
        if len(event.animals) > 1 or not event.certain or others:
            self._ledger.tally(
                "event with more than one animal, its individualID not given to pictures", event.event_id
            )
            return
        if not members:
            self._ledger.tally("event with an individualID but without a picture in the drop", event.event_id)
        for claim in members:
            if not claim.looked_at:
                claims.add_box(claim.rel, box, place)
            elif len(claim.boxes) == 1 and not claim.individuals:
                claims.name_only_box(claim.rel, box)
            elif len(claim.boxes) > 1:
                self._ledger.tally("picture with several boxes, its event's individualID not given to any", claim.rel)

    def _assign(self, claims: Iterable[Claim]) -> None:
        """Pictures without an eventID get the event of their deployment whose time span holds them."""
        spans: dict[str | None, list[tuple[datetime, datetime, str]]] = defaultdict(list)
        for event in self._events.values():
            if event.start is not None and event.end is not None:
                span = (comparable(event.start), comparable(event.end), event.event_id)
                spans[event.deployment_id].append(span)
        for listed in spans.values():
            listed.sort()
        starts = {deployment: [start for start, _, _ in listed] for deployment, listed in spans.items()}
        for claim in claims:
            if claim.event_id is not None or claim.timestamp is None or claim.deployment_id not in spans:
                continue
            moment = comparable(claim.timestamp)
            at = bisect_right(starts[claim.deployment_id], moment) - 1
            if at >= 0 and spans[claim.deployment_id][at][1] >= moment:
                claim.event_id = spans[claim.deployment_id][at][2]
