"""What is known of how good matching is, and what made a release live.

Tables for reports, the log of releases, people's reviews, monitoring, camera positions and A/B tests; columns on
`releases`, `recipes` and `deer`; an index on `match_decisions`. Additive: a home that has a live release gets its
first event, and the individuals whose columns show that release get its recipe noted beside them.

Nothing is lost on the way down: the tables move to the schema `deer_reid_kept`, and the columns leave their values
there. The next upgrade brings all of it back.
"""

import logging
from pathlib import Path

import sqlalchemy as sa
from alembic import op
from alembic.util import load_python_file

from deer_reid_pipeline.errors import DatabaseError

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

log = logging.getLogger("alembic.runtime.migration")

kept = load_python_file(str(Path(__file__).resolve().parent.parent), "kept.py")

COLUMNS = {
    "releases": {
        "fitted": (
            "jsonb",
            "The policy with those fitted without each group of individuals; null: nothing was fitted",
        ),
        "report_id": (
            "integer REFERENCES reports (id)",
            "Report that it was made with",
        ),
        "made_from": (
            "integer REFERENCES releases (id)",
            "Release that it was made from",
        ),
        "name": (
            "text",
            "For people",
        ),
        "author": (
            "text",
            "Who made it",
        ),
        "promoted_at": (
            "timestamptz",
            "When it last became live; null: it never was",
        ),
    },
    "recipes": {
        "control_of": (
            "text REFERENCES recipes (id)",
            "Recipe of whose pictures it embeds only the background: a control, never releasable",
        ),
    },
    "deer": {
        "columns_recipe_id": (
            "text",
            "Recipe of the multiscale and efficientnet columns; null: they are to be shown again",
        ),
    },
}
"""New columns of tables that are there: nullable, so that nothing is rewritten."""

