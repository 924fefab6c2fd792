"""`search.from_studies`: a study's first trials have the hyperparameters of earlier studies' best trials.

They are chosen when the study begins, and are written into its own study.json: later the other studies may change or
be deleted.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from tuner.errors import StudyError
from tuner.events.state import StudyRecord, load_record
from tuner.search.encoding import Encoding
from tuner.spec.grid import points
from tuner.spec.space import Dimension, Scalar
from tuner.spec.study import RESERVED_NAMES, StudySpec
from tuner.spec.study_tables import Search
from tuner.spec.taken import Taken
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


@dataclass(frozen=True)
class WarmStart:
    """What a new study takes from earlier ones."""

    trials: tuple[EarlierTrial, ...]
    """In the order in which it tries them, after the first trials of its file."""
    taken: tuple[Taken, ...]
    """The same by study, in the order of search.from_studies."""
    warnings: tuple[str, ...] = ()

    @property
    def left_out(self) -> list[str]:
        """A sentence for each study of which nothing is taken."""
        return [f"no first trial is from {each.study}: {each}" for each in self.taken if not each.trials]


def warm_start(spec: StudySpec, storage: Storage) -> WarmStart:
    """What a new study tries first: the best of each named study, then the second best of each, and so on.

    Ranks are compared and not values, which mean something else on other data. Raises StudyError, with a sentence for
    each study that can't be read, is of another objective, or has nothing that this one can take.
    """
    found: list[tuple[str, StudyRecord]] = []
    problems = []
    for name in dict.fromkeys(spec.search.from_studies):
        try:
            found.append((name, _record(name, spec, storage)))
        except StudyError as error:
            problems.append(str(error))
        if spec.search.from_studies.count(name) > 1:
            problems.append(f"search.from_studies: each study is named once, got {name!r} more often; name it once")
    if problems:
        raise StudyError("\n".join(problems))
    start = choose(found, spec)
    running = [name for name, record in found if record.state == "running"]
    return replace(start, warnings=(*_running(running), *_sampler_warnings(spec, start)))


def choose(studies: Sequence[tuple[str, StudyRecord]], spec: StudySpec) -> WarmStart:
    """As `warm_start`, of these studies, without warnings."""
    rankings = [_fitting(name, record, spec) for name, record in studies]
    encoding = Encoding(spec.space)
    known = [encoding.rows([dict(params)])[0] for params in spec.first_trials]

    def is_known(trial: EarlierTrial) -> bool:
        row = encoding.rows([trial.params])[0]
        return any(np.abs(row - other).max() < _TOO_NEAR for other in known)

    # Control trials are none of the first.
    others = spec.budget.trials - len(spec.first_trials) - spec.scheduler.control_trials
    most = max(0, min(_MOST, spec.budget.trials // _BUDGET_FOR_EACH, others))
    found: list[EarlierTrial] = []
    for candidate in (each for rank in zip_longest(*rankings) for each in rank if each is not None):
        if len(found) < most and not is_known(candidate):
            found.append(candidate)
            known.append(encoding.rows([candidate.params])[0])
    taken = []
    for (name, record), ranking in zip(studies, rankings, strict=True):
        mine = [each for each in found if each.study == name]
        if all(map(is_known, ranking)):
            reason = "each lies near a trial that is tried anyway"
        else:
            reason = f"the budget of {spec.budget.trials} trials has room for {most} from earlier studies"
        without = {key for each in mine for key in record.trials[each.trial].params if key not in each.params}
        taken.append(
            Taken(
                study=name,
                trials=tuple(each.trial for each in mine),
                ended=len(record.ranking()),
                without=tuple(sorted(without)),
                reason=None if mine else reason,
            )
        )
    return WarmStart(tuple(found), tuple(taken))


def with_first_trials(spec: StudySpec, start: WarmStart) -> StudySpec:
    """The study as it begins, with these trials after the first trials of its file, and where they come from."""
    firsts = spec.first_trials + tuple(each.params for each in start.trials)
    return spec.model_copy(update={"first_trials": firsts, "taken": start.taken, "search": with_own_seed(spec.search)})


def with_own_seed(search: Search) -> Search:
    """With another seed than the studies that trials are taken from, which mostly have that of the study file too.

    With theirs a study would propose at many a number what they did there, and so what it has taken from them.
    """
    names = " ".join(search.from_studies)
    return search.model_copy(update={"seed": (search.seed + zlib.crc32(names.encode())) % 2**31})


def _running(names: list[str]) -> list[str]:
    return [f"search.from_studies: {name} is still running; only its trials that have ended count" for name in names]


def _sampler_warnings(spec: StudySpec, start: WarmStart) -> list[str]:
    """What a sampler that learns from no trial makes of these."""
    sampler, taken = spec.search.sampler, len(start.trials)
    if not taken or sampler not in ("random", "qmc", "grid"):
        return []
    said = f'search.sampler: "{sampler}" learns nothing from first trials, it goes on as without them'
    if sampler == "grid":
        # A grid has no more trials than points, so that the first trials take the places of some.
        size, firsts = len(points(spec.space)), len(spec.first_trials) + taken
        return [
            f"{said}: {spec.budget.trials - firsts} of the grid's {size} points are tried; when it has ended, "
            f"`python -m tuner resume {spec.name} --set budget.trials={size + firsts}` tries the others"
        ]
    return [f'{said}; "gp_curves" learns from them']


def _record(name: str, spec: StudySpec, storage: Storage) -> StudyRecord:
    """A study that trials can be taken from."""
    if name == spec.name:
        raise StudyError(f"search.from_studies: an earlier study is needed, got {name!r}, which is this one; remove it")
    try:
        studies = [other for other in storage.names() if other not in RESERVED_NAMES]
        record = load_record(storage / name) if name in studies else None
    except StudyError as error:
        raise StudyError(f"search.from_studies: {name} can't be read: {error}; or remove it here") from None
    if record is None:
        raise StudyError(
            f"search.from_studies: a study in {storage.uri} is needed, got {name!r}{nearest(name, studies)}; "
            "`python -m tuner list` shows what there is"
        )
    _fitting(name, record, spec)
    return record


def _fitting(name: str, record: StudyRecord, spec: StudySpec) -> list[EarlierTrial]:
    """What can be taken of a study, best first. Raises StudyError if that is nothing."""
    other = record.spec
    if (other.workload, other.objectives) != (spec.workload, spec.objectives):
        raise StudyError(
            f"search.from_studies: {name} must be a study of {_aim(spec)}, got one of {_aim(other)}; remove it"
        )
    if not record.ranking():
        raise StudyError(f"search.from_studies: {_without_value(name, record)}")
    fitting = [EarlierTrial(name, trial.id, _cut(trial.params, spec.space)) for trial in record.ranking()]
    if not any(each.params for each in fitting):
        raise StudyError(
            f"search.from_studies: {name} has no hyperparameter whose values lie in this space; it samples "
            f"{', '.join(other.space)}; remove it"
        )
    return [each for each in fitting if each.params]


def _without_value(name: str, record: StudyRecord) -> str:
    fix = "wait for it, or remove it" if record.state == "running" else "remove it"
    if any(trial.breaches for trial in record.trials.values()):
        return f"{name} has no trial that ended and kept its constraints; {fix}"
    return f"{name} has no trial that ended without failing; {fix}"


def _cut(params: dict[str, Scalar], space: dict[str, Dimension]) -> dict[str, Scalar]:
    """The hyperparameters that lie in the space. One that it doesn't sample beside these is left out too."""
    found = {name: value for name, value in params.items() if name in space and space[name].contains(value)}
    return {
        name: value
        for name, value in found.items()
        if all(found[parent] in allowed for parent, allowed in space[name].when.items() if parent in found)
    }


def _aim(spec: StudySpec) -> str:
    return f"{spec.workload} that is to {spec.goal}"
