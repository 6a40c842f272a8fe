"""`deer-reid restore`: runs that were at work when the backup was made do not look alive in the restored home."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from deer_reid_pipeline.cli import app
from deer_reid_pipeline.defs.instance import prepare_instance
from deer_reid_pipeline.defs.workers import WORKER_TAG, close_restored_runs, worker_tag
from deer_reid_pipeline.settings import Settings, load_settings
from deer_reid_pipeline.steps.backup import back_up_site
from deer_reid_pipeline.store.database import connect
from deer_reid_pipeline.store.embedded import EmbeddedServer
from deer_reid_pipeline_tests.sites import fresh_database

AT_WORK = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")
OTHERS = ("SUCCESS", "FAILURE", "CANCELED")


@dg.op
def _nothing() -> None: ...


@dg.job
def _some_job() -> None:
    _nothing()


@pytest.fixture
def dagster_urls(server: EmbeddedServer) -> Iterator[list[str]]:
    """Two empty databases, as Dagster's."""
    with fresh_database(server) as one, fresh_database(server) as other:
        yield [one, other]


@pytest.fixture
def installation(
    make_home: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Settings]:
    """Makes the environment that of a new home on two databases."""
    monkeypatch.chdir(tmp_path)  # not the checkout, whose .env would be read
    monkeypatch.delenv("DAGSTER_HOME", raising=False)

    def settings(database_url: str, dagster_url: str) -> Settings:
        home = make_home()
        for name, value in (
            ("DEER_REID_HOME", str(home)),
            ("DATABASE_URL", database_url),
            ("DEER_REID_DAGSTER_DATABASE_URL", dagster_url),
            ("DAGSTER_HOME", str(home / "dagster")),
        ):
            monkeypatch.setenv(name, value)
        return load_settings()

    return settings


def test_runs_that_were_at_work_are_closed(
    installation: Callable[[str, str], Settings],
    database_url: str,
    empty_database_url: str,
    dagster_urls: list[str],
    tmp_path: Path,
) -> None:
    settings = installation(database_url, dagster_urls[0])
    prepare_instance(settings, dagster_urls[0])
    runs = {status: str(uuid.uuid4()) for status in (*AT_WORK, *OTHERS)}
    with dg.DagsterInstance.get() as instance:
        for status, run_id in runs.items():
            tags = {WORKER_TAG: worker_tag(run_id, "lost-host/1:7:boot/1")}
            instance.create_run_for_job(_some_job, run_id=run_id, tags=tags, status=dg.DagsterRunStatus(status))
    with closing(connect(settings)) as database:
        back_up_site(settings, database, tmp_path / "b")

    restored = installation(empty_database_url, dagster_urls[1])
    done = CliRunner().invoke(app, ["restore", str(tmp_path / "b"), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["closed_runs"] == len(AT_WORK)
    assert f"reported as failed now: {len(AT_WORK)}." in " ".join(done.stderr.split())
    with dg.DagsterInstance.get() as instance:
        found = {run.run_id: run.status.value for run in instance.get_runs()}
        (failure,) = (each for each in instance.all_logs(runs["STARTED"]) if each.dagster_event is not None)
    assert found == {run_id: "FAILURE" if status in AT_WORK else status for status, run_id in runs.items()}
    assert "was at work when the backup was made" in failure.message
    assert close_restored_runs(restored, dagster_urls[1]) == 0
    assert close_restored_runs(restored, dagster_urls[0]) == len(AT_WORK)


def test_runs_of_another_database_are_left_alone(
    installation: Callable[[str, str], Settings], database_url: str, dagster_urls: list[str]
) -> None:
    """Where a person's dagster.yaml names one: it may be that of an installation that works."""
    ours, theirs = dagster_urls
    settings = installation(database_url, ours)
    settings.dagster_home.mkdir(parents=True)
    (settings.dagster_home / "dagster.yaml").write_text(
        "storage:\n  custom:\n    module: deer_reid_pipeline.defs.storage\n    class: SiteStorage\n"
        f"    config:\n      postgres_url: {json.dumps(theirs)}\n"
    )
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        run = instance.create_run_for_job(_some_job, status=dg.DagsterRunStatus.STARTED)
    assert close_restored_runs(settings, ours) is None
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        (found,) = instance.get_runs()
    assert (found.run_id, found.status.value) == (run.run_id, "STARTED")
