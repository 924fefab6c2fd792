"""One of Syne Tune's schedulers, asked and told over standard input and output, under an interpreter that has it.

    PYTHON -I benchmarks/curves/syne_tune_process.py --baselines
    PYTHON -I benchmarks/curves/syne_tune_process.py

The first prints the names of the baselines that this Syne Tune has, as a JSON list. The second reads a line of JSON,
what `scheduler_of` takes, and then requests, a line each; every line is answered by one, the first by {}:

    {"call": "next"}                                                  {"trial": 0, "params": {…}}
    {"call": "report", "trial": 0, "epoch": 1, "value": 0.5}          {"verdict": "CONTINUE"}, "PAUSE" or "STOP"
    {"call": "end", "trial": 0, "state": "finished"}                  {}; or "stopped", "failed"

Each answer also has `cpu_seconds`, what the scheduler has used so far. It is called as Syne Tune's own Tuner calls it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import random
import sys
import time
from datetime import datetime
from typing import Any, TextIO

# The second is where releases 0.14 keep what later ones dropped.
_MODULES = ("syne_tune.optimizer.baselines", "syne_tune.optimizer.legacy_baselines")
_METRIC, _RESOURCE = "score", "epoch"


def baselines() -> dict[str, Any]:
    """By name, the classes of this interpreter's baselines; none if it has no Syne Tune."""
    found: dict[str, Any] = {}
    for name in reversed(_MODULES):
        try:
            module = importlib.import_module(name)
        except ImportError:  # no such module in this release, or one that needs extras which weren't installed
            continue
        found |= {key: each for key, each in vars(module).items() if getattr(each, "__module__", None) == name}
    return found


def scheduler_of(
    baseline: str, space: dict[str, dict[str, Any]], direction: str, epochs: int, seed: int, options: dict[str, Any]
) -> Any:
    """space: as a study file has it. epochs: of a full training. options: what differs from the baseline's defaults."""
    import numpy as np

    # Some of its searchers draw from the global generators.
    random.seed(seed)
    np.random.seed(seed)
    found = baselines()[baseline]
    common = {
        "config_space": {name: _domain(entry) for name, entry in space.items()},
        "metric": _METRIC,
        "max_t": epochs,
        "random_seed": seed,
    } | options
    if "do_minimize" in inspect.signature(found).parameters:
        return found(**common, time_attr=_RESOURCE, do_minimize=direction == "minimize")
    mode = "min" if direction == "minimize" else "max"
    return found(**common, resource_attr=_RESOURCE, mode=mode, search_options={"debug_log": False})


def _domain(entry: dict[str, Any]) -> Any:
    from syne_tune import config_space

    kinds = {
        ("float", False): config_space.uniform,
        ("float", True): config_space.loguniform,
        ("int", False): config_space.randint,
        ("int", True): config_space.lograndint,
    }
    return kinds[entry["type"], entry.get("log", False)](entry["low"], entry["high"])


class Trials:
    """A scheduler's trials, by number."""

    def __init__(self, scheduler: Any):
        self._scheduler = scheduler
        self._trials: list[Any] = []
        self._last: dict[int, dict[str, Any]] = {}
        self._numbered = bool(inspect.signature(scheduler.suggest).parameters)
        """Whether suggest takes the new trial's number, as up to release 0.14."""

    def next(self) -> dict[str, Any]:
        from syne_tune.backend.trial_status import Trial

        number = len(self._trials)
        suggestion = self._scheduler.suggest(number) if self._numbered else self._scheduler.suggest()
        if not suggestion.spawn_new_trial_id:
            number = suggestion.checkpoint_trial_id
        else:
            self._trials.append(Trial(number, suggestion.config, datetime.now()))
            self._scheduler.on_trial_add(self._trials[-1])
        return {"trial": number, "params": self._trials[number].config}

    def report(self, trial: int, epoch: int, value: float) -> dict[str, Any]:
        self._last[trial] = {_METRIC: value, _RESOURCE: epoch}
        verdict = self._scheduler.on_trial_result(self._trials[trial], dict(self._last[trial]))
        if verdict == "PAUSE":
            self._scheduler.on_trial_remove(self._trials[trial])
        return {"verdict": verdict}

    def end(self, trial: int, state: str) -> dict[str, Any]:
        if state == "finished":
            self._scheduler.on_trial_complete(self._trials[trial], self._last[trial])
        elif state == "stopped":
            self._scheduler.on_trial_remove(self._trials[trial])
        else:
            self._scheduler.on_trial_error(self._trials[trial])
        return {}


def answer(requests: TextIO, answers: TextIO) -> None:
    began = time.process_time()
    trials: Trials | None = None
    for line in requests:
        request = json.loads(line)
        found: dict[str, Any] = {}
        if trials is None:
            trials = Trials(scheduler_of(**request))
            began = time.process_time()  # what it takes to import Syne Tune isn't the scheduler's
        else:
            found = getattr(trials, request.pop("call"))(**request)
        print(json.dumps(found | {"cpu_seconds": time.process_time() - began}), file=answers, flush=True)


if __name__ == "__main__":
    # What Syne Tune prints goes to standard error: standard output has the answers alone.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.disable(logging.WARNING)
    if "--baselines" in sys.argv:
        print(json.dumps(sorted(baselines())), file=out, flush=True)
    else:
        answer(sys.stdin, out)
