"""Bird's-eye view of the road: KITTI's calibration files, and the grid of 800 x 400 cells that its server scores.

H, W: an image's height and width in pixels. x, z: metres to the right of the camera and ahead of it, on the road's
plane. Source: Fritsch, Kuehnl, Geiger, ITSC 2013. The sampling is that of the KITTI Road devkit, to the pixel, since
the server's ground truth was made with the devkit.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fcn.errors import InputError

X_METRES = (-10.0, 10.0)
Z_METRES = (6.0, 46.0)
CELL_METRES = 0.05
GRID = (800, 400)  # rows from far to near, columns from left to right

Array = npt.NDArray[np.float64]
Pixel = TypeVar("Pixel", bound=np.generic)

SHAPES = {
    "P0": (3, 4),
    "P1": (3, 4),
    "P2": (3, 4),
    "P3": (3, 4),
    "R0_rect": (3, 3),
    "Tr_velo_to_cam": (3, 4),
    "Tr_imu_to_velo": (3, 4),
    "Tr_cam_to_road": (3, 4),
}
NEEDED = ("P2", "R0_rect", "Tr_cam_to_road")


@dataclass(frozen=True)
class Calibration:
    """The matrices that map the road's plane to an image of the left colour camera.

    P2: projects rectified camera coordinates (metres) to pixels, (3, 4). R0_rect: the rectifying rotation, (3, 3).
    Tr_cam_to_road: camera to road coordinates, metres, (3, 4).
    Tr_velo_to_cam: laser scanner to camera coordinates, metres, (3, 4); None if the file lacks it. Not used here.
    """

    P2: Array
    R0_rect: Array
    Tr_cam_to_road: Array
    Tr_velo_to_cam: Array | None = None


def read_calibration(path: Path) -> Calibration:
    """Reads one of KITTI Road's calibration files, calib/NAME.txt.

    Raises InputError with file, line, rule and value if the file is missing or can't be read, or if a matrix is missing
    or given twice, has the wrong count of numbers, one that isn't finite, a focal length of 0 or less, or a rotation
    that isn't one.
    """
    fix = "unpack data_road.zip again"
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: a calibration file must lie beside each frame's image folder, got none; {fix}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: a calibration file must be ASCII text, got: {error}; {fix}") from error
    found: dict[str, Array] = {}
    for number, line in enumerate(lines, 1):
        name, _, values = line.partition(":")
        name = name.strip()
        if name not in SHAPES:
            continue
        if name in found:
            raise InputError(f"{path}, line {number}: {name} must be given once, got it twice; {fix}")
        found[name] = _matrix(f"{path}, line {number}", name, values.split(), fix)
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise InputError(f"{path}: must hold {', '.join(NEEDED)}, got no {', '.join(missing)}; {fix}")
    return Calibration(found["P2"], found["R0_rect"], found["Tr_cam_to_road"], found.get("Tr_velo_to_cam"))


def road_to_image(calibration: Calibration) -> Array:
    """Homography (3, 3) from (x, z, 1), metres on the road's plane, to a multiple of (u, v, 1), pixels of the image.

    P2 @ R0_rect @ inverse(Tr_cam_to_road) without its column for y, the height over the road, which is 0 on the plane.
    """
    rectify = np.eye(4)
    rectify[:3, :3] = calibration.R0_rect
    camera_to_road = np.eye(4)
    camera_to_road[:3] = calibration.Tr_cam_to_road
    road_to_pixels: Array = calibration.P2 @ rectify @ np.linalg.inv(camera_to_road)
    return road_to_pixels[:, [0, 2, 3]]


def birds_eye(image: npt.NDArray[Pixel], calibration: Calibration, outside: float = 0) -> npt.NDArray[Pixel]:
    """The bird's-eye view (800, 400) or (800, 400, C) of an image (H, W) or (H, W, C) at KITTI's native resolution.

    Rows run from 46 m ahead of the camera (row 0) to 6 m, columns from 10 m on its left (column 0) to 10 m on its
    right.
    outside: the value of cells that the image doesn't show.
    """
    columns = X_METRES[0] + CELL_METRES * (np.arange(GRID[1]) + 0.5)
    rows = Z_METRES[1] - CELL_METRES * (np.arange(GRID[0]) + 0.5)
    # The devkit's grid is float32, which moves some cells into a neighbouring pixel.
    x, z = (side.astype(np.float32).astype(np.float64) for side in np.meshgrid(columns, rows))
    u, v, scale = np.einsum("ij,jhw->ihw", road_to_image(calibration), np.stack([x, z, np.ones_like(x)]))
    ahead = scale > 0
    u, v = (np.divide(side, scale, out=np.zeros_like(side), where=ahead) for side in (u, v))
    height, width = image.shape[:2]
    # The devkit counts pixels from 1 and truncates; rounding would not match its ground truth.
    seen = ahead & (u >= 1) & (u <= width) & (v >= 1) & (v <= height)
    view = np.full(GRID + image.shape[2:], outside, image.dtype)
    view[seen] = image[v[seen].astype(int) - 1, u[seen].astype(int) - 1]
    return view


def calibration_path(image: Path) -> Path:
    """The calibration file of an image: testing/calib/um_000000.txt for testing/image_2/um_000000.png."""
    return image.parent.parent / "calib" / f"{image.stem}.txt"


def _matrix(place: str, name: str, words: list[str], fix: str) -> Array:
    shape = SHAPES[name]
    if len(words) != math.prod(shape):
        raise InputError(f"{place}: {name} must have {math.prod(shape)} numbers, got {len(words)}; {fix}")
    values: list[float] = []
    for word in words:
        try:
            value = float(word)
        except ValueError as error:
            raise InputError(f"{place}: {name} must hold numbers, got {word!r}; {fix}") from error
        if not math.isfinite(value):
            raise InputError(f"{place}: {name} must hold finite numbers, got {word!r}; {fix}")
        values.append(value)
    matrix = np.array(values).reshape(shape)
    _check_matrix(place, name, matrix, fix)
    return matrix


def _check_matrix(place: str, name: str, matrix: Array, fix: str) -> None:
    if name.startswith("P"):
        focal = (float(matrix[0, 0]), float(matrix[1, 1]))
        if min(focal) <= 0:
            raise InputError(f"{place}: {name} must have focal lengths above 0, got {focal}; {fix}")
        return
    rotation: Any = matrix[:, :3]
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    # KITTI's rotations differ from exact ones by less than 1e-6; a wrong digit makes a far larger difference.
    if off > 1e-3 or np.linalg.det(rotation) < 0:
        raise InputError(f"{place}: {name} must be a rotation, got one that is off by {off:.3g}; {fix}")
