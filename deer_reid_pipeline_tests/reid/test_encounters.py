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
    viewpoint: str | None = None,
) -> Sighting:
    when = None if minute is None else START + timedelta(minutes=minute)
    position = order if order is not None else int(key.strip("abcdefghij") or 0)
    return Sighting(key, image or key, position, camera, event, when, sex, individual, box, viewpoint)


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


def test_a_given_event_is_on_one_camera_where_the_camera_is_given() -> None:
    items = [
        sighting("0", event="1", camera="CAM1"),
        sighting("1", event="1", camera="CAM2"),
        sighting("2", event="1", camera="CAM1"),
        sighting("3", event="1", camera="folder:a"),
        sighting("4", event="1", camera="folder:b"),
    ]
    assert keys(group_events(items)) == [["0", "2"], ["1"], ["3", "4"]]


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


def split(items: list[Sighting], similarity: float | dict[str, np.ndarray], **kwargs: float) -> list[list[str]]:
    """Keys by encounter; any two sightings have this similarity, or the cosine of their directions."""

    def table(members: list[Sighting]) -> np.ndarray:
        if isinstance(similarity, dict):
            rows = np.stack([similarity[item.key] for item in members])
            return (rows @ rows.T).astype(np.float32)
        return np.where(np.eye(len(members), dtype=bool), 1.0, similarity).astype(np.float32)

    return [[item.key for item in group.sightings] for group in split_event("e", items, table, **kwargs)]


def apart(count: int, minutes: float, **kwargs: object) -> list[Sighting]:
    """One box a picture, never at the same place."""
    return [
        sighting(str(n), minute=minutes * n, box=(0.3 * (n % 3), 0, 0.2, 0.2), **kwargs)  # type: ignore[arg-type]
        for n in range(count)
    ]


def test_a_chain_of_visits_to_a_feeder_is_as_many_animals_as_it_looks_like() -> None:
    items = apart(40, 9)
    assert split(items, -1.0) == [[str(n)] for n in range(40)]
    assert split(items, 0.5) == [[str(n) for n in range(40)]]
    looks = {str(n): np.eye(2)[n % 2] for n in range(40)}
    assert split(items, looks) == [[str(n) for n in range(first, 40, 2)] for first in (0, 1)]


def test_the_floor_of_a_link_is_the_callers() -> None:
    assert split(apart(2, 9), 0.5, link_above=0.6) == [["0"], ["1"]]
    assert split(apart(2, 9), 0.1, link_above=0.0) == [["0", "1"]]


def test_within_a_minute_a_lone_animal_is_the_same_whatever_it_looks_like() -> None:
    assert [len(g.sightings) for g in split_event("e", apart(5, 1), never)] == [5]
    assert split(apart(2, 61 / 60), -1.0) == [["0"], ["1"]]


def test_a_stranger_is_not_linked_because_the_assignment_has_nobody_else() -> None:
    items = [
        *(sighting(f"{n}0", image="p0", minute=0, box=(0.3 * i, 0, 0.2, 0.2)) for i, n in enumerate("ab")),
        *(sighting(f"{n}1", image="p1", minute=0.1, box=(0.3 * i, 0, 0.2, 0.2)) for i, n in enumerate("ac")),
    ]
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    looks = {"a0": a, "a1": a, "b0": b, "c1": np.array([-0.43, -0.9])}
    assert sorted(map(sorted, split(items, looks))) == [["a0", "a1"], ["b0"], ["c1"]]


def test_a_picture_with_a_named_animal_shows_more_than_the_other_one() -> None:
    items = [
        sighting("0", image="p", minute=0),
        sighting("1", image="p", minute=0, individual="X"),
        sighting("2", minute=0.5),
    ]
    assert split(items, -1.0) == [["0"], ["1"], ["2"]]


def test_both_flanks_without_times_in_a_given_event_are_one_animal() -> None:
    items = [sighting(str(n), event="e", viewpoint=view) for n, view in enumerate(("left", "right", "left", "right"))]
    assert [len(group.sightings) for group in split_event("event:e", items, never)] == [4]


def test_opposite_flanks_are_no_evidence_against_one_animal() -> None:
    left, right = apart(1, 9, viewpoint="left"), apart(2, 9, viewpoint="right")[1:]
    assert split([*left, *right], -1.0) == [["0", "1"]]
    third = sighting("2", minute=18, viewpoint="left", box=(0.6, 0, 0.2, 0.2))
    assert split([*left, *right, third], -1.0) == [["0", "1"], ["2"]]
    given = [
        sighting("0", minute=0, event="e", viewpoint="left"),
        sighting("1", minute=45, event="e", viewpoint="right"),
    ]
    assert split(given, -1.0) == [["0", "1"]]


def test_encounters_are_followed_in_time_though_the_drop_is_not_in_time_order() -> None:
    times = {"0": 0.0, "1": 3.0, "2": 0.5, "3": 2.5, "4": 1.5}
    items = [sighting(key, minute=minute) for key, minute in times.items()]
    assert split([sighting(str(n), minute=m) for n, m in enumerate((0, 2, 1))], -1.0) == [["0", "1", "2"]]
    assert split(items, 1.0) == [["0", "1", "2", "3", "4"]]


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
