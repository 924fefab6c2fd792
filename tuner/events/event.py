"""The events of a study: a class for each kind, and their format, one line of JSON each.

A line has "event", the kind, and "time"; the other keys are the fields of the kind's class:

    {"event": "start", "time": 1764103455.2, "trial": 1, "params": {"learning_rate": 0.001}}

A field that has its default value is left out of the line. When a line is read, unknown keys are ignored: logs of
earlier versions have some.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from types import UnionType
from typing import Any, ClassVar, Literal, cast, get_args, get_origin, get_type_hints

from tuner import __version__

FORMAT_VERSION = 1
"""The version of the format, written at the start of each run; a run without it has version 1. A log of a later version
is not read, since its lines may mean something else."""

TrialEnd = Literal["finished", "stopped", "failed"]
"""How a trial ends: after its last epoch, by early stopping or the study's end, or by an error."""

StudyEnd = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class RunBegan:
    """A run or a resume of the study began: the first line of a log, and the first of each resume."""

    KIND: ClassVar = "run"
    time: float
    """Seconds since 1970, as of every event."""
    number: int
    """From 1."""
    host: str
    pid: int
    versions: dict[str, str]
    """Of Python, and of packages."""
    overrides: tuple[str, ...]
    """The command's --set options: KEY=VALUE."""
    tracking_uri: str
    """Where MLflow is, without secrets."""
    command: str | None = None
    """What was started, without secrets. None, as the next three, in logs of earlier versions."""
    git: dict[str, str] | None = None
    """Of the folder that it was started in: commit, branch, tree ("clean", or what isn't), repository; None outside of
    one."""
    hardware: dict[str, str] | None = None
    """Of the host: cpu, cores, memory, gpus."""
    data: dict[str, str] | None = None
    """What the workload's `prepare` says of its data, such as split and fingerprint; None if it wasn't asked."""
    forecast: dict[str, Any] | None = None
    """Of the whole study (tuner/events/forecast.py); None in a resume that doesn't change it, and where none can be
    made."""


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial was started on a slot, for the first time or again."""

    KIND: ClassVar = "start"
    time: float
    trial: int
    params: dict[str, Any]
    devices: float | None = None
    """How many it holds: GPUs, or CPUs if it has no GPU. None in logs of earlier versions."""
    control: bool = False
    """Whether it is a control trial, which early stopping leaves alone."""


@dataclass(frozen=True, slots=True)
class AttemptBegan:
    """A trial that was started has its processes, and begins on these nodes."""

    KIND: ClassVar = "begin"
    time: float
    trial: int
    nodes: tuple[str, ...]
    """Of each rank: its host's name, with the address if it is a node of a cluster."""


@dataclass(frozen=True, slots=True)
class NodeLeftOut:
    """A node that gets none of this run's trials."""

    KIND: ClassVar = "left_out"
    time: float
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeDraining:
    """A node will soon be gone: its trials move, each at its next report."""

    KIND: ClassVar = "draining"
    time: float
    node: str
    until: float | None = None
    """When it will be gone, in seconds since 1970, if that was said."""


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node has gone, and the trials that still ran there begin again."""

    KIND: ClassVar = "lost"
    time: float
    node: str


@dataclass(frozen=True, slots=True)
class EpochReported:
    """A trial finished an epoch."""

    KIND: ClassVar = "report"
    time: float
    trial: int
    epoch: int
    metrics: dict[str, float]
    startup_seconds: float | None = None
    """From the sampler's proposal to the beginning of the trial's first epoch."""
    gpu_share: float | None = None
    """The trial's peak share of its GPU's memory, 0 to 1."""
    again: bool = False
    """Whether this epoch is replayed: the trial had reported it before it was rewound."""
    device: str | None = None
    """The device that the trial trains on; None if it is the same as in the report before."""
    system: dict[str, float] | None = None
    """System metrics of the trial's process and its host, by name; None if they weren't sampled, as in short epochs."""


@dataclass(frozen=True, slots=True)
class ImagesStored:
    """Images of a trial's best epochs were written to the storage."""

    KIND: ClassVar = "images"
    time: float
    trial: int
    images: tuple[str, ...]
    """Paths relative to the trial's folder."""


@dataclass(frozen=True, slots=True)
class TrialRewound:
    """A killed trial resumes from an earlier epoch, and replays the epochs that it had reported after it."""

    KIND: ClassVar = "back"
    time: float
    trial: int
    epoch: int
    """The epoch that it resumes after; 0: it starts from its first epoch."""


@dataclass(frozen=True, slots=True)
class TrialPaused:
    """A trial wrote a checkpoint and gave its slot to another; it may resume later."""

    KIND: ClassVar = "pause"
    time: float
    trial: int


@dataclass(frozen=True, slots=True)
class TrialSpared:
    """Early stopping would have stopped or paused a control trial after this epoch; it trains on."""

    KIND: ClassVar = "spared"
    time: float
    trial: int
    epoch: int
    paused: bool = False
    """Whether it would have been paused, and might have resumed."""


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial ended."""

    KIND: ClassVar = "end"
    time: float
    trial: int
    value: float | None
    """The objective's best value, None if it reported none."""
    best_epoch: int | None
    state: TrialEnd
    reason: str | None
    infeasible: bool | None = None
    """Of a failed trial: whether its training failed, as with a loss that isn't finite, and not its process or machine.
    None in logs of earlier versions."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run of the study ended."""

    KIND: ClassVar = "stop"
    time: float
    state: StudyEnd
    reason: str | None


