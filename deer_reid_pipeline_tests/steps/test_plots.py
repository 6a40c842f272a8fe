"""What the plot of a drop's similarities says of its cuts."""

from __future__ import annotations

import pytest

from deer_reid_pipeline.steps.plots import cuts


@pytest.mark.parametrize(
    ("threshold", "new_below", "shown"),
    [
        (0.9, 0.2, [(0.9, "matched from"), (0.2, "new below")]),
        (0.5, 0.5, [(0.5, "matched from, else new")]),
        (0.9, None, [(0.9, "matched from")]),
        (None, None, []),
    ],
)
def test_no_two_labels_lie_on_each_other(
    threshold: float | None, new_below: float | None, shown: list[tuple[float, str]]
) -> None:
    assert cuts(threshold, new_below) == shown
