"""Ways to other clusters in deploy/: what of them can be read without one."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args
from typer.testing import CliRunner

from tuner.cli.app import app

DEPLOY = Path(__file__).parent.parent / "deploy"
SCRIPT = (DEPLOY / "slurm.sh").read_text(encoding="utf-8")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def study_commands() -> dict[str, str]:
    """The command that starts a study, in each file that has one."""
    job, _ = documents("kuberay.yaml")
    (sky,) = documents("sky.yaml")
    return {"kuberay.yaml": job["spec"]["entrypoint"], "slurm.sh": SCRIPT, "sky.yaml": sky["run"]}


@pytest.mark.parametrize(("name", "text"), study_commands().items(), ids=study_commands())
def test_a_study_that_a_job_scheduler_restarts_continues(name: str, text: str) -> None:
    """By the command line itself: every option that is given is one of `run`'s."""
    found = re.search(r"python -m tuner (run\b(?:\\\n|[^\n])*)", text)
    assert found
    words = shlex.split(found[1].replace("\\\n", " "))
    assert "--or-resume" in words
    assert "--name" in words, "a name that doesn't follow from the file's place"
    options = {word for word in words if word.startswith("--")}
    assert options <= set(
        re.findall(r"--[a-z-]+", CliRunner().invoke(app, ["run", "--help"], terminal_width=200).output)
    )


def test_a_failed_ray_job_is_tried_again_on_a_cluster_with_a_token_whose_head_takes_no_trials() -> None:
    job, policy = documents("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["shutdownAfterJobFinishes"]
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    # A port is open to pods of the job alone, and to what starts them.
    assert policy["kind"] == "NetworkPolicy"
    assert policy["spec"]["podSelector"] == policy["spec"]["ingress"][0]["from"][0]["podSelector"]
    images = [
        container["image"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
        for container in group["template"]["spec"]["containers"]
    ]
    assert len(set(images)) == 1, "one Python, one Ray"


def test_kubernetes_gets_the_ray_that_the_image_installs() -> None:
    job, _ = documents("kuberay.yaml")
    constraints = (DEPLOY.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in constraints


def test_the_image_has_the_python_of_the_constraints_and_everything_that_is_copied_exists() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (python,) = [line.partition(":")[2].split("-")[0] for line in lines if line.startswith("FROM ")]
    constraints = (DEPLOY.parent / "constraints.txt").read_text(encoding="utf-8")
    assert f"Python {python}" in constraints.splitlines()[0]
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied
    kept = (DEPLOY.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for word in copied:
        assert (DEPLOY.parent / word).exists()
        assert f"!{word}" in kept
    # Packages that are installed without being copied would be missing in the image.
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied)


def test_shellcheck_finds_nothing_in_the_script_for_slurm() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    done = subprocess.run(["shellcheck", DEPLOY / "slurm.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_ray_takes_the_options_that_slurm_starts_it_with() -> None:
    found = re.search(r"ray symmetric-run (.*?) -- ", SCRIPT.replace("\\\n", ""))
    assert found
    words = [word.replace("$SLURM_CPUS_PER_TASK", "8").replace("$SLURM_NNODES", "4") for word in shlex.split(found[1])]
    assert curate_and_validate_ray_start_args(words) == ["--num-cpus=8", "--include-dashboard=false"]


def test_no_token_is_given_on_a_command_line() -> None:
    for path in DEPLOY.iterdir():
        assert not re.search(r"RAY_AUTH_TOKEN=", path.read_text(encoding="utf-8")), path.name
