"""The validation report as a page, a text and JSON, and the assignment report."""

from __future__ import annotations

import base64
import errno
import html
import io
import json
import math
import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.reid.evaluation.criteria import Finding
from deer_reid_pipeline.reid.evaluation.estimates import Estimate, estimate
from deer_reid_pipeline.reid.evaluation.gate import Verdict
from deer_reid_pipeline.reid.evaluation.labelled import Labelled
from deer_reid_pipeline.reid.evaluation.protocol import evaluate
from deer_reid_pipeline.reid.fitted import FittedPolicy
from deer_reid_pipeline.reid.matching import MatchPolicy
from deer_reid_pipeline.reid.similarity import BRANCHES, VectorSet, unit
from deer_reid_pipeline.steps.owner_criteria import Criterion
from deer_reid_pipeline.steps.report import JSON, PAGE, plots, write_report, writer
from deer_reid_pipeline.steps.report.assignment import assignment_summary
from deer_reid_pipeline.steps.report.catalogue import GROUPS, MEANINGS
from deer_reid_pipeline.steps.report.cells import cell, change
from deer_reid_pipeline.steps.report.measured import Measured
from deer_reid_pipeline.steps.report.page import Content, render
from deer_reid_pipeline.steps.report.pictures import picture_pairs
from deer_reid_pipeline.steps.report.sentences import answer
from deer_reid_pipeline.steps.report.text import text_report
from deer_reid_pipeline.steps.report.wording import shown, shown_change
from deer_reid_pipeline.steps.report.writer import write_folder
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.thumbnails import LONGEST
from deer_reid_pipeline.steps.validation import Subject, ValidationResult
from deer_reid_pipeline.store.models import Deer, Detection, DetectionCrop, Drop, Encounter, Image, MatchDecision
from deer_reid_pipeline.vision.crops import CropSpec, encode_crop

NOBODY = Estimate(float("nan"), 0.0, 1.0, 0, 0)


def figures(**changes: Estimate) -> dict[str, Estimate]:
    known = {name: Estimate(0.25, 0.2, 0.3, 100, 40) for name in MEANINGS}
    return {**known, **changes}


def measured(of: Mapping[str, Estimate], control: Mapping[str, Estimate] | None = None) -> Measured:
    return Measured(of, dict(of), dict(of), control, {"flank": {"left": Estimate(0.2, 0.1, 0.3, 50, 20)}})


def content(**changes: Any) -> Content:
    values: dict[str, Any] = {
        "subject": "release 1, recipe lite-0f1e",
        "made_at": "22 November 2026, 05:04 UTC",
        "basis": "40 animals, 90 encounters, 200 detections",
        "live": measured(figures()),
        "candidate": None,
        "live_verdict": Verdict("PASS", (Finding("false_positive_bound", True, "It holds."),)),
        "candidate_verdict": None,
        "differences": {},
        "made": [(39, 40)],
        "chance": {"rank1": 0.02, "rank5": 0.09, "map": 0.03},
        "owner": [Criterion("rollback", "Rollback", None, "", "< 2 min", "NOT MEASURED", "not by a validation")],
        "plots": [],
        "pictures_of": "",
        "remarks": [],
        "false_matches": [],
        "misses": [],
        "facts": [("Data digest", "ab" * 32)],
        "protocol": ["Pictures of one encounter are never compared."],
        "limits": ["Animals without labels were not judged."],
    }
    return Content(**{**values, **changes})


def words(page: str) -> str:
    """What a person reads, without tags and style."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def plain(text: str) -> str:
    """With the spaces between number and unit as anyone types them."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


# The verdict in words


def test_a_matcher_that_names_nobody_is_not_praised_for_making_no_error() -> None:
    verdict = Verdict("FAIL", (Finding("names_returning_animals", False, "names almost nobody"),))
    said = answer(verdict, figures(wrong_names=NOBODY, fnir=Estimate(1.0, 0.97, 1.0, 400, 40)), {"rank5": 0.05})
    assert said.short.startswith("No names to rely on")
    assert "gave no name at all" in said.sentences[0]
    assert "names 0 % of the returning animals rightly (0 % to 3.0 %)" in plain(said.sentences[1])
    assert "hold the right animal in 25.0 % (by chance 5.0 %)" in plain(said.sentences[1])