TABLES = {
    "reports": """
        CREATE TABLE reports (
            id serial NOT NULL,
            kind varchar(20) NOT NULL,
            day date,
            recipe_id text,
            release_id integer,
            candidate_id integer,
            verdict varchar(20),
            data_digest text,
            summary jsonb NOT NULL,
            folder text,
            run_id text,
            created_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id),
            FOREIGN KEY(recipe_id) REFERENCES recipes (id)
        );
        CREATE INDEX ix_reports_candidate_id ON reports (candidate_id);
        CREATE INDEX ix_reports_kind ON reports (kind, id);
        COMMENT ON TABLE reports IS 'What was measured: a validation, a tuning, a day''s monitoring. The files are under the home.';
        COMMENT ON COLUMN reports.id IS 'Running number';
        COMMENT ON COLUMN reports.kind IS 'validation, tuning, monitoring or ab';
        COMMENT ON COLUMN reports.day IS 'Day it is about, where it is about one';
        COMMENT ON COLUMN reports.recipe_id IS 'Recipe that was judged';
        COMMENT ON COLUMN reports.release_id IS 'Release that was live then';
        COMMENT ON COLUMN reports.candidate_id IS 'Release that was judged against the live one';
        COMMENT ON COLUMN reports.verdict IS 'PASS, FAIL or INCONCLUSIVE; null: not a judgement';
        COMMENT ON COLUMN reports.data_digest IS 'Digest of what was judged';
        COMMENT ON COLUMN reports.summary IS 'Its figures and findings';
        COMMENT ON COLUMN reports.folder IS 'Where its files are, relative to the home';
        COMMENT ON COLUMN reports.run_id IS 'Dagster run';
        COMMENT ON COLUMN reports.created_at IS 'When it was made';
    """,
    "release_events": """
        CREATE TABLE release_events (
            id bigserial NOT NULL,
            action varchar(20) NOT NULL,
            release_id integer NOT NULL,
            previous_release_id integer,
            report_id integer,
            verdict varchar(20),
            forced boolean DEFAULT false NOT NULL,
            reason text NOT NULL,
            actor text,
            run_id text,
            at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id),
            CONSTRAINT release_events_action_check CHECK (action IN ('first', 'proposed', 'promoted', 'rolled_back')),
            FOREIGN KEY(release_id) REFERENCES releases (id),
            FOREIGN KEY(previous_release_id) REFERENCES releases (id),
            FOREIGN KEY(report_id) REFERENCES reports (id)
        );
        CREATE INDEX ix_release_events_release_id ON release_events (release_id);
        COMMENT ON TABLE release_events IS 'Append-only log: which release became live when, by whom, on which report, and why.';
        COMMENT ON COLUMN release_events.id IS 'Running number, in order of the events';
        COMMENT ON COLUMN release_events.action IS 'first, proposed, promoted or rolled_back';
        COMMENT ON COLUMN release_events.release_id IS 'Release proposed, or live from then on';
        COMMENT ON COLUMN release_events.previous_release_id IS 'Release that was live until then';
        COMMENT ON COLUMN release_events.report_id IS 'Report that it rests on';
        COMMENT ON COLUMN release_events.verdict IS 'The report''s verdict at that time';
        COMMENT ON COLUMN release_events.forced IS 'True: against the gate, by a person''s decision';
        COMMENT ON COLUMN release_events.reason IS 'Why';
        COMMENT ON COLUMN release_events.actor IS 'OS user who ran it';
        COMMENT ON COLUMN release_events.run_id IS 'Dagster run';
        COMMENT ON COLUMN release_events.at IS 'When';
    """,
    "reviews": """
        CREATE TABLE reviews (
            id bigserial NOT NULL,
            detection_a uuid NOT NULL,
            detection_b uuid NOT NULL,
            verdict varchar(10) NOT NULL,
            reviewer text NOT NULL,
            reviewed_at timestamptz NOT NULL,
            source text NOT NULL,
            imported_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id),
            UNIQUE (detection_a, detection_b, reviewer, reviewed_at),
            CONSTRAINT reviews_order_check CHECK (detection_a < detection_b),
            CONSTRAINT reviews_verdict_check CHECK (verdict IN ('same', 'different', 'unsure'))
        );
        CREATE INDEX ix_reviews_detection_b ON reviews (detection_b);
        COMMENT ON TABLE reviews IS 'Append-only log: what a person said of two detections, whether they show one animal.';
        COMMENT ON COLUMN reviews.id IS 'Running number, in order of import';
        COMMENT ON COLUMN reviews.detection_a IS 'The smaller of the two ids; no foreign key: the log outlives it';
        COMMENT ON COLUMN reviews.detection_b IS 'The larger of the two ids';
        COMMENT ON COLUMN reviews.verdict IS 'same, different or unsure';
        COMMENT ON COLUMN reviews.reviewer IS 'Who looked';
        COMMENT ON COLUMN reviews.reviewed_at IS 'When they looked';
        COMMENT ON COLUMN reviews.source IS 'File it came from';
        COMMENT ON COLUMN reviews.imported_at IS 'When it was stored';
    """,
    "monitor_flags": """
        CREATE TABLE monitor_flags (
            id bigserial NOT NULL,
            day date NOT NULL,
            rule text NOT NULL,
            encounter_id uuid NOT NULL,
            other_encounter_id uuid,
            decision_id bigint,
            deer_id uuid,
            detail text NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id),
            FOREIGN KEY(encounter_id) REFERENCES encounters (id),
            FOREIGN KEY(other_encounter_id) REFERENCES encounters (id)
        );
        CREATE INDEX ix_monitor_flags_day ON monitor_flags (day);
        COMMENT ON TABLE monitor_flags IS 'Something a rule found implausible on a day; the rows of a day are replaced when it is reported again.';
        COMMENT ON COLUMN monitor_flags.id IS 'Running number';
        COMMENT ON COLUMN monitor_flags.day IS 'Day that was looked at';
        COMMENT ON COLUMN monitor_flags.rule IS 'Rule that found it';
        COMMENT ON COLUMN monitor_flags.encounter_id IS 'Encounter to look at';
        COMMENT ON COLUMN monitor_flags.other_encounter_id IS 'Encounter that it does not go with';
        COMMENT ON COLUMN monitor_flags.decision_id IS 'Decision in question; the log that it is in loses no row';
        COMMENT ON COLUMN monitor_flags.deer_id IS 'Individual in question; no foreign key: the report outlives it';
        COMMENT ON COLUMN monitor_flags.detail IS 'In words';
        COMMENT ON COLUMN monitor_flags.created_at IS 'When it was found';
    """,
    "monitor_samples": """
        CREATE TABLE monitor_samples (
            day date NOT NULL,
            decision_id bigint NOT NULL,
            encounter_id uuid NOT NULL,
            deer_id uuid NOT NULL,
            stratum text NOT NULL,
            inclusion_probability double precision NOT NULL,
            detection_a uuid NOT NULL,
            detection_b uuid NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (day, decision_id),
            CONSTRAINT monitor_samples_probability_check CHECK (inclusion_probability > 0 AND inclusion_probability <= 1),
            FOREIGN KEY(encounter_id) REFERENCES encounters (id)
        );
        COMMENT ON TABLE monitor_samples IS 'A decision of a day drawn for a person to look at, with the chance it had of being drawn.';
        COMMENT ON COLUMN monitor_samples.day IS 'Day that was sampled';
        COMMENT ON COLUMN monitor_samples.decision_id IS 'Decision that was drawn; the log that it is in loses no row';
        COMMENT ON COLUMN monitor_samples.encounter_id IS 'Its encounter';
        COMMENT ON COLUMN monitor_samples.deer_id IS 'Individual it was matched to; no foreign key: the sample outlives it';
        COMMENT ON COLUMN monitor_samples.stratum IS 'Part of the day''s decisions that it stands for';
        COMMENT ON COLUMN monitor_samples.inclusion_probability IS 'Chance of being drawn, above 0 to 1: one over the weight of Horvitz and Thompson';
        COMMENT ON COLUMN monitor_samples.detection_a IS 'Detection to compare; no foreign key: the sample outlives it';
        COMMENT ON COLUMN monitor_samples.detection_b IS 'Detection to compare it with';
        COMMENT ON COLUMN monitor_samples.created_at IS 'When it was drawn';
    """,
    "deployments": """
        CREATE TABLE deployments (
            id text NOT NULL,
            name text,
            latitude double precision,
            longitude double precision,
            drop_key text,
            updated_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (id)
        );
        COMMENT ON TABLE deployments IS 'Where a camera stands. Coordinates never leave the database unless asked for.';
        COMMENT ON COLUMN deployments.id IS 'Camtrap DP deploymentID';
        COMMENT ON COLUMN deployments.name IS 'Camtrap DP locationName';
        COMMENT ON COLUMN deployments.latitude IS 'Degrees north, -90 to 90, WGS 84';
        COMMENT ON COLUMN deployments.longitude IS 'Degrees east, -180 to 180, WGS 84';
        COMMENT ON COLUMN deployments.drop_key IS 'Drop that said so last';
        COMMENT ON COLUMN deployments.updated_at IS 'When it was last said';
    """,
    "ab_tests": """
        CREATE TABLE ab_tests (
            id serial NOT NULL,
            release_a integer NOT NULL,
            release_b integer NOT NULL,
            share_b double precision NOT NULL,
            share_all double precision NOT NULL,
            salt text NOT NULL,
            reason text NOT NULL,
            started_at timestamptz DEFAULT now() NOT NULL,
            ended_at timestamptz,
            PRIMARY KEY (id),
            CONSTRAINT ab_tests_shares_check CHECK (share_b BETWEEN 0 AND 1 AND share_all BETWEEN 0 AND 1),
            FOREIGN KEY(release_a) REFERENCES releases (id),
            FOREIGN KEY(release_b) REFERENCES releases (id)
        );
        CREATE UNIQUE INDEX ix_ab_tests_one_running ON ab_tests ((ended_at IS NULL)) WHERE ended_at IS NULL;
        COMMENT ON TABLE ab_tests IS 'Two releases side by side: a share of new encounters is decided by both. At most one runs.';
        COMMENT ON COLUMN ab_tests.id IS 'Running number';
        COMMENT ON COLUMN ab_tests.release_a IS 'Release of arm a';
        COMMENT ON COLUMN ab_tests.release_b IS 'Release of arm b';
        COMMENT ON COLUMN ab_tests.share_b IS 'Share of its encounters that arm b decides, 0 to 1';
        COMMENT ON COLUMN ab_tests.share_all IS 'Share of new encounters that take part, 0 to 1';
        COMMENT ON COLUMN ab_tests.salt IS 'Goes into the hash that gives an encounter its arm';
        COMMENT ON COLUMN ab_tests.reason IS 'What it is to find out';
        COMMENT ON COLUMN ab_tests.started_at IS 'When it began';
        COMMENT ON COLUMN ab_tests.ended_at IS 'When it ended; null: it runs';
    """,
    "ab_outcomes": """
        CREATE TABLE ab_outcomes (
            ab_test_id integer NOT NULL,
            encounter_id uuid NOT NULL,
            arm varchar(1) NOT NULL,
            release_id integer NOT NULL,
            outcome_a jsonb NOT NULL,
            outcome_b jsonb NOT NULL,
            at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (ab_test_id, encounter_id),
            CONSTRAINT ab_outcomes_arm_check CHECK (arm IN ('a', 'b')),
            FOREIGN KEY(ab_test_id) REFERENCES ab_tests (id),
            FOREIGN KEY(encounter_id) REFERENCES encounters (id),
            FOREIGN KEY(release_id) REFERENCES releases (id)
        );
        COMMENT ON TABLE ab_outcomes IS 'What both releases of an A/B test made of one encounter, and whose outcome was applied.';
        COMMENT ON COLUMN ab_outcomes.ab_test_id IS 'Test';
        COMMENT ON COLUMN ab_outcomes.encounter_id IS 'Encounter that took part';
        COMMENT ON COLUMN ab_outcomes.arm IS 'a or b: whose outcome was applied';
        COMMENT ON COLUMN ab_outcomes.release_id IS 'Release whose outcome was applied';
        COMMENT ON COLUMN ab_outcomes.outcome_a IS 'Of arm a: decision, deer_id, individual, score, probability';
        COMMENT ON COLUMN ab_outcomes.outcome_b IS 'Of arm b: decision, deer_id, individual, score, probability';
        COMMENT ON COLUMN ab_outcomes.at IS 'When';
    """,
}
"""Ours, in the order in which they refer to each other."""

