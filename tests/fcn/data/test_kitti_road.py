"""Is KITTI Road whole? It has 289 labelled and 290 unlabelled frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn import Config
from fcn.cli.app import main
from fcn.data.readers import open_dataset
from fcn.training.run import prepare

# As the set's own readme counts them.
TRAINING = {"um": 95, "umm": 96, "uu": 98}
TESTING = {"um": 96, "umm": 94, "uu": 100}


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """KITTI Road with every frame that was published, each of a few pixels."""
    image = Image.fromarray(np.full((4, 12, 3), 90, np.uint8))
    label = np.zeros((4, 12, 3), np.uint8)
    label[..., 0] = 255
    label[2:, :, 2] = 255
    for part in ("training/image_2", "training/gt_image_2", "testing/image_2"):
        (tmp_path / part).mkdir(parents=True)
    for category, count in TRAINING.items():
        for number in range(count):
            image.save(tmp_path / f"training/image_2/{category}_{number:06d}.png")
            Image.fromarray(label).save(tmp_path / f"training/gt_image_2/{category}_road_{number:06d}.png")
    for category, count in TESTING.items():
        for number in range(count):
            image.save(tmp_path / f"testing/image_2/{category}_{number:06d}.png")
    return tmp_path


def leave_out(kitti: Path, part: str, *names: str) -> None:
    for name in names:
        category, number = name.split("_")
        (kitti / part / "image_2" / f"{name}.png").unlink()
        (kitti / part / "gt_image_2" / f"{category}_road_{number}.png").unlink(missing_ok=True)


def about_missing(warnings: tuple[str, ...]) -> list[str]:
    return [warning for warning in warnings if "frames of KITTI Road" in warning]


def test_the_whole_set_has_no_warning(kitti: Path) -> None:
    dataset = open_dataset(Config(data_dir=kitti))

    assert len(dataset.frames) == 289
    assert about_missing(dataset.warnings) == []


def test_what_is_missing_is_named_and_the_rest_is_read(kitti: Path) -> None:
    leave_out(kitti, "training", "um_000017", "uu_000097")
    leave_out(kitti, "testing", *(f"umm_{number:06d}" for number in range(7)))

    dataset = open_dataset(Config(data_dir=kitti))

    assert len(dataset.frames) == 287
    training, testing = about_missing(dataset.warnings)
    assert "training/image_2 has 287 of the 289 frames of KITTI Road, without um_000017, uu_000097: unpack" in training
    assert "testing/image_2 has 283 of the 290 frames of KITTI Road, without umm_000000, umm_000001" in testing
    assert "umm_000004 and 2 more: unpack" in testing


def test_a_run_and_the_data_command_say_what_is_missing(
    kitti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_out(kitti, "training", "umm_000041")

    assert main(["data", str(kitti), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "288 of the 289 frames of KITTI Road, without umm_000041" in " ".join(capsys.readouterr().out.split())

    config = Config(data_dir=kitti, weights="none", width=1 / 32, fc_width=8, image_size=(16, 32), cache_dir=tmp_path)
    assert len(about_missing(prepare(config).warnings)) == 1


def test_a_folder_of_ones_own_frames_in_kittis_format_is_nothing_to_count(kitti: Path) -> None:
    leave_out(kitti, "training", "um_000017")

    assert about_missing(open_dataset(Config(data_dir=kitti / "training")).warnings) == []
