"""Ray Tune as its documentation shows it, over no_op's training function, in a process of its own.

    python -m benchmarks.ray_patterns PATTERN --workers N --trials N --output FILE

PATTERN: documented is a Tune function that calls TorchTrainer(...).fit(); plain is a Tune function that trains itself;
reused is the same with reuse_actors=True. FILE gets the seconds since 1970 at which the run began and each trial ended.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import ray.tune
from ray.tune.integration.ray_train import TuneReportCallback

from benchmarks import no_op


class Ends(ray.tune.Callback):
    def __init__(self) -> None:
        self.times = [time.time()]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        del iteration, trials, trial, info
        self.times.append(time.time())


def train_on_worker(config: dict[str, Any]) -> None:
    no_op.train(no_op.Config(**config), report=lambda metrics, _: ray.train.report(metrics))


def documented(workers: int, folder: str) -> Any:
    def driver(config: dict[str, Any]) -> None:
        callbacks: list[Any] = [TuneReportCallback()]  # type: ignore[no-untyped-call]
        trainer = ray.train.torch.TorchTrainer(
            train_on_worker,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(num_workers=workers),
            run_config=ray.train.RunConfig(
                name=f"train-{ray.tune.get_context().get_trial_id()}",
                storage_path=folder,
                callbacks=callbacks,
            ),
        )
        trainer.fit()

    # The workers' CPUs are asked for by the trainer; the driver's share must leave them free.
    return ray.tune.with_resources(driver, {"CPU": 0.01})


def plain(config: dict[str, Any]) -> None:
    no_op.train(no_op.Config(**config), report=lambda metrics, _: ray.tune.report(metrics))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", choices=("documented", "plain", "reused"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    # One CPU more than the workers use: drivers take a share of one.
    ray.init(address="local", num_cpus=len(os.sched_getaffinity(0)) + 1, include_dashboard=False)
    ends = Ends()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        results = ray.tune.Tuner(
            documented(options.workers, folder) if options.pattern == "documented" else plain,
            param_space={"learning_rate": ray.tune.loguniform(1e-4, 1e-1)},
            tune_config=ray.tune.TuneConfig(
                num_samples=options.trials,
                max_concurrent_trials=1,
                reuse_actors=options.pattern == "reused",
            ),
            run_config=ray.tune.RunConfig(storage_path=folder, callbacks=[ends]),
        ).fit()
    ray.shutdown()
    if results.errors:
        raise SystemExit(f"a trial failed: {results.errors[0]}")
    options.output.write_text(json.dumps(ends.times), encoding="utf-8")


if __name__ == "__main__":
    main()
