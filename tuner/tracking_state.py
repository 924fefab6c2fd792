"""How far MLflow has got with a study, and what it will never take: STORAGE/NAME/tracking.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from tuner.address import redacted, without_secrets
from tuner.storage import Storage

_FILE = "tracking.json"
_SENTENCES, _LETTERS = 100, 300  # more than that nobody reads


@dataclass
class TrackingState:
    """Belongs to one study at one MLflow: `load` gives an empty one for another."""

    uri: str = ""
    """Where MLflow is, without secrets."""
    study: str | None = None
    """The study's id."""
    parent: str | None = None
    """MLflow's id of the parent run. A database that was lost and made anew doesn't have it."""
    offset: int = 0
    """Bytes of the events file that MLflow has."""
    skipped: list[str] = field(default_factory=list)
    """A sentence for each thing that MLflow will never take."""
    more_skipped: int = 0
    """How many more there were, of which nothing is kept."""

    def __post_init__(self) -> None:
        self.address = self.uri  # whole; never written

    @classmethod
    def load(cls, study: Storage, uri: str, study_id: str | None) -> TrackingState:
        """study: the study's folder. uri: where MLflow is."""
        state, shown = _read(study), without_secrets(uri)
        if state is None or (state.uri, state.study) != (shown, study_id):
            state = cls(shown, study_id)
        state.address = uri
        return state

    def save(self, study: Storage) -> None:
        """Raises StudyError if the storage can't be written."""
        study.write_text(_FILE, json.dumps(asdict(self)))

    def skip(self, sentence: str) -> None:
        """Saying the same twice counts once: a step that broke off is done again."""
        sentence = redacted(sentence, self.address)[:_LETTERS]
        if sentence in self.skipped:
            return
        if len(self.skipped) < _SENTENCES:
            self.skipped.append(sentence)
        else:
            self.more_skipped += 1

    def begin_anew(self) -> None:
        """MLflow is to get everything again."""
        self.offset, self.parent = 0, None
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


def _read(study: Storage) -> TrackingState | None:
    """None if there is none that can be read: then MLflow gets everything again, which does no harm."""
    try:
        raw = json.loads(study.read_text(_FILE) or "")
        return TrackingState(**{key: value for key, value in raw.items() if key in TrackingState.__dataclass_fields__})
    except (ValueError, TypeError, AttributeError):
        return None
