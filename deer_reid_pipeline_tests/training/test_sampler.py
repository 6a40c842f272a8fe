"""Batches: several encounters of each class, everybody in turn, the same ones for one seed."""

from __future__ import annotations

from collections import Counter

from deer_reid_pipeline.training.dataset import Picture
from deer_reid_pipeline.training.sampler import EncounterSampler

# One animal with a thousand pictures, one with a single one, and forty as usual.
PICTURES = (
    [Picture(f"big{i}", "big", "left", f"b{i // 4}") for i in range(1000)]
    + [Picture("single", "single", "left", "s")]
    + [Picture(f"{who}-{i}", f"deer {who}", "left", f"e{who}-{i // 2}") for who in range(40) for i in range(6)]
)


def sampler(mirrored: bool = True, seed: int = 3) -> EncounterSampler:
    return EncounterSampler(PICTURES, classes=8, pictures_per_class=4, mirrored=mirrored, seed=seed)


def test_no_two_pictures_of_a_class_in_a_batch_are_of_one_encounter() -> None:
    for batch in sampler().epoch(1, 40):
        seen = Counter((item.label, PICTURES[item.index].encounter) for item in batch)
        assert max(seen.values()) == 1


def test_a_mirrored_picture_is_of_another_class() -> None:
    each = sampler()
    labels: dict[tuple[str, bool], set[int]] = {}
    for batch in each.epoch(1, 200):
        for item in batch:
            labels.setdefault((PICTURES[item.index].individual, item.mirrored), set()).add(item.label)
    assert all(len(found) == 1 for found in labels.values())
    assert len(set.union(*labels.values())) == len(each.classes) == 2 * 42


def test_without_mirroring_there_is_none() -> None:
    each = sampler(mirrored=False)
    assert len(each.classes) == 42
    assert not any(item.mirrored for batch in each.epoch(1, 20) for item in batch)


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    first = list(sampler().epoch(2, 10))
    assert list(sampler().epoch(2, 10)) == first
    assert list(sampler().epoch(3, 10)) != first
    assert list(sampler(seed=4).epoch(2, 10)) != first


def test_a_thousand_pictures_do_not_crowd_out_the_rest_and_a_single_one_is_shown() -> None:
    shown = Counter(PICTURES[item.index].individual for batch in sampler().epoch(1, 300) for item in batch)
    usual = [shown[f"deer {who}"] for who in range(40)]
    assert shown["big"] < 4 * max(usual)
    assert shown["single"] > 0
    assert min(usual) > 0
    assert all(len(batch) == 32 for batch in sampler().epoch(1, 5))


def test_classes_say_whose_they_are_and_where_nobody_said_the_flank() -> None:
    seen = [Picture("a", "x", "left", "1"), Picture("b", "x", "", "2"), Picture("c", "y", "right", "3")]
    each = EncounterSampler(seen, classes=2, pictures_per_class=2, mirrored=True, seed=1)
    items = [item for batch in each.epoch(1, 40) for item in batch]
    for item in items:
        picture = seen[item.index]
        assert bool(each.classes.flank_unknown[item.label]) == (picture.flank == "")
    animal = {(seen[item.index].individual, item.mirrored): int(each.classes.animal[item.label]) for item in items}
    assert sorted(animal.values()) == [0, 1, 2, 3], "mirrored, an animal is another one"
    assert len(each.classes) == 6
