"""A study whose storage is a bucket."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flaky_proxy import Way, flaky_proxy
from tests.integration.study_process import ROOT, running
from tests.studies import write_study
from tests.waiting import wait_for
from tests.workloads.bucket import bucket_uri
from tests.workloads.replay import Config, score
from tuner.events.state import StudyRecord, load_record
from tuner.storage.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_study_in_a_bucket_is_stopped_gone_on_with_and_exported(
    tmp_path: Path, storage: Path, bucket: str, shared_ray: str
) -> None:
    file = write_study(
        tmp_path / "far.toml",
        budget={"trials": 3},
        scheduler={"name": "none"},
        fixed={"epochs": 4, "step_seconds": 0.3},
    )
    uri = bucket_uri(bucket, tmp_path.name)
    study = Storage(uri) / "far"
    options = ("--storage", uri, "--tracking-uri", f"sqlite:///{storage / 'mlflow.db'}", "--address", shared_ray)

    def record() -> StudyRecord | None:
        return load_record(study) if study.read_text("study.json") else None

    with running("run", file, *options) as process:
        wait_for(lambda: (now := record()) and any(trial.epoch for trial in now.trials.values()))
        process.tree()
        process.interrupt()
        assert process.wait() == 130, process.output
        assert process.left_behind() == []
    stopped = record()
    assert stopped is not None
    assert stopped.state == "interrupted"
    with running("resume", "far", *options) as process:
        assert process.wait() == 0, process.output
    found = load_record(study)
    assert [trial.state for trial in found.trials.values()] == ["finished"] * 3
    for trial in found.trials.values():
        config = Config(x=trial.params["x"], epochs=4)
        assert trial.curve == [(epoch, score(config, epoch)) for epoch in range(1, 5)]

    command = [sys.executable, "-m", "tuner.best", "--storage", uri, "--output", str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)
    assert best["rescored"] == best["value"] == max(trial.value or 0 for trial in found.trials.values())


@pytest.mark.parametrize(
    "way", ["500", "cut", *(pytest.param(way, marks=pytest.mark.long) for way in ("drop", "slow"))]
)
def test_a_study_in_a_bucket_that_fails_at_a_tenth_of_the_requests_loses_nothing(
    tmp_path: Path, storage: Path, bucket: str, shared_ray: str, way: Way
) -> None:
    file = write_study(tmp_path / "far.toml", budget={"trials": 2}, scheduler={"name": "none"}, fixed={"epochs": 4})
    with flaky_proxy(f"http://{bucket}", way, lambda number, _: number % 10 == 0) as proxy:
        uri = bucket_uri(proxy.address.removeprefix("http://"), f"{tmp_path.name}-{way}")
        tracking = f"sqlite:///{storage / 'mlflow.db'}"
        with running("run", file, "--storage", uri, "--tracking-uri", tracking, "--address", shared_ray) as process:
            assert process.wait() == 0, process.output
    assert proxy.failed, "the bucket has failed"
    found = load_record(Storage(bucket_uri(bucket, f"{tmp_path.name}-{way}")) / "far")
    assert [trial.state for trial in found.trials.values()] == ["finished"] * 2, process.output
    for trial in found.trials.values():
        config = Config(x=trial.params["x"], epochs=4)
        assert trial.curve == [(epoch, score(config, epoch)) for epoch in range(1, 5)]