def test_the_worst_case_of_wrong_names_is_the_upper_end_of_their_interval() -> None:
    verdict = Verdict("PASS", ())
    none_wrong = answer(verdict, figures(wrong_names=Estimate(0.0, 0.0, 0.031, 118, 60)), {})
    assert "None of the 118 names" in plain(none_wrong.sentences[0])
    assert "at most 3.1 %" in plain(none_wrong.sentences[0])
    some = answer(verdict, figures(wrong_names=Estimate(0.02, 0.005, 0.064, 200, 60)), {})
    assert "2.0 % were wrong; at worst 6.4 %" in plain(some.sentences[0])


def test_the_gravest_refuted_claim_gives_the_short_answer() -> None:
    verdict = Verdict(
        "FAIL",
        (
            Finding("names_returning_animals", False, ""),
            Finding("false_positive_bound", False, ""),
            Finding("background_control", None, ""),
        ),
    )
    assert "strangers" in answer(verdict, figures(), {}).short
    assert answer(Verdict("INCONCLUSIVE", ()), {}, {}).short.startswith("Not known yet")
    assert "not measured" in answer(Verdict("INCONCLUSIVE", ()), {}, {}).sentences[0]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.1234, "share", "12.3 %"),
        (1.0, "share", "100 %"),
        (0.99996, "share", ">99.9 %"),
        (0.0, "share", "0 %"),
        (0.0002, "share", "<0.1 %"),
        (0.6849, "number", "0.68"),
        (-0.031, "share", "\N{MINUS SIGN}3.1 %"),
        (0.09, "share", "9.0 %"),
        (float("nan"), "share", "not measured"),
    ],
)
def test_values_are_never_rounded_to_certainty(value: float, unit: str, text: str) -> None:
    assert plain(shown(value, unit)) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.036, "share", "+3.6 points"),
        (-0.0002, "share", "0.0 points"),
        (-0.004, "number", "0.00"),
        (0.5, "number", "+0.50"),
    ],
)
def test_a_difference_has_a_sign_unless_it_rounds_to_nothing(value: float, unit: str, text: str) -> None:
    assert plain(shown_change(value, unit)) == text


def test_a_lower_error_rate_is_better_and_an_interval_over_zero_is_no_difference() -> None:
    error, share = MEANINGS["fnir"], MEANINGS["rank1"]
    less = Estimate(-0.1, -0.2, -0.05, 100, 40)
    assert change(less, error).word == "better"  # type: ignore[union-attr]
    assert change(less, share).word == "worse"  # type: ignore[union-attr]
    assert change(Estimate(0.1, -0.01, 0.2, 100, 40), share).word == "no difference shown"  # type: ignore[union-attr]
    assert change(NOBODY, share) is None


def test_bars_stay_within_their_scale() -> None:
    drawn = cell(Estimate(5.0, -1.0, 9.0, 10, 10), MEANINGS["d_prime"])  # the scale runs from 0 to 4
    assert drawn is not None
    assert (drawn.bar.low, drawn.bar.width, drawn.bar.value) == (0.0, 100.0, 100.0)
    half = cell(Estimate(0.5, 0.25, 0.75, 10, 10), MEANINGS["rank1"], chance=0.02)
    assert half is not None
    assert (half.bar.low, half.bar.width, half.bar.value, half.bar.chance) == (25.0, 50.0, 50.0, 2.0)


# The page


def test_the_page_says_verdict_figures_and_criteria_and_fetches_nothing() -> None:
    page = render(content())
    text = words(page)
    assert "PASS Can I trust tonight's identities? Yes, the names it gives hold" in text
    for _, _, names in GROUPS:
        for name in names:
            assert MEANINGS[name].title in text
    assert "Rollback not by a validation < 2 min not measured NOT MEASURED" in text
    assert "Candidate minus live" not in text
    assert "<script" not in page
    assert "url(" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', page)
    assert "default-src 'none'" in page


def test_text_from_outside_is_escaped() -> None:
    hostile = "<script>alert(1)</script>"
    page = render(
        content(
            subject=hostile, facts=[("Camera", hostile)], live_verdict=Verdict("FAIL", (Finding("x", False, hostile),))
        )
    )
    assert "<script" not in page
    assert words(page).count(hostile) >= 3


