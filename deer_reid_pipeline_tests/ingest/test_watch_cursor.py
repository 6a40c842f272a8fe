"""The cursor survives whatever is written into it, and stays small."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deer_reid_pipeline.ingest.watch import Pending
from deer_reid_pipeline.ingest.watch_cursor import MOST_PENDING, WatchCursor, bounded, read_cursor


def test_a_cursor_comes_back_as_it_was() -> None:
    cursor = WatchCursor({"creek": Pending("abc", 12.5, 2), "Bach \u00fc\udcff": Pending("d", 0.0)}, "creek", "ridge")
    text = cursor.to_text()
    assert text.isascii()
    assert read_cursor(text) == (cursor, None)


def test_a_cursor_from_before_there_was_a_place_to_ask_from_is_read() -> None:
    assert read_cursor('{"version": 1, "pending": {}, "following": "a"}') == (WatchCursor({}, "a", ""), None)


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_without_a_cursor_the_sensor_starts_silently(text: str | None) -> None:
    assert read_cursor(text) == (WatchCursor(), None)


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "17",
        "null",
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 1, "pending": [], "following": ""}',
        '{"version": 1, "pending": {"a": ["s", "yesterday", 1]}, "following": ""}',
        '{"version": 1, "pending": {"a": ["s", NaN, 1]}, "following": ""}',
        '{"version": 1, "pending": {"a": ["s", 1e999, 1]}, "following": ""}',
        '{"version": 1, "pending": {"a": ["s", true, 1]}, "following": ""}',
        '{"version": 1, "pending": {"a": ["s", 1, -1]}, "following": ""}',
        '{"version": 1, "pending": {"a": ["s", 1]}, "following": ""}',
        '{"version": 1, "pending": {"a": [null, 1, 1]}, "following": ""}',
        '{"version": 1, "pending": {}, "following": 7}',
        "[" * 100_000,
    ],
)
def test_a_damaged_cursor_is_said_and_forgotten(text: str) -> None:
    cursor, complaint = read_cursor(text)
    assert cursor == WatchCursor()
    assert complaint == (
        "The cursor cannot be read: the sensor starts afresh, waits for every folder anew, and processes nothing twice."
    )


def test_the_cursor_of_another_version_is_named() -> None:
    _, complaint = read_cursor('{"version": 99, "pending": {}, "following": ""}')
    assert complaint is not None
    assert "is of version '99', this program writes 1" in complaint


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
        max_leaves=10,
    )
)
def test_no_json_value_raises(value: object) -> None:
    for text in (json.dumps(value), json.dumps({"version": 1, "pending": value, "following": ""})):
        cursor, _ = read_cursor(text)
        assert read_cursor(cursor.to_text()) == (cursor, None)


def test_the_cursor_is_bounded_and_gives_everybody_a_chance() -> None:
    many = {f"folder-{n:05}": Pending("s" * 20, 1000.0) for n in range(10_000)}
    still = {f"still-{n}": Pending("s" * 20, 1000.0 + n, 2) for n in range(50)}
    kept = bounded({**many, **still}, 1.0)
    assert len(kept) == MOST_PENDING
    assert set(still) <= set(kept), "what stood still is not lost to what keeps changing"
    assert len(WatchCursor(kept).to_text()) < 32_000
    assert set(bounded(many, 1.0)) != set(bounded(many, 2.0))
