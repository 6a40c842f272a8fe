"""How an animal stands: the joints of one moment, before any body is put on them.

Units are shoulder heights of an adult. x runs towards the head, y up from the ground, z towards the camera.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Name = Literal["alert", "grazing", "walking", "watching", "looking_back", "browsing"]
POSES: tuple[Name, ...] = ("alert", "grazing", "walking", "watching", "looking_back", "browsing")


@dataclass(frozen=True)
class Pose:
    """One moment. Angles in radians; foot offsets are (forward, lifted) for near/far front, near/far hind.

    `neck` are three angles above the horizontal, base to head. `head_pitch` is the face's angle above the
    horizontal, `head_turn` turns the face towards the camera, `neck_turn` bends the neck towards it.
    `body_turn` > 0 brings the chest towards the camera.
    """

    name: Name
    neck: tuple[float, float, float]
    head_pitch: float
    head_turn: float
    neck_turn: float
    body_turn: float
    feet: tuple[tuple[float, float], ...]
    ears: tuple[float, float]
    tail: float


def draw_pose(name: Name, rng: np.random.Generator) -> Pose:
    """A pose of this kind with the small differences that no two moments share."""

    def near(value: float, spread: float) -> float:
        return float(value + rng.uniform(-spread, spread))

    stand = (
        (near(0.02, 0.04), 0.0),
        (near(-0.07, 0.05), 0.0),
        (near(-0.02, 0.05), 0.0),
        (near(0.10, 0.05), 0.0),
    )
    neck, head, turn, neck_turn = (0.75, 0.98, 1.08), -0.42, near(0.1, 0.2), 0.0
    feet: tuple[tuple[float, float], ...] = stand
    if name == "grazing":
        neck, head = (-0.42, -0.85, -1.0), near(-1.15, 0.08)
        feet = ((near(0.15, 0.04), 0.0), (near(-0.09, 0.04), 0.0), stand[2], stand[3])
    elif name == "browsing":
        neck, head = (0.25, 0.30, 0.20), near(-0.60, 0.15)
    elif name == "walking":
        phase = rng.uniform(0, 2 * np.pi)
        neck, head = (0.50, 0.68, 0.80), near(-0.40, 0.08)
        strides = []
        for beat in (0.0, np.pi, 0.6 * np.pi, 1.6 * np.pi):
            swing = np.sin(phase + beat)
            strides.append((float(0.20 * swing), float(0.085 * max(0.0, np.cos(phase + beat)) ** 1.5)))
        feet = tuple(strides)
    elif name == "watching":
        turn, neck_turn, head = near(0.95, 0.12), 0.35, -0.35
    elif name == "looking_back":
        neck, turn, neck_turn, head = (0.85, 1.15, 1.3), near(2.35, 0.12), 1.1, -0.30
    neck_now = (near(neck[0], 0.05), near(neck[1], 0.06), near(neck[2], 0.06))
    ears = (near(0.0, 0.35), near(0.0, 0.35))
    body_turn = near(0.0, 0.34)
    return Pose(name, neck_now, near(head, 0.05), turn, neck_turn, body_turn, feet, ears, near(0.0, 0.15))


def moved(pose: Pose, rng: np.random.Generator) -> Pose:
    """The same animal a few seconds later: a little different, or a fresh stride if it walks."""
    if pose.name == "walking":
        fresh = draw_pose("walking", rng)
        return Pose(
            "walking",
            pose.neck,
            fresh.head_pitch,
            pose.head_turn,
            0.0,
            pose.body_turn,
            fresh.feet,
            fresh.ears,
            0.0,
        )
    neck = tuple(float(angle + rng.uniform(-0.06, 0.06)) for angle in pose.neck)
    return Pose(
        pose.name,
        (neck[0], neck[1], neck[2]),
        float(pose.head_pitch + rng.uniform(-0.08, 0.08)),
        float(pose.head_turn + rng.uniform(-0.12, 0.12)),
        pose.neck_turn,
        float(pose.body_turn + rng.uniform(-0.05, 0.05)),
        pose.feet,
        (float(rng.uniform(-0.35, 0.35)), float(rng.uniform(-0.35, 0.35))),
        float(rng.uniform(-0.2, 0.2)),
    )
