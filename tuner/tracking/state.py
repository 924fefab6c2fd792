"""STORAGE/NAME/tracking.json: how much of a study MLflow has, and what it rejected."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, PrivateAttr, ValidationError

from tuner.storage.address import redacted, without_secrets
from tuner.storage.storage import Storage

_FILE = "tracking.json"
_MAX_NAMES = 100  # of groups and images; a view shows fewer
_MAX_SENTENCES, _MAX_CHARACTERS = 100, 300


class TrackingState(BaseModel):
    """The state of one study in one MLflow; for another MLflow `load` returns an empty one."""

    uri: str = ""
    """Where MLflow is, without secrets."""
    study: str | None = None
    """The study's id."""
    parent: str | None = None
    """MLflow's id of the parent run. A new database in place of a lost one doesn't have it."""
    runs: dict[str, str] = {}
    """MLflow's run id by trial."""
    experiment: str | None = None
    """MLflow's id of the experiment."""
    offset: int = 0
    """Bytes of the events file that MLflow has."""
    skipped: list[str] = []
    """A sentence for each item that MLflow rejected."""
    more_skipped: int = 0
    """The number of further items, whose sentences are not kept."""

    metrics: list[str] = []
    """Groups of the metrics that MLflow has, the part of their names before the slash; the views show them."""
    images: list[str] = []
    """Keys of the images that MLflow has; the views show them."""
    views: list[str] = []
    """Keys of the views that were written; if one is missing in MLflow, a user has deleted it."""

    _address: str = PrivateAttr(default="")  # with its secrets; never written

    @classmethod
    def load(cls, study: Storage, uri: str, study_id: str | None, remember: bool = True) -> TrackingState:
        """study: the study's folder. uri: where MLflow is. remember: whether to read the saved state."""
        state, shown = _read(study) if remember else None, without_secrets(uri)
        if state is None or (state.uri, state.study) != (shown, study_id):
            state = cls(uri=shown, study=study_id)
        state._address = uri
        return state

    def save(self, study: Storage) -> None:
        """Raises StudyError if the storage can't be written."""
        study.write_text(_FILE, self.model_dump_json())

    def skip(self, sentence: str) -> None:
        """Record a skipped item; the same sentence counts once, since a step may be repeated after an error."""
        # A file's name may not be valid Unicode.
        sentence = redacted(sentence, self._address)[:_MAX_CHARACTERS].encode("utf-8", "replace").decode()
        if sentence in self.skipped:
            return
        if len(self.skipped) < _MAX_SENTENCES:
            self.skipped.append(sentence)
        else:
            self.more_skipped += 1

    def found(self, metrics: Iterable[str], images: Iterable[str]) -> None:
        """Add the names of metrics and images that MLflow has."""
        groups = {name.rpartition("/")[0] for name in metrics}
        for known, new in ((self.metrics, groups), (self.images, images)):
            known += sorted(set(new) - set(known))[: _MAX_NAMES - len(known)]

    def reset(self) -> None:
        """Have everything sent to MLflow again."""
        self.offset, self.parent, self.runs, self.views = 0, None, {}, []
        self.skipped, self.more_skipped = [], 0

    @property
    def note(self) -> str | None:
        """A message on what was skipped, or None."""
        count = len(self.skipped) + self.more_skipped
        if not count:
            return None
        first = self.skipped[0]
        return f"MLflow lacks {f'{count} things, the first' if count > 1 else 'one thing'}: {first}"


def skipped_note(study: Storage) -> str | None:
    """A message on what MLflow rejected of the study in this folder, or None."""
    state = _read(study)
    return state.note if state else None


def run_ids(study: Storage) -> dict[str, str]:
    """MLflow's run id by trial, for the study in this folder and the trials that MLflow has."""
    state = _read(study)
    return state.runs if state else {}


def experiment_of(study: Storage) -> str | None:
    """MLflow's id of the experiment that the study in this folder was last tracked to, or None."""
    state = _read(study)
    return state.experiment if state else None


def _read(study: Storage) -> TrackingState | None:
    """The saved state; None if it can't be read: everything is then sent again, which is idempotent."""
    try:
        return TrackingState.model_validate_json(study.read_text(_FILE) or "")
    except ValidationError:
        return None
