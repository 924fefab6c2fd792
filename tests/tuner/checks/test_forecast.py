"""The forecast of a study: what it rests on, and what it says where something isn't known."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.flaky_proxy import flaky_proxy
from tests.studies import study_spec
from tests.tuner.search.test_pairs import EPOCHS, replayed
from tests.workloads.bucket import bucket_uri
from tests.workloads.replay import Config, Prepared, write_checkpoint
from tests.written_study import Line, back, end, report, run, start, stop, write_study
from tuner.checks.forecast import (
    MOST_TRIALS,
    Earlier,
    checkpoint_size,
    earlier_study,
    forecast,
    full_length,
    study_forecast,
)
from tuner.errors import StudyError
from tuner.events.forecast import Forecast, Range
from tuner.search.schedulers.simulation import Pace
from tuner.spec.study import StudySpec
from tuner.storage.checkpoints import CheckpointSize, Progress, TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage

ALONE = {"x": {"type": "float", "low": 0, "high": 1}}
EVENTS = (run(), start(1, x=0.5), report(1, 1, 0.4), report(1, 2, 0.5), end(1, value=0.5), stop())
"""A trial of two epochs of a second each, which takes a third one to start and end."""


def unstopped(**changes: Any) -> StudySpec:
    return study_spec(**{"scheduler": {"name": "none"}, "fixed": {"epochs": 9}, **changes})


def test_all_that_is_known_without_early_stopping_is_forecast_exactly() -> None:
    earlier = Earlier("pilot", (Pace(60.0),), CheckpointSize(1000, 2000))
    found = forecast(unstopped(), 2, 1.0, earlier)
    assert found.trials == {9: Range(10, 10)}
    assert found.epochs == Range(90, 90)
    assert found.hours == Range(0.75, 0.75)
    assert found.kept_bytes == Range(3000, 3000)
    # Two run, each with two checkpoints to resume from and two best epochs' weights; three ended ones stay.
    assert found.most_bytes == 2 * (2 * 3000 + 2 * 1000) + 3 * 1000
    assert found.notes == ("an epoch takes 60 s, as in study pilot",)


def test_a_workload_may_say_itself_how_large_its_checkpoints_are() -> None:
    @dataclass(frozen=True)
    class Sized(Prepared):
        checkpoint_bytes: tuple[int, int] = (1000, 2000)

    assert checkpoint_size(Prepared()) is None
    earlier = Earlier("pilot", (Pace(60.0),), CheckpointSize(10, 20))
    found = forecast(unstopped(), 2, 1.0, earlier, checkpoint_size(Sized()))
    assert found.kept_bytes == Range(3000, 3000)
    assert not [note for note in forecast(unstopped(), 2, 1.0, None, CheckpointSize(1, 2)).notes if "disk" in note]


def test_a_forecast_is_the_same_each_time_and_survives_the_log() -> None:
    spec = study_spec(budget={"trials": 60}, fixed={"epochs": 27})
    found = forecast(spec, 4, 1.0, epoch_seconds=2.0)
    assert found == forecast(spec, 4, 1.0, epoch_seconds=2.0)
    assert found.epochs.low < found.epochs.high
    assert found.hours is not None
    assert Forecast.from_json(found.to_json()) == found


@pytest.mark.parametrize("key", ["trials", "epochs", "notes"])
def test_a_forecast_of_a_later_version_is_none(key: str) -> None:
    found = forecast(unstopped(), 2, 1.0).to_json()
    assert Forecast.from_json({**found, key: 3}) is None
    assert Forecast.from_json({name: value for name, value in found.items() if name != key}) is None


@pytest.mark.parametrize("sampler", ["random", "gp_curves"])
@pytest.mark.parametrize("scheduler", ["asha", "promotion", "hyperband", "median", "none"])
def test_of_ten_replayed_studies_at_least_seven_come_to_what_is_forecast(sampler: str, scheduler: str) -> None:
    inside = []
    for seed in range(10):
        spec = study_spec(
            search={"sampler": sampler, "seed": seed},
            scheduler={"name": scheduler},
            budget={"trials": 24},
            fixed={"epochs": EPOCHS},
        )
        record = replayed(spec)
        inside.append(forecast(spec, 3, 1.0).epochs.holds(sum(trial.epoch for trial in record.trials.values())))
    assert sum(inside) >= 7, inside


def test_what_is_not_known_is_said() -> None:
    spec = unstopped(budget={"trials": 10, "time_seconds": 60, "stop_when": {"value": 0.9, "device_hours": 1}})
    found = forecast(spec, 2, 1.0)
    assert (found.hours, found.kept_bytes, found.most_bytes) == (None, None, None)
    assert [note.partition(",")[0] for note in found.notes] == [
        "time: unknown",
        "disk: unknown",
        "it may end earlier",
    ]
    assert found.notes[-1].endswith("by budget.time_seconds or budget.stop_when.value or budget.stop_when.device_hours")
    known = forecast(spec, 2, 1.0, epoch_seconds=1.0)
    assert known.notes[-1] == "it may end earlier, by budget.stop_when.value"


def test_the_length_of_a_trial_is_the_configs_epochs_or_the_longest_that_is_sampled() -> None:
    assert full_length(unstopped()) == (9, [])
    assert full_length(unstopped(fixed={})) == (Config().epochs, [])
    sampled = unstopped(fixed={}, space={**ALONE, "epochs": {"type": "choice", "choices": [4, 12, 8]}})
    assert full_length(sampled) == (12, ["epochs is sampled: each trial counts as one of 12"])
    assert "epochs is sampled: each trial counts as one of 12" in forecast(sampled, 1, 1.0).notes


def test_a_workload_without_epochs_has_no_forecast_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"replay\.Config has no field `epochs`"):
        full_length(unstopped(fixed={"epochs": 0}))
    with pytest.raises(StudyError, match="that says how long a trial is"):
        study_forecast(unstopped(fixed={"epochs": 0}), 1, 1.0, Storage(str(tmp_path)), Prepared())


def test_a_study_of_too_many_trials_to_simulate_says_so() -> None:
    with pytest.raises(StudyError, match="no forecast is made for more than 20,000 trials, got 20,001"):
        forecast(unstopped(budget={"trials": MOST_TRIALS + 1}), 1, 1.0)


def test_an_earlier_study_that_trains_alike_says_what_an_epoch_and_a_checkpoint_take(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert earlier_study(unstopped(), storage) is None
    folder = write_study(tmp_path, "pilot", *EVENTS, space=ALONE, fixed={"epochs": 2})
    found = earlier_study(unstopped(), storage)
    assert found == Earlier("pilot", (Pace(1.0, 1.0),), None)
    trial = TrialCheckpoints(trial_folder(folder, 1))
    trial.publish(write_checkpoint(Config(checkpoint_bytes=5000), 2), Progress(2, {}, 0.5, 2))
    found = earlier_study(unstopped(), storage)
    assert found is not None
    assert found.size is not None
    assert 5000 < found.size.weights < 7000
    assert found.size.resume == len('{"epoch": 2}')
    trial.strip(2)
    assert earlier_study(unstopped(), storage) == found, "it is known after the files to resume from are gone, too"


@pytest.mark.parametrize(
    "other",
    [
        {"fixed": {"epochs": 9, "batch_size": 8}},
        {"resources": {"cpus_per_worker": 2}},
        {"space": {**ALONE, "batch_size": {"type": "int", "low": 1, "high": 8}}},
    ],
)
def test_a_study_that_trains_otherwise_says_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    write_study(tmp_path, "pilot", *EVENTS, space=ALONE, fixed={"epochs": 2})
    assert earlier_study(unstopped(**other), Storage(str(tmp_path))) is None


def test_a_study_that_is_to_have_more_trials_says_itself_what_an_epoch_takes(tmp_path: Path) -> None:
    write_study(tmp_path, "pilot", *EVENTS, space=ALONE, fixed={"epochs": 2})
    found = earlier_study(unstopped(name="pilot"), Storage(str(tmp_path)))
    assert found == Earlier("pilot", (Pace(1.0, 1.0),), None)


def test_a_slow_first_start_a_restart_and_replayed_epochs_change_no_pace(tmp_path: Path) -> None:
    def trial(number: int, began: float, start_seconds: float) -> list[Line]:
        first = began + start_seconds
        reports = [report(number, epoch, 0.5) | {"time": first + 10.0 * epoch} for epoch in (1, 2, 3)]
        return [start(number, x=0.5) | {"time": began}, *reports, end(number, value=0.5) | {"time": first + 31.0}]

    restarted = [
        start(4, x=0.5) | {"time": 400.0},
        *(report(4, epoch, 0.5) | {"time": 402.0 + 10 * epoch} for epoch in (1, 2)),
        back(4, 1) | {"time": 430.0},
        start(4, x=0.5) | {"time": 430.0},
        *(report(4, epoch, 0.5) | {"time": 423.0 + 10 * epoch} for epoch in (2, 3)),
        end(4, value=0.5) | {"time": 454.0},
    ]
    lines = [*trial(1, 100.0, 60.0), *trial(2, 200.0, 2.0), *trial(3, 300.0, 2.0), *restarted]
    write_study(tmp_path, "pilot", run() | {"time": 99.0}, *lines, stop() | {"time": 500.0}, space=ALONE, fixed={})
    found = earlier_study(unstopped(), Storage(str(tmp_path)))
    assert found is not None
    assert [pace.epoch_seconds for pace in found.paces] == [10.0] * 4
    assert {pace.startup_seconds for pace in found.paces} == {5.0}, "the median of 61, 3, 3 and 7 seconds a start"


def test_trials_of_one_epoch_count_with_all_that_comes_after_their_start(tmp_path: Path) -> None:
    lines = [run(), start(1, x=0.5), report(1, 1, 0.4), end(1, value=0.4), stop()]
    write_study(tmp_path, "pilot", *lines, space=ALONE, fixed={"epochs": 1})
    found = earlier_study(unstopped(), Storage(str(tmp_path)))
    assert found == Earlier("pilot", (Pace(1.5, 0.5),), None)


def test_damaged_studies_and_those_without_a_trial_are_passed_over(tmp_path: Path) -> None:
    write_study(tmp_path, "empty", run(), stop(), space=ALONE, fixed={"epochs": 2})
    write_study(tmp_path, "broken", *EVENTS, space=ALONE, fixed={"epochs": 2})
    (tmp_path / "broken" / "events.jsonl").write_text('{"event": "run"}\n')
    write_study(tmp_path, "no_json", *EVENTS, space=ALONE, fixed={"epochs": 2})
    (tmp_path / "no_json" / "study.json").write_text("[1]")
    write_study(tmp_path, "no_text", *EVENTS, space=ALONE, fixed={"epochs": 2})
    (tmp_path / "no_text" / "study.json").write_bytes(b"\xff\xfe")
    write_study(tmp_path, "no_number", *EVENTS, space=ALONE, fixed={"epochs": 2})
    events = (tmp_path / "no_number" / "events.jsonl").read_text()
    (tmp_path / "no_number" / "events.jsonl").write_text(events.replace('"score": 0.5', '"score": "0.5"'))
    assert earlier_study(unstopped(), Storage(str(tmp_path))) is None
    write_study(tmp_path, "pilot", *EVENTS, space=ALONE, fixed={"epochs": 2})
    found = earlier_study(unstopped(), Storage(str(tmp_path)))
    assert found is not None
    assert found.name == "pilot"


def test_the_studies_of_a_bucket_are_read_at_a_time(tmp_path: Path, bucket: str) -> None:
    there = Storage(bucket_uri(bucket, tmp_path.name))
    write_study(tmp_path, "pilot", *EVENTS, space=ALONE, fixed={"epochs": 2})
    study = (tmp_path / "pilot" / "study.json").read_text()
    for number in range(31):
        (there / f"empty{number}").write_text("study.json", study)
    for name in ("study.json", "events.jsonl"):
        (there / "pilot").write_text(name, (tmp_path / "pilot" / name).read_text())
    with flaky_proxy(f"http://{bucket}", "slow", lambda _, what: what.endswith("study.json")) as proxy:
        began = time.monotonic()
        found = earlier_study(unstopped(), Storage(bucket_uri(proxy.address.removeprefix("http://"), tmp_path.name)))
        took = time.monotonic() - began
    assert found is not None
    assert found.name == "pilot"
    assert len(proxy.failed) >= 64
    assert took < 0.5 * len(proxy.failed) / 2, "each request takes half a second, and several are under way at a time"


def test_a_forecast_reads_as_sentences() -> None:
    found = forecast(unstopped(), 2, 1.0, Earlier("pilot", (Pace(60.0),), CheckpointSize(1_500_000, 2_000_000)))
    assert found.sentences() == [
        "trials at epoch 9: 10",
        "90 epochs in all",
        "45.0 minutes",
        "4.5 MB of checkpoints at the end, at most 24.5 MB before",
        "an epoch takes 60 s, as in study pilot",
    ]
    several = replace(found, trials={3: Range(60, 60), 9: Range(18, 27)}, epochs=Range(1000, 1234), hours=Range(2, 2.5))
    assert several.sentences()[:3] == [
        "trials at epoch 3: 60; at 9: 18 to 27",
        "1,000 to 1,234 epochs in all",
        "2.0 to 2.5 hours",
    ]
