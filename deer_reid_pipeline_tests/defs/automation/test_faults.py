"""Only faults of the infrastructure lead to a retry: a lost connection does, what a person has to correct does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from deer_reid_pipeline.defs.automation.faults import (
    FAULT_TAG,
    LOST_CONNECTION,
    RETRY_STEP_FAILURES_TAG,
    retry_when_the_database_went_away,
)
from deer_reid_pipeline.defs.automation.upkeep import kept_up
from deer_reid_pipeline.errors import DatabaseError, DropError, WeightsError
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline_tests.defs.automation.dagster_testing import copied_by_a_retry

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


def failing(name: str, error: Exception) -> dg.AssetsDefinition:
    @dg.asset(name=name)
    def night_asset() -> None:
        raise error

    return night_asset


def failed_run(instance: dg.DagsterInstance, *errors: Exception, tags: dict[str, str] | None = None) -> dg.DagsterRun:
    """A run whose steps fail with these errors, in this order."""
    failures = [failing(f"step_{number}", error) for number, error in enumerate(errors)]
    assets = kept_up(failures, Settings(_env_file=None))  # type: ignore[call-arg]
    result = dg.materialize(assets, instance=instance, raise_on_error=False, tags=tags)
    assert not result.success
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    return run


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
    run = failed_run(instance, error)
    assert run.tags["dagster/will_retry"] == str(retried).lower()
    assert (FAULT_TAG in run.tags) == retried


def test_a_retry_that_fails_differently_is_not_retried(instance: dg.DagsterInstance) -> None:
    first = failed_run(instance, lost())
    assert first.tags[FAULT_TAG] == f"{first.run_id}: {LOST_CONNECTION}"
    again = failed_run(instance, WeightsError("resnet50.pth is missing: copy it"), tags=copied_by_a_retry(first))
    assert again.tags["dagster/will_retry"] == "false"
    assert again.tags[FAULT_TAG] == first.tags[FAULT_TAG], "it was the run before that lost its connection"


def test_a_retry_that_loses_its_connection_again_is_retried(instance: dg.DagsterInstance) -> None:
    first = failed_run(instance, lost())
    second = failed_run(instance, WeightsError("missing"), tags=copied_by_a_retry(first))
    third = failed_run(instance, lost(), tags=copied_by_a_retry(second))
    assert third.tags["dagster/will_retry"] == "true"
    assert third.tags[FAULT_TAG].startswith(third.run_id)


@pytest.mark.parametrize("lost_first", [True, False])
def test_one_step_that_lost_its_connection_is_enough_whichever_failed_first(
    instance: dg.DagsterInstance, lost_first: bool
) -> None:
    before = copied_by_a_retry(failed_run(instance, lost()))
    errors = [lost(), DropError("the drop was changed: send it again")]
    run = failed_run(instance, *(errors if lost_first else errors[::-1]), tags=before)
    assert run.tags["dagster/will_retry"] == "true"


def test_a_person_who_asks_for_retries_of_failed_steps_gets_them(instance: dg.DagsterInstance) -> None:
    run = failed_run(instance, ZeroDivisionError(), tags={RETRY_STEP_FAILURES_TAG: "true"})
    assert run.tags["dagster/will_retry"] == "true"


def test_every_asset_of_the_code_location_has_the_hook() -> None:
    from deer_reid_pipeline.definitions import defs

    for asset in defs.assets or ():
        assert isinstance(asset, dg.AssetsDefinition)
        assert retry_when_the_database_went_away in asset.hook_defs, asset.keys
