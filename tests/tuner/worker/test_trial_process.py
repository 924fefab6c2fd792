"""What a trial's process must import before it can train."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import ray.tune
from ray import cloudpickle

from tests.studies import study_spec
from tuner.driver.cluster import plan
from tuner.storage.storage import Storage
from tuner.worker.trial_process import InDriver, tune_function


def test_what_tune_sends_to_a_trials_process_names_nothing_of_the_driver(tmp_path: Path) -> None:
    spec = study_spec()
    planned = plan(spec.resources, 2, 0)
    request = InDriver(lambda config: planned.trial_request(config["gpus"], config["slot_number"]))
    given = ray.tune.with_resources(tune_function(spec, Storage(str(tmp_path)), None), request)
    pickled: bytes = cloudpickle.dumps(given)  # type: ignore[no-untyped-call]
    assert b"tuner.worker" in pickled
    assert b"tuner.driver" not in pickled
    # Tune pickles it for its driver too.
    there = cloudpickle.loads(pickled)
    assert there._resources({"gpus": 0, "slot_number": 1}).required_resources["CPU"] == 1


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("tuner.worker.trial_process", ["mlflow", "optuna", "scipy", "tuner.driver", "tuner.search"]),
        ("tuner.driver.run", ["mlflow", "cmaes", "sklearn", "scipy.stats", "torch"]),
        ("tuner.driver.local_ray", ["ray"]),  # the process that ends Ray's with the driver
        ("tuner.report.report", ["sklearn"]),
        ("tuner.spot", ["ray", "pandas"]),  # a process on every worker of a cluster
    ],
)
def test_a_process_starts_without_packages_that_it_does_not_use(module: str, without: list[str]) -> None:
    code = f"import sys, {module}; print(*set({without!r}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
