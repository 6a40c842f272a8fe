"""What happens in the fortnight, day by day; twenty cameras, and everything that goes wrong with copying cards."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime

import numpy as np

from deer_reid_pipeline.ingest.scan import COMPLETE_MARKER
from deer_reid_pipeline_tests.fortnight.pictures import Pictures
from deer_reid_pipeline_tests.fortnight.seen import SeenTick
from deer_reid_pipeline_tests.fortnight.world import SENSOR, World
from deer_reid_pipeline_tests.sites import read_table, write_table

MANY = 10_000
LIVE = "recipe_id = (SELECT recipe_id FROM releases WHERE live)"


@dataclass
class Told:
    """What the days have to tell besides what is stored.

    Attributes:
        nights: their dates.
        lost: vectors that somebody deleted, and `found` what the night made of them.
        failures: reports of failed runs, on the day on which one failed.
        freshness: of what the night keeps up, after a week.
        looks: ticks of the sensor.
    """

    nights: list[date] = field(default_factory=list)
    lost: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    found: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    freshness: dict[str, str] = field(default_factory=dict)
    looks: dict[datetime, SeenTick] = field(default_factory=dict)


class Diary:
    """Days are called in order, each followed by its night."""

    def __init__(self, world: World, pictures: Pictures) -> None:
        self.world, self.pictures, self.told = world, pictures, Told()
        self.root = world.root

    def live(self) -> Told:
        """The whole fortnight."""
        days: list[Callable[[], None]] = [
            self.herd_is_known,
            self.slow_and_whole,
            self.paused,
            self.two_identical_ones_and_a_late_table,
            self.sent_again_and_an_empty_folder,
            self.renamed,
            self.a_bad_file,
            self.ten_thousand,
            self.deleted,
            self.a_late_card,
            self.a_failing_run,
            self.lost_vectors,
            self.still_being_renamed,
            self.four_at_once,
        ]
        for number, day in enumerate(days):
            begun = time.monotonic()
            self.world.noon()
            day()
            worked = time.monotonic()
            self.told.nights.append(self.world.night(stepwise=day in (self.herd_is_known, self.lost_vectors)))
            print(
                f"day {number} {day.__name__}: {worked - begun:.0f} s, its night {time.monotonic() - worked:.0f} s",
                file=sys.stderr,
            )
            self.remember()
            if day == self.lost_vectors:
                vectors = self.vectors("WHERE {0}")
                self.told.found = {key: vectors[key] for key in self.told.lost}
            if day == self.ten_thousand:
                self.told.freshness = self.world.seen.freshness(
                    "deer_profiles",
                    "similarity_distribution",
                    "validation_report",
                    "assignment_report",
                    "false_positive_report",
                )
        self.world.look()
        self.remember()
        return self.told

    def remember(self) -> None:
        """Keep the looks: Dagster deletes skipped ones after a week."""
        self.told.looks |= {tick.at: tick for tick in self.world.seen.ticks(SENSOR)}

    def herd_is_known(self) -> None:
        """Five animals that a person named."""
        self.world.bring(self.pictures.named())
        self.world.process("named")

    def slow_and_whole(self) -> None:
        card = self.pictures.card("camera-01")
        slow = self.root / card.name
        slow.mkdir()
        for file in sorted(card.iterdir()):
            shutil.copyfile(file, slow / file.name)
            self.world.look()
        self.world.bring(self.pictures.card("camera-02"))
        self.world.process("camera-01", "camera-02")

    def paused(self) -> None:
        """The table and one picture; the others after more than the settling time."""
        card = self.pictures.card("camera-03")
        first, *others = sorted(card.glob("*.jpg"))
        folder = self.root / card.name
        folder.mkdir()
        shutil.copyfile(card / "observations.csv", folder / "observations.csv")
        shutil.copyfile(first, folder / first.name)
        self.world.process(folder.name)
        for file in others:
            shutil.copyfile(file, folder / file.name)
        self.world.process(folder.name)

    def two_identical_ones_and_a_late_table(self) -> None:
        card = self.pictures.card("camera-04")
        self.world.bring(card)
        self.world.bring(card, "camera-04 again")
        late = self.pictures.card("camera-05")
        folder = self.root / late.name
        shutil.copytree(late, folder, ignore=shutil.ignore_patterns("*.csv"))
        for _ in range(3):
            self.world.look()
        self.world.work()
        shutil.copyfile(late / "observations.csv", folder / "observations.csv")
        self.world.process(folder.name)

    def sent_again_and_an_empty_folder(self) -> None:
        old = self.root / "camera-02"
        card = old.rename(self.root.parent / "camera-02 taken back")
        self.world.look()
        self.world.bring(card, old.name)
        (self.root / "camera-07").mkdir()
        self.world.bring(self.pictures.card("camera-06"))
        self.world.process("camera-06")

    def renamed(self) -> None:
        """A processed folder, and pictures for the one that was empty."""
        (self.root / "camera-01").rename(self.root / "camera-01 of last week")
        self.world.bring(self.pictures.card("camera-07"))
        self.world.bring(self.pictures.card("camera-08"))
        self.world.process("camera-07", "camera-08")
        for _ in range(3):
            self.world.look()

    def a_bad_file(self) -> None:
        card = self.pictures.card("camera-09")
        self.pictures.spoil(card)
        self.world.bring(card)
        self.world.process("camera-09")

    def ten_thousand(self) -> None:
        self.world.bring(self.pictures.blanks("camera-10", MANY))
        self.world.bring(self.pictures.card("camera-11"))
        self.world.process("camera-10", "camera-11")

    def deleted(self) -> None:
        """One folder after it was processed; one while it was copied, which comes another time."""
        shutil.rmtree(self.root / "camera-05")
        card = self.pictures.card("camera-12")
        begun = self.world.bring(card, marked=False)
        self.world.look()
        shutil.rmtree(begun)
        self.world.look()
        self.world.bring(card)
        self.world.process("camera-12")

    def a_late_card(self) -> None:
        """Another card of a camera into its folder of days ago, and its rows into the table."""
        old, card = self.root / "camera-06", self.pictures.card("camera-06 late")
        rows = [*read_table(old / "observations.csv"), *read_table(card / "observations.csv")]
        for picture in card.glob("*.jpg"):
            shutil.copyfile(picture, old / picture.name)
        write_table(old, rows)
        (old / COMPLETE_MARKER).unlink()
        self.world.process("camera-06")

    def a_failing_run(self) -> None:
        """Nothing can be written to the crops; somebody mends it, and the sensor tries again."""
        crops, away = self.world.home.folder / "crops", self.world.home.folder / "crops.away"
        crops.rename(away)
        crops.write_bytes(b"")
        self.world.bring(self.pictures.card("camera-13"))
        self.world.process("camera-13")
        self.world.look()
        reports = self.world.home.folder / "reports" / "failures"
        written = self.world.wait(lambda: sorted(reports.glob("*.md")), "report of the failed run")
        self.told.failures = [path.read_text(encoding="utf-8") for path in written]
        crops.unlink()
        away.rename(crops)
        self.world.process("camera-13", minutes=2)

    def lost_vectors(self) -> None:
        """Vectors of two detections are gone from the database; the night makes them again."""
        self.world.bring(self.pictures.card("camera-14"))
        self.world.process("camera-14")
        self.told.lost = self.vectors("WHERE {0} AND detection_id IN (SELECT id FROM detections ORDER BY id LIMIT 2)")
        for key, branch in self.told.lost:
            self.world.home.query(
                f"DELETE FROM embeddings WHERE {LIVE} AND detection_id = %s AND branch = %s", (key, branch)
            )

    def still_being_renamed(self) -> None:
        """A copy under a temporary name, which is passed over, until it gets its own."""
        part = self.world.bring(self.pictures.card("camera-15"), "camera-15.part")
        self.world.bring(self.pictures.card("camera-16"))
        self.world.process("camera-16")
        part.rename(self.root / "camera-15")
        self.world.process("camera-15")

    def four_at_once(self) -> None:
        four = [f"camera-{number}" for number in range(17, 21)]
        for name in four:
            self.world.bring(self.pictures.card(name))
        self.world.process(*four)

    def vectors(self, chosen: str) -> dict[tuple[str, str], np.ndarray]:
        """Vectors of the live recipe, by detection and branch."""
        rows = self.world.home.query(
            f"SELECT detection_id::text, branch, vector::text FROM embeddings {chosen.format(LIVE)}"
        )
        return {(key, branch): np.array(json.loads(text), dtype=np.float64) for key, branch, text in rows}
