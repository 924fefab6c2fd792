"""Ray's own messages in a study's output."""

from __future__ import annotations

import inspect

import pytest
import ray._private.worker

from tuner.driver.cluster import message_line, messages_shortened

LOST = (
    "The node with node id: 7014003d and address: 10.79.0.14 and node name: 10.79.0.14 has been marked dead because "
    "the detector has missed too many heartbeats from it. This can happen when a \t(1) raylet crashes\n\t(2) raylet"
)


def test_a_lost_node_is_left_to_the_studys_own_words() -> None:
    assert message_line(LOST) is None
    assert message_line("Raylet is terminated. Termination is unexpected.\n    [state-dump] 100 lines\n") is None


def test_another_message_is_one_line_of_at_most_300_characters() -> None:
    assert message_line("A worker died:\n\n\tout of memory\n") == "Ray: A worker died: out of memory"
    assert message_line("word " * 100) == f"Ray: {('word ' * 100)[:300]} …"
    assert message_line("\n") is None


def test_what_ray_prints_goes_through_here_within_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    original = ray._private.worker.print_to_stdstream
    with messages_shortened():
        for message in (LOST, "something\nelse"):
            ray._private.worker.print_to_stdstream(
                {"lines": [message], "pid": "raylet", "is_err": False}, ignore_prefix=False
            )
    assert capsys.readouterr().out == "Ray: something else\n"
    assert ray._private.worker.print_to_stdstream is original
    # Its thread that waits for messages looks the function up each time.
    assert "print_to_stdstream(" in inspect.getsource(ray._private.worker.listen_error_messages)
