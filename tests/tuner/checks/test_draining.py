"""Which nodes are being drained, by Ray's private parts."""

from __future__ import annotations

import pytest
import ray._private.state
from ray._private.state import GlobalState

from tuner.checks.draining import draining_nodes


def test_rays_state_knows_which_nodes_are_drained_and_until_when(monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(GlobalState.get_draining_nodes)
    assert isinstance(ray._private.state.state, GlobalState)
    assert "0" in str(GlobalState.get_draining_nodes.__doc__), "no deadline is 0"
    monkeypatch.setattr(GlobalState, "get_draining_nodes", lambda self: {"a": 0, "b": 1_500})
    assert draining_nodes() == {"a": None, "b": 1.5}
