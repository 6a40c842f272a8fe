"""Which of the four layouts a folder has.

A manifest that cannot be read at all does not count: it goes to the quarantine. Two readable ones are a
mixture, and only a person can say which is right.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.ingest import camtrap_dp, megadetector, observations
from deer_reid_pipeline.ingest.ledger import entry
from deer_reid_pipeline.ingest.manifest import UnusableManifest
from deer_reid_pipeline.ingest.records import LayoutName, QuarantineEntry
from deer_reid_pipeline.ingest.scan import Scan
from deer_reid_pipeline.ingest.wording import printable


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout's name, the manifest's name on disk, all files of manifests, and what was opened.

    `files` holds rejected manifests as well, since repairing one changes what the drop says.
    """

    name: LayoutName
    manifest: str | None
    files: tuple[str, ...]
    opened: Any
    rejected: tuple[QuarantineEntry, ...]


def choose_layout(scan: Scan) -> Layout:
    """Judge every manifest in the root, then the mixture.

    Raises:
        DropError: more than one manifest is readable; the text names them.
    """
    usable: dict[LayoutName, tuple[str, Any]] = {}
    rejected: list[QuarantineEntry] = []
    files = set(scan.manifests.values())

    def judge(standard_name: str, layout: LayoutName, open_manifest: Any) -> None:
        rel = scan.manifests.get(standard_name)
        if rel is None:
            return
        try:
            usable[layout] = (rel, open_manifest(scan.root / rel))
        except UnusableManifest as error:
            rejected.append(entry(rel, "unreadable_manifest", f"this table cannot be used: {error}"))

    judge("detections.json", "megadetector", megadetector.open_manifest)
    judge("datapackage.json", "camtrap_dp", camtrap_dp.open_package)
    owned: frozenset[str] = frozenset()
    if "camtrap_dp" in usable:
        owned = usable["camtrap_dp"][1].files
        files |= owned
    if scan.manifests.get("observations.csv") not in owned:
        judge("observations.csv", "observations", observations.open_manifest)
    if len(usable) > 1:
        names = " and ".join(printable(name) for name, _ in usable.values())
        raise DropError(
            f"{printable(os.fspath(scan.root))} mixes layouts: {names} both describe its pictures; keep one"
        )
    for layout, (rel, opened) in usable.items():
        return Layout(layout, rel, tuple(sorted(files)), opened, tuple(rejected))
    return Layout("images", None, tuple(sorted(files)), None, tuple(rejected))
