"""Large studies over trials that train nothing: reports a second, the driver's memory, and time a trial.

Trials replay learning curves of up to 27 epochs, 64 at a time, with the defaults (gp_curves, ASHA) and MLflow in an
SQLite file. A study without early stopping gives the reports a second: its trials live long, so reports are most of its
work.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import replay
from benchmarks.report import Report, arguments
from benchmarks.study import Event, run_study

EPOCHS = 27
SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)
SPACE = {
    "learning_rate": {"type": "float", "low": 5e-6, "high": 2e-3, "log": True},
    "batch_size": {"type": "choice", "choices": [1, 2, 4, 8, 16]},
    "dropout": {"type": "float", "low": 0.1, "high": 0.55},
    "l2": {"type": "float", "low": 1e-5, "high": 2e-3, "log": True},
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--concurrent", type=int, default=64, help="trials at a time")
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10000], help="sizes of the studies")
    parser.add_argument("--long", type=int, default=2500, metavar="TRIALS", help="trials of the study without stopping")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the studies here")
    options = parser.parse_args()
    concurrent = 4 if options.quick else options.concurrent
    sizes = [20, 40] if options.quick else options.trials
    report = Report(f"Studies over trials that replay learning curves, {concurrent} at a time")
    with tempfile.TemporaryDirectory(prefix="scale-", ignore_cleanup_errors=True) as scratch:
        folder = options.keep or Path(scratch)
        long = _run(folder, "long", 8 if options.quick else options.long, concurrent, scheduler={"name": "none"})
        rate = long.reports_a_second()
        name = f"{long.trials} trials of {EPOCHS} epochs, none stopped"
        report.figure(name, "reports/s", rate)
        report.figure(f"{name}: its last half, when all processes run", "reports/s", long.reports_a_second(0.5))
        report.figure(f"{name}: driver's CPU", "ms/report", 1000 * long.cpu(0, 1) / (EPOCHS * long.trials))
        _mlflow(report, name, long)
        studies = []
        for trials in sizes:
            study = _run(folder, f"trials-{trials}", trials, concurrent)
            studies.append(study)
            name = f"{trials:,} trials"
            report.figure(name, "reports/s", study.reports_a_second())
            for begin, end, which in ((0.0, 1.0, ""), (0.0, 0.1, ", first tenth"), (0.9, 1.0, ", last tenth")):
                report.figure(f"{name}{which}", "s/trial", study.seconds_a_trial(begin, end))
                cpu = 1000 * study.cpu(begin, end) / (trials * (end - begin))
                report.figure(f"{name}{which}: driver's CPU", "ms/trial", cpu)
            for share in (0.1, 0.5, 1.0):
                report.figure(f"{name}: driver's memory at {share:.0%}", "MB", study.marks[share].memory)
            report.figure(f"{name}: memory of all its processes at 10 %", "MB", study.all_memory)
            _mlflow(report, name, study)
    growth = studies[-1].marks[1.0].memory / studies[-1].marks[0.1].memory
    slower = studies[-1].seconds_a_trial(0, 1) / studies[0].seconds_a_trial(0, 1)
    report.at_least("reports a second", rate, 300)
    report.at_most(f"driver's memory at 100 % over 10 % of {sizes[-1]:,} trials", growth, 1.1)
    report.at_most(f"seconds a trial, {sizes[-1]:,} over {sizes[0]:,} trials", slower, 1.1)
    report.finish(options.json)


@dataclass(frozen=True)
class Mark:
    """The driver at one moment."""

    cpu_seconds: float
    memory: float
    """MB resident."""


@dataclass
class Study:
    """What was seen of one study."""

    trials: int
    events: list[Event] = field(default_factory=list)
    marks: dict[float, Mark] = field(default_factory=dict)
    """When this share of the trials had ended; 0.0: at the first report."""
    all_memory: float = 0.0
    """MB of the study's processes together, shared pages counted once."""
    behind: int = 0
    """Events that MLflow didn't have when the study was over."""
    caught_up_seconds: float = 0.0
    """From the last event to the process's end."""

    def reports_a_second(self, begin: float = 0.0) -> float:
        """From this share of the reports on."""
        times: list[float] = [event["time"] for event in self.events if event["event"] == "report"]
        times = times[int(begin * len(times)) :]
        return (len(times) - 1) / (times[-1] - times[0])

    def cpu(self, begin: float, end: float) -> float:
        """CPU seconds of the driver, MLflow's thread with it, between these shares of the trials."""
        return self.marks[end].cpu_seconds - self.marks[begin].cpu_seconds

    def seconds_a_trial(self, begin: float, end: float) -> float:
        """Wall seconds over trials ended, between these shares of the trials."""
        times = [next(e["time"] for e in self.events if e["event"] == "report")]
        times += [event["time"] for event in self.events if event["event"] == "end"]
        first, last = int(begin * self.trials), int(end * self.trials)
        return float(times[last] - times[first]) / (last - first)


def _run(folder: Path, name: str, trials: int, concurrent: int, **tables: Any) -> Study:
    study = Study(trials)
    reports = ended = 0

    def watch(pid: int, events: list[Event]) -> bool:
        nonlocal reports, ended
        reports += sum(event["event"] == "report" for event in events)
        ended += sum(event["event"] == "end" for event in events)
        for share in SHARES:
            if reports and ended >= share * trials and share not in study.marks:
                driver = psutil.Process(pid)
                times = driver.cpu_times()
                study.marks[share] = Mark(times.user + times.system, driver.memory_info().rss / 1e6)
                if share == 0.1:
                    study.all_memory = _memory_of_tree(pid)
        return False

    study.events = run_study(
        {
            "name": name,
            "workload": replay.__name__,
            "objective": {"metric": "val/iou_road"},
            "budget": {"trials": trials},
            # A share of the cores each: what limits such a study is its driver, not its trials.
            "resources": {
                "cpus_per_worker": int(1000 * len(os.sched_getaffinity(0)) / concurrent) / 1000,
                "gpus_per_worker": 0,
                "max_concurrent_trials": concurrent,
            },
            "fixed": {"epochs": EPOCHS},
            "space": SPACE,
            **tables,
        },
        folder,
        watch,
    )
    study.caught_up_seconds = time.time() - study.events[-1]["time"]
    written = json.loads((folder / name / "tracking.json").read_text())["offset"]
    study.behind = (folder / name / "events.jsonl").read_bytes()[written:].count(b"\n")
    return study


def _memory_of_tree(pid: int) -> float:
    total = 0.0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e6


def _mlflow(report: Report, name: str, study: Study) -> None:
    report.figure(f"{name}: after its end, until its process was gone", "s", study.caught_up_seconds)
    report.figure(f"{name}: events that MLflow didn't have by then", "events", study.behind)


if __name__ == "__main__":
    main()
