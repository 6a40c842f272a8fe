"""The tables as SQLAlchemy models.

`images`, `detections` and `deer` are the owner's tables: their names and columns stay, our additions are
nullable or have a default. Everything else is ours. Every vector row carries the recipe that made it.
`match_decisions`, `release_events` and `reviews` are append-only: triggers made by the migrations refuse UPDATE,
DELETE and TRUNCATE.

Schema changes are made by Alembic revisions in `migrations/`, never by `create_all`.
"""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Any

from pgvector.sqlalchemy import Vector
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

VECTOR_SIZE = 512
"""Every stored embedding has this many dimensions."""


class Base(DeclarativeBase):
    """Declarative base of all tables."""


def _hnsw(column: str) -> Index:
    """Approximate nearest neighbours by cosine distance on a vector column of `deer`."""
    return Index(
        f"ix_deer_{column}_hnsw",
        column,
        postgresql_using="hnsw",
        postgresql_ops={column: "vector_cosine_ops"},
        postgresql_with={"m": 16, "ef_construction": 64},
    )


class Image(Base):
    """A picture, stored once per content (sha256). The first six columns are the owner's."""

    __tablename__ = "images"
    __table_args__ = (Index("ix_images_path", "path"),)

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    filename: Mapped[str] = mapped_column(String(255))
    path: Mapped[str] = mapped_column(Text, comment="Where the file was when it was stored")
    timestamp: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), index=True, comment="When it was taken")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    exif_data: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    sha256: Mapped[str | None] = mapped_column(
        String(64), unique=True, comment="Of the file: one row a picture, however often it is dropped"
    )
    width: Mapped[int | None] = mapped_column(Integer, comment="Pixels, after EXIF orientation")
    height: Mapped[int | None] = mapped_column(Integer, comment="Pixels, after EXIF orientation")
    infrared: Mapped[bool | None] = mapped_column(Boolean, comment="The picture has no colour: infrared at night")
    deployment_id: Mapped[str | None] = mapped_column(Text, comment="Camtrap DP deploymentID: the camera's placement")
    event_id: Mapped[str | None] = mapped_column(Text, comment="Camtrap DP eventID as given by the drop")
    drop_key: Mapped[str | None] = mapped_column(Text, comment="Drop that brought this picture first")


class Deer(Base):
    """An individual. Vector columns show the live release; vectors by recipe are in profile_exemplars."""

    __tablename__ = "deer"
    __table_args__ = (
        _hnsw("feature_vector"),
        _hnsw("feature_vector_multiscale"),
        _hnsw("feature_vector_efficientnet"),
    )

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(100), comment="individualID")
    sex: Mapped[str] = mapped_column(
        String(20), server_default="unknown", index=True, comment="buck, doe, fawn or unknown"
    )
    first_seen: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_seen: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    confidence: Mapped[float] = mapped_column(Float, server_default="0")
    sighting_count: Mapped[int] = mapped_column(Integer, server_default="1")
    feature_vector: Mapped[Any | None] = mapped_column(
        Vector(VECTOR_SIZE), comment="v1: final layer of ResNet-50, unit length"
    )

    feature_vector_multiscale: Mapped[Any | None] = mapped_column(
        Vector(VECTOR_SIZE), comment="Multi-scale ResNet-50 branch of the live release, unit length"
    )
    feature_vector_efficientnet: Mapped[Any | None] = mapped_column(
        Vector(VECTOR_SIZE), comment="EfficientNet-B0 branch of the live release, unit length"
    )
    embedding_version: Mapped[str | None] = mapped_column(
        String(20),
        server_default="v1_resnet50",
        index=True,
        comment="Who made the vectors: v1_resnet50, v2_multiscale or v3_ensemble",
    )

    life_stage: Mapped[str | None] = mapped_column(String(20), comment="Camtrap DP lifeStage")
    identified_by: Mapped[str | None] = mapped_column(
        String(10), comment="human: named by a person; machine: opened by the matcher"
    )
    vector_recipe_id: Mapped[str | None] = mapped_column(
        Text,
        comment="Recipe of feature_vector; null: a v1 vector from before the enhancement, never overwritten",
    )
    columns_recipe_id: Mapped[str | None] = mapped_column(
        Text, comment="Recipe of the multiscale and efficientnet columns; null: they are to be shown again"
    )


