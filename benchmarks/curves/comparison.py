"""Runs of every method on every task, and what they come to: regret, ranks, epochs to others' regret, seconds."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache
from pathlib import Path

from benchmarks.curves.methods import BEFORE, METHODS, NOW, RANDOM
from benchmarks.curves.simulation import Run, simulate
from benchmarks.curves.syne_tune_searches import SEARCHES, syne_tune
from benchmarks.curves.tasks import Task, load
from benchmarks.report import Report

Runs = dict[tuple[str, str], list[Run]]
"""By task and method, a run a seed."""

_POINTS = 400  # at which mean regrets are compared, over the budget


@cache
def tasks_of(folder: Path) -> dict[str, Task]:
    return {task.name: task for task in load(folder)}


def run_all(tasks: list[str], options: argparse.Namespace, interpreters: dict[str, str]) -> Runs:
    """Every method on every task, seed by seed, in processes of their own.

    interpreters: by name of those of Syne Tune's searches that are among the methods, one that has it.
    """
    done = _read(options.runs) if options.runs else {}
    jobs = [(task, method, seed) for seed in range(options.seeds) for task in tasks for method in options.methods]
    # A Gaussian process's small matrices take longer on several threads.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = {
            pool.submit(_one, options.data, *job, options.workers, options.trainings, interpreters.get(job[1])): job
            for job in jobs
            if _key(*job, options.workers, options.trainings) not in done
        }
        for future in as_completed(waiting):
            key = _key(*waiting[future], options.workers, options.trainings)
            done[key] = future.result()
            if options.runs:
                with options.runs.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, asdict(done[key])]) + "\n")
    runs: Runs = {(task, method): [] for task in tasks for method in options.methods}
    for job in jobs:
        runs[job[0], job[1]].append(done[_key(*job, options.workers, options.trainings)])
    return runs


def _key(task: str, method: str, seed: int, workers: int, trainings: float) -> str:
    return f"{task} {method} seed {seed}, {workers} workers, {trainings:g} trainings"


def _read(file: Path) -> dict[str, Run]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {key: Run(**found) for key, found in map(json.loads, lines)}


def _one(data: Path, task_name: str, method: str, seed: int, workers: int, trainings: float, python: str | None) -> Run:
    task = tasks_of(data)[task_name]
    budget = trainings * task.epochs
    if python is None:
        return simulate(task, METHODS[method](task, seed), workers, budget)
    with syne_tune(task, seed, python, SEARCHES[method]) as search:
        return simulate(task, search, workers, budget, search.cpu_seconds)


def figures(report: Report, kind: str, tasks: list[Task], options: argparse.Namespace, runs: Runs) -> None:
    """Rows for each method on these tasks, and the goals of what this project does now on the held-out ones."""
    methods: list[str] = options.methods
    final = {
        method: [[run.regret_at(float("inf")) for run in runs[task.name, method]] for task in tasks]
        for method in methods
    }
    for method in methods:
        name = f"{kind}: {method}"
        report.mean(f"{name}: regret", "regret", [statistics.fmean(of_task) for of_task in final[method]])
        report.figure(f"{name}: average rank", "rank", _average_rank(final, method))
        for other, bound in ((BEFORE, 0.15), (RANDOM, 0.35)):
            if other in methods and other != method:
                row = f"{name}: epochs to the regret of {other}"
                share = _share_to_reach(statistics.fmean(_flat(final[other])), tasks, options.trainings, runs, method)
                if share is None:
                    report.missing(row, "ratio", "never")
                else:
                    report.figure(row, "ratio", share)
                if method == NOW:
                    report.at_most(row, share, bound)
        if RANDOM in methods and method != RANDOM:
            row = f"{name}: runs worse than {RANDOM}"
            pairs = list(zip(_flat(final[method]), _flat(final[RANDOM]), strict=True))
            worse = statistics.fmean(mine > other + 1e-9 for mine, other in pairs)
            report.figure(row, "ratio", worse)
            if method == NOW:
                report.at_most(row, worse, 0.1)
        spent = [run for task in tasks for run in runs[task.name, method]]
        seconds = sum(run.seconds for run in spent) / sum(run.proposals for run in spent)
        report.figure(f"{name}: a proposal", "ms", 1000 * seconds)


def _average_rank(final: dict[str, list[list[float]]], method: str) -> float:
    """Over all runs: 1 where the method is the best of all, and halves where it shares a place."""
    ranks = []
    for place, mine in enumerate(_flat(final[method])):
        others = [_flat(final[other])[place] for other in final if other != method]
        ranks.append(1 + sum(other < mine for other in others) + 0.5 * sum(other == mine for other in others))
    return statistics.fmean(ranks)


def _share_to_reach(regret: float, tasks: list[Task], trainings: float, runs: Runs, method: str) -> float | None:
    """The part of the budget after which the method's mean regret is no greater than this; None if it never is."""
    for point in range(1, _POINTS + 1):
        share = point / _POINTS
        found = [run.regret_at(share * trainings * task.epochs) for task in tasks for run in runs[task.name, method]]
        if statistics.fmean(found) <= regret:
            return share
    return None


def _flat(lists: Iterable[list[float]]) -> list[float]:
    return [value for each in lists for value in each]
