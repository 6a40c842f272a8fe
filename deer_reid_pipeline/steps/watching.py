"""One look at the watched folder: seal what has arrived, and say which drops need a run.

Bounded: at most so many drops are sealed, so many bytes read and so many seconds spent, and the next look goes on. It
may be stopped anywhere and done again: whatever is sealed twice gets the same key.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from deer_reid_pipeline.errors import DropError, FolderError
from deer_reid_pipeline.ingest import SealedDrop
from deer_reid_pipeline.ingest.scan import FoundFile
from deer_reid_pipeline.ingest.seal import UNREADABLE, hash_file
from deer_reid_pipeline.ingest.watch import (
    Look,
    Pending,
    Sealed,
    Stage,
    Verdict,
    WatchRules,
    judge,
    list_watched,
    look_at,
    pictures_in_words,
)
from deer_reid_pipeline.ingest.watch_cursor import WatchCursor, bounded, read_cursor
from deer_reid_pipeline.ingest.wording import plural, printable
from deer_reid_pipeline.steps.drops import register_sealed, seal_folder
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.watch_records import FileId, FolderRecord, WatchRecords
from deer_reid_pipeline.steps.watch_runs import DropRun, Need, RunState, next_run, run_key
from deer_reid_pipeline.steps.watch_words import Notes, duration
from deer_reid_pipeline.store.drops import (
    MISSED,
    drop_keys,
    drop_of_content,
    get_drop,
    last_completed_under,
    missed_files,
    quarantine_of,
    unfinished_drops,
)
from deer_reid_pipeline.store.models import Drop
from deer_reid_pipeline.store.profiles import stale_profiles
from deer_reid_pipeline.store.releases import live_release

LOOKING_S = 10.0
READING_S = 15.0
ASKING_S = 10.0
"""Seconds after which a look at the listings, then the reading of pictures, then the question which unfinished drops
need a run, is left to the next tick."""

_THREADS = 4
_BATCH = 16
_MOST_UNREAD = 20

__all__ = ["DropRequest", "Tick", "read_cursor", "watch_once"]

RunsOf = Callable[[str], Sequence[DropRun]]
Clock = Callable[[], float]


@dataclass(frozen=True)
class DropRequest:
    """A run that is wanted: the partition, the run key, and the folder's name."""

    key: str
    run_key: str
    folder: str


@dataclass(frozen=True)
class Tick:
    """What came of one look: runs to start, what to remember, and what to tell."""

    requests: tuple[DropRequest, ...]
    cursor: WatchCursor
    message: str


def watch_once(
    site: Site, root: Path, cursor: WatchCursor, now: float, runs_of: RunsOf, clock: Clock = time.monotonic
) -> Tick:
    """Look at the watched folder once.

    Args:
        root: its sub-folders are the drops.
        cursor: what the last look remembered.
        now: seconds since the epoch.
        runs_of: the runs of a drop's partition, newest first.
        clock: for the time that this look may take.

    Raises:
        DropError: the watched folder cannot be listed, or is the home itself.
        DatabaseError: the database does not answer; the next look begins where this one did.
    """
    home = os.path.realpath(site.settings.home)
    if home == os.path.realpath(root):
        raise DropError("DEER_REID_WATCH is the home itself: set it to a folder that holds nothing but drops")
    listing = list_watched(root)
    names = [name for name in listing.folders if not f"{home}/".startswith(f"{os.path.realpath(root / name)}/")]
    watch = _Watch(site, root, names, cursor, now, clock)
    if listing.loose_pictures:
        watch.notes.say(
            "other",
            f"{plural(listing.loose_pictures, 'picture')} in the watched folder itself: put each drop into a folder",
        )
    following = watch.look()
    watch.take_over()
    watch.seal()
    requests, asking = watch.wanted(runs_of)
    watch.notes.settled, watch.notes.unlooked = len(watch.settled), len(watch.left)
    if names:  # a folder without any sub-folder may be a disk that is not mounted now
        watch.records.forget_all_but(names)
    return Tick(tuple(requests), WatchCursor(bounded(watch.pending, now), following, asking), watch.notes.text())