def test_a_candidate_stands_beside_the_live_release_with_the_paired_difference() -> None:
    page = words(
        render(
            content(
                candidate=measured(figures(rank1=Estimate(0.4, 0.3, 0.5, 100, 40))),
                candidate_verdict=Verdict("INCONCLUSIVE", (Finding("improvement", None, "It may be chance."),)),
                differences={"rank1": Estimate(0.15, 0.02, 0.28, 100, 40)},
                made=[(39, 40), (40, 40)],
            )
        )
    )
    assert "May the candidate replace it? INCONCLUSIVE" in page
    assert "What is missing: improvement" in page
    assert "40.0 % 30.0 % to 50.0 %" in page
    assert "better +15.0 points +2.0 to +28.0" in page
    assert "Candidate: same encounter allowed" in page


def test_what_was_not_measured_says_so() -> None:
    text = words(render(content(live=measured({"wrong_names": NOBODY, "fpir": NOBODY}))))
    assert "no name was given" in text
    assert "Background alone The animal is blanked out" in text
    assert text.count("not measured") > 3


def test_the_text_report_is_ascii_and_no_wider_than_a_terminal() -> None:
    text = text_report(
        content(
            differences={"rank1": Estimate(-0.1, -0.2, 0.05, 9, 9)},
            candidate=measured(figures()),
            candidate_verdict=Verdict("FAIL", (Finding("strata", False, "Broken: flank left. " * 20),)),
        )
    )
    assert text.isascii()
    assert "VERDICT: PASS" in text
    assert "NOT MEASURED  Rollback: not measured (asked: < 2 min)" in text
    assert "-10.0 points   -20.0 to +5.0" in text
    assert max(len(line) for line in text.splitlines()) <= 120


# The whole report


