"""The event log of a study in a bucket, and which process owns the study.

A bucket has neither locks nor appending, a process may be suspended for an hour between any two of its steps, and the
clocks of two hosts may differ. So no two processes ever write the same file, and file names decide who owns the study:

    NAME/runs/000003-TOKEN/claim.json           a process claims the third run; TOKEN is random
    NAME/runs/000003-TOKEN/alive                the heartbeat: a count, raised every few seconds; 0: the run has ended
    NAME/runs/000003-TOKEN/events-000001.jsonl  all events so far, those of earlier runs too, in parts

The claim with the highest number owns the study. If two processes claim the same number at once, the claim that the
bucket received first by its own clock wins, then the greater token. Before every upload a process checks that it still
owns the study. If not, it stops with a message and writes nothing more; an upload that was in progress lands in its own
folder, which nobody reads. A process takes a study over if the owner's heartbeat doesn't change in LIFE_SECONDS of the
process's own clock.

Checkpoints are not protected: a trial whose driver lost the study may finish the checkpoint that it is writing. Its
report is never answered, so it trains no further; and a checkpoint that two processes wrote doesn't match its
files.json.
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

LIFE_SECONDS = 60.0  # a process whose heartbeat doesn't change for so long is dead
UPLOAD_SECONDS = 5.0
SETTLE_SECONDS = 2.5  # buckets give times in whole seconds: a claim made after this pause has a later one
PART_BYTES = 1 << 20
_RUNS = "runs"
_ALIVE = "alive"
_CLAIM = "claim.json"


class Claim(NamedTuple):
    """One process's claim to run a study. The greatest claim owns the study."""

    number: int
    minus_time: float
    """When the bucket received it, times -1: an earlier claim is greater."""
    folder: str


class Run(threading.Thread):
    """This process's run of a study: uploads events and a heartbeat, until another process has taken the study over."""

    def __init__(self, study: Storage, events: str):
        """events: the name of the events file. Raises StudyError if another process runs the study."""
        super().__init__(name="events", daemon=True)
        _watch_owner(study)
        self._study = study
        self._claim = _claim(study)
        self._scratch = contextlib.ExitStack()
        self.path = self._scratch.enter_context(scratch("events")) / events
        self.path.write_bytes(read_events(study, events) or b"")
        self._lock = threading.Lock()
        self._parts = 1
        self._part_start = 0
        """The offset in the file at which the present part begins."""
        self._uploaded = 0
        """The bytes of the file that the bucket has."""
        self._beats = 1
        self._lost: str | None = None
        self._ending = threading.Event()
        self.upload()
        self._delete_older_runs()

    def run(self) -> None:
        while not self._ending.wait(UPLOAD_SECONDS):
            # A bucket that fails now may work later. At a trial's start or end the study uploads itself, and may fail.
            with contextlib.suppress(StudyError):
                self.upload()
            if self._lost:
                return

    def upload(self) -> None:
        """Upload the new events and a heartbeat. Raises StudyError if that fails, or if this process lost the study."""
        with self._lock:
            self._check_owner()
            self._beats += 1
            self._study.write_text(f"{self._claim.folder}/{_ALIVE}", _count(self._beats))
            with self.path.open("rb") as file:
                file.seek(self._part_start)
                data = file.read()
            end = data.rfind(b"\n") + 1
            if self._part_start + end == self._uploaded:
                return
            self._study.write_bytes(f"{self._claim.folder}/{_part_name(self._parts)}", data[:end])
            self._uploaded = self._part_start + end
            if end >= PART_BYTES:
                self._parts, self._part_start = self._parts + 1, self._uploaded

    def check(self) -> None:
        """Raises StorageError if it is known that another process has taken the study over."""
        if self._lost:
            raise StorageError(self._lost)

    def end(self) -> None:
        """Upload the last events, and mark the run as ended."""
        self._ending.set()
        self.join()
        if not self._lost:
            with contextlib.suppress(StudyError):
                self.upload()
                self._study.write_text(f"{self._claim.folder}/{_ALIVE}", _count(0))
        self._scratch.close()

    def _check_owner(self) -> None:
        """Raises StorageError if this process no longer owns the study."""
        self.check()
        owner = _owner(self._study)
        if owner is None or owner.folder != self._claim.folder:
            who = _process_of(self._study, owner) or "another process"
            self._lost = (
                f"study {self._study.name}: {who} has taken it over, because this one was suspended or cut off from "
                f"the bucket for more than {LIFE_SECONDS:g} seconds; this one stops and writes nothing more: "
                f"`python -m tuner show {self._study.name}` shows its state"
            )
            self.check()

    def _delete_older_runs(self) -> None:
        """Delete all but this run and the previous one, which somebody may still read; this run has all events."""
        for claim in sorted(_claims(self._study))[:-2]:
            if claim.number < self._claim.number - 1:
                self._study.delete(claim.folder)


def read_events(study: Storage, events: str) -> bytes | None:
    """The events of the newest run that has any; if there is none, those of the one file of an older version."""
    for claim in sorted(_claims(study), reverse=True):
        parts = [name for name in study.names(claim.folder) if name.startswith("events-")]
        if parts:
            return b"".join(study.read_bytes(f"{claim.folder}/{part}") or b"" for part in parts)
    return study.read_bytes(events)


def seems_alive(study: Storage) -> bool:
    """Whether a process seems to run the study, by this host's clock: good enough to show, not to act on."""
    owner = _owner(study)
    path = f"{owner.folder}/{_ALIVE}" if owner else _ALIVE
    if not float(study.read_text(path) or 0):
        return False
    return time.time() - (study.written_at(path) or 0) < LIFE_SECONDS


def already_running(study: Storage) -> StudyError:
    """The error for a study that another process runs."""
    who = None if study.local else _process_of(study, _owner(study))
    return StudyError(
        f"study {study.name} is being run by another process{f' ({who})' if who else ''}; wait for it, or stop it with "
        "Ctrl-C there"
    )


def _watch_owner(study: Storage) -> None:
    """Watch the owner's heartbeat for LIFE_SECONDS. Raises StudyError if it changes."""
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
            raise already_running(study)


def _claim(study: Storage) -> Claim:
    """Claim the next run. Raises StudyError if another process has it."""
    number = max((claim.number for claim in _claims(study)), default=0) + 1
    folder = f"{_RUNS}/{number:06d}-{uuid.uuid4().hex[:16]}"
    # The heartbeat first: whoever sees the claim then watches it.
    study.write_text(f"{folder}/{_ALIVE}", _count(1))
    study.write_text(f"{folder}/{_CLAIM}", json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    time.sleep(SETTLE_SECONDS)
    owner = _owner(study)
    if owner is None or owner.folder != folder:
        study.delete(folder)
        raise already_running(study)
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


def _process_of(study: Storage, claim: Claim | None) -> str | None:
    """The process that made a claim, in words; None if it isn't known."""
    text = study.read_text(f"{claim.folder}/{_CLAIM}") if claim else None
    if text is None:
        return None
    made_by = json.loads(text)
    return f"process {made_by['pid']} on {made_by['host']}"


def _part_name(number: int) -> str:
    return f"events-{number:06d}.jsonl"


def _count(beats: int) -> str:
    """A count in a fixed length: a file may be replaced between the request for its size and its reading."""
    return f"{beats:017d}"
