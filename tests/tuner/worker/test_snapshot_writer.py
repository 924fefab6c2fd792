"""A trial that hands over snapshots: what of them comes into the storage, and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tuner.worker.trial_runner import TrialRunner
from tests.workloads import replay
from tuner.storage.checkpoints import Progress, TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage
from tuner.worker import snapshot_writer as snapshots
from tuner.worker.messages import Decision, End, Message
from tuner.worker.snapshot_writer import SnapshotWriter
from tuner.worker.storage_retry import StorageRetry


@pytest.fixture(autouse=True)
def no_experience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "last_write", snapshots.LastWrite())


def runner_in(folder: Path, *, stop_after: int | None = None, keep: bool = False) -> TrialRunner:
    return TrialRunner(Storage(str(folder)) / "s", stop_after=stop_after, keep=keep)


def test_a_trial_that_is_stopped_and_not_among_the_best_leaves_its_image_and_no_weights(tmp_path: Path) -> None:
    runner = runner_in(tmp_path, stop_after=1)
    runner.run(snapshots=True)
    assert runner.checkpoints() == {}
    assert runner.image_folders() == ["epoch-000001"]
    assert runner.images == ["images/epoch-000001/frame_a.png"]


def test_a_trial_that_is_stopped_and_among_the_best_leaves_its_best_weights(tmp_path: Path) -> None:
    runner = runner_in(tmp_path, stop_after=3, keep=True)
    runner.run(snapshots=True, epochs=5, dip_epoch=3, write_seconds=0.02)
    assert runner.checkpoints() == {"epoch-000001": True, "epoch-000002": False}
    assert json.loads((runner.folder / "epoch-000002" / "report.json").read_text())["best_value"] == 0.375
    assert "images/epoch-000002/frame_a.png" in runner.images


def test_a_finished_trial_among_the_best_has_its_best_weights_before_it_tells_its_end(tmp_path: Path) -> None:
    seen: list[dict[str, bool]] = []

    class Watching(TrialRunner):
        def send(self, message: Message) -> Decision:
            if isinstance(message, End):
                seen.append(self.checkpoints())
            return super().send(message)

    runner = Watching(Storage(str(tmp_path)) / "s", keep=True)
    runner.run(snapshots=True, epochs=6, write_seconds=0.05)
    assert seen == [{"epoch-000001": True, "epoch-000006": False}]
    assert not list(runner.folder.glob(".incoming-*"))


def test_training_continues_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    runner.run(snapshots=True, epochs=5, write_seconds=1.0)
    assert runner.reported_at[4] - runner.reported_at[0] < 0.5, (
        "five epochs that take no time, beside a write of a second"
    )
    assert "epoch-000001" in runner.checkpoints()


def test_checkpoints_are_written_in_a_fiftieth_of_the_time(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    written: list[int] = []
    publish = TrialCheckpoints.publish

    def counting(self: TrialCheckpoints, directory: Path, progress: Progress) -> list[str]:
        written.append(progress.epoch)
        return publish(self, directory, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialCheckpoints, "publish", counting)
        runner.run(snapshots=True, epochs=40, step_seconds=0.05, write_seconds=0.01)
    # A write takes 0.01 s and a little; two seconds have room for the first and at most three more.
    assert written[0] == 1
    assert 1 <= len(written) <= 4, written
    assert snapshots.last_write.seconds >= 0.01


def test_a_trial_that_is_shorter_than_fifty_checkpoints_of_the_trial_before_writes_none(tmp_path: Path) -> None:
    snapshots.last_write.seconds = 10.0
    runner = runner_in(tmp_path)
    runner.run(snapshots=True, epochs=5)
    assert runner.checkpoints() == {}
    assert runner.image_folders() == ["epoch-000005"], "the best epoch's, sent with the end"
    assert runner.images == ["images/epoch-000005/frame_a.png"]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SnapshotWriter]:
    folder = trial_folder(Storage(str(tmp_path)) / "s", 1)
    writer = SnapshotWriter(TrialCheckpoints(folder), StorageRetry(folder, lambda _: False))
    yield writer
    writer.close()


def test_a_trial_that_resumes_from_a_checkpoint_finds_the_best_one_before_it(
    tmp_path: Path, writer: SnapshotWriter
) -> None:
    """The best epoch's weights wait in memory; a checkpoint after which it isn't trained again comes after them."""
    config = replay.Config(snapshots=True)
    best = Progress(epoch=7, metrics={}, best_value=0.9, best_epoch=7)
    newest = Progress(epoch=9, metrics={}, best_value=0.9, best_epoch=7)
    writer.copy_if_best(best, replay.Snapshot(config, 7))
    writer.copy_if_best(newest, replay.Snapshot(config, 9))
    writer.write_if_due(newest, replay.Snapshot(config, 9))
    writer.flush(keep=True)
    assert runner_in(tmp_path).checkpoints() == {"epoch-000007": False, "epoch-000009": True}


def test_the_best_that_the_newest_knows_stays_while_a_better_one_may_be_lost(
    tmp_path: Path, writer: SnapshotWriter
) -> None:
    """A kill takes the trial back to epoch 5, whose best is 3; 8 is then trained again, and may turn out worse."""
    config = replay.Config(snapshots=True)
    for epoch, best_epoch in ((3, 3), (5, 3), (8, 8)):
        progress = Progress(epoch=epoch, metrics={}, best_value=0.1 * best_epoch, best_epoch=best_epoch)
        writer.copy_if_best(progress, replay.Snapshot(config, epoch))
        if epoch == 5:
            writer.write_if_due(progress, replay.Snapshot(config, epoch))
        else:
            writer.flush(keep=True)
    assert runner_in(tmp_path).checkpoints() == {"epoch-000003": False, "epoch-000005": True, "epoch-000008": False}
    checkpoints = TrialCheckpoints(trial_folder(Storage(str(tmp_path)) / "s", 1))
    found = checkpoints.newest()
    assert found is not None
    checkpoints.rewind(found[0].epoch)
    assert runner_in(tmp_path).checkpoints() == {"epoch-000003": False, "epoch-000005": True}


def test_a_restarted_trial_starts_in_an_empty_folder(tmp_path: Path) -> None:
    runner = runner_in(tmp_path)
    (runner.folder / "epoch-000009" / "resume").mkdir(parents=True)  # half of a checkpoint: no report.json
    snapshots.last_write.seconds = 10.0
    runner.run(snapshots=True)
    assert runner.checkpoints() == {}


def test_the_newest_checkpoint_to_resume_from_stays_while_better_weights_come(
    tmp_path: Path, writer: SnapshotWriter
) -> None:
    config = replay.Config(snapshots=True)
    for epoch in (1, 2, 3):
        progress = Progress(epoch=epoch, metrics={}, best_value=0.1 * epoch, best_epoch=epoch)
        writer.copy_if_best(progress, replay.Snapshot(config, epoch))
        writer.flush(keep=True)
        if epoch == 1:
            writer.write_if_due(progress, replay.Snapshot(config, epoch))
    assert runner_in(tmp_path).checkpoints() == {"epoch-000001": True, "epoch-000003": False}


def test_a_resumed_trial_reports_its_epoch_and_deletes_later_checkpoints(tmp_path: Path) -> None:
    first = runner_in(tmp_path, stop_after=4, keep=True)
    first.run(snapshots=True, epochs=6, write_seconds=0.02)
    assert first.checkpoints() == {"epoch-000001": True, "epoch-000004": False}
    snapshots.last_write.seconds = 10.0
    second = runner_in(tmp_path)
    second.run(snapshots=True, epochs=6)
    assert [(report.epoch, report.resumed) for report in second.reports] == [
        (1, True), (2, False), (3, False), (4, False), (5, False), (6, False),
    ]  # fmt: skip
    assert second.checkpoints() == {"epoch-000001": True}
