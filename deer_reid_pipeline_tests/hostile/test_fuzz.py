"""Whatever the three tables hold: good rows are kept, the rest is told, nothing else is opened, nothing else is raised.

200 examples of each, and 10,000 of each under the marker `slow`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deer_reid_pipeline.errors import DeerReidError
from deer_reid_pipeline.ingest import DropContents, MediaRecord
from deer_reid_pipeline_tests.hostile.watching import nothing_but
from deer_reid_pipeline_tests.ingest.drops import picture, read
from deer_reid_pipeline_tests.ingest.test_fuzz import CAMTRAP, OBSERVED, anything, batch, cells

GOOD = ("g0.jpg", "sub/g1.jpg", "g 2.JPG")
"""Pictures that only good rows name."""

OTHERS = ("a.jpg", "b.jpg", "sub/c.jpg")
NAMES = [
    *OTHERS,
    *("../x.jpg", "../../etc/passwd", "/etc/passwd", "C:\\x.jpg", "\\\\srv\\x.jpg", "out/secret.jpg", "leak.jpg"),
    *("a.jpg\0", "x" * 300 + ".jpg", "A.JPG", "\uff0e\uff0e/x.jpg", "sub/../../x.jpg", "https://example.invalid/x.jpg"),
    *("file:///etc/passwd", "sub\\..\\..\\x.jpg", "./" * 50 + "a.jpg", "sub//c.jpg", "", " ", "."),
]
TIMES = ("2024-05-01T00:00:00Z", "2024:05:01 06:07:08", "99999-01-01T00:00:00", "2024-05-01T00:00:00+99:99")

LENGTHS = pytest.mark.parametrize(
    "examples", [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(6 * 3600)])]
)
names = st.sampled_from(NAMES)
written = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
cell = st.one_of(names, cells, written, st.sampled_from(TIMES))
good_boxes = st.tuples(*[st.floats(0.01, 0.49)] * 4)
Boxes = tuple[float, float, float, float]


@pytest.fixture
def drop() -> Iterator[Path]:
    """A drop with pictures, a link out of it, and a secret beside it."""
    folder = Path(tempfile.mkdtemp(prefix="deer-reid-fuzz-"))
    for name in (*GOOD, *OTHERS):
        picture(folder / "drop", name)
    picture(folder, "elsewhere/secret.jpg")
    (folder / "drop/out").symlink_to(folder / "elsewhere")
    (folder / "drop/leak.jpg").symlink_to(folder / "elsewhere/secret.jpg")
    yield folder / "drop"
    shutil.rmtree(folder)


def run(examples: int, strategy: Any, holds: Callable[[Any], None]) -> None:
    """Check a property on that many examples."""
    quiet = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    quiet(given(strategy)(holds))()


def read_files(drop: Path, files: dict[str, bytes]) -> DropContents | None:
    """What the reader makes of these tables, checked for everything that must always hold; None where it refuses."""
    for name in ("detections.json", "observations.csv", "datapackage.json", "media.csv", "deployments.csv"):
        (drop / name).unlink(missing_ok=True)
    for name, data in files.items():
        (drop / name).write_bytes(data)
    try:
        with nothing_but(drop):
            contents = read(drop)
    except DeerReidError as error:
        refused = str(error)
    else:
        return checked(contents)
    assert refused.isascii()
    assert refused.isprintable()
    return None


def checked(contents: DropContents) -> DropContents:
    """The contents, after every claim about them that must hold whatever a table says."""
    paths = [record.file_path for record in contents.media]
    assert len(set(paths)) == len(paths)
    assert set(paths) == {*GOOD, *OTHERS}, "every picture is there, whatever a table says, and nothing else is"
    for record in contents.media:
        check_record(record)
    for entry in contents.quarantined:
        assert entry.file
        assert len(entry.file) <= 400
        assert len(entry.reason) <= 400
        assert entry.reason.isascii()
        assert entry.reason.isprintable()
        assert "\0" not in entry.file.encode("utf-8").decode()
    assert all(line.isascii() and line.isprintable() for line in contents.warnings)
    return contents


def check_record(record: MediaRecord) -> None:
    for text in (record.deployment_id, record.event_id, *(box.individual_id for box in record.boxes or ())):
        assert text is None or (0 < len(text) <= 200 and "\0" not in text)
    assert record.timestamp is None or 1900 <= record.timestamp.year <= 2200
    for box in record.boxes or ():
        sides = (box.x, box.y, box.width, box.height, box.confidence)
        assert all(isinstance(side, float) and math.isfinite(side) and 0 <= side <= 1 for side in sides)
        assert min(box.width, box.height) > 0
        assert max(box.x + box.width, box.y + box.height) <= 1 + 1e-9


def kept(contents: DropContents | None, good: dict[str, Boxes]) -> None:
    """Every good row became the one box of its picture."""
    assert contents is not None
    found = {record.file_path: record.boxes for record in contents.media}
    for name, box in good.items():
        (only,) = found[name] or ()
        assert (only.x, only.y, only.width, only.height) == pytest.approx(box)


def damaged(whole: Any) -> Any:
    """The bytes with pieces cut out, doubled, or replaced."""
    cuts = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.binary(max_size=6)), min_size=1, max_size=4)

    def cut(data: bytes, places: list[tuple[float, float, bytes]]) -> bytes:
        for start, length, put in places:
            at = int(start * len(data))
            data = data[:at] + put + data[at + int(length * length * (len(data) - at)) :]
        return data

    return st.builds(cut, whole, cuts)


def shuffled(good: list[Any], bad: list[Any], order: Any) -> list[Any]:
    rows = [*good, *bad]
    order.shuffle(rows)
    return rows


# MegaDetector.

numbers = st.one_of(st.floats(), st.floats(0, 1), st.integers(), st.integers(10**300, 10**310), anything)
bad_image = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"file": st.one_of(names, names, anything)},
        optional={
            "detections": st.lists(
                st.fixed_dictionaries(
                    {"category": st.sampled_from(["1", "2", 1, None]), "conf": numbers, "bbox": st.lists(numbers)}
                ),
                max_size=4,
            ),
            "failure": anything,
        },
    ),
)
good_images = st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, good_boxes))


def batch_file(good: dict[str, Boxes], bad: list[Any], extra: Any, order: Any) -> tuple[bytes, dict[str, Boxes]]:
    entries = [
        {"file": name, "detections": [{"category": "1", "conf": 0.9, "bbox": list(box)}]} for name, box in good.items()
    ]
    document = {"info": extra, "detection_categories": {"1": "animal"}, "images": shuffled(entries, bad, order)}
    return json.dumps(document).encode(), good


batches = st.builds(
    batch_file, good_images, st.lists(bad_image, max_size=6), anything, st.randoms(use_true_random=False)
)


@LENGTHS
def test_megadetector_files(drop: Path, examples: int) -> None:
    def holds(given: tuple[bytes, dict[str, Boxes] | None]) -> None:
        data, good = given
        contents = read_files(drop, {"detections.json": data})
        if good is not None:
            kept(contents, good)

    broken = st.one_of(
        st.binary(max_size=300),
        damaged(batches.map(lambda found: found[0])),
        batch.map(lambda d: json.dumps(d).encode()),
    )
    run(examples, st.one_of(batches, batches, broken.map(lambda data: (data, None))), holds)


# CSV.


def csv_bytes(columns: list[str], rows: list[list[str]], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def rows_of(columns: int) -> Any:
    return st.lists(st.lists(cell, min_size=max(columns - 1, 1), max_size=columns + 1), max_size=6)


def observed_file(
    good: dict[str, Boxes], bad: list[list[str]], delimiter: str, order: Any
) -> tuple[bytes, dict[str, Boxes]]:
    entries = [[name, "N1", *map(repr, box), TIMES[0], "male", "E1"] for name, box in good.items()]
    return csv_bytes(OBSERVED, shuffled(entries, bad, order), delimiter), good


observed = st.builds(
    observed_file, good_images, rows_of(len(OBSERVED)), st.sampled_from(",;\t"), st.randoms(use_true_random=False)
)
loose = st.lists(st.one_of(cell, st.sampled_from(['"', ",", "\n", '""', "\r", "\ufeff", *OBSERVED])), max_size=40)


@LENGTHS
def test_observation_tables(drop: Path, examples: int) -> None:
    def holds(given: tuple[bytes, dict[str, Boxes] | None]) -> None:
        data, good = given
        contents = read_files(drop, {"observations.csv": data})
        if good is not None:
            kept(contents, good)

    broken = st.one_of(
        st.binary(max_size=300),
        damaged(observed.map(lambda found: found[0])),
        loose.map(lambda parts: ",".join(OBSERVED).encode() + b"\n" + "".join(parts).encode()),
    )
    run(examples, st.one_of(observed, observed, broken.map(lambda data: (data, None))), holds)


# Camtrap DP.

MEDIA = ["mediaID", "filePath", "deploymentID", "timestamp"]
DEPLOYMENTS = ["deploymentID", "locationName", "latitude", "longitude"]
Package = tuple[dict[str, bytes], dict[str, Boxes] | None]


def package_files(
    good: dict[str, Boxes], tables: tuple[list[list[str]], list[list[str]], list[list[str]]], extra: Any, order: Any
) -> Package:
    media = [[f"good{GOOD.index(name)}", name, "d1", TIMES[0]] for name in good]
    seen = [
        ["animal", "media", f"good{GOOD.index(name)}", "", "N1", *map(repr, box), TIMES[0]]
        for name, box in good.items()
    ]
    base = "https://example.invalid/camtrap-dp"
    resources = [
        {"name": name, "path": f"{name}.csv", "schema": f"{base}/{name}.json", "dialect": extra, "encoding": extra}
        for name in ("deployments", "media", "observations")
    ]
    descriptor = {"profile": f"{base}/profile.json", "$schema": base, "resources": resources, "extra": extra}
    placed, listed, told = tables
    return {
        "datapackage.json": json.dumps(descriptor).encode(),
        "deployments.csv": csv_bytes(DEPLOYMENTS, placed, ","),
        "media.csv": csv_bytes(MEDIA, shuffled(media, listed, order), ","),
        "observations.csv": csv_bytes(CAMTRAP, shuffled(seen, told, order), ","),
    }, good


packages = st.builds(
    package_files,
    good_images,
    st.tuples(rows_of(len(DEPLOYMENTS)), rows_of(len(MEDIA)), rows_of(len(CAMTRAP))),
    anything,
    st.randoms(use_true_random=False),
)
paths = st.one_of(
    names, st.sampled_from(["media.csv", "../media.csv", "media.zip", "http:media.csv", "x" * 300 + ".csv"])
)
descriptors = st.one_of(
    anything,
    st.fixed_dictionaries(
        {
            "resources": st.lists(
                st.fixed_dictionaries({"name": st.sampled_from(["media", "observations"]), "path": paths})
            )
        },
        optional={"profile": anything, "schema": anything},
    ),
).map(lambda document: json.dumps(document).encode())


def with_damage(package: Package, name: str, data: bytes) -> Package:
    return {**package[0], name: data}, None


@LENGTHS
def test_camtrap_packages(drop: Path, examples: int) -> None:
    def holds(given: Package) -> None:
        files, good = given
        contents = read_files(drop, files)
        if good is not None:
            kept(contents, good)

    broken = st.one_of(
        st.builds(with_damage, packages, st.just("datapackage.json"), st.one_of(descriptors, st.binary(max_size=300))),
        st.builds(
            with_damage,
            packages,
            st.sampled_from(["media.csv", "observations.csv", "deployments.csv"]),
            st.one_of(st.binary(max_size=200), damaged(packages.map(lambda found: found[0]["media.csv"]))),
        ),
    )
    run(examples, st.one_of(packages, packages, broken), holds)
