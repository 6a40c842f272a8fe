"""Whole tables out of and into the database as CSV, for a hand-over to another home.

PostgreSQL's own COPY writes and reads them: numbers exact, an empty text apart from NULL, nothing held in memory.
Vectors, reports, monitoring and A/B tests are not among the tables: they are made anew, or stay with who made them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import IO, Any, NamedTuple, cast

import psycopg2
from sqlalchemy import JSON, Boolean, Column, DateTime, Float, Integer, String, Table, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.reid.vocabulary import sex_of
from deer_reid_pipeline.store.decisions import newest_decisions
from deer_reid_pipeline.store.media import box_of
from deer_reid_pipeline.store.models import (
    Base,
    Deer,
    Deployment,
    Detection,
    DetectionCrop,
    Drop,
    DropMedia,
    Encounter,
    Image,
    MatchDecision,
    Quarantine,
    RecipeRow,
    Release,
    ReleaseEvent,
    Review,
)

_ROWS = 2000
"""Rows fetched at once."""


@dataclass(frozen=True)
class CarriedTable:
    """A table that is handed over.

    Attributes:
        name: of the resource in the package.
        stays: columns that stay behind.
        places: columns that tell where a camera stands; handed over only where that is asked for.
        instead: column -> column whose value is handed over for it; None: it is empty.
        with_files: handed over only together with files.
    """

    name: str
    model: type[Base]
    about: str
    stays: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    instead: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    with_files: bool = False

    @property
    def table(self) -> str:
        """Name in the database."""
        return str(self.model.__tablename__)

    def columns(self, places: bool) -> list[Column[Any]]:
        """The columns that are handed over, in the order of the model."""
        left_out = self.stays if places else self.stays | self.places
        return [column for column in self._model_table.columns if column.name not in left_out]

    @property
    def key(self) -> list[Column[Any]]:
        """Columns of the primary key."""
        return list(self._model_table.primary_key.columns)

    @property
    def _model_table(self) -> Table:
        return cast(Table, self.model.__table__)


CARRIED = (
    CarriedTable("recipes", RecipeRow, "What made the vectors that decisions rest on"),
    CarriedTable("releases", Release, "What matching used, and which one is live", frozenset({"report_id"})),
    CarriedTable("release_events", ReleaseEvent, "Which release became live when, and why", frozenset({"report_id"})),
    CarriedTable(
        "cameras", Deployment, "Cameras that the home knows", places=frozenset({"name", "latitude", "longitude"})
    ),
    CarriedTable(
        "individuals",
        Deer,
        "Individuals; their vectors are made anew",
        frozenset(
            {
                "feature_vector",
                "feature_vector_multiscale",
                "feature_vector_efficientnet",
                "embedding_version",
                "vector_recipe_id",
                "columns_recipe_id",
            }
        ),
    ),
    CarriedTable("drops", Drop, "Folders of pictures that were processed", instead={"root": "name"}),
    CarriedTable(
        "pictures",
        Image,
        "Pictures with the sha256 of the file that was processed",
        places=frozenset({"exif_data"}),
        instead={"path": "filename"},
    ),
    CarriedTable("files", DropMedia, "Files of the drops, and which picture each is"),
    CarriedTable("quarantine", Quarantine, "Files and rows that could not be used"),
    CarriedTable("encounters", Encounter, "One animal in one event each"),
    CarriedTable("detections", Detection, "Boxes, those that were replaced too"),
    CarriedTable("crops", DetectionCrop, "Crops that came along", with_files=True),
    CarriedTable("decisions", MatchDecision, "The log: who or what decided on which numbers"),
    CarriedTable("reviews", Review, "What people said of pairs of detections"),
)
"""In an order in which rows can be stored: what is referred to comes first."""


def kind_of(column: Column[Any]) -> str:
    """Table Schema type of a column as it is written: boolean, integer, number, datetime or string."""
    kinds = ((Boolean, "boolean"), (Integer, "integer"), (Float, "number"), (DateTime, "datetime"), (String, "string"))
    return next((kind for type_, kind in kinds if isinstance(column.type, type_)), "string")


def is_json(column: Column[Any]) -> bool:
    """Whether the text of a column is JSON."""
    return isinstance(column.type, JSON | JSONB)


def copy_out(session: Session, carried: CarriedTable, target: IO[bytes], places: bool) -> int:
    """Write a table as CSV with a header, UTF-8, ordered by its key; returns how many rows.

    The same rows give the same bytes in any database.
    """
    columns = ", ".join(_written(carried, column) for column in carried.columns(places))
    key = ", ".join(
        f'"{column.name}" COLLATE "C"' if isinstance(column.type, String) else f'"{column.name}"'
        for column in carried.key
    )
    query = f'SELECT {columns} FROM "{carried.table}" ORDER BY {key}'
    with _cursor(session) as cursor:
        cursor.execute("SET LOCAL extra_float_digits = 1")
        cursor.copy_expert(f"COPY ({query}) TO STDOUT WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')", target)
        return int(cursor.rowcount)


def copy_in(session: Session, carried: CarriedTable, source: IO[bytes], places: bool) -> int:
    """Store the rows of a table as `copy_out` wrote it; returns how many. Running numbers go on after the last one.

    Raises:
        DatabaseError: a value does not fit its column, a row is there twice, or it refers to a row that is not there.
    """
    names = ", ".join(f'"{column.name}"' for column in carried.columns(places))
    with _cursor(session) as cursor:
        try:
            cursor.copy_expert(
                f"COPY \"{carried.table}\" ({names}) FROM STDIN WITH (FORMAT csv, HEADER match, ENCODING 'UTF8')",
                source,
            )
        except (psycopg2.DataError, psycopg2.IntegrityError, psycopg2.InternalError) as error:
            said = " ".join(str(error.diag.message_primary or error).split())
            raise DatabaseError(
                f"the table {carried.name} cannot be stored: {said.encode('ascii', 'backslashreplace').decode()[:200]}"
            ) from error
        stored = int(cursor.rowcount)
        if [column.name for column in carried.key] == ["id"] and isinstance(carried.key[0].type, Integer):
            cursor.execute(
                f"SELECT setval(pg_get_serial_sequence('{carried.table}', 'id'), max(id)) FROM \"{carried.table}\" "
                "HAVING max(id) IS NOT NULL"
            )
    return stored


def filled_table(session: Session) -> tuple[str, int] | None:
    """A table of a hand-over that has rows already, and how many; None where all are empty."""
    for carried in (*CARRIED[4:], *CARRIED[:4]):
        count = session.scalar(select(func.count()).select_from(carried.model)) or 0
        if count:
            return carried.name, count
    return None


def read_as_of_now(session: Session) -> None:
    """Let the session see the database as it is now until its end, and write nothing. Call it first."""
    session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))


def individual_labels(session: Session) -> dict[uuid.UUID, str]:
    """A name for each individual that no other has: its own; with its id where it has none or shares it."""
    rows = session.execute(select(Deer.id, Deer.name).order_by(Deer.id)).all()
    times: dict[str, int] = {}
    for _, name in rows:
        times[name or ""] = times.get(name or "", 0) + 1
    return {key: name if name and times[name] == 1 else f"{name or 'individual'} {key}" for key, name in rows}


class PictureRow(NamedTuple):
    """A stored picture and where the drop that brought it first had it; drop and file are None for older pictures."""

    id: uuid.UUID
    filename: str
    sha256: str | None
    timestamp: datetime | None
    deployment_id: str | None
    event_id: str | None
    drop_key: str | None
    drop_name: str | None
    file_path: str | None


def picture_rows(session: Session) -> Iterator[PictureRow]:
    """All stored pictures, by time, then id."""
    first = _first_files()
    query = (
        select(
            Image.id,
            Image.filename,
            Image.sha256,
            Image.timestamp,
            Image.deployment_id,
            Image.event_id,
            first.c.drop_key,
            first.c.name,
            first.c.file_path,
        )
        .outerjoin(first, first.c.image_id == Image.id)
        .order_by(Image.timestamp.asc().nulls_last(), Image.id)
        .execution_options(yield_per=_ROWS)
    )
    for row in session.execute(query):
        yield PictureRow(*row)


class ObservationRow(NamedTuple):
    """A standing detection, its picture, and the latest decision about its encounter.

    Attributes:
        box: shares of the picture; (0, 0, 0, 0) where it cannot be placed.
        sex: male, female or unknown: of the individual, else of the encounter.
        decision: matched, new_individual, uncertain; None while nobody decided.
    """

    id: uuid.UUID
    picture: PictureRow
    box: tuple[float, float, float, float]
    source: str | None
    viewpoint: str | None
    life_stage: str | None
    sex: str
    deer: uuid.UUID | None
    event_key: str | None
    encounter_drop: str | None
    started_at: datetime | None
    ended_at: datetime | None
    decision: str | None
    method: str | None
    probability: float | None
    recipe: str | None
    release: int | None
    reason: str | None
    decided_at: datetime | None


def observation_rows(session: Session) -> Iterator[ObservationRow]:
    """All standing detections, by time and id of their picture, then by id."""
    first = _first_files()
    latest = newest_decisions(
        MatchDecision.encounter_id,
        MatchDecision.decision,
        MatchDecision.method,
        MatchDecision.probability,
        MatchDecision.recipe_id,
        MatchDecision.release_id,
        MatchDecision.reason,
        MatchDecision.decided_at,
    ).subquery()
    query = (
        select(Detection, Image, Encounter, Deer.sex, first.c.drop_key, first.c.name, first.c.file_path, latest)
        .join(Image, Image.id == Detection.image_id)
        .outerjoin(first, first.c.image_id == Image.id)
        .outerjoin(Encounter, Encounter.id == Detection.encounter_id)
        .outerjoin(Deer, Deer.id == Detection.deer_id)
        .outerjoin(latest, latest.c.encounter_id == Detection.encounter_id)
        .where(~Detection.superseded)
        .order_by(Image.timestamp.asc().nulls_last(), Image.id, Detection.id)
        .execution_options(yield_per=_ROWS)
    )
    for row in session.execute(query):
        detection: Detection = row.Detection
        image: Image = row.Image
        encounter: Encounter | None = row.Encounter
        yield ObservationRow(
            id=detection.id,
            picture=PictureRow(
                image.id,
                image.filename,
                image.sha256,
                image.timestamp,
                image.deployment_id,
                image.event_id,
                row.drop_key,
                row.name,
                row.file_path,
            ),
            box=box_of(detection, image),
            source=detection.source,
            viewpoint=detection.viewpoint,
            life_stage=detection.life_stage,
            sex=sex_of(row.sex) if row.sex is not None else encounter.sex if encounter is not None else "unknown",
            deer=detection.deer_id,
            event_key=encounter.event_key if encounter is not None else None,
            encounter_drop=encounter.drop_key if encounter is not None else None,
            started_at=encounter.started_at if encounter is not None else None,
            ended_at=encounter.ended_at if encounter is not None else None,
            decision=row.decision,
            method=row.method or detection.classification_method,
            probability=row.probability,
            recipe=row.recipe_id,
            release=row.release_id,
            reason=row.reason,
            decided_at=row.decided_at,
        )


class CropFile(NamedTuple):
    """The file of a crop, relative to the home's crops folder."""

    detection_id: uuid.UUID
    spec_id: str
    file: str
    sha256: str


