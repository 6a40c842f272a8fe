"""The sentences of a tick: which folders are waited for and why. Plain ASCII."""

from __future__ import annotations

from collections import defaultdict

from deer_reid_pipeline.ingest.wording import plural, printable

MOST_NAMED = 5

_LISTS = {
    "starting": "Starting:",
    "changing": "Still changing:",
    "settling": "Unchanged, but not for long enough:",
    "table": "Waiting for a table such as detections.json:",
    "reading": "Being read:",
    "turn": "Waiting for their turn:",
    "going": "Being processed:",
    "again": "To be tried again after a failed run:",
    "empty": "Without pictures so far:",
    "copy": "The same as an earlier drop, so nothing runs:",
    "less": "Lost files but got none, so nothing runs:",
    "unread": "With files that cannot be read (make them readable):",
    "cancelled": "Cancelled by a person (start the partition in the UI, or deer-reid process FOLDER):",
    "failed": "Failed too often (read the last run in the UI, mend the cause, then deer-reid process FOLDER):",
}
_PLAIN = ("refused", "unreadable", "other")


class Notes:
    """Collects what a tick has to say."""

    def __init__(self) -> None:
        self._said: dict[str, list[str]] = defaultdict(list)
        self.settled = 0
        self.unlooked = 0

    def name(self, kind: str, name: str, *details: str) -> None:
        """A folder for one of the lists, with what is to be said of it."""
        shown = printable(name, 60)
        self._said[kind].append(f"{shown} ({', '.join(details)})" if details else shown)

    def say(self, kind: str, sentence: str) -> None:
        """A sentence of its own: "refused", "unreadable" or "other"."""
        self._said[kind].append(printable(sentence, 300).rstrip("."))

    def text(self) -> str:
        """All of it, as sentences."""
        said = []
        for kind, opening in _LISTS.items():
            names = self._said.get(kind, [])
            if names:
                more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
                said.append(f"{opening} {', '.join(names[:MOST_NAMED])}{more}.")
        for kind in _PLAIN:
            lines = self._said.get(kind, [])
            said += [f"{line}." for line in lines[:MOST_NAMED]]
            if len(lines) > MOST_NAMED:
                said.append(f"And {len(lines) - MOST_NAMED} more like these.")
        if self.settled:
            said.append(f"Nothing new in {plural(self.settled, 'folder')}.")
        if self.unlooked:
            said.append(f"{plural(self.unlooked, 'folder')} will be looked at by the next tick.")
        return " ".join(said) or "The watched folder holds no drop yet."


def duration(seconds: float) -> str:
    """ "90 s", "8 min" or "3 h"; never less than what is left."""
    if seconds <= 120:
        return f"{max(1, round(seconds + 0.499))} s"
    if seconds <= 7200:
        return f"{-int(-seconds // 60)} min"
    return f"{-int(-seconds // 3600)} h"
