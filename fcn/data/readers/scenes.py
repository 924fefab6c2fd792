"""Generated road scenes: without a download, the same pixels everywhere, and hard enough that configs differ in score.

Each sequence is three frames along one street, which has its own course, light and camera. Pavements, yards and walls
have the road's colours, lane paint is worn, shadows and cars lie across the road, and haze hides its end.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fcn.config import Config
from fcn.data.dataset import Dataset, Decoded, Frame, Pixels
from fcn.data.scenes.ground import CLASSES
from fcn.data.scenes.street import Street, draw_street
from fcn.data.scenes.view import draw_frame
from fcn.data.splits import split_by_sequence
from fcn.data.task import make_task
from fcn.errors import InputError

FRAMES = 160  # drawn unless config.frames says otherwise
FRAMES_A_SEQUENCE = 3
SEED = 20_180_402  # config.seed must not change the data: trials of one study compare on the same frames
DRAWING = "scenes 7"  # changed with every change of the pixels that are drawn


def open_scenes(config: Config) -> Dataset:
    """Scenes at config.image_size. Raises InputError for split = published: generated scenes have none."""
    if config.split == "published":
        raise InputError("split: scenes have no published split, got published: set split = sequence")
    count = config.frames or FRAMES
    frames = []
    for index in range(count):
        street, number = divmod(index, FRAMES_A_SEQUENCE)
        frames.append(Frame(f"street{street:05d}_{number}", f"street{street:05d}", None, None))
    task = make_task("scenes", CLASSES, (), config.classes)
    splits, warnings = split_by_sequence("scenes", frames, config)
    if config.data_dir is not None:
        warnings.append(f"scenes are drawn: nothing is read of data_dir = {config.data_dir}")

    def decode(frame: Frame) -> Decoded:
        street, number = int(frame.sequence.removeprefix("street")), int(frame.name.rsplit("_", 1)[1])
        image, label = draw_scene(street, number, config.image_size)
        return Decoded(image, task.apply(label, None))

    return Dataset("scenes", task.classes, tuple(frames), splits, tuple(warnings), task.positive, decode, DRAWING)


def draw_scene(street: int, number: int, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Frame `number` of a street at size (H, W): image HxWx3, label HxW (indices into ground.CLASSES)."""
    noise = np.random.default_rng((SEED, street, number))
    return draw_frame(_street(street), number, size, noise)


@lru_cache(maxsize=64)
def _street(number: int) -> Street:
    return draw_street(SEED, number, FRAMES_A_SEQUENCE)
