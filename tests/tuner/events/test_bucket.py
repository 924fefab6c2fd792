"""One process owns a study in a bucket; what another still writes to it is never read."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.studies import study_spec
from tests.tuner.events.test_log import RUN
from tests.workloads.bucket import bucket_uri
from tests.written_event import event
from tuner.errors import StorageError, StudyError
from tuner.events import bucket as buckets
from tuner.events.event import Event, to_line
from tuner.events.log import Journal, read_events
from tuner.events.state import load_record
from tuner.spec.study import to_json
from tuner.storage.storage import Storage


@pytest.fixture
def study(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A study's folder in a bucket, with its study.json."""
    monkeypatch.setattr(buckets, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(buckets, "LIFE_SECONDS", 2.0)
    monkeypatch.setattr(buckets, "UPLOAD_SECONDS", 0.1)
    study = Storage(bucket_uri(bucket, tmp_path.name)) / "s"
    study.write_text("study.json", to_json(study_spec()))
    return study


def report(epoch: int) -> Event:
    return event("report", trial=1, epoch=epoch, metrics={"score": 0.5})


START = event("start", trial=1, params={"x": 0.5})

RUNNER = """
import sys, time
from tests.tuner.events.test_bucket import START, report
from tests.tuner.events.test_log import RUN
from tuner.events import bucket
from tuner.errors import StorageError
from tuner.events.log import Journal
from tuner.storage.storage import Storage
bucket.SETTLE_SECONDS, bucket.UPLOAD_SECONDS = 0.01, 0.1
try:
    with Journal(Storage(sys.argv[1])) as journal:
        for line in (RUN, START):
            journal.append(line)
        print("ready", flush=True)
        for epoch in range(1, 10**6):
            journal.append(report(epoch))
            time.sleep(0.01)
except StorageError as error:
    print(error, flush=True)
"""


@pytest.fixture
def runner(study: Storage) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the study."""
    command = [sys.executable, "-c", RUNNER, study.uri]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_suspended_driver_that_lost_its_study_stops_with_a_message_and_changes_nothing(
    study: Storage, runner: subprocess.Popen[str]
) -> None:
    runner.send_signal(signal.SIGSTOP)
    with Journal(study) as journal:
        journal.append(replace(RUN, number=2))
        taken_over = list(read_events(study))
        assert [line.KIND for line in taken_over[:2]] == ["run", "start"]
        runner.send_signal(signal.SIGCONT)
        message, _ = runner.communicate(timeout=30)
        assert message.startswith("study s: process ")
        assert "has taken it over, because this one was suspended or cut off from the bucket" in message
        assert message.count("\n") == 1
        journal.append(event("stop", state="finished", reason=None))
    assert list(read_events(study)) == [*taken_over, event("stop", state="finished", reason=None)]
    assert load_record(study).state == "finished"


@pytest.mark.parametrize("off", [61.0, -61.0, 86400.0])
def test_a_running_study_is_not_taken_over_whatever_the_clock_says(
    study: Storage, runner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    # So long that a process on a busy machine is not taken for a dead one; the first sign of life ends the wait.
    monkeypatch.setattr(buckets, "LIFE_SECONDS", 60.0)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + off)
    with pytest.raises(StudyError, match=rf"study s is being run by another process \(process {runner.pid} on "):
        Journal(study)
    assert len(study.names("runs")) == 1


def test_a_study_whose_driver_was_killed_is_taken_over_with_all_that_was_uploaded(
    study: Storage, runner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.kill()
    runner.wait()
    put = list(read_events(study))
    began = time.monotonic()
    Journal(study).close()
    assert time.monotonic() - began >= buckets.LIFE_SECONDS, "it is watched first"
    assert list(read_events(study)) == put
    # So long that a busy machine is not taken for one that watches.
    monkeypatch.setattr(buckets, "LIFE_SECONDS", 60.0)
    began = time.monotonic()
    Journal(study).close()
    assert time.monotonic() - began < buckets.LIFE_SECONDS, "that one said that it ended"


def test_an_upload_in_progress_when_the_study_was_taken_over_is_never_read(
    study: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "UPLOAD_SECONDS", 1e6)  # the first shows no life after its claim
    first = Journal(study)
    first.append(RUN)
    write_bytes = Storage.write_bytes
    seconds: list[Journal] = []

    def late(self: Storage, path: str, data: bytes) -> None:
        """Suspended after it had looked whose study it is; meanwhile another took it over."""
        monkeypatch.setattr(Storage, "write_bytes", write_bytes)
        seconds.append(Journal(study))
        seconds[0].append(replace(RUN, number=2))
        write_bytes(self, path, data)

    monkeypatch.setattr(Storage, "write_bytes", late)
    first.append(START)
    with pytest.raises(StorageError, match="has taken it over"):
        first.append(event("end", trial=1, state="failed", reason="late"))
    assert list(read_events(study)) == [RUN, replace(RUN, number=2)]
    with pytest.raises(StorageError, match="has taken it over"):
        first.append(report(1))
    with pytest.raises(StorageError, match="has taken it over"):
        first.check()
    seconds[0].close()
    first.close()
    assert list(read_events(study)) == [RUN, replace(RUN, number=2)]


def test_of_two_processes_that_start_at_once_one_runs_the_study(
    study: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "SETTLE_SECONDS", 1.5)
    together = threading.Barrier(2)

    def begin(number: int) -> Journal | str:
        together.wait()
        try:
            return Journal(study)
        except StudyError as error:
            return str(error)

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(begin, (1, 2)))
    journals = [journal for journal in found if isinstance(journal, Journal)]
    assert len(journals) == 1, found
    journals[0].append(RUN)
    journals[0].close()
    assert list(read_events(study)) == [RUN]


def test_events_are_uploaded_in_parts_and_each_part_once(study: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PART_BYTES", 500)
    lines = [RUN, *(event("start", trial=trial, params={"x": 0.5}) for trial in range(1, 30))]
    with Journal(study) as journal:
        for line in lines:
            journal.append(line)
    (run,) = study.names("runs")
    parts = [name for name in study.names(f"runs/{run}") if name.startswith("events-")]
    assert len(parts) > 3
    assert all(len(study.read_bytes(f"runs/{run}/{part}") or b"") < 800 for part in parts)
    assert list(read_events(study)) == lines
    for _ in range(3):
        Journal(study).close()
    assert list(read_events(study)) == lines
    assert len(study.names("runs")) == 2, "of each run a whole copy: the older ones go"


def test_events_reach_a_bucket_though_no_trial_starts_or_ends(study: Storage) -> None:
    with Journal(study) as journal:
        journal.append(RUN)
        journal.append(report(1))
        deadline = time.monotonic() + 10
        while list(read_events(study)) != [RUN, report(1)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_study_of_an_older_version_in_a_bucket_is_read_and_resumed(study: Storage) -> None:
    study.write_text("events.jsonl", "".join(to_line(line).decode() for line in (RUN, START)))
    study.write_text("alive", f"{time.time() - 1000:017.6f}")
    assert len(load_record(study).trials) == 1
    with Journal(study) as journal:
        journal.append(replace(RUN, number=2))
    record = load_record(study)
    assert (record.runs, len(record.trials)) == (2, 1)
