"""The built-in back end: a run's worker as a process of this machine, in a session of its own.

It outlives the daemon and the web server. Which process runs a run stands in the run's tag, the lease and the lock, so
any Dagster process of the machine can watch and end it. Threads here only collect the exit of a child and report a
crash at once that the monitor would see later.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import dagster as dg

from deer_reid_pipeline.launcher import processes
from deer_reid_pipeline.launcher.closing import start_closing
from deer_reid_pipeline.launcher.dagster_private import (
    CheckRunHealthResult,
    DagsterInstance,
    DagsterLaunchFailedError,
    ExecuteRunArgs,
    LaunchRunContext,
    WorkerStatus,
    serialize_value,
)
from deer_reid_pipeline.launcher.errors import LauncherError
from deer_reid_pipeline.launcher.leases import Lease, LeaseBook
from deer_reid_pipeline.launcher.records import WorkerRecord
from deer_reid_pipeline.launcher.worker_environment import worker_environment

_WATCHED_START_S = 1.0
_TAIL_CHARACTERS = 2000


class ProcessBackEnd:
    """Run workers as processes.

    Args:
        instance: gives Dagster's instance.
        book: gives the leases, locks and logs of this machine.
        grace_seconds: between SIGTERM and SIGKILL when a run is terminated.
    """

    name = "process"
    chooses_cards = False

    def __init__(
        self, instance: Callable[[], DagsterInstance], book: Callable[[], LeaseBook], grace_seconds: int = 30
    ) -> None:
        self._instance = instance
        self._book = book
        self._grace_seconds = grace_seconds
        self._watchers: list[threading.Thread] = []
        self._disposed = False

    def launch(self, context: LaunchRunContext, record: WorkerRecord, held: int) -> None:
        """Start the worker and look at it for a second.

        Raises:
            DagsterLaunchFailedError: it ended at once; the text has the end of its log.
        """
        run, book = context.dagster_run, self._book()
        book.prune_logs()
        with book.log_file(run.run_id).open("ab") as log:
            process = subprocess.Popen(
                self._command(run),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=worker_environment(record, os.environ),
                start_new_session=True,
                pass_fds=(held,),
            )
        worker = processes.look_up(process.pid)
        assert worker is not None  # an uncollected child keeps its entry
        record = replace(record, pid=worker.pid, start_ticks=worker.start_ticks)
        try:
            for lease in book.all():
                if lease.run_id == run.run_id:
                    book.write(replace(lease, pid=worker.pid, start_ticks=worker.start_ticks))
            self._instance().add_run_tags(run.run_id, record.as_tag())
            self._instance().report_engine_event(
                f"Started the run's worker as process {worker.pid}; its log is {book.log_file(run.run_id)}",
                run,
                cls=type(self),
            )
            self._look_at_start(process, run, record)
        except BaseException:
            self.end(record)  # Dagster now calls the run failed
            raise
        watcher = threading.Thread(target=self._watch, args=(process, record), name=f"run-{run.run_id}", daemon=True)
        self._watchers = [other for other in self._watchers if other.is_alive()] + [watcher]
        watcher.start()

    def terminate(self, run: dg.DagsterRun, record: WorkerRecord | None) -> bool:
        """SIGTERM to the worker at once; a process of its own kills what is left after the grace."""
        obstacle = "it has no record of a worker" if record is None else self._out_of_reach(record)
        if record is None or obstacle is not None:
            self._instance().report_engine_event(f"The run cannot be ended from here: {obstacle}.", run, cls=type(self))
            return False
        leader = self._leader(record)
        if leader is None and not self._book().is_held(run.run_id):
            self._instance().report_engine_event("The run's worker had already ended.", run, cls=type(self))
            return False
        self._instance().report_run_canceling(run)
        if leader is not None:
            processes.ask_to_stop(leader.pid, leader.start_ticks)
            start_closing(
                replace(record, pid=leader.pid, start_ticks=leader.start_ticks),
                self._grace_seconds,
                self._book(),
                self._instance().get_ref(),
            )
        return True

    def health(self, run: dg.DagsterRun, record: WorkerRecord) -> CheckRunHealthResult:
        """Look at the worker; FAILED and SUCCESS only once its whole session is gone and its lease is free.

        Raises:
            LauncherError: it runs on another host, or in a container that cannot be looked into.
        """
        here = processes.this_machine()
        known_as = None if record.pid is None else str(record.pid)
        if record.host != here.host:
            raise LauncherError(f"run {run.run_id} runs on host {record.host}, which {here.host} cannot look at")
        if record.boot_id != here.boot_id:
            self._book().forget(run.run_id)
            return self._over(run, f"{record.host} has been restarted since", known_as)
        if record.pid_namespace != here.pid_namespace:
            if not self._book().was_held(run.run_id):
                raise LauncherError(
                    f"run {run.run_id} runs in another container of {record.host}, whose state_dir is not shared "
                    "with this one"
                )
            if self._book().is_held(run.run_id):
                return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=known_as)
            self._book().forget(run.run_id)
            return self._over(run, "the container that it ran in has ended", known_as)
        leader = self._leader(record)
        if leader is not None or (record.pid is None and self._book().is_held(run.run_id)):
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=known_as)
        killed = self.end(record)
        left = f"; {killed} processes that it left were killed" if killed else ""
        return self._over(run, f"process {known_as} is gone{left}", known_as)

    def end(self, record: WorkerRecord) -> int:
        """Kill what is left of a run on this machine and free its lease; returns how many processes were alive.

        Raises:
            LauncherError: something survives, and the lease stays.
        """
        killed = 0
        leader = self._leader(record)
        if leader is not None:
            record = replace(record, pid=leader.pid, start_ticks=leader.start_ticks)
        if record.pid is not None and record.start_ticks is not None:
            killed = processes.kill_all(record.pid, record.start_ticks, record.run_id)
        self._book().forget(record.run_id)
        return killed

    def debug_info(self, run: dg.DagsterRun, record: WorkerRecord, logs: bool) -> str | None:
        """The end of the worker's log.

        The monitor asks for it just before it ends a run that would not start or would not stop, and asks for nothing
        else then. So this is where a worker of such a run is killed, which would keep its card otherwise.
        """
        tail = self._tail(run.run_id)
        text = f"The worker's log is {self._book().log_file(run.run_id)}{f' and ends: {tail}' if tail else ', empty'}"
        stuck = run.status in (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING)
        if stuck and self._out_of_reach(record) is None:
            text = f"{text}\n{self.end(record)} processes of the run were killed."
        return text

    def holds(self, lease: Lease) -> bool:
        """A worker that has ended holds nothing, and what it left behind is killed before its memory is promised."""
        if not self._book().is_held(lease.run_id) and lease.pid is None:
            return False
        if lease.pid is None or lease.start_ticks is None:
            return True
        here = processes.this_machine()
        if (lease.host, lease.boot_id, lease.pid_namespace) != (here.host, here.boot_id, here.pid_namespace):
            return self._book().is_held(lease.run_id)
        if processes.is_alive(lease.pid, lease.start_ticks):
            return True
        try:
            processes.kill_all(lease.pid, lease.start_ticks, lease.run_id)
        except LauncherError:
            return True
        return False

    def join(self, timeout: int) -> None:
        """Wait for the workers that this object started.

        Raises:
            LauncherError: some still run after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        for watcher in self._watchers:
            watcher.join(max(0.0, deadline - time.monotonic()))
        left = [watcher.name for watcher in self._watchers if watcher.is_alive()]
        if left:
            raise LauncherError(f"still running after {timeout} s: {', '.join(left)}; terminate them or wait longer")

    def dispose(self) -> None:
        """The workers go on; their exits are no longer reported from here."""
        self._disposed = True

    def _command(self, run: dg.DagsterRun) -> list[str]:
        origin = run.job_code_origin
        if origin is None:
            raise LauncherError(f"run {run.run_id} does not say where its code is; start it from a code location")
        arguments = ExecuteRunArgs(
            job_origin=origin,
            run_id=run.run_id,
            instance_ref=self._instance().get_ref(),
            set_exit_code_on_failure=True,
        )
        own = origin.repository_origin.executable_path
        python = own if own and Path(own).is_file() else sys.executable
        return [python, "-m", "dagster", "api", "execute_run", serialize_value(arguments)]

    def _look_at_start(self, process: subprocess.Popen[bytes], run: dg.DagsterRun, record: WorkerRecord) -> None:
        deadline = time.monotonic() + _WATCHED_START_S
        while process.poll() is None:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        self.end(record)
        after = self._instance().get_run_by_id(run.run_id)
        if after is not None and not after.is_finished:
            raise DagsterLaunchFailedError(
                f"The run's worker ended at once with exit code {process.returncode}. Its log "
                f"{self._book().log_file(run.run_id)} ends: {self._tail(run.run_id) or '(empty)'}"
            )

    def _watch(self, process: subprocess.Popen[bytes], record: WorkerRecord) -> None:
        process.wait()
        # A torn-down instance, or processes that hang in the kernel: the next health check tells.
        with suppress(LauncherError, dg.DagsterInvariantViolationError):
            if self._disposed:
                return
            run = self._instance().get_run_by_id(record.run_id)
            if run is None:
                return
            if run.is_finished:
                self.end(record)
            elif run.status is dg.DagsterRunStatus.STARTING:
                tail = self._tail(run.run_id) or "(empty)"
                self.end(record)
                self._instance().report_run_failed(
                    run, f"The run's worker ended with exit code {process.returncode} before the run began: {tail}"
                )

    def _leader(self, record: WorkerRecord) -> processes.Process | None:
        """The living worker of a record of this machine; None once it is gone."""
        if record.pid is None or record.start_ticks is None:
            return processes.find_leader(record.run_id)
        found = processes.look_up(record.pid)
        return found if found is not None and processes.is_alive(record.pid, record.start_ticks) else None

    def _out_of_reach(self, record: WorkerRecord) -> str | None:
        here = processes.this_machine()
        if record.host != here.host:
            return f"its worker runs on host {record.host}, this is {here.host}"
        if record.boot_id != here.boot_id:
            return f"{record.host} has been restarted since it began, so its worker is gone"
        if record.pid_namespace != here.pid_namespace:
            return f"its worker runs in another container of {record.host}"
        return None

    def _over(self, run: dg.DagsterRun, why: str, worker: str | None) -> CheckRunHealthResult:
        after = self._instance().get_run_by_id(run.run_id)
        finished = after is not None and after.is_finished
        return CheckRunHealthResult(
            WorkerStatus.SUCCESS if finished else WorkerStatus.FAILED, why, run_worker_id=worker
        )

    def _tail(self, run_id: str) -> str:
        try:
            text = self._book().log_file(run_id).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return text[-_TAIL_CHARACTERS:].strip()
