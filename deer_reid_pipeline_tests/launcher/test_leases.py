"""Leases and locks: what a reader sees, and that the kernel frees a lock when its holder dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deer_reid_pipeline.launcher import processes
from deer_reid_pipeline.launcher.cards import cards_here
from deer_reid_pipeline.launcher.errors import LauncherError
from deer_reid_pipeline.launcher.leases import Lease, LeaseBook
from deer_reid_pipeline.launcher.placing import allocated_on, living_leases
from deer_reid_pipeline.launcher.process_back_end import ProcessBackEnd
from deer_reid_pipeline_tests.launcher.conftest import BIG, wait_for


@pytest.fixture
def book(tmp_path: Path) -> LeaseBook:
    return LeaseBook(tmp_path)


def lease_of(run_id: str, process: processes.Process | None = None) -> Lease:
    here = processes.this_machine()
    return Lease(
        run_id,
        BIG,
        4000,
        "process",
        here.host,
        here.boot_id,
        here.pid_namespace,
        None if process is None else process.pid,
        None if process is None else process.start_ticks,
    )


def test_a_lease_is_read_back_and_ended(book: LeaseBook) -> None:
    book.write(lease_of("a"))
    book.write(replace(lease_of("a"), pid=7, start_ticks=8))
    book.write(lease_of("b"))
    assert book.all() == [replace(lease_of("a"), pid=7, start_ticks=8), lease_of("b")]
    book.free("a")
    book.free("a")
    assert [lease.run_id for lease in book.all()] == ["b"]


def test_nothing_is_placed_beside_a_lease_that_cannot_be_read(book: LeaseBook) -> None:
    (book.folder / "leases" / "x.json").write_text("{", encoding="ascii")
    with pytest.raises(LauncherError, match=r"x\.json cannot be read"):
        book.all()


def test_a_lock_lives_with_its_holder_and_with_the_process_that_got_it(book: LeaseBook) -> None:
    assert not book.is_held("a")
    held = book.hold("a")
    assert book.is_held("a")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=(held,))
    os.close(held)
    assert book.is_held("a")
    child.kill()
    child.wait()
    assert not book.is_held("a")
    assert book.was_held("a")
    book.forget("a")
    assert not book.was_held("a")


def test_leases_without_a_living_holder_are_dropped(book: LeaseBook) -> None:
    """A placing process that was killed, a worker that was killed, one that lives, and one of an earlier boot."""
    back_end = ProcessBackEnd(lambda: None, lambda: book)  # type: ignore[arg-type, return-value]
    living = subprocess.Popen(["sleep", "600"], start_new_session=True)
    dead = subprocess.Popen(["sleep", "600"], start_new_session=True)
    alive, gone = processes.look_up(living.pid), processes.look_up(dead.pid)
    dead.kill()  # not waited for: a zombie holds nothing
    wait_for(lambda: not (processes.look_up(dead.pid) or gone).lives, "zombie")  # type: ignore[union-attr]
    held = book.hold("placing")
    for lease in (
        lease_of("placing"),
        lease_of("never-started"),
        lease_of("living", alive),
        lease_of("dead", gone),
        replace(lease_of("reused", alive), start_ticks=1),
        replace(lease_of("earlier-boot", alive), boot_id="earlier"),
    ):
        book.write(lease)
    assert [lease.run_id for lease in living_leases(book, back_end.holds)] == ["living", "placing"]
    assert [lease.run_id for lease in book.all()] == ["living", "placing"]
    assert living.poll() is None, "the owner of a reused id was killed"
    os.close(held)
    living.kill()
    assert living.wait() == dead.wait() == -9


def test_what_a_runs_processes_hold_is_found_on_the_card(book: LeaseBook, cards: Callable[..., None]) -> None:
    worker = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
    leader = processes.look_up(worker.pid)
    assert leader is not None
    children = wait_for(
        lambda: [p for p in processes.members(leader.pid, leader.start_ticks, "a") if p.pid != leader.pid], "child"
    )
    cards(
        lambda devices: devices[0]["processes"].extend(
            {"pid": pid, "usedGpuMemory": 500 * 2**20} for pid in (leader.pid, children[0].pid)
        )
    )
    try:
        assert allocated_on(cards_here(), [lease_of("a", leader)])[BIG] == {"a": 1000}
    finally:
        processes.kill_all(leader.pid, leader.start_ticks, "a")
        worker.wait()


def test_a_folder_that_cannot_be_written_says_which_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LauncherError, match=r"set state_dir in dagster\.yaml"):
        LeaseBook(tmp_path / "file")
