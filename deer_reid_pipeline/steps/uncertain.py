"""Encounters that the matcher left to people: each beside the individuals that it resembles, as pairs to compare.

What people say of the pairs is read back like any other review (`reviews.import_reviews`).
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.steps.crops import SPEC
from deer_reid_pipeline.steps.report.templates import page_template
from deer_reid_pipeline.steps.reviews import REVIEW_COLUMNS
from deer_reid_pipeline.steps.sightings import MOST_COMPARED, Match, build_matches, pair_to_compare, to_compare_with
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.thumbnails import thumbnails
from deer_reid_pipeline.store.drops import get_drop
from deer_reid_pipeline.store.media import crop_jobs
from deer_reid_pipeline.store.monitoring import (
    IndividualRow,
    SightingRow,
    individuals_by_id,
    sightings_until,
    standing_now,
)
from deer_reid_pipeline.store.reviews import SAME, PairReview, standing_reviews
from deer_reid_pipeline.store.uncertain import UncertainRow, uncertain_rows

UNCERTAIN_COLUMNS = (
    *REVIEW_COLUMNS,
    "encounter",
    "rank",
    "individualID",
    "similarity",
    "probability",
    "started",
    "drop",
    "leftPicture",
    "rightPicture",
    "leftCrop",
    "rightCrop",
)
"""What the file to fill in has: a row is an individual that an encounter resembles."""

MOST_ENCOUNTERS = 100
"""On the page, which holds its pictures."""

MOST_PICTURES = 5
"""Of one encounter on the page."""

FIRST_LINE = 2
"""Of a table's first row, below the headings."""

Ranked = Mapping[uuid.UUID, Sequence[tuple[Match, SightingRow]]]
"""Individual -> its pictures, those first that show best who it is."""


@dataclass(frozen=True)
class Likeness:
    """An individual that an encounter resembles.

    Attributes:
        rank: from 1, the most similar.
        similarity: -1 to 1, when it was decided.
        left, right: the detections to compare: one of the encounter, one of the individual.
    """

    rank: int
    individual: str
    similarity: float
    left: uuid.UUID
    right: uuid.UUID


@dataclass(frozen=True)
class Uncertain:
    """An encounter that waits for a person.

    Attributes:
        started_at: when; None where its pictures carry no time.
        probability: that the first of the individuals is right, 0 to 1; None where no calibration was measured.
        pictures: its detections, the surer boxes first.
        likenesses: whom it resembles, the most similar first; at least one.
    """

    encounter_id: uuid.UUID
    drop_key: str
    started_at: datetime | None
    probability: float | None
    pictures: tuple[uuid.UUID, ...]
    likenesses: tuple[Likeness, ...]


def uncertain_encounters(site: Site, drop_key: str | None = None, limit: int | None = None) -> list[Uncertain]:
    """Encounters without a name that resemble somebody, those first where the first individual is likeliest right.

    Left out are encounters that a person found in a picture of an individual, individuals that a person compared with
    the encounter, and those of whom no picture shows who they are.

    Args:
        drop_key: of this drop only.
        limit: at most this many.

    Raises:
        DeerReidError: there is no such drop.
    """
    with site.database.session() as session:
        if drop_key is not None and get_drop(session, drop_key) is None:
            raise DeerReidError(f"there is no drop {drop_key!a}: `deer-reid process FOLDER` prints the name of a drop")
        rows = uncertain_rows(session, drop_key)
        reviews = standing_reviews(session)
        deer = {item.deer_id for row in rows for item in row.shortlist}
        individuals = individuals_by_id(session, deer)
        sightings = sightings_until(session, deer, standing_now(), evidence_only=True) if deer else []
    members: dict[uuid.UUID, list[Match]] = defaultdict(list)
    owner: dict[uuid.UUID, uuid.UUID] = {}
    for match in build_matches(sightings, individuals, {}, ()):
        members[match.rows[0].deer_id].append(match)
        owner.update((row.detection_id, row.deer_id) for row in match.rows)
    ranked = {key: list(islice(to_compare_with(of), MOST_COMPARED)) for key, of in members.items()}
    said = _said(rows, reviews)
    waiting = _waiting(rows, said, owner, ranked, individuals)
    return list(islice(waiting, limit))