def crop_files(session: Session) -> list[CropFile]:
    """Every crop that is noted, by detection."""
    rows = session.execute(
        select(DetectionCrop.detection_id, DetectionCrop.spec_id, DetectionCrop.file, DetectionCrop.sha256).order_by(
            DetectionCrop.detection_id, DetectionCrop.spec_id
        )
    )
    return [CropFile(*row) for row in rows]


def places_of_cameras(session: Session) -> dict[str, tuple[str | None, float | None, float | None]]:
    """deploymentID -> locationName, degrees north and east; None where they are not known. By deploymentID."""
    rows = session.execute(select(Deployment.id, Deployment.name, Deployment.latitude, Deployment.longitude))
    return {key: (name, north, east) for key, name, north, east in sorted(rows, key=lambda row: str(row[0]))}


def drops_by_key(session: Session) -> dict[str, str]:
    """Key -> folder name of every drop."""
    return {key: name for key, name in session.execute(select(Drop.key, Drop.name).order_by(Drop.key))}


def move_drops(session: Session, roots: Mapping[str, str]) -> None:
    """Note where the folders of drops are now."""
    for key in sorted(roots):
        session.execute(update(Drop).where(Drop.key == key).values(root=roots[key]))


def stored_recipes(session: Session) -> Sequence[tuple[str, dict[str, Any]]]:
    """Id and data of every recipe."""
    return [(key, dict(spec)) for key, spec in session.execute(select(RecipeRow.id, RecipeRow.spec))]


