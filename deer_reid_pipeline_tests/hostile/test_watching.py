"""The watcher sees what it is there for: other tests of this folder rest on it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline_tests.hostile.watching import nothing_but


def _connect() -> None:
    with socket.socket() as made, pytest.raises(OSError):
        made.connect(("127.0.0.1", 1))


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda drop: (drop.parent / "secret").read_text(), "open"),
        (lambda drop: (drop / "leak").read_text(), "open"),
        (lambda drop: _connect(), r"socket\.connect"),
        (lambda drop: subprocess.run([sys.executable, "-c", ""], check=True), r"subprocess\.Popen"),
        (lambda drop: os.system("true"), r"os\.system"),
    ],
    ids=["beside", "link", "socket", "program", "shell"],
)
def test_reaching_out_is_seen(tmp_path: Path, act: Callable[[Path], object], named: str) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    (tmp_path / "secret").write_text("x")
    (drop / "leak").symlink_to(tmp_path / "secret")
    with pytest.raises(AssertionError, match=named), nothing_but(drop):
        act(drop)


def _open_and_refuse(path: Path) -> None:
    path.read_text()
    raise DropError("refused")


def test_reaching_out_is_seen_where_the_reader_then_refuses(tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    drop.mkdir()
    (tmp_path / "secret").write_text("x")
    with pytest.raises(AssertionError, match="open"), nothing_but(drop):
        _open_and_refuse(tmp_path / "secret")


def test_a_refusal_alone_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(DropError), nothing_but(tmp_path):
        _open_and_refuse(tmp_path / "a")


def test_reading_the_drop_is_not_reaching_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with nothing_but(tmp_path):
        assert (tmp_path / "a").read_text() == "x"
