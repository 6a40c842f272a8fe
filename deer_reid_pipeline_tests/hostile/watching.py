"""Tells what a piece of code opens, connects to or starts, by Python's own audit events."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRAM = tuple(
    os.path.realpath(place)
    for place in (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), Path(__file__).parents[2], "/proc", "/dev")
)
_REACHES_OUT = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "subprocess.Popen", "os.system", "os.exec")
_roots: list[str] = []
_seen: list[str] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _roots:
        return
    if event in _REACHES_OUT:
        _seen.append(f"{event} {arguments!r:.200}")
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not any(path == place or path.startswith(f"{place}{os.sep}") for place in (*_roots, *_PROGRAM)):
            _seen.append(f"open {path!r:.200}")


sys.addaudithook(_hook)


@contextmanager
def nothing_but(root: Path) -> Iterator[None]:
    """Fails where the body opens a file outside `root` (the program's own aside), connects or starts a program.

    Also where the body raises: a reader that refuses what it opened has opened it.
    """
    _seen.clear()
    _roots.append(os.path.realpath(root))
    try:
        yield
    finally:
        _roots.pop()
        if _seen:
            raise AssertionError("reached out of the drop: " + "; ".join(_seen))
