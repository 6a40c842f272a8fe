"""The benchmarks' settings as the launchpad shows them: the same defaults and help texts."""

from typing import Any, TypeVar

import dagster as dg
from pydantic import BaseModel, Field, ValidationError, create_model

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.steps.benchmark.config import BenchmarkConfig, GpuMemoryConfig

C = TypeVar("C", bound=BaseModel)


def _shown(name: str, model: type[BaseModel]) -> Any:
    fields: dict[str, Any] = {
        key: (field.annotation, Field(default=field.default, description=field.description))
        for key, field in model.model_fields.items()
    }
    return create_model(name, __base__=dg.Config, **fields)


BenchmarkSettings: Any = _shown("BenchmarkSettings", BenchmarkConfig)
GpuMemorySettings: Any = _shown("GpuMemorySettings", GpuMemoryConfig)


def config_of(model: type[C], settings: Any) -> C:
    """The settings of a run, checked.

    Raises:
        DeerReidError: a value is out of its range; the text names the setting.
    """
    return checked(model, settings.model_dump())


def checked(model: type[C], values: dict[str, Any]) -> C:
    """The settings out of plain values.

    Raises:
        DeerReidError: a value is out of its range; the text names the setting.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        said = str(first["msg"]).removeprefix("Value error, ")
        raise DeerReidError(f"{name}={first.get('input')!r} cannot be used: {said}") from error
