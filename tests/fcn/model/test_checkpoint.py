"""A checkpoint is whole or isn't there, and says what it is."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from fcn.config import Config
from fcn.errors import InputError, TrainingError
from fcn.model import checkpoint
from fcn.model.fcn8s import Architecture, FCN8s
from fcn.model.pretrained import PLAIN
from tests.power_cut import PowerCut

CONFIG = Config(dataset="scenes", weights="none", width=1 / 32, fc_width=8)
CPU = torch.device("cpu")


def model() -> FCN8s:
    return FCN8s(Architecture.of(CONFIG, 2))


def save(directory: Path, network: FCN8s, epoch: int = 3) -> None:
    checkpoint.save(
        directory,
        weights=network.state_dict(),
        config=CONFIG,
        device=CPU,
        epoch=epoch,
        metrics={"val/mean_iou": 0.5},
        classes=("background", "road"),
        normalisation=PLAIN,
        sequences={"train": ("a", "b"), "val": ("c",)},
        trainer_state={"optimizer": {"fc6.weight": {"exp_avg": torch.ones(3)}}, "best_score": float("-inf")},
        images={"frame": Image.new("RGB", (4, 2))},
    )


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    network = model()
    save(tmp_path / "one", network)
    loaded = checkpoint.load(tmp_path / "one")
    assert (loaded.config, loaded.epoch, loaded.metrics) == (CONFIG, 3, {"val/mean_iou": 0.5})
    assert (loaded.classes, loaded.normalisation) == (("background", "road"), PLAIN)
    assert loaded.sequences == {"train": ("a", "b"), "val": ("c",)}
    assert loaded.scored_on["device"] == "cpu"
    built = checkpoint.build(loaded)
    assert not built.training
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    state = checkpoint.load_trainer_state(tmp_path / "one", CPU)
    assert torch.equal(state["optimizer"]["fc6.weight"]["exp_avg"], torch.ones(3))
    with Image.open(tmp_path / "one" / "images" / "frame.png") as image:
        assert image.size == (4, 2)


def test_using_a_checkpoint_needs_no_resume_folder(tmp_path: Path) -> None:
    save(tmp_path / "one", model())
    shutil.rmtree(tmp_path / "one" / "resume")
    checkpoint.build(checkpoint.load(tmp_path / "one"))
    with pytest.raises(InputError, match="can't be resumed"):
        checkpoint.load_trainer_state(tmp_path / "one", CPU)


def test_a_full_disk_leaves_nothing_and_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    network = model()
    needed = 4 * sum(parameter.numel() for parameter in network.parameters()) + 12
    with pytest.raises(TrainingError, match=rf"the disk is full.* needs {needed:,} bytes"):
        save(tmp_path / "one", network)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_a_checkpoint_takes_anothers_place_loses_neither(tmp_path: Path) -> None:
    target = tmp_path / "last"
    save(target, model(), epoch=1)
    # Killed between the two renames.
    target.rename(tmp_path / "last.old")
    checkpoint.recover(target)
    assert checkpoint.load(target).epoch == 1
    save(tmp_path / "new", model(), epoch=2)
    checkpoint.replace(tmp_path / "new", target)
    assert checkpoint.load(target).epoch == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no checkpoint"):
        checkpoint.load(tmp_path)
    save(tmp_path / "one", model())
    description = tmp_path / "one" / "config.json"
    found = json.loads(description.read_text())
    description.write_text(json.dumps(found | {"format_version": 99}))
    with pytest.raises(InputError, match="format_version must be 1, got 99"):
        checkpoint.load(tmp_path / "one")
    description.write_text(description.read_text()[:40])
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        checkpoint.load(tmp_path / "one")
    (tmp_path / "one" / "weights.safetensors").write_bytes(b"torn")
    description.write_text(json.dumps(found))
    with pytest.raises(InputError, match=r"weights\.safetensors can't be read"):
        checkpoint.build(checkpoint.load(tmp_path / "one"))


def test_a_power_cut_at_any_moment_leaves_the_newest_checkpoint_or_the_one_before_whole(tmp_path: Path) -> None:
    networks = [model() for _ in range(3)]
    disk = tmp_path / "disk"
    disk.mkdir()
    cut = PowerCut(disk, tmp_path / "disks")
    with cut.watching():
        for epoch, network in enumerate(networks, start=1):
            save(disk / "new", network, epoch)
            checkpoint.replace(disk / "new", disk / "last")
            cut.promised = epoch
    disks = cut.disks()
    assert len(disks) > 20
    for left in disks:
        target = left.path / "last"
        checkpoint.recover(target)
        if left.promised == 0 and not target.exists():
            continue
        found = checkpoint.load(target)
        assert left.promised <= found.epoch <= left.promised + 1, left
        assert torch.equal(found.weights["fc6.weight"], networks[found.epoch - 1].state_dict()["fc6.weight"])
        checkpoint.load_trainer_state(target, CPU)
