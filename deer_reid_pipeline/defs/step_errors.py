"""What made a step fail, out of what Dagster stored of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import dagster as dg


class StoredError(Protocol):
    """What is read of an error that Dagster stored: its type in Dagster's package has no public name."""

    @property
    def cls_name(self) -> str | None: ...

    @property
    def message(self) -> str: ...

    @property
    def stack(self) -> Sequence[str]: ...

    @property
    def cause(self) -> StoredError | None: ...


def cause_of(event: dg.DagsterEvent) -> StoredError | None:
    """The error of a failed step without Dagster's own around it; None where none was stored."""
    error: StoredError | None = event.step_failure_data.error
    while error is not None and str(error.cls_name).startswith("Dagster") and error.cause is not None:
        error = error.cause
    return error


def is_interruption(error: StoredError | None) -> bool:
    """Whether the step was stopped from outside, as by Ctrl-C."""
    return error is not None and "DagsterExecutionInterruptedError" in str(error.cls_name)
