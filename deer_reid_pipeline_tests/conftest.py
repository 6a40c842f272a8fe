"""Fixtures for all tests: one embedded server a session, a fresh migrated database a test, and the labelled data."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deer_reid_pipeline.sample.herd import draw_herd
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store import migrate
from deer_reid_pipeline.store.database import Database
from deer_reid_pipeline.store.embedded import EmbeddedServer, start_embedded
from deer_reid_pipeline.vision.catalog import build_recipe
from deer_reid_pipeline.vision.weights import WeightStore
from deer_reid_pipeline_tests.coats import Homes
from deer_reid_pipeline_tests.sites import fresh_database, run_sql, settings_for

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def make_home() -> Iterator[Callable[[], Path]]:
    """Makes empty homes that the server's OS user can reach, as pytest's own tmp_path is not when run by root."""
    made: list[Path] = []

    def make() -> Path:
        folder = Path(tempfile.mkdtemp(prefix="deer-reid-test-"))
        folder.chmod(0o711)
        made.append(folder)
        return folder

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server(make_home: Callable[[], Path]) -> Iterator[EmbeddedServer]:
    """One embedded PostgreSQL for the whole session."""
    running = start_embedded(make_home())
    yield running
    running.stop()


@pytest.fixture(scope="session")
def migrated_template(server: EmbeddedServer) -> str:
    """Name of a database at the newest revision, to be copied."""
    run_sql(server.url("postgres"), "CREATE DATABASE migrated")
    migrate.upgrade(server.url("migrated"))
    return "migrated"


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT interrupts, here and in what is started from here: in the background it may be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def empty_database_url(server: EmbeddedServer) -> Iterator[str]:
    """A database with nothing in it."""
    yield from _fresh_database(server, "template1")


@pytest.fixture
def database_url(server: EmbeddedServer, migrated_template: str) -> Iterator[str]:
    """A migrated database without rows."""
    yield from _fresh_database(server, migrated_template)


@pytest.fixture
def database(database_url: str, server: EmbeddedServer) -> Iterator[Database]:
    """An open, migrated database without rows."""
    opened = Database(database_url, server=server)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The labelled development pictures."""
    folder = Path(os.environ.get("DEER_REID_DATA") or REPO.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no labelled pictures in {folder}: set DEER_REID_DATA")
    return folder


@pytest.fixture(scope="session")
def weights_dir(data_dir: Path) -> Path:
    """The weight files beside the labelled pictures."""
    folder = data_dir.parent / "weights"
    if not folder.is_dir():
        pytest.skip(f"no weight files in {folder}: set DEER_REID_DATA to the folder beside them")
    return folder


def _fresh_database(server: EmbeddedServer, template: str) -> Iterator[str]:
    with fresh_database(server, template) as url:
        yield url


@pytest.fixture(scope="session")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drawn herd: a drop with `ground_truth.csv` beside its table."""
    folder = tmp_path_factory.mktemp("herd") / "herd"
    draw_herd(folder, individuals=5, encounters=14, seed=7, size=(640, 480))
    return folder


@pytest.fixture(scope="session")
def lite_models(make_home: Callable[[], Path]) -> Path:
    """A model store with the projections of the recipe `lite`, which take a while to make."""
    home = make_home()
    folder = home / "models"
    build_recipe("lite", WeightStore([home / "weights"], folder, offline=True, allow_random=False))
    return folder


@pytest.fixture(scope="session")
def homes(
    server: EmbeddedServer,
    migrated_template: str,
    make_home: Callable[[], Path],
    lite_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Homes:
    """Homes of twenty-four animals, each met three times."""
    assert migrated_template == "migrated"
    return Homes(server, make_home, lite_models, tmp_path_factory.mktemp("coats") / "drop")


@pytest.fixture
def home(make_home: Callable[[], Path], lite_models: Path) -> Path:
    """A new home that already has the projections of `lite`."""
    folder = make_home()
    shutil.copytree(lite_models, folder / "models")
    return folder


@pytest.fixture
def site(home: Path, database: Database) -> Site:
    """An installation on a fresh database, matching with `lite`."""
    return Site(settings_for(home), database)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where the labelled pictures are there (DEER_REID_REQUIRE_DATA), a data test that skipped is a failure."""
    skipped = getattr(session.config, "skipped_data_tests", [])
    if os.environ.get("DEER_REID_REQUIRE_DATA") and skipped:
        print(f"\nERROR: {len(skipped)} data tests were skipped though the data are there, first: {skipped[0]}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and item.get_closest_marker("data"):
        skipped = getattr(item.config, "skipped_data_tests", [])
        item.config.skipped_data_tests = [*skipped, item.nodeid]  # type: ignore[attr-defined]
