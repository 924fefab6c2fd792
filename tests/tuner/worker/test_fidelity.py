"""A trial whose fidelity changes at rungs goes on from a checkpoint, in its process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.worker.trial_runner import TrialRunner
from tests.workloads.replay import Config, score
from tuner.storage.storage import Storage
from tuner.worker.messages import Action, Decision, FidelityChanged, Message

SCHEDULER = {"grace_epochs": 2, "fidelity": {"part": [0.25, 0.5, 1.0], "bonus": [0.5, -0.2, 0.0]}}
BONUS = {1: 0.5, 2: 0.5, 3: -0.2, 4: -0.2, 5: -0.2, 6: -0.2, 7: 0.0, 8: 0.0}


def trained(log: Path) -> list[tuple[int, float]]:
    """(epoch, the share of the data that it saw), in the order trained; all in this process."""
    lines = [line.split() for line in log.read_text().splitlines()]
    assert {line[3] for line in lines} == {str(os.getpid())}
    return [(int(line[1]), float(line[4])) for line in lines]


def truth(last: int) -> list[float]:
    return [score(Config(x=0.5, bonus=BONUS[epoch]), epoch) for epoch in range(1, last + 1)]


PARTS = [(1, 0.25), (2, 0.25), (3, 0.5), (4, 0.5), (5, 0.5), (6, 0.5), (7, 1.0), (8, 1.0)]


@pytest.mark.parametrize("snapshots", [False, True])
def test_each_stretch_trains_with_its_values_and_no_epoch_twice(snapshots: bool, tmp_path: Path) -> None:
    trial = TrialRunner(Storage(str(tmp_path / "study")), keep=True)
    log = tmp_path / "log"
    trial.run(scheduler=SCHEDULER, epochs=8, log=log, snapshots=snapshots)
    assert trial.end == ("finished", None)
    assert trained(log) == PARTS
    assert [report.metrics["score"] for report in trial.reports] == pytest.approx(truth(8))
    assert [report.epoch for report in trial.reports] == list(range(1, 9))
    assert [report.metrics["fidelity/part"] for report in trial.reports] == [part for _, part in PARTS]
    assert [report.metrics["fidelity/stretch"] for report in trial.reports] == [1, 1, 2, 2, 2, 2, 3, 3]
    assert sum(isinstance(message, FidelityChanged) for message in trial.messages) == 2
    # The best of the full fidelity, though epoch 2 was measured better.
    report = json.loads((trial.folder / "epoch-000008" / "report.json").read_text())
    assert (report["best_epoch"], report["best_value"]) == (8, pytest.approx(truth(8)[7]))
    assert json.loads((trial.folder / "epoch-000008" / "config.json").read_text())["part"] == 1.0


@pytest.mark.parametrize("snapshots", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 6, 7])
def test_a_trial_that_was_paused_anywhere_resumes_with_the_values_of_its_next_epoch(
    at: int, snapshots: bool, tmp_path: Path
) -> None:
    study, log = Storage(str(tmp_path / "study")), tmp_path / "log"
    settings: dict[str, Any] = {"scheduler": SCHEDULER, "epochs": 8, "log": log, "snapshots": snapshots}
    TrialRunner(study, pause_at=at).run(**settings)
    assert trained(log) == PARTS[:at]
    again = TrialRunner(study, pause_at=at)
    again.run(**settings)
    assert again.end == ("finished", None)
    assert trained(log) == PARTS
    assert again.reports[0].resumed
    assert [report.epoch for report in again.reports] == list(range(at, 9))


def test_a_trial_that_is_stopped_at_a_rung_does_not_change(tmp_path: Path) -> None:
    trial = TrialRunner(Storage(str(tmp_path / "study")), stop_after=2)
    trial.run(scheduler=SCHEDULER, epochs=8, log=tmp_path / "log")
    assert trial.end == ("stopped", "the test stops it")
    assert trained(tmp_path / "log") == PARTS[:2]


def test_a_trial_whose_attempt_is_over_when_it_changes_trains_no_further(tmp_path: Path) -> None:
    class Superseded(TrialRunner):
        def send(self, message: Message) -> Decision:
            decision = super().send(message)
            return Decision(Action.STOP, "over") if isinstance(message, FidelityChanged) else decision

    trial = Superseded(Storage(str(tmp_path / "study")))
    trial.run(scheduler=SCHEDULER, epochs=8, log=tmp_path / "log")
    assert trial.end == ("stopped", "over")
    assert trained(tmp_path / "log") == PARTS[:2]


def test_a_trial_that_fails_after_a_change_says_why(tmp_path: Path) -> None:
    trial = TrialRunner(Storage(str(tmp_path / "study")))
    trial.run(scheduler=SCHEDULER, epochs=8, fail="raise", fail_epoch=4)
    assert trial.end == ("failed", "ValueError: x is too small: 0.500")
    assert len(trial.reports) == 3


def test_images_are_reported_once(tmp_path: Path) -> None:
    for snapshots in (False, True):
        trial = TrialRunner(Storage(str(tmp_path / str(snapshots))), keep=True)
        trial.run(scheduler=SCHEDULER, epochs=8, snapshots=snapshots)
        changed = [message for message in trial.messages if isinstance(message, FidelityChanged)]
        images = [*trial.images, *(path for message in changed for path in message.images)]
        assert len(images) == len(set(images))
        assert "images/epoch-000008/frame_a.png" in images


def test_a_workload_that_trains_past_a_change_or_hands_over_no_checkpoint_fails_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.workloads import replay

    def every_three(config: Config, *, report: Any, **_: Any) -> None:
        del config
        report({"epoch": 3.0, "score": 0.5}, None)

    monkeypatch.setattr(replay, "train", every_three)
    trial = TrialRunner(Storage(str(tmp_path / "one")))
    trial.run(scheduler=SCHEDULER, epochs=8)
    assert trial.end is not None
    assert "it changes after epoch 2, which the workload must report, but it reported epoch 3" in str(trial.end[1])

    def without_checkpoints(config: Config, *, report: Any, **_: Any) -> None:
        del config
        for epoch in range(1, 9):
            report({"epoch": float(epoch), "score": 0.5}, None)

    monkeypatch.setattr(replay, "train", without_checkpoints)
    trial = TrialRunner(Storage(str(tmp_path / "two")))
    trial.run(scheduler=SCHEDULER, epochs=8)
    assert trial.end is not None
    assert "it changes after epoch 2, and the workload must hand over a checkpoint" in str(trial.end[1])
