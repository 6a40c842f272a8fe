"""A process of the running product is killed: another one takes its place, and the work ends as without it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from deer_reid_pipeline.store.embedded.liveness import postmaster_pid
from deer_reid_pipeline.store.embedded.place import find_place
from deer_reid_pipeline_tests.deploy.proxy import free_port
from deer_reid_pipeline_tests.e2e.conftest import Processed
from deer_reid_pipeline_tests.e2e.runs import end_serving
from deer_reid_pipeline_tests.faults.conftest import assert_as_without_fault
from deer_reid_pipeline_tests.faults.installation import WITHIN_S, Installation
from deer_reid_pipeline_tests.launcher.conftest import wait_for
from deer_reid_pipeline_tests.store.clients import alive, kill_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.mark.parametrize("name", ["daemon", "code server"])
def test_a_service_that_the_run_does_not_need_killed(
    installation: Installation, drop: Path, processed: Processed, name: str
) -> None:
    with installation.in_the_middle(drop) as run:
        worker = installation.worker_of(run)
        installation.kill(name)
        installation.wait_for_a_look()
        assert alive(worker.pid), "the run was cut off for nothing"
    assert installation.wait_until_processed() == ["SUCCESS"]
    assert_as_without_fault(installation, processed)
    assert f"The {name} ended (killed by SIGKILL). It is started again." in installation.log


def test_the_web_server_killed(installation: Installation, drop: Path, processed: Processed) -> None:
    with installation.in_the_middle(drop) as run:
        installation.kill("web server")
        shown = installation.graphql(f'{{ runOrError(runId: "{run}") {{ ... on Run {{ status }} }} }}')
        assert shown == {"runOrError": {"status": "STARTED"}}
    assert installation.wait_until_processed() == ["SUCCESS"]
    assert_as_without_fault(installation, processed)
    assert "The web server ended (killed by SIGKILL). It is started again." in installation.log


def test_the_code_server_and_the_run_killed(installation: Installation, drop: Path, processed: Processed) -> None:
    with installation.in_the_middle(drop) as run:
        worker = installation.worker_of(run)
        installation.kill("code server")
        worker.kill()
    assert installation.wait_until_processed() == ["FAILURE", "SUCCESS"]
    assert_as_without_fault(installation, processed)
    report = installation.failure_report(run)
    assert "The process of this run was killed. Running again goes on where it was." in report
    assert "it is started again by itself" in report


def test_the_run_killed(installation: Installation, drop: Path, processed: Processed) -> None:
    made = "SELECT (detection_id, branch)::text, created_at FROM embeddings"
    with installation.in_the_middle(drop) as run:
        before = dict(installation.query(made))  # type: ignore[arg-type]
        worker = installation.worker_of(run)
        children = worker.children(recursive=True)
        worker.kill()
        wait_for(lambda: dict(installation.runs_since())[run] == "FAILURE", "failed run", WITHIN_S)
        _, alive = psutil.wait_procs(children, timeout=WITHIN_S)
        assert not alive, "what the run had started goes on"
    assert installation.wait_until_processed() == ["FAILURE", "SUCCESS"]
    assert_as_without_fault(installation, processed)
    after = dict(installation.query(made))  # type: ignore[arg-type]
    assert before.items() <= after.items(), "vectors that were stored were made again"
    report = installation.failure_report(run)
    assert f"Run execution process for {run} was terminated by signal 9 (SIGKILL)." in report
    assert "it is started again by itself" in report


def test_the_embedded_database_killed(installation: Installation, drop: Path, processed: Processed) -> None:
    """Nobody but the product starts it again."""
    with installation.in_the_middle(drop) as run:
        pid = postmaster_pid(find_place(installation.folder).data)
        assert pid is not None
        kill_server(pid, children=True)
    assert installation.wait_until_processed() == ["FAILURE", "SUCCESS"]
    assert_as_without_fault(installation, processed)
    assert "started again by itself" in installation.failure_report(run)
    installation.wait_for_a_look()


def test_two_of_everything_at_once(installation: Installation, drop: Path, processed: Processed) -> None:
    another = installation.start_another(free_port(), "another.log")
    try:
        said = installation.folder / "another.log"
        wait_for(lambda: b"Checking for new runs for sensor" in said.read_bytes(), "second daemon", WITHIN_S)
        with installation.in_the_middle(drop):
            ticks = installation.query("SELECT count(*) FROM job_ticks", database="dagster")
            wait_for(
                lambda: installation.query("SELECT count(*) FROM job_ticks", database="dagster") > [(ticks[0][0] + 4,)],
                "more ticks",
                WITHIN_S,
            )
            assert len(installation.runs_since()) == 1
        assert installation.wait_until_processed() == ["SUCCESS"]
        assert another.poll() is None
    finally:
        end_serving(another)
    assert_as_without_fault(installation, processed)


def test_everything_stopped_and_started_again(installation: Installation, drop: Path, processed: Processed) -> None:
    """As when the machine is restarted in order."""
    with installation.in_the_middle(drop) as run:
        worker = installation.worker_of(run)
        installation.stop_serving()
        assert not alive(worker.pid), "a run outlives the product"
    installation.start_serving()
    assert installation.wait_until_processed() == ["FAILURE", "SUCCESS"]
    assert_as_without_fault(installation, processed)
    assert "started again by itself" in installation.failure_report(run)
