"""A study on an autoscaled cluster that grows, loses nodes and grows again: many of Ray's nodes on this one machine.

The study begins on a head alone, and Ray's autoscaler starts a node for each trial that waits. When half of the trials
have ended, a quarter of the nodes is killed; the autoscaler replaces them, and ends all when the study is over. Trials
replay learning curves and sleep between epochs, so that the machine's cores are left to what is measured: the head,
the driver, and what a node costs. Such a replay has no network between the nodes, no disks of theirs, no cloud that
takes minutes to start them, and no storage under many writers.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks import light_nodes, replay
from benchmarks.report import ROOT, Report, arguments
from benchmarks.scale import SPACE
from benchmarks.study import Event, clean_environment, run_study

_NODE = {"CPU": 1, "memory": 10**9}
_IDLE_MINUTES = 0.5
_COUNT_SECONDS = 5.0  # a look at a thousand processes takes a while


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--nodes", type=int, default=20, help="of one CPU each (default 20)")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epoch-seconds", type=float, default=1.0, help="what an epoch of a trial takes")
    parser.add_argument(
        "--seconds-between-nodes", type=float, default=0.0, help="in which the cloud starts no other node"
    )
    options = parser.parse_args()
    nodes, trials, seconds = (4, 12, 0.3) if options.quick else (options.nodes, options.trials, options.epoch_seconds)
    report = Report(f"A study of {trials} trials on up to {nodes} nodes of this machine, which Ray's autoscaler starts")
    with tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True) as folder:
        replayed = _Replay(nodes, trials, options.seconds_between_nodes)
        events = replayed.run(Path(folder), seconds)
    _write(report, replayed, events)
    report.finish(options.json)


class _Replay:
    """One study, and the cluster under it."""

    def __init__(self, nodes: int, trials: int, seconds_between_nodes: float):
        self.nodes, self.trials, self._between = nodes, trials, seconds_between_nodes
        self.driver_cpu = self.driver_memory = self.head_cpu = self.head_memory = self.node_memory = 0.0
        self.killed_at = self.idle_seconds = 0.0
        """When a quarter of the nodes was killed, in seconds since 1970; from the study's end until all had ended."""
        self.killed = self.most_nodes = self._ended = 0
        self._counted_at = 0.0
        self._head: psutil.Process

    def run(self, folder: Path, epoch_seconds: float) -> list[Event]:
        """Returns the study's events."""
        with _head(folder, self.nodes, self._between) as (self._head, address):
            events = run_study(
                {
                    "name": "nodes",
                    "workload": replay.__name__,
                    "objective": {"metric": "val/iou_road"},
                    "budget": {"trials": self.trials},
                    "resources": {"cpus_per_worker": 1, "gpus_per_worker": 0},
                    "scheduler": {"name": "none"},
                    "fixed": {"epochs": 10, "epoch_seconds": epoch_seconds},
                    "space": SPACE,
                },
                folder,
                self._watch,
                address,
            )
            over = time.monotonic()
            while self._raylets() and time.monotonic() - over < 10 * 60 * _IDLE_MINUTES:
                time.sleep(0.5)
            self.idle_seconds = time.monotonic() - over
            assert not self._raylets(), "the autoscaler ends idle nodes"
        return events

    def _watch(self, pid: int, events: list[Event]) -> bool:
        self._ended += sum(event["event"] == "end" for event in events)
        if time.monotonic() - self._counted_at > _COUNT_SECONDS:
            self.most_nodes, self._counted_at = max(self.most_nodes, len(self._raylets())), time.monotonic()
        if not self.killed and self._ended >= self.trials / 2:
            self.killed_at, self.killed = time.time(), self.nodes // 4
            self._measure(pid)
            for raylet in self._raylets()[: self.killed]:
                raylet.kill()
        return False

    def _raylets(self) -> list[psutil.Process]:
        """The nodes' own processes, without the head's."""
        return [raylet for raylet in _processes(self._head, "raylet") if not _is_head(raylet)]

    def _measure(self, pid: int) -> None:
        driver = psutil.Process(pid)
        self.driver_cpu, self.driver_memory = sum(driver.cpu_times()[:2]), driver.memory_info().rss / 1e6
        [gcs] = _processes(self._head, "gcs_server")
        self.head_cpu, self.head_memory = sum(gcs.cpu_times()[:2]), gcs.memory_info().rss / 1e6
        own = [raylet.memory_full_info().pss for raylet in self._raylets()]
        self.node_memory = sum(own) / len(own) / 1e6


