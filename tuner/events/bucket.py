"""The events of a study in a bucket, and whose study it is.

A bucket has neither locks nor appending, a process may be suspended for an hour between any two of its steps, and the
clocks of two hosts needn't agree. So no two processes ever write one file, and who runs the study is settled by names:

    NAME/runs/000003-TOKEN/claim.json           a process claims the third run; TOKEN is random
    NAME/runs/000003-TOKEN/alive                a count that goes on every few seconds; 0: the run has ended
    NAME/runs/000003-TOKEN/events-000001.jsonl  the events so far, those of the runs before too, in parts

The study is the one's with the highest number; of two that claimed the same number at once, the one's whose claim the
bucket has from earlier by its own clock, then the greater token's. Before every put a process looks whether the study
is still its own. If not, it writes nothing more and says so; a put that was under way by then ends up in its own
folder, which nobody reads. A process takes a study over when its `alive` stands still while it watches for LIFE_SECONDS
of its own clock.

Checkpoints are not covered: a trial whose runner lost the study may end the checkpoint that it is writing. Its report
is never answered, so it trains no further, and a checkpoint of two writers isn't as its files.json says.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from typing import NamedTuple

from tuner.errors import StorageError, StudyError
from tuner.storage.scratch import scratch
from tuner.storage.storage import Storage

LIFE_SECONDS = 60.0  # an `alive` that stands still for so long is a dead process's
UPLOAD_SECONDS = 5.0
SETTLE_SECONDS = 2.5  # buckets tell times in whole seconds: a claim made after it is a later one
PART_BYTES = 1 << 20
_RUNS = "runs"
_ALIVE = "alive"
_CLAIM = "claim.json"


class Claim(NamedTuple):
    """One process's claim to run a study; of a study the greatest is the owner's."""

    number: int
    minus_time: float
    """When the bucket got it, negative: the earlier is the greater."""
    folder: str


class Run(threading.Thread):
    """This process's run of a study: puts its events and a sign of life, until another has taken the study over."""

    def __init__(self, study: Storage, events: str):
        """events: the name of the events file. Raises StudyError if another process runs the study."""
        super().__init__(name="events", daemon=True)
        _watch(study)
        self._study = study
        self._claim = _claim(study)
        self._scratch = contextlib.ExitStack()
        self.path = self._scratch.enter_context(scratch("events")) / events
        self.path.write_bytes(read_events(study, events) or b"")
        self._one_at_a_time = threading.Lock()
        self._parts = 1
        self._from = 0
        """Where in the file the present part begins."""
        self._there = 0
        """How much of the file the bucket has."""
        self._beats = 1
        self._lost: str | None = None
        self._ending = threading.Event()
        self.put()
        self._forget_older()

    def run(self) -> None:
        while not self._ending.wait(UPLOAD_SECONDS):
            # A bucket that takes nothing now may later; a trial's end is put by the study itself, which fails then.
            with contextlib.suppress(StudyError):
                self.put()
            if self._lost:
                return

    def put(self) -> None:
        """Put what is new, and a sign of life. Raises StudyError if that can't be done, or the study is lost."""
        with self._one_at_a_time:
            self._look()
            self._beats += 1
            self._study.write_text(f"{self._claim.folder}/{_ALIVE}", _count(self._beats))
            with self.path.open("rb") as file:
                file.seek(self._from)
                data = file.read()
            end = data.rfind(b"\n") + 1
            if self._from + end == self._there:
                return
            self._study.write_bytes(f"{self._claim.folder}/{_part(self._parts)}", data[:end])
            self._there = self._from + end
            if end >= PART_BYTES:
                self._parts, self._from = self._parts + 1, self._there

    def check(self) -> None:
        """Raises StorageError if it is known that another process has taken the study over."""
        if self._lost:
            raise StorageError(self._lost)

    def end(self) -> None:
        self._ending.set()
        self.join()
        if not self._lost:
            with contextlib.suppress(StudyError):
                self.put()
                self._study.write_text(f"{self._claim.folder}/{_ALIVE}", _count(0))
        self._scratch.close()

    def _look(self) -> None:
        self.check()
        owner = _owner(self._study)
        if owner is None or owner.folder != self._claim.folder:
            who = _who(self._study, owner) or "another process"
            self._lost = (
                f"study {self._study.name}: {who} has taken it over, because this one was suspended or cut off from "
                f"the bucket for more than {LIFE_SECONDS:g} seconds; this one stops and writes nothing more: "
                f"`python -m tuner show {self._study.name}` says how it goes on there"
            )
            self.check()

    def _forget_older(self) -> None:
        """Runs before the last one: the events of all are in this one's, and whoever reads may still read the last."""
        for claim in sorted(_claims(self._study))[:-2]:
            if claim.number < self._claim.number - 1:
                self._study.delete(claim.folder)


