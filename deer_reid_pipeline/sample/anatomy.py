"""The body of a deer as a few chains of balls, placed in space for one pose.

Coordinates are those of `pose`: x to the head, y up, z to the camera, in shoulder heights. Each part is a
curve with a radius at every point; `raster` turns parts into pixels. The near side is always the flank that
is seen.
"""

from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.sample.chain import Part, Points, curve
from deer_reid_pipeline.sample.coat import DARK, Flank, head_coat, leg_coat, neck_coat, plain, torso_coat
from deer_reid_pipeline.sample.head import Head, antler_parts, ears
from deer_reid_pipeline.sample.individual import Individual
from deer_reid_pipeline.sample.pose import Pose


@dataclass(frozen=True)
class Body:
    """All parts in drawing order, and the two eyes as (centre (3,), outward direction (3,), radius)."""

    parts: list[Part]
    eyes: list[tuple[Points, Points, float]]


def _bent(top: Points, foot: Points, upper: float, lower: float, forwards: bool) -> Points:
    """The middle joint of a two-bone leg from `top` to `foot`; straight when the foot is out of reach."""
    line = foot[:2] - top[:2]
    reach = min(float(np.hypot(*line)), (upper + lower) * 0.999)
    along = (upper**2 - lower**2 + reach**2) / (2 * reach)
    off = np.sqrt(max(upper**2 - along**2, 0.0))
    unit = line / np.hypot(*line)
    normal = np.array([-unit[1], unit[0]]) * (1.0 if forwards else -1.0)
    joint = top[:2] + unit * along + normal * off
    return np.array([joint[0], joint[1], (top[2] + foot[2]) / 2])


def _leg(animal: Individual, pose: Pose, number: int) -> list[Part]:
    front, near = number < 2, number % 2 == 0
    step, lift = pose.feet[number]
    z, thick = (0.095 if near else -0.095), animal.girth
    coat = leg_coat(animal, not near)
    if front:
        shoulder, top = np.array([0.29, 0.76, z * 0.75]), np.array([0.235, 0.575, z])
        ankle = np.array([0.255 + step, 0.105 + lift, z])
        joint = _bent(top, ankle, 0.243, 0.230, True)
        widths = (0.125, 0.078, 0.040, 0.034, 0.0225, 0.026)
    else:
        shoulder, top = np.array([-0.33, 0.80, z * 0.7]), np.array([-0.27, 0.615, z])
        ankle = np.array([-0.455 + step, 0.11 + lift, z])
        joint = _bent(top, ankle, 0.305, 0.262, False)
        widths = (0.150, 0.118, 0.049, 0.038, 0.0255, 0.028)
    rows = [(*shoulder, widths[0] * thick), (*top, widths[1] * thick)]
    mid = 0.55 * top + 0.45 * joint
    mid_width = 0.066 if front else 0.088
    rows.append((mid[0] + (0.0 if front else -0.012), mid[1], mid[2], mid_width * thick))
    rows.append((*joint, widths[3]))
    shin = 0.5 * joint + 0.5 * ankle
    rows.append((*shin, widths[4]))
    rows.append((*ankle, widths[5]))
    tilt = 0.6 if lift > 0.02 else 0.0
    toe = ankle + np.array([0.028 - 0.03 * tilt, -0.062, 0.0])
    rows.append((*toe, 0.020))
    points, radii = curve([(float(a), float(b), float(c), float(d)) for a, b, c, d in rows])
    hoof = np.array([toe, toe + np.array([0.022 - 0.02 * tilt, -0.022, 0.0])])
    return [
        Part(points, radii, coat, 0.62, 0.05 if near else 0.02, 0.17),
        Part(hoof, np.array([0.023, 0.021]), plain((0.09, 0.075, 0.065)), 0.9, 0.004),
    ]