class Drop(Base):
    """A sealed folder of media; its key is the Dagster partition key."""

    __tablename__ = "drops"

    key: Mapped[str] = mapped_column(Text, primary_key=True, comment="Name and digest; the Dagster partition key")
    name: Mapped[str] = mapped_column(Text, comment="Folder name")
    root: Mapped[str] = mapped_column(Text, comment="Folder the drop was read from")
    digest: Mapped[str] = mapped_column(String(64), comment="sha256 over names and contents")
    layout: Mapped[str] = mapped_column(String(20), comment="How pictures and tables lie in it")
    detector: Mapped[str] = mapped_column(Text, comment="Where boxes come from when the drop gives none")
    warnings: Mapped[list[str] | None] = mapped_column(JSONB, comment="What a person should know of its tables")
    sealed_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When its contents were fixed"
    )
    completed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), comment="When every step had run")
    summary: Mapped[dict[str, Any] | None] = mapped_column(JSONB, comment="Counts for people")


class DropMedia(Base):
    """One picture file of a drop and what the drop's table says of it."""

    __tablename__ = "drop_media"

    drop_key: Mapped[str] = mapped_column(ForeignKey("drops.key", ondelete="CASCADE"), primary_key=True, comment="Drop")
    file_path: Mapped[str] = mapped_column(Text, primary_key=True, comment="Relative to the drop, with /")
    sha256: Mapped[str] = mapped_column(String(64), comment="Of the file")
    ordinal: Mapped[int] = mapped_column(Integer, comment="Position in the drop's order")
    image_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("images.id", ondelete="SET NULL"),
        index=True,
        comment="Stored picture; null: not yet, or quarantined",
    )
    timestamp: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), comment="When it was taken, as the drop says"
    )
    deployment_id: Mapped[str | None] = mapped_column(Text, comment="Camtrap DP deploymentID")
    event_id: Mapped[str | None] = mapped_column(Text, comment="Camtrap DP eventID")
    looked_at_by: Mapped[str | None] = mapped_column(
        Text, comment="Detector that looked at the picture, found something or not; null: none yet"
    )
    boxes: Mapped[list[dict[str, Any]] | None] = mapped_column(
        JSONB(none_as_null=True),
        comment="Boxes given by the drop; null: none given, a detector is asked; []: known to be blank",
    )


class Quarantine(Base):
    """A file or a row that could not be used, and why. Nothing is ever dropped without a row here."""

    __tablename__ = "quarantine"
    __table_args__ = (UniqueConstraint("drop_key", "file", "code", "reason"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, comment="Running number")
    drop_key: Mapped[str] = mapped_column(ForeignKey("drops.key", ondelete="CASCADE"), index=True, comment="Drop")
    file: Mapped[str] = mapped_column(Text, comment="Relative to the drop")
    code: Mapped[str] = mapped_column(String(40), comment="Short name of the reason")
    reason: Mapped[str] = mapped_column(Text, comment="What was wrong and what to do")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it was found"
    )


class Encounter(Base):
    """One animal in one event: what a decision is made about."""

    __tablename__ = "encounters"
    __table_args__ = (UniqueConstraint("drop_key", "ordinal"),)

    id: Mapped[uuid.UUID] = mapped_column(
        UUID(as_uuid=True),
        primary_key=True,
        comment="Made from drop and event, so that a repeated run finds it again",
    )
    drop_key: Mapped[str] = mapped_column(ForeignKey("drops.key", ondelete="CASCADE"), comment="Drop")
    ordinal: Mapped[int] = mapped_column(Integer, comment="Order in which encounters of the drop are decided")
    event_key: Mapped[str] = mapped_column(Text, comment="Event within the drop")
    deployment_id: Mapped[str | None] = mapped_column(Text, comment="Camtrap DP deploymentID")
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), comment="First picture")
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), comment="Last picture")
    sex: Mapped[str] = mapped_column(String(20), server_default="unknown", comment="male, female or unknown")
    given_individual: Mapped[str | None] = mapped_column(Text, comment="individualID given by a person")


