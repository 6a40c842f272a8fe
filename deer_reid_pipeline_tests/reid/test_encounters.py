"""Events by camera and gap, and one animal per encounter."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from deer_reid_pipeline.reid.encounters import Sighting, group_events, iou, split_event

START = datetime(2026, 11, 1, 6, 0)


def sighting(
    key: str,
    *,
    minute: float | None = None,
    image: str | None = None,
    camera: str = "cam",
    event: str | None = None,
    sex: str = "unknown",
    individual: str | None = None,
    box: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2),
    order: int | None = None,
) -> Sighting:
    when = None if minute is None else START + timedelta(minutes=minute)
    position = order if order is not None else int(key.strip("abcdefghij") or 0)
    return Sighting(key, image or key, position, camera, event, when, sex, individual, box)


def keys(events: list) -> list[list[str]]:
    return [[item.key for item in members] for _, members in events]


def test_a_gap_of_ten_minutes_still_is_one_event_and_more_is_not() -> None:
    items = [sighting("0", minute=0), sighting("1", minute=10), sighting("2", minute=20.5)]
    assert keys(group_events(items)) == [["0", "1"], ["2"]]


def test_gaps_chain_along_a_burst() -> None:
    items = [sighting(str(n), minute=9 * n) for n in range(5)]
    assert keys(group_events(items)) == [["0", "1", "2", "3", "4"]]


def test_cameras_do_not_share_events() -> None:
    items = [sighting("0", minute=0), sighting("1", minute=1, camera="other")]
    assert keys(group_events(items)) == [["0"], ["1"]]


def test_a_given_event_decides_whatever_the_times() -> None:
    items = [
        sighting("0", minute=0, event="e"),
        sighting("1", minute=600, event="e"),
        sighting("2", minute=1),
    ]
    assert keys(group_events(items)) == [["0", "1"], ["2"]]


def test_without_time_and_event_every_picture_stands_alone() -> None:
    items = [sighting("0"), sighting("1"), sighting("2", image="1", order=1)]
    assert keys(group_events(items)) == [["0"], ["1", "2"]]


def test_events_do_not_depend_on_the_order_of_the_input() -> None:
    items = [sighting(str(n), minute=7 * (n % 3) + 40 * (n // 3)) for n in range(9)]
    forward = group_events(items)
    assert keys(group_events(items[::-1])) == keys(forward)


def never(_: object) -> np.ndarray:
    raise AssertionError("similarity is not needed here")


def test_one_box_a_picture_is_one_animal() -> None:
    groups = split_event("e", [sighting("0"), sighting("1")], never)
    assert [[item.key for item in group.sightings] for group in groups] == [["0", "1"]]


def test_two_boxes_in_one_picture_are_two_animals_followed_by_appearance() -> None:
    items = [
        sighting("a0", image="p0"),
        sighting("b0", image="p0"),
        sighting("b1", image="p1"),
        sighting("a1", image="p1"),
    ]
    looks = {"a": 0, "b": 1}
    table = np.array([[1.0, 0.1], [0.1, 1.0]], np.float32)

    def similarity(members: list[Sighting]) -> np.ndarray:
        index = [looks[item.key[0]] for item in members]
        return table[np.ix_(index, index)]

    groups = split_event("e", items, similarity)
    assert sorted(sorted(item.key for item in group.sightings) for group in groups) == [
        ["a0", "a1"],
        ["b0", "b1"],
    ]
    for group in groups:
        images = [item.image for item in group.sightings]
        assert len(images) == len(set(images))


def test_a_third_box_opens_a_third_animal() -> None:
    items = [sighting("a0", image="p0"), *(sighting(f"{n}1", image="p1") for n in "abc")]
    groups = split_event("e", items, lambda members: np.eye(len(members), dtype=np.float32))
    assert sorted(len(group.sightings) for group in groups) == [1, 1, 2]


def test_male_and_female_are_not_one_animal() -> None:
    items = [sighting("0", sex="male"), sighting("1", sex="female"), sighting("2", sex="male")]
    groups = split_event("e", items, lambda members: np.ones((len(members), len(members)), np.float32))
    assert sorted([item.key for item in group.sightings] for group in groups) == [["0", "2"], ["1"]]
    assert {group.sex for group in groups} == {"male", "female"}


def test_names_given_by_a_person_go_together() -> None:
    items = [
        sighting("0", individual="X"),
        sighting("1", individual="Y"),
        sighting("2", individual="X"),
        sighting("3"),
    ]
    groups = split_event("e", items, never)
    assert [(group.individual, len(group.sightings)) for group in groups] == [("X", 2), ("Y", 1), (None, 1)]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
        ((0, 0, 1, 1), (1, 0, 1, 1), 0.0),
        ((0, 0, 2, 1), (1, 0, 2, 1), 1 / 3),
    ],
)
def test_iou_of_hand_worked_boxes(a: tuple, b: tuple, expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected)
