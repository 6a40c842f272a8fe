"""Settings come from their own names only, and a wrong value is said with the name and what is allowed."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from deer_reid_pipeline.errors import SettingsError
from deer_reid_pipeline.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DEER_REID_HOME", "DEER_REID_RECIPE", "DEER_REID_DEVICE", "DATABASE_URL", "REID_THRESHOLD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_plain_names_of_the_environment_are_not_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "home", "DEVICE", "RECIPE", "OFFLINE", "DETECTOR", "BATCH_SIZE"):
        monkeypatch.setenv(name, "/nowhere")
    settings = load_settings()
    assert settings.home == tmp_path / ".deer-reid"
    assert (settings.device, settings.recipe, settings.detector) == ("auto", "reference", "auto")


def test_the_default_home_is_in_the_current_folder_and_relative_homes_become_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEER_REID_HOME", "elsewhere")
    assert load_settings().home == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("DEER_REID_DEVICE", "gpu", "auto, cpu, cuda, cuda:N or mps"),
        ("DEER_REID_RECIPE", "lyte", "original, reference, lite or mobile"),
        ("REID_THRESHOLD", "4", "-1 to 1"),
        ("USE_ENHANCED_REID", "perhaps", "false"),
        ("DEER_REID_BATCH_SIZE", "0", "per transaction"),
        ("DEER_REID_WATCH_SETTLE_SECONDS", "soon", "0 to 604800"),
        ("DEER_REID_WATCH_DROPS", "0", "1 to 1000"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}='{value}'") as caught:
        load_settings()
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    "value", ["hooks.example/services/very-secret", "https://hooks.example/services/very secret", "very-secret"]
)
def test_a_wrong_address_with_a_key_is_not_said(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DEER_REID_FAILURE_WEBHOOK", value)
    with pytest.raises(SettingsError, match=r"^the value of DEER_REID_FAILURE_WEBHOOK is not usable") as caught:
        load_settings()
    told = "".join(traceback.format_exception(caught.value))
    assert "https:// address" in told
    assert "secret" not in told, "what caused it is stored beside it"


@pytest.mark.parametrize("value", ["https://hooks.example/services/T0/B0?key=x%20y", "http://127.0.0.1:9"])
def test_an_address_is_taken(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DEER_REID_FAILURE_WEBHOOK", value)
    assert load_settings().failure_webhook == value


def test_an_empty_value_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REID_THRESHOLD", "DEER_REID_WEIGHTS_DIR"):
        monkeypatch.setenv(name, "")
    settings = load_settings()
    assert (settings.database_url, settings.reid_threshold, settings.weights_dir) == (None, None, None)


def test_a_dotenv_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEER_REID_RECIPE=lite\n")
    assert load_settings().recipe == "lite"
    assert "recipe" in load_settings().model_fields_set


def test_which_recipe_was_chosen_on_purpose_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "recipe" not in Settings(_env_file=None).model_fields_set  # type: ignore[call-arg]
    monkeypatch.setenv("DEER_REID_RECIPE", "mobile")
    assert "recipe" in Settings(_env_file=None).model_fields_set  # type: ignore[call-arg]
