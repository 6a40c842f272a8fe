"""Puts a run onto a card: one process of the machine at a time counts what is free and writes a lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deer_reid_pipeline.launcher import processes
from deer_reid_pipeline.launcher.cards import Card, cards_here
from deer_reid_pipeline.launcher.errors import NoCardsError
from deer_reid_pipeline.launcher.leases import Lease, LeaseBook
from deer_reid_pipeline.launcher.placement import NoRoom, Placement, choose


def place(
    run_id: str,
    back_end: str,
    book: LeaseBook,
    holds: Callable[[Lease], bool],
    *,
    vram_mb: int | None,
    reserve_mb: int,
    devices: Sequence[str] = (),
) -> Placement | NoRoom:
    """Choose a card and lease it. The caller already holds the run's lock, which keeps the lease alive.

    Args:
        holds: whether a lease is still used; one that is not is dropped.
        vram_mb, reserve_mb, devices: as in `choose`.
    """
    with book.placing():
        try:
            cards = cards_here()
        except NoCardsError as error:
            return NoRoom(str(error))
        leases = living_leases(book, holds)
        decision = choose(
            cards, leases, allocated_on(cards, leases), vram_mb=vram_mb, reserve_mb=reserve_mb, devices=devices
        )
        if isinstance(decision, Placement):
            here = processes.this_machine()
            book.write(
                Lease(
                    run_id=run_id,
                    device=decision.card.uuid,
                    budget_mb=decision.budget_mb,
                    back_end=back_end,
                    host=here.host,
                    boot_id=here.boot_id,
                    pid_namespace=here.pid_namespace,
                )
            )
    return decision


def living_leases(book: LeaseBook, holds: Callable[[Lease], bool]) -> list[Lease]:
    """The leases that are still used; the others are removed."""
    living = []
    for lease in book.all():
        if holds(lease):
            living.append(lease)
        else:
            book.free(lease.run_id)
    return living


def allocated_on(cards: Sequence[Card], leases: Sequence[Lease]) -> dict[str, dict[str, int]]:
    """Uuid of a card -> run id -> MiB that the run's processes hold there.

    Nothing is found for a run in a container, or where the driver does not tell: its lease then counts in full beside
    what it has allocated, which may refuse a card that has room and never promises what is not there.
    """
    found: dict[str, dict[str, int]] = {card.uuid: {} for card in cards}
    here = processes.this_machine()
    for lease in leases:
        if lease.pid is None or lease.start_ticks is None or lease.pid_namespace != here.pid_namespace:
            continue
        pids = {process.pid for process in processes.members(lease.pid, lease.start_ticks, lease.run_id)}
        for card in cards:
            found[card.uuid][lease.run_id] = sum(mb for pid, mb in card.used_mb.items() if pid in pids)
    return found
