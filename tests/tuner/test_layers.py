"""Who may import whom, read from the files: design.md's rules."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A module imports only what stands on a line below its own.
LAYERS = [
    {"__main__"},
    {"cli", "best"},
    {"options"},
    {"run"},
    {"report", "show"},
    {"progress", "watchdog"},
    {"tune_adapter"},
    {"recorder", "sampler", "slots"},
    {"group"},
    {"trial", "tracking_process", "retention"},
    {"tracking"},
    {"tracking_events"},
    {"tracking_batch", "tracking_pictures"},
    {"tracking_runs"},
    {"tracking_calls", "tracking_names", "tracking_address"},
    {"snapshots"},
    {"patience"},
    {"process"},
    {"torch_process"},
    {"record", "checkpoints", "cluster"},
    {"journal"},
    {"bucket"},
    {"report_queue", "early_stopping"},
    {"study"},
    {"tracking_state"},
    {"space", "workload", "storage", "fate", "messages", "death", "control"},
    {"errors", "address", "files", "scratch"},
]


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: an import says where from"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources("fcn"), ids=lambda path: path.stem)
def test_the_trainer_knows_nothing_of_the_platform(path: Path) -> None:
    assert not packages(path) & {"ray", "optuna", "mlflow", "tuner"}


@pytest.mark.parametrize("path", sources("tuner"), ids=lambda path: path.stem)
def test_the_platform_knows_no_trainer(path: Path) -> None:
    assert "fcn" not in packages(path)


@pytest.mark.parametrize("path", sources("tuner"), ids=lambda path: path.stem)
def test_mlflow_and_optuna_stay_in_their_files(path: Path) -> None:
    # One file makes the client and the runs, one the batches; one has to tell MLflow's refusals from an outage.
    if path.stem not in ("tracking_runs", "tracking_batch", "tracking_calls", "best"):
        assert "mlflow" not in packages(path)
    if path.stem not in ("space", "sampler"):
        assert "optuna" not in packages(path)


@pytest.mark.parametrize("path", sources("tuner"), ids=lambda path: path.stem)
def test_no_file_of_the_platform_imports_upward(path: Path) -> None:
    if path.stem == "__init__":
        assert not imports(path)
        return
    rank = {name: row for row, names in enumerate(LAYERS) for name in names}
    assert path.stem in rank, f"say in LAYERS where {path.name} stands"
    for name in imports(path):
        package, _, module = name.partition(".")
        module = module.partition(".")[0]
        if package == "tuner" and module in rank:
            assert rank[module] > rank[path.stem], f"{path.stem} imports {module}"


def test_no_file_is_called_after_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "base"}
    assert not [path for package in ("fcn", "tuner") for path in sources(package) if path.stem in vague]