def stored_releases(session: Session) -> Sequence[Release]:
    """Every release."""
    return session.scalars(select(Release).order_by(Release.id)).all()


def _first_files() -> Any:
    """The file that each picture was first stored from, one row a picture."""
    return (
        select(DropMedia.image_id, DropMedia.drop_key, Drop.name, DropMedia.file_path)
        .join(Drop, Drop.key == DropMedia.drop_key)
        .join(Image, Image.id == DropMedia.image_id)
        .distinct(DropMedia.image_id)
        .order_by(
            DropMedia.image_id,
            func.coalesce(DropMedia.drop_key == Image.drop_key, False).desc(),
            Drop.sealed_at,
            DropMedia.drop_key.collate("C"),
            DropMedia.ordinal,
        )
        .subquery()
    )


def _written(carried: CarriedTable, column: Column[Any]) -> str:
    """The expression that writes a column: times in UTC with microseconds, everything else as PostgreSQL does."""
    source = carried.instead.get(column.name, column.name)
    if kind_of(column) == "datetime":
        shown = f"""to_char("{source}" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
    elif kind_of(column) == "boolean":
        shown = f'"{source}"::text'
    else:
        shown = f'"{source}"'
    return f'{shown} AS "{column.name}"'


def _cursor(session: Session) -> Any:
    """A cursor of psycopg2 in the session's transaction: COPY is not part of SQLAlchemy."""
    session.flush()
    return session.connection().connection.cursor()
