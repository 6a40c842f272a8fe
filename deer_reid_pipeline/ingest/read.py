"""The one entry: a sealed drop to pictures, boxes, quarantine and warnings.

No pixel is looked at. Whatever is in the folder, the only error raised is `DropError`, and only where nothing
in the drop can be used or where it is not what was sealed.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict

from deer_reid_pipeline.errors import DropError, FolderError
from deer_reid_pipeline.ingest.camtrap_events import comparable
from deer_reid_pipeline.ingest.camtrap_reader import CamtrapReader
from deer_reid_pipeline.ingest.claims import Claims
from deer_reid_pipeline.ingest.layout import Layout, choose_layout
from deer_reid_pipeline.ingest.ledger import Ledger
from deer_reid_pipeline.ingest.megadetector import MegaDetectorReader
from deer_reid_pipeline.ingest.observations import read_observations
from deer_reid_pipeline.ingest.paths import PictureIndex
from deer_reid_pipeline.ingest.records import DeploymentRecord, DropContents, MediaRecord
from deer_reid_pipeline.ingest.scan import Scan, is_picture_name, scan_drop
from deer_reid_pipeline.ingest.seal import UNREADABLE, SealedDrop, hash_file
from deer_reid_pipeline.ingest.wording import plural, printable


def read_drop(sealed: SealedDrop, *, min_confidence: float) -> DropContents:
    """Read what a sealed drop says of its pictures.

    Args:
        sealed: from `seal_drop`.
        min_confidence: boxes that a machine gave with a lower confidence are left out (0 to 1).

    Raises:
        FolderError: the folder is gone, or a table changed after sealing.
        DropError: no picture is usable (with counts).
    """
    scan = scan_drop(sealed.root)
    _check_tables(sealed, scan)
    layout = choose_layout(scan)
    if layout.name != sealed.layout:
        raise FolderError(f"{_shown(sealed)} changed its layout after it was sealed; seal it again")
    ledger = Ledger()
    ledger.extend(tuple(scan.refused[rel] for rel in sorted(scan.refused)))
    ledger.extend(layout.rejected)
    for rejected in layout.rejected:
        instead = "the pictures are read without it" if layout.manifest is None else f"{layout.manifest} is used"
        ledger.warn(f"{printable(rejected.file)} cannot be used; {printable(instead)}")
    hashes = _usable_pictures(sealed, scan, ledger)
    refused = (set(scan.pictures) - set(hashes)) | {file.rel for file in sealed.files if file.rel not in hashes}
    claims = Claims(ledger)
    deployments = _read_tables(layout, PictureIndex(scan, refused), claims, ledger, min_confidence)
    media = _without_copies(hashes, claims, ledger)
    others = sorted(scan.others.difference(layout.files))
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        ledger.warn(f"{plural(len(others), 'other file')} ignored ({printable(named, 200)})")
    if not media:
        counts = ledger.reason_counts()
        raise DropError(f"{_shown(sealed)} has no usable picture ({counts or 'it is empty'}); see the reasons")
    unlisted = sum(1 for record in media if record.file_path not in claims)
    if unlisted and layout.manifest is not None:
        ledger.warn(f"{plural(unlisted, 'picture')} in the folder not listed in {printable(layout.manifest)}")
    return DropContents(layout.name, tuple(_in_order(media)), ledger.quarantined, ledger.warnings, deployments)


def _shown(sealed: SealedDrop) -> str:
    return printable(os.fspath(sealed.root))


def _check_tables(sealed: SealedDrop, scan: Scan) -> None:
    """The tables must be the sealed ones: other rows under the same key would be another drop."""
    for file in sealed.files:
        if not is_picture_name(file.rel) and hash_file(scan.root / file.rel) != file.sha256:
            raise FolderError(f"{printable(file.rel)} in {_shown(sealed)} changed after it was sealed; seal it again")


def _usable_pictures(sealed: SealedDrop, scan: Scan, ledger: Ledger) -> dict[str, str]:
    """sha256 by path of every sealed picture that is still there, unchanged, readable and not empty."""
    usable: dict[str, str] = {}
    for file in sealed.files:
        if not is_picture_name(file.rel) or file.rel in scan.refused:
            continue
        now = scan.pictures.get(file.rel)
        if now is None:
            ledger.quarantine(file.rel, "missing_file", "it was in the drop when it was sealed and is gone now")
        elif file.size == 0:
            ledger.quarantine(file.rel, "empty_file", "the file is empty (0 bytes)")
        elif file.sha256 == UNREADABLE:
            ledger.quarantine(file.rel, "unreadable", "the file cannot be read; check its permissions or the disk")
        elif (now.size, now.mtime_ns) != (file.size, file.mtime_ns) and hash_file(scan.root / file.rel) != file.sha256:
            ledger.quarantine(file.rel, "changed_file", "its content changed after the drop was sealed; seal it again")
        else:
            usable[file.rel] = file.sha256
    late = len(set(scan.pictures).difference(file.rel for file in sealed.files))
    if late:
        ledger.warn(f"{plural(late, 'picture')} came after the drop was sealed and is not part of it")
    return usable


def _read_tables(
    layout: Layout, index: PictureIndex, claims: Claims, ledger: Ledger, min_confidence: float
) -> tuple[DeploymentRecord, ...]:
    """Fill the claims from the layout's tables; returns the camera placements that they give."""
    name = layout.manifest or ""
    if layout.name == "megadetector":
        MegaDetectorReader(name, index, claims, ledger, min_confidence).read(layout.opened)
    elif layout.name == "observations":
        read_observations(layout.opened, name, index, claims, ledger, min_confidence)
    elif layout.name == "camtrap_dp":
        reader = CamtrapReader(layout.opened, index, claims, ledger, min_confidence)
        reader.read()
        return tuple(reader.deployments.values())
    return ()


def _without_copies(hashes: dict[str, str], claims: Claims, ledger: Ledger) -> list[MediaRecord]:
    """One record a content: the first path that a table lists, else the first; copies are quarantined."""
    paths: dict[str, list[str]] = defaultdict(list)
    for rel in sorted(hashes):
        paths[hashes[rel]].append(rel)
    media = []
    for same in paths.values():
        same.sort(key=lambda rel: (rel not in claims, rel))
        kept = claims.get(same[0])
        media.append(MediaRecord(same[0]) if kept is None else kept.record())
        for rel in same[1:]:
            reason = f"it is the same picture as {printable(same[0], 150)}; it is stored once"
            copy = claims.get(rel)
            contradicting = sorted(copy.individuals - (kept.individuals if kept else frozenset())) if copy else []
            if contradicting:
                first = ", ".join(sorted(kept.individuals)) if kept and kept.individuals else "no individual"
                reason += (
                    f", but the table names {printable(', '.join(contradicting), 80)} here "
                    f"and {printable(first, 80)} there; the first is kept"
                )
            ledger.quarantine(rel, "duplicate_image", reason)
    return media


def _in_order(media: list[MediaRecord]) -> list[MediaRecord]:
    """By time where every picture has one, else by event (pictures without one last), then by path."""
    if all(record.timestamp is not None for record in media):
        return sorted(
            media,
            key=lambda record: (
                comparable(record.timestamp) if record.timestamp else None,
                natural(record.event_id or ""),
                record.file_path,
            ),
        )
    return sorted(media, key=lambda record: (record.event_id is None, natural(record.event_id or ""), record.file_path))


def natural(text: str) -> list[tuple[bool, int, str]]:
    """Sort key in which numbers count as numbers, so that E2 comes before E10."""
    parts = re.split(r"(\d+)", text)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
