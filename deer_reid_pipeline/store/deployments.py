"""Where cameras stand. Coordinates stay in the database: nothing here is exported, logged or printed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from deer_reid_pipeline.store.models import Deployment


@dataclass(frozen=True)
class Place:
    """A camera's placement: Camtrap DP deploymentID, locationName, degrees north and east (WGS 84)."""

    id: str
    name: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def put_deployments(session: Session, places: Iterable[Place], drop_key: str | None = None) -> int:
    """Store placements; what a later drop says replaces what was known, but silence on a value keeps it.

    Returns:
        How many were given.

    Raises:
        ValueError: a coordinate is out of range, or only one of the two is given.
    """
    rows = []
    for place in places:
        _check(place)
        rows.append(
            {
                "id": place.id,
                "name": place.name,
                "latitude": place.latitude,
                "longitude": place.longitude,
                "drop_key": drop_key,
            }
        )
    if not rows:
        return 0
    statement = insert(Deployment)
    new = statement.excluded
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Deployment.id],
            set_={
                "name": func.coalesce(new.name, Deployment.name),
                "latitude": func.coalesce(new.latitude, Deployment.latitude),
                "longitude": func.coalesce(new.longitude, Deployment.longitude),
                "drop_key": new.drop_key,
                "updated_at": func.now(),
            },
        ),
        rows,
    )
    return len(rows)


def places(session: Session, ids: Collection[str] | None = None) -> dict[str, Place]:
    """Placements with coordinates, by id (all, or these)."""
    query = select(Deployment).where(Deployment.latitude.is_not(None), Deployment.longitude.is_not(None))
    if ids is not None:
        query = query.where(Deployment.id.in_(ids))
    return {row.id: Place(row.id, row.name, row.latitude, row.longitude) for row in session.scalars(query)}


def _check(place: Place) -> None:
    if (place.latitude is None) != (place.longitude is None):
        raise ValueError(f"deployment {place.id} has only one of latitude and longitude")
    if place.latitude is None or place.longitude is None:
        return
    if not (-90 <= place.latitude <= 90 and -180 <= place.longitude <= 180):
        raise ValueError(f"deployment {place.id} has a latitude or longitude that is out of range")
