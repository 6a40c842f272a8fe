"""What a fine-tuned recipe was trained on, and the fold recipes that judge it.

Columns on `recipes`. Additive: no row changes.

Nothing is lost on the way down: the values of the columns are kept in the schema `deer_reid_kept`. The next upgrade
brings all of it back.
"""

import logging
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util import load_python_file

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

log = logging.getLogger("alembic.runtime.migration")

kept = load_python_file(str(Path(__file__).resolve().parent.parent), "kept.py")

TABLE = "recipes"

COLUMNS = {
    "fold_of": (
        "text REFERENCES recipes (id)",
        "Fine-tuned recipe that it judges: trained without the individuals of one fold, never releasable",
    ),
    "fold": (
        "integer",
        "Fold whose individuals it was trained without, from 0",
    ),
    "training": (
        "jsonb",
        "What it was trained on: the fold of each individual, null where none judges it; null: not fine-tuned",
    ),
}
"""Nullable, so that nothing is rewritten."""

KEPT_AS = f"{TABLE}_columns_{revision}"


def upgrade() -> None:
    connection = op.get_bind()
    there = {column["name"] for column in sa.inspect(connection).get_columns(TABLE)}
    missing = [name for name in COLUMNS if name not in there]
    for name in missing:
        kind, comment = COLUMNS[name]
        connection.exec_driver_sql(f"ALTER TABLE {TABLE} ADD COLUMN {name} {kind}")
        connection.exec_driver_sql(f"COMMENT ON COLUMN {TABLE}.{name} IS '{comment}'")
    kept.restore_columns(connection, KEPT_AS, TABLE, dict.fromkeys(missing))
    kept.end(connection)


def downgrade() -> None:
    connection = op.get_bind()
    kept.begin(connection)
    kept.keep_columns(connection, KEPT_AS, TABLE, COLUMNS)
    for name in COLUMNS:
        _drop(connection, name)


def _drop(connection: sa.Connection, name: str) -> None:
    """Drop a column of ours; one that a view of the owner's shows is left, and keeps its newer values."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(f"ALTER TABLE {TABLE} DROP COLUMN {name}")
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != "2BP01":  # something depends on it
            raise
        log.warning("%s.%s is left as it is: %s", TABLE, name, str(error.orig).splitlines()[0])
