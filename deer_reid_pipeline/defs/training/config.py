"""`TrainingConfig` as the launchpad shows it: the same settings, defaults and help texts."""

from enum import Enum
from typing import Any, Literal, get_args, get_origin

import dagster as dg
from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from deer_reid_pipeline.training.config import TrainingConfig

START = (
    "Name or id of the recipe to start from; empty: the live one. A fine-tuned recipe goes on where it was left, with "
    "what was named since."
)


def _shown(name: str, field: FieldInfo) -> tuple[Any, Any]:
    """A setting as Dagster's configuration knows it, where a choice is an enumeration."""
    if get_origin(field.annotation) is not Literal:
        return field.annotation, field
    # The launchpad lists and completes the members.
    choices: Any = Enum(name.title(), {value: value for value in get_args(field.annotation)})  # type: ignore[misc]
    return choices, Field(default=choices(field.default), description=field.description)


_fields: dict[str, Any] = {name: _shown(name, field) for name, field in TrainingConfig.model_fields.items()}

TrainingSettings: Any = create_model(
    "TrainingSettings", __base__=dg.Config, start=(str, Field(default="", description=START)), **_fields
)


def defaults() -> dict[str, Any]:
    """The default settings as run config; what has no default value is left out."""
    return {name: value for name, value in TrainingConfig().model_dump(mode="json").items() if value is not None}


def config_of(settings: Any) -> TrainingConfig:
    """The settings of a run, without what it starts from.

    Raises:
        ValidationError: a value is out of its range.
    """
    return TrainingConfig.model_validate(settings.model_dump(mode="json", exclude={"start"}))
