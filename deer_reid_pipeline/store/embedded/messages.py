"""What the server and its programs said, in one line of an error or a warning.

Kept apart because an operator reads one line and the rest belongs in `server.log`. It never decides whether something
is an error, and never raises.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from deer_reid_pipeline.errors import DatabaseError


def one_line(value: object) -> str:
    """Any text as one line of ASCII, 300 characters at most."""
    text = " ".join(str(value).split())
    return text.encode("ascii", "replace").decode("ascii")[:300]


def keep_output(log_file: Path, output: str) -> Path:
    """Append what a program printed to the log, if the disk lets it; returns the log."""
    with contextlib.suppress(OSError), log_file.open("a", encoding="utf-8") as file:
        file.write(output)
    return log_file


def server_failure(log_file: Path, what: str, log_start: int) -> DatabaseError:
    """The error to raise: what happened and the telling line of the log from byte `log_start` on."""
    reason = ""
    with contextlib.suppress(OSError), log_file.open("rb") as file:
        file.seek(log_start)
        lines = file.read()[-65536:].decode("utf-8", "replace").splitlines()
        telling = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "could not"))]
        reason = f" ({one_line((telling or lines)[-1])})" if lines else ""
    return DatabaseError(f"the embedded PostgreSQL {what}{reason}; see {log_file}")
