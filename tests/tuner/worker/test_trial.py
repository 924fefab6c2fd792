"""One trial in the process that trains it: what it tells, and in what state it leaves its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tuner.worker.trial_runner import TrialRunner
from tests.workloads import replay
from tuner.storage.checkpoints import TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage
from tuner.worker.messages import Decision, End, Message, Paused


def runner_in(folder: Path, *, stop_after: int | None = None) -> TrialRunner:
    return TrialRunner(Storage(str(folder)) / "s", stop_after=stop_after, keep=True)


def scores(epochs: int, **settings: Any) -> list[float]:
    return [replay.score(replay.Config(x=0.5, **settings), epoch) for epoch in range(1, epochs + 1)]


def test_a_trial_tells_each_epoch_and_its_end(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    runner.run(epochs=3)
    assert [(report.epoch, report.metrics["score"]) for report in runner.reports] == [
        (epoch, value) for epoch, value in enumerate(scores(3), start=1)
    ]
    assert runner.end == ("finished", None)
    assert 0 <= (runner.reports[0].startup_seconds or 0) < 10


@pytest.mark.parametrize(("direction", "better"), [("maximize", max), ("minimize", min)])
def test_the_checkpoint_knows_the_best_so_far(tmp_path: Path, direction: str, better: Any) -> None:
    runner = runner_in(tmp_path)
    runner.run(epochs=4, dip_epoch=3, direction=direction)
    newest = TrialCheckpoints(trial_folder(runner.study, 1)).newest()
    assert newest is not None
    assert newest[0].best_value == better(scores(4, dip_epoch=3))


def test_the_best_so_far_is_of_the_epochs_that_keep_the_constraints(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    runner.run(epochs=4, constraints=[{"metric": "loss", "at_least": 0.6}])
    assert scores(4) == [0.25, 0.375, 0.4375, 0.46875], "with losses of 1 less these"
    newest = TrialCheckpoints(trial_folder(runner.study, 1)).newest()
    assert newest is not None
    assert (newest[0].best_value, newest[0].best_epoch) == (0.375, 2)
    assert [path.parent.name[-2:] for path in sorted(tmp_path.rglob("weights.bin"))] == ["02", "04"], "best and newest"


@pytest.mark.parametrize(
    ("fixed", "metric", "said"),
    [
        ({}, "memory", "constraints[1].metric: the workload must report 'memory', but reported epoch, score, loss"),
        ({"fail": "nan_side"}, "loss", "epoch 2: loss must be finite, got nan"),
    ],
)
def test_a_trial_that_does_not_report_what_a_constraint_limits_fails(
    tmp_path: Path, fixed: dict[str, Any], metric: str, said: str
) -> None:
    runner = runner_in(tmp_path)
    runner.run(epochs=4, constraints=[{"metric": metric, "at_most": 1}], **fixed)
    assert runner.end == ("failed", said)


def test_a_trial_of_no_epochs_finishes(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    runner.run(epochs=0)
    assert runner.messages == [End("finished")]


def test_a_resumed_trial_sends_its_last_report_again_then_the_next(tmp_path: Path) -> None:
    first = runner_in(tmp_path, stop_after=2)
    first.run(epochs=5)
    second = runner_in(tmp_path)
    second.run(epochs=5)
    assert [report.epoch for report in second.reports] == [2, 3, 4, 5]
    assert second.reports[0].metrics == first.reports[1].metrics
    # The kill may have come before anyone knew of the images.
    assert second.reports[0].images == first.reports[1].images != ()
    assert [report.resumed for report in second.reports] == [True, False, False, False]
    assert second.reports[0].best == (2, (scores(2)[1],))


@pytest.mark.parametrize("snapshots", [False, True])
def test_a_paused_trial_has_its_checkpoint_in_the_storage_when_it_says_so(tmp_path: Path, snapshots: bool) -> None:
    paused = TrialRunner(Storage(str(tmp_path)) / "s", pause_at=2)
    paused.run(epochs=5, dip_epoch=2, snapshots=snapshots)
    assert [report.epoch for report in paused.reports] == [1, 2]
    assert isinstance(paused.messages[-1], Paused)
    checkpoints = TrialCheckpoints(trial_folder(paused.study, 1))
    newest = checkpoints.newest()
    assert newest is not None
    assert (newest[0].epoch, newest[0].best_epoch) == (2, 1)
    assert checkpoints.has(1), "the best epoch's weights stay too"
    second = runner_in(tmp_path)
    second.run(epochs=5, dip_epoch=2, snapshots=snapshots)
    assert [(report.epoch, report.resumed) for report in second.reports] == [
        (2, True),
        (3, False),
        (4, False),
        (5, False),
    ]
    assert second.end == ("finished", None)


def test_another_rank_pauses_with_the_first_and_writes_nothing(tmp_path: Path) -> None:
    runner = TrialRunner(Storage(str(tmp_path)) / "s", pause_at=2)
    runner.run(epochs=5, rank=1)
    assert isinstance(runner.messages[-1], Paused)
    assert TrialCheckpoints(trial_folder(runner.study, 1)).newest() is None


def test_a_trial_that_is_stopped_says_so_and_why(tmp_path: Path) -> None:
    runner = runner_in(tmp_path, stop_after=1)
    runner.run()
    assert len(runner.reports) == 1
    assert runner.end == ("stopped", "the test stops it")
    assert runner.error_text() == ""


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("raise", "ValueError: x is too small: 0.500"),
        ("nan", "epoch 2: score must be finite, got nan"),
        ("missing", "objective.metric: the workload must report 'score', but reported epoch, loss"),
        ("sys_exit", "SystemExit: 1"),
    ],
)
def test_a_failure_is_reported_in_a_sentence_and_its_traceback_is_kept(tmp_path: Path, fail: str, reason: str) -> None:
    runner = runner_in(tmp_path)
    runner.run(fail=fail)
    assert runner.end == ("failed", reason)
    assert len(runner.reports) == 1
    assert runner.error_text().startswith("Traceback")


def test_a_failure_of_another_rank_is_kept_too(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    runner.run(rank=1, fail="raise")
    assert (runner.end or [""])[0] == "failed"
    assert "x is too small" in runner.error_text()


def test_hyperparameters_that_the_config_refuses_are_reported_by_name(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    runner.run(batch_size=1000)
    assert runner.end == ("failed", "batch_size: Input should be less than or equal to 64, got 1000")


def test_an_undefined_metric_is_left_out(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    runner.run(fail="nan_side")
    assert [sorted(report.metrics) for report in runner.reports] == [
        ["epoch", "loss", "score"],
        ["epoch", "score"],
        ["epoch", "loss", "score"],
    ]
    assert (runner.end or [""])[0] == "finished"


def test_numbers_of_any_type_are_reported_as_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "score", lambda config, epoch: np.float32(0.25 * epoch))
    runner = runner_in(tmp_path)
    runner.run(epochs=2)
    assert {type(value) for report in runner.reports for value in report.metrics.values()} == {float}
    assert (runner.end or [""])[0] == "finished"


def test_only_rank_zero_writes_checkpoints(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    runner.run(rank=1)
    assert TrialCheckpoints(trial_folder(runner.study, 1)).newest() is None
    runner.run(rank=0)
    assert TrialCheckpoints(trial_folder(runner.study, 1)).newest() is not None


def test_a_trial_whose_message_cannot_be_sent_ends_with_that_error(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)

    def gone(message: Message) -> Decision:
        raise ConnectionError("the slot is gone")

    runner.send = gone  # type: ignore[method-assign]
    with pytest.raises(ConnectionError, match="the slot is gone"):
        runner.run()
    assert runner.error_text() == "", "it is not the workload's failure"
