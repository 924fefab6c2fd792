"""`run --or-resume` given repeatedly, as a job scheduler does: starts, resumes, or says that all trials are done."""

from pathlib import Path

import pytest

from tests.integration.study_process import events, running, tuner
from tests.studies import write_study
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


def test_one_command_starts_a_study_resumes_it_and_then_says_that_it_is_done(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    study = write_study(
        tmp_path / "street.toml", budget={"trials": 3}, search={"seed": 1}, fixed={"epochs": 3, "step_seconds": 0.1}
    )
    command: list[str | Path] = ["run", study, "--or-resume", "--storage", storage, "--address", shared_ray]
    with running(*command) as first:
        wait_for(lambda: any(event["event"] == "report" for event in events(storage / "street")))
        first.kill()
    tuner(*command)
    ended = [event["trial"] for event in events(storage / "street") if event["event"] == "end"]
    assert sorted(ended) == [1, 2, 3]

    assert "has all its 3 trials" in tuner(*command).output

    # The budget may grow; another space is another study.
    tuner(*command, "--set", "budget.trials=4")
    assert sum(event["event"] == "end" for event in events(storage / "street")) == 4
    refused = tuner(*command, "--set", "space.x.high=2", status=2)
    assert "error: space: must be the same as when the study street" in refused.output
    refused = tuner(*command, "--set", "first_trials=[{x = 0.5}]", status=2)
    assert "error: first_trials: must be the same as when the study street" in refused.output
    tuner(*command, "--set", "budget.trials=5", "--set", "checkpoints.keep=1")
    kept = {path.parent.name for path in (storage / "street").glob("trials/*/epoch-*")}
    assert len(kept) == 1
