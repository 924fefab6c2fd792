"""What the parent run says of where a study's results come from."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from tests.mlflow_server import MlflowServer
from tests.studies import study_spec
from tests.tracked_study import TrackedStudy, lines
from tuner.cli.app import app
from tuner.driver.provenance import run_began
from tuner.events.event import to_line
from tuner.events.forecast import Forecast, Range
from tuner.spec.study import to_json
from tuner.spec.study_file import check_study
from tuner.tracking.experiment_page import NOTE

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

BEGAN = {
    "command": "python -m tuner run roads.toml",
    "git": {"commit": "c0ffee", "branch": "trunk", "tree": "1 changed", "repository": "https://host/x.git"},
    "hardware": {"cpu": "fast", "cores": "2", "memory": "8.0 GiB", "gpus": "none"},
    "data": {"split": "9 train, 3 val", "fingerprint": "roads-0123"},
    "versions": {"tuner": "1", "fcn-tuner": "1", "python": "3.11.7", "ray": "2.60.0", "numpy": "2.4.0"},
    "overrides": ["budget.trials=9"],
    "forecast": Forecast({3: Range(2, 3)}, Range(8, 12), notes=("time: unknown",)).to_json(),
}


def events() -> list[dict[str, Any]]:
    return [{**line, **(BEGAN if line["event"] == "run" else {})} for line in lines()]


def parent(study: TrackedStudy) -> tuple[MlflowClient, Any]:
    assert study.tracker is not None
    client = MlflowClient(study.uri)
    return client, client.get_run(study.tracker.runs["study"])


def test_the_parent_run_says_what_ran_where_on_which_code_and_data(study: TrackedStudy) -> None:
    study.write(events())
    (study.events.parent / "report.html").write_text("<p>as the study's end left it</p>")
    assert study.track() == 0
    client, run = parent(study)
    expected = {
        "mlflow.source.git.commit": "c0ffee",
        "mlflow.source.git.branch": "trunk",
        "mlflow.source.git.repoURL": "https://host/x.git",
        "mlflow.source.git.dirty": "true",
        "tuner.command": "python -m tuner run roads.toml",
        "tuner.overrides": "budget.trials=9",
        "tuner.host": "h",
        "tuner.git.tree": "1 changed",
        "tuner.hardware.cpu": "fast",
        "tuner.data.fingerprint": "roads-0123",
        "tuner.data.split": "9 train, 3 val",
        "tuner.forecast.trials_at_epoch_3": "2 to 3",
        "tuner.forecast.epochs": "8 to 12",
        "tuner.forecast.time": "unknown",
        "tuner.outcome.trials_at_epoch_3": "3",
        "tuner.outcome.epochs": "9",
        "tuner.version.ray": "2.60.0",
        "tuner.winner": "trial 1",
        "tuner.winner.run_id": study.tracker.runs["1"] if study.tracker else "",
    }
    assert {name: run.data.tags.get(name) for name in expected} == expected
    assert run.data.tags["tuner.winner.value"].startswith("score 0.3")
    assert "Winner: [trial 1]" in run.data.tags[NOTE]
    assert "tuner.version.numpy" not in run.data.tags, "all packages are in a file"
    files = {
        file.path: Path(client.download_artifacts(run.info.run_id, file.path))
        for file in client.list_artifacts(run.info.run_id)
    }
    assert set(files) == {"study.toml", "requirements.txt", "report.html"}
    assert files["report.html"].read_text() == "<p>as the study's end left it</p>"
    assert files["requirements.txt"].read_text() == "# Python 3.11.7\nfcn-tuner==1\nray==2.60.0\nnumpy==2.4.0\n"
    assert check_study(tomllib.loads(files["study.toml"].read_text()), place="study.toml") == study.spec


def test_the_parent_run_says_what_the_study_took_from_earlier_ones(study: TrackedStudy) -> None:
    taken = [{"study": "old", "trials": [4, 1], "ended": 6}, {"study": "far", "ended": 2, "reason": "no room"}]
    begun = {"first_trials": [{"x": 0.1}, {"x": 0.2}], "search": {"from_studies": ["old", "far"]}, "taken": taken}
    study.spec = study_spec(name="roads", id="0" * 32, **begun)
    study.write(events())
    assert study.track() == 0
    client, run = parent(study)
    assert run.data.tags["tuner.from_studies.old"] == "trials 4 and 1 of 6"
    assert run.data.tags["tuner.from_studies.far"] == "none of 2: no room"
    text = Path(client.download_artifacts(run.info.run_id, "study.toml")).read_text()
    again = check_study(tomllib.loads(text), place="study.toml")
    assert (again.first_trials, again.search.from_studies) == (({"x": 0.1}, {"x": 0.2}), ()), "once, and not again"


def test_a_resume_on_other_code_has_its_own_tags_beside_those_of_the_first_run(study: TrackedStudy) -> None:
    again = {**BEGAN, "event": "run", "number": 2, "host": "other", "pid": 1, "tracking_uri": "", "time": 1.8e9}
    study.write([*events(), {**again, "git": {"commit": "decaf", "branch": "trunk", "tree": "clean"}}])
    assert study.track() == 0
    tags = parent(study)[1].data.tags
    assert (tags["tuner.git.commit"], tags["tuner.resume_1.git.commit"]) == ("c0ffee", "decaf")
    assert (tags["tuner.host"], tags["tuner.resume_1.host"]) == ("h", "other")
    assert tags["mlflow.source.git.commit"] == "c0ffee"


def test_a_trials_run_has_node_device_and_system_metrics_where_mlflow_looks_for_them(
    study: TrackedStudy,
) -> None:
    all_events = events()
    reports = [event for event in all_events if event["event"] == "report" and event["trial"] == 3]
    reports[0]["device"] = "NVIDIA H100, GPU 3"
    reports[1]["system"] = {"cpu_utilization_percentage": 50.0, "gpu_0_power_usage_watts": 300.0}
    begin = {
        "event": "begin",
        "time": reports[0]["time"],
        "trial": 3,
        "nodes": ["host1 (10.0.0.1)", "host2 (10.0.0.2)"],
    }
    all_events.insert(all_events.index(reports[0]), begin)
    study.write(all_events)
    assert study.track() == 0
    assert study.tracker is not None
    run = MlflowClient(study.uri).get_run(study.tracker.runs["3"])
    assert run.data.tags["tuner.node"] == "host1 (10.0.0.1), host2 (10.0.0.2)"
    assert run.data.tags["tuner.device"] == "NVIDIA H100, GPU 3"
    system = {name: value for name, value in run.data.metrics.items() if name.startswith("system/")}
    assert system == {"system/cpu_utilization_percentage": 50.0, "system/gpu_0_power_usage_watts": 300.0}


def test_a_note_that_a_person_wrote_on_the_study_stays(study: TrackedStudy) -> None:
    all_events = events()
    study.write(all_events[:4])
    study.track()
    client, run = parent(study)
    client.set_tag(run.info.run_id, NOTE, "mine")
    study.write(all_events[4:])
    assert study.track() == 0
    assert parent(study)[1].data.tags[NOTE] == "mine"


def test_a_secret_among_the_config_fields_is_in_no_page_and_no_file(study: TrackedStudy) -> None:
    fixed = {"frames": ["s3://KEY:s3cret@bucket/a"], "data_dir": "https://me:s3cret@host/b", "hub_token": "s3cret"}
    study.spec = study.spec.model_copy(update={"fixed": fixed})
    all_events = events()
    all_events[1]["params"]["weights"] = "https://me:s3cret@host/w"
    for event in all_events:
        if event["event"] == "end":
            event["reason"] = "OSError: https://me:s3cret@host/w: not found"
    study.write(all_events)
    assert study.track() == 0
    params = parent(study)[1].data.params
    assert params["data_dir"] == "https://me:***@host/b"
    assert params["hub_token"] == "***"
    in_mlflow = [path for path in study.events.parents[1].rglob("*") if path.is_file() and path != study.events]
    assert len(in_mlflow) > 5
    assert [path for path in in_mlflow if b"s3cret" in path.read_bytes()] == []


@pytest.mark.slow
def test_the_password_of_a_server_is_in_no_message_no_report_and_nothing_that_mlflow_holds(
    tmp_path: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The slash of the password is percent-encoded in an address; neither spelling may be shown.
    uri = server.uri.replace("http://", "http://me:s3cret%2Fpa55@")
    monkeypatch.setattr("sys.argv", ["tuner", "run", "roads.toml", "--tracking-uri", uri])
    study = TrackedStudy(tmp_path / "studies", uri, f"secret-{tmp_path.name}", "0123456789abcdef" * 2)
    study.study.write_text("study.json", to_json(study.spec))
    study.events.write_bytes(to_line(run_began(1, [f"fixed.server={uri}"], uri)))
    study.write(lines()[1:])
    assert study.track() == 0
    shown, report = [], tmp_path / "report.html"
    for command in (
        ["sync", study.spec.name, "--tracking-uri", uri],
        ["ui", study.spec.name, "--tracking-uri", uri, "--no-open"],
        ["report", study.spec.name, "--output", str(report)],
        ["show", study.spec.name],
    ):
        done = CliRunner().invoke(app, [*command, "--storage", study.storage.uri])
        assert done.exit_code == 0, done.output
        shown.append(done.output)
    assert server.uri in shown[0]
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(study.spec.name)
    assert experiment is not None
    held = [experiment.tags, *(run.to_dictionary() for run in client.search_runs([experiment.experiment_id]))]
    assert "http://me:***@127.0.0.1" in str(held), "the command is there"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    files += [path for path in server.artifacts.rglob("*") if path.is_file()]
    assert report in files
    texts = {**dict(zip(("sync", "ui", "report", "show"), shown, strict=True)), "mlflow": str(held)}
    texts |= {str(path): path.read_bytes().decode(errors="replace") for path in files}
    assert [place for place, text in texts.items() if "s3cret" in text or "pa55" in text] == []
