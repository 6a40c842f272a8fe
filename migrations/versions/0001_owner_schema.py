"""The owner's schema as it was before the enhancement.

Each table is made only where it is missing, so this is a no-op on the owner's database, whose tables may have more or
fewer columns and native enum types. Taking it back drops the three tables only while all of them are empty.
"""

import sqlalchemy as sa
from alembic import op

from deer_reid_pipeline.errors import DatabaseError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = {
    "images": """
        CREATE TABLE images (
            id uuid PRIMARY KEY,
            filename varchar(255) NOT NULL,
            path varchar(512) NOT NULL,
            timestamp timestamptz NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            exif_data json,
            processing_status varchar(20),
            error_message text,
            location_id uuid
        );
        CREATE INDEX ix_images_path ON images (path);
        CREATE INDEX ix_images_timestamp ON images (timestamp);
        CREATE INDEX ix_images_location_id ON images (location_id);
        COMMENT ON COLUMN images.path IS 'Where the file was when it was stored';
        COMMENT ON COLUMN images.timestamp IS 'When it was taken';
        COMMENT ON COLUMN images.location_id IS 'Camera site; its coordinates never leave the database';
    """,
    "deer": """
        CREATE TABLE deer (
            id uuid PRIMARY KEY,
            name varchar(100),
            sex varchar(20) NOT NULL DEFAULT 'unknown',
            status varchar(20) NOT NULL DEFAULT 'alive',
            species varchar(50) NOT NULL DEFAULT 'white_tailed_deer',
            notes text,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz,
            first_seen timestamptz NOT NULL,
            last_seen timestamptz NOT NULL,
            feature_vector vector(512),
            confidence double precision NOT NULL DEFAULT 0,
            sighting_count integer NOT NULL DEFAULT 1
        );
        CREATE INDEX ix_deer_sex ON deer (sex);
        CREATE INDEX ix_deer_feature_vector_hnsw ON deer
            USING hnsw (feature_vector vector_cosine_ops) WITH (m = 16, ef_construction = 64);
        COMMENT ON COLUMN deer.name IS 'individualID';
        COMMENT ON COLUMN deer.sex IS 'buck, doe, fawn or unknown';
        COMMENT ON COLUMN deer.feature_vector IS 'v1: final layer of ResNet-50, unit length';
        COMMENT ON INDEX ix_deer_feature_vector_hnsw IS 'Nearest individuals by cosine distance, v1 vectors';
    """,
    "detections": """
        CREATE TABLE detections (
            id uuid PRIMARY KEY,
            image_id uuid NOT NULL REFERENCES images (id) ON DELETE CASCADE,
            deer_id uuid REFERENCES deer (id) ON DELETE SET NULL,
            bbox json NOT NULL,
            confidence double precision NOT NULL,
            classification varchar(20) NOT NULL DEFAULT 'unknown',
            similarity_score double precision,
            is_duplicate boolean NOT NULL DEFAULT false,
            burst_group_id uuid,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX ix_detections_image_id ON detections (image_id);
        CREATE INDEX ix_detections_deer_id ON detections (deer_id);
        CREATE INDEX ix_detections_similarity_score ON detections (similarity_score);
        CREATE INDEX ix_detections_burst_group_id ON detections (burst_group_id);
        COMMENT ON COLUMN detections.bbox IS '{x, y, width, height} in pixels';
        COMMENT ON COLUMN detections.similarity_score IS 'Cosine similarity to the assigned individual';
    """,
}


def upgrade() -> None:
    connection = op.get_bind()
    if connection.scalar(sa.text("SELECT 1 FROM pg_extension WHERE extname = 'vector'")) is None:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
    there = set(sa.inspect(connection).get_table_names())
    for table, statements in TABLES.items():
        if table not in there:
            connection.exec_driver_sql(statements)


def downgrade() -> None:
    connection = op.get_bind()
    there = [table for table in ("detections", "images", "deer") if table in sa.inspect(connection).get_table_names()]
    held = [table for table in there if connection.exec_driver_sql(f"SELECT 1 FROM {table} LIMIT 1").scalar()]
    if held:
        raise DatabaseError(
            f"the owner's tables are not dropped while they hold rows ({', '.join(held)}); nothing was changed, and "
            "revision 0001 is as far back as a database with data goes"
        )
    for table in there:
        connection.exec_driver_sql(f"DROP TABLE {table}")
