"""Everything else of the pipeline: our columns on the owner's tables, and our own tables.

The owner's schema differs from place to place, so this looks before it changes: columns that we use and that are
missing are added; NOT NULL is loosened or a default set where our inserts do not fill a column; a unique path is made
plain, because the same path can later hold another picture. Each change to an owner's table is written down in
`deer_reid_undo` with what takes it back; the downgrade does that, newest first. What the data no longer allow (a null
where NOT NULL was) is left and said. The owner's rows and vectors are never touched.

Nothing is lost on the way down: our tables move to the schema `deer_reid_kept`, and the columns that are dropped leave
their values there. The next upgrade brings all of it back, except what belonged to rows that the owner deleted.
"""

import logging
import re
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util import load_python_file
from sqlalchemy.dialects.postgresql import ENUM

from deer_reid_pipeline.errors import DatabaseError

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

log = logging.getLogger("alembic.runtime.migration")

kept = load_python_file(str(Path(__file__).resolve().parent.parent), "kept.py")

OWNER_COLUMNS = {
    "images": {
        "filename": "varchar(255) NOT NULL DEFAULT ''",
        "path": "text NOT NULL DEFAULT ''",
        "timestamp": "timestamptz",
        "created_at": "timestamptz NOT NULL DEFAULT now()",
        "exif_data": "json",
    },
    "deer": {
        "name": "varchar(100)",
        "sex": "varchar(20) NOT NULL DEFAULT 'unknown'",
        "first_seen": "timestamptz",
        "last_seen": "timestamptz",
        "created_at": "timestamptz NOT NULL DEFAULT now()",
        "confidence": "double precision NOT NULL DEFAULT 0",
        "sighting_count": "integer NOT NULL DEFAULT 1",
        "feature_vector": "vector(512)",
    },
    "detections": {
        "deer_id": "uuid REFERENCES deer (id) ON DELETE SET NULL",
        "bbox": "json NOT NULL DEFAULT '{}'",
        "confidence": "double precision NOT NULL DEFAULT 0",
        "classification": "varchar(20) NOT NULL DEFAULT 'unknown'",
        "similarity_score": "double precision",
        "created_at": "timestamptz NOT NULL DEFAULT now()",
    },
}
"""Columns of the owner's that we use; added where a database lacks them."""

FILLED = {
    "images": {"id", "filename", "path"},
    "deer": {"id"},
    "detections": {"id", "image_id", "bbox", "confidence"},
}
"""Columns that every insert of ours gives."""

NULLABLE = {
    "images": {"timestamp", "exif_data"},
    "deer": {"name", "first_seen", "last_seen", "feature_vector"},
    "detections": {"deer_id", "similarity_score"},
}
"""Columns that we leave empty when a thing is not known."""

ENUM_DEFAULTS = ("unknown", "alive", "white_tailed_deer", "completed", "pending")
"""The default of an enum column without one: the first of these that it has, else its first label."""

ENUM_LABELS = {("deer", "sex"): ("buck", "doe", "fawn", "unknown")}
"""Labels that we write into a column which may be a native enum."""

OUR_COLUMNS = {
    "images": {
        "sha256": (
            "varchar(64) UNIQUE",
            "Of the file: one row a picture, however often it is dropped",
        ),
        "width": (
            "integer",
            "Pixels, after EXIF orientation",
        ),
        "height": (
            "integer",
            "Pixels, after EXIF orientation",
        ),
        "infrared": (
            "boolean",
            "The picture has no colour: infrared at night",
        ),
        "deployment_id": (
            "text",
            "Camtrap DP deploymentID: the camera's placement",
        ),
        "event_id": (
            "text",
            "Camtrap DP eventID as given by the drop",
        ),
        "drop_key": (
            "text",
            "Drop that brought this picture first",
        ),
    },
    "deer": {
        "life_stage": (
            "varchar(20)",
            "Camtrap DP lifeStage",
        ),
        "identified_by": (
            "varchar(10)",
            "human: named by a person; machine: opened by the matcher",
        ),
        "vector_recipe_id": (
            "text",
            "Recipe of feature_vector; null: a v1 vector from before the enhancement, never overwritten",
        ),
    },
    "detections": {
        "bbox_x": (
            "double precision",
            "Left edge, share of the width, 0 to 1",
        ),
        "bbox_y": (
            "double precision",
            "Top edge, share of the height, 0 to 1",
        ),
        "bbox_width": (
            "double precision",
            "Share of the width, 0 to 1",
        ),
        "bbox_height": (
            "double precision",
            "Share of the height, 0 to 1",
        ),
        "source": (
            "text",
            "manifest, whole_frame, or the detector's name",
        ),
        "viewpoint": (
            "varchar(10)",
            "left, right, front, back; null: unknown",
        ),
        "life_stage": (
            "varchar(20)",
            "Camtrap DP lifeStage",
        ),
        "given_individual": (
            "text",
            "individualID given by a person",
        ),
        "given_at": (
            "timestamptz",
            "When the drop was sealed whose table said it; an older drop changes nothing",
        ),
        "classification_method": (
            "varchar(10)",
            "human or machine: who gave deer_id; null: nobody yet",
        ),
        "encounter_id": (
            "uuid REFERENCES encounters (id) ON DELETE SET NULL",
            "Encounter that it was decided in",
        ),
        "superseded": (
            "boolean DEFAULT false NOT NULL",
            "A whole-frame box that was replaced by real boxes",
        ),
    },
}
"""Ours on the owner's tables: nullable, or with a default that needs no rewrite."""

