"""Typed settings of a job as Dagster's launchpad shows them, and the way back, checked.

The launchpad knows names, types, choices, defaults and help texts. What else a value has to be is asked of the typed
settings alone, so that a wrong one is the same sentence from the launchpad and from the command line.
"""

from enum import Enum
from typing import Any, Literal, TypeVar, get_args, get_origin

import dagster as dg
from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from deer_reid_pipeline.errors import DeerReidError

C = TypeVar("C", bound=BaseModel)


def shown(name: str, model: type[BaseModel], **more: tuple[Any, Any]) -> Any:
    """Settings as a `dg.Config` class.

    Args:
        more: what a run is asked beside the settings, as pydantic's `create_model` takes fields.
    """
    fields: dict[str, Any] = {**more, **{key: _field(key, field) for key, field in model.model_fields.items()}}
    return create_model(name, __base__=dg.Config, **fields)


def _field(name: str, field: FieldInfo) -> tuple[Any, Any]:
    if get_origin(field.annotation) is not Literal:
        return field.annotation, Field(default=field.get_default(), description=field.description)
    # The launchpad lists and completes the members.
    choices: Any = Enum(name.title(), {value: value for value in get_args(field.annotation)})  # type: ignore[misc]
    return choices, Field(default=choices(field.get_default()), description=field.description)


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The default settings as run config; what has no default value is left out."""
    return model().model_dump(mode="json", exclude_none=True)


def config_of(model: type[C], settings: Any) -> C:
    """The settings of a run, without what it is asked beside them.

    Raises:
        DeerReidError: a value cannot be used; the text names the setting.
    """
    return checked(model, settings.model_dump(mode="json", include=set(model.model_fields)))


def checked(model: type[C], values: dict[str, Any]) -> C:
    """The settings out of plain values.

    Raises:
        DeerReidError: a value cannot be used, or there is no such setting; the text names it and says what is allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        said = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            said = f"there is no such setting; known are {', '.join(model.model_fields)}"
        raise DeerReidError(f"{name}={first.get('input')!r} cannot be used: {said}") from error
