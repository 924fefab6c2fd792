"""Checks on a node whether it can run a study's trials; runs there before the node's first trial.

The functions are sent by value (nodes.py), since the node may lack this package. So only the standard library is
imported until it is known that the node has the driver's packages.
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
"""A file in the study's storage with a random token: a node that reads the token has the same storage."""
LIBRARIES = ("ray", "torch")
_SHARING_SECONDS = 10.0  # a network file system may show a new file late


def software(workload: str) -> dict[str, str]:
    """What must be equal on all nodes: versions, and hashes of the code of this package and of the workload."""
    found = {"Python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "none"
    return found | {package: _code(package) for package in ("tuner", workload)}


def problem(expected: dict[str, str], workload: str, study: bytes) -> str | None:
    """Why this node can't run trials, in one sentence; None if it can. Also builds the node's cache of the data.

    expected: the driver's `software`. study: pickled, the StudySpec, its Storage, the token in MARKER, and the
    fingerprint of the driver's data, None if the workload gives none.
    """
    found = software(workload)
    for what, version in expected.items():
        if found[what] == version:
            continue
        if found[what] == "none":
            return f"{what} isn't installed there: install the same packages as on the driver's machine"
        if what in ("tuner", workload):
            return f"the code of {what} there differs from the driver's: copy the driver's project there"
        return f"{what} must be {version} as on the driver's machine, got {found[what]}: install that version there"

    from tuner.errors import StudyError
    from tuner.spec import workload as workloads
    from tuner.spec.study_file import first_configs

    spec, storage, token, fingerprint = pickle.loads(study)  # noqa: S301  # the driver's own
    until = time.monotonic() + _SHARING_SECONDS
    try:
        while storage.read_text(MARKER) != token:
            if time.monotonic() > until:
                return (
                    f"--storage {storage.uri} there isn't the folder that the driver uses: "
                    "mount the same folder on all nodes, or give a bucket"
                )
            time.sleep(0.5)
        *_, prepared = map(workloads.load(workload).prepare, first_configs(spec))
    except (StudyError, ValueError, OSError) as error:
        return " ".join(str(error).split("\n"))
    there = workloads.fingerprint(prepared)
    if fingerprint is not None and there != fingerprint:
        return (
            f"the data there must have the fingerprint {fingerprint}, as the driver's have, got {there}: bring the "
            "same data to all nodes, or resume the study if its data were changed on purpose"
        )
    return None


def _code(package: str) -> str:
    """A hash of a package's source files; "none" if there is no such package."""
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
