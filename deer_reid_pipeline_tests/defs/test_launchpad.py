"""Settings that the launchpad shows: a value that cannot be used is said in words, wherever it came from."""

from typing import Any

import dagster as dg
import pytest
from pydantic import BaseModel

from deer_reid_pipeline.defs.automation.failures import failed_run
from deer_reid_pipeline.defs.launchpad import checked, config_of, defaults
from deer_reid_pipeline.defs.performance.config import BenchmarkSettings
from deer_reid_pipeline.defs.training.config import TrainingSettings
from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig
from deer_reid_pipeline.training.config import TrainingConfig
from deer_reid_pipeline_tests.defs.automation.test_failures import context_of

SETTINGS: dict[str, tuple[type[BaseModel], Any]] = {
    "training": (TrainingConfig, TrainingSettings),
    "benchmark": (BenchmarkConfig, BenchmarkSettings),
}


@dg.asset
def trained(config: TrainingSettings) -> None:  # type: ignore[valid-type]
    config_of(TrainingConfig, config)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_launchpad_opens_with_are_the_defaults(name: str) -> None:
    model, shown = SETTINGS[name]
    assert config_of(model, shown(**defaults(model))) == model()
    assert config_of(model, shown()) == model()


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("training", {"folds": 1}, "folds=1 cannot be used: one fold would be trained on nobody"),
        ("training", {"epochs": 0}, "epochs=0 cannot be used: Input should be greater than or equal to 1"),
        ("benchmark", {"megapixels": [1000.0]}, r"megapixels=\[1000\.0\] cannot be used: .*0\.02 to 100"),
        ("benchmark", {"batches": []}, r"batches=\[\] cannot be used: "),
    ],
)
def test_a_value_out_of_range_is_the_same_sentence_from_everywhere(name: str, values: Any, said: str) -> None:
    model, shown = SETTINGS[name]
    with pytest.raises(DeerReidError, match=said):
        checked(model, values)
    with pytest.raises(DeerReidError, match=said):
        config_of(model, shown(**values))


def test_an_unknown_setting_and_a_wrong_choice_are_said_with_what_there_is() -> None:
    with pytest.raises(DeerReidError, match="learnrate='1' cannot be used: there is no such setting; known are loss,"):
        checked(TrainingConfig, {"learnrate": "1"})
    with pytest.raises(DeerReidError, match=r"loss='guessing' cannot be used: .*'triplet'"):
        checked(TrainingConfig, {"loss": "guessing"})


@pytest.mark.parametrize("values", [{"folds": 1}, {"epochs": 0}, {"margin": 90.0}])
def test_a_run_with_a_wrong_value_asks_a_person_to_correct_it(
    instance: dg.DagsterInstance, values: dict[str, Any]
) -> None:
    result = dg.materialize(
        [trained], instance=instance, run_config={"ops": {"trained": {"config": values}}}, raise_on_error=False
    )
    assert not result.success
    run = failed_run(context_of(instance, result), "http://ui")
    assert run.why.startswith(f"{next(iter(values))}=")
    assert run.what_to_do.startswith("Do what the error says.")
