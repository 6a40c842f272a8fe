"""Ears and antlers, placed in the frame of the head that carries them."""

from dataclasses import dataclass

import numpy as np

from deer_reid_pipeline.sample.chain import Part, Points, dense_curve
from deer_reid_pipeline.sample.coat import plain
from deer_reid_pipeline.sample.individual import Antler, Individual


@dataclass(frozen=True)
class Head:
    origin: Points
    forward: Points
    up: Points
    side: Points
    size: float

    def at(self, forward: float, up: float, side: float) -> Points:
        return self.origin + self.size * (forward * self.forward + up * self.up + side * self.side)


def ears(animal: Individual, head: Head, side: int, turn: float) -> list[Part]:
    length = 0.62 * animal.ear
    root = head.at(-0.10, 0.20, 0.14 * side)
    lift, out = 0.62 + 0.25 * turn, 0.60 - 0.2 * turn
    tip = head.at(-0.10 - 0.30 * length, 0.20 + lift * length, (0.14 + out * length) * side)
    tone = np.array(animal.tone)
    outer = (float(tone[0] * 0.85), float(tone[1] * 0.85), float(tone[2] * 0.85))
    inner = (0.70, 0.58, 0.50)
    shares, widths = (0.0, 0.25, 0.55, 0.8, 1.0), (0.055, 0.12, 0.145, 0.10, 0.025)
    points = np.array([root + (tip - root) * share for share in shares])
    radii = head.size * np.array(widths) * animal.ear
    dense, thick = dense_curve(points, radii, 3)
    parts = [Part(dense, thick, plain(outer, (outer[0] * 0.5, outer[1] * 0.5, outer[2] * 0.5)), 0.35, 0.0)]
    faces = head.forward * 0.75 + side * head.side * 0.66
    shift = head.size * 0.035 * faces
    cup, cup_width = dense_curve(points[1:4] * 0.92 + root * 0.08 + shift, radii[1:4] * 0.62, 3)
    if faces[2] > 0.05:
        parts.append(Part(cup, cup_width, plain(inner, (0.42, 0.33, 0.27)), 0.2, 0.0))
    if animal.notched_ears[0 if side > 0 else 1]:
        edge = points[3] + head.size * 0.085 * np.cross((tip - root) / np.linalg.norm(tip - root), head.side)
        parts.append(Part(np.array([edge, edge]), np.full(2, head.size * 0.05), plain((0.05, 0.045, 0.04)), 0.9, 0.0))
    return parts


def antler_parts(head: Head, antler: Antler, side: int) -> list[Part]:
    bone, tip = (0.40, 0.30, 0.20), (0.78, 0.70, 0.58)
    steps = 9
    here = head.at(-0.02, 0.24, 0.12 * side)
    # Antlers keep to the vertical when the head goes down less than half as much as the face does.
    back, up, out = -head.forward, head.up, head.side * side
    points, directions = [here], []
    for number in range(steps):
        share = number / (steps - 1)
        angle = 1.15 - 0.2 * antler.sweep + antler.sweep * 1.3 * (share - 0.28)
        outward = antler.spread * (1.25 - 1.5 * share**1.5)
        direction = up * np.sin(angle) + back * np.cos(angle) * (1.0 if share < 0.4 else 0.7) + out * outward
        direction = direction / np.linalg.norm(direction)
        directions.append(direction)
        here = here + direction * antler.length / steps
        points.append(here)
    radii = np.linspace(0.024, 0.009, steps + 1)
    if antler.palm:
        radii = radii + antler.palm * np.clip(1 - np.abs(np.linspace(0, 1, steps + 1) - 0.72) * 3.2, 0, 1) ** 0.7
    parts = [Part(np.array(points), radii, plain(bone, tip), 0.5 if antler.palm else 0.9, 0.004)]
    for tine in range(antler.tines):
        share = 0.05 + 0.86 * tine / max(antler.tines - 0.2, 1)
        index = min(int(share * steps), steps - 1)
        start = points[index] + (points[index + 1] - points[index]) * 0.5
        ahead = head.forward * (0.85 - 0.4 * share) + head.up * (0.55 + 0.5 * share) + out * 0.15
        if antler.palm and share > 0.5:
            # A palm carries its points along the rear edge.
            ahead = back * (1.1 - 0.5 * share) + head.up * 0.6 * share + out * 0.1
        ahead = ahead / np.linalg.norm(ahead)
        size = antler.length * antler.tine_length * (1.0 - 0.35 * share)
        middle = start + ahead * size * 0.55
        end = middle + (ahead * 0.6 + head.up * 0.5) * size * 0.5
        bow, thick = dense_curve(np.array([start, middle, end]), np.array([0.016, 0.012, 0.004]), 2)
        parts.append(Part(bow, thick, plain(bone, tip), 0.9, 0.004))
    return parts
