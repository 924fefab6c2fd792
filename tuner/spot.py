"""python -m tuner.spot: drains this machine's Ray node when the cloud announces that it takes the machine away.

cluster.yaml and deploy/gcp.yaml start it on each worker, beside Ray. A study then moves the node's trials, with a
checkpoint and without counting a retry.
"""

from __future__ import annotations

import socket
import time
from typing import Annotated

import typer

from tuner.checks.spot_notice import Cloud, NoMetadataError, gone_at
from tuner.cli.options import run_app
from tuner.errors import StudyError

_POLL_SECONDS = 5.0  # as often as Amazon recommends
_FIRST_ANSWER_SECONDS = 14.0
_RETRY_SECONDS = 1.0

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def main(
    cloud: Annotated[Cloud, typer.Argument(help="Whose machine this is.")],
    address: Annotated[
        str, typer.Option("--address", metavar="ADDR", help="The Ray that this machine is a node of.")
    ] = "auto",
) -> None:
    """Drain this machine's Ray node when the cloud announces that it takes the machine away. Runs until then."""
    # A name that one process at a time may have, and that is free when this one ends, however it ends.
    with socket.socket(socket.AF_UNIX) as name:
        try:
            name.bind(f"\0tuner.spot {address}")
        except OSError:
            _say("another process on this machine waits for the notice already")
            return
        until = _notice(cloud)
        _say(f"{cloud} takes this machine away in {until - time.time():.0f} s: its Ray node is drained")
        _drain(address, until, cloud)
        _say("Ray knows it: the node gets no new trials, and those that it has move")


def _notice(cloud: Cloud) -> float:
    """Wait until the cloud announces that it takes this machine away. Returns when, in seconds since 1970.

    Raises StudyError if the cloud's metadata server doesn't answer at first, for a quarter of a minute.
    """
    began, answered, failing = time.monotonic(), False, False
    while True:
        try:
            found = gone_at(cloud)
            if found is not None:
                return found
            if not answered:
                _say(f"waiting for {cloud}'s notice that it takes this machine away")
            answered, failing = True, False
        except NoMetadataError as error:
            if not answered and time.monotonic() - began > _FIRST_ANSWER_SECONDS:
                raise StudyError(
                    f"{cloud}: the metadata server of a machine of this cloud is needed, got: {error}: "
                    "run this on such a machine"
                ) from None
            if not failing:
                _say(f"the metadata server doesn't answer, asking again: {error}")
            failing = True
        time.sleep(_POLL_SECONDS)


def _drain(address: str, until: float, cloud: Cloud) -> None:
    """Drain the node. Raises StudyError if Ray couldn't be told until the machine is gone."""
    # Imported here: until there is a notice, the process stays small.
    from tuner.checks.draining import drain_this_node

    while True:
        try:
            return drain_this_node(address, until, f"{cloud} takes this machine away")
        except StudyError:
            if time.time() > until:
                raise
        time.sleep(_RETRY_SECONDS)


def _say(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    run_app(app)