class _Watch:
    """The state of one look.

    Attributes:
        names: the sub-folders.
        looks: what was found of each of them that was looked at.
        settled: those that are as they were sealed, with the key of their drop.
        left: those that this look did not come to.
        unfinished: drops that are not processed, by key.
        missed: files that completed drops missed, by key.
    """

    def __init__(
        self, site: Site, root: Path, names: Sequence[str], cursor: WatchCursor, now: float, clock: Clock
    ) -> None:
        self.site, self.root, self.names, self.cursor, self.now, self.clock = site, root, names, cursor, now, clock
        self.folders = {f"{os.path.realpath(root).rstrip('/')}/{name}": name for name in names}
        self.rules = WatchRules(site.settings.watch_settle_seconds, site.settings.watch_table_seconds)
        self.records = WatchRecords(site.settings.home, root)
        self.pending: dict[str, Pending] = {}
        self.ready: list[tuple[float, str, Look]] = []
        self.notes = Notes()
        self.looks: dict[str, Look] = {}
        self.settled: dict[str, str] = {}
        self.left: set[str] = set()
        self.bytes_left = site.settings.watch_mb << 20
        self.read_any = False
        with site.database.session() as session:
            self.known = drop_keys(session)
            self.unfinished = {drop.key: drop for drop in unfinished_drops(session)}
            self.missed = missed_files(session)

    def look(self) -> str:
        """Judge the folders, beginning where the last look ended; returns where the next one begins."""
        order = _beginning_at(self.cursor.following, self.names)
        end = self.clock() + LOOKING_S
        for position, name in enumerate(order):
            if position and self.clock() > end:
                self.left.update(order[position:])
                self.pending |= {n: self.cursor.pending[n] for n in order[position:] if n in self.cursor.pending}
                return name
            self._look_at(name)
        return ""

    def _look_at(self, name: str) -> None:
        before = self.cursor.pending.get(name)
        if name.encode("utf-8", "replace").decode() != name:
            self.notes.say("unreadable", f"{printable(name)} has a name that is not valid UTF-8: rename it")
            return
        try:
            look = look_at(self.root / name)
        except DropError as error:
            if os.path.lexists(self.root / name):
                self.notes.say("unreadable", str(error))
                if before is not None:
                    self.pending[name] = before
            return
        self.looks[name] = look
        sealed = self.records.sealed(name)
        if sealed is not None and sealed.key is not None and sealed.key not in self.known:
            sealed = None  # the database is from before it
        verdict = judge(look, before, sealed, self.now, self.rules)
        if verdict.stage in (Stage.SEALED, Stage.REFUSED) and sealed is not None:
            verdict = self._look_again(look, sealed, verdict)
        if verdict.pending is not None:
            self.pending[name] = verdict.pending
        count = pictures_in_words(look)
        match verdict.stage:
            case Stage.READY:
                since = verdict.pending.since if verdict.pending else self.now
                self.ready.append((since, name, look))
            case Stage.SEALED:
                self.settled[name] = (sealed.key if sealed else None) or ""
            case Stage.REFUSED:
                self.notes.say("refused", f"{name} cannot be a drop: {sealed.refused if sealed else ''}")
            case Stage.EMPTY:
                self.notes.name("empty", name)
            case Stage.CHANGING:
                self.notes.name("changing", name, count)
            case Stage.SETTLING:
                self.notes.name("settling", name, count, f"{duration(verdict.left_s)} more")
            case Stage.TABLE:
                self.notes.name("table", name, count, f"at most {duration(verdict.left_s)} more")

    def _look_again(self, look: Look, sealed: Sealed, verdict: Verdict) -> Verdict:
        """A sealed or refused folder that is unchanged.

        Its files may have become readable, also those that its drop missed, and its marker may be a new one.
        """
        missed = self.missed.get(sealed.key or "", frozenset())
        tried = sealed.tried if sealed.key in self.unfinished else _stand_for(missed)
        back = [file.rel for file in look.files if file.rel in missed] if tried != sealed.tried else []
        if any(_opens(self.root / look.name / rel) for rel in (*sealed.unread, *back[:_MOST_UNREAD])):
            return Verdict(Stage.READY, Pending(look.signature, self.now))
        if sealed.unread:
            self.notes.name("unread", look.name, f"{plural(len(sealed.unread), 'file')}, first {sealed.unread[0]}")
        seen = replace(sealed, marker=look.marker, tried=sealed.tried if sealed.tried == tried else "")
        if seen != sealed:
            record = self.records.read(look.name)
            record.sealed = seen
            self.records.write(look.name, record)
        return verdict

    def take_over(self) -> None:
        """Let a folder be sealed anew that holds an unfinished drop whose own folder does not hold it any more."""
        for name, key in list(self.settled.items()):
            drop = self.unfinished.get(key)
            if drop is not None and not self._is_whole(drop):
                look = self.looks[name]
                del self.settled[name]
                self.pending[name] = Pending(look.signature, self.now)
                self.ready.append((self.now, name, look))

    def seal(self) -> None:
        """Seal what is ready, the longest waiting first, within the limits."""
        end = self.clock() + READING_S
        begun = 0
        for _, name, look in sorted(self.ready, key=lambda item: item[:2]):
            if begun >= self.site.settings.watch_drops or (begun and self.clock() > end):
                self.notes.name("turn", name, pictures_in_words(look))
                continue
            begun += 1
            record = self.records.read(name)
            left = self._read(self.root / name, look.files, record.hashes, end)
            if left:
                self.records.write(name, record)
                if left == look.pictures:
                    self.notes.name("turn", name, pictures_in_words(look))
                else:
                    self.notes.name("reading", name, f"{look.pictures - left} of {look.pictures} pictures")
            else:
                self._seal_one(name, look, record)

    def _read(self, folder: Path, files: Sequence[FoundFile], known: dict[FileId, str], end: float) -> int:
        """Hash pictures that are not known yet, within the limits; returns how many are left."""
        todo = [file for file in files if (file.rel, file.size, file.mtime_ns) not in known]
        position = 0
        with ThreadPoolExecutor(_THREADS) as pool:
            while position < len(todo):
                batch: list[FoundFile] = []
                for file in todo[position : position + _BATCH]:
                    if self.read_any and file.size > self.bytes_left:
                        break
                    self.bytes_left -= file.size
                    self.read_any = True
                    batch.append(file)
                if not batch:
                    break
                for file, sha256 in zip(batch, pool.map(lambda f: hash_file(folder / f.rel), batch), strict=True):
                    if sha256 != UNREADABLE:
                        known[file.rel, file.size, file.mtime_ns] = sha256
                position += len(batch)
                if self.clock() > end:
                    break
        return len(todo) - position

    def _seal_one(self, name: str, look: Look, record: FolderRecord) -> None:
        """Seal a folder all of whose pictures were read, and make it a drop of the database."""
        folder, detector = self.root / name, self.site.settings.detector
        waiting = self.pending.pop(name)
        present = {(file.rel, file.size, file.mtime_ns) for file in look.files}
        record.hashes = {key: sha256 for key, sha256 in record.hashes.items() if key in present}
        unread: tuple[str, ...] = ()
        try:
            drop = seal_folder(self.site, folder, detector, record.hashes)
            again = look_at(folder)
            if again.signature != look.signature:
                self.pending[name] = Pending(again.signature, self.now)
                self.notes.name("changing", name, pictures_in_words(again))
                self.records.write(name, record)
                return
            unread = tuple(file.rel for file in drop.files if file.sha256 == UNREADABLE)
            members = {file.rel: file.sha256 for file in drop.files if file.sha256 != UNREADABLE}
            before = record.sealed.key if record.sealed is not None else None
            if before in self.known and members.items() < record.members.items():
                key = self._with_less(drop, str(before), members)
                self.notes.name("less", name)
            else:
                key, record.members = self._register(drop, detector), members
        except FolderError as error:
            self.pending[name] = waiting
            self.notes.say("unreadable", f"{name} is waited for: {error}")
        except DropError as error:
            record.sealed = Sealed(look.signature, look.marker, None, str(error), unread[:_MOST_UNREAD])
            self.notes.say("refused", f"{name} cannot be a drop: {error}")
        else:
            tried = _stand_for(self.missed.get(key, frozenset()))
            record.sealed = Sealed(look.signature, look.marker, key, None, unread[:_MOST_UNREAD], tried)
            if unread:
                self.notes.name("unread", name, f"{plural(len(unread), 'file')}, first {unread[0]}")
        self.records.write(name, record)

    def _with_less(self, drop: SealedDrop, key: str, members: Mapping[str, str]) -> str:
        """A folder that only lost files is the drop that it was, open again where a file is back that it had missed.

        An unfinished drop that no other folder holds is read from here.
        """
        with self.site.database.session() as session:
            before = get_drop(session, key)
            missed = {row.file for row in quarantine_of(session, key) if row.code in MISSED}
        assert before is not None
        alone = before.completed_at is None and Path(before.root) != drop.root and not self._is_whole(before)
        if alone or missed.intersection(members):
            register_sealed(self.site, replace(drop, key=key), self.site.settings.detector)
        return key

    def _register(self, drop: SealedDrop, detector: str) -> str:
        """Store a drop, unless its content is another one's already; returns the key that stands for it.

        Where the folder of that other one is gone, it was renamed: then this is where its pictures are now. So it is
        where that folder held something else before the drop was processed, or missed some of its files.
        """
        with self.site.database.session() as session:
            known = get_drop(session, drop.key) is not None
            twin = None if known else drop_of_content(session, drop.digest)
        if twin is None:
            register_sealed(self.site, drop, detector)
            return drop.key
        lost = twin.completed_at is None and not self._is_whole(twin)
        missed = self.missed.get(twin.key, frozenset()).intersection(file.rel for file in drop.files)
        if lost or missed or not Path(twin.root).is_dir():
            register_sealed(self.site, replace(drop, key=twin.key), detector)
        if not (lost or missed):
            self.notes.name("copy", drop.name, f"drop {twin.key}")
        return twin.key

    def wanted(self, runs_of: RunsOf) -> tuple[list[DropRequest], str]:
        """Runs that unfinished drops of the folder need, and the sub-folder at which the next look begins to ask."""
        drops = self._open(runs_of)
        requests: list[DropRequest] = []
        order = _beginning_at(self.cursor.asking, sorted(drops))
        end = self.clock() + ASKING_S
        for position, name in enumerate(order):
            if position and self.clock() > end:
                self.left.update(order[position:])
                return requests, name
            drop = drops[name]
            found = next_run(runs_of(drop.key), self.now, self.site.settings.watch_attempts)
            match found.need:
                case Need.RUN:
                    requests.append(
                        DropRequest(drop.key, run_key(drop.name, drop.digest, found.attempt), printable(name))
                    )
                    self.notes.name("starting", name, *([f"attempt {found.attempt}"] if found.failures else []))
                case Need.NOTHING:
                    self.notes.name("going", name)
                case Need.PATIENCE:
                    self.notes.name("again", name, f"in {duration(found.left_s)}")
                case Need.CANCELLED:
                    self.notes.name("cancelled", name, f"partition {drop.key}")
                case Need.PERSON:
                    self.notes.name("failed", name, f"{found.failures} times", f"partition {drop.key}")
        return requests, ""

    def _open(self, runs_of: RunsOf) -> dict[str, Drop]:
        """Unfinished drops by the folder that holds them, and the last finished one where profiles did not follow.

        No folder of theirs counts as settled.
        """
        with self.site.database.session() as session:
            unfinished = {drop.key: drop for drop in unfinished_drops(session)}
            last = last_completed_under(session, os.path.realpath(self.root))
        found = {self.folders[drop.root]: drop for drop in unfinished.values() if self._standing(drop)}
        for name, key in list(self.settled.items()):
            if key in unfinished:
                del self.settled[name]
                if name not in found:
                    self.notes.name("copy", name, f"drop {key}")
        if last is not None and self._standing(last) is not None:
            runs = runs_of(last.key)
            if runs and runs[0].state is RunState.FAILED and self._profiles_are_behind():
                found[self.folders[last.root]] = last
                self.settled.pop(self.folders[last.root], None)
        return found

    def _profiles_are_behind(self) -> bool:
        with self.site.database.session() as session:
            release = live_release(session)
            return release is not None and bool(stale_profiles(session, release.recipe_id, live=True))

    def _standing(self, drop: Drop) -> Sealed | None:
        """How the drop's folder was sealed; None where it is gone, or was sealed anew with other files since."""
        name = self.folders.get(drop.root)
        sealed = None if name is None else self.records.sealed(name)
        return sealed if sealed is not None and sealed.key == drop.key else None

    def _is_whole(self, drop: Drop) -> bool:
        """Whether the drop's folder is as it was sealed, as far as this look went."""
        sealed, look = self._standing(drop), self.looks.get(self.folders.get(drop.root, ""))
        return sealed is not None and (look is None or look.signature == sealed.signature)


def _beginning_at(name: str, names: Sequence[str]) -> list[str]:
    """Names in their order, beginning at this one, and those before it at the end."""
    return [each for each in names if each >= name] + [each for each in names if each < name]


def _stand_for(files: Iterable[str]) -> str:
    """Hash over names of files; "" for none."""
    listed = "\0".join(sorted(files))
    return hashlib.sha256(listed.encode("utf-8", "backslashreplace")).hexdigest()[:20] if listed else ""


def _opens(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False
