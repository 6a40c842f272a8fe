"""What torch says of operations without a deterministic way is heard, and stands on the model card."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from deer_reid_pipeline.steps.training_report import words
from deer_reid_pipeline.training.repeatable import unrepeatable


@pytest.fixture
def _warned_of() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_warned_of")
def test_torchs_own_words_are_heard_once_though_warnings_are_ignored() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("ignore")
        with unrepeatable() as said:
            for _ in range(3):
                torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
            warnings.warn("something else", stacklevel=1)
        torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))
    (sentence,) = said
    assert "put_" in sentence
    assert "does not have a deterministic implementation" in sentence
    assert "Triggered internally" not in sentence
    assert shown == [], "what is ignored stays ignored, and nothing is heard afterwards"


def test_other_warnings_are_shown_as_before() -> None:
    with pytest.warns(UserWarning, match="something else"), unrepeatable() as said:
        warnings.warn("something else", stacklevel=1)
    assert said == []


def test_the_model_card_says_it_only_where_torch_did() -> None:
    told = [{"number": 1}, {"number": 2, "unrepeatable": ["x does not have a deterministic implementation"]}]
    outcome = SimpleNamespace(logs={"fold0-main": told, "fold1-main": told})
    (line,) = words.unrepeatable(outcome)  # type: ignore[arg-type]
    assert line.endswith("Torch's words: x does not have a deterministic implementation.")
    assert words.unrepeatable(SimpleNamespace(logs={"fold0-main": told[:1]})) == ()  # type: ignore[arg-type]