class Detection(Base):
    """A box in a picture. The first eight columns are the owner's."""

    __tablename__ = "detections"

    id: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), primary_key=True)
    image_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)
    deer_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("deer.id", ondelete="SET NULL"), index=True)
    bbox: Mapped[dict[str, Any]] = mapped_column(JSON, comment="{x, y, width, height} in pixels")
    confidence: Mapped[float] = mapped_column(Float)
    classification: Mapped[str] = mapped_column(String(20), server_default="unknown")
    similarity_score: Mapped[float | None] = mapped_column(
        Float, index=True, comment="Cosine similarity to the assigned individual"
    )
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    bbox_x: Mapped[float | None] = mapped_column(Float, comment="Left edge, share of the width, 0 to 1")
    bbox_y: Mapped[float | None] = mapped_column(Float, comment="Top edge, share of the height, 0 to 1")
    bbox_width: Mapped[float | None] = mapped_column(Float, comment="Share of the width, 0 to 1")
    bbox_height: Mapped[float | None] = mapped_column(Float, comment="Share of the height, 0 to 1")
    source: Mapped[str | None] = mapped_column(Text, comment="manifest, whole_frame, or the detector's name")
    viewpoint: Mapped[str | None] = mapped_column(String(10), comment="left, right, front, back; null: unknown")
    life_stage: Mapped[str | None] = mapped_column(String(20), comment="Camtrap DP lifeStage")
    given_individual: Mapped[str | None] = mapped_column(Text, comment="individualID given by a person")
    given_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), comment="When the drop was sealed whose table said it; an older drop changes nothing"
    )
    classification_method: Mapped[str | None] = mapped_column(
        String(10), comment="human or machine: who gave deer_id; null: nobody yet"
    )
    encounter_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("encounters.id", ondelete="SET NULL"),
        index=True,
        comment="Encounter that it was decided in",
    )
    superseded: Mapped[bool] = mapped_column(
        Boolean, server_default=text("false"), comment="A whole-frame box that was replaced by real boxes"
    )


class DetectionCrop(Base):
    """The pixels of a detection as a file under the home; what every recipe reads."""

    __tablename__ = "detection_crops"

    detection_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("detections.id", ondelete="CASCADE"), primary_key=True, comment="Detection"
    )
    spec_id: Mapped[str] = mapped_column(String(40), primary_key=True, comment="Margin, size and encoding")
    file: Mapped[str] = mapped_column(Text, comment="Relative to the home's crops folder")
    sha256: Mapped[str] = mapped_column(String(64), comment="Of the crop file")
    width: Mapped[int] = mapped_column(Integer, comment="Pixels")
    height: Mapped[int] = mapped_column(Integer, comment="Pixels")


class RecipeRow(Base):
    """A recipe as data: backbones, taps, pooling, projection, preprocessing and weights."""

    __tablename__ = "recipes"

    id: Mapped[str] = mapped_column(Text, primary_key=True, comment="Name and digest of the spec")
    name: Mapped[str] = mapped_column(Text, comment="original, reference, lite, mobile or a trained name")
    spec: Mapped[dict[str, Any]] = mapped_column(JSONB, comment="Everything that the vectors depend on")
    random_weights: Mapped[bool] = mapped_column(
        Boolean, server_default=text("false"), comment="For speed trials; never releasable"
    )
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it was first used"
    )
    control_of: Mapped[str | None] = mapped_column(
        ForeignKey("recipes.id"),
        comment="Recipe of whose pictures it embeds only the background: a control, never releasable",
    )
    fold_of: Mapped[str | None] = mapped_column(
        ForeignKey("recipes.id"),
        comment="Fine-tuned recipe that it judges: trained without the individuals of one fold, never releasable",
    )
    fold: Mapped[int | None] = mapped_column(Integer, comment="Fold whose individuals it was trained without, from 0")
    training: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True),
        comment="What it was trained on: the fold of each individual, null where none judges it; null: not fine-tuned",
    )


