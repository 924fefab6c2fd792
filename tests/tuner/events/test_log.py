"""Events, the state derived from them, and the journal."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.studies import study_spec
from tests.workloads.small_disk import fill, small_disk
from tests.written_event import event
from tuner.errors import StorageError, StudyError
from tuner.events.event import EpochReported, Event, RunBegan, from_line, to_line
from tuner.events.log import EVENTS, Journal, is_running, read_events
from tuner.events.state import StudyRecord, load_record
from tuner.spec.study import to_json
from tuner.storage.storage import Storage

RUN = RunBegan(1.0, number=1, host="h", pid=1, versions={}, overrides=(), tracking_uri="sqlite:///x")


def record_of(*events: Event, direction: str = "maximize") -> StudyRecord:
    record = StudyRecord(study_spec(objective={"direction": direction}))
    for line in events:
        record.apply(line)
    return record


def trial(number: int, *values: float, end: str | None = "finished") -> list[Event]:
    lines = [event("start", trial=number, params={"x": 0.1})]
    lines += [event("report", trial=number, epoch=e, metrics={"score": v}) for e, v in enumerate(values, start=1)]
    if end:
        lines.append(event("end", trial=number, state=end, reason=None, value=None, best_epoch=None))
    return lines


@pytest.fixture
def study(tmp_path: Path) -> Storage:
    """A study's folder, with its study.json."""
    storage = Storage(str(tmp_path)) / "s"
    storage.write_text("study.json", to_json(study_spec()))
    return storage


def folder(study: Storage) -> Path:
    assert study.local is not None
    return study.local


def test_a_trials_value_is_its_best_with_the_epoch_of_it() -> None:
    found = record_of(RUN, *trial(1, 0.2, 0.9, 0.4)).trials[1]
    assert (found.value, found.best_epoch) == (0.9, 2)
    assert (found.epoch, found.curve) == (3, [(1, 0.2), (2, 0.9), (3, 0.4)])


def test_a_rewound_trial_is_as_it_was_at_that_epoch_and_no_longer_leads() -> None:
    record = record_of(RUN, *trial(1, 0.5), *trial(2, 0.2, 0.4, 0.9, 0.3, end=None))
    assert record.leader is record.trials[2]
    record.apply(event("back", trial=2, epoch=2))
    found = record.trials[2]
    assert (found.epoch, found.value, found.best_epoch) == (2, 0.4, 2)
    assert found.curve == [(1, 0.2), (2, 0.4)]
    assert found.furthest == 4
    assert record.leader is record.trials[1]
    record.apply(event("back", trial=2, epoch=0))
    assert (found.epoch, found.value, found.best_epoch, found.curve) == (0, None, None, [])


def test_a_running_trial_would_be_kept_while_it_is_among_the_best() -> None:
    record = record_of(RUN, *trial(1, 0.9), *trial(2, 0.5), *trial(3, 0.6, end=None))
    assert record.spec.checkpoints.keep == 3
    assert record.would_be_kept(record.trials[3]), "there are fewer than three"
    for line in trial(4, 0.6):
        record.apply(line)
    assert record.would_be_kept(record.trials[3]), "better than 0.5"
    for line in trial(5, 0.7):
        record.apply(line)
    assert record.would_be_kept(record.trials[3]), "as good as 4, and older"
    for line in [*trial(6, 0.8), event("start", trial=7, params={"x": 0.1})]:
        record.apply(line)
    assert not record.would_be_kept(record.trials[3]), "three are better"
    assert not record.would_be_kept(record.trials[7]), "it has nothing to keep yet"


def test_the_least_value_is_the_best_where_the_objective_is_minimized() -> None:
    record = record_of(RUN, *trial(1, 0.5, 0.2, 0.4), *trial(2, 0.3), direction="minimize")
    assert record.trials[1].value == 0.2
    assert [found.id for found in record.ranking()] == [1, 2]


def test_the_first_of_two_equal_epochs_is_the_best() -> None:
    assert record_of(RUN, *trial(1, 0.5, 0.5)).trials[1].best_epoch == 1


def test_the_older_of_two_equal_trials_ranks_first() -> None:
    record = record_of(RUN, *trial(2, 0.5), *trial(1, 0.5))
    assert [found.id for found in record.ranking()] == [1, 2]


def test_failed_and_unfinished_trials_cannot_win() -> None:
    lines = [*trial(1, 0.9, end="failed"), *trial(2, 0.8, end=None), *trial(3), *trial(4, 0.1, end="stopped")]
    assert [found.id for found in record_of(RUN, *lines).ranking()] == [4]