@contextlib.contextmanager
def _head(folder: Path, nodes: int, seconds_between_nodes: float) -> Iterator[tuple[psutil.Process, str]]:
    """A head that runs no trials, with an autoscaler. Yields its process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "cluster.yaml"
    config.write_text(json.dumps(_cluster(nodes, f"127.0.0.1:{port}", seconds_between_nodes)), encoding="utf-8")
    environment = {
        **clean_environment(),
        "PYTHONPATH": str(ROOT),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": light_nodes.HEAD_ID,
        "RAY_enable_autoscaler_v2": "0",  # as in cluster.yaml
        # All nodes share this machine's memory and cores: many start at a time, and each slowly.
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_worker_register_timeout_seconds": "1800",
        **{f"RAY_{name}": value for name, value in light_nodes.TIMERS.items()},
    }
    options = [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=0", "--num-gpus=0", "--block"]
    options += ["--include-dashboard=false", "--disable-usage-stats", f"--autoscaling-config={config}"]
    with (
        (folder / "head.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        head = psutil.Process(process.pid)
        try:
            _wait_for_start(folder / "head.log")
            yield head, f"127.0.0.1:{port}"
        finally:
            for each in [*head.children(recursive=True), head]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def _cluster(nodes: int, gcs_address: str, seconds_between_nodes: float) -> dict[str, Any]:
    """What a cluster file says, as it lies on a head."""
    own = {
        "type": "external",
        "module": light_nodes.MODULE,
        "gcs_address": gcs_address,
        "head_node_id": light_nodes.HEAD_ID,
        "seconds_between_nodes": seconds_between_nodes,
    }
    local = {"use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True}
    lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands")
    starts = ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    return {
        "cluster_name": "nodes",
        "provider": {**own, **local},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{key: [] for key in (*lists, *starts)},
        "max_workers": nodes,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": _IDLE_MINUTES,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": _NODE, "node_config": {}, "min_workers": 0, "max_workers": nodes},
        },
    }


def _wait_for_start(output: Path) -> None:
    until = time.monotonic() + 60
    while "Ray runtime started" not in output.read_text(encoding="utf-8"):
        if time.monotonic() > until:
            raise RuntimeError(f"the head doesn't start:\n{output.read_text(encoding='utf-8')[-2000:]}")
        time.sleep(0.2)


def _processes(ancestor: psutil.Process, name: str) -> list[psutil.Process]:
    """The running processes of a name that a process has started, or those that it has started have."""
    found = []
    for process in ancestor.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == name and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _is_head(raylet: psutil.Process) -> bool:
    try:
        return "--head" in raylet.cmdline()
    except psutil.NoSuchProcess:
        return False


def _write(report: Report, replayed: _Replay, events: list[Event]) -> None:
    begun = [event for event in events if event["event"] == "begin"]
    starts = Counter(event["trial"] for event in events if event["event"] == "start")
    ends = Counter(event["trial"] for event in events if event["event"] == "end")
    at_once, seen = most_at_once([event for event in events if event["time"] < replayed.killed_at])
    report.figure("trials that ran at a time, at most, before nodes were killed", "trials", at_once)
    report.figure("nodes, at most", "nodes", replayed.most_nodes)
    report.figure("from the study's start until so many trials ran", "s", seen - events[0]["time"])
    report.figure("attempts that began", "attempts", len(begun))
    report.figure("driver's CPU, to half of the trials", "s", replayed.driver_cpu)
    report.figure("driver's memory", "MB", replayed.driver_memory)
    report.figure("Ray's GCS: CPU, to half of the trials", "s", replayed.head_cpu)
    report.figure("Ray's GCS: memory", "MB", replayed.head_memory)
    report.figure("a node's raylet: memory", "MB", replayed.node_memory)
    report.figure(f"until all nodes had ended after {_IDLE_MINUTES:g} idle minutes", "s", replayed.idle_seconds)
    # Later the autoscaler ends nodes as idle.
    after = [event["time"] - replayed.killed_at for event in events if event["event"] == "lost"]
    lost = sorted(seconds for seconds in after if seconds >= 0)[: replayed.killed]
    report.figure("nodes killed", "nodes", replayed.killed)
    if lost:
        report.median("from the kill until the study had noticed", "s", lost)
    report.at_least("trials ended, each once", sum(count == 1 for count in ends.values()), replayed.trials)
    report.at_most(
        "trials that were started again, over nodes killed", sum(starts.values()) - len(starts), replayed.killed
    )


def most_at_once(events: list[Event]) -> tuple[int, float]:
    """The most trials that ran at a time, and when that was first so, in seconds since 1970."""
    running: set[int] = set()
    most, at = 0, 0.0
    for event in events:
        if event["event"] == "begin":
            running.add(event["trial"])
        elif event["event"] == "end":
            running.discard(event["trial"])
        if len(running) > most:
            most, at = len(running), event["time"]
    return most, at


if __name__ == "__main__":
    main()