def build(animal: Individual, flank: Flank, pose: Pose) -> Body:
    """Place every part of `animal` in `pose` with `flank` towards the camera."""
    girth = animal.girth
    torso = [
        (-0.485, 0.850, 0.0, 0.075),
        (-0.425, 0.825, 0.0, 0.145),
        (-0.30, 0.815, 0.0, 0.172),
        (-0.12, 0.792, 0.0, 0.168),
        (0.07, 0.768, 0.0, 0.186),
        (0.22, 0.768, 0.0, 0.200),
        (0.33, 0.785, 0.0, 0.170),
        (0.40, 0.800, 0.0, 0.115),
    ]
    trunk, trunk_radii = curve([(x, y, z, r * girth) for x, y, z, r in torso])
    here, heading = np.array([0.31, 0.845, 0.0]), 0.0
    neck_rows = [(0.20, 0.79, 0.0, 0.185 * girth)]
    neck_rows.append((float(here[0]), float(here[1]), float(here[2]), 0.150 * girth * (0.6 + 0.4 * animal.neck)))
    radii = (0.112 * animal.neck, 0.088 * animal.neck, 0.074 * (0.5 + 0.5 * animal.neck))
    for angle, length, radius, share in zip(pose.neck, (0.19, 0.17, 0.135), radii, (0.2, 0.6, 1.0), strict=True):
        heading = pose.neck_turn * share
        step = np.array([np.cos(angle) * np.cos(heading), np.sin(angle), np.cos(angle) * np.sin(heading)])
        here = here + step * length
        neck_rows.append((float(here[0]), float(here[1]), float(here[2]), radius))
    neck, neck_radii = curve(neck_rows)
    pitch, turn, size = pose.head_pitch, pose.head_turn, 0.33 * animal.head
    forward = np.array([np.cos(pitch) * np.cos(turn), np.sin(pitch), np.cos(pitch) * np.sin(turn)])
    side = np.array([-np.sin(turn), 0.0, np.cos(turn)])
    head = Head(here, forward, np.cross(side, forward), side, size)
    # Rows run to the right of a part's direction: on a face turned back over the shoulder, that is the chin.
    turned_back = forward[2] * np.sin(pose.body_turn) > forward[0] * np.cos(pose.body_turn)
    mask = head_coat(animal)[::-1] if turned_back else head_coat(animal)
    muzzle = 0.82 if animal.life_stage == "juvenile" else 1.0
    skull = [
        (*head.at(-0.08, 0.02, 0.0), 0.225 * size),
        (*head.at(0.18, 0.03, 0.0), 0.245 * size),
        (*head.at(0.42, -0.02, 0.0), 0.195 * size),
        (*head.at(0.42 + 0.26 * muzzle, -0.065, 0.0), 0.145 * size),
        (*head.at(0.42 + 0.46 * muzzle, -0.09, 0.0), 0.122 * size),
        (*head.at(0.42 + 0.54 * muzzle, -0.085, 0.0), 0.105 * size),
    ]
    face, face_radii = curve([(float(a), float(b), float(c), float(d)) for a, b, c, d in skull])
    swing = pose.tail
    tail, tail_radii = curve(
        [(-0.47, 0.91, 0.0, 0.035), (-0.535, 0.86, 0.02 * swing, 0.036), (-0.565, 0.74, 0.05 * swing, 0.030),
         (-0.56, 0.66, 0.08 * swing, 0.008)]
    )  # fmt: skip
    parts = [*_leg(animal, pose, 1), *_leg(animal, pose, 3)]
    far, near = (1, 0) if flank == "left" else (0, 1)
    parts += [Part(tail, tail_radii, plain((0.08, 0.06, 0.05), (0.2, 0.16, 0.12)), 0.6, 0.01)]
    parts += [Part(trunk, trunk_radii, torso_coat(animal, flank), 0.80, 0.05)]
    parts += [*_leg(animal, pose, 2), *_leg(animal, pose, 0)]
    parts += [Part(neck, neck_radii, neck_coat(animal, flank), 0.75, 0.07, 0.55)]
    parts += ears(animal, head, -1, pose.ears[1])
    if animal.antlers is not None:
        parts += antler_parts(head, animal.antlers[far], -1)
    parts += [Part(face, face_radii, mask, 0.82, 0.02, 0.12)]
    if turn > 0.6:
        nose = head.at(0.42 + 0.58 * muzzle, -0.05, 0.0)
        parts.append(Part(np.array([nose, nose]), np.full(2, 0.07 * size), plain((0.04, 0.035, 0.03)), 0.8, 0.004))
    if animal.antlers is not None:
        parts += antler_parts(head, animal.antlers[near], 1)
    parts += ears(animal, head, 1, pose.ears[0])
    eyes = []
    for number in (1, -1):
        centre, radius = head.at(0.25, 0.085, 0.195 * number), 0.047 * size
        outward = 0.35 * head.forward + number * head.side * 0.93
        eyes.append((centre, outward, radius))
        if outward[2] > 0.1:
            pale = tuple(float(c) * 0.8 + 0.14 for c in animal.tone)
            long = head.forward * radius * 0.55
            ring = np.array([centre - long, centre + long])
            parts.append(
                Part(
                    ring - outward * radius * 0.3,
                    np.full(2, radius * 1.3),
                    plain((pale[0], pale[1], pale[2])),
                    0.7,
                )
            )
            bead = tuple(float(c) * 0.4 for c in DARK)
            parts.append(
                Part(
                    ring + outward * radius * 0.5,
                    np.full(2, radius * 0.9),
                    plain((bead[0], bead[1], bead[2])),
                    0.9,
                )
            )
    return Body(parts, eyes)
