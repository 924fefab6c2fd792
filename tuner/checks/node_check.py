"""Whether a node can run a study's trials: this file's functions run there, before the node's first trial.

Ray gets them by value (nodes.py), since the node may lack this package: nothing but the standard library is imported
before it is known that the node has the same packages as the driver.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import pickle
import platform
import time
from pathlib import Path

MARKER = "shared.txt"
"""In the study's storage: a random token, which a node must be able to read there."""
LIBRARIES = ("ray", "torch")
_SHARING_SECONDS = 10.0  # a network file system may show a new file late


def software(workload: str) -> dict[str, str]:
    """What must be the same on all nodes: versions, and of this package and the workload, the code itself."""
    found = {"Python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "none"
    return found | {package: _code(package) for package in ("tuner", workload)}


def problem(expected: dict[str, str], workload: str, study: bytes) -> str | None:
    """Why this node can't run trials, in one sentence; None if it can. Builds the node's cache of the data.

    expected: the driver's `software`. study: pickled, the study's checked file, its storage, and the marker's token.
    """
    found = software(workload)
    for what, version in expected.items():
        if found[what] == version:
            continue
        if found[what] == "none":
            return f"{what} can't be imported there: install there what the driver's machine has"
        if what in ("tuner", workload):
            return f"its code of {what} isn't the driver's: copy the same project there"
        return f"{what} must be {version}, as the driver's, got {found[what]}: install that version there"

    from tuner.errors import StudyError
    from tuner.spec import workload as workloads
    from tuner.spec.study_file import first_config

    spec, storage, token = pickle.loads(study)  # noqa: S301  # the driver's own
    until = time.monotonic() + _SHARING_SECONDS
    try:
        while storage.read_text(MARKER) != token:
            if time.monotonic() > until:
                return (
                    f"--storage {storage.uri} there isn't the driver's: "
                    "mount the same folder on all nodes, or give a bucket"
                )
            time.sleep(0.5)
        workloads.load(workload).prepare(first_config(spec))
    except (StudyError, ValueError, OSError) as error:
        return " ".join(str(error).split("\n"))
    return None


def _code(package: str) -> str:
    """A hash of a package's source files, "none" if there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        return "none"
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(folder, file) for folder in folders for file in folder.rglob("*.py")]
    if not folders and spec.origin:
        files = [(Path(spec.origin).parent, Path(spec.origin))]
    digest = hashlib.sha256()
    for name, file in sorted((str(file.relative_to(folder)), file) for folder, file in files):
        digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
