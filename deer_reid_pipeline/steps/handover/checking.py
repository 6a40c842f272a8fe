"""Whether a package is what an export writes: judged by frictionless, table by table, and by what paths may be.

Nothing here touches the database. Only this version's own description of the tables is used, never the package's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from frictionless import FrictionlessException, Package, system

from deer_reid_pipeline.errors import HandoverError
from deer_reid_pipeline.ingest.wording import has_control, printable
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.steps.handover.camtrap import read_rows
from deer_reid_pipeline.steps.handover.package import (
    DESCRIPTOR,
    FORMAT,
    Choices,
    Written,
    own_path,
    resources,
    table_paths,
)

_DESCRIPTOR_LIMIT = 16 * 1024 * 1024
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_DROP_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True)
class OpenedPackage:
    """A package whose files are all there.

    Attributes:
        written: size and hash of every table as datapackage.json states them, by resource name.
        revision: of the database's schema that it was written from.
    """

    root: Path
    choices: Choices
    written: Mapping[str, Written]
    revision: str


def open_package(root: Path) -> OpenedPackage:
    """Read datapackage.json of a package and find its tables.

    Raises:
        HandoverError: it is no hand-over package, or a table is missing.
    """
    document = _document(root)
    own = document.get("deerReid") if isinstance(document, dict) else None
    if not isinstance(own, dict) or not isinstance(document.get("resources"), list):
        raise HandoverError(
            f"{root} was not written by `deer-reid export`: `deer-reid process` reads other Camtrap DP packages"
        )
    if own.get("format") != FORMAT:
        raise HandoverError(
            f"{root} has the format {printable(str(own.get('format')), 20)}, and this version reads {FORMAT}: import "
            "it with the version that wrote it"
        )
    choices = Choices(places=own.get("coordinates") is True, files=own.get("files") is True)
    stated = {item.get("name"): item for item in document["resources"] if isinstance(item, dict)}
    written = {}
    for name, path in table_paths(choices).items():
        resource = stated.get(name, {})
        found = _HASH.fullmatch(str(resource.get("hash")))
        size = resource.get("bytes")
        if found is None or not isinstance(size, int):
            raise HandoverError(
                f"{DESCRIPTOR} in {root} has no table {name} with size and hash: have it exported again"
            )
        if not _plain_file(root, path):
            raise HandoverError(f"{path} is missing from {root}: copy the package again, whole")
        written[name] = Written(found.group(1), size)
    return OpenedPackage(root, choices, written, str(own.get("revision")))


def judge(root: Path, choices: Choices, written: Mapping[str, Written]) -> None:
    """Let frictionless judge all tables: sizes, hashes, types, constraints, keys, references.

    Raises:
        HandoverError: the first thing that is wrong.
    """
    description = {"name": "deer-reid", "resources": resources(choices, written)}
    try:
        with system.use_context(trusted=False):
            package = Package.from_descriptor(description, basepath=os.fspath(root))
            total = len(package.resources)
            for number, resource in enumerate(package.resources, start=1):
                result = resource.validate(limit_errors=1)
                for task in result.tasks:
                    for error in task.errors:
                        raise HandoverError(
                            f"{task.place or resource.path} in {root} does not hold: {printable(str(error.note), 200)} "
                            f"({error.type}{_line(error)}); copy the package again, or have it exported again"
                        )
                report("validation", number, total)
    except FrictionlessException as error:
        raise HandoverError(f"{root} cannot be judged: {printable(str(error.error.note), 200)}") from error


def _line(error: Any) -> str:
    number = getattr(error, "row_number", None)
    return f", row {number}" if number is not None else ""


def check_paths(package: OpenedPackage) -> None:
    """Make sure that no path in the tables leads out of the folder that it belongs to.

    Raises:
        HandoverError: names the first that does.
    """
    with (package.root / own_path("files")).open("rb") as stream:
        for row in read_rows(stream):
            _check_path("files", row["file_path"])
    with (package.root / own_path("pictures")).open("rb") as stream:
        for row in read_rows(stream):
            if row["filename"]:
                _check_path("pictures", row["filename"])
    with (package.root / own_path("drops")).open("rb") as stream:
        for row in read_rows(stream):
            if not _DROP_KEY.fullmatch(row["key"]):
                _refuse("drops", row["key"])
            if "/" in row["name"] or row["name"] in (".", ".."):
                _refuse("drops", row["name"])
    if package.choices.files:
        with (package.root / own_path("crops")).open("rb") as stream:
            for row in read_rows(stream):
                _check_path("crops", row["file"])


def _check_path(table: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        _refuse(table, path)


def _refuse(table: str, path: str) -> None:
    raise HandoverError(
        f"{own_path(table)} has the path {printable(path, 80)}, which leads out of its folder: it was changed after it "
        "was written; have it exported again"
    )


def _document(root: Path) -> Any:
    path = root / DESCRIPTOR
    if not root.is_dir() or not _plain_file(root, DESCRIPTOR):
        raise HandoverError(f"{root} is not a package: give the folder that holds {DESCRIPTOR}")
    if path.stat().st_size > _DESCRIPTOR_LIMIT:
        raise HandoverError(f"{path} is larger than {_DESCRIPTOR_LIMIT >> 20} MiB: it is not what an export writes")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise HandoverError(f"{path} cannot be read as JSON: {printable(str(error), 100)}") from error


def _plain_file(root: Path, name: str) -> bool:
    """A file in its place, reached through no link."""
    whole = root.resolve() / name
    return whole.is_file() and whole.resolve() == whole and not has_control(name)
