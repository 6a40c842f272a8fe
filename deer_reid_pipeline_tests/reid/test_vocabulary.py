"""The owner's words and the Camtrap DP words."""

import pytest

from deer_reid_pipeline.reid.vocabulary import agreed_sex, classification_of, sex_of


@pytest.mark.parametrize(
    ("word", "sex"),
    [
        ("buck", "male"),
        ("mature", "male"),
        ("mid", "male"),
        ("young", "male"),
        ("doe", "female"),
        ("fawn", "unknown"),
        ("unknown", "unknown"),
        (None, "unknown"),
        ("BUCK", "male"),
    ],
)
def test_sex_of_the_owners_words(word: str | None, sex: str) -> None:
    assert sex_of(word) == sex


@pytest.mark.parametrize(
    ("sex", "stage", "word"),
    [
        ("male", None, "buck"),
        ("female", "adult", "doe"),
        ("male", "juvenile", "fawn"),
        (None, None, "unknown"),
    ],
)
def test_classification_of_camtrap_words(sex: str | None, stage: str | None, word: str) -> None:
    assert classification_of(sex, stage) == word


def test_contradicting_sexes_are_unknown() -> None:
    assert agreed_sex(["male", "unknown"]) == "male"
    assert agreed_sex(["male", "female"]) == "unknown"
    assert agreed_sex([]) == "unknown"
