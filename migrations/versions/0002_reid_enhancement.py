"""The re-ID enhancement: three columns and three indexes on `deer`, and nothing else.

Additive and idempotent; old vectors and rows are not touched. Checks itself at the end and takes everything back (one
transaction) if a column, an index or a pgvector with HNSW is missing. Taking it back keeps the values of the columns in
`deer_reid_kept.deer_vectors`; the next upgrade gives them to the individuals that still exist.
"""

import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util import load_python_file

from deer_reid_pipeline.errors import DatabaseError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

kept = load_python_file(str(Path(__file__).resolve().parent.parent), "kept.py")

COLUMNS = {
    "feature_vector_multiscale": (
        "vector(512)",
        "",
        "Multi-scale ResNet-50 branch of the live release, unit length",
    ),
    "feature_vector_efficientnet": (
        "vector(512)",
        "",
        "EfficientNet-B0 branch of the live release, unit length",
    ),
    "embedding_version": (
        "character varying(20)",
        " DEFAULT 'v1_resnet50'",
        "Who made the vectors: v1_resnet50, v2_multiscale or v3_ensemble",
    ),
}
HNSW = "USING hnsw ({column} vector_cosine_ops) WITH (m = 16, ef_construction = 64)"
INDEXES = {
    "ix_deer_feature_vector_multiscale_hnsw": (
        HNSW.format(column="feature_vector_multiscale"),
        "Nearest individuals by cosine distance, multi-scale vectors",
    ),
    "ix_deer_feature_vector_efficientnet_hnsw": (
        HNSW.format(column="feature_vector_efficientnet"),
        "Nearest individuals by cosine distance, EfficientNet vectors",
    ),
    "ix_deer_embedding_version": (
        "(embedding_version)",
        "Individuals by who made their vectors: progress of a re-embedding, and what a rollback restores",
    ),
}


def upgrade() -> None:
    connection = op.get_bind()
    _check_pgvector(connection)
    missing = [name for name in COLUMNS if name not in _columns(connection)]
    for name, (kind, default, comment) in COLUMNS.items():
        connection.exec_driver_sql(f"ALTER TABLE deer ADD COLUMN IF NOT EXISTS {name} {kind}{default}")
        connection.exec_driver_sql(f"COMMENT ON COLUMN deer.{name} IS '{comment}'")
    _check_columns(connection)
    kept.restore_columns(connection, "deer_vectors", "deer", dict.fromkeys(missing))
    kept.end(connection)
    for name, (definition, comment) in INDEXES.items():
        connection.exec_driver_sql(f"CREATE INDEX IF NOT EXISTS {name} ON deer {definition}")
        connection.exec_driver_sql(f"COMMENT ON INDEX {name} IS '{comment}'")
    _check_indexes(connection)


def downgrade() -> None:
    connection = op.get_bind()
    kept.begin(connection)
    kept.keep_columns(connection, "deer_vectors", "deer", [name for name in COLUMNS if name in _columns(connection)])
    for name in INDEXES:
        connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
    for name in COLUMNS:
        connection.exec_driver_sql(f"ALTER TABLE deer DROP COLUMN IF EXISTS {name}")


def _check_pgvector(connection: sa.Connection) -> None:
    found = connection.scalar(sa.text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    if found is None:
        raise DatabaseError("pgvector is not switched on in this database; run CREATE EXTENSION vector there")
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < (0, 5):
        raise DatabaseError(
            f"pgvector {found} has no HNSW indexes; install 0.5.0 or newer and run ALTER EXTENSION vector UPDATE"
        )


def _columns(connection: sa.Connection) -> dict[str, str]:
    return dict(
        connection.execute(
            sa.text(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
                "WHERE attrelid = 'deer'::regclass AND attnum > 0 AND NOT attisdropped"
            )
        ).tuples().all()
    )


def _check_columns(connection: sa.Connection) -> None:
    """Three columns of the right type, or nothing."""
    columns = _columns(connection)
    for name, (kind, _, _) in COLUMNS.items():
        if columns.get(name) != kind:
            raise DatabaseError(
                f"column deer.{name} is {columns.get(name, 'missing')}, not {kind}: rename or drop what is in the "
                "way and upgrade again; nothing was changed"
            )


def _check_indexes(connection: sa.Connection) -> None:
    """Three valid indexes of the right definition, or nothing."""
    indexes = dict(
        connection.execute(
            sa.text(
                "SELECT c.relname, pg_get_indexdef(c.oid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
                "WHERE i.indrelid = 'deer'::regclass AND i.indisvalid"
            )
        ).tuples().all()
    )
    for name, (definition, _) in INDEXES.items():
        if _plain(definition) not in _plain(indexes.get(name, "")):
            raise DatabaseError(
                f"index {name} is {indexes.get(name, 'missing')!r}, not {definition}: rename or drop what is in the "
                "way and upgrade again; nothing was changed"
            )


def _plain(definition: str) -> str:
    return re.sub(r"['\s]", "", definition).lower()
