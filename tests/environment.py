"""The environment of processes that tests start as a person starts them."""

from __future__ import annotations

import os

FAIR_SHARE = {"RAY_worker_niceness": "0"}
"""Ray runs its workers at nice 15. Beside another test that computes they would get a thirtieth of a core, and a study
of seconds would take minutes."""


def of_a_person() -> dict[str, str]:
    """Nothing of the Ray, the MLflow and the pytest that this process may have."""
    own = ("RAY_", "MLFLOW_", "PYTEST_")
    return {key: value for key, value in os.environ.items() if not key.startswith(own)} | FAIR_SHARE
