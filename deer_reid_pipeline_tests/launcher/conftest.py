"""Cards that are replayed from a snapshot, in this process and in every process that it starts."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
BIG, SMALL = "GPU-5f6a1d0e-2b1c-4c83-9a5e-0d7b9c1e0a11", "GPU-c04e77b2-6d35-4f0a-8e0f-3b8f5d2a7c22"


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is installed, and finds no driver."""
    fake, root = str(HERE / "fake_nvml"), str(HERE.parent.parent)
    monkeypatch.syspath_prepend(fake)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [fake, root, os.environ.get("PYTHONPATH")])))
    for name in ("NVML_SNAPSHOT", "CUDA_VISIBLE_DEVICES", "DEER_REID_VRAM_MB", "DEER_REID_DEVICE", "DEER_REID_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    yield
    sys.modules.pop("pynvml", None)


@pytest.fixture
def cards(no_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Two cards: 13,084 of 16,376 MiB and 7,992 of 8,188 MiB free. Called with a function, it changes them."""
    target = tmp_path / "nvml.json"
    target.write_bytes((HERE / "snapshots" / "two_cards.json").read_bytes())
    monkeypatch.setenv("NVML_SNAPSHOT", str(target))

    def change(edit: Callable[[list[dict[str, Any]]], object]) -> None:
        snapshot = json.loads(target.read_text(encoding="ascii"))
        edit(snapshot["devices"])
        target.write_text(json.dumps(snapshot), encoding="ascii")

    return change


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 120.0, every_s: float = 0.05) -> Any:
    """The first true value of a condition, asked so often.

    Raises:
        AssertionError: there was none in time.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError(f"no {what} within {timeout:.0f} s")


def note_in(folder: Path) -> dict[str, Any]:
    """What the asset of the code location wrote, once it has."""
    path = folder / "note.json"
    wait_for(path.exists, "note of the worker")
    return json.loads(path.read_text(encoding="ascii"))
