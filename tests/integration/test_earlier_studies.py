"""A study whose first trials come from another study, which is deleted later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.study_process import events, running
from tests.studies import write_study
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_study_takes_the_best_of_another_and_keeps_them_when_that_one_is_gone(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    where = ("--storage", storage, "--address", shared_ray, "--tracking-uri", f"sqlite:///{storage / 'mlflow.db'}")
    with running("run", write_study(tmp_path / "old.toml", budget={"trials": 8}), *where) as old:
        assert old.wait() == 0, old.output
    started = [event for event in events(storage / "old") if event["event"] == "start"]
    best = max(started, key=lambda event: event["params"]["x"])  # the score rises with x
    file = write_study(
        tmp_path / "new.toml",
        search={"from_studies": ["old"]},
        budget={"trials": 9},
        resources={"max_concurrent_trials": 1},
        fixed={"epochs": 3, "step_seconds": 0.3},
    )
    with running("run", file, *where) as new:
        wait_for(lambda: any(event["event"] == "report" for event in events(storage / "new")))
        new.tree()
        new.interrupt()
        assert new.wait() == 130, new.output
    x = best["params"]["x"]
    assert f"new: a first trial is trial {best['trial']} of old: x {x:.4g}" in new.output
    shutil.rmtree(storage / "old")
    with running("resume", "new", *where) as new:
        assert new.wait() == 0, new.output
    params = {event["trial"]: event["params"]["x"] for event in events(storage / "new") if event["event"] == "start"}
    assert len(params) == 9
    assert f"first trials from old: trials {best['trial']}" in new.output
    taken = new_firsts(storage)
    assert len(taken) > 1
    assert [params[number] for number in range(1, len(taken) + 1)] == taken
    assert taken[0] == x
    assert {event["params"]["x"] for event in started} >= set(taken)
    with running("resume", "new", *where, "--set", "search.from_studies=[]") as new:
        assert new.wait() == 2
    assert "search.from_studies: is read when a study begins" in new.output
    with running("resume", "new", *where, "--set", "taken=[]") as new:
        assert new.wait() == 2
    assert "taken: can't be changed when a study is resumed" in new.output
    with running("run", file, "--or-resume", *where) as new:
        assert new.wait() == 0, new.output
    assert "new has all its 9 trials" in new.output


def new_firsts(storage: Path) -> list[float]:
    spec = json.loads((storage / "new" / "study.json").read_text())
    return [first["x"] for first in spec["first_trials"]]
