"""Syne Tune's local backend over no_op's training function, under whatever interpreter has Syne Tune.

    python benchmarks/syne_tune_local.py TRIALS SLEEP_SECONDS FILE

SLEEP_SECONDS: between two looks of its tuner at the trials; 5 by default there. FILE gets the seconds since 1970 at
which the run began and each trial ended. As the trials' own entry point it is called with --learning_rate alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def trial(learning_rate: float) -> None:
    from syne_tune import Reporter

    from benchmarks import no_op

    reporter = Reporter()

    def report(metrics: dict[str, float], _: None) -> None:
        reporter(epoch=int(metrics["epoch"]), score=metrics["score"])

    no_op.train(no_op.Config(learning_rate=learning_rate), report=report)


def study(trials: int, sleep_seconds: float, output: Path) -> None:
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import loguniform
    from syne_tune.optimizer.baselines import RandomSearch
    from syne_tune.tuner_callback import TunerCallback

    class Ends(TunerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times = [time.time()]

        def on_trial_complete(self, trial: Any, result: dict[str, Any]) -> None:
            del trial, result
            self.times.append(time.time())

    ends = Ends()
    Tuner(
        trial_backend=LocalBackend(entry_point=__file__),
        scheduler=RandomSearch({"learning_rate": loguniform(1e-4, 1e-1)}, metrics=["score"]),
        stop_criterion=StoppingCriterion(max_num_trials_completed=trials),
        n_workers=1,
        sleep_time=sleep_seconds,
        callbacks=[ends],
        save_tuner=False,
    ).run()
    output.write_text(json.dumps(ends.times), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if "--learning_rate" in sys.argv:
        os.environ["PYTHONPATH"] = str(ROOT)
        trial(float(sys.argv[sys.argv.index("--learning_rate") + 1]))
    else:
        study(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
