"""The folder that a job gets: what of it goes to the cluster, and how it is known to be too much."""

from __future__ import annotations

import os
from pathlib import Path

from tuner.errors import StudyError

# As in a .gitignore; those of the project's own .gitignore count as well. Ray packs the rest, under a name that is the
# hash of its content, so that what a cluster has already isn't sent again.
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
    """What to say when the cluster refuses the folder for its size: what is large in it."""
    excluded = {pattern.strip("/") for pattern in EXCLUDED}
    sizes = {entry.name: _size(entry) for entry in folder.iterdir() if entry.name not in excluded}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_SHOWN]
    found = ", ".join(f"{name} ({size / _MEGABYTE:.0f} MB)" for name, size in largest)
    return StudyError(
        f"{folder}: at most 100 MB can be submitted; the largest in it are {found}: name what trials don't need in "
        ".gitignore or .rayignore, and keep data on the nodes or in a bucket (docs/cluster.md)"
    )


def _size(path: Path) -> int:
    """Bytes of a file or of all files in a folder."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
