"""What a power cut leaves, at whatever moment it comes: tests/power_cut.py says which disks are possible."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.power_cut import PowerCut
from tests.studies import study_spec
from tests.tuner.events.test_log import RUN, trial
from tests.tuner.worker.trial_runner import TrialRunner
from tests.workloads.replay import Config, write_checkpoint
from tuner.events.event import EpochReported, Event
from tuner.events.log import Journal
from tuner.events.state import load_record
from tuner.spec.study import to_json
from tuner.storage.checkpoints import Progress, TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage
from tuner.worker import snapshot_writer as snapshots


@pytest.fixture
def cut(tmp_path: Path) -> PowerCut:
    (tmp_path / "disk").mkdir()
    return PowerCut(tmp_path / "disk", tmp_path / "disks")


def test_the_newest_published_checkpoint_is_complete(tmp_path: Path, cut: PowerCut) -> None:
    checkpoints = TrialCheckpoints(trial_folder(Storage(str(tmp_path / "disk")) / "s", 1))
    with cut.watching():
        for epoch, best_epoch in ((1, 1), (2, 2), (3, 2)):
            progress = Progress(epoch=epoch, metrics={}, best_value=0.1 * best_epoch, best_epoch=best_epoch)
            checkpoints.publish(write_checkpoint(Config(), epoch), progress)
            cut.promised = epoch
        cut.promised = 100
        checkpoints.strip(2)
    disks = cut.disks()
    assert len(disks) > 40
    for disk in disks:
        left = TrialCheckpoints(trial_folder(Storage(str(disk.path)) / "s", 1))
        if disk.promised < 100:
            found = left.newest_intact(tmp_path)
            epoch = found[0].epoch if found else 0
            assert disk.promised <= epoch <= disk.promised + 1, disk
            if found:
                assert json.loads((found[1] / "resume" / "state.json").read_text()) == {"epoch": epoch}
                assert (found[1] / "weights.bin").read_bytes() == b"w" * 1000
        if disk.promised >= 2:
            best = left.fetch(2, tmp_path)
            assert best is not None, disk
            assert (best / "weights.bin").read_bytes() == b"w" * 1000


@pytest.mark.parametrize("by_snapshot", [True, False])
def test_a_trial_resumes_and_never_fails(tmp_path: Path, cut: PowerCut, by_snapshot: bool) -> None:
    def run(folder: Path) -> TrialRunner:
        snapshots.last_write.seconds = 0.0
        runner = TrialRunner(Storage(str(folder)) / "s", keep=True)
        runner.run(epochs=3, snapshots=by_snapshot)
        return runner

    with cut.watching():
        run(tmp_path / "disk")
    starts = set()
    for disk in cut.disks():
        runner = run(disk.path)
        assert runner.end == ("finished", None), disk
        reported = [(report.epoch, report.resumed) for report in runner.reports]
        start = reported[0][0] if reported[0][1] else 0
        starts.add(start)
        assert reported == ([(start, True)] if start else []) + [(epoch, False) for epoch in range(start + 1, 4)]
        assert (runner.folder / "epoch-000003" / "weights.bin").read_bytes() == b"w" * 1000
    assert starts >= {0, 1}


def test_no_event_with_a_decision_is_lost_and_the_study_can_be_read(tmp_path: Path, cut: PowerCut) -> None:
    study = Storage(str(tmp_path / "disk")) / "s"
    events: list[Event] = [RUN, *trial(1, *(0.01 * epoch for epoch in range(1, 6)))]
    with cut.watching():
        study.write_text("study.json", to_json(study_spec()))
        with Journal(study) as journal:
            for number, event in enumerate(events, start=1):
                journal.append(event)
                if isinstance(event, EpochReported):
                    journal.sync()
                cut.promised = number
        study.write_text("study.json", to_json(study_spec(objective={"direction": "minimize"})))
    disks = cut.disks()
    assert len(disks) > 10
    for disk in disks:
        left = Storage(str(disk.path)) / "s"
        if not left.exists("study.json"):
            assert disk.promised == 0
            continue
        if disk.promised:
            record = load_record(left)
            curve = record.trials[1].curve if disk.promised >= 2 else []
            # The run, the start, five reports, the end.
            assert len(curve) >= min(5, max(0, disk.promised - 2)), disk
            assert record.runs == 1
            assert disk.promised < 8 or record.trials[1].state == "finished"


def test_a_damaged_checkpoint_is_skipped_for_the_one_before_and_then_for_a_restart(tmp_path: Path) -> None:
    """As a version that synced nothing, or a bad disk, leaves it: whole by its names, and empty."""

    def trial_of(damage: list[str], folder: Path) -> TrialRunner:
        checkpoints = TrialCheckpoints(trial_folder(Storage(str(folder)) / "s", 1))
        for epoch in (1, 2):
            keep = folder / "keep"
            if epoch == 2:
                (checkpoints_of(folder) / "epoch-000001").rename(keep)
            progress = Progress(epoch=epoch, metrics={"score": 0.1}, best_value=0.1 * epoch, best_epoch=epoch)
            checkpoints.publish(write_checkpoint(Config(), epoch), progress)
            if epoch == 2:
                keep.rename(checkpoints_of(folder) / "epoch-000001")
        for name in damage:
            path = checkpoints_of(folder) / name
            path.write_bytes(b"\0" * path.stat().st_size)
        runner = TrialRunner(Storage(str(folder)) / "s")
        snapshots.last_write.seconds = time.monotonic()
        runner.run(epochs=4)
        assert runner.end == ("finished", None)
        return runner

    def checkpoints_of(folder: Path) -> Path:
        return folder / "s" / "trials" / "1"

    for number, (damage, first) in enumerate(
        [
            ([], (2, True)),
            (["epoch-000002/weights.bin"], (1, True)),
            (["epoch-000002/resume/state.json"], (1, True)),
            (["epoch-000002/report.json"], (1, True)),
            (["epoch-000002/files.json"], (1, True)),
            (["epoch-000002/weights.bin", "epoch-000001/weights.bin"], (1, False)),
        ]
    ):
        runner = trial_of(damage, tmp_path / str(number))
        assert (runner.reports[0].epoch, runner.reports[0].resumed) == first, damage