class Embedding(Base):
    """One vector of one detection, branch and recipe."""

    __tablename__ = "embeddings"
    __table_args__ = (Index("ix_embeddings_recipe_branch", "recipe_id", "branch"),)

    detection_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("detections.id", ondelete="CASCADE"), primary_key=True, comment="Detection"
    )
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"), primary_key=True, comment="Recipe that made it")
    branch: Mapped[str] = mapped_column(String(20), primary_key=True, comment="multiscale, efficientnet or baseline")
    vector: Mapped[Any] = mapped_column(Vector(VECTOR_SIZE), comment="Unit length")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it was made"
    )


class Profile(Base):
    """The mean direction of an individual's vectors, by recipe and branch."""

    __tablename__ = "profiles"

    deer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("deer.id", ondelete="CASCADE"), primary_key=True, comment="Individual"
    )
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"), primary_key=True, comment="Recipe that made it")
    branch: Mapped[str] = mapped_column(String(20), primary_key=True, comment="multiscale, efficientnet or baseline")
    vector: Mapped[Any] = mapped_column(Vector(VECTOR_SIZE), comment="Unit length")
    detections: Mapped[int] = mapped_column(Integer, comment="Detections behind this vector")
    digest: Mapped[str] = mapped_column(
        String(64), comment="sha256 over the detections behind it, so that an unchanged profile is left alone"
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True),
        server_default=func.now(),
        onupdate=func.now(),
        comment="When it was last computed",
    )


class ProfileExemplar(Base):
    """A detection kept as an example of an individual's viewpoint, by recipe and branch."""

    __tablename__ = "profile_exemplars"
    __table_args__ = (Index("ix_profile_exemplars_recipe_branch", "recipe_id", "branch"),)

    deer_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("deer.id", ondelete="CASCADE"), primary_key=True, comment="Individual"
    )
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"), primary_key=True, comment="Recipe that made it")
    branch: Mapped[str] = mapped_column(String(20), primary_key=True, comment="multiscale, efficientnet or baseline")
    detection_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("detections.id", ondelete="CASCADE"),
        primary_key=True,
        comment="Detection that is the example",
    )
    viewpoint: Mapped[str | None] = mapped_column(String(10), comment="left, right, front, back; null: unknown")
    vector: Mapped[Any] = mapped_column(Vector(VECTOR_SIZE), comment="Unit length")


class Report(Base):
    """What was measured: a validation, a tuning, a day's monitoring. The files are under the home."""

    __tablename__ = "reports"
    __table_args__ = (Index("ix_reports_kind", "kind", "id"), Index("ix_reports_candidate_id", "candidate_id"))

    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="Running number")
    kind: Mapped[str] = mapped_column(String(20), comment="validation, tuning, monitoring or ab")
    day: Mapped[date | None] = mapped_column(Date, comment="Day it is about, where it is about one")
    recipe_id: Mapped[str | None] = mapped_column(ForeignKey("recipes.id"), comment="Recipe that was judged")
    release_id: Mapped[int | None] = mapped_column(Integer, comment="Release that was live then")
    candidate_id: Mapped[int | None] = mapped_column(Integer, comment="Release that was judged against the live one")
    verdict: Mapped[str | None] = mapped_column(String(20), comment="PASS, FAIL or INCONCLUSIVE; null: not a judgement")
    data_digest: Mapped[str | None] = mapped_column(Text, comment="Digest of what was judged")
    summary: Mapped[dict[str, Any]] = mapped_column(JSONB, comment="Its figures and findings")
    folder: Mapped[str | None] = mapped_column(Text, comment="Where its files are, relative to the home")
    run_id: Mapped[str | None] = mapped_column(Text, comment="Dagster run")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it was made"
    )


