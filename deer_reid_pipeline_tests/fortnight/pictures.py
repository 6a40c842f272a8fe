"""What twenty cameras took: encounters of a drawn herd, dealt out, and pictures without any deer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from pathlib import Path

from deer_reid_pipeline.sample.herd import draw_herd
from deer_reid_pipeline_tests.sites import read_table, write_table
from deer_reid_pipeline_tests.steps.watched import jpeg, put

CAMERAS = 20
SMALLEST = (160, 120)


class Pictures:
    """Cards of cameras, not yet copied anywhere.

    Attributes:
        good: sha256 of every picture that was put into the watched folder to stay, and how many deer its table shows.
        bad: names of files that are no pictures.
    """

    def __init__(self, folder: Path) -> None:
        self._herd, self._cards = folder / "herd", folder / "cards"
        draw_herd(self._herd, individuals=6, encounters=46, seed=11, known_share=0.4, size=SMALLEST)
        self._named: list[dict[str, str]] = []
        unnamed: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in read_table(self._herd / "observations.csv"):
            if row["individualID"]:
                self._named.append(row)
            else:
                unnamed[row["eventID"]].append(row)
        taken = {row["filePath"] for row in self._named}
        self._unnamed = [rows for rows in unnamed.values() if not taken.intersection(row["filePath"] for row in rows)]
        self._number = 0
        self.good: dict[str, int] = {}
        self.bad: set[str] = set()

    def named(self) -> Path:
        """A card whose table names the animals of the herd."""
        return self._card("named", self._named)

    def card(self, camera: str) -> Path:
        """A card with one encounter, at least two pictures, and the table with its boxes."""
        rows = next(rows for rows in self._unnamed if len({row["filePath"] for row in rows}) > 1)
        self._unnamed.remove(rows)
        return self._card(camera, rows)

    def blanks(self, camera: str, count: int) -> Path:
        """A card with tiny pictures on which nothing is; its table, in MegaDetector's format, says so."""
        card = self._cards / camera
        listed = []
        for _ in range(count):
            self._number += 1
            name = f"{self._number // 1000:02}/IMG_{self._number:05}.JPG"
            path = put(card, name, jpeg(self._number))
            self._count(path, 0)
            listed.append({"file": name, "detections": []})
        put(card, "detections.json", json.dumps({"images": listed, "detection_categories": {"1": "animal"}}).encode())
        return card

    def spoil(self, card: Path) -> None:
        """A picture that breaks off half-way, and one that is empty, both in the table."""
        whole = sorted(card.rglob("*.jpg"))[0].read_bytes()
        rows = read_table(card / "observations.csv")
        for name, content in (("broken.jpg", whole[: len(whole) // 2]), ("nothing.jpg", b"")):
            put(card, name, content)
            rows.append({**rows[0], "filePath": name})
            self.bad.add(name)
        write_table(card, rows)

    def _card(self, camera: str, rows: list[dict[str, str]]) -> Path:
        card = self._cards / camera
        for row in rows:
            target = card / Path(row["filePath"]).name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._herd / row["filePath"], target)
            self._count(target, 1)
        write_table(card, [{**row, "filePath": Path(row["filePath"]).name, "deploymentID": camera} for row in rows])
        return card

    def _count(self, path: Path, deer: int) -> None:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.good[sha256] = self.good.get(sha256, 0) + deer
