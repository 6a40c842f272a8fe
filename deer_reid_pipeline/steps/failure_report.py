"""A failed run in words: what ran, what went wrong, what was lost, what to do; as a file, and as a message.

Neither carries pictures, camera coordinates or passwords. The message leaves the machine, so it also leaves out what a
fault of the program says: that may hold anything.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from deer_reid_pipeline.vision.model_files import write_whole

log = logging.getLogger(__name__)

MOST_FILES = 200
"""Reports kept, the newest ones."""

TIMEOUT_S = 5.0
STAMP = "%Y%m%dT%H%M%SZ"
NOTHING_LOST = (
    "Nothing. Whatever was finished before the failure is stored, and the same run, started again, goes on from there."
)

WAS_STOPPED = "it was stopped from outside: by Ctrl-C, or because its service was ended or started again"

_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]*@")
_SECRETS = re.compile(
    r"(?i)\b((?:[a-z0-9_]*(?:password|passwd|pwd|secret|token|api[_-]?key))['\"]?\s*[=:]\s*)['\"]?[^\s'\",;&)]+"
)
_COORDINATES = re.compile(r"(?<![\w.])[-+]?\d{1,3}\.\d{3,}(?![\w.])")


@dataclass(frozen=True)
class FailedStep:
    """A step that failed.

    Attributes:
        error: one line; of a deliberate error it says what to do.
        deliberate: the product raised it on purpose; otherwise it is a fault of the program.
        stack: where it was raised.
        stopped: it did not fail by itself.
    """

    step: str
    error: str
    deliberate: bool
    stack: str = ""
    stopped: bool = False


@dataclass(frozen=True)
class FailedRun:
    """A run that failed.

    Attributes:
        said: what Dagster said of the run as a whole.
        steps: empty where the worker itself died.
        retried: it is started again by itself.
        nightly: the next night asks again whether there is something to do.
        link: to the run in the UI.
        watched: the sensor of drops requested it, and tries it again.
    """

    run_id: str
    job: str
    at: datetime
    said: str
    steps: tuple[FailedStep, ...]
    retried: bool
    nightly: bool
    link: str
    partition: str | None = None
    watched: bool = False

    @property
    def what(self) -> str:
        """The job, with what it worked on."""
        return f"{self.job} on {self.partition}" if self.partition else self.job

    @property
    def why(self) -> str:
        """The first error, in one line."""
        return self.steps[0].error if self.steps else self.said

    @property
    def what_to_do(self) -> str:
        """What a person is asked to do."""
        if self.retried:
            return "Nothing for now: it is started again by itself. If that fails too, there will be another report."
        again = "Then start it again: open the run and choose 'Re-execute from failure'."
        if self.nightly:
            again = "Then wait for the next night, or open the run and choose 'Re-execute from failure'."
        if self.watched:
            again = (
                "Then wait some minutes: the sensor of drops starts it again, until DEER_REID_WATCH_ATTEMPTS runs in a "
                "row have failed. Or open the run and choose 'Re-execute from failure'."
            )
        if not self.steps:
            return f"See whether the machine ran out of memory or was restarted. {again}"
        if all(step.stopped for step in self.steps):
            return f"Nothing is wrong with it. {again}"
        if all(step.deliberate for step in self.steps):
            return f"Do what the error says. {again}"
        return f"This is a fault of the program: give this report to whoever maintains it. {again}"


def redacted(text: str) -> str:
    """The text without passwords, tokens and numbers that may be coordinates (three decimals or more)."""
    text = _CREDENTIALS.sub("***@", text)
    text = _SECRETS.sub(r"\1***", text)
    return _COORDINATES.sub("(number left out)", text)


def as_markdown(run: FailedRun) -> str:
    """The report for people, the plain words first. ASCII."""
    lines = [f"# {run.what} failed", "", f"{run.why}", ""]
    lines += [
        f"- When: {run.at.astimezone(UTC):%d %B %Y, %H:%M:%S} UTC",
        f"- Run: {run.run_id}",
        f"- Open it: {run.link}",
    ]
    lines += ["", "## What was lost", "", NOTHING_LOST, "", "## What to do", "", run.what_to_do, ""]
    if run.steps:
        lines += ["## Which steps failed", ""]
        lines += [f"- `{step.step}`: {step.error}" for step in run.steps]
        lines.append("")
    else:
        lines += ["## Which steps failed", "", "None said so: the process that ran them ended.", ""]
    for step in run.steps:
        if step.stack and not step.deliberate:
            lines += [f"## Where `{step.step}` failed", "", "```", step.stack.rstrip(), "```", ""]
    return redacted("\n".join(lines)).encode("ascii", "backslashreplace").decode()


def as_message(run: FailedRun) -> dict[str, object]:
    """The message as JSON; `text` alone says it in one line, as chat programs show it."""
    why = run.why
    if run.steps and not run.steps[0].deliberate:
        why = "a fault of the program; the report on the machine says more"
    fields: dict[str, object] = {
        "text": redacted(f"{run.what} failed: {why} {run.link}"),
        "run": run.run_id,
        "job": run.job,
        "partition": run.partition,
        "steps": [step.step for step in run.steps],
        "error": redacted(why),
        "retried": run.retried,
        "link": run.link,
        "at": run.at.astimezone(UTC).isoformat(),
    }
    return fields


def write_failure(home: Path, run: FailedRun) -> Path:
    """Write the report below `reports/failures`, and remove the oldest above `MOST_FILES`.

    Raises:
        DeerReidError: the file cannot be written.
    """
    folder = home / "reports" / "failures"
    path = folder / f"{run.at.astimezone(UTC).strftime(STAMP)}-{run.run_id}.md"
    write_whole(path, as_markdown(run).encode("ascii"))
    for old in sorted(folder.glob("*.md"))[:-MOST_FILES]:
        with contextlib.suppress(OSError):  # the next one tries again
            old.unlink()
    return path


def old_failures(home: Path, before: datetime) -> list[Path]:
    """Reports of runs that failed before a moment, by time."""
    last = before.astimezone(UTC).strftime(STAMP)
    return sorted(path for path in (home / "reports" / "failures").glob("*.md") if path.name < last)


def post_failure(url: str, run: FailedRun) -> str | None:
    """Send the message; returns what went wrong, without the address, which may hold a key. None: it was taken."""
    host: str | None = "the host"
    try:
        host = urlsplit(url).hostname
        request = urllib.request.Request(
            url,
            json.dumps(as_message(run), ensure_ascii=True).encode("ascii"),
            {"Content-Type": "application/json", "User-Agent": "deer-reid"},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return f"{host} refused the message: {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        # What other errors say may quote the address or the answer.
        reason = error.reason if isinstance(error, urllib.error.URLError) else type(error).__name__
        return f"{host} could not be reached: {redacted(str(reason))}"
