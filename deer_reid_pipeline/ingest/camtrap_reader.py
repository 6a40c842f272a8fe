"""The rows of an opened Camtrap DP package to claims about pictures."""

from __future__ import annotations

from collections.abc import Mapping

from deer_reid_pipeline.ingest.animal_row import NOT_LOOKED_AT, RowReader, observation_type
from deer_reid_pipeline.ingest.camtrap_dp import CamtrapPackage, Row, read_table
from deer_reid_pipeline.ingest.camtrap_events import Events
from deer_reid_pipeline.ingest.claims import Claims
from deer_reid_pipeline.ingest.ledger import BadValue, Ledger
from deer_reid_pipeline.ingest.paths import PictureIndex
from deer_reid_pipeline.ingest.records import DeploymentRecord
from deer_reid_pipeline.ingest.values import given, position
from deer_reid_pipeline.ingest.wording import has_control

PLACE_LIMIT = 200
"""Longest deploymentID and locationName of a camera, in characters."""


PLACE_UNKNOWN_M = 1_000_000.0
"""A coordinateUncertainty of so many metres tells nothing of where a camera stands; exports write one to hide it."""

TIME_UNKNOWN = "1970-01-01T00:00:00Z"
"""What exports write as the time of a picture where none is known, since the standard wants one."""


def place_is_told(cells: Mapping[str, str | None]) -> bool:
    """Whether latitude and longitude of a deployment are meant as its place."""
    try:
        uncertainty = float(given(cells.get("coordinateUncertainty")) or 0)
    except ValueError:
        return True
    return not uncertainty >= PLACE_UNKNOWN_M


def place_text(cells: Mapping[str, str | None], column: str) -> str | None:
    """deploymentID or locationName of a camera, trimmed; None where it is not given.

    Raises:
        BadValue: bad_value where it cannot be stored. The text holds nothing of the row.
    """
    text = given(cells.get(column))
    if text is not None and (len(text) > PLACE_LIMIT or has_control(text)):
        raise BadValue("bad_value", f"{column} is longer than {PLACE_LIMIT} characters or holds control characters")
    return text


class CamtrapReader:
    """Reads deployments, media and observations in that order; what cannot be used goes to the ledger."""

    def __init__(
        self,
        package: CamtrapPackage,
        index: PictureIndex,
        claims: Claims,
        ledger: Ledger,
        min_confidence: float,
    ) -> None:
        self._package = package
        self._index = index
        self._claims = claims
        self._ledger = ledger
        self._rows = RowReader(ledger, min_confidence)
        self._events = Events(ledger)
        self._deployments: set[str] | None = None
        self._media: dict[str, str | None] = {}
        self._media_of: dict[str, str] = {}
        self.deployments: dict[str, DeploymentRecord] = {}

    def read(self) -> None:
        """Read the package. A broken deployments or observations table is quarantined, the rest is used."""
        for file, reason in self._package.broken.items():
            if file in self._package.files:
                self._ledger.quarantine(file, "unreadable_manifest", f"this table cannot be used: {reason}")
            else:
                self._ledger.warn(f"{file}: {reason}")
        if "deployments" in self._package.tables:
            self._read_deployments()
        self._read_media()
        if "observations" in self._package.tables:
            self._read_observations()
            self._events.apply(self._claims)

    def _place(self, table: str, line: int, what: str | None) -> str:
        return f"{self._package.paths[table]}:{line} ({(what or '').strip()})"

    def _read_deployments(self) -> None:
        def bad(line: int, code: str, reason: str, cells: Row) -> None:
            place = self._place("deployments", line, cells.get("deploymentID"))
            self._ledger.quarantine(place, code, reason)

        rows = read_table(self._package, "deployments", self._ledger, bad)
        self._deployments = set()
        for line, cells in rows:
            key = (cells["deploymentID"] or "").strip()
            try:
                place_text(cells, "deploymentID")
            except BadValue as error:
                bad(line, error.code, error.reason, cells)
                continue
            self._deployments.add(key)
            try:
                told = place_is_told(cells)
                place = position(cells.get("latitude"), cells.get("longitude")) if told else None
            except BadValue:
                self._ledger.tally("deployment whose latitude and longitude cannot be used, left empty", key)
                place = None
            try:
                name = place_text(cells, "locationName")
            except BadValue:
                self._ledger.tally("deployment whose locationName cannot be used, left empty", key)
                name = None
            if place is not None:
                self.deployments.setdefault(key, DeploymentRecord(key, name, *place))

    def _read_media(self) -> None:
        def bad(line: int, code: str, reason: str, cells: Row) -> None:
            self._ledger.quarantine(self._place("media", line, cells.get("filePath")), code, reason)
            self._media.setdefault((cells.get("mediaID") or "").strip(), None)

        for line, cells in read_table(self._package, "media", self._ledger, bad):
            written, media_id = cells["filePath"] or "", (cells["mediaID"] or "").strip()
            place = self._place("media", line, written)
            try:
                rel = self._index.find(written)
            except BadValue as error:
                self._ledger.quarantine(
                    written.strip() or place,
                    error.code,
                    f"{error.reason} (see {self._package.paths['media']})",
                )
                self._media.setdefault(media_id, None)
                continue
            if self._media.get(media_id) is not None and self._media[media_id] != rel:
                self._ledger.quarantine(place, "duplicate_row", "its mediaID is already that of another picture")
                continue
            self._media[media_id] = rel
            if rel is None:
                continue
            if rel in self._media_of:
                self._ledger.quarantine(place, "duplicate_row", f"it repeats {self._media_of[rel]}")
                continue
            self._media_of[rel] = place
            deployment = given(cells.get("deploymentID"))
            if deployment is not None and self._deployments is not None and deployment not in self._deployments:
                self._ledger.tally("deploymentID that the table deployments does not have", deployment)
            moment = None if cells.get("timestamp") == TIME_UNKNOWN else cells.get("timestamp")
            self._claims.place_in_time(rel, moment, deployment, cells.get("eventID"))

    def _read_observations(self) -> None:
        def bad(line: int, code: str, reason: str, cells: Row) -> None:
            rel = self._media.get((cells.get("mediaID") or "").strip())
            what = rel or given(cells.get("mediaID")) or cells.get("eventID")
            self._ledger.quarantine(self._place("observations", line, what), code, reason)
            if rel is not None:
                self._claims.claim(rel).looked_at = True

        for line, cells in read_table(self._package, "observations", self._ledger, bad):
            try:
                self._observe(line, cells)
            except BadValue as error:
                bad(line, error.code, error.reason, cells)

    def _observe(self, line: int, cells: Row) -> None:
        media_id, kind = given(cells.get("mediaID")), observation_type(cells)
        if cells.get("observationLevel") == "event" or media_id is None:
            if cells.get("observationLevel") == "media":
                raise BadValue("bad_row", "observationLevel is media, but the row has no mediaID")
            box = self._rows.box(cells) if kind == "animal" else None
            self._events.add(cells, kind, box, self._place("observations", line, cells.get("eventID")))
            return
        if media_id not in self._media:
            raise BadValue("unknown_media", "its mediaID is not in the table media")
        rel = self._media[media_id]
        if rel is None:
            return
        box = self._rows.box(cells) if kind == "animal" else None
        self._claims.place_in_time(rel, None, cells.get("deploymentID"), cells.get("eventID"))
        if kind != NOT_LOOKED_AT:
            self._claims.claim(rel).looked_at = True
        if box is not None:
            self._claims.add_box(rel, box, self._place("observations", line, rel))
