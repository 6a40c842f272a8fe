"""The embedded server's memory follows what it stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from deer_reid_pipeline import host_memory
from deer_reid_pipeline.host_memory import MIB
from deer_reid_pipeline.store.embedded import buffers
from deer_reid_pipeline.store.embedded.buffers import buffers_mb


@pytest.mark.parametrize(("stored_mb", "expected_mb"), [(0, 128), (40, 168), (700, 828), (6000, 2048)])
def test_what_is_stored_fits_until_a_quarter_of_the_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored_mb: int, expected_mb: int
) -> None:
    monkeypatch.setattr(buffers, "total_mb", lambda: 8192)
    folder = tmp_path / "base" / "16384"
    folder.mkdir(parents=True)
    with (folder / "2619").open("wb") as file:
        file.truncate(stored_mb * MIB)
    assert buffers_mb(tmp_path) == expected_mb


def test_a_small_machine_gets_what_postgresql_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "total_mb", lambda: 300)
    assert buffers_mb(tmp_path / "nowhere") == 128


def test_the_limit_of_a_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "_GROUP", tmp_path)
    whole = host_memory.total_mb()
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert host_memory.total_mb() == whole
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n", encoding="ascii")
    (tmp_path / "memory.current").write_text(f"{70 * MIB}\n", encoding="ascii")
    assert (host_memory.total_mb(), host_memory.free_mb()) == (100, 30)
