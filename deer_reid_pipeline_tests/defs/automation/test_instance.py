"""The shipped dagster.yaml on a real PostgreSQL: what Dagster makes of it, and how homes get it."""

import hashlib
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from deer_reid_pipeline.defs.automation.nights import NIGHT_TAG
from deer_reid_pipeline.defs.instance import SHIPPED_BEFORE, prepare_instance
from deer_reid_pipeline.defs.workers import WORKER_TAG, close_dead_runs, worker_tag
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline.shipped import shipped
from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.defs.given import GivenSite


@pytest.fixture
def instance(
    empty_database_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DEER_REID_DAGSTER_DATABASE_URL", empty_database_url)
    (tmp_path / "dagster.yaml").write_bytes(Path(shipped("dagster.yaml")).read_bytes())
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


def test_the_daemon_runs_everything_that_the_night_needs(instance: dg.DagsterInstance) -> None:
    assert type(instance.run_storage).__name__ == "PostgresRunStorage"
    assert set(instance.get_required_daemon_types()) == {
        "ASSET",
        "BACKFILL",
        "EVENT_LOG_CONSUMER",
        "FRESHNESS_DAEMON",
        "MONITORING",
        "QUEUED_RUN_COORDINATOR",
        "SCHEDULER",
        "SENSOR",
    }
    assert instance.scheduler is not None
    assert instance.scheduler.max_tick_retries == 30  # type: ignore[attr-defined]
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert instance.run_monitoring_max_runtime_seconds == 48 * 3600
    assert not instance.telemetry_enabled


def test_one_run_of_the_night_works_at_a_time(instance: dg.DagsterInstance) -> None:
    queue = instance.get_concurrency_config().run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 4
    assert list(queue.tag_concurrency_limits) == [{"key": NIGHT_TAG, "limit": 1}]
    pools = instance.get_concurrency_config().pool_config
    assert (pools.default_pool_limit, pools.pool_granularity.value) == (1, "run")  # type: ignore[union-attr]


@dg.op
def looks_at_itself(context: dg.OpExecutionContext, site: GivenSite) -> None:
    run = context.instance.get_run_by_id(context.run_id)
    assert run is not None
    assert run.tags[WORKER_TAG].startswith(f"{run.run_id}@")
    assert close_dead_runs(context.instance) == 0, "it works"


@dg.job
def noted_job() -> None:
    looks_at_itself()


def test_every_run_notes_the_process_that_works_on_it(instance: dg.DagsterInstance) -> None:
    result = noted_job.execute_in_process(instance=instance, resources={"site": GivenSite()})
    assert result.success
    child = subprocess.Popen(["sleep", "60"])
    from deer_reid_pipeline.defs.workers import worker_identity

    identity = worker_identity(child.pid)
    child.kill()
    child.wait()
    run_id = str(uuid.uuid4())
    instance.create_run_for_job(
        noted_job,
        run_id=run_id,
        tags={WORKER_TAG: worker_tag(run_id, identity)},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert close_dead_runs(instance) == 1
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert run.tags["dagster/will_retry"] == "true", "its process died: Dagster starts it again"


def test_an_old_copy_is_replaced_and_a_changed_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DAGSTER_HOME", "DEER_REID_DAGSTER_DATABASE_URL", "DEER_REID_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    settings = Settings(_env_file=None, home=tmp_path)  # type: ignore[call-arg]
    target = tmp_path / "dagster" / "dagster.yaml"
    new = Path(shipped("dagster.yaml")).read_bytes()
    prepare_instance(settings, "postgresql://x/y")
    assert target.read_bytes() == new
    changed = new + b"# ours\n"
    target.write_bytes(changed)
    prepare_instance(settings, "postgresql://x/y")
    assert target.read_bytes() == changed
    old = b"# as shipped once\n"
    target.write_bytes(old)
    monkeypatch.setattr("deer_reid_pipeline.defs.instance.SHIPPED_BEFORE", frozenset({hashlib.sha256(old).hexdigest()}))
    prepare_instance(settings, "postgresql://x/y")
    assert target.read_bytes() == new
    assert sorted(path.name for path in target.parent.iterdir()) == ["dagster.yaml"]


def test_every_committed_version_is_known_or_the_present_one() -> None:
    listed = subprocess.run(
        ["git", "log", "--format=%H", "--", "dagster.yaml"], cwd=REPO, capture_output=True, text=True
    )
    if listed.returncode != 0 or not listed.stdout.strip():
        pytest.skip("the history of dagster.yaml is not here")
    present = hashlib.sha256(Path(shipped("dagster.yaml")).read_bytes()).hexdigest()
    for commit in listed.stdout.split():
        shown = subprocess.run(["git", "show", f"{commit}:dagster.yaml"], cwd=REPO, capture_output=True)
        assert hashlib.sha256(shown.stdout).hexdigest() in SHIPPED_BEFORE | {present}, (
            f"add the sha256 of dagster.yaml at {commit[:7]} to SHIPPED_BEFORE, so that homes that have it are upgraded"
        )
