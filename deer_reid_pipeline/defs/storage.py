"""Dagster's storage on the installation's own PostgreSQL server.

`dagster.yaml` names this class. The address comes from `DEER_REID_DAGSTER_DATABASE_URL`, else it is the database
`dagster` on the server of the installation, and where that server is the embedded one it is started. So every Dagster
process finds the same storage, whoever started it.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster_postgres import DagsterPostgresStorage

from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.store.database import connect


class SiteStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` that finds its own address."""

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """One optional field: `postgres_url`, which wins over everything else."""
        return {"postgres_url": dg.Field(dg.StringSource, is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> "SiteStorage":
        """Open the storage.

        Raises:
            SettingsError: a setting is wrong.
            DatabaseError: the server cannot be reached or started.
        """
        url = config_value.get("postgres_url") or dagster_database_url()
        return cls(postgres_url=url, should_autocreate_tables=True, inst_data=inst_data)


def dagster_database_url() -> str:
    """Address of Dagster's database, after making sure that its server runs."""
    settings = load_settings()
    if settings.dagster_database_url and settings.database_url:
        return settings.dagster_database_url
    return connect(settings).dagster_url
