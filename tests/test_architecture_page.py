"""The map of the tree, docs/architecture.md, and docstrings that refer to files, checked against the tree itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PATH = re.compile(r"\b((?:tuner|fcn|tests|docs|search_spaces|benchmarks)/[\w./]+\.(?:py|md|toml))\b")


def test_every_file_that_the_architecture_page_walks_through_exists() -> None:
    paths = re.findall(r"`([\w/]+\.py)`", PAGE.read_text(encoding="utf-8"))
    assert paths
    roots = [ROOT, ROOT / "tuner", ROOT / "fcn"]
    assert [path for path in paths if not any((root / path).is_file() for root in roots)] == []


def missing_names(page: str) -> list[str]:
    """Paths that the trees of the page name and that don't exist; a name ends at two spaces or the line's end."""
    package, room, missing = "", "", []
    for line in page.splitlines():
        if top := re.fullmatch(r"    (\w+)/", line):
            package = top[1]
        elif found := re.match(r"( {6}| {23})((?:[\w.]+/?, )*[\w.]+/?)(?=  |$| [a-z(])", line):
            names = found[2].split(", ")
            if len(found[1]) == 6:
                room = names[0].removesuffix("/")
                paths = [Path(package, name if "/" in name else f"{name.removesuffix('.py')}.py") for name in names]
            else:
                paths = [Path(package, room, f"{name}.py") for name in names]
            missing += [str(path) for path in paths if not (ROOT / path).exists()]
    return missing


def test_every_name_in_the_trees_of_the_architecture_page_is_a_file_or_folder() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert missing_names(page) == []
    assert missing_names(page.replace("report_queue   ", "passer   ")) == ["tuner/worker/passer.py"]
    assert missing_names(page.replace("  display/  ", "  screen/  ")) == ["tuner/screen"]


@pytest.mark.parametrize("package", ["tuner", "fcn", "docs"])
def test_every_path_that_a_docstring_comment_or_page_names_exists(package: str) -> None:
    stale = []
    for file in sorted((ROOT / package).rglob("*")):
        if file.suffix in (".py", ".md"):
            for path in PATH.findall(file.read_text(encoding="utf-8")):
                if not (ROOT / path).exists():
                    stale.append(f"{file.relative_to(ROOT)} names {path}")
    assert stale == []


def test_every_module_that_a_docstring_or_comment_of_the_platform_names_exists() -> None:
    known = {path.name for package in ("tuner", "fcn", "tests") for path in (ROOT / package).rglob("*.py")}
    named = {
        f"{file.relative_to(ROOT)} names {name}"
        for file in (ROOT / "tuner").rglob("*.py")
        for name in re.findall(r"\b\w+\.py\b", file.read_text(encoding="utf-8"))
        if name not in known
    }
    assert named == set()
