"""Bird's-eye view of the road: KITTI's calibration files and the 800 x 400 grid that its server scores.

H W pixels of an image; x metres to the right of the camera, z metres ahead, both on the road's plane.
Source: Fritsch, Kuehnl, Geiger, ITSC 2013, and the KITTI Road devkit's sampling, followed to the pixel:
the server's ground truth was made with it.
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
    """How the road's plane falls onto the left colour camera.

    P2: projection of rectified camera coordinates, pixels, (3, 4). R0_rect: rectifying rotation, (3, 3).
    Tr_cam_to_road: camera to road coordinates, metres, (3, 4).
    Tr_velo_to_cam: laser scanner to camera, metres, (3, 4), where the file has it; the view does not need it.
    """

    P2: Array
    R0_rect: Array
    Tr_cam_to_road: Array
    Tr_velo_to_cam: Array | None = None


def read_calibration(path: Path) -> Calibration:
    """Read one of KITTI Road's calib/NAME.txt.

    Raises InputError with file, line, rule and value when it is missing, unreadable, lacks a matrix, holds
    one twice, has a wrong count of numbers or one that is none, or a rotation that does not rotate.
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
    """Homography (3, 3) from (x, z, 1) in metres on the road's plane to (u, v, 1) times a scale, in pixels.

    P2 @ R0_rect @ inverse(Tr_cam_to_road), with the column of y, the height over the road, left out.
    """
    rectify = np.eye(4)
    rectify[:3, :3] = calibration.R0_rect
    camera_to_road = np.eye(4)
    camera_to_road[:3] = calibration.Tr_cam_to_road
    road_to_pixels: Array = calibration.P2 @ rectify @ np.linalg.inv(camera_to_road)
    return road_to_pixels[:, [0, 2, 3]]


def birds_eye(image: npt.NDArray[Pixel], calibration: Calibration, outside: float = 0) -> npt.NDArray[Pixel]:
    """The image (H, W) or (H, W, C) at KITTI's native resolution, seen from above: (800, 400) or (800, 400, C).

    Row 0 is 46 m ahead and row 799 6 m, column 0 is 10 m to the left. Cells that no pixel shows get
    `outside`.
    """
    columns = X_METRES[0] + CELL_METRES * (np.arange(GRID[1]) + 0.5)
    rows = Z_METRES[1] - CELL_METRES * (np.arange(GRID[0]) + 0.5)
    # The devkit's grid is of single precision, which puts some cells on the other side of a pixel's edge.
    x, z = (side.astype(np.float32).astype(np.float64) for side in np.meshgrid(columns, rows))
    u, v, scale = np.einsum("ij,jhw->ihw", road_to_image(calibration), np.stack([x, z, np.ones_like(x)]))
    ahead = scale > 0
    u, v = (np.divide(side, scale, out=np.zeros_like(side), where=ahead) for side in (u, v))
    height, width = image.shape[:2]
    # The devkit counts pixels from 1 and drops the fraction; rounding would shift us off its ground truth.
    seen = ahead & (u >= 1) & (u <= width) & (v >= 1) & (v <= height)
    view = np.full(GRID + image.shape[2:], outside, image.dtype)
    view[seen] = image[v[seen].astype(int) - 1, u[seen].astype(int) - 1]
    return view


def calibration_path(image: Path) -> Path:
    """Where KITTI keeps a calibration: testing/image_2/um_000000.png -> testing/calib/um_000000.txt."""
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
    _must_make_sense(place, name, matrix, fix)
    return matrix


def _must_make_sense(place: str, name: str, matrix: Array, fix: str) -> None:
    if name.startswith("P"):
        focal = (float(matrix[0, 0]), float(matrix[1, 1]))
        if min(focal) <= 0:
            raise InputError(f"{place}: {name} must have focal lengths above 0, got {focal}; {fix}")
        return
    rotation: Any = matrix[:, :3]
    off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    # KITTI's own rotations are off by less than 1e-6; a digit gone wrong is far more.
    if off > 1e-3 or np.linalg.det(rotation) < 0:
        raise InputError(f"{place}: {name} must be a rotation, got one that is off by {off:.3g}; {fix}")
