"""Which unfinished drops get another run, and which are left to a person."""

from __future__ import annotations

import pytest

from deer_reid_pipeline.steps.watch_runs import PAUSE_S, DropRun, Need, RunState, attempt_of, next_run, run_key

OK, BAD, ON, OFF = RunState.SUCCEEDED, RunState.FAILED, RunState.GOING, RunState.CANCELLED


@pytest.mark.parametrize(
    ("runs", "now", "need", "attempt"),
    [
        ([], 0.0, Need.RUN, 1),
        ([DropRun(ON, None, 1)], 9e9, Need.NOTHING, 0),
        ([DropRun(BAD, 100.0, 1)], 100 + PAUSE_S - 1, Need.PATIENCE, 2),
        ([DropRun(BAD, 100.0, 1)], 100 + PAUSE_S, Need.RUN, 2),
        ([DropRun(BAD, 100.0, 1)], 50.0, Need.RUN, 2),  # the clock was set back
        ([DropRun(BAD, 900.0, 2), DropRun(BAD, 100.0, 1)], 900 + PAUSE_S, Need.PATIENCE, 3),
        ([DropRun(BAD, 900.0, 2), DropRun(BAD, 100.0, 1)], 900 + 2 * PAUSE_S, Need.RUN, 3),
        ([DropRun(BAD, 9.0, 3), DropRun(BAD, 5.0, 2), DropRun(BAD, 1.0, 1)], 9e9, Need.PERSON, 0),
        ([DropRun(BAD, 9.0, 3), DropRun(OK, 5.0, 2), DropRun(BAD, 1.0, 1)], 9e9, Need.RUN, 4),
        # Dagster started a run twice again: its first attempt, and its second.
        ([DropRun(BAD, 9.0, 1), DropRun(BAD, 5.0, 1), DropRun(BAD, 1.0, 1)], 9 + PAUSE_S - 1, Need.PATIENCE, 2),
        ([DropRun(BAD, 9.0, 1), DropRun(BAD, 5.0, 1), DropRun(BAD, 1.0, 1)], 9 + PAUSE_S, Need.RUN, 2),
        ([DropRun(BAD, 9.0, 2), DropRun(BAD, 8.0, 2), DropRun(BAD, 1.0, 1)], 9 + 2 * PAUSE_S - 1, Need.PATIENCE, 3),
        ([DropRun(BAD, 9.0, 0), DropRun(BAD, 8.0, 0), DropRun(BAD, 1.0, 1)], 9e9, Need.PERSON, 0),
        ([DropRun(OFF, 9.0, 1)], 9e9, Need.CANCELLED, 0),
        ([DropRun(ON, None, 0), DropRun(OFF, 9.0, 1)], 9e9, Need.NOTHING, 0),
        ([DropRun(OK, 9.0, 1)], 9e9, Need.RUN, 2),  # a file that was missing is back
        ([DropRun(BAD, 9.0, 0)], 9e9, Need.RUN, 1),  # it failed on the command line
        ([DropRun(BAD, None, 1)], 9e9, Need.PATIENCE, 2),
    ],
)
def test_what_a_drop_needs(runs: list[DropRun], now: float, need: Need, attempt: int) -> None:
    found = next_run(runs, now, attempts=3)
    assert found.need is need
    assert found.attempt == (attempt if need in (Need.RUN, Need.PATIENCE) else 0)


def test_a_run_key_is_new_for_every_attempt_even_where_the_first_runs_were_pruned() -> None:
    keys = [run_key("creek: attempt-9", "d" * 64, n) for n in (1, 2, 3)]
    assert len(set(keys)) == 3
    assert [attempt_of(key) for key in keys] == [1, 2, 3]
    assert attempt_of(None) == 0
    only_the_second_is_left = [DropRun(BAD, 0.0, attempt_of(keys[1]))]
    assert next_run(only_the_second_is_left, 9e9, 3).attempt == 3
