"""What MLflow will never take must not hold back the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.mlflow_server import MlflowServer
from tests.tracked_study import EXPECTED, TrackedStudy, lines
from tests.waiting import wait_for
from tuner.tracking.names import fit_image_key, fit_name
from tuner.tracking.state import skipped_note
from tuner.tracking.tracker import Tracker

# What MLflow and its database library warn of is theirs.
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def with_images(*names: str) -> list[dict[str, Any]]:
    """The events of `lines`, the first trial's first images being these."""
    events = lines()
    first = next(event for event in events if event["event"] == "images")
    first["images"] = [f"images/epoch-000001/{name}" for name in names]
    return events


def damaged(study: TrackedStudy) -> Path:
    return study.draw("images/epoch-000001/damaged.png")


def test_frames_of_any_name_get_their_images(study: TrackedStudy) -> None:
    names = (
        "IMG (1).png",
        "IMG [1].png",
        "straße_1.png",
        "50%#2+step+7.png",
        "x" * 240 + ".png",
        "..png",
        "not utf-8 \udcff.png",
        "frame_a.png",
    )
    for name in names:
        study.draw(f"images/epoch-000001/{name}")
    study.write(with_images(*names))
    assert study.track() == 0
    assert study.skipped() == []
    seen = study.seen()
    keys = {fit_image_key(Path(name).stem) for name in names}
    assert len(keys) == len(names)
    expected = {f"images/{key}+step+1{kind}" for key in keys for kind in (".png", ".webp")}
    assert {name for name in seen["1"]["images"] if "+step+1." in name} == expected
    assert {trial: run["status"] for trial, run in seen.items()} == {
        trial: run["status"] for trial, run in EXPECTED.items()
    }


def test_classes_of_any_name_get_their_metrics(study: TrackedStudy) -> None:
    events = lines()
    for number, event in enumerate(event for event in events if event["event"] == "report"):
        event["metrics"] |= {"iou/car & truck": 0.5 + number, "iou/car + truck": 0.25 + number}
    study.write(events)
    assert study.track() == 0
    assert study.skipped() == []
    history = study.seen()["1"]["metrics"]
    assert len(history[fit_name("iou/car & truck")]) == 3
    assert history[fit_name("iou/car & truck")] != history[fit_name("iou/car + truck")]
    assert history["score"] == EXPECTED["1"]["metrics"]["score"]


def test_more_parameters_tags_and_longer_values_than_a_call_holds(study: TrackedStudy) -> None:
    events = lines()
    events[0]["versions"] = {f"library{number}": "1" for number in range(250)}
    events[1]["params"] |= {f"setting{number}": number for number in range(350)} | {"long": "x" * 7000}
    events[2]["params"] |= {f"long{number}": "路" * 6000 for number in range(90)}
    study.write(events)
    assert study.track() == 0
    assert study.skipped() == []
    seen = study.seen()
    assert seen["1"]["params"] == {
        "x": "0.1",
        **{f"setting{number}": str(number) for number in range(350)},
        "long": "x" * 5999 + "…",
    }
    assert len(seen["2"]["params"]) == 91
    assert seen["1"]["metrics"] == EXPECTED["1"]["metrics"]
    # Said again to runs that have it all.
    (study.events.parent / "tracking.json").unlink()
    assert study.track() == 0
    assert study.seen() == seen


def test_a_reason_longer_than_a_tag_is_truncated(study: TrackedStudy) -> None:
    events = lines()
    failed = next(event for event in events if event.get("state") == "failed")
    failed["reason"] = "no\0 " * 9000
    study.write(events)
    assert study.track() == 0
    assert study.seen()["2"]["reason"].startswith("no\ufffd no")


def test_a_line_longer_than_a_step_reads_is_written(study: TrackedStudy) -> None:
    events = lines()
    events[1]["params"]["notes"] = "n" * (3 << 20)
    study.write(events)
    assert study.track() == 0
    assert study.seen()["1"]["params"]["notes"] == "n" * 5999 + "…"
    assert study.seen()["2"] == EXPECTED["2"]


