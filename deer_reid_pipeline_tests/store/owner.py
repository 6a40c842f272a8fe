"""The owner's database as it was before the enhancement: two shapes of it, and rows in the numbers that it has."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import psycopg2
from sqlalchemy import text
from sqlalchemy.engine import Engine

from deer_reid_pipeline.store import migrate

IMAGES, DETECTIONS, DEER, ASSIGNED = 35_251, 11_570, 165, 6_982
TABLES = ("images", "deer", "detections")

NATIVE_ENUMS = """
    CREATE EXTENSION vector;
    CREATE TYPE processingstatus AS ENUM ('pending', 'processing', 'completed', 'failed');
    CREATE TYPE deersex AS ENUM ('buck', 'doe', 'fawn', 'unknown');
    CREATE TYPE deerstatus AS ENUM ('alive', 'deceased', 'unknown');
    CREATE TABLE locations (id uuid PRIMARY KEY, name varchar(100) NOT NULL);
    CREATE TABLE images (
        id uuid PRIMARY KEY,
        filename varchar(255) NOT NULL,
        path varchar(512) NOT NULL UNIQUE,
        timestamp timestamptz NOT NULL,
        location_id uuid REFERENCES locations (id),
        exif_data json,
        processing_status processingstatus NOT NULL,
        error_message text,
        created_at timestamptz NOT NULL
    );
    CREATE INDEX ix_images_timestamp ON images (timestamp);
    CREATE TABLE deer (
        id uuid PRIMARY KEY,
        name varchar(100),
        species varchar(50) NOT NULL,
        sex deersex NOT NULL,
        status deerstatus NOT NULL,
        notes text,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL,
        first_seen timestamptz NOT NULL,
        last_seen timestamptz NOT NULL,
        feature_vector vector(512),
        confidence double precision NOT NULL,
        sighting_count integer NOT NULL
    );
    CREATE INDEX ix_deer_feature_vector_hnsw ON deer
        USING hnsw (feature_vector vector_cosine_ops) WITH (m = 16, ef_construction = 64);
    CREATE TABLE detections (
        id uuid PRIMARY KEY,
        image_id uuid NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        deer_id uuid REFERENCES deer (id) ON DELETE SET NULL,
        bbox json NOT NULL,
        confidence double precision NOT NULL,
        classification varchar(20) NOT NULL,
        is_duplicate boolean NOT NULL,
        burst_group_id uuid,
        similarity_score double precision,
        created_at timestamptz NOT NULL
    );
    CREATE INDEX ix_detections_image_id ON detections (image_id);
    CREATE INDEX ix_detections_similarity_score ON detections (similarity_score);
"""

BARE = """
    CREATE EXTENSION vector;
    CREATE TABLE images (id uuid PRIMARY KEY, filename varchar(255), path varchar(512));
    CREATE UNIQUE INDEX ix_images_path ON images (path);
    CREATE TABLE deer (id uuid PRIMARY KEY, name varchar(100));
    CREATE TABLE detections (id uuid PRIMARY KEY, image_id uuid NOT NULL REFERENCES images (id));
    INSERT INTO deer VALUES ('00000000-0000-0000-0000-000000000001', 'old');
"""
"""Fewer columns than the owner is known to have."""


def by_first_revision(url: str) -> None:
    migrate.upgrade(url, "0001")


def by_hand(url: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(NATIVE_ENUMS)
    connection.close()


SHAPES: dict[str, Callable[[str], None]] = {"first_revision": by_first_revision, "native_enums": by_hand}


def fill(url: str) -> None:
    """Rows in the owner's numbers, the same every time."""
    draw = np.random.default_rng(7)
    now = "2024-11-01 06:00:00+00"
    vectors = draw.normal(size=(DEER, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    deer, images = [uuid.UUID(int=1 + n) for n in range(DEER)], [uuid.UUID(int=10**6 + n) for n in range(IMAGES)]
    box = json.dumps({"x": 1, "y": 2, "width": 30, "height": 40})
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        _copy(
            cursor,
            "deer (id, name, species, sex, status, created_at, updated_at, first_seen, last_seen, confidence, "
            "sighting_count, feature_vector)",
            (
                (
                    *(key, f"deer {n}", "white_tailed_deer", "buck" if n < 119 else "doe", "alive"),
                    *(now, now, now, now),
                    *(0.9, 40, str(vectors[n].tolist())),
                )
                for n, key in enumerate(deer)
            ),
        )
        _copy(
            cursor,
            "images (id, filename, path, timestamp, processing_status, created_at)",
            ((key, f"{n}.jpg", f"site/{n}.jpg", now, "completed", now) for n, key in enumerate(images)),
        )
        _copy(
            cursor,
            "detections (id, image_id, deer_id, bbox, confidence, classification, similarity_score, is_duplicate, "
            "created_at)",
            (
                (
                    *(uuid.UUID(int=10**7 + n), images[n], deer[n % DEER] if n < ASSIGNED else r"\N", box),
                    *(0.8, "doe", 0.4 if n < ASSIGNED else r"\N", "f", now),
                )
                for n in range(DETECTIONS)
            ),
        )
    connection.close()


def _copy(cursor: Any, target: str, rows: Iterable[tuple[Any, ...]]) -> None:
    lines = "\n".join("\t".join(map(str, row)) for row in rows)
    cursor.copy_expert(f"COPY {target} FROM STDIN", io.StringIO(lines + "\n"))


def contents(engine: Engine) -> dict[str, object]:
    """Counts, and checksums over what the owner stored."""
    queries = {
        "images": "SELECT count(*), md5(string_agg(concat_ws('|', id, filename, path, timestamp), ',' ORDER BY id)) "
        "FROM images",
        "deer": "SELECT count(*), md5(string_agg(concat_ws('|', id, name, sex, feature_vector), ',' ORDER BY id)) "
        "FROM deer",
        "detections": "SELECT count(*), md5(string_agg(concat_ws('|', id, image_id, deer_id, bbox, similarity_score), "
        "',' ORDER BY id)) FROM detections",
    }
    with engine.connect() as connection:
        return {name: tuple(connection.execute(text(query)).one()) for name, query in queries.items()}


def schema(engine: Engine) -> set[tuple[object, ...]]:
    """Every table, column (type, nullability, default, comment), index, constraint, trigger and function."""
    queries = (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' "
        "AND table_name <> 'alembic_version'",
        "SELECT 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, "
        "pg_get_expr(adbin, adrelid), col_description(attrelid, attnum) "
        "FROM pg_attribute JOIN pg_class c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND "
        "adnum = attnum WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 "
        "AND NOT attisdropped AND relname <> 'alembic_version'",
        "SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
        "AND tablename <> 'alembic_version'",
        "SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace AND conrelid <> 0 AND contype <> 'n' "
        "AND conrelid::regclass::text <> 'alembic_version'",
        "SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prolang = "
        "(SELECT oid FROM pg_language WHERE lanname = 'plpgsql')",
    )
    with engine.connect() as connection:
        return {tuple(row) for query in queries for row in connection.execute(text(query))}
