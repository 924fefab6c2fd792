"""Who may import whom, read from the files. The rooms are described in docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What each room of the platform may import of the others. Files beside the rooms: errors, and the commands.
ROOMS = {
    "errors": set(),
    "storage": {"errors"},
    "spec": {"errors"},
    "events": {"errors", "storage", "spec"},
    "search": {"errors", "spec", "events"},
    "worker": {"errors", "storage", "spec"},
    "tracking": {"errors", "storage", "spec", "events"},
    "display": {"errors", "storage", "spec", "events", "tracking"},
    "driver": {"errors", "storage", "spec", "events", "search", "worker", "tracking", "display"},
    "cli": {"errors", "storage", "spec", "events", "tracking", "display", "driver"},
    "best": {"errors", "storage", "spec", "events", "display", "cli"},
    "__main__": {"cli"},
}
# Who imports the libraries that one room each is about.
LIBRARIES = {
    "mlflow": {"tracking/runs.py", "tracking/batch.py", "tracking/calls.py"},
    "optuna": {"spec/space.py", "search/sampler.py"},
    "ray": {"driver", "worker", "cli"},
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


@pytest.mark.parametrize("path", sources("tuner"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_imports_one_that_it_may_not(path: Path) -> None:
    room = path.relative_to(ROOT / "tuner").parts[0].removesuffix(".py")
    if room == "__init__":
        assert not imports(path)
        return
    assert room in ROOMS, f"say in ROOMS what {room} may import"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "tuner" and len(parts) > 1 and parts[1] in ROOMS:
            assert parts[1] == room or parts[1] in ROOMS[room], f"{path} imports {name}"


@pytest.mark.parametrize("room", sorted({path.parent for path in sources("tuner")}), ids=lambda path: path.name)
def test_a_room_says_what_it_is_and_is_not_crowded(room: Path) -> None:
    files = [path for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_IN_A_ROOM, [path.name for path in files]
    if room.name != "tuner":
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))


def test_no_file_is_called_after_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "manager", "base"}
    assert not [path for package in ("fcn", "tuner") for path in sources(package) if path.stem in vague]
