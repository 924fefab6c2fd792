"""What a study shows on its experiment's page: saved views, and a note on the winner.

All of it are tags of the experiment that people change in MLflow's UI: what they changed or deleted stays so.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tuner.spec.study import StudySpec
from tuner.tracking.calls import RefusalError, first_line, repeated
from tuner.tracking.names import TAG_LENGTH, fit_name
from tuner.tracking.runs import Runs
from tuner.tracking.state import TrackingState
from tuner.tracking.views import study_views, view_value

NOTE = "mlflow.note.content"
# Only a note that still ends in the digits of what stands before them is as this program wrote it.
_SIGNATURE = re.compile(r"(.*)\n\n<!-- tuner ([0-9a-f]{16}) -->\s*", re.DOTALL)


class ExperimentPage:
    """Of one study, at one MLflow."""

    def __init__(self, spec: StudySpec, runs: Runs, state: TrackingState, took: Callable[[], None]):
        """took: called after each call that MLflow took."""
        self._spec, self._runs, self._state, self._took = spec, runs, state, took
        self._shown: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        """The names that the views know; None until they are written once."""

    def found(self, metrics: Iterable[str] = (), images: Iterable[str] = ()) -> None:
        """MLflow has got these metrics, and images of these keys: the views show them from the next `update` on."""
        self._state.found(metrics={fit_name(name) for name in metrics}, images=images)

    def update(self) -> None:
        """Write the views, if they don't show all that was found. Raises what MLflow raises in an outage."""
        known = tuple(self._state.metrics), tuple(self._state.images)
        if known == self._shown:
            return
        tags = self._tags()
        for view in study_views(self._spec, *known):
            if view.key in self._state.views and view.tag not in tags:
                continue  # a person deleted it
            value = view_value(view, tags, time.time())
            if value is None or self._write(view.tag, value, f"the view {view.name}"):
                self._state.views = sorted({*self._state.views, view.key})
        self._shown = known

    def write_note(self, text: str) -> None:
        """Describe the study's winner on the experiment's page and on its parent run's. text: Markdown."""
        signed = f"{text}\n\n<!-- tuner {_digest(text)} -->"
        if _may_replace(self._tags().get(NOTE), signed):
            self._write(NOTE, signed, "the experiment's note")
        run = self._runs.of(None, 0.0)
        if len(signed) > TAG_LENGTH or not _may_replace(self._run_note(run), signed):
            return
        try:
            repeated(lambda: self._runs.client.set_tag(run, NOTE, signed))
            self._took()
        except RefusalError as refusal:
            self._state.skip(f"the study's note: {refusal}")

    def _run_note(self, run: str) -> str | None:
        tags: Mapping[str, str] = repeated(lambda: self._runs.client.get_run(run)).data.tags
        return tags.get(NOTE)

    def _tags(self) -> Mapping[str, str]:
        tags: Mapping[str, str] = repeated(lambda: self._runs.client.get_experiment(self._runs.experiment)).tags
        return tags

    def _write(self, tag: str, value: str, what: str) -> bool:
        """Returns whether MLflow took it."""
        try:
            repeated(lambda: self._runs.client.set_experiment_tag(self._runs.experiment, tag, value))
        except Exception as error:
            # Who may write runs need not have the right to change the experiment.
            if not isinstance(error, RefusalError) and getattr(error, "error_code", None) != "PERMISSION_DENIED":
                raise
            self._state.skip(f"{what}: {first_line(error)}")
            return False
        self._took()
        return True


def _may_replace(note: str | None, by: str) -> bool:
    """Whether the note that is there differs, and is as this program wrote it."""
    return note != by and (not note or _is_mine(note))


def _is_mine(note: str) -> bool:
    match = _SIGNATURE.fullmatch(note)
    return bool(match and match[2] == _digest(match[1]))


def _digest(text: Any) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()[:16]
