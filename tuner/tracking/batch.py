"""Batches of parameters, metrics and tags for one run, sent in as few calls to MLflow as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.tracking.calls import RejectedError, with_retries
from tuner.tracking.names import fit_name, fit_param, fit_tag
from tuner.tracking.runs import Runs
from tuner.tracking.state import TrackingState

# MLflow accepts 1 MB and 1000 items in a call, of them at most 100 parameters and 100 tags.
_METRICS_A_CALL = 800
_OTHERS_A_CALL = 100
_BYTES_A_CALL = 800_000


@dataclass
class Batch:
    """Everything that one step logs to one run. Each call is a transaction, so a batch is sent in few calls."""

    params: dict[str, Any] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    """Name, value, milliseconds since 1970, step."""
    tags: dict[str, str] = field(default_factory=dict)


class BatchWriter:
    """Sends batches. Items that MLflow rejects are found by bisection, and skipped."""

    def __init__(self, runs: Runs, state: TrackingState, on_accepted: Callable[[], None]):
        """on_accepted: called after each call that MLflow accepted."""
        self._runs, self._state, self._on_accepted = runs, state, on_accepted

    def send(self, run: str, name: str, batch: Batch) -> None:
        """Send a batch; idempotent. name: the run's name in messages. Raises what MLflow raises in an outage."""
        from mlflow.entities import Metric, Param, RunTag

        params = {fit_name(key): fit_param(value) for key, value in batch.params.items()}
        if params and run not in self._runs.created:
            # MLflow's parameters can't be changed: those that the run has are kept.
            there = with_retries(lambda: self._runs.client.get_run(run)).data.params
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
            with_retries(lambda: self._runs.client.log_batch(run, metrics=metrics, params=params, tags=tags))
            self._on_accepted()
        except RejectedError as rejection:
            # is_deleted raises if the server doesn't respond: that is an outage, not a rejection.
            if self._runs.is_deleted(run):
                self._state.skip(f"{name}: its run was deleted in MLflow, what came later is not in it")
            elif len(items) == 1:
                kind = {"Param": "hyperparameter", "RunTag": "tag", "Metric": "metric"}[type(items[0]).__name__]
                self._state.skip(f"{name}, {kind} {items[0].key!r}: {rejection}")
            else:
                for half in (items[: len(items) // 2], items[len(items) // 2 :]):
                    self._send(run, name, half)


def _calls(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Split the items into parts that fit in one call each."""
    call: list[Any] = []
    counts, size = {"Metric": 0, "Param": 0, "RunTag": 0}, 0
    for item in items:
        kind = type(item).__name__
        # In JSON a non-ASCII letter takes six bytes.
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
