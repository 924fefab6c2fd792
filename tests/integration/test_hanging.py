"""Trials that really hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.study_process import curves, events, show, tuner
from tests.studies import write_study
from tests.workloads.replay import Config, score

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]


def test_a_hung_trial_is_restarted_once_and_then_fails_while_the_others_continue(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    settings = [("hang_once", 0.9), ("hang", 0.5), ("none", 0.3)]
    file = write_study(
        tmp_path / "hangs.toml",
        budget={"trials": len(settings)},
        scheduler={"name": "none"},
        space={"fail": {"type": "choice", "choices": ["none", "hang", "hang_once"]}},
        first_trials=[{"fail": fail, "x": x} for fail, x in settings],
        fixed={"epochs": 3, "log": tmp_path / "log"},
        failures={"no_report_seconds": 8, "max_retries": 0},
        resources={"max_concurrent_trials": 2},
    )
    study = tuner("run", file, "--storage", storage, "--address", shared_ray)
    assert "reported nothing for 8 s (failures.no_report_seconds): its process is killed" in study.output
    found = show(storage, "hangs")["trials"]
    assert [trial["state"] for trial in found] == ["finished", "failed", "finished"], study.output
    assert found[1]["reason"] == "it reported nothing for 8 s (failures.no_report_seconds), for the second time"
    starts = [event["trial"] for event in events(storage / "hangs") if event["event"] == "start"]
    assert [starts.count(number) for number in (1, 2, 3)] == [2, 2, 1]
    for number in (1, 3):
        config = Config(x=settings[number - 1][1], epochs=3)
        assert curves(storage / "hangs")[number] == [(epoch, score(config, epoch)) for epoch in (1, 2, 3)]
