"""Scores of exports: as training logged them, at the frames' native resolution, and from above; and submissions."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fcn.cli.scored_frames import config_for
from fcn.config import Config
from fcn.data.readers import open_dataset
from fcn.errors import InputError
from fcn.formats.read import Export, read_export
from fcn.formats.write import Exported
from fcn.kitti.native_resolution import score_at_native_resolution
from fcn.kitti.submission import write_submission
from fcn.model import checkpoint
from fcn.prediction.predictor import Predictor
from tests.fcn.command import Result, fcn

Pixels = npt.NDArray[np.uint8]
Tiny = tuple[Path, Exported]
HEIGHT, WIDTH = 94, 310  # a quarter of KITTI's frames
# Crooked numbers: no cell falls on the edge of a pixel, where a rounding decides.
FOCAL, CENTRE_U, CENTRE_V, CAMERA_METRES = 180.3717, 155.2193, 43.1271, 1.6513

# A level camera: where a point of the road falls can be worked out on paper.
CALIBRATION = f"""P2: {FOCAL} 0 {CENTRE_U} 0 0 {FOCAL} {CENTRE_V} 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
Tr_cam_to_road: 1 0 0 0 0 1 0 {-CAMERA_METRES} 0 0 1 0
"""


def evaluate(export: Path, *arguments: object) -> Result:
    return fcn("evaluate", export, *arguments)


def road_export(classes: tuple[str, ...] = ("background", "road")) -> Export:
    return Export(Path(), classes, (HEIGHT, WIDTH), (0, 0, 0), (1, 1, 1), {}, {}, {}, {}, {}, 1)


def brightness(images_NHWC: Pixels) -> npt.NDArray[np.float32]:
    """Logits whose road probability is the red channel / 255, as far as that is neither 0 nor 1."""
    share = (images_NHWC[..., 0].astype(np.float64) / 255).clip(1e-6, 1 - 1e-6)
    logit = np.log(share / (1 - share))
    return np.stack([np.zeros_like(logit), logit], axis=1).astype(np.float32)


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """KITTI Road's layout: frames whose red says how road-like they are, and labels of a straight road."""
    rng = np.random.default_rng(0)
    for part in (
        "training/image_2",
        "training/gt_image_2",
        "training/calib",
        "testing/image_2",
        "testing/calib",
    ):
        (tmp_path / part).mkdir(parents=True)
    for name in ("um_000000", "um_000011", "umm_000000", "umm_000011", "uu_000000", "uu_000011"):
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        road = (rows > CENTRE_V + 5) & (np.abs(columns - CENTRE_U) < 1.4 * (rows - CENTRE_V))
        valid = columns > 20
        label = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        label[valid, 0] = 255
        label[valid & road, 2] = 255
        frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        frame[..., 0] = np.where(road, rng.integers(60, 256, road.shape), rng.integers(0, 190, road.shape))
        category, number = name.split("_")
        Image.fromarray(frame).save(tmp_path / f"training/image_2/{name}.png")
        Image.fromarray(label).save(tmp_path / f"training/gt_image_2/{category}_road_{number}.png")
        (tmp_path / f"training/calib/{name}.txt").write_text(CALIBRATION)
        Image.fromarray(frame).save(tmp_path / f"testing/image_2/{name}.png")
        (tmp_path / f"testing/calib/{name}.txt").write_text(CALIBRATION)
    return tmp_path


