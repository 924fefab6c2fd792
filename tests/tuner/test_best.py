"""The winner's export: the right one, checked, or none at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.studies import study_spec
from tests.workloads import replay
from tests.written_event import event
from tuner.best import export_best
from tuner.errors import StudyError
from tuner.events.log import Journal
from tuner.spec.study import to_json
from tuner.storage.checkpoints import Progress, TrialCheckpoints, trial_folder
from tuner.storage.storage import Storage


def run_study(storage: Storage, name: str = "a", direction: str = "maximize", **fixed: Any) -> None:
    """A study of three trials by hand, with the checkpoints that retention leaves."""
    spec = study_spec(name=name, objective={"direction": direction}, budget={"trials": 3}, fixed=fixed)
    study = storage / name
    study.write_text("study.json", to_json(spec))
    with Journal(study) as journal:

        def write(kind: str, **fields: Any) -> None:
            journal.append(event(kind, 1e9, **fields))

        write("run", number=1, host="h", pid=1, versions={}, overrides=[], tracking_uri="x")
        for trial, x in ((1, 0.5), (2, 0.9), (3, 0.7)):
            config = replay.Config(x=x, dip_epoch=3, **fixed)
            checkpoints = TrialCheckpoints(trial_folder(study, trial))
            write("start", trial=trial, params={"x": x})
            best = Progress()
            for epoch in (1, 2, 3):
                value = replay.score(config, epoch)
                better = spec.objective.better(value, best.best_value)
                best = Progress(
                    epoch=epoch,
                    metrics={"score": value},
                    best_value=value if better else best.best_value,
                    best_epoch=epoch if better else best.best_epoch,
                )
                checkpoints.publish(replay.write_checkpoint(config, epoch), best)
                write("report", trial=trial, epoch=epoch, metrics={"score": value})
            write("end", trial=trial, state="finished", reason=None, value=best.best_value, best_epoch=best.best_epoch)
            checkpoints.strip(best.best_epoch)
        write("stop", state="finished", reason=None)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "studies"))


def test_the_best_epoch_of_the_best_trial_is_exported_with_its_score(storage: Storage, tmp_path: Path) -> None:
    run_study(storage)
    best = export_best(storage, "a", tmp_path / "out" / "deep")
    expected = replay.score(replay.Config(x=0.9, dip_epoch=3), 2)
    assert best.to_json() == {
        "study": "a",
        "trial": 2,
        "value": expected,
        "output": str(tmp_path / "out" / "deep"),
        "formats": {"weights": {"file": "weights.bin", "parity": 0.0}},
        "rescored": expected,
        "scores": {"score": {"logged": expected, "rescored": expected}},
        "params": {"x": 0.9},
        "test": {},
    }
    assert (tmp_path / "out" / "deep" / "weights.bin").read_bytes() == b"w" * 1000
    assert json.loads((tmp_path / "out" / "deep" / "study.json").read_text()) == best.to_json()


def test_the_least_value_wins_where_the_objective_is_minimized(storage: Storage, tmp_path: Path) -> None:
    run_study(storage, direction="minimize")
    best = export_best(storage, "a", tmp_path / "out")
    config = replay.Config(x=0.5, dip_epoch=3)
    assert (best.trial.id, best.rescored) == (1, min(replay.score(config, epoch) for epoch in (1, 2, 3)))


@pytest.mark.parametrize("drift", [0.02, -0.02, math.nan])
def test_an_export_with_another_score_than_logged_is_refused_and_removed(
    storage: Storage, tmp_path: Path, drift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study(storage)
    honest = replay.score
    monkeypatch.setattr(replay, "score", lambda config, epoch: honest(config, epoch) + drift)
    with pytest.raises(StudyError, match="the export must reach the score that trial 2 logged, got score"):
        export_best(storage, "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_score_within_the_tolerance_passes(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_study(storage)
    honest = replay.score
    monkeypatch.setattr(replay, "score", lambda config, epoch: honest(config, epoch) + 0.009)
    best = export_best(storage, "a", tmp_path / "out")
    assert best.rescored - (best.trial.value or 0) == pytest.approx(0.009)


def test_an_export_that_does_not_score_the_objective_is_refused(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study(storage)
    monkeypatch.setattr(replay, "export", lambda checkpoint, output: replay.Exported({}, {}))
    with pytest.raises(StudyError, match="must reach the score that trial 2 logged, got score nan"):
        export_best(storage, "a", tmp_path / "out")


def test_an_export_that_fails_leaves_nothing(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(checkpoint: Path, output: Path) -> replay.Exported:
        output.mkdir()
        (output / "half").write_text("half")
        raise RuntimeError("onnx differs by 0.3")

    run_study(storage)
    monkeypatch.setattr(replay, "export", broken)
    with pytest.raises(StudyError, match=r"study a: the export failed: onnx differs by 0\.3"):
        export_best(storage, "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_study_without_a_finished_trial_has_nothing_to_export(storage: Storage, tmp_path: Path) -> None:
    run_study(storage)
    events = storage / "a"
    text = events.read_text("events.jsonl") or ""
    events.write_text("events.jsonl", "".join(line + "\n" for line in text.split("\n")[:4]))
    with pytest.raises(StudyError, match="a finished trial is needed, got 1 trials and none finished"):
        export_best(storage, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_not_empty_is_refused(storage: Storage, tmp_path: Path) -> None:
    run_study(storage)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(StudyError, match="must be a folder that is new or empty"):
        export_best(storage, "a", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_output_below_a_file_is_reported(storage: Storage, tmp_path: Path) -> None:
    run_study(storage)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="the export failed: "):
        export_best(storage, "a", tmp_path / "file" / "out")


def test_a_winner_whose_checkpoint_is_gone_is_reported_with_its_hyperparameters(
    storage: Storage, tmp_path: Path
) -> None:
    run_study(storage)
    (storage / "a").delete("trials/2/epoch-000002")
    with pytest.raises(StudyError, match=r"needs its checkpoint of epoch 2, got none .* \{'x': 0\.9\}"):
        export_best(storage, "a", tmp_path / "out")


def test_two_exports_to_one_place_at_once_leave_the_first_whole(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found it free. The second ends after the first, and has nothing to delete there."""
    run_study(storage)
    run_study(storage, "b", "minimize")
    export, out = replay.export, tmp_path / "out"

    def while_another_exports(checkpoint: Path, output: Path) -> replay.Exported:
        monkeypatch.setattr(replay, "export", export)
        export_best(storage, "b", out)
        return export(checkpoint, output)

    monkeypatch.setattr(replay, "export", while_another_exports)
    with pytest.raises(StudyError, match=f"--output {out}: must be a folder that is new or empty"):
        export_best(storage, "a", out)
    assert json.loads((out / "study.json").read_text())["study"] == "b"
    assert (out / "weights.bin").read_bytes() == b"w" * 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "studies"]


def test_an_export_that_fails_leaves_what_others_put_there_meanwhile(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study(storage)
    out = tmp_path / "out"

    def broken(checkpoint: Path, output: Path) -> replay.Exported:
        out.mkdir()
        (out / "mine").write_text("mine")
        raise RuntimeError(f"{output / 'weights.bin'}: no room")

    monkeypatch.setattr(replay, "export", broken)
    with pytest.raises(StudyError, match=f"the export failed: {out / 'weights.bin'}: no room"):
        export_best(storage, "a", out)
    assert (out / "mine").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "studies"]


def test_a_damaged_checkpoint_is_not_exported(storage: Storage, tmp_path: Path) -> None:
    run_study(storage)
    weights = tmp_path / "studies" / "a" / "trials" / "2" / "epoch-000002" / "weights.bin"
    weights.write_bytes(b"w" * 999)
    with pytest.raises(StudyError, match=r"needs its checkpoint of epoch 2, got none .* that is undamaged"):
        export_best(storage, "a", tmp_path / "out")
