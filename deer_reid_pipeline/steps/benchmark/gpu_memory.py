"""Memory of the card by batch size, and the largest batch within the budget; without a card, that there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deer_reid_pipeline.steps.benchmark.criteria import video_memory
from deer_reid_pipeline.steps.benchmark.machine import machine
from deer_reid_pipeline.steps.benchmark.measure import Say
from deer_reid_pipeline.steps.benchmark.subject import subject
from deer_reid_pipeline.steps.benchmark.tables import Table, machine_table
from deer_reid_pipeline.steps.owner_criteria import Criterion
from deer_reid_pipeline.steps.site import Site

if TYPE_CHECKING:
    from deer_reid_pipeline.vision.engine.stages import MemoryOfBatches


@dataclass(frozen=True)
class GpuMemory:
    """What was measured; `measured` is None where there is no CUDA card."""

    recipe_id: str
    device: str
    measured: MemoryOfBatches | None
    machine: dict[str, str]

    @property
    def sentence(self) -> str:
        """The result in words."""
        if self.measured is None:
            return f"There is no CUDA card here ({self.device}): nothing was measured, and no figure is claimed."
        held = self.measured.peaks.get(self.measured.largest)
        more = "" if held is None else f", which hold {held:,.0f} MiB"
        return (
            f"{self.measured.device}: batches of up to {self.measured.largest} crops{more} stay within "
            f"{self.measured.budget:,.0f} MiB of {self.measured.total:,.0f} MiB."
        )

    @property
    def criterion(self) -> Criterion:
        """The owner's bound on the card's memory, at the largest batch that was asked about and fits."""
        peaks = (
            {} if self.measured is None else {n: held for n, held in self.measured.peaks.items() if held is not None}
        )
        size = max(peaks, default=0)
        return video_memory(peaks.get(size), f"most that torch held while a batch of {size} crops ran")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "recipe": self.recipe_id,
            "device": self.device,
            "in_words": self.sentence,
            "memory": None if self.measured is None else self.measured.to_json(),
            "owner": [self.criterion.as_dict()],
            "machine": self.machine,
        }

    def tables(self) -> tuple[Table, ...]:
        """Memory by batch size, where it was measured, and the machine."""
        made = [machine_table(self.machine)]
        if self.measured is not None:
            rows = tuple(
                (str(size), "does not fit" if held is None else f"{held:,.0f} MiB")
                for size, held in self.measured.peaks.items()
            )
            about = "Most that torch held of the card while one batch ran, the networks included."
            made.insert(0, Table("Memory by batch size", about, ("batch", "held"), rows))
        return tuple(made)


def measure_gpu_memory(site: Site, recipe: str, say: Say) -> GpuMemory:
    """Measure it for a recipe, as its networks are computed now.

    Raises:
        DatabaseError, RecipeError, WeightsError: the recipe cannot be used.
    """
    from deer_reid_pipeline.vision.embedder import resolve_device
    from deer_reid_pipeline.vision.engine.batches import vram_budget
    from deer_reid_pipeline.vision.engine.choosing import circumstances
    from deer_reid_pipeline.vision.engine.stages import memory_of_batches

    of = subject(site, recipe)
    embedder = site.embedder(of.recipe)
    about = circumstances(embedder)
    measured = None
    if resolve_device(site.settings.device).type == "cuda":
        measured = memory_of_batches(embedder, vram_budget(site.settings.vram_mb, embedder.device))
    found = GpuMemory(of.recipe.id, about["device"], measured, machine(about))
    say(found.sentence)
    return found
