"""Settings from the environment or a `.env` file, checked once at start.

A wrong value raises `SettingsError` with the name of the variable; nothing is silently replaced by a default.
This module imports neither torch nor Dagster nor SQL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from deer_reid_pipeline.errors import SettingsError
from deer_reid_pipeline.zones import is_zone, machine_zone


def _env(name: str) -> AliasChoices:
    return AliasChoices(name)


class Settings(BaseSettings):
    """Where things are and which matcher is live. Field descriptions are shown by `deer-reid doctor`."""

    # The prefix keeps plain names such as HOME or DEVICE from being taken for settings.
    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        populate_by_name=True,
        env_prefix="DEER_REID_",
        case_sensitive=True,
        hide_input_in_errors=True,  # an error that is stored quotes what caused it
    )

    home: Annotated[
        Path,
        Field(
            validation_alias=_env("DEER_REID_HOME"),
            description="Folder for the embedded database, crops, models, weights and reports.",
        ),
    ] = Path(".deer-reid")
    database_url: Annotated[
        str | None,
        Field(
            validation_alias=_env("DATABASE_URL"),
            description="PostgreSQL with pgvector; unset means an embedded server under the home.",
        ),
    ] = None
    dagster_database_url: Annotated[
        str | None,
        Field(
            validation_alias=_env("DEER_REID_DAGSTER_DATABASE_URL"),
            description="Dagster's own storage; unset means the database 'dagster' on the same server.",
        ),
    ] = None
    recipe: Annotated[
        str,
        Field(
            validation_alias=_env("DEER_REID_RECIPE"),
            description="Recipe of a new home: original, reference, lite or mobile.",
            pattern="^(original|reference|lite|mobile)$",
        ),
    ] = "reference"
    device: Annotated[
        str,
        Field(
            validation_alias=_env("DEER_REID_DEVICE"),
            description="auto, cpu, cuda, cuda:N or mps.",
            pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        ),
    ] = "auto"
    weights_dir: Annotated[
        Path | None,
        Field(
            validation_alias=_env("DEER_REID_WEIGHTS_DIR"),
            description="Extra folder searched for weight files before the home's own 'weights'.",
        ),
    ] = None
    offline: Annotated[
        bool,
        Field(
            validation_alias=_env("DEER_REID_OFFLINE"),
            description="true: never try to download weights.",
        ),
    ] = False
    allow_random_weights: Annotated[
        bool,
        Field(
            validation_alias=_env("DEER_REID_ALLOW_RANDOM_WEIGHTS"),
            description="true: missing weights become seeded random ones. For speed trials only: never releasable.",
        ),
    ] = False
    use_enhanced_reid: Annotated[
        bool,
        Field(
            validation_alias=_env("USE_ENHANCED_REID"),
            description="false: match on the v1 column deer.feature_vector, as before the enhancement.",
        ),
    ] = True
    reid_threshold: Annotated[
        float | None,
        Field(
            validation_alias=_env("REID_THRESHOLD"),
            ge=-1.0,
            le=1.0,
            description="Overrides the live release's match threshold (cosine, -1 to 1).",
        ),
    ] = None
    detector: Annotated[
        str,
        Field(
            validation_alias=_env("DEER_REID_DETECTOR"),
            description="Who finds boxes where the drop has none: auto, none, onnx, megadetector or a .onnx file.",
        ),
    ] = "auto"
    min_confidence: Annotated[
        float,
        Field(
            validation_alias=_env("DEER_REID_MIN_CONFIDENCE"),
            ge=0.0,
            le=1.0,
            description="Boxes below this detector confidence are left out (0 to 1).",
        ),
    ] = 0.2
    batch_size: Annotated[
        int,
        Field(
            validation_alias=_env("DEER_REID_BATCH_SIZE"),
            ge=1,
            le=1024,
            description="Crops embedded and stored per transaction; on a card more, where the budget holds more.",
        ),
    ] = 32
    engine: Annotated[
        str,
        Field(
            validation_alias=_env("DEER_REID_ENGINE"),
            description="Where stored crops are embedded: local (this machine) or ray (the cluster at RAY_ADDRESS).",
            pattern="^(local|ray)$",
        ),
    ] = "local"
    precision: Annotated[
        str,
        Field(
            validation_alias=_env("DEER_REID_PRECISION"),
            description="Arithmetic of the networks: auto (what was measured best), float32, bfloat16 or float16.",
            pattern="^(auto|float32|bfloat16|float16)$",
        ),
    ] = "auto"
    backend: Annotated[
        str,
        Field(
            validation_alias=_env("DEER_REID_BACKEND"),
            description="What runs the networks: auto (what was measured best), torch, compile or openvino.",
            pattern="^(auto|torch|compile|openvino)$",
        ),
    ] = "auto"
    vram_mb: Annotated[
        int | None,
        Field(
            validation_alias=_env("DEER_REID_VRAM_MB"),
            ge=1,
            description="MiB of the card's memory that a run may use (1 or more); unset means 75 % of the card.",
        ),
    ] = None
    watch: Annotated[
        Path | None,
        Field(
            validation_alias=_env("DEER_REID_WATCH"),
            description="Folder whose sub-folders are processed by themselves as they arrive; unset: none.",
        ),
    ] = None
    watch_settle_seconds: Annotated[
        float,
        Field(
            validation_alias=_env("DEER_REID_WATCH_SETTLE_SECONDS"),
            ge=0.0,
            le=604800.0,
            description="Seconds that a watched drop without _COMPLETE must be unchanged (0 to 604800).",
        ),
    ] = 120.0
    watch_table_seconds: Annotated[
        float,
        Field(
            validation_alias=_env("DEER_REID_WATCH_TABLE_SECONDS"),
            ge=0.0,
            le=604800.0,
            description="Seconds that pictures without any table wait for one (0 to 604800; 0: not).",
        ),
    ] = 600.0
    watch_drops: Annotated[
        int,
        Field(
            validation_alias=_env("DEER_REID_WATCH_DROPS"),
            ge=1,
            le=1000,
            description="Drops that one tick of the sensor seals at most (1 to 1000).",
        ),
    ] = 10
    watch_mb: Annotated[
        int,
        Field(
            validation_alias=_env("DEER_REID_WATCH_MB"),
            ge=1,
            description="MiB of pictures that one tick of the sensor reads at most, to hash them (1 or more).",
        ),
    ] = 2048
    watch_attempts: Annotated[
        int,
        Field(
            validation_alias=_env("DEER_REID_WATCH_ATTEMPTS"),
            ge=1,
            le=100,
            description="Runs in a row that may fail before a watched drop is left to a person (1 to 100).",
        ),
    ] = 3
    timezone: Annotated[
        str,
        Field(
            validation_alias=_env("DEER_REID_TIMEZONE"),
            description="The site's time zone, an IANA name such as Europe/Berlin; unset: this machine's, else UTC.",
        ),
    ] = Field(default_factory=machine_zone)
    night_start: Annotated[
        str,
        Field(
            validation_alias=_env("DEER_REID_NIGHT_START"),
            description="When the nightly work begins, HH:MM from 00:00 to 23:59 in the site's time zone.",
            pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        ),
    ] = "01:00"
    keep_days: Annotated[
        int,
        Field(
            validation_alias=_env("DEER_REID_KEEP_DAYS"),
            ge=7,
            description="Days that logs of runs and files of reports are kept (7 or more).",
        ),
    ] = 90
    failure_webhook: Annotated[
        str | None,
        Field(
            validation_alias=_env("DEER_REID_FAILURE_WEBHOOK"),
            description="http:// or https:// address that gets a JSON message when a run fails; unset: nobody is told.",
            pattern=r"^https?://[^\s/]\S*$",
            repr=False,  # it may hold a key
        ),
    ] = None
    ui_url: Annotated[
        str,
        Field(
            validation_alias=_env("DEER_REID_UI_URL"),
            description="Address under which people open the UI, for links in reports and messages.",
            pattern=r"^https?://[^\s/]+",
        ),
    ] = "http://127.0.0.1:3000"

    @field_validator(
        "database_url",
        "dagster_database_url",
        "weights_dir",
        "reid_threshold",
        "vram_mb",
        "failure_webhook",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("timezone", mode="before")
    @classmethod
    def _empty_is_the_machines(cls, value: object) -> object:
        return machine_zone() if value == "" else value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if not is_zone(value):
            raise ValueError(f"{value} is no IANA time zone")
        return value

    @field_validator("home", "weights_dir", "watch")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @property
    def crops_dir(self) -> Path:
        return self.home / "crops"

    @property
    def models_dir(self) -> Path:
        """The model store: projections and fine-tuned weights, as safetensors named by their sha256."""
        return self.home / "models"

    @property
    def weight_search_dirs(self) -> tuple[Path, ...]:
        """Folders searched for weight files, first hit wins; the last one is where downloads are kept."""
        own = (self.home / "weights",)
        return own if self.weights_dir is None else (self.weights_dir, *own)

    @property
    def dagster_home(self) -> Path:
        configured = os.environ.get("DAGSTER_HOME")
        return Path(configured).absolute() if configured else self.home / "dagster"


def load_settings() -> Settings:
    """Read and check the settings.

    Raises:
        SettingsError: a variable has a wrong value; the text names it, what is allowed, and the value unless it may be
            a key.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        wrong = str(first["loc"][0]) if first["loc"] else "settings"
        for name, field in Settings.model_fields.items():
            alias = field.validation_alias
            variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else name
            if wrong in (name, variable):
                given = f"{variable}={first.get('input')!r}" if field.repr else f"the value of {variable}"
                raise SettingsError(f"{given} is not usable. {field.description}") from error
        raise SettingsError(f"{wrong}={first.get('input')!r} is not usable: {first['msg']}") from error