def test_the_time_between_two_attempts_is_not_the_trials() -> None:
    record = record_of(
        event("start", 100.0, trial=1, params={}),
        event("report", 107.0, trial=1, epoch=1, metrics={"score": 1}),
        event("stop", 500.0, state="interrupted", reason=None),
        event("start", 900.0, trial=1, params={}),
        event("end", 905.0, trial=1, state="finished", reason=None, value=1, best_epoch=1),
    )
    assert record.trials[1].seconds(now=10_000.0) == 12.0


def test_a_run_that_begins_knows_that_no_trial_of_the_last_one_runs() -> None:
    record = record_of(RUN, *trial(1, 0.5, end=None), replace(RUN, number=2))
    assert record.trials[1].state == "interrupted"
    assert record.runs == 2


def test_events_come_back_as_they_were_written(study: Storage) -> None:
    lines = [RUN, *trial(1, 0.1 + 0.2), event("stop", 9.0, state="finished", reason="ümlaut \n newline")]
    with Journal(study) as journal:
        for line in lines:
            journal.append(line)
    assert list(read_events(study)) == lines


def test_a_truncated_last_line_is_dropped_and_nothing_is_appended_to_it(study: Storage) -> None:
    with Journal(study) as journal:
        journal.append(RUN)
    with (folder(study) / EVENTS).open("a") as file:
        file.write('{"event": "start", "trial": 1, "par')
    assert load_record(study).trials == {}
    with Journal(study) as journal:
        for line in trial(2, 0.5):
            journal.append(line)
    assert set(load_record(study).trials) == {2}


def test_a_metric_that_json_cannot_hold_is_never_written(study: Storage) -> None:
    with Journal(study) as journal, pytest.raises(ValueError, match="JSON"):
        journal.append(EpochReported(0.0, 1, 1, {"score": float("nan")}))


