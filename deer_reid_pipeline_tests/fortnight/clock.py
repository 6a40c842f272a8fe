"""A wall clock that all processes of a site share and that the test sets."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest


class SiteClock:
    """A clock that goes at the speed of the machine's own and is ahead of it.

    It is a small library (clock.c) that processes load before all others. They see a jump at once, as after the suspend
    of a machine; what they wait for by the monotonic clock goes on, and times of files are the machine's.
    """

    def __init__(self, folder: Path, begin: datetime) -> None:
        self._file, self._library = folder / "clock", folder / "clock.so"
        self._ahead = 0
        _build(self._library)
        self._file.write_bytes(struct.pack("=q", 0))
        self._file.chmod(0o644)
        self.set_to(begin)

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to go by this clock."""
        return {"LD_PRELOAD": str(self._library), "SITE_CLOCK": str(self._file)}

    def now(self) -> datetime:
        """The time that it shows."""
        return datetime.fromtimestamp(time.time() + self._ahead, UTC)

    def set_to(self, moment: datetime) -> None:
        """Set it, forward or back, for all processes at once."""
        self._ahead = round(moment.timestamp() - time.time())
        with self._file.open("r+b") as stream:
            stream.write(struct.pack("=q", self._ahead))


def _build(library: Path) -> None:
    """Make the library; the test is skipped where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed (apt-get install gcc)")
    source = Path(__file__).with_name("clock.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(library), str(source), "-ldl"],
        check=True,
        timeout=120,
    )
    library.chmod(0o755)
