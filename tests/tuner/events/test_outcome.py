"""A study's forecast beside what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.workloads.replay import Config, write_checkpoint
from tests.written_study import ROADS, Line, run, stop, write_study
from tuner.events.forecast import Forecast, Range
from tuner.events.outcome import Comparison, compare
from tuner.events.state import load_record
from tuner.storage.checkpoints import Progress, TrialCheckpoints, trial_folder

FORECAST = Forecast({1: Range(4, 4), 2: Range(3, 5)}, Range(1, 4), Range(0.001, 0.01), Range(1000, 2000), 5000.0)


def with_forecast(forecast: Forecast = FORECAST, number: int = 1) -> Line:
    return {**run(number), "forecast": forecast.to_json()}


def compared(storage: Path, *lines: Line, **changes: Any) -> dict[str, Comparison]:
    folder = write_study(storage, "roads", *lines, **changes)
    return {row.key: row for row in compare(load_record(folder), folder)}


def test_each_number_stands_beside_what_the_study_came_to(tmp_path: Path) -> None:
    # Of the four trials of ROADS one failed before its first epoch, two came to the second.
    found = compared(tmp_path, with_forecast(), *ROADS[1:], stop())
    assert [(row.name, row.forecast, row.outcome, row.verdict) for row in found.values()] == [
        ("trials at epoch 1", "4", "3", "less"),
        ("trials at epoch 2", "3 to 5", "2", "less"),
        ("epochs in all", "1 to 4", "5", "more"),
        ("time", "3.6 to 36.0 seconds", "15.0 seconds", "as forecast"),
        ("checkpoints at the end", "1.0 to 2.0 KB", "0.0 KB", "less"),
    ]


def test_the_checkpoints_are_those_that_were_kept(tmp_path: Path) -> None:
    folder = write_study(tmp_path, "roads", with_forecast(), *ROADS[1:], stop())
    for trial, epoch in ((1, 2), (2, 2), (4, 1)):
        checkpoint = write_checkpoint(Config(checkpoint_bytes=7_000), epoch)
        TrialCheckpoints(trial_folder(folder, trial)).publish(checkpoint, Progress(epoch, {}, 0.1, epoch))
    row = compare(load_record(folder), folder)[-1]
    # Of the trials that can win, 1 and 2; with each 7,000 bytes of weights, an image and its config.
    assert 14 < float(row.outcome.removesuffix(" KB")) < 18


def test_what_was_not_forecast_is_unknown(tmp_path: Path) -> None:
    found = compared(tmp_path, with_forecast(Forecast({9: Range(1, 2)}, Range(9, 18))), *ROADS[1:], stop())
    assert (found["time"].forecast, found["time"].verdict) == ("unknown", "")
    assert "checkpoints" not in found


def test_a_study_that_is_under_way_has_not_less_than_its_forecast_yet(tmp_path: Path) -> None:
    found = compared(tmp_path, with_forecast(), *ROADS[1:])
    assert (found["trials_at_epoch_2"].outcome, found["trials_at_epoch_2"].verdict) == ("2", "")
    assert found["epochs"].verdict == "more"


@pytest.mark.parametrize("forecast", [None, {"trials": "of a later version"}])
def test_a_study_without_a_forecast_that_can_be_read_compares_nothing(tmp_path: Path, forecast: Any) -> None:
    assert not compared(tmp_path, {**run(), **({"forecast": forecast} if forecast else {})}, *ROADS[1:], stop())


def test_the_newest_forecast_counts_and_a_resume_without_one_keeps_it(tmp_path: Path) -> None:
    larger = Forecast({2: Range(20, 30)}, Range(40, 60))
    lines = [with_forecast(), *ROADS[1:], stop("interrupted"), with_forecast(larger, 2), stop("interrupted"), run(3)]
    found = compared(tmp_path, *lines, stop())
    assert (found["trials_at_epoch_2"].forecast, found["epochs"].forecast) == ("20 to 30", "40 to 60")


def test_time_is_that_of_the_runs_without_the_breaks_between_them(tmp_path: Path) -> None:
    first = [with_forecast(), *ROADS[1:4], {**stop("interrupted"), "time": 1_790_000_010.0}]
    second = [{**run(2), "time": 1_790_005_000.0}, {**stop(), "time": 1_790_005_004.0}]
    assert compared(tmp_path, *first, *second)["time"].outcome == "14.0 seconds"
    # One that was killed has no last event: it counts up to its last one, three seconds after its first.
    assert compared(tmp_path, *first[:-1], *second)["time"].outcome == "7.0 seconds"
    assert compared(tmp_path, *first[:-1])["time"].outcome == "3.0 seconds"
