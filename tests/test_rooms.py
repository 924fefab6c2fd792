"""Who may import whom, read from the files. The rooms are described in docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each room may import of the others in its package, everything below it included. A file beside the rooms is one.
TUNER = [
    {"__main__"},
    {"best", "spot"},
    {"cli", "python"},
    {"driver"},
    {"report"},
    {"results"},
    {"display"},
    {"checks"},
    {"tracking", "worker", "search", "jobs"},
    {"events"},
    {"spec", "storage"},
    {"errors"},
]
FCN = [
    {"__main__"},
    {"cli"},
    {"training", "kitti"},
    {"prediction"},
    {"formats"},
    {"evaluation"},
    {"inputs"},
    {"model"},
    {"data"},
    {"device", "memory"},
    {"config", "distributed", "files"},
    {"errors", "presets"},
]
# Who imports the libraries that one room each is about.
LIBRARIES = {
    "mlflow": {"tracking/runs.py", "tracking/batch.py", "tracking/calls.py"},
    "optuna": {"spec/space.py", "search"},
    "ray": {"driver", "worker", "cli", "jobs", "checks"},
}
MOST_IN_A_ROOM = 13


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


@pytest.mark.parametrize("path", sources("tuner"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_library_is_imported_where_it_belongs(path: Path) -> None:
    place = path.relative_to(ROOT / "tuner")
    for library, homes in LIBRARIES.items():
        if library in packages(path):
            assert {str(place), place.parts[0]} & homes, f"{place} imports {library}"


@pytest.mark.parametrize(("package", "floors"), [("tuner", TUNER), ("fcn", FCN)])
def test_no_room_imports_one_beside_it_or_above_it(package: str, floors: list[set[str]]) -> None:
    floor = {room: number for number, rooms in enumerate(floors) for room in rooms}
    for path in sources(package):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue  # it names what the rooms have for others
        assert room in floor, f"say where {room} stands among the rooms of {package}"
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1 and parts[1] in floor and parts[1] != room:
                assert floor[parts[1]] > floor[room], f"{path} imports {name}"


@pytest.mark.parametrize(
    "room",
    sorted({path.parent for package in ("fcn", "tuner") for path in sources(package)}),
    ids=lambda path: path.name,
)
def test_a_room_says_what_it_is_and_is_not_crowded(room: Path) -> None:
    files = [path for path in room.iterdir() if path.name not in ("__init__.py", "__pycache__")]
    assert len(files) <= MOST_IN_A_ROOM or room.parent == ROOT, [path.name for path in files]
    assert room.name == "tuner" or ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))


def test_no_file_is_called_after_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "base"}
    assert not [path for package in ("fcn", "tuner") for path in sources(package) if path.stem in vague]
