"""Taking a package over into an empty home: the same individuals, encounters and decisions, or nothing at all.

Nothing is matched and nobody is decided about again: what the machine decided stays the machine's, what a person said
stays theirs. At the end every table is written anew from what was stored and compared with the package's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.orm import Session

from deer_reid_pipeline.errors import DatabaseError, HandoverError
from deer_reid_pipeline.progress import report
from deer_reid_pipeline.steps.handover.checking import OpenedPackage, check_paths, judge, open_package
from deer_reid_pipeline.steps.handover.export import Measured, write_tables
from deer_reid_pipeline.steps.handover.package import COPIES, carried_tables, own_path
from deer_reid_pipeline.steps.handover.pictures import (
    Copy,
    Located,
    as_copies,
    check_copies,
    locate_pictures,
    read_copies,
    restore_crops,
)
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store import handover as store
from deer_reid_pipeline.store.decisions import lock_matching
from deer_reid_pipeline.store.releases import fitted_of, lock_releases
from deer_reid_pipeline.vision.recipe import Recipe, RecipeError


@dataclass(frozen=True)
class ImportReport:
    """What was taken over.

    Attributes:
        rows: by table of the package.
        crops: that came along.
        drops: keys of the drops.
        coordinates: the package had those of cameras.
    """

    rows: dict[str, int]
    pictures: Located
    crops: int
    drops: tuple[str, ...]
    coordinates: bool


def import_package(site: Site, folder: Path, media: Path | None = None) -> ImportReport:
    """Restore what `export_package` wrote, in one transaction.

    Args:
        media: folder that holds the folders of the drops, for pictures that did not come along.

    Raises:
        HandoverError: the package is damaged, was changed, or is of another version; or the home is not empty.
    """
    if media is not None and not media.is_dir():
        raise HandoverError(f"{media} is not a folder: give the one that holds the drops' folders with --media")
    with site.database.session() as session:
        _refuse_filled(session)
    package = open_package(folder)
    found = str(site.database.revision())
    if package.revision != found:
        raise HandoverError(
            f"{folder} was written at revision {ascii(package.revision)[:40]} of the database, this version is at "
            f"{found}: import it with the version that wrote it, then upgrade"
        )
    judge(folder, package.choices, package.written)
    check_paths(package)
    copies = _copies(package)
    check_copies(folder, copies)
    undo: Callable[[], None] = _nothing
    try:
        with site.database.session() as session:
            lock_releases(session)
            lock_matching(session)
            _refuse_filled(session)
            rows = _store_rows(session, package)
            _check_releases(session)
            located = locate_pictures(session, folder, as_copies(copies), media)
            _compare(session, package, copies)
            drops = tuple(store.drops_by_key(session))
            undo = restore_crops(session, folder, copies, site.settings.crops_dir)
    except BaseException:
        undo()
        raise
    return ImportReport(rows, located, rows.get("crops", 0), drops, package.choices.places)


def _nothing() -> None:
    """There are no crops to take away yet."""


def _refuse_filled(session: Session) -> None:
    filled = store.filled_table(session)
    if filled is not None:
        name, count = filled
        raise HandoverError(
            f"this home is not empty ({name}: {count}), and a package is taken over as a whole: set DEER_REID_HOME to "
            "a new folder (or DATABASE_URL to a new database) and import there"
        )


def _copies(package: OpenedPackage) -> list[Copy]:
    if not package.choices.files:
        return []
    with (package.root / own_path(COPIES)).open("rb") as stream:
        return read_copies(stream)


def _store_rows(session: Session, package: OpenedPackage) -> dict[str, int]:
    rows = {}
    tables = carried_tables(package.choices)
    for number, carried in enumerate(tables, start=1):
        with (package.root / own_path(carried.name)).open("rb") as stream:
            try:
                rows[carried.name] = store.copy_in(session, carried, stream, package.choices.places)
            except DatabaseError as error:
                raise HandoverError(f"{error}; nothing was stored. Have the package exported again") from error
        report("storing", number, len(tables))
    return rows


def _check_releases(session: Session) -> None:
    """Recipes and policies are data that this version can use, and a recipe is the one that its id names."""
    try:
        for key, spec in store.stored_recipes(session):
            if Recipe.from_json(spec).id != key:
                raise HandoverError(f"recipe {key!a} of the package is not what its id names; nothing was stored")
        for release in store.stored_releases(session):
            fitted_of(release)
    except (RecipeError, ValidationError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split()).encode("ascii", "backslashreplace").decode()[:200]
        raise HandoverError(f"a recipe or release of the package cannot be used: {said}; nothing was stored") from error


def _compare(session: Session, package: OpenedPackage, copies: list[Copy]) -> None:
    """Write every table from what was stored, to nowhere, and compare its hash with the package's."""

    @contextmanager
    def nowhere(name: str) -> Iterator[Measured]:
        yield Measured()

    session.flush()
    session.expire_all()
    again, _, _ = write_tables(session, package.choices, as_copies(copies), nowhere)
    for name, written in again.items():
        if written.sha256 != package.written[name].sha256:
            raise HandoverError(
                f"the table {name} of the package does not say what the others say: it was changed after it was "
                "written; nothing was stored. Have it exported again"
            )