def uncertain_to_fill_in(site: Site, encounters: Sequence[Uncertain]) -> list[dict[str, Any]]:
    """One row a likeness, with the columns of `UNCERTAIN_COLUMNS` and an empty verdict."""
    keys = list({key for item in encounters for each in item.likenesses for key in (each.left, each.right)})
    with site.database.session() as session:
        jobs = {job.detection_id: job for job in crop_jobs(session, SPEC.id, detections=keys)}
    rows = []
    for item in encounters:
        for each in item.likenesses:
            row: dict[str, Any] = dict.fromkeys(UNCERTAIN_COLUMNS)
            row.update(
                left=str(each.left),
                right=str(each.right),
                encounter=str(item.encounter_id),
                rank=each.rank,
                individualID=each.individual,
                similarity=each.similarity,
                probability=item.probability if each.rank == 1 else None,
                started=item.started_at.isoformat() if item.started_at is not None else None,
                drop=item.drop_key,
            )
            for side, key in (("left", each.left), ("right", each.right)):
                job = jobs.get(key)
                if job is not None:
                    row[f"{side}Picture"] = job.path
                    row[f"{side}Crop"] = str(site.settings.crops_dir / job.crop_file) if job.crop_file else None
            rows.append(row)
    return rows


def uncertain_page(site: Site, encounters: Sequence[Uncertain], table: str) -> str:
    """The first encounters to look at, as one HTML page that fetches nothing; names from outside are escaped.

    Args:
        table: name of the file to fill in, which has the same encounters in the same order.
    """
    shown = encounters[:MOST_ENCOUNTERS]
    wanted = [key for item in shown for key in item.pictures[:MOST_PICTURES]]
    wanted += [each.right for item in shown for each in item.likenesses]
    with site.database.session() as session:
        pictures = thumbnails(site, session, wanted)
    blocks, line = [], FIRST_LINE
    for item in shown:
        likenesses = []
        for each in item.likenesses:
            likenesses.append({"line": line, "of": each, "picture": pictures[each.right]})
            line += 1
        blocks.append(
            {
                "of": item,
                "pictures": [pictures[key] for key in item.pictures[:MOST_PICTURES]],
                "likenesses": likenesses,
            }
        )
    return page_template("uncertain_page.html.j2", Path(__file__).parent).render(
        blocks=blocks, waiting=len(encounters), table=table
    )


def _said(rows: Sequence[UncertainRow], reviews: Sequence[PairReview]) -> dict[uuid.UUID, list[tuple[uuid.UUID, str]]]:
    """Encounter -> what pictures people compared it with that wait for nobody, and what they said."""
    encounter = {picture.detection_id: row.encounter_id for row in rows for picture in row.pictures}
    said: dict[uuid.UUID, list[tuple[uuid.UUID, str]]] = defaultdict(list)
    for review in reviews:
        for one, other in (review.pair, review.pair[::-1]):
            if one in encounter and other not in encounter:
                said[encounter[one]].append((other, review.verdict))
    return said


def _waiting(
    rows: Sequence[UncertainRow],
    said: Mapping[uuid.UUID, Sequence[tuple[uuid.UUID, str]]],
    owner: Mapping[uuid.UUID, uuid.UUID],
    ranked: Ranked,
    individuals: Mapping[uuid.UUID, IndividualRow],
) -> Iterator[Uncertain]:
    for row in rows:
        compared = said.get(row.encounter_id, ())
        if any(verdict == SAME for _, verdict in compared):
            continue
        done = {owner.get(other) for other, _ in compared}
        likenesses = []
        for rank, item in enumerate(row.shortlist, 1):
            pair = pair_to_compare(row.pictures, ranked.get(item.deer_id, ()))
            if pair is None or item.deer_id in done or item.deer_id not in individuals:
                continue
            likenesses.append(Likeness(rank, individuals[item.deer_id].name, item.similarity, *pair))
        if likenesses:
            pictures = sorted(row.pictures, key=lambda picture: (-picture.confidence, str(picture.detection_id)))
            yield Uncertain(
                row.encounter_id,
                row.drop_key,
                row.started_at,
                row.probability,
                tuple(picture.detection_id for picture in pictures),
                tuple(likenesses),
            )
