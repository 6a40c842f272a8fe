"""Who is trained on, validated and judged: by name, whole individuals, stable as data grows."""

from __future__ import annotations

import pytest

from deer_reid_pipeline.training.dataset import (
    TEST,
    TRAIN,
    VALIDATION,
    Picture,
    TrainingSet,
    folds_of,
    one_split,
    part_of,
    refuse_too_little,
)
from deer_reid_pipeline.training.errors import TrainingError


def herd(individuals: int, encounters: int = 3, pictures: int = 1) -> TrainingSet:
    return TrainingSet(
        tuple(
            Picture(f"p{who}-{when}-{which}", f"deer {who}", "left", f"e{who}-{when}")
            for who in range(individuals)
            for when in range(encounters)
            for which in range(pictures)
        )
    )


def test_an_individual_stays_in_its_part_as_the_herd_grows() -> None:
    before = {name: part_of(name) for name in herd(50).individuals}
    after = {name: part_of(name) for name in herd(400).individuals}
    assert before.items() <= after.items()
    shares = [sum(part == wanted for part in after.values()) / 400 for wanted in (TRAIN, VALIDATION, TEST)]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.05)


def test_one_split_has_everybody_once() -> None:
    names = herd(60).individuals
    split = one_split(names)
    assert split.train | split.validation | split.test == set(names)
    assert len(split.train) + len(split.validation) + len(split.test) == len(names)


def test_folds_judge_everybody_once_and_never_train_on_whom_they_judge() -> None:
    names = herd(60).individuals
    splits = folds_of(names, 5)
    assert sorted(name for split in splits for name in split.test) == sorted(names)
    for split in splits:
        assert not split.test & (split.train | split.validation)
        assert not split.train & split.validation
        assert split.train | split.validation | split.test == set(names)


def test_the_digest_follows_content_and_not_order() -> None:
    data = herd(4)
    assert TrainingSet(tuple(reversed(data.pictures))).digest == data.digest
    first, *others = data.pictures
    renamed = TrainingSet((Picture(first.key, "another", first.flank, first.encounter), *others))
    assert renamed.digest != data.digest


def test_counts_tell_classes_from_individuals() -> None:
    data = TrainingSet(
        (
            Picture("a", "x", "left", "e1"),
            Picture("b", "x", "left", "e2"),
            Picture("c", "x", "right", "e2"),
            Picture("d", "y", "", "e3"),
        )
    )
    counts = data.counts()
    assert (counts["individuals"], counts["returning_individuals"]) == (2, 1)
    assert (counts["classes"], counts["returning_classes"]) == (3, 1)
    assert (counts["pictures_left"], counts["pictures_right"], counts["pictures_unknown_flank"]) == (2, 1, 1)
    assert data.of(frozenset()).counts()["pictures_unknown_flank"] == 0, "said also where there are none"


def test_three_labelled_animals_are_too_few() -> None:
    data = herd(3)
    with pytest.raises(TrainingError, match=r"3 individuals were named .* needs 10"):
        refuse_too_little(data, folds_of(data.individuals, 5))


def test_animals_met_once_teach_nothing() -> None:
    data = herd(40, encounters=1, pictures=5)
    with pytest.raises(TrainingError, match="0 of them were met twice"):
        refuse_too_little(data, [one_split(data.individuals)])


def test_a_fold_without_animals_to_judge_by_is_refused() -> None:
    data = herd(12)
    with pytest.raises(TrainingError, match="choose fewer folds"):
        refuse_too_little(data, folds_of(data.individuals, 12))


def test_enough_is_enough() -> None:
    data = herd(60)
    refuse_too_little(data, folds_of(data.individuals, 5))


def test_what_cannot_be_read_is_no_part_of_what_is_enough() -> None:
    data = herd(60)
    splits = folds_of(data.individuals, 5)
    lost = frozenset(p.key for p in data.pictures if p.individual in splits[2].validation)
    with pytest.raises(TrainingError, match=rf"validate on in fold 2.* bring back the {len(lost)} labelled pictures"):
        refuse_too_little(data.without(lost), splits, len(lost))
    most = frozenset(p.key for p in data.pictures[: int(0.9 * len(data.pictures))])
    with pytest.raises(TrainingError, match=r"in 18 pictures that can be read.* bring back the 162 labelled pictures"):
        refuse_too_little(data.without(most), splits, len(most))
    among = splits[2].among(data.without(lost).individuals)
    assert (among.validation, among.train, among.test) == (frozenset(), splits[2].train, splits[2].test)
