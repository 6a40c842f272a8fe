"""Weight files that somebody made to harm: no code of theirs runs, and each is one clear error."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from deer_reid_pipeline.errors import DeerReidError, WeightsError
from deer_reid_pipeline.training.checkpoint import read_tensors
from deer_reid_pipeline.vision.backbones import build_network
from deer_reid_pipeline.vision.model_files import ModelFiles
from deer_reid_pipeline.vision.projections import Projector
from deer_reid_pipeline.vision.recipe import Branch, Projection, Recipe, Tap, WeightsRef
from deer_reid_pipeline.vision.states import load_into, read_state
from deer_reid_pipeline.vision.weights import WeightStore

ARCH = "mobilenet_v2"


class MakesAFile:
    """Pickled, it makes a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (os.fspath(self.path), os.O_CREAT | os.O_WRONLY)


class RunsCode(MakesAFile):
    def __reduce__(self) -> tuple[object, tuple[str]]:  # type: ignore[override]
        return eval, (f"__import__('pathlib').Path({os.fspath(self.path)!r}).touch()",)


def refused(path: Path) -> str:
    with pytest.raises(WeightsError, match=path.name) as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_torch(path: Path, payload: object) -> None:
    torch.save({"a": torch.zeros(2), "b": payload}, path)


def as_old_torch(path: Path, payload: object) -> None:
    torch.save({"a": torch.zeros(2), "b": payload}, path, _use_new_zipfile_serialization=False)


def as_pickle(path: Path, payload: object) -> None:
    path.write_bytes(pickle.dumps(payload))


