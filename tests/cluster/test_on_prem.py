"""Machines of one's own, as deploy/on_prem.yaml describes them: `ray up`, a person's commands, losses, strangers."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.conftest import ROOT, OnPrem, wait_for
from tests.cluster.hosts import Host, Network
from tests.studies import write_study
from tests.workloads.replay import Config, score

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.hosts, pytest.mark.timeout(900)]
# Each host has a /dev/shm of its own.
LOG = Path("/dev/shm/trials.log")
MLFLOW = "http://127.0.0.1:5000"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's folder, in which the commands are given."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "tuner", folder / "tuner", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "workloads", folder / "tests" / "workloads")
    monkeypatch.chdir(folder)
    return folder


def study_file(project: Path, name: str, trials: int, epochs: int, workers: int = 1) -> Path:
    return write_study(
        project / f"{name}.toml",
        budget={"trials": trials},
        resources={"workers": workers},
        scheduler={"name": "none"},
        fixed={"epochs": epochs, "step_seconds": 0.5, "log": LOG, "collective": workers > 1},
    )


def trained_on(host: Host) -> int:
    """How many epochs."""
    return len(host.run("bash", "-c", f"cat {LOG} 2>/dev/null || true").splitlines())


def kill_all(host: Host) -> None:
    """Every process on it, as when it is switched off."""
    for process in host.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_nobody_gets_in_without_the_token_or_reaches_what_the_head_serves(
    on_prem: OnPrem, hosts: Network, project: Path
) -> None:
    stranger = hosts.add()
    # From another host: the dashboard, with its job API, and MLflow listen on the head's loopback alone.
    for port in (8265, 5000):
        url = f"http://{on_prem.head.address}:{port}/"
        assert "exit 7" in stranger.run("bash", "-c", f"curl --silent {url}; echo exit $?"), "connection refused"
    # From the head itself, where other people may have an account.
    jobs = "http://127.0.0.1:8265/api/jobs/"
    status = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    assert on_prem.head.run(*status, jobs) == "401"
    post = ["--header", "Content-Type: application/json", "--data", '{"entrypoint": "touch /tmp/x"}']
    assert on_prem.head.run(*status, *post, jobs) == "401"
    assert on_prem.head.run(*status, "--header", "Authorization: Bearer guessed", jobs) == "403"
    # Ray's own port is open to the network, for the workers.
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "tuner",
        "run",
        study_file(project, "strange", trials=1, epochs=1),
    ]
    address: list[str | Path] = ["--address", f"{on_prem.head.address}:6379", "--storage", project / "studies"]
    client = [sys.executable, "-c", f"import ray; ray.init('ray://{on_prem.head.address}:10001'); print('got in')"]
    for token in ([], ["RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN=guessed"]):
        assert "got in" not in stranger.run("env", *token, *client, check=False)
        said = stranger.run("bash", "-c", '"$@"; echo exit $?', "-", "env", *token, *command, *address)
        assert "exit 2" in said
        assert "token" in said
    assert not (project / "studies" / "strange" / "events.jsonl").exists()


def test_a_study_outlives_the_laptop_that_submitted_it(on_prem: OnPrem, project: Path) -> None:
    at: list[str | Path] = ["--cluster", on_prem.file]
    submit = ["submit", study_file(project, "streets", trials=6, epochs=4), *at, "--storage", on_prem.storage]
    submitting = on_prem.start(*submit, "--tracking-uri", MLFLOW, "--follow")
    wait_for(lambda: any(event["event"] == "report" for event in on_prem.events("streets")))
    kill_all(on_prem.laptop)
    submitting.communicate()

    wait_for(lambda: len(on_prem.ended("streets")) == 6)
    assert on_prem.ended("streets") == ["finished"] * 6
    wait_for(lambda: "succeeded" in on_prem.tuner("status", "streets", *at))
    assert [trained_on(worker) > 0 for worker in on_prem.workers] == [True, True]
    assert trained_on(on_prem.head) == 0

    showing = on_prem.start("ui", "streets", *at)
    assert showing.stdout is not None
    assert re.search(rb"http://127.0.0.1:5000/#/experiments/\d+ ", showing.stdout.readline())
    assert "MLflow" in on_prem.laptop.run("curl", "--silent", f"{MLFLOW}/")
    kill_all(on_prem.laptop)
    showing.communicate()
    on_prem.tuner("fetch", "streets", *at, "--output", project / "export")
    assert any((project / "export").iterdir())


def test_the_workers_of_a_job_start_without_what_a_shell_runs_on_their_hosts(on_prem: OnPrem, project: Path) -> None:
    hosts = [on_prem.head, *on_prem.workers]
    for host in hosts:
        # Only what Ray's own processes start: a person's ssh, as the tunnel's, is to read the file.
        line = 'test "$(cat /proc/$PPID/comm)" != raylet || echo read >>/dev/shm/read'
        host.run("bash", "-c", f"sed -i {shlex.quote('1i ' + line)} ~/.bashrc")
    file = study_file(project, "shells", trials=4, epochs=2)
    on_prem.tuner("submit", file, "--cluster", on_prem.file, "--storage", on_prem.storage, "--tracking-uri", MLFLOW)
    wait_for(lambda: on_prem.ended("shells") == ["finished"] * 4, about=lambda: on_prem.events("shells"))
    for host in hosts:
        host.run("bash", "-c", "test ! -e /dev/shm/read")
        host.run("sed", "-i", "1d", f"{Path.home()}/.bashrc")


def test_ranks_on_two_hosts_report_what_one_process_would(on_prem: OnPrem, project: Path) -> None:
    file = study_file(project, "pair", trials=2, epochs=3, workers=2)
    on_prem.tuner("submit", file, "--cluster", on_prem.file, "--storage", on_prem.storage, "--tracking-uri", MLFLOW)
    wait_for(lambda: len(on_prem.ended("pair")) == 2, 600, lambda: on_prem.events("pair"))
    events = on_prem.events("pair")
    nodes = sorted(f"{worker.name} ({worker.address})" for worker in on_prem.workers)
    assert [sorted(event["nodes"]) for event in events if event["event"] == "begin"] == [nodes] * 2
    x = {event["trial"]: event["params"]["x"] for event in events if event["event"] == "start"}
    for event in events:
        if event["event"] == "report":
            truth = score(Config(x=x[event["trial"]], epochs=3), event["epoch"])
            assert event["metrics"]["score"] == truth
