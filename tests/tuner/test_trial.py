"""One trial in the process that trains it: what it tells, and in what state it leaves its folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.workloads import replay
from tuner.assignment import Answer, Assignment
from tuner.checkpoints import TrialCheckpoints, trial_folder
from tuner.storage import Storage
from tuner.study import StudySpec
from tuner.trial import run_trial


class Tune:
    """Hears what a trial posts and tells; may end it after some reports. keep: whether its weights would stay."""

    def __init__(self, folder: Path, stop_after: int | None = None, *, keep: bool = True):
        self.study = Storage(str(folder)) / "s"
        self.reports: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.stop_after, self.keep = stop_after, keep

    def post(self, report: dict[str, Any]) -> Answer:
        self.reports.append(report)
        return Answer(ask_tune=True, keep=self.keep)

    def tell(self, event: dict[str, Any]) -> None:
        self.told.append(event)
        if "end" not in event and len(self.told) == self.stop_after:
            raise SystemExit

    @property
    def end(self) -> Any:
        return self.told[-1].get("end")

    def run(self, *, rank: int = 0, direction: str = "maximize", **settings: Any) -> None:
        spec = StudySpec.model_validate(
            {
                "name": "s",
                "workload": "tests.workloads.replay",
                "objective": {"metric": "score", "direction": direction},
                "budget": {"trials": 1},
                "fixed": settings,
                "space": {"x": {"type": "float", "low": 0, "high": 1}},
            }
        )
        assignment = Assignment(1, {"x": 0.5}, time.time())
        run_trial(assignment, spec, self.study, device=None, rank=rank, post=self.post, tell=self.tell)

    def error_text(self) -> str:
        return trial_folder(self.study, 1).read_text("error.txt") or ""


def scores(epochs: int, **settings: Any) -> list[float]:
    return [replay.score(replay.Config(x=0.5, **settings), epoch) for epoch in range(1, epochs + 1)]


def test_a_trial_tells_each_epoch_and_its_end(tmp_path: Path) -> None:
    tune = Tune(tmp_path)
    tune.run(epochs=3)
    assert [(event["epoch"], event["report"]["metrics"]["score"]) for event in tune.reports] == [
        (epoch, value) for epoch, value in enumerate(scores(3), start=1)
    ]
    assert tune.end == {"state": "finished", "reason": None}
    assert 0 <= tune.reports[0]["report"]["startup_seconds"] < 10


@pytest.mark.parametrize(("direction", "better"), [("maximize", max), ("minimize", min)])
def test_the_scheduler_sees_the_best_so_far(tmp_path: Path, direction: str, better: Any) -> None:
    tune = Tune(tmp_path)
    tune.run(epochs=4, dip_epoch=3, direction=direction)
    values = scores(4, dip_epoch=3)
    assert [event["best"] for event in tune.told[:-1]] == [better(values[:n]) for n in range(1, 5)]


def test_a_trial_of_no_epochs_finishes(tmp_path: Path) -> None:
    tune = Tune(tmp_path)
    tune.run(epochs=0)
    assert [event.get("end") for event in tune.told] == [{"state": "finished", "reason": None}]


def test_a_trial_that_goes_on_tells_its_last_report_again_then_the_next(tmp_path: Path) -> None:
    first = Tune(tmp_path, stop_after=2)
    with pytest.raises(SystemExit):
        first.run(epochs=5)
    second = Tune(tmp_path)
    second.run(epochs=5)
    assert [event["epoch"] for event in second.reports] == [2, 3, 4, 5]
    assert second.reports[0]["report"]["metrics"] == first.reports[1]["report"]["metrics"]
    # The kill may have come before anyone heard of the pictures.
    assert second.reports[0]["images"] == first.reports[1]["images"] != []
    assert [report["told_before"] for report in second.reports] == [True, False, False, False]
    assert [event["best"] for event in second.told[:-1]] == scores(5)[1:]


def test_an_early_stop_is_no_failure(tmp_path: Path) -> None:
    tune = Tune(tmp_path, stop_after=1)
    with pytest.raises(SystemExit):
        tune.run()
    assert len(tune.told) == 1
    assert tune.error_text() == ""


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ("raise", "ValueError: x is too small: 0.500"),
        ("nan", "epoch 2: score must be finite, got nan"),
        ("missing", "objective.metric: the workload must report 'score', but reported epoch, loss"),
        ("sys_exit", "SystemExit: 1"),
    ],
)
def test_a_failure_is_told_in_a_sentence_and_kept_in_full(tmp_path: Path, fail: str, reason: str) -> None:
    tune = Tune(tmp_path)
    tune.run(fail=fail)
    assert tune.end == {"state": "failed", "reason": reason}
    assert len(tune.reports) == 1
    assert tune.error_text().startswith("Traceback")


def test_a_failure_of_another_rank_is_kept_too(tmp_path: Path) -> None:
    tune = Tune(tmp_path)
    tune.run(rank=1, fail="raise")
    assert tune.end["state"] == "failed"
    assert "x is too small" in tune.error_text()


def test_a_setting_that_the_config_refuses_is_told_by_its_name(tmp_path: Path) -> None:
    tune = Tune(tmp_path)
    tune.run(batch_size=1000)
    assert tune.end["reason"] == "batch_size: Input should be less than or equal to 64, got 1000"


def test_a_measure_that_is_undefined_is_left_out(tmp_path: Path) -> None:
    tune = Tune(tmp_path)
    tune.run(fail="nan_side")
    assert [sorted(event["report"]["metrics"]) for event in tune.reports] == [
        ["epoch", "loss", "score"],
        ["epoch", "score"],
        ["epoch", "loss", "score"],
    ]
    assert tune.end["state"] == "finished"


def test_numbers_of_any_kind_are_told_as_plain_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "score", lambda config, epoch: np.float32(0.25 * epoch))
    tune = Tune(tmp_path)
    tune.run(epochs=2)
    assert {type(value) for event in tune.reports for value in event["report"]["metrics"].values()} == {float}
    assert type(tune.told[0]["best"]) is float
    assert tune.end["state"] == "finished"


def test_only_rank_zero_writes_checkpoints(tmp_path: Path) -> None:
    tune = Tune(tmp_path)
    tune.run(rank=1)
    assert TrialCheckpoints(trial_folder(tune.study, 1)).newest() is None
    tune.run(rank=0)
    assert TrialCheckpoints(trial_folder(tune.study, 1)).newest() is not None


def test_a_study_that_can_not_be_told_ends_the_trial_with_that(tmp_path: Path) -> None:
    tune = Tune(tmp_path)

    def gone(event: dict[str, Any]) -> None:
        raise ConnectionError("the slot is gone")

    tune.tell = gone  # type: ignore[method-assign]
    with pytest.raises(ConnectionError, match="the slot is gone"):
        tune.run()
    assert tune.error_text() == "", "it is not the workload's failure"