HOLD = """
import sys
from tuner.events.log import Journal
from tuner.storage.storage import Storage
with Journal(Storage(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_cannot_run_the_same_study(study: Storage) -> None:
    command = [sys.executable, "-c", HOLD, str(folder(study))]
    root, pipe = Path(__file__).parents[3], subprocess.PIPE
    with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        assert is_running(study)
        with pytest.raises(StudyError, match="study s is being run by another process"):
            Journal(study)
        first.kill()
        first.wait()
    # The kernel released the lock; nobody has to delete a file.
    assert not is_running(study)
    Journal(study).close()


def test_a_study_whose_process_was_killed_is_interrupted(study: Storage) -> None:
    with Journal(study) as journal:
        for line in [RUN, *trial(1, 0.5, end=None)]:
            journal.append(line)
        assert load_record(study).state == "running"
    record = load_record(study)
    assert (record.state, record.reason) == ("interrupted", "its process is gone")
    assert record.trials[1].state == "interrupted"


def test_checking_whether_a_study_runs_does_not_keep_it_from_being_run(study: Storage) -> None:
    with Journal(study):
        pass
    for _ in range(50):
        assert not is_running(study)
        Journal(study).close()


def test_a_missing_study_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="a study is needed there, got none"):
        load_record(Storage(str(tmp_path)) / "nothing")


def test_a_journal_makes_its_folder(tmp_path: Path) -> None:
    with Journal(Storage(str(tmp_path)) / "new" / "study") as journal:
        journal.append(RUN)
    assert from_line((tmp_path / "new" / "study" / EVENTS).read_bytes()) == RUN


@pytest.mark.parametrize("kind", ["start", "end"])
def test_the_start_and_the_end_of_a_trial_are_on_the_disk_before_anything_follows(
    study: Storage, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with Journal(study) as journal:
        synced: list[str] = []
        for line in trial(1, 0.5):
            monkeypatch.setattr(os, "fdatasync", lambda _, kind=line.KIND: synced.append(kind))
            journal.append(line)
    assert kind in synced
    assert "report" not in synced, "it waits for those that come with it"


def test_a_damaged_line_in_the_middle_is_reported_with_its_number(study: Storage) -> None:
    path = folder(study) / EVENTS
    for damage in (
        b'{"event": "sta',
        b"\0" * 40,
        b'{"event": "start", "trial": 2, "params": {"x": "\xff"}}',
        b"[1]",
        b"7",
    ):
        lines = [to_line(line).strip() for line in [RUN, *trial(1, 0.5)]]
        path.write_bytes(b"\n".join([lines[0], damage, *lines[1:]]) + b"\n")
        with pytest.raises(StudyError, match=rf"{path}, line 2: must be an event in JSON, got .* \(sed -i 2d\)"):
            load_record(study)


def test_a_truncated_end_of_several_lines_is_no_damage_and_is_removed(study: Storage) -> None:
    """A power cut may leave zeros where the last lines were to be."""
    path = folder(study) / EVENTS
    whole = to_line(RUN).strip() + b"\n"
    path.write_bytes(whole + b"\0" * 100 + b"\n\xff\n" + b'{"event": "sta')
    assert load_record(study).runs == 1
    Journal(study).close()
    assert path.read_bytes() == whole


def test_an_event_of_a_newer_version_is_reported(study: Storage) -> None:
    (folder(study) / EVENTS).write_text(to_line(RUN).decode().strip() + '\n{"event": "teleport", "time": 1}\n')
    with pytest.raises(StudyError, match=r"line 2: event 'teleport' is not known to this version.*: use that version"):
        load_record(study)


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "report", "trial": 7}',
        '{"event": "report", "trial": 1, "epoch": 1}',
        '{"event": "report", "time": 1, "trial": 1, "epoch": 1, "metrics": {"loss": 0.1, "score": "0.5"}}',
        '{"event": "start"}',
    ],
)
def test_an_incomplete_event_is_reported(study: Storage, line: str) -> None:
    run, start = to_line(RUN), to_line(event("start", trial=1, params={}))
    (folder(study) / EVENTS).write_bytes(run + start + line.encode() + b"\n" + run)
    with pytest.raises(StudyError, match=rf"{EVENTS}, line 3: event '\w+' is incomplete"):
        load_record(study)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: must be a study in JSON, got an empty file"),
        (b'{"name": "s",\n "budget"', "line 2: must be a study in JSON, got Expecting"),
        (b'{"name": "s",\n "fixed": "\xff"}', "line 2: must be UTF-8, got the byte 0xff"),
        (b'{"name": "s"}', "Field required"),
        (b"[]", "the whole file: Input should be"),
    ],
)
def test_a_damaged_study_file_is_reported_with_its_line(study: Storage, content: bytes, message: str) -> None:
    (folder(study) / "study.json").write_bytes(content)
    with pytest.raises(StudyError, match=rf"{folder(study)}/study\.json.*{message}.*the file is damaged: restore it"):
        load_record(study)


def append_until_refused(journal: Journal) -> tuple[int, str]:
    """How many reports of one trial were written, and the error of the next one."""
    for epoch in range(1, 1000):
        try:
            journal.append(report(epoch))
        except StorageError as error:
            return epoch - 1, str(error)
    raise AssertionError("the disk is not full")


def report(epoch: int) -> Event:
    return event("report", trial=1, epoch=epoch, metrics={"score": 0.5})


def test_a_full_disk_under_the_events_is_reported_and_leaves_no_half_line(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk, Journal(Storage(str(disk)) / "s") as journal:
        lines = [RUN, event("start", trial=1, params={"x": 0.1})]
        for line in lines:
            journal.append(line)
        filler = fill(disk, left=0)
        for _ in range(2):
            written, message = append_until_refused(journal)
            lines += [report(epoch) for epoch in range(1, written + 1)]
            assert message.startswith(f"{disk}/s/events.jsonl: the disk is full; the study is interrupted")
            assert message.endswith("free disk space, then continue with `python -m tuner resume s`")
            assert list(read_events(Storage(str(disk)) / "s")) == lines
            assert journal.path.read_bytes().endswith(b"}\n")
        filler.unlink()
        journal.append(report(1))
        assert list(read_events(Storage(str(disk)) / "s")) == [*lines, report(1)]


LIMITED = """
import resource, sys
from tuner.events.event import EpochReported
from tuner.events.log import Journal
from tuner.storage.storage import Storage
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with Journal(Storage(sys.argv[1])) as journal:
    while True:
        journal.append(EpochReported(0.0, 1, 1, {"score": 0.5}))
"""


def test_a_file_size_limit_is_reported_as_a_full_disk(study: Storage) -> None:
    command = [sys.executable, "-c", LIMITED, str(folder(study))]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert f"StorageError: {folder(study)}/events.jsonl: the disk is full" in done.stderr
    data = (folder(study) / EVENTS).read_bytes()
    assert 800 < len(data) <= 1000
    assert data.endswith(b"\n")


def test_a_storage_without_room_for_a_new_study_is_reported(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        fill(disk, left=0)
        with pytest.raises(StudyError, match=f"--storage {disk}/s: must be a folder that can be written, got No space"):
            (Storage(str(disk)) / "s").write_text("study.json", "x" * 10_000)
        assert not list(disk.rglob(".study*")), "half a file would fill the disk further"
