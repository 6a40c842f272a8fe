"""The running account of what could not be used: quarantine entries, warnings, and counted warnings.

Every parser writes into one `Ledger`, so that nothing is left out without a trace.
"""

from __future__ import annotations

from collections import Counter

from deer_reid_pipeline.ingest.records import QuarantineEntry
from deer_reid_pipeline.ingest.wording import NAME_LIMIT, printable, storable

MOST_ENTRIES = 100_000
"""Most quarantine entries of one drop; rows beyond them are counted by code in a warning."""

_OF_FILES = frozenset({"changed_file", "duplicate_image", "empty_file", "unreadable"})
"""Codes of pictures, which are listed however many there are."""


class BadValue(Exception):  # noqa: N818  (a value, not a failure of the program)
    """One value of one row cannot be used. `code` and `reason` go into the quarantine as they are."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def entry(file: str, code: str, reason: str) -> QuarantineEntry:
    """A quarantine entry whose texts are safe to store and to print."""
    return QuarantineEntry(storable(file), code, printable(reason, NAME_LIMIT))


class Ledger:
    """Collects quarantine entries and warnings; equal entries are kept once."""

    def __init__(self) -> None:
        self._entries: dict[QuarantineEntry, None] = {}
        self._warnings: dict[str, None] = {}
        self._tallies: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def quarantine(self, file: str, code: str, reason: str) -> None:
        """Record that `file` (a path or "table:line (path)") was not used, and why."""
        if len(self._entries) >= MOST_ENTRIES and code not in _OF_FILES:
            self.tally(f"{code} after the first {MOST_ENTRIES} entries of the quarantine, not listed", file)
            return
        self._entries[entry(file, code, reason)] = None

    def extend(self, entries: tuple[QuarantineEntry, ...]) -> None:
        """Take over entries that were made elsewhere."""
        self._entries.update(dict.fromkeys(entries))

    def warn(self, text: str) -> None:
        """Record one warning sentence."""
        self._warnings[printable(text, 600)] = None

    def tally(self, what: str, example: str = "") -> None:
        """Count an event that is told once: "12 x WHAT (first: EXAMPLE)"."""
        self._tallies[what] += 1
        if example:
            self._examples.setdefault(what, printable(example, 60))

    @property
    def quarantined(self) -> tuple[QuarantineEntry, ...]:
        """All entries, in the order in which they were found."""
        return tuple(self._entries)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, the counted ones last."""
        counted = []
        for what, count in self._tallies.items():
            example = f" (first: {self._examples[what]})" if what in self._examples else ""
            counted.append(f"{count} x {what}{example}")
        return (*self._warnings, *counted)

    def reason_counts(self) -> str:
        """Codes with their counts, most frequent first: "missing_file 3, bad_box 1"."""
        counts = Counter(item.code for item in self._entries)
        return ", ".join(f"{code} {count}" for code, count in counts.most_common())
