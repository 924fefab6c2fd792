"""Seconds that a trial costs beyond its training: what passes between the ends of trials that train nothing.

One trial at a time, three reports each. The first trial, which also starts processes, is reported apart. This project
runs as a person runs it, with its defaults (gp_curves, ASHA, MLflow): `python -m tuner run`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from benchmarks import no_op
from benchmarks.report import ROOT, Report, arguments
from benchmarks.study import clean_environment, gaps, run_study


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--syne-tune-python",
        metavar="PYTHON",
        default=sys.executable,
        help="an interpreter that has syne-tune (and torch); this one if left out",
    )
    options = parser.parse_args()
    quick = options.quick
    report = Report("Seconds between the ends of consecutive trials that train nothing, one at a time")
    with tempfile.TemporaryDirectory(prefix="trial-overhead-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        warm = {workers: _this_project(report, folder, workers, quick) for workers in (1, 2)}
        documented = {workers: _documented(report, folder, workers, quick) for workers in (1, 2)}
        for pattern, name in (("plain", "Ray Tune, plain function"), ("reused", "the same with reuse_actors=True")):
            _, seconds = _ray(folder, pattern, 1, 3 if quick else 15)
            report.median(f"{name}, one rank", "s/trial", seconds)
        _syne_tune(report, folder, options.syne_tune_python, quick)
        _optuna(report, quick)
    for workers in (1, 2):
        report.at_most(f"this project, {_ranks(workers)}", warm[workers], 0.1)
    for workers in (1, 2):
        report.at_least(
            f"Ray's documented pattern over this project, {_ranks(workers)}", documented[workers] / warm[workers], 100
        )
    report.finish(options.json)


def _this_project(report: Report, folder: Path, workers: int, quick: bool) -> float:
    first: list[float] = []
    warm: list[float] = []
    for repeat in range(1 if quick else 3):
        events = run_study(
            {
                "name": f"no_op-{workers}-{repeat}",
                "workload": no_op.__name__,
                "objective": {"metric": "score"},
                "budget": {"trials": 5 if quick else 40},
                "resources": {"workers": workers, "max_concurrent_trials": 1},
                "space": {"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}},
            },
            folder,
        )
        start, between = gaps(events)
        first.append(start)
        warm += between
    name = f"this project, {_ranks(workers)}"
    report.median(f"{name}: its first trial, processes started", "s", first)
    return report.median(name, "s/trial", warm)


def _documented(report: Report, folder: Path, workers: int, quick: bool) -> float:
    name = f"Ray's documented pattern, {_ranks(workers)}"
    first, seconds = _ray(folder, "documented", workers, 2 if quick else 6)
    report.figure(f"{name}: its first trial", "s", first)
    return report.median(name, "s/trial", seconds)


def _ray(folder: Path, pattern: str, workers: int, trials: int) -> tuple[float, list[float]]:
    output = folder / f"{pattern}-{workers}.json"
    counts = ["--workers", str(workers), "--trials", str(trials), "--output", str(output)]
    return _between([sys.executable, "-m", "benchmarks.ray_patterns", pattern, *counts], output)


def _syne_tune(report: Report, folder: Path, python: str, quick: bool) -> None:
    if subprocess.run([python, "-c", "import syne_tune"], capture_output=True).returncode:
        why = f"not measured, {Path(python).name} has no syne-tune (--syne-tune-python)"
        report.missing("Syne Tune, local backend, one rank", "s/trial", why)
        return
    script = str(ROOT / "benchmarks" / "syne_tune_local.py")
    for sleep, note in ((5.0, "its default look every 5 s"), (0.1, "a look every 0.1 s")):
        output = folder / f"syne-tune-{sleep}.json"
        _, seconds = _between([python, script, "2" if quick else "8", str(sleep), str(output)], output)
        report.median(f"Syne Tune, local backend, {note}, one rank", "s/trial", seconds)


def _optuna(report: Report, quick: bool) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ends = [time.time()]

    def objective(trial: optuna.Trial) -> float:
        learning_rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        command = [sys.executable, "-m", "benchmarks.no_op", str(learning_rate)]
        lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        return float(lines[-1])

    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=3 if quick else 15, callbacks=[lambda *_: ends.append(time.time())])
    report.median("Optuna, a process a trial, one rank", "s/trial", _differences(ends)[1:])


def _between(command: list[str], output: Path) -> tuple[float, list[float]]:
    """Run a command that writes times: seconds to the first trial's end, then between ends."""
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    first, *others = _differences(json.loads(output.read_text()))
    return first, others


def _differences(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def _ranks(workers: int) -> str:
    return "one rank" if workers == 1 else "two ranks"


if __name__ == "__main__":
    main()