class Release(Base):
    """What matching uses: a recipe, weights and thresholds. At most one row is live."""

    __tablename__ = "releases"
    __table_args__ = (Index("ix_releases_one_live", "live", unique=True, postgresql_where=text("live")),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="Running number")
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"), comment="Recipe that matching uses")
    policy: Mapped[dict[str, Any]] = mapped_column(JSONB, comment="Fusion weights, thresholds, sex rule, unit")
    live: Mapped[bool] = mapped_column(Boolean, server_default=text("false"), comment="True for the one in use")
    reason: Mapped[str] = mapped_column(Text, comment="Why it was made or made live")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it was made"
    )
    fitted: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True),
        comment="The policy with those fitted without each group of individuals; null: nothing was fitted",
    )
    report_id: Mapped[int | None] = mapped_column(ForeignKey("reports.id"), comment="Report that it was made with")
    made_from: Mapped[int | None] = mapped_column(ForeignKey("releases.id"), comment="Release that it was made from")
    name: Mapped[str | None] = mapped_column(Text, comment="For people")
    author: Mapped[str | None] = mapped_column(Text, comment="Who made it")
    promoted_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), comment="When it last became live; null: it never was"
    )


class ReleaseEvent(Base):
    """Append-only log: which release became live when, by whom, on which report, and why."""

    __tablename__ = "release_events"
    __table_args__ = (
        CheckConstraint("action IN ('first', 'proposed', 'promoted', 'rolled_back')", "release_events_action_check"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, comment="Running number, in order of the events")
    action: Mapped[str] = mapped_column(String(20), comment="first, proposed, promoted or rolled_back")
    release_id: Mapped[int] = mapped_column(
        ForeignKey("releases.id"), index=True, comment="Release proposed, or live from then on"
    )
    previous_release_id: Mapped[int | None] = mapped_column(
        ForeignKey("releases.id"), comment="Release that was live until then"
    )
    report_id: Mapped[int | None] = mapped_column(ForeignKey("reports.id"), comment="Report that it rests on")
    verdict: Mapped[str | None] = mapped_column(String(20), comment="The report's verdict at that time")
    forced: Mapped[bool] = mapped_column(
        Boolean, server_default=text("false"), comment="True: against the gate, by a person's decision"
    )
    reason: Mapped[str] = mapped_column(Text, comment="Why")
    actor: Mapped[str | None] = mapped_column(Text, comment="OS user who ran it")
    run_id: Mapped[str | None] = mapped_column(Text, comment="Dagster run")
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now(), comment="When")


class Review(Base):
    """Append-only log: what a person said of two detections, whether they show one animal."""

    __tablename__ = "reviews"
    __table_args__ = (
        UniqueConstraint("detection_a", "detection_b", "reviewer", "reviewed_at"),
        CheckConstraint("detection_a < detection_b", "reviews_order_check"),
        CheckConstraint("verdict IN ('same', 'different', 'unsure')", "reviews_verdict_check"),
        Index("ix_reviews_detection_b", "detection_b"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, comment="Running number, in order of import")
    detection_a: Mapped[uuid.UUID] = mapped_column(
        UUID(as_uuid=True), comment="The smaller of the two ids; no foreign key: the log outlives it"
    )
    detection_b: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), comment="The larger of the two ids")
    verdict: Mapped[str] = mapped_column(String(10), comment="same, different or unsure")
    reviewer: Mapped[str] = mapped_column(Text, comment="Who looked")
    reviewed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), comment="When they looked")
    source: Mapped[str] = mapped_column(Text, comment="File it came from")
    imported_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it was stored"
    )


