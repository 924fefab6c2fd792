"""A study as a job of Ray's, which gives it an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.environment import of_a_person
from tests.integration.study_process import ROOT

IN_A_TASK = """
import os, sys
import ray
from tuner.driver.cluster import connected

@ray.remote
def found():
    return os.nice(0), os.environ["MINE"]

with connected(sys.argv[1]):
    print(ray.get(found.remote()))
"""


@pytest.mark.slow
def test_a_job_that_sets_what_the_study_sets_too_has_its_own_values(shared_ray: str) -> None:
    variables = {"RAY_worker_niceness": "5", "MINE": "here"}
    # As Ray's job supervisor starts a job's command.
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": variables}, "metadata": {}})}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_TASK, shared_ray],
        cwd=ROOT,
        env=of_a_person() | variables | job,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "(5, 'here')"
