"""SQL, HTML, Markdown, formulas and terminal sequences in names: kept as written or refused, never acted on."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from deer_reid_pipeline import cli
from deer_reid_pipeline.defs.ingest.assets import _as_list
from deer_reid_pipeline.steps.drops import register_drop
from deer_reid_pipeline.steps.images import ascii_line, store_images
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import describe_drop, markdown_text
from deer_reid_pipeline.terminal import Console
from deer_reid_pipeline_tests.hostile.test_pictures import claims, noise, progressive
from deer_reid_pipeline_tests.ingest.drops import codes, picture, read, table
from deer_reid_pipeline_tests.sites import (
    OUR_TABLES,
    OWNER_TABLES,
    part_of_herd,
    query,
    read_table,
    row_counts,
    run_all,
)

NAMES = [
    "Robert'); DROP TABLE deer;--",
    "' OR '1'='1",
    "\\'; DELETE FROM images; --",
    "$$; DROP TABLE deer; $$",
    "%(name)s %s %n",
    ":name {{7*7}} ${jndi:ldap://example.invalid/x}",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "![x](https://example.invalid/x.png)",
    "[x](javascript:alert(1)) `code` **bold**",
    "=cmd|'/C calc'!A0",
    "@SUM(1+1)",
    "\u202egnp.exe",
]
CONTROLS = ["\x1b[2J", "\x1b]0;title\x07", "\x07", "\r", "\x9b31m", "\x00", "a\nb", "\u2028"]


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@pytest.mark.parametrize("column", ["individualID", "eventID", "deploymentID"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_as_it_is_written(tmp_path: Path, column: str, name: str) -> None:
    picture(tmp_path, "a.jpg")
    table(tmp_path, f"filePath,{column}\na.jpg,{quoted(name)}\n")
    (record,) = read(tmp_path).media
    (found,) = record.boxes or ()
    kept = {"individualID": found.individual_id, "eventID": record.event_id, "deploymentID": record.deployment_id}
    assert kept[column] == name


@pytest.mark.parametrize("column", ["individualID", "eventID", "deploymentID"])
@pytest.mark.parametrize("control", CONTROLS)
def test_control_characters_in_a_name_are_refused(tmp_path: Path, column: str, control: str) -> None:
    picture(tmp_path, "a.jpg")
    table(tmp_path, f"filePath,{column}\na.jpg,{quoted(f'x{control}y')}\n")
    contents = read(tmp_path)
    (record,) = contents.media
    if column == "individualID":
        assert [code for _, code in codes(contents)] == ["bad_value"]
        assert record.boxes == ()
    else:
        assert (record.event_id, record.deployment_id) == (None, None)
        assert any("control characters" in line for line in contents.warnings)
    assert all(line.isprintable() for line in [*contents.warnings, *(entry.reason for entry in contents.quarantined)])


@pytest.mark.parametrize("control", CONTROLS)
def test_nothing_that_is_printed_steers_the_terminal(control: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=False)
    console.rich = RichConsole(file=io.StringIO(), width=200, force_terminal=True, markup=False, highlight=False)
    console.say(f"x{control}y")
    shown = console.rich.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("\n") == 1
    assert shown.rstrip("\n").isprintable()
    assert shown.isascii()
    with pytest.raises(SystemExit):
        cli._fail(f"no such drop: x{control}y", 1)
    told = capsys.readouterr().err
    assert told.startswith("Error: no such drop: x")
    assert told.rstrip("\n").isprintable()
    assert ascii_line(f"x{control}y").isprintable()
    assert markdown_text(f"x{control}y").isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_and_does_nothing_with_it(name: str) -> None:
    text = markdown_text(name)
    assert not set(text) & set("<>|`[]*_~\\")
    assert not re.search(r"&(?!(amp|lt|gt|#\d+);)", text)
    assert _as_list([name]) == f"- {text}"


def test_every_page_escapes_by_itself() -> None:
    package = Path(cli.__file__).parent
    pages = sorted(package.rglob("*.j2"))
    assert len(pages) >= 3
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape\s+false|<script|\bon\w+=", text), page.name
        if "<html" in text:
            assert "default-src 'none'" in text, f"{page.name} may fetch or run something"
    made = [
        (path, call)
        for path in package.rglob("*.py")
        for call in re.findall(r"Environment\((?:[^()]|\([^()]*\))*\)", path.read_text(encoding="utf-8"))
        if "loader" in call
    ]
    assert made
    assert all("autoescape=True" in call for _, call in made)
    assert not any("Markup(" in path.read_text(encoding="utf-8") for path in package.rglob("*.py"))


@pytest.fixture
def drop(herd: Path, tmp_path: Path) -> Path:
    """Pictures of the herd with one animal each, under hostile names in a folder with one."""
    rows = read_table(herd / "observations.csv")
    files = [row["filePath"] for row in rows]
    single = [row for row in rows if files.count(row["filePath"]) == 1][: len(NAMES)]
    assert len(single) == len(NAMES)
    named = [
        {**row, "individualID": name, "eventID": f"{name[:60]} {number}", "deploymentID": name}
        for number, (row, name) in enumerate(zip(single, NAMES, strict=True))
    ]
    return part_of_herd(herd, tmp_path / "'; DROP TABLE drops;-- <b>\x1b[31m", named)


def test_hostile_names_go_through_the_whole_pipeline_as_text(site: Site, drop: Path) -> None:
    from deer_reid_pipeline.exports import write_results
    from deer_reid_pipeline.steps.summary import seen_in_drop

    key, summary = run_all(site, drop)
    assert re.fullmatch(r"[a-z0-9_-]+", key)
    assert summary.images == len(NAMES)
    stored = {name for (name,) in query(site, "SELECT name FROM deer")}
    assert stored == set(NAMES)
    assert {name for (name,) in query(site, "SELECT deployment_id FROM images")} == set(NAMES)
    assert set(row_counts(site)) == {*OWNER_TABLES, *OUR_TABLES}
    assert query(site, "SELECT name FROM drops") == [(drop.name,)]
    write_results(drop / "out.csv", [item.row for item in seen_in_drop(site, key)])
    written = {row["individualID"] for row in read_table(drop / "out.csv")}
    assert written == {f"'{name}" if name[0] in "=+-@" else name for name in NAMES}


def test_a_drop_of_hostile_files_is_processed_and_told(site: Site, tmp_path: Path) -> None:
    """Bombs, endless names and control characters stop nothing: the one good picture is stored."""
    root = tmp_path / "drop"
    good = "good \x1b[31m\x07 <b>|`x`.png"
    (root / "deep").mkdir(parents=True)
    noise().save(root / good)
    (root / "gif.gif").write_bytes(claims("gif", 60_000, 60_000))
    (root / "png.png").write_bytes(claims("png", 60_000, 60_000))
    (root / "scans.jpg").write_bytes(progressive(5000))
    (root / "bad \x1b[2J\n.png").write_bytes(b"no picture")
    picture(root, "/".join(["n" * 240] * 6) + "/x.png", b"x")
    table(root, f"filePath,individualID\n{quoted(good)},N1\n../secret.png,N2\n")
    key = register_drop(site, root, "auto").key
    assert store_images(site, key).stored == 1
    found = describe_drop(site, key)
    assert sorted(row.code for row in found.quarantined) == [
        "bad_name",
        "not_an_image",
        "path_outside",
        "too_many_pixels",
        "too_many_pixels",
        "too_many_scans",
    ]
    assert found.quarantine_table().replace("\n", "").isprintable()
    assert query(site, "SELECT filename FROM images") == [(good,)]