def seen_from_above(plane: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """(800, 400) by the pinhole's two similar triangles; -1 where the image ends."""
    view = np.full((800, 400), -1)
    for row in range(800):
        z = 46 - 0.05 * (row + 0.5)
        v = FOCAL * CAMERA_METRES / z + CENTRE_V
        x = -10 + 0.05 * (np.arange(400) + 0.5)
        u = FOCAL * x / z + CENTRE_U
        inside = (u >= 1) & (u <= plane.shape[1]) & (1 <= v <= plane.shape[0])
        view[row, inside] = plane[int(v) - 1, u[inside].astype(int) - 1]
    return view


def truth(kitti: Path, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Level of road probability and label (1 road, 0 not, 255 void) of a frame, straight from the files."""
    category, number = name.split("_")
    with Image.open(kitti / f"training/image_2/{name}.png") as image:
        level = np.asarray(image)[..., 0].astype(np.int64)
    with Image.open(kitti / f"training/gt_image_2/{category}_road_{number}.png") as image:
        label = np.asarray(image)
    return level, np.where(label[..., 0] > 0, (label[..., 2] > 0).astype(np.int64), 255)


def best_f1(level: npt.NDArray[np.int64], label: npt.NDArray[np.int64]) -> float:
    f1 = []
    for threshold in range(256):
        said = level >= threshold
        hits = int((said & (label == 1)).sum())
        f1.append(2 * hits / (int((said & (label <= 1)).sum()) + int((label == 1).sum())))
    return max(f1)


@pytest.mark.parametrize("from_above", [False, True])
def test_metrics_agree_with_counts_made_frame_by_frame(kitti: Path, from_above: bool) -> None:
    dataset = open_dataset(Config(dataset="kitti_road", data_dir=kitti))
    export = road_export()
    names = [frame.name for frame in dataset.frames]
    planes = [truth(kitti, name) for name in names]
    if from_above:
        planes = [(seen_from_above(level), seen_from_above(label)) for level, label in planes]
        planes = [(level.clip(0), np.where(label == -1, 255, label)) for level, label in planes]
    levels, labels = (np.stack(part) for part in zip(*planes, strict=True))

    found = score_at_native_resolution(
        export,
        Predictor(export, brightness, "overlay"),
        dataset,
        range(len(names)),
        from_above=from_above,
    )

    said, valid = levels > 127, labels != 255
    hits = (said & (labels == 1)).sum()
    assert found["iou_road"] == pytest.approx(hits / ((said & valid) | (labels == 1)).sum(), abs=1e-6)
    assert found["max_f1"] == pytest.approx(best_f1(levels, labels), abs=1e-6)
    for category in ("um", "umm", "uu"):
        chosen = [name.split("_")[0] == category for name in names]
        assert found[f"{category}/max_f1"] == pytest.approx(best_f1(levels[chosen], labels[chosen]), abs=1e-6)


def test_a_perfect_mask_scores_one_in_the_image_and_from_above(kitti: Path) -> None:
    for name in ("um_000000", "um_000011", "umm_000000", "umm_000011", "uu_000000", "uu_000011"):
        _, label = truth(kitti, name)
        frame = np.repeat((label == 1)[..., None] * np.uint8(255), 3, axis=2)
        Image.fromarray(frame).save(kitti / f"training/image_2/{name}.png")
    dataset = open_dataset(Config(dataset="kitti_road", data_dir=kitti))
    export = road_export()

    for from_above in (False, True):
        found = score_at_native_resolution(
            export, Predictor(export, brightness, "overlay"), dataset, [0, 3, 5], from_above=from_above
        )
        assert found["iou_road"] == found["max_f1"] == found["mean_iou"] == 1.0


def test_the_command_gives_the_score_that_training_logged(tiny_checkpoint: Path, tiny_export: Tiny) -> None:
    logged = checkpoint.load(tiny_checkpoint).metrics

    result = evaluate(tiny_export[0], "--split", "val", "--json", "--device", "cpu")

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["metrics"] == pytest.approx(logged, abs=1e-4)
    assert {"export", "data", "dataset", "split", "frames", "view", "image_size", "metrics"} == set(found)
    assert (found["split"], found["view"]) == ("val", "network size")


def test_at_their_native_resolution_drawn_frames_score_the_same(tiny_export: Tiny) -> None:
    # They are drawn at the network's size: only the levels of probability are rounded.
    options = ("--split", "test", "--own-size", "--device", "cpu", "--json")
    there = json.loads(evaluate(tiny_export[0], *options).stdout)["metrics"]

    assert there["test/iou_road"] == pytest.approx(tiny_export[1].test_metrics["test/iou_road"], abs=1e-6)
    assert there["test/max_f1"] == pytest.approx(tiny_export[1].test_metrics["test/max_f1"], abs=5e-3)


def test_the_split_of_the_run_holds_whatever_was_added_since(tiny_export: Tiny) -> None:
    opened = read_export(tiny_export[0])
    grown = config_for(opened, None).model_copy(update={"frames": 60})

    dataset = open_dataset(grown)

    assert dataset.sequences("val") == opened.sequences["val"]
    assert dataset.sequences("test") == opened.sequences["test"]


def test_a_person_reads_a_table_and_is_told_of_another_number_of_frames(tiny_export: Tiny) -> None:
    result = evaluate(tiny_export[0])

    assert result.exit_code == 0
    assert "at the network's 32 x 96 pixels" in result.stdout
    assert "test/iou_road" in result.stdout
    assert result.stderr == ""


def test_drawn_frames_have_no_view_from_above(tiny_export: Tiny) -> None:
    result = evaluate(tiny_export[0], "--bev")

    assert result.exit_code == 2
    assert "error: a bird's-eye view needs calibration files" in result.stderr
    assert "Traceback" not in result.output


def test_every_missing_calibration_is_named_before_anything_is_scored(kitti: Path) -> None:
    for name in ("um_000000", "uu_000011"):
        (kitti / f"training/calib/{name}.txt").unlink()
    dataset = open_dataset(Config(dataset="kitti_road", data_dir=kitti))

    with pytest.raises(InputError, match=r"um_000000\.txt(.|\n)*uu_000011\.txt"):
        score_at_native_resolution(
            road_export(), Predictor(road_export(), never, "overlay"), dataset, range(6), from_above=True
        )


def test_a_submission_is_what_the_server_takes(kitti: Path, tmp_path: Path) -> None:
    export = road_export()

    count = write_submission(export, Predictor(export, brightness, "overlay"), kitti, tmp_path / "submission")

    assert count == 6
    names = sorted(path.name for path in (tmp_path / "submission").iterdir())
    assert names[0] == "um_road_000000.png"
    assert names[-1] == "uu_road_000011.png"
    with Image.open(tmp_path / "submission" / "umm_road_000011.png") as image:
        assert (image.mode, image.size) == ("L", (400, 800))
        view = np.asarray(image)
    level, _ = truth(kitti, "umm_000011")
    assert np.abs(view - seen_from_above(level).clip(0)).max() <= 1


def test_a_submission_is_whole_or_not_there(kitti: Path, tmp_path: Path) -> None:
    export = road_export()
    predictor = Predictor(export, brightness, "overlay")
    damaged = kitti / "testing" / "calib" / "um_000011.txt"
    damaged.write_text(CALIBRATION.replace("R0_rect: 1", "R0_rect: one"))

    with pytest.raises(InputError, match=r"um_000011\.txt, line 2: R0_rect must hold numbers, got 'one'"):
        write_submission(export, predictor, kitti, tmp_path / "submission")
    damaged.write_text(CALIBRATION)
    (kitti / "testing" / "image_2" / "uu_000011.png").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"uu_000011\.png: damaged"):
        write_submission(export, predictor, kitti, tmp_path / "submission")
    (kitti / "testing" / "image_2" / "holiday.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"holiday\.png: must be named as KITTI does"):
        write_submission(export, predictor, kitti, tmp_path / "submission")

    assert not [path for path in tmp_path.iterdir() if "submission" in path.name]


def never(images_NHWC: Pixels) -> npt.NDArray[np.float32]:
    raise AssertionError(f"nothing should be computed, got {images_NHWC.shape}")


def test_every_damaged_frame_is_named_before_anything_is_predicted_for_a_submission(
    kitti: Path, tmp_path: Path
) -> None:
    for name in ("um_000011", "umm_000000", "uu_000011"):
        (kitti / f"testing/image_2/{name}.png").write_bytes(b"cut")
    (kitti / "testing/calib/umm_000000.txt").unlink()

    with pytest.raises(InputError) as caught:
        write_submission(road_export(), Predictor(road_export(), never, "overlay"), kitti, tmp_path / "submission")

    named = [Path(line.split(": ")[0]).name for line in str(caught.value).splitlines()]
    assert named == ["um_000011.png", "umm_000000.png", "umm_000000.txt", "uu_000011.png"]


def test_every_damaged_frame_is_named_where_frames_are_scored_at_their_native_resolution(kitti: Path) -> None:
    for name in ("training/image_2/um_000000.png", "training/gt_image_2/uu_road_000011.png"):
        (kitti / name).write_bytes(b"cut")
    dataset = open_dataset(Config(dataset="kitti_road", data_dir=kitti))

    with pytest.raises(InputError) as caught:
        score_at_native_resolution(road_export(), Predictor(road_export(), never, "overlay"), dataset, range(6))

    named = [Path(line.split(": ")[0]).name for line in str(caught.value).splitlines()]
    assert named == ["um_000000.png", "uu_road_000011.png"]


def test_an_export_of_several_classes_can_not_be_submitted(kitti: Path, tmp_path: Path) -> None:
    export = road_export(("sky", "road", "car"))

    with pytest.raises(InputError, match="a submission is of one class, got an export of 3"):
        write_submission(export, Predictor(export, brightness, "overlay"), kitti, tmp_path / "submission")
