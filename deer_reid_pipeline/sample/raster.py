"""Parts to pixels: a small depth-buffer painter for chains of balls.

The camera looks along -z with an orthographic eye that is tilted a little, as if it hung at shoulder height.
The picture is drawn at twice its size and averaged down. Nothing here knows about light: the result is what
the surface is (colour) and which way it faces (normal).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.sample.anatomy import Body
from deer_reid_pipeline.sample.chain import Part, Points
from deer_reid_pipeline.sample.noise import Array, resized, smoothstep, value_noise

OVERSAMPLE = 2
# How much lower in the picture a foot is for every shoulder height that it is nearer to the camera.
TILT = 0.16


@dataclass(frozen=True)
class Sprite:
    """A drawn animal, lit by nobody yet; all arrays share (h, w).

    `alpha` 0..1 coverage; `colour` (h, w, 3) reflectance; `normal` (h, w, 3), x right, y down, z to the
    camera; `anchor` is the pixel (x, y) of the ground point below the body; `eyes` are (x, y, radius) of
    visible eyes.
    """

    alpha: Array
    colour: Array
    normal: Array
    anchor: tuple[float, float]
    eyes: list[tuple[float, float, float]]


def _project(points: Points, turn: float, scale: float) -> Points:
    """Body space to (right, down, towards the camera) in pixels, head to the left."""
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    depth = x * np.sin(turn) + z * np.cos(turn)
    right = -(x * np.cos(turn)) + z * np.sin(turn)
    down = -y + TILT * depth * (1.0 - y)
    return np.column_stack([right, down, depth]) * scale


def _paint(part: Part, path: Points, radii: Points, buffers: tuple[Array, Array], ragged: Array, scale: float) -> None:
    """Add one part to the colour and depth buffers in place."""
    colour, depth = buffers
    height, width = depth.shape
    left = max(int(np.min(path[:, 0] - radii)) - 2, 0)
    right = min(int(np.max(path[:, 0] + radii)) + 3, width)
    top = max(int(np.min(path[:, 1] - radii)) - 2, 0)
    bottom = min(int(np.max(path[:, 1] + radii)) + 3, height)
    if left >= right or top >= bottom:
        return
    shape = (bottom - top, right - left)
    best = np.full(shape, -1e6, np.float32)
    along, across = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    joints = np.diff(path[:, :2], axis=0)
    lengths = np.maximum(np.hypot(joints[:, 0], joints[:, 1]), 1e-3)
    units = joints / lengths[:, None]
    at_ends = np.vstack([units[:1], (units[:-1] + units[1:]) / 2, units[-1:]])
    count = len(joints)
    for i in range(count):
        (x0, y0, z0), (x1, y1, z1), r0, r1 = path[i], path[i + 1], radii[i], radii[i + 1]
        x_lo, x_hi = max(int(min(x0 - r0, x1 - r1)) - 1, left), min(int(max(x0 + r0, x1 + r1)) + 2, right)
        y_lo, y_hi = max(int(min(y0 - r0, y1 - r1)) - 1, top), min(int(max(y0 + r0, y1 + r1)) + 2, bottom)
        if x_lo >= x_hi or y_lo >= y_hi:
            continue
        xs = np.arange(x_lo, x_hi, dtype=np.float32)[None, :] - np.float32(x0)
        ys = np.arange(y_lo, y_hi, dtype=np.float32)[:, None] - np.float32(y0)
        dx, dy, span = np.float32(x1 - x0), np.float32(y1 - y0), np.float32(lengths[i] ** 2)
        # Not the nearest point of the axis but the ball that stands highest over the pixel (radius and depth
        # change along the chain): otherwise neighbouring segments tear the texture into bricks.
        grow, rise = np.float32(r1 - r0), np.float32((z1 - z0) / part.squash)
        foot = (xs * dx + ys * dy) / span
        thick = np.float32(r0) + grow * np.clip(foot, 0.0, 1.0)
        aside = (ys * dx - xs * dy) / np.float32(lengths[i])
        dome = np.sqrt(np.maximum(thick**2 - aside**2, 0.0))
        t = np.clip(foot + (grow * thick + rise * dome) / span, 0.0, 1.0)
        radius = np.float32(r0) + np.float32(r1 - r0) * t
        off_x, off_y = xs - dx * t, ys - dy * t
        away = off_x**2 + off_y**2
        bulge = np.sqrt(np.maximum(radius**2 - away, 0.0))
        z = np.float32(z0) + np.float32(z1 - z0) * t + np.float32(part.squash) * bulge
        window = (slice(y_lo - top, y_hi - top), slice(x_lo - left, x_hi - left))
        wins = (away < (radius * ragged[y_lo:y_hi, x_lo:x_hi]) ** 2) & (z > best[window])
        nx = -(np.float32(at_ends[i, 1]) + np.float32(at_ends[i + 1, 1] - at_ends[i, 1]) * t)
        ny = np.float32(at_ends[i, 0]) + np.float32(at_ends[i + 1, 0] - at_ends[i, 0]) * t
        side = (off_x * nx + off_y * ny) / radius
        best[window] = np.where(wins, z, best[window])
        along[window] = np.where(wins, (i + t) / count, along[window])
        across[window] = np.where(wins, side, across[window])
    drawn = best > -1e5
    if count > 14:
        # On the trunk, iron out the last steps between segments, which would show as cuts through spots.
        along = _smoothed(along, drawn.astype(np.float32), scale * 0.022)
    rows, columns = part.texture.shape[:2]
    along = np.clip(along, 0.0, 1.0)
    row = ((0.5 - np.arcsin(np.clip(across, -1, 1)) / np.pi) * (rows - 1) + 0.5).astype(np.int32)
    column = (along * (columns - 1) + 0.5).astype(np.int32)
    window = (slice(top, bottom), slice(left, right))
    under, there = depth[window], depth[window] > -1e5
    soft = np.float32(max(part.blend * scale, 0.5))
    mix = np.where(there, np.clip(0.5 + 0.5 * (best - under) / soft, 0.0, 1.0), 1.0) * drawn
    melted = under + (best - under) * mix + soft * mix * (1.0 - mix)
    depth[window] = np.where(drawn, np.where(there, melted, best), under)
    if part.fade:
        mix = mix * np.where(there, smoothstep(part.fade * 0.35, part.fade, along), 1.0)
    patch = part.texture[row, column]
    colour[window] += (patch - colour[window]) * mix[..., None]


def _smoothed(plane: NDArray[np.floating], weight: Array, reach: float) -> Array:
    """`plane` averaged over about `reach` pixels, counting only where `weight` is."""
    full = (plane.shape[1], plane.shape[0])
    small = (max(2, int(full[0] / max(reach, 1.0))), max(2, int(full[1] / max(reach, 1.0))))
    total = resized(resized(weight, small), full)
    mean = resized(resized((plane * weight).astype(np.float32), small), full) / np.maximum(total, 0.05)
    return mean.astype(np.float32)


def _halved(plane: Array) -> Array:
    return (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) * np.float32(0.25)


def draw(body: Body, turn: float, height: float, mirrored: bool, rng: np.random.Generator) -> Sprite:
    """Draw `body` so that one shoulder height is `height` pixels; `mirrored` puts the head to the right."""
    scale = height * OVERSAMPLE
    paths = [_project(part.points, turn, scale) for part in body.parts]
    radii = [part.radii * scale for part in body.parts]
    low = np.min([np.min(p[:, :2] - r[:, None], axis=0) for p, r in zip(paths, radii, strict=True)], axis=0) - 6
    high = np.max([np.max(p[:, :2] + r[:, None], axis=0) for p, r in zip(paths, radii, strict=True)], axis=0) + 6
    width, tall = (int(np.ceil(side / 4)) * 4 for side in high - low)
    shift = np.array([low[0], low[1], 0.0])
    colour, depth = np.zeros((tall, width, 3), np.float32), np.full((tall, width), -1e6, np.float32)
    cell = max(2, int(scale * 0.006))
    ragged = 1.0 + 0.018 * value_noise(rng, (width, tall), (width // cell, tall // cell))
    for part, path, radius in zip(body.parts, paths, radii, strict=True):
        _paint(part, path - shift, radius, (colour, depth), ragged, scale)
    mask = (depth > -1e5).astype(np.float32)
    alpha = _halved(mask)
    solid = np.maximum(alpha, 1e-3)
    seen = np.stack([_halved(colour[..., c] * mask) / solid for c in range(3)], axis=-1)
    surface = _halved(np.where(mask > 0, depth, 0.0)) / solid / OVERSAMPLE
    # A slightly blurred surface has no creases where parts meet; the sharp one keeps legs and ears apart.
    smooth = _smoothed(surface, alpha, height / 90)
    surface = np.where(alpha > 0.5, 0.92 * smooth + 0.08 * surface, smooth)
    slope_y, slope_x = np.gradient(surface)
    steep = 1.0 + (np.hypot(slope_x, slope_y) / 1.7) ** 4
    # A leg in front of another is a step, not a slope: taken for one, it would glitter along its edge.
    nx, ny = -slope_x / steep, -slope_y / steep
    length = np.sqrt(nx**2 + ny**2 + 1.0)
    normal = np.stack([nx / length, ny / length, 1.0 / length], axis=-1).astype(np.float32)
    eyes = []
    for centre, outward, radius_ in body.eyes:
        faces = outward[0] * np.sin(turn) + outward[2] * np.cos(turn)
        place = (_project(centre[None, :], turn, scale)[0] - shift)[:2]
        if faces > 0.15:
            eyes.append((float(place[0] / OVERSAMPLE), float(place[1] / OVERSAMPLE), float(radius_ * height)))
    anchor = (float(-low[0] / OVERSAMPLE), float(-low[1] / OVERSAMPLE))
    if mirrored:
        alpha, seen, normal = (
            alpha[:, ::-1],
            seen[:, ::-1],
            normal[:, ::-1] * np.array([-1, 1, 1], np.float32),
        )
        eyes = [(alpha.shape[1] - x, y, r) for x, y, r in eyes]
        anchor = (alpha.shape[1] - anchor[0], anchor[1])
    return Sprite(alpha, seen.astype(np.float32), normal.astype(np.float32), anchor, eyes)
