"""Bird's-eye view, against a projection worked out by hand, point by point."""

import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fcn.errors import InputError
from fcn.kitti.bird_eye_view import Calibration, birds_eye, calibration_path, read_calibration, road_to_image

FOCAL, CENTRE_U, CENTRE_V, HEIGHT_METRES = 700.0, 600.0, 170.0, 1.65

# A camera 1.65 m over a flat road, tilted and turned a little, as KITTI's are: angles in radians.
PITCH, YAW, RECTIFY = 0.01, -0.02, 0.015


def rotation_x(angle: float) -> list[list[float]]:
    c, s = math.cos(angle), math.sin(angle)
    return [[1, 0, 0], [0, c, -s], [0, s, c]]


def rotation_y(angle: float) -> list[list[float]]:
    c, s = math.cos(angle), math.sin(angle)
    return [[c, 0, s], [0, 1, 0], [-s, 0, c]]


def text_of(**changed: str) -> str:
    turn = np.array(rotation_x(PITCH)) @ np.array(rotation_y(YAW))
    to_road = np.hstack([turn, [[0.1], [-HEIGHT_METRES], [0.3]]])
    lines = {
        "P2": f"{FOCAL} 0 {CENTRE_U} 45.0 0 {FOCAL} {CENTRE_V} 0.2 0 0 1 0.003",
        "R0_rect": " ".join(f"{value:.12e}" for value in np.array(rotation_x(RECTIFY)).flat),
        "Tr_velo_to_cam": "0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27",
        "Tr_cam_to_road": " ".join(f"{value:.12e}" for value in to_road.flat),
    } | changed
    return "".join(f"{name}: {value}\n" for name, value in lines.items()) + "\n"


def pixel_of(x: float, z: float) -> tuple[float, float]:
    """Where a point of the road falls: three rotations and a division, one coordinate after the other."""

    def turn_back(rotation: list[list[float]], point: list[float]) -> list[float]:
        return [sum(rotation[k][i] * point[k] for k in range(3)) for i in range(3)]

    def turn(rotation: list[list[float]], point: list[float]) -> list[float]:
        return [sum(rotation[i][k] * point[k] for k in range(3)) for i in range(3)]

    point = [x - 0.1, 0 + HEIGHT_METRES, z - 0.3]
    camera = turn_back(rotation_y(YAW), turn_back(rotation_x(PITCH), point))
    right, down, ahead = turn(rotation_x(RECTIFY), camera)
    scale = ahead + 0.003
    return (FOCAL * right + CENTRE_U * ahead + 45.0) / scale, (FOCAL * down + CENTRE_V * ahead + 0.2) / scale


@pytest.fixture
def calibration(tmp_path: Path) -> Calibration:
    path = tmp_path / "um_000000.txt"
    path.write_text(text_of())
    return read_calibration(path)


def test_a_road_point_falls_where_plain_trigonometry_puts_it(calibration: Calibration) -> None:
    for x, z in ((-9.9, 6.1), (0, 6), (3.3, 20), (9.9, 45.9)):
        u, v, scale = road_to_image(calibration) @ np.array([x, z, 1.0])
        assert (u / scale, v / scale) == pytest.approx(pixel_of(x, z), abs=1e-6)


def test_every_cell_shows_the_pixel_under_its_centre(calibration: Calibration) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (375, 1242), np.uint8)

    view = birds_eye(image, calibration, outside=0)

    assert view.shape == (800, 400)
    outside = 0
    for row, column in zip(rng.integers(0, 800, 500), rng.integers(0, 400, 500), strict=True):
        u, v = pixel_of(-10 + 0.05 * (column + 0.5), 46 - 0.05 * (row + 0.5))
        if not (1 <= u <= 1242 and 1 <= v <= 375):
            outside += 1
            assert view[row, column] == 0
        else:
            assert view[row, column] == image[math.floor(v) - 1, math.floor(u) - 1]
    assert 0 < outside < 250


def kitti_like(seed: int) -> Calibration:
    """A camera as one of KITTI's: their focal lengths and heights, turned by up to a degree about each axis."""
    rng = np.random.default_rng(seed)
    focal, height = rng.uniform(707, 722), rng.uniform(1.55, 1.75)
    turns = [np.array(turn(rng.uniform(-0.017, 0.017))) for turn in (rotation_x, rotation_y, rotation_x, rotation_y)]
    return Calibration(
        P2=np.array(
            [[focal, 0, rng.uniform(601, 610), 45.1], [0, focal, rng.uniform(172, 186), 0.2], [0, 0, 1, 0.003]]
        ),
        R0_rect=turns[0] @ turns[1],
        Tr_cam_to_road=np.hstack([turns[2] @ turns[3], [[rng.uniform(-0.02, 0.02)], [-height], [0.29]]]),
    )


def as_the_devkit_samples(
    image: npt.NDArray[np.int64], calibration: Calibration, grid_type: type[np.floating]
) -> npt.NDArray[np.int64]:
    """The devkit's arithmetic, step by step: its grid in single precision, its matrices in double."""
    right = np.arange(-10 + 0.05 / 2, 10, 0.05).astype(grid_type)
    ahead = np.arange(46 - 0.05 / 2, 6, -0.05).astype(grid_type)
    points = np.array([(x, z, 1) for z in ahead for x in right], grid_type).T
    projection = calibration.P2 @ np.vstack([np.hstack([calibration.R0_rect, np.zeros((3, 1))]), [0, 0, 0, 1]])
    projection = projection @ np.linalg.inv(np.vstack([calibration.Tr_cam_to_road, [0, 0, 0, 1]]))
    u, v, w = np.dot(projection[:, [0, 2, 3]], points)
    u, v = u / w, v / w
    inside = (v >= 1) & (u >= 1) & (v <= image.shape[0]) & (u <= image.shape[1])
    view = np.zeros(len(u), np.int64)
    view[inside] = image[v[inside].astype(np.uint32) - 1, u[inside].astype(np.uint32) - 1]
    return view.reshape(len(ahead), len(right))


