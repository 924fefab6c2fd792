"""One study that is stopped by Ctrl-C, then killed, then given more trials: it ends as if nothing had broken it."""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.study_process import (
    StudyProcess,
    curves,
    events,
    mlflow_curve,
    mlflow_runs,
    new_storage,
    running,
    show,
    truth,
    tuner,
)
from tests.studies import write_study
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's database library
]

XS = [0.9, 0.1, 0.5, 0.7, 0.3, 0.8]
EPOCHS = 5


@dataclass(frozen=True)
class Break:
    """How a run of the study was broken, and what it left."""

    study: Path
    """The study's folder, in which other runs follow."""
    process: StudyProcess
    status: int
    seconds: float
    """From the signal to the end of its process."""
    left_behind: list[str]
    events: list[dict[str, Any]]
    state: str
    """As `show` has it."""
    mlflow: set[str]
    """Statuses of its runs."""
    commands: list[str]
    """Of the processes that it had started."""
    niceness: set[int]
    """Theirs."""


def broken(arguments: tuple[str | Path, ...], study: Path, signal: str) -> Break:
    """Run the study until a trial more has ended and others are under way, and end its process."""

    def ended() -> int:
        return sum(event["event"] == "end" for event in events(study))

    before = ended()
    with running(*arguments) as process:
        wait_for(lambda: ended() > before and events(study)[-1]["event"] in ("report", "images"))
        running_then = [started for started in process.tree() if started.is_running()]
        commands = [" ".join(started.cmdline()) for started in running_then]
        niceness = {started.nice() for started in running_then}
        began = time.monotonic()
        if signal == "SIGINT":
            process.interrupt()
            status = process.wait()
        else:
            process.kill()
            status = process.process.returncode
        seconds = time.monotonic() - began
        left = process.left_behind()
    storage, name = study.parent, study.name
    statuses = {run.info.status for run in mlflow_runs(storage, name).values()}
    state = show(storage, name)["state"]
    return Break(study, process, status, seconds, left, events(study), state, statuses, commands, niceness)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Break:
    """The study's first run, which a Ctrl-C stops."""
    folder = tmp_path_factory.mktemp("broken")
    storage = new_storage(folder, database)
    file = write_study(
        folder / "broken.toml",
        budget={"trials": len(XS) - 1},
        scheduler={"name": "none"},
        checkpoints={"keep": 2},
        fixed={"epochs": EPOCHS, "step_seconds": 0.3, "log": folder / "log"},
        first_trials=[{"x": x} for x in XS],
        resources={"max_concurrent_trials": 2},
    )
    return broken(("run", file, "--storage", storage), storage / "broken", "SIGINT")


@pytest.fixture(scope="module")
def killed(stopped: Break) -> Break:
    """Its second run, whose process is killed."""
    return broken(("resume", "broken", "--storage", stopped.study.parent), stopped.study, "SIGKILL")


@pytest.fixture(scope="module")
def finished(killed: Break) -> Path:
    """Its third run, to the end of a larger budget."""
    larger = f"budget.trials={len(XS)}"
    tuner("resume", "broken", "--storage", killed.study.parent, "--set", larger)
    return killed.study


def test_ctrl_c_ends_a_study_in_order_and_says_how_to_resume_it(stopped: Break) -> None:
    assert stopped.status == 130, stopped.process.output
    assert stopped.seconds < 40  # seconds where nothing else runs
    assert stopped.left_behind == []
    assert "python -m tuner resume broken" in stopped.process.output
    assert "Traceback" not in stopped.process.output
    assert stopped.events[-1]["state"] == stopped.state == "interrupted"
    assert "RUNNING" not in stopped.mlflow


def test_a_study_s_own_ray_has_no_process_for_dashboards_autoscalers_and_logs(stopped: Break) -> None:
    assert any("/raylet " in command for command in stopped.commands)
    for unused in ("dashboard.py", "monitor.py"):  # Ray's log_monitor.py too
        assert not [command for command in stopped.commands if unused in command]


def test_trials_have_the_priority_that_the_study_was_started_with(stopped: Break) -> None:
    assert stopped.niceness == {psutil.Process().nice()}


def test_a_killed_study_leaves_no_process_and_is_interrupted(killed: Break) -> None:
    assert killed.left_behind == []
    assert killed.state == "interrupted"


def test_resumed_trials_have_the_curves_of_an_unbroken_study(finished: Path) -> None:
    trials = show(finished.parent, finished.name)["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * len(XS)
    assert curves(finished) == {number: truth(x, EPOCHS) for number, x in enumerate(XS, start=1)}


def test_only_what_was_under_way_at_a_break_is_run_again(finished: Path) -> None:
    kinds = collections.Counter(event["event"] for event in events(finished))
    assert kinds["start"] <= len(XS) + 2 * 2, "at most two were under way at each break"
    assert kinds["end"] == len(XS), "none ended twice"
    # An epoch whose checkpoint is there is never trained again, be it journaled or not.
    log = finished.parents[1] / "log"
    trained = collections.Counter(tuple(line.split()[:2]) for line in log.read_text().splitlines())
    assert sum(count - 1 for count in trained.values()) <= 4, trained


def test_mlflow_has_one_run_of_each_trial_with_its_whole_curve(finished: Path) -> None:
    runs = mlflow_runs(finished.parent, finished.name)
    assert set(runs) == {"study", *map(str, range(1, len(XS) + 1))}
    for number, x in enumerate(XS, start=1):
        run = runs[str(number)]
        assert mlflow_curve(finished.parent, run) == truth(x, EPOCHS)
        assert (run.info.status, run.data.params["x"]) == ("FINISHED", str(x))


def test_the_best_checkpoints_stay_and_nothing_to_resume_from(finished: Path) -> None:
    kept = {int(checkpoint.parent.name) for checkpoint in (finished / "trials").glob("*/epoch-*")}
    assert kept == {number for number, x in enumerate(XS, start=1) if x >= 0.8}
    assert not list(finished.rglob("resume"))
