"""How many workers of which size, and what is said where there is no cluster. Needs no Ray."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from deer_reid_pipeline.scale_out.cluster import Node, ScaleOutError, Workers, connect, workers_for


@pytest.mark.parametrize(
    ("nodes", "vram_mb", "expected"),
    [
        ([Node("a", 1), Node("b", 1)], None, Workers(1, 0.0, 2)),
        ([Node("head", 0), Node("a", 16), Node("b", 3)], None, Workers(3, 0.0, 6)),
        ([Node("a", 64), Node("b", 32)], 4000, Workers(4, 0.0, 24)),
        ([Node("a", 8, 1, 16376)], None, Workers(4, 0.75, 1)),
        ([Node("a", 8, 1, 16376)], 4094, Workers(2, 0.25, 4)),
        ([Node("a", 8, 1, 16376)], 4095, Workers(2, 0.2501, 3)),
        ([Node("a", 8, 2, 16376), Node("b", 8, 1, 8188), Node("c", 32)], 4094, Workers(2, 0.5, 6)),
        ([Node("a", 2, 4, 16376)], None, Workers(1, 0.75, 2)),
        ([Node("a", 4, 1, 16376)], 16376, Workers(4, 1.0, 1)),
    ],
)
def test_workers_fill_the_cards_or_else_the_cores(nodes: list[Node], vram_mb: int | None, expected: Workers) -> None:
    workers = workers_for(nodes, vram_mb)
    assert workers == expected
    held = [node for node in nodes if node.gpus] if expected.gpus else nodes
    assert workers.cpus * workers.most <= sum(node.cpus for node in held), "all of them find a core"


def test_a_cluster_without_room_is_refused() -> None:
    with pytest.raises(ScaleOutError, match=r"none of the 2 nodes .* has a core"):
        workers_for([Node("head", 0), Node("a", 0.5, 1, 16376)], None)
    with pytest.raises(ScaleOutError, match="DEER_REID_VRAM_MB=9000 is more than the 8188 MiB of the card of node b"):
        workers_for([Node("a", 4, 1, 16376), Node("b", 4, 1, 8188)], 9000)


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScaleOutError, match=r'pip install -e "\.\[ray\]"'):
        connect()


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1:{closed}", "127.0.0.1:port"])
def test_an_address_where_nobody_is_fails_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: .venv/bin/pip install -e ".[ray]"')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = address.format(closed=taken.getsockname()[1])
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ScaleOutError, match=f"RAY_ADDRESS={address}") as raised:
            connect()
    assert "\n" not in str(raised.value)


def test_auto_without_a_cluster_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: .venv/bin/pip install -e ".[ray]"')
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ScaleOutError, match="no connection to the Ray cluster at RAY_ADDRESS=auto"):
        connect()
