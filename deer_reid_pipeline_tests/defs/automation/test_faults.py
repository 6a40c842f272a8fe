"""Only faults of the infrastructure lead to a retry: a lost connection does, what a person has to correct does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from deer_reid_pipeline.defs.automation.faults import FAULT_TAG, retry_when_the_database_went_away
from deer_reid_pipeline.defs.automation.upkeep import kept_up
from deer_reid_pipeline.errors import DatabaseError, DropError
from deer_reid_pipeline.settings import Settings

RETRIES = "run_retries:\n  enabled: true\n  max_retries: 2\n  retry_on_asset_or_op_failure: false\n"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real instance with the retries of the shipped dagster.yaml."""
    (tmp_path / "dagster.yaml").write_text(RETRIES + "telemetry:\n  enabled: false\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


def lost() -> Exception:
    return OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))


def lost_and_said() -> Exception:
    said = DatabaseError("the database cannot be used: connection refused; start the server")
    said.__cause__ = lost()
    return said


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (lost(), True),
        (lost_and_said(), True),
        (DropError("the drop was changed: send it again"), False),
        (DatabaseError("the database is at revision 3: run deer-reid init"), False),
        (IntegrityError("INSERT", {}, Exception("duplicate key")), False),
        (MemoryError(), False),
        (ZeroDivisionError("division by zero"), False),
    ],
)
def test_only_a_lost_connection_is_retried(instance: dg.DagsterInstance, error: Exception, retried: bool) -> None:
    @dg.asset
    def night_asset() -> None:
        raise error

    (asset,) = kept_up([night_asset], Settings(_env_file=None))  # type: ignore[call-arg]
    result = dg.materialize([asset], instance=instance, raise_on_error=False)
    assert not result.success
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["dagster/will_retry"] == str(retried).lower()
    assert (FAULT_TAG in run.tags) == retried


def test_every_asset_of_the_code_location_has_the_hook() -> None:
    from deer_reid_pipeline.definitions import defs

    for asset in defs.assets or ():
        assert isinstance(asset, dg.AssetsDefinition)
        assert retry_when_the_database_went_away in asset.hook_defs, asset.keys
