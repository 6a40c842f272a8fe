"""Where one home's server lives and which OS user runs it.

Usually `<home>/postgres`; as root, when the server's user cannot reach that, `/var/lib/deer-reid/<hash>`, and the file
`location` in the home says so. It finds and chooses folders, and refuses those that cannot work; it never starts
anything and never makes the data folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from deer_reid_pipeline.errors import DatabaseError
from deer_reid_pipeline.store.embedded import os_user

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
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


def find_place(home: Path) -> Place:
    """Find or choose the folders of a home's server and the OS user that runs it."""
    if any(character in str(home) for character in '"$`\\\n'):
        raise DatabaseError(f"DEER_REID_HOME {home} has a quote, dollar or backslash in it; choose another folder")
    control = home / "postgres"
    control.mkdir(parents=True, exist_ok=True)
    pointed = read_pointer(control)
    if pointed is not None and not (pointed / "data" / "PG_VERSION").exists():
        raise DatabaseError(
            f"the database of {home} was in {pointed} and is not there any more; put it back, or remove "
            f"{control / 'location'} to begin with an empty one"
        )
    if os.geteuid() == 0:
        control.chmod(control.stat().st_mode | 0o011)  # whatever the umask: the data in it are closed themselves
    cluster = pointed or control
    user = os_user.service_user(cluster / "data")
    place = Place(home, control, cluster, user)
    if user is None:
        _refuse_foreign_data(place)
        return place
    if pointed is None and not os_user.reachable(control, user):
        if place.initialised:
            raise DatabaseError(
                f"OS user {user.pw_name}, who runs the database in {control}, cannot reach it; "
                f"let other users pass its parent folders (chmod o+x)"
            )
        cluster = os_user.SYSTEM_ROOT / hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        place = Place(home, control, cluster, os_user.service_user(cluster / "data"))
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


def read_pointer(control: Path) -> Path | None:
    """The folder that `location` names, None if the home keeps its own data."""
    try:
        return Path((control / "location").read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None


def _refuse_foreign_data(place: Place) -> None:
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
            f"(root, if that is {os_user.SERVICE_USER}) or set DEER_REID_HOME"
        )
