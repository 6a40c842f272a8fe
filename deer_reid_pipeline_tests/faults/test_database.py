"""PostgreSQL goes away in the middle of a run: whoever needs it waits, and the run is started again by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deer_reid_pipeline_tests.deploy.proxy import free_port
from deer_reid_pipeline_tests.deploy.stack import PostgresServer, running_postgres
from deer_reid_pipeline_tests.e2e.conftest import Processed
from deer_reid_pipeline_tests.faults.conftest import assert_as_without_fault, new_installation, serving
from deer_reid_pipeline_tests.faults.installation import Installation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

AWAY_S = 30


@pytest.fixture(scope="module")
def server(make_home: Callable[[], Path]) -> Iterator[PostgresServer]:
    """A server that nobody but the test starts."""
    with running_postgres(make_home(), free_port()) as made:
        yield made


@pytest.fixture(scope="module")
def running(make_home: Callable[[], Path], lite_models: Path, server: PostgresServer) -> Iterator[Installation]:
    """An installation on that server."""
    with serving(new_installation(make_home, lite_models, server.url)) as made:
        yield made


def assert_told(report: str) -> None:
    """The report begins with a sentence that names the database, and says that nobody has to do anything."""
    headline = report.splitlines()[2]
    assert "connection" in headline or "database" in headline, report
    assert "it is started again by itself" in report


def test_stopped_for_half_a_minute(
    installation: Installation, server: PostgresServer, drop: Path, processed: Processed
) -> None:
    with installation.in_the_middle(drop) as run:
        server.stop()
        time.sleep(AWAY_S)  # the fault itself
        server.start()
    assert installation.wait_until_processed() == ["FAILURE", "SUCCESS"]
    assert_as_without_fault(installation, processed)
    assert_told(installation.failure_report(run))
    installation.wait_for_a_look()


def test_killed(installation: Installation, server: PostgresServer, drop: Path, processed: Processed) -> None:
    with installation.in_the_middle(drop) as run:
        server.kill()
        server.start()
    assert installation.wait_until_processed() == ["FAILURE", "SUCCESS"]
    assert_as_without_fault(installation, processed)
    assert_told(installation.failure_report(run))
    installation.wait_for_a_look()
