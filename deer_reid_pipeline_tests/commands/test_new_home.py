"""Commands that only read leave no home behind where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from deer_reid_pipeline.cli import main


@pytest.mark.parametrize("command", [["release", "status"], ["export", "seen.csv"], ["validate"], ["reembed"]])
def test_a_command_that_reads_makes_no_home_and_names_one_that_may_be_meant(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    (home / "sample" / "postgres").mkdir(parents=True)
    for name in ("DATABASE_URL", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEER_REID_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["deer-reid", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert f"there is nothing in the home {home} yet: begin it with 'deer-reid process FOLDER'" in said
    assert f"There is one in {home / 'sample'}." in said
    assert [path.name for path in home.iterdir()] == ["sample"]
