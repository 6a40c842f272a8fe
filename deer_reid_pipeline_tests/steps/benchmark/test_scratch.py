"""Temporary folders: gone whatever happens, and never another benchmark's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deer_reid_pipeline.steps.benchmark.scratch import clear, scratch_folder
from deer_reid_pipeline.store.embedded import embedded_status, start_embedded


def test_a_folder_goes_also_where_work_fails(tmp_path: Path) -> None:
    seen = []

    def stopped() -> None:
        with scratch_folder(tmp_path, "night") as folder:
            seen.append(folder)
            (folder / "herd").mkdir()
            (folder / "herd" / "picture.jpg").write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [folder.exists() for folder in seen] == [False]
    assert not (tmp_path / "scratch").exists()


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from deer_reid_pipeline.steps.benchmark.scratch import *\n"
        "with scratch_folder(Path(sys.argv[1]), 'left') as folder:\n"
        "    (folder / 'file').write_bytes(b'x'); os._exit(9)"
    )
    with scratch_folder(tmp_path, "mine") as mine:
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
        assert len(list((tmp_path / "scratch").glob("left-*"))) == 2
        assert clear(tmp_path) == 1
        assert list((tmp_path / "scratch").glob("left-*")) == []
        assert mine.is_dir()
    assert not (tmp_path / "scratch").exists()


def test_models_that_are_linked_stay(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "kept").write_bytes(b"x")
    with scratch_folder(tmp_path, "night") as folder:
        (folder / "models").symlink_to(models, target_is_directory=True)
    assert (models / "kept").read_bytes() == b"x"


def test_a_database_server_goes_with_its_folder(make_home: Callable[[], Path]) -> None:
    with scratch_folder(make_home(), "night") as folder:
        server = psutil.Process(start_embedded(folder).pid)
        assert embedded_status(folder).state == "running"
    # Its parent may not have asked how it ended yet.
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert not folder.exists()
