"""A day's monitoring on a real database: planted faults are found and nothing else, the sample, the rate, the files."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta

import pytest

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.reid.plausibility import LIFE_STAGE, ONE_PICTURE, SEX, SHARE, TRAVEL
from deer_reid_pipeline.steps import monitoring
from deer_reid_pipeline.steps.monitoring import report_day, today, waiting_reviews
from deer_reid_pipeline.steps.monitoring_report import FAIL, INCONCLUSIVE, PASS
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store import monitoring as stored
from deer_reid_pipeline.store.reviews import PairReview, add_reviews
from deer_reid_pipeline_tests.sites import query
from deer_reid_pipeline_tests.steps.monitored import CAMERAS, DAY, Herd, ordinary_herd

NOON = datetime.combine(DAY, time(12), UTC)


def plant(herd: Herd) -> dict[str, set[object]]:
    """One fault of each kind; returns the encounters that each rule has to name."""
    herd.meets("N02", NOON, "north", method="human", sex="male")
    far = herd.meets("N02", NOON + timedelta(minutes=10), "south")
    sex = herd.meets("N01", NOON + timedelta(hours=6), sex="male")
    fawn = herd.meets("N03", NOON + timedelta(hours=6), stage="juvenile")
    picture = herd.picture()
    herd.meets("N04", NOON + timedelta(hours=7), pictures=[picture], score=0.97)
    twice = herd.meets("N04", NOON + timedelta(hours=7), pictures=[picture], box=(0.7, 0.3, 0.2, 0.3), score=0.91)
    greedy = {herd.meets("N05", NOON + timedelta(minutes=22 * i), score=0.90 + i / 1000) for i in range(24)}
    return {TRAVEL: {far}, SEX: {sex}, LIFE_STAGE: {fawn}, ONE_PICTURE: {twice}, SHARE: greedy}


def test_an_ordinary_day_has_no_flag(site: Site) -> None:
    ordinary_herd(site)
    report = report_day(site, DAY)
    assert report.flags == ()
    assert report.outcomes == {"matched": 40}
    assert report.compared[TRAVEL] > 300
    assert query(site, "SELECT count(*) FROM monitor_flags") == [(0,)]


def test_every_planted_fault_is_flagged_and_nothing_else(site: Site) -> None:
    herd = ordinary_herd(site)
    planted = plant(herd)
    report = report_day(site, DAY)
    found: dict[str, set[object]] = {}
    for flag in report.flags:
        found.setdefault(flag.rule, set()).update(flag.encounters if flag.rule == SHARE else {flag.encounter})
    assert found.keys() == planted.keys()
    assert len(report.flags) == 5
    assert {rule: found[rule] for rule in (TRAVEL, SEX, LIFE_STAGE, ONE_PICTURE)} == {
        rule: planted[rule] for rule in (TRAVEL, SEX, LIFE_STAGE, ONE_PICTURE)
    }
    assert planted[SHARE] <= found[SHARE]
    matched = query(site, "SELECT count(*) FROM match_decisions WHERE method = 'machine' AND individual = 'N05'")[0][0]
    assert len(found[SHARE]) == matched
    assert matched / report.matched > 1 / 3
    stored = query(site, "SELECT rule, encounter_id, decision_id FROM monitor_flags WHERE day = :day", day=DAY)
    assert {(rule, encounter) for rule, encounter, _ in stored} == {(f.rule, f.encounter) for f in report.flags}
    (said,) = [flag.text for flag in report.flags if flag.rule == TRAVEL]
    assert "40 km apart within 10 minutes" in said


def test_flagged_matches_are_drawn_for_certain_and_a_repeated_day_draws_the_same(site: Site) -> None:
    herd = ordinary_herd(site)
    planted = plant(herd)
    report_day(site, DAY)
    rows = (
        "SELECT decision_id, encounter_id, stratum, inclusion_probability, detection_a, detection_b "
        "FROM monitor_samples ORDER BY 1"
    )
    first = query(site, rows)
    certain = {encounter for _, encounter, stratum, chance, *_ in first if stratum == "flagged" and chance == 1}
    assert certain == planted[TRAVEL] | planted[SEX] | planted[LIFE_STAGE] | planted[ONE_PICTURE]
    assert 4 + 8 < len(first) < 4 + 40
    report_day(site, DAY)
    assert query(site, rows) == first
    assert query(site, "SELECT count(*) FROM monitor_flags") == [(5,)]
    assert query(site, "SELECT count(*) FROM reports WHERE kind = 'monitoring'") == [(2,)]
    evidence = {key for (key,) in query(site, "SELECT id FROM detections WHERE classification_method = 'human'")}
    assert all(right in evidence and left not in evidence for *_, left, right in first)


def test_a_day_is_judged_as_it_stood_at_its_end(site: Site) -> None:
    """Reported late, by a backfill, a day knows nothing of what came after it."""
    herd = ordinary_herd(site)
    far = herd.meets("N02", datetime.combine(DAY, time(1, 12), UTC), "south", decided=DAY + timedelta(days=1))
    assert report_day(site, DAY).flags == ()
    # Decided a day later, it contradicts what was seen at 01:02 of the day before.
    assert [(f.rule, f.encounter) for f in report_day(site, DAY + timedelta(days=1)).flags] == [(TRAVEL, far)]
    assert report_day(site, DAY - timedelta(days=1)).matched == 0
    assert report_day(site, DAY).flags == ()


def test_what_a_person_renamed_the_same_day_is_no_second_animal_in_the_picture(site: Site) -> None:
    herd = ordinary_herd(site, matches=0)
    picture = herd.picture()
    herd.meets("N00", NOON, pictures=[picture], sex="male")
    # The person's word is a new encounter and a new decision about the same detection.
    ((detections,),) = query(site, "SELECT detection_ids FROM match_decisions ORDER BY id DESC LIMIT 1")
    herd.decides_again(detections, "N00")
    report = report_day(site, DAY)
    assert (report.flags, report.matched, report.by_person) == ((), 0, 1)


def review(site: Site, verdicts: dict[object, str], otherwise: str | None) -> int:
    """A person looks at what waits; returns how many were answered."""
    items = waiting(site)
    said = [
        PairReview(item.left, item.right, verdict, "R1", datetime(2026, 3, 15, tzinfo=UTC), "r.csv")
        for item in items
        if (verdict := verdicts.get(item.decision_id, otherwise)) is not None
    ]
    with site.database.session() as session:
        return add_reviews(session, said)


def waiting(site: Site) -> list:
    return waiting_reviews(site, (today() - DAY).days + 2)


def test_the_rate_follows_the_reviews_and_says_what_is_missing(site: Site) -> None:
    herd = ordinary_herd(site, matches=0)
    for number in range(400):
        herd.meets(f"N{number % 14:02d}", NOON + timedelta(minutes=number), score=0.9 + number / 4000)
    first = report_day(site, DAY)
    assert (first.verdict, first.rate.reviewed, first.rate.matches) == (INCONCLUSIVE, 0, 400)
    assert "not known" in first.sentence
    count = first.rate.sampled
    assert review(site, {}, "same") == count
    clean = report_day(site, DAY)
    assert (clean.rate.value, clean.rate.low, clean.rate.reviewed) == (0.0, 0.0, count)
    assert 0.05 < clean.rate.high < 0.5
    assert clean.verdict == INCONCLUSIVE  # so few reviews cannot show it
    assert clean.needed is not None
    assert str(clean.needed) in clean.sentence
    assert clean.to_review == ()
    assert len(clean.recent.right) == count
    # The newest word of a reviewer counts.
    with site.database.session() as session:
        rows = query(site, "SELECT detection_a, detection_b FROM monitor_samples")
        later = datetime(2026, 3, 16, tzinfo=UTC)
        add_reviews(session, [PairReview(a, b, "different", "R1", later, "r.csv") for a, b in rows])
    wrong = report_day(site, DAY)
    assert (wrong.verdict, wrong.rate.value) == (FAIL, 1.0)
    assert len(wrong.recent.wrong) == count


def test_all_reviewed_and_right_is_a_pass(site: Site) -> None:
    ordinary_herd(site, matches=5)
    report = report_day(site, DAY)
    assert report.sampled == 5
    review(site, {}, "same")
    assert report_day(site, DAY).verdict == PASS


def test_names_given_afterwards_are_verdicts_and_unsure_is_none(site: Site) -> None:
    herd = ordinary_herd(site, matches=0)
    herd.meets("N00", NOON, given="N00")
    herd.meets("N01", NOON, given="N09")
    unsure = herd.meets("N02", NOON)
    report = report_day(site, DAY)
    assert (report.rate.reviewed, report.rate.wrong, report.rate.sampled) == (2, 1, 3)
    (item,) = waiting(site)
    review(site, {}, "unsure")
    again = report_day(site, DAY)
    assert again.rate.reviewed == 2
    assert query(site, "SELECT encounter_id FROM match_decisions WHERE id = :id", id=item.decision_id) == [(unsure,)]


def test_two_people_who_disagree_are_no_verdict(site: Site) -> None:
    herd = ordinary_herd(site, matches=0)
    herd.meets("N00", NOON)
    report_day(site, DAY)
    (item,) = waiting(site)
    when = datetime(2026, 3, 15, tzinfo=UTC)
    with site.database.session() as session:
        add_reviews(
            session,
            [PairReview(item.left, item.right, v, who, when, "r") for v, who in (("same", "R1"), ("different", "R2"))],
        )
    assert report_day(site, DAY).rate.reviewed == 0


def test_the_share_is_weighted_by_what_the_reviewed_ones_stand_for(site: Site) -> None:
    """Four flagged matches are wrong, the others right: the share is far below that among the reviewed ones."""
    herd = ordinary_herd(site)
    plant(herd)
    report_day(site, DAY)
    flagged = {item.decision_id: "different" for item in waiting(site) if item.flagged and "took" not in item.why}
    review(site, flagged, "same")
    rate = report_day(site, DAY).rate
    assert rate.wrong == 4
    assert rate.value == pytest.approx(4 / rate.matches)
    assert rate.value < 0.5 * rate.wrong / rate.reviewed


def test_the_section_the_owner_asked_for(site: Site) -> None:
    herd = ordinary_herd(site, matches=0)
    herd.meets("N01", NOON, sex="male", score=0.95)
    herd.meets("N03", NOON, "south", score=0.51)
    herd.meets("N05", NOON, score=0.50)
    lines = {line.individual: line for line in report_day(site, DAY).similar}
    assert lines.keys() == {"N01", "N03"}  # above 0.50
    assert (lines["N01"].same_sex, lines["N01"].compatible_times) == (False, True)
    assert (lines["N03"].same_sex, lines["N03"].similar_size) == (None, None)
    assert lines["N01"].similar_size is True
    assert lines["N01"].flags == (SEX,)


def test_days_without_a_report_are_told_until_they_are_filled(site: Site) -> None:
    herd = ordinary_herd(site, matches=10)
    herd.meets("N00", NOON, decided=DAY - timedelta(days=2))
    assert report_day(site, DAY).days_without_report == 1
    report_day(site, DAY - timedelta(days=2))
    again = report_day(site, DAY)
    assert again.days_without_report == 0
    assert again.rate.matches == 11
    assert [(day, matches) for day, matches, _ in again.history] == [(DAY - timedelta(days=2), 1), (DAY, 10)]


def test_the_files_show_pictures_and_no_coordinates(site: Site) -> None:
    herd = ordinary_herd(site)
    plant(herd)
    herd.individual("<script>alert(1)</script>")
    herd.meets("<script>alert(1)</script>", NOON, method="human", decided=DAY - timedelta(days=5))
    herd.meets("<script>alert(1)</script>", NOON + timedelta(minutes=3), "south")
    herd.crops()
    report = report_day(site, DAY)
    folder = site.settings.home / "reports" / "monitoring" / DAY.isoformat()
    assert sorted(path.name for path in folder.iterdir()) == ["monitoring.html", "monitoring.json", "monitoring.txt"]
    page = (folder / "monitoring.html").read_text(encoding="utf-8")
    text = (folder / "monitoring.txt").read_bytes().decode("ascii")
    summary = json.loads((folder / "monitoring.json").read_text(encoding="utf-8"))
    assert page.count("data:image/jpeg") == 2 * min(40, len(report.to_review))
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    for flag in report.flags:
        assert flag.text in text
    assert len(summary["flags"]) == 6
    stored = json.dumps(query(site, "SELECT summary FROM reports")[0][0])
    for latitude, longitude in CAMERAS.values():
        for number in (f"{latitude:g}", f"{latitude:.4f}", f"{longitude:.4f}"):
            for content in (text, stored, json.dumps(summary), re.sub(r"base64,[^\"]*", "", page)):
                assert not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", content) or "." not in number


def test_two_reports_of_a_day_at_once_take_turns(site: Site) -> None:
    ordinary_herd(site)
    with ThreadPoolExecutor() as pool:
        reports = list(pool.map(lambda _: report_day(site, DAY), range(4)))
    assert len({report.sampled for report in reports}) == 1
    assert query(site, "SELECT count(*) FROM monitor_samples") == [(reports[0].sampled,)]
    folder = site.settings.home / reports[0].folder
    shown = json.loads((folder / "monitoring.json").read_text(encoding="utf-8"))["report"]
    assert query(site, "SELECT count(*), max(id) FROM reports") == [(4, shown)]


def test_the_files_are_written_once_the_report_is_stored(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary_herd(site, matches=1)
    numbers = []

    def write(site: Site, session: object, report: object, number: int) -> None:
        numbers.append((number,))
        assert query(site, "SELECT id FROM reports") == numbers  # on another connection

    monkeypatch.setattr(monitoring, "write_files", write)
    report_day(site, DAY)
    assert len(numbers) == 1


def test_earlier_sightings_are_counted_by_individual(site: Site) -> None:
    herd = ordinary_herd(site, matches=3)
    (first, *_), _, _ = query(site, "SELECT id FROM match_decisions WHERE method = 'machine' ORDER BY id")
    with site.database.session() as session:
        standing = stored.standing_at(session, monitoring.day_bounds(DAY)[1])
        counts = stored.sighting_counts(session, standing, {first})
        assert counts == stored.sighting_counts(session, stored.standing_now(), {first})
        assert len(stored.standing_decisions(session, standing, monitoring.day_bounds(DAY)[0])) == 3
    assert {name: counts[key] for name, key in herd.deer.items()} == dict.fromkeys(herd.deer, 8) | {"N01": 9, "N02": 9}


def test_a_day_that_has_not_begun_is_refused(site: Site) -> None:
    with pytest.raises(DeerReidError, match="has not begun"):
        report_day(site, today() + timedelta(days=1))


def test_an_empty_home_has_an_empty_report(site: Site) -> None:
    report = report_day(site, date(2025, 1, 1))
    assert (report.verdict, report.flags, report.to_review, report.rate.matches) == (INCONCLUSIVE, (), (), 0)
    assert "No machine match" in report.sentence
