"""Searches with two objectives compared on LCBench, in simulated time: validation accuracy, and seconds of a training.

    python -m benchmarks.objectives --data DIR

DIR is that of benchmarks.curves. What a search has found is the hypervolume of its front: the area that it dominates
in the square between the median of 2,000 random settings and the best known value, in each objective (seconds by their
logarithm). Its loss is 1 less its hypervolume as a share of that of these settings, trained to the end; a search that
finds better ones than they hold has a loss below 0.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curves.methods import StudySearch
from benchmarks.curves.tasks import Array, LCBench, load, settings_at
from benchmarks.report import Report, arguments
from tuner.search.schedulers.rungs import Verdict
from tuner.spec.study import StudySpec

OBJECTIVES = [{"metric": "accuracy"}, {"metric": "seconds", "direction": "minimize"}]
SEARCHES: dict[str, tuple[str, list[dict[str, str]]]] = {
    "gp_curves": ("gp_curves", OBJECTIVES),
    "tpe": ("tpe", OBJECTIVES),
    "nsga2": ("nsga2", OBJECTIVES),
    "random": ("random", OBJECTIVES),
    "gp_curves, accuracy alone": ("gp_curves", OBJECTIVES[:1]),
}
_RANDOM_SETTINGS = 2000


class Square:
    """The part of the objectives' plane that counts."""

    def __init__(self, task: LCBench):
        rng = np.random.default_rng(0)
        settings = settings_at(task.space, rng.random((_RANDOM_SETTINGS, len(task.space))))
        accuracy = np.array([task.curve(setting).max() for setting in settings])
        points = np.stack([accuracy, -np.log(task.seconds(settings))], axis=1)
        self._low, self._high = np.median(points, axis=0), points.max(axis=0)
        self._high[0] = task.best_and_median[0]
        self._whole = self._area(points)

    def loss(self, points: Array) -> float:
        """points (N, 2): accuracy and seconds."""
        return 1 - self._area(np.stack([points[:, 0], -np.log(points[:, 1])], axis=1)) / self._whole

    def _area(self, points: Array) -> float:
        area, height = 0.0, 0.0
        shares = np.clip((points - self._low) / (self._high - self._low), 0, 1)
        for x, y in sorted(shares.tolist(), reverse=True):
            area += x * max(0.0, y - height)
            height = max(height, y)
        return area


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder with lcbench/")
    parser.add_argument("--searches", nargs="+", choices=list(SEARCHES), default=list(SEARCHES), metavar="NAME")
    parser.add_argument("--tasks", type=int, default=8, help="how many of the held-out ones")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each search on each task")
    parser.add_argument("--trainings", type=int, default=25, help="full trainings that a run may take")
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    tasks = [task for task in load(options.data) if isinstance(task, LCBench) and not task.chosen_on][: options.tasks]
    if options.quick:
        tasks, options.seeds, options.trainings = tasks[:1], 1, 3
    losses: defaultdict[str, list[float]] = defaultdict(list)
    for task in tasks:
        square = Square(task)
        for name in options.searches:
            runs = [run(task, name, seed, options.trainings, options.workers) for seed in range(options.seeds)]
            losses[name].append(float(np.mean([square.loss(found) for found in runs])))
    report = Report(f"Loss of hypervolume on {len(tasks)} tasks after {options.trainings} trainings")
    for name, found in losses.items():
        report.mean(f"{name}: loss", "hypervolume", found)
    report.finish(options.json)


def run(task: LCBench, name: str, seed: int, trainings: int, workers: int) -> Array:
    """(N, 2): accuracy and seconds of what a search has found, at each trial's best epoch."""
    sampler, objectives = SEARCHES[name]
    spec: dict[str, Any] = {
        "name": "objectives",
        "objectives": objectives,
        "search": {"sampler": sampler, "seed": seed},
        "budget": {"trials": 20_000},
        "space": task.space,
    }
    search = StudySearch(StudySpec.model_validate(spec))
    curves: dict[int, Array] = {}
    seconds: dict[int, float] = {}
    queue = [(0.0, worker, 0, 0) for worker in range(workers)]
    while queue[0][0] * workers <= trainings * task.epochs:
        now, worker, trial, epoch = heapq.heappop(queue)
        verdict = Verdict.STOP
        if epoch:
            metrics = {"accuracy": float(curves[trial][epoch - 1]), "seconds": seconds[trial]}
            verdict = search.report_metrics(trial, epoch, metrics)
            if epoch == task.epochs or verdict is Verdict.STOP:
                search.end(trial, "finished" if epoch == task.epochs else "stopped")
                verdict = Verdict.STOP
        if verdict is Verdict.STOP:
            trial, params = search.next()
            curves[trial], seconds[trial], epoch = task.curve(params), float(task.seconds([params])[0]), 0
        heapq.heappush(queue, (now + 1, worker, trial, epoch + 1))
    known = [trial for trial in search.record.trials.values() if trial.value is not None]
    return np.array([(trial.value, seconds[trial.id]) for trial in known])


if __name__ == "__main__":
    main()
