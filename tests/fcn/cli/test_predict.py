"""Images, folders and videos through python -m fcn predict, with an export of the real kind."""

import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fcn.errors import InputError
from fcn.formats.read import Export
from fcn.formats.write import Exported
from fcn.prediction.predictor import Predictor, class_mask, probability
from fcn.prediction.video import VideoReader, VideoWriter
from tests.fcn.command import Result, fcn

Pixels = npt.NDArray[np.uint8]
Tiny = tuple[Path, Exported]


def predict(export: Path, *arguments: object) -> Result:
    return fcn("predict", export, *arguments)


def save(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Pixels:
    """An image of noise, width x height; its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def read(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image)


def export_of(classes: tuple[str, ...], size: tuple[int, int]) -> Export:
    """An export whose network the test plays itself."""
    return Export(Path(), classes, size, (0, 0, 0), (1, 1, 1), {}, {}, {}, {}, {}, 1)


def bright_is_road(images_NHWC: Pixels) -> npt.NDArray[np.float32]:
    """Certain wherever a pixel is bright."""
    bright = images_NHWC.mean(axis=3) > 127
    return np.stack([np.where(bright, -9, 9), np.where(bright, 9, -9)], axis=1).astype(np.float32)


def test_an_overlay_is_green_where_the_network_sees_road_and_nowhere_else() -> None:
    frame = np.full((20, 30, 3), 40, np.uint8)
    frame[10:] = 200

    (image,) = Predictor(export_of(("background", "road"), (20, 30)), bright_is_road, "overlay").render_all([frame])

    assert np.asarray(image)[5, 5].tolist() == [40, 40, 40]
    assert np.asarray(image)[15, 5].tolist() == pytest.approx([100, 227, 100], abs=1)


def test_frames_of_several_sizes_share_a_batch_and_keep_their_sizes() -> None:
    seen = []

    def network(images_NHWC: Pixels) -> npt.NDArray[np.float32]:
        seen.append(images_NHWC.shape)
        return bright_is_road(images_NHWC)

    frames = [np.full((height, width, 3), 200, np.uint8) for height, width in ((20, 30), (41, 29), (8, 90))]
    images = Predictor(export_of(("background", "road"), (20, 30)), network, "mask").render_all(frames)

    assert seen == [(3, 20, 30, 3)]
    assert [image.size for image in images] == [(30, 20), (29, 41), (90, 8)]
    assert all(np.asarray(image).min() == 1 for image in images)


def test_probabilities_are_the_softmax_and_masks_its_largest() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (5, 6, 7)).astype(np.float32)
    expected = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(axis=0)

    for channel in range(5):
        assert probability(logits, channel, (6, 7)) == pytest.approx(expected[channel], abs=1e-6)
    assert np.array_equal(class_mask(logits, (6, 7)), logits.argmax(axis=0))
    two = logits[:2]
    expected = np.exp(two.astype(float)) / np.exp(two.astype(float)).sum(axis=0)
    assert probability(two, 1, (6, 7)) == pytest.approx(expected[1], abs=1e-6)
    assert np.array_equal(class_mask(two, (6, 7)), two.argmax(axis=0))


def test_files_and_folders_give_an_image_of_the_same_name_and_size_each(tiny_export: Tiny, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", (40, 30))
    save(tmp_path / "in" / "deep" / "b.jpg", (64, 21))
    save(tmp_path / "single.png", (33, 50))

    result = predict(tiny_export[0], tmp_path / "in", tmp_path / "single.png", "--output", tmp_path / "out")

    assert result.exit_code == 0, result.output
    sizes = {str(p.relative_to(tmp_path / "out")): read(p).shape for p in (tmp_path / "out").rglob("*.png")}
    assert sizes == {"a.png": (30, 40, 3), "deep/b.png": (21, 64, 3), "single.png": (50, 33, 3)}
    assert "3 images in" in result.output
    assert "images/s" in result.output


def test_the_formats_and_kinds_agree(tiny_export: Tiny, tmp_path: Path) -> None:
    save(tmp_path / "a.png")

    for kind, format in (("mask", "safetensors"), ("mask", "onnx"), ("probability", "safetensors")):
        out = tmp_path / f"{kind}-{format}"
        result = predict(tiny_export[0], tmp_path / "a.png", "--output", out, "--kind", kind, "--format", format)
        assert result.exit_code == 0, result.output
    mask = read(tmp_path / "mask-safetensors" / "a.png")
    share = read(tmp_path / "probability-safetensors" / "a.png")

    assert mask.dtype == share.dtype == np.uint8
    assert set(np.unique(mask)) <= {0, 1}
    assert np.array_equal(mask, read(tmp_path / "mask-onnx" / "a.png"))
    # Rounded to 255 levels, a probability of just over a half is 128 or 127.
    assert np.array_equal(mask[share != 127], (share > 127)[share != 127])


def test_a_damaged_file_is_named_and_skipped_and_the_exit_status_says_so(tiny_export: Tiny, tmp_path: Path) -> None:
    save(tmp_path / "in" / "good.png")
    whole = (tmp_path / "in" / "good.png").read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "text.jpg").write_text("no image")

    result = predict(tiny_export[0], tmp_path / "in", tmp_path / "nowhere.png", "--output", tmp_path / "out")

    assert result.exit_code == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]
    for name in ("cut.png", "text.jpg", "nowhere.png"):
        assert name in result.stderr
    assert "3 failed" in result.stdout


def test_long_odd_and_unreadable_files_never_end_the_rest(tiny_export: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(folder / f"{'x' * 246}.png", seed=1)
    save(folder / f"{'x' * 245}a.jpg", seed=2)
    save(folder / os.fsdecode(b"stra\xdfe.png"), seed=3)
    save(folder / "z last.png", seed=4)
    (folder / os.fsdecode(b"a cut \xff.png")).write_bytes(b"\x89PNG")
    save(folder / "deep" / "taken.png")
    (tmp_path / "out" / "deep" / "taken.png" / "by a folder").mkdir(parents=True)
    write_video(folder / f"{'v' * 250}.mp4", (64, 32), 2)

    result = predict(tiny_export[0], folder, "--output", tmp_path / "out", "--batch-size", 2)

    assert result.exit_code == 1
    # Neither file can be done: one isn't whole, and a folder has the other's place.
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {folder}/a cut \\xff.png: damaged")
    assert second.startswith(f"error: {tmp_path}/out/deep/taken.png: can't be written")
    written = sorted((path for path in (tmp_path / "out").iterdir() if path.is_file()), key=lambda path: path.name)
    assert len(written) == 5
    assert all(len(os.fsencode(path.name)) <= 255 for path in written)
    assert written[-1].name == "z last.png"
    assert not list((tmp_path / "out").rglob(".*"))
    assert "2 failed" in result.stdout


def test_files_of_other_kinds_are_noted_and_an_animation_is_refused(tiny_export: Tiny, tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "still.gif")
    frames = [Image.new("L", (40, 30), level) for level in (0, 99)]
    frames[0].save(tmp_path / "in" / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "in" / "phone.heic").write_bytes(b"HEIC")

    result = predict(tiny_export[0], tmp_path / "in", "--output", tmp_path / "out")

    assert result.exit_code == 1
    error, note = result.stderr.splitlines()
    assert error.startswith(f"error: {tmp_path}/in/moving.gif: must hold one image, got 2")
    assert note.startswith(f"note: {tmp_path}/in (")
    assert note.endswith("1 file is of another kind and left out: phone.heic")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "still.png"]


def test_nothing_to_do_ends_with_status_two(tiny_export: Tiny, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"")

    nothing = predict(tiny_export[0], tmp_path / "empty", tmp_path / "bad.png", "--output", tmp_path / "out")
    no_export = predict(tmp_path / "empty", tmp_path / "bad.png", "--output", tmp_path / "out")

    assert (nothing.exit_code, no_export.exit_code) == (2, 2)
    assert "empty: a folder must hold images or videos, got none" in nothing.stderr
    assert "is no export" in no_export.stderr


def test_an_output_among_the_inputs_is_refused(tiny_export: Tiny, tmp_path: Path) -> None:
    before = save(tmp_path / "in" / "a.png")

    folder = predict(tiny_export[0], tmp_path / "in", "--output", tmp_path / "in")
    file = predict(tiny_export[0], tmp_path / "in" / "a.png", "--output", tmp_path / "in")

    assert (folder.exit_code, file.exit_code) == (2, 2)
    assert "must not be a folder of inputs" in folder.stderr
    assert "would overwrite the input" in file.stderr
    assert np.array_equal(read(tmp_path / "in" / "a.png"), before)


def test_an_export_of_several_classes_needs_the_class_of_a_probability() -> None:
    several = export_of(("sky", "road", "car"), (20, 30))

    with pytest.raises(InputError, match=r"--kind probability needs --class .* one of sky, road, car"):
        Predictor(several, bright_is_road, "probability")
    with pytest.raises(InputError, match="--class road: chooses the class of --kind probability, got mask"):
        Predictor(several, bright_is_road, "mask", "road")
    with pytest.raises(InputError, match="--class must be one of sky, road, car, got tree"):
        Predictor(several, bright_is_road, "probability", "tree")


def write_video(path: Path, size: tuple[int, int], frames: int) -> list[Pixels]:
    """Frames in which a bright block walks to the right; their pixels before coding."""
    written = []
    with VideoWriter(path, Fraction(10)) as writer:
        for number in range(frames):
            frame = np.full((size[1], size[0], 3), 30, np.uint8)
            frame[:, 4 * number : 4 * number + 16] = 220
            writer.write(frame)
            written.append(frame)
    return written


def test_a_video_comes_back_frame_by_frame(tmp_path: Path) -> None:
    frames = write_video(tmp_path / "a.mp4", (65, 33), 12)  # odd sides

    with VideoReader(tmp_path / "a.mp4") as reader:
        back = list(reader)
        assert reader.rate == 10

    assert len(back) == 12
    for expected, found in zip(frames, back, strict=True):
        assert found.shape == (33, 65, 3)
        assert np.abs(found.astype(int) - expected).mean() < 4


# ISO/IEC 14496-12, 8.3.2: (x, y) of what is stored is displayed at (a x + c y, b x + d y), y downwards.
UNTURNED, ONE = (1, 0, 0, 1), 1 << 16
TURNS = {(0, 1, -1, 0): "top", (-1, 0, 0, -1): "right", (0, -1, 1, 0): "bottom"}  # and where the left side comes to


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    return struct.pack(">9i", a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize("turn", TURNS)
def test_a_phones_video_is_read_as_it_is_displayed(tmp_path: Path, turn: tuple[int, int, int, int]) -> None:
    write_video(tmp_path / "a.mp4", (64, 32), 1)  # bright at the left
    content = (tmp_path / "a.mp4").read_bytes()
    track = content.index(b"tkhd")
    place = content.index(matrix(*UNTURNED), track)
    (tmp_path / "a.mp4").write_bytes(content[:place] + matrix(*turn) + content[place + 36 :])

    with VideoReader(tmp_path / "a.mp4") as reader:
        (frame,) = reader

    side = TURNS[turn]
    assert frame.shape == ((32, 64, 3) if side == "right" else (64, 32, 3))
    edges = {"top": frame[:8], "bottom": frame[-8:], "left": frame[:, :8], "right": frame[:, -8:]}
    assert [name for name, edge in edges.items() if edge.mean() > 180] == [side]


def test_a_video_becomes_a_video_of_overlays_or_a_folder_of_masks(tiny_export: Tiny, tmp_path: Path) -> None:
    write_video(tmp_path / "drive.mp4", (64, 32), 11)

    overlays = predict(tiny_export[0], tmp_path / "drive.mp4", "--output", tmp_path / "out", "--batch-size", 4)
    masks = predict(tiny_export[0], tmp_path / "drive.mp4", "--output", tmp_path / "masks", "--kind", "mask")

    assert (overlays.exit_code, masks.exit_code) == (0, 0), overlays.output + masks.output
    with VideoReader(tmp_path / "out" / "drive.mp4") as reader:
        assert [frame.shape for frame in reader] == [(32, 64, 3)] * 11
    names = sorted(path.name for path in (tmp_path / "masks" / "drive").iterdir())
    assert names == [f"{number:06d}.png" for number in range(1, 12)]
    assert read(tmp_path / "masks" / "drive" / "000001.png").shape == (32, 64)
    assert "11 images in" in overlays.output


def test_videos_that_cannot_be_read_are_named_and_leave_nothing(tiny_export: Tiny, tmp_path: Path) -> None:
    videos = tmp_path / "in"
    videos.mkdir()
    write_video(videos / "cut.mp4", (64, 32), 20)
    (videos / "cut.mp4").write_bytes((videos / "cut.mp4").read_bytes()[:1500])
    with av.open(str(videos / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with av.open(str(videos / "still.mkv"), "w") as container:
        empty = container.add_stream("mpeg4", rate=10)
        empty.width, empty.height = 64, 32
        container.start_encoding()

    result = predict(tiny_export[0], videos, "--output", tmp_path / "out")

    assert result.exit_code == 2
    assert "cut.mp4: damaged" in result.stderr
    assert "sound.mp4: must hold a video stream, got none" in result.stderr
    assert "still.mkv: a video must have frames, got none" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


# pydantic itself comes with typer.
TRAINING = ("fcn.config", "fcn.data.cache", "fcn.training", "torchvision", "matplotlib", "filelock", "onnx", "av")
BLOCKED = """
import runpy, sys
for name in {blocked}:
    sys.modules[name] = None  # importing it now fails
def no_pickle(event, arguments):
    if event == "pickle.find_class":
        raise RuntimeError(f"unpickled {{arguments}}")
sys.addaudithook(no_pickle)
sys.argv = {argv}
runpy.run_module("fcn", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("format", "blocked"),
    [
        ("safetensors", ("onnxruntime",)),
        ("onnx", ("torch", "safetensors")),
    ],
)
def test_an_export_runs_without_what_training_needs_and_without_unpickling(
    tiny_export: Tiny, tmp_path: Path, format: str, blocked: tuple[str, ...]
) -> None:
    save(tmp_path / "a.png")
    argv = ["fcn", "predict", str(tiny_export[0]), str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    script = BLOCKED.format(blocked=blocked + TRAINING, argv=[*argv, "--format", format])

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=150)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "out" / "a.png").is_file()
