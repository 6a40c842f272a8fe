"""The compose file: valid twice over, pinned, without a default secret, and with nothing published but the proxy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import AliasChoices

from deer_reid_pipeline import __version__
from deer_reid_pipeline.settings import Settings
from deer_reid_pipeline_tests.conftest import REPO
from deer_reid_pipeline_tests.deploy.compose_file import (
    VARIABLE,
    compose,
    example_variables,
    in_starting_order,
    services,
)

SECRETS = {"POSTGRES_PASSWORD", "PROXY_CERTIFICATE", "PROXY_KEY", "PROXY_USERS"}
PROFILES = ("gpu", "ray", "backup")
ONCE = {"migrate", "backup"}
"""Services that end by themselves."""

OF_A_PLACE = {
    "DEER_REID_HOME",  # the image's
    "DEER_REID_WEIGHTS_DIR",  # the home's own folder
    "DEER_REID_DAGSTER_DATABASE_URL",  # beside the other database
    "DEER_REID_ALLOW_RANDOM_WEIGHTS",  # for trials only
}
"""Settings that the compose file does not pass on."""


def debian_compose(folder: Path, **values: str) -> subprocess.CompletedProcess[str]:
    """Debian's `docker-compose config` on the file, with an env file of these values."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (apt-get install docker-compose)")
    env = folder / "env"
    env.write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")
    profiles = [word for name in PROFILES for word in ("--profile", name)]
    return subprocess.run(
        [program, "--file", str(REPO / "docker-compose.yml"), "--env-file", str(env), *profiles, "config"],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def schema() -> dict[str, Any]:
    """The compose specification's JSON schema, as a package of the index ships it."""
    text = (files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text(encoding="utf-8")
    return json.loads(text)


def test_the_file_is_valid_by_the_schema_of_the_compose_specification() -> None:
    jsonschema.validate(compose(), schema())
    wrong = compose()
    wrong["services"]["proxy"]["port"] = ["443:8443"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema())


def test_the_file_is_valid_by_debians_docker_compose(tmp_path: Path) -> None:
    asked, _ = example_variables()
    done = debian_compose(tmp_path, **{name: f"/a/{name}" for name in asked})
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)
    assert set(told["services"]) == set(services())
    assert told["services"]["proxy"]["ports"] == [{"published": 443, "target": 8443}]
    assert told["services"]["db"]["environment"]["POSTGRES_PASSWORD"] == "/a/POSTGRES_PASSWORD"


@pytest.mark.parametrize("missing", sorted(SECRETS | {"DEER_REID_WATCH"}))
def test_what_must_be_set_is_asked_for_by_name(missing: str, tmp_path: Path) -> None:
    asked, _ = example_variables()
    given = {name: f"/a/{name}" for name in asked}
    done = debian_compose(tmp_path, **{**given, missing: ""})
    assert done.returncode != 0
    assert "set it in .env" in done.stderr
    assert missing in done.stderr


def test_no_secret_has_a_default() -> None:
    text = (REPO / "docker-compose.yml").read_text(encoding="utf-8")
    uses = VARIABLE.findall(text)
    assert {name for name, _, _ in uses} >= SECRETS
    for name, kind, _ in uses:
        assert kind == ("?" if name in SECRETS | {"DEER_REID_WATCH"} else "-"), name
    for name, one in services().items():
        for key, value in (one.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|TOKEN", key):
                assert str(value).startswith("${POSTGRES_PASSWORD:?"), f"{name}: {key}"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value or "")), f"{name}: {key} holds a password"


def test_the_example_has_every_variable_and_no_value() -> None:
    text = (REPO / "docker-compose.yml").read_text(encoding="utf-8")
    used = {name for name, _, _ in VARIABLE.findall(text)}
    passed_on = {key for one in services().values() for key, value in one["environment"].items() if value is None}
    asked, offered = example_variables()
    assert asked == SECRETS | {"DEER_REID_WATCH"}
    assert asked | offered == used | passed_on | {"COMPOSE_PROFILES"}


def test_every_setting_reaches_the_containers() -> None:
    names = set()
    for field in Settings.model_fields.values():
        assert isinstance(field.validation_alias, AliasChoices)
        names.add(str(field.validation_alias.choices[0]))
    assert names - OF_A_PLACE <= set(services()["code"]["environment"])


def test_every_image_has_a_full_version() -> None:
    images = {one["image"] for one in services().values()}
    images |= set(re.findall(r"^FROM (\S+)", (REPO / "Dockerfile").read_text(encoding="utf-8"), re.M))
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+", image), f"{image} is not pinned"
    assert f"deer-reid:{__version__}" in images


def test_nothing_is_published_but_the_proxy_and_nothing_may_more_than_it_must() -> None:
    for name, one in services().items():
        assert ("ports" in one) == (name == "proxy"), name
        assert "network_mode" not in one
        assert not one.get("privileged")
        assert "no-new-privileges:true" in one["security_opt"]
        assert not any("docker.sock" in str(volume) for volume in one["volumes"])
        if name not in ("db", "proxy"):
            assert one["cap_drop"] == ["ALL"]
    assert [port.rpartition(":")[2] for port in services()["proxy"]["ports"]] == ["8443"]


def test_what_keeps_running_is_looked_after() -> None:
    for name, one in services().items():
        assert one["restart"] == ("no" if name in ONCE else "unless-stopped"), name
        assert ("healthcheck" in one) == (name not in ONCE), name


def test_everything_starts_after_the_migration_and_the_proxy_last() -> None:
    order = in_starting_order()
    assert order == ["db", "migrate", "code", "daemon", "webserver", "proxy"]
    for name in order:
        for earlier, how in services()[name].get("depends_on", {}).items():
            wanted = "service_completed_successfully" if earlier == "migrate" else "service_healthy"
            assert how == {"condition": wanted}, f"{name} after {earlier}"
    assert "code-gpu" in in_starting_order("gpu")
    assert "ray" in in_starting_order("ray")


def test_drops_are_read_only_and_kept_data_are_in_volumes() -> None:
    for name, one in services().items():
        drops = [volume for volume in one["volumes"] if volume.split(":/")[-1].startswith("drops")]
        assert all(volume.endswith(":ro") for volume in drops)
        if name not in ("db", "proxy"):
            assert "home:/data" in one["volumes"], name
    assert "database:/var/lib/postgresql" in services()["db"]["volumes"]
    assert set(compose()["volumes"]) == {"home", "database"}


def test_the_proxy_gets_every_variable_of_its_configuration() -> None:
    template = (REPO / "deploy" / "proxy" / "deer-reid.conf.template").read_text(encoding="ascii")
    names = {name for name, _, _ in VARIABLE.findall(template)}
    assert names == {name for name in services()["proxy"]["environment"] if name.startswith("PROXY_")}
    guide = (REPO / "docs" / "operations.md").read_text(encoding="utf-8")
    assert names == set(re.findall(r"\$(PROXY_\w+)", guide)), "the guide fills in others"
