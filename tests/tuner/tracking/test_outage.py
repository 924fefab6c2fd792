"""MLflow behind a network that loses requests or answers: what it holds in the end, run by run, against the events."""

from __future__ import annotations

import collections
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from mlflow import MlflowClient

from tests.flaky_proxy import flaky_proxy
from tests.mlflow_server import MlflowServer, mlflow_server
from tests.tracked_study import EXPECTED, TrackedStudy, lines
from tests.waiting import wait_for
from tuner.tracking.tracker import Tracker

# What MLflow and its database library warn of is theirs.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ID = "0123456789abcdef0123456789abcdef"


def every_third(number: int, what: str) -> bool:
    return number % 3 == 0


def a_third(number: int, what: str) -> bool:
    """As the dice fall, which have no memory: sometimes many in a row."""
    return random.Random(number).random() < 1 / 3


class EveryOtherCreate:
    """Whatever is to be made fails at first: only looking tells whether it was made."""

    def __init__(self) -> None:
        self.creates = 0

    def __call__(self, number: int, what: str) -> bool:
        self.creates += what.endswith("/create")
        return what.endswith("/create") and self.creates % 2 == 1


def resumed(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a resume of the study in `lines` adds: the third trial goes on and ends, and so does the study."""
    at = events[-1]["time"]
    more: list[dict[str, Any]] = [
        {**events[0], "number": 2},
        {"event": "start", "trial": 3, "params": events[3]["params"]},
        {"event": "report", "trial": 3, "epoch": 4, "metrics": {"epoch": 4.0, "score": 1.5, "loss": 0.1}},
        {"event": "end", "trial": 3, "state": "finished", "value": 1.5, "best_epoch": 4, "reason": None},
        {"event": "stop", "state": "finished", "reason": None},
    ]
    return [{**event, "time": at + number} for number, event in enumerate(more, start=1)]


def after_resume() -> dict[str, Any]:
    metrics = {
        "score": [*EXPECTED["3"]["metrics"]["score"], (4, 1.5)],
        "loss": [*EXPECTED["3"]["metrics"]["loss"], (4, 0.1)],
        "best/score": [(4, 1.5)],
        "trial/epochs": [(4, 4.0)],
        "trial/seconds": [(4, 14.0)],
    }
    parent = {"best/score": [*EXPECTED["study"]["metrics"]["best/score"], (3, 1.5)]}
    return {
        **EXPECTED,
        # The reason of the run that was interrupted is no longer true.
        "study": {**EXPECTED["study"], "status": "FINISHED", "metrics": parent, "reason": ""},
        "3": {**EXPECTED["3"], "status": "FINISHED", "metrics": metrics},
    }


@pytest.mark.parametrize("way", ["500", "drop"])
@pytest.mark.parametrize("fails", [every_third, a_third, EveryOtherCreate()], ids=["every-third", "dice", "creates"])
def test_a_proxy_that_fails_a_third_of_the_requests_loses_and_duplicates_nothing(
    tmp_path: Path, server: MlflowServer, way: Literal["500", "drop"], fails: Callable[[int, str], bool]
) -> None:
    name = f"flaky-{tmp_path.name}"
    events = lines()
    with flaky_proxy(server.uri, way, fails) as proxy:
        study = TrackedStudy(tmp_path, proxy.address, name, ID)
        began = time.monotonic()
        # As a study does it: most of it while it runs, then the end.
        for part in (events[:5], events[5:12], events[12:]):
            study.write(part)
            assert study.track() == 0
        assert study.seen(server.uri) == EXPECTED
        study.write(resumed(events))
        assert study.track() == 0
        assert time.monotonic() - began < 120
        assert proxy.failed
    assert study.seen(server.uri) == after_resume()
    assert study.skipped() == []


@pytest.mark.parametrize("way", ["500", "drop"])
def test_a_proxy_that_fails_most_of_the_requests_ends_in_time_and_resume_sends_the_rest(
    tmp_path: Path, server: MlflowServer, way: Literal["500", "drop"]
) -> None:
    name = f"bad-{tmp_path.name}"
    with flaky_proxy(server.uri, way, lambda number, _: number % 7 != 0) as proxy:
        study = TrackedStudy(tmp_path, proxy.address, name, ID)
        study.write(lines())
        began = time.monotonic()
        left = study.track(patience_seconds=5)
        assert time.monotonic() - began < 90
        assert left > 0
    study.uri = server.uri
    assert study.track() == 0
    assert study.seen() == EXPECTED


def test_a_duplicate_from_a_create_that_completed_late_is_removed(
    tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that timed out is still worked on, and is done after we looked for what it made."""
    study = TrackedStudy(tmp_path, server.uri, f"late-{tmp_path.name}", ID)
    study.write(lines())
    create, late = MlflowClient.create_run, []

    def slow(client: MlflowClient, *args: Any, **options: Any) -> Any:
        key = options["tags"]["tuner.trial"]
        if key in ("study", "2") and key not in late:
            late.append(key)
            raise TimeoutError("the answer didn't come in time")
        run = create(client, *args, **options)
        if key == "3":
            for tags in (made["study"], made["2"]):
                create(client, *args, **{**options, "tags": tags})
        made[key] = options["tags"]
        return run

    made: dict[str, dict[str, str]] = {}
    monkeypatch.setattr(MlflowClient, "create_run", slow)
    assert study.track() == 0
    assert late == ["study", "2"]
    assert study.seen() == EXPECTED


def test_duplicates_of_an_earlier_parent_run_are_removed_and_their_children_kept(
    tmp_path: Path, server: MlflowServer
) -> None:
    study = TrackedStudy(tmp_path, server.uri, f"doubles-{tmp_path.name}", ID)
    events = lines()
    study.write(events)
    assert study.track() == 0
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(study.spec.name)
    assert experiment is not None
    # Twelve of each: whichever stays, some of those that go are in the way of it.
    for run in client.search_runs([experiment.experiment_id]):
        tags = {key: value for key, value in run.data.tags.items() if key.startswith("tuner.") or "parent" in key}
        for _ in range(12):
            client.create_run(experiment.experiment_id, tags=tags)
    study.write(resumed(events))
    assert study.track() == 0
    assert study.seen() == after_resume()


def test_another_study_of_the_name_has_runs_of_its_own(tmp_path: Path, server: MlflowServer) -> None:
    """`rm -r studies/a`, then a run of another study of that name."""
    name = f"again-{tmp_path.name}"
    first = TrackedStudy(tmp_path, server.uri, name, ID)
    first.write(lines())
    assert first.track() == 0
    shutil.rmtree(tmp_path / name)
    second = TrackedStudy(tmp_path, server.uri, name, ID[::-1])
    second.write([{**event, "params": {"x": 0.9}} if "params" in event else event for event in lines()])
    assert second.track() == 0
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    settings = collections.Counter(
        (run.data.tags["tuner.study_id"], run.data.params.get("x"))
        for run in runs
        if run.data.tags["tuner.trial"] == "1"
    )
    assert settings == {(ID, "0.1"): 1, (ID[::-1], "0.9"): 1}
    assert len(runs) == 8


def test_a_study_without_an_id_continues_in_its_runs(tmp_path: Path, server: MlflowServer) -> None:
    name = f"old-{tmp_path.name}"
    study = TrackedStudy(tmp_path, server.uri, name)
    events = lines()
    study.write(events)
    assert study.track() == 0
    # As it was written then.
    state = study.events.parent / "tracking.json"
    state.write_text(json.dumps({"uri": server.uri, "offset": json.loads(state.read_text())["offset"]}))
    study.write(resumed(events))
    assert study.track() == 0
    assert study.seen() == after_resume()


def test_an_mlflow_that_lost_its_database_gets_everything_again(
    tmp_path: Path, server: MlflowServer, database: Path
) -> None:
    study = TrackedStudy(tmp_path / "studies", server.uri, f"lost-{tmp_path.name}", ID)
    events = lines()
    study.write(events)
    assert study.track() == 0
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(study.spec.name)
    assert experiment is not None
    # For whoever looks by name, as good as another database at the address.
    client.rename_experiment(experiment.experiment_id, f"elsewhere-{tmp_path.name}")
    assert study.track() == 0, "nothing new"
    assert study.seen() == EXPECTED
    experiment = client.get_experiment_by_name(study.spec.name)
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, f"elsewhere too-{tmp_path.name}")
    study.write(resumed(events))
    assert study.track() == 0
    assert study.seen() == after_resume()