def test_images_that_cannot_be_read_are_skipped_and_reported(study: TrackedStudy) -> None:
    names = ("torn.png", "not utf-8 \udcff.png", "empty.png", "text.png", "folder.png", "gone.png", "frame_a.png")
    for name in names:
        study.draw(f"images/epoch-000001/{name}")
    folder = study.events.parent / "trials" / "1" / "images" / "epoch-000001"
    whole = (folder / "torn.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / names[1]).write_bytes(b"")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    (folder / "folder.png").unlink()
    (folder / "folder.png").mkdir()
    (folder / "gone.png").unlink()
    study.write(with_images(*names))
    assert study.track() == 0
    assert study.seen() == EXPECTED
    skipped = study.skipped()
    assert len(skipped) == 6
    for name, sentence in zip(names, skipped, strict=False):
        assert sentence.startswith(f"trial 1, image images/epoch-000001/{name.replace(chr(0xDCFF), '?')}: ")
    assert study.tracker is not None
    assert study.tracker.skipped == f"MLflow lacks 6 things, the first: {skipped[0]}"
    assert skipped_note(study.study) == study.tracker.skipped


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_image_without_read_permission_is_skipped(study: TrackedStudy) -> None:
    damaged(study).chmod(0)
    study.write(with_images("damaged.png", "frame_a.png"))
    assert study.track() == 0
    assert study.seen() == EXPECTED


def test_lines_that_are_damaged_or_of_a_later_version_are_skipped(study: TrackedStudy) -> None:
    events = lines()
    study.write(events[:6])
    with study.events.open("a") as file:
        file.write('{"event": "report", "trial": 1, "epo\n')
        file.write('["no event"]\n')
        file.write('{"event": "report", "trial": 1, "time": 1.0}\n')
        file.write('{"event": "of a later version", "time": 1.0}\n')
        file.write('{"event": "report", "trial": 1, "epoch": 1, "metrics": {"score": null}, "time": 1.0}\n')
    study.write(events[6:])
    assert study.track() == 0
    assert study.seen() == EXPECTED
    assert len(study.skipped()) == 5


@pytest.mark.slow
def test_a_server_rejects_what_a_database_does(tmp_path: Path, server: MlflowServer) -> None:
    study = TrackedStudy(tmp_path, server.uri, "refused")
    names = ("IMG (1).png", "straße_1.png", "torn.png", "frame_a.png")
    for name in names:
        study.draw(f"images/epoch-000001/{name}")
    torn = study.events.parent / "trials" / "1" / "images" / "epoch-000001" / "torn.png"
    torn.write_bytes(torn.read_bytes()[:100])
    events = with_images(*names)
    events[0]["versions"] = {f"library{number}": "1" for number in range(120)}
    events[1]["params"] |= {f"setting{number}": "路" * 6000 for number in range(150)}
    events[4]["metrics"] |= {"iou/car & truck": 0.5}
    study.write(events)
    assert study.track() == 0
    seen = study.seen()
    assert len(seen["1"]["images"]) == 12
    assert len(seen["1"]["params"]) == 151
    assert seen["1"]["metrics"].pop(fit_name("iou/car & truck")) == [(1, 0.5)]
    assert seen["1"]["metrics"] == EXPECTED["1"]["metrics"]
    assert {key: seen[key] for key in "23"} == {key: EXPECTED[key] for key in "23"}
    assert len(study.skipped()) == 1


def test_an_artifact_store_that_fails_does_not_hold_back_metrics(
    tmp_path: Path, study: TrackedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.tracking.calls.PAUSES_SECONDS", (0.01,))
    (tmp_path / "artifacts").write_text("where MLflow wants a folder")
    study.write(lines())
    assert study.track() == 0
    seen = study.seen()
    assert seen["1"].pop("images") == {}
    assert {key: {**run, "images": None} for key, run in seen.items()} == {
        key: {**run, "images": None} for key, run in EXPECTED.items()
    }
    assert len(study.skipped()) == 5


def test_a_run_that_somebody_deleted_is_left_alone(study: TrackedStudy) -> None:
    events = lines()
    study.write(events[:8])
    tracker = Tracker(study.spec, study.study, study.events, study.uri)
    tracker.start()
    wait_for(lambda: tracker.progress[0] == tracker.progress[1], 60)
    client = MlflowClient(study.uri)
    client.delete_run(tracker.runs["3"])
    before = client.get_run(tracker.runs["3"]).data.metrics
    # The same tracker goes on.
    study.write(events[8:])
    assert tracker.finish(60) == 0
    seen = study.seen()
    assert "3" not in seen
    assert {key: seen[key] for key in ("study", "1", "2")} == {key: EXPECTED[key] for key in ("study", "1", "2")}
    assert client.get_run(tracker.runs["3"]).data.metrics == before
    assert json.loads((study.events.parent / "tracking.json").read_text())["skipped"] == [
        "trial 3: its run was deleted in MLflow, what came later is not in it"
    ]


def test_an_experiment_that_is_deleted_in_mid_study_and_restored_lacks_nothing(study: TrackedStudy) -> None:
    events = lines()
    study.write(events[:8])
    tracker = Tracker(study.spec, study.study, study.events, study.uri)
    tracker.start()
    wait_for(lambda: tracker.progress[0] == tracker.progress[1], 60)
    client = MlflowClient(study.uri)
    assert tracker.experiment is not None
    client.delete_experiment(tracker.experiment)
    study.write(events[8:])
    wait_for(lambda: tracker.error is not None, 60)
    assert f"mlflow experiments restore --experiment-id {tracker.experiment}" in (tracker.error or "")
    client.restore_experiment(tracker.experiment)
    assert tracker.finish(60) == 0, tracker.error
    assert study.seen() == EXPECTED
    assert study.skipped() == []


def test_a_run_that_someone_else_made_for_a_trial_is_left_alone(tmp_path: Path, study: TrackedStudy) -> None:
    """By its name, its tags and its parent it could be the trial's, but for the study's id."""
    mine = TrackedStudy(tmp_path, study.uri, study_id="0123456789abcdef" * 2)
    events = lines()
    mine.write(events[:6])
    assert mine.track() == 0
    assert mine.tracker is not None
    assert mine.tracker.experiment is not None
    client = MlflowClient(mine.uri)
    ours = client.get_run(mine.tracker.runs["1"]).data.tags
    tags = {name: value for name, value in ours.items() if name != "tuner.study_id"}
    theirs = client.create_run(mine.tracker.experiment, tags=tags, run_name="trial 1").info.run_id
    client.log_metric(theirs, "score", 99.0, step=1)
    mine.write(events[6:])
    assert mine.track() == 0
    kept = client.get_run(theirs)
    assert (kept.info.lifecycle_stage, kept.info.status, kept.data.metrics) == ("active", "RUNNING", {"score": 99.0})
    client.delete_run(theirs)
    assert mine.seen() == EXPECTED
