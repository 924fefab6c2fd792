"""cluster.yaml, as far as it can be checked without an account at AWS."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PATH = Path(__file__).parent.parent / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    return loaded


def test_ray_accepts_the_cluster_file_for_machines_of_one_s_own() -> None:
    on_prem = yaml.safe_load((PATH.parent / "deploy" / "on_prem.yaml").read_text(encoding="utf-8"))
    validate_config(prepare_config(on_prem))
    assert "--dashboard-host=127.0.0.1" in " ".join(on_prem["head_start_ray_commands"])


def test_ray_accepts_the_cluster_file(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_workers_come_only_when_trials_wait(config: dict[str, Any]) -> None:
    assert config["available_node_types"]["gpu_worker"]["min_workers"] == 0
    assert config["available_node_types"]["gpu_worker"]["max_workers"] == config["max_workers"]


def test_servers_on_the_head_listen_on_loopback(config: dict[str, Any]) -> None:
    commands = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands
    assert "mlflow server --host 127.0.0.1" in commands
    assert "0.0.0.0" not in commands
