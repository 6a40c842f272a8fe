"""A recipe is data: it round-trips, its id moves with all that determines a vector, nonsense is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deer_reid_pipeline.vision.recipe import Projection, Recipe, RecipeError

BYTES = "0123456789abcdef" * 4
OTHER = "f" + BYTES[1:]


def data() -> dict[str, Any]:
    backbone = {
        "arch": "mobilenet_v2",
        "weights": {"name": "a.pth", "sha256": BYTES, "source": "published", "random": False},
        "preprocess": {
            "width": 192,
            "height": 240,
            "mode": "letterbox",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.25, 0.5],
            "inner": 0.85,
            "fill": [1, 2, 3],
        },
    }
    one = {
        "backbone": "main",
        "taps": [{"layer": "head", "pool": "gem", "grid": 1, "p": 2.71}],
        "projection": {"kind": "trained", "sha256": BYTES, "outputs": [512]},
    }
    two = {
        "backbone": "main",
        "taps": [{"layer": "stride8", "grid": 4}, {"layer": "head"}],
        "projection": {"kind": "signs", "sha256": BYTES, "outputs": [512, 512], "combine": "sum"},
    }
    return {
        "name": "tuned.1",
        "format_version": 1,
        "backbones": {"main": backbone},
        "branches": {"baseline": one, "multiscale": two, "efficientnet": one},
    }


def test_it_round_trips_through_json() -> None:
    recipe = Recipe.from_json(data())
    again = Recipe.from_json(json.dumps(recipe.to_json()))
    assert again == recipe
    assert again.id == recipe.id
    assert recipe.features("multiscale") == (32 * 16, 1280)
    assert not recipe.random_weights


def test_the_id_is_fixed_for_ever() -> None:
    """Stored vectors carry it: a changed value here would orphan every database."""
    assert Recipe.from_json(data()).id == "tuned.1-4c6a1283dc77"


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    found = [p for key, item in items for p in paths(item, (*path, key))]
    return found or [path]


def test_whatever_determines_a_vector_changes_the_id() -> None:
    recipe = Recipe.from_json(data())
    changed_ids = set()
    changes = {
        ("backbones", "main", "weights", "sha256"): OTHER,
        ("backbones", "main", "preprocess", "inner"): 0.8,
        ("backbones", "main", "preprocess", "mode"): "squash",
        ("backbones", "main", "preprocess", "width"): 224,
        ("backbones", "main", "preprocess", "mean", 1): 0.51,
        ("backbones", "main", "preprocess", "fill", 0): 9,
        ("branches", "baseline", "taps", 0, "p"): 3.0,
        ("branches", "baseline", "taps", 0, "pool"): "max",
        ("branches", "multiscale", "taps", 0, "grid"): 2,
        ("branches", "multiscale", "taps", 0, "layer"): "stride16",
        ("branches", "multiscale", "projection", "sha256"): OTHER,
        ("name",): "tuned.2",
    }
    for path, value in changes.items():
        other = data()
        place = other
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        changed_ids.add(Recipe.from_json(other).id)
    assert recipe.id not in changed_ids
    assert len(changed_ids) == len(changes)


def test_where_bytes_came_from_does_not_change_the_id() -> None:
    other = data()
    other["backbones"]["main"]["weights"].update(name="b.pth", source="declared")
    other["branches"]["baseline"]["projection"].update(seed="s", calibration="c")
    assert Recipe.from_json(other).id == Recipe.from_json(data()).id


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("format_version",), 2, "format_version 2"),
        (("format_version",), None, "format_version None"),
        (("surprise",), 1, "surprise"),
        (("name",), "no spaces", "name"),
        (("backbones", "main", "arch"), "vit", "arch"),
        (("backbones", "main", "surprise"), 1, "surprise"),
        (("backbones", "main", "weights", "sha256"), "abc", "sha256"),
        (("backbones", "main", "weights", "random"), True, "random"),
        (("backbones", "main", "preprocess", "std"), [0, 1, 1], "std"),
        (("backbones", "main", "preprocess", "mean"), [float("nan"), 1, 1], "mean"),
        (("branches", "baseline", "backbone"), "second", "second"),
        (("branches", "baseline", "taps"), [], "taps"),
        (("branches", "baseline", "taps"), [{"layer": "layer4"}], "layer4"),
        (("branches", "baseline", "projection", "outputs"), [511], "512"),
        (("branches", "multiscale", "projection", "outputs"), [512], "2 taps"),
        (("branches",), {}, "baseline, multiscale, efficientnet"),
    ],
)
def test_nonsense_is_refused_by_name(path: tuple[str, ...], value: Any, says: str) -> None:
    wrong = data()
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RecipeError, match=says) as caught:
        Recipe.from_json(wrong)
    assert "\n" not in str(caught.value)


def test_text_that_is_no_recipe_is_refused() -> None:
    for wrong in ("{", "[]", "null", b"\xff"):
        with pytest.raises(RecipeError):
            Recipe.from_json(wrong)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    projection = Projection(kind="signs", sha256=BYTES, outputs=(512,))
    with pytest.raises(ValueError, match="frozen"):
        projection.sha256 = OTHER
