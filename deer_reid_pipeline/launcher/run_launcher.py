"""`GpuRunLauncher`: gives each Dagster run that wants a card one with room, and hands every other run on.

It cannot put a run back into the queue: how many runs are started at once is the business of `concurrency.pools` in
dagster.yaml. It keeps nothing in memory: tags of the run, leases and locks say all, so a restarted daemon or another
Dagster process of the machine goes on with them. It never resumes a run: under Dagster's own executors that would run
steps twice. A run that died is started anew by `run_retries`, after everything that it left has been killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from deer_reid_pipeline.launcher import processes
from deer_reid_pipeline.launcher.back_end import BackEnd, DelegatedBackEnd
from deer_reid_pipeline.launcher.cluster import cluster_back_end, launcher_from
from deer_reid_pipeline.launcher.dagster_private import (
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    DagsterInstance,
    EngineEventData,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from deer_reid_pipeline.launcher.errors import LauncherError
from deer_reid_pipeline.launcher.leases import Lease, LeaseBook
from deer_reid_pipeline.launcher.options import SCHEMA, Options, options_from
from deer_reid_pipeline.launcher.placement import NoRoom, Placement
from deer_reid_pipeline.launcher.placing import place
from deer_reid_pipeline.launcher.process_back_end import ProcessBackEnd
from deer_reid_pipeline.launcher.records import (
    DELEGATE,
    PLACEMENT_TAG,
    WAITING,
    WorkerRecord,
    record_of,
)
from deer_reid_pipeline.launcher.routing import wants_gpu
from deer_reid_pipeline.settings import load_settings

_LOOK_AGAIN_S = 1.0
_START_MARGIN_S = 15
"""A wait ends this long before the monitor would call the run failed because it has not started."""


class GpuRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Places runs on cards.

    Example, in dagster.yaml:

    ```yaml
    run_launcher:
      module: deer_reid_pipeline.launcher.run_launcher
      class: GpuRunLauncher
      config:
        gpu:
          process: {}
        when_unavailable: wait
        vram_mb: 9000
    ```

    Raises:
        LauncherError: the config cannot be used, or the package of the chosen back end is missing.
    """

    def __init__(self, options: Options, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()
        self._inst_data = inst_data
        self._options = options
        grace = options.back_end_config.get("terminate_grace_seconds", 30)
        self._processes = ProcessBackEnd(lambda: self._instance, self._book, grace)
        self._delegated: list[DelegatedBackEnd] = []
        self._cpu: BackEnd = self._processes
        self._gpu: BackEnd = self._processes
        if options.delegate is not None:
            named = options.delegate
            launcher = launcher_from(named.module, named.class_name, named.config)
            self._cpu = self._with(DelegatedBackEnd(DELEGATE, launcher))
        if options.back_end != ProcessBackEnd.name:
            self._gpu = self._with(cluster_back_end(options.back_end, options.back_end_config))

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """The fields in dagster.yaml; docs/launcher.md has them in a table."""
        return SCHEMA

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> GpuRunLauncher:
        """Make the launcher, its delegate and its back end."""
        return cls(options_from(config_value), inst_data)

    def register_instance(self, instance: DagsterInstance) -> None:
        """Dagster calls this once; the launchers behind this one are told too."""
        super().register_instance(instance)
        for back_end in self._delegated:
            back_end.launcher.register_instance(instance)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Route, place and start a run; what was decided, and why, is written on the run before it starts.

        Raises:
            LauncherError: it wants a card, none has room, and the config says fail, or wait and the wait is over.
            DagsterLaunchFailedError: its worker ended at once.
        """
        run = context.dagster_run
        wanted, why = wants_gpu(run, self._instance, self._options.pools)
        if not wanted:
            self._start(context, self._cpu, None, f"cpu: {why}")
        elif self._gpu.chooses_cards:
            self._start(context, self._gpu, None, f"{self._gpu.name}: {why}; the cluster chooses the card")
        else:
            self._start_on_card(context, why)

    def terminate(self, run_id: str) -> bool:
        """Begin to end a run; False, with an event on the run, where that cannot be done from this process."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        record = record_of(run)
        if record is not None and record.back_end == WAITING:
            return self._stop_waiting(run, record)
        return self._back_end_of(record).terminate(run, record)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """RUNNING, SUCCESS or FAILED; before FAILED, everything of the run is killed and its lease is free.

        A run that this launcher did not start, such as one of the command line, counts as running.

        Raises:
            LauncherError: the worker cannot be seen from here; Dagster asks again later.
        """
        record = record_of(run)
        if record is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "this launcher did not start it")
        if record.back_end == WAITING:
            return CheckRunHealthResult(WorkerStatus.FAILED, "it was given up while it waited for a card")
        result = self._back_end_of(record).health(run, record)
        if result.status is not WorkerStatus.RUNNING:
            self._book().forget(run.run_id)
        return result

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """Where the run was placed and what its worker last said."""
        record = record_of(run)
        if record is None or record.back_end == WAITING:
            return None
        about = self._back_end_of(record).debug_info(run, record, bool(include_container_logs))
        placed = f"Placed on {run.tags.get(PLACEMENT_TAG)}."
        return f"{placed}\n{about}" if about else placed

    @property
    def supports_resume_run(self) -> bool:
        return False

    def resume_run(self, context: ResumeRunContext) -> None:
        """Refused always.

        Raises:
            LauncherError: always.
        """
        raise LauncherError(
            f"run {context.dagster_run.run_id} is not resumed, because its steps could run twice: set "
            "run_monitoring.max_resume_run_attempts to 0 and use run_retries"
        )

    def join(self, timeout: int = 30) -> None:
        """Wait for the runs that this object started.

        Raises:
            LauncherError: some still run after `timeout` seconds.
        """
        for back_end in self._back_ends:
            back_end.join(timeout)

    def dispose(self) -> None:
        """The runs go on."""
        for back_end in self._back_ends:
            back_end.dispose()

    def _start_on_card(self, context: LaunchRunContext, why: str) -> None:
        """Lease a card and start the run on it, or do what the config says where none has room."""
        run = context.dagster_run
        held = self._book().hold(run.run_id)
        try:
            decision = self._place(run)
            if isinstance(decision, NoRoom) and self._options.when_unavailable == "wait":
                waited = self._wait(run, decision)
                if waited is None:
                    self._book().forget(run.run_id)
                    return
                decision = waited
            if isinstance(decision, Placement):
                self._start(context, self._gpu, decision, f"gpu: {why}; {decision.reason}", held)
                return
        finally:
            os.close(held)
        self._book().forget(run.run_id)
        reason = f"{why}, but no card: {decision.reason}"
        if self._options.when_unavailable == "cpu":
            self._start(context, self._cpu, None, f"cpu: {reason}")
            return
        self._note(run, f"failed: {reason}")
        raise LauncherError(f"run {run.run_id} was not started: {reason}")

    def _place(self, run: dg.DagsterRun) -> Placement | NoRoom:
        asked = self._options.vram_mb
        return place(
            run.run_id,
            self._gpu.name,
            self._book(),
            self._holds,
            vram_mb=load_settings().vram_mb if asked is None else asked,
            reserve_mb=self._options.reserve_mb,
            devices=self._options.devices,
        )

    def _wait(self, run: dg.DagsterRun, first: NoRoom) -> Placement | NoRoom | None:
        """Look again until there is room or the time is over; None where the run was ended meanwhile."""
        seconds = self._options.wait_seconds
        if self._instance.run_monitoring_enabled and self._instance.run_monitoring_start_timeout_seconds > 0:
            seconds = min(seconds, max(1, self._instance.run_monitoring_start_timeout_seconds - _START_MARGIN_S))
        self._note(run, f"waiting up to {seconds} s: {first.reason}")
        me = processes.look_up(os.getpid())
        self._instance.add_run_tags(run.run_id, self._record(run, WAITING, me).as_tag())
        deadline, decision = time.monotonic() + seconds, first
        while time.monotonic() < deadline:
            time.sleep(min(_LOOK_AGAIN_S, max(0.0, deadline - time.monotonic())))
            now = self._instance.get_run_by_id(run.run_id)
            if now is None or now.is_finished:
                return None
            if now.status is dg.DagsterRunStatus.CANCELING:
                self._instance.report_run_canceled(now, "Cancelled while it waited for a card.")
                return None
            again = self._place(run)
            if isinstance(again, Placement):
                return again
            decision = again
        return NoRoom(f"none within {seconds} s; {decision.reason}")

    def _stop_waiting(self, run: dg.DagsterRun, record: WorkerRecord) -> bool:
        here = processes.this_machine()
        if (record.host, record.boot_id, record.pid_namespace) == (here.host, here.boot_id, here.pid_namespace):
            self._instance.report_run_canceling(run)
            if not processes.is_alive(record.pid or 0, record.start_ticks or 0):
                self._instance.report_run_canceled(run, "Cancelled; the process that waited for a card had ended.")
            return True
        self._instance.report_run_canceling(run)
        return True

    def _start(
        self,
        context: LaunchRunContext,
        back_end: BackEnd,
        placement: Placement | None,
        text: str,
        held: int | None = None,
    ) -> None:
        """Write where the run goes, start it there, and end it again where it was cancelled meanwhile."""
        run, card = context.dagster_run, None if placement is None else placement.card
        record = self._record(run, back_end.name)
        if placement is not None and card is not None:
            record = self._record(run, back_end.name, device=card.uuid, budget_mb=placement.budget_mb)
        elif back_end.chooses_cards:
            record = self._record(run, back_end.name, budget_mb=self._options.vram_mb or load_settings().vram_mb)
        self._note(run, text, record)
        taken = self._book().hold(run.run_id) if held is None and back_end is self._processes else None
        try:
            fresh = self._instance.get_run_by_id(run.run_id)
            assert fresh is not None
            lock = held if held is not None else taken
            back_end.launch(context._replace(dagster_run=fresh), record, -1 if lock is None else lock)
        except BaseException:
            if placement is not None or taken is not None:
                self._book().forget(run.run_id)
            raise
        finally:
            if taken is not None:
                os.close(taken)
        after = self._instance.get_run_by_id(run.run_id)
        if after is not None and after.status is dg.DagsterRunStatus.CANCELING:
            self.terminate(run.run_id)

    def _note(self, run: dg.DagsterRun, text: str, record: WorkerRecord | None = None) -> None:
        tags = {PLACEMENT_TAG: text, **({} if record is None else record.as_tag())}
        self._instance.add_run_tags(run.run_id, tags)
        details = {} if record is None or not record.device else {"device": record.device, "vram_mb": record.budget_mb}
        self._instance.report_engine_event(f"Placement: {text}", run, EngineEventData(details), cls=type(self))

    def _record(
        self,
        run: dg.DagsterRun,
        back_end: str,
        process: processes.Process | None = None,
        device: str = "",
        budget_mb: int | None = None,
    ) -> WorkerRecord:
        here = processes.this_machine()
        return WorkerRecord(
            run_id=run.run_id,
            back_end=back_end,
            host=here.host,
            boot_id=here.boot_id,
            pid_namespace=here.pid_namespace,
            pid=None if process is None else process.pid,
            start_ticks=None if process is None else process.start_ticks,
            device=device,
            budget_mb=budget_mb,
        )

    def _back_end_of(self, record: WorkerRecord | None) -> BackEnd:
        """Who started a run: the record says, whatever the config says now.

        Raises:
            LauncherError: that back end is no longer in the config.
        """
        if record is None:
            return self._cpu
        for back_end in self._back_ends:
            if back_end.name == record.back_end:
                return back_end
        raise LauncherError(
            f"run {record.run_id} was started by the back end {record.back_end}, which dagster.yaml no longer names; "
            "put it back until the run is over"
        )

    @property
    def _back_ends(self) -> list[BackEnd]:
        return [self._processes, *self._delegated]

    def _holds(self, lease: Lease) -> bool:
        if lease.back_end == self._processes.name:
            return self._processes.holds(lease)
        if self._book().is_held(lease.run_id):
            return True
        known = [back_end for back_end in self._delegated if back_end.name == lease.back_end]
        return known[0].holds(lease) if known else True

    def _book(self) -> LeaseBook:
        return LeaseBook(self._options.state_dir or Path(self._instance.root_directory) / "gpu-runs")

    def _with(self, back_end: DelegatedBackEnd) -> DelegatedBackEnd:
        self._delegated.append(back_end)
        return back_end
