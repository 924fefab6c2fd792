"""What follows when a study has ended. Whole studies are in tests/integration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.studies import study_spec
from tests.written_study import BEGAN, ROADS, end, report, run, start, stop, write_study
from tuner.cli.console import console
from tuner.driver import run as runs
from tuner.driver.run import Options, resume, write_study_report
from tuner.errors import StudyError
from tuner.events.state import load_record
from tuner.storage.storage import Storage


def test_a_study_that_has_ended_leaves_its_report_and_an_interrupted_one_does_not(tmp_path: Path) -> None:
    failed = write_study(tmp_path, "failed", run(), start(1, x=0.5), end(1, "failed", "no"), stop("failed", "no"))
    stopped = write_study(tmp_path, "stopped", *ROADS, stop("interrupted", "SIGINT"))
    for study in (failed, stopped):
        write_study_report(load_record(study), study, console())
    assert "<h1>failed</h1>" in (failed.read_text("report.html") or "")
    assert not stopped.exists("report.html")


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path, "roads", *ROADS, stop())
    (tmp_path / "roads" / "report.html").mkdir()
    write_study_report(load_record(study), study, console())
    said = capsys.readouterr().out
    assert said.startswith("warning: no report was written: --storage")
    assert "`python -m tuner report roads` writes one" in said


LIMITED = (run(), start(1, x=0.5), report(1, 1, 0.9), end(1, value=0.9))


def test_resume_of_a_finished_study_writes_a_report_that_is_missing_or_older_than_its_events(tmp_path: Path) -> None:
    write_study(tmp_path, "roads", *LIMITED, stop(), budget={"trials": 1})
    options = Options(Storage(str(tmp_path)), tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    page = tmp_path / "roads" / "report.html"
    resume("roads", options, [], console())
    assert "<h1>roads</h1>" in page.read_text()
    page.write_text("newer than the events")
    os.utime(page, (BEGAN + 1000, BEGAN + 1000))
    resume("roads", options, [], console())
    assert page.read_text() == "newer than the events"
    os.utime(page, (BEGAN, BEGAN))
    resume("roads", options, [], console())
    assert "<h1>roads</h1>" in page.read_text()


def test_a_study_that_has_reached_its_limit_is_not_run_again_but_with_a_larger_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, "roads", *LIMITED, stop(), budget={"trials": 9, "stop_when": {"value": 0.8}})
    options = Options(Storage(str(tmp_path)), tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    record = resume("roads", options, [], console())
    assert record.state == "finished"
    assert (
        "roads has ended: score has reached 0.9 (budget.stop_when.value = 0.8); to go on, give another limit: "
        "python -m tuner resume roads --set budget.stop_when.value=VALUE" in capsys.readouterr().out
    )
    # With a larger limit it would start: here, one that doesn't fit on any machine says so.
    with pytest.raises(StudyError, match="cpus_per_worker"):
        resume("roads", options, ["budget.stop_when.value=0.95", "resources.cpus_per_worker=1e6"], console())


def test_a_study_that_was_killed_after_its_last_trial_ends_with_its_limit_as_the_reason(tmp_path: Path) -> None:
    study = write_study(tmp_path, "roads", *LIMITED, budget={"trials": 9, "stop_when": {"value": 0.8}})
    resume("roads", Options(Storage(str(tmp_path)), tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}"), [], console())
    found = load_record(study)
    assert (found.state, found.reason) == ("finished", "score has reached 0.9 (budget.stop_when.value = 0.8)")


def test_a_new_study_is_not_begun_in_the_log_of_one_whose_study_json_is_missing(tmp_path: Path) -> None:
    study = write_study(tmp_path, "s", *ROADS, stop())
    (tmp_path / "s" / "study.json").unlink()
    before = (tmp_path / "s" / "events.jsonl").read_bytes()
    with pytest.raises(StudyError, match=r"s/study.json: must be there beside the events of a study, but is missing"):
        runs.run(study_spec(), Options(Storage(str(tmp_path))), [], console())
    assert (tmp_path / "s" / "events.jsonl").read_bytes() == before
    assert not study.exists("study.json")


def test_a_study_that_cannot_be_taken_from_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_study(tmp_path, "old", *ROADS, stop(), objective={"metric": "score", "direction": "minimize"})
    spec = study_spec(search={"from_studies": ["old"]})
    with pytest.raises(StudyError, match=r"search.from_studies: old must be a study of .* to maximize score, got one"):
        runs.run(spec, Options(Storage(str(tmp_path))), [], console())
    assert not (tmp_path / "s").exists()
