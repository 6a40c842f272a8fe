"""What people are told of a failed run: a report in plain words, a message without secrets, and no failed tick."""

import json
import threading
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest

from deer_reid_pipeline.defs.automation.failures import failed_run, run_failure_sensor
from deer_reid_pipeline.defs.ingest.sensor import FOLDER_TAG
from deer_reid_pipeline.errors import DeerReidError, WeightsError
from deer_reid_pipeline.steps import failure_report
from deer_reid_pipeline.steps.failure_report import (
    FailedRun,
    FailedStep,
    as_markdown,
    as_message,
    old_failures,
    post_failure,
    redacted,
    write_failure,
)
from deer_reid_pipeline_tests.defs.automation.dagster_testing import cut_off

WEIGHTS = "resnet50.pth is missing from the weights folder: set DEER_REID_WEIGHTS_DIR"
SECRET = "postgresql://deer:s3cret@db/deer"
AT = datetime(2025, 4, 2, 1, 23, 45, tzinfo=UTC)


@dg.op
def lacks_weights() -> None:
    raise WeightsError(WEIGHTS)


@dg.op
def has_a_fault() -> None:
    place = {"latitude": 48.13713, "longitude": 11.57539}
    raise KeyError(f"{place} at {SECRET} with api_key=abc123")


@dg.op
def is_stopped() -> None:
    raise dg.DagsterExecutionInterruptedError


@dg.asset(check_specs=[dg.AssetCheckSpec("vectors_are_finite", asset="spoilt", blocking=True)])
def spoilt() -> dg.MaterializeResult:
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(check_name="vectors_are_finite", passed=False)])


@dg.asset(deps=[spoilt])
def downstream() -> None: ...


@dg.job
def night_job() -> None:
    lacks_weights()


@dg.job
def faulty_job() -> None:
    has_a_fault()


@dg.job
def stopped_job() -> None:
    is_stopped()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEER_REID_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DEER_REID_UI_URL", "https://deer.example/")
    monkeypatch.delenv("DEER_REID_FAILURE_WEBHOOK", raising=False)
    return tmp_path / "home"


