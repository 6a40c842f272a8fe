"""Whether an unfinished drop needs another run: a function of its runs so far and the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

PAUSE_S = 300.0
"""Seconds after a failed run before the next one; twice that after the second, and so on."""


class RunState(StrEnum):
    """How a run stands."""

    GOING = "going"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class DropRun:
    """A run of a drop: how it stands, when it ended (s), and its number in its run key; 0 for another's run."""

    state: RunState
    ended: float | None = None
    attempt: int = 0


class Need(StrEnum):
    """What an unfinished drop needs."""

    RUN = "run"
    NOTHING = "nothing"
    PATIENCE = "patience"
    PERSON = "person"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Next:
    """What is to be done: the number of the next attempt, seconds until it, failed attempts in a row so far."""

    need: Need
    attempt: int = 0
    left_s: float = 0.0
    failures: int = 0


def next_run(runs: Sequence[DropRun], now: float, attempts: int) -> Next:
    """Say what an unfinished drop needs.

    Runs with the same number are one attempt: Dagster repeats a run under its run key when its process died. Each run
    of another is an attempt of its own.

    Args:
        runs: of this drop, newest first.
        now: on the clock of `DropRun.ended`; where it went back, nothing is waited for.
        attempts: failed ones in a row after which a person has to look.
    """
    if any(run.state is RunState.GOING for run in runs):
        return Next(Need.NOTHING)
    failed = list(takewhile(lambda run: run.state is RunState.FAILED, runs))
    others = sum(run.attempt == 0 for run in failed)
    failures = others + len({run.attempt for run in failed} - {0})
    attempt = 1 + max((run.attempt for run in runs), default=0)
    if runs and runs[0].state is RunState.CANCELLED:
        return Next(Need.CANCELLED)
    if failures >= attempts:
        return Next(Need.PERSON, failures=failures)
    if failures:
        since = now - (runs[0].ended if runs[0].ended is not None else now)
        if 0 <= since < PAUSE_S * failures:
            return Next(Need.PATIENCE, attempt, PAUSE_S * failures - since, failures)
    return Next(Need.RUN, attempt, failures=failures)


def run_key(name: str, digest: str, attempt: int) -> str:
    """Name and content digest; later attempts have their number."""
    return f"{name}:{digest}" if attempt == 1 else f"{name}:{digest}:attempt-{attempt}"


def attempt_of(key: str | None) -> int:
    """The number in a run key; 0 where there is no run key."""
    if not key:
        return 0
    _, found, number = key.rpartition(":attempt-")
    return int(number) if found and number.isdecimal() else 1
