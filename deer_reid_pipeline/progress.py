"""How long work tells whoever is watching how far it is.

Steps report; the command line listens and draws a bar. Nobody has to listen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")

Listener = Callable[[str, int, int], None]
Hearer = Callable[[str], None]

_listeners: list[Listener] = []
_hearers: list[Hearer] = []


def listening(listener: Listener) -> AbstractContextManager[None]:
    """Call `listener(step, done, total)` for every report made inside the block."""
    return _added(listener, _listeners)


def hearing(hearer: Hearer) -> AbstractContextManager[None]:
    """Call `hearer(line)` for every remark made inside the block."""
    return _added(hearer, _hearers)


def remark(line: str) -> None:
    """Say more of long work than how far it is, as a sentence."""
    for hearer in list(_hearers):
        hearer(line)


def report(step: str, done: int, total: int) -> None:
    """Say that `done` of `total` items of a step are done."""
    for listener in list(_listeners):
        listener(step, done, total)


@contextmanager
def _added(one: T, those: list[T]) -> Iterator[None]:
    those.append(one)
    try:
        yield
    finally:
        those.remove(one)
