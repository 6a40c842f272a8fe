"""Which zone a machine is set to, and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from deer_reid_pipeline.errors import SettingsError
from deer_reid_pipeline.settings import load_settings
from deer_reid_pipeline.zones import is_zone, machine_zone


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TZ", "DEER_REID_TIMEZONE", "DEER_REID_NIGHT_START"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_machines_zone_is_what_it_says_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_zone(tmp_path) == "UTC", "a machine that says nothing"
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/America/Chicago")
    assert machine_zone(tmp_path) == "America/Chicago"
    (tmp_path / "timezone").write_text("Europe/Berlin\n")
    assert machine_zone(tmp_path) == "Europe/Berlin"
    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    assert machine_zone(tmp_path) == "Asia/Tokyo"
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    assert machine_zone(tmp_path) == "Europe/Berlin", "a rule is no name"


@pytest.mark.parametrize("name", ["", "Europe/Berln", "../etc/passwd", "/etc/localtime", "europe berlin"])
def test_what_is_no_zone_is_refused_with_what_is_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_zone(name)
    monkeypatch.setenv("DEER_REID_TIMEZONE", name)
    if name:
        with pytest.raises(SettingsError, match=r"DEER_REID_TIMEZONE=.*IANA name such as Europe/Berlin"):
            load_settings()
    else:
        assert is_zone(load_settings().timezone)


@pytest.mark.parametrize("start", ["24:00", "1:00", "01:60", "noon"])
def test_a_wrong_start_of_the_night_is_said(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEER_REID_NIGHT_START", start)
    with pytest.raises(SettingsError, match=r"DEER_REID_NIGHT_START=.*HH:MM from 00:00 to 23:59"):
        load_settings()
