"""What people say of pairs of pictures: read from a CSV file, and written as a file to fill in.

Reviewers are named by the file only. A review is never changed or taken back; a later one of the same reviewer counts
instead.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.ingest.filled_table import FilledRow, read_filled_table
from deer_reid_pipeline.ingest.ledger import BadValue
from deer_reid_pipeline.ingest.values import given, timestamp
from deer_reid_pipeline.ingest.wording import has_control
from deer_reid_pipeline.steps.monitoring import waiting_reviews
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.media import crop_jobs
from deer_reid_pipeline.store.monitoring import detections_by_file
from deer_reid_pipeline.store.reviews import VERDICTS, PairReview, add_reviews, unknown_detections

REVIEW_COLUMNS = ("left", "right", "verdict", "reviewer", "reviewedAt")
"""What a file of reviews has."""

FILE_COLUMNS = ("leftPicture", "rightPicture", "leftCrop", "rightCrop")
"""What `add_files` fills in."""

EXPORT_COLUMNS = (
    *REVIEW_COLUMNS,
    "individualID",
    "similarity",
    "probability",
    "day",
    "why",
    *FILE_COLUMNS,
)
SIDES = ("left", "right")
_REVIEWER_LIMIT = 100
_CLOCK_TOLERANCE = timedelta(days=1)


@dataclass(frozen=True)
class ReviewImport:
    """What came of a file of reviews.

    Attributes:
        imported: reviews that are new.
        known: rows that were imported before.
        blank: rows without a verdict, left for later.
        refused: line and reason of rows that were not used.
    """

    imported: int
    known: int
    blank: int
    refused: tuple[tuple[int, str], ...]


def import_reviews(site: Site, file: Path) -> ReviewImport:
    """Read a file of reviews; every good row is stored, in one transaction, and the others are told.

    `left` and `right` are each a detection's id, or the path of a picture with exactly one detection, as its drop
    has it; "dropKey:path" where several drops have that path. `verdict` is same, different or unsure, `reviewedAt` an
    ISO 8601 time (without an offset: UTC). Importing a file again adds nothing.

    Raises:
        DeerReidError: the file cannot be read as such a table, or no row of it can be used.
    """
    rows, bad = read_filled_table(file, REVIEW_COLUMNS)
    refused = list(bad)
    filled = [row for row in rows if given(row.cells.get("verdict")) is not None]
    with site.database.session() as session:
        named = _resolve(session, [row.cells.get(side, "") for row in filled for side in SIDES])
        reviews = []
        for row in filled:
            try:
                reviews.append(_review(row, named, file.name))
            except BadValue as error:
                refused.append((row.line, error.reason))
        imported = add_reviews(session, dict.fromkeys(reviews))
    refused.sort()
    if not reviews:
        first = f" (line {refused[0][0]}: {refused[0][1]})" if refused else ""
        raise DeerReidError(f"{file} has no usable review{first}: fill in verdict, reviewer and reviewedAt")
    return ReviewImport(imported, len(reviews) - imported, len(rows) - len(filled), tuple(refused))


def reviews_to_fill_in(site: Site) -> list[dict[str, Any]]:
    """The pairs to look at next, flagged ones first, as rows of a file with an empty verdict."""
    rows = []
    for item in waiting_reviews(site):
        row: dict[str, Any] = dict.fromkeys(EXPORT_COLUMNS)
        row.update(
            left=str(item.left),
            right=str(item.right),
            individualID=item.individual,
            similarity=item.similarity,
            probability=item.probability,
            day=item.day.isoformat(),
            why=item.why,
        )
        rows.append(row)
    add_files(site, rows)
    return rows


def keep_verdicts(file: Path) -> None:
    """See to it that a file that is about to be written anew holds no work of a person.

    Raises:
        DeerReidError: it is a table with verdicts in it.
    """
    try:
        rows, _ = read_filled_table(file, REVIEW_COLUMNS)
    except DeerReidError:
        return  # not there, or no such table
    filled = sum(given(row.cells.get("verdict")) is not None for row in rows)
    if filled:
        raise DeerReidError(
            f"{file} has {filled} verdicts, which would be lost: read them with `deer-reid review import`, and name "
            "another file"
        )


def add_files(site: Site, rows: Sequence[dict[str, Any]]) -> None:
    """Say in each row where the pictures of the detections `left` and `right` are, and their crops."""
    keys = {uuid.UUID(row[side]) for row in rows for side in SIDES}
    with site.database.session() as session:
        jobs = {str(job.detection_id): job for job in crop_jobs(session, site.crop_spec().id, detections=list(keys))}
    for row in rows:
        for side in SIDES:
            job = jobs.get(row[side])
            if job is not None:
                row[f"{side}Picture"] = job.path
                row[f"{side}Crop"] = str(site.settings.crops_dir / job.crop_file) if job.crop_file else None


def _review(row: FilledRow, named: dict[str, uuid.UUID | str], source: str) -> PairReview:
    """The review in a row.

    Raises:
        BadValue: with the reason why it cannot be used.
    """
    verdict = (given(row.cells.get("verdict")) or "").lower()
    if verdict not in VERDICTS:
        raise BadValue("bad_value", f"verdict {verdict[:40]!a} is none of {', '.join(VERDICTS)}")
    reviewer = given(row.cells.get("reviewer"))
    if reviewer is None:
        raise BadValue("bad_value", "it names no reviewer")
    if len(reviewer) > _REVIEWER_LIMIT or has_control(reviewer):
        raise BadValue("bad_value", f"reviewer is longer than {_REVIEWER_LIMIT} characters or holds control characters")
    moment = timestamp(row.cells.get("reviewedAt"))
    if moment is None:
        raise BadValue("bad_value", "it has no reviewedAt, such as 2026-05-01T18:30")
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC) + _CLOCK_TOLERANCE:
        raise BadValue("bad_value", "reviewedAt lies in the future")
    sides = []
    for side in SIDES:
        found = named[row.cells.get(side, "")]
        if isinstance(found, str):
            raise BadValue("bad_value", f"{side}: {found}")
        sides.append(found)
    if sides[0] == sides[1]:
        raise BadValue("bad_value", "left and right are one detection")
    return PairReview(sides[0], sides[1], verdict, reviewer, moment, source)


def _resolve(session: Session, texts: Sequence[str]) -> dict[str, uuid.UUID | str]:
    """The detection that each text names, or why it names none."""
    result: dict[str, uuid.UUID | str] = {}
    ids: dict[str, uuid.UUID] = {}
    files: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        name = given(text)
        if name is None:
            result[text] = "it is empty"
            continue
        try:
            ids[text] = uuid.UUID(name)
        except ValueError:
            files[text] = name.replace("\\", "/").removeprefix("./")
    unknown = unknown_detections(session, set(ids.values())) if ids else set()
    for text, key in ids.items():
        result[text] = f"no standing detection has the id {key}" if key in unknown else key
    found = detections_by_file(session, set(files.values()))
    for text, file in files.items():
        result[text] = _only(file, found.get(file, []))
    return result


def _only(file: str, detections: Sequence[tuple[str, uuid.UUID, uuid.UUID]]) -> uuid.UUID | str:
    """The one detection of a file, of (drop, picture, detection); else why there is not one."""
    if not detections:
        return f"no detection in a picture {file[-120:]!a}"
    if len({picture for _, picture, _ in detections}) > 1:
        drop = min(drop for drop, _, _ in detections)
        return (
            f"several drops have a picture {file[-120:]!a}: write the drop before it, like {f'{drop}:{file}'[-200:]!a}"
        )
    keys = {key for _, _, key in detections}
    if len(keys) > 1:
        return f"{len(keys)} detections in the picture {file[-120:]!a}: name one by its id"
    return keys.pop()