def as_second_pickle(path: Path, payload: object) -> None:
    """A good file of which the pickle inside was exchanged."""
    torch.save({"a": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(name, pickle.dumps(payload, protocol=2) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("payload", [MakesAFile, RunsCode])
@pytest.mark.parametrize("write", [as_torch, as_old_torch, as_pickle, as_second_pickle])
@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors", "bin"])
def test_a_pickle_is_never_run(
    tmp_path: Path, suffix: str, write: Callable[[Path, object], None], payload: type[MakesAFile]
) -> None:
    trace = tmp_path / "trace"
    write(tmp_path / f"evil.{suffix}", payload(trace))
    refused(tmp_path / f"evil.{suffix}")
    assert not trace.exists()


def test_the_payload_of_these_tests_works(tmp_path: Path) -> None:
    for number, payload in enumerate((MakesAFile, RunsCode)):
        pickle.loads(pickle.dumps(payload(tmp_path / str(number))))
        assert (tmp_path / str(number)).exists()


def test_a_declared_file_with_the_right_hash_is_still_not_run(tmp_path: Path) -> None:
    from deer_reid_pipeline.vision.weights import declare

    as_torch(tmp_path / "own.pth", RunsCode(tmp_path / "trace"))
    declare(tmp_path, ARCH, "own.pth")
    store = WeightStore([tmp_path], tmp_path / "models", offline=True)
    with pytest.raises(WeightsError, match=r"own\.pth"):
        store.state(ARCH, store.resolve(ARCH))
    assert not (tmp_path / "trace").exists()


def header(table: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


LIES = {
    "empty": b"",
    "short": b"\1\2\3",
    "header longer than the file": header({"a": tensor()}, bytes(8), length=1 << 40),
    "header of 2^63": header({"a": tensor()}, bytes(8), length=(1 << 63) + 5),
    "header of nothing": header(b""),
    "not json": header(b"{'a': 1}", bytes(8)),
    "offsets beyond the end": header({"a": tensor(data_offsets=[0, 800], shape=[200])}, bytes(8)),
    "offsets backwards": header({"a": tensor(data_offsets=[8, 0])}, bytes(8)),
    "negative offsets": header({"a": tensor(data_offsets=[-8, 0])}, bytes(8)),
    "shape larger than the data": header({"a": tensor(shape=[1 << 40])}, bytes(8)),
    "shape that overflows": header({"a": tensor(shape=[1 << 33, 1 << 33, 1 << 33])}, bytes(8)),
    "negative shape": header({"a": tensor(shape=[-2])}, bytes(8)),
    "another type": header({"a": tensor(dtype="PICKLE")}, bytes(8)),
    "overlap": header({"a": tensor(), "b": tensor()}, bytes(8)),
    "hole": header({"a": tensor(), "b": tensor(data_offsets=[16, 24])}, bytes(24)),
    "nested": header(b'{"a":' * 5000, bytes(8)),
    "list": header([1, 2], bytes(8)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_safetensors_file_is_refused(tmp_path: Path, lie: str) -> None:
    (tmp_path / "evil.safetensors").write_bytes(LIES[lie])
    refused(tmp_path / "evil.safetensors")
    assert read_tensors(tmp_path / "evil.safetensors") is None, "a checkpoint of this kind is none"


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_damaged_weight_files_are_read_or_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "pth":
        torch.save({"a": torch.zeros(3, 2), "b": torch.ones(1)}, path)
    else:
        path.write_bytes(save({"a": torch.zeros(3, 2), "b": torch.ones(1)}))
    whole = path.read_bytes()
    hits = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=6)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(hits, st.none() | st.integers(0, len(whole)))
    def holds(found: list[tuple[int, int]], end: int | None) -> None:
        data = bytearray(whole)
        for at, value in found:
            data[at] = value
        path.write_bytes(data[:end])
        state = None
        try:
            state = read_state(path)
        except WeightsError as error:
            said = str(error)
        if state is None:
            assert "cannot be read as weights" in said or "not a plain table" in said
        else:
            assert all(isinstance(value, torch.Tensor) for value in state.values())

    holds()


FIRST = "features.0.0.weight"
COUNTER = "features.0.1.num_batches_tracked"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (FIRST, torch.zeros(1).expand(1 << 40), "of another shape"),
        (FIRST, torch.zeros(0), "of another shape"),
        (COUNTER, torch.zeros(3, dtype=torch.int64), "of another shape"),
        (FIRST, torch.zeros(32, 3, 3, 3, dtype=torch.int64), "of another kind"),
        (FIRST, torch.zeros(32, 3, 3, 3, dtype=torch.complex64), "of another kind"),
        (FIRST, torch.zeros(32, 3, 3, 3, dtype=torch.bool), "of another kind"),
        (FIRST, torch.zeros(32, 3, 3, 3).to_sparse(), "of another kind"),
        (FIRST, torch.full((32, 3, 3, 3), float("nan")), "not finite"),
        (FIRST, torch.full((32, 3, 3, 3), float("-inf")), "not finite"),
        (FIRST, torch.full((32, 3, 3, 3), float("nan"), dtype=torch.bfloat16), "not finite"),
    ],
)
def test_tensors_that_a_network_cannot_take_are_named(key: str, value: torch.Tensor, says: str) -> None:
    network = build_network(ARCH, 224, 224)
    good = network.state_dict()
    before = {name: each.clone() for name, each in good.items()}
    if key == COUNTER:
        load_into(network, {**good, key: value}, "x")  # nothing is computed with counters: it is left out
    else:
        with pytest.raises(WeightsError, match=f"{says}: {key}"):
            load_into(network, {**good, key: value}, "x")
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())


def test_a_table_that_is_not_named_by_text_is_refused(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(1)}, tmp_path / "a.pth")
    assert "not a plain table of tensors" in refused(tmp_path / "a.pth")


def test_a_projection_of_nan_is_refused() -> None:
    projection = Projection(kind="linear", sha256="0" * 64, outputs=(512,))
    branch = Branch(backbone="b", taps=(Tap(layer="layer4", grid=1, pool="avg"),), projection=projection)
    weight = torch.zeros(512, 4)
    Projector(branch, [4], {"tap0.weight": weight})
    for tensors in (
        {"tap0.weight": weight * float("nan")},
        {"tap0.weight": weight, "tap0.bias": torch.full((512,), float("inf"))},
    ):
        with pytest.raises(WeightsError, match="not finite"):
            Projector(branch, [4], tensors)


def test_a_file_of_the_model_store_that_was_replaced_is_refused(tmp_path: Path) -> None:
    models = ModelFiles(tmp_path)
    sha256 = models.save({"a": torch.zeros(4)})
    path = models.path(sha256)
    facts = path.stat()
    assert models.load(sha256)["a"].tolist() == [0.0] * 4
    path.write_bytes(save({"a": torch.ones(4)}))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_size == facts.st_size
    with pytest.raises(WeightsError, match="damaged or another file"):
        models.load(sha256)


@pytest.mark.parametrize(
    "sha256", ["", "../../etc/passwd", "..", "a" * 63, "A" * 64, "g" * 64, "0" * 64 + "\n", "/" * 64]
)
def test_a_recipe_names_weights_by_hash_alone(sha256: str) -> None:
    for make in (
        lambda: WeightsRef(name="x", sha256=sha256, source="store"),
        lambda: Projection(kind="linear", sha256=sha256, outputs=(512,)),
    ):
        with pytest.raises(ValueError, match="sha256"):
            make()


def test_the_name_of_a_weight_file_in_a_recipe_opens_nothing(tmp_path: Path) -> None:
    ref = WeightsRef(name="../../../etc/passwd", sha256="0" * 64, source="declared")
    from deer_reid_pipeline_tests.hostile.watching import nothing_but

    store = WeightStore([tmp_path / "weights"], tmp_path / "models", offline=True)
    with nothing_but(tmp_path), pytest.raises(WeightsError, match="no file was found"):
        store.state(ARCH, ref)


@pytest.mark.parametrize(
    "damage",
    [
        {"name": "../x"},
        {"name": "a" * 41},
        {"name": "Lite"},
        {"training_run": "../x"},
        {"format_version": 99},
        {"extra": 1},
        {"backbones": {}},
        {"branches": None},
    ],
)
def test_a_stored_recipe_that_was_tampered_with_is_refused(lite_models: Path, damage: dict[str, Any]) -> None:
    from deer_reid_pipeline.vision.catalog import build_recipe

    made = build_recipe("lite", WeightStore([lite_models.parent / "weights"], lite_models, offline=True)).to_json()
    assert Recipe.from_json(made).name == "lite"
    with pytest.raises(DeerReidError):
        Recipe.from_json({**made, **damage})


# Detectors.


def field(number: int, value: bytes | int) -> bytes:
    """A field of a protobuf message."""

    def varint(rest: int) -> bytes:
        low = [rest & 127]
        while rest := rest >> 7:
            low[-1] |= 128
            low.append(rest & 127)
        return bytes(low)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def onnx_model(location: bytes | None) -> bytes:
    """One constant [1] put out; it lies in the file, or in the external file that `location` names."""
    kind = field(1, 1) + field(2, field(1, field(1, 1)))
    constant = field(1, 1) + field(2, 1) + field(8, b"c")
    if location is None:
        constant += field(9, struct.pack("<f", 1.0))
    else:
        constant += field(13, field(1, b"location") + field(2, location)) + field(14, 1)
    node = field(1, b"c") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(5, constant) + field(12, field(1, b"y") + field(2, field(1, kind)))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.mark.parametrize("location", [b"../secret.bin", b"/etc/passwd", b"https://example.invalid/x"])
def test_a_detector_that_names_other_files_does_not_get_them(tmp_path: Path, location: bytes) -> None:
    from deer_reid_pipeline.vision.detectors import OnnxDetector

    (tmp_path / "secret.bin").write_bytes(struct.pack("<f", 3.0))
    (tmp_path / "net").mkdir()
    (tmp_path / "net/a.onnx").write_bytes(onnx_model(location))
    with pytest.raises(WeightsError, match=r"a\.onnx (cannot be loaded|has 0 inputs)") as caught:
        OnnxDetector(tmp_path / "net/a.onnx")
    assert "cannot be loaded" in str(caught.value), "the runtime itself refuses to leave the folder"


def test_a_network_without_inputs_is_no_detector(tmp_path: Path) -> None:
    from deer_reid_pipeline.vision.detectors import OnnxDetector

    (tmp_path / "a.onnx").write_bytes(onnx_model(None))
    with pytest.raises(WeightsError, match="has 0 inputs and 1 outputs"):
        OnnxDetector(tmp_path / "a.onnx")


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"<html>", bytes(1000), b"\xff" * 1000, pickle.dumps([1])])
def test_a_detector_that_is_no_network_is_refused(tmp_path: Path, content: bytes) -> None:
    from deer_reid_pipeline.vision.detectors import OnnxDetector

    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.onnx cannot be loaded"):
        OnnxDetector(tmp_path / "a.onnx")


def test_what_a_detector_puts_out_is_brought_to_a_box_or_left_out() -> None:
    from deer_reid_pipeline.vision.boxes import clipped_box

    nan, inf = float("nan"), float("inf")
    assert clipped_box(nan, nan, nan, nan, 0.9, "animal") is None
    assert clipped_box(0.5, 0.5, nan, nan, 0.9, "animal") is None
    found = clipped_box(-inf, -inf, inf, inf, inf, "animal")
    assert found is not None
    assert (*found.xywh, found.confidence) == (0.0, 0.0, 1.0, 1.0, 1.0)
