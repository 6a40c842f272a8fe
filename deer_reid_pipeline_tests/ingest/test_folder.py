"""What a folder may hold: mixtures, links, copies, odd names, and files that change."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import pytest

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest import read_drop, seal_drop
from deer_reid_pipeline.ingest import seal as seal_module
from deer_reid_pipeline_tests.ingest.drops import box, codes, detections, media, picture, read, table


def test_pictures_alone_in_every_suffix_and_other_files(tmp_path: Path) -> None:
    names = [
        f"p{n}{suffix}" for n, suffix in enumerate([".jpg", ".JPEG", ".png", ".tif", ".TIFF", ".bmp", ".webp", ".gif"])
    ]
    for name in [*names, "notes.txt", "Thumbs.db", "sub/ground_truth.csv", "sub/observations.csv"]:
        picture(tmp_path, name)
    for silent in ("_COMPLETE", ".hidden.jpg", ".thumbs/a.jpg"):
        picture(tmp_path, silent)
    contents = read(tmp_path)
    assert contents.layout == "images"
    assert sorted(record.file_path for record in contents.media) == sorted(names)
    assert all(record.boxes is None for record in contents.media)
    assert contents.warnings == ("4 other files ignored (Thumbs.db, notes.txt, sub/ground_truth.csv, ...)",)
    assert contents.quarantined == ()


@pytest.mark.parametrize("second", ["observations.csv", "datapackage.json"])
def test_two_usable_tables_are_an_error_that_names_them(tmp_path: Path, second: str) -> None:
    picture(tmp_path, "a.jpg")
    detections(tmp_path, [{"file": "a.jpg", "detections": []}])
    if second == "observations.csv":
        table(tmp_path, "filePath\na.jpg\n")
    else:
        table(tmp_path, "mediaID,filePath\n1,a.jpg\n", "media.csv")
        table(tmp_path, '{"resources": [{"name": "media", "path": "media.csv"}]}', second)
    with pytest.raises(DropError, match=rf"detections\.json and {re.escape(second)}"):
        seal_drop(tmp_path)


def test_usability_is_judged_before_the_mixture(tmp_path: Path) -> None:
    picture(tmp_path, "a.jpg")
    detections(tmp_path, [{"file": "a.jpg", "detections": [box()]}])
    table(tmp_path, "")
    contents = read(tmp_path)
    assert contents.layout == "megadetector"
    assert codes(contents) == [("observations.csv", "unreadable_manifest")]
    assert contents.warnings == ("observations.csv cannot be used; detections.json is used",)


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("../secret.jpg", "path_outside"),
        ("images/../../secret.jpg", "path_outside"),
        ("/etc/passwd", "path_outside"),
        ("C:\\pictures\\a.jpg", "path_outside"),
        ("\\\\server\\a.jpg", "path_outside"),
        ("out/secret.jpg", "path_outside"),
        ("https://example.org/a.jpg", "remote_file"),
        ("gone.jpg", "missing_file"),
        ("x" * 5000, "bad_path"),
        ("x" * 1000 + ".jpg", "missing_file"),
        ("a\0.jpg", "bad_path"),
        (".hidden.jpg", "hidden_file"),
        ("notes.txt", "not_a_picture"),
    ],
)
def test_listed_paths_that_are_no_picture_of_the_drop(tmp_path: Path, written: str, code: str) -> None:
    drop = tmp_path / "drop"
    for name in ("a.jpg", ".hidden.jpg", "notes.txt"):
        picture(drop, name)
    picture(tmp_path, "elsewhere/secret.jpg")
    picture(tmp_path, "secret.jpg")
    (drop / "out").symlink_to(tmp_path / "elsewhere")
    detections(drop, [{"file": written, "detections": [box()]}])
    contents = read(drop)
    assert [entry.code for entry in contents.quarantined if entry.file != "out"] == [code]
    assert [entry.code for entry in contents.quarantined if entry.file == "out"] == ["path_outside"]
    assert [record.file_path for record in contents.media] == ["a.jpg"]
    assert media(contents, "a.jpg").boxes is None


def test_links(tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    picture(drop, "real/a.jpg")
    picture(tmp_path, "outside.jpg")
    (drop / "linked").symlink_to("real")
    (drop / "leak.jpg").symlink_to(tmp_path / "outside.jpg")
    (drop / "dead.jpg").symlink_to("nowhere.jpg")
    (drop / "loop.jpg").symlink_to("loop.jpg")
    (drop / "b.jpg").symlink_to("store.bin")
    (drop / "store.bin").write_bytes(b"b")
    table(drop, "filePath,individualID\nlinked/a.jpg,N1\nleak.jpg,N2\nb.jpg,N3\n")
    contents = read(drop)
    assert codes(contents) == [
        ("dead.jpg", "broken_link"),
        ("leak.jpg", "path_outside"),
        ("loop.jpg", "broken_link"),
    ]
    named = {r.file_path: [b.individual_id for b in r.boxes or ()] for r in contents.media}
    assert named == {"real/a.jpg": ["N1"], "b.jpg": ["N3"]}


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    picture(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    assert codes(read(tmp_path)) == [("b.jpg", "not_a_file")]


def test_odd_names(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "B\u00e4r/M\u00fcller 1.jpg") for form in ("NFC", "NFD"))
    picture(tmp_path, decomposed)
    picture(tmp_path, "tab\there.jpg")
    picture(tmp_path, "bad\udcff.jpg")
    table(tmp_path, f"filePath,individualID\n{composed},Zo\u0308e\ngone\u00e9.jpg,N1\n")
    contents = read(tmp_path)
    (found,) = media(contents, decomposed).boxes or ()
    assert found.individual_id == "Z\u00f6e"
    assert media(contents, "tab\there.jpg").boxes is None
    assert codes(contents) == [("bad\\udcff.jpg", "bad_name"), ("gone\u00e9.jpg", "missing_file")]
    assert all(text.isascii() for text in [*contents.warnings, *(entry.reason for entry in contents.quarantined)])


def test_empty_files_and_copies(tmp_path: Path) -> None:
    picture(tmp_path, "empty.jpg", b"")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path, name, b"same")
    table(tmp_path, "filePath,individualID\nb.jpg,N1\nc.jpg,N2\nempty.jpg,N3\n")
    contents = read(tmp_path)
    assert codes(contents) == [
        ("empty.jpg", "empty_file"),
        ("c.jpg", "duplicate_image"),
        ("a.jpg", "duplicate_image"),
    ]
    reasons = {entry.file: entry.reason for entry in contents.quarantined}
    assert "b.jpg" in reasons["c.jpg"]
    assert "N2" in reasons["c.jpg"]
    assert "N1" in reasons["c.jpg"]
    assert reasons["a.jpg"] == "it is the same picture as b.jpg; it is stored once"
    assert [record.file_path for record in contents.media] == ["b.jpg"]


def test_a_drop_without_a_usable_picture_is_an_error_with_counts(tmp_path: Path) -> None:
    picture(tmp_path, "a.jpg", b"")
    picture(tmp_path, "b.jpg", b"")
    table(tmp_path, "filePath\ngone.jpg\n")
    with pytest.raises(DropError, match=r"no usable picture \(empty_file 2, missing_file 1\)"):
        read(tmp_path)


def test_roots_that_are_no_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path, "folder/notes.txt")
    for root, why in [
        (tmp_path / "no\u00e9", "does not exist"),
        (tmp_path / "folder/notes.txt", "is not a folder"),
        (tmp_path / "folder", "holds no picture"),
        (Path("nul\0"), "cannot be used"),
    ]:
        with pytest.raises(DropError, match=why) as caught:
            seal_drop(root)
        assert str(caught.value).isascii()

    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DropError, match="Permission denied"):
        seal_drop(tmp_path)


def test_the_key_follows_names_contents_tables_and_tag(tmp_path: Path) -> None:
    root = tmp_path / "J\u00e4gers Drop #7"
    picture(root, "a.jpg")
    first = seal_drop(root)
    assert re.fullmatch(r"jagers-drop-7-[0-9a-f]{10}", first.key)
    assert first.key.endswith(first.digest[:10])
    picture(root, "notes.txt")
    assert seal_drop(root).key == first.key
    seen = {first.key, seal_drop(root, tag="yolox").key}
    table(root, "filePath\na.jpg\n")
    seen.add(seal_drop(root).key)
    table(root, "")
    seen.add(seal_drop(root).key)
    picture(root, "b.jpg")
    seen.add(seal_drop(root).key)
    picture(root, "b.jpg", b"other")
    seen.add(seal_drop(root).key)
    assert len(seen) == 6
    picture(tmp_path, "\u9e7f/a.jpg")
    assert seal_drop(tmp_path / "\u9e7f").key.startswith("drop-")


def test_known_hashes_spare_reading_and_progress_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path, "a.jpg")
    picture(tmp_path, "b.jpg")
    steps: list[tuple[int, int]] = []
    first = seal_drop(tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    monkeypatch.setattr(seal_module, "hash_file", lambda path: pytest.fail(f"{path} was read again"))
    known = {(file.rel, file.size, file.mtime_ns): file.sha256 for file in first.files}
    assert seal_drop(tmp_path, known_hashes=known) == first


def test_an_unreadable_picture_is_quarantined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path, "a.jpg")
    picture(tmp_path, "b.jpg")
    real = Path.open

    def no_a(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == "a.jpg":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", no_a)
    assert codes(read(tmp_path)) == [("a.jpg", "unreadable")]


def test_changes_after_sealing(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path, name)
    table(tmp_path, "filePath,individualID\na.jpg,N1\n")
    sealed = seal_drop(tmp_path)
    (tmp_path / "b.jpg").unlink()
    picture(tmp_path, "c.jpg", b"something else")
    os.utime(tmp_path / "a.jpg", ns=(1, 1))
    picture(tmp_path, "late.jpg")
    contents = read_drop(sealed, min_confidence=0.2)
    assert codes(contents) == [("b.jpg", "missing_file"), ("c.jpg", "changed_file")]
    assert [record.file_path for record in contents.media] == ["a.jpg"]
    assert "1 picture came after the drop was sealed and is not part of it" in contents.warnings
    table(tmp_path, "filePath,individualID\na.jpg,N2\n")
    with pytest.raises(DropError, match=r"observations\.csv .* changed after it was sealed"):
        read_drop(sealed, min_confidence=0.2)