class MonitorFlag(Base):
    """Something a rule found implausible on a day; the rows of a day are replaced when it is reported again."""

    __tablename__ = "monitor_flags"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, comment="Running number")
    day: Mapped[date] = mapped_column(Date, index=True, comment="Day that was looked at")
    rule: Mapped[str] = mapped_column(Text, comment="Rule that found it")
    encounter_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("encounters.id"), comment="Encounter to look at")
    other_encounter_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("encounters.id"), comment="Encounter that it does not go with"
    )
    decision_id: Mapped[int | None] = mapped_column(
        BigInteger, comment="Decision in question; the log that it is in loses no row"
    )
    deer_id: Mapped[uuid.UUID | None] = mapped_column(
        UUID(as_uuid=True), comment="Individual in question; no foreign key: the report outlives it"
    )
    detail: Mapped[str] = mapped_column(Text, comment="In words")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it was found"
    )


class MonitorSample(Base):
    """A decision of a day drawn for a person to look at, with the chance it had of being drawn."""

    __tablename__ = "monitor_samples"
    __table_args__ = (
        CheckConstraint(
            "inclusion_probability > 0 AND inclusion_probability <= 1", "monitor_samples_probability_check"
        ),
    )

    day: Mapped[date] = mapped_column(Date, primary_key=True, comment="Day that was sampled")
    decision_id: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, comment="Decision that was drawn; the log that it is in loses no row"
    )
    encounter_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("encounters.id"), comment="Its encounter")
    deer_id: Mapped[uuid.UUID] = mapped_column(
        UUID(as_uuid=True), comment="Individual it was matched to; no foreign key: the sample outlives it"
    )
    stratum: Mapped[str] = mapped_column(Text, comment="Part of the day's decisions that it stands for")
    inclusion_probability: Mapped[float] = mapped_column(
        Float, comment="Chance of being drawn, above 0 to 1: one over the weight of Horvitz and Thompson"
    )
    detection_a: Mapped[uuid.UUID] = mapped_column(
        UUID(as_uuid=True), comment="Detection to compare; no foreign key: the sample outlives it"
    )
    detection_b: Mapped[uuid.UUID] = mapped_column(UUID(as_uuid=True), comment="Detection to compare it with")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it was drawn"
    )


class Deployment(Base):
    """Where a camera stands. Coordinates never leave the database unless asked for."""

    __tablename__ = "deployments"

    id: Mapped[str] = mapped_column(Text, primary_key=True, comment="Camtrap DP deploymentID")
    name: Mapped[str | None] = mapped_column(Text, comment="Camtrap DP locationName")
    latitude: Mapped[float | None] = mapped_column(Float, comment="Degrees north, -90 to 90, WGS 84")
    longitude: Mapped[float | None] = mapped_column(Float, comment="Degrees east, -180 to 180, WGS 84")
    drop_key: Mapped[str | None] = mapped_column(Text, comment="Drop that said so last")
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it was last said"
    )


class AbTest(Base):
    """Two releases side by side: a share of new encounters is decided by both. At most one runs."""

    __tablename__ = "ab_tests"
    __table_args__ = (
        Index("ix_ab_tests_one_running", text("(ended_at IS NULL)"), unique=True, postgresql_where="ended_at IS NULL"),
        CheckConstraint("share_b BETWEEN 0 AND 1 AND share_all BETWEEN 0 AND 1", "ab_tests_shares_check"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, comment="Running number")
    release_a: Mapped[int] = mapped_column(ForeignKey("releases.id"), comment="Release of arm a")
    release_b: Mapped[int] = mapped_column(ForeignKey("releases.id"), comment="Release of arm b")
    share_b: Mapped[float] = mapped_column(Float, comment="Share of its encounters that arm b decides, 0 to 1")
    share_all: Mapped[float] = mapped_column(Float, comment="Share of new encounters that take part, 0 to 1")
    salt: Mapped[str] = mapped_column(Text, comment="Goes into the hash that gives an encounter its arm")
    reason: Mapped[str] = mapped_column(Text, comment="What it is to find out")
    started_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), comment="When it began"
    )
    ended_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), comment="When it ended; null: it runs")


