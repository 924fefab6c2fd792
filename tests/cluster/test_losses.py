"""What a study on hosts survives: a worker drained, cut off, lost, or late; its process, its head or all killed."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
import yaml

from tests.cluster.conftest import ROOT, OnPrem, wait_for
from tests.cluster.hosts import Host, Network
from tests.studies import write_study

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.hosts, pytest.mark.long, pytest.mark.timeout(1800)]

MLFLOW = "http://127.0.0.1:5000"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
EPOCHS = 12
DESTRUCTIONS = 3
WITH_TOKEN = ["env", "RAY_AUTH_MODE=token"]


class Study:
    """A study of the person at the laptop, whose trials train for a few seconds each."""

    def __init__(self, on_prem: OnPrem, folder: Path, monkeypatch: pytest.MonkeyPatch):
        project = folder / "project"
        shutil.copytree(ROOT / "tuner", project / "tuner", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests" / "workloads", project / "tests" / "workloads")
        monkeypatch.chdir(project)
        self._on_prem, self.trials = on_prem, 10
        self.name = f"lost-{uuid.uuid4().hex[:8]}"
        self._file = write_study(
            project / f"{self.name}.toml",
            budget={"trials": self.trials},
            scheduler={"name": "none"},
            fixed={"epochs": EPOCHS, "step_seconds": 1.0},
        )

    def submit(self) -> None:
        """Start it, or resume it."""
        at: list[str | Path] = ["--cluster", self._on_prem.file, "--storage", self._on_prem.storage]
        self._on_prem.tuner("submit", self._file, *at, "--tracking-uri", MLFLOW)

    def count(self, kind: str) -> int:
        return sum(event["event"] == kind for event in self._on_prem.events(self.name))

    def hosts(self) -> set[str]:
        """The hosts on which its trials have begun."""
        return {event["nodes"][0].split()[0] for event in self._on_prem.events(self.name) if event["event"] == "begin"}

    def both_train(self) -> bool:
        """Whether there are reports of two trials at least."""
        found = {event["trial"] for event in self._on_prem.events(self.name) if event["event"] == "report"}
        return len(found) > 1

    def status(self) -> str:
        return self._on_prem.tuner("status", self.name, "--cluster", self._on_prem.file)

    def logs(self) -> str:
        return self._on_prem.tuner("logs", self.name, "--cluster", self._on_prem.file)

    def check_whole(self) -> None:
        """Wait for its end. Each of its trials has then ended, once, and none was run again; MLflow has each once."""
        wait_for(lambda: len(self._on_prem.ended(self.name)) == self.trials, 900, lambda: (self.status(), self.logs()))
        wait_for(lambda: "succeeded" in self.status(), 300, self.status)
        events = self._on_prem.events(self.name)
        assert self._on_prem.ended(self.name) == ["finished"] * self.trials, self.logs()
        ended: set[int] = set()
        for event in events:
            if event["event"] == "start":
                assert event["trial"] not in ended, "an ended trial was run again"
            if event["event"] == "end":
                ended.add(event["trial"])
        reports = [event for event in events if event["event"] == "report"]
        first = Counter((event["trial"], event["epoch"]) for event in reports if not event.get("again"))
        assert (set(first.values()), len(first)) == ({1}, EPOCHS * self.trials), "a report was lost, or is there twice"
        assert sorted(self._runs()) == sorted(["study", *map(str, range(1, self.trials + 1))])
        wait_for(self._nothing_is_left, 180, self._on_prem.cpus)

    def _runs(self) -> list[str]:
        """The tag of each of its runs that says which trial it is, from the head's MLflow."""
        found = json.loads(self._mlflow("experiments/get-by-name", f"?experiment_name={self.name}"))
        asked = json.dumps({"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 1000})
        runs = json.loads(self._mlflow("runs/search", "", "--json", asked))["runs"]
        tags = [{tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs]
        return [each["tuner.trial"] for each in tags]

    def _mlflow(self, what: str, query: str, *options: str) -> str:
        return self._on_prem.head.run("curl", "--silent", f"{MLFLOW}/api/2.0/mlflow/{what}{query}", *options)

    def _nothing_is_left(self) -> bool:
        """Whether every CPU is free."""
        found = self._on_prem.cpus()
        return found is not None and found[0] == found[1]


@pytest.fixture
def study(on_prem: OnPrem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    return Study(on_prem, tmp_path, monkeypatch)


def node_id(on_prem: OnPrem, host: Host) -> str:
    script = (
        "import ray, sys; ray.init(address='auto', log_to_driver=False, logging_level='ERROR'); "
        "print('id', next(n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerAddress'] == sys.argv[1]))"
    )
    said = on_prem.head.run(*WITH_TOKEN, sys.executable, "-c", script, host.address)
    return next(line.split()[1] for line in said.splitlines() if line.startswith("id "))


def drain(on_prem: OnPrem, host: Host) -> None:
    """The command that docs/cluster.md has for it."""
    node = ["--address", f"{on_prem.head.address}:6379", "--node-id", node_id(on_prem, host)]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "maintenance"]
    on_prem.head.run(*WITH_TOKEN, *RAY, "drain-node", *node, *why, "--deadline-remaining-seconds", "300")


def wait_for_notice(host: Host, notice: Path) -> None:
    """What cluster.yaml has every worker of AWS do. notice: the file by which the machine's metadata server knows."""
    port = "8169"
    program = f"setsid {sys.executable} -m tests.metadata_server {port} {notice} >/dev/null 2>&1 </dev/null &"
    host.run("env", "-C", ROOT, "bash", "-c", program)
    host.run("curl", "--silent", "--retry", "20", "--retry-delay", "1", "--retry-connrefused", f"127.0.0.1:{port}")
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    *_, command = config["worker_start_ray_commands"]
    host.run("env", f"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:{port}", "bash", "-c", command)


def test_trials_of_a_host_that_is_drained_or_taken_away_move_and_one_that_joins_late_takes_trials(
    on_prem: OnPrem, hosts: Network, study: Study, tmp_path: Path
) -> None:
    late = hosts.add()
    taken, notice = on_prem.workers[1], tmp_path / "notice"
    wait_for_notice(taken, notice)
    study.submit()
    wait_for(study.both_train, 300, study.logs)
    going = on_prem.workers[0]
    drain(on_prem, going)
    wait_for(lambda: study.count("lost") == 1, 120, study.logs)
    assert study.count("back") == 0, "nothing was trained twice"
    going.lose()
    on_prem.workers[0] = late
    on_prem.join(late)
    wait_for(lambda: late.name in study.hosts(), 300, study.logs)
    notice.write_text((datetime.now(UTC) + timedelta(seconds=120)).strftime("%Y-%m-%dT%H:%M:%SZ"))
    wait_for(lambda: study.count("lost") == 2, 120, lambda: (study.logs(), taken.run("bash", "-c", "cat ~/spot.log")))
    taken.lose()
    on_prem.workers[1] = hosts.add()
    on_prem.join(on_prem.workers[1])
    study.check_whole()
    assert study.count("back") == 0, "nothing was trained twice"
    for host in (going, taken):
        assert f"node {host.name} ({host.address}) will be gone in " in study.logs()


def test_a_lost_host_is_named_and_its_trials_start_again_elsewhere(
    on_prem: OnPrem, hosts: Network, study: Study
) -> None:
    study.submit()
    wait_for(study.both_train, 300, study.logs)
    gone = on_prem.workers[1]
    gone.lose()
    wait_for(lambda: study.count("lost") == 1, 180, study.logs)
    on_prem.workers[1] = hosts.add()
    on_prem.join(on_prem.workers[1])
    study.check_whole()
    assert f"node {gone.name} ({gone.address}) was lost, where trial " in study.logs()


def kill(host: Host, which: Callable[[str], bool]) -> None:
    for process in host.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended, and may be a zombie
            if which(" ".join(process.cmdline())):
                process.kill()


def test_a_study_whose_process_was_killed_goes_on_by_the_same_command(on_prem: OnPrem, study: Study) -> None:
    study.submit()
    wait_for(study.both_train, 300, study.logs)
    kill(on_prem.head, lambda command: " -m tuner run" in command)
    wait_for(lambda: "failed" in study.status(), 180, study.status)
    study.submit()
    study.check_whole()


def test_a_study_goes_on_by_the_same_command_when_the_head_was_lost_and_is_up_again(
    on_prem: OnPrem, study: Study
) -> None:
    study.submit()
    wait_for(study.both_train, 300, study.logs)
    kill(on_prem.head, lambda command: True)
    on_prem.up()
    study.submit()
    study.check_whole()


def test_a_cable_that_is_out_for_20_seconds_delays_a_study_and_no_more(on_prem: OnPrem, study: Study) -> None:
    study.submit()
    wait_for(study.both_train, 300, study.logs)
    on_prem.workers[0].cut()
    time.sleep(20)
    on_prem.workers[0].mend()
    study.check_whole()
    assert study.count("lost") == study.count("back") == 0, study.logs()


def test_a_host_whose_cable_is_out_for_two_minutes_is_lost_and_takes_trials_when_it_has_joined_again(
    on_prem: OnPrem, study: Study
) -> None:
    study.submit()
    wait_for(study.both_train, 300, study.logs)
    gone = on_prem.workers[0]
    gone.cut()
    time.sleep(120)
    assert f"node {gone.name} ({gone.address}) was lost, where trial " in study.logs()
    gone.mend()
    on_prem.join(gone)
    study.check_whole()


def test_a_cluster_that_is_destroyed_again_and_again_finishes_its_study(on_prem: OnPrem, study: Study) -> None:
    moments = random.Random(0)
    for _ in range(DESTRUCTIONS):
        study.submit()
        time.sleep(moments.uniform(0, 40))
        for host in (on_prem.head, *on_prem.workers):
            kill(host, lambda command: True)
        on_prem.up()
    study.submit()
    study.check_whole()
