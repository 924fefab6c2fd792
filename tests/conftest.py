"""What holds for all tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: they mostly wait for Ray, and short ones then fill what they leave of the cores."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
