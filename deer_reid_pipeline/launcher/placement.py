"""Which card takes a run: the tightest fit among those with room. Arithmetic on given numbers; all memory in MiB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deer_reid_pipeline.card_budget import CARD_SHARE
from deer_reid_pipeline.launcher.cards import Card
from deer_reid_pipeline.launcher.leases import Lease


@dataclass(frozen=True)
class Placement:
    """A card for a run, its budget, and why."""

    card: Card
    budget_mb: int
    reason: str


@dataclass(frozen=True)
class NoRoom:
    """No card takes the run, and why."""

    reason: str


def budget_on(card: Card, vram_mb: int | None) -> int:
    """What a run is promised on a card: `vram_mb`, else three quarters of the card."""
    return int(card.total_mb * CARD_SHARE) if vram_mb is None else vram_mb


def free_for_a_run(card: Card, leases: Sequence[Lease], allocated: Mapping[str, int], reserve_mb: int) -> int:
    """What is free once every lease has been used up, less the reserve.

    A lease's memory counts once: what its run has allocated is gone from `card.free_mb`, the rest is still to come. So
    the result is never more than min(free, total - leases) - reserve, and neighbours without a lease count too.

    Args:
        allocated: run id -> what its processes hold on this card; a run that is missing counts as 0.
    """
    still_to_come = sum(
        max(0, lease.budget_mb - allocated.get(lease.run_id, 0)) for lease in leases if lease.device == card.uuid
    )
    return card.free_mb - still_to_come - reserve_mb


def choose(
    cards: Sequence[Card],
    leases: Sequence[Lease],
    allocated: Mapping[str, Mapping[str, int]],
    *,
    vram_mb: int | None,
    reserve_mb: int,
    devices: Sequence[str] = (),
) -> Placement | NoRoom:
    """The card with the least room that is still enough; ties go to the lower number.

    Args:
        allocated: uuid of a card -> run id -> MiB that the run holds there.
        devices: uuids of the cards that may be used; none named means all.
    """
    allowed = [card for card in cards if not devices or card.uuid in devices]
    if not allowed:
        return NoRoom(f"none of the cards named in 'devices' is here; here are {', '.join(map(str, cards))}")
    fits, refusals = [], []
    for card in allowed:
        budget = budget_on(card, vram_mb)
        free = free_for_a_run(card, leases, allocated.get(card.uuid, {}), reserve_mb)
        runs = sum(lease.device == card.uuid for lease in leases)
        state = f"{free} MiB free beside {runs} leased runs and {reserve_mb} MiB reserve"
        if free >= budget:
            fits.append((free, card.index, Placement(card, budget, f"{card}: {budget} MiB of {state}")))
        else:
            refusals.append(f"{card} has {state}, and the run needs {budget} MiB")
    if fits:
        return min(fits, key=lambda fit: fit[:2])[2]
    return NoRoom("; ".join(refusals))