INDEXES = {
    "ix_images_path": "images (path)",
    "ix_images_timestamp": "images (timestamp)",
    "ix_deer_sex": "deer (sex)",
    "ix_deer_feature_vector_hnsw": (
        "deer USING hnsw (feature_vector vector_cosine_ops) WITH (m = 16, ef_construction = 64)"
    ),
    "ix_detections_image_id": "detections (image_id)",
    "ix_detections_deer_id": "detections (deer_id)",
    "ix_detections_similarity_score": "detections (similarity_score)",
    "ix_detections_encounter_id": "detections (encounter_id)",
}
"""Indexes on the owner's tables that we rely on; made where a database lacks them."""

TABLES = {
    "drops": """
        CREATE TABLE drops (
            key text NOT NULL,
            name text NOT NULL,
            root text NOT NULL,
            digest varchar(64) NOT NULL,
            layout varchar(20) NOT NULL,
            detector text NOT NULL,
            warnings jsonb,
            sealed_at timestamptz DEFAULT now() NOT NULL,
            completed_at timestamptz,
            summary jsonb,
            PRIMARY KEY (key)
        );
        COMMENT ON TABLE drops IS 'A sealed folder of media; its key is the Dagster partition key.';
        COMMENT ON COLUMN drops.key IS 'Name and digest; the Dagster partition key';
        COMMENT ON COLUMN drops.name IS 'Folder name';
        COMMENT ON COLUMN drops.root IS 'Folder the drop was read from';
        COMMENT ON COLUMN drops.digest IS 'sha256 over names and contents';
        COMMENT ON COLUMN drops.layout IS 'How pictures and tables lie in it';
        COMMENT ON COLUMN drops.detector IS 'Where boxes come from when the drop gives none';
        COMMENT ON COLUMN drops.warnings IS 'What a person should know of its tables';
        COMMENT ON COLUMN drops.sealed_at IS 'When its contents were fixed';
        COMMENT ON COLUMN drops.completed_at IS 'When every step had run';
        COMMENT ON COLUMN drops.summary IS 'Counts for people';
    """,
    "recipes": """
        CREATE TABLE recipes (
            id text NOT NULL,
            name text NOT NULL,
            spec jsonb NOT NULL,
            random_weights boolean DEFAULT false NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id)
        );
        COMMENT ON TABLE recipes IS 'A recipe as data: backbones, taps, pooling, projection, preprocessing and weights.';
        COMMENT ON COLUMN recipes.id IS 'Name and digest of the spec';
        COMMENT ON COLUMN recipes.name IS 'original, reference, lite, mobile or a trained name';
        COMMENT ON COLUMN recipes.spec IS 'Everything that the vectors depend on';
        COMMENT ON COLUMN recipes.random_weights IS 'For speed trials; never releasable';
        COMMENT ON COLUMN recipes.created_at IS 'When it was first used';
    """,
    "drop_media": """
        CREATE TABLE drop_media (
            drop_key text NOT NULL,
            file_path text NOT NULL,
            sha256 varchar(64) NOT NULL,
            ordinal integer NOT NULL,
            image_id uuid,
            timestamp timestamptz,
            deployment_id text,
            event_id text,
            looked_at_by text,
            boxes jsonb,
            PRIMARY KEY (drop_key, file_path),
            FOREIGN KEY(drop_key) REFERENCES drops (key) ON DELETE CASCADE,
            FOREIGN KEY(image_id) REFERENCES images (id) ON DELETE SET NULL
        );
        CREATE INDEX ix_drop_media_image_id ON drop_media (image_id);
        COMMENT ON TABLE drop_media IS 'One picture file of a drop and what the drop''s table says of it.';
        COMMENT ON COLUMN drop_media.drop_key IS 'Drop';
        COMMENT ON COLUMN drop_media.file_path IS 'Relative to the drop, with /';
        COMMENT ON COLUMN drop_media.sha256 IS 'Of the file';
        COMMENT ON COLUMN drop_media.ordinal IS 'Position in the drop''s order';
        COMMENT ON COLUMN drop_media.image_id IS 'Stored picture; null: not yet, or quarantined';
        COMMENT ON COLUMN drop_media.timestamp IS 'When it was taken, as the drop says';
        COMMENT ON COLUMN drop_media.deployment_id IS 'Camtrap DP deploymentID';
        COMMENT ON COLUMN drop_media.event_id IS 'Camtrap DP eventID';
        COMMENT ON COLUMN drop_media.looked_at_by IS 'Detector that looked at the picture, found something or not; null: none yet';
        COMMENT ON COLUMN drop_media.boxes IS 'Boxes given by the drop; null: none given, a detector is asked; []: known to be blank';
    """,
    "encounters": """
        CREATE TABLE encounters (
            id uuid NOT NULL,
            drop_key text NOT NULL,
            ordinal integer NOT NULL,
            event_key text NOT NULL,
            deployment_id text,
            started_at timestamptz,
            ended_at timestamptz,
            sex varchar(20) DEFAULT 'unknown' NOT NULL,
            given_individual text,
            PRIMARY KEY (id),
            UNIQUE (drop_key, ordinal),
            FOREIGN KEY(drop_key) REFERENCES drops (key) ON DELETE CASCADE
        );
        COMMENT ON TABLE encounters IS 'One animal in one event: what a decision is made about.';
        COMMENT ON COLUMN encounters.id IS 'Made from drop and event, so that a repeated run finds it again';
        COMMENT ON COLUMN encounters.drop_key IS 'Drop';
        COMMENT ON COLUMN encounters.ordinal IS 'Order in which encounters of the drop are decided';
        COMMENT ON COLUMN encounters.event_key IS 'Event within the drop';
        COMMENT ON COLUMN encounters.deployment_id IS 'Camtrap DP deploymentID';
        COMMENT ON COLUMN encounters.started_at IS 'First picture';
        COMMENT ON COLUMN encounters.ended_at IS 'Last picture';
        COMMENT ON COLUMN encounters.sex IS 'male, female or unknown';
        COMMENT ON COLUMN encounters.given_individual IS 'individualID given by a person';
    """,
    "profiles": """
        CREATE TABLE profiles (
            deer_id uuid NOT NULL,
            recipe_id text NOT NULL,
            branch varchar(20) NOT NULL,
            vector vector(512) NOT NULL,
            detections integer NOT NULL,
            digest varchar(64) NOT NULL,
            updated_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (deer_id, recipe_id, branch),
            FOREIGN KEY(deer_id) REFERENCES deer (id) ON DELETE CASCADE,
            FOREIGN KEY(recipe_id) REFERENCES recipes (id)
        );
        COMMENT ON TABLE profiles IS 'The mean direction of an individual''s vectors, by recipe and branch.';
        COMMENT ON COLUMN profiles.deer_id IS 'Individual';
        COMMENT ON COLUMN profiles.recipe_id IS 'Recipe that made it';
        COMMENT ON COLUMN profiles.branch IS 'multiscale, efficientnet or baseline';
        COMMENT ON COLUMN profiles.vector IS 'Unit length';
        COMMENT ON COLUMN profiles.detections IS 'Detections behind this vector';
        COMMENT ON COLUMN profiles.digest IS 'sha256 over the detections behind it, so that an unchanged profile is left alone';
        COMMENT ON COLUMN profiles.updated_at IS 'When it was last computed';
    """,
    "quarantine": """
        CREATE TABLE quarantine (
            id bigserial NOT NULL,
            drop_key text NOT NULL,
            file text NOT NULL,
            code varchar(40) NOT NULL,
            reason text NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id),
            UNIQUE (drop_key, file, code, reason),
            FOREIGN KEY(drop_key) REFERENCES drops (key) ON DELETE CASCADE
        );
        CREATE INDEX ix_quarantine_drop_key ON quarantine (drop_key);
        COMMENT ON TABLE quarantine IS 'A file or a row that could not be used, and why. Nothing is ever dropped without a row here.';
        COMMENT ON COLUMN quarantine.id IS 'Running number';
        COMMENT ON COLUMN quarantine.drop_key IS 'Drop';
        COMMENT ON COLUMN quarantine.file IS 'Relative to the drop';
        COMMENT ON COLUMN quarantine.code IS 'Short name of the reason';
        COMMENT ON COLUMN quarantine.reason IS 'What was wrong and what to do';
        COMMENT ON COLUMN quarantine.created_at IS 'When it was found';
    """,
    "releases": """
        CREATE TABLE releases (
            id serial NOT NULL,
            recipe_id text NOT NULL,
            policy jsonb NOT NULL,
            live boolean DEFAULT false NOT NULL,
            reason text NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id),
            FOREIGN KEY(recipe_id) REFERENCES recipes (id)
        );
        CREATE UNIQUE INDEX ix_releases_one_live ON releases (live) WHERE live;
        COMMENT ON TABLE releases IS 'What matching uses: a recipe, weights and thresholds. At most one row is live.';
        COMMENT ON COLUMN releases.id IS 'Running number';
        COMMENT ON COLUMN releases.recipe_id IS 'Recipe that matching uses';
        COMMENT ON COLUMN releases.policy IS 'Fusion weights, thresholds, sex rule, unit';
        COMMENT ON COLUMN releases.live IS 'True for the one in use';
        COMMENT ON COLUMN releases.reason IS 'Why it was made or made live';
        COMMENT ON COLUMN releases.created_at IS 'When it was made';
    """,
    "match_decisions": """
        CREATE TABLE match_decisions (
            id bigserial NOT NULL,
            encounter_id uuid NOT NULL,
            drop_key text NOT NULL,
            detection_ids uuid[] NOT NULL,
            decision varchar(20) NOT NULL,
            method varchar(10) NOT NULL,
            deer_id uuid,
            individual text,
            score double precision,
            runner_up_deer_id uuid,
            runner_up_score double precision,
            baseline_score double precision,
            threshold double precision,
            new_below double precision,
            probability double precision,
            candidates jsonb,
            reason text NOT NULL,
            matcher varchar(20) NOT NULL,
            recipe_id text,
            release_id integer,
            run_id text,
            decided_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id),
            FOREIGN KEY(encounter_id) REFERENCES encounters (id)
        );
        CREATE INDEX ix_match_decisions_deer_id ON match_decisions (deer_id);
        CREATE INDEX ix_match_decisions_drop_key ON match_decisions (drop_key);
        CREATE INDEX ix_match_decisions_encounter_id ON match_decisions (encounter_id);
        COMMENT ON TABLE match_decisions IS 'Append-only log: who or what decided which individual an encounter is, and on what numbers.';
        COMMENT ON COLUMN match_decisions.id IS 'Running number, in order of decision';
        COMMENT ON COLUMN match_decisions.encounter_id IS 'Encounter decided about';
        COMMENT ON COLUMN match_decisions.drop_key IS 'Drop';
        COMMENT ON COLUMN match_decisions.detection_ids IS 'Detections of the encounter';
        COMMENT ON COLUMN match_decisions.decision IS 'matched, new_individual or uncertain';
        COMMENT ON COLUMN match_decisions.method IS 'human or machine';
        COMMENT ON COLUMN match_decisions.deer_id IS 'Individual decided on; no foreign key: the log outlives it';
        COMMENT ON COLUMN match_decisions.individual IS 'Name of the individual at that time';
        COMMENT ON COLUMN match_decisions.score IS 'Fused similarity to the best candidate';
        COMMENT ON COLUMN match_decisions.runner_up_deer_id IS 'Second-best candidate';
        COMMENT ON COLUMN match_decisions.runner_up_score IS 'Its fused similarity';
        COMMENT ON COLUMN match_decisions.baseline_score IS 'v1 similarity to the same candidate';
        COMMENT ON COLUMN match_decisions.threshold IS 'Matched from this score';
        COMMENT ON COLUMN match_decisions.new_below IS 'New individual below this score';
        COMMENT ON COLUMN match_decisions.probability IS 'Null until a calibration was measured';
        COMMENT ON COLUMN match_decisions.candidates IS 'Ranked shortlist';
        COMMENT ON COLUMN match_decisions.reason IS 'In words';
        COMMENT ON COLUMN match_decisions.matcher IS 'v1_resnet50, v3_ensemble or human';
        COMMENT ON COLUMN match_decisions.recipe_id IS 'Recipe that the score comes from';
        COMMENT ON COLUMN match_decisions.release_id IS 'Release that was live';
        COMMENT ON COLUMN match_decisions.run_id IS 'Dagster run';
        COMMENT ON COLUMN match_decisions.decided_at IS 'When';
    """,
    "detection_crops": """
        CREATE TABLE detection_crops (
            detection_id uuid NOT NULL,
            spec_id varchar(40) NOT NULL,
            file text NOT NULL,
            sha256 varchar(64) NOT NULL,
            width integer NOT NULL,
            height integer NOT NULL,
            PRIMARY KEY (detection_id, spec_id),
            FOREIGN KEY(detection_id) REFERENCES detections (id) ON DELETE CASCADE
        );
        COMMENT ON TABLE detection_crops IS 'The pixels of a detection as a file under the home; what every recipe reads.';
        COMMENT ON COLUMN detection_crops.detection_id IS 'Detection';
        COMMENT ON COLUMN detection_crops.spec_id IS 'Margin, size and encoding';
        COMMENT ON COLUMN detection_crops.file IS 'Relative to the home''s crops folder';
        COMMENT ON COLUMN detection_crops.sha256 IS 'Of the crop file';
        COMMENT ON COLUMN detection_crops.width IS 'Pixels';
        COMMENT ON COLUMN detection_crops.height IS 'Pixels';
    """,
    "embeddings": """
        CREATE TABLE embeddings (
            detection_id uuid NOT NULL,
            recipe_id text NOT NULL,
            branch varchar(20) NOT NULL,
            vector vector(512) NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (detection_id, recipe_id, branch),
            FOREIGN KEY(detection_id) REFERENCES detections (id) ON DELETE CASCADE,
            FOREIGN KEY(recipe_id) REFERENCES recipes (id)
        );
        CREATE INDEX ix_embeddings_recipe_branch ON embeddings (recipe_id, branch);
        COMMENT ON TABLE embeddings IS 'One vector of one detection, branch and recipe.';
        COMMENT ON COLUMN embeddings.detection_id IS 'Detection';
        COMMENT ON COLUMN embeddings.recipe_id IS 'Recipe that made it';
        COMMENT ON COLUMN embeddings.branch IS 'multiscale, efficientnet or baseline';
        COMMENT ON COLUMN embeddings.vector IS 'Unit length';
        COMMENT ON COLUMN embeddings.created_at IS 'When it was made';
    """,
    "profile_exemplars": """
        CREATE TABLE profile_exemplars (
            deer_id uuid NOT NULL,
            recipe_id text NOT NULL,
            branch varchar(20) NOT NULL,
            detection_id uuid NOT NULL,
            viewpoint varchar(10),
            vector vector(512) NOT NULL,
            PRIMARY KEY (deer_id, recipe_id, branch, detection_id),
            FOREIGN KEY(deer_id) REFERENCES deer (id) ON DELETE CASCADE,
            FOREIGN KEY(recipe_id) REFERENCES recipes (id),
            FOREIGN KEY(detection_id) REFERENCES detections (id) ON DELETE CASCADE
        );
        CREATE INDEX ix_profile_exemplars_recipe_branch ON profile_exemplars (recipe_id, branch);
        COMMENT ON TABLE profile_exemplars IS 'A detection kept as an example of an individual''s viewpoint, by recipe and branch.';
        COMMENT ON COLUMN profile_exemplars.deer_id IS 'Individual';
        COMMENT ON COLUMN profile_exemplars.recipe_id IS 'Recipe that made it';
        COMMENT ON COLUMN profile_exemplars.branch IS 'multiscale, efficientnet or baseline';
        COMMENT ON COLUMN profile_exemplars.detection_id IS 'Detection that is the example';
        COMMENT ON COLUMN profile_exemplars.viewpoint IS 'left, right, front, back; null: unknown';
        COMMENT ON COLUMN profile_exemplars.vector IS 'Unit length';
    """,
}
"""Ours, in the order in which they refer to each other."""

