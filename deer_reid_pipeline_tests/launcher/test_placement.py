"""Which card a run gets, by arithmetic that is worked out by hand; and the race for the last room."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deer_reid_pipeline.launcher.cards import Card, cards_here
from deer_reid_pipeline.launcher.errors import NoCardsError
from deer_reid_pipeline.launcher.leases import Lease, LeaseBook
from deer_reid_pipeline.launcher.placement import NoRoom, Placement, choose, free_for_a_run
from deer_reid_pipeline.launcher.placing import place
from deer_reid_pipeline_tests.launcher.conftest import BIG, SMALL

LARGE = Card("GPU-large", 0, "large", total_mb=16000, free_mb=13000)
LITTLE = Card("GPU-little", 1, "little", total_mb=8000, free_mb=7800)
PLACE_ONE = Path(__file__).with_name("place_one.py")


def lease(run_id: str, budget_mb: int, device: str = LARGE.uuid) -> Lease:
    return Lease(run_id, device, budget_mb, "process", "host", "boot", "pid:[1]")


@pytest.mark.parametrize(
    ("leases", "allocated", "expected"),
    [
        ([], {}, 12500),
        ([lease("a", 4000)], {}, 8500),  # has allocated nothing yet: all of it is still to come
        ([lease("a", 4000)], {"a": 1000}, 9500),  # 1,000 of it is gone from free_mb already
        ([lease("a", 4000)], {"a": 4600}, 12500),  # past its budget: what it holds is in free_mb
        ([lease("a", 4000), lease("b", 5000)], {"b": 5000}, 8500),
        ([lease("a", 4000, "GPU-other")], {}, 12500),
    ],
)
def test_a_lease_counts_once_whatever_of_it_is_allocated(
    leases: list[Lease], allocated: dict[str, int], expected: int
) -> None:
    assert free_for_a_run(LARGE, leases, allocated, reserve_mb=500) == expected


def test_free_is_never_more_than_total_less_leases() -> None:
    for held in (0, 2000, 6000):
        card = Card("GPU-x", 0, "x", total_mb=16000, free_mb=16000 - held)
        assert free_for_a_run(card, [lease("a", 6000, "GPU-x")], {"a": held}, 0) <= 16000 - 6000


def test_the_tightest_card_with_room_is_chosen() -> None:
    def chosen(vram_mb: int | None, devices: tuple[str, ...] = ()) -> str:
        found = choose([LARGE, LITTLE], [], {}, vram_mb=vram_mb, reserve_mb=500, devices=devices)
        return found.card.name if isinstance(found, Placement) else found.reason

    assert chosen(7000) == "little"
    assert chosen(7300) == "little"
    assert chosen(7301) == "large"
    assert chosen(7000, (LARGE.uuid,)) == "large"
    assert "the run needs 12501 MiB" in chosen(12501)
    assert chosen(1, ("GPU-elsewhere",)).startswith("none of the cards named in 'devices' is here")


def test_without_a_budget_a_run_is_promised_three_quarters_of_the_card() -> None:
    found = choose([LARGE], [], {}, vram_mb=None, reserve_mb=500)
    assert isinstance(found, Placement)
    assert found.budget_mb == 12000


def test_cards_are_read_from_the_driver(cards: Callable[..., None]) -> None:
    large, small = cards_here()
    assert (large.uuid, large.index, large.total_mb, large.free_mb) == (BIG, 0, 16376, 13084)
    assert large.used_mb == {1801: 1800}
    assert (small.uuid, small.free_mb) == (SMALL, 7992)


def test_a_card_that_is_lost_or_split_is_left_out(cards: Callable[..., None]) -> None:
    cards(lambda devices: devices[0].update(lost=True))
    assert [card.uuid for card in cards_here()] == [SMALL]
    cards(lambda devices: devices[1].update(mig=1))
    with pytest.raises(NoCardsError, match=r"card 0 does not answer.*lost.*card 1 is split by MIG"):
        cards_here()


def test_a_missing_driver_and_a_missing_library_are_reasons(no_driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoCardsError, match=r"driver does not answer.*nvidia-smi"):
        cards_here()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoCardsError, match=r"pip install 'deer-reid-pipeline\[gpu\]'"):
        cards_here()


def test_a_card_that_is_gone_takes_no_second_run(cards: Callable[..., None], tmp_path: Path) -> None:
    book, placed = LeaseBook(tmp_path / "state"), []
    for run_id in ("first", "second"):
        placed.append(place(run_id, "process", book, lambda _: True, vram_mb=9000, reserve_mb=0))
        cards(lambda devices: devices.pop(0))
    first, second = placed
    assert isinstance(first, Placement)
    assert first.card.uuid == BIG
    assert isinstance(second, NoRoom)
    assert second.reason.startswith("card 0 (NVIDIA GeForce RTX 4060")


def test_of_six_processes_at_once_only_as_many_get_a_lease_as_fit(
    cards: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks at the card for a while, so that without the lock all would see it empty."""
    cards(lambda devices: devices.pop(1))
    monkeypatch.setenv("NVML_SLOW_S", "0.5")
    begin = str(time.time() + 4.0)
    racers = [
        subprocess.Popen([sys.executable, str(PLACE_ONE), str(tmp_path / "state"), f"run{number}", begin])
        for number in range(6)
    ]
    assert sorted(racer.wait(timeout=300) for racer in racers) == [0, 0, 0, 1, 1, 1]  # 13,084 MiB hold three of 4,000
    assert sum(found.budget_mb for found in LeaseBook(tmp_path / "state").all()) == 12000
