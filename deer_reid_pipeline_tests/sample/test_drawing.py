"""What is drawn: boxes that hold their animal, flanks that differ, plans with two different animals in a
frame.
"""

from dataclasses import replace

import numpy as np
import pytest

from deer_reid_pipeline.sample.calibration import calibration_pictures
from deer_reid_pipeline.sample.coat import Flank, torso_coat
from deer_reid_pipeline.sample.individual import individual
from deer_reid_pipeline.sample.light import LIGHTS
from deer_reid_pipeline.sample.picture import Studio, Subject, compose
from deer_reid_pipeline.sample.plan import illumination, make_plan
from deer_reid_pipeline.sample.pose import POSES, draw_pose

SIZE = (480, 360)
# Without grain and shadow, whatever differs from the empty picture is the animal.
BARE = replace(LIGHTS["day"], grain=0.0, shadow=0.0)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(5, SIZE)


@pytest.mark.parametrize("name", POSES)
@pytest.mark.parametrize("flank", ["left", "right"])
def test_box_is_where_the_picture_differs_from_the_empty_one(studio: Studio, name: str, flank: Flank) -> None:
    animal = individual(5, 0)
    subject = Subject(animal, flank, draw_pose(name, np.random.default_rng(1)), 0.5, 0.5)
    empty, _ = compose(studio, 0, BARE, [], (1,))
    frame, [(x, y, width, height)] = compose(studio, 0, BARE, [subject], (1,))
    change = np.abs(frame.astype(float) / frame.mean() - empty.astype(float) / empty.mean()).max(axis=2)
    changed = change > 0.35
    inside = np.zeros(changed.shape, bool)
    x0, y0 = round(x * SIZE[0]), round(y * SIZE[1])
    x1, y1 = round((x + width) * SIZE[0]), round((y + height) * SIZE[1])
    inside[y0:y1, x0:x1] = True
    # Drawing an animal takes from the frame's stream, so the exposure differs; outside the box nothing else
    # may.
    assert changed[~inside].mean() < 0.001
    assert changed[inside].mean() > 0.15
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert abs(columns[0] - x0) <= 8
    assert abs(columns[-1] + 1 - x1) <= 8
    assert abs(rows[0] - y0) <= 8


def test_head_is_on_the_side_that_the_viewpoint_says(studio: Studio) -> None:
    """A standing deer's head rises above its back: the highest rows of what is drawn are at the head."""
    pose = draw_pose("alert", np.random.default_rng(2))
    for flank, sign in (("left", -1), ("right", 1)):
        empty, _ = compose(studio, 1, BARE, [], (2,))
        frame, [(x, y, width, height)] = compose(
            studio, 1, BARE, [Subject(individual(5, 1), flank, pose, 0.5, 0.5)], (2,)
        )
        top = slice(int(y * SIZE[1]), int((y + 0.2 * height) * SIZE[1]))
        changed = np.abs(frame[top].astype(int) - empty[top]).max(axis=2) > 60
        head = np.flatnonzero(changed.any(axis=0)).mean() / SIZE[0]
        assert sign * (head - (x + width / 2)) > 0.15 * width


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two flanks without what all coats share (dark back, white belly)."""
    a, b = (t.mean(axis=2) - t.mean(axis=2).mean(axis=1, keepdims=True) for t in (a, b))
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_flanks_and_individuals_have_patterns_of_their_own() -> None:
    core = slice(50, 230)
    coats = {
        (i, flank): torso_coat(individual(7, i), flank)[core, 60:] for i in range(6) for flank in ("left", "right")
    }
    for i in range(6):
        left, right = coats[(i, "left")], coats[(i, "right")]
        assert similarity(left, right) < 0.5
        assert similarity(left, right[:, ::-1]) < 0.5
        for other in range(i):
            assert similarity(left, coats[(other, "left")]) < 0.5
    again = torso_coat.__wrapped__(individual(7, 0), "left")[core, 60:]
    assert similarity(again, coats[(0, "left")]) > 0.999


def test_frames_with_two_animals_show_two_individuals_that_hardly_overlap() -> None:
    plan = make_plan(6, 60, 1, 0.5)
    pairs = [event for event in plan.events if len(event.frames[0].subjects) == 2]
    assert len(pairs) >= 3
    studio = Studio(1, (320, 240))
    for event in plan.events:
        names = {subject.animal.name for frame in event.frames for subject in frame.subjects}
        assert len(names) == len(event.frames[0].subjects)
    for event in pairs:
        frame = event.frames[-1]
        _, boxes = compose(studio, event.camera, LIGHTS[event.kind], frame.subjects, frame.stream)
        (ax, _, aw, _), (bx, _, bw, _) = sorted(boxes)
        assert max(0.0, ax + aw - bx) < 0.25 * min(aw, bw)


def test_plan_keeps_newcomers_out_of_the_named_half_and_shows_every_light_and_pose() -> None:
    plan = make_plan(10, 80, 2, 0.5)
    named = {s.animal.name for e in plan.events if e.known for s in e.frames[0].subjects}
    unnamed = {s.animal.name for e in plan.events if not e.known for s in e.frames[0].subjects}
    assert plan.newcomers
    assert plan.newcomers.isdisjoint(named)
    assert plan.newcomers <= unnamed
    assert {e.kind for e in plan.events} == {"day", "dusk", "infrared"}
    assert len({s.pose.name for e in plan.events for s in e.frames[0].subjects}) >= 4
    assert all(e.kind == illumination(e.frames[0].when) for e in plan.events)


def test_females_and_fawns_have_no_antlers_and_fawns_are_small() -> None:
    herd = [individual(0, i) for i in range(24)]
    assert all(a.antlers is None for a in herd if a.sex == "female" or a.life_stage == "juvenile")
    assert all(a.antlers for a in herd if a.sex == "male" and a.life_stage != "juvenile")
    stages = {stage: [a.size for a in herd if a.life_stage == stage] for stage in ("adult", "subadult", "juvenile")}
    assert max(stages["juvenile"]) < min(stages["subadult"])


def test_infrared_pictures_are_grey_and_dark_at_the_back(studio: Studio) -> None:
    frame, _ = compose(studio, 0, LIGHTS["infrared"], [], (3,))
    assert np.array_equal(frame[..., 0], frame[..., 2])
    assert frame[: SIZE[1] // 4].mean() < 0.4 * frame[-SIZE[1] // 4 :].mean()


def test_calibration_crops_are_varied_and_repeatable() -> None:
    crops = calibration_pictures(6, 0)
    assert all(crop.dtype == np.uint8 and crop.ndim == 3 and crop.shape[2] == 3 for crop in crops)
    assert all(60 <= side <= 560 for crop in crops for side in crop.shape[:2])
    grey = [np.array_equal(crop[..., 0], crop[..., 1]) for crop in crops]
    assert any(grey)
    assert not all(grey)
    for first, again in zip(crops[:2], calibration_pictures(2, 0), strict=True):
        assert np.array_equal(first, again)