APPEND_ONLY = """
    CREATE FUNCTION match_decisions_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION USING
            ERRCODE = 'restrict_violation',
            MESSAGE = 'match_decisions is append-only: ' || TG_OP || ' refused; add a new decision instead';
    END
    $$;
    COMMENT ON FUNCTION match_decisions_append_only() IS 'Keeps the decision log: rows are added, never changed';
    CREATE TRIGGER match_decisions_append_only BEFORE UPDATE OR DELETE ON match_decisions
        FOR EACH ROW EXECUTE FUNCTION match_decisions_append_only();
    CREATE TRIGGER match_decisions_no_truncate BEFORE TRUNCATE ON match_decisions
        FOR EACH STATEMENT EXECUTE FUNCTION match_decisions_append_only();
"""

UNDO_TABLE = """
    CREATE TABLE deer_reid_undo (ordinal serial PRIMARY KEY, statement text NOT NULL);
    COMMENT ON TABLE deer_reid_undo IS 'What the downgrade of 0003 does to the owner''s tables, newest first';
    COMMENT ON COLUMN deer_reid_undo.ordinal IS 'Order in which the changes were made';
    COMMENT ON COLUMN deer_reid_undo.statement IS 'Takes one change back';
"""


APPEND_ONLY_FUNCTION = "match_decisions_append_only()"

