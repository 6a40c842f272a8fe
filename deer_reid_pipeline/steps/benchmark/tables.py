"""The figures as tables of words: one source for the page, the text and Dagster's UI. ASCII only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deer_reid_pipeline.steps.benchmark.machine import BUSY
from deer_reid_pipeline.steps.owner_criteria import Criterion
from deer_reid_pipeline.steps.summary import markdown_text

if TYPE_CHECKING:
    from deer_reid_pipeline.steps.benchmark.measure import Benchmark

WIDTH = 110
MOST_OVERLAPPED = 2.0
"""Times the floor that an engine can reach, which does two things at once that the floor does in turns."""


@dataclass(frozen=True)
class Table:
    """Rows of words under columns; the first column names the row. `about`: what the figures are, in a sentence."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As Markdown, without the title."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return "\n".join("| " + " | ".join(markdown_text(cell) for cell in line) + " |" for line in lines)

    def text(self) -> str:
        """As lines of a terminal, with title and explanation."""
        widths = [max(len(line[n]) for line in (self.columns, *self.rows)) for n in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in self.rows]
        head = "  ".join(cell.ljust(w) for cell, w in zip(self.columns, widths, strict=True)).rstrip()
        return "\n".join([self.title, self.about, "", head, "-" * min(len(head), WIDTH), *lines])


def headline(of: Benchmark) -> str:
    """The result in a sentence."""
    worst = min(of.sets, key=lambda item: item.speed.engine_vs_floor)
    slow = min(of.sets, key=lambda item: item.speed.engine_vs_loop)
    least = min(item.speed.cosine_min for item in of.sets)
    return (
        f"The engine reaches {worst.speed.engine_vs_floor:.2f} of the floor and is {slow.speed.engine_vs_loop:.1f} "
        f"times as fast as the plain loop; its vectors keep a cosine of {least:.5f} to float32."
    )


def warnings(of: Benchmark) -> list[str]:
    """What a reader must know before using the figures."""
    lines = []
    if of.load > BUSY:
        lines.append(
            f"The machine had other work: {of.load:.1f} processes wanted each core before the benchmark began. Figures "
            "in seconds are too high and ratios uncertain; run it again when the machine is idle."
        )
    if any(item.speed.engine_vs_floor > MOST_OVERLAPPED for item in of.sets):
        lines.append(
            "The engine cannot be more than twice as fast as decoding and computing one after the other: something "
            "disturbed a timing, and the ratio to the floor says nothing. Run it again when the machine is idle, on "
            "more pictures or in more rounds."
        )
    if of.subject.recipe.random_weights:
        lines.append("The recipe has random weights: its speed is that of real ones, its vectors mean nothing.")
    if of.config.ahead == 0:
        lines.append("No ways of computing were tried for this benchmark (ahead = 0): a faster one may exist.")
    return lines


def tables(of: Benchmark, criteria: Sequence[Criterion]) -> tuple[Table, ...]:
    """Every table of a benchmark, the most important first."""
    made = [criteria_table(criteria), _speeds(of), _stages(of), _variants(of), _batches(of)]
    if of.starts is not None:
        made.append(_starts(of))
    return (*made, _database(of), _memory(of), machine_table(of.machine))


def criteria_table(criteria: Sequence[Criterion]) -> Table:
    return Table(
        "The owner's criteria that concern speed",
        "Reported as they were asked; what was projected says so.",
        ("criterion", "value", "wanted", "result", "measured on"),
        tuple(
            (
                item.title,
                "-" if item.value is None else f"{item.value:,.3g} {item.unit}",
                item.wanted,
                item.result,
                item.detail,
            )
            for item in criteria
        ),
    )


def _speeds(of: Benchmark) -> Table:
    rows = []
    for item in of.sets:
        speed = item.speed
        rows.append(
            (
                item.pictures,
                f"{speed.floor:.1f}",
                f"{speed.engine:.1f}",
                f"{speed.loop:.2f}",
                f"{speed.engine_vs_floor:.2f}",
                f"{speed.engine_vs_loop:.1f}",
                f"{speed.cosine_min:.5f}",
            )
        )
    plan = ", ".join(f"{key} by {how}" for key, how in of.slowest.speed.plan.items())
    return Table(
        "End to end: files in, vectors out",
        f"Crops a second, and the engine as so many times the floor and the loop. Batches of {of.slowest.speed.batch}; "
        f"{plan}. Floor: decoding on all cores, then the bare batched forward passes on all cores, in the same way of "
        "computing. Loop: one picture at a time, full decode, eager float32.",
        ("pictures", "floor", "engine", "plain loop", "engine / floor", "engine / loop", "least cosine to float32"),
        tuple(rows),
    )


