"""Tables as the UI shows them: names come from outside, and no table grows without end."""

from __future__ import annotations

import uuid
from typing import Any

from deer_reid_pipeline.defs.profiles.tables import MOST_DECISIONS, decision_table
from deer_reid_pipeline.steps.summary import Seen


def seen(encounter: int, **changes: Any) -> Seen:
    row = {
        "log": encounter + 1,
        "encounter": encounter,
        "filePath": "images/a.jpg",
        "decision": "matched",
        "method": "machine",
        "individualID": "Big Buck",
        "candidates": "Big Buck 0.912; Doe 0.500; Third 0.400; Fourth 0.300",
        "threshold": 0.9,
        "probability": None,
        "release": 1,
        **changes,
    }
    return Seen(uuid.uuid4(), row["individualID"], row)


def test_an_encounter_is_a_row_with_its_numbers() -> None:
    table = decision_table(
        [seen(0), seen(0), seen(1, method="human"), seen(2, decision="uncertain", individualID=None)]
    )
    assert table.splitlines()[2:] == [
        "| 1 | images/a.jpg | 2 | matched | Big Buck | Big Buck 0.912; Doe 0.500; Third 0.400 | 0.900 | - | 1 |",
        "| 3 | images/a.jpg | 1 | uncertain | - | Big Buck 0.912; Doe 0.500; Third 0.400 | 0.900 | - | 1 |",
    ]


def test_what_people_named_has_no_numbers_to_show() -> None:
    assert decision_table([seen(0, method="human")]) == "No machine decision."


def test_a_large_drop_shows_the_first_ones_and_counts_the_rest() -> None:
    *_, last, more = decision_table([seen(index) for index in range(MOST_DECISIONS + 7)]).splitlines()
    assert last.startswith(f"| {MOST_DECISIONS} |")
    assert "and 7 more" in more
    assert more.count("|") == last.count("|")


def test_a_name_cannot_add_columns_or_markup() -> None:
    hostile = decision_table([seen(0, individualID="a | b <img src=x>", filePath="x|y.jpg", candidates="a | b 0.9")])
    (line,) = hostile.splitlines()[2:]
    assert line.count("|") == 10
    assert "<" not in line
