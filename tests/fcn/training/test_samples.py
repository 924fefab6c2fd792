"""Overlays of chosen images after chosen epochs of a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fcn import Config, InputError
from fcn.data.overlays import overlay
from fcn.model import checkpoint
from fcn.training.run_folder import RunFolder
from fcn.training.samples import Samples, chosen_epochs

Invoke = Callable[[list[str]], tuple[int, str]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of different sizes, one of them in a folder, and a damaged one."""
    folder = tmp_path / "images"
    (folder / "rainy").mkdir(parents=True)
    noise = np.random.default_rng(3)
    for name, size in (("a.png", (40, 100)), ("rainy/b.png", (31, 65))):
        Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:200])
    return folder


@pytest.fixture
def arguments(tiny_checkpoint: Path, tmp_path: Path) -> list[str]:
    return ["--config", str(tiny_checkpoint), "--device", "cpu", "--set=epochs=2", "--set=learning_rate=3e-3"]


def made(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_samples_are_overlays_by_the_network_of_their_epoch_and_training_is_not_changed_by_them(
    invoke: Invoke, arguments: list[str], images: Path, tmp_path: Path
) -> None:
    output, without = tmp_path / "run", tmp_path / "without"
    status, text = invoke(["--output", str(output), *arguments, "--samples", str(images), "--sample-epochs", "1, 2"])
    assert status == 0, text
    assert text.count("warning: ") == 2
    assert text.count("torn.png") == 2
    samples = output / "samples"
    names = ["a.png", "rainy/b.png"]
    assert made(samples) == [f"epoch-{epoch:04d}/{name}" for epoch in (1, 2) for name in names]

    loaded = checkpoint.load(output / "last")
    mean, std = (torch.tensor(values) for values in (loaded.normalisation.mean, loaded.normalisation.std))
    for name in names:
        image = Image.open(images / name)
        height, width = loaded.config.image_size
        small = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
        with torch.no_grad():
            logits = checkpoint.build(loaded)(((torch.from_numpy(small) / 255 - mean) / std).permute(2, 0, 1)[None])
        road = torch.nn.functional.softmax(logits, dim=1)[0, 1].numpy()
        mask = np.asarray(Image.fromarray(road).resize(image.size, Image.Resampling.BILINEAR)) > 0.5
        expected = np.asarray(overlay(np.asarray(image), mask.astype(np.uint8), loaded.classes))
        # A pixel whose probability is one half may fall on either side.
        different = (np.asarray(Image.open(samples / "epoch-0002" / name)) != expected).any(axis=2)
        assert different.mean() < 0.01, name

    status, text = invoke(["--output", str(without), *arguments])
    assert status == 0, text
    ones, others = (load_file(run / "last" / "weights.safetensors") for run in (output, without))
    assert all(torch.equal(tensor, others[name]) for name, tensor in ones.items())


def test_left_to_itself_a_run_samples_its_last_epoch_whichever_that_is(
    invoke: Invoke, arguments: list[str], images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    more = ["--set=epochs=9", "--set=early_stop_epochs=1", "--set=learning_rate=1e-12"]
    status, text = invoke(["--output", str(output), *arguments, *more, "--samples", str(images / "a.png")])
    assert status == 0, text
    assert made(output / "samples") == ["epoch-0002/a.png"]


def test_samples_that_cannot_be_written_do_not_end_the_run(
    invoke: Invoke, arguments: list[str], images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "samples").write_text("a file where the folder would be")
    status, text = invoke(["--output", str(output), *arguments, "--samples", str(images), "--sample-epochs=1"])
    assert status == 0, text
    assert "warning: " in text
    assert "can't be written" in text
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 2


def test_images_and_epochs_that_are_none_are_told_before_the_run(
    invoke: Invoke, arguments: list[str], images: Path, tmp_path: Path
) -> None:
    output = ["--output", str(tmp_path / "run"), *arguments]
    status, text = invoke([*output, "--sample-epochs=1"])
    assert (status, text) == (2, "error: --sample-epochs 1: needs --samples, the images to draw on\n")
    status, text = invoke([*output, "--samples", str(tmp_path / "nowhere"), "--samples", str(images)])
    assert (status, text) == (2, f"error: --samples {tmp_path / 'nowhere'}: there is no such file or folder\n")
    assert not (tmp_path / "run").exists()
    for text, part in (("1,3", "'3'"), ("0", "'0'"), ("1,,2", "''"), ("last", "'last'")):
        with pytest.raises(InputError, match=f"must be epochs from 1 to 2, as in 1,2; got {part}"):
            chosen_epochs(text, 2)
    (tmp_path / "drive.mp4").touch()
    with pytest.raises(InputError, match=r"drive\.mp4: samples are of images, and this is a video"):
        Samples([tmp_path / "drive.mp4"], None, tmp_path / "samples", print)


def test_a_run_has_no_samples_of_epochs_that_it_does_not_have(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder, start = RunFolder(tmp_path), checkpoint.load(tiny_checkpoint)
    mine = ["epoch-0001.png", "mine/epoch-0099/a.png"]
    samples = [f"epoch-{epoch:04d}/a.png" for epoch in (1, start.epoch, start.epoch + 1)]
    for name in (*samples, *mine):
        (folder.samples / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.samples / name).touch()
    folder.open(start, start.config.model_copy(update={"val_fraction": 0.0}))
    assert made(folder.samples) == sorted([*samples[:2], *mine])
    folder.open(None, Config())
    assert made(folder.samples) == sorted(mine)