def _stages(of: Benchmark) -> Table:
    rows = [
        (item.name, stage, f"{each['milliseconds']:.2f}", f"{each['of_floor']:.0%}", f"{each['of_loop']:.1%}")
        for item, found in zip(of.sets, of.to_json()["sets"], strict=True)
        for stage, each in found["stages"].items()
    ]
    return Table(
        "Stages apart",
        "Milliseconds a crop, each stage alone on all cores, and that as a share of the time that the floor and the "
        "plain loop take for a crop. 'End to end' is the engine, which overlaps them.",
        ("pictures", "stage", "ms a crop", "of the floor", "of the loop"),
        tuple(rows),
    )


def _variants(of: Benchmark) -> Table:
    return Table(
        "Baseline, multi-scale, ensemble",
        "Forward passes and projections of crops that are laid out already, in whole batches. Baseline and multi-scale "
        f"share one pass of their backbone. Beside floor and loop on {of.slowest.pictures}, as so many times as fast.",
        ("branches", "ms a crop", "crops/s", "of the floor", "of the loop"),
        tuple(_compared(of, name, seconds) for name, seconds in of.variants.items()),
    )


def _batches(of: Benchmark) -> Table:
    return Table(
        "Batch sizes",
        f"All three branches of crops that are laid out already. Beside floor and loop on {of.slowest.pictures}.",
        ("batch", "ms a crop", "crops/s", "of the floor", "of the loop"),
        tuple(
            (str(size), "does not fit", "-", "-", "-") if seconds is None else _compared(of, str(size), seconds)
            for size, seconds in of.batches.items()
        ),
    )


def _compared(of: Benchmark, name: str, seconds: float) -> tuple[str, ...]:
    floor, loop = of.slowest.floor_seconds, of.slowest.loop_seconds
    return (
        name,
        f"{1000 * seconds:.2f}",
        f"{1 / seconds:.1f}",
        f"{floor / seconds:.2f} times",
        f"{loop / seconds:.1f} times",
    )


def _starts(of: Benchmark) -> Table:
    starts = of.starts
    assert starts is not None
    floor, loop = of.slowest.floor_seconds, of.slowest.loop_seconds
    rows = (
        ("cold: a new process to its first vector", starts.cold),
        ("networks loaded again in this process", starts.loading),
        ("warm: everything loaded", starts.warm),
    )
    return Table(
        "How long the first picture waits",
        "Seconds to the vectors of one crop, and how many crops floor and loop do meanwhile. Files that were read "
        "before may have been in the system's memory.",
        ("start", "seconds", "crops of the floor", "crops of the loop"),
        tuple((name, f"{took:.3f}", f"{took / floor:.1f}", f"{took / loop:.1f}") for name, took in rows),
    )


def _database(of: Benchmark) -> Table:
    found, writes, batch = of.search, of.writes, of.slowest.speed.batch
    floor = of.slowest.floor_seconds
    searched = f"{found.individuals} individuals ({found.gallery}), {found.exemplars} exemplars"
    writing = writes.insert + writes.commit
    return Table(
        "Database",
        "Writing was rolled back, the wait for the disk is that of as many bytes. Searching is the matcher's, one "
        "picture with its decision.",
        ("what", "milliseconds", "a crop, of the floor"),
        (
            (
                f"write the vectors of {batch} crops: insert",
                f"{1000 * writes.insert:.2f}",
                f"{writes.insert / batch / floor:.1%}",
            ),
            ("write: commit", f"{1000 * writes.commit:.2f}", f"{writes.commit / batch / floor:.1%}"),
            ("write: a crop", f"{1000 * writing / batch:.3f}", f"{writing / batch / floor:.1%}"),
            (f"search, median: {searched}", f"{found.median_ms:.3f}", f"{found.median_ms / 1000 / floor:.1%}"),
            ("search, 95 % within", f"{found.p95_ms:.3f}", f"{found.p95_ms / 1000 / floor:.1%}"),
            ("search, slowest", f"{found.slowest_ms:.3f}", f"{found.slowest_ms / 1000 / floor:.1%}"),
            ("open the gallery, once a drop", f"{1000 * found.opening:.1f}", "-"),
        ),
    )


def _memory(of: Benchmark) -> Table:
    card = "no CUDA card here" if of.device_peak_mib is None else f"{of.device_peak_mib:,.0f} MiB"
    return Table(
        "Memory",
        "Most that was held until then, the networks of engine and plain loop included.",
        ("what", "held"),
        (("this process", f"{of.peak_mib:,.0f} MiB"), ("the card", card)),
    )


def machine_table(machine: Mapping[str, str]) -> Table:
    """What the figures were measured on."""
    return Table("Machine", "Figures hold for this machine only.", ("what", "is"), tuple(machine.items()))
