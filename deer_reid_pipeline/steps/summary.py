"""What came of a drop, in numbers and names."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from typing import Any

from deer_reid_pipeline.errors import DropError
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.decisions import results_of_drop
from deer_reid_pipeline.store.drops import (
    DropSummary,
    QuarantineRow,
    complete_drop,
    drop_media_count,
    get_drop,
    quarantine_of,
    summarize_drop,
)
from deer_reid_pipeline.store.profiles import stale_profiles
from deer_reid_pipeline.store.releases import live_release


@dataclass(frozen=True)
class DropDescription:
    """A drop as it was sealed, and what was quarantined of it so far."""

    key: str
    root: str
    digest: str
    layout: str
    pictures: int
    warnings: tuple[str, ...]
    quarantined: tuple[QuarantineRow, ...]
    completed: bool

    def quarantine_table(self, most: int = 50) -> str:
        """A Markdown table of the first quarantined files."""
        if not self.quarantined:
            return "nothing"
        lines = ["| file | reason |", "|---|---|"]
        lines += [f"| {markdown_text(row.file)} | {markdown_text(row.reason)} |" for row in self.quarantined[:most]]
        if len(self.quarantined) > most:
            lines.append(f"| and {len(self.quarantined) - most} more | |")
        return "\n".join(lines)


def markdown_text(text: str) -> str:
    """Names come from outside: neither Markdown, HTML nor control characters of theirs may reach the page."""
    plain = text.encode("ascii", "backslashreplace").decode()
    plain = "".join(each if each.isprintable() else repr(each)[1:-1] for each in plain)
    for character, safe in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "&#124;"),
        ("`", "&#96;"),
        ("[", "&#91;"),
        ("]", "&#93;"),
        ("*", "&#42;"),
        ("_", "&#95;"),
        ("~", "&#126;"),
        ("\\", "&#92;"),
    ):
        plain = plain.replace(character, safe)
    return plain


def describe_drop(site: Site, key: str) -> DropDescription:
    """Read a drop back.

    Raises:
        DropError: no drop of this key was registered.
    """
    with site.database.session() as session:
        drop = get_drop(session, key)
        if drop is None:
            raise DropError(f"drop {key} is not registered in this database: run `deer-reid process FOLDER`")
        return DropDescription(
            key=drop.key,
            root=drop.root,
            digest=drop.digest,
            layout=drop.layout,
            pictures=drop_media_count(session, key),
            warnings=tuple(drop.warnings or ()),
            quarantined=tuple(quarantine_of(session, key)),
            completed=drop.completed_at is not None,
        )


def summarize(site: Site, key: str) -> DropSummary:
    """Count what a drop amounts to now."""
    with site.database.session() as session:
        return summarize_drop(session, key)


def finish_drop(site: Site, key: str) -> DropSummary:
    """Mark a drop as processed and return its numbers."""
    summary = summarize(site, key)
    with site.database.session() as session:
        complete_drop(session, key, asdict(summary))
    return summary


@dataclass(frozen=True)
class Seen:
    """A detection of a drop and who it was decided to be."""

    detection_id: uuid.UUID
    individual: str | None
    row: dict[str, Any]


def seen_in_drop(site: Site, key: str) -> list[Seen]:
    """Every standing detection of a drop with the latest decision about it, in the drop's order."""
    with site.database.session() as session:
        return [Seen(row["detection_id"], row["individualID"], row) for row in results_of_drop(session, key)]


def is_finished(site: Site, key: str) -> bool:
    """Whether a drop was decided and every profile followed, so that processing it again would change nothing."""
    with site.database.session() as session:
        drop = get_drop(session, key)
        release = live_release(session)
        if drop is None or drop.completed_at is None or release is None:
            return False
        return not stale_profiles(session, release.recipe_id, live=True)
