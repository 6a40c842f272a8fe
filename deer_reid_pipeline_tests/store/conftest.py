"""Fixtures of the migration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    """An engine on a database with nothing in it."""
    made = create_engine(empty_database_url, poolclass=NullPool)
    yield made
    made.dispose()
