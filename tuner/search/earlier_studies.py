"""`search.from_studies`: a study's first trials have the hyperparameters of earlier studies' best trials.

They are chosen when the study begins, and are written into its own study.json: later the other studies may change or
be deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from tuner.errors import StudyError
from tuner.events.state import SPEC, StudyRecord, load_record
from tuner.search.encoding import Encoding
from tuner.spec.space import Dimension, Scalar
from tuner.spec.study import StudySpec
from tuner.spec.validation_errors import nearest
from tuner.storage.storage import Storage

# How many are taken in all: each costs a training where the other studies say nothing of this one.
_MOST = 5
_BUDGET_FOR_EACH = 3  # trials
_TOO_NEAR = 0.1  # of a range, or of its logarithm: trials that differ by less in every hyperparameter tell the same


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of an earlier study whose hyperparameters this one tries too."""

    study: str
    trial: int
    params: dict[str, Scalar]
    """Those of the trial's hyperparameters that lie in this study's space; the sampler draws the others."""

    def __str__(self) -> str:
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.params.items()
        )
        return f"trial {self.trial} of {self.study}: {values}"


def earlier_trials(spec: StudySpec, storage: Storage) -> list[EarlierTrial]:
    """The trials that a new study tries first: the best of each named study, then the second best of each, and so on.

    Ranks are compared and not values, which mean something else on other data. Raises StudyError if a study isn't in
    the storage, is of another objective, or has nothing that this one can take.
    """
    return choose([(name, _record(name, spec, storage)) for name in spec.search.from_studies], spec)


def choose(studies: Sequence[tuple[str, StudyRecord]], spec: StudySpec) -> list[EarlierTrial]:
    """As `earlier_trials`, of these studies."""
    rankings = [_fitting(name, record, spec) for name, record in studies]
    encoding = Encoding(spec.space)
    known = [encoding.rows([dict(params)])[0] for params in spec.first_trials]
    # Control trials are none of the first.
    others = spec.budget.trials - len(spec.first_trials) - spec.scheduler.control_trials
    most = min(_MOST, spec.budget.trials // _BUDGET_FOR_EACH, others)
    found: list[EarlierTrial] = []
    for candidate in (each for rank in zip_longest(*rankings) for each in rank if each is not None):
        row = encoding.rows([candidate.params])[0]
        if len(found) < most and all(np.abs(row - other).max() >= _TOO_NEAR for other in known):
            found.append(candidate)
            known.append(row)
    return found


def with_first_trials(spec: StudySpec, found: list[EarlierTrial]) -> StudySpec:
    """The study with these trials after the first trials of its file."""
    return spec.model_copy(update={"first_trials": spec.first_trials + tuple(each.params for each in found)})


def _record(name: str, spec: StudySpec, storage: Storage) -> StudyRecord:
    if name == spec.name:
        raise StudyError(f"search.from_studies: an earlier study is needed, got {name!r}, which is this one; remove it")
    if not storage.exists(f"{name}/{SPEC}"):
        studies = [other for other in storage.names() if storage.exists(f"{other}/{SPEC}")]
        raise StudyError(
            f"search.from_studies: a study in {storage.uri} is needed, got {name!r}{nearest(name, studies)}; "
            "`python -m tuner list` shows what there is"
        )
    return load_record(storage / name)


def _fitting(name: str, record: StudyRecord, spec: StudySpec) -> list[EarlierTrial]:
    """What can be taken of a study, best first. Raises StudyError if that is nothing."""
    other = record.spec
    if (other.workload, other.objective) != (spec.workload, spec.objective):
        raise StudyError(
            f"search.from_studies: {name} must be a study of {_aim(spec)}, got one of {_aim(other)}; remove it"
        )
    if not record.ranking():
        raise StudyError(f"search.from_studies: {name} has no trial that ended without failing; remove it")
    fitting = [EarlierTrial(name, trial.id, _cut(trial.params, spec.space)) for trial in record.ranking()]
    if not any(each.params for each in fitting):
        raise StudyError(
            f"search.from_studies: {name} has no hyperparameter whose values lie in this space; it samples "
            f"{', '.join(other.space)}; remove it"
        )
    return [each for each in fitting if each.params]


def _cut(params: dict[str, Scalar], space: dict[str, Dimension]) -> dict[str, Scalar]:
    """The hyperparameters that lie in the space. One that it doesn't sample beside these is left out too."""
    found = {name: value for name, value in params.items() if name in space and space[name].contains(value)}
    return {
        name: value
        for name, value in found.items()
        if all(found[parent] in allowed for parent, allowed in space[name].when.items() if parent in found)
    }


def _aim(spec: StudySpec) -> str:
    return f"{spec.workload} that is to {spec.objective.direction} {spec.objective.metric}"