class Taken(BaseHTTPRequestHandler):
    """A webhook that keeps what it gets."""

    got: list[bytes]
    answer = 200

    def do_POST(self) -> None:
        self.got.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.answer)
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def webhook() -> Iterator[tuple[str, type[Taken]]]:
    handler = type("Handler", (Taken,), {"got": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook?key=very-secret", handler
    server.shutdown()
    server.server_close()


def context_of(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> dg.RunFailureSensorContext:
    return dg.build_run_status_sensor_context(
        "run_failure_sensor", result.get_run_failure_event(), instance, result.dagster_run
    ).for_run_failure()


def fail(
    instance: dg.DagsterInstance, job: dg.JobDefinition, tags: dict[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    result = job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    assert not result.success
    return result


def reports(home: Path) -> list[Path]:
    return sorted((home / "reports" / "failures").glob("*.md"))


def test_the_report_says_what_went_wrong_and_what_to_do(home: Path, instance: dg.DagsterInstance) -> None:
    result = fail(instance, night_job, {"deer_reid/night": "2025-04-02", "dagster/partition": "drop-1"})
    run_failure_sensor(context_of(instance, result))
    (path,) = reports(home)
    assert path.name.endswith(f"-{result.run_id}.md")
    lines = path.read_text(encoding="ascii").splitlines()
    assert lines[0] == "# night_job on drop-1 failed"
    assert lines[2] == WEIGHTS
    assert f"- Open it: https://deer.example/runs/{result.run_id}" in lines
    assert "- `lacks_weights`: " + WEIGHTS in lines
    text = "\n".join(lines)
    assert "## What was lost\n\nNothing." in text
    assert "Do what the error says. Then wait for the next night" in text
    assert "Traceback" not in text
    assert "raise WeightsError" not in text, "a deliberate error needs no stack"


def test_a_run_that_was_stopped_has_no_fault(home: Path, instance: dg.DagsterInstance) -> None:
    run_failure_sensor(context_of(instance, fail(instance, stopped_job)))
    (path,) = reports(home)
    text = path.read_text(encoding="ascii")
    assert "- `is_stopped`: it was stopped from outside: by Ctrl-C" in text
    assert "Nothing is wrong with it. Then start it again" in text
    assert "Error" not in text
    assert "```" not in text


def test_a_drop_that_the_sensor_tries_again_is_said_to_be(home: Path, instance: dg.DagsterInstance) -> None:
    run_failure_sensor(context_of(instance, fail(instance, night_job, {FOLDER_TAG: "creek"})))
    text = reports(home)[0].read_text(encoding="ascii")
    assert "Do what the error says. Then wait some minutes: the sensor of drops starts it again" in text


def test_a_fault_of_the_program_shows_where_it_was_and_no_secrets(
    home: Path, instance: dg.DagsterInstance, webhook: tuple[str, type[Taken]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEER_REID_FAILURE_WEBHOOK", webhook[0])
    result = fail(instance, faulty_job)
    run_failure_sensor(context_of(instance, result))
    text = reports(home)[0].read_text(encoding="ascii")
    assert "This is a fault of the program" in text
    assert "in has_a_fault" in text
    message = webhook[1].got[0].decode()
    for secret in ("s3cret", "abc123", "48.137", "11.575"):
        assert secret not in text, secret
        assert secret not in message, secret
    found = json.loads(message)
    assert found["error"] == "a fault of the program; the report on the machine says more"
    assert (found["job"], found["run"], found["steps"]) == ("faulty_job", result.run_id, ["has_a_fault"])


def test_a_check_that_blocks_is_named(instance: dg.DagsterInstance) -> None:
    result = dg.materialize([spoilt, downstream], instance=instance, raise_on_error=False)
    assert not result.success
    run = failed_run(context_of(instance, result), "http://127.0.0.1:3000")
    assert "vectors_are_finite" in run.why
    assert all(step.deliberate for step in run.steps)


def test_a_worker_that_died_and_a_run_that_is_started_again(home: Path, instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(night_job, tags={"dagster/will_retry": "true"})
    event = instance.report_run_failed(run, "The worker was killed.\nNobody knows why.")
    run_failure_sensor(dg.build_run_status_sensor_context("run_failure_sensor", event, instance, run).for_run_failure())
    text = reports(home)[0].read_text(encoding="ascii")
    assert "The worker was killed. Nobody knows why." in text
    assert "None said so: the process that ran them ended." in text
    assert "started again by itself" in text


def test_a_worker_that_was_killed_says_by_what(instance: dg.DagsterInstance) -> None:
    """As the code server tells it: on an event of its own, and then without a word."""
    run = instance.create_run_for_job(night_job)
    told = "Run execution process for some-run was terminated by signal 9 (SIGKILL)."
    instance.report_engine_event("Launched", run)
    instance.report_engine_event(told, run, cls=dg.DagsterInstance)  # which puts its name before it
    event = instance.report_run_failed(run)
    context = dg.build_run_status_sensor_context("run_failure_sensor", event, instance, run).for_run_failure()
    assert failed_run(context, "http://ui").said == told


def test_a_run_that_lost_its_database_between_steps_says_so(instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(night_job)
    lost = RuntimeError("too many retries")
    lost.__cause__ = ConnectionError("connection refused")
    cut_off(instance, run, lost)
    event = instance.report_run_failed(run)
    context = dg.build_run_status_sensor_context("run_failure_sensor", event, instance, run).for_run_failure()
    assert failed_run(context, "http://ui").said == "The run was cut off: ConnectionError: connection refused"


@pytest.mark.parametrize("answer", [200, 404, 500])
def test_a_refused_message_is_logged_and_fails_nothing(
    home: Path,
    instance: dg.DagsterInstance,
    webhook: tuple[str, type[Taken]],
    monkeypatch: pytest.MonkeyPatch,
    answer: int,
) -> None:
    monkeypatch.setenv("DEER_REID_FAILURE_WEBHOOK", webhook[0])
    webhook[1].answer = answer
    run_failure_sensor(context_of(instance, fail(instance, night_job)))
    assert len(reports(home)) == 1
    assert len(webhook[1].got) == 1
    said = post_failure(webhook[0], failed())
    assert said == (None if answer == 200 else f"127.0.0.1 refused the message: {answer}")


def test_a_webhook_that_is_away_or_slow_fails_nothing_and_its_key_is_not_said(
    home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEER_REID_FAILURE_WEBHOOK", "http://127.0.0.1:9/hook?key=very-secret")
    run_failure_sensor(context_of(instance, fail(instance, night_job)))
    assert len(reports(home)) == 1

    waited = []

    def slow(request: object, timeout: float) -> None:
        waited.append(timeout)
        raise urllib.error.URLError(TimeoutError("timed out"))

    monkeypatch.setattr(failure_report.urllib.request, "urlopen", slow)  # type: ignore[attr-defined]
    assert post_failure("http://host.example/hook?key=very-secret", failed()) == (
        "host.example could not be reached: timed out"
    )
    assert waited == [5.0]


class SpeaksNoHttp(Taken):
    """Takes the message, and answers with something else."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"220 mail.example ESMTP key=very-secret\r\n")


def test_a_webhook_that_answers_no_http_fails_nothing(
    home: Path, instance: dg.DagsterInstance, webhook: tuple[str, type[Taken]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEER_REID_FAILURE_WEBHOOK", webhook[0])
    monkeypatch.setattr(webhook[1], "do_POST", SpeaksNoHttp.do_POST)
    run_failure_sensor(context_of(instance, fail(instance, night_job)))
    assert len(reports(home)) == 1
    assert post_failure(webhook[0], failed()) == "127.0.0.1 could not be reached: BadStatusLine"


@pytest.mark.parametrize(
    ("address", "host", "error"),
    [
        ("http://host.example/hook very-secret", "host.example", "InvalidURL"),
        ("http://user:very-secret@host.example/", "host.example", "InvalidURL"),
        ("http://[very-secret/hook", "the host", "ValueError"),
        ("http://host.example/very-secret/h\xf6ok", "host.example", "UnicodeEncodeError"),
    ],
)
def test_an_address_that_cannot_be_asked_is_not_said(address: str, host: str, error: str) -> None:
    assert post_failure(address, failed()) == f"{host} could not be reached: {error}"


def test_people_are_told_even_when_the_report_cannot_be_written(
    home: Path, instance: dg.DagsterInstance, webhook: tuple[str, type[Taken]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEER_REID_FAILURE_WEBHOOK", webhook[0])
    home.mkdir()
    (home / "reports").write_text("a file in the way")
    with pytest.raises(DeerReidError, match=r"cannot write .*failures.*Not a directory"):
        run_failure_sensor(context_of(instance, fail(instance, night_job)))
    assert len(webhook[1].got) == 1


def failed(at: datetime = AT, run_id: str = "run-1", **changes: object) -> FailedRun:
    fields: dict[str, object] = {
        "run_id": run_id,
        "job": "night_job",
        "at": at,
        "said": "failed",
        "steps": (FailedStep("step", WEIGHTS, True),),
        "retried": False,
        "nightly": False,
        "link": "http://127.0.0.1:3000/runs/run-1",
    }
    return FailedRun(**{**fields, **changes})  # type: ignore[arg-type]


def test_only_the_newest_reports_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_report, "MOST_FILES", 3)
    for number in range(5):
        write_failure(home, failed(AT + timedelta(hours=number), f"run-{number}"))
    assert [path.name for path in reports(home)] == [
        "20250402T032345Z-run-2.md",
        "20250402T042345Z-run-3.md",
        "20250402T052345Z-run-4.md",
    ]
    assert [path.name[-8:-3] for path in old_failures(home, AT + timedelta(hours=4))] == ["run-2", "run-3"]


def test_the_message_is_json_with_one_line_for_chat_programs() -> None:
    message = as_message(failed(partition="drop-1"))
    assert message["text"] == f"night_job on drop-1 failed: {WEIGHTS} http://127.0.0.1:3000/runs/run-1"
    assert message["at"] == "2025-04-02T01:23:45+00:00"
    assert set(message) == {"text", "run", "job", "partition", "steps", "error", "retried", "link", "at"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SECRET, "postgresql://***@db/deer"),
        ("https://user:pw@host/x", "https://***@host/x"),
        ("DB_PASSWORD=hunter2, next", "DB_PASSWORD=***, next"),
        ("{'token': 'abc'}", "{'token': ***'}"),
        ("at 48.13713, -11.57", "at (number left out), -11.57"),
        ("dagster 1.13.27 took 12.5 s", "dagster 1.13.27 took 12.5 s"),
    ],
)
def test_secrets_and_coordinates_are_left_out(text: str, expected: str) -> None:
    assert redacted(text) == expected


def test_reports_are_ascii_whatever_a_drop_is_called() -> None:
    assert "Waldk\\xe4uze" in as_markdown(failed(partition="Waldkäuze"))
