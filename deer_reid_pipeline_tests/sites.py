"""Installations for tests: a fresh home on a fresh database, with the recipe's projections made once a session."""

from __future__ import annotations

import csv
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.steps.crops import store_crops
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.embeddings import embed_drop
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.matches import match_drop
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import DropSummary, finish_drop
from deer_reid_pipeline.store.embedded import EmbeddedServer

OWNER_TABLES = ("images", "detections", "deer")
OUR_TABLES = (
    "drops",
    "drop_media",
    "quarantine",
    "encounters",
    "detection_crops",
    "recipes",
    "embeddings",
    "profiles",
    "profile_exemplars",
    "releases",
    "match_decisions",
    "reports",
    "release_events",
    "reviews",
    "monitor_flags",
    "monitor_samples",
    "deployments",
    "ab_tests",
    "ab_outcomes",
)


def run_sql(url: str, statement: str) -> None:
    """Run one statement outside a transaction (CREATE DATABASE and the like)."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))


@contextmanager
def fresh_database(server: EmbeddedServer, template: str = "template1") -> Iterator[str]:
    """The address of a database of its own, a copy of the template; dropped at the end."""
    name = f"test_{uuid.uuid4().hex}"
    run_sql(server.url("postgres"), f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    run_sql(server.url("postgres"), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def settings_for(home: Path, **changes: Any) -> Settings:
    """Settings of a test's home, untouched by the environment of whoever runs the tests."""
    return Settings(_env_file=None, home=home, offline=True, device="cpu", **{"recipe": "lite", **changes})  # type: ignore[call-arg]


def run_all(site: Site, folder: Path, detector: str = "auto") -> tuple[str, DropSummary]:
    """Every step of a drop, without Dagster."""
    key = register_drop(site, folder, detector).key
    store_images(site, key)
    store_detections(site, key)
    store_crops(site, drop_key=key)
    matcher = site.matcher()
    needed = site.needed_branches(matcher.recipe.id)
    embed_drop(site, matcher.recipe, key, branches=needed)
    match_drop(site, matcher, key)
    update_profiles(site, matcher.recipe, branches=needed)
    return key, finish_drop(site, key)


def row_counts(site: Site) -> dict[str, int]:
    """Rows of every table of the product."""
    tables = (*OWNER_TABLES, *OUR_TABLES)
    with site.database.session() as session:
        return {name: session.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in tables}


def query(site: Site, statement: str, **values: Any) -> list[Any]:
    """Rows of an SQL statement."""
    with site.database.session() as session:
        return list(session.execute(text(statement), values).all())


def alike_encounters(rows: Iterable[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows of two unnamed encounters of a drawn herd, after those of named ones of the same flanks and sexes."""
    events: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        events.setdefault(row["eventID"], []).append(row)
    looks = {event: {(row["viewpoint"], row["sex"]) for row in shown} for event, shown in events.items()}
    named = [event for event, shown in events.items() if all(row["individualID"] for row in shown)]
    unnamed = [event for event in events if event not in named][:2]
    alike = {next(event for event in named if looks[event] == looks[other]) for other in unnamed}
    return (
        [row for event, shown in events.items() if event in alike for row in shown],
        [row for event in unnamed for row in events[event]],
    )


def write_table(folder: Path, rows: Iterable[dict[str, Any]], name: str = "observations.csv") -> None:
    """Write a table with the union of the rows' keys as columns."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / name).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def part_of_herd(herd: Path, folder: Path, rows: Iterable[dict[str, str]]) -> Path:
    """A drop made of some rows of a drawn herd's table, with their pictures."""
    rows = list(rows)
    for row in rows:
        target = folder / row["filePath"]
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(herd / row["filePath"], target)
    write_table(folder, rows)
    return folder
