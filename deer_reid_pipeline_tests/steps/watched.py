"""A watched folder with a clock of its own, and a light stand-in for the job: store, detect, finish."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.ingest.watch_cursor import WatchCursor, read_cursor
from deer_reid_pipeline.steps.detections import store_detections
from deer_reid_pipeline.steps.images import store_images
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.steps.summary import finish_drop
from deer_reid_pipeline.steps.watch_runs import DropRun, RunState, attempt_of
from deer_reid_pipeline.steps.watching import DropRequest, Tick, watch_once


def jpeg(number: int) -> bytes:
    """A tiny picture that is nobody's copy."""
    buffer = io.BytesIO()
    colour = (number % 251, number // 251 % 251, number // 63001 % 251)
    Image.new("RGB", (16, 16), colour).save(buffer, "JPEG", comment=str(number).encode())
    return buffer.getvalue()


def put(folder: Path, name: str, content: bytes) -> Path:
    """Write a file of a drop."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def process(site: Site, key: str) -> None:
    """What the job does, but for crops, vectors and matching."""
    store_images(site, key)
    store_detections(site, key)
    finish_drop(site, key)


@dataclass
class Watched:
    """Ticks over a real folder at times of its own; runs are started by nobody but `work`."""

    site: Site
    root: Path
    now: float = 1_000_000.0
    cursor: WatchCursor = field(default_factory=WatchCursor)
    runs: dict[str, list[DropRun]] = field(default_factory=dict)
    requested: list[DropRequest] = field(default_factory=list)

    def tick(self, after: float = 30.0) -> Tick:
        """The next tick. The cursor goes through its text, as it does in Dagster."""
        self.now += after
        found = watch_once(self.site, self.root, self.cursor, self.now, lambda key: self.runs.get(key, []))
        self.cursor, complaint = read_cursor(found.cursor.to_text())
        assert complaint is None
        assert found.message.isascii()
        keys = {each.run_key for each in self.requested}
        assert not keys & {each.run_key for each in found.requests}, "Dagster would start nothing for a used run key"
        self.requested += found.requests
        for request in found.requests:
            self.runs.setdefault(request.key, []).insert(0, DropRun(RunState.GOING, None, attempt_of(request.run_key)))
        return found

    def end(self, key: str, state: RunState) -> None:
        """The drop's newest run ends."""
        self.runs[key][0] = DropRun(state, self.now, self.runs[key][0].attempt)

    def work(self) -> None:
        """Carry out every run that was requested."""
        for key, runs in self.runs.items():
            if runs[0].state is RunState.GOING:
                try:
                    process(self.site, key)
                except DeerReidError:
                    self.end(key, RunState.FAILED)
                else:
                    self.end(key, RunState.SUCCEEDED)

    def settle(self) -> list[DropRequest]:
        """Ticks until everything that is there now is sealed and processed; what they requested."""
        before = len(self.requested)
        for after in (30, 30, 130, 30):
            self.tick(after)
            self.work()
        return self.requested[before:]
