"""A Dagster instance of a test's own."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that forgets everything afterwards."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made