TO_OWNER = [
    (name, *found)
    for name, statements in TABLES.items()
    for found in re.findall(
        r"FOREIGN KEY\((\w+)\) REFERENCES (images|deer|detections) \(id\) ON DELETE (CASCADE|SET NULL)", statements
    )
]
"""Table, column, owner's table, and what a delete there does. Off while the tables are kept, so that the owner can
delete, truncate and drop as if we were not there; then done at the next upgrade."""


def upgrade() -> None:
    connection = op.get_bind()
    _check(connection)
    held = kept.tables(connection)
    _begin_undo(connection, held)
    added: dict[str, dict[str, str]] = {table: {} for table in OUR_COLUMNS}
    for table, columns in OWNER_COLUMNS.items():
        there = _columns(connection, table)
        for name, kind in columns.items():
            if name not in there:
                _change(
                    connection,
                    f'ALTER TABLE {table} ADD COLUMN "{name}" {kind}',
                    f'ALTER TABLE {table} DROP COLUMN IF EXISTS "{name}"',
                )
                added[table][name] = kind
    _widen_path(connection)
    _unique_path_to_plain(connection)
    for table in OWNER_COLUMNS:
        for column in _columns(connection, table).values():
            _accept_our_inserts(connection, table, column)
    for (table, name), labels in ENUM_LABELS.items():
        _add_labels(connection, _columns(connection, table)[name], labels)
    for name in TABLES:
        if name in held:
            kept.bring_back(connection, "TABLE", name)
        else:
            connection.exec_driver_sql(TABLES[name])
    if "match_decisions" in held:
        kept.bring_back(connection, "FUNCTION", APPEND_ONLY_FUNCTION)
    else:
        connection.exec_driver_sql(APPEND_ONLY)
    for reference in TO_OWNER:
        if reference[0] in held:
            _refer_again(connection, *reference)
    for table, columns in OUR_COLUMNS.items():
        there = _columns(connection, table)
        for name, (kind, comment) in columns.items():
            if name in there:
                continue
            _change(
                connection,
                f"ALTER TABLE {table} ADD COLUMN {name} {kind}",
                f"ALTER TABLE {table} DROP COLUMN IF EXISTS {name}",
            )
            _run(connection, f"COMMENT ON COLUMN {table}.{name} IS '{_quoted(comment)}'")
            added[table][name] = kind
    for table, kinds in added.items():
        values = {name: _value(name, kind, kinds) for name, kind in kinds.items()}
        kept.restore_columns(connection, f"{table}_columns", table, values)
    for name, definition in INDEXES.items():
        if connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": name}) is None:
            _change(connection, f"CREATE INDEX {name} ON {definition}", f"DROP INDEX IF EXISTS {name}")
            connection.exec_driver_sql(f"COMMENT ON INDEX {name} IS 'Made by deer-reid'")
    connection.exec_driver_sql(
        "DELETE FROM deer_reid_undo a USING deer_reid_undo b WHERE b.statement = a.statement AND b.ordinal > a.ordinal"
    )
    kept.end(connection)


