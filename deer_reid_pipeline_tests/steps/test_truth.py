"""Which detections count as truth, and how they are put into encounters, bursts and an order of time."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.similarity import BRANCHES, FloatArray, unit
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import Truth, data_digest, load_labelled, load_truth
from deer_reid_pipeline.store.recipes import register_recipe
from deer_reid_pipeline.store.reviews import PairReview, add_reviews
from deer_reid_pipeline_tests.labelled_rows import Shot, add_vectors, store_shots

RECIPE, OTHER_RECIPE = "made-up-1", "made-up-2"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
HUMAN, MACHINE = "human", "machine"


def minutes(number: float) -> datetime:
    return NOON + timedelta(minutes=number)


def named(name: str, **changes: object) -> Shot:
    """A detection that a person named and the log knows."""
    return Shot(given=name, decided=(name, HUMAN), **{"event": f"event:{name}", **changes})  # type: ignore[arg-type]


def some_vectors(count: int, seed: int = 0) -> dict[str, FloatArray]:
    rng = np.random.default_rng(seed)
    return {branch: unit(rng.normal(size=(count, 512)).astype(np.float32)) for branch in BRANCHES}


@pytest.fixture
def recipes(site: Site) -> Site:
    with site.database.session() as session:
        register_recipe(session, RECIPE, "made-up", {}, True)
        register_recipe(session, OTHER_RECIPE, "made-up", {}, True)
    return site


def stored(site: Site, shots: Sequence[Shot], **sealed: datetime) -> Truth:
    store_shots(site, shots, RECIPE, some_vectors(len(shots)), sealed)
    return load_truth(site, RECIPE)


def codes(labelled: Labelled, column: str, shots: Sequence[Shot]) -> list[int]:
    """A column of the labelled detections, in the order of the shots."""
    values = dict(zip(labelled.keys, getattr(labelled, column).tolist(), strict=True))
    return [values[shot.key] for shot in shots]


def stratum(labelled: Labelled, name: str, shots: Sequence[Shot]) -> list[str]:
    values = dict(zip(labelled.keys, labelled.strata[name], strict=True))
    return [values[shot.key] for shot in shots]


def test_only_what_a_person_said_is_truth(recipes: Site) -> None:
    by_name = named("N1")
    by_review_desk = Shot(decided=("N2", HUMAN), event="event:2")
    not_decided_yet = Shot(given="N3", event="event:3")
    others = [
        Shot(decided=("N1", MACHINE), event="event:4"),
        Shot(event="event:5"),
        named("N1", superseded=True, event="event:6"),
    ]
    labelled = stored(recipes, [by_name, by_review_desk, not_decided_yet, *others]).labelled
    assert {
        key: labelled.names[code] for key, code in zip(labelled.keys, labelled.individual.tolist(), strict=True)
    } == {
        by_name.key: "N1",
        by_review_desk.key: "N2",
        not_decided_yet.key: "N3",
    }


def test_a_name_given_in_a_drop_is_newer_than_the_machines_decision(recipes: Site) -> None:
    shot = Shot(given="N1", decided=("deer-0001", MACHINE))
    labelled = stored(recipes, [shot]).labelled
    assert labelled.names == ["N1"]


def test_vectors_stand_beside_their_own_detections(recipes: Site) -> None:
    shots = [named(f"N{n}", ordinal=9 - n) for n in range(5)]
    vectors = some_vectors(5)
    vectors["efficientnet"][3] = np.nan
    store_shots(recipes, shots, RECIPE, vectors)
    truth = load_truth(recipes, RECIPE)
    assert truth.without_vectors == 1
    assert [str(key) for key in truth.labelled.keys] == [str(shots[n].key) for n in (4, 2, 1, 0)]
    for branch in BRANCHES:
        np.testing.assert_array_equal(truth.labelled.vectors[branch].vectors, vectors[branch][[4, 2, 1, 0]])
        assert truth.labelled.vectors[branch].recipe_id == RECIPE


def test_encounters_are_in_the_order_of_time_and_without_times_in_that_of_the_drops(recipes: Site) -> None:
    shots = [
        named("N1", drop="late", ordinal=0),
        named("N2", drop="early", ordinal=5),
        named("N3", drop="early", ordinal=2),
        named("N4", drop="early", ordinal=1, at=minutes(0)),
        named("N5", drop="late", ordinal=7, at=minutes(-60)),
    ]
    truth = stored(recipes, shots, early=minutes(-30), late=minutes(30))
    # N5 happened at -60, the untimed of the early drop at -30 in the drop's order, N4 at 0, N1 at 30
    assert codes(truth.labelled, "encounter", shots) == [4, 2, 1, 3, 0]


def test_detections_of_one_individual_in_one_event_are_one_encounter(recipes: Site) -> None:
    """Also where the matcher decided every picture by itself, so that all recipes are judged on the same encounters."""
    shots = [named("N1", event="e", encounter=str(n), ordinal=n) for n in range(3)]
    shots += [named("N2", event="e", ordinal=3), named("N1", event="f", ordinal=4)]
    labelled = stored(recipes, shots).labelled
    assert codes(labelled, "encounter", shots) == [0, 0, 0, 1, 2]


def test_a_burst_is_one_individual_on_one_camera_within_ten_minutes(recipes: Site) -> None:
    shots = [
        named("N1", event="a", camera="c1", at=minutes(0), until=minutes(3), ordinal=0),
        named("N1", event="b", camera="c1", at=minutes(13), ordinal=1),  # 10 minutes after the end: still
        named("N1", event="c", camera="c1", at=minutes(23.5), ordinal=2),  # 10.5 minutes: no more
        named("N1", event="d", camera="c2", at=minutes(1), ordinal=3),  # another camera
        named("N2", event="e", camera="c1", at=minutes(2), ordinal=4),  # another individual
        named("N1", event="f", at=minutes(2), ordinal=5),  # nobody knows where
    ]
    labelled = stored(recipes, shots).labelled
    burst = codes(labelled, "burst", shots)
    assert burst[0] == burst[1]
    assert len(set(burst)) == 5
    assert len(set(codes(labelled, "encounter", shots))) == 6


def test_an_event_that_came_in_two_drops_is_one_burst(recipes: Site) -> None:
    """A later drop corrects the name of some pictures: they become another encounter of the same event."""
    shots = [
        named("N1", event="event:E1", given_event="E1", drop="first", ordinal=0),
        named("N1", event="event:E1", given_event="E1", drop="second", ordinal=0),
    ]
    other_event = named("N1", event="event:E2", given_event="E2", drop="first", ordinal=1)
    store_shots(recipes, [*shots, other_event], RECIPE, some_vectors(3))
    with recipes.database.session() as session:
        session.connection().exec_driver_sql("UPDATE images SET drop_key = 'first'")  # who brought a picture first
    labelled = load_labelled(recipes, RECIPE)
    burst = codes(labelled, "burst", [*shots, other_event])
    assert burst[0] == burst[1] != burst[2]
    assert len(set(codes(labelled, "encounter", shots))) == 2


def test_two_boxes_of_one_picture_with_one_name_are_one_burst(recipes: Site) -> None:
    shots = [named("N1", event="a", picture="p", ordinal=0), named("N1", event="b", picture="p", ordinal=1)]
    burst = codes(stored(recipes, shots).labelled, "burst", shots)
    assert burst[0] == burst[1]


def test_strata_say_what_is_known(recipes: Site) -> None:
    shots = [
        named(
            "N1", event=str(n), ordinal=n, camera="c1", at=minutes(60 * n), infrared=True, sex="male", viewpoint="left"
        )
        for n in range(5)
    ]
    shots += [named("N2", ordinal=5, camera="folder:images", infrared=False, sex="female")]
    # three encounters of N3, two of them in one burst: two that are apart
    shots += [named("N3", event=f"x{n}", ordinal=6 + n, camera="c2", at=minutes(n * n * 5)) for n in range(3)]
    labelled = stored(recipes, shots).labelled
    assert stratum(labelled, "light", shots) == ["infrared"] * 5 + ["day"] + [""] * 3
    assert stratum(labelled, "sex", shots) == ["male"] * 5 + ["female"] + [""] * 3
    assert stratum(labelled, "flank", shots) == ["left"] * 5 + [""] * 4
    assert stratum(labelled, "camera", shots) == ["c1"] * 5 + [""] + ["c2"] * 3
    assert stratum(labelled, "sightings", shots) == ["5+"] * 5 + ["1"] + ["2-4"] * 3


def test_the_digest_tells_identities_apart_and_nothing_else(recipes: Site) -> None:
    shots = [named("N1", event="a", ordinal=0), named("N2", event="b", ordinal=1)]
    before = data_digest(stored(recipes, shots).labelled)
    add_vectors(recipes, [shot.key for shot in shots], OTHER_RECIPE, some_vectors(2, seed=1))
    assert data_digest(load_labelled(recipes, OTHER_RECIPE)) == before
    with recipes.database.session() as session:
        session.connection().exec_driver_sql(
            "UPDATE detections SET given_individual = 'N3' WHERE given_individual = 'N2'"
        )
    assert data_digest(load_labelled(recipes, RECIPE)) != before


def unnamed(event: str, **changes: object) -> Shot:
    """A detection of an encounter that the machine decided."""
    return Shot(decided=(f"deer-{event}", MACHINE), event=event, **changes)  # type: ignore[arg-type]


def review(site: Site, *said: tuple[Shot, Shot, str]) -> None:
    rows = [
        PairReview(a.key, b.key, verdict, "somebody", minutes(order), "reviews.csv")
        for order, (a, b, verdict) in enumerate(said)
    ]
    with site.database.session() as session:
        assert add_reviews(session, rows) == len(rows)


def names_of(labelled: Labelled) -> dict[uuid.UUID, str]:
    return {key: labelled.names[code] for key, code in zip(labelled.keys, labelled.individual.tolist(), strict=True)}  # type: ignore[misc]


def test_a_comparison_by_a_person_gives_the_whole_encounter_the_individual(recipes: Site) -> None:
    known, stranger = named("N1"), named("N2")
    looked_at, beside, passed_on, apart = unnamed("a"), unnamed("a"), unnamed("b"), unnamed("c")
    shots = [known, stranger, looked_at, beside, passed_on, apart]
    store_shots(recipes, shots, RECIPE, some_vectors(6))
    review(
        recipes,
        (known, looked_at, "same"),
        (looked_at, passed_on, "same"),
        (stranger, looked_at, "different"),
        (apart, known, "unsure"),
    )
    truth = load_truth(recipes, RECIPE)
    assert names_of(truth.labelled) == {
        known.key: "N1",
        stranger.key: "N2",
        looked_at.key: "N1",
        beside.key: "N1",
        passed_on.key: "N1",
    }
    assert (len(truth.reviews.individuals), truth.reviews.contradicted, truth.reviews.disputed) == (2, 0, 0)


def test_the_latest_comparison_of_a_pair_counts(recipes: Site) -> None:
    known, looked_at = named("N1"), unnamed("a")
    store_shots(recipes, [known, looked_at], RECIPE, some_vectors(2))
    review(recipes, (known, looked_at, "same"), (looked_at, known, "different"))
    assert set(names_of(load_labelled(recipes, RECIPE))) == {known.key}


@pytest.mark.parametrize(
    "said",
    [
        [("one", "a", "same"), ("two", "a", "same")],
        [("one", "a", "same"), ("a", "b", "same"), ("two", "b", "same")],
        [("one", "a", "same"), ("one again", "a", "different")],
        [("one", "a", "same"), ("a", "b", "same"), ("b", "c", "same"), ("a", "c", "different")],
    ],
    ids=["two names", "two names by way of another encounter", "the same name denied", "different among the same"],
)
def test_comparisons_that_contradict_each_other_identify_nobody(
    recipes: Site, said: list[tuple[str, str, str]]
) -> None:
    shots = {"one": named("N1"), "one again": named("N1"), "two": named("N2")}
    shots |= {event: unnamed(event) for event in "abc"}
    store_shots(recipes, list(shots.values()), RECIPE, some_vectors(6))
    review(recipes, *((shots[a], shots[b], verdict) for a, b, verdict in said))
    truth = load_truth(recipes, RECIPE)
    touched = {name for a, b, _ in said for name in (a, b)} & set("abc")
    assert truth.reviews.contradicted == len(touched)
    assert len(truth.labelled) == 3


def test_comparisons_that_dispute_given_names_are_counted_and_change_nothing(recipes: Site) -> None:
    one, again, two = named("N1"), named("N1", event="later"), named("N2")
    store_shots(recipes, [one, again, two], RECIPE, some_vectors(3))
    review(recipes, (one, again, "different"), (one, two, "same"), (again, two, "different"))
    truth = load_truth(recipes, RECIPE)
    assert truth.reviews.disputed == 2
    assert sorted(names_of(truth.labelled).values()) == ["N1", "N1", "N2"]


def test_a_home_without_names_has_no_truth(recipes: Site) -> None:
    labelled = stored(recipes, [Shot(decided=("deer-0001", MACHINE))]).labelled
    assert (len(labelled), labelled.individuals, labelled.encounters) == (0, 0, 0)
