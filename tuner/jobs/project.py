"""The project folder that is sent with a job: which files are excluded, and the error if it is too large."""

from __future__ import annotations

import os
from pathlib import Path

from tuner.errors import StudyError

# In the syntax of .gitignore; the project's own .gitignore is respected too. Ray packs the other files, and names the
# package by a hash of its contents: one that the cluster already has isn't sent again.
EXCLUDED = [
    ".git/",
    ".venv/",
    "__pycache__/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    "*.egg-info/",
    "/data/",
    "/studies/",
    "/exports/",
    "/runs/",
    "/demo/",
    "/mlruns/",
]
_MEGABYTE = 1024**2
_SHOWN = 3


def study_file_within(folder: Path, study_file: Path) -> Path:
    """The study file's path as the job sees it, relative to the folder. Raises StudyError if it lies elsewhere."""
    try:
        return study_file.resolve().relative_to(folder.resolve())
    except ValueError:
        raise StudyError(
            f"{study_file}: a study file in the folder that is submitted is needed, got one outside "
            f"{folder.resolve()}; run the command in the project's folder, or move the file there"
        ) from None


def too_large(folder: Path) -> StudyError:
    """The error for a folder that is too large to be sent, with its largest entries."""
    excluded = {pattern.strip("/") for pattern in EXCLUDED}
    sizes = {entry.name: _size(entry) for entry in folder.iterdir() if entry.name not in excluded}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_SHOWN]
    found = ", ".join(f"{name} ({size / _MEGABYTE:.0f} MB)" for name, size in largest)
    return StudyError(
        f"{folder}: at most 100 MB can be submitted; the largest in it are {found}: list what trials don't need in "
        ".gitignore or .rayignore, and keep data on the nodes or in a bucket (docs/cluster.md)"
    )


def _size(path: Path) -> int:
    """Bytes of a file or of all files in a folder."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
