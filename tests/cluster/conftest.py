"""What the tests on hosts share: a cluster file for them, and a person's own machine."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.cluster.hosts import Host, Network, network, why_not
from tests.environment import of_a_person

ROOT = Path(__file__).parents[2]
CPUS = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
print("CPUs", ray.available_resources().get("CPU", 0), ray.cluster_resources().get("CPU", 0))
"""


@dataclass
class OnPrem:
    """Machines of one's own, as deploy/on_prem.yaml describes them, and the one that a person sits at."""

    laptop: Host
    head: Host
    workers: list[Host]
    file: Path
    """The cluster file."""
    storage: Path
    """A folder that all of them share."""
    install: str
    """The command that stands for the installation on a node."""
    start_worker: list[str]
    """The cluster file's commands that start Ray on a worker, where RAY_HEAD_IP is the head's address."""

    def up(self) -> None:
        """`ray up`, which brings a cluster up or brings up again what is down, until the workers of today are there.

        It starts Ray on the head anew.
        """
        config = yaml.safe_load(self.file.read_text(encoding="utf-8"))
        config["provider"]["worker_ips"] = [worker.address for worker in self.workers]
        self.file.write_text(yaml.safe_dump(config, sort_keys=False))
        with contextlib.chdir(ROOT / "deploy"):  # it copies the folder that it is run in
            self.ray("up", "--yes", "--no-config-cache", self.file)
        wait_for(lambda: self.cpus() == (2.0, 2.0), seconds=600, about=self.cpus)

    def join(self, host: Host) -> None:
        """Add a machine to the cluster, as a person does."""
        token = self.head.run("bash", "-c", "cat ~/.ray/auth_token").strip()
        host.run("bash", "-c", f"umask 077; mkdir -p ~/.ray; printf %s {token} >~/.ray/auth_token")
        for command in [self.install, *self.start_worker]:
            host.run("env", f"RAY_HEAD_IP={self.head.address}", "bash", "-c", command)

    def cpus(self) -> tuple[float, float] | None:
        """How many CPUs are free, and how many there are; None while Ray isn't up.

        `ray status` goes on counting nodes that have gone.
        """
        command = ["env", "RAY_AUTH_MODE=token", sys.executable, "-c", CPUS]
        said = re.search(r"CPUs (\S+) (\S+)", self.head.run(*command, check=False))
        return (float(said[1]), float(said[2])) if said else None

    def ray(self, *words: str | Path) -> str:
        """A command of Ray's on the laptop."""
        return self.laptop.run(sys.executable, "-m", "ray.scripts.scripts", *words)

    def tuner(self, *words: str | Path) -> str:
        """A command of the tuner's on the laptop."""
        return self.laptop.run(sys.executable, "-m", "tuner", *words)

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """The same, which goes on."""
        command = self.laptop.command(sys.executable, "-m", "tuner", *words)
        return subprocess.Popen(command, env=of_a_person(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def events(self, study: str) -> list[dict[str, Any]]:
        path = self.storage / study / "events.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def ended(self, study: str) -> list[str]:
        """How its trials ended."""
        return [event["state"] for event in self.events(study) if event["event"] == "end"]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network of hosts; the test is skipped, and says so, where this machine can't have one."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with network(tmp_path_factory.mktemp("network")) as made:
        yield made


@pytest.fixture(scope="module")
def on_prem(hosts: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnPrem]:
    """A Ray of a head and two workers, made by `ray up` from a laptop; after `ray down` nothing of it is left."""
    folder = tmp_path_factory.mktemp("on_prem")
    laptop, head, *workers = [hosts.add() for _ in range(4)]
    laptop.run(
        "bash", "-c", f"umask 077; mkdir ~/.ray; {sys.executable} -m ray.scripts.scripts get-auth-token --generate"
    )
    config = yaml.safe_load((ROOT / "deploy" / "on_prem.yaml").read_text(encoding="utf-8"))
    # What a person changes, and the installation, which takes minutes: this machine's own is in its place.
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    in_its_place = f"ln -sfn {_installed(folder)} ~/fcn-tuner-env"
    config["setup_commands"] = [in_its_place, *(line for line in config["setup_commands"] if ".bashrc" in line)]
    config["cluster_name"] = f"test-{folder.name}"
    # All hosts see this machine's cores.
    config["worker_start_ray_commands"] = [
        command.replace("ray start", "ray start --num-cpus=1") for command in config["worker_start_ray_commands"]
    ]
    start = config["worker_start_ray_commands"]
    made = OnPrem(laptop, head, workers, folder / "on_prem.yaml", folder / "shared", in_its_place, start)
    made.file.write_text(yaml.safe_dump(config, sort_keys=False))
    made.storage.mkdir()
    made.up()
    yield made
    made.ray("exec", made.file, "pkill --full '[m]lflow server'")
    made.ray("down", "--yes", made.file)
    wait_for(
        lambda: not any("/raylet " in each for each in running_on(head, *workers)), about=lambda: running_on(*workers)
    )
    for worker in workers:  # Ray's log monitor stays where a raylet has ended by itself
        worker.run(sys.executable, "-m", "ray.scripts.scripts", "stop", "--force", check=False)
    wait_for(lambda: not running_on(laptop, head, *workers), about=lambda: running_on(laptop, head, *workers))


def _installed(folder: Path) -> Path:
    """What `pip install` would have made: the programs of this Python's packages."""
    programs = folder / "env" / "bin"
    programs.mkdir(parents=True)
    for name, module in (("python", ""), ("ray", "-m ray.scripts.scripts"), ("mlflow", "-m mlflow")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (programs / name).chmod(0o755)
    return programs.parent


def running_on(*hosts: Host) -> list[str]:
    """What runs on these hosts: host and command of each process."""
    found = []
    for host in hosts:
        for process in host.processes():
            with contextlib.suppress(psutil.Error):
                found.append(f"{host.name}: {process.status()} {shlex.join(process.cmdline()) or process.name()}"[:300])
    return found


def wait_for(happened: Callable[[], bool], seconds: float = 180, about: Callable[[], object] = str) -> None:
    """Wait until something has happened. about: returns what to say if it doesn't happen in time."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {about()}"
        time.sleep(0.2)
