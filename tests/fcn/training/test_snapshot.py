"""A snapshot's copy is the run as it was, however far training has gone on since."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fcn
from fcn.config import Config
from fcn.data.cache import open_cache
from fcn.data.overlays import side_by_side
from fcn.evaluation.scoring import predicted_classes
from fcn.inputs.batches import Batches
from fcn.model import checkpoint
from fcn.training import run as training
from fcn.training.snapshot import SnapshotCopy

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        dataset="scenes",
        weights="none",
        width=1 / 16,
        fc_width=16,
        init="bilinear",
        image_size=(32, 64),
        frames=15,
        batch_size=4,
        epochs=2,
        precision="float32",
        cache_dir=tmp_path / "cache",
    )


no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])])
def test_a_copy_that_is_written_after_another_epoch_is_the_run_as_it_was(
    config: Config, tmp_path: Path, device: str
) -> None:
    copies: list[SnapshotCopy] = []

    def report(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert snapshot is not None
        copies.append(snapshot.copy(resume=True))
        if metrics["epoch"] == 1:
            snapshot.copy(resume=True).write(tmp_path / "at once")

    fcn.train(config, report=report, device=torch.device(device))
    copies[0].write(tmp_path / "later")
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("at once", "later"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [checkpoint.load_trainer_state(tmp_path / name, CPU) for name in ("at once", "later")]
    for name, moments in states[0]["optimizer"].items():
        assert all(torch.equal(value, states[1]["optimizer"][name][part]) for part, value in moments.items()), name
    assert checkpoint.load(tmp_path / "later").epoch == 1
    copies[1].write(tmp_path / "second")
    assert not torch.equal(one["fc6.weight"], load_file(tmp_path / "second" / "weights.safetensors")["fc6.weight"])


def test_a_copy_without_what_going_on_needs_is_a_checkpoint_without_it(config: Config, tmp_path: Path) -> None:
    def report(_: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert snapshot is not None
        snapshot.copy(resume=False).write(tmp_path / "best")
        raise SystemExit

    with pytest.raises(SystemExit):
        fcn.train(config, report=report, device=CPU)
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == [
        "config.json", "images", "weights.safetensors"
    ]  # fmt: skip


def test_its_images_show_what_the_network_predicted_in_validation(config: Config, tmp_path: Path) -> None:
    def report(_: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert snapshot is not None
        snapshot.copy(resume=False).write(tmp_path / "whole")
        (tmp_path / "images").mkdir()
        snapshot.copy(resume=False).write_images(tmp_path / "images")
        raise SystemExit

    with pytest.raises(SystemExit):
        fcn.train(config.model_copy(update={"masks": 2}), report=report, device=CPU)
    cache = open_cache(config)
    frames = cache.dataset.splits["val"]
    model = checkpoint.build(checkpoint.load(tmp_path / "whole"))
    batches = Batches(cache, frames, config, CPU).epoch(0, train=False)
    with torch.no_grad():
        predicted = torch.cat([predicted_classes(model(images_NCHW)) for images_NCHW, _ in batches]).numpy()
    by_name = {cache.dataset.frames[index].name.replace("/", "_"): place for place, index in enumerate(frames)}
    images = sorted((tmp_path / "images").glob("*.png"))
    assert len(images) == 2
    for image in images:
        place = by_name[image.stem]
        index = frames[place]
        expected = side_by_side(cache.images[index], predicted[place], cache.labels[index], cache.dataset.classes)
        with Image.open(image) as found:
            assert np.array_equal(np.asarray(found), np.asarray(expected))
        assert (tmp_path / "whole" / "images" / image.name).read_bytes() == image.read_bytes()


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_frames_that_are_shown_are_of_the_first_ranks_share(
    config: Config, monkeypatch: pytest.MonkeyPatch, world_size: int, batch_size: int
) -> None:
    config = config.model_copy(update={"batch_size": batch_size, "frames": 60})
    cache = open_cache(config)
    monkeypatch.setattr(training, "world_size", lambda: world_size)
    shown = training.shown_positions(cache, config)
    share = {
        position for position in range(len(cache.dataset.splits["val"])) if position % batch_size % world_size == 0
    }
    assert 1 <= len(shown) <= config.masks
    assert shown <= share


@pytest.mark.parametrize("changes", [{"optimizer": "adam"}, {"optimizer": "sgd"}, {"freeze": "pool4"}])
def test_prepare_says_how_large_a_checkpoint_will_be(config: Config, tmp_path: Path, changes: dict[str, str]) -> None:
    config = Config(**{**config.model_dump(), "epochs": 1, **changes})

    def report(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
        assert snapshot is not None
        snapshot.copy(resume=True).write(tmp_path / "it")

    prepared = fcn.prepare(config)
    fcn.train(config, report=report, device=CPU)
    weights = load_file(tmp_path / "it" / "weights.safetensors")
    state = checkpoint.load_trainer_state(tmp_path / "it", CPU)["optimizer"]
    moments = [part for parts in state.values() for part in parts.values() if part.dim()]
    assert prepared.checkpoint_bytes == (
        sum(tensor.nbytes for tensor in weights.values()),
        sum(tensor.nbytes for tensor in moments),
    )
