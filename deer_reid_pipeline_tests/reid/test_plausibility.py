"""Each rule on cases with a known answer, and that ordinary days stay without a flag."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from deer_reid_pipeline.reid.contradictions import Together
from deer_reid_pipeline.reid.plausibility import (
    LIFE_STAGE,
    ONE_PICTURE,
    SEX,
    SHARE,
    SIZE,
    TRAVEL,
    Judged,
    day_dispersion,
    judge,
    share_probability,
)
from deer_reid_pipeline.reid.sightings import (
    SIZE_RATIO,
    BodySize,
    IdentifiedEncounter,
    compatible_times,
    distance_km,
    gap_between,
    reachable_km,
    similar_size,
    size_ratio,
)

NOON = datetime(2026, 10, 3, 12, tzinfo=UTC)
NEAR, FAR = (50.0, 8.0), (50.36, 8.0)  # 0.36 degrees of latitude are 40.03 km


def seen(encounter: str, minutes: float = 0, individual: str = "N1", **more: object) -> IdentifiedEncounter:
    moment = NOON + timedelta(minutes=minutes)
    facts: dict[str, object] = {"suspect": True, "camera": "c1", "position": NEAR, "start": moment, "end": moment}
    facts |= {"boxes": ((f"picture of {encounter}", f"box of {encounter}"),), "score": 0.9}
    return IdentifiedEncounter(encounter, individual, individual, **{**facts, **more})  # type: ignore[arg-type]


def flagged(*sightings: IdentifiedEncounter) -> list[tuple[str, object, object]]:
    judged = judge(sightings, {}, len({s.individual for s in sightings}))
    return [(flag.rule, flag.encounter, flag.other) for flag in judged.flags]


def test_distances_are_those_of_the_globe() -> None:
    quarter = np.pi * 6371.0088 / 2
    assert distance_km((0.0, 0.0), (0.0, 90.0)) == pytest.approx(quarter)
    assert distance_km((90.0, 0.0), (0.0, 123.0)) == pytest.approx(quarter)
    assert distance_km((0.0, 179.5), (0.0, -179.5)) == pytest.approx(quarter / 90)
    assert distance_km(NEAR, FAR) == pytest.approx(40.03, abs=0.01)
    # Paris and London, from an ellipsoid: 343.9 km
    assert distance_km((48.8566, 2.3522), (51.5074, -0.1278)) == pytest.approx(343.9, rel=0.005)


@pytest.mark.parametrize(
    ("minutes", "kilometres"),
    [
        (0, 0.2 + 60 / 30),  # two minutes of doubt about the clocks at 60 km/h
        (10, 0.2 + 5 + 6 * 12 / 60),
        (24 * 60, 0.2 + 5 + 6 * (24 + 1 / 30)),
    ],
)
def test_the_reach_is_a_sprint_and_then_a_walk(minutes: float, kilometres: float) -> None:
    assert reachable_km(timedelta(minutes=minutes)) == pytest.approx(kilometres)


def test_forty_kilometres_in_ten_minutes_are_impossible_and_in_a_day_they_are_not() -> None:
    here, there = seen("a", suspect=False), seen("b", 10, camera="c2", position=FAR)
    assert flagged(here, there) == [(TRAVEL, "b", "a")]
    assert "40 km apart within 10 minutes" in judge([here, there], {}, 1).flags[0].text
    assert flagged(here, replace(there, start=NOON + timedelta(days=1), end=NOON + timedelta(days=1))) == []
    assert flagged(here, replace(there, camera="c1")) == []


def test_pairs_without_a_place_or_a_usable_time_are_counted_and_not_judged() -> None:
    unset = datetime(2000, 1, 1, 0, 5, tzinfo=UTC)
    for other in (
        seen("b", 10, camera="c2", position=None),
        seen("b", camera="c2", position=FAR, start=None, end=None),
        seen("b", camera="c2", position=FAR, start=unset, end=unset),
    ):
        judged = judge([seen("a"), other], {}, 1)
        assert judged.flags == []
        assert judged.not_judged[TRAVEL] == 1
        assert judged.compared[TRAVEL] == 0
    assert judge([seen("a"), seen("b", 10, camera="c2", position=FAR)], {}, 1).compared[TRAVEL] == 1


def test_one_wrong_match_among_many_right_ones_is_one_flag() -> None:
    members = [seen(f"a{i}", i) for i in range(10)] + [seen("wrong", 4.5, camera="c2", position=FAR)]
    random.Random(3).shuffle(members)
    judged = judge(members, {}, 1)
    assert [(flag.rule, flag.encounter) for flag in judged.flags] == [(TRAVEL, "wrong")]
    assert "contradicts 10 sightings" in judged.flags[0].text


def test_what_a_person_said_is_never_the_suspect() -> None:
    people = [seen(f"p{i}", i, suspect=False, score=float("nan")) for i in range(2)]
    far = seen("p2", 2, suspect=False, camera="c2", position=FAR)
    assert flagged(*people, far) == []
    # The one machine match agrees with two of them; it contradicts the third and is the only one to be asked about.
    assert flagged(*people, far, seen("m", 3)) == [(TRAVEL, "m", "p2")]


def test_of_two_equally_doubtful_ones_the_lower_score_is_named() -> None:
    assert flagged(seen("a", score=0.7), seen("b", 5, camera="c2", position=FAR)) == [(TRAVEL, "a", "b")]
    assert flagged(seen("a", score=0.95), seen("b", 5, camera="c2", position=FAR)) == [(TRAVEL, "b", "a")]


def test_a_wrong_clock_is_named_where_several_individuals_cannot_have_travelled() -> None:
    pairs = [
        sighting
        for i in range(3)
        for sighting in (
            seen(f"a{i}", individual=f"N{i}", suspect=False),
            seen(f"b{i}", 5, f"N{i}", camera="c2", position=FAR),
        )
    ]
    assert all("clock" in flag.text for flag in judge(pairs, {}, 3).flags)
    assert len(judge(pairs, {}, 3).flags) == 3
    assert not any("clock" in flag.text for flag in judge(pairs[:4], {}, 2).flags)


@pytest.mark.parametrize(
    ("own", "individual", "expected"),
    [
        ("male", "female", [(SEX, "b", None)]),
        ("female", "male", [(SEX, "b", None)]),
        ("male", "male", []),
        ("unknown", "female", []),
    ],
)
def test_sex_against_the_individuals_record(own: str, individual: str, expected: list[object]) -> None:
    earlier = seen("a", suspect=False, sex=individual, individual_sex=individual)
    assert flagged(earlier, seen("b", 5, sex=own, individual_sex=individual)) == expected


def test_sexes_of_an_individual_of_unknown_sex_contradict_each_other() -> None:
    assert flagged(seen("a", sex="male", suspect=False), seen("b", 5, sex="female")) == [(SEX, "b", "a")]
    assert flagged(seen("a", sex="male", suspect=False), seen("b", 5)) == []


@pytest.mark.parametrize(
    ("first", "second", "days", "conflict"),
    [
        ("adult", "juvenile", 1, True),
        ("adult", "juvenile", 400, True),  # nobody grows younger
        ("juvenile", "adult", 30, True),
        ("juvenile", "adult", 179, True),
        ("juvenile", "adult", 181, False),
        ("juvenile", "subadult", 30, False),
        ("adult", None, 1, False),
    ],
)
def test_a_fawn_needs_time_to_grow_up(first: str, second: str | None, days: int, conflict: bool) -> None:
    old = seen("a", suspect=False, life_stage=first)
    new = seen("b", days * 1440, life_stage=second)
    assert flagged(old, new) == ([(LIFE_STAGE, "b", "a")] if conflict else [])


def test_a_fawn_without_a_time_is_not_judged() -> None:
    judged = judge([seen("a", life_stage="adult"), seen("b", life_stage="juvenile", start=None, end=None)], {}, 1)
    assert (judged.flags, judged.not_judged[LIFE_STAGE]) == ([], 1)


def test_two_boxes_of_one_picture_are_two_animals() -> None:
    one, other = seen("a", boxes=(("p", "x"),)), seen("b", boxes=(("p", "y"),), score=0.8)
    assert flagged(one, other) == [(ONE_PICTURE, "b", "a")]
    assert flagged(one, replace(other, boxes=(("p", "x"),))) == []  # one box that was decided twice
    assert flagged(one, replace(other, individual="N2")) == []
    assert flagged(seen("a", boxes=(("p", "x"), ("p", "y")))) == [(ONE_PICTURE, "a", None)]


def test_body_size_is_compared_at_one_distance_only() -> None:
    def animal(name: str, height: float, foot: float, whole: bool = True, **more: object) -> IdentifiedEncounter:
        return seen(name, size=BodySize(height, foot, whole), **more)  # type: ignore[arg-type]

    tall = animal("a", 0.6, 0.8, suspect=False)
    assert flagged(tall, animal("b", 0.25, 0.82)) == [(SIZE, "b", "a")]
    assert size_ratio(tall, animal("b", 0.25, 0.82)) == pytest.approx(2.4)
    assert similar_size(tall, animal("b", 0.4, 0.8)) is True
    for far_away in (
        animal("b", 0.25, 0.6),  # further from the camera
        animal("b", 0.25, 0.8, whole=False),
        animal("b", 0.25, 0.8, camera="c2"),
        animal("b", 0.25, 0.8, minutes=61 * 1440),
        animal("b", 0.4, 0.8),
    ):
        assert flagged(tall, far_away) == []


def test_rows_of_columns_say_the_same_as_two_sightings_compared_by_themselves() -> None:
    rng = random.Random(11)
    members = []
    for i in range(60):
        start = None if rng.random() < 0.1 else NOON + timedelta(minutes=rng.uniform(0, 600))
        members.append(
            seen(
                f"e{i}",
                camera=rng.choice(["c1", "c2", "c3", None]),
                position=None if rng.random() < 0.2 else (50 + rng.uniform(0, 0.3), 8 + rng.uniform(0, 0.3)),
                start=start,
                end=None if start is None else start + timedelta(minutes=rng.uniform(0, 9)),
                size=None if rng.random() < 0.2 else BodySize(rng.uniform(0.1, 0.8), rng.uniform(0.7, 0.9), True),
            )
        )
    together = Together(members)
    contradictions = 0
    for i, one in enumerate(members):
        travel, sizes = together.travel(i), together.sizes(i)
        for j, other in enumerate(members):
            if i == j:
                continue
            same_camera = one.camera is not None and one.camera == other.camera
            possible = True if same_camera else compatible_times(one, other)
            contradictions += possible is False
            assert (None if np.isnan(travel[j]) else bool(travel[j] == 0)) is possible
            ratio = size_ratio(one, other)
            differs = None if np.isnan(sizes[j]) else bool(sizes[j] > 0)
            assert differs is (None if ratio is None else ratio >= SIZE_RATIO)
            gap = gap_between(one, other)
            assert gap is None or gap >= timedelta(0)
    assert 50 < contradictions < 3000


def test_the_share_is_a_beta_binomial_tail() -> None:
    # 4 of 40 earlier sightings, 10 individuals: expected (4 + 4) / (40 + 40); clumping (1.58 - 1) / 29 = 0.02
    expected, precision = 0.1, 1 / (0.02 + 1 / 80)
    rng = np.random.default_rng(0)
    shares = rng.beta(expected * precision, (1 - expected) * precision, size=400_000)
    simulated = np.mean(rng.binomial(30, shares) >= 9)
    assert share_probability(9, 30, 4, 40, 10, 1.58) == pytest.approx(simulated, rel=0.05)
    assert share_probability(0, 30, 4, 40, 10, 1.0) == 1.0
    assert share_probability(30, 30, 40, 40, 1, 1.0) == 1.0  # the only individual there is
    far = share_probability(300_000, 1_000_000, 1_000_000, 10_000_000, 1000, 1.0)
    assert far < 1e-6  # a third instead of a tenth, with a long history and no clumps


def test_the_dispersion_is_pearsons() -> None:
    shares = np.ones(20)
    assert day_dispersion(np.zeros(20), shares) == 1.5
    # 4, 0, 4, 0, ... around 2 of each, one of them left out: about 19 * 2 / 18
    alternating = np.array([4.0, 0.0] * 10)
    left = np.delete(alternating, 0)
    mean = left.mean()
    expected = (((left - mean) ** 2 / mean).sum() + 5 * 1.5) / (18 + 5)
    assert day_dispersion(alternating, shares) == pytest.approx(expected)
    assert day_dispersion(np.full(20, 3.0), shares) == 1.0
    assert day_dispersion(np.array([3.0] * 19 + [60.0]), shares) == 1.0


def test_an_individual_that_takes_a_third_is_flagged_unless_it_always_did() -> None:
    day = [seen(f"o{i}", i * 200, f"N{i % 12 + 2}") for i in range(36)]
    greedy = [seen(f"g{i}", i * 200, "N1", score=0.5 + i / 100) for i in range(18)]
    ordinary = {f"N{i}": 10 for i in range(1, 14)}
    judged = judge([*day, *greedy], ordinary, 13)
    assert [(flag.rule, flag.individual, flag.encounter) for flag in judged.flags] == [(SHARE, "N1", "g0")]
    assert set(judged.flags[0].encounters) == {f"g{i}" for i in range(18)}
    assert "18 of the day's 54 matches" in judged.flags[0].text
    assert judge([*day, *greedy], {**ordinary, "N1": 60}, 13).flags == []
    assert [flag.rule for flag in judge([*day, *greedy], {}, 13).flags] == [SHARE]  # the first day of all


def test_a_second_greedy_individual_does_not_hide_the_first() -> None:
    day = [seen(f"o{i}", i * 200, f"N{i % 18 + 2}") for i in range(20)]
    greedy = [seen(f"g{i}", i * 200, f"N{i % 2}") for i in range(40)]
    flags = judge([*day, *greedy], {f"N{i}": 5 for i in range(20)}, 20).flags
    assert {flag.individual for flag in flags} == {"N0", "N1"}


def test_few_matches_are_never_too_many() -> None:
    day = [seen(f"o{i}", i * 200, "N1") for i in range(7)]
    assert judge(day, {f"N{i}": 100 for i in range(2, 30)}, 30).flags == []
    assert len(judge([*day, seen("o7", 1400, "N1")], {f"N{i}": 100 for i in range(2, 30)}, 30).flags) == 1


def test_ordinary_days_are_flagged_as_rarely_as_stated() -> None:
    """Animals of unlike habits whose encounters are independent: at most one day in fifty is flagged."""
    rng = np.random.default_rng(5)
    flags = days = 0
    for _ in range(10):
        habits = rng.dirichlet(np.full(25, 1.5))
        counts = rng.multinomial(150, habits)
        for _ in range(30):
            today = rng.multinomial(rng.poisson(40) + 1, habits)
            sightings = [
                seen(f"{animal}-{i}", i * 200, f"N{animal}") for animal, n in enumerate(today) for i in range(n)
            ]
            earlier = {f"N{animal}": int(count) for animal, count in enumerate(counts) if count}
            flags += bool(judge(sightings, earlier, 25).flags)
            days += 1
            counts += today
    assert flags / days <= 0.02


def test_the_order_of_the_sightings_does_not_matter() -> None:
    rng = random.Random(1)
    members = [
        seen(
            f"e{i}",
            rng.uniform(0, 300),
            f"N{i % 3}",
            camera=f"c{i % 2}",
            position=(NEAR, FAR)[i % 2],
            sex=rng.choice(["male", "female"]),
            life_stage=rng.choice(["adult", "juvenile", None]),
            suspect=i % 4 > 0,
            score=rng.random(),
        )
        for i in range(40)
    ]

    def found(judged: Judged) -> set[object]:
        return {(flag.rule, flag.encounter, flag.other, flag.text) for flag in judged.flags}

    first = judge(members, {}, 3)
    assert len(first.flags) > 10
    for _ in range(5):
        rng.shuffle(members)
        again = judge(members, {}, 3)
        assert found(again) == found(first)
        assert again.compared == first.compared


def test_a_matcher_that_merges_thousands_is_judged_in_seconds() -> None:
    members = [seen(f"e{i}", i, camera=f"c{i % 5}", position=(50 + (i % 5) * 0.2, 8.0)) for i in range(3000)]
    started = time.perf_counter()
    judged = judge(members, {}, 1)
    assert time.perf_counter() - started < 30
    assert sum(flag.rule == TRAVEL for flag in judged.flags) > 2000
