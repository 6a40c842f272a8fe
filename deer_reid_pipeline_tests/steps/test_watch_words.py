"""The sentences of a tick."""

from __future__ import annotations

import pytest

from deer_reid_pipeline.steps.watch_words import Notes, duration


def test_the_sentences_name_some_and_count_the_rest() -> None:
    notes = Notes()
    for n in range(7):
        notes.name("changing", f"camera-{n}", "3 pictures")
    notes.name("empty", "B\u00e4r\n<b>")
    notes.say("refused", "creek cannot be a drop: it mixes layouts; keep one")
    notes.settled = 1
    assert notes.text() == (
        "Still changing: camera-0 (3 pictures), camera-1 (3 pictures), camera-2 (3 pictures), camera-3 (3 pictures), "
        "camera-4 (3 pictures) and 2 more. Without pictures so far: B\\xe4r\\n<b>. "
        "creek cannot be a drop: it mixes layouts; keep one. Nothing new in 1 folder."
    )


def test_nothing_at_all_is_a_sentence_too() -> None:
    assert Notes().text() == "The watched folder holds no drop yet."


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "1 s"), (0.2, "1 s"), (90, "90 s"), (121, "3 min"), (480, "8 min"), (7300, "3 h")]
)
def test_durations_are_never_less_than_what_is_left(seconds: float, words: str) -> None:
    assert duration(seconds) == words
