"""A site by its own clock: what people do to the watched folder, and what the daemon makes of it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from deer_reid_pipeline.defs.automation.nights import SUNDAY
from deer_reid_pipeline.defs.automation.schedules import WORK
from deer_reid_pipeline.ingest.scan import COMPLETE_MARKER
from deer_reid_pipeline_tests.e2e.runs import Home
from deer_reid_pipeline_tests.fortnight.clock import SiteClock
from deer_reid_pipeline_tests.fortnight.seen import Seen, SeenTick
from deer_reid_pipeline_tests.fortnight.services import Services
from deer_reid_pipeline_tests.launcher.conftest import wait_for

ZONE = ZoneInfo("Europe/Berlin")
SENSOR = "image_drop_sensor"
FOLLOWING = "morning_automation_sensor"
NIGHT_START = timedelta(hours=1)
MORNING = timedelta(hours=7, minutes=10)
"""After all of the night's schedules and the automation of the morning."""

LATE_S = 50
"""Second of the minute to which the clock is set: the scheduler sleeps to the minute's end, in the machine's time."""

PATIENCE_S = 1800.0


class World:
    """A running site and its watched folder."""

    def __init__(self, clock: SiteClock, services: Services, seen: Seen, root: Path) -> None:
        self.clock, self.services, self.seen, self.root = clock, services, seen, root

    @property
    def home(self) -> Home:
        return self.services.home

    # What people do.

    def bring(self, card: Path, name: str = "", marked: bool = True) -> Path:
        """Copy a whole card into the watched folder, as `cp -r` does; with a marker at the end, or without."""
        target = self.root / (name or card.name)
        shutil.copytree(card, target, copy_function=shutil.copyfile, dirs_exist_ok=True)
        if marked:
            (target / COMPLETE_MARKER).touch()
        return target

    # What the daemon does.

    def look(self, minutes: int = 1) -> SeenTick:
        """Let minutes pass; the first tick of the sensor that began after them."""
        begun = self._pass(minutes)

        def ticked() -> SeenTick | None:
            return next(iter(self.seen.ticks(SENSOR, after=begun)), None)

        tick = self.wait(ticked, f"tick of {SENSOR}")
        assert tick.status != "FAILURE", tick.error
        return tick

    def work(self) -> None:
        """Wait until every run has ended."""

        def over() -> bool:
            open_runs = self.seen.open_runs()
            if open_runs <= {"STARTED"}:
                self._stay_late()
            return not open_runs

        self.wait(over, "end of all runs")

    def process(self, *folders: str, minutes: int = 1, most: int = 30) -> None:
        """Looks until each of the folders has one more run than before, and the runs to their end."""
        before = self._runs()
        for _ in range(most):
            self.look(minutes)
            if all(self._runs()[name] > before[name] for name in folders):
                break
        self.work()
        now = self._runs()
        assert {name: now[name] - before[name] for name in folders} == dict.fromkeys(folders, 1)

    def _runs(self) -> Counter[str | None]:
        """How many runs each folder had."""
        return Counter(run.folder for run in self.seen.runs("process_drop_job"))

    def night(self, stepwise: bool = False) -> date:
        """The night and its morning, with all that runs by itself; returns its date.

        Args:
            stepwise: the clock goes from schedule to schedule; otherwise it jumps to the morning, as if the daemon had
                been away, and the schedules are made up for.
        """
        night = (self.clock.now().astimezone(ZONE) + timedelta(days=1)).date()
        midnight = datetime(night.year, night.month, night.day, tzinfo=ZONE)
        due = [work for work in WORK if work.weekday == "*" or (night.isoweekday() % 7) == int(SUNDAY)]
        if stepwise:
            for work in due:
                self._set(midnight + NIGHT_START + work.after)
                self.wait(lambda name=work.name: self.ticked(name, night), f"tick of {work.name}")  # type: ignore[misc]
                self.work()
        self._set(midnight + MORNING)
        begun = self.clock.now()
        for work in due:
            self.wait(lambda name=work.name: self.ticked(name, night), f"tick of {work.name}")  # type: ignore[misc]
        self.wait(lambda: self.seen.ticks(FOLLOWING, after=begun), f"tick of {FOLLOWING}")
        self.work()
        return night

    def ticked(self, schedule: str, night: date) -> list[SeenTick]:
        """Ticks of a schedule that were due in a night."""
        return [tick for tick in self.seen.ticks(schedule) if tick.at.astimezone(ZONE).date() == night]

    def noon(self) -> None:
        """The next noon."""
        now = self.clock.now().astimezone(ZONE)
        noon = now.replace(hour=12, minute=0)
        self._set(noon if noon > now else noon + timedelta(days=1))

    def _set(self, moment: datetime) -> None:
        """Set the clock to a minute, unless it is later already."""
        late = moment.replace(second=LATE_S, microsecond=0)
        if late > self.clock.now():
            self.clock.set_to(late)

    def _pass(self, minutes: int) -> datetime:
        """Let minutes pass, but not while a run starts: it would seem to take so long."""
        self.wait(lambda: not self.seen.open_runs() & {"NOT_STARTED", "STARTING"}, "start of a run")
        self._set(self.clock.now() + timedelta(minutes=minutes))
        return self.clock.now()

    def _stay_late(self) -> None:
        """Keep the clock in the last seconds of a minute, a minute later each time."""
        now = self.clock.now()
        if now.second > LATE_S + 7:
            self._set(now + timedelta(minutes=1))
        elif now.second < LATE_S:
            self._set(now)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value of a condition, while all services live.

        Raises:
            AssertionError: there was none in time.
        """

        def asked() -> Any:
            value = condition()
            if not value:
                self.services.check()
            return value

        try:
            return wait_for(asked, what, PATIENCE_S, every_s=1.0)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.clock.now()}:\n{self.services.log_of('daemon')}") from error
