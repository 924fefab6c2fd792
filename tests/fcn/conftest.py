"""A small network trained for seconds on drawn scenes: its checkpoint and its export, made once a session."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from fcn import memory
from fcn.config import Config
from fcn.data.cache import open_cache
from fcn.evaluation.scoring import evaluate
from fcn.formats.write import Exported, export
from fcn.inputs.batches import Batches
from fcn.model import checkpoint, numerics, precision
from fcn.model.fcn8s import build_model
from fcn.model.precision import autocast, set_precision
from fcn.model.pretrained import normalisation

CPU = torch.device("cpu")
STEPS = 40

MakeCheckpoint = Callable[..., Path]
Invoke = Callable[[list[str]], tuple[int, str]]


def _make_checkpoint(directory: Path, **settings: object) -> Path:
    """A checkpoint of a few steps on scenes; settings: more of fcn.Config."""
    config = Config.model_validate(
        {
            "dataset": "scenes",
            "weights": "none",
            "width": 0.0625,
            "fc_width": 16,
            "init": "bilinear",
            "image_size": (32, 96),
            "frames": 24,
            "batch_size": 4,
            "precision": "float32",
            "cache_dir": directory.parent / "cache",
        }
        | settings
    )
    cache = open_cache(config)
    dataset = cache.dataset
    model = build_model(config, len(dataset.classes))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batches = Batches(cache, dataset.splits["train"], config, CPU)
    for epoch in range(STEPS // len(batches)):
        for images_NCHW, target_NHW in batches.epoch(epoch, train=True):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images_NCHW), target_NHW, ignore_index=255)
            torch.autograd.backward(loss)
            optimizer.step()
    model.eval()
    set_precision(model, config, CPU)
    with autocast(config, CPU):
        metrics = evaluate(model, cache, "val", config, CPU, "val/")
    checkpoint.save(
        directory,
        weights=model.state_dict(),
        config=config,
        device=CPU,
        epoch=STEPS // len(batches),
        metrics=metrics,
        classes=dataset.classes,
        normalisation=normalisation(config),
        sequences={split: dataset.sequences(split) for split in dataset.splits},
        trainer_state=None,
        images={},
    )
    return directory


@pytest.fixture(scope="session")
def make_checkpoint() -> MakeCheckpoint:
    """make_checkpoint(directory, **settings of fcn.Config) -> directory"""
    return _make_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Road against the rest, 32x96; its cache lies beside it."""
    return _make_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def tiny_export(tiny_checkpoint: Path) -> tuple[Path, Exported]:
    """The export of tiny_checkpoint, and what export() said of it."""
    directory = tiny_checkpoint.parent / "export"
    return directory, export(tiny_checkpoint, directory, device=CPU)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """python -m fcn train in this process: exit status, and all that it printed."""

    def invoke(arguments: list[str]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fcn", "train", *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_module("fcn", run_name="__main__")
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out + printed.err

    return invoke


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process has learnt of its machine in one test is nothing to the next."""
    monkeypatch.setattr(memory, "fitted", {})
    monkeypatch.setattr(numerics, "known", {})
    monkeypatch.setattr(precision, "shown_before", set())
