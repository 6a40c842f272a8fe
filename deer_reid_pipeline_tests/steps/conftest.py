"""Two halves of the drawn herd as drops: what a person named, and what nobody did."""

from __future__ import annotations

from pathlib import Path

import pytest

from deer_reid_pipeline_tests.sites import part_of_herd, read_table


@pytest.fixture
def named(herd: Path, tmp_path: Path) -> Path:
    """The herd's named pictures as a drop."""
    rows = [row for row in read_table(herd / "observations.csv") if row["individualID"]]
    return part_of_herd(herd, tmp_path / "named", rows)


@pytest.fixture
def unnamed(herd: Path, tmp_path: Path) -> Path:
    """Encounters without names, of which some open individuals."""
    rows = [row for row in read_table(herd / "observations.csv") if not row["individualID"]]
    return part_of_herd(herd, tmp_path / "unnamed", rows)
