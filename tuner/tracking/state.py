"""How far MLflow has got with a study, and what it will never take: STORAGE/NAME/tracking.json."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, PrivateAttr, ValidationError

from tuner.storage.address import redacted, without_secrets
from tuner.storage.storage import Storage

_FILE = "tracking.json"
_MAX_NAMES = 100  # of groups and images; a view shows fewer
_MAX_SENTENCES, _MAX_CHARACTERS = 100, 300  # more than that nobody reads


class TrackingState(BaseModel):
    """Belongs to one study at one MLflow: `load` gives an empty one for another."""

    uri: str = ""
    """Where MLflow is, without secrets."""
    study: str | None = None
    """The study's id."""
    parent: str | None = None
    """MLflow's id of the parent run. A database that was lost and made anew doesn't have it."""
    runs: dict[str, str] = {}
    """MLflow's run id by trial."""
    experiment: str | None = None
    """MLflow's id of the experiment."""
    offset: int = 0
    """Bytes of the events file that MLflow has."""
    skipped: list[str] = []
    """A sentence for each thing that MLflow will never take."""
    more_skipped: int = 0
    """How many more there were, of which nothing is kept."""

    metrics: list[str] = []
    """Groups of metrics that MLflow has, by the first part of their names, which its views show."""
    images: list[str] = []
    """Keys of images that MLflow has, which its views show."""
    views: list[str] = []
    """Keys of the views that were written: one of them that is gone was deleted by a person."""

    _address: str = PrivateAttr(default="")  # whole; never written

    @classmethod
    def load(cls, study: Storage, uri: str, study_id: str | None, remember: bool = True) -> TrackingState:
        """study: the study's folder. uri: where MLflow is. remember: whether to look for one that was saved."""
        state, shown = _read(study) if remember else None, without_secrets(uri)
        if state is None or (state.uri, state.study) != (shown, study_id):
            state = cls(uri=shown, study=study_id)
        state._address = uri
        return state

    def save(self, study: Storage) -> None:
        """Raises StudyError if the storage can't be written."""
        study.write_text(_FILE, self.model_dump_json())

    def skip(self, sentence: str) -> None:
        """Saying the same twice counts once: a step that broke off is done again."""
        # A file's name need not be text that can be written.
        sentence = redacted(sentence, self._address)[:_MAX_CHARACTERS].encode("utf-8", "replace").decode()
        if sentence in self.skipped:
            return
        if len(self.skipped) < _MAX_SENTENCES:
            self.skipped.append(sentence)
        else:
            self.more_skipped += 1

    def found(self, metrics: Iterable[str], images: Iterable[str]) -> None:
        """MLflow has got these metrics and images."""
        groups = {name.rpartition("/")[0] for name in metrics}
        for known, new in ((self.metrics, groups), (self.images, images)):
            known += sorted(set(new) - set(known))[: _MAX_NAMES - len(known)]

    def reset(self) -> None:
        """MLflow is to get everything again."""
        self.offset, self.parent, self.runs, self.views = 0, None, {}, []
        self.skipped, self.more_skipped = [], 0

    @property
    def note(self) -> str | None:
        """What a person is told of what was skipped, or None."""
        count = len(self.skipped) + self.more_skipped
        if not count:
            return None
        first = self.skipped[0]
        return f"MLflow lacks {f'{count} things, the first' if count > 1 else 'one thing'}: {first}"


def skipped_note(study: Storage) -> str | None:
    """What a person is told of what MLflow will never take of the study in this folder, or None."""
    state = _read(study)
    return state.note if state else None


def run_ids(study: Storage) -> dict[str, str]:
    """MLflow's run id by trial, of the study in this folder; of trials that MLflow has."""
    state = _read(study)
    return state.runs if state else {}


def experiment_of(study: Storage) -> str | None:
    """MLflow's id of the experiment that the study in this folder was tracked to last, None if there is none."""
    state = _read(study)
    return state.experiment if state else None


def _read(study: Storage) -> TrackingState | None:
    """None if there is none that can be read: then MLflow gets everything again, which does no harm."""
    try:
        return TrackingState.model_validate_json(study.read_text(_FILE) or "")
    except ValidationError:
        return None