INDEX = "ix_match_decisions_decided_at"
"""Ours, on a table of revision 0003."""

APPEND_ONLY = ("release_events", "reviews")

APPEND_ONLY_FUNCTION = "deer_reid_append_only()"

MAKE_APPEND_ONLY_FUNCTION = f"""
    CREATE FUNCTION {APPEND_ONLY_FUNCTION} RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION USING
            ERRCODE = 'restrict_violation',
            MESSAGE = TG_TABLE_NAME || ' is append-only: ' || TG_OP || ' refused; add a new row instead';
    END
    $$;
    COMMENT ON FUNCTION {APPEND_ONLY_FUNCTION} IS 'Keeps logs: rows are added, never changed';
"""

MAKE_APPEND_ONLY = """
    CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}
        FOR EACH ROW EXECUTE FUNCTION deer_reid_append_only();
    CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION deer_reid_append_only();
"""


def upgrade() -> None:
    connection = op.get_bind()
    taken = [name for name in TABLES if name in sa.inspect(connection).get_table_names()]
    if taken:
        raise DatabaseError(
            f"the database already has tables named {', '.join(taken)} that are not ours; rename them, or give the "
            "pipeline a schema of its own; nothing was changed"
        )
    held = kept.tables(connection)
    first_time = "release_events" not in held
    for name, statements in TABLES.items():
        if name in held:
            kept.bring_back(connection, "TABLE", name)
        else:
            connection.exec_driver_sql(statements)
    if first_time:
        connection.exec_driver_sql(MAKE_APPEND_ONLY_FUNCTION)
        for name in APPEND_ONLY:
            connection.exec_driver_sql(MAKE_APPEND_ONLY.format(table=name))
    else:
        kept.bring_back(connection, "FUNCTION", APPEND_ONLY_FUNCTION)
    for table, columns in COLUMNS.items():
        there = {column["name"] for column in sa.inspect(connection).get_columns(table)}
        missing = [name for name in columns if name not in there]
        for name in missing:
            kind, comment = columns[name]
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
            connection.exec_driver_sql(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")
        kept.restore_columns(connection, _kept_as(table), table, dict.fromkeys(missing))
    connection.exec_driver_sql(f"CREATE INDEX IF NOT EXISTS {INDEX} ON match_decisions (decided_at)")
    if first_time:
        _say_what_is_live(connection)
    kept.end(connection)


def downgrade() -> None:
    connection = op.get_bind()
    kept.begin(connection)
    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {INDEX}")
    for table, columns in COLUMNS.items():
        kept.keep_columns(connection, _kept_as(table), table, columns)
        for name in columns:
            _drop(connection, table, name)
    for name in reversed(TABLES):
        kept.put_away(connection, "TABLE", name)
    kept.put_away(connection, "FUNCTION", APPEND_ONLY_FUNCTION)


def _kept_as(table: str) -> str:
    """Name of the kept table; revision 0003 uses `<table>_columns`."""
    return f"{table}_columns_{revision}"


def _drop(connection: sa.Connection, table: str, name: str) -> None:
    """Drop a column of ours; one that a view of the owner's shows is left, and keeps its newer values."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {name}")
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != "2BP01":  # something depends on it
            raise
        log.warning("%s.%s is left as it is: %s", table, name, str(error.orig).splitlines()[0])


def _say_what_is_live(connection: sa.Connection) -> None:
    """The release that an earlier version made live is the first event; its recipe made the columns of `deer`.

    Not those of an individual without a profile under it: whoever made them, that recipe did not.
    """
    connection.exec_driver_sql("UPDATE releases SET promoted_at = created_at WHERE live")
    connection.exec_driver_sql(
        "INSERT INTO release_events (action, release_id, reason, at) "
        "SELECT 'first', id, reason, created_at FROM releases WHERE live"
    )
    with kept.owner_triggers_off(connection, "deer"):
        connection.exec_driver_sql(
            "UPDATE deer SET columns_recipe_id = r.recipe_id FROM releases r "
            "WHERE r.live AND feature_vector_multiscale IS NOT NULL AND feature_vector_efficientnet IS NOT NULL "
            "AND EXISTS (SELECT FROM profiles p WHERE p.deer_id = deer.id AND p.recipe_id = r.recipe_id)"
        )
