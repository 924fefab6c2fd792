"""Studies as a person runs them: `python -m tuner` in a process of its own, with a Ray of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.environment import of_a_person
from tests.workloads.replay import Config, score

ROOT = Path(__file__).parents[2]


class StudyProcess:
    """`python -m tuner ...`, and all processes that it started."""

    def __init__(self, *arguments: str | Path):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tuner", *map(str, arguments)],
            cwd=ROOT,
            env=of_a_person(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C goes to the whole group
        )
        self._tree: dict[int, psutil.Process] = {}
        self.output = ""

    def tree(self) -> list[psutil.Process]:
        """The processes that it has started so far, those of theirs too."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._tree[process.pid] = process
        return list(self._tree.values())

    def wait(self, seconds: float = 240) -> int:
        """Its exit status, when it has ended; what it said so far is in the error when it takes longer."""
        deadline = time.monotonic() + seconds
        while True:
            self.tree()
            try:
                output, _ = self.process.communicate(timeout=0.5)
            except subprocess.TimeoutExpired as error:
                if time.monotonic() > deadline:
                    self.kill()
                    said = (error.output or b"").decode(errors="replace")
                    raise AssertionError(f"not ended after {seconds:.0f} s:\n{said}") from None
                continue
            self.output += output
            return self.process.returncode

    def lines(self) -> Iterator[str]:
        """What it says, as it says it, to its end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            yield line

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of the driver alone."""
        self.tree()
        self.process.kill()
        self.process.wait()

    def left_behind(self, seconds: float = 20) -> list[str]:
        """What still runs of its processes after so many seconds; returns at once when nothing does."""
        deadline = time.monotonic() + seconds
        while True:
            left = []
            for process in self._tree.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                        left.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.2)


@contextlib.contextmanager
def running(*arguments: str | Path) -> Iterator[StudyProcess]:
    """A command that is under way; whatever happens, nothing of it stays."""
    study = StudyProcess(*arguments)
    try:
        yield study
    finally:
        for process in [*study.tree(), psutil.Process(study.process.pid)] if study.process.poll() is None else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        study.process.wait()
        if study.process.stdout:
            study.process.stdout.close()


def tuner(*arguments: str | Path, status: int = 0, seconds: float = 240) -> StudyProcess:
    """Run a command to its end; its exit status must be `status`, and nothing of it may stay."""
    with running(*arguments) as study:
        assert study.wait(seconds) == status, study.output
        assert study.left_behind() == []
    return study


def new_storage(folder: Path, database: Path) -> Path:
    """A storage in this folder that has no study yet. database: an empty one of MLflow's."""
    storage = folder / "studies"
    storage.mkdir()
    shutil.copyfile(database, storage / "mlflow.db")
    return storage


@contextlib.contextmanager
def ray_cluster(**head: Any) -> Iterator[Any]:
    """Ray's own test cluster, of one node so far, that a study may be given the address of."""
    import ray.cluster_utils

    from tuner.driver.local_ray import few_processes

    with warnings.catch_warnings(action="ignore"), few_processes():  # it leaves files open
        cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **head})
        try:
            yield cluster
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]


def events(folder: Path) -> list[dict[str, Any]]:
    """The events of a study's journal."""
    path = folder / "events.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def curves(folder: Path) -> dict[int, list[tuple[int, float]]]:
    """Each trial's (epoch, score), in the order of the journal, without what it went back behind."""
    found: dict[int, list[tuple[int, float]]] = {}
    for event in events(folder):
        if event["event"] == "start":
            found.setdefault(event["trial"], [])
        if event["event"] == "back":
            found[event["trial"]] = [point for point in found[event["trial"]] if point[0] <= event["epoch"]]
        if event["event"] == "report":
            found[event["trial"]].append((event["epoch"], event["metrics"]["score"]))
    return found


def show(storage: Path, name: str) -> dict[str, Any]:
    """`show --json` of a study."""
    from tuner.display.show import record_json
    from tuner.events.state import load_record
    from tuner.storage.storage import Storage

    return record_json(load_record(Storage(str(storage)) / name))


def truth(x: float, epochs: int = 3) -> list[tuple[int, float]]:
    """The curve that a trial must have, from nothing but its setting."""
    config = Config(x=x, epochs=epochs)
    return [(epoch, score(config, epoch)) for epoch in range(1, epochs + 1)]


def mlflow_runs(storage: Path, name: str) -> dict[str, Any]:
    """MLflow's runs of a study, by the tag that says which trial; fails if two have the same."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    found = {run.data.tags["tuner.trial"]: run for run in runs}
    assert len(found) == len(runs), "a run is doubled"
    return found


def mlflow_curve(storage: Path, run: Any) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    history = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}").get_metric_history(run.info.run_id, "score")
    return sorted((metric.step, metric.value) for metric in history)
