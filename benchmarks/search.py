"""Training seconds until a study's best reaches a target IoU, and its best IoU after equal seconds of training.

Compared are this project's search, the one that it had before, random search, and plain Optuna. Seconds are CPU seconds
of training, one thread, added up over all trials in the order in which they ran, one at a time. This project runs as a
user runs it (`python -m tuner run`: published trials first, the default search); random search trains every trial to
its end, or has the default's early stopping; Optuna runs with its defaults, TPE and the median pruner. All draw from
the published recipe's space, search_spaces/fcn8s_kitti.toml. A study that doesn't reach the target in its budget of
trials counts with all that it used, which is too little, and is said.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import tomllib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import fcn
from benchmarks import clocked
from benchmarks.report import ROOT, Report, arguments
from benchmarks.study import Event, run_study

# The space of the published recipes, and the hyperparameters that were reported for them.
STUDY = tomllib.loads((ROOT / "search_spaces" / "fcn8s_kitti.toml").read_text(encoding="utf-8"))
SPACE: dict[str, dict[str, Any]] = STUDY["space"]
PUBLISHED: list[dict[str, Any]] = STUDY["first_trials"]


@dataclass(frozen=True)
class Task:
    """What is tuned, and the IoU that is wanted: on CamVid 3 of 30 random trials reach it, on scenes fewer."""

    name: str
    metric: str
    fixed: dict[str, Any]
    target: float
    most_trials: int
    seconds: float = 60.0
    """Of training, after which the searches' best IoUs are compared."""


@dataclass(frozen=True)
class Reached:
    """What one study spent until its best reached the target, or, if it never did, in all."""

    seconds: float
    trials: int
    there: bool
    best: float
    """After the task's seconds of training."""


Search = Callable[[Task, int, Path], Reached]


def scenes(cache: Path) -> Task:
    return Task("scenes", "val/iou_road", {**_slim(cache), "dataset": "scenes", "frames": 96, "width": 0.125}, 0.85, 60)


def camvid(cache: Path, data_dir: Path) -> Task:
    """All classes: at this size any hyperparameters find CamVid's road, which is at the same place in most frames."""
    fixed = {**_slim(cache), "dataset": "camvid", "data_dir": str(data_dir), "frames": 120, "width": 0.25}
    fixed |= {"classes": "all", "image_size": [48, 64], "val_sequences": ["0006R0"]}
    return Task("CamVid", "val/mean_iou", fixed, 0.23, 60)


def _slim(cache: Path) -> dict[str, Any]:
    return {
        "image_size": [32, 96],
        "weights": "none",
        "fc_width": 64,
        "init": "bilinear",
        "epochs": 12,
        "test_fraction": 0.0,
        "masks": 0,
        "cache_dir": str(cache),
    }


def this_project(task: Task, seed: int, folder: Path) -> Reached:
    """A real study, one trial at a time: the default sampler and ASHA, published hyperparameters first."""
    return _study(task, seed, folder, first_trials=PUBLISHED)


def without_published(task: Task, seed: int, folder: Path) -> Reached:
    """The same as this_project, but for its first trials, which the sampler draws."""
    return _study(task, seed, folder)


def before(task: Task, seed: int, folder: Path) -> Reached:
    """The default search of this project's first version: TPE told the best so far, ASHA from the first epoch."""
    return _study(task, seed, folder, sampler="tpe", scheduler={"name": "asha", "grace_epochs": 1})


def random_with_asha(task: Task, seed: int, folder: Path) -> Reached:
    """Random search with the default's early stopping."""
    return _study(task, seed, folder, sampler="random")


def _study(task: Task, seed: int, folder: Path, sampler: str | None = None, **tables: Any) -> Reached:
    walk = _Walk(task)
    run_study(
        {
            "name": f"{task.name.split()[0].lower()}-{seed}",
            "workload": clocked.__name__,
            "objective": {"metric": task.metric},
            "search": {"seed": seed} | ({"sampler": sampler} if sampler else {}),
            "budget": {"trials": task.most_trials},
            "resources": {"max_concurrent_trials": 1, "gpus_per_worker": 0},
            "fixed": task.fixed,
            "space": SPACE,
            **tables,
        },
        folder,
        lambda _, events: walk.follow(events),
    )
    return walk.reached()


def random_search(task: Task, seed: int, folder: Path) -> Reached:
    del folder
    import optuna

    return _with_optuna(task, optuna.samplers.RandomSampler(seed=seed), optuna.pruners.NopPruner())


def plain_optuna(task: Task, seed: int, folder: Path) -> Reached:
    del folder
    import optuna

    return _with_optuna(task, optuna.samplers.TPESampler(seed=seed), optuna.pruners.MedianPruner())


def _with_optuna(task: Task, sampler: Any, pruner: Any) -> Reached:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    walk = _Walk(task)

    def objective(trial: optuna.Trial) -> float:
        best = 0.0
        walk.begin()

        def report(metrics: dict[str, float], snapshot: fcn.Snapshot | None) -> None:
            nonlocal best
            del snapshot
            best = max(best, metrics[task.metric])
            walk.step(metrics)
            trial.report(metrics[task.metric], int(metrics["epoch"]))
            if walk.done or trial.should_prune():
                raise SystemExit

        try:
            config = fcn.Config(**task.fixed, **_suggest(trial))
            clocked.train(config, report=report, device=torch.device("cpu"))
        except SystemExit:
            raise optuna.TrialPruned from None
        except fcn.TrainingError:
            return 0.0
        return best

    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.optimize(objective, task.most_trials, callbacks=[lambda study, _: study.stop() if walk.done else None])
    return walk.reached()


