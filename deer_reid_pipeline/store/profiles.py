"""Profiles: exemplars and mean directions of individuals, by recipe."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from deer_reid_pipeline.reid.similarity import BRANCHES, EFFICIENTNET, MULTISCALE, FloatArray
from deer_reid_pipeline.store.columns import profiled, shown
from deer_reid_pipeline.store.ids import opened_deer_id
from deer_reid_pipeline.store.models import Deer, Detection, DetectionCrop, Embedding, Profile, ProfileExemplar


@dataclass(frozen=True)
class Member:
    """An embedded detection of an individual.

    Attributes:
        by_person: a person gave the identity.
        evidence: it may stand for the individual: a person named it, or the individual was opened from it. A
            machine's match says whom a picture resembles, not whom it shows, and adds no evidence.
        complete: it has vectors of all branches, which what was matched in fast mode has not.
    """

    detection_id: uuid.UUID
    viewpoint: str | None
    by_person: bool
    evidence: bool
    complete: bool = True


def individuals_with_sightings(session: Session) -> list[tuple[uuid.UUID, str]]:
    """(id, name) of every individual that has a standing detection, by name and id."""
    rows = session.execute(
        select(Deer.id, Deer.name)
        .where(Deer.id.in_(select(Detection.deer_id).where(Detection.deer_id.is_not(None), ~Detection.superseded)))
        .order_by(Deer.name, Deer.id)
    )
    return [(key, name or str(key)[:8]) for key, name in rows]


def detections_of(session: Session, deer: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Standing detections of these individuals, embedded or not, individual by individual."""
    return list(
        session.scalars(
            select(Detection.id)
            .where(Detection.deer_id.in_(deer), ~Detection.superseded)
            .order_by(Detection.deer_id, Detection.id)
        )
    )


def members(session: Session, recipe_id: str, deer: uuid.UUID | None = None) -> dict[uuid.UUID, list[Member]]:
    """Standing detections with a vector under the recipe, by individual (all, or one), each list by id."""
    query = (
        select(
            Detection.deer_id,
            Detection.id,
            Detection.viewpoint,
            Detection.classification_method,
            Detection.encounter_id,
            _has_vector(recipe_id, EFFICIENTNET),
        )
        .join(Embedding, Embedding.detection_id == Detection.id)
        .where(
            Detection.deer_id.is_not(None),
            ~Detection.superseded,
            Embedding.recipe_id == recipe_id,
            Embedding.branch == MULTISCALE,
        )
        .order_by(Detection.id)
    )
    if deer is not None:
        query = query.where(Detection.deer_id == deer)
    found: dict[uuid.UUID, list[Member]] = defaultdict(list)
    for owner, key, viewpoint, method, encounter, has_second in session.execute(query):
        opened = encounter is not None and opened_deer_id(encounter) == owner
        found[owner].append(Member(key, viewpoint, method == "human", method != "machine" or opened, has_second))
    return dict(found)


def standing_for(items: Sequence[Member]) -> list[Member]:
    """Those of an individual's detections that may stand for it: the evidence, or all where nothing is evidence."""
    return [item for item in items if item.evidence] or list(items)


def evidence_lacking(session: Session, recipe_id: str) -> list[uuid.UUID]:
    """Detections that stand for individuals and lack the second network's vector, as when fast mode opened them."""
    lacks_second = _has_vector(recipe_id, MULTISCALE) & ~_has_vector(recipe_id, EFFICIENTNET)
    concerned = session.scalars(
        select(Detection.deer_id).where(Detection.deer_id.is_not(None), ~Detection.superseded, lacks_second).distinct()
    ).all()
    return [
        item.detection_id
        for deer in concerned
        for items in members(session, recipe_id, deer).values()
        for item in standing_for(items)
        if not item.complete
    ]


def _has_vector(recipe_id: str, branch: str) -> ColumnElement[bool]:
    """Whether a detection of the query around it has a vector of a recipe and branch."""
    of_detection = aliased(Embedding)
    return (
        select(of_detection.detection_id)
        .where(
            of_detection.detection_id == Detection.id,
            of_detection.recipe_id == recipe_id,
            of_detection.branch == branch,
        )
        .exists()
    )


def digest_of(items: Sequence[Member]) -> str:
    """sha256 over what a profile is made of; equal digests mean that it need not be made again."""
    left_out = {m.detection_id for m in standing_for(items) if not m.complete}
    text = "\n".join(
        f"{m.detection_id} {m.viewpoint} {m.by_person} {m.evidence}{' left out' if m.detection_id in left_out else ''}"
        for m in items
    )
    return hashlib.sha256(text.encode()).hexdigest()


def stale_profiles(session: Session, recipe_id: str, *, live: bool, deer: uuid.UUID | None = None) -> list[uuid.UUID]:
    """Individuals whose profile under the recipe is missing or made of other detections than they have now.

    One of which no detection has all vectors cannot have a profile, and is left out.

    Args:
        live: the recipe is the live one, so that columns of `deer` which do not show it count too.
        deer: look at this individual only.
    """
    digests = select(Profile.deer_id, Profile.digest).where(Profile.recipe_id == recipe_id)
    if deer is not None:
        digests = digests.where(Profile.deer_id == deer)
    made = dict(session.execute(digests).tuples().all())
    current = members(session, recipe_id, deer)
    stale = {
        key
        for key, items in current.items()
        if made.get(key) != digest_of(items) and any(item.complete for item in standing_for(items))
    }
    if live:
        due = select(Deer.id).where(profiled(recipe_id), ~shown(recipe_id))
        stale.update(session.scalars(due if deer is None else due.where(Deer.id == deer)))
    return sorted(stale, key=str)


