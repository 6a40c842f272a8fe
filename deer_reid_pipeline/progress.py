"""How long work tells whoever is watching how far it is.

Steps report; the command line listens and draws a bar. Nobody has to listen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int], None]

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener(step, done, total)` for every report made inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(step: str, done: int, total: int) -> None:
    """Say that `done` of `total` items of a step are done."""
    for listener in list(_listeners):
        listener(step, done, total)
