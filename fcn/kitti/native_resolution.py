"""Metrics at the frames' native resolution, in the image or in bird's-eye view, as KITTI Road's devkit computes them.

They can be compared with published figures. Training scores at the network's image size instead.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from fcn.data.dataset import MOST_PROBLEMS_SHOWN, VOID, Dataset, Frame, raise_problems
from fcn.errors import InputError
from fcn.evaluation.metrics import Confusion, ThresholdCounts
from fcn.formats.read import Export
from fcn.kitti.bird_eye_view import birds_eye, calibration_path, read_calibration
from fcn.prediction.predictor import Pixels, Predictor, class_mask, levels, probability


def score_at_native_resolution(
    export: Export,
    predictor: Predictor,
    dataset: Dataset,
    indices: Sequence[int],
    *,
    from_above: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Metrics with training's names, without prefix; with several categories, also "CATEGORY/max_f1" and so on.

    from_above: scores the bird's-eye view, by each frame's calibration file; for an export of one class only.
    Memory does not grow with the number of frames.
    Raises InputError if there are no frames, a file is damaged, or a calibration file is missing or wrong.
    """
    if not indices:
        raise InputError(f"{dataset.name}: must have frames to score, got none in this split: choose another")
    frames = [dataset.frames[index] for index in indices]
    if from_above:
        check_calibrations(frames, export)
    positive = export.positive
    categories = tuple(sorted({frame.category or "" for frame in frames}))
    confusion = Confusion(dataset.classes, torch.device("cpu"))
    thresholds = ThresholdCounts(categories, torch.device("cpu"))
    problems: list[str] = []
    for index, frame in zip(indices, frames, strict=True):
        try:
            image, label = dataset.read(index)
        except InputError as error:
            problems.append(str(error))
        if len(problems) > MOST_PROBLEMS_SHOWN:
            break
        if problems:  # the other frames are only read, so that one message names all damaged files
            continue
        (logits_CHW,) = predictor.logits([image])
        planes = [label, class_mask(logits_CHW, label.shape)]
        if positive is not None:
            planes.append(levels(probability(logits_CHW, positive, label.shape)))
        if from_above:
            planes = _from_above(frame, planes)
        label_1HW, mask_1HW = (torch.from_numpy(plane.astype(np.int64))[None] for plane in planes[:2])
        confusion.update(mask_1HW, label_1HW)
        if positive is not None:
            level_1HW = torch.from_numpy(np.ascontiguousarray(planes[2]))[None]
            of_class_1HW = label_1HW.eq(positive).long().masked_fill(label_1HW.eq(VOID), VOID)
            place = torch.tensor([categories.index(frame.category or "")])
            thresholds.update(level_1HW, of_class_1HW, place)
        progress()
    raise_problems(problems)
    results = confusion.results() | thresholds.results()
    for category in categories if len(categories) > 1 else ():
        results |= {f"{category}/{name}": value for name, value in thresholds.results(category).items()}
    return results


def check_calibrations(frames: Sequence[Frame], export: Export) -> None:
    """Raises one InputError for every frame without a sound calibration file, before anything is computed."""
    if export.positive is None:
        raise InputError(
            f"a bird's-eye view scores one class against the rest, got an export of {len(export.classes)} "
            "classes: train with classes = road"
        )
    if any(frame.image is None for frame in frames):
        raise InputError("a bird's-eye view needs calibration files, which drawn frames don't have: use kitti_road")
    problems = []
    for frame in frames:
        assert frame.image is not None
        try:
            read_calibration(calibration_path(frame.image))
        except InputError as error:
            problems.append(str(error))
    raise_problems(problems)


def _from_above(frame: Frame, planes: Sequence[Pixels]) -> list[Pixels]:
    """Label, class mask and level in bird's-eye view. Cells outside the image are void, class 0 and level 0."""
    assert frame.image is not None
    calibration = read_calibration(calibration_path(frame.image))
    return [birds_eye(plane, calibration, outside) for plane, outside in zip(planes, (VOID, 0, 0), strict=True)]
