"""What holds for all tests."""

import os

import pytest

# Tests run side by side: two threads in each would only wait for each other. torch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: they mostly wait for Ray, and short ones then fill what they leave of the cores."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
