"""A submission to the KITTI Road server: probabilities for the testing frames in bird's-eye view, as 8-bit PNGs.

The server takes one zip of um_road_000000.png and so on, each 400 x 800 pixels, with 255 for the probability 1.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from fcn.data.dataset import raise_problems
from fcn.data.image_files import read_image
from fcn.data.listing import list_images
from fcn.errors import InputError
from fcn.files import fresh_directory
from fcn.formats.read import Export
from fcn.kitti.bird_eye_view import GRID, birds_eye, calibration_path, read_calibration
from fcn.prediction.predictor import Predictor, levels, probability

_NAME = re.compile(r"(?P<category>um|umm|uu)_(?P<number>\d{6})")


def write_submission(
    export: Export,
    predictor: Predictor,
    data: Path,
    output: Path,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Writes a PNG for each frame of data/testing/image_2 (or data/image_2) and returns their number.

    Writes all or none, since the server needs every frame. Raises InputError if output isn't new or empty, if a frame
    or a calibration file is damaged, missing or misnamed, or if the export has several classes.
    """
    if export.positive is None:
        raise InputError(
            f"a submission is of one class, got an export of {len(export.classes)}: train with classes = road"
        )
    frames = testing_frames(data)
    with fresh_directory(output, bytes_needed=len(frames) * math.prod(GRID)) as partial:
        for frame, name in frames.items():
            image = read_image(frame)
            (logits_CHW,) = predictor.logits([image])
            level_HW = levels(probability(logits_CHW, export.positive, image.shape[:2]))
            view = birds_eye(level_HW, read_calibration(calibration_path(frame)))
            category, number = name
            target = partial / f"{category}_{export.classes[export.positive]}_{number}.png"
            Image.fromarray(view).save(target)
            progress()
    return len(frames)


def testing_frames(data: Path) -> dict[Path, tuple[str, str]]:
    """Category and number of each testing frame, by its path.

    Reads every frame and its calibration file first, and raises one InputError that names all bad ones.
    """
    folder = data / "testing" if (data / "testing" / "image_2").is_dir() else data
    frames = {}
    problems = []
    for path in list_images(folder / "image_2"):
        found = _NAME.fullmatch(path.stem)
        if found is None:
            problems.append(f"{path}: must be named as KITTI does (um_000000.png): rename it or take it out")
            continue
        frames[path] = (found["category"], found["number"])
        for read, file in ((read_image, path), (read_calibration, calibration_path(path))):
            try:
                read(file)
            except InputError as error:
                problems.append(str(error))
    raise_problems(problems)
    return frames
