"""Encounters that the matcher left to people: each beside the individuals that it resembles, as pairs to compare.

What people say of the pairs is read back like any other review (`reviews.import_reviews`).
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.steps.report.templates import page_template
from deer_reid_pipeline.steps.reviews import FILE_COLUMNS, REVIEW_COLUMNS, add_files
from deer_reid_pipeline.steps.sightings import Match, build_matches, pair_to_compare, to_compare_with
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.thumbnails import thumbnails
from deer_reid_pipeline.steps.truth import learned_from_reviews
from deer_reid_pipeline.store.drops import get_drop
from deer_reid_pipeline.store.monitoring import HUMAN, individuals_by_id, sightings_until, standing_now
from deer_reid_pipeline.store.reviews import standing_reviews
from deer_reid_pipeline.store.uncertain import UncertainRow, uncertain_rows

UNCERTAIN_COLUMNS = (
    *REVIEW_COLUMNS,
    "row",
    "encounter",
    "rank",
    "individualID",
    "similarity",
    "probability",
    "named",
    "started",
    "drop",
    *FILE_COLUMNS,
)
"""What the file to fill in has: a row is an individual that an encounter resembles."""

MOST_ENCOUNTERS = 100
"""On the page, which holds its pictures."""

MOST_PICTURES = 5
"""Of one encounter on the page: those to compare, of which there is one a flank at most, and others."""


@dataclass(frozen=True)
class Likeness:
    """An individual that an encounter resembles.

    Attributes:
        rank: from 1, the most similar.
        similarity: -1 to 1, when it was decided.
        left, right: the detections to compare: one of the encounter, one of the individual.
        named: a person said whom the right one shows. Otherwise the individual was opened with it.
    """

    rank: int
    individual: str
    similarity: float
    left: uuid.UUID
    right: uuid.UUID
    named: bool


@dataclass(frozen=True)
class Uncertain:
    """An encounter that waits for a person.

    Attributes:
        started_at: when; None where its pictures carry no time.
        probability: that the first of `likenesses` is right, 0 to 1; None where no calibration was measured, or where
            the first individual of the decision is not among them any more.
        pictures: its detections: those to compare first, then the surer boxes.
        likenesses: whom it resembles, the most similar first; at least one.
    """

    encounter_id: uuid.UUID
    drop_key: str
    started_at: datetime | None
    probability: float | None
    pictures: tuple[uuid.UUID, ...]
    likenesses: tuple[Likeness, ...]


def uncertain_encounters(site: Site, drop_key: str | None = None) -> list[Uncertain]:
    """Encounters without a name that resemble somebody, those first where the first individual is likeliest right.

    Without probabilities, the most similar come first. Left out are encounters whose animal people's comparisons tell,
    individuals that somebody compared with the encounter, and those of whom no picture shows who they are.

    Args:
        drop_key: of this drop only.

    Raises:
        DeerReidError: there is no such drop.
    """
    known = learned_from_reviews(site).individuals
    with site.database.session() as session:
        if drop_key is not None and get_drop(session, drop_key) is None:
            raise DeerReidError(f"there is no drop {drop_key!a}: `deer-reid process FOLDER` ends with the name of one")
        rows = [row for row in uncertain_rows(session, drop_key) if row.encounter_id not in known]
        reviews = standing_reviews(session)
        deer = {item.deer_id for row in rows for item in row.shortlist}
        individuals = individuals_by_id(session, deer)
        sightings = sightings_until(session, deer, standing_now(), evidence_only=True) if deer else []
    members: dict[uuid.UUID, list[Match]] = defaultdict(list)
    for match in build_matches(sightings, individuals, {}, ()):
        members[match.rows[0].deer_id].append(match)
    ranked = {key: to_compare_with(of) for key, of in members.items()}
    shown_by = {row.detection_id: row for row in sightings}
    compared: dict[uuid.UUID, set[uuid.UUID]] = defaultdict(set)
    for review in reviews:
        for one, other in (review.pair, review.pair[::-1]):
            if other in shown_by:
                compared[one].add(shown_by[other].deer_id)
    found = []
    for row in rows:
        done = {key for picture in row.pictures for key in compared[picture.detection_id]}
        likenesses = []
        for rank, item in enumerate(row.shortlist, 1):
            if item.deer_id in done or item.deer_id not in individuals:
                continue
            pair = pair_to_compare(row.pictures, ranked.get(item.deer_id, ()), named_first=True)
            if pair is not None:
                named = shown_by[pair[1]].method == HUMAN
                likenesses.append(Likeness(rank, individuals[item.deer_id].name, item.similarity, *pair, named))
        if likenesses:
            found.append(_uncertain(row, likenesses))
    return sorted(found, key=lambda item: (-(item.probability or 0.0), -item.likenesses[0].similarity))


def _uncertain(row: UncertainRow, likenesses: Sequence[Likeness]) -> Uncertain:
    surest = sorted(row.pictures, key=lambda picture: (-picture.confidence, str(picture.detection_id)))
    pictures = dict.fromkeys([*(each.left for each in likenesses), *(picture.detection_id for picture in surest)])
    return Uncertain(
        row.encounter_id,
        row.drop_key,
        row.started_at,
        row.probability if likenesses[0].rank == 1 else None,
        tuple(pictures),
        tuple(likenesses),
    )


def uncertain_to_fill_in(site: Site, encounters: Sequence[Uncertain]) -> list[dict[str, Any]]:
    """One row a likeness, with the columns of `UNCERTAIN_COLUMNS` and an empty verdict."""
    rows = []
    for item, numbered in _numbered(encounters):
        for number, each in numbered:
            row: dict[str, Any] = dict.fromkeys(UNCERTAIN_COLUMNS)
            row.update(
                left=str(each.left),
                right=str(each.right),
                row=number,
                encounter=str(item.encounter_id),
                rank=each.rank,
                individualID=each.individual,
                similarity=each.similarity,
                probability=item.probability if each.rank == 1 else None,
                named="yes" if each.named else "no",
                started=item.started_at.isoformat() if item.started_at is not None else None,
                drop=item.drop_key,
            )
            rows.append(row)
    add_files(site, rows)
    return rows


def uncertain_page(site: Site, encounters: Sequence[Uncertain], table: str, waiting: int) -> str:
    """The first encounters to look at, as one HTML page that fetches nothing; names from outside are escaped.

    Args:
        table: name of the file to fill in, which has the same encounters in the same order.
        waiting: encounters that wait, those that are not listed included.
    """
    shown = encounters[:MOST_ENCOUNTERS]
    wanted = [key for item in shown for key in item.pictures[:MOST_PICTURES]]
    wanted += [each.right for item in shown for each in item.likenesses]
    with site.database.session() as session:
        pictures = thumbnails(site, session, wanted)
    blocks = [
        {
            "of": item,
            "pictures": [
                (pictures[key], [str(number) for number, each in numbered if each.left == key])
                for key in item.pictures[:MOST_PICTURES]
            ],
            "likenesses": [{"row": number, "of": each, "picture": pictures[each.right]} for number, each in numbered],
        }
        for item, numbered in _numbered(shown)
    ]
    return page_template("uncertain_page.html.j2", Path(__file__).parent).render(
        blocks=blocks, listed=len(encounters), waiting=waiting, table=table
    )


def _numbered(encounters: Sequence[Uncertain]) -> Iterator[tuple[Uncertain, list[tuple[int, Likeness]]]]:
    """Encounters with their likenesses, each with the number of its row in the table."""
    numbers = count(1)
    for item in encounters:
        yield item, [(next(numbers), each) for each in item.likenesses]