def test_the_view_is_the_devkits_in_every_cell_single_precision_of_its_grid_included() -> None:
    image = np.arange(1, 375 * 1242 + 1).reshape(375, 1242)  # no two pixels alike
    where_it_matters = 0
    for seed in range(8):
        calibration = kitti_like(seed)
        devkit = as_the_devkit_samples(image, calibration, np.float32)
        assert np.array_equal(birds_eye(image, calibration), devkit), f"calibration {seed}"
        where_it_matters += int((devkit != as_the_devkit_samples(image, calibration, np.float64)).sum())
    assert where_it_matters > 0  # else these calibrations would not show a grid in double precision


def test_a_level_camera_sees_a_lane_of_three_metres_as_sixty_columns() -> None:
    level = Calibration(
        P2=np.array([[FOCAL, 0, CENTRE_U, 0], [0, FOCAL, CENTRE_V, 0], [0, 0, 1, 0]]),
        R0_rect=np.eye(3),
        Tr_cam_to_road=np.hstack([np.eye(3), [[0], [-HEIGHT_METRES], [0]]]),
    )
    image = np.zeros((375, 1242), np.uint8)
    for v in range(int(CENTRE_V) + 10, 375):
        # A strip of the road from x = -1 m to x = 2 m: a pinhole sees it at u = focal x / z + centre.
        z = FOCAL * HEIGHT_METRES / (v + 0.5 - CENTRE_V)
        image[v, round(FOCAL * -1 / z + CENTRE_U) : round(FOCAL * 2 / z + CENTRE_U)] = 1

    near = birds_eye(image, level)[700]

    # At 11 m one pixel is 0.016 m wide, and the devkit's counting from 1 moves the image by one.
    columns = np.flatnonzero(near)
    assert (columns[0], columns[-1], len(columns)) == pytest.approx((180, 239, 60), abs=1)


def test_colours_keep_their_channels(calibration: Calibration) -> None:
    image = np.random.default_rng(0).integers(0, 256, (375, 1242, 3), np.uint8)
    view = birds_eye(image, calibration)

    assert view.shape == (800, 400, 3)
    assert np.array_equal(view[..., 1], birds_eye(image[..., 1], calibration))


def test_the_calibration_of_a_frame_lies_beside_its_image_folder() -> None:
    assert calibration_path(Path("/k/training/image_2/um_000001.png")) == Path("/k/training/calib/um_000001.txt")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"P2": "1 2 3"}, "line 1: P2 must have 12 numbers, got 3"),
        ({"R0_rect": "1 0 0 0 1 0 0 0 x1"}, "line 2: R0_rect must hold numbers, got 'x1'"),
        ({"R0_rect": "1 0 0 0 1 0 0 0 nan"}, "line 2: R0_rect must hold finite numbers, got 'nan'"),
        ({"R0_rect": "9 0 0 0 1 0 0 0 1"}, "line 2: R0_rect must be a rotation, got one that is off by 80"),
        ({"P2": "-7 0 6 4 0 7 1 0 0 0 1 0"}, "P2 must have focal lengths above 0, got"),
        ({"Tr_cam_to_road": "0 " * 12}, "Tr_cam_to_road must be a rotation"),
    ],
)
def test_a_damaged_calibration_file_is_named_with_line_rule_and_value(
    tmp_path: Path, change: dict[str, str], says: str
) -> None:
    path = tmp_path / "um_000007.txt"
    path.write_text(text_of(**change))

    with pytest.raises(InputError, match=r"unpack data_road\.zip again") as error:
        read_calibration(path)

    assert str(path) in str(error.value)
    assert says in str(error.value)


def test_a_calibration_file_that_is_missing_cut_short_doubled_or_binary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "um_000007.txt"
    with pytest.raises(InputError, match="got none"):
        read_calibration(path)
    path.write_text(text_of().partition("Tr_cam_to_road")[0])
    with pytest.raises(InputError, match="got no Tr_cam_to_road"):
        read_calibration(path)
    path.write_text(text_of() + text_of())
    with pytest.raises(InputError, match="line 6: P2 must be given once"):
        read_calibration(path)
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match="ASCII text"):
        read_calibration(path)


def test_real_kitti_calibrations_show_the_road_ahead_of_the_car() -> None:
    data = os.environ.get("FCN_TEST_DATA")
    if data is None:
        pytest.skip("FCN_TEST_DATA is not set")
    for name in ("umm_000068", "uu_000097"):
        calibration = read_calibration(Path(data) / f"kitti_road_tiny/testing/calib/{name}.txt")
        numbered = np.arange(1, 375 * 1242 + 1).reshape(375, 1242)
        assert np.array_equal(
            birds_eye(numbered, calibration), as_the_devkit_samples(numbered, calibration, np.float32)
        )
        seen = birds_eye(np.ones((375, 1241), np.uint8), calibration)
        # Straight ahead all is seen; near the car, 10 m to either side lies outside the image.
        assert seen[:, 200].mean() > 0.98
        assert seen[-1, 0] == seen[-1, -1] == 0
