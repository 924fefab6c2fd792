"""Searches compared on public learning curves, in simulated time: asynchronous workers, where time is epochs.

    python -m benchmarks.curves --data DIR

DIR holds lcbench/ (model.onnx, encoding.json, config_space.json) and taskset/*.json, either may be missing;
docs/search_benchmarks.md says where they are from. The searches are this project's own sampler and early stopping, as
a study drives them, Optuna's, and Syne Tune's where an interpreter of --syne-tune-python has them. A run ends when its
workers have trained as many epochs as `--trainings` full-length trials take.

Regret is that of the best value reported: 0 the best known of the task, 1 the median random setting trained to the end.
Its interval is over tasks. Tasks on which choices were made are reported apart from the others.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks.curves.comparison import figures, run_all, tasks_of
from benchmarks.curves.methods import METHODS
from benchmarks.curves.syne_tune_searches import SEARCHES, interpreters
from benchmarks.report import Report, arguments


def main() -> None:
    options = _arguments().parse_args()
    tasks = tasks_of(options.data)
    if options.tasks:
        unknown = sorted(set(options.tasks) - set(tasks))
        if unknown:
            sys.exit(f"--tasks: must be of those in {options.data} ({', '.join(tasks)}), got {', '.join(unknown)}")
        tasks = {name: tasks[name] for name in options.tasks}
    if not tasks:
        sys.exit(f"--data: lcbench/model.onnx or taskset/*.json must be in the folder, got {options.data}")
    if options.quick:
        tasks, options.seeds, options.trainings = dict(list(tasks.items())[-2:]), min(options.seeds, 2), 3
    wanted = [name for name in options.methods if name in SEARCHES]
    found = interpreters(options.syne_tune_python) if wanted else {}
    lacking = [name for name in wanted if name not in found]
    options.methods = [name for name in options.methods if name not in lacking]
    runs = run_all(list(tasks), options, found)
    report = Report(
        f"Regret after {options.trainings} full trainings, {options.workers} workers, {options.seeds} seeds"
    )
    for chosen_on in (False, True):
        of_kind = [task for task in tasks.values() if task.chosen_on == chosen_on]
        if of_kind:
            kind = "tasks that choices were made on" if chosen_on else "held-out tasks"
            figures(report, f"{len(of_kind)} {kind}", of_kind, options, runs)
    for name in lacking:
        why = f"not measured, none of --syne-tune-python has Syne Tune's {SEARCHES[name].name}"
        report.missing(f"{name}: regret", "regret", why)
    report.finish(options.json)


def _arguments() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder with lcbench/ and taskset/")
    parser.add_argument(
        "--tasks", nargs="+", metavar="NAME", help="lcbench/3945, taskset/…; all that DIR holds if left out"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*METHODS, *SEARCHES],
        default=[*METHODS, *SEARCHES],
        metavar="NAME",
        help=f"of {', '.join([*METHODS, *SEARCHES])}; all if left out",
    )
    parser.add_argument(
        "--syne-tune-python",
        type=_interpreter,
        nargs="+",
        metavar="PYTHON",
        default=[sys.executable],
        help="interpreters that have syne-tune, each search runs in the first that has it; this one if left out",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method on each task")
    parser.add_argument("--workers", type=int, default=4, help="trials that train at a time")
    parser.add_argument("--trainings", type=float, default=25, help="the budget, in full-length trainings")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument(
        "--runs",
        type=Path,
        metavar="FILE",
        help="a line here for each run that is done; those that it has already aren't run again",
    )
    return parser


def _interpreter(path: str) -> str:
    if shutil.which(path) is None:
        raise argparse.ArgumentTypeError(
            f"must be a Python interpreter, got {path}: docs/search_benchmarks.md says how to make one"
        )
    return path


if __name__ == "__main__":
    main()