def downgrade() -> None:
    connection = op.get_bind()
    kept.begin(connection)
    undo = connection.exec_driver_sql("SELECT ordinal, statement FROM deer_reid_undo ORDER BY ordinal DESC").all()
    for table in OUR_COLUMNS:
        drops = (re.fullmatch(rf'ALTER TABLE {table} DROP COLUMN IF EXISTS "?(\w+)"?', row.statement) for row in undo)
        dropped = {found[1] for found in drops if found}
        if table == "deer":
            dropped.add("feature_vector")  # whether vector_recipe_id still speaks of it
        columns = [name for name in _columns(connection, table) if name in dropped]
        kept.keep_columns(connection, f"{table}_columns", table, columns)
    for name, column, _, _ in TO_OWNER:
        connection.exec_driver_sql(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {name}_{column}_fkey")
    for row in undo:
        try:
            with connection.begin_nested():
                _run(connection, row.statement)
                connection.execute(sa.text("DELETE FROM deer_reid_undo WHERE ordinal = :row"), {"row": row.ordinal})
        except sa.exc.DBAPIError as error:
            reason = str(error.orig).splitlines()[0]
            log.warning("left as it is, the data do not allow: %s (%s)", row.statement, reason)
    for name in (*reversed(TABLES), "deer_reid_undo"):
        kept.put_away(connection, "TABLE", name)
    kept.put_away(connection, "FUNCTION", APPEND_ONLY_FUNCTION)


def _begin_undo(connection: sa.Connection, held: set[str]) -> None:
    """The undo log; what the last downgrade had to leave stays in it, as the oldest, and is tried again by the next."""
    if "deer_reid_undo" not in held:
        connection.exec_driver_sql(UNDO_TABLE)
        return
    kept.bring_back(connection, "TABLE", "deer_reid_undo")
    connection.exec_driver_sql(
        "SELECT setval(pg_get_serial_sequence('deer_reid_undo', 'ordinal'), coalesce(max(ordinal), 0) + 1, false) "
        "FROM deer_reid_undo"
    )


def _refer_again(connection: sa.Connection, name: str, column: str, table: str, on_delete: str) -> None:
    """Put a foreign key to an owner's table back, after doing what it says about rows that are gone."""
    act = f"DELETE FROM {name} r" if on_delete == "CASCADE" else f"UPDATE {name} r SET {column} = NULL"
    connection.exec_driver_sql(
        f"{act} WHERE r.{column} IS NOT NULL AND NOT EXISTS (SELECT FROM {table} o WHERE o.id = r.{column})"
    )
    connection.exec_driver_sql(
        f"ALTER TABLE {name} ADD CONSTRAINT {name}_{column}_fkey "
        f"FOREIGN KEY ({column}) REFERENCES {table} (id) ON DELETE {on_delete}"
    )


def _value(name: str, kind: str, added: dict[str, str]) -> str | None:
    """What a column gets that comes back; None for what was kept."""
    reference = re.search(r"REFERENCES (\w+) \(id\)", kind)
    if reference:
        return f'(SELECT o.id FROM {reference[1]} o WHERE o.id = k."{name}")'
    if name == "vector_recipe_id" and "feature_vector" not in added:
        return "CASE WHEN t.feature_vector IS NOT DISTINCT FROM k.feature_vector THEN k.vector_recipe_id END"
    return None


def _run(connection: sa.Connection, statement: str) -> None:
    connection.execute(sa.text(statement.replace(":", "\\:")))


def _columns(connection: sa.Connection, table: str) -> dict[str, dict]:
    return {column["name"]: dict(column) for column in sa.inspect(connection).get_columns(table)}


def _check(connection: sa.Connection) -> None:
    for table, name in (("images", "id"), ("deer", "id"), ("detections", "id"), ("detections", "image_id")):
        column = _columns(connection, table).get(name)
        kind = "missing" if column is None else str(column["type"]).lower()
        if kind != "uuid":
            raise DatabaseError(
                f"column {table}.{name} is {kind}, not uuid, and our tables refer to it; convert it "
                "(ALTER COLUMN ... TYPE uuid) and upgrade again; nothing was changed"
            )
    taken = [name for name in (*TABLES, "deer_reid_undo") if name in sa.inspect(connection).get_table_names()]
    if taken:
        raise DatabaseError(
            f"the database already has tables named {', '.join(taken)} that are not ours; rename them, or give the "
            "pipeline a schema of its own; nothing was changed"
        )


def _change(connection: sa.Connection, statement: str, undo: str) -> None:
    """Do one thing to an owner's table and write down what takes it back."""
    _run(connection, statement)
    connection.execute(sa.text("INSERT INTO deer_reid_undo (statement) VALUES (:undo)"), {"undo": undo})


def _widen_path(connection: sa.Connection) -> None:
    """Paths longer than the owner's 512 characters exist; varchar to text needs no rewrite."""
    kind = _columns(connection, "images")["path"]["type"]
    if isinstance(kind, sa.String) and kind.length is not None:
        try:
            with connection.begin_nested():
                _change(
                    connection,
                    "ALTER TABLE images ALTER COLUMN path TYPE text",
                    f"ALTER TABLE images ALTER COLUMN path TYPE varchar({kind.length})",
                )
        except sa.exc.DBAPIError as error:  # a view of the owner's shows it
            if getattr(error.orig, "pgcode", None) != "0A000":
                raise
            log.warning("images.path stays at %d characters: %s", kind.length, str(error.orig).splitlines()[0])


def _unique_path_to_plain(connection: sa.Connection) -> None:
    """Drop a unique constraint or index on exactly images.path; a plain index follows with the others."""
    found = connection.execute(
        sa.text(
            "SELECT c.relname AS index, pg_get_indexdef(i.indexrelid) AS indexdef, k.conname AS name, "
            "pg_get_constraintdef(k.oid) AS definition "
            "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
            "LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype = 'u' "
            "WHERE i.indrelid = 'images'::regclass AND i.indisunique AND NOT i.indisprimary "
            "AND i.indnkeyatts = 1 AND a.attname = 'path'"
        )
    ).all()
    for row in found:
        if row.name is not None:
            _change(
                connection,
                f'ALTER TABLE images DROP CONSTRAINT "{row.name}"',
                f'ALTER TABLE images ADD CONSTRAINT "{row.name}" {row.definition}',
            )
        else:
            _change(connection, f'DROP INDEX "{row.index}"', row.indexdef)


def _accept_our_inserts(connection: sa.Connection, table: str, column: dict) -> None:
    """Loosen NOT NULL, or set a default, where an insert of ours gives no value."""
    name, kind = column["name"], column["type"]
    if name in FILLED[table] or column.get("default") is not None:
        return
    if column.get("identity") or column.get("computed"):
        return
    required = not column["nullable"]
    alter = f'ALTER TABLE {table} ALTER COLUMN "{name}"'
    default = _default(name, kind)
    if required and (name in NULLABLE[table] or default is None):
        _change(connection, f"{alter} DROP NOT NULL", f"{alter} SET NOT NULL")
    elif required or "DEFAULT" in OWNER_COLUMNS[table].get(name, ""):
        _change(connection, f"{alter} SET DEFAULT {default}", f"{alter} DROP DEFAULT")


def _default(name: str, kind: sa.types.TypeEngine) -> str | None:
    """What a row has that says nothing about this column; None if nothing sensible exists."""
    if isinstance(kind, ENUM):
        wanted = [label for label in ENUM_DEFAULTS if label in kind.enums]
        wanted += [label for other in ENUM_DEFAULTS for label in kind.enums if label.lower() == other]
        return f"'{_quoted((wanted or kind.enums)[0])}'"
    if name == "sighting_count":
        return "1"
    known = {"status": "alive", "species": "white_tailed_deer", "processing_status": "completed"}
    for base, default in (
        (sa.Boolean, "false"),
        (sa.DateTime, "now()"),
        (sa.Date, "now()"),
        ((sa.Integer, sa.Numeric, sa.Float), "0"),
        (sa.JSON, "'{}'"),
        (sa.String, f"'{known.get(name, 'unknown')}'"),
    ):
        if isinstance(kind, base):
            return default
    return None


def _add_labels(connection: sa.Connection, column: dict, labels: tuple[str, ...]) -> None:
    """Give a native enum the labels that we write. PostgreSQL cannot take a label back, so the downgrade leaves them."""
    kind = column["type"]
    if isinstance(kind, ENUM):
        name = kind.name if kind.schema is None else f'{kind.schema}"."{kind.name}'
        for label in labels:
            if label not in kind.enums:
                log.warning("adding label %r to the enum %s", label, kind.name)
                connection.exec_driver_sql(f"ALTER TYPE \"{name}\" ADD VALUE IF NOT EXISTS '{label}'")


def _quoted(value: str) -> str:
    return value.replace("'", "''")
