"""A study on a cluster that grows, shrinks and grows again: many of Ray's nodes on this one machine.

The study begins on two nodes. The others join at once, as after `ray up`. When half of the trials have ended, a quarter
of the nodes is killed, and as many join. Trials replay learning curves and sleep between epochs, so that the machine's
cores are left to what is measured: the head, the driver, and what a node costs. Such a replay has no network between
the nodes, no disks of theirs, no cloud that starts them, and no storage under many writers.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from benchmarks import replay
from benchmarks.report import Report, arguments
from benchmarks.scale import SPACE
from benchmarks.study import Event, run_study

FIRST_NODES = 2


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--nodes", type=int, default=20, help="of one CPU each (default 20)")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epoch-seconds", type=float, default=1.0, help="what an epoch of a trial takes")
    options = parser.parse_args()
    nodes, trials, seconds = (4, 12, 0.3) if options.quick else (options.nodes, options.trials, options.epoch_seconds)
    report = Report(f"A study of {trials} trials on {nodes} nodes of this machine")
    with tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True) as folder:
        replayed = _Replay(nodes, trials)
        events = replayed.run(Path(folder), seconds)
    _write(report, replayed, events)
    report.finish(options.json)


class _Replay:
    """One study, and the cluster under it."""

    def __init__(self, nodes: int, trials: int):
        self.nodes, self.trials = nodes, trials
        self.driver_cpu = self.driver_memory = self.head_cpu = self.head_memory = self.node_memory = 0.0
        self.grown_at = self.killed_at = 0.0
        """When the nodes were started, and when a quarter of them was killed, in seconds since 1970."""
        self.killed = self._ended = 0
        self._cluster: Any = None
        self._workers: list[Any] = []

    def run(self, folder: Path, epoch_seconds: float) -> list[Event]:
        """Returns the study's events."""
        # Imported here: ray.cluster_utils would make --help wait.
        from ray.cluster_utils import Cluster

        with warnings.catch_warnings(action="ignore"):  # Ray's test cluster leaves files open
            head = {"num_cpus": 0, "include_dashboard": False}
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
            try:
                self._grow(FIRST_NODES)
                return run_study(
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
                    self._cluster.address,
                )
            finally:
                self._cluster.shutdown()

    def _watch(self, pid: int, events: list[Event]) -> bool:
        self._ended += sum(event["event"] == "end" for event in events)
        if not self.grown_at and any(event["event"] == "report" for event in events):
            self.grown_at = time.time()
            self._grow(self.nodes - FIRST_NODES)
        if not self.killed and self._ended >= self.trials / 2:
            self.killed_at, self.killed = time.time(), self.nodes // 4
            self._measure(pid)
            for node in self._workers[: self.killed]:
                self._cluster.remove_node(node, allow_graceful=False)
            self._grow(self.killed)
        return False

    def _grow(self, nodes: int) -> None:
        self._workers += [self._cluster.add_node(num_cpus=1, wait=False) for _ in range(nodes)]

    def _measure(self, pid: int) -> None:
        driver = psutil.Process(pid)
        self.driver_cpu, self.driver_memory = sum(driver.cpu_times()[:2]), driver.memory_info().rss / 1e6
        [gcs] = self._cluster.head_node.all_processes["gcs_server"]
        head = psutil.Process(gcs.process.pid)
        self.head_cpu, self.head_memory = sum(head.cpu_times()[:2]), head.memory_info().rss / 1e6
        own = [
            _own_memory(started.process.pid) for kind in self._workers[-1].all_processes.values() for started in kind
        ]
        self.node_memory = sum(own) / 1e6


def _own_memory(pid: int) -> float:
    """Bytes of a process and those that it started, shared pages counted once; without trials."""
    process = psutil.Process(pid)
    processes = [process, *process.children(recursive=True)]
    names = ("raylet", "agent", "log_monitor")
    return float(
        sum(
            each.memory_full_info().pss
            for each in processes
            if any(name in " ".join(each.cmdline()).lower() for name in names)
        )
    )


def _write(report: Report, replayed: _Replay, events: list[Event]) -> None:
    begun = [event for event in events if event["event"] == "begin"]
    starts = Counter(event["trial"] for event in events if event["event"] == "start")
    ends = Counter(event["trial"] for event in events if event["event"] == "end")
    at_once, seen = most_at_once([event for event in events if event["time"] < replayed.killed_at])
    report.figure("trials that ran at a time, at most, before nodes were killed", "trials", at_once)
    report.figure("from the start of the nodes until so many trials ran", "s", seen - replayed.grown_at)
    report.figure("attempts that began", "attempts", len(begun))
    report.figure("driver's CPU, to half of the trials", "s", replayed.driver_cpu)
    report.figure("driver's memory", "MB", replayed.driver_memory)
    report.figure("Ray's GCS: CPU, to half of the trials", "s", replayed.head_cpu)
    report.figure("Ray's GCS: memory", "MB", replayed.head_memory)
    report.figure("a node's own processes: memory", "MB", replayed.node_memory)
    lost = [event["time"] - replayed.killed_at for event in events if event["event"] == "lost"]
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