Event = (
    RunBegan
    | TrialStarted
    | AttemptBegan
    | NodeLeftOut
    | NodeDraining
    | NodeLost
    | EpochReported
    | ImagesStored
    | TrialRewound
    | TrialPaused
    | TrialSpared
    | TrialEnded
    | RunEnded
)


class NewerFormatError(ValueError):
    """A later version of tuner wrote the line; this version can't read it."""


class IncompleteEventError(ValueError):
    """A field of the event is missing in the line, or has another type."""


def to_line(event: Event) -> bytes:
    """The event as a line of JSON. Raises ValueError for NaN and infinity, which JSON doesn't have."""
    found = _LAYOUTS[event.KIND].to_json(event)
    if isinstance(event, RunBegan):
        found["format_version"] = FORMAT_VERSION
    return (_ENCODE(found) + "\n").encode()


def from_line(line: bytes) -> Event | None:
    """The event in a line; None if the line isn't an event, since it is truncated for example.

    Raises NewerFormatError or IncompleteEventError.
    """
    try:
        text = line.strip().decode()
        found, end = _DECODE(text)
    except ValueError:
        return None
    if end != len(text) or not isinstance(found, dict):
        return None
    if "format_version" in found:
        _check_version(found)
    kind = found.get("event")
    if not isinstance(kind, str):
        return None
    layout = _LAYOUTS.get(kind)
    if layout is None:
        raise NewerFormatError(
            f"event {kind!r} is not known to this version of tuner; a newer one may have written it: use that version"
        )
    return layout.from_json(found)


def _check_version(found: dict[str, Any]) -> None:
    version = found["format_version"]
    if not isinstance(version, int) or version < 1:
        raise IncompleteEventError(f"format_version must be a whole number from 1 on, got {version!r}")
    if version > FORMAT_VERSION:
        versions = found.get("versions")
        by = versions.get("tuner") if isinstance(versions, dict) else None
        raise NewerFormatError(
            f"format_version must be at most {FORMAT_VERSION} for this tuner ({__version__}), got {version}: use "
            f"{f'tuner {by}, which wrote it, or a later one' if by else 'the tuner that wrote it'}"
        )


class _Layout:
    """How one kind of event is written in JSON, derived from its class once."""

    def __init__(self, kind: type[Event]):
        self._kind: Any = kind
        names = [field.name for field in fields(kind)]
        self._keys, self._values = ("event", *names), attrgetter("KIND", *names)
        self._left_out = [(field.name, field.default) for field in fields(kind) if field.default is not MISSING]
        """Fields that are left out at their default, with it."""
        hints = get_type_hints(kind)
        self._rules = [(field.name, field.default, *_rule(hints[field.name])) for field in fields(kind)]
        self._measured = [
            field.name for field in fields(kind) if _NUMBERS in (hints[field.name], *get_args(hints[field.name]))
        ]
        """Fields whose values are numbers by name."""

    def to_json(self, event: Event) -> dict[str, Any]:
        found = dict(zip(self._keys, self._values(event), strict=True))
        for name, default in self._left_out:
            if found[name] == default:
                del found[name]
        return found

    def from_json(self, found: dict[str, Any]) -> Event:
        values = []
        for name, default, types, choices in self._rules:
            value = found.get(name, default)
            kind = type(value)
            if kind not in types or (kind is str and choices and value not in choices):
                # A log of an earlier version may lack an optional field.
                if value is not MISSING or type(None) not in types:
                    raise IncompleteEventError(
                        f"event {self._kind.KIND!r} is incomplete: {name} is "
                        f"{'missing' if value is MISSING else repr(value)[:60]}"
                    )
                value = None
            values.append(tuple(value) if kind is list else value)
        event = self._kind(*values)
        for field in self._measured:
            measured = getattr(event, field) or {}
            if not {float, int}.issuperset(map(type, measured.values())):
                raise IncompleteEventError(
                    f"event {self._kind.KIND!r} is incomplete: {field} must be numbers, got {str(measured)[:60]}"
                )
        return cast(Event, event)


def _rule(hint: Any) -> tuple[frozenset[type], tuple[str, ...]]:
    """The types that JSON may have for a field of this type, and the allowed strings of a Literal."""
    if get_origin(hint) is Literal:
        return frozenset({str}), get_args(hint)
    parts = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    in_json: dict[Any, set[type]] = {float: {float, int}, tuple: {list}}
    origins = [get_origin(part) or part for part in parts]
    return frozenset(kind for origin in origins for kind in in_json.get(origin, {origin})), ()


_NUMBERS = dict[str, float]
_ENCODE = json.JSONEncoder(allow_nan=False).encode
_DECODE = json.JSONDecoder().raw_decode
_LAYOUTS = {kind.KIND: _Layout(kind) for kind in get_args(Event)}