def _suggest(trial: Any) -> dict[str, Any]:
    return {
        name: trial.suggest_int(name, entry["low"], entry["high"])
        if entry["type"] == "int"
        else trial.suggest_float(name, entry["low"], entry["high"], log=bool(entry.get("log")))
        for name, entry in SPACE.items()
    }


class _Walk:
    """Adds up a study's training."""

    def __init__(self, task: Task):
        self._task, self._seconds, self._trials, self._best = task, 0.0, 0, 0.0
        self._there: tuple[float, int] | None = None
        """Seconds and trials at the first report that reached the target."""

    @property
    def done(self) -> bool:
        """Whether more training would change nothing of what is measured."""
        return self._there is not None and self._seconds >= self._task.seconds

    def begin(self) -> None:
        self._trials += 1

    def step(self, metrics: dict[str, float]) -> None:
        self._seconds += metrics[clocked.CPU_SECONDS]
        value = metrics[self._task.metric]
        if self._seconds <= self._task.seconds:
            self._best = max(self._best, value)
        if self._there is None and value >= self._task.target:
            self._there = self._seconds, self._trials

    def follow(self, events: list[Event]) -> bool:
        for event in events:
            if event["event"] == "start":
                self.begin()
            elif event["event"] == "report":
                self.step(event["metrics"])
        return self.done

    def reached(self) -> Reached:
        return Reached(*(self._there or (self._seconds, self._trials)), self._there is not None, self._best)


OURS, RANDOM = "this project (published hyperparameters, default search)", "random search, full-length trials"
SEARCHES: dict[str, Search] = {
    OURS: this_project,
    "this project without published hyperparameters": without_published,
    "the search before (TPE, ASHA from the first epoch)": before,
    "random search with ASHA": random_with_asha,
    RANDOM: random_search,
    "Optuna (TPE, median pruner)": plain_optuna,
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="CamVid's folder: adds its road on real frames")
    parser.add_argument("--seeds", type=int, default=5, help="studies of each kind")
    parser.add_argument("--jobs", type=int, default=2, help="studies at a time, one core each")
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="FILE",
        help="a line here for each study that is done; those that it has already aren't run again",
    )
    options = parser.parse_args()
    report = Report("Training seconds (CPU, one thread) until the best IoU reaches the target")
    with tempfile.TemporaryDirectory(prefix="search-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        tasks = [scenes(folder / "cache")]
        if options.data_dir:
            tasks.append(camvid(folder / "cache", options.data_dir.resolve()))
        if options.quick:
            tasks = [
                replace(task, fixed={**task.fixed, "epochs": 4}, target=0.5, most_trials=3, seconds=5.0)
                for task in tasks
            ]
        runs = options.runs or folder / "runs.jsonl"
        spent = _run(tasks, 2 if options.quick else options.seeds, options.jobs, folder, runs)
    for task in tasks:
        means = {}
        for search in SEARCHES:
            runs = spent[task.name, search]
            missed = sum(not run.there for run in runs)
            note = f" ({missed} of {len(runs)} never)" if missed else ""
            name = f"{task.name} to {task.target}: {search}{note}"
            means[search] = report.mean(name, "s", [run.seconds for run in runs])
            report.median(f"{task.name}: {search}", "trials", [run.trials for run in runs])
            report.mean(f"{task.name} after {task.seconds:g} s: {search}", "IoU", [run.best for run in runs])
        for search in SEARCHES:
            if search != RANDOM:
                report.figure(f"{task.name}: {search} over random search", "ratio", means[search] / means[RANDOM])
        report.at_most(f"{task.name}: {OURS} over random search", means[OURS] / means[RANDOM], 0.25)
    report.finish(options.json)


def _run(tasks: list[Task], seeds: int, jobs: int, folder: Path, runs: Path) -> dict[tuple[str, str], list[Reached]]:
    """Every search on every task, each seed a study, in processes of their own."""
    done = {}
    if runs.exists():
        for line in runs.read_text(encoding="utf-8").splitlines():
            task_name, search, seed, spent = json.loads(line)
            done[task_name, search, seed] = Reached(**spent)
    for task in tasks:
        first = {name: entry["low"] for name, entry in SPACE.items()}
        fcn.prepare(fcn.Config(**{**task.fixed, **first}))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        # Seed by seed: whatever else this machine does then meets all searches alike.
        waiting = {
            pool.submit(function, task, seed, folder / str(place)): (task.name, search, seed)
            for seed in range(seeds)
            for task in tasks
            for place, (search, function) in enumerate(SEARCHES.items())
            if (task.name, search, seed) not in done
        }
        for future in as_completed(waiting):
            done[waiting[future]] = future.result()
            with runs.open("a", encoding="utf-8") as file:
                file.write(json.dumps([*waiting[future], asdict(future.result())]) + "\n")
    return {
        (task.name, search): [done[task.name, search, seed] for seed in range(seeds)]
        for task in tasks
        for search in SEARCHES
    }


if __name__ == "__main__":
    main()
