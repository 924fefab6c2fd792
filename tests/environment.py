"""The environment of processes that tests start as a person starts them."""

from __future__ import annotations

import os


def of_a_person() -> dict[str, str]:
    """Nothing of the Ray, the MLflow and the pytest that this process may have."""
    own = ("RAY_", "MLFLOW_", "PYTEST_")
    return {key: value for key, value in os.environ.items() if not key.startswith(own)}