def test_a_deleted_experiment_is_reported_with_the_command_that_restores_it(
    tmp_path: Path, server: MlflowServer
) -> None:
    study = TrackedStudy(tmp_path, server.uri, f"deleted-{tmp_path.name}", ID)
    study.write(lines())
    client = MlflowClient(server.uri)
    number = client.create_experiment(study.spec.name)
    client.delete_experiment(number)
    assert study.track(patience_seconds=1) > 0
    assert study.tracker is not None
    assert study.tracker.error is not None
    assert f"mlflow experiments restore --experiment-id {number}" in study.tracker.error
    client.restore_experiment(number)
    assert study.track() == 0
    assert study.seen() == EXPECTED


def test_a_fresh_server_at_the_same_address_in_mid_study_gets_everything(
    tmp_path: Path, database: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The disk of a cluster's head died, with MLflow's database on it; meanwhile somebody else's study came first."""
    events = lines()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with mlflow_server(tmp_path / "one", database) as first:
        study = TrackedStudy(tmp_path / "studies", first.uri, "fresh", ID)
        study.write(events[:8])
        tracker = Tracker(study.spec, study.study, study.events, first.uri)
        tracker.start()
        wait_for(lambda: tracker.progress[0] == tracker.progress[1], 60)
        port = int(first.uri.rpartition(":")[2])
    with mlflow_server(tmp_path / "two", database, port) as second:
        others = MlflowClient(second.uri).create_experiment("somebody else's")
        study.write(events[8:])
        assert tracker.finish(60) == 0, tracker.error
        assert study.seen() == EXPECTED
        assert not [tag for tag in MlflowClient(second.uri).get_experiment(others).tags if "tuner" in tag]
    assert "View run" not in capfd.readouterr().out