def outdate_profiles(session: Session, recipe_id: str) -> None:
    """Let every profile under a recipe count as stale, as where its vectors are about to be made again.

    It stays in use until it is made. Rows that somebody is making now are left to them, so that nobody is waited for.
    """
    free = select(Profile.deer_id, Profile.branch).where(Profile.recipe_id == recipe_id)
    session.execute(
        update(Profile)
        .where(
            Profile.recipe_id == recipe_id,
            tuple_(Profile.deer_id, Profile.branch).in_(free.with_for_update(skip_locked=True)),
        )
        .values(digest="", updated_at=Profile.updated_at),
        execution_options={"synchronize_session": False},
    )


def lock_deer(session: Session, deer: uuid.UUID) -> None:
    """Keep others from changing an individual's profile until this transaction ends."""
    session.execute(select(Deer.id).where(Deer.id == deer).with_for_update())


def put_profile(
    session: Session,
    deer: uuid.UUID,
    recipe_id: str,
    digest: str,
    count: int,
    means: Mapping[str, FloatArray],
    exemplars: Sequence[tuple[Member, Mapping[str, FloatArray]]],
) -> None:
    """Replace an individual's profile and exemplars under one recipe; those of other recipes stay.

    Args:
        means: branch -> unit vector (512,).
        exemplars: a member and its vector by branch.
    """
    statement = insert(Profile)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Profile.deer_id, Profile.recipe_id, Profile.branch],
            set_={
                "vector": statement.excluded.vector,
                "detections": statement.excluded.detections,
                "digest": statement.excluded.digest,
                "updated_at": func.now(),
            },
        ),
        [
            {
                "deer_id": deer,
                "recipe_id": recipe_id,
                "branch": branch,
                "vector": vector,
                "detections": count,
                "digest": digest,
            }
            for branch, vector in means.items()
        ],
    )
    session.execute(
        delete(ProfileExemplar).where(ProfileExemplar.deer_id == deer, ProfileExemplar.recipe_id == recipe_id)
    )
    rows = [
        {
            "deer_id": deer,
            "recipe_id": recipe_id,
            "branch": branch,
            "detection_id": member.detection_id,
            "viewpoint": member.viewpoint,
            "vector": vector,
        }
        for member, vectors in exemplars
        for branch, vector in vectors.items()
    ]
    if rows:
        session.execute(insert(ProfileExemplar), rows)


def individuals_lacking(session: Session, recipe_id: str) -> int:
    """Individuals that the recipe knows less of than there is: cropped detections that its profile is not made of."""
    cropped = select(DetectionCrop.detection_id).where(DetectionCrop.detection_id == Detection.id).exists()
    there = (
        select(Detection.deer_id, func.count().label("detections"))
        .where(Detection.deer_id.is_not(None), ~Detection.superseded, cropped)
        .group_by(Detection.deer_id)
        .subquery()
    )
    made = (
        select(Profile.deer_id, func.min(Profile.detections).label("detections"), func.count().label("branches"))
        .where(Profile.recipe_id == recipe_id)
        .group_by(Profile.deer_id)
        .subquery()
    )
    behind = or_(func.coalesce(made.c.branches, 0) < len(BRANCHES), made.c.detections < there.c.detections)
    both = there.outerjoin(made, made.c.deer_id == there.c.deer_id)
    return session.scalar(select(func.count()).select_from(both).where(behind)) or 0


def detections_lacking(session: Session, recipe_id: str) -> list[uuid.UUID]:
    """Standing, cropped detections of individuals that have no vector under the recipe, by id."""
    cropped = select(DetectionCrop.detection_id).where(DetectionCrop.detection_id == Detection.id).exists()
    embedded = _has_vector(recipe_id, MULTISCALE)
    return list(
        session.scalars(
            select(Detection.id)
            .where(Detection.deer_id.is_not(None), ~Detection.superseded, cropped, ~embedded)
            .order_by(Detection.id)
        )
    )


def unknown_under(session: Session, recipe_id: str) -> list[uuid.UUID]:
    """Individuals embedded under other recipes only, by id: opened under another release, they are unknown to this one.

    Matching under the recipe would not find them and open them a second time.
    """
    embedded = select(Embedding.detection_id).where(Embedding.detection_id == Detection.id)
    standing = select(Detection.id).where(Detection.deer_id == Deer.id, ~Detection.superseded).correlate(Deer)
    return list(
        session.scalars(
            select(Deer.id)
            .where(
                ~profiled(recipe_id),
                standing.where(embedded.where(Embedding.recipe_id != recipe_id).exists()).exists(),
                ~standing.where(embedded.where(Embedding.recipe_id == recipe_id).exists()).exists(),
            )
            .order_by(Deer.id)
        )
    )


def remove_empty_profiles(session: Session) -> int:
    """Delete profiles of individuals that no standing detection belongs to any more."""
    alive = select(Detection.deer_id).where(Detection.deer_id.is_not(None), ~Detection.superseded)
    session.execute(delete(ProfileExemplar).where(ProfileExemplar.deer_id.not_in(alive)))
    result = session.execute(delete(Profile).where(Profile.deer_id.not_in(alive)))
    return int(getattr(result, "rowcount", 0))
