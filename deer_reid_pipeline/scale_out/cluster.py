"""A connection to Ray, and how many workers of which size its nodes have room for."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from deer_reid_pipeline.card_budget import CARD_SHARE
from deer_reid_pipeline.errors import DeerReidError

MAX_CPUS = 4
"""Cores of one worker at most: more workers of few cores are faster than few workers of many."""
REACH_S = 5.0
"""Seconds in which the head of a cluster must answer."""
LOOK_S = 120.0
"""Seconds in which a node must tell the memory of its card."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_GPU_STEP = 1e-4
"""Ray counts shares of a card in steps of this."""


class ScaleOutError(DeerReidError):
    """Ray is not installed, cannot be reached, has no room, or lost its workers; the text says what to do."""


@dataclass(frozen=True)
class Node:
    """What one node of a cluster has. `card_mb`: MiB of its card, 0 where it has none."""

    name: str
    cpus: float
    gpus: float = 0.0
    card_mb: int = 0


@dataclass(frozen=True)
class Workers:
    """At most `most` workers, each with `cpus` cores and `gpus` of a card (0: it computes on its cores)."""

    cpus: int
    gpus: float
    most: int

    def __str__(self) -> str:
        card = f" and {self.gpus:g} of a card" if self.gpus else ""
        return f"up to {self.most} workers of {self.cpus} {'core' if self.cpus == 1 else 'cores'}{card}"


def workers_for(nodes: Sequence[Node], vram_mb: int | None) -> Workers:
    """The workers that the nodes have room for: on the cards if there is one, else on the cores.

    Each worker on a card may use `vram_mb` MiB of it (None: 75 %), and asks Ray for that share of the smallest card.
    Nodes without a whole core are left out.

    Raises:
        ScaleOutError: no node has a core, or the budget is more than a card has.
    """
    usable = [node for node in nodes if node.cpus >= 1]
    if not usable:
        raise ScaleOutError(
            f"none of the {len(nodes)} nodes of the Ray cluster has a core for a worker: add a node with --num-cpus "
            "of 1 or more"
        )
    with_cards = [node for node in usable if node.gpus >= 1]
    if not with_cards:
        cpus = min(MAX_CPUS, *(int(node.cpus) for node in usable))
        return Workers(cpus, 0.0, sum(int(node.cpus) // cpus for node in usable))
    smallest = min(with_cards, key=lambda node: node.card_mb)
    if vram_mb is not None and vram_mb > smallest.card_mb:
        raise ScaleOutError(
            f"DEER_REID_VRAM_MB={vram_mb} is more than the {smallest.card_mb} MiB of the card of node {smallest.name}"
        )
    share = CARD_SHARE if vram_mb is None else vram_mb / smallest.card_mb
    gpus = math.ceil(share / _GPU_STEP - 1e-9) * _GPU_STEP
    a_card = int(1.0 / gpus + 1e-9)
    places = [(node, int(node.gpus) * a_card) for node in with_cards]
    cpus = min(MAX_CPUS, *(max(1, int(node.cpus) // room) for node, room in places))
    return Workers(cpus, round(gpus, 4), sum(min(room, int(node.cpus) // cpus) for node, room in places))


def require_ray() -> None:
    """Make sure that Ray is installed.

    Raises:
        ScaleOutError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise ScaleOutError('DEER_REID_ENGINE=ray needs Ray: .venv/bin/pip install -e ".[ray]"')


def connect() -> None:
    """Connect this process to Ray, once: to RAY_ADDRESS, else to a cluster that runs on this machine, else start one.

    Raises:
        ScaleOutError: Ray is not installed, or no cluster answers there.
    """
    require_ray()
    # Nothing leaves the machines: this is for a cluster that is started here, docs/cluster.md has it for others.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    _check_answers(address)
    in_main = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"to the Ray cluster at RAY_ADDRESS={address}" if address else "to Ray on this machine"
        raise ScaleOutError(f"no connection {where}: {first_line(error)}") from error
    finally:
        if in_main and on_sigterm is not None:
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, and a run could not be cancelled


def cluster_nodes(cards: bool) -> list[Node]:
    """The living nodes of the cluster; with `cards`, those that have one are asked how large it is.

    Raises:
        ScaleOutError: a node counts cards that its torch does not see, or does not answer.
    """
    import ray

    living = [entry for entry in ray.nodes() if entry["Alive"]]
    nodes = []
    for entry in living:
        name, has = str(entry["NodeManagerAddress"]), entry["Resources"]
        gpus = float(has.get("GPU", 0.0)) if cards else 0.0
        card_mb = _card_mb_on(entry["NodeID"], name) if gpus >= 1 and has.get("CPU", 0.0) >= 1 else 0
        nodes.append(Node(name, float(has.get("CPU", 0.0)), gpus, card_mb))
    return nodes


def this_node() -> str:
    """Ray's id of the node that this process is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def first_line(error: BaseException) -> str:
    """The first line of an error's text in ASCII and without colours, or its class where it has none."""
    text = (_COLOUR.sub("", str(error)).strip().splitlines() or [type(error).__name__])[0]
    return text.encode("ascii", "replace").decode("ascii")[:1000]


def _check_answers(address: str) -> None:
    """Ray itself waits two minutes for a head that is not there.

    Raises:
        ScaleOutError: nothing listens there, or it is an address of Ray Client.
    """
    if "://" in address:
        raise ScaleOutError(
            f"RAY_ADDRESS={address} is an address of Ray Client, whose cluster cannot read the crops of this machine: "
            "run the command on a node of the cluster with RAY_ADDRESS=HOST:6379 or auto"
        )
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ScaleOutError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({first_line(error)}): start one with 'ray start "
            "--head', correct the address, or unset it to use this machine alone"
        ) from error


def _card_mb_on(node_id: str, name: str) -> int:
    """MiB of the smallest card that a node gives to Ray's tasks.

    Raises:
        ScaleOutError: see `cluster_nodes`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    asked = ray.remote(card_mb).options(num_cpus=0, num_gpus=_GPU_STEP, scheduling_strategy=there).remote()
    try:
        found = int(ray.get(asked, timeout=LOOK_S))
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(asked, force=True)
        raise ScaleOutError(
            f"node {name} did not tell the memory of its card in {LOOK_S:.0f} s: is it in use?"
        ) from error
    except ray.exceptions.RayError as error:
        raise ScaleOutError(f"node {name} cannot tell the memory of its card: {first_line(error)}") from error
    if not found:
        raise ScaleOutError(
            f"node {name} has cards for Ray, but torch sees none there: correct its driver or its torch, start it with "
            "--num-gpus 0, or set DEER_REID_DEVICE=cpu"
        )
    return found


def card_mb() -> int:
    """MiB of the smallest card that torch sees in this process; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0
    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return min(sizes) // 2**20
