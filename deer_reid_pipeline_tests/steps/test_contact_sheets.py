"""Which crops stand for a drop on its contact sheet."""

from __future__ import annotations

from deer_reid_pipeline.steps.contact_sheets import MOST, evenly


def test_the_crops_of_a_sheet_reach_over_the_whole_drop() -> None:
    for count in range(1, 200):
        chosen = evenly(range(count), MOST)
        assert len(chosen) == min(count, MOST)
        assert chosen[0] == 0
        steps = [later - earlier for earlier, later in zip(chosen, [*chosen[1:], count], strict=True)]
        assert max(steps) - min(steps) <= 1, count
    assert evenly([], MOST) == []
