"""Crops of drawn deer, in memory, for measuring what is inside a network."""

import numpy as np
from numpy.typing import NDArray

from deer_reid_pipeline.sample.coat import Flank
from deer_reid_pipeline.sample.individual import individual
from deer_reid_pipeline.sample.light import ILLUMINATIONS, LIGHTS
from deer_reid_pipeline.sample.noise import generator
from deer_reid_pipeline.sample.picture import Studio, Subject, compose
from deer_reid_pipeline.sample.plan import CAMERAS
from deer_reid_pipeline.sample.pose import POSES, draw_pose

SIZE = (640, 480)


def calibration_pictures(count: int, seed: int) -> list[NDArray[np.uint8]]:
    """`count` RGB crops (h, w, 3) uint8, about 100 to 420 pixels a side, one animal each with a little
    margin.

    Every crop is another individual; light, flank, pose, camera and size take turns, so that even a few crops
    hold some of each. The same `count` and `seed` give the same pixels, and a larger `count` only adds to
    them.
    """
    studio, crops = Studio(seed, SIZE), []
    for number in range(count):
        rng = generator(seed, 51, number)
        flank: Flank = "left" if number % 2 else "right"
        pose = draw_pose(POSES[number % len(POSES)], rng)
        near = float(rng.uniform(0.42, 0.74))
        animal = individual(seed, number)
        subject = Subject(animal, flank, pose, float(rng.uniform(0.35, 0.65)), near)
        light = LIGHTS[ILLUMINATIONS[(number + number // 3) % len(ILLUMINATIONS)]]
        camera = (number // 3) % CAMERAS
        frame, boxes = compose(studio, camera, light, [subject], (seed, 52, number))
        left, top, width, height = boxes[0]
        margin = rng.uniform(0.02, 0.10, 4)
        x0, x1 = left - margin[0] * width, left + width * (1 + margin[1])
        y0, y1 = top - margin[2] * height, top + height * (1 + margin[3])
        rows = slice(max(int(y0 * SIZE[1]), 0), min(int(np.ceil(y1 * SIZE[1])), SIZE[1]))
        columns = slice(max(int(x0 * SIZE[0]), 0), min(int(np.ceil(x1 * SIZE[0])), SIZE[0]))
        crops.append(np.ascontiguousarray(frame[rows, columns]))
    return crops
