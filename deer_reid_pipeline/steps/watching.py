"""One look at the watched folder: seal what has arrived, and say which drops need a run.

Bounded: at most so many drops are sealed, so many bytes read and so many seconds spent, and the next look goes on. It
may be stopped anywhere and done again: whatever is sealed twice gets the same key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from deer_reid_pipeline.errors import DropError
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
    MISSING_FILE,
    NO_CROP,
    drop_keys,
    drop_of_content,
    drops_under,
    get_drop,
    quarantine_of,
)
from deer_reid_pipeline.store.models import Drop
from deer_reid_pipeline.store.profiles import stale_profiles
from deer_reid_pipeline.store.releases import live_release

LOOKING_S = 10.0
READING_S = 15.0
"""Seconds after which a look at the listings, and then the reading of pictures, is left to the next tick."""

_THREADS = 4
_BATCH = 16
_MOST_OPEN = 500
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
    watch = _Watch(site, root, cursor, now, clock)
    listing = list_watched(root)
    names = [name for name in listing.folders if not f"{home}/".startswith(f"{os.path.realpath(root / name)}/")]
    if listing.loose_pictures:
        watch.notes.say(
            "other",
            f"{plural(listing.loose_pictures, 'picture')} in the watched folder itself: put each drop into a folder",
        )
    following = watch.look(names)
    watch.seal()
    requests = watch.wanted(runs_of)
    watch.notes.settled = len(watch.settled)
    if names:  # a folder without any sub-folder may be a disk that is not mounted now
        watch.records.forget_all_but(names)
    return Tick(tuple(requests), WatchCursor(bounded(watch.pending, now), following), watch.notes.text())


class _Watch:
    """The state of one look."""

    def __init__(self, site: Site, root: Path, cursor: WatchCursor, now: float, clock: Clock) -> None:
        self.site, self.root, self.cursor, self.now, self.clock = site, root, cursor, now, clock
        self.rules = WatchRules(site.settings.watch_settle_seconds, site.settings.watch_table_seconds)
        self.records = WatchRecords(site.settings.home, root)
        self.pending: dict[str, Pending] = {}
        self.ready: list[tuple[float, str, Look]] = []
        self.notes = Notes()
        self.settled: set[str] = set()
        self.bytes_left = site.settings.watch_mb << 20
        self.read_any = False
        with site.database.session() as session:
            self.known = drop_keys(session)
            unfinished = drops_under(session, os.path.realpath(root), completed=False, limit=_MOST_OPEN)
        self.orphans = {drop.key for drop in unfinished if not Path(drop.root).is_dir()}

    def look(self, names: Sequence[str]) -> str:
        """Judge the folders, beginning where the last look ended; returns where the next one begins."""
        order = [name for name in names if name >= self.cursor.following]
        order += [name for name in names if name < self.cursor.following]
        end = self.clock() + LOOKING_S
        for position, name in enumerate(order):
            if position and self.clock() > end:
                self.notes.unlooked = len(order) - position
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
                self.settled.add(name)
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

        Its files may have become readable, its marker may be a new one, and the folder that its drop was to be read
        from, of which it is a copy, may be gone.
        """
        if sealed.key in self.orphans or any(_opens(self.root / look.name / rel) for rel in sealed.unread):
            return Verdict(Stage.READY, Pending(look.signature, self.now))
        if sealed.unread:
            self.notes.name("unread", look.name, f"{plural(len(sealed.unread), 'file')}, first {sealed.unread[0]}")
        if look.marker != sealed.marker:
            record = self.records.read(look.name)
            record.sealed = replace(sealed, marker=look.marker)
            self.records.write(look.name, record)
        return verdict

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
        del self.pending[name]
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
                if key != drop.key:
                    self.notes.name("copy", name, f"drop {key}")
        except DropError as error:
            record.sealed = Sealed(look.signature, look.marker, None, str(error), unread[:_MOST_UNREAD])
            self.notes.say("refused", f"{name} cannot be a drop: {error}")
        else:
            record.sealed = Sealed(look.signature, look.marker, key, None, unread[:_MOST_UNREAD])
            if unread:
                self.notes.name("unread", name, f"{plural(len(unread), 'file')}, first {unread[0]}")
        self.records.write(name, record)

    def _with_less(self, drop: SealedDrop, key: str, members: Mapping[str, str]) -> str:
        """A folder that only lost files is the drop that it was, open again where a file is back that it had missed."""
        with self.site.database.session() as session:
            missed = {row.file for row in quarantine_of(session, key) if row.code in (MISSING_FILE, NO_CROP)}
        if missed.intersection(members):
            register_sealed(self.site, replace(drop, key=key), self.site.settings.detector)
        return key

    def _register(self, drop: SealedDrop, detector: str) -> str:
        """Store a drop, unless its content is another one's already; returns the key that stands for it.

        Where the folder of that other one is gone, it was renamed: then this is where its pictures are now.
        """
        with self.site.database.session() as session:
            known = get_drop(session, drop.key) is not None
            twin = None if known else drop_of_content(session, drop.digest)
        if twin is None:
            register_sealed(self.site, drop, detector)
            return drop.key
        elsewhere = Path(twin.root).parent != drop.root.parent
        if not Path(twin.root).is_dir() or (twin.completed_at is None and elsewhere):
            register_sealed(self.site, replace(drop, key=twin.key), detector)
        return twin.key

    def wanted(self, runs_of: RunsOf) -> list[DropRequest]:
        """Runs that unfinished drops of the watched folder need."""
        requests = []
        for drop in self._open(runs_of):
            name, runs = Path(drop.root).name, runs_of(drop.key)
            self.settled.discard(name)
            found = next_run(runs, self.now, self.site.settings.watch_attempts)
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
        return requests

    def _open(self, runs_of: RunsOf) -> list[Drop]:
        """Unfinished drops that a folder holds now, and the last finished one where profiles did not follow."""
        root = os.path.realpath(self.root)
        with self.site.database.session() as session:
            found = drops_under(session, root, completed=False, limit=_MOST_OPEN)
            for drop in drops_under(session, root, completed=True, limit=1):
                runs = runs_of(drop.key)
                release = live_release(session)
                if (
                    runs
                    and runs[0].state is RunState.FAILED
                    and release is not None
                    and stale_profiles(session, release.recipe_id, live=True)
                ):
                    found.append(drop)
        return [drop for drop in found if self._is_current(drop, root)]

    def _is_current(self, drop: Drop, root: str) -> bool:
        """Whether the drop's folder is still there and was not sealed anew with other files since."""
        place = Path(drop.root)
        if os.fspath(place.parent) != root or not place.is_dir():
            return False
        sealed = self.records.sealed(place.name)
        return sealed is not None and sealed.key == drop.key


def _opens(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False
