"""constraints.txt, the versions that nodes, images and CI install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINNED = {
    canonicalize_name(name): version
    for name, _, version in (
        line.partition("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
}


@pytest.mark.parametrize(
    "requirement", [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]], ids=lambda text: text
)
def test_every_dependency_is_held_to_a_version_that_the_project_allows(requirement: str) -> None:
    """Where this fails after a change of pyproject.toml: make lock."""
    needed = Requirement(requirement)
    assert needed.specifier.contains(PINNED[canonicalize_name(needed.name)]), "make lock"


def test_it_says_which_python_it_was_made_with() -> None:
    first = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[0]
    assert re.search(r"Python 3\.1[123]\.\d+", first)


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/on_prem.yaml", "deploy/gcp.yaml"])
def test_every_node_installs_these_versions(name: str) -> None:
    installs = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if "pip install" in line]
    assert installs
    assert all("-c ~/fcn-tuner/constraints.txt" in line for line in installs if not line.startswith("#"))
