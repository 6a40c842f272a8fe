"""Keeps processes up on one machine: each is started again when it ends, all end with this one.

It stands in for a service manager. It knows nothing of what the processes do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

LOOK_EVERY_S = 1.0
STEADY_S = 60.0
"""A service that ends sooner after its start is started again after a pause, which doubles each time."""

LONGEST_PAUSE_S = 60.0
STOP_WITHIN_S = 60.0
CLOCK_STEP_S = 30.0
"""A clock that goes back by less does not matter."""

_PR_SET_PDEATHSIG = 1

Say = Callable[[str], None]


def at_once() -> bool:
    """A service that waits for no other."""
    return True


@dataclass
class Service:
    """A process that is wanted. It leads a session of its own.

    Attributes:
        may_start: whether what it needs is there.
        after_clock: whether it has to be started again when the clock was set back.
    """

    name: str
    command: Sequence[str]
    may_start: Callable[[], bool] = at_once
    after_clock: bool = False
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    due_s: float = 0.0
    pause_s: float = 0.0

    def put_off(self, now_s: float, *, steady: bool = False) -> None:
        """Put off the next start, each time for longer; not where it ran steadily before."""
        self.pause_s = 0.0 if steady else min(max(1.0, 2 * self.pause_s), LONGEST_PAUSE_S)
        self.due_s = now_s + self.pause_s


class Supervisor:
    """Services of one machine, until Ctrl-C or SIGTERM."""

    def __init__(self, services: Sequence[Service], environment: Mapping[str, str], say: Say) -> None:
        self.services, self.environment, self.say = services, dict(environment), say
        self._left_behind: set[int] = set()
        self._offset = time.time() - time.monotonic()
        self._clock_went_back = False

    def run(self, upkeep: Callable[[], None], after_the_clock: Callable[[], bool]) -> None:
        """Start the services in their order, and start again whatever ends.

        Args:
            upkeep: called with every look, about once a second.
            after_the_clock: called when the clock was set back, with every look until it returns True.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while True:
                upkeep()
                self._look_at_the_clock()
                if self._clock_went_back:
                    self._clock_went_back = not after_the_clock()
                for service in self.services:
                    self._look_after(service)
                # Often, since the number of a group that is gone is given to another one in time.
                self._left_behind = {group for group in self._left_behind if _has_members(group)}
                time.sleep(LOOK_EVERY_S)
        except KeyboardInterrupt:
            self.say("Stopping. Runs that are cut off go on at the next start.")
        finally:
            self._stop()

    def _look_at_the_clock(self) -> None:
        before, self._offset = self._offset, time.time() - time.monotonic()
        back = before - self._offset
        if back <= CLOCK_STEP_S:
            return
        self._clock_went_back = True
        again = [service for service in self.services if service.after_clock and service.process is not None]
        names = ", ".join(service.name for service in again)
        self.say(f"The clock was set back by {back:.0f} s. Started again: {names}.")
        for service in again:
            assert service.process is not None
            _signal_group(service.process.pid, signal.SIGKILL)
            service.process.wait()
            service.process = None
            service.due_s = service.pause_s = 0.0

    def _look_after(self, service: Service) -> None:
        now = time.monotonic()
        if service.process is not None and service.process.poll() is None:
            return
        if service.process is not None:
            self._left_behind.add(service.process.pid)
            service.put_off(now, steady=now - service.started_s >= STEADY_S)
            self.say(f"The {service.name} ended ({_how(service.process.returncode)}). It is started again.")
            service.process = None
        if now < service.due_s:
            return
        try:
            if service.may_start():
                service.started_s = now
                service.process = self._start(service)
        except (OSError, subprocess.SubprocessError) as error:  # too little memory or too few descriptors may pass
            service.put_off(now)
            self.say(f"The {service.name} cannot be started ({error}). It is tried again.")

    def _start(self, service: Service) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            service.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it from here, in order
            preexec_fn=_in_the_child,
        )

    def _stop(self) -> None:
        """End the services, the last first, with what they started; what is left after a while is killed."""
        running = [service.process for service in reversed(self.services) if service.process is not None]
        groups = [*(process.pid for process in running), *self._left_behind]
        try:
            for group in groups:
                _signal_group(group, signal.SIGTERM)
            end = time.monotonic() + STOP_WITHIN_S
            while time.monotonic() < end:
                ended = [process.poll() is not None for process in running]
                if all(ended) and not any(_has_members(group) for group in groups):
                    break
                time.sleep(0.1)
        finally:
            for group in groups:
                _signal_group(group, signal.SIGKILL)
            for process in running:
                process.wait()


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # gone, or another user's by now
        return False
    return True


def _in_the_child() -> None:
    """End with the supervisor, whatever kills that (Linux), and hear the signals that a shell made that one ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