def herd(individuals: int = 12, visits: int = 5, seed: int = 0) -> Labelled:
    """Animals that look somewhat like themselves, two pictures an encounter, none of them stored."""
    rng = np.random.default_rng(seed)
    code = np.tile(np.arange(individuals), visits).repeat(2)
    encounter = np.arange(individuals * visits).repeat(2)
    looks = rng.normal(size=(3, individuals, 16))[:, code] + 0.8 * rng.normal(size=(3, len(code), 16))
    vectors = {
        branch: VectorSet("lite-1", branch, unit(np.asarray(rows, dtype=np.float32)))
        for branch, rows in zip(BRANCHES, looks, strict=True)
    }
    return Labelled(
        [uuid.uuid4() for _ in code], vectors, code, encounter, encounter, ["left"] * len(code),
        [f"animal {number}" for number in range(individuals)], ["unknown"] * len(code),
        {"light": ["day", "infrared"] * (len(code) // 2), "camera": [f"$cam {i % 3}" for i in range(len(code))]},
    )  # fmt: skip


def result_of(site: Site, labelled: Labelled, *, candidate: bool = False) -> ValidationResult:
    recipe = site.matcher().recipe
    live = Subject(recipe, FittedPolicy(policy=MatchPolicy(threshold=0.9, new_below=0.2)), 1)
    other = Subject(recipe, FittedPolicy(policy=MatchPolicy(threshold=0.6, new_below=0.3)), 2) if candidate else None
    found = evaluate(labelled, live.fitted)
    figures_of_live = {**{name: estimate(item, draws=50) for name, item in found.statistics.items()}, **found.rates}
    judged = evaluate(labelled, other.fitted) if other else None
    figures_of_other = (
        {**{name: estimate(item, draws=50) for name, item in judged.statistics.items()}, **judged.rates}
        if judged
        else {}
    )
    verdict = Verdict("INCONCLUSIVE", (Finding("false_positive_bound", None, "It needs 59 individuals, has 12."),))
    return ValidationResult(
        made_at=datetime(2026, 11, 22, 5, 4, 13, tzinfo=UTC),
        live=live,
        candidate=other,
        live_evaluation=found,
        candidate_evaluation=judged,
        verdict=verdict,
        live_verdict=verdict,
        owner=(Criterion("merged", "Deer merged", math.nan, "", "0", "FAIL", "detail"),),
        metrics=figures_of_other or figures_of_live,
        live_metrics=figures_of_live,
        differences={"rank1": Estimate(0.1, -0.1, 0.2, 10, 10)} if candidate else {},
        counts=found.counts,
        data_digest="ab" * 32,
        remarks=("the background was not judged", "the background was not judged"),
    )


class _Tags(HTMLParser):
    """Complains about a tag that is not closed where it should be."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("candidate", [False, True])
def test_a_report_is_a_page_a_text_and_json_that_agree(site: Site, candidate: bool) -> None:
    result = result_of(site, herd(), candidate=candidate)
    folder = write_report(site, result)
    recipe = result.live.recipe.id
    assert folder == site.settings.home / "reports" / "validation" / f"20261122T050413Z-{recipe}"
    assert sorted(path.name for path in folder.iterdir()) == [PAGE, JSON, "validation_report_20261122_050413.txt"]
    page = (folder / PAGE).read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(page) < 3_000_000
    assert page.count("data:image/svg+xml") >= 5
    assert "Deer merged detail 0 not measured" in words(page)
    assert "this detection is no longer in the database" in page
    value = json.loads((folder / JSON).read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    assert value["report"] == PAGE
    assert value["verdict"] == "INCONCLUSIVE"
    assert value["owner"][0]["value"] is None
    assert (value["release"], value["candidate"]) == (1, 2 if candidate else None)
    assert ("candidate_figures" in value) == candidate
    rank1 = result.live_metrics["rank1"]
    assert value["live_figures"]["metrics"]["rank1"]["value"] == pytest.approx(rank1.value)
    assert set(value["live_figures"]["strata_rank1"]["light"]) == {"day", "infrared"}
    text = (folder / "validation_report_20261122_050413.txt").read_text(encoding="ascii")
    for report in (words(page), " ".join(text.split())):
        assert f"{shown(rank1.value, 'share')}".replace("\N{NO-BREAK SPACE}", " ") in report
        assert "It needs 59 individuals, has 12." in report
        assert "12 individuals, 60 encounters, 120 detections" in report
        assert report.lower().count("the background was not judged") == 1
        assert ("andidate release 2" in report) == candidate
    assert str(site.settings.home) not in page + text


def test_a_home_without_labelled_animals_gets_a_report_that_says_what_to_do(site: Site) -> None:
    nothing = Verdict("INCONCLUSIVE", (Finding("labelled_animals", None, "Name animals in a drop's table."),))
    result = replace(
        result_of(site, herd(3, 2)),
        live_evaluation=None,
        verdict=nothing,
        live_verdict=nothing,
        metrics={},
        live_metrics={},
        counts={"individuals": 0, "encounters": 0, "detections": 0},
    )
    page = words((write_report(site, result) / PAGE).read_text(encoding="utf-8"))
    assert "INCONCLUSIVE Can I trust tonight's identities? Not known yet" in page
    assert "Labelled animals. Name animals in a drop's table." in page
    assert "What is missing: labelled animals" in page
    assert "no name given" not in page
    assert "Worst false matches" not in page


def test_guessing_in_a_shortlist_is_computed_from_the_galleries(site: Site) -> None:
    evaluation = evaluate(herd(), FittedPolicy(policy=MatchPolicy(threshold=0.9, new_below=0.2)))
    assert evaluation.raw is not None
    levels = evaluation.raw.retrieval.by_chance
    # 120 pictures, 2 of the query's own encounter left out; 8 of the other 118 show the same animal.
    assert levels["rank1"] == pytest.approx(8 / 118)
    rng = np.random.default_rng(1)
    drawn = [np.any(rng.permutation(118)[:5] < 8) for _ in range(20_000)]
    assert levels["rank5"] == pytest.approx(np.mean(drawn), abs=0.01)


# Plots


def curve(points: int = 5000) -> plots.Curve:
    rate = np.linspace(1, 0, points)
    return plots.Curve("live", rate, 1 - np.sqrt(rate))


def drawn_plots() -> dict[str, str]:
    item = Estimate(0.2, 0.1, 0.4, 30, 20)
    edges = np.linspace(-1, 1, 11)
    series = plots.GallerySeries("live", [1, 10, 100], [item, item, item], 10)
    return {
        "roc": plots.roc([curve(), curve()]),
        "det": plots.det([curve(), curve(), curve(), curve()]),
        "histograms": plots.histograms([plots.Histogram("v1", edges, np.arange(10.0), np.ones(10), 0.4)] * 2),
        "reliability": plots.reliability([(0.1, item), (0.9, item)]),
        "fpir": plots.fpir_by_size([series], 0.05),
        "strata": plots.strata(
            [("camera <&> $x", [[plots.Dot(r"$\no 1 <b>", item)], [plots.Dot("", NOBODY)]])], "rank-1"
        ),
    }


def test_plots_are_small_well_formed_svg_whatever_the_labels_hold() -> None:
    for name, svg in drawn_plots().items():
        root = ET.fromstring(svg)
        assert root.tag.endswith("svg"), name
        assert len(svg) < 60_000, name
    labels = "".join(ET.fromstring(drawn_plots()["strata"]).itertext())
    assert r"$\no 1 <b> (30)" in labels


def test_a_thinned_curve_keeps_its_ends_and_shape() -> None:
    x, y = plots._thinned(curve().false_positive, curve().false_negative)
    assert len(x) <= plots.POINTS
    assert (x[0], y[0], x[-1], y[-1]) == (1.0, 0.0, 0.0, 1.0)
    np.testing.assert_allclose(y, 1 - np.sqrt(x))
    assert np.hypot(np.diff(x), np.diff(y)).max() < 0.02


# Pictures


@pytest.fixture
def crops(site: Site) -> list[uuid.UUID]:
    """Three detections: with a crop, with a crop whose file is gone, without a crop."""
    keys = [uuid.uuid4() for _ in range(3)]
    pixels = np.full((300, 600, 3), 90, dtype=np.uint8)
    folder = site.settings.crops_dir
    folder.mkdir(parents=True)
    (folder / "there.jpg").write_bytes(encode_crop(pixels))
    with site.database.session() as session:
        for number, key in enumerate(keys):
            image = Image(id=uuid.uuid4(), filename="x", path=f"/secret/folder/picture {number}.jpg")
            session.add(image)
            session.flush()
            session.add(_detection(image.id, id=key))
            session.flush()
            if number < 2:
                file = ("there.jpg", "gone.jpg")[number]
                session.add(
                    DetectionCrop(
                        detection_id=key,
                        spec_id=CropSpec().id,
                        file=file,
                        sha256="0" * 64,
                        width=600,
                        height=300,
                    )
                )
    return keys


def test_pairs_show_thumbnails_and_say_why_one_is_missing(site: Site, crops: list[uuid.UUID]) -> None:
    keys = [*crops, uuid.uuid4()]
    vectors = {"baseline": VectorSet("r", "baseline", np.eye(4, dtype=np.float32))}
    code = np.arange(4)
    labelled = Labelled(
        keys, vectors, code, code, code, ["left", None, "right", None], ["A", "B", "C", "D"], ["male"] * 4,
        {"flank": ["left", "", "right", ""], "light": ["day"] * 4},
    )  # fmt: skip
    first, second = picture_pairs(site, labelled, [(0, 1, 0.9), (2, 3, 0.8)])
    assert (first.left.name, first.left.file, first.left.details, first.left.missing) == (
        "A",
        "picture 0.jpg",
        "left, day",
        "",
    )
    content_type, _, data = first.left.image.partition(",")
    assert content_type == "data:image/jpeg;base64"
    with Picture.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (LONGEST, LONGEST // 2)
    assert first.right.image == ""
    assert first.right.missing == "the crop file is missing or damaged"
    assert second.left.missing == "no crop was stored"
    assert second.right.missing == "this detection is no longer in the database"
    page = render(content(false_matches=[first, second]))
    assert "secret" not in page
    assert "no crop was stored" in page
    assert first.left.image in page


# Files


def test_a_report_folder_is_there_whole_and_never_replaces_another(tmp_path: Path) -> None:
    first = write_folder(tmp_path / "reports", "now", {"a.txt": "one", "b.txt": "zw\u00f6lf"})
    second = write_folder(tmp_path / "reports", "now", {"a.txt": "two"})
    assert (first.name, second.name) == ("now", "now-2")
    assert (first / "a.txt").read_text() == "one"
    assert (first / "b.txt").read_bytes() == "zw\u00f6lf".encode()
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["now", "now-2"]


def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer.os, "fsync", full)
    with pytest.raises(DeerReidError, match=r"now cannot be written: No space left on device; free some space"):
        write_folder(tmp_path, "now", {"a.txt": "one", "b.txt": "two"})
    assert len(synced) == 2
    assert list(tmp_path.iterdir()) == []


# Assignments


def _detection(image: uuid.UUID, **values: Any) -> Detection:
    return Detection(
        **{"id": uuid.uuid4(), "image_id": image, "bbox": {}, "confidence": 1.0, "classification": "unknown", **values}
    )


def _deer(session: Session, sex: str, by: str | None) -> uuid.UUID:
    deer = Deer(id=uuid.uuid4(), sex=sex, identified_by=by)
    session.add(deer)
    session.flush()
    return deer.id


def _decided(
    session: Session, image: uuid.UUID, deer: uuid.UUID | None, count: int, *decisions: tuple[str, str, int | None]
) -> None:
    encounter = Encounter(id=uuid.uuid4(), drop_key="d", ordinal=uuid.uuid4().int % 10**9, event_key="e")
    session.add(encounter)
    session.flush()
    method = decisions[-1][1] if decisions and deer else None
    for _ in range(count):
        session.add(_detection(image, deer_id=deer, encounter_id=encounter.id, classification_method=method))
    for decision, by, release in decisions:
        session.add(
            MatchDecision(
                encounter_id=encounter.id, drop_key="d", detection_ids=[], decision=decision, method=by, deer_id=deer,
                reason="", matcher="v3_ensemble", release_id=release,
            )
        )  # fmt: skip
        session.flush()


def test_assignments_count_the_latest_decision_of_standing_detections(site: Site) -> None:
    with site.database.session() as session:
        session.add(Drop(key="d", name="d", root="/", digest="0", layout="images", detector="none"))
        image = Image(id=uuid.uuid4(), filename="x", path="x")
        session.add(image)
        session.flush()
        buck, doe, owners = (
            _deer(session, "mature", "human"),
            _deer(session, "doe", "machine"),
            _deer(session, "fawn", None),
        )
        _deer(session, "buck", "human")  # without a detection
        _decided(session, image.id, buck, 3, ("uncertain", "machine", 1), ("matched", "human", None))
        _decided(session, image.id, doe, 6, ("new_individual", "machine", 1))
        _decided(session, image.id, doe, 4, ("matched", "machine", 2))
        _decided(session, image.id, None, 2, ("uncertain", "machine", 2))
        _decided(session, image.id, None, 1)
        session.add(_detection(image.id, deer_id=owners))  # from before the pipeline: no method, no encounter
        session.add(_detection(image.id, deer_id=buck, superseded=True))
    summary = assignment_summary(site)
    assert (summary.detections, summary.assigned, summary.by_person) == (17, 14, 3)
    assert summary.assignment_rate == pytest.approx(14 / 17)
    assert (summary.encounters, summary.undecided) == (5, 1)
    assert summary.outcomes == {
        "matched": {"human": 1, "machine": 1},
        "new_individual": {"human": 0, "machine": 1},
        "uncertain": {"human": 0, "machine": 1},
    }
    assert summary.releases == {
        "1": {"matched": 0, "new_individual": 1, "uncertain": 0},
        "2": {"matched": 1, "new_individual": 0, "uncertain": 1},
    }
    assert (summary.individuals, summary.opened_by_machine, summary.most_seen) == (3, 1, 10)
    assert summary.sexes == {"male": 1, "female": 1, "unknown": 1}
    assert summary.per_individual == {"1": 1, "2 to 4": 1, "5 to 9": 0, "10 to 19": 1, "20 and more": 0}
    text = summary.markdown()
    assert "14 of 17 detections have an individual (82.4 %); 3 of them" in text
    assert "| 2 | 1 | 0 | 1 |" in text
    assert text.isascii()


def test_an_empty_home_has_an_assignment_report(site: Site) -> None:
    summary = assignment_summary(site)
    assert summary.assignment_rate is None
    assert summary.as_dict()["individuals"] == 0
    assert "0 of 0 detections have an individual;" in summary.markdown()
