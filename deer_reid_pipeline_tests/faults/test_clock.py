"""The clock is set back by hours, in the middle of a run: the sensor looks, and runs start, as if it had not been.

Nobody changes the machine's clock: all processes of the installation, its database too, go by one of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deer_reid_pipeline_tests.e2e.conftest import Processed
from deer_reid_pipeline_tests.faults.conftest import assert_as_without_fault, new_installation, serving
from deer_reid_pipeline_tests.faults.installation import WITHIN_S, Installation
from deer_reid_pipeline_tests.fortnight.clock import SiteClock
from deer_reid_pipeline_tests.launcher.conftest import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

AHEAD = timedelta(hours=3)


@pytest.fixture(scope="module")
def clock(make_home: Callable[[], Path]) -> SiteClock:
    """Ahead of the machine's."""
    return SiteClock(make_home(), datetime.now(UTC) + AHEAD)


@pytest.fixture(scope="module")
def running(make_home: Callable[[], Path], lite_models: Path, clock: SiteClock) -> Iterator[Installation]:
    """An installation that goes by it."""
    made = new_installation(make_home, lite_models)
    made.settings |= clock.environment()
    with serving(made):
        yield made


def test_set_back(installation: Installation, clock: SiteClock, drop: Path, processed: Processed) -> None:
    with installation.in_the_middle(drop):
        daemon = installation.service("daemon")
        clock.set_to(datetime.now(UTC))
        wait_for(lambda: installation.service("daemon").pid != daemon.pid, "new daemon", WITHIN_S)
        assert re.search(r"The clock was set back by 1\d{4} s\. Started again: daemon\.", installation.log)
        installation.wait_for_a_look()
    assert installation.wait_until_processed() == ["SUCCESS"]
    assert_as_without_fault(installation, processed)

    installation.forget()
    installation.deliver(drop)
    assert installation.wait_until_processed() == ["SUCCESS"]
    assert_as_without_fault(installation, processed)