def read_events(study: Storage, events: str) -> bytes | None:
    """The events of the newest run that has put any; those that an older version put in one file if there is none."""
    for claim in sorted(_claims(study), reverse=True):
        parts = [name for name in study.names(claim.folder) if name.startswith("events-")]
        if parts:
            return b"".join(study.read_bytes(f"{claim.folder}/{part}") or b"" for part in parts)
    return study.read_bytes(events)


def seems_alive(study: Storage) -> bool:
    """Whether a process runs the study, as far as this host's clock can tell: to be shown, not to be relied on."""
    owner = _owner(study)
    path = f"{owner.folder}/{_ALIVE}" if owner else _ALIVE
    if not float(study.read_text(path) or 0):
        return False
    return time.time() - (study.written_at(path) or 0) < LIFE_SECONDS


def being_run(study: Storage) -> StudyError:
    who = None if study.local else _who(study, _owner(study))
    return StudyError(
        f"study {study.name} is being run by another process{f' ({who})' if who else ''}; wait for it, or stop it with "
        "Ctrl-C there"
    )


def _watch(study: Storage) -> None:
    """Raises StudyError if the study's owner gives a sign of life while this looks on."""
    owner = _owner(study)
    path = f"{owner.folder}/{_ALIVE}" if owner else _ALIVE
    first = study.read_text(path)
    if not float(first or 0):
        return
    until = time.monotonic() + LIFE_SECONDS
    while time.monotonic() < until:
        time.sleep(min(1.0, LIFE_SECONDS / 20))
        beat = study.read_text(path)
        if not float(beat or 0):
            return
        if beat != first:
            raise being_run(study)


def _claim(study: Storage) -> Claim:
    """Claim the next run. Raises StudyError if another process has it."""
    number = max((claim.number for claim in _claims(study)), default=0) + 1
    folder = f"{_RUNS}/{number:06d}-{uuid.uuid4().hex[:16]}"
    # Alive first: whoever sees the claim then watches it.
    study.write_text(f"{folder}/{_ALIVE}", _count(1))
    study.write_text(f"{folder}/{_CLAIM}", json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    time.sleep(SETTLE_SECONDS)
    owner = _owner(study)
    if owner is None or owner.folder != folder:
        study.delete(folder)
        raise being_run(study)
    return owner


def _claims(study: Storage) -> list[Claim]:
    found = []
    for name in study.names(_RUNS):
        number, _, token = name.partition("-")
        at = study.written_at(f"{_RUNS}/{name}/{_CLAIM}") if number.isdigit() and token else None
        if at is not None:
            found.append(Claim(int(number), -at, f"{_RUNS}/{name}"))
    return found


def _owner(study: Storage) -> Claim | None:
    return max(_claims(study), default=None)


def _who(study: Storage, claim: Claim | None) -> str | None:
    """Which process has made a claim, if that is known."""
    text = study.read_text(f"{claim.folder}/{_CLAIM}") if claim else None
    if text is None:
        return None
    said = json.loads(text)
    return f"process {said['pid']} on {said['host']}"


def _part(number: int) -> str:
    return f"events-{number:06d}.jsonl"


def _count(beats: int) -> str:
    """Of one length: a bucket may be asked how long a file is, and be read after the file was replaced."""
    return f"{beats:017d}"
