"""What the tables claim about each picture, gathered row by row, repeats and contradictions sorted out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from deer_reid_pipeline.ingest.ledger import BadValue, Ledger
from deer_reid_pipeline.ingest.records import BoxRecord, MediaRecord
from deer_reid_pipeline.ingest.values import given, timestamp
from deer_reid_pipeline.ingest.wording import has_control, printable

_ID_LIMIT = 200
MOST_BOXES = 1000
"""Most boxes of one picture: each is cut out and embedded."""

Corners = tuple[float, float, float, float]


@dataclass(slots=True)
class Claim:
    """One picture. `looked_at` is true once a row says what is in it, even a row that was refused."""

    rel: str
    looked_at: bool = False
    rows: dict[Corners, tuple[BoxRecord, str]] = field(default_factory=dict)
    timestamp: datetime | None = None
    deployment_id: str | None = None
    event_id: str | None = None

    @property
    def boxes(self) -> tuple[BoxRecord, ...]:
        """The boxes in the order in which the tables give them."""
        return tuple(box for box, _ in self.rows.values())

    @property
    def individuals(self) -> frozenset[str]:
        """The identities that people gave to animals in this picture."""
        return frozenset(box.individual_id for box in self.boxes if box.individual_id is not None)

    def record(self) -> MediaRecord:
        """The claim as a record; boxes are None where nobody looked."""
        boxes = self.boxes if self.looked_at else None
        return MediaRecord(self.rel, self.timestamp, self.deployment_id, self.event_id, boxes)


def _corners(box: BoxRecord) -> Corners:
    return (round(box.x, 6), round(box.y, 6), round(box.width, 6), round(box.height, 6))


class Claims:
    """All pictures that the tables name, by their path on disk."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._by_rel: dict[str, Claim] = {}

    def __contains__(self, rel: object) -> bool:
        return rel in self._by_rel

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._by_rel.values())

    def get(self, rel: str) -> Claim | None:
        """The claim about a picture, or None where no table names it."""
        return self._by_rel.get(rel)

    def claim(self, rel: str) -> Claim:
        """The claim about a picture, opened where there is none yet."""
        return self._by_rel.setdefault(rel, Claim(rel))

    def add_box(self, rel: str, box: BoxRecord, place: str) -> None:
        """Add an animal. The same box twice is kept once, the later row goes to the quarantine.

        Of two equal boxes of which one carries an identity, the one with the identity is kept.
        """
        claim = self.claim(rel)
        claim.looked_at = True
        corners = _corners(box)
        if corners not in claim.rows:
            if len(claim.rows) >= MOST_BOXES:
                self._ledger.quarantine(place, "too_many_boxes", f"its picture already has {MOST_BOXES} boxes")
                return
            claim.rows[corners] = (box, place)
            return
        earlier, first = claim.rows[corners]
        if box.individual_id in (earlier.individual_id, None):
            self._ledger.quarantine(place, "duplicate_row", f"it repeats {printable(first, 150)}")
        elif earlier.individual_id is None:
            claim.rows[corners] = (box, place)
            self._ledger.quarantine(
                first, "duplicate_row", f"{printable(place, 150)} repeats it and also names the individual"
            )
        else:
            self._ledger.quarantine(
                place,
                "conflicting_row",
                f"the same box is {printable(earlier.individual_id, 60)} in {printable(first, 100)} "
                f"and {printable(box.individual_id or '', 60)} here; the first one is kept",
            )

    def name_only_box(self, rel: str, like: BoxRecord) -> None:
        """Give the identity and the traits in `like` to the one box of a picture that has none yet."""
        claim = self.claim(rel)
        ((corners, (box, place)),) = claim.rows.items()
        known = box.classification != "unknown"
        named = replace(
            box,
            individual_id=like.individual_id,
            sex=box.sex if known else like.sex,
            life_stage=box.life_stage if known else like.life_stage,
            classification=box.classification if known else like.classification,
        )
        claim.rows[corners] = (named, place)

    def place_in_time(self, rel: str, when: str | None, deployment: str | None, event: str | None) -> None:
        """Note when, where and in which event a picture was taken; what was noted first stays."""
        claim = self.claim(rel)
        try:
            moment = timestamp(when)
        except BadValue as error:
            self._ledger.tally("timestamp that could not be read, left empty", error.reason)
            moment = None
        if claim.timestamp is None:
            claim.timestamp = moment
        elif moment is not None and (moment.isoformat() != claim.timestamp.isoformat()):
            self._ledger.tally("row with another timestamp than an earlier row of its picture, the first is kept", rel)
        claim.deployment_id = self._same("deploymentID", claim.deployment_id, deployment, rel)
        claim.event_id = self._same("eventID", claim.event_id, event, rel)

    def _same(self, column: str, known: str | None, cell: str | None, rel: str) -> str | None:
        text = given(cell)
        if text is None:
            return known
        if len(text) > _ID_LIMIT or has_control(text):
            self._ledger.tally(f"{column} that is too long or holds control characters, left empty", text)
            return known
        if known is not None and known != text:
            self._ledger.tally(f"row with another {column} than an earlier row of its picture, the first is kept", rel)
        return known or text
