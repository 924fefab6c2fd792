"""Images of masks, pixel by pixel."""

import numpy as np
import pytest

from fcn.data.dataset import VOID
from fcn.data.overlays import SEPARATOR_PIXELS, error_map, overlay, palette, side_by_side

ROAD = ("background", "road")


def test_an_overlay_paints_the_road_half_green_and_leaves_the_rest() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    mask = np.array([[0, 1, 1], [0, 0, VOID]])

    image = np.asarray(overlay(image, mask, ROAD))

    # What Pillow makes of green with opacity 127, pasted as the source write-ups paste it.
    assert image[0, 1].tolist() == pytest.approx([50, 177, 50], abs=1)
    assert image[0, 2].tolist() == image[0, 1].tolist()
    for row, column in ((0, 0), (1, 0), (1, 1), (1, 2)):
        assert image[row, column].tolist() == [100, 100, 100]


def test_the_one_class_is_green_whatever_its_name() -> None:
    assert palette(("background", "car")).tolist() == [[0, 0, 0], [0, 255, 0]]


def test_every_class_of_a_data_set_has_a_colour_of_its_own() -> None:
    camvid = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"]
    unheard_of = [f"thing {index}" for index in range(30)]

    for classes in (camvid, unheard_of):
        assert len({tuple(colour) for colour in palette(classes).tolist()}) == len(classes)


def test_an_error_map_tells_found_missed_made_up_and_void_apart() -> None:
    image = np.zeros((1, 5, 3), np.uint8)
    predicted = np.array([[1, 0, 1, 0, 1]])
    target = np.array([[1, 1, 0, 0, VOID]])

    found, missed, made_up, right, void = error_map(image, predicted, target, ROAD)[0].tolist()

    assert (found, missed, made_up) == ([0, 127, 0], [127, 0, 0], [0, 0, 127])
    assert right == void == [0, 0, 0]


def test_an_error_map_of_many_classes_marks_the_wrong_pixels() -> None:
    image = np.full((1, 3, 3), 80, np.uint8)
    wrong = error_map(image, np.array([[0, 1, 2]]), np.array([[0, 2, VOID]]), ("sky", "road", "car"))

    assert wrong[0].tolist() == [[40, 40, 40], [147, 20, 20], [0, 0, 0]]


def test_three_panels_stand_side_by_side_at_the_size_of_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    mask = np.zeros((8, 10), np.int64)

    joined = side_by_side(image, mask, mask, ROAD)

    assert joined.size == (3 * 10 + 2 * SEPARATOR_PIXELS, 8)
    assert np.array_equal(np.asarray(joined)[:, :10], image)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.zeros((4, 5), np.int64), "one size"),
        (np.full((4, 4), 2), "0..1 or 255"),
        (np.full((4, 4), -1), "0..1 or 255"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        overlay(np.zeros((4, 4, 3), np.uint8), mask, ROAD)