class AbOutcome(Base):
    """What both releases of an A/B test made of one encounter, and whose outcome was applied."""

    __tablename__ = "ab_outcomes"
    __table_args__ = (CheckConstraint("arm IN ('a', 'b')", "ab_outcomes_arm_check"),)

    ab_test_id: Mapped[int] = mapped_column(ForeignKey("ab_tests.id"), primary_key=True, comment="Test")
    encounter_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("encounters.id"), primary_key=True, comment="Encounter that took part"
    )
    arm: Mapped[str] = mapped_column(String(1), comment="a or b: whose outcome was applied")
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"), comment="Release whose outcome was applied")
    outcome_a: Mapped[dict[str, Any]] = mapped_column(
        JSONB, comment="Of arm a: decision, deer_id, individual, score, probability"
    )
    outcome_b: Mapped[dict[str, Any]] = mapped_column(
        JSONB, comment="Of arm b: decision, deer_id, individual, score, probability"
    )
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now(), comment="When")


class MatchDecision(Base):
    """Append-only log: who or what decided which individual an encounter is, and on what numbers."""

    __tablename__ = "match_decisions"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, comment="Running number, in order of decision")
    encounter_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("encounters.id"), index=True, comment="Encounter decided about"
    )
    drop_key: Mapped[str] = mapped_column(Text, index=True, comment="Drop")
    detection_ids: Mapped[list[uuid.UUID]] = mapped_column(
        ARRAY(UUID(as_uuid=True)), comment="Detections of the encounter"
    )
    decision: Mapped[str] = mapped_column(String(20), comment="matched, new_individual or uncertain")
    method: Mapped[str] = mapped_column(String(10), comment="human or machine")
    deer_id: Mapped[uuid.UUID | None] = mapped_column(
        UUID(as_uuid=True), index=True, comment="Individual decided on; no foreign key: the log outlives it"
    )
    individual: Mapped[str | None] = mapped_column(Text, comment="Name of the individual at that time")
    score: Mapped[float | None] = mapped_column(Float, comment="Fused similarity to the best candidate")
    runner_up_deer_id: Mapped[uuid.UUID | None] = mapped_column(UUID(as_uuid=True), comment="Second-best candidate")
    runner_up_score: Mapped[float | None] = mapped_column(Float, comment="Its fused similarity")
    baseline_score: Mapped[float | None] = mapped_column(Float, comment="v1 similarity to the same candidate")
    threshold: Mapped[float | None] = mapped_column(Float, comment="Matched from this score")
    new_below: Mapped[float | None] = mapped_column(Float, comment="New individual below this score")
    probability: Mapped[float | None] = mapped_column(Float, comment="Null until a calibration was measured")
    candidates: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB, comment="Ranked shortlist")
    reason: Mapped[str] = mapped_column(Text, comment="In words")
    matcher: Mapped[str] = mapped_column(String(20), comment="v1_resnet50, v3_ensemble or human")
    recipe_id: Mapped[str | None] = mapped_column(Text, comment="Recipe that the score comes from")
    release_id: Mapped[int | None] = mapped_column(Integer, comment="Release that was live")
    run_id: Mapped[str | None] = mapped_column(Text, comment="Dagster run")
    decided_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), index=True, comment="When"
    )


OWNER_TABLES = ("images", "detections", "deer")
"""Tables that were there before us: migrations add to them and never drop or rename what is theirs."""

for _mapper in Base.registry.mappers:
    if _mapper.class_.__tablename__ not in OWNER_TABLES:
        Base.metadata.tables[_mapper.class_.__tablename__].comment = str(_mapper.class_.__doc__).split("\n")[0]
