"""What is written to one run at once: parameters, metrics and tags, in as few calls as MLflow takes them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.tracking.calls import RefusalError, repeated
from tuner.tracking.names import fit_name, fit_param, fit_tag
from tuner.tracking.runs import Runs
from tuner.tracking.state import TrackingState

# MLflow takes 1000 metrics, tags and parameters together in a call, of the latter two at most 100 each, and 1 MB.
_METRICS_A_CALL = 800
_OTHERS_A_CALL = 100
_BYTES_A_CALL = 800_000


@dataclass
class Batch:
    """What one step logs to one run. Each call is a transaction, so a batch takes as few calls as possible."""

    params: dict[str, Any] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    """Name, value, milliseconds since 1970, step."""
    tags: dict[str, str] = field(default_factory=dict)


class BatchWriter:
    """Sends batches. Items that MLflow refuses are found by bisection, and skipped."""

    def __init__(self, runs: Runs, state: TrackingState, took: Callable[[], None]):
        """took: called after each call that MLflow took."""
        self._runs, self._state, self._took = runs, state, took

    def send(self, run: str, name: str, batch: Batch) -> None:
        """Send a batch; idempotent. name: the run's name in messages. Raises what MLflow raises in an outage."""
        from mlflow.entities import Metric, Param, RunTag

        params = {fit_name(key): fit_param(value) for key, value in batch.params.items()}
        if params and run not in self._runs.known:
            # Parameters can't change in MLflow: what is there stays, which a resume relies on.
            there = repeated(lambda: self._runs.client.get_run(run)).data.params
            params = {key: value for key, value in params.items() if key not in there}
        items: list[Any] = [Param(key, value) for key, value in params.items()]
        items += [RunTag(fit_name(key), fit_tag(value)) for key, value in batch.tags.items()]
        items += [Metric(fit_name(key), value, at, step) for key, value, at, step in batch.metrics]
        for call in _calls(items):
            self._send(run, name, call)

    def _send(self, run: str, name: str, items: Sequence[Any]) -> None:
        params, tags, metrics = (
            [item for item in items if type(item).__name__ == kind] for kind in ("Param", "RunTag", "Metric")
        )
        try:
            repeated(lambda: self._runs.client.log_batch(run, metrics=metrics, params=params, tags=tags))
            self._took()
        except RefusalError as refusal:
            # Asked of a server that is there: what refuses everything is an outage.
            if self._runs.is_deleted(run):
                self._state.skip(f"{name}: its run was deleted in MLflow, what came later is not in it")
            elif len(items) == 1:
                kind = {"Param": "hyperparameter", "RunTag": "tag", "Metric": "metric"}[type(items[0]).__name__]
                self._state.skip(f"{name}, {kind} {items[0].key!r}: {refusal}")
            else:
                for half in (items[: len(items) // 2], items[len(items) // 2 :]):
                    self._send(run, name, half)


def _calls(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Parts that MLflow takes in one call each."""
    call: list[Any] = []
    counts, size = {"Metric": 0, "Param": 0, "RunTag": 0}, 0
    for item in items:
        kind = type(item).__name__
        # Sent as JSON, of which a foreign letter takes six bytes.
        its_size = 200 + 6 * (len(item.key) + len(str(item.value)))
        most = _METRICS_A_CALL if kind == "Metric" else _OTHERS_A_CALL
        if call and (counts[kind] == most or size + its_size > _BYTES_A_CALL):
            yield call
            call, counts, size = [], dict.fromkeys(counts, 0), 0
        call.append(item)
        counts[kind] += 1
        size += its_size
    if call:
        yield call
