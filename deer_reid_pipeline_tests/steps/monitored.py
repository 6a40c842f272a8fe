"""A herd written straight into the database, decision by decision, so that a test knows what is wrong with it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
from sqlalchemy import insert

from deer_reid_pipeline.reid.vocabulary import classification_of
from deer_reid_pipeline.steps.site import Site
from deer_reid_pipeline.store.deployments import Place, put_deployments
from deer_reid_pipeline.store.models import (
    Deer,
    Detection,
    DetectionCrop,
    Drop,
    DropMedia,
    Encounter,
    Image,
    MatchDecision,
)
from deer_reid_pipeline.vision.crops import CropSpec, encode_crop

DROP = "herd-1"
DAY = date(2026, 3, 14)
CAMERAS = {"north": (50.0000, 8.0000), "ridge": (50.0200, 8.0000), "south": (49.6400, 8.0000)}
"""North and ridge are 2.2 km apart, south is 40 km away from north."""


@dataclass
class Herd:
    """Adds individuals and decided encounters; remembers what it added."""

    site: Site
    deer: dict[str, uuid.UUID] = field(default_factory=dict)
    _made: int = 0

    def __post_init__(self) -> None:
        with self.site.database.session() as session:
            session.execute(
                insert(Drop).values(key=DROP, name="herd", root="/", digest="0" * 64, layout="images", detector="none")
            )
            put_deployments(session, [Place(name, None, *place) for name, place in CAMERAS.items()])

    def individual(self, name: str, sex: str = "unknown", stage: str | None = None) -> None:
        self.deer[name] = uuid.uuid4()
        with self.site.database.session() as session:
            session.execute(
                insert(Deer).values(
                    id=self.deer[name],
                    name=name,
                    sex=classification_of(sex, stage),
                    life_stage=stage,
                    identified_by="human",
                )
            )

    def picture(self) -> uuid.UUID:
        """A picture without anything in it yet."""
        key = uuid.uuid4()
        self._made += 1
        with self.site.database.session() as session:
            file = f"images/{self._made:04d}.jpg"
            session.execute(
                insert(Image).values(
                    id=key, filename=file, path=f"/{file}", sha256=key.hex * 2, width=1000, height=1000
                )
            )
            session.execute(
                insert(DropMedia).values(
                    drop_key=DROP, file_path=file, sha256=key.hex * 2, ordinal=self._made, image_id=key
                )
            )
        return key

    def meets(
        self,
        name: str | None,
        when: datetime,
        camera: str = "north",
        *,
        decided: date = DAY,
        method: str = "machine",
        outcome: str = "matched",
        sex: str = "unknown",
        stage: str | None = None,
        score: float = 0.93,
        probability: float | None = None,
        pictures: list[uuid.UUID] | None = None,
        box: tuple[float, float, float, float] = (0.4, 0.3, 0.2, 0.3),
        given: str | None = None,
        resembles: Sequence[tuple[str, float]] = (),
        viewpoint: str = "left",
        confidence: float = 0.9,
    ) -> uuid.UUID:
        """One encounter and the decision about it; returns the encounter's id."""
        encounter = uuid.uuid4()
        self._made += 1
        detections = [uuid.uuid4() for _ in pictures or [None]]
        images = pictures or [self.picture()]
        deer = self.deer[name] if name is not None else None
        with self.site.database.session() as session:
            session.execute(
                insert(Encounter).values(
                    id=encounter,
                    drop_key=DROP,
                    ordinal=self._made,
                    event_key=str(self._made),
                    deployment_id=camera,
                    started_at=when,
                    ended_at=when + timedelta(seconds=30),
                    sex=sex,
                )
            )
            for key, image in zip(detections, images, strict=True):
                session.execute(
                    insert(Detection).values(
                        id=key,
                        image_id=image,
                        deer_id=deer,
                        bbox={},
                        confidence=confidence,
                        classification=classification_of(sex, stage),
                        bbox_x=box[0],
                        bbox_y=box[1],
                        bbox_width=box[2],
                        bbox_height=box[3],
                        source="manifest",
                        life_stage=stage,
                        viewpoint=viewpoint,
                        classification_method=method if deer is not None else None,
                        encounter_id=encounter,
                        given_individual=name if method == "human" else given,
                    )
                )
            session.execute(
                insert(MatchDecision).values(
                    encounter_id=encounter,
                    drop_key=DROP,
                    detection_ids=detections,
                    decision=outcome,
                    method=method,
                    deer_id=deer,
                    individual=name,
                    score=score if method == "machine" else None,
                    threshold=0.9 if method == "machine" else None,
                    probability=probability,
                    candidates=[
                        {"individual": other, "deer_id": str(self.deer[other]), "score": similarity}
                        for other, similarity in resembles
                    ],
                    reason="made for a test",
                    matcher="v3_ensemble" if method == "machine" else "human",
                    decided_at=datetime.combine(decided, time(20), UTC) + timedelta(seconds=self._made),
                )
            )
        return encounter

    def decides_again(self, detections: list[uuid.UUID], name: str) -> uuid.UUID:
        """A person names detections that were decided before; returns the new encounter."""
        encounter = uuid.uuid4()
        self._made += 1
        with self.site.database.session() as session:
            session.execute(
                insert(Encounter).values(id=encounter, drop_key=DROP, ordinal=self._made, event_key=str(self._made))
            )
            session.execute(
                insert(MatchDecision).values(
                    encounter_id=encounter,
                    drop_key=DROP,
                    detection_ids=detections,
                    decision="matched",
                    method="human",
                    deer_id=self.deer[name],
                    individual=name,
                    reason="made for a test",
                    matcher="human",
                    decided_at=datetime.combine(DAY, time(22), UTC),
                )
            )
        return encounter

    def crops(self) -> None:
        """One small crop for every detection."""
        folder = self.site.settings.crops_dir
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "one.jpg").write_bytes(encode_crop(np.full((40, 60, 3), 120, np.uint8)))
        with self.site.database.session() as session:
            keys = [key for (key,) in session.query(Detection.id)]
            crop = {"spec_id": CropSpec().id, "file": "one.jpg", "sha256": "0", "width": 60, "height": 40}
            rows: list[dict[str, Any]] = [{"detection_id": key, **crop} for key in keys]
            session.execute(insert(DetectionCrop), rows)


def ordinary_herd(site: Site, *, matches: int = 40) -> Herd:
    """14 individuals known for a fortnight, and a day of ordinary matches: near cameras, hours apart, right sexes."""
    herd = Herd(site)
    for number in range(14):
        sex = ("male", "female")[number % 2]
        herd.individual(f"N{number:02d}", sex, "adult")
        for visit in range(8):
            when = datetime(2026, 3, 1 + visit, 6 + number % 12, tzinfo=UTC)
            camera, decided = ("north", "ridge")[visit % 2], DAY - timedelta(days=5)
            herd.meets(f"N{number:02d}", when, camera, decided=decided, method="human", sex=sex)
    for number in range(matches):
        which = number % 14
        when = datetime.combine(DAY, time(number // 14 * 5 + 1, which), UTC)
        herd.meets(
            f"N{which:02d}",
            when,
            ("north", "ridge")[number // 14 % 2],
            sex=("male", "female", "unknown")[which % 2 if number % 3 else 2],
            stage="adult" if number % 5 == 0 else None,
            score=0.91 + number % 8 / 100,
        )
    return herd
