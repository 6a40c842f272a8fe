"""Whether a night has anything to do, of each kind of work, as the store changes under it."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import insert, update

from deer_reid_pipeline.steps import nightly
from deer_reid_pipeline.steps.monitoring import report_day
from deer_reid_pipeline.steps.profiles import update_profiles
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.truth import data_digest, load_truth
from deer_reid_pipeline.store.drops import NO_CROP
from deer_reid_pipeline.store.models import Detection, DropMedia, Quarantine
from deer_reid_pipeline.store.reports import TUNING, VALIDATION, add_report
from deer_reid_pipeline_tests.labelled_rows import Shot, add_vectors, store_shots
from deer_reid_pipeline_tests.sites import query
from deer_reid_pipeline_tests.steps.monitored import Herd
from deer_reid_pipeline_tests.steps.test_validation import herd, looks

NOW = datetime(2025, 4, 2, 3, tzinfo=UTC)
DAY = timedelta(days=1)
YESTERDAY = NOW - DAY


@pytest.fixture
def processed(site: Site) -> Site:
    """Six named animals with vectors and profiles."""
    shots = herd(individuals=6, encounters=2, seed=1)
    recipe = site.matcher().recipe
    store_shots(site, shots, recipe.id, looks(shots, signal=4.0))
    update_profiles(site, recipe)
    return site


def live_recipe(site: Site) -> str:
    return site.matcher().recipe.id


def keep_report(site: Site, kind: str, *, candidate: int | None = None) -> None:
    matcher = site.matcher()
    recipe = matcher.recipe.id
    with site.database.session() as session:
        add_report(
            session,
            kind,
            {},
            recipe_id=recipe,
            release_id=matcher.release_id,
            candidate_id=candidate,
            data_digest=data_digest(load_truth(site, recipe).labelled),
        )


def unnamed(site: Site, count: int, *, picture: str | None = None) -> list[Shot]:
    """Detections without an individual and without vectors."""
    shots = [Shot(event=f"new:{uuid.uuid4()}", drop="later", picture=picture) for _ in range(count)]
    store_shots(site, shots, live_recipe(site), {})
    return shots


def named_later() -> list[Shot]:
    """One more encounter with each animal, in another drop."""
    return [replace(shot, drop="named later") for shot in herd(individuals=6, encounters=1, seed=9)]


def test_a_new_home_has_nothing_to_do(site: Site) -> None:
    for decision in (
        nightly.reembedding(site, NOW, None),
        nightly.validation(site, NOW, None),
        nightly.tuning(site),
        nightly.monitoring(site, NOW, None),
        nightly.benchmark(site, NOW, None, None),
    ):
        assert (decision.needed, decision.reason) == (False, "nothing was processed yet: no release is live")
    assert query(site, "SELECT count(*) FROM releases") == [(0,)], "asking makes no release"


def test_a_home_without_pictures_is_not_embedded(site: Site) -> None:
    site.matcher()
    assert nightly.reembedding(site, NOW, None).reason == "there are no detections and no individuals yet"


def test_reembedding_is_needed_exactly_while_something_lacks_vectors(processed: Site) -> None:
    done = nightly.reembedding(processed, NOW, YESTERDAY)
    assert (done.needed, done.reason) == (False, f"every detection and profile has vectors of {live_recipe(processed)}")
    shots = unnamed(processed, 3)
    due = nightly.reembedding(processed, NOW, YESTERDAY)
    assert (due.needed, due.reason) == (True, f"3 detections lack vectors of {live_recipe(processed)}")
    add_vectors(processed, [shot.key for shot in shots], live_recipe(processed), looks(shots, signal=0.0))
    assert not nightly.reembedding(processed, NOW, YESTERDAY).needed


def test_a_profile_behind_its_detections_is_a_reason(processed: Site) -> None:
    other = query(processed, "SELECT id FROM deer ORDER BY name DESC LIMIT 1")[0][0]
    moved = query(processed, "SELECT id FROM detections WHERE deer_id <> :other LIMIT 1", other=other)[0][0]
    with processed.database.session() as session:
        session.execute(update(Detection).where(Detection.id == moved).values(deer_id=other))
    due = nightly.reembedding(processed, NOW, YESTERDAY)
    assert (due.needed, due.reason) == (True, "2 profiles are behind their detections")
    update_profiles(processed, processed.matcher().recipe)
    assert not nightly.reembedding(processed, NOW, YESTERDAY).needed


def test_another_live_recipe_needs_every_vector_anew(processed: Site) -> None:
    query(
        processed,
        "INSERT INTO recipes (id, name, spec, random_weights) "
        "SELECT 'other', name, spec, random_weights FROM recipes RETURNING 1",
    )
    query(processed, "UPDATE releases SET recipe_id = 'other' WHERE live RETURNING 1")
    due = nightly.reembedding(processed, NOW, YESTERDAY)
    assert due.needed
    assert due.reason.startswith("12 detections lack vectors of other")


def test_pictures_that_cannot_be_read_are_tried_once_a_week(processed: Site) -> None:
    (shot,) = unnamed(processed, 1)
    image = query(processed, "SELECT image_id FROM detections WHERE id = :key", key=shot.key)[0][0]
    with processed.database.session() as session:
        session.execute(
            insert(DropMedia).values(drop_key="later", file_path="gone.jpg", sha256="0" * 64, ordinal=1, image_id=image)
        )
        session.execute(insert(Quarantine).values(drop_key="later", file="gone.jpg", code=NO_CROP, reason="no file"))
    skipped = nightly.reembedding(processed, NOW, NOW - 6 * DAY)
    assert not skipped.needed
    assert skipped.reason.endswith("1 detections have no readable picture and are tried once a week")
    assert nightly.reembedding(processed, NOW, NOW - 7 * DAY).needed


def test_unchanged_results_are_looked_at_once_a_week(processed: Site) -> None:
    keep_report(processed, VALIDATION)
    for night in range(1, 7):
        last = NOW - night * DAY + timedelta(hours=5)  # a run that ended five hours after its tick
        assert not nightly.reembedding(processed, NOW, last).needed
        assert not nightly.validation(processed, NOW, last).needed
    last = NOW - 7 * DAY + timedelta(hours=5)
    due = nightly.reembedding(processed, NOW, last)
    assert (due.needed, due.reason) == (True, "nothing is missing, and the stored rows were not checked for a week")
    first = nightly.reembedding(processed, NOW, None)
    assert (first.needed, first.reason) == (True, "nothing is missing, and the stored rows were never checked")
    assert nightly.validation(processed, NOW, last).needed


def test_validation_and_tuning_follow_what_people_named(processed: Site) -> None:
    assert nightly.validation(processed, NOW, None).reason == "release 1 was not judged yet"
    assert nightly.tuning(processed).reason == "nothing was fitted to release 1 yet"
    keep_report(processed, VALIDATION)
    keep_report(processed, TUNING)
    assert not nightly.validation(processed, NOW, YESTERDAY).needed
    assert not nightly.tuning(processed).needed

    shots = named_later()
    store_shots(processed, shots, live_recipe(processed), {})
    assert not nightly.validation(processed, NOW, YESTERDAY).needed, "names without vectors cannot be judged yet"
    add_vectors(processed, [shot.key for shot in shots], live_recipe(processed), looks(shots, signal=4.0))
    assert nightly.validation(processed, NOW, YESTERDAY).reason == (
        "named animals or their vectors changed since validation report 1"
    )
    assert nightly.tuning(processed).reason == "named animals or their vectors changed since tuning report 2"


def test_a_new_release_is_judged_and_fitted_anew(processed: Site) -> None:
    keep_report(processed, VALIDATION)
    keep_report(processed, TUNING)
    query(processed, "UPDATE releases SET live = false RETURNING 1")
    query(
        processed,
        "INSERT INTO releases (recipe_id, policy, live, reason) SELECT recipe_id, policy, true, 'test' FROM releases "
        "RETURNING 1",
    )
    assert nightly.validation(processed, NOW, YESTERDAY).reason == "release 2 was not judged yet"
    assert nightly.tuning(processed).reason == "nothing was fitted to release 2 yet"


def test_a_report_about_a_candidate_says_nothing_of_what_is_live(processed: Site) -> None:
    keep_report(processed, VALIDATION, candidate=2)
    assert nightly.validation(processed, NOW, YESTERDAY).needed


@pytest.mark.parametrize(("individuals", "judged", "fitted"), [(1, False, False), (2, True, False), (5, True, True)])
def test_too_few_named_animals_are_said_with_how_to_name_more(
    site: Site, individuals: int, judged: bool, fitted: bool
) -> None:
    shots = herd(individuals=individuals, encounters=2, seed=1)
    store_shots(site, shots, live_recipe(site), looks(shots, signal=4.0))
    validation, tuning = nightly.validation(site, NOW, None), nightly.tuning(site)
    assert (validation.needed, tuning.needed) == (judged, fitted)
    for decision, least in ((validation, 2), (tuning, 5)):
        if not decision.needed:
            assert decision.reason.startswith(f"{individuals} individuals were named by a person")
            assert f"at least {least}: name animals" in decision.reason


def matched_on(site: Site, days: list[date]) -> None:
    found = Herd(site)
    found.individual("N", "male")
    for day in days:
        found.meets("N", datetime(day.year, day.month, day.day, 6, tzinfo=UTC), decided=day)


def test_days_are_reported_once_they_have_ended_the_oldest_first_and_seven_a_night(site: Site) -> None:
    site.matcher()
    today = NOW.date()
    days = [today - n * DAY for n in range(12)]
    matched_on(site, days)
    due = nightly.monitoring(site, NOW, None)
    assert due.days == tuple(sorted(days[1:]))[:7], "today has not ended"
    assert due.reason.endswith("4 more days wait for the next nights")
    for day in due.days:
        report_day(site, day)
    due = nightly.monitoring(site, NOW, YESTERDAY)
    assert due.days == tuple(sorted(days[1:5]))
    for day in due.days:
        report_day(site, day)
    done = nightly.monitoring(site, NOW, YESTERDAY)
    assert (done.needed, done.days) == (False, ())
    assert done.reason == f"{days[1]} has its report, and no earlier day lacks one"


def test_a_report_made_before_the_day_ended_does_not_count(site: Site) -> None:
    site.matcher()
    yesterday = NOW.date() - DAY
    matched_on(site, [yesterday])
    report_day(site, yesterday)
    query(site, "UPDATE reports SET created_at = :at RETURNING 1", at=datetime(2025, 4, 1, 23, 59, 59, tzinfo=UTC))
    assert nightly.monitoring(site, NOW, None).days == (yesterday,)
    query(site, "UPDATE reports SET created_at = :at RETURNING 1", at=datetime(2025, 4, 2, tzinfo=UTC))
    assert not nightly.monitoring(site, NOW, None).needed


def test_days_before_the_window_are_let_go_and_a_quiet_week_is_looked_at(site: Site) -> None:
    site.matcher()
    matched_on(site, [NOW.date() - 31 * DAY])
    quiet = nightly.monitoring(site, NOW, YESTERDAY)
    assert not quiet.needed
    assert quiet.reason == "the machine matched nothing on 2025-04-01 (UTC), and no earlier day lacks its report"
    assert not nightly.monitoring(site, NOW, None).needed, "a site that never matched has nothing to watch"
    assert nightly.monitoring(site, NOW, NOW - 7 * DAY).days == (NOW.date() - DAY,)


def test_speed_is_measured_weekly_and_never_beside_other_work(site: Site) -> None:
    site.matcher()
    assert nightly.benchmark(site, NOW, None, None).needed
    assert nightly.benchmark(site, NOW, NOW - 7 * DAY, None).needed
    assert nightly.benchmark(site, NOW, NOW - 3 * DAY, None).reason == (
        "it was measured on 2025-03-30, less than a week ago"
    )
    beside = nightly.benchmark(site, NOW, None, "run 1 of a job is not finished")
    assert (beside.needed, beside.reason) == (
        False,
        "run 1 of a job is not finished, and speeds measured beside it would say nothing",
    )
