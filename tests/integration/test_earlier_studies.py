"""A study whose first trials come from another study, which is deleted later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.study_process import events, running
from tests.studies import write_study
from tests.waiting import wait_for
from tests.workloads.replay import Config, score
from tests.written_event import event
from tuner.events.state import StudyRecord, load_record
from tuner.search.sampler import Sampler, values_for_sampler
from tuner.spec.study import StudySpec
from tuner.storage.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]


def test_a_study_takes_the_best_of_another_and_keeps_them_when_that_one_is_gone(
    tmp_path: Path, storage: Path, shared_ray: str
) -> None:
    where = ("--storage", storage, "--address", shared_ray, "--tracking-uri", f"sqlite:///{storage / 'mlflow.db'}")
    with running("run", write_study(tmp_path / "old.toml", budget={"trials": 8}), *where) as old:
        assert old.wait() == 0, old.output
    started = [line for line in events(storage / "old") if line["event"] == "start"]
    best = max(started, key=lambda line: line["params"]["x"])  # the score rises with x
    file = write_study(
        tmp_path / "new.toml",
        search={"from_studies": ["old"]},
        budget={"trials": 9},
        scheduler={"name": "none"},
        resources={"max_concurrent_trials": 1},
        fixed={"epochs": 3, "step_seconds": 0.3},
    )
    with running("run", file, *where) as new:
        wait_for(lambda: sum(line["event"] == "end" for line in events(storage / "new")) >= 5)
        new.kill()
        output = "".join(new.lines())
    x = best["params"]["x"]
    assert f"new: a first trial is trial {best['trial']} of old: x {x:.4g}" in output
    shutil.rmtree(storage / "old")
    with running("resume", "new", *where) as new:
        assert new.wait() == 0, new.output
    params = {line["trial"]: line["params"]["x"] for line in events(storage / "new") if line["event"] == "start"}
    assert len(params) == 9
    assert f"first trials from old: trials {best['trial']}" in new.output
    taken = new_firsts(storage)
    assert len(taken) > 1
    assert [params[number] for number in range(1, len(taken) + 1)] == taken
    assert taken[0] == x
    assert {line["params"]["x"] for line in started} >= set(taken)
    assert [params[number] for number in range(1, 10)] == unbroken(load_record(Storage(str(storage)) / "new").spec)
    with running("resume", "new", *where, "--set", "search.from_studies=[]") as new:
        assert new.wait() == 2
    assert "search.from_studies: is read when a study begins" in new.output
    with running("resume", "new", *where, "--set", "taken=[]") as new:
        assert new.wait() == 2
    assert "taken: can't be changed when a study is resumed" in new.output
    with running("run", file, "--or-resume", *where) as new:
        assert new.wait() == 0, new.output
    assert "new has all its 9 trials" in new.output


def unbroken(spec: StudySpec) -> list[float]:
    """What the study proposes, one trial after the other, without a break and without the other study."""
    record = StudyRecord(spec)
    sampler = Sampler(record)
    while not sampler.exhausted:
        proposal = sampler.ask()
        record.apply(event("start", trial=proposal.trial, params=proposal.params))
        config = Config(**spec.fixed, **proposal.params)
        for epoch in range(1, config.epochs + 1):
            metrics = {"score": score(config, epoch)}
            record.apply(event("report", trial=proposal.trial, epoch=epoch, metrics=metrics))
        trial = record.trials[proposal.trial]
        best = {"value": trial.value, "best_epoch": trial.best_epoch}
        record.apply(event("end", 0.0, trial=trial.id, state="finished", reason=None, **best))
        sampler.tell(trial.id, values_for_sampler(trial))
    return [record.trials[number].params["x"] for number in sorted(record.trials)]


def new_firsts(storage: Path) -> list[float]:
    spec = json.loads((storage / "new" / "study.json").read_text())
    return [first["x"] for first in spec["first_trials"]]
