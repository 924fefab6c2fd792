"""The page of a study's experiment in MLflow: saved views, and a note on the winner.

They are tags of the experiment, which users can change in MLflow's UI: what a user changed or deleted stays so.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tuner.errors import first_line
from tuner.spec.study import StudySpec
from tuner.tracking.calls import RejectedError, with_retries
from tuner.tracking.names import TAG_LENGTH, fit_name
from tuner.tracking.runs import Runs
from tuner.tracking.state import TrackingState
from tuner.tracking.views import study_views, view_value

NOTE = "mlflow.note.content"
# A note ends with a hash of its text: if it matches, no user has changed the note.
_SIGNATURE = re.compile(r"(.*)\n\n<!-- tuner ([0-9a-f]{16}) -->\s*", re.DOTALL)


class ExperimentPage:
    """The experiment page of one study in one MLflow."""

    def __init__(self, spec: StudySpec, runs: Runs, state: TrackingState, on_accepted: Callable[[], None]):
        """on_accepted: called after each call that MLflow accepted."""
        self._spec, self._runs, self._state, self._on_accepted = spec, runs, state, on_accepted
        self._shown: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        """The names of metrics and images in the views; None until the views were written."""

    def found(self, metrics: Iterable[str] = (), images: Iterable[str] = ()) -> None:
        """Add names of metrics and keys of images that MLflow has: the next `update` puts them into the views."""
        self._state.found(metrics={fit_name(name) for name in metrics}, images=images)

    def update(self) -> None:
        """Write the views, if they lack any of the names. Raises what MLflow raises in an outage."""
        known = tuple(self._state.metrics), tuple(self._state.images)
        if known == self._shown:
            return
        tags = self._tags()
        for view in study_views(self._spec, *known):
            if view.key in self._state.views and view.tag not in tags:
                continue  # a user deleted it
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
            with_retries(lambda: self._runs.client.set_tag(run, NOTE, signed))
            self._on_accepted()
        except RejectedError as rejection:
            self._state.skip(f"the study's note: {rejection}")

    def _run_note(self, run: str) -> str | None:
        tags: Mapping[str, str] = with_retries(lambda: self._runs.client.get_run(run)).data.tags
        return tags.get(NOTE)

    def _tags(self) -> Mapping[str, str]:
        tags: Mapping[str, str] = with_retries(lambda: self._runs.client.get_experiment(self._runs.experiment)).tags
        return tags

    def _write(self, tag: str, value: str, what: str) -> bool:
        """Returns whether MLflow accepted it."""
        try:
            with_retries(lambda: self._runs.client.set_experiment_tag(self._runs.experiment, tag, value))
        except Exception as error:
            # A user with the right to write runs may lack the right to change the experiment.
            if not isinstance(error, RejectedError) and getattr(error, "error_code", None) != "PERMISSION_DENIED":
                raise
            self._state.skip(f"{what}: {first_line(error)}")
            return False
        self._on_accepted()
        return True


def _may_replace(note: str | None, new: str) -> bool:
    """Whether the present note differs and no user has changed it."""
    return note != new and (not note or _is_unchanged(note))


def _is_unchanged(note: str) -> bool:
    match = _SIGNATURE.fullmatch(note)
    return bool(match and match[2] == _digest(match[1]))


def _digest(text: Any) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()[:16]
